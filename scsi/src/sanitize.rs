//! SANITIZE: making everything that was ever written to a LU unreadable (SBC-4, 4.11, 5.30).
//!
//! The order is durable before anything is overwritten, and so is its end before hosts are served again: a crash in the middle begins the
//! operation anew, and a crash behind it never wipes what was written since. While it runs, commands other than those about the LU itself are
//! refused; aborting the command, a reset or the end of the session changes nothing. When it fails the LU stays in failure mode.

use bytes::Bytes;
use twinlun_block::{BlockError, BlockRequest, ByteRange, Geometry, Payload};

use crate::Outcome;
use crate::attention::UnitAttention;
use crate::context::{Context, Fault, Run};
use crate::device::{LuId, TargetDevice};
use crate::io::{CLEAR_STEP, STEP, repeat};
use crate::lu::LogicalUnit;
use crate::row::{Access, Data, Row};
use crate::sense::{Asc, Reply, Sense, SenseKey};
use crate::tasks::{Managed, ManagementResponse, Task};
use crate::wire::Fields;

/// What is done to the medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Writes a pattern, repeated within each block, a number of times.
    Overwrite { pattern: Bytes, passes: u8, invert: bool },
    /// Writes zeros, then gives all space up.
    BlockErase,
}

/// An operation that was ordered and has not been completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sanitize {
    pub(crate) method: Method,
    /// AUSE: a failure can be left by EXIT FAILURE MODE.
    pub(crate) unrestricted: bool,
    pub(crate) failed: bool,
    /// Pass and first byte of it that is still to be done. Not stored: a start begins anew.
    pass: u8,
    at: u64,
}

impl Sanitize {
    pub(crate) fn new(method: Method, unrestricted: bool) -> Self {
        Self { method, unrestricted, failed: false, pass: 0, at: 0 }
    }

    fn passes(&self) -> u8 {
        match self.method {
            Method::Overwrite { passes, .. } => passes,
            Method::BlockErase => 2,
        }
    }

    /// The next request, `None` when the last one was answered.
    fn next(&mut self, geometry: &Geometry) -> Option<BlockRequest> {
        if self.pass >= self.passes() {
            return None;
        }
        if self.at >= geometry.size {
            // What a pass has written must be on the medium before the next one hides it.
            return Some(BlockRequest::Flush);
        }
        let step = |len: u64| ByteRange::new(self.at, len.min(geometry.size - self.at));
        if self.method == Method::BlockErase && self.pass == 1 {
            return Some(BlockRequest::Unmap { range: step(CLEAR_STEP) });
        }
        let range = step(STEP);
        Some(BlockRequest::Write { range, data: self.data(geometry, range.len()), fua: false })
    }

    fn data(&self, geometry: &Geometry, len: u64) -> Payload {
        let size = geometry.block_size.bytes() as usize;
        let block: Vec<u8> = match &self.method {
            Method::BlockErase => vec![0; size],
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
    /// What a host is told while the medium is being sanitized, or could not be.
    pub(crate) fn sanitize_sense(&self) -> Option<Sense> {
        let operation = self.sanitize.as_ref()?;
        if operation.failed {
            return Some(Sense::new(SenseKey::MediumError, Asc::SANITIZE_COMMAND_FAILED));
        }
        let sense = Sense::new(SenseKey::NotReady, Asc::SANITIZE_IN_PROGRESS);
        Some(sense.with_progress(operation.progress(&self.geometry)))
    }

    /// The same, when it stops a command: those that answer about the LU itself run, and SANITIZE where the last one failed.
    pub(crate) fn stopped_by_sanitize(&self, row: &Row) -> Option<Sense> {
        let operation = self.sanitize.as_ref()?;
        let about_itself = row.data == Data::In && row.access != Access::Active;
        if about_itself || operation.failed && row.opcode == 0x48 {
            return None;
        }
        self.sanitize_sense()
    }
}

const IMMED: u8 = 7;
const AUSE: u8 = 5;
/// Header of the parameter list of OVERWRITE.
const HEADER: usize = 4;

pub(crate) fn overwrite(c: &mut Context<'_>) -> Run {
    let len = c.length16(7);
    let block = c.lu.geometry.block_size.bytes() as usize;
    if len <= HEADER || len > HEADER + block {
        return Err(Sense::cdb_field(7, None).into());
    }
    let list = c.parameter_list(len as u64)?;
    let (invert, test, passes) = (list.bit_at(0, 7), list.u8_at(0) >> 5 & 3, list.u8_at(0) & 0x1F);
    if test != 0 || passes == 0 {
        return Err(Sense::parameter(0).into());
    }
    if list.u8_at(1) != 0 {
        return Err(Sense::parameter(1).into());
    }
    let pattern_len = usize::from(list.u16_at(2));
    if pattern_len == 0 || pattern_len > block {
        return Err(Sense::parameter(2).into());
    }
    let Some(pattern) = list.get(HEADER..HEADER + pattern_len) else {
        return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR).into());
    };
    let pattern = Bytes::copy_from_slice(pattern);
    begin(c, Method::Overwrite { pattern, passes, invert })
}

pub(crate) fn block_erase(c: &mut Context<'_>) -> Run {
    begin(c, Method::BlockErase)
}

fn begin(c: &mut Context<'_>, method: Method) -> Run {
    // After a failure in restricted mode only a restricted operation may follow (SBC-4, 5.30.1).
    let unrestricted = c.cdb.bit_at(1, AUSE);
    if unrestricted && c.lu.sanitize.as_ref().is_some_and(|last| last.failed && !last.unrestricted) {
        return Err(Sense::cdb_field(1, Some(AUSE)).into());
    }
    c.lu.sanitize = Some(Sanitize::new(method, unrestricted));
    let waits = !c.cdb.bit_at(1, IMMED);
    let mut outcome = c.settle(Vec::new(), Vec::new())?;
    if let Outcome::Settle(settle) = &mut outcome {
        settle.sanitize = Some(SanitizeStart { waits });
    }
    Ok(outcome)
}

pub(crate) fn exit_failure_mode(c: &mut Context<'_>) -> Run {
    match &c.lu.sanitize {
        Some(last) if last.failed && !last.unrestricted => Err(Fault::from(Sense::cdb_field(1, Some(4)))),
        Some(last) if last.failed => {
            // Left only when that is durable, by way of `sanitize_left`; until then the medium is refused.
            let mut outcome = c.settle(Vec::new(), Vec::new())?;
            if let Outcome::Settle(settle) = &mut outcome {
                settle.record = Some(c.lu.save_without_sanitize());
                settle.sanitize_left = true;
            }
            Ok(outcome)
        }
        _ => Context::good(),
    }
}

/// A SANITIZE whose order has been stored may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SanitizeStart {
    /// The command is answered when the operation is over (IMMED 0).
    pub waits: bool,
}

/// What comes next of an operation.
#[derive(Debug)]
pub enum SanitizeStep {
    /// Submit this, then call [`TargetDevice::sanitize_done`].
    Submit(BlockRequest),
    /// All is done, or has failed: store this record durably, then call [`TargetDevice::sanitize_end`].
    Store(Bytes),
    /// There is none.
    Idle,
}

/// The driver of operations calls these, one step after the other.
impl TargetDevice {
    /// LUs with an operation that has neither been completed nor failed: at a start, those that a former life has begun.
    pub fn sanitizing(&self) -> Vec<LuId> {
        let running = |unit: &LogicalUnit| unit.sanitize.as_ref().is_some_and(|operation| !operation.failed);
        self.lus.iter().filter(|(_, unit)| running(unit)).map(|(id, _)| *id).collect()
    }

    /// Everything in the LU's task set but `task` is aborted: nothing that was begun before the operation may write behind it.
    pub fn sanitize_alone(&mut self, task: Task) -> Managed {
        let (mut abort, mut release) = (Vec::new(), Vec::new());
        if let Some(unit) = task.lu.and_then(|lu| self.lus.get_mut(&lu)) {
            let tas = unit.mode.current.tas;
            let me = (task.nexus, task.tag);
            let other = |nexus, tag| (nexus, tag) != me;
            unit.tasks.abort(other, |nexus| tas && nexus != task.nexus, &mut abort, &mut release);
            if !tas {
                let told = |id| id != task.nexus && abort.iter().any(|a| a.task.nexus == id);
                unit.establish(UnitAttention::CommandsClearedByAnotherInitiator, told);
            }
        }
        Managed { response: ManagementResponse::Complete, abort, release }
    }

    /// The next step of the LU's operation.
    pub fn sanitize_step(&mut self, lu: LuId) -> SanitizeStep {
        let Some(unit) = self.lus.get_mut(&lu) else { return SanitizeStep::Idle };
        let geometry = unit.geometry;
        match &mut unit.sanitize {
            None => SanitizeStep::Idle,
            Some(operation) if operation.failed => SanitizeStep::Store(unit.save()),
            Some(operation) => match operation.next(&geometry) {
                Some(request) => SanitizeStep::Submit(request),
                None => SanitizeStep::Store(unit.save_without_sanitize()),
            },
        }
    }

    /// The result of a step. Answers `false` when the step must be tried again, since the LU is not served just now.
    pub fn sanitize_done(
        &mut self,
        lu: LuId,
        request: &BlockRequest,
        result: Result<(), BlockError>,
    ) -> bool {
        let Some(operation) = self.lus.get_mut(&lu).and_then(|unit| unit.sanitize.as_mut()) else {
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
    pub fn sanitize_end(&mut self, lu: LuId) {
        if let Some(unit) = self.lus.get_mut(&lu) {
            unit.sanitize.take_if(|operation| !operation.failed);
        }
    }

    /// The record of an exit from failure mode is stored.
    pub fn sanitize_left(&mut self, lu: LuId) {
        if let Some(unit) = self.lus.get_mut(&lu) {
            unit.sanitize.take_if(|operation| operation.failed);
        }
    }

    /// The order could not be stored and nothing was touched. Whether a start would find it nobody knows, so the LU is in failure mode, which
    /// EXIT FAILURE MODE leaves.
    pub fn sanitize_not_stored(&mut self, lu: LuId) {
        if let Some(operation) = self.lus.get_mut(&lu).and_then(|unit| unit.sanitize.as_mut()) {
            (operation.failed, operation.unrestricted) = (true, true);
        }
    }

    /// The answer to a command that has waited for the end.
    pub fn sanitize_reply(&self, lu: LuId) -> Reply {
        let unit = self.lus.get(&lu);
        match unit.and_then(|unit| Some((unit.sanitize_sense()?, unit.mode.current.d_sense))) {
            Some((sense, descriptor)) => Reply::check(&sense, descriptor),
            None => Reply::good(),
        }
    }
}
