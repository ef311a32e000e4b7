//! Changes to inputs that were interesting.

use crate::input::{INTERESTING, Rng};

/// One to eight changes, `other` being spliced in now and then; never longer than `most`.
pub(crate) fn mutate(rng: &mut Rng, input: &[u8], other: &[u8], most: usize) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..rng.len(8) {
        change(rng, &mut bytes, other);
    }
    bytes.truncate(most);
    bytes
}

/// A longer input: a piece is repeated, or noise is put behind. Tables, lists and counters have an end to be found.
pub(crate) fn grow(rng: &mut Rng, input: &[u8], most: usize) -> Vec<u8> {
    let mut bytes = input.to_vec();
    let from = rng.below(bytes.len() + 1);
    let piece = bytes[from..].iter().copied().take(1 + rng.below(64)).collect::<Vec<u8>>();
    for _ in 0..rng.len(64) {
        if bytes.len() >= most || piece.is_empty() {
            break;
        }
        bytes.extend_from_slice(&piece);
    }
    let room = most.saturating_sub(bytes.len());
    if room > 0 && rng.below(2) == 0 {
        let len = rng.len(room);
        bytes.extend(rng.bytes(len));
    }
    bytes.truncate(most);
    bytes
}

fn change(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    if bytes.is_empty() {
        let len = rng.len(32);
        bytes.extend(rng.bytes(len));
        return;
    }
    let at = rng.below(bytes.len());
    let run = rng.len(32).min(bytes.len() - at);
    match rng.below(16) {
        0 | 1 => bytes[at] ^= 1 << rng.below(8),
        2 | 3 => bytes[at] = rng.next() as u8,
        4 => bytes[at] = bytes[at].wrapping_add(rng.len(16) as u8),
        5 => bytes[at] = bytes[at].wrapping_sub(rng.len(16) as u8),
        6 => {
            let number = INTERESTING[rng.below(INTERESTING.len())];
            let width = [2, 3, 4, 8][rng.below(4)].min(bytes.len() - at);
            let wire = if rng.below(2) == 0 {
                number.to_le_bytes()
            } else {
                number.rotate_left(64 - 8 * width as u32).to_be_bytes()
            };
            bytes[at..at + width].copy_from_slice(&wire[..width]);
        }
        7 => drop(bytes.drain(at..at + run)),
        8 => {
            let new = rng.bytes(run);
            drop(bytes.splice(at..at, new));
        }
        9 => {
            let copy = bytes[at..at + run].to_vec();
            let to = rng.below(bytes.len());
            drop(bytes.splice(to..to, copy));
        }
        10 => bytes.truncate(at),
        11 => bytes[at..at + run].fill([0, 0xff, b'0', b' '][rng.below(4)]),
        // Lengths and counts are mostly big-endian and mostly wrong by little.
        12 => {
            let width = [2, 3, 4, 8][rng.below(4)].min(bytes.len() - at);
            let field = &mut bytes[at..at + width];
            let old = field.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
            let by = rng.len(9) as u64;
            let new = if rng.below(2) == 0 { old.wrapping_add(by) } else { old.wrapping_sub(by) };
            field.copy_from_slice(&new.to_be_bytes()[8 - width..]);
        }
        13 => {
            let to = rng.below(bytes.len());
            let run = run.min(bytes.len() - to);
            (0..run).for_each(|i| bytes.swap(at + i, to + i));
        }
        // The same place of another input: fields stay where they are.
        14 => {
            let end = (at + run).min(other.len());
            if at < end {
                bytes[at..end].copy_from_slice(&other[at..end]);
            }
        }
        _ => {
            let from = if other.is_empty() { 0 } else { rng.below(other.len()) };
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
    }
}
