//! A scripted initiator.

use core::time::Duration;

use bytes::Bytes;
use twinlun_block::Payload;

use crate::chap::{AlgorithmSet, Secret};
use crate::login::LoginStatus;
use crate::names::IscsiName;
use crate::negotiate::Parameters;
use crate::pdu::{
    self, Cdb, DataOut, Isid, LoginRequest, LoginResponse, Lun, RawPdu, Response, ScsiCommand, Serial32,
    Stage, TaskAttribute, TaskFunction, TaskRequest, TaskTag, TransferTag,
};
use crate::target::{
    Access, ChapCredentials, ConnectionConfig, Directory, Event, LoginSubject, Redirect, SessionType,
    SingleConnection, TargetRecord, Tsih,
};
use crate::{Deframer, Encoder, FrameLimits};

pub(super) const HOST: &str = "iqn.1993-08.org.debian:01:host";
pub(super) const TARGET: &str = "iqn.2026-11.io.twinlun:east";
pub(super) const ISID: Isid = Isid([0x80, 1, 2, 3, 4, 5]);
pub(super) const FIRST_CMD_SN: u32 = 100;

pub(super) fn name(text: &str) -> IscsiName {
    text.parse().expect("a name")
}

/// A directory of one target, `TARGET`, and so many more for discovery.
#[derive(Default)]
pub(super) struct Fixture {
    pub(super) chap: Option<ChapCredentials>,
    pub(super) alias: Option<&'static str>,
    pub(super) redirect: Option<(&'static str, bool)>,
    pub(super) sessions: Vec<(u16, Parameters)>,
    pub(super) more_targets: usize,
}

impl Fixture {
    pub(super) fn with_chap(mutual: bool) -> Self {
        let mutual = mutual.then(|| ("array".into(), Secret::new(b"another staple 12".to_vec())));
        let secret = Secret::new(b"correct horse battery".to_vec());
        let algorithms = AlgorithmSet::default();
        let chap = ChapCredentials { user: "host".into(), secret, mutual, algorithms };
        Self { chap: Some(chap), ..Self::default() }
    }
}

impl Directory for Fixture {
    fn access(&self, subject: &LoginSubject) -> Result<Access, LoginStatus> {
        if subject.target.as_ref().is_some_and(|target| target.as_str() != TARGET) {
            return Err(LoginStatus::NotFound);
        }
        if subject.initiator.as_str() != HOST {
            return Err(LoginStatus::AuthorizationFailure);
        }
        let mut access = self.chap.clone().map_or_else(Access::open, Access::chap);
        access.alias = self.alias.map(Into::into);
        access.redirect =
            self.redirect.map(|(to, permanent)| Redirect { to: to.parse().expect("an address"), permanent });
        Ok(access)
    }

    fn session(&self, _: &LoginSubject, tsih: Tsih) -> Option<Parameters> {
        self.sessions.iter().find(|(handle, _)| *handle == tsih.get()).map(|(_, parameters)| *parameters)
    }

    fn targets(&self, _: &IscsiName) -> Vec<TargetRecord> {
        let portals = vec![("10.0.0.1:3260".parse().unwrap(), 1), ("[fd00::1]:3260".parse().unwrap(), 2)];
        let mut all = vec![TargetRecord { name: name(TARGET), portals: portals.clone() }];
        all.extend((0..self.more_targets).map(|n| TargetRecord {
            name: name(&format!("iqn.2026-11.io.twinlun:more-{n:04}")),
            portals: portals.clone(),
        }));
        all
    }
}

/// The initiator and the connection that it talks to.
pub(super) struct Host {
    pub(super) connection: SingleConnection,
    pub(super) fixture: Fixture,
    pub(super) now: Duration,
    out: Encoder,
    deframer: Deframer,
    pub(super) cmd_sn: u32,
    pub(super) stat_sn: Option<Serial32>,
    pub(super) window: (Serial32, Serial32),
}

impl Host {
    pub(super) fn new(fixture: Fixture, change: impl FnOnce(&mut ConnectionConfig)) -> Self {
        let mut config = ConnectionConfig::new("10.0.0.1:3260".parse().unwrap(), 1);
        change(&mut config);
        let now = Duration::from_secs(1000);
        Self {
            connection: SingleConnection::new(config, [7; 32], now),
            fixture,
            now,
            out: Encoder::new(),
            deframer: Deframer::new(64 << 10),
            cmd_sn: FIRST_CMD_SN,
            stat_sn: None,
            window: (Serial32(0), Serial32(0)),
        }
    }

    /// In full feature phase, with these operational keys offered.
    pub(super) fn logged_in(keys: &str, change: impl FnOnce(&mut ConnectionConfig)) -> Self {
        let mut host = Self::new(Fixture::default(), change);
        host.log_in(keys, SessionType::Normal);
        host
    }

    pub(super) fn log_in(&mut self, keys: &str, session_type: SessionType) {
        let kind = if session_type == SessionType::Discovery { "SessionType=Discovery " } else { "" };
        let text = format!("InitiatorName={HOST} TargetName={TARGET} {kind}{keys}");
        self.send(login(Stage::OPERATIONAL, Some(Stage::FULL_FEATURE), &text));
        self.admit();
    }

    /// Admits the session that is ready, and switches to what was negotiated.
    pub(super) fn admit(&mut self) -> LoginResponse {
        match self.event() {
            Some(Event::SessionReady(_)) => {}
            other => panic!("no session: {other:?}, {:?}", self.receive()),
        }
        assert!(self.receive().is_empty(), "the last response waits for admission");
        self.connection.admit(Tsih::new(9).unwrap(), self.now, &self.fixture);
        let Some(Response::Login(response)) = self.receive().into_iter().next() else {
            panic!("no response")
        };
        let parameters = self.connection.parameters().expect("full feature");
        self.out.set_digests(parameters.header_digest, parameters.data_digest);
        self.deframer.set_limits(FrameLimits {
            max_data: parameters.initiator_max_recv,
            header_digest: parameters.header_digest,
            data_digest: parameters.data_digest,
            allow_ahs: true,
        });
        response
    }

    pub(super) fn send(&mut self, pdu: impl Into<RawPdu>) {
        let bytes = self.encode(pdu);
        self.send_bytes(&bytes);
    }

    pub(super) fn encode(&mut self, pdu: impl Into<RawPdu>) -> Vec<u8> {
        self.out.put(pdu);
        self.out.drain().flat_map(|bytes| bytes.to_vec()).collect()
    }

    pub(super) fn send_bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let buffer = self.connection.buffer();
            let take = bytes.len().min(buffer.capacity() - buffer.len());
            assert!(take > 0, "the buffer has room");
            buffer.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            self.connection.received(self.now, &self.fixture);
        }
    }

    /// Everything that the target sent, with StatSN and window checked.
    pub(super) fn receive(&mut self) -> Vec<Response> {
        let all = self.receive_again();
        all.iter().for_each(|response| self.check_numbers(response));
        all
    }

    /// Everything that the target sent, old numbers among it.
    pub(super) fn receive_again(&mut self) -> Vec<Response> {
        let mut bytes = Vec::new();
        self.connection.transmit(|segment| bytes.extend_from_slice(&segment));
        let (mut all, mut rest) = (Vec::new(), &bytes[..]);
        while !rest.is_empty() {
            let buffer = self.deframer.buffer();
            let room = (buffer.capacity() - buffer.len()).min(rest.len());
            buffer.extend_from_slice(&rest[..room]);
            rest = &rest[room..];
            while let Some(raw) = self.deframer.next().expect("well-formed frames") {
                all.push(Response::parse(raw).expect("a well-formed response"));
            }
        }
        all
    }

    /// The only response.
    pub(super) fn receive_one(&mut self) -> Response {
        let mut all = self.receive();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    fn check_numbers(&mut self, response: &Response) {
        let (stat_sn, uses, window) = match response {
            Response::NopIn(p) => (p.stat_sn, !p.task_tag.is_reserved(), (p.exp_cmd_sn, p.max_cmd_sn)),
            Response::Scsi(p) => (p.stat_sn, true, (p.exp_cmd_sn, p.max_cmd_sn)),
            Response::Task(p) => (p.stat_sn, true, (p.exp_cmd_sn, p.max_cmd_sn)),
            Response::Login(p) => (p.stat_sn, true, (p.exp_cmd_sn, p.max_cmd_sn)),
            Response::Text(p) => (p.stat_sn, true, (p.exp_cmd_sn, p.max_cmd_sn)),
            Response::Logout(p) => (p.stat_sn, true, (p.exp_cmd_sn, p.max_cmd_sn)),
            Response::R2t(p) => (p.stat_sn, false, (p.exp_cmd_sn, p.max_cmd_sn)),
            Response::Async(p) => (p.stat_sn, true, (p.exp_cmd_sn, p.max_cmd_sn)),
            Response::Reject(p) => (p.stat_sn, true, (p.exp_cmd_sn, p.max_cmd_sn)),
            Response::DataIn(p) => match p.status {
                Some(end) => (end.stat_sn, true, (p.exp_cmd_sn, p.max_cmd_sn)),
                None => return self.window = (p.exp_cmd_sn, p.max_cmd_sn),
            },
        };
        assert_eq!(stat_sn, self.stat_sn.unwrap_or(stat_sn), "StatSN of {response:?}");
        self.stat_sn = Some(if uses { stat_sn.next() } else { stat_sn });
        assert!(window.0.previous().is_at_or_before(window.1), "MaxCmdSN may not be below ExpCmdSN - 1");
        self.window = window;
    }

    pub(super) fn event(&mut self) -> Option<Event> {
        self.connection.poll_event()
    }

    /// The next event, a command.
    pub(super) fn command(&mut self) -> crate::target::ScsiCommand {
        match self.event() {
            Some(Event::Command(command)) => command,
            other => panic!("no command: {other:?}"),
        }
    }

    /// The tags of all commands that are delivered now, and of functions.
    pub(super) fn delivered(&mut self) -> Vec<u32> {
        std::iter::from_fn(|| self.event())
            .map(|event| match event {
                Event::Command(command) => command.tag,
                Event::TaskManagement(management) => management.tag,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    /// The number of the next command; it is used up.
    pub(super) fn number(&mut self) -> Serial32 {
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        Serial32(self.cmd_sn.wrapping_sub(1))
    }

    /// A numbered write.
    pub(super) fn write(&mut self, tag: u32, expected: u32, immediate: &[u8], is_final: bool) -> ScsiCommand {
        let cmd_sn = self.number();
        ScsiCommand {
            expected_len: expected,
            write: true,
            is_final,
            data: payload(immediate),
            ..scsi(tag, cmd_sn)
        }
    }

    /// A numbered read.
    pub(super) fn read(&mut self, tag: u32, expected: u32) -> ScsiCommand {
        let cmd_sn = self.number();
        ScsiCommand { expected_len: expected, read: true, ..scsi(tag, cmd_sn) }
    }

    /// An immediate function.
    pub(super) fn function(
        &self,
        tag: u32,
        function: TaskFunction,
        referenced: u32,
        ref_cmd_sn: u32,
    ) -> TaskRequest {
        TaskRequest {
            immediate: true,
            function,
            lun: Lun::ZERO,
            task_tag: TaskTag(tag),
            referenced_task_tag: TaskTag(referenced),
            cmd_sn: Serial32(self.cmd_sn),
            exp_stat_sn: Serial32(0),
            ref_cmd_sn: Serial32(ref_cmd_sn),
            exp_data_sn: 0,
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        if self.connection.next_timeout().is_some_and(|at| at <= self.now) {
            self.connection.on_timeout(self.now);
        }
    }
}

pub(super) fn payload(bytes: &[u8]) -> Payload {
    Bytes::copy_from_slice(bytes).into()
}

/// Bytes that differ by place.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 251 + at) as u8).collect()
}

/// A final SIMPLE command without data.
pub(super) fn scsi(tag: u32, cmd_sn: Serial32) -> ScsiCommand {
    ScsiCommand {
        immediate: false,
        is_final: true,
        read: false,
        write: false,
        attribute: TaskAttribute::SIMPLE,
        lun: Lun::ZERO,
        task_tag: TaskTag(tag),
        expected_len: 0,
        cmd_sn,
        exp_stat_sn: Serial32(0),
        cdb: Cdb::from([0x2a, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]),
        bidirectional_read_len: None,
        data: Payload::new(),
    }
}

pub(super) fn data_out(
    tag: u32,
    transfer: TransferTag,
    sn: u32,
    offset: u32,
    data: &[u8],
    last: bool,
) -> DataOut {
    DataOut {
        is_final: last,
        lun: Lun::ZERO,
        task_tag: TaskTag(tag),
        transfer_tag: transfer,
        exp_stat_sn: Serial32(0),
        data_sn: sn,
        buffer_offset: offset,
        data: payload(data),
    }
}

/// A Login Request; pairs are separated by spaces. With `next` it has the T bit.
pub(super) fn login(stage: Stage, next: Option<Stage>, pairs: &str) -> LoginRequest {
    let text =
        pairs.split(' ').filter(|pair| !pair.is_empty()).map(|pair| format!("{pair}\0")).collect::<String>();
    LoginRequest {
        transit: next.is_some(),
        continues: false,
        current_stage: stage,
        next_stage: next.unwrap_or(Stage::SECURITY),
        version_max: 0,
        version_min: 0,
        isid: ISID,
        tsih: pdu::Tsih(0),
        task_tag: TaskTag(1),
        cid: pdu::Cid(3),
        cmd_sn: Serial32(FIRST_CMD_SN),
        exp_stat_sn: Serial32(0),
        text: text.into(),
    }
}

/// The text of a response, pairs separated by spaces.
pub(super) fn words(text: &[u8]) -> String {
    String::from_utf8_lossy(text).trim_end_matches('\0').replace('\0', " ")
}
