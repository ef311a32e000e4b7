use proptest::prelude::*;

use super::*;

fn registration() -> Registration {
    Registration {
        entity: "east-a".into(),
        target: "iqn.2026-11.io.twinlun:east".parse().unwrap(),
        alias: "the east".into(),
        portals: vec![
            Portal { address: "10.0.0.1:3260".parse().unwrap(), group: 2, notify_port: Some(4000) },
            Portal { address: "[fd00::1]:860".parse().unwrap(), group: 1, notify_port: None },
        ],
        period: 600,
        inquiry: 60,
        groups: true,
    }
}

fn read(bytes: &[u8]) -> Result<Vec<Message>, IsnsError> {
    let mut reader = MessageReader::default();
    let mut all = Vec::new();
    for piece in bytes.chunks(1000) {
        reader.push(piece)?;
        while let Some(message) = reader.next_message()? {
            all.push(message);
        }
    }
    Ok(all)
}

#[test]
fn a_message_has_the_bytes_of_the_standard() {
    let payload = AttributeWriter::default().text(Tag::NAME, "iqn").number(Tag::NODE_TYPE, 1).finish();
    let message = Message { function: Function::REGISTER, transaction: 0x1234, replace: true, payload };
    let bytes = message.encode(Sender::Client);
    #[rustfmt::skip]
    let expected = [
        0, 1, 0, 1, 0, 24, 0x9c, 0, 0x12, 0x34, 0, 0,
        0, 0, 0, 32, 0, 0, 0, 4, b'i', b'q', b'n', 0,
        0, 0, 0, 33, 0, 0, 0, 4, 0, 0, 0, 1,
    ];
    assert_eq!(bytes, expected);
    assert_eq!(read(&bytes).unwrap(), [message]);
}

#[test]
fn a_registration_lists_entity_portals_node_and_groups_in_order() {
    let message = registration().register(7, true);
    let found = attributes(&message.payload).unwrap();
    let tags: Vec<u32> = found.iter().map(|attribute| attribute.tag.0).collect();
    assert_eq!(
        tags,
        [32, 1, 0, 1, 2, 6, 16, 17, 19, 20, 23, 16, 17, 32, 33, 34, 51, 49, 50, 51, 49, 50],
        "source, key, delimiter, entity, two portals, node, two groups"
    );
    assert_eq!(found[6].address(), Some("10.0.0.1".parse().unwrap()));
    assert_eq!(found[6].value[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff], "IPv4 mapped into IPv6");
    assert_eq!((found[7].number(), found[9].number()), (Some(3260), Some(4000)));
    assert_eq!(found[11].address(), Some("fd00::1".parse().unwrap()));
    assert_eq!(found[13].text(), Some("iqn.2026-11.io.twinlun:east"));
    assert_eq!((found[16].number(), found[18].number()), (Some(1), Some(860)));
    let plain = Registration { groups: false, inquiry: 0, alias: String::new(), ..registration() };
    let message = plain.register(8, false);
    let tags: Vec<u32> =
        attributes(&message.payload).unwrap().iter().map(|attribute| attribute.tag.0).collect();
    assert_eq!(tags, [32, 1, 0, 1, 2, 6, 16, 17, 23, 16, 17, 32, 33]);
}

#[test]
fn notification_and_end_of_registration_name_the_node() {
    let notify = registration().notify(1);
    let found = attributes(&notify.payload).unwrap();
    assert_eq!(found.iter().map(|a| a.tag.0).collect::<Vec<_>>(), [32, 32, 0, 35]);
    assert_eq!(found[3].number(), Some(0x9c));
    let end = registration().deregister(2);
    let found = attributes(&end.payload).unwrap();
    assert_eq!(found.iter().map(|a| a.tag.0).collect::<Vec<_>>(), [32, 0, 1]);
    assert_eq!(found[2].text(), Some("east-a"));
}

fn answer(request: &Message, status: u32, rest: AttributeWriter) -> Message {
    let mut payload = status.to_be_bytes().to_vec();
    payload.extend(rest.finish());
    Message {
        function: request.function.response(),
        transaction: request.transaction,
        replace: false,
        payload,
    }
}

#[test]
fn answers_are_held_against_their_request() {
    let registration = registration();
    let request = registration.register(7, false);
    let good = answer(&request, 0, AttributeWriter::default());
    assert_eq!(registration.accepted(&request, &good), Ok(Accepted { period: 600 }));
    let shorter = AttributeWriter::default().delimiter().number(Tag::REGISTRATION_PERIOD, 90);
    let shorter = answer(&request, 0, shorter);
    assert_eq!(registration.accepted(&request, &shorter), Ok(Accepted { period: 90 }));
    let refused = answer(&request, 8, AttributeWriter::default());
    assert_eq!(registration.accepted(&request, &refused), Err(IsnsError::Refused(Status(8))));
    assert_eq!(IsnsError::Refused(Status(8)).to_string(), "the iSNS server refuses: source unauthorized (8)");
    for wrong in [
        Message { transaction: 8, ..good.clone() },
        Message { function: Function::DEREGISTER.response(), ..good.clone() },
        Message { payload: vec![0; 2], ..good.clone() },
        request.clone(),
    ] {
        assert_eq!(registration.accepted(&request, &wrong), Err(IsnsError::Answer), "{wrong:?}");
    }
}

#[test]
fn inquiries_are_echoed_and_notifications_understood() {
    let payload = AttributeWriter::default()
        .bytes(Tag::TIMESTAMP, &[0, 0, 0, 0, 1, 2, 3, 4])
        .text(Tag::ENTITY, "east-a")
        .address(Tag::PORTAL_ADDRESS, "10.0.0.1".parse().unwrap())
        .number(Tag::PORTAL_PORT, 3260)
        .finish();
    let inquiry = Message { function: Function::INQUIRY, transaction: 9, replace: false, payload };
    let back = reply(&inquiry).unwrap();
    assert_eq!((back.function, back.transaction), (Function(0x800d), 9));
    let (status, rest) = back.status().unwrap();
    assert_eq!((status, rest), (Status::SUCCESS, inquiry.payload.as_slice()));

    let target = "iqn.2026-11.io.twinlun:east";
    let payload = AttributeWriter::default()
        .text(Tag::NAME, target)
        .bytes(Tag::TIMESTAMP, &[0; 8])
        .number(Tag::NOTIFICATIONS, 0x90)
        .text(Tag::NAME, target)
        .number(Tag::NOTIFICATIONS, 0x88)
        .text(Tag::NAME, "iqn.1993-08.org.debian:01:a")
        .finish();
    let change = Message { function: Function::NOTIFICATION, transaction: 10, replace: false, payload };
    let said = notification(&change).unwrap();
    assert_eq!(said[0], Notification { node: target.into(), removed: true, changed: false });
    assert!(said[1].changed && !said[1].removed);
    let back = reply(&change).unwrap();
    assert_eq!(attributes(back.status().unwrap().1).unwrap().len(), 1, "whom it was sent to, and no more");

    let broken = Message { payload: vec![1, 2, 3], ..inquiry };
    assert_eq!(reply(&broken).unwrap().status().unwrap().0, Status::FORMAT);
    assert_eq!(reply(&registration().notify(1)), None, "a server's question only");
}

#[test]
fn a_long_message_takes_several_pdus() {
    let payload = AttributeWriter::default().bytes(Tag(5000), &vec![7; 150_000]).finish();
    let message = Message { function: Function::QUERY.response(), transaction: 3, replace: false, payload };
    let bytes = message.encode(Sender::Server);
    assert_eq!(bytes.len(), message.payload.len() + 3 * 12);
    assert_eq!(read(&bytes).unwrap(), [message]);
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let pdu = |function: u16, len: u16, flags: u16, transaction: u16, sequence: u16| {
        let mut out: Vec<u8> = [1, function, len, flags, transaction, sequence]
            .iter()
            .flat_map(|word| word.to_be_bytes())
            .collect();
        out.extend(std::iter::repeat_n(0, len.into()));
        out
    };
    const FIRST: u16 = 0x4400;
    const LAST: u16 = 0x4800;
    let join = |pdus: &[Vec<u8>]| read(&pdus.concat());
    assert_eq!(join(&[pdu(1, 4, FIRST, 1, 0), pdu(1, 4, LAST, 1, 1)]).unwrap()[0].payload.len(), 8);
    for (what, pdus) in [
        ("begins in the middle", vec![pdu(1, 4, LAST, 1, 1)]),
        ("first with a number", vec![pdu(1, 4, FIRST, 1, 1)]),
        ("first twice", vec![pdu(1, 4, FIRST, 1, 0), pdu(1, 4, FIRST, 1, 0)]),
        ("a gap", vec![pdu(1, 4, FIRST, 1, 0), pdu(1, 4, LAST, 1, 2)]),
        ("another function", vec![pdu(1, 4, FIRST, 1, 0), pdu(2, 4, LAST, 1, 1)]),
        ("another transaction", vec![pdu(1, 4, FIRST, 1, 0), pdu(1, 4, LAST, 2, 1)]),
    ] {
        assert_eq!(join(&pdus), Err(IsnsError::Sequence), "{what}");
    }
    assert_eq!(join(&[pdu(1, 3, FIRST | LAST, 1, 0)]), Err(IsnsError::Length));
    assert_eq!(join(&[pdu(1, 4, FIRST | LAST | 0x2000, 1, 0)]), Err(IsnsError::Authenticated));
    let mut other = pdu(1, 0, FIRST | LAST, 1, 0);
    other[1] = 2;
    assert_eq!(join(&[other]), Err(IsnsError::Version(2)));
    let endless: Vec<_> = (0..8).map(|n| pdu(1, 65_532, if n == 0 { FIRST } else { 0x4000 }, 1, n)).collect();
    assert_eq!(join(&endless), Err(IsnsError::TooLong));
    for payload in [
        &[0; 7][..],
        &[0, 0, 0, 1, 0, 0, 0, 4, 0],
        &[0, 0, 0, 1, 0, 0, 0, 1, 0],
        &[0, 0, 0, 1, 255, 255, 255, 252],
    ] {
        assert_eq!(attributes(payload), Err(IsnsError::Attribute));
    }
    assert_eq!(attributes(&[0; 8 * 4097]), Err(IsnsError::Attribute), "too many");
}

proptest! {
    #[test]
    fn any_bytes_are_understood_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
        let mut reader = MessageReader::default();
        if reader.push(&bytes).is_ok() {
            while let Ok(Some(message)) = reader.next_message() {
                let _ = (notification(&message), reply(&message), message.status());
            }
        }
        let _ = attributes(&bytes);
    }

    #[test]
    fn what_is_written_is_read(values in proptest::collection::vec((any::<u32>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..20)) {
        let out = values.iter().fold(AttributeWriter::default(), |out, (tag, value)| out.bytes(Tag(*tag), value));
        let payload = out.finish();
        let found = attributes(&payload).unwrap();
        prop_assert_eq!(found.len(), values.len());
        for (attribute, (tag, value)) in found.iter().zip(&values) {
            prop_assert_eq!(attribute.tag.0, *tag);
            prop_assert!(attribute.value.starts_with(value) && attribute.value.len() < value.len() + 4);
        }
    }
}
