//! The copies under way and what became of those that are over (SPC-4, 5.17.4).

use std::collections::BTreeMap;

use super::MAX_COPIES;
use super::job::Job;
use crate::context::Fault;
use crate::sense::{Asc, FieldPointer, Sense, SenseBytes, Status};
use crate::tasks::Task;
use crate::{LuId, NexusId};

/// Results that are kept for one nexus.
const KEPT_FOR_NEXUS: usize = 32;
/// Results that are kept in all.
const KEPT: usize = 1024;

/// A third-party copy. Never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CopyId(u64);

/// How far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    Done,
    Failed(SenseBytes),
    /// Aborted by task management, PREEMPT AND ABORT or COPY OPERATION ABORT.
    Terminated,
}

/// A copy, its progress and its result.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) nexus: NexusId,
    /// The LU that the command was sent to.
    pub(crate) home: LuId,
    pub(crate) task: Task,
    pub(crate) list: Option<u32>,
    /// Its result is kept.
    pub(crate) keep: bool,
    /// Service action of the command.
    pub(crate) action: u8,
    pub(crate) wanted: u64,
    pub(crate) descriptor_sense: bool,
    /// Block size of `home`.
    pub(crate) block: u32,
    pub(crate) state: State,
    pub(crate) processed: u16,
    /// Bytes.
    pub(crate) transferred: u64,
    pub(crate) requests: u16,
    /// The ROD token that POPULATE TOKEN made.
    pub(crate) token: Option<Box<[u8]>>,
    pub(crate) job: Option<Box<Job>>,
}

impl Operation {
    /// One with nothing filled in. Without a job it is done.
    pub(crate) fn new(job: Option<Box<Job>>) -> Self {
        let nowhere = Task { lu: None, nexus: NexusId(0), tag: 0 };
        Self {
            nexus: nowhere.nexus,
            home: LuId(0),
            task: nowhere,
            list: None,
            keep: true,
            action: 0,
            wanted: 0,
            descriptor_sense: false,
            block: 512,
            state: if job.is_some() { State::Running } else { State::Done },
            processed: 0,
            transferred: 0,
            requests: 0,
            token: None,
            job,
        }
    }

    /// Whether it is under way.
    pub(crate) fn runs(&self) -> bool {
        self.state == State::Running
    }

    /// Notes what a step has brought.
    pub(crate) fn progress(&mut self, job: &Job) {
        (self.processed, self.transferred, self.requests) = (job.processed, job.transferred, job.requests);
    }

    /// Status of its command.
    pub(crate) fn status(&self) -> Status {
        match self.state {
            State::Running | State::Done => Status::Good,
            State::Failed(_) => Status::CheckCondition,
            State::Terminated => Status::TaskAborted,
        }
    }
}

/// All copies, by age.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    last: u64,
    all: BTreeMap<CopyId, Operation>,
    running: usize,
}

impl Operations {
    /// Enters a copy. One of the same nexus, LU and list identifier that is over is forgotten for it; one that is under way refuses it
    /// (SPC-4, 5.17.4.2).
    pub(crate) fn enter(&mut self, operation: Operation) -> Result<CopyId, Fault> {
        if let Some(list) = operation.list
            && let Some(old) = self.find(operation.nexus, operation.home, list)
        {
            if self.all.get(&old).is_some_and(Operation::runs) {
                let mut sense = Sense::illegal(Asc::OPERATION_IN_PROGRESS);
                sense.field = Some(FieldPointer { in_cdb: false, byte: 0, bit: None });
                return Err(sense.into());
            }
            self.all.remove(&old);
        }
        if operation.runs() {
            if self.running >= MAX_COPIES {
                return Err(Fault::Status(Status::Busy));
            }
            self.running += 1;
        }
        self.make_room(operation.nexus);
        self.last += 1;
        let id = CopyId(self.last);
        self.all.insert(id, operation);
        Ok(id)
    }

    /// Forgets the oldest results beyond what is kept.
    fn make_room(&mut self, nexus: NexusId) {
        let over = |o: &Operation| !o.runs();
        let of_nexus = self.all.values().filter(|o| o.nexus == nexus && over(o)).count();
        let victim = if of_nexus >= KEPT_FOR_NEXUS {
            self.all.iter().find(|(_, o)| o.nexus == nexus && over(o))
        } else if self.all.len() >= KEPT {
            self.all.iter().find(|(_, o)| over(o))
        } else {
            None
        };
        if let Some(id) = victim.map(|(id, _)| *id) {
            self.all.remove(&id);
        }
    }

    fn find(&self, nexus: NexusId, home: LuId, list: u32) -> Option<CopyId> {
        let mut mine = self.all.iter().filter(|(_, o)| o.nexus == nexus && o.home == home);
        mine.find(|(_, o)| o.list == Some(list)).map(|(id, _)| *id)
    }

    /// The copy that a list identifier names.
    pub(crate) fn named(&self, nexus: NexusId, home: LuId, list: u32) -> Option<&Operation> {
        self.find(nexus, home, list).and_then(|id| self.all.get(&id))
    }

    /// Forgets the copy that a list identifier names, once it is over.
    pub(crate) fn discard(&mut self, nexus: NexusId, home: LuId, list: u32) {
        if let Some(id) = self.find(nexus, home, list)
            && self.all.get(&id).is_some_and(|operation| !operation.runs())
        {
            self.all.remove(&id);
        }
    }

    pub(crate) fn get_mut(&mut self, id: CopyId) -> Option<&mut Operation> {
        self.all.get_mut(&id)
    }

    /// A copy under way, and its job, which the caller gives back when there is more to do.
    pub(crate) fn take_job(&mut self, id: CopyId) -> Option<(&mut Operation, Box<Job>)> {
        let operation = self.all.get_mut(&id)?;
        let job = operation.job.take()?;
        Some((operation, job))
    }

    /// All copies under way.
    pub(crate) fn all_running(&self) -> impl Iterator<Item = (&Operation, &Job)> + Clone {
        let any = self.running > 0;
        let all = any.then(|| self.all.values().filter_map(|o| o.job.as_deref().map(|job| (o, job))));
        all.into_iter().flatten()
    }

    /// A copy has come to its end.
    pub(crate) fn finish(&mut self, id: CopyId, result: Result<(), SenseBytes>) {
        self.close(id, result.map_or_else(State::Failed, |()| State::Done));
    }

    fn close(&mut self, id: CopyId, state: State) {
        let Some(operation) = self.all.get_mut(&id) else { return };
        operation.job = None;
        if operation.runs() {
            self.running -= 1;
        }
        operation.state = state;
        if operation.list.is_none() || !operation.keep {
            self.all.remove(&id);
        }
    }

    /// A task is over; if it was a copy that is still under way, it was aborted.
    pub(crate) fn ended(&mut self, task: Task, known: bool) {
        if self.running == 0 {
            return;
        }
        let id = self.all.iter().find(|(_, o)| o.runs() && o.task == task).map(|(id, _)| *id);
        if let Some(id) = id {
            self.close(id, State::Terminated);
            if !known {
                self.all.remove(&id);
            }
        }
    }

    /// Forgets the results of a nexus that is gone. What it has under way ends as tasks do.
    pub(crate) fn forget(&mut self, nexus: NexusId) {
        self.all.retain(|_, operation| operation.nexus != nexus || operation.runs());
    }
}
