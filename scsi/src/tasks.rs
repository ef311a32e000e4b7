//! The task set of a logical unit: order, auto contingent allegiance, and what task management aborts (SAM-5, clauses 5.9, 7, 8).
//!
//! A pure bookkeeper: it never runs a task. Invariants:
//! 1. Every task that was admitted is in the set until [`TaskSet::end`] or, when it was held, until it is aborted.
//! 2. A held task is released exactly once.
//! 3. The set never holds more than [`MAX_TASKS`].

use std::collections::BTreeSet;

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

/// One LU's task set, or, with TST 001b, one of each nexus.
#[derive(Debug)]
pub(crate) struct TaskSet {
    lu: LuId,
    /// In order of arrival.
    entries: Vec<Entry>,
    /// Entries that are not simple, or are held: as long as there are none, a simple task needs no look at the others.
    special: usize,
    /// The faulted nexuses of auto contingent allegiances: one at most while all nexuses share the set.
    aca: BTreeSet<NexusId>,
    /// Each nexus has a task set of its own (TST 001b): no task waits for another nexus's, and no fault touches it.
    separate: bool,
}

/// What the end of a task brings about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// QErr: tasks to abort. The answer of the task that ended waits for those of them that run.
    pub abort: Vec<Abort>,
    /// Held tasks that may run now.
    pub release: Vec<Task>,
}

/// What CHECK CONDITION of one task does to the others (QERR of the control mode page, SPC-5, 7.5.10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum QueueError {
    /// They go on, when an auto contingent allegiance is over if there is one.
    #[default]
    GoOn = 0b00,
    /// All in the task set are aborted.
    AbortAll = 0b01,
    /// Those of the same nexus are aborted.
    AbortOwn = 0b11,
}

impl QueueError {
    /// The field's value; 10b is reserved.
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        match code {
            0b00 => Some(Self::GoOn),
            0b01 => Some(Self::AbortAll),
            0b11 => Some(Self::AbortOwn),
            _ => None,
        }
    }
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
        Self { lu, entries: Vec::new(), special: 0, aca: BTreeSet::new(), separate: false }
    }

    /// TST changes. Held tasks that may run by the new rule do so when the next task ends: that of the MODE SELECT or reset that changed it.
    pub(crate) fn set_separate(&mut self, separate: bool) {
        self.separate = separate;
    }

    fn task(&self, entry: &Entry) -> Task {
        Task { lu: Some(self.lu), nexus: entry.nexus, tag: entry.tag }
    }

    /// Whether the tasks of two nexuses are in one set.
    pub(crate) fn share(&self, one: NexusId, other: NexusId) -> bool {
        !self.separate || one == other
    }

    /// The entries of the task set of a nexus.
    fn peers(&self, nexus: NexusId) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| self.share(entry.nexus, nexus))
    }

    /// Whether an auto contingent allegiance governs the task set of a nexus.
    pub(crate) fn under_aca(&self, nexus: NexusId) -> bool {
        !self.aca.is_empty() && (!self.separate || self.aca.contains(&nexus))
    }

    /// Whether a failed command of that nexus has set one off.
    pub(crate) fn faulted(&self, nexus: NexusId) -> bool {
        self.aca.contains(&nexus)
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
        let governed = self.under_aca(nexus);
        if governed {
            self.admit_under_aca(nexus, attribute, naca, preempts)?;
        } else if attribute == TaskAttribute::Aca {
            return Err(Refusal::AcaWithoutCause);
        }
        let running = governed
            || match attribute {
                TaskAttribute::Simple => self.special == 0 || !self.peers(nexus).any(Entry::blocks_simple),
                TaskAttribute::Ordered => self.peers(nexus).next().is_none(),
                TaskAttribute::HeadOfQueue | TaskAttribute::Aca => true,
            };
        let entry = Entry { nexus, tag, attribute, naca, running };
        self.special += usize::from(entry.is_special());
        self.entries.push(entry);
        Ok(running)
    }

    /// SAM-5, 5.9.2: what the faulted nexus may send, and the others where they share its task set.
    fn admit_under_aca(
        &self,
        nexus: NexusId,
        attribute: TaskAttribute,
        naca: bool,
        preempts: bool,
    ) -> Result<(), Refusal> {
        let other_aca_task = self.peers(nexus).any(|e| e.attribute == TaskAttribute::Aca);
        match (self.faulted(nexus), attribute) {
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

    /// Takes a task out. After CHECK CONDITION an auto contingent allegiance begins where its NACA asks for one, and the tasks that `error` names
    /// are aborted; `tas` says whether those of other nexuses are told.
    pub(crate) fn end(
        &mut self,
        nexus: NexusId,
        tag: u32,
        reply: Option<&Reply>,
        error: QueueError,
        tas: bool,
    ) -> Ended {
        let mut ended = Ended::default();
        let Some(index) = self.entries.iter().position(|e| e.nexus == nexus && e.tag == tag) else {
            return ended;
        };
        let entry = self.remove(index);
        if reply.is_some_and(|r| r.status == Status::CheckCondition) {
            if entry.attribute == TaskAttribute::Aca && !entry.naca {
                // It ends the allegiance under which it ran (SAM-5, 5.9.5).
                self.aca.remove(&nexus);
            }
            if entry.naca && !self.under_aca(nexus) {
                self.aca.insert(nexus);
            }
            let own_alone = error == QueueError::AbortOwn || self.separate;
            if error != QueueError::GoOn {
                let affected = |id, _| id == nexus || !own_alone;
                self.abort(affected, |id| tas && id != nexus, &mut ended.abort, &mut ended.release);
                return ended;
            }
        }
        self.release(&mut ended.release);
        ended
    }

    fn release(&mut self, released: &mut Vec<Task>) {
        if self.special == 0 || !self.separate && !self.aca.is_empty() {
            return;
        }
        // What stands before a task in its task set; one set for all, or one of each nexus.
        let group = |nexus| self.separate.then_some(nexus);
        let mut heads = BTreeSet::new();
        for entry in self.entries.iter().filter(|e| e.attribute == TaskAttribute::HeadOfQueue) {
            heads.insert(group(entry.nexus));
        }
        let (mut before, mut ordered_before) = (BTreeSet::new(), BTreeSet::new());
        for index in 0..self.entries.len() {
            let entry = self.entries[index];
            let group = self.separate.then_some(entry.nexus);
            let ordered = entry.attribute == TaskAttribute::Ordered;
            let may_run = !heads.contains(&group)
                && !self.aca.contains(&entry.nexus)
                && if ordered { !before.contains(&group) } else { !ordered_before.contains(&group) };
            if !entry.running && may_run {
                self.entries[index].running = true;
                self.special -= usize::from(entry.is_special());
                self.special += usize::from(self.entries[index].is_special());
                released.push(self.task(&entry));
            }
            before.insert(group);
            if ordered {
                ordered_before.insert(group);
            }
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

    /// Ends the auto contingent allegiance of a nexus, if it has one, and the task that runs under it (SAM-5, 5.9.5).
    pub(crate) fn clear_aca(&mut self, nexus: NexusId, aborts: &mut Vec<Abort>, released: &mut Vec<Task>) {
        if self.aca.remove(&nexus) {
            let under = self.entries.iter().filter(|e| e.nexus == nexus && e.attribute == TaskAttribute::Aca);
            aborts.extend(under.map(|e| Abort { task: self.task(e), running: e.running, report: false }));
            self.release(released);
        }
    }

    /// A reset ends them all; it has aborted their tasks.
    pub(crate) fn clear_every_aca(&mut self, released: &mut Vec<Task>) {
        self.aca.clear();
        self.release(released);
    }

    /// Ends those of the nexuses that `which` picks.
    pub(crate) fn clear_acas(
        &mut self,
        which: impl Fn(NexusId) -> bool,
        aborts: &mut Vec<Abort>,
        released: &mut Vec<Task>,
    ) {
        let faulted: Vec<NexusId> = self.aca.iter().copied().filter(|id| which(*id)).collect();
        faulted.into_iter().for_each(|nexus| self.clear_aca(nexus, aborts, released));
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
