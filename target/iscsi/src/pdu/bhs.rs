//! The basic header segment, and a PDU before it is understood.

use std::fmt;

use bytes::Bytes;
use twinlun_block::Payload;

use super::{DataSegmentLength, Lun, Opcode, ParseError, Serial32, TaskTag, TransferTag};

/// Bytes of a basic header segment.
pub const BHS_LEN: usize = 48;

/// Most bytes of additional header segments: TotalAHSLength is one byte that counts words of four.
pub const MAX_AHS_LEN: usize = 255 * 4;

/// Offsets that most PDUs share (RFC 7143, 11.2.1).
///
/// ```text
///    0 |.|I| Opcode    |F|  Opcode-specific fields                     |
///    4 |TotalAHSLength | DataSegmentLength                             |
///    8 | LUN or Opcode-specific fields                                 |
///   12 |                                                               |
///   16 | Initiator Task Tag                                            |
///   20 / Opcode-specific fields                                        /
/// ```
pub(super) mod field {
    pub(in crate::pdu) const OPCODE: usize = 0;
    pub(in crate::pdu) const FLAGS: usize = 1;
    pub(in crate::pdu) const TOTAL_AHS_LENGTH: usize = 4;
    pub(in crate::pdu) const DATA_SEGMENT_LENGTH: usize = 5;
    pub(in crate::pdu) const LUN: usize = 8;
    pub(in crate::pdu) const INITIATOR_TASK_TAG: usize = 16;
    pub(in crate::pdu) const TARGET_TRANSFER_TAG: usize = 20;
    /// In PDUs of the initiator.
    pub(in crate::pdu) const CMD_SN: usize = 24;
    /// In PDUs of the initiator.
    pub(in crate::pdu) const EXP_STAT_SN: usize = 28;
    /// In PDUs of the target.
    pub(in crate::pdu) const STAT_SN: usize = 24;
    /// In PDUs of the target.
    pub(in crate::pdu) const EXP_CMD_SN: usize = 28;
    /// In PDUs of the target.
    pub(in crate::pdu) const MAX_CMD_SN: usize = 32;
    /// In Data-In and Data-Out.
    pub(in crate::pdu) const DATA_SN: usize = 36;

    /// The I bit of byte 0.
    pub(in crate::pdu) const IMMEDIATE: u8 = 0x40;
    /// The opcode's bits of byte 0.
    pub(in crate::pdu) const OPCODE_MASK: u8 = 0x3f;
    /// The F bit (or T bit) of byte 1.
    pub(in crate::pdu) const FINAL: u8 = 0x80;
    /// The C bit of byte 1, in Login and Text.
    pub(in crate::pdu) const CONTINUE: u8 = 0x40;
}

/// A basic header segment: 48 bytes as they stand on the wire.
///
/// Offsets given to its accessors are constants of this module's siblings and lie within the header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Bhs(pub [u8; BHS_LEN]);

impl Bhs {
    /// A header of that opcode, all else zero.
    pub const fn new(opcode: Opcode) -> Self {
        let mut bytes = [0; BHS_LEN];
        bytes[field::OPCODE] = opcode.0 & field::OPCODE_MASK;
        Self(bytes)
    }

    /// The operation code.
    pub const fn opcode(&self) -> Opcode {
        Opcode(self.0[field::OPCODE] & field::OPCODE_MASK)
    }

    /// The I bit: outside the numbering of commands.
    pub const fn is_immediate(&self) -> bool {
        self.0[field::OPCODE] & field::IMMEDIATE != 0
    }

    /// The F bit.
    pub const fn is_final(&self) -> bool {
        self.0[field::FLAGS] & field::FINAL != 0
    }

    /// Bytes of additional header segments, at most [`MAX_AHS_LEN`].
    pub const fn ahs_len(&self) -> usize {
        self.0[field::TOTAL_AHS_LENGTH] as usize * 4
    }

    /// Bytes of data, without padding.
    pub const fn data_len(&self) -> DataSegmentLength {
        let at = field::DATA_SEGMENT_LENGTH;
        DataSegmentLength::from_wire([self.0[at], self.0[at + 1], self.0[at + 2]])
    }

    /// The initiator task tag: what a Reject or a response refers to, whatever the PDU.
    pub const fn task_tag(&self) -> TaskTag {
        TaskTag(self.u32(field::INITIATOR_TASK_TAG))
    }

    /// ExpStatSN, at the same place in every request.
    pub(crate) const fn exp_stat_sn(&self) -> Serial32 {
        self.serial(field::EXP_STAT_SN)
    }

    /// DataSN of a Data-In.
    pub(crate) const fn data_sn(&self) -> u32 {
        self.u32(field::DATA_SN)
    }

    /// Brings the numbers of a response that is sent again up to date; they stand at the same place in all of them.
    pub(crate) fn set_window(&mut self, exp_cmd_sn: Serial32, max_cmd_sn: Serial32) {
        self.put(field::EXP_CMD_SN, exp_cmd_sn.0.to_be_bytes());
        self.put(field::MAX_CMD_SN, max_cmd_sn.0.to_be_bytes());
    }

    /// Gives a response its StatSN.
    pub(crate) fn set_stat_sn(&mut self, stat_sn: Serial32) {
        self.put(field::STAT_SN, stat_sn.0.to_be_bytes());
    }

    pub(crate) fn set_lengths(&mut self, ahs_len: usize, data: DataSegmentLength) {
        debug_assert!(ahs_len.is_multiple_of(4) && ahs_len <= MAX_AHS_LEN);
        self.0[field::TOTAL_AHS_LENGTH] = (ahs_len / 4) as u8;
        self.put(field::DATA_SEGMENT_LENGTH, data.to_wire());
    }

    pub(super) const fn u8(&self, at: usize) -> u8 {
        self.0[at]
    }

    pub(super) const fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    pub(super) const fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    pub(super) fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.0[at..at + N]);
        out
    }

    pub(super) const fn serial(&self, at: usize) -> Serial32 {
        Serial32(self.u32(at))
    }

    pub(super) fn lun(&self) -> Lun {
        Lun(self.bytes(field::LUN))
    }

    pub(super) const fn transfer_tag(&self) -> TransferTag {
        TransferTag(self.u32(field::TARGET_TRANSFER_TAG))
    }

    pub(super) const fn flag(&self, mask: u8) -> bool {
        self.0[field::FLAGS] & mask != 0
    }

    // Builders, by value: an encoder reads like the figure of its PDU.

    pub(super) fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.0[at..at + N].copy_from_slice(&bytes);
    }

    pub(super) fn with_u8(mut self, at: usize, value: u8) -> Self {
        self.0[at] = value;
        self
    }

    pub(super) fn with_u16(mut self, at: usize, value: u16) -> Self {
        self.put(at, value.to_be_bytes());
        self
    }

    pub(super) fn with_u32(mut self, at: usize, value: u32) -> Self {
        self.put(at, value.to_be_bytes());
        self
    }

    pub(super) fn with_serial(self, at: usize, value: Serial32) -> Self {
        self.with_u32(at, value.0)
    }

    pub(super) fn with_immediate(mut self, immediate: bool) -> Self {
        if immediate {
            self.0[field::OPCODE] |= field::IMMEDIATE;
        }
        self
    }

    /// Sets bits of byte 1 when `set`.
    pub(super) fn with_flag(mut self, mask: u8, set: bool) -> Self {
        if set {
            self.0[field::FLAGS] |= mask;
        }
        self
    }

    pub(super) fn with_lun(mut self, lun: Lun) -> Self {
        self.put(field::LUN, lun.0);
        self
    }

    pub(super) fn with_task_tag(self, tag: TaskTag) -> Self {
        self.with_u32(field::INITIATOR_TASK_TAG, tag.0)
    }

    pub(super) fn with_transfer_tag(self, tag: TransferTag) -> Self {
        self.with_u32(field::TARGET_TRANSFER_TAG, tag.0)
    }
}

impl fmt::Debug for Bhs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}[", self.opcode())?;
        for (index, byte) in self.0.iter().enumerate() {
            let gap = if index > 0 && index % 4 == 0 { " " } else { "" };
            write!(f, "{gap}{byte:02x}")?;
        }
        f.write_str("]")
    }
}

/// A PDU without digests and padding, not yet understood; also what is handed to the encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawPdu {
    /// The header. On sending, its length fields are filled in by the encoder.
    pub bhs: Bhs,
    /// Additional header segments, a multiple of four bytes.
    pub ahs: Bytes,
    /// The data segment, sharing the receive buffer (or whatever is sent).
    pub data: Payload,
}

impl RawPdu {
    /// A PDU of a header only.
    pub fn header(bhs: Bhs) -> Self {
        Self { bhs, ahs: Bytes::new(), data: Payload::new() }
    }

    /// A PDU with data.
    pub fn with_data(bhs: Bhs, data: Payload) -> Self {
        Self { bhs, ahs: Bytes::new(), data }
    }

    /// An error unless the data segment is empty.
    pub(super) fn expect_no_data(&self) -> Result<(), ParseError> {
        if self.data.is_empty() { Ok(()) } else { Err(ParseError::UnexpectedData(self.bhs.opcode())) }
    }
}
