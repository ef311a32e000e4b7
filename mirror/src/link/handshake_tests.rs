use super::*;
use proptest::prelude::*;

fn identity(unit: &str, key: u8) -> Identity {
    Identity { unit: Rc::from(unit), key: LinkKey::new(vec![key; 32]).unwrap() }
}

fn known(name: &str) -> Option<Rc<str>> {
    (name == "east").then(|| Rc::from(name))
}

/// A whole handshake of "east", dialling, with "west"; `tamper` may change every message on its way, by number.
fn shake(
    dial: &Identity,
    listen: &Identity,
    mut tamper: impl FnMut(usize, &mut Message),
) -> Result<(Established, Established), HandshakeError> {
    let (dialling, mut hello) = Dialling::start(dial, &Rc::from("west"), [1; 32]);
    tamper(0, &mut hello);
    let (listening, mut answer) = Listening::on_hello(listen, &hello, [2; 32], known)?;
    tamper(1, &mut answer);
    let (proven, mut proof) = dialling.on_hello(&answer)?;
    tamper(2, &mut proof);
    let (theirs, mut counter_proof) = listening.on_proof(&proof)?;
    tamper(3, &mut counter_proof);
    Ok((proven.on_proof(&counter_proof)?, theirs))
}

#[test]
fn both_ends_agree() {
    let (dial, listen) = shake(&identity("east", 7), &identity("west", 7), |_, _| {}).unwrap();
    assert_eq!(dial.session, listen.session);
    assert_eq!(dial.send_tag, listen.receive_tag);
    assert_eq!(dial.receive_tag, listen.send_tag);
    assert_ne!(dial.send_tag, dial.receive_tag, "a reflected frame must not pass");
    assert_eq!(dial.version, 1);
}

#[test]
fn another_key_is_refused() {
    let result = shake(&identity("east", 7), &identity("west", 8), |_, _| {});
    assert_eq!(result, Err(HandshakeError::WrongKey));
}

#[test]
fn a_stranger_and_an_impostor_are_refused() {
    let stranger = shake(&identity("south", 7), &identity("west", 7), |_, _| {});
    assert_eq!(stranger, Err(HandshakeError::UnknownUnit("south".to_owned())));
    let other = shake(&identity("east", 7), &identity("north", 7), |_, _| {});
    assert_eq!(other, Err(HandshakeError::OtherUnit("north".to_owned())));
}

#[test]
fn a_reflected_message_proves_nothing() {
    let east = identity("east", 7);
    let (dialling, hello) = Dialling::start(&east, &Rc::from("east"), [1; 32]);
    assert_eq!(dialling.on_hello(&hello).err(), Some(HandshakeError::Malformed), "own hello");
    let mut sent = [0; MESSAGE_LEN];
    let reflected = shake(&east, &identity("west", 7), |number, message| match number {
        2 => sent = *message,
        3 => *message = sent,
        _ => {}
    });
    assert_eq!(reflected, Err(HandshakeError::WrongKey), "own proof");
}

#[test]
fn what_was_said_before_is_of_no_use() {
    let (east, west) = (identity("east", 7), identity("west", 7));
    let mut old_proof = [0; MESSAGE_LEN];
    shake(&east, &west, |number, message| {
        if number == 2 {
            old_proof = *message;
        }
    })
    .unwrap();
    let (_, hello) = Dialling::start(&east, &Rc::from("west"), [1; 32]);
    let (listening, _) = Listening::on_hello(&west, &hello, [3; 32], known).ok().unwrap();
    assert_eq!(listening.on_proof(&old_proof).err(), Some(HandshakeError::WrongKey));
}

#[test]
fn versions_are_negotiated_and_bound_to_the_proof() {
    let (east, west) = (identity("east", 7), identity("west", 7));
    let versions = |lowest: u16, highest: u16| {
        move |number: usize, message: &mut Message| {
            if number == 0 {
                message[8..10].copy_from_slice(&lowest.to_le_bytes());
                message[10..12].copy_from_slice(&highest.to_le_bytes());
                *message = sealed(*message);
            }
        }
    };
    let newer = shake(&east, &west, versions(2, 3));
    assert_eq!(newer, Err(HandshakeError::Version { lowest: 2, highest: 3 }));
    assert_eq!(shake(&east, &west, versions(3, 2)), Err(HandshakeError::Version { lowest: 3, highest: 2 }));
    // A version range that somebody changed on the way is found out by the proof.
    assert_eq!(shake(&east, &west, versions(1, 9)), Err(HandshakeError::WrongKey));
}

#[test]
fn refusals_say_which_end_to_mend() {
    for (error, text) in [
        (HandshakeError::WrongKey, "refused by the peer: the keys differ"),
        (
            HandshakeError::UnknownUnit("x".to_owned()),
            "refused by the peer: this unit is not configured there as a peer",
        ),
        (
            HandshakeError::Version { lowest: 2, highest: 2 },
            "refused by the peer: no common protocol version",
        ),
    ] {
        let refusal = error.refusal().unwrap();
        let (dialling, _) = Dialling::start(&identity("east", 7), &Rc::from("west"), [1; 32]);
        assert_eq!(dialling.on_hello(&refusal).err().unwrap().to_string(), text);
    }
}

proptest! {
    #[test]
    fn every_damaged_bit_is_refused(number in 0usize..4, at in 0usize..MESSAGE_LEN, bit in 0u8..8, sealing in any::<bool>()) {
        let (east, west) = (identity("east", 7), identity("west", 7));
        let mut changed = false;
        let result = shake(&east, &west, |n, message| {
            if n == number {
                let before = *message;
                message[at] ^= 1 << bit;
                if sealing {
                    *message = sealed(*message);
                }
                changed = before != *message;
            }
        });
        // Proofs have unused space, which only the checksum guards.
        let unused = number >= 2 && (40..124).contains(&at);
        if changed && !(sealing && unused) {
            prop_assert!(result.is_err());
        }
    }

    #[test]
    fn any_message_is_survived(bytes in proptest::collection::vec(any::<u8>(), MESSAGE_LEN), magic in 0usize..4) {
        let mut message: Message = bytes.try_into().unwrap();
        if let Some(magic) = [HELLO, PROOF, REFUSAL].get(magic) {
            message[..8].copy_from_slice(magic);
            message = sealed(message);
        }
        let (east, west) = (identity("east", 7), identity("west", 7));
        let (dialling, hello) = Dialling::start(&east, &Rc::from("west"), [1; 32]);
        prop_assert!(dialling.on_hello(&message).is_err());
        let _ = Listening::on_hello(&west, &message, [2; 32], known);
        let (listening, _) = Listening::on_hello(&west, &hello, [2; 32], known).ok().unwrap();
        prop_assert!(listening.on_proof(&message).is_err());
    }
}
