//! How the data of a read is cut into Data-In PDUs. Pure, so that a PDU that is asked for again is the one that was sent.
//!
//! ```text
//!   base_offset          one sequence of `burst` bytes           total
//!      |--segment--|--segment--|--rest--|--segment--|--segment--|--|
//!   DataSN base_sn     +1         +2    ▲ F    +3        +4      +5 F
//! ```

/// Where one PDU's data lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) offset: usize,
    pub(super) len: usize,
    /// F bit: it ends its sequence.
    pub(super) is_final: bool,
    /// It is the last of all.
    pub(super) is_last: bool,
}

/// The cuts of one command's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// DataSN of the first PDU, and where its data begins: not zero when the start was acknowledged before it was cut anew.
    base_sn: u32,
    base_offset: usize,
    total: usize,
    segment: usize,
    burst: usize,
}

impl Layout {
    /// Data of `total` bytes in PDUs of `segment` bytes at most and sequences of `burst` bytes; both are lengths that RFC 7143 allows.
    pub(super) fn new(base_sn: u32, base_offset: usize, total: usize, segment: u32, burst: u32) -> Self {
        // Segments are whole words but for the last of a sequence (section 11.7.7).
        let whole = |len: u32| (len & !3).max(4) as usize;
        Self { base_sn, base_offset, total, segment: whole(segment), burst: whole(burst) }
    }

    fn per_burst(&self) -> usize {
        self.burst.div_ceil(self.segment)
    }

    /// Whether the data makes more than one sequence.
    pub(super) fn is_longer_than_burst(&self) -> bool {
        self.total - self.base_offset.min(self.total) > self.burst
    }

    /// The DataSN behind the last PDU.
    pub(super) fn end_sn(&self) -> u32 {
        let len = self.total.saturating_sub(self.base_offset);
        let whole = len / self.burst * self.per_burst();
        self.base_sn.wrapping_add((whole + (len % self.burst).div_ceil(self.segment)) as u32)
    }

    /// The PDU with that number.
    pub(super) fn cut(&self, data_sn: u32) -> Option<Cut> {
        let number = data_sn.wrapping_sub(self.base_sn) as usize;
        let (burst, within) = (number / self.per_burst(), number % self.per_burst());
        let start = within * self.segment;
        let offset = self.base_offset.checked_add(burst.checked_mul(self.burst)?.checked_add(start)?)?;
        if offset >= self.total {
            return None;
        }
        let len = self.segment.min(self.burst - start).min(self.total - offset);
        let is_last = offset + len == self.total;
        Some(Cut { offset, len, is_final: is_last || start + len == self.burst, is_last })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Cuts follow each other without a hole, and each can be found by its number alone.
        #[test]
        fn cuts_cover_the_data(
            base_sn in any::<u32>(), skipped in 0usize..5000, len in 0usize..50_000, segment in 512u32..5000, burst in 512u32..9000,
        ) {
            let layout = Layout::new(base_sn, skipped, skipped + len, segment, burst);
            let (mut at, mut in_burst, mut sn) = (skipped, 0, base_sn);
            while let Some(cut) = layout.cut(sn) {
                prop_assert_eq!(cut.offset, at);
                prop_assert!(cut.len > 0 && cut.len <= segment as usize);
                at += cut.len;
                in_burst += cut.len;
                prop_assert!(in_burst <= burst as usize);
                prop_assert_eq!(cut.is_last, at == skipped + len);
                prop_assert_eq!(cut.is_final, cut.is_last || in_burst == (burst & !3) as usize);
                if cut.is_final { in_burst = 0; }
                sn = sn.wrapping_add(1);
            }
            prop_assert_eq!(at, skipped + len);
            prop_assert_eq!(sn, layout.end_sn());
        }
    }
}
