//! The contract between layers: one request, one answer.

use std::future::Future;

use crate::{BlockSize, ByteRange, Payload};

/// What a layer is asked to do. Ranges are aligned to the LU's block size and lie within it; the issuer has checked.
#[derive(Clone, Debug)]
pub enum BlockRequest {
    /// Read the range. Answered with as many bytes.
    Read {
        /// Bytes to read.
        range: ByteRange,
    },
    /// Write the data to the range.
    Write {
        /// Bytes to write.
        range: ByteRange,
        /// Exactly `range.len()` bytes.
        data: Payload,
        /// Force unit access: answered only when the data is on stable storage.
        fua: bool,
    },
    /// Everything answered before this was issued is on stable storage when it is answered.
    Flush,
    /// The host no longer needs the range. It reads as zeros afterwards, on every image alike.
    Unmap {
        /// Bytes to give up.
        range: ByteRange,
    },
    /// Write zeros, without carrying them.
    WriteZeroes {
        /// Bytes to clear.
        range: ByteRange,
        /// As for a write.
        fua: bool,
        /// Whether the space may be given up. Without it the space stays allocated.
        may_unmap: bool,
    },
    /// Write all of the data or, whatever fails meanwhile, none of it (SBC-4, 4.29). At most [`Geometry::max_atomic`] bytes.
    WriteAtomic {
        /// Bytes to write.
        range: ByteRange,
        /// Exactly `range.len()` bytes.
        data: Payload,
        /// As for a write.
        fua: bool,
    },
    /// Write `data` if the range holds `compare`; atomic against every request that overlaps (SBC-4, 5.3).
    CompareAndWrite {
        /// Bytes to compare and write.
        range: ByteRange,
        /// What the range must hold, `range.len()` bytes.
        compare: Payload,
        /// What is written when it does, `range.len()` bytes.
        data: Payload,
        /// As for a write.
        fua: bool,
    },
}

impl BlockRequest {
    /// The range it touches; `None` for a flush.
    pub fn range(&self) -> Option<ByteRange> {
        match self {
            Self::Read { range }
            | Self::Write { range, .. }
            | Self::Unmap { range }
            | Self::WriteZeroes { range, .. }
            | Self::WriteAtomic { range, .. }
            | Self::CompareAndWrite { range, .. } => Some(*range),
            Self::Flush => None,
        }
    }

    /// Whether it may change data.
    pub fn is_write(&self) -> bool {
        !matches!(self, Self::Read { .. } | Self::Flush)
    }
}

/// Why a request was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// No copy of these bytes can be read or written any more.
    #[error("medium error at byte {offset}")]
    Medium {
        /// First byte known to be bad.
        offset: u64,
    },
    /// COMPARE AND WRITE found other data.
    #[error("data differs at byte {offset} of the comparison")]
    Miscompare {
        /// Offset from the start of the range.
        offset: u64,
    },
    /// There is no space for a write to a thin LU.
    #[error("no space left")]
    NoSpace,
    /// The LU is present but not served here: a secondary image, or an INACTIVE mirror (R-HOST-3, R-MS-1).
    #[error("not served by this image")]
    NotServed,
    /// The LU cannot be served just now and may be later: it is being recovered or has lost too many disks.
    #[error("not ready")]
    NotReady,
    /// The storage processor stops or lost ownership; the host shall retry on another path.
    #[error("aborted")]
    Aborted,
}

/// The answer to a request. The payload is empty for everything but a read.
pub type BlockResult = Result<Payload, BlockError>;

/// Whether and how UNMAP works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UnmapSupport {
    /// Unit in which space is given up, in bytes; 0 when UNMAP gives nothing up.
    pub granularity: u64,
}

/// What a layer can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size in bytes, a multiple of the block size.
    pub size: u64,
    /// Logical block size.
    pub block_size: BlockSize,
    /// Best transfer size and alignment in bytes (a stripe), 0 when there is none.
    pub optimal_io: u64,
    /// Unmapping.
    pub unmap: UnmapSupport,
}

impl Geometry {
    /// Number of logical blocks.
    pub const fn blocks(&self) -> u64 {
        self.size >> self.block_size.shift()
    }

    /// Most bytes of a [`BlockRequest::WriteAtomic`]: a fixed number of blocks, so that the layers below know what room to keep for one.
    pub const fn max_atomic(&self) -> u64 {
        256 << self.block_size.shift()
    }

    /// The whole LU.
    pub const fn whole(&self) -> ByteRange {
        ByteRange::new(0, self.size)
    }
}

/// A run of bytes, and whether storage is taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// The run.
    pub range: ByteRange,
    /// Storage is taken, or nobody knows. Otherwise the run reads as zeros.
    pub mapped: bool,
}

impl Allocation {
    /// Appends a run, joining it with the last one where both are of a kind.
    pub fn join(list: &mut Vec<Self>, next: Self) {
        match list.last_mut() {
            Some(last) if last.mapped == next.mapped && last.range.end() == next.range.offset() => {
                last.range = ByteRange::new(last.range.offset(), last.range.len() + next.range.len());
            }
            _ if next.range.is_empty() => {}
            _ => list.push(next),
        }
    }
}

/// A layer: takes requests, answers each exactly once, in any order.
///
/// Futures are polled to the end; no layer relies on being cancelled, and dropping one half way is the caller's bug.
pub trait BlockLayer: 'static {
    /// Its size and shape.
    fn geometry(&self) -> Geometry;

    /// Carries out one request.
    fn execute(&self, request: BlockRequest) -> impl Future<Output = BlockResult>;

    /// A hint: the range is read, or written, in a moment. Whoever has it in memory brings it nearer to the processor meanwhile.
    fn prefetch(&self, range: ByteRange, write: bool) {
        let _ = (range, write);
    }

    /// For which parts of the range storage is taken: runs in order from its start, `limit` of them at most, which may end before it does.
    fn allocation(
        &self,
        range: ByteRange,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Allocation>, BlockError>> {
        let _ = limit;
        async move { Ok(vec![Allocation { range, mapped: true }]) }
    }
}

/// The comparison of COMPARE AND WRITE and of VERIFY with BYTCHK.
pub fn compare(on_medium: &Payload, expected: &Payload) -> Result<(), BlockError> {
    match on_medium.first_difference(expected) {
        Some(offset) => Err(BlockError::Miscompare { offset: offset as u64 }),
        None => Ok(()),
    }
}
