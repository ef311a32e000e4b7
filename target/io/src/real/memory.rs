//! Disks in memory: `ram:` keeps what is written until the process ends, `null:` keeps nothing. For measuring what is above them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use twinlun_block::{ByteRange, Payload};

use super::pages::{PAGE, Pages};
use crate::DiskError;

/// What was never written is read as parts of this many zeros.
const ZEROS: u64 = 1 << 20;

/// What every disk of this process held when it was closed. An open one has `None` here: a second opener is refused as with files.
static CLOSED: Mutex<BTreeMap<PathBuf, Option<Contents>>> = Mutex::new(BTreeMap::new());

struct Contents {
    size: u64,
    /// `None` for a disk that forgets.
    store: Option<Store>,
}

pub(crate) struct MemoryDisk {
    path: PathBuf,
    size: u64,
    /// `None` for a disk that forgets.
    store: Option<RefCell<Store>>,
    zeros: Bytes,
}

/// Where a page's content is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nowhere: it reads as zeros.
    Nowhere,
    /// In its place.
    Page,
    /// Aside: it was written to while somebody still had what was read from its place, which must not change.
    Aside,
}

struct Store {
    pages: Pages,
    places: Vec<Place>,
    /// Hardly ever has any.
    aside: BTreeMap<usize, Bytes>,
}

impl Store {
    fn new(size: u64) -> Option<Self> {
        let count = usize::try_from(size.div_ceil(PAGE as u64)).ok()?;
        let mut places = Vec::new();
        places.try_reserve_exact(count).ok()?;
        let pages = Pages::new(count).ok()?;
        places.resize(count, Place::Nowhere);
        Some(Self { pages, places, aside: BTreeMap::new() })
    }

    /// The page of the first byte, and the bytes that follow on pages whose content is in the same kind of place.
    fn run(&self, range: ByteRange) -> (Place, usize) {
        let (first, last) = (page_of(range.offset()), page_of(range.end() - 1));
        let place = self.places[first];
        let same = |page: &Place| *page == place && place != Place::Aside;
        let more = self.places[first + 1..=last].iter().take_while(|page| same(page)).count();
        let end = ((first + more + 1) * PAGE) as u64;
        (place, (end.min(range.end()) - range.offset()) as usize)
    }

    /// Changes a page.
    fn change(&mut self, page: usize, how: impl FnOnce(&mut [u8])) {
        let place = std::mem::replace(&mut self.places[page], Place::Page);
        if let Some(bytes) = self.pages.page_mut(page) {
            match place {
                Place::Page => {}
                // Zeros, or what was not given back to the system when it became zeros.
                Place::Nowhere => bytes.fill(0),
                Place::Aside => {
                    bytes
                        .copy_from_slice(&self.aside.remove(&page).expect("its place says that it is aside"));
                }
            }
            return how(bytes);
        }
        let mut bytes = match place {
            Place::Nowhere => BytesMut::zeroed(PAGE),
            Place::Page => BytesMut::from(&self.pages.lend(page * PAGE, PAGE)[..]),
            Place::Aside => self.aside.remove(&page).map_or_else(|| BytesMut::zeroed(PAGE), BytesMut::from),
        };
        how(&mut bytes);
        self.places[page] = Place::Aside;
        self.aside.insert(page, bytes.freeze());
    }
}

fn page_of(offset: u64) -> usize {
    (offset / PAGE as u64) as usize
}

impl MemoryDisk {
    /// Whether the path names a disk in memory.
    pub(crate) fn names(path: &Path) -> bool {
        path.to_str().is_some_and(|text| text.starts_with("ram:") || text.starts_with("null:"))
    }

    pub(crate) fn open(path: &Path, size: Option<u64>) -> Result<Self, DiskError> {
        let keeps = path.to_str().is_some_and(|text| text.starts_with("ram:"));
        let mut closed = CLOSED.lock().unwrap_or_else(PoisonError::into_inner);
        let Contents { size, store } = match (closed.get_mut(path), size) {
            (Some(contents), _) => contents.take().ok_or_else(|| DiskError::Locked { path: path.into() })?,
            (None, None) => return Err(DiskError::NotFound { path: path.into() }),
            (None, Some(size)) => {
                let store = if keeps {
                    let reason = "too large for this machine's memory";
                    let vast = || DiskError::Open { path: path.into(), reason: reason.into() };
                    Some(Store::new(size).ok_or_else(vast)?)
                } else {
                    None
                };
                closed.insert(path.into(), None);
                Contents { size, store }
            }
        };
        let store = store.map(RefCell::new);
        Ok(Self { path: path.into(), size, store, zeros: Bytes::from(vec![0; ZEROS as usize]) })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Has the processor fetch what will be read or written soon.
    pub(crate) fn prefetch(&self, range: ByteRange, write: bool) {
        if let Some(store) = &self.store {
            store.borrow().pages.prefetch(range.offset() as usize, range.len() as usize, write);
        }
    }

    pub(crate) fn read(&self, range: ByteRange) -> Payload {
        let mut out = Payload::new();
        let Some(store) = &self.store else {
            for part in range.split_at_multiples(ZEROS) {
                out.push(self.zeros.slice(..part.len() as usize));
            }
            return out;
        };
        let store = store.borrow();
        let mut at = range.offset();
        while at < range.end() {
            let (place, len) = store.run(ByteRange::new(at, range.end() - at));
            let len = if place == Place::Nowhere { len.min(ZEROS as usize) } else { len };
            let start = at as usize % PAGE;
            out.push(match place {
                Place::Page => store.pages.lend(at as usize, len),
                Place::Aside => store.aside[&page_of(at)].slice(start..start + len),
                Place::Nowhere => self.zeros.slice(..len),
            });
            at += len as u64;
        }
        out
    }

    pub(crate) fn write(&self, offset: u64, data: &Payload) {
        let Some(store) = &self.store else { return };
        let mut store = store.borrow_mut();
        let mut at = offset;
        for segment in data.segments() {
            let mut segment = &segment[..];
            while !segment.is_empty() {
                let start = at as usize % PAGE;
                let len = segment.len().min(PAGE - start);
                store.change(page_of(at), |page| page[start..start + len].copy_from_slice(&segment[..len]));
                segment = &segment[len..];
                at += len as u64;
            }
        }
    }

    /// Whether memory is taken for the first byte, and where within the range that ends.
    pub(crate) fn allocated(&self, range: ByteRange) -> (bool, u64) {
        let Some(store) = &self.store else { return (true, range.end()) };
        let store = store.borrow();
        let taken = |at: u64| store.places[page_of(at)] != Place::Nowhere;
        let first = taken(range.offset());
        let mut parts = range.split_at_multiples(PAGE as u64);
        let end = parts.find(|part| taken(part.offset()) != first);
        (first, end.map_or(range.end(), ByteRange::offset))
    }

    pub(crate) fn zero(&self, range: ByteRange) {
        let Some(store) = &self.store else { return };
        let mut store = store.borrow_mut();
        for part in range.split_at_multiples(PAGE as u64) {
            let page = page_of(part.offset());
            if store.places[page] == Place::Nowhere {
                continue;
            }
            if part.len() == PAGE as u64 {
                store.places[page] = Place::Nowhere;
                store.aside.remove(&page);
                store.pages.discard(page);
            } else {
                let at = part.offset() as usize % PAGE;
                store.change(page, |page| page[at..at + part.len() as usize].fill(0));
            }
        }
    }
}

impl Drop for MemoryDisk {
    fn drop(&mut self) {
        let store = self.store.take().map(RefCell::into_inner);
        let contents = Contents { size: self.size, store };
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
