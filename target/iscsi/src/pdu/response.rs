//! SCSI Response (RFC 7143, 11.4).

use bytes::{BufMut, Bytes, BytesMut};

use super::bhs::field::{EXP_CMD_SN, FINAL, FLAGS, MAX_CMD_SN, STAT_SN};
use super::{Bhs, Opcode, ParseError, RawPdu, ResponseCode, ScsiStatus, Serial32, TaskTag};

/// ```text
///    0 |.|.| 0x21      |1|. .|o|u|O|U|.| Response      | Status        |
///   20 | SNACK Tag or Reserved                                         |
///   24 | StatSN                                                        |
///   28 | ExpCmdSN                                                      |
///   32 | MaxCmdSN                                                      |
///   36 | ExpDataSN or Reserved                                         |
///   40 | Bidirectional Read Residual Count or Reserved                 |
///   44 | Residual Count or Reserved                                    |
/// ```
mod field {
    /// From the flag of the plain residual to that of the bidirectional read.
    pub(super) const BIDIRECTIONAL_SHIFT: u8 = 2;
    pub(super) const RESPONSE: usize = 2;
    pub(super) const STATUS: usize = 3;
    pub(super) const SNACK_TAG: usize = 20;
    pub(super) const EXP_DATA_SN: usize = 36;
    pub(super) const BIDIRECTIONAL_RESIDUAL_COUNT: usize = 40;
}

/// Offset of the residual count, in SCSI Response and Data-In alike.
pub(super) const RESIDUAL_COUNT: usize = 44;
pub(super) const OVERFLOW: u8 = 0x04;
pub(super) const UNDERFLOW: u8 = 0x02;

/// How the transfer differs from the expected data transfer length (11.4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residual {
    /// It does not.
    #[default]
    None,
    /// That many bytes of the expected were not transferred.
    Underflow(u32),
    /// That many bytes were not transferred because more than expected was there.
    Overflow(u32),
}

impl Residual {
    /// What is reported when `available` bytes met an expectation of `expected` bytes.
    pub fn between(expected: u32, available: u64) -> Self {
        match available.checked_sub(u64::from(expected)) {
            Some(0) => Self::None,
            Some(more) => Self::Overflow(u32::try_from(more).unwrap_or(u32::MAX)),
            None => Self::Underflow(expected - available as u32),
        }
    }

    /// Both flags at once are a protocol error (11.4.1); we then believe neither.
    pub(super) fn from_wire(flags: u8, count: u32) -> Self {
        match flags & (OVERFLOW | UNDERFLOW) {
            OVERFLOW => Self::Overflow(count),
            UNDERFLOW => Self::Underflow(count),
            _ => Self::None,
        }
    }

    pub(super) fn to_wire(self) -> (u8, u32) {
        match self {
            Self::None => (0, 0),
            Self::Overflow(count) => (OVERFLOW, count),
            Self::Underflow(count) => (UNDERFLOW, count),
        }
    }
}

/// SCSI Response: the end of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScsiResponse {
    /// Service response. Unless it is `COMPLETED`, status and residuals mean nothing.
    pub response: ResponseCode,
    /// SCSI status.
    pub status: ScsiStatus,
    /// Initiator task tag.
    pub task_tag: TaskTag,
    /// SNACK tag, 0 when none was accepted.
    pub snack_tag: u32,
    /// StatSN.
    pub stat_sn: Serial32,
    /// ExpCmdSN.
    pub exp_cmd_sn: Serial32,
    /// MaxCmdSN.
    pub max_cmd_sn: Serial32,
    /// Number of Data-In PDUs sent for the command.
    pub exp_data_sn: u32,
    /// Residual of the command (of the write, when bidirectional).
    pub residual: Residual,
    /// Residual of a bidirectional command's read.
    pub bidirectional_residual: Residual,
    /// Sense data, empty when there is none.
    pub sense: Bytes,
    /// What follows the sense data.
    pub response_data: Bytes,
}

impl ScsiResponse {
    /// Understands a received PDU.
    pub fn parse(raw: RawPdu) -> Result<Self, ParseError> {
        let bhs = &raw.bhs;
        let flags = bhs.u8(FLAGS);
        let (sense, response_data) = split_sense(raw.data.to_bytes())?;
        Ok(Self {
            response: ResponseCode(bhs.u8(field::RESPONSE)),
            status: ScsiStatus(bhs.u8(field::STATUS)),
            task_tag: bhs.task_tag(),
            snack_tag: bhs.u32(field::SNACK_TAG),
            stat_sn: bhs.serial(STAT_SN),
            exp_cmd_sn: bhs.serial(EXP_CMD_SN),
            max_cmd_sn: bhs.serial(MAX_CMD_SN),
            exp_data_sn: bhs.u32(field::EXP_DATA_SN),
            residual: Residual::from_wire(flags, bhs.u32(RESIDUAL_COUNT)),
            bidirectional_residual: Residual::from_wire(
                flags >> field::BIDIRECTIONAL_SHIFT,
                bhs.u32(field::BIDIRECTIONAL_RESIDUAL_COUNT),
            ),
            sense,
            response_data,
        })
    }
}

impl From<ScsiResponse> for RawPdu {
    fn from(pdu: ScsiResponse) -> Self {
        let (flags, count) = pdu.residual.to_wire();
        let (read_flags, read_count) = pdu.bidirectional_residual.to_wire();
        let bhs = Bhs::new(Opcode::SCSI_RESPONSE)
            .with_u8(FLAGS, FINAL | flags | read_flags << field::BIDIRECTIONAL_SHIFT)
            .with_u8(field::RESPONSE, pdu.response.0)
            .with_u8(field::STATUS, pdu.status.0)
            .with_task_tag(pdu.task_tag)
            .with_u32(field::SNACK_TAG, pdu.snack_tag)
            .with_serial(STAT_SN, pdu.stat_sn)
            .with_serial(EXP_CMD_SN, pdu.exp_cmd_sn)
            .with_serial(MAX_CMD_SN, pdu.max_cmd_sn)
            .with_u32(field::EXP_DATA_SN, pdu.exp_data_sn)
            .with_u32(field::BIDIRECTIONAL_RESIDUAL_COUNT, read_count)
            .with_u32(RESIDUAL_COUNT, count);
        Self::with_data(bhs, join_sense(&pdu.sense, &pdu.response_data).into())
    }
}

/// Takes `SenseLength, sense data, rest` apart (11.4.7, 11.9.4). An empty segment has neither.
pub(super) fn split_sense(mut data: Bytes) -> Result<(Bytes, Bytes), ParseError> {
    if data.is_empty() {
        return Ok((Bytes::new(), Bytes::new()));
    }
    let &[high, low] = data.first_chunk::<2>().ok_or(ParseError::Data)?;
    let end = 2 + usize::from(u16::from_be_bytes([high, low]));
    if end > data.len() {
        return Err(ParseError::Data);
    }
    let rest = data.split_off(end);
    Ok((data.split_off(2), rest))
}

/// The reverse of [`split_sense`]. Sense data beyond 65535 bytes is cut; SPC-4 ends at 252.
pub(super) fn join_sense(sense: &[u8], rest: &[u8]) -> Bytes {
    if sense.is_empty() && rest.is_empty() {
        return Bytes::new();
    }
    let sense = &sense[..sense.len().min(usize::from(u16::MAX))];
    let mut data = BytesMut::with_capacity(2 + sense.len() + rest.len());
    data.put_u16(sense.len() as u16);
    data.put_slice(sense);
    data.put_slice(rest);
    data.freeze()
}

impl Bhs {
    /// Gives a SCSI Response that is sent again another SNACK Tag.
    pub(crate) fn set_snack_tag(&mut self, tag: u32) {
        self.put(field::SNACK_TAG, tag.to_be_bytes());
    }

    /// Gives a SCSI Response that is sent again another ExpDataSN.
    pub(crate) fn set_exp_data_sn(&mut self, exp_data_sn: u32) {
        self.put(field::EXP_DATA_SN, exp_data_sn.to_be_bytes());
    }
}
