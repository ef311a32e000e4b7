//! What a command asks of the block layer: a few steps, each one request (SBC-4, clause 5).

use std::collections::VecDeque;

use twinlun_block::{BlockError, BlockRequest, BlockResult, BlockSize, ByteRange, Payload, compare};

use crate::LuId;
use crate::copy::CopyId;
use crate::sense::{Asc, Reply, Sense, SenseKey};

/// Reads for verification and writes of a repeated pattern move at most this much at a time.
pub(crate) const STEP: u64 = 1 << 20;

/// Unmapping and clearing move in larger steps: they carry no data.
pub(crate) const CLEAR_STEP: u64 = 64 << 20;

/// How often ORWRITE starts over because other writes came between its read and its write.
const MERGE_ATTEMPTS: u32 = 64;

/// A command on its way through the block layer.
///
/// [`crate::TargetDevice::step`] says what is to be submitted to the layer of [`Io::lu`], until it is done.
#[derive(Debug)]
#[must_use = "a command without its steps gets no answer"]
pub struct Io {
    lu: LuId,
    size: BlockSize,
    descriptor_sense: bool,
    data_out_len: u64,
    plan: Plan,
}

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Submit this and come back with the result.
    Submit(BlockRequest),
    /// The command is over.
    Done(Reply),
}

/// The work of a command.
#[derive(Debug)]
pub(crate) enum Plan {
    /// One request. The data of a read goes to the host.
    Single(BlockRequest),
    /// A flush, and then the request: READ with FUA.
    Flushed(BlockRequest),
    /// Submitted; the command ends with its result.
    Last { write: bool },
    /// Everything longer, off the hot path.
    Long(Box<Long>),
    /// A third-party copy: the copy manager has its state.
    Copy(CopyId),
}

/// Work of several requests.
#[derive(Debug)]
pub(crate) enum Long {
    /// Requests one after the other, taken from the front.
    Sequence { requests: VecDeque<BlockRequest>, write: bool },
    /// WRITE SAME of data: `pattern` is the longest piece.
    Repeat { left: ByteRange, pattern: Payload, fua: bool },
    /// Reads the range and compares.
    Verify { left: ByteRange, start: u64, expected: Expected, asked: u64 },
    /// A write, then the rest.
    Then { write: Option<BlockRequest>, waiting: bool, rest: Box<Long> },
    /// ORWRITE, and part of a block: read, then compare and write, until nobody came between.
    Merge { how: Merge, range: ByteRange, data: Payload, fua: bool, read: Option<Payload>, attempts: u32 },
}

/// What becomes of the bytes on the medium for which there is data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merge {
    /// They get the set bits of the data as well.
    Or,
    /// The data takes their place.
    Replace,
}

/// What a verification compares with.
#[derive(Debug)]
pub(crate) enum Expected {
    /// Nothing: the medium must be readable.
    Readable,
    /// The Data-Out.
    Data(Payload),
    /// One block, again and again; a run of [`STEP`] bytes of it.
    Pattern(Payload),
}

impl Io {
    pub(crate) fn new(
        lu: LuId,
        size: BlockSize,
        descriptor_sense: bool,
        data_out_len: u64,
        plan: Plan,
    ) -> Self {
        Self { lu, size, descriptor_sense, data_out_len, plan }
    }

    /// The LU that the request submitted last goes to.
    pub fn lu(&self) -> LuId {
        self.lu
    }

    /// A third-party copy goes on at another LU.
    pub(crate) fn turn_to(&mut self, lu: LuId) {
        self.lu = lu;
    }

    /// The third-party copy that it is, if it is one.
    pub(crate) fn copy(&self) -> Option<CopyId> {
        match self.plan {
            Plan::Copy(copy) => Some(copy),
            _ => None,
        }
    }

    /// The ranges that it has yet to write.
    pub(crate) fn each_write(&self, mut changes: impl FnMut(ByteRange)) {
        match &self.plan {
            Plan::Single(request) | Plan::Flushed(request) => {
                request.range().filter(|_| request.is_write()).into_iter().for_each(changes);
            }
            Plan::Last { .. } | Plan::Copy(_) => {}
            Plan::Long(long) => match &**long {
                Long::Sequence { requests, .. } => {
                    requests
                        .iter()
                        .filter(|r| r.is_write())
                        .filter_map(BlockRequest::range)
                        .for_each(changes);
                }
                Long::Repeat { left, .. } => changes(*left),
                Long::Then { write, rest, .. } => {
                    write
                        .iter()
                        .filter(|r| r.is_write())
                        .filter_map(BlockRequest::range)
                        .for_each(&mut changes);
                    if let Long::Merge { range, .. } = &**rest {
                        changes(*range);
                    }
                }
                Long::Merge { range, .. } => changes(*range),
                Long::Verify { .. } => {}
            },
        }
    }

    /// The next step; see [`crate::TargetDevice::step`].
    pub(crate) fn next(&mut self, previous: Option<BlockResult>) -> Step {
        match std::mem::replace(&mut self.plan, Plan::Last { write: false }) {
            Plan::Single(request) => {
                self.plan = Plan::Last { write: !matches!(request, BlockRequest::Read { .. }) };
                Step::Submit(request)
            }
            Plan::Flushed(request) => match previous {
                None => {
                    self.plan = Plan::Flushed(request);
                    Step::Submit(BlockRequest::Flush)
                }
                Some(Ok(_)) => {
                    self.plan = Plan::Single(request);
                    self.next(None)
                }
                Some(Err(error)) => Step::Done(self.failed(error, true)),
            },
            Plan::Last { write } => match previous.unwrap_or(Err(BlockError::Aborted)) {
                Ok(data) => Step::Done(Reply { data_out_len: self.data_out_len, ..Reply::data(data) }),
                Err(error) => Step::Done(self.failed(error, write)),
            },
            // The copy manager has its steps; it is asked instead.
            Plan::Copy(_) => Step::Done(self.failed(BlockError::Aborted, true)),
            Plan::Long(mut long) => match long.next(previous) {
                Ok(Some(request)) => {
                    self.plan = Plan::Long(long);
                    Step::Submit(request)
                }
                Ok(None) => Step::Done(Reply { data_out_len: self.data_out_len, ..Reply::good() }),
                Err((error, write)) => Step::Done(self.failed(error, write)),
            },
        }
    }

    fn failed(&self, error: BlockError, write: bool) -> Reply {
        let sense = Sense::from_block_error(error, write, self.size);
        Reply { data_out_len: self.data_out_len, ..Reply::check(&sense, self.descriptor_sense) }
    }
}

impl Long {
    /// The next request, or `None` when all went well; the flag of an error says whether it was a write.
    fn next(&mut self, previous: Option<BlockResult>) -> Result<Option<BlockRequest>, (BlockError, bool)> {
        match self {
            Self::Sequence { requests, write } => {
                previous.transpose().map_err(|e| (e, *write))?;
                Ok(requests.pop_front())
            }
            Self::Repeat { left, pattern, fua } => {
                previous.transpose().map_err(|e| (e, true))?;
                let len = left.len().min(pattern.len() as u64);
                if len == 0 {
                    return Ok(None);
                }
                let range = ByteRange::new(left.offset(), len);
                *left = ByteRange::new(range.end(), left.len() - len);
                Ok(Some(BlockRequest::Write { range, data: pattern.slice(0, len as usize), fua: *fua }))
            }
            Self::Verify { left, start, expected, asked } => {
                if let Some(result) = previous {
                    let data = result.map_err(|e| (e, false))?;
                    let at = left.offset() - *asked;
                    expected.check(&data, at - *start).map_err(|e| (e, false))?;
                }
                *asked = left.len().min(STEP);
                if *asked == 0 {
                    return Ok(None);
                }
                let range = ByteRange::new(left.offset(), *asked);
                *left = ByteRange::new(range.end(), left.len() - *asked);
                Ok(Some(BlockRequest::Read { range }))
            }
            Self::Then { write, waiting, rest } => {
                if let Some(request) = write.take() {
                    *waiting = true;
                    return Ok(Some(request));
                }
                if std::mem::take(waiting) {
                    previous.transpose().map_err(|e| (e, true))?;
                    return rest.next(None);
                }
                rest.next(previous)
            }
            Self::Merge { how, range, data, fua, read, attempts } => {
                let old = match (previous, read.take()) {
                    (None, _) => return Ok(Some(BlockRequest::Read { range: *range })),
                    (Some(Ok(old)), None) => old,
                    (Some(Ok(_)), Some(_)) => return Ok(None),
                    (Some(Err(BlockError::Miscompare { .. })), Some(_)) if *attempts > 0 => {
                        *attempts -= 1;
                        return Ok(Some(BlockRequest::Read { range: *range }));
                    }
                    (Some(Err(BlockError::Miscompare { .. })), _) => return Err((BlockError::Aborted, true)),
                    (Some(Err(error)), read) => return Err((error, read.is_some())),
                };
                let mut merged = old.to_bytes().to_vec();
                for (byte, more) in merged.iter_mut().zip(data.to_bytes()) {
                    *byte = if *how == Merge::Or { *byte | more } else { more };
                }
                *read = Some(old.clone());
                Ok(Some(BlockRequest::CompareAndWrite {
                    range: *range,
                    compare: old,
                    data: Payload::from(merged),
                    fua: *fua,
                }))
            }
        }
    }

    pub(crate) fn merge(how: Merge, range: ByteRange, data: Payload, fua: bool) -> Self {
        Self::Merge { how, range, data, fua, read: None, attempts: MERGE_ATTEMPTS }
    }

    pub(crate) fn then(write: Option<BlockRequest>, rest: Self) -> Self {
        Self::Then { write, waiting: false, rest: Box::new(rest) }
    }

    pub(crate) fn verify(range: ByteRange, expected: Expected) -> Self {
        Self::Verify { left: range, start: range.offset(), expected, asked: 0 }
    }
}

impl Expected {
    /// Compares what was read at `at` bytes behind the start.
    fn check(&self, read: &Payload, at: u64) -> Result<(), BlockError> {
        let expected = match self {
            Self::Readable => return Ok(()),
            Self::Data(data) => data.slice(at as usize, read.len()),
            Self::Pattern(pattern) => pattern.slice(0, read.len()),
        };
        compare(read, &expected).map_err(|error| match error {
            BlockError::Miscompare { offset } => BlockError::Miscompare { offset: offset + at },
            other => other,
        })
    }
}

/// `block` again and again, `len` bytes in all, sharing one copy of at most 64 KiB.
pub(crate) fn repeat(block: &[u8], len: u64) -> Payload {
    const COPY: usize = 64 << 10;
    let run = bytes::Bytes::from(block.repeat((COPY / block.len().max(1)).max(1)));
    let mut out = Payload::new();
    let mut left = len as usize;
    while left > 0 && !run.is_empty() {
        let piece = left.min(run.len());
        out.push(run.slice(..piece));
        left -= piece;
    }
    out
}

/// A failure to store what must be durable before the answer.
pub(crate) fn not_stored() -> Sense {
    Sense::new(SenseKey::HardwareError, Asc::INTERNAL_TARGET_FAILURE)
}
