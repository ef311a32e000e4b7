//! What the vault keeps about a LU.

use serde::{Deserialize, Serialize};
use twinlun_block::BlockSize;
use uuid::Uuid;

use crate::extent::Extent;
use crate::label::{DiskLayout, EXTENT};
use crate::stripe::Stripe;
use crate::{ArrayError, Raid};

/// Prefix of [`LuRecord`] keys.
pub(crate) const LU_PREFIX: &str = ".lu/";

/// A bound LU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LuRecord {
    pub(crate) uuid: Uuid,
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) raid: Raid,
    pub(crate) block_size: u32,
    pub(crate) chunk: u64,
    pub(crate) thin: bool,
    pub(crate) members: Vec<MemberRecord>,
}

/// One disk's part of a LU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberRecord {
    pub(crate) disk: Uuid,
    /// Its data, column byte 0 first.
    pub(crate) extents: Vec<Extent>,
    /// `None` when in step; otherwise the bytes from the start of the column that are copied and stable.
    pub(crate) built: Option<u64>,
}

impl LuRecord {
    pub(crate) fn key(uuid: Uuid) -> String {
        format!("{LU_PREFIX}{uuid}")
    }

    /// Name of the log that holds its write intent.
    /// Name of the log that makes writes atomic.
    pub(crate) fn atomic_log(uuid: Uuid) -> String {
        format!("atomic/{uuid}")
    }

    pub(crate) fn intent_log(uuid: Uuid) -> String {
        format!("a/intent/{uuid}")
    }

    pub(crate) fn stripe(&self) -> Result<Stripe, String> {
        Stripe::of(self.raid, self.members.len(), self.chunk)
    }

    /// Bytes that every member takes on its disk.
    pub(crate) fn member_size(stripe: &Stripe, size: u64) -> u64 {
        stripe.column_size(size).next_multiple_of(EXTENT)
    }

    /// Checks what was read from a vault: every later computation relies on it.
    pub(crate) fn check(
        &self,
        layout_of: impl Fn(Uuid) -> Option<DiskLayout>,
    ) -> Result<(Stripe, BlockSize), ArrayError> {
        let bad = |what: String| ArrayError::Damaged { key: Self::key(self.uuid), what };
        let block_size = BlockSize::from_bytes(self.block_size);
        let block_size = block_size.ok_or_else(|| bad(format!("block size {}", self.block_size)))?;
        let chunk_ok = self.chunk.is_power_of_two() && (4096..=16 << 20).contains(&self.chunk);
        let size_ok =
            self.size > 0 && self.size < 1 << 56 && self.size.is_multiple_of(self.block_size.into());
        if !chunk_ok || !size_ok || self.members.len() > 256 {
            return Err(bad("impossible size, chunk or number of members".into()));
        }
        let stripe = self.stripe().map_err(bad)?;
        let need = Self::member_size(&stripe, self.size);
        for member in &self.members {
            let mut sum = 0u64;
            for extent in &member.extents {
                let end = extent.end().ok_or_else(|| bad("an extent wraps".into()))?;
                let inside =
                    layout_of(member.disk).is_none_or(|l| l.data_at <= extent.start && end <= l.data_end);
                if !inside || extent.len == 0 {
                    return Err(bad("an extent lies outside the data area of its disk".into()));
                }
                sum = sum.saturating_add(extent.len);
            }
            if sum != need || member.built.is_some_and(|built| built > need) {
                return Err(bad(format!("a member has {sum} bytes instead of {need}")));
            }
        }
        Ok((stripe, block_size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> LuRecord {
        let member = |disk| MemberRecord {
            disk: Uuid::from_u128(disk),
            extents: vec![Extent { start: 4 << 20, len: 3 << 20 }],
            built: None,
        };
        LuRecord {
            uuid: Uuid::from_u128(5),
            name: "lu".into(),
            size: (2 << 20) + 512,
            raid: Raid::Raid1,
            block_size: 512,
            chunk: 65536,
            thin: false,
            members: vec![member(1), member(2)],
        }
    }

    #[test]
    fn impossible_records_are_refused() {
        let layout = |_| DiskLayout::of(64 << 20);
        assert!(record().check(layout).is_ok());
        let spoil: [fn(&mut LuRecord); 8] = [
            |r| r.block_size = 513,
            |r| r.chunk = 0,
            |r| r.size = 0,
            |r| r.size = u64::MAX,
            |r| r.members.truncate(1),
            |r| r.members[0].extents[0].start = u64::MAX,
            |r| r.members[0].extents[0].start = 63 << 20,
            |r| r.members[1].extents.clear(),
        ];
        for (index, spoil) in spoil.iter().enumerate() {
            let mut bad = record();
            spoil(&mut bad);
            assert!(bad.check(layout).is_err(), "case {index}");
        }
    }
}
