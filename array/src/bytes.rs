//! Reading numbers from foreign bytes without a panic in reach.

/// The `N` bytes at `at`; `None` when the block is shorter.
pub(crate) fn array<const N: usize>(block: &[u8], at: usize) -> Option<[u8; N]> {
    block.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// A little-endian number.
pub(crate) fn u16_at(block: &[u8], at: usize) -> Option<u16> {
    array(block, at).map(u16::from_le_bytes)
}

/// A little-endian number.
pub(crate) fn u32_at(block: &[u8], at: usize) -> Option<u32> {
    array(block, at).map(u32::from_le_bytes)
}

/// A little-endian number.
pub(crate) fn u64_at(block: &[u8], at: usize) -> Option<u64> {
    array(block, at).map(u64::from_le_bytes)
}

/// CRC32C of a block whose checksum field, four bytes at `at`, counts as zeros.
pub(crate) fn crc_without(block: &[u8], at: usize) -> u32 {
    let crc = crc32c::crc32c(&block[..at]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &block[at + 4..])
}
