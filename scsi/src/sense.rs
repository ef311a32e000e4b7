//! Status, sense data and the reply that carries them (SAM-5, 5.3; SPC-5, 4.5).

use std::ops::Deref;

use twinlun_block::{BlockError, BlockSize, Payload};

/// Status of a command (SAM-5, table 33).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Good = 0x00,
    /// Sense data says what is the matter.
    CheckCondition = 0x02,
    /// PRE-FETCH found room for all blocks. Never sent by PRE-FETCH here, named for the initiator half.
    ConditionMet = 0x04,
    /// Try again later.
    Busy = 0x08,
    /// Another I_T nexus holds a reservation that forbids the command.
    ReservationConflict = 0x18,
    /// The task set has no room.
    TaskSetFull = 0x28,
    /// An auto contingent allegiance is in force.
    AcaActive = 0x30,
    /// Aborted by another I_T nexus, and the control mode page asks to be told (TAS).
    TaskAborted = 0x40,
}

/// Sense key (SPC-5, table 48).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SenseKey {
    /// Nothing to report.
    NoSense = 0x0,
    /// The LU cannot be accessed.
    NotReady = 0x2,
    /// Data cannot be read or written.
    MediumError = 0x3,
    /// The device failed.
    HardwareError = 0x4,
    /// The command is at fault.
    IllegalRequest = 0x5,
    /// Something changed that the initiator must know of.
    UnitAttention = 0x6,
    /// Write protected, or out of space.
    DataProtect = 0x7,
    /// A third-party copy ended early.
    CopyAborted = 0xA,
    /// Ended by the device server; a retry may succeed.
    AbortedCommand = 0xB,
    /// Compared data differ.
    Miscompare = 0xE,
}

/// Additional sense code and qualifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asc(pub u8, pub u8);

#[expect(missing_docs, reason = "each name is the text of SPC-5, annex F")]
impl Asc {
    pub const NONE: Self = Self(0x00, 0x00);
    pub const OPERATION_IN_PROGRESS: Self = Self(0x00, 0x16);
    pub const BECOMING_READY: Self = Self(0x04, 0x01);
    pub const NOT_READY_INITIALIZING_COMMAND_REQUIRED: Self = Self(0x04, 0x02);
    pub const FORMAT_IN_PROGRESS: Self = Self(0x04, 0x04);
    pub const SANITIZE_IN_PROGRESS: Self = Self(0x04, 0x1B);
    pub const TARGET_PORT_IN_STANDBY: Self = Self(0x04, 0x0B);
    pub const TARGET_PORT_UNAVAILABLE: Self = Self(0x04, 0x0C);
    pub const UNREACHABLE_COPY_TARGET: Self = Self(0x08, 0x04);
    pub const WRITE_ERROR: Self = Self(0x0C, 0x00);
    pub const THIRD_PARTY_DEVICE_FAILURE: Self = Self(0x0D, 0x01);
    pub const COPY_TARGET_DEVICE_NOT_REACHABLE: Self = Self(0x0D, 0x02);
    pub const INCORRECT_COPY_TARGET_DEVICE_TYPE: Self = Self(0x0D, 0x03);
    pub const INVALID_FIELD_IN_INFORMATION_UNIT: Self = Self(0x0E, 0x03);
    pub const UNRECOVERED_READ_ERROR: Self = Self(0x11, 0x00);
    pub const PARAMETER_LIST_LENGTH_ERROR: Self = Self(0x1A, 0x00);
    pub const MISCOMPARE_DURING_VERIFY: Self = Self(0x1D, 0x00);
    pub const INVALID_OPCODE: Self = Self(0x20, 0x00);
    pub const LBA_OUT_OF_RANGE: Self = Self(0x21, 0x00);
    pub const UNSUPPORTED_TOKEN_TYPE: Self = Self(0x23, 0x01);
    pub const TOKEN_UNKNOWN: Self = Self(0x23, 0x04);
    pub const TOKEN_REVOKED: Self = Self(0x23, 0x06);
    pub const TOKEN_EXPIRED: Self = Self(0x23, 0x07);
    pub const TOKEN_DELETED: Self = Self(0x23, 0x09);
    pub const INVALID_TOKEN_LENGTH: Self = Self(0x23, 0x0A);
    pub const INVALID_FIELD_IN_CDB: Self = Self(0x24, 0x00);
    pub const LUN_NOT_SUPPORTED: Self = Self(0x25, 0x00);
    pub const INVALID_FIELD_IN_PARAMETER_LIST: Self = Self(0x26, 0x00);
    pub const INVALID_RELEASE_OF_RESERVATION: Self = Self(0x26, 0x04);
    pub const TOO_MANY_TARGET_DESCRIPTORS: Self = Self(0x26, 0x06);
    pub const UNSUPPORTED_TARGET_DESCRIPTOR: Self = Self(0x26, 0x07);
    pub const TOO_MANY_SEGMENT_DESCRIPTORS: Self = Self(0x26, 0x08);
    pub const UNSUPPORTED_SEGMENT_DESCRIPTOR: Self = Self(0x26, 0x09);
    pub const UNEXPECTED_INEXACT_SEGMENT: Self = Self(0x26, 0x0A);
    pub const INLINE_DATA_LENGTH_EXCEEDED: Self = Self(0x26, 0x0B);
    pub const INVALID_COPY_SOURCE_OR_DESTINATION: Self = Self(0x26, 0x0C);
    pub const COPY_SEGMENT_GRANULARITY_VIOLATION: Self = Self(0x26, 0x0D);
    pub const FAST_COPY_NOT_POSSIBLE: Self = Self(0x26, 0x16);
    pub const WRITE_PROTECTED: Self = Self(0x27, 0x00);
    pub const HARDWARE_WRITE_PROTECTED: Self = Self(0x27, 0x01);
    pub const SPACE_ALLOCATION_FAILED: Self = Self(0x27, 0x07);
    pub const COMMAND_SEQUENCE_ERROR: Self = Self(0x2C, 0x00);
    pub const INVALID_MESSAGE: Self = Self(0x49, 0x00);
    pub const INTERNAL_TARGET_FAILURE: Self = Self(0x44, 0x00);
    pub const FORMAT_COMMAND_FAILED: Self = Self(0x31, 0x01);
    pub const SANITIZE_COMMAND_FAILED: Self = Self(0x31, 0x03);
    pub const MEDIUM_NOT_PRESENT: Self = Self(0x3A, 0x00);
    pub const SAVING_NOT_SUPPORTED: Self = Self(0x39, 0x00);
    pub const MEDIUM_REMOVAL_PREVENTED: Self = Self(0x53, 0x02);
    pub const INSUFFICIENT_REGISTRATION_RESOURCES: Self = Self(0x55, 0x04);
    pub const INSUFFICIENT_RESOURCES_TO_CREATE_TOKEN: Self = Self(0x55, 0x0D);
}

/// The bytes of a CDB or parameter list that an ILLEGAL REQUEST complains of (SPC-5, 4.5.2.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldPointer {
    /// In the CDB; otherwise in the parameter list.
    pub in_cdb: bool,
    /// Byte.
    pub byte: u16,
    /// Most significant bit of the field, when one can be named.
    pub bit: Option<u8>,
}

/// Sense data as values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// What kind of trouble.
    pub key: SenseKey,
    /// Which trouble.
    pub asc: Asc,
    /// INFORMATION: an LBA, or the offset of a miscompare.
    pub information: Option<u64>,
    /// Where an illegal request is wrong.
    pub field: Option<FieldPointer>,
    /// PROGRESS INDICATION of an operation under way, part of 65536.
    pub progress: Option<u16>,
    /// What COPY ABORTED says beyond that.
    pub copy: Option<CopyFailure>,
}

/// Which segment of a third-party copy failed, and what the copy source or destination said (SPC-4, 6.4.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyFailure {
    /// Segment descriptor, counted from 0.
    pub segment: u16,
    /// The field pointer counts from the start of that segment descriptor, not from that of the parameter list (SD).
    pub in_segment: bool,
    /// What the copy source or destination answered.
    pub forwarded: Option<Forwarded>,
}

/// Status and sense data of a copy source or destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// From the copy source; otherwise from the copy destination.
    pub source: bool,
    /// Its status.
    pub status: Status,
    /// Sense key, additional sense code and INFORMATION, when the status is CHECK CONDITION.
    pub sense: Option<(SenseKey, Asc, Option<u64>)>,
}

impl Forwarded {
    /// The forwarded sense data by itself.
    fn encode(&self, descriptor_format: bool) -> Option<SenseBytes> {
        self.sense.map(|(key, asc, information)| {
            Sense { information, ..Sense::new(key, asc) }.encode(descriptor_format)
        })
    }
}

impl Sense {
    /// Sense data of a key and a code.
    pub const fn new(key: SenseKey, asc: Asc) -> Self {
        Self { key, asc, information: None, field: None, progress: None, copy: None }
    }

    /// ILLEGAL REQUEST with that code.
    pub const fn illegal(asc: Asc) -> Self {
        Self::new(SenseKey::IllegalRequest, asc)
    }

    /// INVALID FIELD IN CDB at that byte and, where it is one, bit.
    pub const fn cdb_field(byte: u16, bit: Option<u8>) -> Self {
        let mut sense = Self::illegal(Asc::INVALID_FIELD_IN_CDB);
        sense.field = Some(FieldPointer { in_cdb: true, byte, bit });
        sense
    }

    /// INVALID FIELD IN PARAMETER LIST at that byte.
    pub const fn parameter(byte: u16) -> Self {
        let mut sense = Self::illegal(Asc::INVALID_FIELD_IN_PARAMETER_LIST);
        sense.field = Some(FieldPointer { in_cdb: false, byte, bit: None });
        sense
    }

    /// The same with PROGRESS INDICATION.
    #[must_use]
    pub const fn with_progress(mut self, progress: u16) -> Self {
        self.progress = Some(progress);
        self
    }

    /// SENSE KEY SPECIFIC, valid (SPC-5, 4.5.2.4).
    fn specific(&self) -> Option<[u8; 3]> {
        let progress = self.progress.map(|progress| {
            let [high, low] = progress.to_be_bytes();
            [0x80, high, low]
        });
        self.field.map(|field| self.field_bytes(field)).or(progress)
    }

    /// The same with INFORMATION.
    #[must_use]
    pub const fn with_information(mut self, information: u64) -> Self {
        self.information = Some(information);
        self
    }

    /// The bytes, in descriptor format where the control mode page asks for it (D_SENSE).
    ///
    /// Fixed format has four bytes for INFORMATION: a value that does not fit is left out (SPC-5, 4.5.3).
    pub fn encode(&self, descriptor_format: bool) -> SenseBytes {
        let mut out = SenseBytes { bytes: [0; SenseBytes::MAX], len: 0 };
        if descriptor_format {
            self.encode_descriptors(&mut out);
        } else {
            self.encode_fixed(&mut out);
        }
        out
    }

    fn field_bytes(&self, field: FieldPointer) -> [u8; 3] {
        let [high, low] = field.byte.to_be_bytes();
        let bit = field.bit.map_or(0, |bit| 0x08 | bit & 0x07);
        let of = match self.copy {
            Some(copy) if copy.in_segment => 0x20,
            _ if field.in_cdb => 0x40,
            _ => 0,
        };
        [0x80 | of | bit, high, low]
    }

    fn encode_fixed(&self, out: &mut SenseBytes) {
        out.len = 18;
        let b = &mut out.bytes;
        b[0] = 0x70;
        b[2] = self.key as u8;
        b[7] = 10;
        (b[12], b[13]) = (self.asc.0, self.asc.1);
        if let Some(information) = self.information.and_then(|i| u32::try_from(i).ok()) {
            b[0] |= 0x80;
            b[3..7].copy_from_slice(&information.to_be_bytes());
        }
        if let Some(specific) = self.specific() {
            b[15..18].copy_from_slice(&specific);
        }
        if let Some(copy) = self.copy {
            b[10..12].copy_from_slice(&copy.segment.to_be_bytes());
            if let Some(forwarded) = copy.forwarded {
                // An area with the status byte and the sense data begins right behind; the byte says where.
                b[if forwarded.source { 8 } else { 9 }] = 18;
                b[18] = forwarded.status as u8;
                let sense = forwarded.encode(false);
                let sense = sense.as_deref().unwrap_or_default();
                b[19..19 + sense.len()].copy_from_slice(sense);
                out.len = 19 + sense.len() as u8;
                b[7] = out.len - 8;
            }
        }
    }

    fn encode_descriptors(&self, out: &mut SenseBytes) {
        let b = &mut out.bytes;
        (b[0], b[1], b[2], b[3]) = (0x72, self.key as u8, self.asc.0, self.asc.1);
        let mut at = 8;
        if let Some(information) = self.information {
            b[at..at + 4].copy_from_slice(&[0x00, 0x0A, 0x80, 0x00]);
            b[at + 4..at + 12].copy_from_slice(&information.to_be_bytes());
            at += 12;
        }
        if let Some(copy) = self.copy {
            b[at..at + 4].copy_from_slice(&[0x01, 0x0A, 0x00, 0x00]);
            b[at + 10..at + 12].copy_from_slice(&copy.segment.to_be_bytes());
            at += 12;
        }
        if let Some(specific) = self.specific() {
            b[at..at + 4].copy_from_slice(&[0x02, 0x06, 0x00, 0x00]);
            b[at + 4..at + 7].copy_from_slice(&specific);
            at += 8;
        }
        if let Some(forwarded) = self.copy.and_then(|copy| copy.forwarded) {
            let sense = forwarded.encode(true);
            let sense = sense.as_deref().unwrap_or_default();
            let from = if forwarded.source { 1 } else { 2 };
            b[at..at + 4].copy_from_slice(&[0x0C, 2 + sense.len() as u8, from, forwarded.status as u8]);
            b[at + 4..at + 4 + sense.len()].copy_from_slice(sense);
            at += 4 + sense.len();
        }
        b[7] = at as u8 - 8;
        out.len = at as u8;
    }

    /// What a failure below SCSI looks like to the host. The one place where it is decided.
    ///
    /// INFORMATION is an LBA for a medium error, and the offset in the comparison for a miscompare.
    pub fn from_block_error(error: BlockError, write: bool, size: BlockSize) -> Self {
        match error {
            BlockError::Medium { offset } => {
                let asc = if write { Asc::WRITE_ERROR } else { Asc::UNRECOVERED_READ_ERROR };
                Self::new(SenseKey::MediumError, asc).with_information(offset >> size.shift())
            }
            BlockError::Miscompare { offset } => {
                Self::new(SenseKey::Miscompare, Asc::MISCOMPARE_DURING_VERIFY).with_information(offset)
            }
            BlockError::NoSpace => Self::new(SenseKey::DataProtect, Asc::SPACE_ALLOCATION_FAILED),
            BlockError::NotServed => Self::new(SenseKey::NotReady, Asc::TARGET_PORT_IN_STANDBY),
            BlockError::NotReady => Self::new(SenseKey::NotReady, Asc::BECOMING_READY),
            BlockError::Aborted => Self::new(SenseKey::AbortedCommand, Asc::NONE),
        }
    }
}

/// Encoded sense data, at most [`SenseBytes::MAX`] bytes, without the two length bytes that iSCSI puts before it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SenseBytes {
    bytes: [u8; Self::MAX],
    len: u8,
}

impl SenseBytes {
    /// Longest sense data made here: COPY ABORTED in descriptor format with INFORMATION, segment, field and the forwarded sense data
    /// of a device, which has a header and INFORMATION.
    pub const MAX: usize = 8 + 12 + 12 + 8 + (4 + 8 + 12);
}

impl Deref for SenseBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl std::fmt::Debug for SenseBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02x?}", &**self)
    }
}

/// The answer to a command.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status.
    pub status: Status,
    /// Sense data, exactly when the status is CHECK CONDITION.
    pub sense: Option<SenseBytes>,
    /// Data-In, already cut to the allocation length. The transport cuts it to what the initiator expects and reports
    /// the residual against `data.len()`.
    pub data: Payload,
    /// Bytes of Data-Out that the command asks for by its CDB; the transport reports the residual against it.
    pub data_out_len: u64,
}

impl Reply {
    /// GOOD without data.
    pub fn good() -> Self {
        Self::with_status(Status::Good)
    }

    /// GOOD with data.
    pub fn data(data: impl Into<Payload>) -> Self {
        Self { data: data.into(), ..Self::good() }
    }

    /// A status without sense data.
    pub fn with_status(status: Status) -> Self {
        Self { status, sense: None, data: Payload::new(), data_out_len: 0 }
    }

    /// CHECK CONDITION.
    pub fn check(sense: &Sense, descriptor_format: bool) -> Self {
        Self { sense: Some(sense.encode(descriptor_format)), ..Self::with_status(Status::CheckCondition) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_sense_points_at_the_field() {
        let bytes = Sense::cdb_field(1, Some(7)).encode(false);
        assert_eq!(
            &*bytes,
            [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xCF, 0, 1],
            "SKSV, C/D and BPV are set, the pointer names byte 1"
        );
    }

    #[test]
    fn information_beyond_32_bits_needs_descriptors() {
        let sense = Sense::new(SenseKey::MediumError, Asc::UNRECOVERED_READ_ERROR).with_information(1 << 33);
        assert_eq!(sense.encode(false)[0], 0x70, "VALID stays clear");
        let bytes = sense.encode(true);
        assert_eq!(&bytes[..4], [0x72, 3, 0x11, 0]);
        assert_eq!(&bytes[8..20], [0, 10, 0x80, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
        assert_eq!(usize::from(bytes[7]) + 8, bytes.len());
    }
}
