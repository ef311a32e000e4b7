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

fn change(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    if bytes.is_empty() {
        let len = rng.len(32);
        bytes.extend(rng.bytes(len));
        return;
    }
    let at = rng.below(bytes.len());
    let run = rng.len(32).min(bytes.len() - at);
    match rng.below(12) {
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
        _ => {
            let from = if other.is_empty() { 0 } else { rng.below(other.len()) };
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
    }
}
