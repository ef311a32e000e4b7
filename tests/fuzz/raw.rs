//! Bytes as they come: no generator that knows the protocol stands between the input and the machine. What the structured targets never
//! think of is found here; how far it gets is not the point.

use std::time::Duration;

use bytes::Bytes;
use twinlun_iscsi::initiator::{Command, Initiator, InitiatorConfig, SessionKind, Submitted, Transfer};
use twinlun_iscsi::login::LoginStatus;
use twinlun_iscsi::names::{IscsiName, Isid};
use twinlun_iscsi::negotiate::Parameters;
use twinlun_iscsi::pdu::{
    BHS_LEN, Bhs, Cid, LoginRequest, Lun, RawPdu, Serial32, Stage, TaskTag, Tsih as WireTsih,
};
use twinlun_iscsi::target::{
    Access, CloseReason, ConnectionConfig, Directory, Event, LoginSubject, ScsiResponse, SingleConnection,
    TargetRecord, TaskManagementResponse, Tsih,
};
use twinlun_iscsi::{Encoder, text};

use crate::engine::{Probe, Target};
use crate::input::{Rng, Source, pattern};
use crate::login::{KEYS, VALUES};

const HOST: &str = "iqn.1993-08.org.debian:01:host";
const TARGET: &str = "iqn.2026-11.io.twinlun:east";
/// Most tasks of a session here.
const QUEUE: u32 = 4;
/// Immediate task management functions beyond the limit for commands.
const SPARE_FUNCTIONS: u32 = 4;

pub(crate) fn targets() -> Vec<Target> {
    let target =
        |name, fresh, run| Target { name, execs: 60_000, longest: 4096, work: (1024, 16), fresh, run };
    vec![
        target("raw-target", requests, session),
        target("raw-initiator", responses, initiator),
        target("raw-login", logins, session),
    ]
}

/// Headers with opcodes of a direction and lengths that fit, and noise for the rest.
fn stream(rng: &mut Rng, opcodes: &[u8]) -> Vec<u8> {
    let mut out = rng.bytes(2);
    for _ in 0..rng.len(8) {
        let len = if rng.below(2) == 0 { 0 } else { rng.len(96) };
        let mut header = rng.bytes(BHS_LEN);
        header[0] = opcodes[rng.below(opcodes.len())] | (rng.next() as u8 & 0x40);
        header[4] = 0;
        header[5..8].copy_from_slice(&[0, 0, len as u8]);
        // Numbers near those that are expected, or every PDU would be out of the window.
        header[24..28].copy_from_slice(&(rng.below(6) as u32).to_be_bytes());
        header[28..32].copy_from_slice(&(rng.below(6) as u32).to_be_bytes());
        header[16..20].copy_from_slice(&(rng.below(8) as u32).to_be_bytes());
        out.extend(header);
        out.extend(rng.bytes(len.next_multiple_of(4)));
    }
    out
}

fn requests(rng: &mut Rng) -> Vec<u8> {
    let mut out = stream(rng, &[0x00, 0x01, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x1c]);
    out[0] |= 1;
    out
}

fn responses(rng: &mut Rng) -> Vec<u8> {
    stream(rng, &[0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x25, 0x26, 0x31, 0x32, 0x3f])
}

/// Login Requests with any header bits and text that is nearly right.
fn logins(rng: &mut Rng) -> Vec<u8> {
    let mut out = rng.bytes(2);
    out[0] &= 0xfe;
    for _ in 0..rng.len(4) {
        let mut words = format!("InitiatorName={HOST}\0TargetName={TARGET}\0").into_bytes();
        for _ in 0..rng.below(12) {
            let (key, value) = (KEYS[rng.below(KEYS.len())], VALUES[rng.below(VALUES.len())]);
            words.extend(format!("{key}={value}\0").into_bytes());
        }
        if rng.below(4) == 0 {
            let at = rng.below(words.len());
            words[at] = rng.next() as u8;
        }
        let mut header = vec![0; BHS_LEN];
        (header[0], header[1]) = (0x43, [0x87, 0x81, 0x04, 0x00, 0x40, rng.next() as u8][rng.below(6)]);
        header[5..8].copy_from_slice(&(words.len() as u32).to_be_bytes()[1..]);
        header[8] = 0x80;
        if rng.below(4) == 0 {
            header[8 + rng.below(40)] = rng.next() as u8;
        }
        words.resize(words.len().next_multiple_of(4), 0);
        out.extend(header);
        out.extend(words);
    }
    out
}

/// Everybody may log in.
struct Everybody;

impl Directory for Everybody {
    fn access(&self, _: &LoginSubject) -> Result<Access, LoginStatus> {
        Ok(Access::open())
    }

    fn session(&self, _: &LoginSubject, _: Tsih) -> Option<Parameters> {
        None
    }

    fn targets(&self, _: &IscsiName) -> Vec<TargetRecord> {
        vec![TargetRecord {
            name: TARGET.parse().expect("a name"),
            portals: vec![(([10, 0, 0, 1], 3260).into(), 1)],
        }]
    }
}

fn login() -> Vec<u8> {
    let words = format!("InitiatorName={HOST}\0TargetName={TARGET}\0ImmediateData=Yes\0");
    let mut encoder = Encoder::new();
    encoder.put(LoginRequest {
        transit: true,
        continues: false,
        current_stage: Stage::OPERATIONAL,
        next_stage: Stage::FULL_FEATURE,
        version_max: 0,
        version_min: 0,
        isid: Isid([0x80, 1, 2, 3, 4, 5]),
        tsih: WireTsih(0),
        task_tag: TaskTag(1),
        cid: Cid(0),
        cmd_sn: Serial32(0),
        exp_stat_sn: Serial32(0),
        text: words.into_bytes().into(),
    });
    encoder.drain().flat_map(|piece| piece.to_vec()).collect()
}

/// A target's connection, logged in or not, and then bytes in pieces.
fn session(input: &[u8], probe: &mut Probe) {
    let mut source = Source::new(input);
    let (flags, step) = (source.byte(), source.byte());
    let mut config = ConnectionConfig::new(([10, 0, 0, 1], 3260).into(), 1);
    config.limits.queue_depth = QUEUE;
    config.limits.immediate_tasks = 2;
    config.limits.max_write = 8192;
    let now = Duration::from_secs(1000);
    let mut connection = SingleConnection::new(config, [7; 32], now);
    if flags & 1 != 0 {
        feed(&mut connection, &login(), usize::MAX, now, probe);
        assert!(connection.parameters().is_some(), "the login is right");
    }
    let step = if flags & 2 != 0 { 1 + usize::from(step) } else { usize::MAX };
    feed(&mut connection, source.rest(), step, now, probe);
    if !connection.is_closing() {
        connection.on_timeout(now + Duration::from_secs(3600));
        drain(&mut connection, now, probe);
    }
    connection.close(CloseReason::HostClosed);
    drain(&mut connection, now, probe);
    assert!(
        connection.is_closing() && connection.outstanding() == 0,
        "a closed connection forgets its tasks"
    );
}

fn feed(connection: &mut SingleConnection, mut bytes: &[u8], step: usize, now: Duration, probe: &mut Probe) {
    while !bytes.is_empty() && !connection.is_closing() {
        probe.work(1);
        let buffer = connection.buffer();
        let spare = buffer.capacity() - buffer.len();
        assert!(spare > 0 && buffer.capacity() <= 1 << 20, "room, and not too much");
        let (piece, rest) = bytes.split_at(spare.min(step).min(bytes.len()));
        buffer.extend_from_slice(piece);
        bytes = rest;
        connection.received(now, &Everybody);
        // Answers leave between two receives, as they do on a socket.
        drain(connection, now, probe);
    }
}

/// Answers whatever is asked, and sends it.
fn drain(connection: &mut SingleConnection, now: Duration, probe: &mut Probe) {
    while let Some(event) = connection.poll_event() {
        probe.work(1);
        match event {
            Event::SessionReady(request) => {
                probe.saw(format!("{:?}", request.parameters));
                connection.admit(Tsih::new(9).expect("not zero"), now, &Everybody);
            }
            Event::Command(command) => {
                probe.saw(("command", command.attribute as u8, command.cdb.first().copied()));
                assert!(command.data_out.len() <= 8192, "no more than a write may have");
                let response = if command.expected_in > 0 {
                    ScsiResponse::data(pattern(command.expected_in.min(4096) as usize).into())
                } else {
                    ScsiResponse::good()
                };
                connection.respond(command.tag, response);
            }
            Event::TaskManagement(management) => {
                probe.saw(format!("{:?}", management.function).split(' ').next().map(str::to_owned));
                connection.respond_task_management(management.tag, TaskManagementResponse::Complete, [0; 3]);
            }
            Event::Terminate(ends) => ends.iter().for_each(|end| connection.abandon(end.tag)),
            Event::Closed(reason) => probe.saw(format!("{reason:?}")),
        }
    }
    assert!(
        connection.outstanding() <= (QUEUE + 2 + SPARE_FUNCTIONS) as usize,
        "{} tasks",
        connection.outstanding()
    );
    let mut sent = 0;
    connection.transmit(|piece| sent += piece.len());
    probe.work(sent / 4096);
    probe.size("sent", sent);
}

/// The initiator, logged in, with commands out, and bytes from a target.
fn initiator(input: &[u8], probe: &mut Probe) {
    let mut source = Source::new(input);
    let (flags, step) = (source.byte(), source.byte());
    let session = SessionKind::Normal { target: TARGET.parse().expect("a name") };
    let mut config =
        InitiatorConfig::new(HOST.parse().expect("a name"), Isid([0x80, 1, 2, 3, 4, 5]), session);
    config.max_tasks = 4;
    config.receive_chunk = 4096;
    let mut initiator = Initiator::new(config).expect("the configuration fits");
    let asked: usize = initiator.transmit().map(|piece| piece.len()).sum();
    assert!(asked >= BHS_LEN);
    let mut bytes = if flags & 1 == 0 { login_response() } else { Vec::new() };
    let mut first = bytes.len();
    bytes.extend_from_slice(source.rest());
    let step = if flags & 2 != 0 { 1 + usize::from(step) } else { 256 };
    let (mut rest, mut tag) = (&bytes[..], 1);
    while !rest.is_empty() {
        probe.work(1);
        let buffer = initiator.buffer();
        let spare = buffer.capacity() - buffer.len();
        assert!(spare > 0 && buffer.capacity() <= 1 << 20, "room, and not too much");
        let most = if first > 0 { first } else { step };
        let (piece, behind) = rest.split_at(spare.min(most).min(rest.len()));
        first = first.saturating_sub(piece.len());
        buffer.extend_from_slice(piece);
        rest = behind;
        let alive = initiator.received();
        while let Some(event) = initiator.poll_event() {
            probe.work(1);
            probe.saw(std::mem::discriminant(&event));
        }
        if let Err(error) = alive {
            probe.saw(
                format!("{error:?}").chars().filter(|c| !c.is_ascii_digit()).take(40).collect::<String>(),
            );
            assert_eq!(initiator.received(), Err(error), "once over, always over");
            return;
        }
        let transfer = if tag % 2 == 0 { Transfer::Read(512) } else { Transfer::Write(vec![7; 600].into()) };
        let done = initiator.submit(Command::new(tag, Lun::ZERO, [0x28; 16], transfer));
        tag += u64::from(done == Submitted::Accepted);
        let sent: usize = initiator.transmit().map(|piece| piece.len()).sum();
        probe.work(sent / 4096);
        assert!(initiator.outstanding() <= 4);
    }
}

/// What a target says to the first request of an initiator that offers nothing unusual.
fn login_response() -> Vec<u8> {
    let mut answer = text::TextBuilder::new(8192);
    for (key, value) in [("TargetPortalGroupTag", "1"), ("HeaderDigest", "None"), ("DataDigest", "None")] {
        answer.push(key, value).expect("there is room");
    }
    let mut header = [0; BHS_LEN];
    (header[0], header[1]) = (0x23, 0x87);
    header[8..14].copy_from_slice(&[0x80, 1, 2, 3, 4, 5]);
    header[15] = 9;
    header[32..36].copy_from_slice(&8u32.to_be_bytes());
    let mut encoder = Encoder::new();
    encoder.put(RawPdu::with_data(Bhs(header), Bytes::from(answer.finish()).into()));
    encoder.drain().flat_map(|piece| piece.to_vec()).collect()
}
