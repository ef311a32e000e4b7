//! NOP-Out and NOP-In (RFC 7143, 11.18 and 11.19).

use twinlun_block::Payload;

use super::bhs::field::{CMD_SN, EXP_CMD_SN, EXP_STAT_SN, FINAL, MAX_CMD_SN, STAT_SN};
use super::{Bhs, Lun, Opcode, ParseError, RawPdu, Serial32, TaskTag, TransferTag};

// ```text
//    0 |.|I| 0x00      |1| Reserved                                    |   NOP-Out
//    0 |.|.| 0x20      |1| Reserved                                    |   NOP-In
//    8 | LUN or Reserved                                               |
//   16 | Initiator Task Tag or 0xffffffff                              |
//   20 | Target Transfer Tag or 0xffffffff                             |
//   24 | CmdSN / StatSN                                                |
//   28 | ExpStatSN / ExpCmdSN                                          |
//   32 | Reserved / MaxCmdSN                                           |
// ```

/// NOP-Out: a ping (with a task tag), the answer to one (with a transfer tag), or a mere acknowledgment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NopOut {
    /// I bit. Set whenever there is no task tag.
    pub immediate: bool,
    /// LUN, copied from the NOP-In that is answered.
    pub lun: Lun,
    /// Reserved unless an answer is wanted.
    pub task_tag: TaskTag,
    /// Reserved unless this is an answer.
    pub transfer_tag: TransferTag,
    /// CmdSN.
    pub cmd_sn: Serial32,
    /// ExpStatSN.
    pub exp_stat_sn: Serial32,
    /// To be sent back.
    pub data: Payload,
}

impl NopOut {
    /// Understands a received PDU.
    pub fn parse(raw: RawPdu) -> Result<Self, ParseError> {
        let bhs = &raw.bhs;
        Ok(Self {
            immediate: bhs.is_immediate(),
            lun: bhs.lun(),
            task_tag: bhs.task_tag(),
            transfer_tag: bhs.transfer_tag(),
            cmd_sn: bhs.serial(CMD_SN),
            exp_stat_sn: bhs.serial(EXP_STAT_SN),
            data: raw.data,
        })
    }
}

impl From<NopOut> for RawPdu {
    fn from(pdu: NopOut) -> Self {
        let bhs = Bhs::new(Opcode::NOP_OUT)
            .with_immediate(pdu.immediate)
            .with_flag(FINAL, true)
            .with_lun(pdu.lun)
            .with_task_tag(pdu.task_tag)
            .with_transfer_tag(pdu.transfer_tag)
            .with_serial(CMD_SN, pdu.cmd_sn)
            .with_serial(EXP_STAT_SN, pdu.exp_stat_sn);
        Self::with_data(bhs, pdu.data)
    }
}

/// NOP-In: the answer to a ping (with a task tag), a ping (with a transfer tag), or news of the command window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NopIn {
    /// LUN; counts only beside a transfer tag.
    pub lun: Lun,
    /// That of the ping; reserved when this is no answer.
    pub task_tag: TaskTag,
    /// Reserved unless an answer is wanted.
    pub transfer_tag: TransferTag,
    /// The next StatSN; used up only by an answer.
    pub stat_sn: Serial32,
    /// ExpCmdSN.
    pub exp_cmd_sn: Serial32,
    /// MaxCmdSN.
    pub max_cmd_sn: Serial32,
    /// What the ping brought.
    pub data: Payload,
}

impl NopIn {
    /// Understands a received PDU.
    pub fn parse(raw: RawPdu) -> Result<Self, ParseError> {
        let bhs = &raw.bhs;
        Ok(Self {
            lun: bhs.lun(),
            task_tag: bhs.task_tag(),
            transfer_tag: bhs.transfer_tag(),
            stat_sn: bhs.serial(STAT_SN),
            exp_cmd_sn: bhs.serial(EXP_CMD_SN),
            max_cmd_sn: bhs.serial(MAX_CMD_SN),
            data: raw.data,
        })
    }
}

impl From<NopIn> for RawPdu {
    fn from(pdu: NopIn) -> Self {
        let bhs = Bhs::new(Opcode::NOP_IN)
            .with_flag(FINAL, true)
            .with_lun(pdu.lun)
            .with_task_tag(pdu.task_tag)
            .with_transfer_tag(pdu.transfer_tag)
            .with_serial(STAT_SN, pdu.stat_sn)
            .with_serial(EXP_CMD_SN, pdu.exp_cmd_sn)
            .with_serial(MAX_CMD_SN, pdu.max_cmd_sn);
        Self::with_data(bhs, pdu.data)
    }
}
