//! The pattern that `--verify` writes, and what is known about every cell.
//!
//! Each 512 bytes of a cell hold, little-endian: a mark, the run's seed, their own byte offset in the LU, the number of the write,
//! and 60 words that follow from these. Data of another place, an older write or another run is so told apart from noise.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use twinlun_block::Payload;

use super::workload::Sequence;

const SECTOR: usize = 512;
const MARK: u64 = u64::from_le_bytes(*b"TWINLOAD");

/// Where and how data differs from what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Byte offset in the LU of the first wrong 512 bytes.
    pub offset: u64,
    /// Number of the write that should be there.
    pub expected: u64,
    /// What is there instead.
    pub found: Found,
}

/// What stands where something else should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The data of this run's write of that number to that offset.
    Write {
        /// Its number.
        number: u64,
        /// Its offset.
        offset: u64,
    },
    /// Data of another run.
    OtherRun,
    /// Zeros.
    Zeros,
    /// Something else.
    Noise,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {} holds not write {} but ", self.offset, self.expected)?;
        match self.found {
            Found::Write { number, offset } if offset == self.offset => write!(f, "write {number}"),
            Found::Write { number, offset } => write!(f, "write {number} to byte {offset}"),
            Found::OtherRun => f.write_str("the data of another run"),
            Found::Zeros => f.write_str("zeros"),
            Found::Noise => f.write_str("other data"),
        }
    }
}

fn sector(seed: u64, offset: u64, number: u64) -> impl Iterator<Item = u64> {
    let mut fill = Sequence(seed ^ offset.rotate_left(17) ^ number.rotate_left(41));
    [MARK, seed, offset, number]
        .into_iter()
        .chain(std::iter::repeat_with(move || fill.next()).take(SECTOR / 8 - 4))
}

/// The data of one write.
pub(super) fn pattern(seed: u64, offset: u64, number: u64, len: usize) -> Bytes {
    let mut out = BytesMut::with_capacity(len);
    for at in (0..len).step_by(SECTOR) {
        sector(seed, offset + at as u64, number).for_each(|word| out.put_u64_le(word));
    }
    out.freeze()
}

/// Checks what was read.
pub(super) fn check(seed: u64, offset: u64, number: u64, data: &Payload) -> Result<(), Mismatch> {
    let data = data.to_bytes();
    for (at, found) in (offset..).step_by(SECTOR).zip(data.chunks(SECTOR)) {
        let words = found.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        if !words.eq(sector(seed, at, number)) {
            return Err(Mismatch { offset: at, expected: number, found: identify(seed, found) });
        }
    }
    Ok(())
}

fn identify(seed: u64, data: &[u8]) -> Found {
    let mut words = data.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(MARK), Some(run), Some(offset), Some(number)) => {
            let whole = data.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
            if run != seed {
                Found::OtherRun
            } else if whole.eq(sector(seed, offset, number)) {
                Found::Write { number, offset }
            } else {
                Found::Noise
            }
        }
        _ if data.iter().all(|byte| *byte == 0) => Found::Zeros,
        _ => Found::Noise,
    }
}

/// What is known about the cells of one connection.
#[derive(Debug)]
pub(super) struct Cells {
    first: u64,
    /// Number of the last write; 0 is none, the highest bit says that a command is under way.
    state: Vec<u64>,
}

const BUSY: u64 = 1 << 63;
/// A write failed: old or new data, or a mixture of whole blocks.
const UNKNOWN: u64 = BUSY - 1;

impl Cells {
    pub(super) fn new(part: std::ops::Range<u64>) -> Self {
        Self { first: part.start, state: vec![0; (part.end - part.start) as usize] }
    }

    fn at(&mut self, cell: u64) -> &mut u64 {
        &mut self.state[(cell - self.first) as usize]
    }

    /// Takes a cell for a command; false when one is under way.
    pub(super) fn take(&mut self, cell: u64) -> bool {
        let state = self.at(cell);
        let free = *state & BUSY == 0;
        *state |= BUSY;
        free
    }

    /// Gives it back after a read.
    pub(super) fn give_back(&mut self, cell: u64) {
        *self.at(cell) &= !BUSY;
    }

    /// Gives it back after a write; `None` for one that failed.
    pub(super) fn written(&mut self, cell: u64, number: Option<u64>) {
        *self.at(cell) = number.unwrap_or(UNKNOWN);
    }

    /// The write that the cell must hold, if one is known.
    pub(super) fn expected(&mut self, cell: u64) -> Option<u64> {
        let state = *self.at(cell) & !BUSY;
        (state != 0 && state != UNKNOWN).then_some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_recognised_wherever_it_is_found() {
        let good = pattern(1, 8192, 5, 4096);
        assert_eq!(check(1, 8192, 5, &good.clone().into()), Ok(()));
        let wrong =
            |seed, offset, number, data: Bytes| check(seed, offset, number, &data.into()).unwrap_err();
        let lost = wrong(1, 8192, 6, good.clone());
        assert_eq!(lost.found, Found::Write { number: 5, offset: 8192 });
        assert_eq!(lost.to_string(), "byte 8192 holds not write 6 but write 5");
        assert_eq!(wrong(1, 4096, 5, good.clone()).found, Found::Write { number: 5, offset: 8192 });
        assert_eq!(wrong(2, 8192, 5, good.clone()).found, Found::OtherRun);
        assert_eq!(wrong(1, 8192, 5, vec![0; 4096].into()).found, Found::Zeros);
        for flipped in [0, 600, 4095] {
            let mut torn = good.to_vec();
            torn[flipped] ^= 1;
            let mismatch = wrong(1, 8192, 5, torn.into());
            assert_eq!((mismatch.offset, mismatch.found), (8192 + flipped as u64 / 512 * 512, Found::Noise));
        }
    }

    #[test]
    fn a_cell_has_one_command_at_a_time() {
        let mut cells = Cells::new(10..20);
        assert!(cells.take(10) && !cells.take(10) && cells.take(19));
        assert_eq!(cells.expected(10), None);
        cells.written(10, Some(7));
        assert_eq!(cells.expected(10), Some(7));
        assert!(cells.take(10));
        assert_eq!(cells.expected(10), Some(7), "a read under way changes nothing");
        cells.give_back(10);
        cells.written(10, None);
        assert_eq!(cells.expected(10), None, "a failed write leaves either");
        assert!(cells.take(10));
    }
}
