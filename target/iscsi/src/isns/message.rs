//! Messages and the PDUs that carry them (RFC 4171 sections 5.1, 5.2, 5.4).

use std::collections::VecDeque;

/// ```text
///    0 | Version = 1                   | Function                      |
///    4 | Length of the payload         | Flags                         |
///    8 | Transaction                   | Sequence                      |
///   12 | Payload …
/// ```
const HEADER: usize = 12;
const VERSION: u16 = 1;

/// Longest payload of a PDU that is sent: a multiple of 4 below 2^16.
const PDU_LIMIT: usize = 65_532;
/// Longest message that is put together.
const MESSAGE_LIMIT: usize = 256 << 10;

/// Flags; the bit positions of section 5.1.4 counted from bit 16.
mod flag {
    pub(super) const CLIENT: u16 = 0x8000;
    pub(super) const SERVER: u16 = 0x4000;
    pub(super) const AUTHENTICATED: u16 = 0x2000;
    pub(super) const REPLACE: u16 = 0x1000;
    pub(super) const LAST: u16 = 0x0800;
    pub(super) const FIRST: u16 = 0x0400;
}

/// What a message is for (section 4.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function(pub u16);

impl Function {
    /// Device Attribute Registration Request.
    pub const REGISTER: Self = Self(0x0001);
    /// Device Attribute Query Request.
    pub const QUERY: Self = Self(0x0002);
    /// Device Deregister Request.
    pub const DEREGISTER: Self = Self(0x0004);
    /// SCN Register Request.
    pub const NOTIFY_REGISTER: Self = Self(0x0005);
    /// State Change Notification, from the server.
    pub const NOTIFICATION: Self = Self(0x0008);
    /// Entity Status Inquiry, from the server.
    pub const INQUIRY: Self = Self(0x000d);

    /// The function of the answer.
    pub const fn response(self) -> Self {
        Self(self.0 | 0x8000)
    }

    /// Whether it is that of an answer.
    pub const fn is_response(self) -> bool {
        self.0 & 0x8000 != 0
    }
}

/// How a request ended (section 5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u32);

impl Status {
    /// Successful.
    pub const SUCCESS: Self = Self(0);
    /// Message Format Error.
    pub const FORMAT: Self = Self(2);
    /// No Such Entry.
    pub const NO_SUCH_ENTRY: Self = Self(9);
    /// ESI Not Available.
    pub const NO_INQUIRIES: Self = Self(21);
    /// Registration Feature Not Supported.
    pub const NO_SUCH_FEATURE: Self = Self(23);
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match self.0 {
            0 => "successful",
            2 => "message format error",
            3 => "invalid registration",
            5 => "invalid query",
            6 => "source unknown",
            7 => "source absent",
            8 => "source unauthorized",
            9 => "no such entry",
            10 => "version not supported",
            11 => "internal error",
            12 => "busy",
            13 => "option not understood",
            14 => "invalid update",
            15 => "message not supported",
            17 => "notification registration rejected",
            18 => "attribute not implemented",
            21 => "status inquiries not available",
            22 => "invalid deregistration",
            23 => "registration feature not supported",
            _ => "unknown error",
        };
        write!(f, "{text} ({})", self.0)
    }
}

/// What is wrong with what came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IsnsError {
    /// A PDU of another version.
    #[error("iSNS version {0}")]
    Version(u16),
    /// A PDU whose length is no multiple of 4.
    #[error("an iSNS PDU of odd length")]
    Length,
    /// PDUs that do not make up one message, or one out of its order.
    #[error("iSNS PDUs out of order")]
    Sequence,
    /// A message that is longer than anything that is expected here.
    #[error("an iSNS message that is too long")]
    TooLong,
    /// An authentication block; it belongs to multicast, which is not used here.
    #[error("an authenticated iSNS message")]
    Authenticated,
    /// An attribute that ends beyond its message, is of odd length, or is one too many.
    #[error("a malformed iSNS attribute")]
    Attribute,
    /// An answer without a status, or to another request.
    #[error("an iSNS answer to something else")]
    Answer,
    /// The server refuses.
    #[error("the iSNS server refuses: {0}")]
    Refused(Status),
}

/// Which side a message comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A storage device or host.
    Client,
    /// The name server.
    Server,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is for.
    pub function: Function,
    /// Pairs a request with its answer.
    pub transaction: u16,
    /// Registrations only: everything that the server knew of the object goes first.
    pub replace: bool,
    /// Attributes; in an answer the status before them.
    pub payload: Vec<u8>,
}

impl Message {
    /// The bytes of all its PDUs.
    pub fn encode(&self, sender: Sender) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.payload.len());
        let side = if sender == Sender::Client { flag::CLIENT } else { flag::SERVER };
        let replace = if self.replace { flag::REPLACE } else { 0 };
        let pieces = self.payload.len().div_ceil(PDU_LIMIT).max(1);
        for sequence in 0..pieces {
            let from = sequence * PDU_LIMIT;
            let piece = &self.payload[from..self.payload.len().min(from + PDU_LIMIT)];
            let first = if sequence == 0 { flag::FIRST } else { 0 };
            let last = if sequence + 1 == pieces { flag::LAST } else { 0 };
            let flags = side | replace | first | last;
            for word in
                [VERSION, self.function.0, piece.len() as u16, flags, self.transaction, sequence as u16]
            {
                out.extend_from_slice(&word.to_be_bytes());
            }
            out.extend_from_slice(piece);
        }
        out
    }

    /// The status of an answer and what follows it.
    pub fn status(&self) -> Result<(Status, &[u8]), IsnsError> {
        match self.payload.split_first_chunk() {
            Some((status, rest)) if self.function.is_response() => {
                Ok((Status(u32::from_be_bytes(*status)), rest))
            }
            _ => Err(IsnsError::Answer),
        }
    }
}

/// Makes messages of received bytes. Holds one message of at most 256 KiB and one PDU.
#[derive(Debug, Default)]
pub struct MessageReader {
    bytes: VecDeque<u8>,
    part: Option<Part>,
}

/// The words of a header, and the payload.
type Pdu = ([u16; 6], Vec<u8>);

#[derive(Debug)]
struct Part {
    message: Message,
    next: u16,
}

impl MessageReader {
    /// Takes received bytes. Call [`MessageReader::next_message`] until it has no more, before the next ones.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), IsnsError> {
        if self.bytes.len() + bytes.len() > MESSAGE_LIMIT {
            return Err(IsnsError::TooLong);
        }
        self.bytes.extend(bytes);
        Ok(())
    }

    /// The next whole message.
    pub fn next_message(&mut self) -> Result<Option<Message>, IsnsError> {
        while let Some((header, payload)) = self.next_pdu()? {
            if let Some(message) = self.join(header, payload)? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    fn next_pdu(&mut self) -> Result<Option<Pdu>, IsnsError> {
        if self.bytes.len() < HEADER {
            return Ok(None);
        }
        let byte = |at: usize| u16::from(self.bytes[at]);
        let header: [u16; 6] = std::array::from_fn(|word| byte(2 * word) << 8 | byte(2 * word + 1));
        let [version, _, len, flags, ..] = header;
        if version != VERSION {
            return Err(IsnsError::Version(version));
        }
        if flags & flag::AUTHENTICATED != 0 {
            return Err(IsnsError::Authenticated);
        }
        if len % 4 != 0 {
            return Err(IsnsError::Length);
        }
        if self.bytes.len() < HEADER + usize::from(len) {
            return Ok(None);
        }
        self.bytes.drain(..HEADER);
        Ok(Some((header, self.bytes.drain(..usize::from(len)).collect())))
    }

    fn join(&mut self, header: [u16; 6], payload: Vec<u8>) -> Result<Option<Message>, IsnsError> {
        let [_, function, _, flags, transaction, sequence] = header;
        let first = flags & flag::FIRST != 0;
        let part = match self.part.take() {
            None if first && sequence == 0 => {
                let replace = flags & flag::REPLACE != 0;
                let message = Message { function: Function(function), transaction, replace, payload };
                Part { message, next: 1 }
            }
            Some(mut part) if !first => {
                let same = part.message.function.0 == function && part.message.transaction == transaction;
                if !same || part.next != sequence {
                    return Err(IsnsError::Sequence);
                }
                if part.message.payload.len() + payload.len() > MESSAGE_LIMIT {
                    return Err(IsnsError::TooLong);
                }
                part.message.payload.extend_from_slice(&payload);
                part.next = sequence.checked_add(1).ok_or(IsnsError::Sequence)?;
                part
            }
            _ => return Err(IsnsError::Sequence),
        };
        if flags & flag::LAST != 0 {
            return Ok(Some(part.message));
        }
        self.part = Some(part);
        Ok(None)
    }
}
