//! Frames: what stands on the wire once the handshake is done. Pure.
//!
//! Every frame is a header of [`HEADER_LEN`] bytes, little endian, and a payload:
//!
//! ```text
//!  0 magic          4 kind  5 code  6 flags    8 sequence
//! 16 request                                  24 tag
//! 32 epoch                                    40 offset
//! 48 length                                   56 image (16 bytes)
//! 72 lu  74 zero   76 payload length          80 payload CRC32C  84 header CRC32C over bytes 0–83
//! ```

use bytes::{Bytes, BytesMut};
use twinlun_block::{BlockError, ByteRange, Payload};

use super::message::{DataOp, DataRequest, DataStatus, MAX_CONTROL, MAX_DATA, Request, Response};

/// Bytes of a frame's header.
pub(super) const HEADER_LEN: usize = 88;

/// Longest farewell in bytes.
const MAX_GOODBYE: usize = 256;

/// Size of a receive buffer: large receives are worth a factor of two in processor time. A payload that is kept pins
/// its buffer, and neighbours share it.
const BUFFER_LEN: usize = 256 << 10;

/// Size of the pieces of memory that headers are written to.
const HEADERS_LEN: usize = 8 << 10;

const MAGIC: u32 = u32::from_le_bytes(*b"TwLf");

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Which request a request or response is; 0 for the others.
    pub(super) request: u64,
    pub(super) body: FrameBody,
}

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FrameBody {
    /// The sender lives.
    Heartbeat,
    /// From the listening side: requests are taken from now on, as many as the window says.
    Open(Window),
    Request(Request),
    Response(Response),
    /// The sender closes the connection and says why.
    Goodbye(Bytes),
}

/// How much the receiver of requests takes at a time (L3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Requests not yet answered.
    pub(super) requests: u32,
    /// Bytes that these requests carry or ask for.
    pub(super) bytes: u32,
}

/// Why a peer's bytes are not believed. Each ends the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    #[error("not a frame of this protocol")]
    Magic,
    #[error("damaged header (checksum)")]
    HeaderChecksum,
    #[error("damaged payload (checksum)")]
    PayloadChecksum,
    #[error("a frame of another session or direction")]
    Tag,
    #[error("frame {got} where {expected} was due: lost or repeated")]
    Sequence { expected: u64, got: u64 },
    #[error("unknown kind {kind} or code {code} of frame")]
    Unknown { kind: u8, code: u8 },
    #[error("reserved bits are set")]
    Reserved,
    #[error("payload of {len} bytes where it may not be")]
    PayloadLength { len: usize },
    #[error("impossible range or length")]
    Range,
    #[error("a frame that does not belong here")]
    OutOfPlace,
    #[error("more requests or bytes than the window allows")]
    Window,
    #[error("answer to request {0}, which nobody made")]
    UnknownRequest(u64),
    #[error("answer to request {0} does not fit it")]
    WrongAnswer(u64),
}

/// Kinds of frames.
mod kind {
    pub(super) const HEARTBEAT: u8 = 1;
    pub(super) const OPEN: u8 = 2;
    pub(super) const GOODBYE: u8 = 3;
    pub(super) const CONTROL_REQUEST: u8 = 4;
    pub(super) const CONTROL_RESPONSE: u8 = 5;
    pub(super) const DATA_REQUEST: u8 = 6;
    pub(super) const DATA_RESPONSE: u8 = 7;
}

/// Codes of data requests.
mod op {
    pub(super) const WRITE: u8 = 1;
    pub(super) const WRITE_ZEROES: u8 = 2;
    pub(super) const UNMAP: u8 = 3;
    pub(super) const READ: u8 = 4;
    pub(super) const FLUSH: u8 = 5;
    pub(super) const WRITE_ATOMIC: u8 = 6;
}

/// Flags of data requests.
mod flag {
    pub(super) const STABLE: u16 = 1;
    pub(super) const MAY_UNMAP: u16 = 2;
    pub(super) const COPY: u16 = 4;
}

/// The header's fields that differ between kinds; zero where a kind has no use for them.
#[derive(Clone, Copy, Default)]
struct Header {
    kind: u8,
    code: u8,
    flags: u16,
    request: u64,
    epoch: u64,
    offset: u64,
    length: u64,
    image: [u8; 16],
    lu: u16,
    payload_len: usize,
    payload_crc: u32,
}

/// Turns frames into bytes, for one direction of one session.
pub(super) struct Encoder {
    tag: u64,
    sequence: u64,
    headers: BytesMut,
}

impl Encoder {
    pub(super) fn new(tag: u64) -> Self {
        Self { tag, sequence: 0, headers: BytesMut::with_capacity(HEADERS_LEN) }
    }

    /// A frame's header and what follows it.
    pub(super) fn encode(&mut self, request: u64, body: FrameBody) -> (Bytes, Payload) {
        let payload = self.append(request, body);
        (self.take_headers(), payload)
    }

    /// Appends a frame's header to those that wait to be taken; gives the payload, which is shared and not copied.
    pub(super) fn append(&mut self, request: u64, body: FrameBody) -> Payload {
        let (mut header, payload) = fields(body);
        header.request = request;
        header.payload_len = payload.len();
        header.payload_crc = checksum(&payload);
        if self.headers.capacity() - self.headers.len() < HEADER_LEN {
            self.headers.reserve(HEADERS_LEN);
        }
        self.write(&header);
        self.sequence += 1;
        payload
    }

    /// The headers that wait.
    pub(super) fn take_headers(&mut self) -> Bytes {
        self.headers.split().freeze()
    }

    /// Length of the headers that wait.
    pub(super) fn waiting(&self) -> usize {
        self.headers.len()
    }

    fn write(&mut self, header: &Header) {
        let out = &mut self.headers;
        let start = out.len();
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&[header.kind, header.code]);
        out.extend_from_slice(&header.flags.to_le_bytes());
        for word in [self.sequence, header.request, self.tag, header.epoch, header.offset, header.length] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&header.image);
        out.extend_from_slice(&header.lu.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        let payload_len = u32::try_from(header.payload_len).expect("senders keep to MAX_DATA");
        out.extend_from_slice(&payload_len.to_le_bytes());
        out.extend_from_slice(&header.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[start..]);
        out.extend_from_slice(&crc.to_le_bytes());
    }
}

fn checksum(payload: &Payload) -> u32 {
    payload.segments().iter().fold(0, |crc, segment| crc32c::crc32c_append(crc, segment))
}

/// The header fields and the payload of a frame.
fn fields(body: FrameBody) -> (Header, Payload) {
    let header = |kind| Header { kind, ..Header::default() };
    match body {
        FrameBody::Heartbeat => (header(kind::HEARTBEAT), Payload::new()),
        FrameBody::Open(window) => {
            let (offset, length) = (window.requests.into(), window.bytes.into());
            (Header { offset, length, ..header(kind::OPEN) }, Payload::new())
        }
        FrameBody::Goodbye(mut reason) => {
            reason.truncate(MAX_GOODBYE);
            (header(kind::GOODBYE), reason.into())
        }
        FrameBody::Request(Request::Control(message)) => (header(kind::CONTROL_REQUEST), message.into()),
        FrameBody::Response(Response::Control(message)) => (header(kind::CONTROL_RESPONSE), message.into()),
        FrameBody::Request(Request::Data(data)) => data_fields(data),
        FrameBody::Response(Response::Data(status, payload)) => {
            let (code, offset) = status_code(status);
            (Header { code, offset, ..header(kind::DATA_RESPONSE) }, payload)
        }
    }
}

fn data_fields(data: DataRequest) -> (Header, Payload) {
    let bit = |set: bool, flag: u16| if set { flag } else { 0 };
    let (code, flags, payload) = match data.op {
        DataOp::Write { payload, stable } => (op::WRITE, bit(stable, flag::STABLE), payload),
        DataOp::WriteAtomic { payload, stable } => (op::WRITE_ATOMIC, bit(stable, flag::STABLE), payload),
        DataOp::WriteZeroes { may_unmap, stable } => {
            let flags = bit(may_unmap, flag::MAY_UNMAP) | bit(stable, flag::STABLE);
            (op::WRITE_ZEROES, flags, Payload::new())
        }
        DataOp::Unmap => (op::UNMAP, 0, Payload::new()),
        DataOp::Read => (op::READ, 0, Payload::new()),
        DataOp::Flush => (op::FLUSH, 0, Payload::new()),
    };
    let header = Header {
        kind: kind::DATA_REQUEST,
        code,
        flags: flags | bit(data.copy, flag::COPY),
        epoch: data.epoch,
        offset: data.range.offset(),
        length: data.range.len(),
        image: data.image,
        lu: data.lu,
        ..Header::default()
    };
    (header, payload)
}

/// A status as its code and the offset that goes with it.
fn status_code(status: DataStatus) -> (u8, u64) {
    match status {
        DataStatus::Done => (0, 0),
        DataStatus::StaleEpoch => (1, 0),
        DataStatus::NotAttached => (2, 0),
        DataStatus::Failed(BlockError::Medium { offset }) => (3, offset),
        DataStatus::Failed(BlockError::Miscompare { offset }) => (4, offset),
        DataStatus::Failed(BlockError::NoSpace) => (5, 0),
        DataStatus::Failed(BlockError::NotServed) => (6, 0),
        DataStatus::Failed(BlockError::NotReady) => (7, 0),
        DataStatus::Failed(BlockError::Aborted) => (8, 0),
    }
}

fn status_of(code: u8, offset: u64) -> Option<DataStatus> {
    Some(match code {
        0 => DataStatus::Done,
        1 => DataStatus::StaleEpoch,
        2 => DataStatus::NotAttached,
        3 => DataStatus::Failed(BlockError::Medium { offset }),
        4 => DataStatus::Failed(BlockError::Miscompare { offset }),
        5 => DataStatus::Failed(BlockError::NoSpace),
        6 => DataStatus::Failed(BlockError::NotServed),
        7 => DataStatus::Failed(BlockError::NotReady),
        8 => DataStatus::Failed(BlockError::Aborted),
        _ => return None,
    })
}

/// Turns bytes into frames, for one direction of one session. Everything it is given is hostile (L4).
pub(super) struct Decoder {
    tag: u64,
    sequence: u64,
    buffer: BytesMut,
    /// The header of the frame whose payload is coming, and what has come of it.
    open: Option<(Header, Payload)>,
}

impl Decoder {
    /// `early` holds what was received together with the end of the handshake.
    pub(super) fn new(tag: u64, early: BytesMut) -> Self {
        Self { tag, sequence: 0, buffer: early, open: None }
    }

    /// Where to receive into. Call [`Decoder::next`] until it has nothing more before receiving again.
    pub(super) fn room(&mut self) -> &mut BytesMut {
        if self.buffer.is_empty() {
            // From the front again, as soon as nobody holds what was received there: it is in the processor's cache.
            let _ = self.buffer.try_reclaim(BUFFER_LEN);
        }
        let spare = self.buffer.capacity() - self.buffer.len();
        if spare == 0 || (self.open.is_none() && spare < HEADER_LEN) {
            // What stands here moves along, and that is at most a part of a header: `next` has taken payload out.
            self.buffer.reserve(BUFFER_LEN);
        }
        &mut self.buffer
    }

    /// The next whole frame, or `None` when more bytes are needed.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, WireError> {
        let (header, mut payload) = match self.open.take() {
            Some(open) => open,
            None => {
                if self.buffer.len() < HEADER_LEN {
                    return Ok(None);
                }
                let header = self.header()?;
                (header, Payload::new())
            }
        };
        let missing = header.payload_len - payload.len();
        if self.buffer.len() < missing {
            // A part is taken out only when the buffer is full, so that a payload has few segments and is never moved.
            if self.buffer.len() == self.buffer.capacity() {
                payload.push(self.buffer.split().freeze());
            }
            self.open = Some((header, payload));
            return Ok(None);
        }
        payload.push(self.buffer.split_to(missing).freeze());
        if checksum(&payload) != header.payload_crc {
            return Err(WireError::PayloadChecksum);
        }
        let body = body(&header, payload)?;
        Ok(Some(Frame { request: header.request, body }))
    }

    /// Takes a header off the buffer and checks everything that a header alone can show.
    fn header(&mut self) -> Result<Header, WireError> {
        let bytes = self.buffer.split_to(HEADER_LEN);
        let bytes: &[u8; HEADER_LEN] = bytes[..].try_into().expect("split at this length");
        if u32_at(bytes, 0) != MAGIC {
            return Err(WireError::Magic);
        }
        if crc32c::crc32c(&bytes[..84]) != u32_at(bytes, 84) {
            return Err(WireError::HeaderChecksum);
        }
        if u64_at(bytes, 24) != self.tag {
            return Err(WireError::Tag);
        }
        let got = u64_at(bytes, 8);
        if got != self.sequence {
            return Err(WireError::Sequence { expected: self.sequence, got });
        }
        self.sequence += 1;
        if u16_at(bytes, 74) != 0 {
            return Err(WireError::Reserved);
        }
        let header = Header {
            kind: bytes[4],
            code: bytes[5],
            flags: u16_at(bytes, 6),
            request: u64_at(bytes, 16),
            epoch: u64_at(bytes, 32),
            offset: u64_at(bytes, 40),
            length: u64_at(bytes, 48),
            image: array_at(bytes, 56),
            lu: u16_at(bytes, 72),
            payload_len: usize::try_from(u32_at(bytes, 76)).map_err(|_| WireError::Range)?,
            payload_crc: u32_at(bytes, 80),
        };
        check(&header)?;
        Ok(header)
    }
}

fn array_at<const N: usize>(bytes: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("fields lie within the header")
}

fn u16_at(bytes: &[u8; HEADER_LEN], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

fn u32_at(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8; HEADER_LEN], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// Whether kind, code, flags and lengths go together; before any payload is waited for.
fn check(header: &Header) -> Result<(), WireError> {
    let unknown = Err(WireError::Unknown { kind: header.kind, code: header.code });
    let (flags, payload) = match (header.kind, header.code) {
        (kind::HEARTBEAT | kind::OPEN, 0) => (0, 0..=0),
        (kind::GOODBYE, 0) => (0, 0..=MAX_GOODBYE),
        (kind::CONTROL_REQUEST | kind::CONTROL_RESPONSE, 0) => (0, 0..=MAX_CONTROL),
        (kind::DATA_REQUEST, op::WRITE | op::WRITE_ATOMIC) => (flag::STABLE | flag::COPY, 0..=MAX_DATA),
        (kind::DATA_REQUEST, op::WRITE_ZEROES) => (flag::STABLE | flag::MAY_UNMAP | flag::COPY, 0..=0),
        (kind::DATA_REQUEST, op::UNMAP | op::READ | op::FLUSH) => (flag::COPY, 0..=0),
        (kind::DATA_RESPONSE, 0) => (0, 0..=MAX_DATA),
        (kind::DATA_RESPONSE, code) if status_of(code, 0).is_some() => (0, 0..=0),
        _ => return unknown,
    };
    if header.flags & !flags != 0 {
        return Err(WireError::Reserved);
    }
    if !payload.contains(&header.payload_len) {
        return Err(WireError::PayloadLength { len: header.payload_len });
    }
    if header.kind == kind::DATA_REQUEST {
        if ByteRange::checked(header.offset, header.length).is_none() {
            return Err(WireError::Range);
        }
        let fits = match header.code {
            op::WRITE | op::WRITE_ATOMIC => header.length == header.payload_len as u64,
            op::READ => header.length <= MAX_DATA as u64,
            op::FLUSH => header.length == 0,
            _ => true,
        };
        if !fits {
            return Err(WireError::Range);
        }
    }
    Ok(())
}

/// The frame of a checked header.
fn body(header: &Header, payload: Payload) -> Result<FrameBody, WireError> {
    let unknown = WireError::Unknown { kind: header.kind, code: header.code };
    Ok(match header.kind {
        kind::HEARTBEAT => FrameBody::Heartbeat,
        kind::OPEN => {
            let number = |word: u64| u32::try_from(word).ok().filter(|n| *n > 0).ok_or(WireError::Range);
            FrameBody::Open(Window { requests: number(header.offset)?, bytes: number(header.length)? })
        }
        kind::GOODBYE => FrameBody::Goodbye(payload.to_bytes()),
        kind::CONTROL_REQUEST => FrameBody::Request(Request::Control(payload.to_bytes())),
        kind::CONTROL_RESPONSE => FrameBody::Response(Response::Control(payload.to_bytes())),
        kind::DATA_RESPONSE => {
            let status = status_of(header.code, header.offset).ok_or(unknown)?;
            FrameBody::Response(Response::Data(status, payload))
        }
        kind::DATA_REQUEST => {
            let has = |flag: u16| header.flags & flag != 0;
            let stable = has(flag::STABLE);
            let op = match header.code {
                op::WRITE => DataOp::Write { payload, stable },
                op::WRITE_ATOMIC => DataOp::WriteAtomic { payload, stable },
                op::WRITE_ZEROES => DataOp::WriteZeroes { may_unmap: has(flag::MAY_UNMAP), stable },
                op::UNMAP => DataOp::Unmap,
                op::READ => DataOp::Read,
                op::FLUSH => DataOp::Flush,
                _ => return Err(unknown),
            };
            FrameBody::Request(Request::Data(DataRequest {
                image: header.image,
                lu: header.lu,
                epoch: header.epoch,
                range: ByteRange::checked(header.offset, header.length).ok_or(WireError::Range)?,
                copy: has(flag::COPY),
                op,
            }))
        }
        _ => return Err(unknown),
    })
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
