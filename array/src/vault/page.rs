//! One block of a page log (docs/design/vault.md): 64 bytes of header, then the caller's bytes.

use bytes::Bytes;
use twinlun_block::PAGE_PAYLOAD;

use crate::bytes::{crc_without, u16_at, u32_at, u64_at};
use crate::label::BLOCK;
use crate::planted::{Bug, planted};

const MAGIC: [u8; 4] = *b"TWPG";
const VERSION: u16 = 1;
const CRC_AT: usize = 28;
const HEADER: usize = 64;
const _: () = assert!(HEADER + PAGE_PAYLOAD == BLOCK as usize);

/// What one of the two blocks of a page holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PageBlock {
    /// A version of the page.
    Version {
        /// Grows with every write of the page.
        sequence: u64,
        /// The caller's bytes.
        content: Bytes,
    },
    /// Zeros: never written.
    Blank,
    /// Anything else: torn, rotten or misplaced.
    Damaged,
}

/// A version of a page as it is written. The same block goes to every copy.
pub(crate) fn encode(log: u64, page: u32, sequence: u64, content: &[u8]) -> Bytes {
    assert!(content.len() <= PAGE_PAYLOAD, "a page holds {PAGE_PAYLOAD} bytes");
    let mut block = vec![0; BLOCK as usize];
    block[..4].copy_from_slice(&MAGIC);
    block[4..6].copy_from_slice(&VERSION.to_le_bytes());
    block[6..8].copy_from_slice(&(content.len() as u16).to_le_bytes());
    block[8..16].copy_from_slice(&log.to_le_bytes());
    block[16..20].copy_from_slice(&page.to_le_bytes());
    block[20..28].copy_from_slice(&sequence.to_le_bytes());
    block[HEADER..HEADER + content.len()].copy_from_slice(content);
    let crc = crc_without(&block, CRC_AT);
    block[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    block.into()
}

/// Reads a block of page `page` of log `log`.
pub(crate) fn decode(block: &Bytes, log: u64, page: u32) -> PageBlock {
    if block.iter().all(|byte| *byte == 0) {
        return PageBlock::Blank;
    }
    let read = || {
        let len = usize::from(u16_at(block, 6)?);
        let ours = block.len() == BLOCK as usize
            && block.get(..4)? == MAGIC
            && u16_at(block, 4)? == VERSION
            && len <= PAGE_PAYLOAD
            && (u32_at(block, CRC_AT)? == crc_without(block, CRC_AT) || planted(Bug::TornPageAccepted))
            && u64_at(block, 8)? == log
            && u32_at(block, 16)? == page;
        ours.then(|| Some((u64_at(block, 20)?, block.slice(HEADER..HEADER + len))))?
    };
    match read() {
        Some((sequence, content)) => PageBlock::Version { sequence, content },
        None => PageBlock::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_and_damage_is_seen(
            content in proptest::collection::vec(any::<u8>(), 0..=PAGE_PAYLOAD), sequence in 1u64.., at in 0usize..4096, bit in 0u8..8) {
            let block = encode(5, 6, sequence, &content);
            prop_assert_eq!(decode(&block, 5, 6), PageBlock::Version { sequence, content: content.into() });
            prop_assert_eq!(decode(&block, 5, 7), PageBlock::Damaged);
            prop_assert_eq!(decode(&block, 4, 6), PageBlock::Damaged);
            let mut bad = block.to_vec();
            bad[at] ^= 1 << bit;
            prop_assert_eq!(decode(&bad.into(), 5, 6), PageBlock::Damaged);
        }

        #[test]
        fn a_torn_block_is_damaged(cut in 1usize..8) {
            let (old, new) = (encode(1, 2, 3, &[7; 4000]), encode(1, 2, 4, &[9; 4000]));
            let torn = [&new[..cut * 512], &old[cut * 512..]].concat();
            prop_assert_eq!(decode(&torn.into(), 1, 2), PageBlock::Damaged);
        }
    }

    #[test]
    fn zeros_are_blank() {
        assert_eq!(decode(&Bytes::from(vec![0; 4096]), 1, 2), PageBlock::Blank);
        assert_eq!(decode(&Bytes::from(vec![1; 100]), 1, 2), PageBlock::Damaged);
    }
}
