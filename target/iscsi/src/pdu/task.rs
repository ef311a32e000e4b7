//! Task Management Function Request and Response (RFC 7143, 11.5 and 11.6; RFC 7144, 6).

use super::bhs::field::{CMD_SN, EXP_CMD_SN, EXP_STAT_SN, FINAL, FLAGS, MAX_CMD_SN, STAT_SN};
use super::{Bhs, Lun, Opcode, ParseError, RawPdu, Serial32, TaskFunction, TaskResponseCode, TaskTag};

/// ```text
///    0 |.|I| 0x02      |1| Function    | Reserved                      |   Request
///    8 | Logical Unit Number (LUN) or Reserved                         |
///   20 | Referenced Task Tag or 0xffffffff                             |
///   24 | CmdSN                                                         |
///   28 | ExpStatSN                                                     |
///   32 | RefCmdSN or Reserved                                          |
///   36 | ExpDataSN or Reserved                                         |
///
///    0 |.|.| 0x22      |1| Reserved    | Response      | Reserved      |   Response
///    8 | Additional Response Information (RFC 7144)    | Reserved      |
/// ```
mod field {
    pub(super) const FUNCTION_MASK: u8 = 0x7f;
    pub(super) const REFERENCED_TASK_TAG: usize = 20;
    pub(super) const REF_CMD_SN: usize = 32;
    pub(super) const EXP_DATA_SN: usize = 36;
    pub(super) const RESPONSE: usize = 2;
    pub(super) const ADDITIONAL_INFORMATION: usize = 8;
}

/// Task Management Function Request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRequest {
    /// I bit.
    pub immediate: bool,
    /// What to do.
    pub function: TaskFunction,
    /// LUN, for functions on a task or a LU.
    pub lun: Lun,
    /// Tag of this request.
    pub task_tag: TaskTag,
    /// The task that is meant; reserved for functions on a LU or target.
    pub referenced_task_tag: TaskTag,
    /// CmdSN.
    pub cmd_sn: Serial32,
    /// ExpStatSN.
    pub exp_stat_sn: Serial32,
    /// CmdSN of the task that is meant.
    pub ref_cmd_sn: Serial32,
    /// For TASK REASSIGN: next DataSN that the initiator expects.
    pub exp_data_sn: u32,
}

impl TaskRequest {
    /// Understands a received PDU.
    pub fn parse(raw: RawPdu) -> Result<Self, ParseError> {
        raw.expect_no_data()?;
        let bhs = &raw.bhs;
        Ok(Self {
            immediate: bhs.is_immediate(),
            function: TaskFunction(bhs.u8(FLAGS) & field::FUNCTION_MASK),
            lun: bhs.lun(),
            task_tag: bhs.task_tag(),
            referenced_task_tag: TaskTag(bhs.u32(field::REFERENCED_TASK_TAG)),
            cmd_sn: bhs.serial(CMD_SN),
            exp_stat_sn: bhs.serial(EXP_STAT_SN),
            ref_cmd_sn: bhs.serial(field::REF_CMD_SN),
            exp_data_sn: bhs.u32(field::EXP_DATA_SN),
        })
    }
}

impl From<TaskRequest> for RawPdu {
    fn from(pdu: TaskRequest) -> Self {
        Self::header(
            Bhs::new(Opcode::TASK_REQUEST)
                .with_immediate(pdu.immediate)
                .with_u8(FLAGS, FINAL | pdu.function.0 & field::FUNCTION_MASK)
                .with_lun(pdu.lun)
                .with_task_tag(pdu.task_tag)
                .with_u32(field::REFERENCED_TASK_TAG, pdu.referenced_task_tag.0)
                .with_serial(CMD_SN, pdu.cmd_sn)
                .with_serial(EXP_STAT_SN, pdu.exp_stat_sn)
                .with_serial(field::REF_CMD_SN, pdu.ref_cmd_sn)
                .with_u32(field::EXP_DATA_SN, pdu.exp_data_sn),
        )
    }
}

/// Task Management Function Response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskResponse {
    /// How it went.
    pub response: TaskResponseCode,
    /// Tag of the request.
    pub task_tag: TaskTag,
    /// Three bytes that QUERY ASYNCHRONOUS EVENT answers with (RFC 7144, 6.4); else zero.
    pub additional_information: [u8; 3],
    /// StatSN.
    pub stat_sn: Serial32,
    /// ExpCmdSN.
    pub exp_cmd_sn: Serial32,
    /// MaxCmdSN.
    pub max_cmd_sn: Serial32,
}

impl TaskResponse {
    /// Understands a received PDU.
    pub fn parse(raw: RawPdu) -> Result<Self, ParseError> {
        raw.expect_no_data()?;
        let bhs = &raw.bhs;
        Ok(Self {
            response: TaskResponseCode(bhs.u8(field::RESPONSE)),
            task_tag: bhs.task_tag(),
            additional_information: bhs.bytes(field::ADDITIONAL_INFORMATION),
            stat_sn: bhs.serial(STAT_SN),
            exp_cmd_sn: bhs.serial(EXP_CMD_SN),
            max_cmd_sn: bhs.serial(MAX_CMD_SN),
        })
    }
}

impl From<TaskResponse> for RawPdu {
    fn from(pdu: TaskResponse) -> Self {
        let mut bhs = Bhs::new(Opcode::TASK_RESPONSE)
            .with_flag(FINAL, true)
            .with_u8(field::RESPONSE, pdu.response.0)
            .with_task_tag(pdu.task_tag)
            .with_serial(STAT_SN, pdu.stat_sn)
            .with_serial(EXP_CMD_SN, pdu.exp_cmd_sn)
            .with_serial(MAX_CMD_SN, pdu.max_cmd_sn);
        bhs.put(field::ADDITIONAL_INFORMATION, pdu.additional_information);
        Self::header(bhs)
    }
}
