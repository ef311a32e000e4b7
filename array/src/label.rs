//! The disk label: who a disk is (docs/design/disk-label.md). Bytes in, values out.

use uuid::Uuid;

use crate::bytes::{array, crc_without, u16_at, u32_at, u64_at};
use crate::planted::{Bug, planted};

/// Unit of everything on a disk that is not LU data.
pub(crate) const BLOCK: u64 = 4096;
/// Granularity of extents.
pub(crate) const EXTENT: u64 = 1 << 20;
/// The smallest disk that is taken.
pub(crate) const MIN_DISK: u64 = 16 << 20;

const MAGIC: [u8; 8] = *b"TWINDISK";
const VERSION: u16 = 1;
const CRC_AT: usize = 4092;

/// Where things are on a disk; follows from its size alone, and is written to the label to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskLayout {
    /// Size of the disk in bytes.
    pub(crate) size: u64,
    /// Bytes of one record image slot.
    pub(crate) image: u64,
    /// First byte of the page area.
    pub(crate) pages_at: u64,
    /// First byte of LU data.
    pub(crate) data_at: u64,
    /// One past the last byte of LU data.
    pub(crate) data_end: u64,
}

impl DiskLayout {
    /// The layout of a disk of `size` bytes, if it is large enough.
    pub(crate) fn of(size: u64) -> Option<Self> {
        if size < MIN_DISK {
            return None;
        }
        let vault = (size / 64).clamp(4 << 20, 64 << 20) / EXTENT * EXTENT;
        let image = vault / 4;
        Some(Self {
            size,
            image,
            pages_at: BLOCK + 2 * image,
            data_at: vault,
            data_end: (size - EXTENT) / EXTENT * EXTENT,
        })
    }

    /// First byte of image slot 0 or 1.
    pub(crate) const fn image_at(&self, slot: u8) -> u64 {
        BLOCK + slot as u64 * self.image
    }

    /// Number of 4 KiB blocks in the page area; two of them make a page.
    pub(crate) const fn page_blocks(&self) -> u64 {
        (self.data_at - self.pages_at) / BLOCK
    }

    /// Where the second copy of the label is.
    pub(crate) const fn end_label_at(&self) -> u64 {
        (self.size - BLOCK) / BLOCK * BLOCK
    }

    /// Bytes for LU data.
    pub(crate) const fn data_len(&self) -> u64 {
        self.data_end - self.data_at
    }
}

/// What a disk says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) unit: Uuid,
    pub(crate) disk: Uuid,
    pub(crate) slot: u32,
    /// Counts how often a disk has been taken into the unit under this identity.
    pub(crate) generation: u64,
    pub(crate) layout: DiskLayout,
}

/// What stands where a label may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LabelBlock {
    /// A label.
    Label(Label),
    /// The magic is there, and the rest is not readable by this version.
    Unreadable(String),
    /// No label.
    Other,
}

impl Label {
    /// The 4 KiB block.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK as usize];
        block[..8].copy_from_slice(&MAGIC);
        block[8..10].copy_from_slice(&VERSION.to_le_bytes());
        block[16..32].copy_from_slice(self.unit.as_bytes());
        block[32..48].copy_from_slice(self.disk.as_bytes());
        block[48..52].copy_from_slice(&self.slot.to_le_bytes());
        block[56..64].copy_from_slice(&self.generation.to_le_bytes());
        let layout = [
            self.layout.size,
            self.layout.image,
            self.layout.pages_at,
            self.layout.data_at,
            self.layout.data_end,
        ];
        for (index, value) in layout.iter().enumerate() {
            block[64 + index * 8..72 + index * 8].copy_from_slice(&value.to_le_bytes());
        }
        let crc = crc_without(&block, CRC_AT);
        block[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        block
    }

    /// Reads a block that may hold a label of a disk of `size` bytes.
    pub(crate) fn decode(block: &[u8], size: u64) -> LabelBlock {
        if block.get(..8) != Some(&MAGIC[..]) || block.len() != BLOCK as usize {
            return LabelBlock::Other;
        }
        let is_whole = u32_at(block, CRC_AT) == Some(crc_without(block, CRC_AT));
        if !is_whole && !planted(Bug::TornLabelAccepted) {
            return LabelBlock::Unreadable("its label fails the checksum".into());
        }
        let version = u16_at(block, 8).unwrap_or(0);
        if version != VERSION {
            return LabelBlock::Unreadable(format!("its label has version {version}, known is {VERSION}"));
        }
        let fields = || {
            let at = |index: usize| u64_at(block, 64 + index * 8);
            Some(Self {
                unit: Uuid::from_bytes(array(block, 16)?),
                disk: Uuid::from_bytes(array(block, 32)?),
                slot: u32_at(block, 48)?,
                generation: u64_at(block, 56)?,
                layout: DiskLayout {
                    size: at(0)?,
                    image: at(1)?,
                    pages_at: at(2)?,
                    data_at: at(3)?,
                    data_end: at(4)?,
                },
            })
        };
        let Some(label) = fields() else { return LabelBlock::Other };
        // A disk may have grown under us; it must hold what the label describes, and only known shapes are believed.
        if label.layout.size > size {
            return LabelBlock::Unreadable(format!(
                "it has {size} bytes and its label says {}: the file was cut",
                label.layout.size
            ));
        }
        if DiskLayout::of(label.layout.size) != Some(label.layout) {
            return LabelBlock::Unreadable("its label describes an impossible layout".into());
        }
        LabelBlock::Label(label)
    }
}

/// Names what a foreign disk carries, for the refusal; `None` when all bytes are zero.
pub(crate) fn foreign_content(first: &[u8], last: &[u8]) -> Option<&'static str> {
    let has = |at: usize, magic: &[u8]| first.get(at..at + magic.len()) == Some(magic);
    let known: [(&'static str, bool); 9] = [
        ("a GUID partition table", has(512, b"EFI PART") || has(4096, b"EFI PART")),
        ("an ext2/3/4 file system", has(1080, &[0x53, 0xef])),
        ("an XFS file system", has(0, b"XFSB")),
        ("a btrfs file system", has(0x10040, b"_BHRfS_M")),
        ("a LUKS container", has(0, b"LUKS\xba\xbe")),
        ("an LVM physical volume", has(512, b"LABELONE") || has(0, b"LABELONE")),
        ("swap space", has(4086, b"SWAPSPACE2")),
        ("a Linux RAID member", has(4096, &[0xfc, 0x4e, 0x2b, 0xa9])),
        ("a boot sector or partition table", has(510, &[0x55, 0xaa])),
    ];
    if let Some((name, _)) = known.iter().find(|(_, found)| *found) {
        return Some(name);
    }
    if first.iter().any(|byte| *byte != 0) {
        return Some("unknown data in its first MiB");
    }
    last.iter().any(|byte| *byte != 0).then_some("unknown data in its last MiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn label(size: u64) -> Label {
        Label {
            unit: Uuid::from_u128(7),
            disk: Uuid::from_u128(9),
            slot: 3,
            generation: 5,
            layout: DiskLayout::of(size).expect("large enough"),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for size in [MIN_DISK, 64 << 20, (10 << 30) + 512, 1 << 44] {
            let label = label(size);
            assert_eq!(Label::decode(&label.encode(), size), LabelBlock::Label(label.clone()));
            assert!(matches!(Label::decode(&label.encode(), size - 1), LabelBlock::Unreadable(_)));
        }
    }

    #[test]
    fn areas_do_not_overlap() {
        for size in [MIN_DISK, MIN_DISK + 512, 100 << 20, 10 << 30, 1 << 44] {
            let layout = DiskLayout::of(size).expect("large enough");
            assert_eq!(layout.image % BLOCK, 0);
            assert_eq!(layout.image_at(1) + layout.image, layout.pages_at);
            assert!(layout.pages_at < layout.data_at && layout.data_at < layout.data_end);
            assert!(layout.data_end <= layout.end_label_at() && layout.end_label_at() + BLOCK <= size);
            assert!(layout.page_blocks() >= 256);
        }
        assert_eq!(DiskLayout::of(MIN_DISK - 1), None);
    }

    #[test]
    fn refusals_name_what_they_found() {
        let blank = vec![0; 1 << 20];
        assert_eq!(foreign_content(&blank, &blank), None);
        let mut ext = blank.clone();
        ext[1080..1082].copy_from_slice(&[0x53, 0xef]);
        assert_eq!(foreign_content(&ext, &blank), Some("an ext2/3/4 file system"));
        let mut odd = blank.clone();
        odd[777_777] = 1;
        assert_eq!(foreign_content(&odd, &blank), Some("unknown data in its first MiB"));
        assert_eq!(foreign_content(&blank, &odd), Some("unknown data in its last MiB"));
    }

    proptest! {
        #[test]
        fn no_damaged_label_is_believed(at in 0usize..4096, bit in 0u8..8) {
            let whole = label(1 << 30);
            let mut block = whole.encode();
            block[at] ^= 1 << bit;
            let is_believed = matches!(Label::decode(&block, 1 << 30), LabelBlock::Label(_));
            prop_assert!(!is_believed);
        }

        #[test]
        fn noise_does_no_harm(block in proptest::collection::vec(any::<u8>(), 0..5000), size in any::<u64>()) {
            let _ = Label::decode(&block, size);
        }
    }
}
