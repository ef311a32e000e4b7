//! The only source of chance in a simulated world.

use std::ops::RangeInclusive;
use std::time::Duration;

/// xoshiro256** (Blackman and Vigna), its state filled by splitmix64 from one 64-bit seed.
///
/// Own code on purpose: a seed that once showed a bug must show it for ever, whatever a library does to its generators.
/// Streams are forked by name ([`Rng::fork`]), so a new draw in one place shifts no draw in another.
#[derive(Clone, Debug)]
pub struct Rng {
    seed: u64,
    state: [u64; 4],
}

impl Rng {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut at = seed;
        let state = std::array::from_fn(|_| {
            at = at.wrapping_add(0x9e37_79b9_7f4a_7c15);
            finish(at)
        });
        Self { seed, state }
    }

    /// The stream `name` of the same seed. It does not depend on what was drawn so far: the same name gives the same
    /// stream from its start.
    pub fn fork(&self, name: &str) -> Self {
        // FNV-1a over the name; the finisher spreads names that differ in one letter.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self::new(finish(self.seed ^ finish(hash)))
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let out = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        out
    }

    /// A number below `limit`.
    ///
    /// # Panics
    /// When `limit` is zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        assert!(limit > 0, "there is no number below zero");
        // The high half of the product; its bias is below limit / 2^64.
        ((u128::from(self.next_u64()) * u128::from(limit)) >> 64) as u64
    }

    /// An index into something of `len` elements.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// A number of the range, both ends included.
    pub fn range(&mut self, range: RangeInclusive<u64>) -> u64 {
        let span = range.end().saturating_sub(*range.start());
        range.start() + if span == u64::MAX { self.next_u64() } else { self.below(span + 1) }
    }

    /// A time of the range, both ends included, in nanoseconds.
    pub fn duration(&mut self, range: &RangeInclusive<Duration>) -> Duration {
        let nanos = |time: &Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.range(nanos(range.start())..=nanos(range.end())))
    }

    /// True in `hits` of `of` cases.
    pub fn chance(&mut self, hits: u64, of: u64) -> bool {
        self.below(of) < hits
    }

    /// One of the elements, `None` when there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { from.get(self.index(from.len())) }
    }

    /// Puts the elements into a random order.
    pub fn shuffle<T>(&mut self, elements: &mut [T]) {
        for last in (1..elements.len()).rev() {
            elements.swap(last, self.index(last + 1));
        }
    }

    /// Fills `out` with random bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// The finisher of splitmix64: every input bit changes half of the output bits.
const fn finish(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A running hash over everything that happened, to compare two runs. Not a checksum of anything stored.
#[derive(Default)]
pub(super) struct Trace {
    hash: std::cell::Cell<u64>,
}

impl Trace {
    pub(super) fn fold(&self, word: u64) {
        self.hash.set((self.hash.get() ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29));
    }

    pub(super) fn fold_bytes(&self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in chunks.by_ref() {
            self.fold(u64::from_le_bytes(chunk.try_into().expect("chunks of eight")));
        }
        for byte in chunks.remainder() {
            self.fold(u64::from(*byte));
        }
        self.fold(bytes.len() as u64);
    }

    pub(super) fn value(&self) -> u64 {
        finish(self.hash.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forks_do_not_depend_on_draws() {
        let mut parent = Rng::new(7);
        let before = parent.fork("disk").next_u64();
        parent.next_u64();
        assert_eq!(parent.fork("disk").next_u64(), before);
        assert_ne!(parent.fork("disl").next_u64(), before);
        assert_ne!(Rng::new(8).fork("disk").next_u64(), before);
    }

    #[test]
    fn the_generator_is_the_published_one() {
        // First outputs of xoshiro256** for the state 1, 2, 3, 4 (reference implementation).
        let mut rng = Rng { seed: 0, state: [1, 2, 3, 4] };
        assert_eq!([rng.next_u64(), rng.next_u64(), rng.next_u64()], [11520, 0, 1_509_978_240]);
    }

    #[test]
    fn draws_stay_in_range_and_reach_both_ends() {
        let mut rng = Rng::new(1);
        let drawn: std::collections::BTreeSet<u64> = (0..200).map(|_| rng.range(3..=6)).collect();
        assert_eq!(drawn, (3..=6).collect());
        let mut order: Vec<u32> = (0..20).collect();
        rng.shuffle(&mut order);
        assert_ne!(order, (0..20).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..20).collect::<Vec<_>>());
    }
}
