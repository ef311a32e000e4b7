//! A bitmap over the regions of a LU, cut into metadata pages. Both logs are made of it.

use std::ops::Range;

use bitvec::prelude::{BitSlice, BitVec, Lsb0};
use bytes::{BufMut, Bytes, BytesMut};
use twinlun_block::{ByteRange, PAGE_PAYLOAD};

/// Bytes before the bits of a page: magic, version, shift, page, length of the LU, reserved.
const HEADER: usize = 32;
/// Whole 64-bit words that fit behind the header.
const WORDS_PER_PAGE: usize = (PAGE_PAYLOAD - HEADER) / 8;
/// Regions that one metadata page stands for.
pub(crate) const REGIONS_PER_PAGE: u64 = WORDS_PER_PAGE as u64 * 64;
const VERSION: u16 = 1;

/// How a LU is cut into regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RegionLayout {
    size: u64,
    shift: u32,
}

impl RegionLayout {
    /// Regions of `1 << shift` bytes over `size` bytes.
    pub(crate) const fn new(size: u64, shift: u32) -> Self {
        assert!(shift >= 9 && shift < 48, "a region is 512 bytes to 128 TiB");
        Self { size, shift }
    }

    /// The smallest regions of at least `1 << least` bytes for which the bitmap has no more than `bytes` bytes.
    pub(crate) const fn fitting(size: u64, least: u32, bytes: u64) -> Self {
        let mut layout = Self::new(size, least);
        while layout.regions().div_ceil(8) > bytes && layout.shift < 47 {
            layout.shift += 1;
        }
        layout
    }

    /// Bytes of a region.
    pub(crate) const fn region_size(self) -> u64 {
        1 << self.shift
    }

    /// Number of regions; the last may be short.
    pub(crate) const fn regions(self) -> u64 {
        self.size.div_ceil(1 << self.shift)
    }

    /// Number of metadata pages.
    pub(crate) const fn pages(self) -> u32 {
        self.regions().div_ceil(REGIONS_PER_PAGE) as u32
    }

    /// The regions that have a byte of the range.
    pub(crate) fn touched(self, range: ByteRange) -> Range<u64> {
        if range.is_empty() {
            return 0..0;
        }
        (range.offset() >> self.shift)..(((range.end() - 1) >> self.shift) + 1).min(self.regions())
    }

    /// The bytes of a run of regions.
    pub(crate) fn bytes(self, regions: &Range<u64>) -> ByteRange {
        let start = regions.start << self.shift;
        ByteRange::new(start, (regions.end << self.shift).min(self.size).saturating_sub(start))
    }
}

/// Why a page of a log cannot be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PageError {
    /// Too short, wrong magic or version.
    #[error("not a page of a bitmap of this version")]
    Format,
    /// It belongs to another page number, region size or LU size.
    #[error("the page belongs to another layout")]
    Layout,
}

/// A set of regions. Counts are kept, so that asking how much is marked costs nothing.
#[derive(Clone, Debug)]
pub(crate) struct RegionMap {
    layout: RegionLayout,
    bits: BitVec<u64, Lsb0>,
    marked: u64,
    per_page: Vec<u32>,
}

impl RegionMap {
    /// No region marked.
    pub(crate) fn new(layout: RegionLayout) -> Self {
        Self {
            layout,
            bits: BitVec::repeat(false, layout.regions() as usize),
            marked: 0,
            per_page: vec![0; layout.pages() as usize],
        }
    }

    /// How it is cut.
    pub(crate) fn layout(&self) -> RegionLayout {
        self.layout
    }

    /// Number of regions marked.
    #[cfg(test)]
    pub(crate) fn marked(&self) -> u64 {
        self.marked
    }

    /// Whether none is marked.
    pub(crate) fn is_empty(&self) -> bool {
        self.marked == 0
    }

    /// Bytes of all marked regions, the short last one counted as it is.
    pub(crate) fn bytes_marked(&self) -> u64 {
        let last = self.layout.regions().wrapping_sub(1);
        let short = match self.bits.get(last as usize).as_deref() {
            Some(true) => (self.layout.regions() << self.layout.shift) - self.layout.size,
            _ => 0,
        };
        (self.marked << self.layout.shift) - short
    }

    /// Whether every region of the run is marked.
    pub(crate) fn all(&self, regions: &Range<u64>) -> bool {
        match regions.end - regions.start {
            1 => self.is_marked(regions.start),
            _ => self.slice(regions).all(),
        }
    }

    /// Whether a region of the run is marked.
    pub(crate) fn any(&self, regions: &Range<u64>) -> bool {
        match regions.end - regions.start {
            _ if self.is_empty() => false,
            1 => self.is_marked(regions.start),
            _ => self.slice(regions).any(),
        }
    }

    /// Most requests lie in one region.
    fn is_marked(&self, region: u64) -> bool {
        self.words()[(region / 64) as usize] >> (region % 64) & 1 == 1
    }

    /// Marks the run; how many were not marked before.
    pub(crate) fn mark(&mut self, regions: &Range<u64>) -> u64 {
        self.fill(regions, true)
    }

    /// Takes the marks of the run away; how many there were.
    pub(crate) fn unmark(&mut self, regions: &Range<u64>) -> u64 {
        self.fill(regions, false)
    }

    /// Takes all marks away.
    pub(crate) fn clear(&mut self) {
        for page in 0..self.layout.pages() {
            if self.per_page[page as usize] > 0 {
                self.unmark(&self.page_regions(page));
            }
        }
    }

    /// Marks everything that `other`, of the same layout, has marked.
    pub(crate) fn union(&mut self, other: &Self) {
        debug_assert_eq!(self.layout, other.layout);
        for page in 0..self.layout.pages() {
            if other.per_page[page as usize] > 0 {
                let regions = self.page_regions(page);
                let (from, to) = (regions.start as usize, regions.end as usize);
                self.bits[from..to] |= &other.bits[from..to];
                self.recount(page);
            }
        }
    }

    /// Marks every region that has a byte of a region which `coarse`, of another layout, has marked.
    pub(crate) fn union_coarse(&mut self, coarse: &Self) {
        let mut from = 0;
        while let Some(run) = coarse.next_run(from, u64::MAX) {
            from = run.end;
            self.mark(&self.layout.touched(coarse.layout.bytes(&run)));
        }
    }

    /// The first run of marked regions at or behind `from`, at most `longest` regions of it.
    pub(crate) fn next_run(&self, from: u64, longest: u64) -> Option<Range<u64>> {
        let start = self.next_marked(from)?;
        let limit = start.saturating_add(longest.max(1)).min(self.layout.regions());
        let rest = &self.bits[start as usize..limit as usize];
        Some(start..rest.first_zero().map_or(limit, |zero| start + zero as u64))
    }

    fn next_marked(&self, from: u64) -> Option<u64> {
        let first = (from / REGIONS_PER_PAGE) as u32;
        (first..self.layout.pages()).filter(|page| self.per_page[*page as usize] > 0).find_map(|page| {
            let regions = self.page_regions(page);
            let start = regions.start.max(from);
            self.slice(&(start..regions.end)).first_one().map(|one| start + one as u64)
        })
    }

    /// The page that a region is on.
    pub(crate) fn page_of(region: u64) -> u32 {
        (region / REGIONS_PER_PAGE) as u32
    }

    /// The regions of a page.
    pub(crate) fn page_regions(&self, page: u32) -> Range<u64> {
        let start = u64::from(page) * REGIONS_PER_PAGE;
        start..(start + REGIONS_PER_PAGE).min(self.layout.regions())
    }

    /// Regions marked on a page.
    pub(crate) fn marked_on(&self, page: u32) -> u32 {
        self.per_page[page as usize]
    }

    /// A page as it is stored, with what `also` (same layout) has marked. Nothing marked is an empty page.
    pub(crate) fn encode(&self, page: u32, magic: [u8; 4], also: &[&Self]) -> Bytes {
        if self.marked_on(page) == 0 && also.iter().all(|map| map.marked_on(page) == 0) {
            return Bytes::new();
        }
        let words = Self::words_of(page, self.words().len());
        let mut out = BytesMut::with_capacity(PAGE_PAYLOAD);
        out.put_slice(&magic);
        out.put_u16_le(VERSION);
        out.put_u8(self.layout.shift as u8);
        out.put_u8(0);
        out.put_u32_le(page);
        out.put_u32_le(words.len() as u32);
        out.put_u64_le(self.layout.size);
        out.put_u64_le(0);
        for index in words {
            out.put_u64_le(also.iter().fold(self.words()[index], |word, map| word | map.words()[index]));
        }
        out.freeze()
    }

    /// Marks what a stored page has marked. An empty page marks nothing.
    pub(crate) fn decode(&mut self, page: u32, magic: [u8; 4], stored: &[u8]) -> Result<(), PageError> {
        if stored.is_empty() {
            return Ok(());
        }
        let (header, body) = stored.split_at_checked(HEADER).ok_or(PageError::Format)?;
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        if header[..4] != magic || header[4..6] != VERSION.to_le_bytes() {
            return Err(PageError::Format);
        }
        let words = Self::words_of(page, self.words().len());
        let size = u64::from_le_bytes(header[16..24].try_into().expect("eight bytes"));
        let fits = u32::from(header[6]) == self.layout.shift
            && size == self.layout.size
            && word(8) == page
            && word(12) as usize == words.len()
            && body.len() == words.len() * 8;
        if !fits {
            return Err(PageError::Layout);
        }
        let mut stored = BitVec::<u64, Lsb0>::from_vec(
            body.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().expect("eight bytes"))).collect(),
        );
        let regions = self.page_regions(page);
        stored.truncate((regions.end - regions.start) as usize);
        self.bits[regions.start as usize..regions.end as usize] |= stored;
        self.recount(page);
        Ok(())
    }

    /// The bits of a page, for [`Self::keep_page`].
    pub(crate) fn clone_page(&self, page: u32) -> BitVec<u64, Lsb0> {
        self.slice(&self.page_regions(page)).to_bitvec()
    }

    /// Takes away all marks of a page that `keep` does not have.
    pub(crate) fn keep_page(&mut self, page: u32, keep: &BitSlice<u64, Lsb0>) {
        let regions = self.page_regions(page);
        self.bits[regions.start as usize..regions.end as usize] &= keep;
        self.recount(page);
    }

    fn words(&self) -> &[u64] {
        self.bits.as_raw_slice()
    }

    fn words_of(page: u32, all: usize) -> Range<usize> {
        let start = page as usize * WORDS_PER_PAGE;
        start..(start + WORDS_PER_PAGE).min(all)
    }

    fn slice(&self, regions: &Range<u64>) -> &BitSlice<u64, Lsb0> {
        &self.bits[regions.start as usize..regions.end as usize]
    }

    fn recount(&mut self, page: u32) {
        let now = self.slice(&self.page_regions(page)).count_ones() as u32;
        let before = std::mem::replace(&mut self.per_page[page as usize], now);
        self.marked = self.marked + u64::from(now) - u64::from(before);
    }

    fn fill(&mut self, regions: &Range<u64>, value: bool) -> u64 {
        if regions.end - regions.start == 1 && self.is_marked(regions.start) == value {
            return 0;
        }
        let mut changed = 0;
        let mut at = regions.start;
        while at < regions.end {
            let page = Self::page_of(at);
            let stop = self.page_regions(page).end.min(regions.end);
            let slice = &mut self.bits[at as usize..stop as usize];
            let differ = if value { slice.count_zeros() } else { slice.count_ones() } as u32;
            if differ > 0 {
                slice.fill(value);
                let count = &mut self.per_page[page as usize];
                *count = if value { *count + differ } else { *count - differ };
                changed += u64::from(differ);
            }
            at = stop;
        }
        self.marked = if value { self.marked + changed } else { self.marked - changed };
        changed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const MAGIC: [u8; 4] = *b"TEST";

    #[test]
    fn layouts_grow_until_they_fit() {
        assert_eq!(RegionLayout::fitting(64 << 30, 12, 2 << 20).region_size(), 4096);
        assert_eq!(RegionLayout::fitting((64 << 30) + 1, 12, 2 << 20).region_size(), 8192);
        assert_eq!(RegionLayout::fitting(1 << 40, 12, 2 << 20).region_size(), 65_536);
        let odd = RegionLayout::new(10_000, 12);
        assert_eq!(odd.regions(), 3);
        assert_eq!(odd.bytes(&(2..3)), ByteRange::new(8192, 1808));
        assert!(odd.touched(ByteRange::new(8192, 0)).is_empty());
    }

    #[test]
    fn foreign_pages_are_refused() {
        let layout = RegionLayout::new(REGIONS_PER_PAGE * 3 * 4096, 12);
        let mut map = RegionMap::new(layout);
        map.mark(&(5..9));
        map.mark(&(REGIONS_PER_PAGE..REGIONS_PER_PAGE + 2));
        let page = map.encode(0, MAGIC, &[]);
        assert_eq!(page.len(), PAGE_PAYLOAD);
        assert_eq!(map.encode(2, MAGIC, &[]).len(), 0);
        let mut other = RegionMap::new(layout);
        assert_eq!(other.decode(1, MAGIC, &page), Err(PageError::Layout), "a page in the wrong place");
        assert_eq!(other.decode(0, *b"ELSE", &page), Err(PageError::Format));
        assert_eq!(other.decode(0, MAGIC, &page[..20]), Err(PageError::Format));
        assert_eq!(other.decode(0, MAGIC, &page[..page.len() - 8]), Err(PageError::Layout));
        let mut coarser = RegionMap::new(RegionLayout::new(layout.size, 13));
        assert_eq!(coarser.decode(0, MAGIC, &page), Err(PageError::Layout));
        assert!(other.is_empty());
        other.decode(0, MAGIC, &page).unwrap();
        assert_eq!((other.marked(), other.next_run(0, 100)), (4, Some(5..9)));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), page in 0u32..3) {
            let mut map = RegionMap::new(RegionLayout::new(REGIONS_PER_PAGE * 3 * 4096, 12));
            let _ = map.decode(page, MAGIC, &bytes);
        }

        #[test]
        fn behaves_like_a_set(
            size in 1u64..300_000_000,
            steps in proptest::collection::vec((any::<bool>(), 0u64..80_000, 1u64..40_000), 1..12),
        ) {
            let layout = RegionLayout::new(size, 12);
            let mut map = RegionMap::new(layout);
            let mut set = BTreeSet::new();
            for (mark, start, len) in steps {
                let run = start.min(layout.regions())..(start + len).min(layout.regions());
                let before = set.len() as u64;
                if mark {
                    set.extend(run.clone());
                    prop_assert_eq!(map.mark(&run), set.len() as u64 - before);
                } else {
                    set.retain(|r| !run.contains(r));
                    prop_assert_eq!(map.unmark(&run), before - set.len() as u64);
                }
                prop_assert_eq!(map.marked(), set.len() as u64);
            }
            let bytes: u64 = set.iter().map(|r| layout.bytes(&(*r..*r + 1)).len()).sum();
            prop_assert_eq!(map.bytes_marked(), bytes);
            let mut walked = BTreeSet::new();
            let mut from = 0;
            while let Some(run) = map.next_run(from, 1000) {
                prop_assert!(map.all(&run));
                from = run.end;
                walked.extend(run);
            }
            prop_assert_eq!(&walked, &set);
            let mut read = RegionMap::new(layout);
            for page in 0..layout.pages() {
                read.decode(page, MAGIC, &map.encode(page, MAGIC, &[])).unwrap();
            }
            prop_assert_eq!(read.marked(), map.marked());
            prop_assert_eq!(read.bits, map.bits);
        }

        #[test]
        fn coarse_marks_cover_their_bytes(marks in proptest::collection::vec(0u64..100, 0..20)) {
            let size = (100 << 20) - 5000;
            let mut coarse = RegionMap::new(RegionLayout::new(size, 20));
            for region in &marks {
                coarse.mark(&(*region..*region + 1));
            }
            let mut fine = RegionMap::new(RegionLayout::new(size, 16));
            fine.union_coarse(&coarse);
            prop_assert_eq!(fine.bytes_marked(), coarse.bytes_marked());
        }
    }
}
