//! Disks: files, block devices, memory, or simulated ones, behind one handle.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;

use twinlun_block::{ByteRange, Payload};

use crate::real::RealDisk;
use crate::sim::SimDisk;

/// How a disk is opened.
#[derive(Clone, Debug, Default)]
pub struct DiskOptions {
    /// Create the file with this size when it does not exist. An existing file is never resized by opening it.
    pub create: Option<u64>,
}

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The disk has it; a flush makes it stable.
    Volatile,
    /// It is on stable storage (force unit access).
    Stable,
}

/// Why a disk did not do what it was told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// No such file or device.
    #[error("{path}: not found")]
    NotFound {
        /// The disk.
        path: PathBuf,
    },
    /// Another process has it.
    #[error("{path}: in use by another process (is a second twinlund running on it?)")]
    Locked {
        /// The disk.
        path: PathBuf,
    },
    /// The disk cannot be opened.
    #[error("{path}: {reason}")]
    Open {
        /// The disk.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// Reading failed at or after this byte.
    #[error("read error at byte {offset}: {reason}")]
    Read {
        /// Start of the failed range.
        offset: u64,
        /// What the system says.
        reason: String,
    },
    /// Writing failed; what the range holds now is unknown.
    #[error("write error at byte {offset}: {reason}")]
    Write {
        /// Start of the failed range.
        offset: u64,
        /// What the system says.
        reason: String,
    },
    /// No space for the range on the file system that carries the disk.
    #[error("no space left for byte {offset}")]
    Full {
        /// Start of the failed range.
        offset: u64,
    },
    /// A flush failed. Nobody knows which writes are lost, so the disk acknowledges nothing more (latched).
    #[error("flush failed, the disk is not trusted any more: {reason}")]
    Flush {
        /// What the system says.
        reason: String,
    },
    /// The range does not lie within the disk.
    #[error("range {range} is beyond the end of the disk ({size} bytes)")]
    OutOfRange {
        /// The range.
        range: ByteRange,
        /// Size of the disk.
        size: u64,
    },
}

/// An open disk. Clones are the same disk; it is closed and unlocked when the last one is dropped.
#[derive(Clone)]
pub struct Disk {
    inner: Rc<Inner>,
}

struct Inner {
    backend: Backend,
    /// Set by a failed flush or stable write: from then on only reads are served.
    latched: Cell<bool>,
}

pub(crate) enum Backend {
    Real(RealDisk),
    Sim(SimDisk),
}

impl Disk {
    pub(crate) fn new(backend: Backend) -> Self {
        Self { inner: Rc::new(Inner { backend, latched: Cell::new(false) }) }
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        match &self.inner.backend {
            Backend::Real(disk) => disk.size(),
            Backend::Sim(disk) => disk.size(),
        }
    }

    /// A hint: the range is read, or written, in a moment. Costs little and promises nothing.
    pub fn prefetch(&self, range: ByteRange, write: bool) {
        match &self.inner.backend {
            Backend::Real(disk) => disk.prefetch(range, write),
            Backend::Sim(_) => {}
        }
    }

    /// Reads the range: as many bytes, or an error.
    pub async fn read(&self, range: ByteRange) -> Result<Payload, DiskError> {
        self.check(range)?;
        match &self.inner.backend {
            Backend::Real(disk) => disk.read(range).await,
            Backend::Sim(disk) => disk.read(range).await,
        }
    }

    /// Writes all data at `offset`.
    pub async fn write(&self, offset: u64, data: Payload, durability: Durability) -> Result<(), DiskError> {
        let range = ByteRange::checked(offset, data.len() as u64)
            .ok_or(DiskError::OutOfRange { range: ByteRange::new(offset, 0), size: self.size() })?;
        self.check(range)?;
        self.refuse_when_latched()?;
        let done = match &self.inner.backend {
            Backend::Real(disk) => disk.write(offset, data, durability).await,
            Backend::Sim(disk) => disk.write(offset, data, durability).await,
        };
        if matches!(done, Err(DiskError::Flush { .. })) {
            self.inner.latched.set(true);
        }
        // A flush that failed while this write was under way may have dropped it.
        done.and_then(|()| self.refuse_when_latched())
    }

    /// Makes every write that was answered before stable.
    pub async fn flush(&self) -> Result<(), DiskError> {
        self.refuse_when_latched()?;
        let done = match &self.inner.backend {
            Backend::Real(disk) => disk.flush().await,
            Backend::Sim(disk) => disk.flush().await,
        };
        if done.is_err() {
            self.inner.latched.set(true);
        }
        done.and_then(|()| self.refuse_when_latched())
    }

    /// Makes the range read as zeros; gives its space up if it may.
    pub async fn zero(
        &self,
        range: ByteRange,
        may_unmap: bool,
        durability: Durability,
    ) -> Result<(), DiskError> {
        self.check(range)?;
        self.refuse_when_latched()?;
        match &self.inner.backend {
            Backend::Real(disk) => disk.zero(range, may_unmap).await?,
            Backend::Sim(disk) => disk.zero(range, may_unmap).await?,
        }
        if durability == Durability::Stable { self.flush().await } else { self.refuse_when_latched() }
    }

    /// Whether storage is taken for the byte at the start of the range, and where within the range that ends. Disks that cannot tell say yes.
    pub async fn allocated(&self, range: ByteRange) -> Result<(bool, u64), DiskError> {
        self.check(range)?;
        match &self.inner.backend {
            Backend::Real(disk) => disk.allocated(range).await,
            Backend::Sim(disk) => Ok(disk.allocated(range)),
        }
    }

    /// Bytes that the carrier of the disk has left, where it can run out of them before the disk is full.
    pub async fn free_space(&self) -> Option<u64> {
        match &self.inner.backend {
            Backend::Real(disk) => disk.free_space().await,
            Backend::Sim(_) => None,
        }
    }

    /// Whether a failed flush has ended all acknowledgements.
    pub fn is_latched(&self) -> bool {
        self.inner.latched.get()
            || match &self.inner.backend {
                // It may know of a failure whose flow was dropped before it could hear of it.
                Backend::Real(disk) => disk.is_suspect(),
                Backend::Sim(_) => false,
            }
    }

    fn refuse_when_latched(&self) -> Result<(), DiskError> {
        if self.is_latched() {
            return Err(DiskError::Flush { reason: "an earlier flush failed".into() });
        }
        Ok(())
    }

    fn check(&self, range: ByteRange) -> Result<(), DiskError> {
        if range.end() > self.size() {
            return Err(DiskError::OutOfRange { range, size: self.size() });
        }
        Ok(())
    }
}
