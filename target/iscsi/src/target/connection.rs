//! One connection of a target: its state and what the storage processor calls.

use core::time::Duration;
use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::line::Line;
use super::numbers::Numbers;
use super::tags::Tags;
use super::task::Task;
use super::text_exchange::TextExchange;
use super::{CloseReason, ConnectionConfig, Directory, Event, LoginSubject, SessionType, Tsih};
use crate::login::{Login, LoginStatus, Outcome, Reply};
use crate::negotiate::Parameters;
use crate::pdu::{
    Bhs, LoginRequest, LoginResponse, LogoutResponse, LogoutResponseCode, Opcode, RawPdu, RejectReason,
    Request, Stage, TaskTag,
};
use crate::{Deframer, Encoder, FrameError, FrameLimits};

/// Size of a receive buffer in full feature phase: one receive yields many PDUs.
const CHUNK: usize = 128 << 10;

/// Bytes that may wait behind a login until the session is admitted.
const ADMISSION_LIMIT: usize = 64 << 10;

/// A target's end of an iSCSI connection: bytes in, events out, answers in, bytes out. See [the module](super).
#[derive(Debug)]
pub struct Connection {
    pub(super) config: ConnectionConfig,
    /// The latest time that anyone told.
    pub(super) now: Duration,
    deframer: Deframer,
    pub(super) out: Encoder,
    pub(super) events: VecDeque<Event>,
    phase: Phase,
    pub(super) numbers: Numbers,
    pub(super) session: Option<Session>,
    pub(super) tasks: Tags<Task>,
    pub(super) immediate_tasks: u32,
    pub(super) line: Line,
    pub(super) held: Vec<super::commands::Held>,
    /// Commands that wait for buffer space before their R2Ts, in order.
    pub(super) solicit: VecDeque<u32>,
    pub(super) solicited: u32,
    /// Sequences of Data-Out whose end has not come, over all tasks.
    pub(super) open_sequences: u32,
    pub(super) data_progress: Duration,
    pub(super) next_transfer_tag: u32,
    pub(super) text: Option<TextExchange>,
    last_received: Duration,
    ping: Option<Ping>,
}

#[derive(Debug)]
enum Phase {
    Login { machine: Box<Login>, deadline: Duration },
    Admission { reply: Box<(LoginRequest, Reply)>, deadline: Duration },
    FullFeature,
    LoggingOut { tag: TaskTag },
    Closed,
}

/// What login made.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) subject: LoginSubject,
    pub(super) cid: u16,
    pub(super) parameters: Parameters,
}

#[derive(Clone, Copy, Debug)]
struct Ping {
    tag: u32,
    sent: Duration,
}

impl Connection {
    /// A connection that was just accepted. `seed` comes from the system's generator, anew for every connection: CHAP challenges are
    /// derived from it. `now` is the time since the process started, as in all other calls.
    pub fn new(config: ConnectionConfig, seed: [u8; 32], now: Duration) -> Self {
        let machine = Box::new(Login::new(config.portal_group, config.policy, seed));
        let deadline = now.saturating_add(config.timers.login);
        let capacity = (config.limits.queue_depth + config.limits.immediate_tasks) as usize;
        Self {
            now,
            deframer: Deframer::new(CHUNK),
            out: Encoder::new(),
            events: VecDeque::new(),
            phase: Phase::Login { machine, deadline },
            numbers: Numbers::new(config.limits.queue_depth),
            session: None,
            tasks: Tags::new(capacity),
            immediate_tasks: 0,
            line: Line::default(),
            held: Vec::new(),
            solicit: VecDeque::new(),
            solicited: 0,
            open_sequences: 0,
            data_progress: now,
            next_transfer_tag: 0,
            text: None,
            last_received: now,
            ping: None,
            config,
        }
    }

    /// Where to receive into; it has room. Append only. Call [`Connection::received`] after bytes were added.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.deframer.buffer()
    }

    /// Acts on what is in the buffer.
    pub fn received(&mut self, now: Duration, directory: &dyn Directory) {
        self.now = self.now.max(now);
        self.last_received = self.now;
        self.process(directory);
        if !self.wants_input() {
            self.bound_ignored_input();
        }
    }

    /// Whether receiving makes sense now. It does not between [`Event::SessionReady`] and its answer and after a logout; what comes
    /// then all the same is bounded or dropped.
    pub fn wants_input(&self) -> bool {
        matches!(self.phase, Phase::Login { .. } | Phase::FullFeature)
    }

    fn bound_ignored_input(&mut self) {
        let buffer = self.deframer.buffer();
        if !matches!(self.phase, Phase::Admission { .. }) {
            buffer.clear();
        } else if buffer.len() > ADMISSION_LIMIT {
            self.fail(CloseReason::Limit("data behind a login that is not answered"));
        }
    }

    /// The next thing to act on.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Hands everything that is to be sent to `send`, in order.
    pub fn transmit(&mut self, send: impl FnMut(Bytes)) {
        if self.numbers.must_announce() && self.in_normal_session() {
            self.announce_window();
        }
        self.out.drain().for_each(send);
    }

    /// Whether [`Connection::transmit`] has anything to hand out.
    pub fn wants_transmit(&self) -> bool {
        !self.out.is_empty() || (self.numbers.must_announce() && self.in_normal_session())
    }

    /// When [`Connection::on_timeout`] must be called next. Ask after every other call.
    pub fn next_timeout(&self) -> Option<Duration> {
        let timers = &self.config.timers;
        match &self.phase {
            Phase::Login { deadline, .. } | Phase::Admission { deadline, .. } => Some(*deadline),
            Phase::FullFeature => {
                let data = (self.open_sequences > 0).then(|| self.data_progress.saturating_add(timers.data));
                [self.alive_until(), data, self.line.deadline()].into_iter().flatten().min()
            }
            Phase::LoggingOut { .. } | Phase::Closed => None,
        }
    }

    /// When silence must be broken or ends the connection.
    fn alive_until(&self) -> Option<Duration> {
        let timers = &self.config.timers;
        if timers.ping_interval.is_zero() {
            return None;
        }
        Some(match self.ping {
            Some(ping) => ping.sent.saturating_add(timers.ping_timeout),
            None => self.last_received.saturating_add(timers.ping_interval),
        })
    }

    /// Acts on time limits that have passed.
    pub fn on_timeout(&mut self, now: Duration) {
        self.now = self.now.max(now);
        match &self.phase {
            Phase::Login { deadline, .. } | Phase::Admission { deadline, .. } if self.now >= *deadline => {
                self.fail(CloseReason::LoginTimeout);
            }
            Phase::FullFeature => {
                if self.line.deadline().is_some_and(|until| self.now >= until) {
                    self.advance_line();
                }
                let data_until = self.data_progress.saturating_add(self.config.timers.data);
                if self.open_sequences > 0 && self.now >= data_until {
                    self.fail(CloseReason::DataTimeout);
                } else if self.alive_until().is_some_and(|until| self.now >= until) {
                    self.check_alive();
                }
            }
            _ => {}
        }
    }

    fn check_alive(&mut self) {
        match self.ping {
            // Whatever came since shows that the initiator lives, even if it ignores the ping.
            Some(ping) if self.last_received > ping.sent => self.ping = None,
            Some(_) => self.fail(CloseReason::PingTimeout),
            // Nothing but answers may be sent in a discovery session (section 7.4.3); its silence ends it.
            None if !self.in_normal_session() => self.fail(CloseReason::PingTimeout),
            None => {
                let tag = self.transfer_tag();
                self.ping = Some(Ping { tag: tag.0, sent: self.now });
                self.send_ping(tag);
            }
        }
    }

    /// A NOP-Out answers a ping.
    pub(super) fn pong(&mut self, tag: u32) {
        self.ping = self.ping.filter(|ping| ping.tag != tag);
    }

    /// Whether nothing more is received or executed: send what is left, then close the stream.
    pub fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// What was negotiated, from full feature phase on.
    pub fn parameters(&self) -> Option<&Parameters> {
        self.session
            .as_ref()
            .filter(|_| !matches!(self.phase, Phase::Admission { .. }))
            .map(|s| &s.parameters)
    }

    /// Commands and functions that have no answer yet, delivered or not.
    pub fn outstanding(&self) -> usize {
        self.tasks.len()
    }

    /// Closes from this side: the next event is `Closed(Local)`.
    pub fn close(&mut self) {
        self.fail(CloseReason::Local);
    }

    /// Ends the connection. Events that nobody has seen yet are void, but for the last.
    pub(super) fn fail(&mut self, reason: CloseReason) {
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        tracing::debug!(%reason, "iSCSI connection ends");
        self.phase = Phase::Closed;
        self.forget_tasks();
        self.events.clear();
        self.events.push_back(Event::Closed(reason));
    }

    fn forget_tasks(&mut self) {
        self.tasks.clear();
        self.line = Line::default();
        self.held.clear();
        self.solicit.clear();
        self.open_sequences = 0;
        self.text = None;
    }

    pub(super) fn in_normal_session(&self) -> bool {
        matches!(self.phase, Phase::FullFeature)
            && self.session.as_ref().is_some_and(|s| s.subject.session_type == SessionType::Normal)
    }

    pub(super) fn parameters_in_force(&self) -> Parameters {
        self.session.as_ref().map_or_else(Parameters::default, |session| session.parameters)
    }

    /// A new target transfer tag.
    pub(super) fn transfer_tag(&mut self) -> crate::pdu::TransferTag {
        let tag = self.next_transfer_tag;
        // ffffffff is no tag.
        self.next_transfer_tag = if tag == u32::MAX - 1 { 0 } else { tag + 1 };
        crate::pdu::TransferTag(tag)
    }

    fn process(&mut self, directory: &dyn Directory) {
        // In admission the stream waits: what the initiator sent behind its login is looked at afterwards.
        while matches!(self.phase, Phase::Login { .. } | Phase::FullFeature) {
            match self.deframer.next() {
                Ok(Some(raw)) => self.pdu(raw, directory),
                Ok(None) => break,
                Err(error) => self.frame_error(&error),
            }
        }
    }

    fn pdu(&mut self, raw: RawPdu, directory: &dyn Directory) {
        if matches!(self.phase, Phase::Login { .. }) {
            return self.login_pdu(raw, directory);
        }
        let header = raw.bhs;
        match Request::parse(raw) {
            Ok(request) => self.request(request, header, directory),
            Err(crate::pdu::ParseError::Opcode(_)) => {
                self.reject(RejectReason::COMMAND_NOT_SUPPORTED, header);
            }
            Err(_) => {
                // A format error ends the connection (section 7.7); the Reject says why to whoever reads traces.
                self.reject(RejectReason::INVALID_PDU_FIELD, header);
                self.fail(CloseReason::Malformed("a header has illegal contents"));
            }
        }
    }

    fn frame_error(&mut self, error: &FrameError) {
        tracing::debug!(%error, "bad frame");
        match error {
            FrameError::DataDigest { bhs } => self.data_digest_error(*bhs),
            FrameError::HeaderDigest => self.fail(CloseReason::Malformed("header digest")),
            FrameError::DataTooLong { .. } => self.fail(CloseReason::Malformed("data segment too long")),
            FrameError::UnexpectedAhs { .. } => {
                self.fail(CloseReason::Malformed("additional header during login"));
            }
        }
    }

    /// Data-Out loses its data and dooms its task (section 7.8 b). Any other PDU is rejected, and since nothing is recovered at error
    /// recovery level 0 the connection ends: initiators retry after a new login at once, but a rejected command only after its timeout.
    fn data_digest_error(&mut self, header: Bhs) {
        self.reject(RejectReason::DATA_DIGEST_ERROR, header);
        match Request::parse(RawPdu::header(header)) {
            Ok(Request::DataOut(pdu)) => self.data_out(pdu, header, true),
            _ => self.fail(CloseReason::Malformed("data digest of a request")),
        }
    }

    fn login_pdu(&mut self, raw: RawPdu, directory: &dyn Directory) {
        let Phase::Login { machine, deadline } = &mut self.phase else { return };
        let deadline = *deadline;
        let started = self.numbers.started();
        if raw.bhs.opcode() != Opcode::LOGIN_REQUEST {
            // Nobody who has not begun to log in is told anything.
            if started {
                let template = LoginRequest::parse(RawPdu::header(raw.bhs));
                if let Ok(request) = template {
                    self.refuse_login(&request, LoginStatus::InvalidDuringLogin, Bytes::new());
                }
            }
            return self.fail(CloseReason::Protocol("a request other than login during login"));
        }
        let Ok(request) = LoginRequest::parse(raw) else {
            return self.fail(CloseReason::Malformed("login request"));
        };
        if !started {
            self.numbers.start(request.cmd_sn);
        }
        match machine.request(&request, directory) {
            Outcome::Answer(reply) => self.answer_login(&request, reply, 0),
            Outcome::Refuse(status, text) => {
                self.refuse_login(&request, status, text.into());
                self.fail(CloseReason::LoginRefused(status));
            }
            Outcome::Ready(ready, reply) => {
                self.session = Some(Session {
                    subject: ready.subject.clone(),
                    cid: ready.cid,
                    parameters: ready.parameters,
                });
                self.phase = Phase::Admission { reply: Box::new((request, reply)), deadline };
                self.events.push_back(Event::SessionReady(ready));
            }
        }
    }

    fn answer_login(&mut self, request: &LoginRequest, reply: Reply, tsih: u16) {
        let response = self.login_response(request, LoginStatus::Success, reply.text.into());
        self.out.put(LoginResponse {
            transit: reply.transit,
            current_stage: reply.current,
            next_stage: if reply.transit { reply.next } else { Stage::SECURITY },
            tsih: if tsih == 0 { request.tsih } else { crate::pdu::Tsih(tsih) },
            ..response
        });
        self.numbers.used_status();
    }

    fn refuse_login(&mut self, request: &LoginRequest, status: LoginStatus, text: Bytes) {
        let response = self.login_response(request, status, text);
        self.out.put(response);
        self.numbers.used_status();
    }

    fn login_response(&mut self, request: &LoginRequest, status: LoginStatus, text: Bytes) -> LoginResponse {
        LoginResponse {
            transit: false,
            continues: false,
            current_stage: Stage::SECURITY,
            next_stage: Stage::SECURITY,
            version_max: 0,
            version_active: 0,
            isid: request.isid,
            tsih: request.tsih,
            task_tag: request.task_tag,
            stat_sn: self.numbers.stat_sn,
            exp_cmd_sn: self.numbers.exp_cmd_sn,
            max_cmd_sn: self.numbers.announce(),
            status: crate::pdu::LoginStatus(status as u16),
            text,
        }
    }

    /// Answers [`Event::SessionReady`]: the session exists under this handle. Commands may follow at once: what came behind the
    /// login is acted on here.
    pub fn admit(&mut self, tsih: Tsih, now: Duration, directory: &dyn Directory) {
        self.now = self.now.max(now);
        let Phase::Admission { reply, .. } = &mut self.phase else { return };
        let (request, reply) = (reply.0.clone(), reply.1.clone());
        self.phase = Phase::FullFeature;
        self.answer_login(&request, reply, tsih.get());
        let parameters = self.parameters_in_force();
        self.out.set_digests(parameters.header_digest, parameters.data_digest);
        self.deframer.set_limits(FrameLimits {
            max_data: parameters.target_max_recv,
            header_digest: parameters.header_digest,
            data_digest: parameters.data_digest,
            allow_ahs: true,
        });
        self.last_received = self.now;
        self.process(directory);
    }

    /// Answers [`Event::SessionReady`]: no session.
    pub fn refuse(&mut self, status: LoginStatus) {
        let Phase::Admission { reply, .. } = &self.phase else { return };
        let request = reply.0.clone();
        self.refuse_login(&request, status, Bytes::new());
        self.fail(CloseReason::LoginRefused(status));
    }

    /// A logout was asked for: everything undelivered is gone, the delivered is the storage processor's to end.
    pub(super) fn begin_logout(&mut self, tag: TaskTag) {
        self.phase = Phase::LoggingOut { tag };
        self.forget_tasks();
        self.events.retain(|event| !matches!(event, Event::Command(_) | Event::TaskManagement(_)));
        self.events.push_back(Event::Logout);
    }

    /// Answers [`Event::Logout`]: all delivered tasks have ended and will touch nothing any more.
    pub fn finish_logout(&mut self) {
        let Phase::LoggingOut { tag } = self.phase else { return };
        self.send_logout_response(tag, LogoutResponseCode::CLOSED);
        self.fail(CloseReason::LoggedOut);
    }

    pub(super) fn send_logout_response(&mut self, tag: TaskTag, response: LogoutResponseCode) {
        let parameters = self.parameters_in_force();
        self.out.put(LogoutResponse {
            response,
            task_tag: tag,
            stat_sn: self.numbers.stat_sn,
            exp_cmd_sn: self.numbers.exp_cmd_sn,
            max_cmd_sn: self.numbers.announce(),
            time2wait: parameters.time2wait,
            time2retain: 0,
        });
        self.numbers.used_status();
    }

    pub(super) fn is_full_feature(&self) -> bool {
        matches!(self.phase, Phase::FullFeature)
    }
}
