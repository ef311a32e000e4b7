//! A session: what its connections share, and what the storage processor calls.

use core::time::Duration;
use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::connection::{Connection, Connections, Phase, Ping};
use super::fence::Fence;
use super::line::Line;
use super::numbers::Numbers;
use super::recovery::PendingLogout;
use super::tags::Tags;
use super::task::Task;
use super::{
    CloseReason, ConnectionConfig, Directory, Event, Handshake, LoginSubject, ScsiCommand, SessionType, Tsih,
};
use crate::FrameError;
use crate::negotiate::Parameters;
use crate::pdu::{Bhs, RawPdu, RejectReason, Request, TransferTag};

/// Connections that a session may have under way at a time, lost ones included; beyond it a login is refused.
const SLOTS_LIMIT: usize = 256;

/// Responses that an initiator may leave unacknowledged before it is asked for a word (RFC 7143 section 7.1.4.2).
const ACKNOWLEDGE_AFTER: usize = 64;

/// One connection of a session. The number is used again after [`Session::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(pub(super) u16);

/// A target's end of an iSCSI session: bytes in, events out, answers in, bytes out. See [the module](super).
#[derive(Debug)]
pub struct Session {
    pub(super) config: ConnectionConfig,
    pub(super) subject: LoginSubject,
    pub(super) tsih: Tsih,
    /// What the leading login agreed on for the whole session.
    pub(super) parameters: Parameters,
    /// The latest time that anyone told.
    pub(super) now: Duration,
    pub(super) connections: Connections,
    pub(super) events: VecDeque<Event>,
    pub(super) numbers: Numbers,
    pub(super) tasks: Tags<Task>,
    pub(super) immediate_tasks: u32,
    pub(super) line: Line,
    pub(super) held: Vec<super::commands::Held>,
    /// Commands that wait for buffer space before their R2Ts, in order.
    pub(super) solicit: VecDeque<u32>,
    pub(super) solicited: u32,
    pub(super) next_transfer_tag: u32,
    /// Logouts that wait for tasks to end.
    pub(super) logouts: Vec<PendingLogout>,
    /// A task has ended since they were looked at.
    pub(super) logouts_due: bool,
    /// Answers to functions that wait for acknowledgments, and what waits behind them.
    pub(super) fences: VecDeque<Fence>,
    over: Option<CloseReason>,
}

impl Session {
    /// Answers [`Event::SessionReady`]: a new session under this handle, led by this connection. Commands may follow at once: what
    /// came behind the login is acted on here. `None` when the handshake does not wait for admission.
    pub fn open(
        mut handshake: Handshake,
        tsih: Tsih,
        now: Duration,
        directory: &dyn Directory,
    ) -> Option<(Self, ConnectionId)> {
        let admission = handshake.admission()?;
        let (subject, cid, parameters) = (admission.subject.clone(), admission.cid, admission.parameters);
        let config = handshake.config.clone();
        let first = handshake.cmd_sn.unwrap_or_default();
        let mut numbers = Numbers::new(config.limits.queue_depth, first);
        handshake.accept(tsih, first, numbers.announce());
        let now = handshake.now.max(now);
        let capacity = (config.limits.queue_depth + config.limits.immediate_tasks) as usize;
        let mut session = Self {
            config,
            subject,
            tsih,
            parameters,
            now,
            connections: Connections(vec![Connection::new(handshake, cid, parameters, now)]),
            events: VecDeque::new(),
            numbers,
            tasks: Tags::new(capacity),
            immediate_tasks: 0,
            line: Line::default(),
            held: Vec::new(),
            solicit: VecDeque::new(),
            solicited: 0,
            next_transfer_tag: 0,
            logouts: Vec::new(),
            logouts_due: false,
            fences: VecDeque::new(),
            over: None,
        };
        session.process(ConnectionId(0), directory);
        Some((session, ConnectionId(0)))
    }

    /// Answers [`Event::SessionReady`] of a login that names this session: one more connection. The driver has seen to it that
    /// [`Session::has_connection`] is false for its CID.
    ///
    /// # Errors
    /// The handshake back, when the session has as many connections as were negotiated, or is over.
    pub fn join(
        &mut self,
        mut handshake: Handshake,
        now: Duration,
        directory: &dyn Directory,
    ) -> Result<ConnectionId, Box<Handshake>> {
        let Some(admission) = handshake.admission() else { return Err(Box::new(handshake)) };
        let (cid, parameters) = (admission.cid, admission.parameters);
        if self.over.is_some() || !self.has_room() || self.connections.open_with_cid(cid).is_some() {
            return Err(Box::new(handshake));
        }
        self.now = self.now.max(now).max(handshake.now);
        handshake.accept(self.tsih, self.numbers.exp_cmd_sn, self.numbers.announce());
        // A connection that had this CID is logged out by the login (section 6.3.4).
        self.log_out_implicitly(cid);
        let connection = Connection::new(handshake, cid, parameters, self.now);
        let free = |c: &Connection| c.phase == Phase::Vacant && !c.attached && c.tasks == 0;
        let slot = match self.connections.0.iter().position(free) {
            Some(slot) => {
                self.connections.0[slot] = connection;
                slot
            }
            None => {
                self.connections.0.push(connection);
                self.connections.0.len() - 1
            }
        };
        let id = ConnectionId(slot as u16);
        self.reap();
        self.process(id, directory);
        Ok(id)
    }

    /// Whether one more connection may join. A session that recovers connections always has room for a second one, which may have no
    /// other purpose than to clean up after the first (section 6.3.4).
    pub fn has_room(&self) -> bool {
        let most = usize::from(self.parameters.max_connections);
        let most = if self.parameters.error_recovery == 2 { most.max(2) } else { most };
        self.connections.open().count() < most && self.connections.0.len() < SLOTS_LIMIT
    }

    /// Whether a connection with that CID is in use. [`Session::reinstate`] ends it.
    pub fn has_connection(&self, cid: u16) -> bool {
        self.connections.open_with_cid(cid).is_some()
    }

    /// The handle.
    pub fn tsih(&self) -> Tsih {
        self.tsih
    }

    /// Who with whom.
    pub fn subject(&self) -> &LoginSubject {
        &self.subject
    }

    /// What the leading login agreed on; a login that joins starts from it.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// What is in force on a connection.
    pub fn parameters_of(&self, id: ConnectionId) -> Parameters {
        self.connections.get(id).map_or(self.parameters, |connection| connection.parameters)
    }

    /// Where to receive into; it has room. Append only. Call [`Session::received`] after bytes were added.
    ///
    /// # Panics
    /// When the session never had such a connection, as in all calls with an identifier.
    pub fn buffer(&mut self, id: ConnectionId) -> &mut BytesMut {
        self.connections[id].deframer.buffer()
    }

    /// Acts on what is in the buffer.
    pub fn received(&mut self, id: ConnectionId, now: Duration, directory: &dyn Directory) {
        self.now = self.now.max(now);
        self.connections[id].last_received = self.now;
        self.process(id, directory);
        if !self.wants_input(id) {
            self.connections[id].deframer.buffer().clear();
        }
    }

    /// Whether receiving makes sense now. It does not after a logout; what comes then all the same is dropped.
    pub fn wants_input(&self, id: ConnectionId) -> bool {
        self.connections[id].is_open()
    }

    /// The next thing to act on.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether [`Session::poll_event`] has anything to give.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The command that [`Session::poll_event`] gives after `skip` other events, if it is a command and is there already.
    pub fn upcoming(&self, skip: usize) -> Option<&ScsiCommand> {
        match self.events.get(skip)? {
            Event::Command(command) => Some(command),
            _ => None,
        }
    }

    /// Hands everything that is to be sent on a connection to `send`, in order.
    pub fn transmit(&mut self, id: ConnectionId, send: impl FnMut(Bytes)) {
        if self.must_announce(id) {
            self.announce_window(id);
        }
        let connection = &mut self.connections[id];
        connection.resent = 0;
        connection.out.drain().for_each(send);
    }

    /// Whether [`Session::transmit`] has anything to hand out.
    pub fn wants_transmit(&self, id: ConnectionId) -> bool {
        !self.connections[id].out.is_empty() || self.must_announce(id)
    }

    fn must_announce(&self, id: ConnectionId) -> bool {
        self.numbers.must_announce() && self.connections[id].is_open() && self.is_normal()
    }

    /// Other connections that have something to send or are to be closed. A driver that acts for one connection wakes these.
    pub fn others_pending(&self, id: ConnectionId) -> impl Iterator<Item = ConnectionId> {
        // Nothing to look for in the usual session of one connection.
        let count = if self.connections.0.len() > 1 { usize::MAX } else { 0 };
        let pending = move |(other, connection): &(ConnectionId, &Connection)| {
            *other != id
                && connection.attached
                && (connection.closing.is_some() || !connection.out.is_empty())
        };
        self.connections.iter().take(count).filter(pending).map(|(other, _)| other)
    }

    /// When [`Session::on_timeout`] must be called next. Ask after every other call.
    pub fn next_timeout(&self) -> Option<Duration> {
        if self.over.is_some() {
            return None;
        }
        let timers = &self.config.timers;
        let of_connection = |connection: &Connection| {
            if !connection.is_open() {
                return connection.retained_until();
            }
            let data = connection.data_progress.saturating_add(timers.data);
            let data = (connection.open_sequences > 0).then_some(data);
            [self.alive_until(connection), data, connection.stall_check].into_iter().flatten().min()
        };
        let connections = self.connections.0.iter().filter_map(of_connection).min();
        [connections, self.line.deadline()].into_iter().flatten().min()
    }

    /// When silence must be broken or ends the connection.
    fn alive_until(&self, connection: &Connection) -> Option<Duration> {
        let timers = &self.config.timers;
        match connection.ping {
            Some(ping) => Some(ping.sent.saturating_add(timers.ping_timeout)),
            None if timers.ping_interval.is_zero() => None,
            None => Some(connection.last_received.saturating_add(timers.ping_interval)),
        }
    }

    /// Acts on time limits that have passed.
    pub fn on_timeout(&mut self, now: Duration) {
        self.now = self.now.max(now);
        if self.over.is_some() {
            return;
        }
        if self.line.deadline().is_some_and(|until| self.now >= until) {
            self.advance_line();
        }
        for id in self.connections.ids() {
            let connection = &self.connections[id];
            if !connection.is_open() {
                self.discard_expired(id);
                continue;
            }
            let data_until = connection.data_progress.saturating_add(self.config.timers.data);
            if connection.open_sequences > 0 && self.now >= data_until {
                self.fail(id, CloseReason::DataTimeout);
                continue;
            }
            if connection.stall_check.is_some_and(|at| self.now >= at) {
                self.recover_stalled(id);
            }
            if self.alive_until(&self.connections[id]).is_some_and(|until| self.now >= until) {
                self.check_alive(id);
            }
        }
    }

    fn check_alive(&mut self, id: ConnectionId) {
        let normal = self.is_normal();
        let connection = &mut self.connections[id];
        match connection.ping {
            // Whatever came since shows that the initiator lives, even if it ignores the ping.
            Some(ping) if connection.last_received > ping.sent => connection.ping = None,
            Some(_) => self.fail(id, CloseReason::PingTimeout),
            // Nothing but answers may be sent in a discovery session (section 7.4.3); its silence ends it.
            None if !normal => self.fail(id, CloseReason::PingTimeout),
            None => self.ask_for_word(id),
        }
    }

    /// Asks the initiator for a sign of life, which acknowledges responses as well; once at a time.
    pub(super) fn ask_for_word(&mut self, id: ConnectionId) {
        if self.connections[id].ping.is_none() && self.connections[id].is_open() {
            let tag = self.transfer_tag();
            self.connections[id].ping = Some(Ping { tag: tag.0, sent: self.now });
            self.send_ping(id, tag);
        }
    }

    /// A NOP-Out answers a ping.
    pub(super) fn pong(&mut self, id: ConnectionId, tag: u32) {
        let connection = &mut self.connections[id];
        connection.ping = connection.ping.filter(|ping| ping.tag != tag);
    }

    /// Whether nothing more is received or executed for a connection: send what is left, close the stream, then
    /// [`Session::release`] it.
    pub fn is_closing(&self, id: ConnectionId) -> bool {
        self.connections[id].closing.is_some()
    }

    /// Why a connection is closing.
    pub fn reason(&self, id: ConnectionId) -> Option<CloseReason> {
        self.connections[id].closing
    }

    /// Ends one connection: nobody wants it any more, or its stream is gone. What its session has left goes on, as far as error
    /// recovery allows. [`Session::release`] follows.
    pub fn close_connection(&mut self, id: ConnectionId, reason: CloseReason, now: Duration) {
        self.now = self.now.max(now);
        self.fail(id, reason);
    }

    /// The stream is closed, for whatever reason: the identifier may be used again.
    pub fn release(&mut self, id: ConnectionId, now: Duration) {
        self.now = self.now.max(now);
        self.fail(id, CloseReason::Lost);
        let connection = &mut self.connections[id];
        connection.attached = false;
        connection.discard_buffers();
    }

    /// Whether the session has ended. [`Event::Closed`] said so.
    pub fn is_over(&self) -> bool {
        self.over.is_some()
    }

    /// Why the session has ended.
    pub fn over(&self) -> Option<CloseReason> {
        self.over
    }

    /// Commands and functions that have no answer yet, delivered or not.
    pub fn outstanding(&self) -> usize {
        self.tasks.len()
    }

    /// Connections that carry requests.
    pub fn open_connections(&self) -> usize {
        self.connections.open().count()
    }

    /// Ends the session from this side: the next event is `Closed` with this reason.
    pub fn close(&mut self, reason: CloseReason) {
        self.end(reason);
    }

    /// Ends the session. Events that nobody has seen yet are void, but for the last.
    pub(super) fn end(&mut self, reason: CloseReason) {
        if self.over.is_some() {
            return;
        }
        tracing::debug!(%reason, "iSCSI session ends");
        self.over = Some(reason);
        for connection in &mut self.connections.0 {
            connection.closing.get_or_insert(reason);
            connection.phase = Phase::Vacant;
            connection.tasks = 0;
            connection.open_sequences = 0;
            connection.text = None;
            connection.sent = None;
        }
        self.tasks.clear();
        self.line = Line::default();
        self.held.clear();
        self.solicit.clear();
        self.solicited = 0;
        self.logouts.clear();
        self.fences.clear();
        self.events.clear();
        self.events.push_back(Event::Closed(reason));
    }

    pub(super) fn is_normal(&self) -> bool {
        self.subject.session_type == SessionType::Normal
    }

    /// Whether errors below the level of a connection are recovered (section 7.1.5).
    pub(super) fn recovers(&self) -> bool {
        self.parameters.error_recovery > 0
    }

    /// A new target transfer tag.
    pub(super) fn transfer_tag(&mut self) -> TransferTag {
        let tag = self.next_transfer_tag;
        // ffffffff is no tag.
        self.next_transfer_tag = if tag == u32::MAX - 1 { 0 } else { tag + 1 };
        TransferTag(tag)
    }

    fn process(&mut self, id: ConnectionId, directory: &dyn Directory) {
        while self.connections[id].is_open() {
            match self.connections[id].deframer.next() {
                Ok(Some(raw)) => self.pdu(id, raw, directory),
                Ok(None) => break,
                Err(error) => self.frame_error(id, &error),
            }
        }
    }

    fn pdu(&mut self, id: ConnectionId, raw: RawPdu, directory: &dyn Directory) {
        let header = raw.bhs;
        self.acknowledge(id, header);
        match Request::parse(raw) {
            Ok(request) => self.request(id, request, header, directory),
            Err(crate::pdu::ParseError::Opcode(_)) => {
                self.reject(id, RejectReason::COMMAND_NOT_SUPPORTED, header);
            }
            Err(_) => {
                // A format error ends the connection (section 7.7); the Reject says why to whoever reads traces.
                self.reject(id, RejectReason::INVALID_PDU_FIELD, header);
                self.fail(id, CloseReason::Malformed("a header has illegal contents"));
            }
        }
    }

    /// Every request says which responses have arrived (section 4.2.2.2).
    fn acknowledge(&mut self, id: ConnectionId, header: Bhs) {
        let connection = &mut self.connections[id];
        let exp_stat_sn = header.exp_stat_sn();
        if exp_stat_sn == connection.acked
            || !connection.acked.is_before(exp_stat_sn)
            || !exp_stat_sn.is_at_or_before(connection.stat_sn)
        {
            return;
        }
        connection.acked = exp_stat_sn;
        if let Some(sent) = &mut connection.sent {
            let gone = sent.acknowledge(exp_stat_sn);
            self.numbers.let_go(gone);
        }
        if !self.fences.is_empty() {
            self.clear_fences();
        }
    }

    /// Asks for acknowledgments when many are due, and everywhere when the command window suffers from it.
    pub(super) fn urge_acknowledgment(&mut self, id: ConnectionId) {
        if self.numbers.lacks_acknowledgments() {
            for other in self.connections.ids().filter(|other| *other != id) {
                if self.connections[other].has_unacknowledged() {
                    self.ask_for_word(other);
                }
            }
            return self.ask_for_word(id);
        }
        let due = self.connections[id].sent.as_ref().is_some_and(|sent| sent.len() >= ACKNOWLEDGE_AFTER);
        if due {
            self.ask_for_word(id);
        }
    }

    fn frame_error(&mut self, id: ConnectionId, error: &FrameError) {
        tracing::debug!(%error, "bad frame");
        match error {
            FrameError::DataDigest { bhs } => self.data_digest_error(id, *bhs),
            // Its length cannot be believed, and without markers nothing says where the next PDU begins (section 7.8).
            FrameError::HeaderDigest => self.fail(id, CloseReason::Malformed("header digest")),
            FrameError::DataTooLong { .. } => {
                self.fail(id, CloseReason::Malformed("data segment too long"));
            }
            FrameError::UnexpectedAhs { .. } => {
                self.fail(id, CloseReason::Malformed("additional header during login"));
            }
        }
    }

    /// Data-Out loses its data: it dooms its task, or is asked for again (section 7.8). Another PDU is rejected: above level 0 the
    /// initiator sends it once more; at level 0 nothing is recovered and the connection ends, because initiators retry after a new
    /// login at once, but a rejected command only after its timeout.
    fn data_digest_error(&mut self, id: ConnectionId, header: Bhs) {
        self.acknowledge(id, header);
        self.reject(id, RejectReason::DATA_DIGEST_ERROR, header);
        match Request::parse(RawPdu::header(header)) {
            Ok(Request::DataOut(pdu)) => {
                self.data_out(id, pdu, header, Some(header.data_len().get() as u32));
            }
            _ if self.recovers() => {}
            _ => self.fail(id, CloseReason::Malformed("data digest of a request")),
        }
    }
}
