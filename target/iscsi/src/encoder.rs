//! From PDUs to segments for a vectored send.
//!
//! Headers, padding, digests and short data of a whole batch are written one behind the other into one block, so a
//! block's allocation serves hundreds of PDUs, and neighbours that are not separated by a large data segment leave as one
//! slice. Large data segments are handed on by reference count.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use crate::digest::{Crc32c, DIGEST_LEN, digest};
use crate::pdu::{BHS_LEN, DataSegmentLength, MAX_AHS_LEN, RawPdu};

/// Size of a block for headers.
const BLOCK: usize = 16 * 1024;

/// Data up to this length is copied behind its header: cheaper than a slice of its own.
const INLINE_LIMIT: usize = 256;

/// Most bytes that one PDU needs in a block: header, AHS, two digests, inline data, padding.
const PDU_ROOM: usize = BHS_LEN + MAX_AHS_LEN + 2 * DIGEST_LEN + INLINE_LIMIT + 3;

/// Gathers PDUs to be sent.
#[derive(Debug, Default)]
pub struct Encoder {
    block: BytesMut,
    ready: VecDeque<Bytes>,
    ready_len: usize,
    header_digest: bool,
    data_digest: bool,
}

impl Encoder {
    /// An encoder without digests, as login needs it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which digests are added from the next PDU on.
    pub fn set_digests(&mut self, header: bool, data: bool) {
        self.header_digest = header;
        self.data_digest = data;
    }

    /// Appends a PDU; its length fields are set here.
    ///
    /// # Panics
    /// When the data segment is longer than the field can say, or the AHS is no AHS: the session's bug, for it cuts data
    /// to the peer's MaxRecvDataSegmentLength.
    pub fn put(&mut self, pdu: impl Into<RawPdu>) {
        let RawPdu { mut bhs, ahs, data } = pdu.into();
        let len =
            DataSegmentLength::checked(data.len()).expect("the session cuts data to what the peer declared");
        assert!(ahs.len() <= MAX_AHS_LEN && ahs.len().is_multiple_of(4), "the AHS was built by this crate");
        bhs.set_lengths(ahs.len(), len);
        if self.block.capacity() - self.block.len() < PDU_ROOM {
            self.cut();
            self.block.reserve(BLOCK);
        }
        let start = self.block.len();
        self.block.put_slice(&bhs.0);
        self.block.put_slice(&ahs);
        if self.header_digest {
            let sum = digest(&self.block[start..]);
            self.block.put_slice(&sum);
        }
        if data.is_empty() {
            return;
        }
        let padding = &[0; 3][..len.padding()];
        let sum = self.data_digest.then(|| {
            data.segments().iter().fold(Crc32c::new(), |crc, segment| crc.feed(segment)).feed(padding).wire()
        });
        for segment in data.segments() {
            if data.len() <= INLINE_LIMIT {
                self.block.put_slice(segment);
            } else {
                self.cut();
                self.ready_len += segment.len();
                self.ready.push_back(segment.clone());
            }
        }
        self.block.put_slice(padding);
        if let Some(sum) = sum {
            self.block.put_slice(&sum);
        }
    }

    /// Closes the current run of headers.
    fn cut(&mut self) {
        if !self.block.is_empty() {
            self.ready_len += self.block.len();
            self.ready.push_back(self.block.split().freeze());
        }
    }

    /// Bytes that wait to be sent.
    pub fn len(&self) -> usize {
        self.ready_len + self.block.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands out all that was gathered, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = Bytes> + '_ {
        self.cut();
        self.ready_len = 0;
        self.ready.drain(..)
    }
}
