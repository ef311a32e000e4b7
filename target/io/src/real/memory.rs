//! Disks in memory: `ram:` keeps what is written until the process ends, `null:` keeps nothing. For measuring what is above them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use twinlun_block::{ByteRange, Payload};

use crate::DiskError;

/// Memory is taken in pieces of this size when they are first written. Reads hand out the piece itself, so a piece is what is copied
/// when a write meets a read that has not been sent yet.
const PIECE: u64 = 4 << 10;
/// What was never written is read as parts of this many zeros.
const ZEROS: u64 = 1 << 20;

/// Nothing until it is first written; nothing reads as zeros.
type Piece = Option<Bytes>;

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
        Ok(Self { path: path.into(), size, pieces, zeros: Bytes::from(vec![0; ZEROS as usize]) })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn read(&self, range: ByteRange) -> Payload {
        let mut out = Payload::new();
        let Some(pieces) = &self.pieces else {
            for part in range.split_at_multiples(ZEROS) {
                out.push(self.zeros.slice(..part.len() as usize));
            }
            return out;
        };
        let pieces = pieces.borrow();
        for part in range.split_at_multiples(PIECE) {
            let (at, len) = ((part.offset() % PIECE) as usize, part.len() as usize);
            out.push(match &pieces[(part.offset() / PIECE) as usize] {
                Some(piece) => piece.slice(at..at + len),
                None => self.zeros.slice(..len),
            });
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
                change(&mut pieces[(at / PIECE) as usize], |piece| {
                    piece[start..start + len].copy_from_slice(&segment[..len]);
                });
                segment = &segment[len..];
                at += len as u64;
            }
        }
    }

    /// Whether memory is taken for the first byte, and where within the range that ends.
    pub(crate) fn allocated(&self, range: ByteRange) -> (bool, u64) {
        let Some(pieces) = &self.pieces else { return (true, range.end()) };
        let pieces = pieces.borrow();
        let taken = |at: u64| pieces[(at / PIECE) as usize].is_some();
        let first = taken(range.offset());
        let mut parts = range.split_at_multiples(PIECE);
        let end = parts.find(|part| taken(part.offset()) != first);
        (first, end.map_or(range.end(), ByteRange::offset))
    }

    pub(crate) fn zero(&self, range: ByteRange) {
        let Some(pieces) = &self.pieces else { return };
        let mut pieces = pieces.borrow_mut();
        for part in range.split_at_multiples(PIECE) {
            let slot = &mut pieces[(part.offset() / PIECE) as usize];
            if part.len() == PIECE {
                *slot = None;
            } else if slot.is_some() {
                let at = (part.offset() % PIECE) as usize;
                change(slot, |piece| piece[at..at + part.len() as usize].fill(0));
            }
        }
    }
}

/// Changes a piece, or a copy of it when somebody still has what was read: that must not change.
fn change(slot: &mut Piece, how: impl FnOnce(&mut [u8])) {
    let mut piece = slot.take().map_or_else(|| BytesMut::zeroed(PIECE as usize), BytesMut::from);
    how(&mut piece);
    *slot = Some(piece.freeze());
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
        let before = ram.read(ByteRange::new(1 << 20, 4));
        ram.write((1 << 20) + 1, &Payload::from(vec![7, 7]));
        assert_eq!(&before.to_bytes()[..], &[4, 5, 0, 0], "what was read does not change");
        assert_eq!(&ram.read(ByteRange::new(1 << 20, 4)).to_bytes()[..], &[4, 7, 7, 0]);
        ram.write(1 << 20, &Payload::from(vec![4, 5, 0]));
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
