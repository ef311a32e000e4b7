//! Addresses: logical blocks as SCSI counts them, bytes as every other layer does.

use std::fmt;

/// A logical block address, in blocks of the LU's [`BlockSize`] (SBC-4, 4.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lba(pub u64);

/// The size of a logical block. Hosts boot from and format only these two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum BlockSize {
    /// 512 bytes.
    #[default]
    B512,
    /// 4096 bytes.
    B4096,
}

impl BlockSize {
    /// The size in bytes.
    pub const fn bytes(self) -> u32 {
        match self {
            Self::B512 => 512,
            Self::B4096 => 4096,
        }
    }

    /// The block size of that many bytes, if it is one that a LU may have.
    pub const fn from_bytes(bytes: u32) -> Option<Self> {
        match bytes {
            512 => Some(Self::B512),
            4096 => Some(Self::B4096),
            _ => None,
        }
    }

    /// Base-two logarithm of the size.
    pub const fn shift(self) -> u32 {
        match self {
            Self::B512 => 9,
            Self::B4096 => 12,
        }
    }
}

/// A run of logical blocks. Never wraps: made only by [`LbaRange::within`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LbaRange {
    start: Lba,
    count: u64,
}

/// A range that does not fit the LU: LOGICAL BLOCK ADDRESS OUT OF RANGE (SBC-4, 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange {
    /// The first block of the range that the LU does not have.
    pub first_bad: Lba,
}

impl LbaRange {
    /// The `count` blocks from `start`, when a LU of `capacity` blocks has them all.
    ///
    /// A range of no blocks is allowed to start right behind the last block, as SBC-4 has it for zero transfer lengths.
    pub const fn within(start: Lba, count: u64, capacity: u64) -> Result<Self, OutOfRange> {
        if start.0 > capacity || (start.0 == capacity && count > 0) {
            return Err(OutOfRange { first_bad: start });
        }
        if count > capacity - start.0 {
            return Err(OutOfRange { first_bad: Lba(capacity) });
        }
        Ok(Self { start, count })
    }

    /// First block.
    pub const fn start(self) -> Lba {
        self.start
    }

    /// Number of blocks.
    pub const fn count(self) -> u64 {
        self.count
    }

    /// The same range in bytes. `None` when the LU is larger than 2^64 bytes, which no array binds.
    pub const fn bytes(self, size: BlockSize) -> Option<ByteRange> {
        let unit = size.bytes() as u64;
        match (self.start.0.checked_mul(unit), self.count.checked_mul(unit)) {
            (Some(offset), Some(len)) => ByteRange::checked(offset, len),
            _ => None,
        }
    }
}

/// A half-open run of bytes, `offset .. offset + len`. The end never wraps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteRange {
    offset: u64,
    len: u64,
}

impl ByteRange {
    /// The `len` bytes from `offset`.
    ///
    /// # Panics
    /// When the end would wrap: a caller's bug. Foreign numbers go through [`ByteRange::checked`].
    pub const fn new(offset: u64, len: u64) -> Self {
        match Self::checked(offset, len) {
            Some(range) => range,
            None => panic!("the end of a byte range wraps"),
        }
    }

    /// The same for numbers from outside; `None` when the end wraps.
    pub const fn checked(offset: u64, len: u64) -> Option<Self> {
        if offset.checked_add(len).is_none() {
            return None;
        }
        Some(Self { offset, len })
    }

    /// First byte.
    pub const fn offset(self) -> u64 {
        self.offset
    }

    /// Number of bytes.
    pub const fn len(self) -> u64 {
        self.len
    }

    /// One past the last byte.
    pub const fn end(self) -> u64 {
        self.offset + self.len
    }

    /// Whether it holds no byte.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Whether both have a byte in common. An empty range overlaps nothing.
    pub const fn overlaps(self, other: Self) -> bool {
        self.len > 0 && other.len > 0 && self.offset < other.end() && other.offset < self.end()
    }

    /// Whether every byte of `other` is in `self`.
    pub const fn contains(self, other: Self) -> bool {
        self.offset <= other.offset && other.end() <= self.end()
    }

    /// The bytes in both, if any.
    pub fn intersection(self, other: Self) -> Option<Self> {
        let offset = self.offset.max(other.offset);
        let end = self.end().min(other.end());
        (offset < end).then(|| Self { offset, len: end - offset })
    }

    /// Cuts the range at multiples of `step` (counted from byte 0): what a stripe, a region or a transfer limit needs.
    pub fn split_at_multiples(self, step: u64) -> impl Iterator<Item = Self> {
        assert!(step > 0, "cannot split by zero");
        let mut next = self.offset;
        let end = self.end();
        std::iter::from_fn(move || {
            (next < end).then(|| {
                let stop = (next - next % step).saturating_add(step).min(end);
                let piece = Self { offset: next, len: stop - next };
                next = stop;
                piece
            })
        })
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.offset, self.len)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lba_range_ends_at_capacity() {
        assert!(LbaRange::within(Lba(0), 8, 8).is_ok());
        assert!(LbaRange::within(Lba(8), 0, 8).is_ok());
        assert_eq!(LbaRange::within(Lba(8), 1, 8), Err(OutOfRange { first_bad: Lba(8) }));
        assert_eq!(LbaRange::within(Lba(9), 0, 8), Err(OutOfRange { first_bad: Lba(9) }));
        assert_eq!(LbaRange::within(Lba(7), 2, 8), Err(OutOfRange { first_bad: Lba(8) }));
        assert!(LbaRange::within(Lba(1), u64::MAX, 8).is_err());
    }

    proptest! {
        #[test]
        fn splitting_loses_and_doubles_nothing(offset in 0u64..1 << 40, len in 0u64..100_000, step in 1u64..70_000) {
            let whole = ByteRange::new(offset, len);
            let pieces: Vec<_> = whole.split_at_multiples(step).collect();
            let mut at = offset;
            for piece in &pieces {
                prop_assert_eq!(piece.offset(), at);
                prop_assert!(!piece.is_empty());
                prop_assert_eq!(piece.offset() / step, (piece.end() - 1) / step);
                at = piece.end();
            }
            prop_assert_eq!(at, whole.end());
        }

        #[test]
        fn overlap_is_a_common_byte(a in 0u64..64, al in 0u64..16, b in 0u64..64, bl in 0u64..16) {
            let (x, y) = (ByteRange::new(a, al), ByteRange::new(b, bl));
            let common = (a..a + al).any(|byte| (b..b + bl).contains(&byte));
            prop_assert_eq!(x.overlaps(y), common);
            prop_assert_eq!(x.intersection(y).is_some(), common);
        }
    }
}
