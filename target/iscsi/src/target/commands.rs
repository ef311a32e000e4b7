//! Requests in full feature phase: numbering, and SCSI commands up to their delivery.

use twinlun_block::Payload;

use super::collect::{Bounds, Collect, Doom, Standing, Taken};
use super::connection::Connection;
use super::event::{Cdb, CloseReason, Event, ScsiCommand, TaskAttribute};
use super::line::Item;
use super::numbers::Turn;
use super::task::{Stage, Task};
use super::{Directory, SessionType};
use crate::pdu::{
    self, Bhs, DataOut, LogoutReason, LogoutResponseCode, R2t, RejectReason, Request, Serial32,
};

/// Task management functions that may be immediate beyond the limit for commands: one must always find room (section 4.2.2.1).
const SPARE_FUNCTIONS: u32 = 4;

/// Byte of a SCSI Command whose high half is the command priority (RFC 7144 section 5.1.1).
const PRIORITY: usize = 2;

/// A request whose turn has not come because earlier ones are missing: they were rejected, or the initiator skips numbers.
#[derive(Debug)]
pub(super) struct Held {
    cmd_sn: Serial32,
    /// `None`: an abort has declared the number as received (section 11.6.1 b).
    request: Option<(Request, Bhs)>,
    /// Unsolicited data of the request.
    data: Vec<(DataOut, Bhs)>,
}

impl Held {
    fn is_immediate(&self) -> bool {
        self.request.as_ref().is_some_and(|(_, header)| header.is_immediate())
    }
}

impl Connection {
    pub(super) fn request(&mut self, request: Request, header: Bhs, directory: &dyn Directory) {
        let (cmd_sn, immediate) = match &request {
            Request::DataOut(_) => {
                let Request::DataOut(pdu) = request else { return };
                return self.data_out(pdu, header, false);
            }
            // SNACK belongs to higher recovery levels, login to an earlier phase.
            Request::Snack(_) | Request::Login(_) => {
                return self.reject(RejectReason::PROTOCOL_ERROR, header);
            }
            // Without a task tag it is an answer or an acknowledgment, outside of the numbering (section 11.18.1).
            Request::NopOut(pdu) if pdu.task_tag.is_reserved() => {
                if !pdu.transfer_tag.is_reserved() {
                    self.pong(pdu.transfer_tag.0);
                }
                return;
            }
            Request::NopOut(pdu) => (pdu.cmd_sn, pdu.immediate),
            Request::ScsiCommand(pdu) => (pdu.cmd_sn, pdu.immediate),
            Request::Task(pdu) => (pdu.cmd_sn, pdu.immediate),
            Request::Text(pdu) => (pdu.cmd_sn, pdu.immediate),
            Request::Logout(pdu) => (pdu.cmd_sn, pdu.immediate),
        };
        if immediate {
            if self.admissible(&request).is_err()
                || !super::functions::must_wait(&request, self.numbers.exp_cmd_sn)
            {
                return self.immediate(request, header, directory);
            }
            if self.held.iter().filter(|held| held.is_immediate()).count() >= SPARE_FUNCTIONS as usize {
                return self.reject(RejectReason::TOO_MANY_IMMEDIATE_COMMANDS, header);
            }
            return self.held.push(Held { cmd_sn, request: Some((request, header)), data: Vec::new() });
        }
        match self.numbers.turn(cmd_sn) {
            Turn::Outside => {}
            Turn::Later => {
                if self.held.iter().all(|held| held.cmd_sn != cmd_sn || held.is_immediate()) {
                    self.held.push(Held { cmd_sn, request: Some((request, header)), data: Vec::new() });
                }
            }
            Turn::Now => {
                self.numbered(request, header, directory);
                self.release_held(directory);
            }
        }
    }

    fn immediate(&mut self, request: Request, header: Bhs, directory: &dyn Directory) {
        match self.admissible(&request) {
            Ok(()) => self.execute(request, header, directory),
            Err(reason) => self.reject(reason, header),
        }
    }

    /// Takes the next numbered request. A rejected one does not count as received (section 7.3).
    fn numbered(&mut self, request: Request, header: Bhs, directory: &dyn Directory) {
        if let Err(reason) = self.admissible(&request) {
            return self.reject(reason, header);
        }
        self.numbers.advance();
        self.execute(request, header, directory);
    }

    fn release_held(&mut self, directory: &dyn Directory) {
        while self.is_full_feature() && !self.held.is_empty() {
            let next = self.numbers.exp_cmd_sn;
            // A function covers what is numbered below its own number, so it comes before the command of that number.
            let due = |held: &&Held| held.cmd_sn == next;
            let Some(first) = self.held.iter().filter(due).max_by_key(|held| held.is_immediate()) else {
                return;
            };
            let immediate = first.is_immediate();
            let mine = |held: &Held| held.cmd_sn == next && held.is_immediate() == immediate;
            let Some(at) = self.held.iter().position(mine) else { return };
            let held = self.held.swap_remove(at);
            match held.request {
                None => self.numbers.advance(),
                Some((request, header)) if immediate => self.immediate(request, header, directory),
                Some((request, header)) => self.numbered(request, header, directory),
            }
            for (data, header) in held.data {
                self.data_out(data, header, false);
            }
        }
    }

    /// Declares a missing number as received. `false` when it is not one that may still come.
    pub(super) fn plug(&mut self, cmd_sn: Serial32, before: Serial32, directory: &dyn Directory) -> bool {
        let expected = self.numbers.exp_cmd_sn;
        let missing = expected.is_at_or_before(cmd_sn) && cmd_sn.is_before(before);
        if !missing || self.numbers.turn(cmd_sn) == Turn::Outside {
            return false;
        }
        self.held.retain(|held| held.cmd_sn != cmd_sn || held.is_immediate());
        self.held.push(Held { cmd_sn, request: None, data: Vec::new() });
        self.release_held(directory);
        true
    }

    /// What is refused without being received.
    fn admissible(&self, request: &Request) -> Result<(), RejectReason> {
        let discovery =
            self.session.as_ref().is_some_and(|s| s.subject.session_type == SessionType::Discovery);
        let limit = self.config.limits.immediate_tasks;
        match request {
            Request::ScsiCommand(_) | Request::Task(_) if discovery => {
                Err(RejectReason::COMMAND_NOT_SUPPORTED)
            }
            Request::ScsiCommand(pdu) if self.tasks.contains(pdu.task_tag.0) => {
                Err(RejectReason::TASK_IN_PROGRESS)
            }
            Request::Task(pdu) if self.tasks.contains(pdu.task_tag.0) => Err(RejectReason::TASK_IN_PROGRESS),
            Request::ScsiCommand(pdu) if pdu.immediate && self.immediate_tasks >= limit => {
                Err(RejectReason::TOO_MANY_IMMEDIATE_COMMANDS)
            }
            Request::Task(pdu) if pdu.immediate && self.immediate_tasks >= limit + SPARE_FUNCTIONS => {
                Err(RejectReason::TOO_MANY_IMMEDIATE_COMMANDS)
            }
            Request::Logout(pdu) if pdu.reason.0 > LogoutReason::RECOVERY.0 => {
                Err(RejectReason::INVALID_PDU_FIELD)
            }
            _ => Ok(()),
        }
    }

    fn execute(&mut self, request: Request, header: Bhs, directory: &dyn Directory) {
        if header.task_tag().is_reserved() {
            return self.fail(CloseReason::Malformed("a request with the reserved task tag"));
        }
        match request {
            Request::ScsiCommand(pdu) => self.scsi_command(pdu, header),
            Request::Task(pdu) => self.task_request(&pdu, directory),
            Request::NopOut(pdu) => self.echo(pdu),
            Request::Text(pdu) => self.text_request(&pdu, header, directory),
            Request::Logout(pdu) => self.logout_request(&pdu),
            Request::DataOut(_) | Request::Snack(_) | Request::Login(_) => {}
        }
    }

    fn logout_request(&mut self, pdu: &pdu::LogoutRequest) {
        let cid = self.session.as_ref().map_or(0, |session| session.cid);
        if pdu.reason == LogoutReason::RECOVERY {
            self.send_logout_response(pdu.task_tag, LogoutResponseCode::RECOVERY_NOT_SUPPORTED);
        } else if pdu.reason == LogoutReason::CLOSE_CONNECTION && pdu.cid.0 != cid {
            self.send_logout_response(pdu.task_tag, LogoutResponseCode::NO_SUCH_CID);
        } else {
            self.begin_logout(pdu.task_tag);
        }
    }

    fn scsi_command(&mut self, pdu: pdu::ScsiCommand, header: Bhs) {
        let attribute = match pdu.attribute {
            pdu::TaskAttribute::UNTAGGED | pdu::TaskAttribute::SIMPLE => TaskAttribute::Simple,
            pdu::TaskAttribute::ORDERED => TaskAttribute::Ordered,
            pdu::TaskAttribute::HEAD_OF_QUEUE => TaskAttribute::HeadOfQueue,
            pdu::TaskAttribute::ACA => TaskAttribute::Aca,
            _ => return self.fail(CloseReason::Malformed("a reserved task attribute")),
        };
        if !pdu.write && !pdu.is_final {
            return self.fail(CloseReason::Malformed("a command with neither W nor F"));
        }
        let expected_out = if pdu.write { pdu.expected_len } else { 0 };
        let expected_in = match (pdu.read, pdu.write) {
            (true, false) => pdu.expected_len,
            (true, true) => pdu.bidirectional_read_len.unwrap_or(0),
            (false, _) => 0,
        };
        let level2 = self.parameters_in_force().protocol_level >= 2;
        let tag = pdu.task_tag.0;
        let command = ScsiCommand {
            tag,
            cmd_sn: pdu.cmd_sn.0,
            immediate: pdu.immediate,
            lun: pdu.lun.0,
            cdb: Cdb::from_slice(pdu.cdb.as_slice()),
            attribute,
            priority: if level2 { header.0[PRIORITY] >> 4 } else { 0 },
            data_out: pdu.data,
            expected_out,
            expected_in,
        };
        let task = Task {
            lun: pdu.lun.0,
            immediate: pdu.immediate,
            read: pdu.read,
            write: pdu.write,
            expected_out,
            expected_in,
            reserved: 0,
            stage: Stage::Delivered,
        };
        if pdu.immediate {
            self.immediate_tasks += 1;
        } else {
            self.numbers.opened();
        }
        self.tasks.insert(tag, task);
        let bounds = self.bounds();
        let len = command.data_out.len();
        let within = len == 0 || (bounds.immediate_data && len <= bounds.first_burst as usize);
        if pdu.is_final && within && len == expected_out as usize {
            self.complete(tag, command);
        } else {
            self.collect(tag, Collect::new(Box::new(command), pdu.is_final, bounds));
        }
    }

    fn bounds(&self) -> Bounds {
        let parameters = self.parameters_in_force();
        Bounds {
            first_burst: parameters.first_burst,
            immediate_data: parameters.immediate_data,
            initial_r2t: parameters.initial_r2t,
            max_write: self.config.limits.max_write,
        }
    }

    /// A command that arrived whole.
    fn complete(&mut self, tag: u32, command: ScsiCommand) {
        let may_pass = match command.attribute {
            TaskAttribute::Ordered => self.line.items.is_empty() && self.line.ahead == 0,
            TaskAttribute::HeadOfQueue => {
                !self.line.items.iter().any(|item| matches!(item, Item::Function(..)))
            }
            TaskAttribute::Simple | TaskAttribute::Aca => self.line.items.is_empty(),
        };
        if may_pass {
            return self.events.push_back(Event::Command(command));
        }
        let ordered = command.attribute == TaskAttribute::Ordered;
        self.line.items.push_back(if ordered { Item::Ordered(tag) } else { Item::Command(tag) });
        self.set_stage(tag, Stage::Waiting(Box::new(command)));
    }

    /// A command that waits for data.
    fn collect(&mut self, tag: u32, mut collect: Collect) {
        if self.open_sequences == 0 {
            self.data_progress = self.now;
        }
        self.open_sequences += collect.open_sequences();
        let ordered = collect.command.attribute == TaskAttribute::Ordered;
        if collect.is_doomed() {
            let settled = collect.settled();
            self.set_stage(tag, Stage::Collecting(Box::new(collect)));
            if let Some(doom) = settled {
                self.end_doomed(tag, doom);
            }
            return;
        }
        if ordered || !self.line.items.is_empty() {
            collect.standing = Standing::InLine;
            self.line.items.push_back(if ordered { Item::Ordered(tag) } else { Item::Command(tag) });
        } else {
            collect.standing = Standing::Ahead;
            self.line.ahead += 1;
        }
        let wants = collect.unasked() > 0;
        self.set_stage(tag, Stage::Collecting(Box::new(collect)));
        if wants {
            self.solicit.push_back(tag);
            self.solicit();
        }
    }

    fn set_stage(&mut self, tag: u32, stage: Stage) {
        if let Some(task) = self.tasks.get_mut(tag) {
            task.stage = stage;
        }
    }

    pub(super) fn collecting(&mut self, tag: u32) -> Option<&mut Collect> {
        match &mut self.tasks.get_mut(tag)?.stage {
            Stage::Collecting(collect) => Some(collect),
            _ => None,
        }
    }

    /// Grants buffer space in order of arrival, whole commands at a time, so that no two wait for each other's rest.
    pub(super) fn solicit(&mut self) {
        while let Some(&tag) = self.solicit.front() {
            let need = self.collecting(tag).map_or(0, |collect| collect.unasked());
            if self.solicited > 0 && self.solicited.saturating_add(need) > self.config.limits.solicited {
                return;
            }
            self.solicit.pop_front();
            if let Some(collect) = self.collecting(tag) {
                collect.granted = true;
            }
            if let Some(task) = self.tasks.get_mut(tag) {
                task.reserved = need;
                self.solicited += need;
            }
            self.ask(tag);
        }
    }

    /// Sends the R2Ts that are allowed now.
    fn ask(&mut self, tag: u32) {
        let parameters = self.parameters_in_force();
        loop {
            let transfer_tag = pdu::TransferTag(self.next_transfer_tag);
            let Some(collect) = self.collecting(tag) else { return };
            let asked = collect.ask(transfer_tag, parameters.max_burst, parameters.max_outstanding_r2t);
            let Some((buffer_offset, desired_len)) = asked else { return };
            let (r2t_sn, lun) = (collect.r2t_sn, collect.command.lun);
            collect.r2t_sn += 1;
            self.transfer_tag();
            if self.open_sequences == 0 {
                self.data_progress = self.now;
            }
            self.open_sequences += 1;
            self.out.put(R2t {
                lun: pdu::Lun(lun),
                task_tag: pdu::TaskTag(tag),
                transfer_tag,
                stat_sn: self.numbers.stat_sn,
                exp_cmd_sn: self.numbers.exp_cmd_sn,
                max_cmd_sn: self.numbers.announce(),
                r2t_sn,
                buffer_offset,
                desired_len,
            });
        }
    }

    /// A Data-Out. `damaged`: its data failed the digest and is not here.
    pub(super) fn data_out(&mut self, pdu: DataOut, header: Bhs, damaged: bool) {
        let tag = pdu.task_tag.0;
        if !self.tasks.contains(tag) {
            // Of a held command, or of one that was aborted while this was under way: then it is dropped without a word.
            let mine =
                |held: &&mut Held| held.request.as_ref().is_some_and(|(_, bhs)| bhs.task_tag().0 == tag);
            if let Some(held) = self.held.iter_mut().find(mine) {
                if held.data.len() >= HELD_DATA_LIMIT {
                    return self.fail(CloseReason::Limit("data for a command before its turn"));
                }
                held.data.push((pdu, header));
            }
            return;
        }
        let now = self.now;
        let Some(collect) = self.collecting(tag) else {
            return self.reject(RejectReason::INVALID_PDU_FIELD, header);
        };
        let was_doomed = collect.is_doomed();
        let Taken::Part { ended } = collect.take(pdu, damaged) else {
            return self.reject(RejectReason::INVALID_PDU_FIELD, header);
        };
        let (complete, settled) = (collect.is_complete(), collect.settled());
        let newly_doomed = collect.is_doomed() && !was_doomed;
        self.data_progress = now;
        if ended {
            self.open_sequences -= 1;
        }
        if newly_doomed {
            self.withdraw(tag);
            self.advance_line();
        }
        if complete {
            self.collected(tag);
        } else if let Some(doom) = settled {
            self.end_doomed(tag, doom);
        } else if ended {
            self.ask(tag);
        }
    }

    /// All data of a command is there.
    fn collected(&mut self, tag: u32) {
        let Some(task) = self.tasks.get_mut(tag) else { return };
        let Stage::Collecting(collect) = std::mem::replace(&mut task.stage, Stage::Delivered) else { return };
        let Collect { command, standing, .. } = *collect;
        if standing == Standing::InLine {
            task.stage = Stage::Waiting(command);
        } else {
            self.line.ahead -= 1;
            self.events.push_back(Event::Command(*command));
        }
        self.advance_line();
    }

    /// An undelivered command will never be delivered: it stands in nobody's way any more. The caller lets the line advance.
    pub(super) fn withdraw(&mut self, tag: u32) {
        self.solicit.retain(|waiting| *waiting != tag);
        match self.tasks.get_mut(tag).map(|task| &mut task.stage) {
            Some(Stage::Collecting(collect)) => {
                match std::mem::replace(&mut collect.standing, Standing::Out) {
                    Standing::Ahead => self.line.ahead -= 1,
                    Standing::InLine => self.line.remove(tag),
                    Standing::Out => {}
                }
            }
            Some(Stage::Waiting(_)) => self.line.remove(tag),
            _ => {}
        }
    }

    /// Ends a doomed command of which nothing is under way any more.
    pub(super) fn end_doomed(&mut self, tag: u32, doom: Doom) {
        let Some(task) = self.remove_task(tag) else { return };
        match doom {
            Doom::Silent => {}
            Doom::Status(status) => self.send_response(tag, &task, super::ScsiResponse::status(status)),
            Doom::Fault(fault) => {
                let sense = bytes::Bytes::copy_from_slice(&fault.sense());
                self.send_response(tag, &task, super::ScsiResponse::check_condition(sense));
            }
        }
        self.solicit();
        self.advance_line();
    }

    /// Takes a task out; its slot in the window and its buffer space are free.
    pub(super) fn remove_task(&mut self, tag: u32) -> Option<Task> {
        let task = self.tasks.remove(tag)?;
        if task.immediate {
            self.immediate_tasks = self.immediate_tasks.saturating_sub(1);
        } else {
            self.numbers.closed();
        }
        self.solicited -= task.reserved;
        if let Stage::Collecting(collect) = &task.stage {
            self.open_sequences -= collect.open_sequences();
        }
        Some(task)
    }

    /// Lets go whoever may leave the line.
    pub(super) fn advance_line(&mut self) {
        if self.line.items.is_empty() {
            return;
        }
        self.release_functions();
        while let Some(item) = self.line.items.front().cloned() {
            let (Item::Command(tag) | Item::Ordered(tag)) = item else { return };
            let barrier = matches!(item, Item::Ordered(_));
            let Some(task) = self.tasks.get_mut(tag) else {
                self.line.items.pop_front();
                continue;
            };
            if barrier && (self.line.ahead > 0 || matches!(task.stage, Stage::Collecting(_))) {
                return;
            }
            self.line.items.pop_front();
            match std::mem::replace(&mut task.stage, Stage::Delivered) {
                Stage::Waiting(command) => self.events.push_back(Event::Command(*command)),
                Stage::Collecting(mut collect) => {
                    collect.standing = Standing::Ahead;
                    task.stage = Stage::Collecting(collect);
                    self.line.ahead += 1;
                }
                other => task.stage = other,
            }
        }
    }

    fn echo(&mut self, pdu: pdu::NopOut) {
        let mut data: Payload = pdu.data;
        data.truncate(self.parameters_in_force().initiator_max_recv as usize);
        self.send_echo(pdu.task_tag, data);
    }
}

/// Unsolicited Data-Out PDUs that may wait with a held command; a burst of 64 KiB in PDUs of 512 bytes.
const HELD_DATA_LIMIT: usize = 128;
