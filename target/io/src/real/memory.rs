//! Disks in memory: `ram:` keeps what is written until the process ends, `null:` keeps nothing. For measuring what is above them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use twinlun_block::{ByteRange, Payload};

use super::buffers::ReadBuffer;
use crate::DiskError;

/// Memory is taken in pieces of this size when they are first written.
const PIECE: u64 = 1 << 20;

/// Nothing until it is first written; nothing reads as zeros.
type Piece = Option<Box<[u8]>>;

/// What every disk of this process held when it was closed. An open one has `None` here: a second opener is refused as with files.
static CLOSED: Mutex<BTreeMap<PathBuf, Option<Contents>>> = Mutex::new(BTreeMap::new());

struct Contents {
    size: u64,
    /// Empty for a disk that forgets.
    pieces: Vec<Piece>,
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
        let keeps = path.to_str().is_some_and(|text| text.starts_with("ram:"));
        let mut closed = CLOSED.lock().unwrap_or_else(PoisonError::into_inner);
        let Contents { size, pieces } = match (closed.get_mut(path), size) {
            (Some(contents), _) => contents.take().ok_or_else(|| DiskError::Locked { path: path.into() })?,
            (None, None) => return Err(DiskError::NotFound { path: path.into() }),
            (None, Some(size)) => {
                let count = if keeps { usize::try_from(size.div_ceil(PIECE)).ok() } else { Some(0) };
                let mut pieces = Vec::new();
                let reserved = count.is_some_and(|count| pieces.try_reserve_exact(count).is_ok());
                if !reserved {
                    let reason = "too large for this machine's memory".into();
                    return Err(DiskError::Open { path: path.into(), reason });
                }
                pieces.resize_with(count.unwrap_or(0), || None);
                closed.insert(path.into(), None);
                Contents { size, pieces }
            }
        };
        let pieces = keeps.then(|| RefCell::new(pieces));
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
                Some(piece) => {
                    let mut copy = ReadBuffer::new(len);
                    copy.rest(0).copy_from_slice(&piece[at..at + len]);
                    out.push(copy.filled());
                }
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
        let pieces = self.pieces.take().map(RefCell::into_inner).unwrap_or_default();
        let contents = Contents { size: self.size, pieces };
        let mut closed = CLOSED.lock().unwrap_or_else(PoisonError::into_inner);
        closed.insert(std::mem::take(&mut self.path), Some(contents));
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
        let again = MemoryDisk::open(Path::new("ram:t"), Some(9)).expect("opens what is there");
        assert_eq!(again.size(), 3 << 20, "opening never resizes");
        assert_eq!(&again.read(ByteRange::new(1 << 20, 3)).to_bytes()[..], &[4, 5, 0]);
        let null = MemoryDisk::open(Path::new("null:t"), Some(1 << 20)).expect("opens");
        null.write(0, &Payload::from(vec![9; 16]));
        assert!(null.read(ByteRange::new(0, 16)).is_zero());
        assert!(matches!(MemoryDisk::open(Path::new("ram:none"), None), Err(DiskError::NotFound { .. })));
        assert!(matches!(
            MemoryDisk::open(Path::new("ram:vast"), Some(u64::MAX)),
            Err(DiskError::Open { .. })
        ));
    }
}
