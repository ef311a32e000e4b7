//! What callers ask for, and how it is sent.

use core::time::Duration;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use twinlun_block::Payload;

use super::link::{Link, LinkId, LinkPhase, Statuses};
use super::read::Read;
use crate::initiator::login::Login;
use crate::initiator::tasks::Tasks;
use crate::initiator::{Command, Completion, InitiatorConfig, InitiatorError, Submitted, Transfer};
use crate::negotiate::Parameters;
use crate::pdu::{
    Cid, DataOut, LogoutReason, LogoutRequest, LogoutResponseCode, Lun, NopOut, ScsiCommand, Serial32,
    SnackRequest, SnackType, TaskFunction, TaskRequest, TaskResponseCode, TaskTag, TransferTag, Tsih,
};
use crate::{Deframer, Encoder};

/// First CmdSN of every session.
const FIRST_CMD_SN: Serial32 = Serial32(1);

/// How often a session above error recovery level 0 looks for what has not come.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MultiEvent {
    /// A connection is in full feature phase.
    LinkUp(LinkId),
    /// A connection is over: close its stream. With `retry_at` its tasks wait for a login with the same CID from then on.
    LinkLost {
        /// The connection.
        id: LinkId,
        /// Its CID.
        cid: Cid,
        /// When to log in again, at error recovery level 2.
        retry_at: Option<Duration>,
        /// Why, when this side has ended it.
        error: Option<InitiatorError>,
    },
    /// A command ended.
    Completed(Completion),
    /// A command ended without status, by a function that the target has confirmed.
    Aborted {
        /// The command's tag.
        tag: u64,
    },
    /// A function ended.
    TaskManagement {
        /// The function's tag.
        tag: u64,
        /// How it went; `None` when its connection was lost with the answer.
        response: Option<TaskResponseCode>,
    },
    /// Logout was answered.
    LoggedOut {
        /// How it went.
        response: LogoutResponseCode,
    },
    /// The session is over. Commands that have no end yet get none.
    SessionLost,
}

/// One session over several connections. See the module for the driver's loop.
#[derive(Debug)]
pub struct MultiInitiator {
    pub(super) config: Rc<InitiatorConfig>,
    pub(super) now: Duration,
    pub(super) links: Vec<Link>,
    next_link: u32,
    pub(super) parameters: Parameters,
    pub(super) tsih: Tsih,
    pub(super) tasks: Tasks<Task>,
    waiting: VecDeque<Command>,
    pub(super) events: VecDeque<MultiEvent>,
    pub(super) cmd_sn: Serial32,
    /// The first number that the target has not taken.
    pub(super) exp_cmd_sn: Serial32,
    pub(super) max_cmd_sn: Serial32,
    /// What ExpCmdSN was when time was looked at last.
    pub(super) stuck_at: Option<Serial32>,
    pub(super) next_check: Option<Duration>,
    pub(super) over: bool,
    turn: usize,
}

/// A request without an end.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) cmd_sn: Serial32,
    /// The connection that it is allegiant to.
    pub(super) link: LinkId,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Scsi(Box<ScsiTask>),
    Management { tag: u64, function: TaskFunction, lun: Lun, referenced: TaskTag },
    Reassign { of: TaskTag },
    Logout { of: Option<LinkId> },
    Probe,
}

/// A command with all that is needed to send any part of it again.
#[derive(Debug)]
pub(super) struct ScsiTask {
    pub(super) command: Command,
    pub(super) read: Read,
    pub(super) next_r2t_sn: u32,
    /// R2TSN from which on holes were asked for.
    pub(super) r2t_asked_to: u32,
    /// R2Ts beyond a hole that were answered.
    pub(super) r2ts_ahead: Vec<u32>,
    /// It has lost its connection, and the target has it: it waits for TASK REASSIGN.
    pub(super) orphan: bool,
}

impl MultiInitiator {
    /// Starts a session with its leading connection; the first login request is ready to be sent.
    ///
    /// # Errors
    /// When the configuration does not fit into one login request.
    pub fn new(config: InitiatorConfig) -> Result<(Self, LinkId), InitiatorError> {
        let config = Rc::new(config);
        let (login, request) = Login::start(config.clone(), FIRST_CMD_SN)?;
        let mut encoder = Encoder::new();
        encoder.put(request);
        let id = LinkId(0);
        let lead = Link {
            id,
            cid: config.cid,
            phase: LinkPhase::Login(Box::new(login)),
            deframer: Deframer::new(config.receive_chunk),
            encoder,
            parameters: Parameters::default(),
            statuses: Statuses::default(),
            progress: false,
            silent: 0,
        };
        let session = Self {
            now: Duration::ZERO,
            links: vec![lead],
            next_link: 1,
            parameters: Parameters::default(),
            tsih: Tsih(0),
            tasks: Tasks::new(config.max_tasks),
            waiting: VecDeque::new(),
            events: VecDeque::new(),
            cmd_sn: FIRST_CMD_SN,
            exp_cmd_sn: FIRST_CMD_SN,
            max_cmd_sn: FIRST_CMD_SN.previous(),
            stuck_at: None,
            next_check: None,
            over: false,
            turn: 0,
            config,
        };
        Ok((session, id))
    }

    /// Begins the login of a further connection, or of one in place of a lost one with that CID, over a new stream.
    ///
    /// # Errors
    /// When the session has no handle yet, or the request does not fit.
    pub fn connect(&mut self, cid: Cid, now: Duration) -> Result<LinkId, InitiatorError> {
        self.now = self.now.max(now);
        let (login, request) =
            Login::join(self.config.clone(), cid, (self.tsih, &self.parameters), self.cmd_sn)?;
        let mut encoder = Encoder::new();
        encoder.put(request);
        let id = LinkId(self.next_link);
        self.next_link += 1;
        // What is over and holds no task is forgotten.
        let wanted = |link: &Link, tasks: &Tasks<Task>| {
            !matches!(link.phase, LinkPhase::Closed) || tasks.iter().any(|(_, task)| task.link == link.id)
        };
        self.links.retain(|link| wanted(link, &self.tasks));
        self.links.push(Link {
            id,
            cid,
            phase: LinkPhase::Login(Box::new(login)),
            deframer: Deframer::new(self.config.receive_chunk),
            encoder,
            parameters: self.parameters,
            statuses: Statuses::default(),
            progress: false,
            silent: 0,
        });
        Ok(id)
    }

    /// What was negotiated; the defaults during the leading login.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The target's handle of the session; 0 during the leading login.
    pub fn tsih(&self) -> Tsih {
        self.tsih
    }

    /// Connections in full feature phase.
    pub fn open_links(&self) -> usize {
        self.links.iter().filter(|link| link.is_open()).count()
    }

    /// Requests that are not finished, waiting ones included.
    pub fn outstanding(&self) -> usize {
        self.tasks.len() + self.waiting.len()
    }

    /// Whether the session has ended.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<MultiEvent> {
        self.events.pop_front()
    }

    pub(super) fn link(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.id == id)
    }

    /// Where to receive to; append, then call [`MultiInitiator::received`]. `None` when the connection is over.
    pub fn buffer(&mut self, id: LinkId) -> Option<&mut BytesMut> {
        let link = self.link(id)?;
        let live = !matches!(link.phase, LinkPhase::Lost | LinkPhase::Closed);
        live.then(|| link.deframer.buffer())
    }

    /// Whether something is to be sent on a connection.
    pub fn has_transmit(&self, id: LinkId) -> bool {
        self.links.iter().any(|link| link.id == id && !link.encoder.is_empty())
    }

    /// Everything that is to be sent now on a connection, in order.
    pub fn transmit(&mut self, id: LinkId) -> Vec<Bytes> {
        self.link(id).map(|link| link.encoder.drain().collect()).unwrap_or_default()
    }

    fn admission(&self) -> Submitted {
        if self.over || self.tsih == Tsih(0) {
            Submitted::NotReady
        } else if self.outstanding() >= self.tasks.max() {
            Submitted::Full
        } else {
            Submitted::Accepted
        }
    }

    /// Starts a command. It is sent as soon as the target's window admits it and a connection is open, and goes on over another
    /// connection when that is lost, at error recovery level 2.
    pub fn submit(&mut self, command: Command) -> Submitted {
        let admission = self.admission();
        if admission == Submitted::Accepted {
            self.waiting.push_back(command);
            self.send_waiting();
        }
        admission
    }

    /// Starts an immediate function on a LU, on any open connection.
    pub fn manage_lun(&mut self, tag: u64, function: TaskFunction, lun: Lun) -> Submitted {
        let Some(link) = self.pick() else { return Submitted::NotReady };
        match self.admission() {
            Submitted::Accepted => {}
            refused => return refused,
        }
        let kind = Kind::Management { tag, function, lun, referenced: TaskTag::RESERVED };
        let task_tag = self.tasks.insert(Task { cmd_sn: self.cmd_sn, link, kind });
        self.send_immediate(task_tag);
        Submitted::Accepted
    }

    /// Logs out: the session, or the connection with a CID, on any open connection.
    pub fn logout(&mut self, reason: LogoutReason, cid: Cid) -> Submitted {
        let of = if reason == LogoutReason::CLOSE_SESSION {
            None
        } else {
            self.links.iter().rfind(|link| link.cid == cid).map(|link| link.id)
        };
        let own = of.filter(|of| self.links.iter().any(|link| link.id == *of && link.is_open()));
        let Some(on) = own.or_else(|| self.pick()) else { return Submitted::NotReady };
        let (cmd_sn, kind) = (self.cmd_sn, Kind::Logout { of });
        let task_tag = self.tasks.insert(Task { cmd_sn, link: on, kind });
        let Some(link) = self.link(on) else { return Submitted::NotReady };
        let exp_stat_sn = link.statuses.acknowledged();
        link.encoder.put(LogoutRequest { immediate: true, reason, task_tag, cid, cmd_sn, exp_stat_sn });
        for link in &mut self.links {
            if link.is_open() && of.is_none_or(|of| of == link.id) {
                link.phase = LinkPhase::LoggingOut;
            }
        }
        self.schedule();
        Submitted::Accepted
    }

    /// The open connection whose turn it is.
    pub(super) fn pick(&mut self) -> Option<LinkId> {
        let open: Vec<LinkId> = self.links.iter().filter(|link| link.is_open()).map(|link| link.id).collect();
        self.turn = self.turn.wrapping_add(1);
        open.get(self.turn % open.len().max(1)).copied()
    }

    /// Sends what waits, as far as the window admits it.
    pub(super) fn send_waiting(&mut self) {
        while self.cmd_sn.is_at_or_before(self.max_cmd_sn) && !self.waiting.is_empty() {
            let Some(link) = self.pick() else { return };
            let Some(command) = self.waiting.pop_front() else { return };
            let cmd_sn = self.cmd_sn;
            self.cmd_sn = cmd_sn.next();
            let expected = if let Transfer::Read(len) = command.transfer { len } else { 0 };
            let task = ScsiTask {
                command,
                read: Read::new(expected),
                next_r2t_sn: 0,
                r2t_asked_to: 0,
                r2ts_ahead: Vec::new(),
                orphan: false,
            };
            let task_tag = self.tasks.insert(Task { cmd_sn, link, kind: Kind::Scsi(Box::new(task)) });
            self.send_scsi(task_tag);
        }
        self.schedule();
    }

    /// Whether commands wait for the target's window.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// When time is to be looked at.
    pub(super) fn schedule(&mut self) {
        let gap = self.links.iter().any(|link| link.is_open() && link.statuses.gap().is_some());
        if self.parameters.error_recovery > 0 && (self.tasks.len() > 0 || self.has_waiting() || gap) {
            self.next_check.get_or_insert(self.now.saturating_add(INTERVAL));
        }
    }

    /// Sends a command with its unsolicited data, for the first time or once more.
    pub(super) fn send_scsi(&mut self, task_tag: TaskTag) {
        let session = self.parameters;
        let Some(Task { cmd_sn, link, kind: Kind::Scsi(task) }) = self.tasks.get(task_tag) else { return };
        let (cmd_sn, on, command) = (*cmd_sn, *link, task.command.clone());
        let (read_len, write) = match command.transfer {
            Transfer::None => (0, Payload::new()),
            Transfer::Read(len) => (len, Payload::new()),
            Transfer::Write(data) => (0, data),
        };
        let write_len = write.len() as u32;
        let Some(link) = self.link(on) else { return };
        let first_burst = write_len.min(session.first_burst);
        let most = first_burst.min(link.parameters.target_max_recv);
        let immediate_len = if session.immediate_data { most } else { 0 };
        let unsolicited = if session.initial_r2t { immediate_len } else { first_burst };
        let is_final = unsolicited == immediate_len;
        link.encoder.put(ScsiCommand {
            immediate: false,
            is_final,
            read: read_len > 0,
            write: write_len > 0,
            attribute: command.attribute,
            lun: command.lun,
            task_tag,
            expected_len: read_len.max(write_len),
            cmd_sn,
            exp_stat_sn: link.statuses.acknowledged(),
            cdb: command.cdb,
            bidirectional_read_len: None,
            data: write.slice(0, immediate_len as usize),
        });
        if !is_final {
            let rest = write.slice(immediate_len as usize, (unsolicited - immediate_len) as usize);
            link.send_data(Lun::ZERO, task_tag, TransferTag::RESERVED, immediate_len, &rest);
        }
    }

    /// Sends an immediate request, for the first time or once more.
    pub(super) fn send_immediate(&mut self, task_tag: TaskTag) {
        let cmd_sn = self.cmd_sn;
        let Some(task) = self.tasks.get(task_tag) else { return };
        let (on, mut exp_data_sn) = (task.link, 0);
        let (function, lun, referenced_task_tag) = match task.kind {
            Kind::Management { function, lun, referenced, .. } => (function, lun, referenced),
            Kind::Reassign { of } => (TaskFunction::TASK_REASSIGN, Lun::ZERO, of),
            _ => return,
        };
        if function == TaskFunction::TASK_REASSIGN
            && let Some(Task { kind: Kind::Scsi(task), .. }) = self.tasks.get(referenced_task_tag)
        {
            exp_data_sn = task.read.next_sn().max(task.next_r2t_sn);
        }
        let Some(link) = self.link(on) else { return };
        link.encoder.put(TaskRequest {
            immediate: true,
            function,
            lun,
            task_tag,
            referenced_task_tag,
            cmd_sn,
            exp_stat_sn: link.statuses.acknowledged(),
            ref_cmd_sn: cmd_sn,
            exp_data_sn,
        });
        self.schedule();
    }

    /// Pings: the answer's StatSN shows what is missing.
    pub(super) fn probe(&mut self, on: LinkId) {
        if self.tasks.len() >= self.tasks.max() {
            return;
        }
        let cmd_sn = self.cmd_sn;
        let task_tag = self.tasks.insert(Task { cmd_sn, link: on, kind: Kind::Probe });
        if let Some(link) = self.link(on) {
            link.put_nop(Lun::ZERO, task_tag, TransferTag::RESERVED, cmd_sn);
        }
    }
}

impl Link {
    /// One sequence of Data-Out PDUs: `data` belongs at `offset`.
    pub(super) fn send_data(
        &mut self,
        lun: Lun,
        task_tag: TaskTag,
        transfer_tag: TransferTag,
        offset: u32,
        data: &Payload,
    ) {
        let step = self.parameters.target_max_recv as usize;
        let exp_stat_sn = self.statuses.acknowledged();
        for (data_sn, at) in (0..data.len()).step_by(step).enumerate() {
            let len = step.min(data.len() - at);
            self.encoder.put(DataOut {
                is_final: at + len == data.len(),
                lun,
                task_tag,
                transfer_tag,
                exp_stat_sn,
                data_sn: data_sn as u32,
                buffer_offset: offset + at as u32,
                data: data.slice(at, len),
            });
        }
    }

    pub(super) fn put_nop(
        &mut self,
        lun: Lun,
        task_tag: TaskTag,
        transfer_tag: TransferTag,
        cmd_sn: Serial32,
    ) {
        let (immediate, data) = (true, Payload::new());
        let exp_stat_sn = self.statuses.acknowledged();
        self.encoder.put(NopOut { immediate, lun, task_tag, transfer_tag, cmd_sn, exp_stat_sn, data });
    }

    /// Asks for a run of PDUs again.
    pub(super) fn snack(&mut self, kind: SnackType, task_tag: TaskTag, (begin, length): (u32, u32)) {
        let exp_stat_sn = self.statuses.acknowledged();
        let (lun, tag) = (Lun::ZERO, TransferTag::RESERVED.0);
        self.encoder.put(SnackRequest { kind, lun, task_tag, tag, exp_stat_sn, begin, length });
    }
}
