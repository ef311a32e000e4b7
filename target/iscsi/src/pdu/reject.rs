//! Reject (RFC 7143, 11.17).

use bytes::Bytes;

use super::bhs::field::{EXP_CMD_SN, FINAL, MAX_CMD_SN, STAT_SN};
use super::{BHS_LEN, Bhs, Opcode, ParseError, RawPdu, RejectReason, Serial32, TaskTag};

/// ```text
///    0 |.|.| 0x3f      |1| Reserved    | Reason        | Reserved      |
///   16 | 0xffffffff                                                    |
///   36 | DataSN/R2TSN or Reserved                                      |
///      / Complete Header of Bad PDU                                    /
/// ```
mod field {
    pub(super) const REASON: usize = 2;
    pub(super) const DATA_SN: usize = 36;
}

/// Reject: the target could not take a PDU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Why.
    pub reason: RejectReason,
    /// StatSN.
    pub stat_sn: Serial32,
    /// ExpCmdSN.
    pub exp_cmd_sn: Serial32,
    /// MaxCmdSN.
    pub max_cmd_sn: Serial32,
    /// Counts only for a rejected SNACK.
    pub data_sn: u32,
    /// The header of the bad PDU.
    pub header: Bhs,
}

impl Reject {
    /// Understands a received PDU.
    pub fn parse(raw: RawPdu) -> Result<Self, ParseError> {
        let bhs = &raw.bhs;
        let data = raw.data.to_bytes();
        let header = data.first_chunk::<BHS_LEN>().ok_or(ParseError::Data)?;
        Ok(Self {
            reason: RejectReason(bhs.u8(field::REASON)),
            stat_sn: bhs.serial(STAT_SN),
            exp_cmd_sn: bhs.serial(EXP_CMD_SN),
            max_cmd_sn: bhs.serial(MAX_CMD_SN),
            data_sn: bhs.u32(field::DATA_SN),
            header: Bhs(*header),
        })
    }
}

impl From<Reject> for RawPdu {
    fn from(pdu: Reject) -> Self {
        let bhs = Bhs::new(Opcode::REJECT)
            .with_flag(FINAL, true)
            .with_u8(field::REASON, pdu.reason.0)
            .with_task_tag(TaskTag::RESERVED)
            .with_serial(STAT_SN, pdu.stat_sn)
            .with_serial(EXP_CMD_SN, pdu.exp_cmd_sn)
            .with_serial(MAX_CMD_SN, pdu.max_cmd_sn)
            .with_u32(field::DATA_SN, pdu.data_sn);
        Self::with_data(bhs, Bytes::copy_from_slice(&pdu.header.0).into())
    }
}
