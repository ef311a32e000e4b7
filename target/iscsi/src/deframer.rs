//! From received bytes to PDUs.
//!
//! # The buffer contract
//! The driver receives into [`Deframer::buffer`], which always has spare capacity, then calls [`Deframer::next`] until
//! it says `None`. One receive of a large chunk so yields many PDUs. Data segments are slices of that chunk; nothing is
//! copied, except that what is unfinished when a chunk is full moves to the next chunk: always so for headers, and for
//! data up to [`COPY_LIMIT`]. A longer piece of data stays where it is, and the PDU's payload gets a second segment.
//!
//! Memory: a chunk lives as long as a data segment in it. Lengths are checked against [`FrameLimits`] before anything is
//! awaited or allocated for them, so a peer can make this side hold at most one chunk and one data segment of the
//! permitted size beyond what its PDUs are worth to the session.

use bytes::{Buf, Bytes, BytesMut};
use twinlun_block::Payload;

use crate::digest::{Crc32c, DIGEST_LEN, digest};
use crate::pdu::{BHS_LEN, Bhs, DataSegmentLength, RawPdu};

/// Data segments before full feature phase are at most this long (RFC 7143, 13.12: 8192 until declared otherwise).
pub const LOGIN_DATA_LIMIT: u32 = 8192;

/// Unfinished data up to this length is copied when a chunk is full; more becomes a segment of its own.
pub const COPY_LIMIT: usize = 4096;

/// Chunk size during login: connections that never get further cost little (class K of hostile behaviour).
const LOGIN_CHUNK: usize = 16 * 1024;

/// Smallest chunk: the largest header with its digest must fit, and padding with a digest behind it.
const MIN_CHUNK: usize = 4096;

/// What the negotiated parameters mean for framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// MaxRecvDataSegmentLength that this side declared.
    pub max_data: u32,
    /// Whether headers carry digests.
    pub header_digest: bool,
    /// Whether data segments carry digests.
    pub data_digest: bool,
    /// Whether additional header segments are allowed: not before full feature phase.
    pub allow_ahs: bool,
}

impl FrameLimits {
    /// What holds during login.
    pub const LOGIN: Self =
        Self { max_data: LOGIN_DATA_LIMIT, header_digest: false, data_digest: false, allow_ahs: false };
}

/// Why no PDU came out. All but [`FrameError::DataDigest`] end the connection: the stream cannot be trusted any more,
/// and every later call says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A header does not match its digest (RFC 7143, 7.8): its lengths cannot be believed.
    #[error("header digest error")]
    HeaderDigest,
    /// A data segment does not match its digest. The PDU is consumed; a target answers with a Reject.
    #[error("data digest error in {bhs:?}")]
    DataDigest {
        /// Header of the PDU.
        bhs: Bhs,
    },
    /// A data segment longer than this side declared. Nothing of it was received into memory of its own.
    #[error("data segment of {len} bytes, the limit is {limit}, in {bhs:?}")]
    DataTooLong {
        /// Header of the PDU.
        bhs: Bhs,
        /// Its data segment length.
        len: usize,
        /// What was allowed.
        limit: u32,
    },
    /// Additional header segments where there may be none.
    #[error("additional header segments are not allowed in {bhs:?}")]
    UnexpectedAhs {
        /// Header of the PDU.
        bhs: Bhs,
    },
}

impl FrameError {
    /// Whether the connection must be dropped.
    pub const fn is_fatal(&self) -> bool {
        !matches!(self, Self::DataDigest { .. })
    }
}

/// Cuts a byte stream into PDUs.
#[derive(Debug)]
pub struct Deframer {
    buffer: BytesMut,
    chunk: usize,
    limits: FrameLimits,
    partial: Option<Partial>,
    dead: Option<FrameError>,
}

/// A PDU whose header is complete.
#[derive(Debug)]
struct Partial {
    bhs: Bhs,
    ahs: Bytes,
    /// Data received in earlier chunks.
    data: Payload,
}

impl Partial {
    fn data_len(&self) -> DataSegmentLength {
        self.bhs.data_len()
    }
}

impl Deframer {
    /// A deframer for a new connection, in the state for login. `chunk` is the size of receive buffers afterwards; 64 to
    /// 256 KiB make one receive yield many PDUs.
    pub fn new(chunk: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            chunk: chunk.max(MIN_CHUNK),
            limits: FrameLimits::LOGIN,
            partial: None,
            dead: None,
        }
    }

    /// What holds from the next PDU on. To be called between two PDUs: right after the one that ended the negotiation
    /// was handled, before the next call of [`Deframer::next`].
    pub fn set_limits(&mut self, limits: FrameLimits) {
        self.limits = limits;
    }

    /// The buffer to receive into: append to it, leave what is there. It has room for at least a quarter of a chunk.
    pub fn buffer(&mut self) -> &mut BytesMut {
        let chunk = if self.limits == FrameLimits::LOGIN { self.chunk.min(LOGIN_CHUNK) } else { self.chunk };
        if self.buffer.capacity() - self.buffer.len() < chunk / 4 {
            self.next_chunk(chunk);
        }
        &mut self.buffer
    }

    fn next_chunk(&mut self, chunk: usize) {
        if let Some(partial) = &mut self.partial {
            let missing = partial.data_len().get() - partial.data.len();
            let here = self.buffer.len().min(missing);
            if here > COPY_LIMIT {
                partial.data.push(self.buffer.split_to(here).freeze());
            }
        }
        // When all PDUs of the chunk are gone, it is used again.
        if self.buffer.try_reclaim(chunk - chunk / 4) {
            return;
        }
        let mut fresh = BytesMut::with_capacity(chunk + self.buffer.len());
        fresh.extend_from_slice(&self.buffer);
        self.buffer = fresh;
    }

    /// The next PDU; `None` when more bytes are needed.
    #[allow(clippy::should_implement_trait, reason = "this is no iterator: it goes on after None")]
    pub fn next(&mut self) -> Result<Option<RawPdu>, FrameError> {
        if let Some(error) = self.dead {
            return Err(error);
        }
        let result = self.advance();
        if let Err(error) = &result
            && error.is_fatal()
        {
            self.dead = Some(*error);
            self.buffer = BytesMut::new();
            self.partial = None;
        }
        result
    }

    fn advance(&mut self) -> Result<Option<RawPdu>, FrameError> {
        let partial = match self.partial.take() {
            Some(partial) => partial,
            None => match self.header()? {
                Some(partial) => partial,
                None => return Ok(None),
            },
        };
        let len = partial.data_len();
        let missing = len.get() - partial.data.len();
        let has_digest = self.limits.data_digest && len.get() > 0;
        let tail = len.padding() + if has_digest { DIGEST_LEN } else { 0 };
        if self.buffer.len() < missing + tail {
            self.partial = Some(partial);
            return Ok(None);
        }
        let Partial { bhs, ahs, mut data } = partial;
        if missing > 0 {
            data.push(self.buffer.split_to(missing).freeze());
        }
        let intact = !has_digest || {
            let (padding, rest) = self.buffer.split_at(len.padding());
            let crc =
                data.segments().iter().fold(Crc32c::new(), |crc, segment| crc.feed(segment)).feed(padding);
            rest.starts_with(&crc.wire())
        };
        self.buffer.advance(tail);
        if !intact {
            return Err(FrameError::DataDigest { bhs });
        }
        Ok(Some(RawPdu { bhs, ahs, data }))
    }

    /// Takes a whole header off the buffer, when it is there.
    fn header(&mut self) -> Result<Option<Partial>, FrameError> {
        let Some(bhs) = self.buffer.first_chunk::<BHS_LEN>().map(|bytes| Bhs(*bytes)) else {
            return Ok(None);
        };
        // Before the digest is checked only the length of the AHS is used, and one byte can say no harm.
        if bhs.ahs_len() > 0 && !self.limits.allow_ahs {
            return Err(FrameError::UnexpectedAhs { bhs });
        }
        let end = BHS_LEN + bhs.ahs_len();
        let whole = end + if self.limits.header_digest { DIGEST_LEN } else { 0 };
        let Some(header) = self.buffer.get(..whole) else { return Ok(None) };
        let (covered, sum) = header.split_at(end);
        if self.limits.header_digest && sum != digest(covered) {
            return Err(FrameError::HeaderDigest);
        }
        let len = bhs.data_len().get();
        let limit = self.limits.max_data;
        if len > limit as usize {
            return Err(FrameError::DataTooLong { bhs, len, limit });
        }
        let ahs = Bytes::copy_from_slice(&covered[BHS_LEN..]);
        self.buffer.advance(whole);
        Ok(Some(Partial { bhs, ahs, data: Payload::new() }))
    }
}

#[cfg(test)]
mod tests;
