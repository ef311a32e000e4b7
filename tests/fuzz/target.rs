//! The target's end of a whole connection: logins, commands, data, task management, digests, timers, in any order and any pieces.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use twinlun_block::Payload;
use twinlun_iscsi::chap::{Algorithm, AlgorithmSet, Secret};
use twinlun_iscsi::login::LoginStatus;
use twinlun_iscsi::names::{IscsiName, Isid};
use twinlun_iscsi::negotiate::Parameters;
use twinlun_iscsi::pdu::{
    self, Cdb, DataOut, LoginRequest, LogoutReason, LogoutRequest, Lun, NopOut, R2t, RawPdu, Response,
    ScsiCommand, Serial32, Stage, TaskAttribute, TaskFunction, TaskRequest, TaskTag, TextRequest,
    TransferTag,
};
use twinlun_iscsi::target::{
    Access, AsyncMessage, ChapCredentials, CloseReason, ConnectionConfig, DigestPolicy, Directory, Event,
    LoginSubject, Redirect, ScsiResponse, SingleConnection, TargetRecord, TaskManagementResponse, Tsih,
};
use twinlun_iscsi::text::{self, BINARY_LIMIT};
use twinlun_iscsi::{Deframer, Encoder, FrameLimits};

use crate::engine::{Probe, Target};
use crate::input::{Source, pattern};
use crate::login::{KEYS, VALUES};

const HOST: &str = "iqn.1993-08.org.debian:01:host";
const TARGET: &str = "iqn.2026-11.io.twinlun:east";
const SECRET: &[u8] = b"correct horse battery";
const QUEUE: u32 = 6;
const IMMEDIATE: u32 = 2;
/// Immediate task management functions beyond that.
const SPARE_FUNCTIONS: u32 = 4;
const MAX_WRITE: u32 = 8192;

pub(crate) fn targets() -> Vec<Target> {
    vec![Target {
        name: "iscsi-target",
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

struct Fixture {
    chap: bool,
    more: usize,
    alias: bool,
    redirect: bool,
}

impl Directory for Fixture {
    fn access(&self, subject: &LoginSubject) -> Result<Access, LoginStatus> {
        if subject.target.as_ref().is_some_and(|target| target.as_str() != TARGET) {
            return Err(LoginStatus::NotFound);
        }
        if subject.initiator.as_str() != HOST {
            return Err(LoginStatus::AuthorizationFailure);
        }
        let mut access = Access::open();
        if self.chap {
            let mutual = Some(("array".into(), Secret::new(b"another staple 12".to_vec())));
            access = Access::chap(ChapCredentials {
                user: "host".into(),
                secret: Secret::new(SECRET.to_vec()),
                mutual,
                algorithms: AlgorithmSet::default(),
            });
        }
        access.alias = self.alias.then(|| "east".into());
        access.redirect =
            self.redirect.then(|| Redirect { to: ([10, 0, 0, 9], 3260).into(), permanent: self.alias });
        Ok(access)
    }

    fn session(&self, _: &LoginSubject, tsih: Tsih) -> Option<Parameters> {
        (tsih.get() == 5).then(Parameters::default)
    }

    fn targets(&self, _: &IscsiName) -> Vec<TargetRecord> {
        (0..self.more)
            .map(|n| TargetRecord {
                name: format!("{TARGET}-{n:04}").parse().expect("a name"),
                portals: vec![(([10, 0, 0, 1], 3260).into(), 1)],
            })
            .collect()
    }
}

/// What all requests have.
#[derive(Clone, Copy)]
struct Head {
    immediate: bool,
    task_tag: TaskTag,
    lun: Lun,
    exp_stat_sn: Serial32,
}

/// The initiator's view, and what must hold of the target.
struct Host<'p> {
    connection: SingleConnection,
    fixture: Fixture,
    now: Duration,
    out: Encoder,
    deframer: Deframer,
    cmd_sn: u32,
    stat_sn: Option<Serial32>,
    /// Room that the initiator gave each tag for Data-In, and how much came. A tag that is used twice has room for all.
    room: BTreeMap<u32, u64>,
    /// Something was sent that nobody here understands: it may have been a command with any room.
    noise: bool,
    r2ts: Vec<R2t>,
    delivered: Vec<(u32, u32)>,
    functions: Vec<u32>,
    challenge: Option<(Algorithm, u8, Vec<u8>)>,
    proven: bool,
    closed: bool,
    probe: &'p mut Probe,
}

fn run(input: &[u8], probe: &mut Probe) {
    let mut source = Source::new(input);
    let flags = source.byte();
    let fixture = Fixture {
        chap: flags & 3 == 3,
        more: if flags & 4 != 0 { 300 } else { 2 },
        alias: flags & 8 != 0,
        redirect: flags & 0xf0 == 0xf0,
    };
    let mut config = ConnectionConfig::new(([10, 0, 0, 1], 3260).into(), 1);
    config.limits.queue_depth = QUEUE;
    config.limits.immediate_tasks = IMMEDIATE;
    config.limits.solicited = 16_384;
    config.limits.max_write = MAX_WRITE;
    let digest = [DigestPolicy::Either, DigestPolicy::Either, DigestPolicy::Never, DigestPolicy::Required];
    config.policy.header_digest = source.pick(&digest);
    config.policy.data_digest = source.pick(&digest);
    config.policy.max_recv_data_segment = source.pick(&[8192, 512, 65_536]);
    let now = Duration::from_secs(1000);
    let mut host = Host {
        connection: SingleConnection::new(config, [7; 32], now),
        fixture,
        now,
        out: Encoder::new(),
        deframer: Deframer::new(4096),
        cmd_sn: source.pick(&[100, u32::MAX - 2, 0x7fff_fffe]),
        stat_sn: None,
        room: BTreeMap::new(),
        noise: false,
        r2ts: Vec::new(),
        delivered: Vec::new(),
        functions: Vec::new(),
        challenge: None,
        proven: false,
        closed: false,
        probe,
    };
    while !source.is_empty() && !host.closed {
        if host.connection.parameters().is_some() {
            host.request(&mut source);
        } else {
            host.login(&mut source);
        }
        host.drain(&mut source);
    }
    host.connection.close(CloseReason::HostClosed);
    host.drain(&mut source);
    assert!(host.closed && host.connection.outstanding() == 0, "a closed connection forgets its tasks");
}

impl Host<'_> {
    fn encode(&mut self, pdu: impl Into<RawPdu>, source: &mut Source<'_>) {
        self.out.put(pdu);
        let mut bytes: Vec<u8> = self.out.drain().flat_map(|piece| piece.to_vec()).collect();
        if source.rarely(40) {
            let at = source.u16() as usize % bytes.len();
            bytes[at] ^= 1 << source.below(8);
            self.noise = true;
        }
        self.send(&bytes, source);
    }

    fn send(&mut self, mut bytes: &[u8], source: &mut Source<'_>) {
        // In 256 pieces at most: data that an R2T asks for costs the input next to nothing.
        let least = bytes.len().div_ceil(256);
        let step = if source.rarely(3) { (1 + source.below(100)).max(least) } else { usize::MAX };
        while !bytes.is_empty() {
            self.probe.work(1);
            let buffer = self.connection.buffer();
            let spare = buffer.capacity() - buffer.len();
            assert!(spare > 0 && buffer.capacity() <= 1 << 20, "room, and not too much");
            let (piece, rest) = bytes.split_at(spare.min(step).min(bytes.len()));
            buffer.extend_from_slice(piece);
            bytes = rest;
            self.connection.received(self.now, &self.fixture);
        }
    }

    /// One Login Request: the usual one, the next step of CHAP, or anything.
    fn login(&mut self, source: &mut Source<'_>) {
        let mut words: Vec<(String, String)> = Vec::new();
        let mut put = |key: &str, value: &str| words.push((key.to_owned(), value.to_owned()));
        let kind = source.below(16);
        let (mut stage, mut next) = (Stage::OPERATIONAL, Some(Stage::FULL_FEATURE));
        if kind != 15 {
            put("InitiatorName", if source.rarely(40) { "iqn.1993-08.org.debian:01:other" } else { HOST });
            put("TargetName", if source.rarely(40) { "iqn.2026-11.io.twinlun:west" } else { TARGET });
            if source.rarely(12) {
                put("SessionType", "Discovery");
            }
        }
        if self.fixture.chap && !self.proven {
            (stage, next) = (Stage::SECURITY, None);
            match &self.challenge {
                None if source.rarely(4) => put("AuthMethod", "CHAP,None"),
                None => put("CHAP_A", source.pick(&["5", "7,5", "8,6"])),
                Some((algorithm, identifier, challenge)) => {
                    words.clear();
                    let mut proof =
                        algorithm.respond(*identifier, &Secret::new(SECRET.to_vec()), challenge).to_vec();
                    let right = !source.rarely(6);
                    proof[0] ^= u8::from(!right);
                    self.proven = right;
                    words.push(("CHAP_N".into(), "host".into()));
                    words.push(("CHAP_R".into(), text::hex(&proof)));
                    next = Some(Stage::OPERATIONAL);
                }
            }
        } else if self.proven {
            words.clear();
        }
        for _ in 0..source.below(10) {
            let (key, number) = (source.pick(&KEYS[..22]), source.number().to_string());
            let value = if source.rarely(2) { number.as_str() } else { source.pick(&VALUES) };
            words.push((
                if source.rarely(20) { source.pick(&KEYS) } else { key }.to_owned(),
                value.to_owned(),
            ));
        }
        if kind == 14 {
            stage = Stage(source.byte() & 3);
            next = source.flag().then(|| Stage(source.byte() & 3));
        }
        let mut text: Vec<u8> = words.iter().flat_map(|(k, v)| format!("{k}={v}\0").into_bytes()).collect();
        if source.rarely(30) {
            let at = source.below(text.len() + 1);
            text.splice(at..at, source.take(20).iter().copied());
        }
        let request = LoginRequest {
            transit: next.is_some(),
            continues: next.is_none() && source.rarely(8),
            current_stage: stage,
            next_stage: next.unwrap_or(Stage::SECURITY),
            version_max: 0,
            version_min: if source.rarely(60) { 1 } else { 0 },
            isid: Isid([0x80, 1, 2, 3, 4, 5]),
            tsih: pdu::Tsih(if source.rarely(40) { source.u16() } else { 0 }),
            task_tag: TaskTag(1),
            cid: pdu::Cid(3),
            cmd_sn: Serial32(self.cmd_sn),
            exp_stat_sn: Serial32(0),
            text: text.into(),
        };
        if source.rarely(40) {
            let garbage = source.take(200).to_vec();
            self.noise = true;
            self.send(&garbage, source);
        } else if source.rarely(40) {
            self.request(source);
        } else {
            self.encode(request, source);
        }
    }

    fn number(&mut self, immediate: bool, source: &mut Source<'_>) -> Serial32 {
        if source.rarely(50) {
            return Serial32(source.u32());
        }
        let number = self.cmd_sn;
        if !immediate && !source.rarely(40) {
            self.cmd_sn = number.wrapping_add(1);
        }
        Serial32(number)
    }

    fn request(&mut self, source: &mut Source<'_>) {
        let immediate = source.rarely(6);
        let tag = if source.rarely(60) { 0xffff_ffff } else { source.below(12) as u32 };
        let (task_tag, exp_stat_sn) = (TaskTag(tag), self.stat_sn.unwrap_or_default());
        let lun = if source.rarely(5) {
            Lun(source.array())
        } else {
            Lun([0, source.byte() & 1, 0, 0, 0, 0, 0, 0])
        };
        let head = Head { immediate, task_tag, lun, exp_stat_sn };
        match source.below(16) {
            0..=5 => self.command(head, source),
            6..=9 => self.data_out(tag, lun, source),
            10 => {
                let cmd_sn = self.number(immediate, source);
                let len = source.number() as usize % 9000;
                let transfer_tag =
                    TransferTag(if source.rarely(3) { source.number() as u32 } else { u32::MAX });
                let nop = NopOut {
                    immediate,
                    lun,
                    task_tag,
                    transfer_tag,
                    cmd_sn,
                    exp_stat_sn,
                    data: pattern(len).into(),
                };
                self.encode(nop, source);
            }
            11 => self.function(head, source),
            12 => self.text(head, source),
            13 if source.rarely(4) => {
                let cmd_sn = self.number(immediate, source);
                let reason = LogoutReason(source.byte() & 3);
                let cid = pdu::Cid(if source.rarely(4) { source.u16() } else { 3 });
                self.encode(LogoutRequest { immediate, reason, task_tag, cid, cmd_sn, exp_stat_sn }, source);
            }
            14 => {
                // A header of any contents, but with a length that its data has.
                self.noise = true;
                let mut header: [u8; 48] = source.array();
                header[4] &= source.byte();
                let raw = RawPdu {
                    bhs: pdu::Bhs(header),
                    ahs: Bytes::from(vec![0; source.below(4) * 4]),
                    data: Payload::new(),
                };
                self.encode(raw, source);
            }
            15 if source.rarely(8) => {
                let garbage = source.take(100).to_vec();
                self.noise = true;
                self.send(&garbage, source);
            }
            _ => {
                self.now += Duration::from_millis(source.number() % 40_000);
                if self.connection.next_timeout().is_some_and(|at| at <= self.now) {
                    self.connection.on_timeout(self.now);
                }
            }
        }
    }

    fn command(&mut self, head: Head, source: &mut Source<'_>) {
        let Head { immediate, task_tag, lun, exp_stat_sn } = head;
        let (read, write) =
            source.pick(&[(true, false), (false, true), (false, true), (false, false), (true, true)]);
        let len = if source.rarely(30) { source.number() as u32 } else { source.number() as u32 % 12_000 };
        let data = if write && source.flag() {
            pattern((len as usize).min(source.number() as usize % 2048))
        } else {
            Bytes::new()
        };
        let bidirectional = (read && write).then(|| source.number() as u32);
        let cmd_sn = self.number(immediate, source);
        *self.room.entry(task_tag.0).or_default() +=
            u64::from(if read && !write { len } else { bidirectional.unwrap_or(0) });
        let command = ScsiCommand {
            immediate,
            is_final: !(write && source.rarely(3)),
            read,
            write,
            attribute: TaskAttribute(if source.rarely(4) { source.byte() & 7 } else { 1 }),
            lun,
            task_tag,
            expected_len: len,
            cmd_sn,
            exp_stat_sn,
            cdb: Cdb::from(source.array()),
            bidirectional_read_len: bidirectional.filter(|_| !source.rarely(4)),
            data: data.into(),
        };
        self.encode(command, source);
    }

    fn function(&mut self, head: Head, source: &mut Source<'_>) {
        let Head { task_tag, lun, exp_stat_sn, .. } = head;
        let cmd_sn = self.number(true, source);
        let pdu = TaskRequest {
            immediate: !source.rarely(4),
            function: TaskFunction(if source.rarely(8) { source.byte() } else { 1 + source.byte() % 12 }),
            lun,
            task_tag,
            referenced_task_tag: TaskTag(source.below(12) as u32),
            cmd_sn,
            exp_stat_sn,
            ref_cmd_sn: Serial32(self.cmd_sn.wrapping_sub(source.below(8) as u32)),
            exp_data_sn: 0,
        };
        self.encode(pdu, source);
    }

    fn text(&mut self, head: Head, source: &mut Source<'_>) {
        let Head { immediate, task_tag, lun, exp_stat_sn } = head;
        let cmd_sn = self.number(immediate, source);
        let continues = source.rarely(4);
        let text =
            if source.flag() { "SendTargets=All\0" } else { "SendTargets=\0MaxRecvDataSegmentLength=512\0" };
        let text = if source.rarely(3) { Bytes::copy_from_slice(source.take(60)) } else { text.into() };
        let transfer_tag = TransferTag(if source.flag() { u32::MAX } else { source.byte().into() });
        let pdu = TextRequest {
            immediate,
            is_final: !continues,
            continues,
            lun,
            task_tag,
            transfer_tag,
            cmd_sn,
            exp_stat_sn,
            text,
        };
        self.encode(pdu, source);
    }

    /// Data that an R2T asks for, or that nobody asks for.
    fn data_out(&mut self, tag: u32, lun: Lun, source: &mut Source<'_>) {
        let mut pdu = DataOut {
            is_final: true,
            lun,
            task_tag: TaskTag(tag),
            transfer_tag: TransferTag::RESERVED,
            exp_stat_sn: Serial32(0),
            data_sn: 0,
            buffer_offset: source.number() as u32 % 4096,
            data: Payload::new(),
        };
        if self.r2ts.is_empty() || source.rarely(12) {
            pdu.is_final = !source.rarely(3);
            pdu.data = pattern(source.number() as usize % 600).into();
            return self.encode(pdu, source);
        }
        let which = source.below(self.r2ts.len());
        let r2t = self.r2ts.remove(which);
        let (mut at, mut left) = (r2t.buffer_offset, r2t.desired_len);
        let most = self.connection.parameters().map_or(512, |p| p.target_max_recv).max(512);
        while left > 0 && !self.closed {
            self.probe.work(1);
            let len =
                if source.rarely(4) { left.min(1 + source.number() as u32 % 600) } else { left.min(most) };
            left -= len;
            let sent = DataOut {
                is_final: left == 0,
                task_tag: r2t.task_tag,
                transfer_tag: r2t.transfer_tag,
                lun: r2t.lun,
                buffer_offset: if source.rarely(60) { at ^ 4 } else { at },
                data: pattern(len as usize).into(),
                ..pdu.clone()
            };
            self.encode(sent, source);
            pdu.data_sn += 1;
            at += len;
            if source.rarely(20) {
                return;
            }
            self.closed = self.connection.is_closing();
        }
        self.closed = false;
    }

    /// The storage processor: takes events, answers some, and looks at what goes out.
    fn drain(&mut self, source: &mut Source<'_>) {
        while let Some(event) = self.connection.poll_event() {
            self.probe.work(1);
            assert!(!self.closed, "an event after the last: {event:?}");
            match event {
                Event::SessionReady(request) => {
                    assert!(
                        !self.fixture.chap || request.authenticated_as.is_some(),
                        "no session without the proof"
                    );
                    self.probe.saw(format!("{:?}", request.parameters));
                    if source.rarely(20) {
                        self.connection.refuse(LoginStatus::OutOfResources);
                    } else {
                        self.connection.admit(Tsih::new(9).expect("not zero"), self.now, &self.fixture);
                        self.follow_parameters();
                    }
                }
                Event::Command(command) => {
                    assert!(
                        command.data_out.len() as u32 == command.expected_out.min(MAX_WRITE),
                        "a command is whole"
                    );
                    assert!(!self.delivered.iter().any(|(tag, _)| *tag == command.tag), "one task for a tag");
                    self.probe.saw((
                        "command",
                        command.attribute as u8,
                        command.immediate,
                        command.data_out.is_empty(),
                    ));
                    self.delivered.push((command.tag, command.expected_in));
                }
                Event::TaskManagement(management) => {
                    self.probe.saw(format!("{:?}", management.function));
                    self.functions.push(management.tag);
                }
                Event::Terminate(ends) => {
                    for end in ends {
                        let at = self.delivered.iter().position(|(tag, _)| *tag == end.tag);
                        self.delivered.remove(at.expect("a task that was delivered"));
                        self.connection.abandon(end.tag);
                    }
                }
                Event::Closed(reason) => {
                    self.probe.saw(format!("{reason:?}"));
                    self.closed = true;
                }
            }
        }
        if self.recovers() == 2 && self.connection.is_closing() && !self.closed {
            // The session would wait for another connection.
            self.connection.close(CloseReason::HostClosed);
            return self.drain(source);
        }
        assert_eq!(self.closed, self.connection.is_closing());
        // Task management finds room beyond the limit for commands (RFC 7143, 4.2.2.1).
        let bound = (QUEUE + IMMEDIATE + SPARE_FUNCTIONS) as usize;
        assert!(self.connection.outstanding() <= bound, "{} tasks", self.connection.outstanding());
        if !self.closed {
            self.serve(source);
        }
        self.receive();
    }

    fn serve(&mut self, source: &mut Source<'_>) {
        if !self.delivered.is_empty() && source.flag() {
            let (tag, room) = self.delivered.remove(source.below(self.delivered.len()));
            let response = match source.below(5) {
                0 => ScsiResponse::check_condition(pattern(18 + source.below(300))),
                1 => ScsiResponse::written(source.number()),
                2 => ScsiResponse {
                    presented_in: source.number(),
                    ..ScsiResponse::data(pattern((room as usize).min(5000)).into())
                },
                _ => ScsiResponse::data(pattern(source.number() as usize % 6000).into()),
            };
            match source.below(10) {
                0 => self.connection.respond_target_failure(tag),
                1 => self.connection.abandon(tag),
                _ => self.connection.respond(tag, response),
            }
        }
        if !self.functions.is_empty() && source.flag() {
            for (task, _) in std::mem::take(&mut self.delivered) {
                self.connection.abandon(task);
            }
            let tag = self.functions.remove(0);
            self.connection.respond_task_management(tag, TaskManagementResponse::Complete, [0; 3]);
        }
        if source.rarely(40) {
            let lun = source.flag().then_some([0; 8]);
            self.connection.abort_undelivered(lun, source.flag().then_some(0x40));
        }
        if source.rarely(40) {
            let sense = pattern(18);
            self.connection.async_message(AsyncMessage::ScsiEvent { lun: [0; 8], sense });
        }
    }

    /// ErrorRecoveryLevel: above 0 a SNACK may bring anything back.
    fn recovers(&self) -> u8 {
        self.connection.parameters().map_or(0, |parameters| parameters.error_recovery)
    }

    /// After the last Login Response what was negotiated holds; that response itself has no digests.
    fn follow_parameters(&mut self) {
        let Some(parameters) = self.connection.parameters() else { return };
        let first = self.transmitted();
        let len = 48
            + pdu::Bhs(*first.first_chunk().expect("a Login Response")).data_len().get().next_multiple_of(4);
        self.deframer.buffer().extend_from_slice(&first[..len]);
        self.responses();
        self.out.set_digests(parameters.header_digest, parameters.data_digest);
        self.deframer.set_limits(FrameLimits {
            max_data: parameters.initiator_max_recv,
            header_digest: parameters.header_digest,
            data_digest: parameters.data_digest,
            allow_ahs: true,
        });
        self.deframer.buffer().extend_from_slice(&first[len..]);
        self.responses();
    }

    fn transmitted(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.connection.transmit(|segment| bytes.extend_from_slice(&segment));
        bytes
    }

    fn receive(&mut self) {
        let bytes = self.transmitted();
        self.probe.work(bytes.len() / 4096);
        self.deframer.buffer().extend_from_slice(&bytes);
        self.responses();
    }

    /// Every frame that goes out is well formed, numbered without a gap, and within what the initiator gave room for.
    fn responses(&mut self) {
        while let Some(raw) = self.deframer.next().expect("well-formed frames") {
            self.probe.work(1);
            let response = Response::parse(raw).expect("a well-formed response");
            let (stat_sn, uses) = match &response {
                Response::NopIn(p) => (p.stat_sn, !p.task_tag.is_reserved()),
                Response::Scsi(p) => (p.stat_sn, true),
                Response::Task(p) => (p.stat_sn, true),
                Response::Login(p) => (p.stat_sn, true),
                Response::Text(p) => (p.stat_sn, true),
                Response::Logout(p) => (p.stat_sn, true),
                Response::R2t(p) => (p.stat_sn, false),
                Response::Async(p) => (p.stat_sn, true),
                Response::Reject(p) => (p.stat_sn, true),
                Response::DataIn(p) => {
                    let room = self.room.entry(p.task_tag.0).or_default();
                    let len = p.data.len() as u64;
                    let again = self.connection.parameters().is_some_and(|p| p.error_recovery > 0);
                    assert!(
                        len <= *room || self.noise || again,
                        "more Data-In than the initiator has room for"
                    );
                    *room = room.saturating_sub(len);
                    match p.status {
                        Some(end) => (end.stat_sn, true),
                        None => continue,
                    }
                }
            };
            let due = self.stat_sn.unwrap_or(stat_sn);
            if self.recovers() > 0 && stat_sn.is_before(due) {
                continue;
            }
            assert_eq!(stat_sn, due, "StatSN of {response:?}");
            self.stat_sn = Some(if uses { stat_sn.next() } else { stat_sn });
            self.note(response);
        }
    }

    fn note(&mut self, response: Response) {
        match response {
            Response::R2t(r2t) => {
                assert!(
                    r2t.desired_len > 0 && r2t.buffer_offset.saturating_add(r2t.desired_len) <= MAX_WRITE
                );
                self.probe.saw("r2t");
                self.r2ts.push(r2t);
                assert!(self.r2ts.len() <= 4096);
            }
            Response::Login(login) => {
                self.probe.saw(("login", login.status.0, login.transit));
                let Ok(pairs) = text::pairs(&login.text) else { panic!("an answer is text") };
                let find = |key: &str| pairs.iter().find(|pair| pair.key == key).map(|pair| pair.value);
                if let (Some(a), Some(i), Some(c)) = (find("CHAP_A"), find("CHAP_I"), find("CHAP_C")) {
                    let algorithm =
                        text::number(a).ok().and_then(Algorithm::from_number).expect("a known algorithm");
                    let identifier = text::number(i).expect("a number") as u8;
                    self.challenge =
                        Some((algorithm, identifier, text::binary(c, BINARY_LIMIT).expect("a challenge")));
                }
            }
            Response::Text(text) => self.probe.saw(("text", text.is_final, text.continues)),
            Response::Reject(reject) => self.probe.saw(("reject", reject.reason.0)),
            Response::Scsi(scsi) => self.probe.saw((
                "status",
                scsi.response.0,
                scsi.status.0,
                scsi.residual == pdu::Residual::None,
            )),
            Response::Task(task) => self.probe.saw(("task", task.response.0)),
            other => self.probe.saw(std::mem::discriminant(&other)),
        }
    }
}
