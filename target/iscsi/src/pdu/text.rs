//! Text Request and Response (RFC 7143, 11.10 and 11.11).

use bytes::Bytes;

use super::bhs::field::{CMD_SN, CONTINUE, EXP_CMD_SN, EXP_STAT_SN, FINAL, MAX_CMD_SN, STAT_SN};
use super::{Bhs, Lun, Opcode, ParseError, RawPdu, Serial32, TaskTag, TransferTag};

// ```text
//    0 |.|I| 0x04      |F|C| Reserved                                  |   Request
//    0 |.|.| 0x24      |F|C| Reserved                                  |   Response
//    8 | LUN or Reserved                                               |
//   20 | Target Transfer Tag or 0xffffffff                             |
//   24 | CmdSN / StatSN                                                |
//   28 | ExpStatSN / ExpCmdSN                                          |
//   32 | Reserved / MaxCmdSN                                           |
// ```

/// Text Request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextRequest {
    /// I bit.
    pub immediate: bool,
    /// F bit: the initiator has nothing more to say.
    pub is_final: bool,
    /// C bit: the text goes on in the next request.
    pub continues: bool,
    /// LUN; counts only beside a transfer tag.
    pub lun: Lun,
    /// Initiator task tag.
    pub task_tag: TaskTag,
    /// Copied from the last response of the exchange; reserved at its start.
    pub transfer_tag: TransferTag,
    /// CmdSN.
    pub cmd_sn: Serial32,
    /// ExpStatSN.
    pub exp_stat_sn: Serial32,
    /// Keys and values.
    pub text: Bytes,
}

impl TextRequest {
    /// Understands a received PDU.
    pub fn parse(raw: RawPdu) -> Result<Self, ParseError> {
        let bhs = &raw.bhs;
        Ok(Self {
            immediate: bhs.is_immediate(),
            is_final: bhs.is_final(),
            continues: bhs.flag(CONTINUE),
            lun: bhs.lun(),
            task_tag: bhs.task_tag(),
            transfer_tag: bhs.transfer_tag(),
            cmd_sn: bhs.serial(CMD_SN),
            exp_stat_sn: bhs.serial(EXP_STAT_SN),
            text: raw.data.to_bytes(),
        })
    }
}

impl From<TextRequest> for RawPdu {
    fn from(pdu: TextRequest) -> Self {
        let bhs = Bhs::new(Opcode::TEXT_REQUEST)
            .with_immediate(pdu.immediate)
            .with_flag(FINAL, pdu.is_final)
            .with_flag(CONTINUE, pdu.continues)
            .with_lun(pdu.lun)
            .with_task_tag(pdu.task_tag)
            .with_transfer_tag(pdu.transfer_tag)
            .with_serial(CMD_SN, pdu.cmd_sn)
            .with_serial(EXP_STAT_SN, pdu.exp_stat_sn);
        Self::with_data(bhs, pdu.text.into())
    }
}

/// Text Response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextResponse {
    /// F bit: the target has nothing more to say.
    pub is_final: bool,
    /// C bit: the text goes on in the next response.
    pub continues: bool,
    /// LUN; counts only beside a transfer tag.
    pub lun: Lun,
    /// Initiator task tag.
    pub task_tag: TaskTag,
    /// Names the exchange while it goes on; reserved at its end.
    pub transfer_tag: TransferTag,
    /// StatSN.
    pub stat_sn: Serial32,
    /// ExpCmdSN.
    pub exp_cmd_sn: Serial32,
    /// MaxCmdSN.
    pub max_cmd_sn: Serial32,
    /// Keys and values.
    pub text: Bytes,
}

impl TextResponse {
    /// Understands a received PDU.
    pub fn parse(raw: RawPdu) -> Result<Self, ParseError> {
        let bhs = &raw.bhs;
        Ok(Self {
            is_final: bhs.is_final(),
            continues: bhs.flag(CONTINUE),
            lun: bhs.lun(),
            task_tag: bhs.task_tag(),
            transfer_tag: bhs.transfer_tag(),
            stat_sn: bhs.serial(STAT_SN),
            exp_cmd_sn: bhs.serial(EXP_CMD_SN),
            max_cmd_sn: bhs.serial(MAX_CMD_SN),
            text: raw.data.to_bytes(),
        })
    }
}

impl From<TextResponse> for RawPdu {
    fn from(pdu: TextResponse) -> Self {
        let bhs = Bhs::new(Opcode::TEXT_RESPONSE)
            .with_flag(FINAL, pdu.is_final)
            .with_flag(CONTINUE, pdu.continues)
            .with_lun(pdu.lun)
            .with_task_tag(pdu.task_tag)
            .with_transfer_tag(pdu.transfer_tag)
            .with_serial(STAT_SN, pdu.stat_sn)
            .with_serial(EXP_CMD_SN, pdu.exp_cmd_sn)
            .with_serial(MAX_CMD_SN, pdu.max_cmd_sn);
        Self::with_data(bhs, pdu.text.into())
    }
}
