//! What hosts write: every sector says which write it belongs to and where it should stand.

/// Bytes that carry one stamp. A sector is what a disk writes whole or not at all, so blocks of 4 KiB may be torn and are tracked in parts.
pub(crate) const SECTOR: u64 = 512;

/// Stamp of a sector of zeros.
pub(crate) const ZEROS: u64 = 0;

/// Appends one sector of the write `stamp`; it will stand at `sector` of LU `lu`.
pub(crate) fn fill(out: &mut Vec<u8>, stamp: u64, lu: usize, sector: u64) {
    if stamp == ZEROS {
        out.resize(out.len() + SECTOR as usize, 0);
        return;
    }
    let mut word = key(stamp, lu, sector);
    out.extend_from_slice(&stamp.to_le_bytes());
    for _ in 1..SECTOR / 8 {
        word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// The stamp of a sector; `None` when it is not what any write leaves at this place: rotten, torn within, or of another place.
pub(crate) fn stamp(data: &[u8], lu: usize, sector: u64) -> Option<u64> {
    let stamp = u64::from_le_bytes(*data.first_chunk()?);
    let mut expected = Vec::with_capacity(SECTOR as usize);
    fill(&mut expected, stamp, lu, sector);
    (data == expected).then_some(stamp)
}

/// A whole write.
pub(crate) fn data(stamp: u64, lu: usize, first: u64, count: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity((count * SECTOR) as usize);
    (first..first + count).for_each(|sector| fill(&mut out, stamp, lu, sector));
    out
}

fn key(stamp: u64, lu: usize, sector: u64) -> u64 {
    (stamp ^ (lu as u64) << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ sector.wrapping_mul(0xd6e8_feb8_6659_fd93)
}
