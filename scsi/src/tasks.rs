//! The task set of a logical unit: order, auto contingent allegiance, and what task management aborts (SAM-5, clauses 5.9, 7, 8).
//!
//! A pure bookkeeper: it never runs a task. Invariants:
//! 1. Every task that was admitted is in the set until [`TaskSet::end`] or, when it was held, until it is aborted.
//! 2. A held task is released exactly once.
//! 3. The set never holds more than [`MAX_TASKS`].

use crate::{LuId, NexusId, Reply, Status};

/// Tasks that one LU takes; the next one is told TASK SET FULL.
pub const MAX_TASKS: usize = 4096;

/// Task attribute (SAM-5, 8.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TaskAttribute {
    /// May be reordered with other simple tasks.
    #[default]
    Simple,
    /// Runs after all older tasks and before all younger ones.
    Ordered,
    /// Runs at once.
    HeadOfQueue,
    /// Runs while an auto contingent allegiance is in force.
    Aca,
}

/// A task that was admitted: hand it back to [`crate::TargetDevice::end`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Task {
    /// The LU, `None` when the LUN addresses none.
    pub lu: Option<LuId>,
    /// The I_T nexus.
    pub nexus: NexusId,
    /// The initiator's task tag.
    pub tag: u32,
}

/// Whether a task may go on.
#[derive(Clone, Debug)]
pub enum Admission {
    /// Execute it now.
    Run(Task),
    /// Execute it when it is released.
    Hold(Task),
    /// It is not in the task set; this is its answer.
    Refuse(Reply),
}

/// A task that must be aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// Which.
    pub task: Task,
    /// It has been started. It is still in the set: call `end` when it can no longer touch the medium. A task that was
    /// held is gone from the set.
    pub running: bool,
    /// Its initiator is told TASK ABORTED (TAS); otherwise it gets no answer.
    pub report: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    nexus: NexusId,
    tag: u32,
    attribute: TaskAttribute,
    naca: bool,
    running: bool,
}

/// One LU's task set.
#[derive(Debug)]
pub(crate) struct TaskSet {
    lu: LuId,
    /// In order of arrival.
    entries: Vec<Entry>,
    /// Entries that are not simple, or are held: as long as there are none, a simple task needs no look at the others.
    special: usize,
    /// The faulted nexus of an auto contingent allegiance.
    aca: Option<NexusId>,
}

/// Why a task was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Status(Status),
    /// ACA attribute without an auto contingent allegiance: INVALID MESSAGE ERROR (SAM-5, 8.9.5).
    AcaWithoutCause,
}

impl TaskSet {
    pub(crate) fn new(lu: LuId) -> Self {
        Self { lu, entries: Vec::new(), special: 0, aca: None }
    }

    fn task(&self, entry: &Entry) -> Task {
        Task { lu: Some(self.lu), nexus: entry.nexus, tag: entry.tag }
    }

    /// Enters a task; `Ok(true)` when it may run. `preempts` marks PREEMPT AND ABORT, which an ACA of others does not stop.
    pub(crate) fn admit(
        &mut self,
        nexus: NexusId,
        tag: u32,
        attribute: TaskAttribute,
        naca: bool,
        preempts: bool,
    ) -> Result<bool, Refusal> {
        if self.entries.len() >= MAX_TASKS {
            return Err(Refusal::Status(Status::TaskSetFull));
        }
        if let Some(faulted) = self.aca {
            self.admit_under_aca(faulted, nexus, attribute, naca, preempts)?;
        } else if attribute == TaskAttribute::Aca {
            return Err(Refusal::AcaWithoutCause);
        }
        let bypass = self.aca.is_some();
        let running = bypass
            || match attribute {
                TaskAttribute::Simple => self.special == 0 || !self.entries.iter().any(Entry::blocks_simple),
                TaskAttribute::Ordered => self.entries.is_empty(),
                TaskAttribute::HeadOfQueue | TaskAttribute::Aca => true,
            };
        let entry = Entry { nexus, tag, attribute, naca, running };
        self.special += usize::from(entry.is_special());
        self.entries.push(entry);
        Ok(running)
    }

    /// SAM-5, 5.9.2, for task sets that all nexuses share (TST 000b).
    fn admit_under_aca(
        &self,
        faulted: NexusId,
        nexus: NexusId,
        attribute: TaskAttribute,
        naca: bool,
        preempts: bool,
    ) -> Result<(), Refusal> {
        let other_aca_task = self.entries.iter().any(|e| e.attribute == TaskAttribute::Aca);
        match (nexus == faulted, attribute) {
            (true, TaskAttribute::Aca) if !other_aca_task => Ok(()),
            (false, _) if preempts => Ok(()),
            (false, attribute) if attribute != TaskAttribute::Aca && !naca => {
                Err(Refusal::Status(Status::Busy))
            }
            _ => Err(Refusal::Status(Status::AcaActive)),
        }
    }

    fn remove(&mut self, index: usize) -> Entry {
        let entry = self.entries.remove(index);
        self.special -= usize::from(entry.is_special());
        entry
    }

    /// Takes a task out and appends those that may run now.
    pub(crate) fn end(&mut self, nexus: NexusId, tag: u32, reply: Option<&Reply>, released: &mut Vec<Task>) {
        let Some(index) = self.entries.iter().position(|e| e.nexus == nexus && e.tag == tag) else { return };
        let entry = self.remove(index);
        let check = reply.is_some_and(|r| r.status == Status::CheckCondition);
        if check && entry.naca && self.aca.is_none() {
            self.aca = Some(nexus);
        }
        self.release(released);
    }

    fn release(&mut self, released: &mut Vec<Task>) {
        if self.aca.is_some() || self.special == 0 {
            return;
        }
        let (mut ordered_before, mut head_of_queue) = (false, false);
        for entry in &self.entries {
            head_of_queue |= entry.attribute == TaskAttribute::HeadOfQueue;
        }
        for index in 0..self.entries.len() {
            let entry = self.entries[index];
            let may_run = match entry.attribute {
                TaskAttribute::Ordered => index == 0 && !head_of_queue,
                _ => !ordered_before && !head_of_queue,
            };
            if !entry.running && may_run {
                self.entries[index].running = true;
                self.special -= usize::from(entry.is_special());
                self.special += usize::from(self.entries[index].is_special());
                released.push(self.task(&entry));
            }
            ordered_before |= entry.attribute == TaskAttribute::Ordered;
        }
    }

    /// Whether the task is in the set.
    pub(crate) fn has(&self, nexus: NexusId, tag: u32) -> bool {
        self.entries.iter().any(|e| e.nexus == nexus && e.tag == tag)
    }

    /// Whether the nexus has any task in the set.
    pub(crate) fn has_any(&self, nexus: NexusId) -> bool {
        self.entries.iter().any(|e| e.nexus == nexus)
    }

    /// The nexus whose failed command set off an auto contingent allegiance.
    pub(crate) fn aca(&self) -> Option<NexusId> {
        self.aca
    }

    /// Ends an auto contingent allegiance, and the task that ran under it (SAM-5, 5.9.3).
    pub(crate) fn clear_aca(&mut self, aborts: &mut Vec<Abort>, released: &mut Vec<Task>) {
        if self.aca.take().is_some() {
            let under = self.entries.iter().filter(|e| e.attribute == TaskAttribute::Aca);
            aborts.extend(under.map(|e| Abort { task: self.task(e), running: e.running, report: false }));
            self.release(released);
        }
    }

    /// Aborts every task that `which` picks by nexus and tag; `report` says which of them are told TASK ABORTED.
    pub(crate) fn abort(
        &mut self,
        which: impl Fn(NexusId, u32) -> bool,
        report: impl Fn(NexusId) -> bool,
        aborts: &mut Vec<Abort>,
        released: &mut Vec<Task>,
    ) {
        let mut index = 0;
        while let Some(entry) = self.entries.get(index).copied() {
            if !which(entry.nexus, entry.tag) {
                index += 1;
                continue;
            }
            let task = self.task(&entry);
            aborts.push(Abort { task, running: entry.running, report: report(entry.nexus) });
            if entry.running {
                index += 1;
            } else {
                self.remove(index);
            }
        }
        self.release(released);
    }
}

impl Entry {
    fn is_special(&self) -> bool {
        self.attribute != TaskAttribute::Simple || !self.running
    }

    fn blocks_simple(&self) -> bool {
        matches!(self.attribute, TaskAttribute::Ordered | TaskAttribute::HeadOfQueue)
    }
}

/// A task management function (SAM-5, clause 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskManagement {
    /// Aborts one task of this nexus.
    AbortTask {
        /// Its tag.
        tag: u32,
    },
    /// Aborts all tasks of this nexus at the LU.
    AbortTaskSet,
    /// Aborts all tasks at the LU.
    ClearTaskSet,
    /// Ends the auto contingent allegiance of this nexus.
    ClearAca,
    /// Resets the LU.
    LogicalUnitReset,
    /// Resets all LUs; sessions stay.
    TargetWarmReset,
    /// Resets all LUs; the transport drops all sessions afterwards.
    TargetColdReset,
    /// The effects of losing this nexus, without losing it.
    NexusReset,
    /// Asks whether a task of this nexus is in the task set.
    QueryTask {
        /// Its tag.
        tag: u32,
    },
    /// Asks whether any task of this nexus is in the task set.
    QueryTaskSet,
    /// Asks for a pending unit attention or similar event.
    QueryAsynchronousEvent,
}

/// Service response to a task management function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManagementResponse {
    /// Done: FUNCTION COMPLETE. For the queries: no, there is none.
    Complete,
    /// For QUERY TASK and QUERY TASK SET: yes, there is one.
    Succeeded,
    /// For QUERY ASYNCHRONOUS EVENT: yes; the additional response information (SAM-5, 7.10).
    Event([u8; 3]),
    /// ABORT TASK: no such task. It may be one that has ended already, and the transport knows better.
    TaskDoesNotExist,
    /// The LUN addresses no LU.
    LunDoesNotExist,
    /// Not from this nexus, not now.
    Rejected,
}

/// What a task management function brings about. Send the response when every `running` task of `abort` has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Managed {
    /// The answer.
    pub response: ManagementResponse,
    /// Tasks to abort.
    pub abort: Vec<Abort>,
    /// Held tasks that may run now.
    pub release: Vec<Task>,
}
