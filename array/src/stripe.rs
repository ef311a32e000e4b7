//! Address arithmetic of RAID groups: which bytes of which column hold a range of the LU (docs/design/raid.md).
//!
//! A group has columns; every column has as many copies as the level says. RAID 0 is n columns of one copy, RAID 1 one
//! column of n copies, RAID 1/0 n/2 columns of two. A range of the LU is one contiguous range on every column it
//! touches, so each copy needs one transfer, however many chunks the range has.

use smallvec::SmallVec;
use twinlun_block::{ByteRange, Payload};

use crate::Raid;

/// The shape of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stripe {
    /// Bytes of a chunk.
    pub(crate) chunk: u64,
    /// Columns, at least one.
    pub(crate) columns: u64,
    /// Copies of every column, at least one.
    pub(crate) copies: usize,
}

/// The part of a request that one column has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ColumnPart {
    /// Column number.
    pub(crate) column: usize,
    /// Bytes of the column.
    pub(crate) range: ByteRange,
}

impl Stripe {
    /// The shape of `members` disks at `raid`, or what is wrong with that number.
    pub(crate) fn of(raid: Raid, members: usize, chunk: u64) -> Result<Self, String> {
        let (columns, copies) = match raid {
            Raid::Raid0 if members >= 1 => (members, 1),
            Raid::Raid0 => return Err("RAID 0 needs at least one disk".into()),
            Raid::Raid1 if members >= 2 => (1, members),
            Raid::Raid1 => return Err("RAID 1 needs at least two disks".into()),
            Raid::Raid10 if members >= 2 && members.is_multiple_of(2) => (members / 2, 2),
            Raid::Raid10 => return Err("RAID 1/0 needs an even number of disks, at least two".into()),
            Raid::Raid3 | Raid::Raid5 | Raid::Raid6 => {
                return Err(format!("RAID {} is not yet in this version; use 0, 1 or 10", raid.level()));
            }
        };
        Ok(Self { chunk, columns: columns as u64, copies })
    }

    /// Bytes that each column needs for a LU of `size` bytes.
    pub(crate) const fn column_size(&self, size: u64) -> u64 {
        if self.columns == 1 { size } else { size.div_ceil(self.chunk * self.columns) * self.chunk }
    }

    /// The columns that hold `range`, in order of column number, each with its one contiguous part.
    pub(crate) fn parts(&self, range: ByteRange) -> SmallVec<[ColumnPart; 4]> {
        let mut parts = SmallVec::new();
        if range.is_empty() {
            return parts;
        }
        if self.columns == 1 {
            parts.push(ColumnPart { column: 0, range });
            return parts;
        }
        for column in 0..self.columns {
            let (start, end) = (self.below(column, range.offset()), self.below(column, range.end()));
            if start < end {
                parts.push(ColumnPart { column: column as usize, range: ByteRange::new(start, end - start) });
            }
        }
        parts
    }

    /// How many bytes of `column` lie before byte `offset` of the LU.
    const fn below(&self, column: u64, offset: u64) -> u64 {
        let row = self.chunk * self.columns;
        let within = (offset % row).saturating_sub(column * self.chunk);
        offset / row * self.chunk + if within < self.chunk { within } else { self.chunk }
    }

    /// The byte of the LU that is byte `at` of `column`.
    pub(crate) const fn logical(&self, column: usize, at: u64) -> u64 {
        if self.columns == 1 {
            return at;
        }
        at / self.chunk * self.chunk * self.columns + column as u64 * self.chunk + at % self.chunk
    }

    /// The data for one part of a write of `data` to `range`.
    pub(crate) fn gather(&self, range: ByteRange, data: &Payload, part: &ColumnPart) -> Payload {
        let mut out = Payload::new();
        for piece in part.range.split_at_multiples(self.step()) {
            let at = self.logical(part.column, piece.offset()) - range.offset();
            out.append(data.slice(at as usize, piece.len() as usize));
        }
        out
    }

    /// Puts the parts of a read of `range`, each with its data, into the order of the LU.
    pub(crate) fn scatter(&self, range: ByteRange, parts: &[(ColumnPart, Payload)]) -> Payload {
        if let [(_, only)] = parts {
            return only.clone();
        }
        let mut out = Payload::new();
        for piece in range.split_at_multiples(self.chunk) {
            let column = (piece.offset() / self.chunk % self.columns) as usize;
            if let Some((part, data)) = parts.iter().find(|(part, _)| part.column == column) {
                let at = self.below(column as u64, piece.offset()) - part.range.offset();
                out.append(data.slice(at as usize, piece.len() as usize));
            }
        }
        out
    }

    const fn step(&self) -> u64 {
        // One column has no chunks: the whole part is one piece.
        if self.columns == 1 { 1 << 62 } else { self.chunk }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stripe() -> impl Strategy<Value = Stripe> {
        (1u64..6, 1u64..9).prop_map(|(columns, chunk)| Stripe { chunk: chunk * 2, columns, copies: 1 })
    }

    proptest! {
        #[test]
        fn every_byte_has_one_place(stripe in stripe(), size in 1u64..400) {
            let mut seen = std::collections::BTreeSet::new();
            for offset in 0..size {
                let parts = stripe.parts(ByteRange::new(offset, 1));
                prop_assert_eq!(parts.len(), 1);
                let part = &parts[0];
                prop_assert_eq!(part.range.len(), 1);
                prop_assert!(part.range.end() <= stripe.column_size(size));
                prop_assert_eq!(stripe.logical(part.column, part.range.offset()), offset);
                prop_assert!(seen.insert((part.column, part.range.offset())));
            }
        }

        #[test]
        fn a_range_is_the_sum_of_its_bytes(stripe in stripe(), offset in 0u64..200, len in 1u64..200) {
            let range = ByteRange::new(offset, len);
            let mut whole: Vec<_> = stripe.parts(range).iter()
                .flat_map(|part| (part.range.offset()..part.range.end()).map(|at| (part.column, at)))
                .collect();
            let mut single: Vec<_> = (offset..offset + len)
                .map(|at| { let p = stripe.parts(ByteRange::new(at, 1)); (p[0].column, p[0].range.offset()) })
                .collect();
            whole.sort_unstable();
            single.sort_unstable();
            prop_assert_eq!(whole, single);
        }

        #[test]
        fn scatter_undoes_gather(stripe in stripe(), offset in 0u64..200, data in proptest::collection::vec(any::<u8>(), 1..200)) {
            let range = ByteRange::new(offset, data.len() as u64);
            let payload = Payload::from(data.clone());
            let parts: Vec<_> = stripe.parts(range).into_iter().map(|part| {
                let bytes = stripe.gather(range, &payload, &part);
                (part, bytes)
            }).collect();
            for (part, bytes) in &parts {
                prop_assert_eq!(part.range.len() as usize, bytes.len());
            }
            prop_assert_eq!(stripe.scatter(range, &parts), payload);
        }
    }

    #[test]
    fn numbers_of_disks_are_checked() {
        assert_eq!(Stripe::of(Raid::Raid10, 6, 65536), Ok(Stripe { chunk: 65536, columns: 3, copies: 2 }));
        assert!(Stripe::of(Raid::Raid10, 3, 65536).is_err());
        assert!(Stripe::of(Raid::Raid1, 1, 65536).is_err());
        assert!(Stripe::of(Raid::Raid5, 3, 65536).expect_err("refused").contains("not yet"));
    }
}
