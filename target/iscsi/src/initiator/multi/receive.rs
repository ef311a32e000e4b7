//! What the target sends.

use core::time::Duration;

use bytes::Bytes;

use super::link::{Arrival, LinkId, LinkPhase, Statuses};
use super::read::End;
use super::session::{Kind, MultiEvent, MultiInitiator, ScsiTask, Task};
use crate::deframer::{FrameError, FrameLimits};
use crate::initiator::login::Step;
use crate::initiator::{Completion, InitiatorError, Transfer, Violation};
use crate::pdu::{
    AsyncEvent, Bhs, DataIn, LoginResponse, LogoutResponse, LogoutResponseCode, Opcode, R2t, Reject,
    RejectReason, Residual, Response, ResponseCode, ScsiResponse, ScsiStatus, Serial32, SnackRequest,
    SnackType, TaskFunction, TaskResponse, TaskResponseCode, TaskTag, Tsih,
};

impl MultiInitiator {
    /// Takes in what was received into [`MultiInitiator::buffer`]. What cannot be mended on the connection ends it, and at error
    /// recovery level 2 only it.
    pub fn received(&mut self, id: LinkId, now: Duration) {
        self.now = self.now.max(now);
        if let Err(error) = self.take_in(id) {
            self.fail(id, Some(error));
        }
        self.send_waiting();
    }

    fn take_in(&mut self, id: LinkId) -> Result<(), InitiatorError> {
        loop {
            let recovers = self.parameters.error_recovery > 0;
            let Some(link) = self.link(id) else { return Ok(()) };
            if matches!(link.phase, LinkPhase::Lost | LinkPhase::Closed) {
                return Ok(());
            }
            let login = matches!(link.phase, LinkPhase::Login(_));
            let raw = match link.deframer.next() {
                Ok(Some(raw)) => raw,
                Ok(None) => return Ok(()),
                Err(FrameError::DataDigest { bhs }) if recovers && !login => {
                    self.on_damaged(id, bhs);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            link.progress = true;
            link.silent = 0;
            let opcode = raw.bhs.opcode();
            match Response::parse(raw)? {
                Response::Login(pdu) if login => self.on_login(id, &pdu)?,
                Response::Login(_) => return Err(Violation::Unexpected(opcode).into()),
                _ if login => return Err(Violation::Unexpected(opcode).into()),
                response => self.on_response(id, response)?,
            }
        }
    }

    fn on_login(&mut self, id: LinkId, pdu: &LoginResponse) -> Result<(), InitiatorError> {
        let leading = self.tsih == Tsih(0);
        let Some(link) = self.link(id) else { return Ok(()) };
        let LinkPhase::Login(login) = &mut link.phase else { return Ok(()) };
        match login.answer(pdu)? {
            Step::Send(request) => link.encoder.put(request),
            Step::Done { parameters, tsih } => {
                link.statuses = Statuses::new(login.exp_stat_sn());
                link.parameters = parameters;
                link.phase = LinkPhase::Open;
                link.deframer.set_limits(FrameLimits {
                    max_data: parameters.initiator_max_recv,
                    header_digest: parameters.header_digest,
                    data_digest: parameters.data_digest,
                    allow_ahs: true,
                });
                link.encoder.set_digests(parameters.header_digest, parameters.data_digest);
                if leading {
                    self.parameters = parameters;
                    self.tsih = tsih;
                    self.max_cmd_sn = self.cmd_sn.previous();
                }
                self.move_window(pdu.exp_cmd_sn, pdu.max_cmd_sn);
                self.events.push_back(MultiEvent::LinkUp(id));
                self.adopt(id);
            }
        }
        Ok(())
    }

    /// RFC 7143, 4.2.2.1: the window never shrinks, and a pair that contradicts itself is ignored. PDUs of several connections
    /// overtake each other.
    fn move_window(&mut self, exp_cmd_sn: Serial32, max_cmd_sn: Serial32) {
        if max_cmd_sn.is_before(exp_cmd_sn.previous()) || !exp_cmd_sn.is_at_or_before(self.cmd_sn) {
            return;
        }
        self.exp_cmd_sn = self.exp_cmd_sn.latest(exp_cmd_sn);
        self.max_cmd_sn = self.max_cmd_sn.latest(max_cmd_sn);
    }

    fn on_response(&mut self, id: LinkId, response: Response) -> Result<(), Violation> {
        match response {
            Response::DataIn(pdu) => self.on_data_in(id, &pdu),
            Response::Scsi(pdu) => self.on_scsi(id, pdu),
            Response::R2t(pdu) => self.on_r2t(id, &pdu),
            Response::NopIn(pdu) => {
                self.move_window(pdu.exp_cmd_sn, pdu.max_cmd_sn);
                if pdu.task_tag.is_reserved() {
                    self.sent_below(id, pdu.stat_sn);
                } else if self.is_new(id, pdu.stat_sn)? {
                    self.tasks.remove(pdu.task_tag);
                }
                if !pdu.transfer_tag.is_reserved() {
                    let cmd_sn = self.cmd_sn;
                    if let Some(link) = self.link(id) {
                        link.put_nop(pdu.lun, TaskTag::RESERVED, pdu.transfer_tag, cmd_sn);
                    }
                }
                Ok(())
            }
            Response::Task(pdu) => self.on_task(id, &pdu),
            Response::Logout(pdu) => self.on_logout(id, &pdu),
            Response::Reject(pdu) => self.on_reject(id, &pdu),
            Response::Async(pdu) => {
                self.move_window(pdu.exp_cmd_sn, pdu.max_cmd_sn);
                if self.is_new(id, pdu.stat_sn)? && pdu.event == AsyncEvent::CONNECTION_DROP {
                    // Section 7.1.4.3 b: it is as good as broken.
                    let gone = self.links.iter().find(|link| link.cid.0 == pdu.parameter1 && link.is_open());
                    if let Some(gone) = gone.map(|link| link.id).filter(|gone| *gone != id) {
                        self.fail(gone, None);
                    }
                }
                Ok(())
            }
            Response::Text(_) | Response::Login(_) => Err(Violation::Unexpected(Opcode::TEXT_RESPONSE)),
        }
    }

    /// Books a response; whether it is a new one. What is missing before it is asked for.
    fn is_new(&mut self, id: LinkId, stat_sn: Serial32) -> Result<bool, Violation> {
        let recovers = self.parameters.error_recovery > 0;
        let Some(link) = self.link(id) else { return Ok(false) };
        let expected = link.statuses.acknowledged();
        match link.statuses.arrive(stat_sn) {
            Arrival::New(None) => Ok(true),
            Arrival::New(Some(gap)) if recovers => {
                link.snack(SnackType::STATUS, TaskTag::RESERVED, gap);
                Ok(true)
            }
            Arrival::Duplicate if recovers => Ok(false),
            _ => Err(Violation::StatSn { expected, got: stat_sn }),
        }
    }

    fn sent_below(&mut self, id: LinkId, stat_sn: Serial32) {
        let recovers = self.parameters.error_recovery > 0;
        let Some(link) = self.link(id).filter(|_| recovers) else { return };
        if let Some(gap) = link.statuses.sent_below(stat_sn) {
            link.snack(SnackType::STATUS, TaskTag::RESERVED, gap);
        }
    }

    /// A command of this connection. When it waits for its reassignment, this PDU says that the target has made it.
    fn scsi(&mut self, id: LinkId, tag: TaskTag) -> Option<&mut ScsiTask> {
        match self.tasks.get(tag) {
            Some(Task { link, kind: Kind::Scsi(task), .. }) if *link == id => {
                task.orphan = false;
                Some(task)
            }
            _ => None,
        }
    }

    /// What to do with a PDU for a task that is not here: above level 0 it may be one that was sent twice.
    fn unknown(&self, tag: TaskTag, opcode: Opcode) -> Result<(), Violation> {
        if self.parameters.error_recovery > 0 { Ok(()) } else { Err(Violation::UnknownTask(tag, opcode)) }
    }

    fn on_data_in(&mut self, id: LinkId, pdu: &DataIn) -> Result<(), Violation> {
        self.move_window(pdu.exp_cmd_sn, pdu.max_cmd_sn);
        let recovers = self.parameters.error_recovery > 0;
        let tag = pdu.task_tag;
        let new_status = match &pdu.status {
            Some(end) => self.is_new(id, end.stat_sn)?,
            None => false,
        };
        let Some(task) = self.scsi(id, tag) else { return self.unknown(tag, Opcode::DATA_IN) };
        let mut holes = vec![task.read.take(pdu)?];
        if let Some(end) = pdu.status.as_ref().filter(|_| new_status) {
            holes.push(task.read.ended(End {
                stat_sn: end.stat_sn,
                response: ResponseCode::COMPLETED,
                status: end.status,
                residual: end.residual,
                sense: Bytes::new(),
                end_sn: Some(pdu.data_sn.wrapping_add(1)),
            }));
        }
        let acknowledgment = task.read.acknowledgment();
        let blocked = task.read.blocked();
        if !recovers && holes.iter().any(Option::is_some) {
            return Err(Violation::DataOrder);
        }
        if let Some(link) = self.link(id) {
            // Before anything is sent that would acknowledge the status.
            blocked.into_iter().for_each(|stat_sn| link.statuses.block(stat_sn));
            for hole in holes.into_iter().flatten() {
                link.snack(SnackType::DATA_OR_R2T, tag, hole);
            }
            if let Some((begin, transfer_tag, lun)) = acknowledgment.filter(|_| recovers) {
                let exp_stat_sn = link.statuses.acknowledged();
                link.encoder.put(SnackRequest {
                    kind: SnackType::DATA_ACK,
                    lun,
                    task_tag: TaskTag::RESERVED,
                    tag: transfer_tag.0,
                    exp_stat_sn,
                    begin,
                    length: 0,
                });
            }
        }
        self.settle(id, tag)
    }

    fn on_scsi(&mut self, id: LinkId, pdu: ScsiResponse) -> Result<(), Violation> {
        self.move_window(pdu.exp_cmd_sn, pdu.max_cmd_sn);
        if !self.is_new(id, pdu.stat_sn)? {
            return Ok(());
        }
        let tag = pdu.task_tag;
        let Some(task) = self.scsi(id, tag) else { return self.unknown(tag, Opcode::SCSI_RESPONSE) };
        let hole = task.read.ended(End {
            stat_sn: pdu.stat_sn,
            response: pdu.response,
            status: pdu.status,
            residual: pdu.residual,
            sense: pdu.sense,
            end_sn: (pdu.response == ResponseCode::COMPLETED).then_some(pdu.exp_data_sn),
        });
        let blocked = task.read.blocked();
        if let Some(link) = self.link(id) {
            blocked.into_iter().for_each(|stat_sn| link.statuses.block(stat_sn));
            if let Some(hole) = hole {
                link.snack(SnackType::DATA_OR_R2T, tag, hole);
            }
        }
        self.settle(id, tag)
    }

    /// Ends a command whose status and data are here.
    fn settle(&mut self, id: LinkId, tag: TaskTag) -> Result<(), Violation> {
        let Some(task) = self.scsi(id, tag) else { return Ok(()) };
        let (ended, complete) = (task.read.end.as_ref().map(|end| end.stat_sn), task.read.is_complete());
        let Some(stat_sn) = ended else { return Ok(()) };
        let Some(link) = self.link(id) else { return Ok(()) };
        if !complete {
            return Ok(());
        }
        link.statuses.unblock(stat_sn);
        let Some(Task { kind: Kind::Scsi(task), .. }) = self.tasks.remove(tag) else { return Ok(()) };
        let ScsiTask { command, read, .. } = *task;
        let (data, Some(end)) = read.finish() else { return Ok(()) };
        let good = end.response == ResponseCode::COMPLETED && end.status == ScsiStatus::GOOD;
        if let (true, Transfer::Read(expected)) = (good, &command.transfer) {
            let missing = if let Residual::Underflow(missing) = end.residual { missing as usize } else { 0 };
            if data.len() + missing < *expected as usize {
                return Err(Violation::DataMissing);
            }
        }
        self.events.push_back(MultiEvent::Completed(Completion {
            tag: command.tag,
            response: end.response,
            status: end.status,
            residual: end.residual,
            sense: end.sense,
            data,
        }));
        Ok(())
    }

    fn on_r2t(&mut self, id: LinkId, pdu: &R2t) -> Result<(), Violation> {
        self.move_window(pdu.exp_cmd_sn, pdu.max_cmd_sn);
        self.sent_below(id, pdu.stat_sn);
        let (recovers, max_burst) = (self.parameters.error_recovery > 0, self.parameters.max_burst);
        let tag = pdu.task_tag;
        let Some(task) = self.scsi(id, tag) else { return self.unknown(tag, Opcode::R2T) };
        let Transfer::Write(data) = &task.command.transfer else {
            return Err(Violation::Unexpected(Opcode::R2T));
        };
        let end = u64::from(pdu.buffer_offset) + u64::from(pdu.desired_len);
        let proper = (1..=max_burst).contains(&pdu.desired_len)
            && end <= data.len() as u64
            && !pdu.transfer_tag.is_reserved()
            && (recovers || pdu.r2t_sn == task.next_r2t_sn);
        if !proper {
            return Err(Violation::R2t);
        }
        if pdu.r2t_sn < task.next_r2t_sn || task.r2ts_ahead.contains(&pdu.r2t_sn) {
            return Ok(());
        }
        if pdu.r2t_sn - task.next_r2t_sn > 4096 {
            return Err(Violation::R2t);
        }
        let data = data.slice(pdu.buffer_offset as usize, pdu.desired_len as usize);
        task.r2ts_ahead.push(pdu.r2t_sn);
        while let Some(at) = task.r2ts_ahead.iter().position(|sn| *sn == task.next_r2t_sn) {
            task.r2ts_ahead.swap_remove(at);
            task.next_r2t_sn += 1;
        }
        let begin = task.next_r2t_sn.max(task.r2t_asked_to);
        let hole = (begin < pdu.r2t_sn).then(|| (begin, pdu.r2t_sn - begin));
        task.r2t_asked_to = task.r2t_asked_to.max(pdu.r2t_sn);
        if let Some(link) = self.link(id) {
            link.send_data(pdu.lun, tag, pdu.transfer_tag, pdu.buffer_offset, &data);
            if let Some(hole) = hole {
                link.snack(SnackType::DATA_OR_R2T, tag, hole);
            }
        }
        Ok(())
    }

    fn on_task(&mut self, id: LinkId, pdu: &TaskResponse) -> Result<(), Violation> {
        self.move_window(pdu.exp_cmd_sn, pdu.max_cmd_sn);
        if !self.is_new(id, pdu.stat_sn)? {
            return Ok(());
        }
        match self.tasks.remove(pdu.task_tag) {
            Some(Task { kind: Kind::Reassign { of }, .. }) => self.reassigned(id, of, pdu.response),
            Some(Task { kind: Kind::Management { tag, function, lun, .. }, cmd_sn, .. }) => {
                let all = [
                    TaskFunction::TARGET_WARM_RESET,
                    TaskFunction::TARGET_COLD_RESET,
                    TaskFunction::I_T_NEXUS_RESET,
                ];
                if pdu.response == TaskResponseCode::COMPLETE {
                    self.abort_below(cmd_sn, (!all.contains(&function)).then_some(lun));
                }
                self.events.push_back(MultiEvent::TaskManagement { tag, response: Some(pdu.response) });
            }
            Some(_) => return Err(Violation::Unexpected(Opcode::TASK_RESPONSE)),
            None => return self.unknown(pdu.task_tag, Opcode::TASK_RESPONSE),
        }
        Ok(())
    }

    /// Commands that a function has ended.
    fn abort_below(&mut self, cmd_sn: Serial32, lun: Option<crate::pdu::Lun>) {
        let covered = |task: &Task| match &task.kind {
            Kind::Scsi(scsi) => {
                task.cmd_sn.is_before(cmd_sn) && lun.is_none_or(|lun| lun == scsi.command.lun)
            }
            _ => false,
        };
        let tags: Vec<TaskTag> =
            self.tasks.iter().filter(|(_, task)| covered(task)).map(|(tag, _)| tag).collect();
        for tag in tags {
            if let Some(Task { link, kind: Kind::Scsi(task), .. }) = self.tasks.remove(tag) {
                if let (Some(end), Some(link)) = (&task.read.end, self.link(link)) {
                    link.statuses.unblock(end.stat_sn);
                }
                self.events.push_back(MultiEvent::Aborted { tag: task.command.tag });
            }
        }
    }

    fn on_logout(&mut self, id: LinkId, pdu: &LogoutResponse) -> Result<(), Violation> {
        self.move_window(pdu.exp_cmd_sn, pdu.max_cmd_sn);
        if !self.is_new(id, pdu.stat_sn)? {
            return Ok(());
        }
        let Some(Task { kind: Kind::Logout { of }, .. }) = self.tasks.remove(pdu.task_tag) else {
            return self.unknown(pdu.task_tag, Opcode::LOGOUT_RESPONSE);
        };
        let closed = pdu.response == LogoutResponseCode::CLOSED;
        for link in &mut self.links {
            if of.is_none_or(|of| of == link.id) {
                match link.phase {
                    LinkPhase::LoggingOut if !closed => link.phase = LinkPhase::Open,
                    _ if closed => link.phase = LinkPhase::Closed,
                    _ => {}
                }
            }
        }
        self.events.push_back(MultiEvent::LoggedOut { response: pdu.response });
        if of.is_none() && closed {
            self.end();
        }
        Ok(())
    }

    fn on_reject(&mut self, id: LinkId, pdu: &Reject) -> Result<(), Violation> {
        self.move_window(pdu.exp_cmd_sn, pdu.max_cmd_sn);
        if !self.is_new(id, pdu.stat_sn)? {
            return Ok(());
        }
        let tag = pdu.header.task_tag();
        let damaged = pdu.reason == RejectReason::DATA_DIGEST_ERROR;
        match pdu.header.opcode() {
            // Discarded on its way: the number is still missing at the target (section 7.2.1).
            Opcode::SCSI_COMMAND if damaged && self.scsi(id, tag).is_some() => self.send_scsi(tag),
            Opcode::SCSI_COMMAND if self.scsi(id, tag).is_some() => {
                return Err(Violation::Unexpected(Opcode::REJECT));
            }
            Opcode::TASK_REQUEST if damaged => self.send_immediate(tag),
            // The target cannot send it again: what is missing comes with a reassignment, over another connection.
            Opcode::SNACK_REQUEST if pdu.reason == RejectReason::SNACK_REJECT => {
                return Err(Violation::DataMissing);
            }
            // Of diagnostic value only (section 7.3): what is still missing is asked for again in time.
            _ => {}
        }
        Ok(())
    }

    /// A PDU whose data did not survive. Its header did, and says what to ask for.
    fn on_damaged(&mut self, id: LinkId, header: Bhs) {
        let tag = header.task_tag();
        if header.opcode() != Opcode::DATA_IN {
            return;
        }
        let hole = self.scsi(id, tag).and_then(|task| task.read.lost(header.data_sn()));
        if let (Some(hole), Some(link)) = (hole, self.link(id)) {
            link.snack(SnackType::DATA_OR_R2T, tag, hole);
        }
    }
}
