//! Any bytes, any order: no panic, bounded memory, and at most one close.

use core::time::Duration;

use proptest::prelude::*;

use super::harness::*;
use crate::pdu::{BHS_LEN, Bhs};
use crate::target::{Event, ScsiResponse, SessionType, TaskManagementResponse};

/// Pieces of login text.
const WORDS: &[&[u8]] = &[
    b"InitiatorName=",
    b"TargetName=",
    b"AuthMethod=CHAP\0",
    b"AuthMethod=None\0",
    b"CHAP_A=5\0",
    b"CHAP_N=host\0",
    b"CHAP_R=0x00\0",
    b"CHAP_C=0b",
    b"CHAP_I=1\0",
    b"iqn.2026-11.io.twinlun:east\0",
    b"iqn.1993-08.org.debian:01:host\0",
    b"\0",
    b"=",
    b"SessionType=Discovery\0",
    b"MaxBurstLength=512\0",
    b"X-a=b\0",
    b"\xff",
];

/// Shapes raw bytes a little, so that they get past the first check more often.
fn shape(raw: &[u8], opcode: u8, cmd_sn: u32, tag: u8, data_len: u8) -> Vec<u8> {
    let mut header = [0; BHS_LEN];
    header[..raw.len().min(BHS_LEN)].copy_from_slice(&raw[..raw.len().min(BHS_LEN)]);
    header[0] = opcode;
    header[4] = 0;
    header[5..8].copy_from_slice(&[0, 0, data_len]);
    header[16..20].copy_from_slice(&u32::from(tag % 4).to_be_bytes());
    header[24..28].copy_from_slice(&cmd_sn.to_be_bytes());
    let mut pdu = Bhs(header).0.to_vec();
    pdu.extend(std::iter::repeat_n(b'=', usize::from(data_len).next_multiple_of(4)));
    pdu
}

/// Acts as a storage processor that answers in some order.
fn serve(host: &mut Host, tasks: &mut Vec<u32>, functions: &mut Vec<u32>, choice: u8) -> bool {
    while let Some(event) = host.connection.poll_event() {
        match event {
            Event::SessionReady(_) => {
                let tsih = crate::target::Tsih::new(1).unwrap();
                host.connection.admit(tsih, host.now, &host.fixture);
            }
            Event::Command(command) => {
                assert!(command.data_out.len() <= 16 << 20);
                tasks.push(command.tag);
            }
            Event::TaskManagement(management) => functions.push(management.tag),
            Event::Terminate(ends) => {
                for end in ends {
                    tasks.retain(|tag| *tag != end.tag);
                    host.connection.abandon(end.tag);
                }
            }
            Event::Closed(_) => {
                assert!(host.connection.poll_event().is_none(), "the last event");
                return false;
            }
        }
    }
    if choice.is_multiple_of(3)
        && let Some(tag) = tasks.pop()
    {
        let data = payload(&pattern(usize::from(choice) * 100));
        host.connection.respond(tag, ScsiResponse::data(data));
    }
    if choice.is_multiple_of(4) && !functions.is_empty() {
        let tag = functions.remove(0);
        for task in tasks.drain(..) {
            host.connection.abandon(task);
        }
        host.connection.respond_task_management(tag, TaskManagementResponse::Complete, [0; 3]);
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_before_login(bytes in proptest::collection::vec(any::<u8>(), 0..4000), chap in any::<bool>()) {
        let fixture = if chap { Fixture::with_chap(true) } else { Fixture::default() };
        let mut host = Host::new(fixture, |_| {});
        host.send_bytes(&bytes);
        let _ = serve(&mut host, &mut Vec::new(), &mut Vec::new(), 1);
        host.connection.transmit(|_| {});
    }

    #[test]
    fn any_login_text(texts in proptest::collection::vec(
        (proptest::collection::vec(proptest::sample::select(WORDS), 0..12), any::<u8>()), 1..8), chap in any::<bool>())
    {
        let fixture = if chap { Fixture::with_chap(false) } else { Fixture::default() };
        let mut host = Host::new(fixture, |_| {});
        for (parts, flags) in texts {
            let mut request = crate::pdu::RawPdu::from(login(crate::pdu::Stage::SECURITY, None, ""));
            request.data = payload(&parts.concat());
            request.bhs.0[1] = flags;
            host.send(request);
            if !serve(&mut host, &mut Vec::new(), &mut Vec::new(), 1) { break; }
            host.connection.transmit(|_| {});
        }
    }

    #[test]
    fn any_requests_in_full_feature_phase(
        pdus in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..48), 0u8..8, any::<bool>(), 0u32..3, any::<u8>(), 0u8..64), 1..60),
        discovery in any::<bool>(),
    ) {
        let mut host = Host::new(Fixture::default(), |config| {
            config.limits.queue_depth = 4;
            config.limits.immediate_tasks = 2;
            config.limits.solicited = 4096;
            config.limits.max_write = 4096;
        });
        let session_type = if discovery { SessionType::Discovery } else { SessionType::Normal };
        host.log_in("MaxOutstandingR2T=3 MaxBurstLength=512 FirstBurstLength=512 iSCSIProtocolLevel=2", session_type);
        let (mut tasks, mut functions) = (Vec::new(), Vec::new());
        let mut expected = FIRST_CMD_SN;
        for (raw, opcode, immediate, skip, tag, len) in pdus {
            let opcode = opcode | if immediate { 0x40 } else { 0 };
            host.send_bytes(&shape(&raw, opcode, expected.wrapping_add(skip), tag, len));
            host.pass(Duration::from_millis(u64::from(tag) * 20));
            if !serve(&mut host, &mut tasks, &mut functions, tag) { break; }
            // Every frame that goes out is well-formed, with right numbers.
            host.receive();
            expected = host.window.0.0;
            prop_assert!(host.connection.outstanding() <= 4 + 2 + 4);
        }
    }

    /// The same stream in any pieces gives the same events and the same answer.
    #[test]
    fn pieces_do_not_matter(cuts in proptest::collection::vec(1usize..700, 1..40)) {
        let script = |host: &mut Host| {
            let mut bytes = Vec::new();
            for tag in 0..6 {
                let command = host.write(tag, 700, &pattern(700), true);
                bytes.extend(host.encode(command));
                let command = host.read(100 + tag, 512);
                bytes.extend(host.encode(command));
            }
            bytes
        };
        let keys = "HeaderDigest=CRC32C DataDigest=CRC32C";
        let mut whole = Host::logged_in(keys, |_| {});
        let bytes = script(&mut whole);
        whole.send_bytes(&bytes);
        let mut pieces = Host::logged_in(keys, |_| {});
        script(&mut pieces);
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (piece, behind) = rest.split_at((*cut).min(rest.len()));
            pieces.send_bytes(piece);
            rest = behind;
        }
        loop {
            match (whole.event(), pieces.event()) {
                (Some(Event::Command(a)), Some(Event::Command(b))) => {
                    prop_assert_eq!(a.tag, b.tag);
                    prop_assert_eq!(a.data_out, b.data_out);
                }
                (None, None) => break,
                other => panic!("{other:?}"),
            }
        }
    }
}
