//! Data on its way: refcounted segments that are received once and sent or written from where they lie.

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;

/// An ordered list of byte segments. Cloning and slicing copy no data.
///
/// A host's write arrives in as many segments as it had data PDUs; disk and peer link both gather from them.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    segments: SmallVec<[Bytes; 1]>,
    len: usize,
}

impl Payload {
    /// No data.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a segment; empty ones are dropped.
    pub fn push(&mut self, segment: Bytes) {
        if !segment.is_empty() {
            self.len += segment.len();
            self.segments.push(segment);
        }
    }

    /// Appends all segments of another payload.
    pub fn append(&mut self, other: Self) {
        self.len += other.len;
        self.segments.extend(other.segments);
    }

    /// Total number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The segments, none of them empty.
    pub fn segments(&self) -> &[Bytes] {
        &self.segments
    }

    /// The `len` bytes from `start`, sharing the segments.
    ///
    /// # Panics
    /// When the payload has not that many bytes.
    pub fn slice(&self, start: usize, len: usize) -> Self {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "slice beyond the payload");
        if start == 0 && len == self.len {
            return self.clone();
        }
        let mut out = Self::new();
        let (mut skip, mut want) = (start, len);
        for segment in &self.segments {
            if want == 0 {
                break;
            }
            if skip >= segment.len() {
                skip -= segment.len();
                continue;
            }
            let take = want.min(segment.len() - skip);
            out.push(segment.slice(skip..skip + take));
            skip = 0;
            want -= take;
        }
        out
    }

    /// Keeps the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            *self = self.slice(0, len);
        }
    }

    /// All data in one piece; copies only when there are several segments.
    pub fn to_bytes(&self) -> Bytes {
        match self.segments.as_slice() {
            [] => Bytes::new(),
            [one] => one.clone(),
            many => {
                let mut flat = BytesMut::with_capacity(self.len);
                for segment in many {
                    flat.extend_from_slice(segment);
                }
                flat.freeze()
            }
        }
    }

    /// Copies the data to `out`, which must be as long.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn copy_to_slice(&self, out: &mut [u8]) {
        assert_eq!(out.len(), self.len, "payload and slice differ in length");
        let mut at = 0;
        for segment in &self.segments {
            out[at..at + segment.len()].copy_from_slice(segment);
            at += segment.len();
        }
    }

    /// Whether every byte is zero: such data crosses a link as a length.
    pub fn is_zero(&self) -> bool {
        // Whole words first: the check runs over every block that a resynchronisation copies.
        self.segments.iter().all(|segment| {
            let mut chunks = segment.chunks_exact(64);
            chunks.by_ref().all(|c| c.iter().fold(0u8, |acc, b| acc | b) == 0)
                && chunks.remainder().iter().all(|b| *b == 0)
        })
    }

    /// Offset of the first byte in which both differ; the shorter one ends the comparison.
    pub fn first_difference(&self, other: &Self) -> Option<usize> {
        let (mut mine, mut theirs) = (self.reader(), other.reader());
        let mut at = 0;
        while mine.has_remaining() && theirs.has_remaining() {
            let n = mine.chunk().len().min(theirs.chunk().len());
            let (a, b) = (&mine.chunk()[..n], &theirs.chunk()[..n]);
            if a != b {
                return a.iter().zip(b).position(|(x, y)| x != y).map(|i| at + i);
            }
            mine.advance(n);
            theirs.advance(n);
            at += n;
        }
        None
    }

    /// A reader over the segments.
    pub fn reader(&self) -> impl Buf {
        PayloadReader { payload: self.clone(), segment: 0, offset: 0, left: self.len }
    }
}

impl From<Bytes> for Payload {
    fn from(segment: Bytes) -> Self {
        let mut payload = Self::new();
        payload.push(segment);
        payload
    }
}

impl From<Vec<u8>> for Payload {
    fn from(data: Vec<u8>) -> Self {
        Bytes::from(data).into()
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.first_difference(other).is_none()
    }
}

impl Eq for Payload {}

struct PayloadReader {
    payload: Payload,
    segment: usize,
    offset: usize,
    left: usize,
}

impl Buf for PayloadReader {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.payload.segments.get(self.segment).map_or(&[], |s| &s[self.offset..])
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.left, "advance beyond the payload");
        self.left -= count;
        while count > 0 {
            let here = self.payload.segments[self.segment].len() - self.offset;
            if count < here {
                self.offset += count;
                return;
            }
            count -= here;
            self.segment += 1;
            self.offset = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn payload(parts: &[Vec<u8>]) -> (Payload, Vec<u8>) {
        let mut p = Payload::new();
        for part in parts {
            p.push(Bytes::copy_from_slice(part));
        }
        (p, parts.concat())
    }

    proptest! {
        #[test]
        fn behaves_like_the_flat_bytes(parts in proptest::collection::vec(proptest::collection::vec(0u8..3, 0..9), 0..6),
                                       cut in 0usize..60, take in 0usize..60, other in proptest::collection::vec(0u8..3, 0..40)) {
            let (p, flat) = payload(&parts);
            prop_assert_eq!(p.len(), flat.len());
            prop_assert_eq!(&p.to_bytes()[..], &flat[..]);
            prop_assert_eq!(p.is_zero(), flat.iter().all(|b| *b == 0));
            let start = cut.min(flat.len());
            let len = take.min(flat.len() - start);
            prop_assert_eq!(&p.slice(start, len).to_bytes()[..], &flat[start..start + len]);
            let mut copy = vec![9; flat.len()];
            p.copy_to_slice(&mut copy);
            prop_assert_eq!(&copy, &flat);
            let q = Payload::from(other.clone());
            prop_assert_eq!(p.first_difference(&q), flat.iter().zip(&other).position(|(a, b)| a != b));
        }
    }
}
