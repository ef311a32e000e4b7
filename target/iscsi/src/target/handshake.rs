//! A connection until its login is answered: bytes in, a [`SessionRequest`](super::SessionRequest) out.

use core::time::Duration;
use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::{CloseReason, ConnectionConfig, Directory, Event, LoginSubject, Tsih};
use crate::login::{Login, LoginStatus, Outcome, Reply};
use crate::negotiate::Parameters;
use crate::pdu::{self, LoginRequest, LoginResponse, Opcode, RawPdu, Serial32, Stage};
use crate::{Deframer, Encoder};

/// Size of a receive buffer in full feature phase: one receive yields many PDUs.
const CHUNK: usize = 128 << 10;

/// Bytes that may wait behind a login until the session is admitted.
const ADMISSION_LIMIT: usize = 64 << 10;

/// A connection that was just accepted, up to the last Login Response. Then it becomes a session
/// ([`Session::open`](super::Session::open)), joins one ([`Session::join`](super::Session::join)), or ends.
#[derive(Debug)]
pub struct Handshake {
    pub(super) config: ConnectionConfig,
    pub(super) deframer: Deframer,
    pub(super) out: Encoder,
    events: VecDeque<Event>,
    phase: Phase,
    pub(super) stat_sn: Serial32,
    /// CmdSN of the first request.
    pub(super) cmd_sn: Option<Serial32>,
    pub(super) now: Duration,
    deadline: Duration,
}

#[derive(Debug)]
enum Phase {
    Login(Box<Login>),
    Admission(Box<Admission>),
    Closed(CloseReason),
}

/// A login that lacks only its last answer.
#[derive(Debug)]
pub(super) struct Admission {
    request: LoginRequest,
    reply: Reply,
    pub(super) subject: LoginSubject,
    pub(super) cid: u16,
    pub(super) parameters: Parameters,
}

impl Handshake {
    /// A connection that was just accepted. `seed` comes from the system's generator, anew for every connection: CHAP challenges are
    /// derived from it. `now` is the time since the process started, as in all other calls.
    pub fn new(config: ConnectionConfig, seed: [u8; 32], now: Duration) -> Self {
        Self {
            phase: Phase::Login(Box::new(Login::new(config.portal_group, config.policy, seed))),
            deadline: now.saturating_add(config.timers.login),
            now,
            deframer: Deframer::new(CHUNK),
            out: Encoder::new(),
            events: VecDeque::new(),
            stat_sn: Serial32(1),
            cmd_sn: None,
            config,
        }
    }

    /// Where to receive into; it has room. Append only. Call [`Handshake::received`] after bytes were added.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.deframer.buffer()
    }

    /// Acts on what is in the buffer.
    pub fn received(&mut self, now: Duration, directory: &dyn Directory) {
        self.now = self.now.max(now);
        // In admission the stream waits: what the initiator sent behind its login is looked at afterwards.
        while matches!(self.phase, Phase::Login(_)) {
            match self.deframer.next() {
                Ok(Some(raw)) => self.pdu(raw, directory),
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, "bad frame in a login");
                    self.fail(CloseReason::Malformed("a frame of the login"));
                }
            }
        }
        match self.phase {
            Phase::Admission(_) if self.deframer.buffer().len() > ADMISSION_LIMIT => {
                self.fail(CloseReason::Limit("data behind a login that is not answered"));
            }
            Phase::Closed(_) => self.deframer.buffer().clear(),
            _ => {}
        }
    }

    /// Whether receiving makes sense now. It does not between [`Event::SessionReady`] and its answer; what comes then all the same
    /// is bounded.
    pub fn wants_input(&self) -> bool {
        matches!(self.phase, Phase::Login(_))
    }

    /// The next thing to act on: [`Event::SessionReady`] or [`Event::Closed`], each at most once.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Hands everything that is to be sent to `send`, in order.
    pub fn transmit(&mut self, send: impl FnMut(Bytes)) {
        self.out.drain().for_each(send);
    }

    /// Whether [`Handshake::transmit`] has anything to hand out.
    pub fn wants_transmit(&self) -> bool {
        !self.out.is_empty()
    }

    /// When [`Handshake::on_timeout`] must be called.
    pub fn next_timeout(&self) -> Option<Duration> {
        (!self.is_closing()).then_some(self.deadline)
    }

    /// Acts on a time limit that has passed.
    pub fn on_timeout(&mut self, now: Duration) {
        self.now = self.now.max(now);
        if self.now >= self.deadline {
            self.fail(CloseReason::LoginTimeout);
        }
    }

    /// Whether nothing comes of it: send what is left, then close the stream.
    pub fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closed(_))
    }

    /// Why it is over.
    pub fn reason(&self) -> Option<CloseReason> {
        if let Phase::Closed(reason) = self.phase { Some(reason) } else { None }
    }

    /// Ends it: nobody wants it any more, or the stream is gone.
    pub fn close(&mut self, reason: CloseReason) {
        self.fail(reason);
    }

    /// Answers [`Event::SessionReady`]: no session.
    pub fn refuse(&mut self, status: LoginStatus) {
        let Phase::Admission(admission) = &self.phase else { return };
        let request = admission.request.clone();
        self.refuse_login(&request, status, Bytes::new());
        self.fail(CloseReason::LoginRefused(status));
    }

    /// Takes the handshake that waits for admission out of its place, which a closed one fills.
    pub(super) fn take(&mut self) -> Option<Self> {
        self.admission()?;
        Some(std::mem::replace(
            self,
            Self {
                config: self.config.clone(),
                deframer: Deframer::new(0),
                out: Encoder::new(),
                events: VecDeque::new(),
                phase: Phase::Closed(CloseReason::Lost),
                stat_sn: self.stat_sn,
                cmd_sn: None,
                now: self.now,
                deadline: self.deadline,
            },
        ))
    }

    /// What the login has agreed on, while it waits for admission.
    pub(super) fn admission(&self) -> Option<&Admission> {
        if let Phase::Admission(admission) = &self.phase { Some(admission) } else { None }
    }

    /// Sends the last Login Response, with the session's numbers.
    pub(super) fn accept(&mut self, tsih: Tsih, exp_cmd_sn: Serial32, max_cmd_sn: Serial32) {
        let Phase::Admission(admission) = &self.phase else { return };
        let (request, reply) = (admission.request.clone(), admission.reply.clone());
        let response = self.response(&request, LoginStatus::Success, reply.text.into());
        self.out.put(LoginResponse {
            transit: reply.transit,
            current_stage: reply.current,
            next_stage: reply.next,
            tsih: pdu::Tsih(tsih.get()),
            exp_cmd_sn,
            max_cmd_sn,
            ..response
        });
        self.stat_sn = self.stat_sn.next();
    }

    fn fail(&mut self, reason: CloseReason) {
        if self.is_closing() {
            return;
        }
        tracing::debug!(%reason, "iSCSI login ends");
        self.phase = Phase::Closed(reason);
        self.events.clear();
        self.events.push_back(Event::Closed(reason));
    }

    fn pdu(&mut self, raw: RawPdu, directory: &dyn Directory) {
        let Phase::Login(machine) = &mut self.phase else { return };
        if raw.bhs.opcode() != Opcode::LOGIN_REQUEST {
            // Nobody who has not begun to log in is told anything.
            if self.cmd_sn.is_some()
                && let Ok(request) = LoginRequest::parse(RawPdu::header(raw.bhs))
            {
                self.refuse_login(&request, LoginStatus::InvalidDuringLogin, Bytes::new());
            }
            return self.fail(CloseReason::Protocol("a request other than login during login"));
        }
        let Ok(request) = LoginRequest::parse(raw) else {
            return self.fail(CloseReason::Malformed("login request"));
        };
        self.cmd_sn.get_or_insert(request.cmd_sn);
        match machine.request(&request, directory) {
            Outcome::Answer(reply) => {
                let response = self.response(&request, LoginStatus::Success, reply.text.into());
                self.out.put(LoginResponse {
                    transit: reply.transit,
                    current_stage: reply.current,
                    next_stage: if reply.transit { reply.next } else { Stage::SECURITY },
                    ..response
                });
                self.stat_sn = self.stat_sn.next();
            }
            Outcome::Refuse(status, text) => {
                self.refuse_login(&request, status, text.into());
                self.fail(CloseReason::LoginRefused(status));
            }
            Outcome::Ready(ready, reply) => {
                self.phase = Phase::Admission(Box::new(Admission {
                    request,
                    reply,
                    subject: ready.subject.clone(),
                    cid: ready.cid,
                    parameters: ready.parameters,
                }));
                self.events.push_back(Event::SessionReady(ready));
            }
        }
    }

    fn refuse_login(&mut self, request: &LoginRequest, status: LoginStatus, text: Bytes) {
        let response = self.response(request, status, text);
        self.out.put(response);
        self.stat_sn = self.stat_sn.next();
    }

    fn response(&self, request: &LoginRequest, status: LoginStatus, text: Bytes) -> LoginResponse {
        // A second connection learns the session's window when it is admitted; until then none is promised.
        let leading = request.tsih.0 == 0;
        let window = if leading { self.config.limits.queue_depth.max(1) } else { 0 };
        let exp_cmd_sn = self.cmd_sn.unwrap_or(request.cmd_sn);
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
            stat_sn: self.stat_sn,
            exp_cmd_sn,
            max_cmd_sn: exp_cmd_sn.plus(window).previous(),
            status: pdu::LoginStatus(status as u16),
            text,
        }
    }
}
