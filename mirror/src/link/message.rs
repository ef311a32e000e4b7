//! What units ask each other and how they answer, apart from any encoding.

use bytes::Bytes;
use twinlun_block::{BlockError, ByteRange, Payload};

/// Largest control message in bytes: a mirror database with hundreds of images fits many times over.
pub const MAX_CONTROL: usize = 1 << 20;

/// Largest payload of one data message in bytes. Longer host writes are cut by the mirror driver.
pub const MAX_DATA: usize = 4 << 20;

/// A request from the unit that dialled to the unit that listened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Administration and database traffic, opaque to the link; at most [`MAX_CONTROL`] bytes.
    Control(Bytes),
    /// Work on an image.
    Data(DataRequest),
}

/// Work on one LU of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataRequest {
    /// The mirror whose secondary image at the receiver is meant.
    pub image: [u8; 16],
    /// Index of the LU within the LU array set.
    pub lu: u16,
    /// Attachment epoch: the receiver refuses what an earlier attachment of the primary still sends.
    pub epoch: u64,
    /// Bytes of the LU; empty for [`DataOp::Flush`].
    pub range: ByteRange,
    /// Whether a resynchronisation copies old data, as opposed to forwarding a host's write.
    pub copy: bool,
    /// What is to be done to the range.
    pub op: DataOp,
}

/// What is to be done to a range of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataOp {
    /// Write.
    Write {
        /// Exactly as long as the range; at most [`MAX_DATA`] bytes.
        payload: Payload,
        /// Answered only once the data is on stable storage.
        stable: bool,
    },
    /// Write all of it or nothing, whatever fails meanwhile.
    WriteAtomic {
        /// As for a write.
        payload: Payload,
        /// As for a write.
        stable: bool,
    },
    /// Write zeros without carrying them.
    WriteZeroes {
        /// Whether the space may be given up.
        may_unmap: bool,
        /// As for a write.
        stable: bool,
    },
    /// Give the range up; it reads as zeros afterwards.
    Unmap,
    /// Read at most [`MAX_DATA`] bytes.
    Read,
    /// Everything answered before is on stable storage once this is answered.
    Flush,
}

/// The answer to a request, of the same kind as the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// Answer to [`Request::Control`]; at most [`MAX_CONTROL`] bytes.
    Control(Bytes),
    /// Answer to [`Request::Data`]; the payload is empty for everything but a read that was done.
    Data(DataStatus, Payload),
}

/// How work on an image ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataStatus {
    /// Done.
    Done,
    /// The image's own layer failed.
    Failed(BlockError),
    /// The epoch is not that of the current attachment; nothing was touched.
    StaleEpoch,
    /// The receiver holds no such image, or not as a secondary of the sender; nothing was touched.
    NotAttached,
}

impl Request {
    /// What the request costs of the receiver's window in bytes: what it carries, or what its answer will.
    pub(super) fn cost(&self) -> usize {
        match self {
            Self::Control(message) => message.len(),
            Self::Data(DataRequest {
                op: DataOp::Write { payload, .. } | DataOp::WriteAtomic { payload, .. },
                ..
            }) => payload.len(),
            Self::Data(DataRequest { op: DataOp::Read, range, .. }) => {
                range.len().min(MAX_DATA as u64) as usize
            }
            Self::Data(_) => 0,
        }
    }

    /// Whether the sender may put it on the wire at all.
    pub(super) fn is_sendable(&self) -> bool {
        match self {
            Self::Control(message) => message.len() <= MAX_CONTROL,
            Self::Data(data) => match &data.op {
                DataOp::Write { payload, .. } | DataOp::WriteAtomic { payload, .. } => {
                    payload.len() <= MAX_DATA && payload.len() as u64 == data.range.len()
                }
                DataOp::Read => data.range.len() <= MAX_DATA as u64,
                DataOp::Flush | DataOp::Unmap | DataOp::WriteZeroes { .. } => true,
            },
        }
    }
}
