//! Runs of disk space: who has them, where the next one fits.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use twinlun_block::ByteRange;

/// A run of bytes on one disk, of whole MiB for LU data and whole blocks for page logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Extent {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

impl Extent {
    pub(crate) fn end(self) -> Option<u64> {
        self.start.checked_add(self.len)
    }
}

/// First fit: takes `want` units from `whole`, around what is `used`, in as few pieces as lie in the way.
///
/// `None` when there is not enough room. `used` may be in any order; what lies outside `whole` does not matter.
pub(crate) fn allocate(whole: Extent, used: &[Extent], want: u64, one_piece: bool) -> Option<Vec<Extent>> {
    let gaps = gaps(whole, used);
    if let Some(gap) = gaps.iter().find(|gap| gap.len >= want) {
        return Some(vec![Extent { start: gap.start, len: want }]);
    }
    if one_piece {
        return None;
    }
    let mut pieces = Vec::new();
    let mut left = want;
    for gap in gaps {
        let len = gap.len.min(left);
        pieces.push(Extent { start: gap.start, len });
        left -= len;
        if left == 0 {
            return Some(pieces);
        }
    }
    None
}

/// Free units in `whole`.
pub(crate) fn free(whole: Extent, used: &[Extent]) -> u64 {
    gaps(whole, used).iter().map(|gap| gap.len).sum()
}

fn gaps(whole: Extent, used: &[Extent]) -> Vec<Extent> {
    let mut used = used.to_vec();
    used.sort_unstable();
    let end = whole.end().unwrap_or(u64::MAX);
    let mut at = whole.start;
    let mut gaps = Vec::new();
    for extent in used {
        if extent.start > at && at < end {
            gaps.push(Extent { start: at, len: extent.start.min(end) - at });
        }
        at = at.max(extent.end().unwrap_or(u64::MAX));
    }
    if at < end {
        gaps.push(Extent { start: at, len: end - at });
    }
    gaps
}

/// The disk ranges behind `range` of a member whose data lies in `extents`, one after the other.
///
/// Falls short only when the range is beyond the extents, which records are checked for when they are read.
pub(crate) fn translate(extents: &[Extent], range: ByteRange) -> SmallVec<[ByteRange; 1]> {
    let mut pieces = SmallVec::new();
    let mut base = 0;
    for extent in extents {
        let window = ByteRange::new(base, extent.len);
        if let Some(part) = window.intersection(range) {
            pieces.push(ByteRange::new(extent.start + (part.offset() - base), part.len()));
        }
        base += extent.len;
        if base >= range.end() {
            break;
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn model(extents: &[Extent]) -> Vec<u64> {
        extents.iter().flat_map(|e| e.start..e.start + e.len).collect()
    }

    proptest! {
        #[test]
        fn allocation_takes_only_what_is_free(
            used in proptest::collection::vec((0u64..60, 0u64..9), 0..8), want in 1u64..60, one_piece in any::<bool>()) {
            let used: Vec<_> = used.into_iter().map(|(start, len)| Extent { start, len }).collect();
            let whole = Extent { start: 4, len: 50 };
            let taken = model(&used);
            let room: Vec<_> = (4..54).filter(|unit| !taken.contains(unit)).collect();
            prop_assert_eq!(free(whole, &used), room.len() as u64);
            match allocate(whole, &used, want, one_piece) {
                Some(got) => {
                    let units = model(&got);
                    prop_assert_eq!(units.len() as u64, want);
                    prop_assert!(units.iter().all(|unit| room.contains(unit)));
                    prop_assert!(units.windows(2).all(|pair| pair[0] < pair[1]));
                    prop_assert!(!one_piece || got.len() == 1);
                }
                None => prop_assert!(one_piece || (room.len() as u64) < want),
            }
        }

        #[test]
        fn translation_follows_the_extents(
            extents in proptest::collection::vec((0u64..1000, 1u64..20), 1..6), at in any::<prop::sample::Index>(), until in any::<prop::sample::Index>()) {
            let extents: Vec<_> = extents.into_iter().map(|(start, len)| Extent { start, len }).collect();
            let flat = model(&extents);
            let offset = at.index(flat.len()) as u64;
            let len = 1 + until.index(flat.len() - offset as usize) as u64;
            let got: Vec<u64> = translate(&extents, ByteRange::new(offset, len))
                .into_iter().flat_map(|piece| piece.offset()..piece.end()).collect();
            prop_assert_eq!(&got[..], &flat[offset as usize..(offset + len) as usize]);
        }
    }
}
