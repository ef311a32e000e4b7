//! Requests in full feature phase: numbering, and SCSI commands up to their delivery.

use twinlun_block::Payload;

use super::collect::{Bounds, Collect, Doom, Standing, Taken};
use super::event::{Cdb, CloseReason, Event, ScsiCommand, TaskAttribute};
use super::line::Item;
use super::numbers::Turn;
use super::session::{ConnectionId, Session};
use super::task::{Order, Stage, Task};
use super::{Directory, SessionType};
use crate::pdu::{self, Bhs, DataOut, LogoutReason, RejectReason, Request, Serial32};

/// Task management functions that may be immediate beyond the limit for commands: one must always find room (section 4.2.2.1).
const SPARE_FUNCTIONS: u32 = 4;

/// Byte of a SCSI Command whose high half is the command priority (RFC 7144 section 5.1.1).
const PRIORITY: usize = 2;

/// A request whose turn has not come because earlier ones are missing: they were rejected, or the initiator skips numbers.
#[derive(Debug)]
pub(super) struct Held {
    /// Where it came; an aborted number came nowhere.
    pub(super) on: Option<ConnectionId>,
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

impl Session {
    pub(super) fn request(
        &mut self,
        on: ConnectionId,
        request: Request,
        header: Bhs,
        directory: &dyn Directory,
    ) {
        let (cmd_sn, immediate) = match &request {
            Request::DataOut(_) => {
                let Request::DataOut(pdu) = request else { return };
                return self.data_out(on, pdu, header, None);
            }
            Request::Snack(pdu) if self.recovers() => return self.snack(on, pdu, header),
            // SNACK belongs to higher recovery levels, login to an earlier phase.
            Request::Snack(_) | Request::Login(_) => {
                return self.reject(on, RejectReason::PROTOCOL_ERROR, header);
            }
            // Without a task tag it is an answer or an acknowledgment, outside of the numbering (section 11.18.1).
            Request::NopOut(pdu) if pdu.task_tag.is_reserved() => {
                if !pdu.transfer_tag.is_reserved() {
                    self.pong(on, pdu.transfer_tag.0);
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
                return self.immediate(on, request, header, directory);
            }
            if self.held.iter().filter(|held| held.is_immediate()).count() >= SPARE_FUNCTIONS as usize {
                return self.reject(on, RejectReason::TOO_MANY_IMMEDIATE_COMMANDS, header);
            }
            return self.hold(on, cmd_sn, request, header);
        }
        match self.numbers.turn(cmd_sn) {
            // A command that is sent once more although it has arrived is one of these (section 7.2.1).
            Turn::Outside => {}
            Turn::Later => {
                if self.held.iter().all(|held| held.cmd_sn != cmd_sn || held.is_immediate()) {
                    self.hold(on, cmd_sn, request, header);
                }
            }
            Turn::Now => {
                self.numbered(on, request, header, directory);
                self.release_held(directory);
            }
        }
    }

    fn hold(&mut self, on: ConnectionId, cmd_sn: Serial32, request: Request, header: Bhs) {
        self.held.push(Held { on: Some(on), cmd_sn, request: Some((request, header)), data: Vec::new() });
    }

    fn immediate(&mut self, on: ConnectionId, request: Request, header: Bhs, directory: &dyn Directory) {
        match self.admissible(&request) {
            Ok(()) => self.execute(on, request, header, directory),
            Err(reason) => self.reject(on, reason, header),
        }
    }

    /// Takes the next numbered request. A rejected one does not count as received (section 7.3).
    fn numbered(&mut self, on: ConnectionId, request: Request, header: Bhs, directory: &dyn Directory) {
        if let Err(reason) = self.admissible(&request) {
            return self.reject(on, reason, header);
        }
        self.numbers.advance();
        self.execute(on, request, header, directory);
    }

    /// Takes the requests whose turn has come, whatever connection they came by.
    fn release_held(&mut self, directory: &dyn Directory) {
        while !self.held.is_empty() {
            let next = self.numbers.exp_cmd_sn;
            // A function covers what is numbered below its own number, so it comes before the command of that number.
            let due = |held: &&Held| held.cmd_sn == next;
            let Some(first) = self.held.iter().filter(due).max_by_key(|held| held.is_immediate()) else {
                return;
            };
            let immediate = first.is_immediate();
            let mine = |held: &Held| held.cmd_sn == next && held.is_immediate() == immediate;
            let Some(at) = self.held.iter().position(mine) else { return };
            let Held { on, request, data, .. } = self.held.swap_remove(at);
            match (request, on) {
                (Some((request, header)), Some(on)) if immediate => {
                    self.immediate(on, request, header, directory);
                }
                (Some((request, header)), Some(on)) => self.numbered(on, request, header, directory),
                _ => self.numbers.advance(),
            }
            for (data, header) in data {
                if let Some(on) = on {
                    self.data_out(on, data, header, None);
                }
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
        self.held.push(Held { on: None, cmd_sn, request: None, data: Vec::new() });
        self.release_held(directory);
        true
    }

    /// What is refused without being received.
    fn admissible(&self, request: &Request) -> Result<(), RejectReason> {
        let discovery = self.subject.session_type == SessionType::Discovery;
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

    fn execute(&mut self, on: ConnectionId, request: Request, header: Bhs, directory: &dyn Directory) {
        if header.task_tag().is_reserved() {
            return self.fail(on, CloseReason::Malformed("a request with the reserved task tag"));
        }
        match request {
            Request::ScsiCommand(pdu) => self.scsi_command(on, pdu, header),
            Request::Task(pdu) => self.task_request(on, &pdu, directory),
            Request::NopOut(pdu) => self.echo(on, pdu),
            Request::Text(pdu) => self.text_request(on, &pdu, header, directory),
            Request::Logout(pdu) => self.logout_request(on, &pdu),
            Request::DataOut(_) | Request::Snack(_) | Request::Login(_) => {}
        }
    }

    fn scsi_command(&mut self, on: ConnectionId, pdu: pdu::ScsiCommand, header: Bhs) {
        let attribute = match pdu.attribute {
            pdu::TaskAttribute::UNTAGGED | pdu::TaskAttribute::SIMPLE => TaskAttribute::Simple,
            pdu::TaskAttribute::ORDERED => TaskAttribute::Ordered,
            pdu::TaskAttribute::HEAD_OF_QUEUE => TaskAttribute::HeadOfQueue,
            pdu::TaskAttribute::ACA => TaskAttribute::Aca,
            _ => return self.fail(on, CloseReason::Malformed("a reserved task attribute")),
        };
        if !pdu.write && !pdu.is_final {
            return self.fail(on, CloseReason::Malformed("a command with neither W nor F"));
        }
        let expected_out = if pdu.write { pdu.expected_len } else { 0 };
        let expected_in = match (pdu.read, pdu.write) {
            (true, false) => pdu.expected_len,
            (true, true) => pdu.bidirectional_read_len.unwrap_or(0),
            (false, _) => 0,
        };
        let level2 = self.parameters.protocol_level >= 2;
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
            connection: on,
            lun: pdu.lun.0,
            immediate: pdu.immediate,
            read: pdu.read,
            write: pdu.write,
            expected_out,
            expected_in,
            order: if self.parameters.response_fence { Order::of(&command.cdb) } else { Order::default() },
            reserved: 0,
            stage: Stage::Delivered,
        };
        if pdu.immediate {
            self.immediate_tasks += 1;
        } else {
            self.numbers.opened();
        }
        self.enter_task(tag, task);
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
        let parameters = &self.parameters;
        Bounds {
            first_burst: parameters.first_burst,
            immediate_data: parameters.immediate_data,
            initial_r2t: parameters.initial_r2t,
            max_write: self.config.limits.max_write,
            recovers: self.recovers(),
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

    /// Enters a task under its connection.
    pub(super) fn enter_task(&mut self, tag: u32, task: Task) {
        let connection = &mut self.connections[task.connection];
        connection.tasks += 1;
        // A tag that is used again says that its last answer has arrived, even when the number that says so is still under way.
        let replaced = connection.sent.as_mut().and_then(|sent| sent.take_answer(tag));
        self.numbers.let_go(u32::from(replaced.is_some_and(|answer| answer.numbered)));
        self.tasks.insert(tag, task);
    }

    /// A command that waits for data.
    fn collect(&mut self, tag: u32, mut collect: Collect) {
        let on = self.tasks.get(tag).map(|task| task.connection);
        if let Some(on) = on {
            self.sequences_opened(on, collect.open_sequences());
        }
        collect.progress = self.now;
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

    /// The initiator owes the end of so many sequences more.
    pub(super) fn sequences_opened(&mut self, on: ConnectionId, count: u32) {
        if count == 0 {
            return;
        }
        let (now, stall) = (self.now, self.config.timers.sequence);
        let recovers = self.recovers();
        let connection = &mut self.connections[on];
        if connection.open_sequences == 0 {
            connection.data_progress = now;
        }
        connection.open_sequences += count;
        if recovers && connection.stall_check.is_none() {
            connection.stall_check = Some(now.saturating_add(stall));
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
    pub(super) fn ask(&mut self, tag: u32) {
        let Some(on) = self.tasks.get(tag).map(|task| task.connection) else { return };
        if !self.connections[on].is_open() {
            return;
        }
        let (max_burst, most) = (self.parameters.max_burst, self.outstanding_r2ts());
        loop {
            let transfer_tag = pdu::TransferTag(self.next_transfer_tag);
            let Some(collect) = self.collecting(tag) else { return };
            let Some(asked) = collect.ask(transfer_tag, max_burst, most) else { return };
            let lun = collect.command.lun;
            self.transfer_tag();
            self.sequences_opened(on, 1);
            self.send_r2t(on, tag, lun, asked);
        }
    }

    /// R2Ts that a command may have under way: one where only the last may be asked for again (section 13.19).
    fn outstanding_r2ts(&self) -> u16 {
        if self.recovers() && self.parameters.data_sequence_in_order {
            1
        } else {
            self.parameters.max_outstanding_r2t
        }
    }

    /// A Data-Out. `lost`: its data failed the digest and is not here; so many bytes.
    pub(super) fn data_out(&mut self, on: ConnectionId, pdu: DataOut, header: Bhs, lost: Option<u32>) {
        let tag = pdu.task_tag.0;
        let Some(task) = self.tasks.get(tag) else {
            // Of a held command, or of one that was aborted while this was under way: then it is dropped without a word.
            let mine =
                |held: &&mut Held| held.request.as_ref().is_some_and(|(_, bhs)| bhs.task_tag().0 == tag);
            if let Some(held) = self.held.iter_mut().find(mine)
                && held.on == Some(on)
                && lost.is_none()
            {
                if held.data.len() >= HELD_DATA_LIMIT {
                    return self.fail(on, CloseReason::Limit("data for a command before its turn"));
                }
                held.data.push((pdu, header));
            }
            return;
        };
        let mine = task.connection == on;
        let now = self.now;
        let Some(collect) = self.collecting(tag).filter(|_| mine) else {
            return self.reject(on, RejectReason::INVALID_PDU_FIELD, header);
        };
        let was_doomed = collect.is_doomed();
        let taken = collect.take(pdu, lost);
        let Taken::Part { ended } = taken else {
            if taken == Taken::Foreign {
                self.reject(on, RejectReason::INVALID_PDU_FIELD, header);
            }
            return;
        };
        collect.progress = now;
        let (complete, settled) = (collect.is_complete(), collect.settled());
        let newly_doomed = collect.is_doomed() && !was_doomed;
        let wants = ended || collect.has_holes();
        let connection = &mut self.connections[on];
        connection.data_progress = now;
        if ended {
            connection.open_sequences -= 1;
        }
        if newly_doomed {
            self.withdraw(tag);
            self.advance_line();
        }
        if complete {
            self.collected(tag);
        } else if let Some(doom) = settled {
            self.end_doomed(tag, doom);
        } else if wants {
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
            Doom::Status(status) => self.answer(tag, &task, super::ScsiResponse::status(status)),
            Doom::Fault(fault) => {
                let sense = bytes::Bytes::copy_from_slice(&fault.sense());
                self.answer(tag, &task, super::ScsiResponse::check_condition(sense));
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
        let connection = &mut self.connections[task.connection];
        connection.tasks -= 1;
        if let Stage::Collecting(collect) = &task.stage {
            connection.open_sequences -= collect.open_sequences();
        }
        if !self.logouts.is_empty() {
            self.logouts_due = true;
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

    fn echo(&mut self, on: ConnectionId, pdu: pdu::NopOut) {
        let mut data: Payload = pdu.data;
        data.truncate(self.connections[on].parameters.initiator_max_recv as usize);
        self.send_echo(on, pdu.task_tag, data);
    }
}

/// Unsolicited Data-Out PDUs that may wait with a held command; a burst of 64 KiB in PDUs of 512 bytes.
const HELD_DATA_LIMIT: usize = 128;
