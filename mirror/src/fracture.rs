//! What one secondary misses of one LU (S2, R-FL): the fracture log and, beside it, what the secondary has
//! acknowledged but may still lose. `docs/design/fracture-log.md` draws its pages.
//!
//! Invariants:
//! 1. A stored page names every region of its part that the secondary misses durably, except those that the durable
//!    intent log names (I2).
//! 2. A region leaves `dirty` only when its copy was acknowledged; it leaves the stored page only after that copy was
//!    flushed (I3).

use bytes::Bytes;
use twinlun_block::ByteRange;

use crate::Attributes;
use crate::planted::{Bug, planted};
use crate::region::{RegionLayout, RegionMap};

/// First bytes of every page.
pub(crate) const MAGIC: [u8; 4] = *b"TWFL";
/// Smallest region: 4 KiB.
const LEAST_SHIFT: u32 = 12;

/// Regions of the fracture log of a LU of `size` bytes.
pub(crate) fn layout(size: u64, attributes: &Attributes) -> RegionLayout {
    let least = match attributes.extent_size {
        0 => LEAST_SHIFT,
        extent => extent.trailing_zeros().clamp(LEAST_SHIFT, 40),
    };
    RegionLayout::fitting(size, least, attributes.fracture_log_size)
}

/// The fracture log of one LU as a value.
#[derive(Clone, Debug)]
pub(crate) struct MissMap {
    /// To be copied.
    dirty: RegionMap,
    /// Acknowledged by the secondary in the present and in the former generation, and not known to be flushed there.
    unflushed: [RegionMap; 2],
    /// Of these, what the host's flush that is under way there covers.
    covered: RegionMap,
    /// Whether there is such a flush. Others at the same time settle nothing; the next one does.
    covering: bool,
    /// Pages whose stored content may lack a dirty region or name a clean one.
    stale: Vec<bool>,
    /// Pages whose stored content names something.
    named: Vec<bool>,
}

impl MissMap {
    pub(crate) fn new(layout: RegionLayout) -> Self {
        let empty = RegionMap::new(layout);
        let stale = vec![false; layout.pages() as usize];
        Self {
            dirty: empty.clone(),
            unflushed: [empty.clone(), empty.clone()],
            covered: empty,
            covering: false,
            named: stale.clone(),
            stale,
        }
    }

    /// Takes a stored page. One that cannot be read or understood names everything.
    pub(crate) fn load<E>(&mut self, page: u32, stored: Result<Bytes, E>) {
        self.named[page as usize] = !matches!(&stored, Ok(bytes) if bytes.is_empty());
        let believed = stored.is_ok_and(|bytes| self.dirty.decode(page, MAGIC, &bytes).is_ok());
        if !believed {
            self.dirty.mark(&self.dirty.page_regions(page));
            self.stale[page as usize] = true;
        }
    }

    /// Adds what the intent log names (R-FL-6).
    pub(crate) fn add(&mut self, widen: impl FnOnce(&mut RegionMap)) {
        let before: Vec<u32> = (0..self.pages()).map(|page| self.dirty.marked_on(page)).collect();
        widen(&mut self.dirty);
        for (page, before) in before.into_iter().enumerate() {
            self.stale[page] |= self.dirty.marked_on(page as u32) != before;
        }
    }

    /// Everything is to be copied.
    pub(crate) fn miss_all(&mut self) {
        self.miss(ByteRange::new(0, u64::MAX >> 1));
    }

    /// The secondary misses a write to the range.
    pub(crate) fn miss(&mut self, range: ByteRange) {
        let regions = self.layout().touched(range);
        if self.dirty.mark(&regions) > 0 {
            for page in RegionMap::page_of(regions.start)..=RegionMap::page_of(regions.end - 1) {
                self.stale[page as usize] = true;
            }
        }
    }

    /// Whether a write to the range may go to the secondary: all or nothing of it (R-SY-2).
    pub(crate) fn may_forward(&self, range: ByteRange) -> bool {
        let regions = self.layout().touched(range);
        !self.dirty.any(&regions)
    }

    /// The secondary has acknowledged a write or a copy of the range, and may still lose it.
    pub(crate) fn acknowledged(&mut self, range: ByteRange, generation: usize) {
        let regions = self.layout().touched(range);
        self.unflushed[generation].mark(&regions);
    }

    /// A copy of whole regions was acknowledged.
    pub(crate) fn copied(&mut self, range: ByteRange) {
        let regions = self.layout().touched(range);
        self.dirty.unmark(&regions);
    }

    /// The secondary is lost: what it may not have flushed has to be copied again.
    pub(crate) fn lost(&mut self) {
        self.covering = false;
        for map in self.unflushed.iter_mut().chain([&mut self.covered]) {
            for (page, stale) in (0..).zip(&mut self.stale) {
                *stale |= map.marked_on(page) > 0;
            }
            if !planted(Bug::ForgetUnflushed) {
                self.dirty.union(map);
            }
            map.clear();
        }
    }

    /// A host's flush goes to the secondary, which is in step: it covers all that was acknowledged before. Costs as
    /// much as was written since the last one. False when another one is under way; then this one settles nothing.
    pub(crate) fn begin_flush(&mut self) -> bool {
        if self.covering {
            return false;
        }
        self.covering = true;
        debug_assert!(self.covered.is_empty(), "what a flush covered is settled when it ends");
        for map in &mut self.unflushed {
            self.covered.union(map);
            map.clear();
        }
        true
    }

    /// The flush that [`Self::begin_flush`] let cover something is done.
    pub(crate) fn end_flush(&mut self) {
        self.covering = false;
        for (page, stale) in (0..).zip(&mut self.stale) {
            *stale |= self.named[page as usize] && self.covered.marked_on(page) > 0;
        }
        self.covered.clear();
    }

    /// The secondary flushed all that was acknowledged in a generation.
    pub(crate) fn flushed(&mut self, generation: usize) {
        for page in 0..self.pages() {
            // Its stored content may name regions for this generation's sake only.
            let index = page as usize;
            self.stale[index] |= self.named[index] && self.unflushed[generation].marked_on(page) > 0;
        }
        self.unflushed[generation].clear();
    }

    /// Takes the pages that have to be stored. While the secondary is in step they end up empty (R-FL-3): what it has
    /// not flushed is named by the intent log then, which is not dropped before.
    pub(crate) fn take_stale(&mut self, in_step: bool) -> Vec<(u32, Bytes)> {
        let also = [&self.unflushed[0], &self.unflushed[1], &self.covered];
        let also = if in_step { &[][..] } else { &also[..] };
        let mut pages = Vec::new();
        for page in 0..self.pages() {
            let index = page as usize;
            if std::mem::take(&mut self.stale[index]) {
                let content = self.dirty.encode(page, MAGIC, also);
                self.named[index] = !content.is_empty();
                pages.push((page, content));
            }
        }
        pages
    }

    /// The log is to be erased: the secondary is in step.
    pub(crate) fn erase(&mut self) {
        for (stale, named) in self.stale.iter_mut().zip(&self.named) {
            *stale |= *named;
        }
    }

    /// Pages taken before could not be stored.
    pub(crate) fn not_stored(&mut self, pages: &[(u32, Bytes)]) {
        for (page, _) in pages {
            self.stale[*page as usize] = true;
            self.named[*page as usize] = true;
        }
    }

    /// The first run to copy at or behind byte `from`, of at most `longest` bytes.
    pub(crate) fn next_run(&self, from: u64, longest: u64) -> Option<ByteRange> {
        let first = from.div_ceil(self.layout().region_size());
        self.dirty.next_run(first, longest / self.layout().region_size()).map(|run| self.layout().bytes(&run))
    }

    /// The first run still to be copied within whole regions.
    pub(crate) fn is_dirty(&self, range: ByteRange) -> bool {
        self.dirty.any(&self.layout().touched(range))
    }

    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.dirty.bytes_marked()
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Whether nothing is to be copied, flushed or stored.
    pub(crate) fn is_settled(&self) -> bool {
        self.unflushed.iter().all(RegionMap::is_empty)
            && self.covered.is_empty()
            && !self.stale.contains(&true)
    }

    pub(crate) fn layout(&self) -> RegionLayout {
        self.dirty.layout()
    }

    fn pages(&self) -> u32 {
        self.layout().pages()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const K: u64 = 4096;

    fn map() -> MissMap {
        MissMap::new(RegionLayout::new(64 * K, 12))
    }

    #[test]
    fn a_write_is_never_half_forwarded() {
        let mut map = map();
        map.miss(ByteRange::new(2 * K, K));
        assert!(map.may_forward(ByteRange::new(0, 2 * K)));
        assert!(!map.may_forward(ByteRange::new(K, 2 * K)));
        map.miss(ByteRange::new(K, 2 * K));
        assert_eq!(map.next_run(0, 1 << 20), Some(ByteRange::new(K, 2 * K)));
    }

    #[test]
    fn a_lost_secondary_owes_what_it_did_not_flush() {
        let mut map = map();
        map.acknowledged(ByteRange::new(0, K), 0);
        map.acknowledged(ByteRange::new(8 * K, 512), 1);
        map.flushed(0);
        map.lost();
        assert_eq!(map.dirty_bytes(), K);
        assert_eq!(map.next_run(0, 1 << 20), Some(ByteRange::new(8 * K, K)));
    }

    #[test]
    fn a_hosts_flush_settles_what_was_acknowledged_before_it() {
        let mut map = map();
        map.acknowledged(ByteRange::new(0, K), 0);
        map.acknowledged(ByteRange::new(K, K), 1);
        assert!(map.begin_flush());
        assert!(!map.begin_flush(), "one at a time");
        map.acknowledged(ByteRange::new(2 * K, K), 1);
        map.end_flush();
        let mut lost = map.clone();
        lost.lost();
        assert_eq!(lost.next_run(0, 1 << 20), Some(ByteRange::new(2 * K, K)));
        assert_eq!(lost.dirty_bytes(), K);
        assert!(map.begin_flush());
        assert!(!map.is_settled(), "a flush under way has settled nothing");
        map.lost();
        assert_eq!(map.dirty_bytes(), K, "it never ended");
        assert!(map.begin_flush(), "the next attachment may flush");
    }

    proptest! {
        /// Model of secondary and medium: whatever happens, the regions that the secondary does not hold durably are in
        /// the stored pages or were marked since the pages were stored last (those the intent log still names).
        #[test]
        fn stored_pages_name_what_is_missing(steps in proptest::collection::vec((0u8..9, 0u64..64), 1..80)) {
            let mut map = map();
            let mut stored = Bytes::new();
            let mut now = 0usize;
            let mut missing: BTreeSet<u64> = BTreeSet::new();   // the secondary lacks it even in its cache
            let mut cached: [BTreeSet<u64>; 2] = Default::default(); // it has it in its cache
            let mut flushing: Option<[BTreeSet<u64>; 2]> = None; // of these, what a host's flush covers
            let mut intent: [BTreeSet<u64>; 2] = Default::default();
            for (step, region) in steps {
                let range = ByteRange::new(region * K, K);
                match step {
                    0 | 1 => { // a host write
                        intent[now].insert(region);
                        if map.may_forward(range) {
                            map.acknowledged(range, now);
                            cached[now].insert(region);
                        } else {
                            map.miss(range);
                            missing.insert(region);
                        }
                    }
                    2 => { // a host write that it does not get
                        intent[now].insert(region);
                        map.miss(range);
                        missing.insert(region);
                    }
                    3 => if let Some(run) = map.next_run(range.offset(), K) { // a copy
                        map.acknowledged(run, now);
                        map.copied(run);
                        missing.remove(&(run.offset() / K));
                        cached[now].insert(run.offset() / K);
                    },
                    4 => { // lost, with its cache
                        map.lost();
                        for set in cached.iter_mut().chain(flushing.iter_mut().flatten()) {
                            missing.append(set);
                        }
                        flushing = None;
                    }
                    5 => { // a host's flush begins
                        prop_assert_eq!(map.begin_flush(), flushing.is_none());
                        if flushing.is_none() {
                            flushing = Some(std::mem::take(&mut cached));
                        }
                    }
                    6 => if flushing.take().is_some() { // and ends
                        map.end_flush();
                    },
                    _ => { // settle
                        now = 1 - now;
                        map.flushed(1 - now);
                        cached[1 - now].clear();
                        flushing.iter_mut().for_each(|sets| sets[1 - now].clear());
                        if let Some((_, page)) = map.take_stale(false).pop() {
                            stored = page;
                        }
                        intent[1 - now].clear();
                    }
                }
                let mut named = RegionMap::new(map.layout());
                named.decode(0, MAGIC, &stored).unwrap();
                for region in missing.iter().chain(cached.iter().flatten()).chain(flushing.iter().flatten().flatten()) {
                    let safe = named.all(&(*region..*region + 1)) || intent.iter().any(|set| set.contains(region));
                    prop_assert!(safe, "region {region} is named nowhere");
                }
                for region in &missing {
                    prop_assert!(map.is_dirty(ByteRange::new(region * K, 1)));
                }
                if step == 4 && let Some((_, page)) = map.take_stale(false).pop() {
                    stored = page; // nothing is copied before the pages are stored
                }
            }
        }
    }
}
