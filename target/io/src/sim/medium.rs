//! What a simulated disk holds: the page cache, the medium, and the writes between the two.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use twinlun_block::ByteRange;

use super::rng::Rng;

/// The unit that a disk writes whole or not at all.
pub const SECTOR: u64 = 512;
const PAGE: u64 = 4096;
/// Versions of one sector that may wait for a flush; then the oldest is written back, as a page cache does.
const VERSIONS: usize = 8;

/// Sparse bytes. Copies share their pages.
#[derive(Clone, Default)]
struct Image {
    pages: BTreeMap<u64, Rc<[u8; PAGE as usize]>>,
}

impl Image {
    fn read(&self, range: ByteRange) -> Vec<u8> {
        let mut out = Vec::with_capacity(range.len() as usize);
        for piece in range.split_at_multiples(PAGE) {
            let len = piece.len() as usize;
            match self.pages.get(&(piece.offset() / PAGE)) {
                Some(page) => {
                    let start = (piece.offset() % PAGE) as usize;
                    out.extend_from_slice(&page[start..start + len]);
                }
                None => out.resize(out.len() + len, 0),
            }
        }
        out
    }

    fn write(&mut self, offset: u64, mut data: &[u8]) {
        for piece in ByteRange::new(offset, data.len() as u64).split_at_multiples(PAGE) {
            let (now, later) = data.split_at(piece.len() as usize);
            let page = self.pages.entry(piece.offset() / PAGE).or_insert_with(|| Rc::new([0; PAGE as usize]));
            let start = (piece.offset() % PAGE) as usize;
            Rc::make_mut(page)[start..start + now.len()].copy_from_slice(now);
            data = later;
        }
    }

    fn has_hole(&self, range: ByteRange) -> bool {
        range.split_at_multiples(PAGE).any(|piece| !self.pages.contains_key(&(piece.offset() / PAGE)))
    }
}

/// What a sector holds after a write that was not yet flushed.
#[derive(Clone)]
struct Version {
    write: u64,
    data: Bytes,
}

/// What becomes of an unflushed write when the power fails.
enum Fate {
    Lost,
    Whole,
    /// Its first sectors only.
    Prefix {
        open: bool,
    },
    /// Any of its sectors.
    Torn,
}

impl Fate {
    fn draw(rng: &mut Rng) -> Self {
        match rng.below(4) {
            0 => Self::Lost,
            1 => Self::Whole,
            2 => Self::Prefix { open: true },
            _ => Self::Torn,
        }
    }

    fn survives(&mut self, rng: &mut Rng) -> bool {
        match self {
            Self::Lost => false,
            Self::Whole => true,
            Self::Torn => rng.chance(1, 2),
            Self::Prefix { open } => {
                *open = *open && !rng.chance(1, 4);
                *open
            }
        }
    }
}

/// A disk taken out of its slot, or a copy of one: page cache, durable bytes, unflushed writes, bad sectors.
#[derive(Clone)]
pub struct Medium {
    size: u64,
    live: Image,
    durable: Image,
    /// Per sector, oldest first: what it may hold after a power cut besides what is durable.
    unflushed: BTreeMap<u64, Vec<Version>>,
    next_write: u64,
    unreadable: BTreeSet<u64>,
}

impl std::fmt::Debug for Medium {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Medium({} bytes, {} sectors unflushed)", self.size, self.unflushed.len())
    }
}

impl Medium {
    /// A new disk: zeros.
    pub fn blank(size: u64) -> Self {
        Self {
            size,
            live: Image::default(),
            durable: Image::default(),
            unflushed: BTreeMap::new(),
            next_write: 0,
            unreadable: BTreeSet::new(),
        }
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What a read returns.
    pub fn peek(&self, range: ByteRange) -> Vec<u8> {
        self.live.read(range)
    }

    /// What is certain to survive a power cut.
    pub fn peek_durable(&self, range: ByteRange) -> Vec<u8> {
        self.durable.read(range)
    }

    /// Number of sectors with unflushed writes.
    pub fn unflushed_sectors(&self) -> usize {
        self.unflushed.len()
    }

    /// Overwrites page cache and medium alike: a disk image made by other means.
    pub fn poke(&mut self, offset: u64, data: &[u8]) {
        self.store(offset, data, true, |_| true);
    }

    pub(super) fn has_hole(&self, range: ByteRange) -> bool {
        self.live.has_hole(range)
    }

    /// Writes the sectors for which `keep` says so.
    pub(super) fn store(
        &mut self,
        offset: u64,
        data: &[u8],
        stable: bool,
        mut keep: impl FnMut(u64) -> bool,
    ) {
        let range = ByteRange::new(offset, data.len() as u64);
        let mut kept = Vec::new();
        for piece in range.split_at_multiples(SECTOR) {
            let sector = piece.offset() / SECTOR;
            if !keep(sector) {
                continue;
            }
            let start = (piece.offset() - offset) as usize;
            self.live.write(piece.offset(), &data[start..start + piece.len() as usize]);
            if piece.len() == SECTOR {
                self.unreadable.remove(&sector); // a full overwrite makes the disk remap the sector
            }
            kept.push(sector);
        }
        let (Some(first), Some(last)) = (kept.first(), kept.last()) else { return };
        // Whole sectors as they stand in the page cache: a disk never mixes halves of two writes in one sector.
        let base = first * SECTOR;
        let span = Bytes::from(self.live.read(ByteRange::new(base, (last + 1) * SECTOR - base)));
        let write = self.next_write;
        self.next_write += 1;
        for sector in kept {
            let start = (sector * SECTOR - base) as usize;
            self.record(sector, Version { write, data: span.slice(start..start + SECTOR as usize) }, stable);
        }
    }

    fn record(&mut self, sector: u64, version: Version, stable: bool) {
        if stable {
            self.durable.write(sector * SECTOR, &version.data);
            self.unflushed.remove(&sector);
            return;
        }
        let versions = self.unflushed.entry(sector).or_default();
        versions.push(version);
        if versions.len() > VERSIONS {
            self.durable.write(sector * SECTOR, &versions.remove(0).data);
        }
    }

    /// Writes zeros; with `hole`, sectors that never held anything are left alone, and otherwise have their place from then on.
    pub(super) fn zero(&mut self, range: ByteRange, hole: bool) {
        for piece in range.split_at_multiples(PAGE) {
            let sectors = piece.offset() / SECTOR..piece.end().div_ceil(SECTOR);
            if hole
                && self.live.has_hole(piece)
                && self.durable.has_hole(piece)
                && self.unflushed.range(sectors.clone()).next().is_none()
            {
                self.unreadable.retain(|sector| !sectors.contains(sector));
                continue;
            }
            self.store(piece.offset(), &vec![0; piece.len() as usize], false, |_| true);
        }
    }

    /// A mark for [`Medium::flush`]: the writes so far.
    pub(super) fn mark(&self) -> u64 {
        self.next_write
    }

    /// Makes the writes before the mark durable.
    pub(super) fn flush(&mut self, mark: u64) {
        let durable = &mut self.durable;
        self.unflushed.retain(|sector, versions| {
            let done = versions.partition_point(|version| version.write < mark);
            if let Some(newest) = versions.drain(..done).next_back() {
                durable.write(sector * SECTOR, &newest.data);
            }
            !versions.is_empty()
        });
    }

    /// A failed flush: any part of the unflushed writes reaches the medium, the rest is forgotten although reads
    /// still see it, as on Linux. Returns how many sector versions are lost.
    pub(super) fn fail_flush(&mut self, rng: &mut Rng) -> u64 {
        let mut fates: BTreeMap<u64, Fate> = BTreeMap::new();
        // Every version newer than the durable one may be what is found: each wins over those before it, or not.
        let mut lost = 0;
        for (sector, versions) in std::mem::take(&mut self.unflushed) {
            for version in versions {
                let fate = fates.entry(version.write).or_insert_with(|| Fate::draw(rng));
                if fate.survives(rng) {
                    self.durable.write(sector * SECTOR, &version.data);
                } else {
                    lost += 1;
                }
            }
        }
        lost
    }

    /// Power cut: like a failed flush, and the page cache is gone.
    pub(super) fn power_cut(&mut self, rng: &mut Rng) -> u64 {
        let lost = self.fail_flush(rng);
        self.live = self.durable.clone();
        lost
    }

    /// Flips one bit of the range, in the page cache and on the medium.
    pub(super) fn rot(&mut self, range: ByteRange, rng: &mut Rng) {
        let at = range.offset() + rng.below(range.len());
        let sector = ByteRange::new(at / SECTOR * SECTOR, SECTOR);
        let mut data = self.live.read(sector);
        data[(at % SECTOR) as usize] ^= 1 << rng.below(8);
        self.unflushed.remove(&(at / SECTOR));
        self.live.write(sector.offset(), &data);
        self.durable.write(sector.offset(), &data);
    }

    pub(super) fn make_unreadable(&mut self, range: ByteRange) {
        self.unreadable.extend(range.offset() / SECTOR..range.end().div_ceil(SECTOR));
    }

    pub(super) fn make_readable(&mut self) {
        self.unreadable.clear();
    }

    /// First byte of the range that cannot be read.
    pub(super) fn unreadable(&self, range: ByteRange) -> Option<u64> {
        let sectors = range.offset() / SECTOR..range.end().div_ceil(SECTOR);
        self.unreadable.range(sectors).next().map(|sector| (sector * SECTOR).max(range.offset()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: ByteRange = ByteRange::new(0, 8192);

    fn fill(medium: &mut Medium, offset: u64, len: usize, byte: u8, stable: bool) {
        medium.store(offset, &vec![byte; len], stable, |_| true);
    }

    #[test]
    fn flush_makes_older_writes_durable_and_no_newer_one() {
        let mut medium = Medium::blank(8192);
        fill(&mut medium, 0, 4096, 1, false);
        let mark = medium.mark();
        fill(&mut medium, 512, 512, 2, false);
        medium.flush(mark);
        assert_eq!(medium.peek_durable(ByteRange::new(512, 512)), [1; 512]);
        assert_eq!(medium.peek(ByteRange::new(512, 512)), [2; 512]);
        assert_eq!(medium.unflushed_sectors(), 1);
    }

    #[test]
    fn a_stable_write_is_not_undone_by_an_older_flush() {
        let mut medium = Medium::blank(8192);
        fill(&mut medium, 0, 512, 1, false);
        fill(&mut medium, 0, 512, 2, true);
        medium.flush(medium.mark());
        assert_eq!(medium.peek_durable(ByteRange::new(0, 512)), [2; 512]);
    }

    #[test]
    fn a_power_cut_leaves_each_sector_at_a_version_it_had() {
        let (mut torn, mut old, mut middle, mut new) = (false, false, false, false);
        for seed in 0..200 {
            let mut medium = Medium::blank(8192);
            fill(&mut medium, 0, 8192, 1, false);
            medium.flush(medium.mark());
            fill(&mut medium, 0, 8192, 2, false);
            fill(&mut medium, 4096, 4096, 3, false);
            medium.power_cut(&mut Rng::new(seed));
            assert_eq!(medium.peek(ALL), medium.peek_durable(ALL));
            let after = medium.peek(ALL);
            let sectors: Vec<u8> = after
                .chunks(512)
                .map(|sector| {
                    assert!(sector.iter().all(|byte| *byte == sector[0]), "sectors are never torn");
                    sector[0]
                })
                .collect();
            assert!(sectors[..8].iter().all(|byte| (1..=2).contains(byte)));
            assert!(sectors[8..].iter().all(|byte| (1..=3).contains(byte)));
            torn |= sectors[..8].windows(2).any(|pair| pair[0] != pair[1]);
            old |= sectors[8..].contains(&1);
            middle |= sectors[8..].contains(&2);
            new |= sectors[8..].contains(&3);
        }
        assert!(torn && old && middle && new, "every outcome is reached by some seed");
    }

    #[test]
    fn a_prefix_ends_once() {
        let mut lengths = BTreeSet::new();
        for seed in 0..50 {
            let (mut rng, mut fate) = (Rng::new(seed), Fate::Prefix { open: true });
            let kept: Vec<bool> = (0..20).map(|_| fate.survives(&mut rng)).collect();
            assert!(kept.is_sorted_by(|earlier, later| earlier >= later), "{kept:?}");
            lengths.insert(kept.iter().filter(|kept| **kept).count());
        }
        assert!(lengths.len() > 4, "{lengths:?}");
    }

    #[test]
    fn zeroing_is_a_write_and_costs_nothing_on_holes() {
        let mut medium = Medium::blank(1 << 40);
        medium.zero(ByteRange::new(1 << 30, 1 << 20), true);
        assert_eq!(medium.unflushed_sectors(), 0);
        fill(&mut medium, 0, 4096, 7, true);
        medium.zero(ByteRange::new(100, 1000), true);
        assert_eq!(medium.peek(ByteRange::new(99, 1002))[..2], [7, 0]);
        assert_eq!(medium.peek_durable(ByteRange::new(100, 1)), [7]);
        medium.flush(medium.mark());
        assert_eq!(medium.peek_durable(ByteRange::new(100, 1)), [0]);
    }

    #[test]
    fn bad_sectors_are_cured_by_a_full_overwrite() {
        let mut medium = Medium::blank(8192);
        medium.make_unreadable(ByteRange::new(600, 10));
        assert_eq!(medium.unreadable(ALL), Some(512));
        fill(&mut medium, 600, 10, 1, false);
        assert_eq!(medium.unreadable(ByteRange::new(700, 1)), Some(700));
        fill(&mut medium, 512, 512, 1, false);
        assert_eq!(medium.unreadable(ALL), None);
    }
}
