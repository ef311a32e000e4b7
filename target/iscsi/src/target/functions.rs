//! Task management (RFC 7143 sections 4.2.3.3, 11.5 and 11.6; RFC 7144 section 6).
//!
//! The connection does its own part first: it discards the covered commands that were never delivered. Data for them may be under way;
//! the function waits until that has come, or for `abort_drain` (Linux stops sending and would let it wait forever). Only then the
//! storage processor hears of it, and nothing that came later passes it.

use super::Directory;
use super::collect::Doom;
use super::event::{Event, TaskFunction, TaskManagement, TaskManagementResponse};
use super::line::Item;
use super::session::{ConnectionId, Session};
use super::task::{Stage, Task};
use crate::pdu::{self, Serial32, TaskRequest, TaskResponse, TaskResponseCode, TaskTag};

/// What a function covers.
fn scope(function: TaskFunction, lun: [u8; 8]) -> Option<Scope> {
    match function {
        TaskFunction::AbortTaskSet | TaskFunction::ClearTaskSet | TaskFunction::LogicalUnitReset => {
            Some(Some(lun))
        }
        TaskFunction::TargetWarmReset | TaskFunction::TargetColdReset | TaskFunction::NexusReset => {
            Some(None)
        }
        _ => None,
    }
}

/// One logical unit, or all.
type Scope = Option<[u8; 8]>;

fn covers(scope: Scope, task: &Task) -> bool {
    scope.is_none_or(|lun| lun == task.lun)
}

fn known(function: pdu::TaskFunction, level: u8) -> Result<TaskFunction, TaskManagementResponse> {
    Ok(match function {
        pdu::TaskFunction::ABORT_TASK => TaskFunction::AbortTask,
        pdu::TaskFunction::ABORT_TASK_SET => TaskFunction::AbortTaskSet,
        pdu::TaskFunction::CLEAR_ACA => TaskFunction::ClearAca,
        pdu::TaskFunction::CLEAR_TASK_SET => TaskFunction::ClearTaskSet,
        pdu::TaskFunction::LOGICAL_UNIT_RESET => TaskFunction::LogicalUnitReset,
        pdu::TaskFunction::TARGET_WARM_RESET => TaskFunction::TargetWarmReset,
        pdu::TaskFunction::TARGET_COLD_RESET => TaskFunction::TargetColdReset,
        pdu::TaskFunction::QUERY_TASK if level >= 2 => TaskFunction::QueryTask,
        pdu::TaskFunction::QUERY_TASK_SET if level >= 2 => TaskFunction::QueryTaskSet,
        pdu::TaskFunction::I_T_NEXUS_RESET if level >= 2 => TaskFunction::NexusReset,
        pdu::TaskFunction::QUERY_ASYNCHRONOUS_EVENT if level >= 2 => TaskFunction::QueryAsyncEvent,
        _ => return Err(TaskManagementResponse::NotSupported),
    })
}

/// Whether an immediate function came before commands that it covers: they are numbered below it and missing (section 11.5.1). Target
/// resets need not wait: what they cover and what is missing would end alike (section 4.2.3.3 b).
pub(super) fn must_wait(request: &pdu::Request, expected: Serial32) -> bool {
    use pdu::TaskFunction as F;
    let pdu::Request::Task(task) = request else { return false };
    let sets = [F::ABORT_TASK_SET, F::CLEAR_TASK_SET, F::LOGICAL_UNIT_RESET];
    sets.contains(&task.function) && expected.is_before(task.cmd_sn)
}

impl Session {
    pub(super) fn task_request(&mut self, on: ConnectionId, pdu: &TaskRequest, directory: &dyn Directory) {
        if pdu.function == pdu::TaskFunction::TASK_REASSIGN {
            return self.reassign(on, pdu);
        }
        let function = match known(pdu.function, self.parameters.protocol_level) {
            Ok(function) => function,
            Err(response) => return self.send_task_response(on, pdu.task_tag, response, [0; 3]),
        };
        let lun = pdu.lun.0;
        let mut management = TaskManagement {
            tag: pdu.task_tag.0,
            function,
            lun,
            referenced_tag: pdu.referenced_task_tag.0,
            cmd_sn: pdu.cmd_sn.0,
            undelivered: 0,
        };
        if matches!(function, TaskFunction::AbortTask | TaskFunction::QueryTask)
            && let Some(response) = self.on_one_task(on, function, pdu, directory)
        {
            return self.send_task_response(on, pdu.task_tag, response, [0; 3]);
        }
        if function == TaskFunction::QueryTaskSet {
            management.undelivered =
                self.tasks.iter().filter(|(_, task)| task.lun == lun && task.is_undelivered()).count();
        }
        self.enter_task(management.tag, Task::function(on, pdu.immediate, lun));
        if pdu.immediate {
            self.immediate_tasks += 1;
        } else {
            self.numbers.opened();
        }
        let Some(scope) = scope(function, lun) else {
            return self.events.push_back(Event::TaskManagement(management));
        };
        management.undelivered = self.discard(scope, Doom::Silent);
        if self.is_drained(scope) {
            return self.events.push_back(Event::TaskManagement(management));
        }
        let until = self.now.saturating_add(self.config.timers.abort_drain);
        self.line.items.push_back(Item::Function(management, until));
    }

    /// ABORT TASK and QUERY TASK: the answer, unless the storage processor has the task.
    fn on_one_task(
        &mut self,
        on: ConnectionId,
        function: TaskFunction,
        pdu: &TaskRequest,
        directory: &dyn Directory,
    ) -> Option<TaskManagementResponse> {
        use TaskManagementResponse::{Complete, NoTask, Rejected, Succeeded};
        let tag = pdu.referenced_task_tag.0;
        let abort = function == TaskFunction::AbortTask;
        let Some(task) = self.tasks.get(tag).filter(|task| task.lun == pdu.lun.0) else {
            if abort {
                // Its connection was lost with the answer: that is sent here first (section 11.5.1).
                self.send_lost_answer(on, tag);
            }
            // Section 11.6.1 b, c: a command that may still come is declared as received, others do not exist.
            return Some(match abort {
                true if self.plug(pdu.ref_cmd_sn, pdu.cmd_sn, directory) => Complete,
                true => NoTask,
                false => Complete,
            });
        };
        match task.stage {
            Stage::Function => Some(Rejected),
            Stage::Delivered => None,
            Stage::Ending => Some(NoTask),
            Stage::Collecting(_) | Stage::Waiting(_) | Stage::Answered(_) if abort => {
                // Data under way for it is dropped as it comes: no task has that tag.
                self.withdraw(tag);
                self.remove_task(tag);
                self.solicit();
                self.advance_line();
                Some(Complete)
            }
            Stage::Collecting(_) | Stage::Waiting(_) | Stage::Answered(_) => Some(Succeeded),
        }
    }

    /// Discards undelivered commands; those with data under way stay until it has come. Returns how many there were.
    fn discard(&mut self, scope: Scope, doom: Doom) -> usize {
        let undelivered = |task: &Task| match &task.stage {
            Stage::Collecting(collect) => !collect.is_silenced(),
            // The device server is done with it, but the initiator will not hear of it any more.
            Stage::Waiting(_) | Stage::Answered(_) => true,
            Stage::Delivered | Stage::Ending | Stage::Function => false,
        };
        let covered = self.tasks.iter().filter(|(_, task)| covers(scope, task) && undelivered(task));
        let tags = covered.map(|(tag, _)| tag).collect::<Vec<_>>();
        // All leave the line before it advances: one of them must not deliver another.
        for tag in &tags {
            self.withdraw(*tag);
        }
        for tag in &tags {
            let settled = match self.collecting(*tag) {
                Some(collect) => {
                    collect.doom(doom);
                    collect.settled()
                }
                None => Some(doom),
            };
            if let Some(doom) = settled {
                self.end_doomed(*tag, doom);
            }
        }
        self.solicit();
        self.advance_line();
        tags.len()
    }

    /// Whether no data is under way for discarded commands.
    fn is_drained(&self, scope: Scope) -> bool {
        !self.tasks.iter().any(|(_, task)| covers(scope, task) && task.is_silenced())
    }

    /// Hands on the functions that need not wait any more. They pass barriers: what they cover is discarded, and what they do not
    /// cover they need not follow.
    pub(super) fn release_functions(&mut self) {
        let mut at = 0;
        while let Some(item) = self.line.items.get(at) {
            let Item::Function(management, until) = item else {
                at += 1;
                continue;
            };
            let (management, expired) = (*management, self.now >= *until);
            let scope = scope(management.function, management.lun).unwrap_or(Some(management.lun));
            if !expired && !self.is_drained(scope) {
                at += 1;
                continue;
            }
            self.line.items.remove(at);
            let late = self.tasks.iter().filter(|(_, task)| covers(scope, task) && task.is_silenced());
            for tag in late.map(|(tag, _)| tag).collect::<Vec<_>>() {
                self.remove_task(tag);
            }
            self.events.push_back(Event::TaskManagement(management));
        }
        self.solicit();
    }

    /// Answers [`Event::TaskManagement`]. Nothing may be sent for an aborted task after this. `information` is the additional response
    /// information of RFC 7144 section 6.4.1, zero for most functions.
    pub fn respond_task_management(
        &mut self,
        tag: u32,
        response: TaskManagementResponse,
        information: [u8; 3],
    ) {
        if !self.tasks.get(tag).is_some_and(|task| matches!(task.stage, Stage::Function)) {
            return;
        }
        let Some(task) = self.remove_task(tag) else { return };
        let (on, tag) = (task.connection, TaskTag(tag));
        if !self.connections[on].can_send() {
            return;
        }
        self.send_behind_fence(on, tag, response, information);
    }

    pub(super) fn send_task_response(
        &mut self,
        on: ConnectionId,
        tag: TaskTag,
        response: TaskManagementResponse,
        information: [u8; 3],
    ) {
        let connection = &mut self.connections[on];
        connection.put_status(TaskResponse {
            response: TaskResponseCode(response as u8),
            task_tag: tag,
            additional_information: information,
            stat_sn: connection.stat_sn,
            exp_cmd_sn: self.numbers.exp_cmd_sn,
            max_cmd_sn: self.numbers.announce(),
        });
    }

    /// Ends a delivered task that gets no response: it was aborted by a task management function, or was to be ended.
    pub fn abandon(&mut self, tag: u32) {
        if self.tasks.get(tag).is_some_and(|task| matches!(task.stage, Stage::Delivered | Stage::Ending)) {
            self.remove_task(tag);
            self.solicit();
            if self.logouts_due {
                self.check_logouts();
            }
        }
    }

    /// Discards the commands that wait for data, of one logical unit or of all, because another session's function (CLEAR TASK SET,
    /// LOGICAL UNIT RESET, target reset) covers them. With a `status` (TASK ABORTED when TAS is set) they are answered by it.
    /// Returns how many there were.
    pub fn abort_undelivered(&mut self, lun: Option<[u8; 8]>, status: Option<u8>) -> usize {
        self.discard(lun, status.map_or(Doom::Silent, Doom::Status))
    }
}
