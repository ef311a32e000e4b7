//! The session core: what callers ask for, and how it is sent.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use twinlun_block::Payload;

use super::discovery::Answer;
use super::login::Login;
use super::tasks::{Kind, Progress, Task, Tasks};
use super::{Command, Event, InitiatorConfig, InitiatorError, Submitted, Transfer};
use crate::deframer::Deframer;
use crate::encoder::Encoder;
use crate::negotiate::Parameters;
use crate::pdu::{
    DataOut, LogoutReason, LogoutRequest, Lun, NopOut, R2t, ScsiCommand, Serial32, TaskFunction, TaskRequest,
    TaskTag, TextRequest, TransferTag, Tsih,
};

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Login goes on.
    Login,
    /// Commands are welcome.
    FullFeature,
    /// Logout was sent; nothing new is taken.
    LoggingOut,
    /// Logged out, or ended by an error.
    Closed,
}

/// One session over one connection. See the module for the driver's loop.
#[derive(Debug)]
pub struct Initiator {
    pub(super) config: Rc<InitiatorConfig>,
    pub(super) phase: Phase,
    pub(super) login: Option<Box<Login>>,
    pub(super) failure: Option<InitiatorError>,
    pub(super) parameters: Parameters,
    pub(super) tsih: Tsih,
    pub(super) deframer: Deframer,
    pub(super) encoder: Encoder,
    pub(super) tasks: Tasks,
    /// Accepted commands that the window does not admit yet.
    pub(super) waiting: VecDeque<Command>,
    pub(super) events: VecDeque<Event>,
    /// Number of the next command.
    pub(super) cmd_sn: Serial32,
    /// Highest number that the target takes.
    pub(super) max_cmd_sn: Serial32,
    /// Number of the next status.
    pub(super) exp_stat_sn: Serial32,
    /// Rejected tasks that the target may still answer (RFC 7143, 11.17.1).
    pub(super) late_answers: u32,
}

/// First CmdSN of every session.
const FIRST_CMD_SN: Serial32 = Serial32(1);

impl Initiator {
    /// Starts a session; the first login request is ready to be sent.
    ///
    /// # Errors
    /// When the configuration does not fit into one login request.
    pub fn new(config: InitiatorConfig) -> Result<Self, InitiatorError> {
        let config = Rc::new(config);
        let (login, request) = Login::start(config.clone(), FIRST_CMD_SN)?;
        let mut encoder = Encoder::new();
        encoder.put(request);
        Ok(Self {
            phase: Phase::Login,
            login: Some(Box::new(login)),
            failure: None,
            parameters: Parameters::default(),
            tsih: Tsih(0),
            deframer: Deframer::new(config.receive_chunk),
            encoder,
            tasks: Tasks::new(config.max_tasks),
            waiting: VecDeque::new(),
            events: VecDeque::new(),
            cmd_sn: FIRST_CMD_SN,
            max_cmd_sn: FIRST_CMD_SN,
            exp_stat_sn: Serial32(0),
            late_answers: 0,
            config,
        })
    }

    // State.

    /// Where the session stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// What was negotiated; the defaults during login.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The target's handle of the session; 0 during login.
    pub fn tsih(&self) -> Tsih {
        self.tsih
    }

    /// Requests that are not finished, waiting ones included.
    pub fn outstanding(&self) -> usize {
        self.tasks.len() + self.waiting.len()
    }

    /// Tags of all unfinished requests: what a caller has to give up or repeat when the session has ended.
    pub fn unfinished(&self) -> impl Iterator<Item = u64> + '_ {
        let sent = self.tasks.iter().map(|(_, task)| task.tag);
        sent.chain(self.waiting.iter().map(|command| command.tag))
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Where to receive to; append, then call [`Initiator::received`].
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.deframer.buffer()
    }

    /// Whether something is to be sent.
    pub fn has_transmit(&self) -> bool {
        !self.encoder.is_empty()
    }

    /// Everything that is to be sent now, in order.
    pub fn transmit(&mut self) -> impl Iterator<Item = Bytes> + '_ {
        self.encoder.drain()
    }

    // Requests.

    fn admission(&self) -> Submitted {
        if self.phase != Phase::FullFeature {
            Submitted::NotReady
        } else if self.outstanding() >= self.tasks.max() {
            Submitted::Full
        } else {
            Submitted::Accepted
        }
    }

    /// Starts a command. It is sent as soon as the target's window admits it.
    ///
    /// # Panics
    /// When a write has 4 GiB or more.
    pub fn submit(&mut self, command: Command) -> Submitted {
        let admission = self.admission();
        if admission != Submitted::Accepted {
            return admission;
        }
        if command.immediate || (self.waiting.is_empty() && self.window_is_open()) {
            self.send_command(command);
        } else {
            self.waiting.push_back(command);
        }
        Submitted::Accepted
    }

    /// Starts a task management function on a LU (or the target). It overtakes waiting commands.
    pub fn manage_lun(&mut self, tag: u64, function: TaskFunction, lun: Lun) -> Submitted {
        self.manage(tag, function, lun, TaskTag::RESERVED, self.cmd_sn)
    }

    /// Starts a function on one command (ABORT TASK, QUERY TASK), named by the caller's tag. A command that waits for the
    /// window is taken back instead, and a tag that is unknown by now is sent as one that no task has.
    pub fn manage_task(&mut self, tag: u64, function: TaskFunction, command: u64) -> Submitted {
        if function == TaskFunction::ABORT_TASK
            && let Some(index) = self.waiting.iter().position(|waiting| waiting.tag == command)
        {
            self.waiting.remove(index);
            self.events.push_back(Event::Aborted { tag: command });
        }
        let meant = self.tasks.iter().find(|(_, task)| task.tag == command);
        let (referenced, lun, cmd_sn) = meant
            .map_or((TaskTag(0xffff_fffe), Lun::ZERO, self.cmd_sn), |(tag, task)| {
                (tag, task.lun, task.cmd_sn)
            });
        self.manage(tag, function, lun, referenced, cmd_sn)
    }

    fn manage(
        &mut self,
        tag: u64,
        function: TaskFunction,
        lun: Lun,
        referenced: TaskTag,
        ref_cmd_sn: Serial32,
    ) -> Submitted {
        let kind = Kind::Management { function, referenced };
        let task_tag = match self.begin(tag, lun, kind) {
            Ok(task_tag) => task_tag,
            Err(refused) => return refused,
        };
        self.encoder.put(TaskRequest {
            immediate: true,
            function,
            lun,
            task_tag,
            referenced_task_tag: referenced,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            ref_cmd_sn,
            exp_data_sn: 0,
        });
        Submitted::Accepted
    }

    /// Pings the target. Data beyond the target's MaxRecvDataSegmentLength is cut off.
    pub fn ping(&mut self, tag: u64, mut data: Payload) -> Submitted {
        data.truncate(self.parameters.target_max_recv as usize);
        let task_tag = match self.begin(tag, Lun::ZERO, Kind::Ping) {
            Ok(task_tag) => task_tag,
            Err(refused) => return refused,
        };
        let transfer_tag = TransferTag::RESERVED;
        self.put_nop(Lun::ZERO, task_tag, transfer_tag, data);
        Submitted::Accepted
    }

    /// Asks for targets: `All` in a discovery session, or a target's name, or nothing for the session's own target.
    pub fn send_targets(&mut self, tag: u64, which: &str) -> Submitted {
        let task_tag = match self.begin(tag, Lun::ZERO, Kind::Discovery(Answer::default())) {
            Ok(task_tag) => task_tag,
            Err(refused) => return refused,
        };
        self.put_text(Lun::ZERO, task_tag, TransferTag::RESERVED, format!("SendTargets={which}\0").into());
        Submitted::Accepted
    }

    /// Logs out. Nothing else is taken from now on; the answer is [`Event::LoggedOut`].
    pub fn logout(&mut self, tag: u64, reason: LogoutReason) -> Submitted {
        let task_tag = match self.begin(tag, Lun::ZERO, Kind::Logout) {
            Ok(task_tag) => task_tag,
            Err(refused) => return refused,
        };
        self.phase = Phase::LoggingOut;
        self.encoder.put(LogoutRequest {
            immediate: true,
            reason,
            task_tag,
            cid: self.config.cid,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
        });
        Submitted::Accepted
    }

    fn begin(&mut self, tag: u64, lun: Lun, kind: Kind) -> Result<TaskTag, Submitted> {
        match self.admission() {
            Submitted::Accepted => Ok(self.tasks.insert(Task { tag, lun, cmd_sn: self.cmd_sn, kind })),
            refused => Err(refused),
        }
    }

    // Sending.

    pub(super) fn window_is_open(&self) -> bool {
        self.cmd_sn.is_at_or_before(self.max_cmd_sn)
    }

    /// Sends what waits, as far as the window admits it.
    pub(super) fn send_waiting(&mut self) {
        while self.window_is_open()
            && let Some(command) = self.waiting.pop_front()
        {
            self.send_command(command);
        }
    }

    fn send_command(&mut self, command: Command) {
        let Command { tag, lun, cdb, transfer, attribute, immediate } = command;
        let (read_len, write) = match transfer {
            Transfer::None => (0, Payload::new()),
            Transfer::Read(len) => (len, Payload::new()),
            Transfer::Write(data) => (0, data),
        };
        let write_len = u32::try_from(write.len()).expect("submit's contract: a write has less than 4 GiB");
        let parameters = self.parameters;
        let first_burst = write_len.min(parameters.first_burst);
        let immediate_len =
            if parameters.immediate_data { first_burst.min(parameters.target_max_recv) } else { 0 };
        let unsolicited = if parameters.initial_r2t { immediate_len } else { first_burst };
        let cmd_sn = self.cmd_sn;
        if !immediate {
            self.cmd_sn = cmd_sn.next();
        }
        let data = write.slice(0, immediate_len as usize);
        let rest = (unsolicited > immediate_len)
            .then(|| write.slice(immediate_len as usize, (unsolicited - immediate_len) as usize));
        let (read, is_write) = (read_len > 0, write_len > 0);
        let progress = Progress { read_len, write, ..Progress::default() };
        let task_tag = self.tasks.insert(Task { tag, lun, cmd_sn, kind: Kind::Scsi(progress) });
        self.encoder.put(ScsiCommand {
            immediate,
            is_final: rest.is_none(),
            read,
            write: is_write,
            attribute,
            lun,
            task_tag,
            expected_len: read_len.max(write_len),
            cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            cdb,
            bidirectional_read_len: None,
            data,
        });
        if let Some(rest) = rest {
            self.send_data(lun, task_tag, TransferTag::RESERVED, immediate_len, &rest);
        }
    }

    /// Answers an R2T that was checked against the command.
    pub(super) fn send_solicited(&mut self, r2t: &R2t, data: &Payload) {
        self.send_data(r2t.lun, r2t.task_tag, r2t.transfer_tag, r2t.buffer_offset, data);
    }

    /// One sequence of Data-Out PDUs: `data` belongs at `offset`.
    fn send_data(
        &mut self,
        lun: Lun,
        task_tag: TaskTag,
        transfer_tag: TransferTag,
        offset: u32,
        data: &Payload,
    ) {
        let step = self.parameters.target_max_recv as usize;
        let mut at = 0;
        let mut data_sn = 0;
        while at < data.len() {
            let len = step.min(data.len() - at);
            self.encoder.put(DataOut {
                is_final: at + len == data.len(),
                lun: if transfer_tag.is_reserved() { Lun::ZERO } else { lun },
                task_tag,
                transfer_tag,
                exp_stat_sn: self.exp_stat_sn,
                data_sn,
                buffer_offset: offset + at as u32,
                data: data.slice(at, len),
            });
            at += len;
            data_sn += 1;
        }
    }

    pub(super) fn put_nop(&mut self, lun: Lun, task_tag: TaskTag, transfer_tag: TransferTag, data: Payload) {
        self.encoder.put(NopOut {
            immediate: true,
            lun,
            task_tag,
            transfer_tag,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            data,
        });
    }

    pub(super) fn put_text(&mut self, lun: Lun, task_tag: TaskTag, transfer_tag: TransferTag, text: Bytes) {
        self.encoder.put(TextRequest {
            immediate: true,
            is_final: true,
            continues: false,
            lun,
            task_tag,
            transfer_tag,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            text,
        });
    }
}
