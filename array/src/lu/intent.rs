//! Write intent of a redundant LU: which regions may differ between copies (docs/design/raid.md, "Write intent", R-ARR-5).
//!
//! Invariants:
//! 1. A write touches no copy before the bits of its regions are durable.
//! 2. A bit goes only when no write to its region is under way and all copies have flushed what was written there.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use twinlun_block::{ByteRange, MetaError, MetaLog, PAGE_PAYLOAD};
use twinlun_io::{Instant, Shard};

use crate::planted::{Bug, planted};
use crate::vault::VaultLog;

const MIN_REGION: u64 = 1 << 20;
/// Regions grow with the LU so that its bits never need more pages than this.
const MAX_PAGES: u64 = 16;
const BITS_PER_PAGE: u64 = PAGE_PAYLOAD as u64 * 8;

/// Bytes of a region of a LU of `size` bytes.
pub(crate) fn region_size(size: u64) -> u64 {
    let mut region = MIN_REGION;
    while size.div_ceil(region) > MAX_PAGES * BITS_PER_PAGE {
        region *= 2;
    }
    region
}

/// Pages that the bits of a LU need.
pub(crate) fn pages(size: u64) -> u32 {
    size.div_ceil(region_size(size)).div_ceil(BITS_PER_PAGE).max(1) as u32
}

/// A bitmap cut into pages.
#[derive(Clone)]
struct Bits {
    pages: Vec<Vec<u8>>,
}

impl Bits {
    fn new(pages: u32) -> Self {
        Self { pages: vec![vec![0; PAGE_PAYLOAD]; pages as usize] }
    }

    fn place(region: u64) -> (usize, usize, u8) {
        let bit = region % BITS_PER_PAGE;
        ((region / BITS_PER_PAGE) as usize, (bit / 8) as usize, 1 << (bit % 8))
    }

    fn get(&self, region: u64) -> bool {
        let (page, byte, mask) = Self::place(region);
        self.pages[page][byte] & mask != 0
    }

    fn set(&mut self, region: u64, on: bool) {
        let (page, byte, mask) = Self::place(region);
        let byte = &mut self.pages[page][byte];
        *byte = if on { *byte | mask } else { *byte & !mask };
    }

    /// The page as it is stored: without trailing zeros.
    fn content(&self, page: u32) -> Bytes {
        let bytes = &self.pages[page as usize];
        let len = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        Bytes::copy_from_slice(&bytes[..len])
    }
}

struct State {
    /// What the log shall hold.
    wanted: Bits,
    /// Bits known to be durable.
    durable: Bits,
    /// Writes under way, per region.
    busy: BTreeMap<u64, u32>,
    /// Marked regions without a write, with the time of the last one.
    idle: BTreeMap<u64, Instant>,
    /// Regions whose copies may differ right now.
    suspect: BTreeSet<u64>,
}

/// The intent of one LU.
pub(crate) struct Intent {
    shard: Shard,
    log: VaultLog,
    region: u64,
    size: u64,
    state: RefCell<State>,
    /// Told when there is something to clean up or to make equal.
    pub(crate) kick: Notify,
    /// Set while the keeper sleeps without a time at which it will look again.
    pub(crate) is_resting: Cell<bool>,
}

/// A write under way. Ends when dropped.
pub(crate) struct Mark {
    intent: Rc<Intent>,
    regions: RangeInclusive<u64>,
}

impl Drop for Mark {
    fn drop(&mut self) {
        let now = self.intent.shard.now();
        let mut state = self.intent.state.borrow_mut();
        for region in self.regions.clone() {
            let left = state.busy.get_mut(&region).map_or(0, |count| {
                *count -= 1;
                *count
            });
            if left == 0 {
                state.busy.remove(&region);
                state.idle.insert(region, now);
            }
        }
        if self.intent.is_resting.take() {
            self.intent.kick.notify_one();
        }
    }
}

impl Intent {
    /// The intent in `log`; regions marked there are suspect. A damaged page makes all its regions suspect.
    pub(crate) async fn open(shard: Shard, log: VaultLog, size: u64) -> Result<Rc<Self>, MetaError> {
        let (region, count) = (region_size(size), pages(size));
        let mut bits = Bits::new(count);
        for page in 0..count {
            match log.read(page).await {
                Ok(content) => bits.pages[page as usize][..content.len()].copy_from_slice(&content),
                Err(MetaError::Damaged { .. }) => bits.pages[page as usize].fill(0xff),
                Err(error) => return Err(error),
            }
        }
        let suspect: BTreeSet<u64> = (0..size.div_ceil(region)).filter(|region| bits.get(*region)).collect();
        let suspect = if planted(Bug::IgnoreIntentAtStart) { BTreeSet::new() } else { suspect };
        let state = State {
            wanted: bits,
            durable: Bits::new(count),
            busy: BTreeMap::new(),
            idle: suspect.iter().map(|region| (*region, Instant::default())).collect(),
            suspect,
        };
        Ok(Rc::new(Self {
            shard,
            log,
            region,
            size,
            state: RefCell::new(state),
            kick: Notify::new(),
            is_resting: Cell::new(false),
        }))
    }

    fn regions(&self, range: ByteRange) -> RangeInclusive<u64> {
        range.offset() / self.region..=(range.end().max(1) - 1) / self.region
    }

    /// Marks the regions of a write and waits until that is durable. Costs nothing for regions that are marked.
    pub(crate) async fn mark(self: &Rc<Self>, range: ByteRange) -> Result<Mark, MetaError> {
        let regions = self.regions(range);
        let mark = Mark { intent: self.clone(), regions: regions.clone() };
        let mut stale = BTreeSet::new();
        {
            let mut state = self.state.borrow_mut();
            for region in regions.clone() {
                *state.busy.entry(region).or_insert(0) += 1;
                state.idle.remove(&region);
                if !state.durable.get(region) {
                    // Also when another write has set the bit: its page may not be durable yet.
                    state.wanted.set(region, true);
                    stale.insert((region / BITS_PER_PAGE) as u32);
                }
            }
        }
        if !stale.is_empty() && planted(Bug::DataBeforeIntent) {
            let later = self.clone();
            self.shard.spawn(async move { drop(later.store(&stale).await) });
        } else if !stale.is_empty() {
            self.store(&stale).await?;
            let mut state = self.state.borrow_mut();
            regions.for_each(|region| state.durable.set(region, true));
        }
        Ok(mark)
    }

    async fn store(&self, pages: &BTreeSet<u32>) -> Result<(), MetaError> {
        let contents = {
            let state = self.state.borrow();
            pages.iter().map(|page| (*page, state.wanted.content(*page))).collect()
        };
        self.log.write(contents).await
    }

    /// Whether a region of the range is suspect.
    pub(crate) fn is_suspect(&self, range: ByteRange) -> bool {
        let state = self.state.borrow();
        !state.suspect.is_empty() && state.suspect.range(self.regions(range)).next().is_some()
    }

    /// The suspect regions of the range.
    pub(crate) fn suspects(&self, range: ByteRange) -> Vec<ByteRange> {
        let state = self.state.borrow();
        state.suspect.range(self.regions(range)).map(|region| self.bounds(*region)).collect()
    }

    fn bounds(&self, region: u64) -> ByteRange {
        let start = region * self.region;
        ByteRange::new(start, self.region.min(self.size - start))
    }

    /// A write failed half way: copies of the range may differ from now on.
    pub(crate) fn suspect(&self, range: ByteRange) {
        self.state.borrow_mut().suspect.extend(self.regions(range));
        self.kick.notify_one();
    }

    /// The region (a range that [`Intent::suspects`] gave) has equal copies.
    pub(crate) fn settle(&self, region: ByteRange) {
        let now = self.shard.now();
        let number = region.offset() / self.region;
        let mut state = self.state.borrow_mut();
        state.suspect.remove(&number);
        // The copies that made it equal are not flushed; only a flush from now on may clear the bit.
        if !state.busy.contains_key(&number) {
            state.idle.insert(number, now);
        }
    }

    /// Bytes in marked regions.
    pub(crate) fn marked_bytes(&self) -> u64 {
        let state = self.state.borrow();
        (state.idle.len() + state.busy.len()) as u64 * self.region
    }

    /// When the first region may be cleared, if any is marked and idle.
    pub(crate) fn next_clearing(&self, idle: Duration) -> Option<Instant> {
        let state = self.state.borrow();
        let quiet = state.idle.iter().filter(|(region, _)| !state.suspect.contains(region));
        quiet.map(|(_, since)| *since + idle).min()
    }

    /// Regions to clear once the copies are flushed: idle since `before` or longer.
    pub(crate) fn clearable(&self, before: Instant) -> BTreeMap<u64, Instant> {
        let state = self.state.borrow();
        let quiet =
            state.idle.iter().filter(|(region, since)| **since <= before && !state.suspect.contains(region));
        quiet.map(|(region, since)| (*region, *since)).collect()
    }

    /// Clears those of the regions that were not written since; all copies have been flushed meanwhile.
    pub(crate) async fn clear(&self, regions: BTreeMap<u64, Instant>) -> Result<(), MetaError> {
        let mut stale = BTreeSet::new();
        {
            let mut state = self.state.borrow_mut();
            for (region, since) in regions {
                if state.idle.get(&region) == Some(&since) && !state.suspect.contains(&region) {
                    state.idle.remove(&region);
                    // No longer durable even before the page is written: a write from now on has to mark it again.
                    state.wanted.set(region, false);
                    state.durable.set(region, false);
                    stale.insert((region / BITS_PER_PAGE) as u32);
                }
            }
        }
        if stale.is_empty() { Ok(()) } else { self.store(&stale).await }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_any_lu_fit_their_pages() {
        for size in [512, 1 << 20, 64 << 30, 1 << 40, 1 << 50, (1 << 50) + 512] {
            assert!(u64::from(pages(size)) <= MAX_PAGES);
            assert!(u64::from(pages(size)) * BITS_PER_PAGE * region_size(size) >= size);
        }
        assert_eq!(pages(64 << 30), 3);
    }

    #[test]
    fn pages_are_stored_without_trailing_zeros() {
        let mut bits = Bits::new(2);
        assert!(bits.content(0).is_empty());
        bits.set(9, true);
        bits.set(BITS_PER_PAGE, true);
        assert_eq!(&bits.content(0)[..], &[0, 2]);
        assert_eq!(&bits.content(1)[..], &[1]);
        bits.set(9, false);
        assert!(bits.content(0).is_empty() && bits.get(BITS_PER_PAGE) && !bits.get(9));
    }
}
