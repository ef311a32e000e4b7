//! Operations on the whole medium that outlast their command: SANITIZE (SBC-4, 4.11, 5.30) and FORMAT UNIT (5.4).
//!
//! The order is durable before anything is overwritten, and so is its end before hosts are served again: a crash in the middle begins the
//! operation anew, and a crash behind it never wipes what was written since. While it runs, commands other than those about the LU itself are
//! refused; aborting the command, a reset or the end of the session changes nothing. When it fails the LU stays in failure mode.

use bytes::Bytes;
use twinlun_block::{BlockError, BlockRequest, ByteRange, Geometry, Payload};

use crate::Outcome;
use crate::context::{Context, Run};
use crate::device::{LuId, TargetDevice};
use crate::io::{CLEAR_STEP, STEP, repeat};
use crate::lu::LogicalUnit;
use crate::row::{Access, Data, Row};
use crate::sense::{Asc, Reply, Sense, SenseKey};
use crate::tasks::{Managed, ManagementResponse, Task};

/// What is done to the medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Writes a pattern, repeated within each block, a number of times.
    Overwrite { pattern: Bytes, passes: u8, invert: bool },
    /// Writes zeros, then gives all space up.
    BlockErase,
    /// FORMAT UNIT: fills each block with a pattern, or leaves zeros; a thin LU then has no space taken.
    Format { pattern: Option<Bytes> },
}

/// An operation that was ordered and has not been completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) method: Method,
    /// AUSE: a failure can be left by EXIT FAILURE MODE.
    pub(crate) unrestricted: bool,
    pub(crate) failed: bool,
    /// Pass and first byte of it that is still to be done. Not stored: a start begins anew.
    pass: u8,
    at: u64,
}

impl Operation {
    pub(crate) fn new(method: Method, unrestricted: bool) -> Self {
        Self { method, unrestricted, failed: false, pass: 0, at: 0 }
    }

    fn passes(&self) -> u8 {
        match self.method {
            Method::Overwrite { passes, .. } => passes,
            Method::BlockErase => 2,
            Method::Format { .. } => 1,
        }
    }

    /// FORMAT UNIT, and no SANITIZE.
    pub(crate) fn formats(&self) -> bool {
        matches!(self.method, Method::Format { .. })
    }

    /// The opcode of the commands that may follow a failure.
    fn is_followed_by(&self, opcode: u8) -> bool {
        opcode == SANITIZE || self.formats() && opcode == FORMAT_UNIT
    }

    /// The next request, `None` when the last one was answered.
    fn next(&mut self, geometry: &Geometry, thin: bool) -> Option<BlockRequest> {
        if self.pass >= self.passes() {
            return None;
        }
        if self.at >= geometry.size {
            // What a pass has written must be on the medium before the next one hides it.
            return Some(BlockRequest::Flush);
        }
        let step = |len: u64| ByteRange::new(self.at, len.min(geometry.size - self.at));
        match self.method {
            Method::BlockErase if self.pass == 1 => {
                return Some(BlockRequest::Unmap { range: step(CLEAR_STEP) });
            }
            Method::Format { pattern: None } if thin => {
                return Some(BlockRequest::Unmap { range: step(CLEAR_STEP) });
            }
            Method::Format { pattern: None } => {
                return Some(BlockRequest::WriteZeroes {
                    range: step(CLEAR_STEP),
                    fua: false,
                    may_unmap: false,
                });
            }
            _ => {}
        }
        let range = step(STEP);
        Some(BlockRequest::Write { range, data: self.data(geometry, range.len()), fua: false })
    }

    fn data(&self, geometry: &Geometry, len: u64) -> Payload {
        let size = geometry.block_size.bytes() as usize;
        let block: Vec<u8> = match &self.method {
            Method::BlockErase | Method::Format { pattern: None } => vec![0; size],
            Method::Format { pattern: Some(pattern) } => pattern.iter().copied().cycle().take(size).collect(),
            Method::Overwrite { pattern, invert, .. } => {
                let inverted = *invert && self.pass % 2 == 1;
                let turn = |byte: &u8| if inverted { !byte } else { *byte };
                pattern.iter().map(turn).cycle().take(size).collect()
            }
        };
        repeat(&block, len)
    }

    fn advance(&mut self, done: &BlockRequest) {
        match done.range() {
            Some(range) => self.at = range.end(),
            None => {
                self.pass += 1;
                self.at = 0;
            }
        }
    }

    /// PROGRESS INDICATION: part of 65536.
    fn progress(&self, geometry: &Geometry) -> u16 {
        let passes = u128::from(self.passes().max(1));
        let done = u128::from(self.pass) * u128::from(geometry.size) + u128::from(self.at);
        u16::try_from((done << 16) / (passes * u128::from(geometry.size.max(1)))).unwrap_or(u16::MAX)
    }
}

impl LogicalUnit {
    /// What a host is told while the medium is being sanitized or formatted, or could not be.
    pub(crate) fn operation_sense(&self) -> Option<Sense> {
        let operation = self.operation.as_ref()?;
        let (in_progress, failed) = match operation.formats() {
            true => (Asc::FORMAT_IN_PROGRESS, Asc::FORMAT_COMMAND_FAILED),
            false => (Asc::SANITIZE_IN_PROGRESS, Asc::SANITIZE_COMMAND_FAILED),
        };
        if operation.failed {
            return Some(Sense::new(SenseKey::MediumError, failed));
        }
        let sense = Sense::new(SenseKey::NotReady, in_progress);
        Some(sense.with_progress(operation.progress(&self.geometry)))
    }

    /// The same, when it stops a command: those that answer about the LU itself run, and after a failure those that may mend it.
    pub(crate) fn stopped_by_operation(&self, row: &Row) -> Option<Sense> {
        let operation = self.operation.as_ref()?;
        let about_itself = row.data == Data::In && row.access != Access::Active;
        if about_itself || operation.failed && operation.is_followed_by(row.opcode) {
            return None;
        }
        self.operation_sense()
    }
}

const FORMAT_UNIT: u8 = 0x04;
const SANITIZE: u8 = 0x48;

/// Orders an operation; `waits` is IMMED set to zero.
pub(crate) fn begin(c: &mut Context<'_>, operation: Operation, waits: bool) -> Run {
    c.lu.operation = Some(operation);
    let mut outcome = c.settle(Vec::new(), Vec::new())?;
    if let Outcome::Settle(settle) = &mut outcome {
        settle.operation = Some(OperationStart { waits });
    }
    Ok(outcome)
}

/// An operation whose order has been stored may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationStart {
    /// The command is answered when the operation is over (IMMED 0).
    pub waits: bool,
}

/// What comes next of an operation.
#[derive(Debug)]
pub enum OperationStep {
    /// Submit this, then call [`TargetDevice::operation_done`].
    Submit(BlockRequest),
    /// All is done, or has failed: store this record durably, then call [`TargetDevice::operation_end`].
    Store(Bytes),
    /// There is none.
    Idle,
}

/// The driver of operations calls these, one step after the other.
impl TargetDevice {
    /// LUs with an operation that has neither been completed nor failed: at a start, those that a former life has begun.
    pub fn operating(&self) -> Vec<LuId> {
        let running = |unit: &LogicalUnit| unit.operation.as_ref().is_some_and(|operation| !operation.failed);
        self.lus.iter().filter(|(_, unit)| running(unit)).map(|(id, _)| *id).collect()
    }

    /// Everything in the LU's task set but `task` is aborted: nothing that was begun before the operation may write behind it.
    pub fn operation_alone(&mut self, task: Task) -> Managed {
        let (mut abort, mut release) = (Vec::new(), Vec::new());
        if let Some(unit) = task.lu.and_then(|lu| self.lus.get_mut(&lu)) {
            let tas = unit.mode.current.tas;
            let me = (task.nexus, task.tag);
            let other = |nexus, tag| (nexus, tag) != me;
            unit.tasks.abort(other, |nexus| tas && nexus != task.nexus, &mut abort, &mut release);
            unit.announce_cleared(task.nexus, &abort);
        }
        Managed { response: ManagementResponse::Complete, abort, release }
    }

    /// Whether the LU's operation is FORMAT UNIT, and no SANITIZE.
    pub fn formats(&self, lu: LuId) -> bool {
        self.lus.get(&lu).and_then(|unit| unit.operation.as_ref()).is_some_and(Operation::formats)
    }

    /// The next step of the LU's operation.
    pub fn operation_step(&mut self, lu: LuId) -> OperationStep {
        let Some(unit) = self.lus.get_mut(&lu) else { return OperationStep::Idle };
        let (geometry, thin) = (unit.geometry, unit.thin);
        match &mut unit.operation {
            None => OperationStep::Idle,
            Some(operation) if operation.failed => OperationStep::Store(unit.save()),
            Some(operation) => match operation.next(&geometry, thin) {
                Some(request) => OperationStep::Submit(request),
                None => OperationStep::Store(unit.save_without_operation()),
            },
        }
    }

    /// The result of a step. Answers `false` when the step must be tried again, since the LU is not served just now.
    pub fn operation_done(
        &mut self,
        lu: LuId,
        request: &BlockRequest,
        result: Result<(), BlockError>,
    ) -> bool {
        let Some(operation) = self.lus.get_mut(&lu).and_then(|unit| unit.operation.as_mut()) else {
            return true;
        };
        match result {
            Ok(()) => operation.advance(request),
            Err(BlockError::NotServed | BlockError::NotReady | BlockError::Aborted) => return false,
            Err(_) => operation.failed = true,
        }
        true
    }

    /// The record of the end is stored: hosts are served again, unless the operation failed.
    pub fn operation_end(&mut self, lu: LuId) {
        if let Some(unit) = self.lus.get_mut(&lu) {
            unit.operation.take_if(|operation| !operation.failed);
        }
    }

    /// The record of an exit from failure mode is stored.
    pub fn operation_left(&mut self, lu: LuId) {
        if let Some(unit) = self.lus.get_mut(&lu) {
            unit.operation.take_if(|operation| operation.failed);
        }
    }

    /// The order could not be stored and nothing was touched. Whether a start would find it nobody knows, so the LU is in failure mode, which
    /// EXIT FAILURE MODE leaves, or another FORMAT UNIT.
    pub fn operation_not_stored(&mut self, lu: LuId) {
        if let Some(operation) = self.lus.get_mut(&lu).and_then(|unit| unit.operation.as_mut()) {
            (operation.failed, operation.unrestricted) = (true, true);
        }
    }

    /// The answer to a command that has waited for the end.
    pub fn operation_reply(&self, lu: LuId) -> Reply {
        let unit = self.lus.get(&lu);
        match unit.and_then(|unit| Some((unit.operation_sense()?, unit.mode.current.d_sense))) {
            Some((sense, descriptor)) => Reply::check(&sense, descriptor),
            None => Reply::good(),
        }
    }
}
