//! Disks that are files or block devices.

use std::cell::Cell;
use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};
use twinlun_block::{ByteRange, Payload};

use super::buffers::{CLASSES, ReadBuffer};
use super::flush::FlushTurns;
use super::map;
use super::op::{Kind, Op, OpResult, Opened, with_slices};
use super::open;
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

/// Zeros that the file system makes at a time: it holds the file's lock meanwhile, and writes wait for that.
const ALLOCATE_STEP: u64 = 128 << 20;

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
    file: Arc<Opened>,
    size: u64,
    engine: Engine,
    /// Cleared when the file system does not know `RWF_NOWAIT`.
    cached_reads: Cell<bool>,
    /// Cleared when it cannot punch holes.
    can_punch: Cell<bool>,
    /// Cleared when it cannot make zeros in place.
    can_zero: Cell<bool>,
    flushes: FlushTurns,
}

impl FileDisk {
    /// Opens and locks, on a thread that may block.
    pub(crate) async fn open(path: &Path, options: DiskOptions, engine: Engine) -> Result<Self, DiskError> {
        let owned = path.to_path_buf();
        let opening = tokio::task::spawn_blocking(move || open::open(&owned, &options));
        let (file, size) = opening
            .await
            .map_err(|error| DiskError::Open { path: path.into(), reason: error.to_string() })??;
        Ok(Self::new(file, size, engine))
    }

    pub(crate) fn new(file: File, size: u64, engine: Engine) -> Self {
        Self {
            file: Opened::new(file),
            size,
            engine,
            cached_reads: Cell::new(true),
            can_punch: Cell::new(true),
            can_zero: Cell::new(true),
            flushes: FlushTurns::default(),
        }
    }

    /// Whether the system has said that writes are lost.
    pub(crate) fn is_suspect(&self) -> bool {
        self.file.is_suspect()
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    async fn submit(&self, kind: Kind) -> (Op, OpResult) {
        self.engine.submit(Op { file: self.file.clone(), kind }).await
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
            let (op, result) = self.submit(Kind::Read { buffer, at, offset }).await;
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
        match rustix::io::preadv2(self.file.file.as_fd(), &mut slices, offset, ReadWriteFlags::NOWAIT) {
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
        let whole = ByteRange::new(offset, data.len() as u64);
        // The kernel's ring carries out the writes of one file one after the other, and with `RWF_DSYNC` each would wait for the disk alone. So the
        // ring makes the range stable in a second step, of which many run at a time; threads do both in one call.
        let (stable, sync_after) = match (durability, &self.engine) {
            (Durability::Volatile, _) => (false, false),
            (Durability::Stable, Engine::Uring(_)) => (false, true),
            (Durability::Stable, Engine::Pool(_)) => (true, false),
        };
        let (mut offset, mut left) = (offset, data);
        let mut inline = !stable && left.len() <= INLINE_WRITE;
        while !left.is_empty() {
            let result = if std::mem::take(&mut inline) {
                let file = self.file.file.as_fd();
                let flags = ReadWriteFlags::empty();
                with_slices(&left, |slices| rustix::io::pwritev2(file, slices, offset, flags))
            } else {
                let (op, result) = self.submit(Kind::Write { data: left, offset, stable }).await;
                let Kind::Write { data, .. } = op.kind else {
                    unreachable!("an operation comes back as it went")
                };
                left = data;
                result
            };
            match result {
                Ok(0) => return Err(DiskError::Write { offset, reason: "nothing was written".into() }),
                Ok(n) => {
                    left = left.slice(n, left.len() - n);
                    offset += n as u64;
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error @ (Errno::NOSPC | Errno::DQUOT)) if stable => {
                    return Err(self.full_or_lost(error, offset, left).await);
                }
                Err(error) => return Err(write_error(error, offset, stable)),
            }
        }
        if sync_after && !whole.is_empty() { self.sync(Some(whole)).await } else { Ok(()) }
    }

    /// A stable write has found no space: for its own data, which is then not written, or for earlier writes that it pushed out, which are then
    /// lost. Without the pushing only the first is possible.
    async fn full_or_lost(&self, error: Errno, offset: u64, data: Payload) -> DiskError {
        let again = self.submit(Kind::Write { data, offset, stable: false }).await.1;
        if matches!(again, Err(Errno::NOSPC | Errno::DQUOT)) {
            return DiskError::Full { offset };
        }
        self.file.distrust();
        DiskError::Flush { reason: error.to_string() }
    }

    pub(crate) async fn flush(&self) -> Result<(), DiskError> {
        self.flushes.run(async || self.sync(None).await).await
    }

    async fn sync(&self, range: Option<ByteRange>) -> Result<(), DiskError> {
        loop {
            // Another flow's flush may have failed while this one waited for its turn.
            if self.is_suspect() {
                return Err(DiskError::Flush { reason: "an earlier flush failed".into() });
            }
            match self.submit(Kind::Flush { range }).await.1 {
                Ok(_) => return Ok(()),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(DiskError::Flush { reason: error.to_string() }),
            }
        }
    }

    /// Asks the file system, on a thread that may block. One that keeps no map, and a block device, say that everything is taken.
    pub(crate) async fn allocated(&self, range: ByteRange) -> Result<(bool, u64), DiskError> {
        let file = self.file.clone();
        let asked = tokio::task::spawn_blocking(move || map::allocated(file.file.as_fd(), range));
        let offset = range.offset();
        asked.await.map_err(|error| DiskError::Read { offset, reason: error.to_string() })
    }

    /// What the file system has left; `None` for a block device.
    pub(crate) async fn free_space(&self) -> Option<u64> {
        let file = self.file.clone();
        let asked = tokio::task::spawn_blocking(move || map::free_space(file.file.as_fd()));
        asked.await.ok().flatten()
    }

    pub(crate) async fn zero(&self, range: ByteRange, may_unmap: bool) -> Result<(), DiskError> {
        for piece in range.split_at_multiples(ALLOCATE_STEP) {
            if may_unmap && self.allocate(piece, FallocateFlags::PUNCH_HOLE, &self.can_punch).await?
                || self.allocate(piece, FallocateFlags::ZERO_RANGE, &self.can_zero).await?
            {
                continue;
            }
            self.write_zeros(piece).await?;
        }
        Ok(())
    }

    /// Has the file system make zeros; `false` when it cannot, for ever (`can`) or for this range.
    async fn allocate(
        &self,
        range: ByteRange,
        mode: FallocateFlags,
        can: &Cell<bool>,
    ) -> Result<bool, DiskError> {
        let mode = mode | FallocateFlags::KEEP_SIZE;
        while can.get() {
            let kind = Kind::Zero { offset: range.offset(), len: range.len(), mode };
            match self.submit(kind).await.1 {
                Ok(_) => return Ok(true),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => can.set(false),
                // A block device wants whole blocks.
                Err(Errno::INVAL) => return Ok(false),
                Err(error) => return Err(write_error(error, range.offset(), false)),
            }
        }
        Ok(false)
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

fn write_error(error: Errno, offset: u64, stable: bool) -> DiskError {
    match error {
        Errno::NOSPC | Errno::DQUOT => DiskError::Full { offset },
        // A write that must be stable and is not may have lost earlier writes as well, as a failed flush may.
        Errno::IO if stable => DiskError::Flush { reason: error.to_string() },
        error => DiskError::Write { offset, reason: error.to_string() },
    }
}
