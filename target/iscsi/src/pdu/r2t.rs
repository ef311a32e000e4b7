//! Ready To Transfer (RFC 7143, 11.8).

use super::bhs::field::{EXP_CMD_SN, FINAL, MAX_CMD_SN, STAT_SN};
use super::{Bhs, Lun, Opcode, ParseError, RawPdu, Serial32, TaskTag, TransferTag};

/// ```text
///    0 |.|.| 0x31      |1| Reserved                                    |
///   20 | Target Transfer Tag                                           |
///   24 | StatSN                                                        |
///   28 | ExpCmdSN                                                      |
///   32 | MaxCmdSN                                                      |
///   36 | R2TSN                                                         |
///   40 | Buffer Offset                                                 |
///   44 | Desired Data Transfer Length                                  |
/// ```
mod field {
    pub(super) const R2T_SN: usize = 36;
    pub(super) const BUFFER_OFFSET: usize = 40;
    pub(super) const DESIRED_DATA_TRANSFER_LENGTH: usize = 44;
}

/// R2T: the target asks for data of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct R2t {
    /// LUN, to be copied to the Data-Out PDUs.
    pub lun: Lun,
    /// Initiator task tag.
    pub task_tag: TaskTag,
    /// Tag of this transfer, to be copied to the Data-Out PDUs.
    pub transfer_tag: TransferTag,
    /// The next StatSN; an R2T does not use one up.
    pub stat_sn: Serial32,
    /// ExpCmdSN.
    pub exp_cmd_sn: Serial32,
    /// MaxCmdSN.
    pub max_cmd_sn: Serial32,
    /// Number of the R2T within the command, from 0.
    pub r2t_sn: u32,
    /// First byte wanted.
    pub buffer_offset: u32,
    /// Bytes wanted, not 0.
    pub desired_len: u32,
}

impl R2t {
    /// Understands a received PDU.
    pub fn parse(raw: RawPdu) -> Result<Self, ParseError> {
        raw.expect_no_data()?;
        let bhs = &raw.bhs;
        Ok(Self {
            lun: bhs.lun(),
            task_tag: bhs.task_tag(),
            transfer_tag: bhs.transfer_tag(),
            stat_sn: bhs.serial(STAT_SN),
            exp_cmd_sn: bhs.serial(EXP_CMD_SN),
            max_cmd_sn: bhs.serial(MAX_CMD_SN),
            r2t_sn: bhs.u32(field::R2T_SN),
            buffer_offset: bhs.u32(field::BUFFER_OFFSET),
            desired_len: bhs.u32(field::DESIRED_DATA_TRANSFER_LENGTH),
        })
    }
}

impl From<R2t> for RawPdu {
    fn from(pdu: R2t) -> Self {
        Self::header(
            Bhs::new(Opcode::R2T)
                .with_flag(FINAL, true)
                .with_lun(pdu.lun)
                .with_task_tag(pdu.task_tag)
                .with_transfer_tag(pdu.transfer_tag)
                .with_serial(STAT_SN, pdu.stat_sn)
                .with_serial(EXP_CMD_SN, pdu.exp_cmd_sn)
                .with_serial(MAX_CMD_SN, pdu.max_cmd_sn)
                .with_u32(field::R2T_SN, pdu.r2t_sn)
                .with_u32(field::BUFFER_OFFSET, pdu.buffer_offset)
                .with_u32(field::DESIRED_DATA_TRANSFER_LENGTH, pdu.desired_len),
        )
    }
}
