//! Disks in memory: `ram:` keeps what is written until the process ends, `null:` keeps nothing. For measuring what is above them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use twinlun_block::{ByteRange, Payload};

use crate::DiskError;

/// Memory is taken in pieces of this size when they are first written.
const PIECE: u64 = 1 << 20;

/// Nothing until it is first written; nothing reads as zeros.
type Piece = Option<Box<[u8]>>;

thread_local! {
    /// Names in use on this shard's thread: a second opener is refused as it is with files.
    static OPEN: RefCell<BTreeSet<PathBuf>> = const { RefCell::new(BTreeSet::new()) };
}

pub(crate) struct MemoryDisk {
    path: PathBuf,
    size: u64,
    /// `None` for a disk that forgets.
    pieces: Option<RefCell<Vec<Piece>>>,
    zeros: Bytes,
}

impl MemoryDisk {
    /// Whether the path names a disk in memory.
    pub(crate) fn names(path: &Path) -> bool {
        path.to_str().is_some_and(|text| text.starts_with("ram:") || text.starts_with("null:"))
    }

    pub(crate) fn open(path: &Path, size: Option<u64>) -> Result<Self, DiskError> {
        let Some(size) = size else {
            return Err(DiskError::Open {
                path: path.into(),
                reason: "a disk in memory needs a size".into(),
            });
        };
        if !OPEN.with_borrow_mut(|open| open.insert(path.into())) {
            return Err(DiskError::Locked { path: path.into() });
        }
        let keeps = path.to_str().is_some_and(|text| text.starts_with("ram:"));
        let count = usize::try_from(size.div_ceil(PIECE)).unwrap_or(usize::MAX);
        let pieces = keeps.then(|| RefCell::new((0..count).map(|_| None).collect()));
        Ok(Self { path: path.into(), size, pieces, zeros: Bytes::from(vec![0; PIECE as usize]) })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn read(&self, range: ByteRange) -> Payload {
        let mut out = Payload::new();
        for part in range.split_at_multiples(PIECE) {
            let (at, len) = ((part.offset() % PIECE) as usize, part.len() as usize);
            let piece = self.pieces.as_ref().map(|pieces| pieces.borrow());
            match piece.as_ref().and_then(|pieces| pieces[(part.offset() / PIECE) as usize].as_ref()) {
                // What is read must not change when the place is written again, so it is copied.
                Some(piece) => out.push(BytesMut::from(&piece[at..at + len]).freeze()),
                None => out.push(self.zeros.slice(..len)),
            }
        }
        out
    }

    pub(crate) fn write(&self, offset: u64, data: &Payload) {
        let Some(pieces) = &self.pieces else { return };
        let mut pieces = pieces.borrow_mut();
        let mut at = offset;
        for segment in data.segments() {
            let mut segment = &segment[..];
            while !segment.is_empty() {
                let start = (at % PIECE) as usize;
                let len = segment.len().min(PIECE as usize - start);
                let piece =
                    pieces[(at / PIECE) as usize].get_or_insert_with(|| vec![0; PIECE as usize].into());
                piece[start..start + len].copy_from_slice(&segment[..len]);
                segment = &segment[len..];
                at += len as u64;
            }
        }
    }

    pub(crate) fn zero(&self, range: ByteRange) {
        let Some(pieces) = &self.pieces else { return };
        let mut pieces = pieces.borrow_mut();
        for part in range.split_at_multiples(PIECE) {
            let slot = &mut pieces[(part.offset() / PIECE) as usize];
            if part.len() == PIECE {
                *slot = None;
            } else if let Some(piece) = slot {
                let at = (part.offset() % PIECE) as usize;
                piece[at..at + part.len() as usize].fill(0);
            }
        }
    }
}

impl Drop for MemoryDisk {
    fn drop(&mut self) {
        let _ = OPEN.try_with(|open| open.borrow_mut().remove(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_keeps_and_null_forgets() {
        let ram = MemoryDisk::open(Path::new("ram:t"), Some(3 << 20)).expect("opens");
        assert!(matches!(MemoryDisk::open(Path::new("ram:t"), Some(1 << 20)), Err(DiskError::Locked { .. })));
        ram.write((1 << 20) - 3, &Payload::from(vec![1, 2, 3, 4, 5]));
        let read = ram.read(ByteRange::new((1 << 20) - 4, 8));
        assert_eq!(&read.to_bytes()[..], &[0, 1, 2, 3, 4, 5, 0, 0]);
        ram.zero(ByteRange::new(0, 1 << 20));
        assert_eq!(&ram.read(ByteRange::new((1 << 20) - 4, 8)).to_bytes()[..], &[0, 0, 0, 0, 4, 5, 0, 0]);
        drop(ram);
        let null = MemoryDisk::open(Path::new("null:t"), Some(1 << 20)).expect("opens");
        null.write(0, &Payload::from(vec![9; 16]));
        assert!(null.read(ByteRange::new(0, 16)).is_zero());
        assert!(MemoryDisk::open(Path::new("ram:none"), None).is_err());
    }
}
