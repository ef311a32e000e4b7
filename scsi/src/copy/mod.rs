//! Third-party copy: EXTENDED COPY and ROD tokens (SPC-4, 5.17 and 6.4; SBC-3, 4.28 and 5.14).
//!
//! The copy manager of this target device. It copies between LUs that the I_T nexus of the command sees, and no others: a designator is looked
//! up in that nexus's LUN map and nowhere else. Before every single step it asks again what a READ or a WRITE of that nexus would be told
//! there (visible, access state, reservations, write protection), so that whatever fences a host off a LU fences its copies off as well.
//!
//! - `parse` reads parameter lists, `job` turns segments into block requests, `operations` remembers what became of copies;
//! - `tokens` keeps what ROD tokens stand for, `odx` has their commands, `extended` the others;
//! - `vpd` says all of it to hosts.
//!
//! Bytes and decisions: docs/design/copy.md.

mod extended;
mod job;
mod odx;
mod operations;
mod parse;
mod tokens;
pub(crate) mod vpd;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use twinlun_block::{BlockResult, Payload};

pub(crate) use extended::{
    abort, data_lid1, failure_details_lid1, lid1, lid4, operating_parameters, status_lid1, status_lid4,
};
pub(crate) use odx::{populate_token, report_all_tokens, token_information, write_using_token};
pub(crate) use operations::CopyId;
#[cfg(test)]
pub(crate) use parse::{CopyList, parse_lid1, parse_lid4};

use crate::commands::{Access, Row};
use crate::context::{Fault, Run};
use crate::device::{Command, Nexus, TargetDevice, TargetIdentity};
use crate::lu::LogicalUnit;
use crate::sense::{Asc, Forwarded, Reply, Sense, SenseKey, Status};
use crate::tasks::{Abort, Task};
use crate::wire::Fields;
use crate::{Io, LuId, NexusId, Outcome, Step, media};

use job::{Job, Next};
use operations::{Operation, Operations};
use tokens::Tokens;

/// Copy sources and destinations (CSCDs) of one EXTENDED COPY.
pub(crate) const MAX_TARGETS: usize = 16;
/// Segments of one EXTENDED COPY.
pub(crate) const MAX_SEGMENTS: usize = 64;
/// Longest lists of both together, in bytes.
pub(crate) const MAX_LISTS: usize = 32 * (MAX_TARGETS + MAX_SEGMENTS);
/// Smallest amount that every segment may copy, as a power of two: a block of the smaller kind.
pub(crate) const GRANULARITY: u8 = 9;
/// Copies under way at a time, over all hosts.
pub(crate) const MAX_COPIES: usize = 32;
/// What a copy reads and writes at a time, and all that it holds in memory.
pub(crate) const CHUNK: u64 = 1 << 20;

/// What third-party copies need from outside: this crate has no clock and no randomness.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Time on a clock that never goes back.
    pub now: Duration,
    /// Fresh randomness that nobody can guess: it becomes the secret of a ROD token.
    pub random: [u8; 32],
}

/// Whether a command must be given a [`Moment`].
pub fn needs_moment(cdb: &[u8]) -> bool {
    matches!(cdb.u8_at(0), 0x83 | 0x84)
}

/// Serves a command of the copy manager.
pub(crate) type Handler = for<'a> fn(&mut Across<'a>) -> Run;

/// Copies under way, what became of others, and ROD tokens.
#[derive(Debug, Default)]
pub(crate) struct CopyManager {
    operations: Operations,
    pub(crate) tokens: Tokens,
}

/// What a copy manager's command has in hand.
pub(crate) struct Across<'a> {
    copies: &'a mut CopyManager,
    world: World<'a>,
    identity: &'a TargetIdentity,
    nexus: NexusId,
    /// The LU that the command was sent to.
    home: LuId,
    lu: &'a LogicalUnit,
    task: Task,
    cdb: &'a [u8],
    data_out: Payload,
    wanted: u64,
    moment: Moment,
    descriptor_sense: bool,
}

/// The LUs and who sees them.
#[derive(Clone, Copy)]
pub(crate) struct World<'a> {
    pub(crate) lus: &'a BTreeMap<LuId, LogicalUnit>,
    pub(crate) nexuses: &'a BTreeMap<NexusId, Nexus>,
}

/// Why a nexus may not read or write a LU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// It does not see such a LU.
    Unseen,
    /// The LU would answer like this.
    Says(Status, Option<Sense>),
}

impl Denied {
    /// As COPY ABORTED forwards it, with its additional sense code.
    fn forward(self, source: bool) -> (Asc, Option<Forwarded>) {
        match self {
            Self::Unseen => (Asc::COPY_TARGET_DEVICE_NOT_REACHABLE, None),
            Self::Says(status, sense) => {
                let sense = sense.map(|sense| (sense.key, sense.asc, sense.information));
                (Asc::THIRD_PARTY_DEVICE_FAILURE, Some(Forwarded { source, status, sense }))
            }
        }
    }
}

impl<'a> World<'a> {
    /// The LU, when a READ or a WRITE of that nexus would run there now.
    fn permit(&self, nexus: NexusId, lu: LuId, write: bool) -> Result<&'a LogicalUnit, Denied> {
        let seen = self.nexuses.get(&nexus).is_some_and(|nexus| nexus.map.sees(lu));
        let unit = self.lus.get(&lu).filter(|_| seen).ok_or(Denied::Unseen)?;
        if let Some(sense) = unit.not_ready(Access::Active) {
            return Err(Denied::Says(Status::CheckCondition, Some(sense)));
        }
        if unit.stops(!write, nexus) {
            return Err(Denied::Says(Status::ReservationConflict, None));
        }
        if let Some(sense) = unit.operation_sense() {
            return Err(Denied::Says(Status::CheckCondition, Some(sense)));
        }
        if !unit.loaded {
            let sense = Sense::new(SenseKey::NotReady, Asc::MEDIUM_NOT_PRESENT);
            return Err(Denied::Says(Status::CheckCondition, Some(sense)));
        }
        if write && unit.is_write_protected() {
            return Err(Denied::Says(Status::CheckCondition, Some(media::write_protected(unit))));
        }
        Ok(unit)
    }

    /// The LU with this NAA designator among those that the nexus sees.
    fn find(&self, nexus: NexusId, naa: &[u8; 16]) -> Option<(LuId, &'a LogicalUnit)> {
        let map = &self.nexuses.get(&nexus)?.map;
        map.iter().find_map(|(_, id)| self.lus.get(&id).filter(|lu| lu.naa == *naa).map(|lu| (id, lu)))
    }
}

impl CopyManager {
    /// The next step of a copy, and the LU that it goes to.
    pub(crate) fn advance(
        &mut self,
        id: CopyId,
        world: &World<'_>,
        previous: Option<BlockResult>,
    ) -> (LuId, Step) {
        let Some((operation, mut job)) = self.operations.take_job(id) else {
            return (LuId(0), Step::Done(Reply::with_status(Status::TaskAborted)));
        };
        let home = operation.home;
        let next = job.next(world, &self.tokens, previous);
        operation.progress(&job);
        let (wanted, descriptor_sense) = (operation.wanted, operation.descriptor_sense);
        let reply = match next {
            Next::Submit(lu, request) => {
                operation.job = Some(job);
                if request.is_write() {
                    self.tokens.changed(lu, request.range());
                }
                return (lu, Step::Submit(request));
            }
            Next::Done(delete) => {
                self.operations.finish(id, Ok(()));
                if let Some(token) = delete {
                    self.tokens.delete(token);
                }
                Reply::good()
            }
            Next::Failed(sense) => {
                let reply = Reply::check(&sense, descriptor_sense);
                self.operations.finish(id, Err(reply.sense.unwrap_or_else(|| sense.encode(false))));
                reply
            }
        };
        (home, Step::Done(Reply { data_out_len: wanted, ..reply }))
    }

    /// The copies that read or write `lu` without being tasks of it, to be aborted with the tasks that are. Their initiators are always told:
    /// they sent them elsewhere.
    pub(crate) fn touching(&self, lu: LuId, which: impl Fn(NexusId) -> bool) -> Vec<Abort> {
        let copies = self
            .operations
            .all_running()
            .filter(|(operation, job)| operation.home != lu && job.touches(lu) && which(operation.nexus));
        copies.map(|(operation, _)| Abort { task: operation.task, running: true, report: true }).collect()
    }

    /// A task is over. A copy that has not come to its end by then was aborted.
    pub(crate) fn ended(&mut self, task: Task, known: bool) {
        self.operations.ended(task, known);
    }

    /// The nexus is gone, and with it what became of its copies.
    pub(crate) fn forget(&mut self, nexus: NexusId) {
        self.operations.forget(nexus);
    }
}

impl Across<'_> {
    /// The parameter list of the length that the CDB says, `None` when it says 0.
    fn parameter_list(&mut self, longest: usize) -> Result<Option<Bytes>, Fault> {
        let len = self.cdb.u32_at(10);
        self.wanted = u64::from(len);
        if len == 0 {
            return Ok(None);
        }
        if len as usize > longest || (self.data_out.len() as u64) < u64::from(len) {
            return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR).into());
        }
        self.data_out.truncate(len as usize);
        Ok(Some(std::mem::take(&mut self.data_out).to_bytes()))
    }

    /// Begins a copy: its state is with the copy manager, the steps are asked for one by one.
    fn begin(&mut self, list: Option<u32>, keep: bool, job: Job) -> Run {
        let id = self.enter(list, keep, Some(job))?;
        let size = self.lu.geometry.block_size;
        let plan = crate::io::Plan::Copy(id);
        Ok(Outcome::Io(Io::new(self.home, size, self.descriptor_sense, self.wanted, plan)))
    }

    /// Enters an operation into the copy manager's book; without a job it is one that is complete.
    fn enter(&mut self, list: Option<u32>, keep: bool, job: Option<Job>) -> Result<CopyId, Fault> {
        self.copies.operations.enter(Operation {
            nexus: self.nexus,
            home: self.home,
            task: self.task,
            list,
            keep,
            action: self.cdb.u8_at(1) & 0x1F,
            wanted: self.wanted,
            descriptor_sense: self.descriptor_sense,
            block: self.lu.geometry.block_size.bytes(),
            ..Operation::new(job.map(Box::new))
        })
    }

    /// The operation that a list identifier of the CDB names.
    fn named(&self, list: u32) -> Result<&Operation, Fault> {
        let found = self.copies.operations.named(self.nexus, self.home, list);
        found.ok_or_else(|| Sense::cdb_field(2, None).into())
    }

    /// Parameter data, cut to the allocation length.
    fn data(&self, data: Vec<u8>) -> Run {
        Ok(crate::context::data_in(data, self.cdb.u32_at(10) as usize))
    }
}

impl TargetDevice {
    /// Serves a command of the copy manager that was admitted at `home`.
    pub(crate) fn copy(
        &mut self,
        nexus: NexusId,
        home: LuId,
        row: &'static Row,
        serve: Handler,
        command: Command<'_>,
    ) -> Outcome {
        let Some(lu) = self.lus.get(&home) else {
            return Outcome::Done(Reply::with_status(Status::TaskAborted));
        };
        let descriptor_sense = lu.mode.current.d_sense;
        let Some(moment) = command.moment else {
            // Whoever carries commands forgot it. Without randomness a token could be guessed.
            let sense = Sense::new(SenseKey::HardwareError, Asc::INTERNAL_TARGET_FAILURE);
            return Outcome::Done(Reply::check(&sense, descriptor_sense));
        };
        let CopyManager { operations, tokens } = &mut self.copies;
        tokens.expire(moment.now, |token| operations.all_running().any(|(_, job)| job.uses(token)));
        let mut across = Across {
            copies: &mut self.copies,
            world: World { lus: &self.lus, nexuses: &self.nexuses },
            identity: &self.identity,
            nexus,
            home,
            lu,
            task: Task { lu: Some(home), nexus, tag: command.tag },
            cdb: &command.cdb[..row.usage.len()],
            data_out: command.data_out,
            wanted: 0,
            moment,
            descriptor_sense,
        };
        let result = serve(&mut across);
        let wanted = across.wanted;
        let mut outcome = result.unwrap_or_else(|fault| Outcome::Done(fault.reply(descriptor_sense)));
        if let Outcome::Done(reply) = &mut outcome {
            reply.data_out_len = wanted;
        }
        outcome
    }
}
