//! Asynchronous Message (RFC 7143, 11.9).

use bytes::Bytes;

use super::bhs::field::{EXP_CMD_SN, FINAL, MAX_CMD_SN, STAT_SN};
use super::response::{join_sense, split_sense};
use super::{AsyncEvent, Bhs, Lun, Opcode, ParseError, RawPdu, Serial32, TaskTag};

/// ```text
///    0 |.|.| 0x32      |1| Reserved                                    |
///   16 | 0xffffffff                                                    |
///   24 | StatSN                                                        |
///   28 | ExpCmdSN                                                      |
///   32 | MaxCmdSN                                                      |
///   36 | AsyncEvent    | AsyncVCode    | Parameter1 or Reserved        |
///   40 | Parameter2 or Reserved        | Parameter3 or Reserved        |
/// ```
mod field {
    pub(super) const ASYNC_EVENT: usize = 36;
    pub(super) const ASYNC_VCODE: usize = 37;
    pub(super) const PARAMETER1: usize = 38;
    pub(super) const PARAMETER2: usize = 40;
    pub(super) const PARAMETER3: usize = 42;
}

/// Asynchronous Message: news that no request asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsyncMessage {
    /// LUN; counts for SCSI events and task termination.
    pub lun: Lun,
    /// StatSN.
    pub stat_sn: Serial32,
    /// ExpCmdSN.
    pub exp_cmd_sn: Serial32,
    /// MaxCmdSN.
    pub max_cmd_sn: Serial32,
    /// What happened.
    pub event: AsyncEvent,
    /// Detail of a vendor's event.
    pub vendor_code: u8,
    /// Parameter1: see [`AsyncEvent`].
    pub parameter1: u16,
    /// Parameter2: Time2Wait of a drop.
    pub parameter2: u16,
    /// Parameter3: seconds to obey, or Time2Retain of a drop.
    pub parameter3: u16,
    /// Sense data of a SCSI event.
    pub sense: Bytes,
    /// What follows the sense data.
    pub event_data: Bytes,
}

impl AsyncMessage {
    /// Understands a received PDU.
    pub fn parse(raw: RawPdu) -> Result<Self, ParseError> {
        let bhs = &raw.bhs;
        let (sense, event_data) = split_sense(raw.data.to_bytes())?;
        Ok(Self {
            lun: bhs.lun(),
            stat_sn: bhs.serial(STAT_SN),
            exp_cmd_sn: bhs.serial(EXP_CMD_SN),
            max_cmd_sn: bhs.serial(MAX_CMD_SN),
            event: AsyncEvent(bhs.u8(field::ASYNC_EVENT)),
            vendor_code: bhs.u8(field::ASYNC_VCODE),
            parameter1: bhs.u16(field::PARAMETER1),
            parameter2: bhs.u16(field::PARAMETER2),
            parameter3: bhs.u16(field::PARAMETER3),
            sense,
            event_data,
        })
    }
}

impl From<AsyncMessage> for RawPdu {
    fn from(pdu: AsyncMessage) -> Self {
        let bhs = Bhs::new(Opcode::ASYNC_MESSAGE)
            .with_flag(FINAL, true)
            .with_lun(pdu.lun)
            .with_task_tag(TaskTag::RESERVED)
            .with_serial(STAT_SN, pdu.stat_sn)
            .with_serial(EXP_CMD_SN, pdu.exp_cmd_sn)
            .with_serial(MAX_CMD_SN, pdu.max_cmd_sn)
            .with_u8(field::ASYNC_EVENT, pdu.event.0)
            .with_u8(field::ASYNC_VCODE, pdu.vendor_code)
            .with_u16(field::PARAMETER1, pdu.parameter1)
            .with_u16(field::PARAMETER2, pdu.parameter2)
            .with_u16(field::PARAMETER3, pdu.parameter3);
        Self::with_data(bhs, join_sense(&pdu.sense, &pdu.event_data).into())
    }
}
