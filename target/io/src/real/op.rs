//! One operation on a file, as both disk engines carry it out.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};
use twinlun_block::{ByteRange, Payload};

use super::buffers::ReadBuffer;

/// Segments of one vectored write (the kernel's limit).
pub(crate) const MAX_SEGMENTS: usize = 1024;

/// Segments of a vectored write that are listed on the stack.
const FEW_SEGMENTS: usize = 64;

/// An open file, and whether it can be trusted.
pub(crate) struct Opened {
    pub(crate) file: File,
    /// The kernel tells an open file once that it lost writes. Kept here, so that the news outlives a flow that was dropped
    /// while it waited.
    suspect: AtomicBool,
}

impl Opened {
    pub(crate) fn new(file: File) -> Arc<Self> {
        Arc::new(Self { file, suspect: AtomicBool::new(false) })
    }

    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    pub(crate) fn distrust(&self) {
        self.suspect.store(true, Ordering::Relaxed);
    }
}

/// What is to be done. It owns every byte that the kernel may touch until it is over.
pub(crate) struct Op {
    pub(crate) file: Arc<Opened>,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    /// Fills the buffer from byte `at` of it.
    Read { buffer: ReadBuffer, at: usize, offset: u64 },
    /// Writes at most [`MAX_SEGMENTS`] segments; `stable` makes them so in the same call.
    Write { data: Payload, offset: u64, stable: bool },
    /// Makes what was written stable: everything, or at least the range.
    Flush { range: Option<ByteRange> },
    /// Makes a range read as zeros.
    Zero { offset: u64, len: u64, mode: FallocateFlags },
}

/// Bytes moved, or why not.
pub(crate) type OpResult = Result<usize, Errno>;

impl Op {
    /// Carries it out on the calling thread.
    pub(crate) fn run(&mut self) -> OpResult {
        let file = self.file.file.as_fd();
        match &mut self.kind {
            Kind::Read { buffer, at, offset } => rustix::io::pread(file, buffer.rest(*at), *offset),
            Kind::Write { data, offset, stable } => {
                let flags = if *stable { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
                with_slices(data, |slices| rustix::io::pwritev2(file, slices, *offset, flags))
            }
            // There is no call for a range.
            Kind::Flush { range: _ } => rustix::fs::fdatasync(file).map(|()| 0),
            Kind::Zero { offset, len, mode } => rustix::fs::fallocate(file, *mode, *offset, *len).map(|()| 0),
        }
    }

    /// Every engine calls this with what came of the operation, whether or not somebody waits for it.
    pub(crate) fn note(&self, result: OpResult) {
        let Err(error) = result else { return };
        let lost_writes = match self.kind {
            Kind::Flush { .. } => !matches!(error, Errno::INTR | Errno::AGAIN),
            Kind::Write { stable, .. } => stable && error == Errno::IO,
            Kind::Read { .. } | Kind::Zero { .. } => false,
        };
        if lost_writes {
            self.file.distrust();
        }
    }
}

/// Calls `write` with the first segments of a payload, as many as one call takes.
pub(crate) fn with_slices<T>(data: &Payload, write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
    let segments = data.segments();
    if segments.len() > FEW_SEGMENTS {
        let slices: Vec<_> =
            segments.iter().take(MAX_SEGMENTS).map(|segment| IoSlice::new(segment)).collect();
        return write(&slices);
    }
    let mut slices = [IoSlice::new(&[]); FEW_SEGMENTS];
    for (slot, segment) in slices.iter_mut().zip(segments) {
        *slot = IoSlice::new(segment);
    }
    write(&slices[..segments.len()])
}
