//! SNACK Request (RFC 7143, 11.16).

use super::bhs::field::{EXP_STAT_SN, FINAL, FLAGS};
use super::{Bhs, Lun, Opcode, ParseError, RawPdu, Serial32, SnackType, TaskTag};

/// ```text
///    0 |.|.| 0x10      |1|.|.|.| Type  | Reserved                      |
///   20 | Target Transfer Tag or SNACK Tag or 0xffffffff                |
///   28 | ExpStatSN                                                     |
///   40 | BegRun                                                        |
///   44 | RunLength                                                     |
/// ```
mod field {
    pub(super) const TYPE_MASK: u8 = 0x0f;
    pub(super) const TAG: usize = 20;
    pub(super) const BEG_RUN: usize = 40;
    pub(super) const RUN_LENGTH: usize = 44;
}

/// SNACK Request: asks for PDUs again. A target of ErrorRecoveryLevel 0 rejects it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnackRequest {
    /// What is asked for.
    pub kind: SnackType,
    /// LUN; counts only for a DataACK.
    pub lun: Lun,
    /// The task; reserved for status and DataACK.
    pub task_tag: TaskTag,
    /// Target transfer tag of a DataACK, SNACK tag of an R-Data SNACK; else 0xffffffff.
    pub tag: u32,
    /// ExpStatSN.
    pub exp_stat_sn: Serial32,
    /// First number asked for.
    pub begin: u32,
    /// How many; 0 is all.
    pub length: u32,
}

impl SnackRequest {
    /// Understands a received PDU.
    pub fn parse(raw: RawPdu) -> Result<Self, ParseError> {
        raw.expect_no_data()?;
        let bhs = &raw.bhs;
        Ok(Self {
            kind: SnackType(bhs.u8(FLAGS) & field::TYPE_MASK),
            lun: bhs.lun(),
            task_tag: bhs.task_tag(),
            tag: bhs.u32(field::TAG),
            exp_stat_sn: bhs.serial(EXP_STAT_SN),
            begin: bhs.u32(field::BEG_RUN),
            length: bhs.u32(field::RUN_LENGTH),
        })
    }
}

impl From<SnackRequest> for RawPdu {
    fn from(pdu: SnackRequest) -> Self {
        Self::header(
            Bhs::new(Opcode::SNACK_REQUEST)
                .with_u8(FLAGS, FINAL | pdu.kind.0 & field::TYPE_MASK)
                .with_lun(pdu.lun)
                .with_task_tag(pdu.task_tag)
                .with_u32(field::TAG, pdu.tag)
                .with_serial(EXP_STAT_SN, pdu.exp_stat_sn)
                .with_u32(field::BEG_RUN, pdu.begin)
                .with_u32(field::RUN_LENGTH, pdu.length),
        )
    }
}
