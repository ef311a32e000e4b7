//! Disks that are files or block devices.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{IoSliceMut, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{FallocateFlags, FlockOperation, OFlags};
use rustix::io::{Errno, ReadWriteFlags};
use twinlun_block::{ByteRange, Payload};

use super::buffers::{CLASSES, ReadBuffer};
use super::op::{Kind, MAX_SEGMENTS, Op, OpResult, slices};
use super::pool::Pool;
use super::uring::Ring;
use crate::{DiskError, DiskOptions, Durability};

/// Reads are cut at the largest buffer.
const READ_STEP: u64 = CLASSES[CLASSES.len() - 1] as u64;
/// Buffered writes up to this size are done at once: they only copy to the page cache, and file systems hand them from the ring to a
/// thread, which costs more than the copy.
const INLINE_WRITE: usize = 256 << 10;
/// Zeros written at a time where the file system cannot make them.
const ZERO_STEP: u64 = 1 << 20;

/// Where operations that may block go.
#[derive(Clone)]
pub(crate) enum Engine {
    Uring(Rc<Ring>),
    Pool(Rc<Pool>),
}

impl Engine {
    async fn submit(&self, op: Op) -> (Op, OpResult) {
        match self {
            Self::Uring(ring) => ring.submit(op).await,
            Self::Pool(pool) => pool.submit(op).await,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Uring(_) => "uring",
            Self::Pool(_) => "portable",
        }
    }
}

pub(crate) struct FileDisk {
    file: Arc<File>,
    size: u64,
    engine: Engine,
    /// Cleared when the file system does not know `RWF_NOWAIT`.
    cached_reads: Cell<bool>,
}

impl FileDisk {
    /// Opens and locks; creating and locking are quick and done on the calling thread.
    pub(crate) fn open(path: &Path, options: &DiskOptions, engine: Engine) -> Result<Self, DiskError> {
        let opened = open_file(path, options).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => DiskError::NotFound { path: path.into() },
            _ => DiskError::Open { path: path.into(), reason: error.to_string() },
        })?;
        let (mut file, created) = opened;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => DiskError::Locked { path: path.into() },
            error => DiskError::Open { path: path.into(), reason: error.to_string() },
        })?;
        let bad = |error: std::io::Error| DiskError::Open { path: path.into(), reason: error.to_string() };
        if let (true, Some(size)) = (created, options.create) {
            // Only a file that is still empty is sized: another process may have created it between our two calls.
            if file.metadata().map_err(bad)?.len() == 0 {
                file.set_len(size).map_err(bad)?;
                file.sync_all().map_err(bad)?;
                let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                File::open(folder).and_then(|folder| folder.sync_all()).map_err(bad)?;
            }
        }
        let size = file.seek(SeekFrom::End(0)).map_err(bad)?;
        Ok(Self { file: Arc::new(file), size, engine, cached_reads: Cell::new(true) })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    fn op(&self, kind: Kind) -> Op {
        Op { file: self.file.clone(), kind }
    }

    pub(crate) async fn read(&self, range: ByteRange) -> Result<Payload, DiskError> {
        if range.len() <= READ_STEP {
            return Ok(self.read_piece(range).await?.into());
        }
        let mut out = Payload::new();
        for piece in range.split_at_multiples(READ_STEP) {
            out.push(self.read_piece(piece).await?);
        }
        Ok(out)
    }

    async fn read_piece(&self, range: ByteRange) -> Result<Bytes, DiskError> {
        let len = range.len() as usize;
        let mut buffer = ReadBuffer::new(len);
        let mut at = self.read_cached(&mut buffer, range.offset());
        while at < len {
            let offset = range.offset() + at as u64;
            let (op, result) = self.engine.submit(self.op(Kind::Read { buffer, at, offset })).await;
            let Kind::Read { buffer: returned, .. } = op.kind else {
                unreachable!("an operation comes back as it went")
            };
            buffer = returned;
            match result {
                Ok(0) => return Err(DiskError::Read { offset, reason: "the file ends here".into() }),
                Ok(n) => at += n,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(DiskError::Read { offset, reason: error.to_string() }),
            }
        }
        Ok(buffer.filled())
    }

    /// Bytes that the page cache had at once.
    fn read_cached(&self, buffer: &mut ReadBuffer, offset: u64) -> usize {
        if !self.cached_reads.get() {
            return 0;
        }
        let mut slices = [IoSliceMut::new(buffer.rest(0))];
        match rustix::io::preadv2(self.file.as_fd(), &mut slices, offset, ReadWriteFlags::NOWAIT) {
            Ok(n) => n,
            Err(Errno::OPNOTSUPP) => {
                self.cached_reads.set(false);
                0
            }
            Err(_) => 0,
        }
    }

    pub(crate) async fn write(
        &self,
        offset: u64,
        data: Payload,
        durability: Durability,
    ) -> Result<(), DiskError> {
        let stable = durability == Durability::Stable;
        let (mut offset, mut left) = (offset, data);
        if !stable && left.len() <= INLINE_WRITE && left.segments().len() <= MAX_SEGMENTS {
            match rustix::io::pwritev2(self.file.as_fd(), &slices(&left), offset, ReadWriteFlags::empty()) {
                Ok(n) if n == left.len() => return Ok(()),
                Ok(n) => {
                    left = left.slice(n, left.len() - n);
                    offset += n as u64;
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(write_error(error, offset, stable)),
            }
        }
        while !left.is_empty() {
            let (op, result) = self.engine.submit(self.op(Kind::Write { data: left, offset, stable })).await;
            let Kind::Write { data, .. } = op.kind else {
                unreachable!("an operation comes back as it went")
            };
            left = data;
            match result {
                Ok(0) => return Err(DiskError::Write { offset, reason: "nothing was written".into() }),
                Ok(n) => {
                    left = left.slice(n, left.len() - n);
                    offset += n as u64;
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(write_error(error, offset, stable)),
            }
        }
        Ok(())
    }

    pub(crate) async fn flush(&self) -> Result<(), DiskError> {
        loop {
            match self.engine.submit(self.op(Kind::Flush)).await.1 {
                Ok(_) => return Ok(()),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(DiskError::Flush { reason: error.to_string() }),
            }
        }
    }

    pub(crate) async fn zero(&self, range: ByteRange, may_unmap: bool) -> Result<(), DiskError> {
        let mode = if may_unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        let mode = mode | FallocateFlags::KEEP_SIZE;
        loop {
            let kind = Kind::Zero { offset: range.offset(), len: range.len(), mode };
            match self.engine.submit(self.op(kind)).await.1 {
                Ok(_) => return Ok(()),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => return self.write_zeros(range).await,
                Err(error) => return Err(write_error(error, range.offset(), false)),
            }
        }
    }

    async fn write_zeros(&self, range: ByteRange) -> Result<(), DiskError> {
        let zeros = Bytes::from(vec![0; ZERO_STEP.min(range.len()) as usize]);
        for piece in range.split_at_multiples(ZERO_STEP) {
            let data = zeros.slice(..piece.len() as usize);
            self.write(piece.offset(), data.into(), Durability::Volatile).await?;
        }
        Ok(())
    }
}

/// The file, and whether it was made just now.
fn open_file(path: &Path, options: &DiskOptions) -> std::io::Result<(File, bool)> {
    let mut open = OpenOptions::new();
    open.read(true).write(true);
    // A block device that is mounted or part of something else is refused by the kernel (open(2), O_EXCL).
    if std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device()) {
        open.custom_flags(OFlags::EXCL.bits().cast_signed());
    }
    match open.open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && options.create.is_some() => {
            open.create(true).mode(0o600).open(path).map(|file| (file, true))
        }
        opened => opened.map(|file| (file, false)),
    }
}

fn write_error(error: Errno, offset: u64, stable: bool) -> DiskError {
    match error {
        Errno::NOSPC | Errno::DQUOT => DiskError::Full { offset },
        // A write that must be stable and is not may have lost earlier writes as well, as a failed flush may.
        Errno::IO if stable => DiskError::Flush { reason: error.to_string() },
        error => DiskError::Write { offset, reason: error.to_string() },
    }
}
