//! The session core: what the target sends.

use bytes::Bytes;
use twinlun_block::Payload;

use super::login::Step;
use super::session::{Initiator, Phase};
use super::tasks::{Kind, Progress, Task};
use super::{Completion, Event, InitiatorError, Violation};
use crate::deframer::FrameLimits;
use crate::pdu::{
    AsyncEvent, AsyncMessage, DataIn, LoginResponse, LogoutResponse, LogoutResponseCode, NopIn, Opcode, R2t,
    Reject, Residual, Response, ResponseCode, ScsiResponse, ScsiStatus, Serial32, TaskFunction, TaskResponse,
    TaskResponseCode, TaskTag, TextResponse, TransferTag,
};

impl Initiator {
    /// Takes in what was received into [`Initiator::buffer`]: events are ready, and answers to be sent, afterwards.
    ///
    /// # Errors
    /// The session is over; the connection is to be dropped.
    pub fn received(&mut self) -> Result<(), InitiatorError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.take_in().inspect_err(|failure| {
            self.failure = Some(failure.clone());
            self.phase = Phase::Closed;
        })
    }

    fn take_in(&mut self) -> Result<(), InitiatorError> {
        // A damaged data segment is fatal here too: at error recovery level 0 it cannot be asked for again.
        while let Some(raw) = self.deframer.next()? {
            let opcode = raw.bhs.opcode();
            match (self.phase, Response::parse(raw)?) {
                (Phase::Login, Response::Login(pdu)) => self.on_login(&pdu)?,
                (Phase::Login | Phase::Closed, _) | (_, Response::Login(_)) => {
                    return Err(Violation::Unexpected(opcode).into());
                }
                (_, Response::DataIn(pdu)) => self.on_data_in(pdu)?,
                (_, Response::Scsi(pdu)) => self.on_scsi_response(pdu)?,
                (_, Response::R2t(pdu)) => self.on_r2t(&pdu)?,
                (_, Response::NopIn(pdu)) => self.on_nop_in(pdu)?,
                (_, Response::Task(pdu)) => self.on_task_response(&pdu)?,
                (_, Response::Text(pdu)) => self.on_text(&pdu)?,
                (_, Response::Logout(pdu)) => self.on_logout(&pdu)?,
                (_, Response::Async(pdu)) => self.on_async(pdu)?,
                (_, Response::Reject(pdu)) => self.on_reject(&pdu)?,
            }
        }
        Ok(())
    }

    fn on_login(&mut self, pdu: &LoginResponse) -> Result<(), InitiatorError> {
        let Some(login) = &mut self.login else {
            return Err(Violation::Unexpected(Opcode::LOGIN_RESPONSE).into());
        };
        match login.answer(pdu)? {
            Step::Send(request) => self.encoder.put(request),
            Step::Done { parameters, tsih } => {
                self.exp_stat_sn = login.exp_stat_sn();
                self.login = None;
                self.parameters = parameters;
                self.tsih = tsih;
                self.phase = Phase::FullFeature;
                self.deframer.set_limits(FrameLimits {
                    max_data: parameters.initiator_max_recv,
                    header_digest: parameters.header_digest,
                    data_digest: parameters.data_digest,
                    allow_ahs: true,
                });
                self.encoder.set_digests(parameters.header_digest, parameters.data_digest);
                self.max_cmd_sn = self.cmd_sn.previous();
                self.move_window(pdu.exp_cmd_sn, pdu.max_cmd_sn);
                self.events.push_back(Event::LoggedIn);
            }
        }
        Ok(())
    }

    /// RFC 7143, 4.2.2.1: the window never shrinks, and a pair that contradicts itself is ignored.
    fn move_window(&mut self, exp_cmd_sn: Serial32, max_cmd_sn: Serial32) {
        if max_cmd_sn.is_before(exp_cmd_sn.previous()) {
            return;
        }
        self.max_cmd_sn = self.max_cmd_sn.latest(max_cmd_sn);
        if !self.waiting.is_empty() {
            self.send_waiting();
        }
    }

    /// Every status has its number, and none may be missing.
    fn take_status(&mut self, stat_sn: Serial32) -> Result<(), Violation> {
        if stat_sn != self.exp_stat_sn {
            return Err(Violation::StatSn { expected: self.exp_stat_sn, got: stat_sn });
        }
        self.exp_stat_sn = stat_sn.next();
        Ok(())
    }

    /// The end of a task. `None` when the answer is a late one to a task that was rejected.
    fn finish(&mut self, tag: TaskTag, opcode: Opcode) -> Result<Option<Task>, Violation> {
        let task = self.tasks.remove(tag);
        if task.is_none() {
            self.late_answers =
                self.late_answers.checked_sub(1).ok_or(Violation::UnknownTask(tag, opcode))?;
        }
        Ok(task)
    }

    fn on_data_in(&mut self, pdu: DataIn) -> Result<(), Violation> {
        let task =
            self.tasks.get(pdu.task_tag).ok_or(Violation::UnknownTask(pdu.task_tag, Opcode::DATA_IN))?;
        let Kind::Scsi(progress) = &mut task.kind else { return Err(Violation::Unexpected(Opcode::DATA_IN)) };
        if pdu.data_sn != progress.next_data_sn || pdu.buffer_offset as usize != progress.received.len() {
            return Err(Violation::DataOrder);
        }
        if progress.received.len() + pdu.data.len() > progress.read_len as usize {
            return Err(Violation::TooMuchData);
        }
        progress.next_data_sn = progress.next_data_sn.wrapping_add(1);
        progress.received.append(pdu.data);
        if let Some(end) = pdu.status {
            self.take_status(end.stat_sn)?;
            let task = self.tasks.remove(pdu.task_tag);
            self.complete(task, ResponseCode::COMPLETED, end.status, end.residual, Bytes::new())?;
        }
        self.move_window(pdu.exp_cmd_sn, pdu.max_cmd_sn);
        Ok(())
    }

    fn on_scsi_response(&mut self, pdu: ScsiResponse) -> Result<(), Violation> {
        self.take_status(pdu.stat_sn)?;
        let task = self.finish(pdu.task_tag, Opcode::SCSI_RESPONSE)?;
        if let Some(Task { kind: Kind::Scsi(progress), .. }) = &task {
            // Targets that do not count their Data-In PDUs say 0.
            if pdu.response == ResponseCode::COMPLETED && !matches!(pdu.exp_data_sn, 0) {
                let counted = progress.next_data_sn.wrapping_add(progress.next_r2t_sn);
                if pdu.exp_data_sn != counted {
                    return Err(Violation::DataMissing);
                }
            }
        }
        self.complete(task, pdu.response, pdu.status, pdu.residual, pdu.sense)?;
        self.move_window(pdu.exp_cmd_sn, pdu.max_cmd_sn);
        Ok(())
    }

    fn complete(
        &mut self,
        task: Option<Task>,
        response: ResponseCode,
        status: ScsiStatus,
        residual: Residual,
        sense: Bytes,
    ) -> Result<(), Violation> {
        let Some(Task { tag, kind, .. }) = task else { return Ok(()) };
        let Kind::Scsi(Progress { read_len, received, .. }) = kind else {
            return Err(Violation::Unexpected(Opcode::SCSI_RESPONSE));
        };
        if response == ResponseCode::COMPLETED && status == ScsiStatus::GOOD && read_len > 0 {
            let missing = if let Residual::Underflow(missing) = residual { missing as usize } else { 0 };
            if received.len() + missing < read_len as usize {
                return Err(Violation::DataMissing);
            }
        }
        self.events.push_back(Event::Completed(Completion {
            tag,
            response,
            status,
            residual,
            sense,
            data: received,
        }));
        Ok(())
    }

    fn on_r2t(&mut self, pdu: &R2t) -> Result<(), Violation> {
        let task = self.tasks.get(pdu.task_tag).ok_or(Violation::UnknownTask(pdu.task_tag, Opcode::R2T))?;
        let Kind::Scsi(progress) = &mut task.kind else { return Err(Violation::Unexpected(Opcode::R2T)) };
        let end = u64::from(pdu.buffer_offset) + u64::from(pdu.desired_len);
        let proper = pdu.r2t_sn == progress.next_r2t_sn
            && (1..=self.parameters.max_burst).contains(&pdu.desired_len)
            && end <= progress.write.len() as u64
            && !pdu.transfer_tag.is_reserved();
        if !proper {
            return Err(Violation::R2t);
        }
        progress.next_r2t_sn = progress.next_r2t_sn.wrapping_add(1);
        let data = progress.write.slice(pdu.buffer_offset as usize, pdu.desired_len as usize);
        self.send_solicited(pdu, &data);
        self.move_window(pdu.exp_cmd_sn, pdu.max_cmd_sn);
        Ok(())
    }

    fn on_nop_in(&mut self, pdu: NopIn) -> Result<(), Violation> {
        if !pdu.transfer_tag.is_reserved() {
            self.put_nop(pdu.lun, TaskTag::RESERVED, pdu.transfer_tag, Payload::new());
        }
        if !pdu.task_tag.is_reserved() {
            self.take_status(pdu.stat_sn)?;
            match self.finish(pdu.task_tag, Opcode::NOP_IN)? {
                Some(Task { tag, kind: Kind::Ping, .. }) => {
                    self.events.push_back(Event::Pong { tag, data: pdu.data });
                }
                Some(_) => return Err(Violation::Unexpected(Opcode::NOP_IN)),
                None => {}
            }
        }
        self.move_window(pdu.exp_cmd_sn, pdu.max_cmd_sn);
        Ok(())
    }

    fn on_task_response(&mut self, pdu: &TaskResponse) -> Result<(), Violation> {
        self.take_status(pdu.stat_sn)?;
        match self.finish(pdu.task_tag, Opcode::TASK_RESPONSE)? {
            Some(Task { tag, lun, cmd_sn, kind: Kind::Management { function, referenced } }) => {
                if matches!(pdu.response, TaskResponseCode::COMPLETE | TaskResponseCode::NO_SUCH_TASK) {
                    let covered =
                        |task: &Task| task.cmd_sn.is_before(cmd_sn) && matches!(task.kind, Kind::Scsi(_));
                    self.abort_where(|task_tag, task| match function {
                        TaskFunction::ABORT_TASK => task_tag == referenced,
                        TaskFunction::ABORT_TASK_SET
                        | TaskFunction::CLEAR_TASK_SET
                        | TaskFunction::LOGICAL_UNIT_RESET => task.lun == lun && covered(task),
                        TaskFunction::TARGET_WARM_RESET
                        | TaskFunction::TARGET_COLD_RESET
                        | TaskFunction::I_T_NEXUS_RESET => covered(task),
                        _ => false,
                    });
                }
                self.events.push_back(Event::TaskManagement { tag, response: pdu.response });
            }
            Some(_) => return Err(Violation::Unexpected(Opcode::TASK_RESPONSE)),
            None => {}
        }
        self.move_window(pdu.exp_cmd_sn, pdu.max_cmd_sn);
        Ok(())
    }

    fn abort_where(&mut self, meant: impl Fn(TaskTag, &Task) -> bool) {
        let tags: Vec<TaskTag> =
            self.tasks.iter().filter(|(tag, task)| meant(*tag, task)).map(|(tag, _)| tag).collect();
        for tag in tags {
            if let Some(task) = self.tasks.remove(tag) {
                self.events.push_back(Event::Aborted { tag: task.tag });
            }
        }
    }

    fn on_text(&mut self, pdu: &TextResponse) -> Result<(), Violation> {
        self.take_status(pdu.stat_sn)?;
        let task = self
            .tasks
            .get(pdu.task_tag)
            .ok_or(Violation::UnknownTask(pdu.task_tag, Opcode::TEXT_RESPONSE))?;
        let tag = task.tag;
        let Kind::Discovery(answer) = &mut task.kind else {
            return Err(Violation::Unexpected(Opcode::TEXT_RESPONSE));
        };
        // An answer that neither grows nor ends would go on for ever.
        let goes_on = pdu.continues || !pdu.is_final;
        if goes_on && (pdu.transfer_tag.is_reserved() || pdu.text.is_empty()) {
            return Err(Violation::Text);
        }
        answer.push(&pdu.text).ok_or(Violation::Text)?;
        if goes_on {
            self.put_text(pdu.lun, pdu.task_tag, pdu.transfer_tag, Bytes::new());
        } else {
            let targets = answer.targets().ok_or(Violation::Text)?;
            self.tasks.remove(pdu.task_tag);
            self.events.push_back(Event::Targets { tag, targets });
        }
        self.move_window(pdu.exp_cmd_sn, pdu.max_cmd_sn);
        Ok(())
    }

    fn on_logout(&mut self, pdu: &LogoutResponse) -> Result<(), Violation> {
        self.take_status(pdu.stat_sn)?;
        match self.finish(pdu.task_tag, Opcode::LOGOUT_RESPONSE)? {
            Some(Task { kind: Kind::Logout, .. }) => {
                self.phase = if pdu.response == LogoutResponseCode::CLOSED {
                    Phase::Closed
                } else {
                    Phase::FullFeature
                };
                self.events.push_back(Event::LoggedOut { response: pdu.response });
                Ok(())
            }
            _ => Err(Violation::Unexpected(Opcode::LOGOUT_RESPONSE)),
        }
    }

    fn on_async(&mut self, pdu: AsyncMessage) -> Result<(), Violation> {
        self.take_status(pdu.stat_sn)?;
        if pdu.event == AsyncEvent::TASK_TERMINATION {
            // RFC 7143, 11.9.1: the acknowledgment goes out at once, with the LUN.
            self.put_nop(pdu.lun, TaskTag::RESERVED, TransferTag::RESERVED, Payload::new());
        }
        self.move_window(pdu.exp_cmd_sn, pdu.max_cmd_sn);
        self.events.push_back(Event::Async(pdu));
        Ok(())
    }

    fn on_reject(&mut self, pdu: &Reject) -> Result<(), Violation> {
        self.take_status(pdu.stat_sn)?;
        // A Data-Out that is rejected leaves its command to be answered; the other requests are over.
        let ends = !matches!(pdu.header.opcode(), Opcode::DATA_OUT | Opcode::SNACK_REQUEST);
        let task = if ends { self.tasks.remove(pdu.header.task_tag()) } else { None };
        if let Some(task) = &task {
            if matches!(task.kind, Kind::Scsi(_)) {
                self.late_answers += 1;
            }
            if matches!(task.kind, Kind::Logout) {
                self.phase = Phase::FullFeature;
            }
        }
        let tag = task.map(|task| task.tag);
        self.move_window(pdu.exp_cmd_sn, pdu.max_cmd_sn);
        self.events.push_back(Event::Rejected { tag, reason: pdu.reason, header: pdu.header });
        Ok(())
    }
}
