//! One operation on a file, as both disk engines carry it out.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};
use twinlun_block::Payload;

use super::buffers::ReadBuffer;

/// Segments of one vectored write (the kernel's limit).
pub(crate) const MAX_SEGMENTS: usize = 1024;

/// What is to be done. It owns every byte that the kernel may touch until it is over.
pub(crate) struct Op {
    pub(crate) file: Arc<File>,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    /// Fills the buffer from byte `at` of it.
    Read { buffer: ReadBuffer, at: usize, offset: u64 },
    /// Writes at most [`MAX_SEGMENTS`] segments.
    Write { data: Payload, offset: u64, stable: bool },
    /// Makes everything written stable.
    Flush,
    /// Makes a range read as zeros.
    Zero { offset: u64, len: u64, mode: FallocateFlags },
}

/// Bytes moved, or why not.
pub(crate) type OpResult = Result<usize, Errno>;

impl Op {
    /// Carries it out on the calling thread.
    pub(crate) fn run(&mut self) -> OpResult {
        let file = self.file.as_fd();
        match &mut self.kind {
            Kind::Read { buffer, at, offset } => rustix::io::pread(file, buffer.rest(*at), *offset),
            Kind::Write { data, offset, stable } => {
                let flags = if *stable { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
                rustix::io::pwritev2(file, &slices(data), *offset, flags)
            }
            Kind::Flush => rustix::fs::fdatasync(file).map(|()| 0),
            Kind::Zero { offset, len, mode } => rustix::fs::fallocate(file, *mode, *offset, *len).map(|()| 0),
        }
    }
}

/// The first segments of a payload, as many as one call takes.
pub(crate) fn slices(data: &Payload) -> Vec<IoSlice<'_>> {
    data.segments().iter().take(MAX_SEGMENTS).map(|segment| IoSlice::new(segment)).collect()
}
