//! The initiator's core against a hostile target.

use twinlun_iscsi::chap::{Algorithm, Secret};
use twinlun_iscsi::initiator::{
    ChapLogin, Command, Event, Initiator, InitiatorConfig, MutualChap, Phase, SessionKind, Submitted,
    Transfer,
};
use twinlun_iscsi::names::Isid;
use twinlun_iscsi::negotiate::Parameters;
use twinlun_iscsi::pdu::{BHS_LEN, Bhs, LogoutReason, Lun, RawPdu, Request, TaskFunction};
use twinlun_iscsi::{Deframer, Encoder, FrameLimits, text};

use crate::engine::{Probe, Target};
use crate::input::{Source, pattern};
use crate::login::{KEYS, VALUES};

pub(crate) fn targets() -> Vec<Target> {
    vec![Target {
        name: "iscsi-initiator",
        execs: 100_000,
        longest: 3000,
        work: (4096, 64),
        fresh: |rng| {
            let len = rng.len(900);
            rng.bytes(len)
        },
        run,
    }]
}

const TASKS: usize = 8;

fn run(input: &[u8], probe: &mut Probe) {
    let mut source = Source::new(input);
    let name = "iqn.1993-08.org.debian:01:host".parse().expect("a name");
    let target = "iqn.2026-11.io.twinlun:east".parse().expect("a name");
    let session = if source.rarely(4) { SessionKind::Discovery } else { SessionKind::Normal { target } };
    let mut config = InitiatorConfig::new(name, Isid([0x80, 1, 2, 3, 4, 5]), session);
    config.max_tasks = TASKS;
    config.receive_chunk = 4096;
    config.offer.header_digest = source.rarely(3);
    config.offer.data_digest = source.rarely(3);
    let mutual = source.rarely(2);
    config.chap = source.rarely(5).then(|| ChapLogin {
        user: "host".into(),
        secret: Secret::new(b"correct horse battery".to_vec()),
        algorithms: vec![Algorithm::Sha256, Algorithm::Md5],
        mutual: mutual.then(|| MutualChap {
            user: "array".into(),
            secret: Secret::new(b"another staple 12".to_vec()),
            random: [9; 33],
        }),
    });
    let demanding = config.chap.as_ref().is_some_and(|chap| chap.mutual.is_some());
    let mut initiator = Initiator::new(config).expect("the configuration fits");
    let (mut next_tag, mut stat_sn, mut open) = (1, 100u32, 0usize);
    let mut out = Encoder::new();
    let mut failed = false;
    let mut requests = Deframer::new(4096);
    let mut open_tasks: Vec<Asked> = Vec::new();
    let mut asked: Vec<u8> = initiator.transmit().flat_map(|piece| piece.to_vec()).collect();
    while !source.is_empty() && !failed {
        if initiator.phase() == Phase::FullFeature && source.flag() {
            open += usize::from(submit(&mut initiator, next_tag, &mut source) == Submitted::Accepted);
            next_tag += 1;
        }
        let bytes = if initiator.phase() == Phase::Login {
            login_response(&asked, &mut out, &mut stat_sn, &mut source)
        } else {
            let parameters = *initiator.parameters();
            out.set_digests(parameters.header_digest, parameters.data_digest);
            response(&open_tasks, &mut out, &mut stat_sn, &mut source)
        };
        failed = feed(&mut initiator, &bytes, &mut source, probe);
        while let Some(event) = initiator.poll_event() {
            probe.work(1);
            open -= ended(&event, probe).min(open);
            assert!(!(demanding && event == Event::LoggedIn), "nobody here can prove to be the target");
        }
        let sent: Vec<u8> = initiator.transmit().flat_map(|piece| piece.to_vec()).collect();
        probe.work(sent.len() / 4096);
        if initiator.phase() == Phase::Login && !sent.is_empty() {
            asked = sent;
        } else if initiator.phase() == Phase::FullFeature {
            let parameters = *initiator.parameters();
            requests.set_limits(FrameLimits {
                max_data: 0xff_ffff,
                header_digest: parameters.header_digest,
                data_digest: parameters.data_digest,
                allow_ahs: true,
            });
            requests.buffer().extend_from_slice(&sent);
            while let Some(raw) = requests.next().expect("the initiator's frames are well formed") {
                note(raw, &parameters, &mut open_tasks);
            }
        }
        assert!(initiator.outstanding() <= TASKS);
        assert_eq!(initiator.outstanding(), initiator.unfinished().count());
    }
    if failed {
        assert_eq!(initiator.phase(), Phase::Closed);
    }
    probe.size("open", open);
}

/// A request that awaits an answer: opcode, tag, bytes to read, bytes to write.
type Asked = (u8, u32, u32, u32);

/// Requests keep to what was negotiated.
fn note(raw: RawPdu, parameters: &Parameters, open: &mut Vec<Asked>) {
    assert!(
        raw.data.len() <= parameters.target_max_recv as usize,
        "data segments as long as the target takes"
    );
    let (opcode, tag) = (raw.bhs.opcode().0, raw.bhs.task_tag().0);
    match Request::parse(raw).expect("a well-formed request") {
        Request::ScsiCommand(command) if command.read => open.push((opcode, tag, command.expected_len, 0)),
        Request::ScsiCommand(command) => {
            let most = if parameters.immediate_data { parameters.first_burst as usize } else { 0 };
            assert!(
                command.data.len() <= most.min(command.expected_len as usize),
                "immediate data within its bounds"
            );
            open.push((opcode, tag, 0, command.expected_len));
        }
        Request::DataOut(_) => {}
        _ => open.push((opcode, tag, 0, 0)),
    }
    if open.len() > TASKS {
        open.remove(0);
    }
}

/// Requests that an event ends; its outcome is noted.
fn ended(event: &Event, probe: &mut Probe) -> usize {
    match event {
        Event::Completed(done) => {
            probe.saw(("completed", done.response.0, done.status.0, done.data.is_empty()));
        }
        Event::Rejected { tag, reason, .. } => {
            probe.saw(("rejected", reason.0, tag.is_some()));
            return usize::from(tag.is_some());
        }
        Event::Async(message) => {
            probe.saw(("async", message.event.0));
            return 0;
        }
        Event::LoggedIn => {
            probe.saw("logged in");
            return 0;
        }
        other => probe.saw(std::mem::discriminant(other)),
    }
    1
}

fn submit(initiator: &mut Initiator, tag: u64, source: &mut Source<'_>) -> Submitted {
    let len = source.number() as u32 % 3000;
    match source.below(8) {
        0..=2 => initiator.submit(Command::new(tag, Lun::ZERO, [0x28; 16], Transfer::Read(len))),
        3..=4 => initiator.submit(Command::new(
            tag,
            Lun::ZERO,
            [0x2a; 16],
            Transfer::Write(pattern(len as usize).into()),
        )),
        5 => initiator.ping(tag, pattern(len as usize).into()),
        6 if source.flag() => initiator.send_targets(tag, "All"),
        6 => initiator.manage_task(tag, TaskFunction::ABORT_TASK, tag.saturating_sub(1)),
        _ if source.rarely(8) => initiator.logout(tag, LogoutReason(0)),
        _ => initiator.manage_lun(tag, TaskFunction::LOGICAL_UNIT_RESET, Lun::ZERO),
    }
}

fn feed(initiator: &mut Initiator, mut bytes: &[u8], source: &mut Source<'_>, probe: &mut Probe) -> bool {
    let step = if source.rarely(3) { 1 + source.below(60) } else { usize::MAX };
    while !bytes.is_empty() {
        probe.work(1);
        let buffer = initiator.buffer();
        let spare = buffer.capacity() - buffer.len();
        assert!(spare > 0 && buffer.capacity() <= 1 << 20, "room, and not too much");
        let (piece, rest) = bytes.split_at(spare.min(step).min(bytes.len()));
        buffer.extend_from_slice(piece);
        bytes = rest;
        if let Err(error) = initiator.received() {
            probe.saw(format!("{error:?}").split(['(', '{', ' ']).take(3).collect::<Vec<_>>());
            assert_eq!(initiator.received(), Err(error), "once over, always over");
            return true;
        }
    }
    false
}

fn put(out: &mut Encoder, header: [u8; BHS_LEN], data: Vec<u8>, source: &mut Source<'_>) -> Vec<u8> {
    out.put(RawPdu::with_data(Bhs(header), data.into()));
    let mut bytes: Vec<u8> = out.drain().flat_map(|piece| piece.to_vec()).collect();
    if source.rarely(50) {
        let at = source.u16() as usize % bytes.len();
        bytes[at] ^= 1 << source.below(8);
    }
    bytes
}

fn word(header: &mut [u8; BHS_LEN], at: usize, value: u32) {
    header[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// The usual answer of a target that wants no proof to the request `asked`, with some of its parts changed.
fn login_response(asked: &[u8], out: &mut Encoder, stat_sn: &mut u32, source: &mut Source<'_>) -> Vec<u8> {
    let mut header = [0; BHS_LEN];
    header[0] = 0x23;
    // Stages and the wish to go on are the request's.
    header[1] = asked.get(1).copied().unwrap_or_default() & 0x8F;
    if source.rarely(30) {
        header[1] = source.byte();
    }
    header[8..14].copy_from_slice(&[0x80, 1, 2, 3, 4, 5]);
    header[15] = if header[1] & 0x83 == 0x83 || source.rarely(8) { 9 } else { 0 };
    word(&mut header, 24, *stat_sn);
    word(&mut header, 28, 1);
    word(&mut header, 32, 1 + u32::from(source.byte() % 16));
    if source.rarely(30) {
        header[36..38].copy_from_slice(&source.array::<2>());
    }
    if !source.rarely(30) {
        *stat_sn = stat_sn.wrapping_add(1);
    }
    let mut answer = Vec::new();
    for pair in text::pairs(asked.get(BHS_LEN..).unwrap_or_default()).unwrap_or_default() {
        let declared =
            ["InitiatorName", "TargetName", "SessionType", "MaxRecvDataSegmentLength"].contains(&pair.key);
        if declared != source.rarely(30) {
            continue;
        }
        let first = pair.value.split(|byte| *byte == b',').next_back().unwrap_or_default();
        let other = source.pick(&VALUES).as_bytes();
        answer.extend(
            [pair.key.as_bytes(), b"=", if source.rarely(20) { other } else { first }, b"\0"].concat(),
        );
    }
    if source.rarely(6) {
        let number = source.number().to_string();
        let value = if source.rarely(2) { number.as_str() } else { source.pick(&VALUES) };
        answer.extend(format!("{}={value}\0", source.pick(&KEYS)).into_bytes());
    }
    if source.rarely(8) {
        answer = source
            .pick(&[
                &b"AuthMethod=CHAP\0"[..],
                b"CHAP_A=5\0CHAP_I=1\0CHAP_C=0x0123456789abcdef\0",
                b"CHAP_N=array\0CHAP_R=0x00112233445566778899aabbccddeeff\0",
                b"TargetAddress=10.0.0.9:3260\0",
            ])
            .to_vec();
    }
    put(out, header, answer, source)
}

/// An answer to a task, mostly one that exists, and mostly one of the right kind.
fn response(open: &[Asked], out: &mut Encoder, stat_sn: &mut u32, source: &mut Source<'_>) -> Vec<u8> {
    let mut header = [0; BHS_LEN];
    let (asked, tag, reads, writes) =
        if open.is_empty() { (0xff, u32::MAX, 0, 0) } else { open[source.below(open.len())] };
    let wrong = source.rarely(16);
    let fitting: &[u8] = match asked {
        _ if wrong => &[0x25, 0x21, 0x31, 0x20, 0x22, 0x24, 0x26, 0x32, 0x3f, 0x23],
        0x00 => &[0x20],
        0x01 if reads > 0 => &[0x25, 0x25, 0x21],
        0x01 if writes > 0 => &[0x31, 0x31, 0x21],
        0x01 => &[0x21],
        0x02 => &[0x22],
        0x04 => &[0x24],
        0x06 => &[0x26],
        _ => &[0x20, 0x32, 0x20, 0x32, 0x3f],
    };
    header[0] = if source.rarely(80) { source.byte() } else { source.pick(fitting) };
    let status = source.flag();
    header[1] = match header[0] {
        0x25 if status => 0x81,
        0x25 if source.flag() => 0x80,
        0x25 => 0x00,
        0x24 if source.rarely(4) => 0x40,
        _ => 0x80,
    };
    if source.rarely(30) {
        header[1] = source.byte();
    }
    header[3] = if header[1] & 1 != 0 || header[0] == 0x21 { source.pick(&[0, 0, 2, 8]) } else { 0 };
    if header[0] == 0x32 {
        header[36] = source.below(6) as u8;
    }
    let unsolicited = matches!(header[0], 0x32) || (header[0] == 0x20 && asked != 0);
    word(&mut header, 16, if unsolicited { u32::MAX } else { tag });
    let transfer = matches!(header[0], 0x31)
        || (header[0] == 0x20 && unsolicited)
        || (header[0] == 0x24 && header[1] & 0x80 == 0);
    word(&mut header, 20, if transfer { source.byte().into() } else { u32::MAX });
    word(&mut header, 24, *stat_sn);
    let uses = !(header[0] == 0x31
        || (header[0] == 0x25 && header[1] & 1 == 0)
        || (header[0] == 0x20 && unsolicited));
    if uses && !source.rarely(60) {
        *stat_sn = stat_sn.wrapping_add(1);
    }
    word(&mut header, 28, 1 + u32::from(source.byte() % 16));
    word(&mut header, 32, 16 + u32::from(source.byte() % 32));
    if matches!(header[0], 0x25 | 0x31) {
        word(&mut header, 36, if source.rarely(3) { source.byte().into() } else { 0 });
        word(&mut header, 40, if source.rarely(3) { source.number() as u32 } else { 0 });
        let asks = if header[0] == 0x31 { writes } else { 0 };
        word(&mut header, 44, if source.rarely(16) { source.number() as u32 } else { asks });
    }
    let data = match header[0] {
        0x24 => b"TargetName=iqn.2026-11.io.twinlun:east\0TargetAddress=10.0.0.1:3260,1\0".to_vec(),
        0x3f => {
            let mut inner = [0; BHS_LEN];
            word(&mut inner, 16, open.first().map_or(0, |first| first.1));
            inner.to_vec()
        }
        0x25 => pattern(reads as usize).to_vec(),
        0x21 if header[3] == 2 => [&[0, 18][..], &pattern(18)].concat(),
        0x20 => pattern(source.number() as usize % 700).to_vec(),
        _ => Vec::new(),
    };
    let data = if source.rarely(16) { source.take(80).to_vec() } else { data };
    put(out, header, data, source)
}
