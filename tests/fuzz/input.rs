//! Chance, and inputs read as choices.

use std::sync::OnceLock;

use bytes::Bytes;

/// A seeded generator (SplitMix64): the same seed gives the same run on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// One stream for each seed and name.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        Self(name.bytes().fold(seed, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
    }

    /// Where the stream is; [`Rng::at`] goes on from there.
    pub(crate) fn position(&self) -> u64 {
        self.0
    }

    pub(crate) fn at(position: u64) -> Self {
        Self(position)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 7);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// A length up to `most`, short ones more often.
    pub(crate) fn len(&mut self, most: usize) -> usize {
        let bound = self.below(most) + 1;
        self.below(bound) + 1
    }
}

/// Numbers at which decoders go wrong.
pub(crate) const INTERESTING: [u64; 20] = [
    0,
    1,
    2,
    3,
    0x7f,
    0x80,
    0xff,
    0x100,
    511,
    512,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0xff_ffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// An input read as a row of choices. Where it has ended every choice is the usual one (zero), so that cutting an input short keeps
/// its beginning, and a mutation in the middle changes one step and not all that follow.
#[derive(Clone, Debug)]
pub(crate) struct Source<'a> {
    rest: &'a [u8],
}

impl<'a> Source<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Up to `len` bytes as they stand.
    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = self.take(N);
        out[..taken.len()].copy_from_slice(taken);
        out
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// Below `bound`, which is at most 65536 and not zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        if bound <= 256 { usize::from(self.byte()) % bound } else { usize::from(self.u16()) % bound }
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// True once in `n` times: for what is wrong.
    pub(crate) fn rarely(&mut self, n: u8) -> bool {
        self.byte() % n == n - 1
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Mostly small, now and then a number at which decoders go wrong.
    pub(crate) fn number(&mut self) -> u64 {
        match self.byte() {
            choice @ 0..=0x9f => u64::from(choice),
            choice @ 0xa0..=0xcf => u64::from(choice) << 4 | u64::from(self.byte()),
            choice @ 0xd0..=0xf7 => INTERESTING[usize::from(choice) % INTERESTING.len()],
            _ => u64::from_le_bytes(self.array()),
        }
    }
}

/// Most bytes that [`pattern`] has.
const PATTERN: usize = 256 << 10;

/// Bytes that differ by place.
pub(crate) fn pattern(len: usize) -> Bytes {
    static ALL: OnceLock<Bytes> = OnceLock::new();
    ALL.get_or_init(|| (0..PATTERN).map(|at| (at / 251 + at) as u8).collect()).slice(..len.min(PATTERN))
}
