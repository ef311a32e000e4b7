//! The write intent log (S1, R-WIL): which regions of a LU may differ between images because of writes under way or
//! not yet on stable storage everywhere. `docs/design/intent-log.md` draws its pages.
//!
//! Invariants:
//! 1. A write touches an image only while its regions are in `durable` (R-WIL-2).
//! 2. `durable` names no region that the stored pages may not name. While a page is being replaced it names only what
//!    the old and the new page both have.
//! 3. A region leaves `wanted` only when nothing was written to it since the generation of writes that was flushed
//!    everywhere, or stored in the fracture log of each image that missed it (R-WIL-3).

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use twinlun_block::{ByteRange, MetaError, MetaLog};
use twinlun_io::Shard;

use crate::commit::Commits;
use crate::planted::{Bug, planted};
use crate::region::{RegionLayout, RegionMap};
use crate::signal::Signal;

/// First bytes of every page.
pub(crate) const MAGIC: [u8; 4] = *b"TWIL";
/// Smallest region: 1 MiB, so that a log page, one disk write, opens 31 GiB for writing.
const LEAST_SHIFT: u32 = 20;
/// Largest bitmap; 128 KiB stand for 1 TiB at the smallest region.
const MOST_BYTES: u64 = 256 << 10;

/// Regions of the intent log of a LU of `size` bytes.
pub(crate) fn layout(size: u64) -> RegionLayout {
    RegionLayout::fitting(size, LEAST_SHIFT, MOST_BYTES)
}

/// What a write has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Nothing: its regions are durable.
    Durable,
    /// The write of that number.
    After(u64),
}

/// The log as a value; [`IntentLog`] does its writing.
#[derive(Debug)]
pub(crate) struct IntentState {
    /// What the pages shall name.
    wanted: RegionMap,
    /// What the stored pages are known to name.
    durable: RegionMap,
    /// Regions written to in the present and in the former generation of writes.
    touched: [RegionMap; 2],
    /// Pages that do not name a wanted region yet.
    urgent: Vec<bool>,
    /// Pages that name a region that is not wanted any more.
    lazy: Vec<bool>,
    commits: Commits,
}

impl IntentState {
    pub(crate) fn new(layout: RegionLayout) -> Self {
        let empty = RegionMap::new(layout);
        let pages = vec![false; layout.pages() as usize];
        Self {
            wanted: empty.clone(),
            durable: empty.clone(),
            touched: [empty.clone(), empty],
            urgent: pages.clone(),
            lazy: pages,
            commits: Commits::default(),
        }
    }

    /// Takes a page as found at the start. One that cannot be read or understood names everything: too much is safe.
    fn load(&mut self, page: u32, stored: Result<Bytes, MetaError>) {
        let regions = self.wanted.page_regions(page);
        match stored {
            Ok(bytes) if self.wanted.decode(page, MAGIC, &bytes).is_ok() => {
                let _ = self.durable.decode(page, MAGIC, &bytes);
            }
            _ => {
                self.wanted.mark(&regions);
                self.urgent[page as usize] = true;
            }
        }
    }

    /// A write to `range` is about to touch the images.
    pub(crate) fn mark(&mut self, range: ByteRange, generation: usize) -> Mark {
        let regions = self.wanted.layout().touched(range);
        // The usual case, on a warm working set. What was touched in a generation that is not settled is wanted.
        if self.touched[generation].all(&regions) && self.durable.all(&regions) {
            return Mark::Durable;
        }
        self.touched[generation].mark(&regions);
        self.wanted.mark(&regions);
        if self.durable.all(&regions) || planted(Bug::AckBeforeIntent) {
            return Mark::Durable;
        }
        for page in RegionMap::page_of(regions.start)..=RegionMap::page_of(regions.end - 1) {
            self.urgent[page as usize] = true;
        }
        Mark::After(self.commits.want())
    }

    /// Drops every region that was not written to in generation `now`; its data is settled. The generation before
    /// starts anew.
    pub(crate) fn settle(&mut self, now: usize) {
        for page in 0..self.wanted.layout().pages() {
            if self.wanted.marked_on(page) == 0 {
                continue;
            }
            let keep = self.touched[now].clone_page(page);
            let before = self.wanted.marked_on(page);
            self.wanted.keep_page(page, &keep);
            if self.wanted.marked_on(page) != before {
                self.lazy[page as usize] = true;
            }
        }
        self.touched[1 - now].clear();
    }

    /// Pages for the write that starts now: those that a mark waits for, and cleared ones too when `all`.
    fn take_pages(&mut self, all: bool) -> Vec<(u32, Bytes)> {
        let mut pages = Vec::new();
        for page in 0..self.wanted.layout().pages() {
            let index = page as usize;
            if self.urgent[index] || (all && self.lazy[index]) {
                self.urgent[index] = false;
                self.lazy[index] = false;
                let keep = self.wanted.clone_page(page);
                self.durable.keep_page(page, &keep);
                pages.push((page, self.wanted.encode(page, MAGIC, &[])));
            }
        }
        pages
    }

    fn written(&mut self, pages: &[(u32, Bytes)], result: Result<(), MetaError>) {
        for (page, content) in pages {
            if result.is_ok() {
                let _ = self.durable.decode(*page, MAGIC, content);
            } else {
                self.urgent[*page as usize] = true;
            }
        }
        self.commits.end(result);
    }

    /// Whether a region is named, or was written to lately.
    pub(crate) fn is_clean(&self) -> bool {
        self.wanted.is_empty()
    }

    fn is_idle(&self) -> bool {
        self.touched.iter().all(RegionMap::is_empty)
            && !self.lazy.iter().any(|lazy| *lazy)
            && self.wanted.is_empty()
    }
}

/// The write intent log of one LU.
pub(crate) struct IntentLog<G> {
    shard: Shard,
    log: G,
    state: RefCell<IntentState>,
    signal: Signal,
}

impl<G: MetaLog> IntentLog<G> {
    /// Reads the log as the last process left it.
    pub(crate) async fn open(shard: Shard, log: G, layout: RegionLayout) -> Rc<Self> {
        let mut state = IntentState::new(layout);
        for page in 0..layout.pages() {
            let stored = log.read(page).await;
            state.load(page, stored);
        }
        Rc::new(Self { shard, log, state: RefCell::new(state), signal: Signal::default() })
    }

    /// Returns once the regions of the range are durable, whoever started that write (R-WIL-2). Costs no I/O and no
    /// allocation when they are.
    pub(crate) async fn mark(self: &Rc<Self>, range: ByteRange, generation: usize) -> Result<(), MetaError> {
        let mark = self.state.borrow_mut().mark(range, generation);
        match mark {
            Mark::Durable => Ok(()),
            Mark::After(number) => {
                self.write_out(false);
                self.signal.until(|| self.state.borrow().commits.outcome(number)).await
            }
        }
    }

    /// Drops what is settled and stores that when the time comes.
    pub(crate) fn settle(self: &Rc<Self>, now: usize) {
        self.state.borrow_mut().settle(now);
        if self.state.borrow().lazy.contains(&true) {
            self.state.borrow_mut().commits.want();
            self.write_out(true);
        }
    }

    /// Waits until what is wanted is stored, or cannot be.
    pub(crate) async fn stored(&self) {
        let last = self.state.borrow().commits.last_wanted();
        let _ = self.signal.until(|| self.state.borrow().commits.outcome(last)).await;
    }

    /// Adds the named regions to `map`.
    pub(crate) fn expand_into(&self, map: &mut RegionMap) {
        map.union_coarse(&self.state.borrow().wanted);
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.state.borrow().is_clean()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.state.borrow().is_idle()
    }

    fn write_out(self: &Rc<Self>, mut all: bool) {
        if !self.state.borrow_mut().commits.take_over() {
            return;
        }
        let me = self.clone();
        self.shard.spawn(async move {
            loop {
                let pages = {
                    let mut state = me.state.borrow_mut();
                    state.commits.start();
                    state.take_pages(all)
                };
                let result = me.log.write(pages.clone()).await;
                all = false;
                let mut state = me.state.borrow_mut();
                state.written(&pages, result);
                let over = state.commits.hand_back();
                drop(state);
                me.signal.raise();
                if over {
                    return;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn write(state: &mut IntentState, all: bool) {
        state.commits.start();
        let pages = state.take_pages(all);
        state.written(&pages, Ok(()));
    }

    #[test]
    fn a_second_writer_waits_for_the_first_ones_page() {
        let mut state = IntentState::new(layout(64 * MIB));
        assert_eq!(state.mark(ByteRange::new(0, 512), 0), Mark::After(1));
        state.commits.start();
        let pages = state.take_pages(false);
        assert_ne!(state.mark(ByteRange::new(512, 512), 0), Mark::Durable, "the bit is only in RAM yet");
        state.written(&pages, Ok(()));
        assert_eq!(state.mark(ByteRange::new(1024, 512), 0), Mark::Durable);
        assert_ne!(state.mark(ByteRange::new(MIB - 512, 1024), 0), Mark::Durable, "the second region is new");
    }

    #[test]
    fn a_region_dropped_in_ram_is_free_until_its_page_is_replaced() {
        let mut state = IntentState::new(layout(64 * MIB));
        state.mark(ByteRange::new(0, 512), 0);
        write(&mut state, false);
        state.settle(1);
        assert!(state.is_clean());
        assert_eq!(state.mark(ByteRange::new(0, 512), 1), Mark::Durable, "the stored page still names it");
        state.settle(0);
        state.settle(0);
        assert!(state.is_clean());
        state.commits.start();
        let pages = state.take_pages(true);
        assert_ne!(state.mark(ByteRange::new(0, 512), 0), Mark::Durable, "a page without it is on its way");
        state.written(&pages, Ok(()));
    }

    #[test]
    fn an_unreadable_page_names_everything() {
        let mut state = IntentState::new(layout(64 * MIB));
        state.load(0, Err(MetaError::Damaged { log: "l".into(), page: 0 }));
        assert_eq!(state.wanted.marked(), 64);
        assert_ne!(state.mark(ByteRange::new(0, 512), 0), Mark::Durable);
        let mut state = IntentState::new(layout(64 * MIB));
        state.load(0, Ok(Bytes::from_static(b"garbage")));
        assert_eq!(state.wanted.marked(), 64);
    }

    proptest! {
        /// A model of the medium: after any history, a crash finds every region that a write was let through for and
        /// that was not settled since.
        #[test]
        fn the_medium_names_every_open_region(steps in proptest::collection::vec((0u8..5, 0u64..40), 1..60)) {
            let map = layout(40 * MIB);
            let mut state = IntentState::new(map);
            let mut medium = Bytes::new();
            let mut pending: Option<Vec<(u32, Bytes)>> = None;
            let mut now = 0;
            let mut open = [Vec::new(), Vec::new()];
            for (step, region) in steps {
                match step {
                    0 | 1 => {
                        if state.mark(ByteRange::new(region * MIB, 512), now) == Mark::Durable {
                            open[now].push(region);
                        }
                    }
                    2 => if pending.is_none() {
                        state.commits.start();
                        pending = Some(state.take_pages(region % 2 == 0));
                    },
                    3 => if let Some(pages) = pending.take() {
                        if region % 4 == 0 {
                            // Failed: the old or the new content.
                            if let Some((_, b)) = pages.first().filter(|_| region % 8 == 0) { medium = b.clone(); }
                            state.written(&pages, Err(MetaError::NoMajority { good: 1, copies: 3 }));
                        } else {
                            if let Some((_, b)) = pages.first() { medium = b.clone(); }
                            state.written(&pages, Ok(()));
                        }
                    },
                    _ => {
                        now = 1 - now;
                        open[now].clear();
                        // Everything of the former generation is flushed now.
                        state.settle(now);
                        open[1 - now].clear();
                    }
                }
                // A page on its way may or may not have reached the medium.
                let mut candidates = vec![medium.clone()];
                if let Some((_, b)) = pending.as_ref().and_then(|p| p.first()) { candidates.push(b.clone()); }
                for content in candidates {
                    let mut found = RegionMap::new(map);
                    found.decode(0, MAGIC, &content).unwrap();
                    for region in open.iter().flatten() {
                        prop_assert!(found.all(&(*region..*region + 1)), "region {region} was let through");
                    }
                }
            }
        }
    }
}
