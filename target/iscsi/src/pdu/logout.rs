//! Logout Request and Response (RFC 7143, 11.14 and 11.15).

use super::bhs::field::{CMD_SN, EXP_CMD_SN, EXP_STAT_SN, FINAL, FLAGS, MAX_CMD_SN, STAT_SN};
use super::{Bhs, Cid, LogoutReason, LogoutResponseCode, Opcode, ParseError, RawPdu, Serial32, TaskTag};

/// ```text
///    0 |.|I| 0x06      |1| Reason Code | Reserved                      |   Request
///   20 | CID or Reserved               | Reserved                      |
///
///    0 |.|.| 0x26      |1| Reserved    | Response      | Reserved      |   Response
///   40 | Time2Wait                     | Time2Retain                   |
/// ```
mod field {
    pub(super) const REASON_MASK: u8 = 0x7f;
    pub(super) const CID: usize = 20;
    pub(super) const RESPONSE: usize = 2;
    pub(super) const TIME2WAIT: usize = 40;
    pub(super) const TIME2RETAIN: usize = 42;
}

/// Logout Request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogoutRequest {
    /// I bit.
    pub immediate: bool,
    /// What is to be closed.
    pub reason: LogoutReason,
    /// Initiator task tag.
    pub task_tag: TaskTag,
    /// The connection; counts unless the session is closed.
    pub cid: Cid,
    /// CmdSN.
    pub cmd_sn: Serial32,
    /// ExpStatSN.
    pub exp_stat_sn: Serial32,
}

impl LogoutRequest {
    /// Understands a received PDU.
    pub fn parse(raw: RawPdu) -> Result<Self, ParseError> {
        raw.expect_no_data()?;
        let bhs = &raw.bhs;
        Ok(Self {
            immediate: bhs.is_immediate(),
            reason: LogoutReason(bhs.u8(FLAGS) & field::REASON_MASK),
            task_tag: bhs.task_tag(),
            cid: Cid(bhs.u16(field::CID)),
            cmd_sn: bhs.serial(CMD_SN),
            exp_stat_sn: bhs.serial(EXP_STAT_SN),
        })
    }
}

impl From<LogoutRequest> for RawPdu {
    fn from(pdu: LogoutRequest) -> Self {
        Self::header(
            Bhs::new(Opcode::LOGOUT_REQUEST)
                .with_immediate(pdu.immediate)
                .with_u8(FLAGS, FINAL | pdu.reason.0 & field::REASON_MASK)
                .with_task_tag(pdu.task_tag)
                .with_u16(field::CID, pdu.cid.0)
                .with_serial(CMD_SN, pdu.cmd_sn)
                .with_serial(EXP_STAT_SN, pdu.exp_stat_sn),
        )
    }
}

/// Logout Response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogoutResponse {
    /// How it went.
    pub response: LogoutResponseCode,
    /// Initiator task tag.
    pub task_tag: TaskTag,
    /// StatSN.
    pub stat_sn: Serial32,
    /// ExpCmdSN.
    pub exp_cmd_sn: Serial32,
    /// MaxCmdSN.
    pub max_cmd_sn: Serial32,
    /// Seconds to wait before a reconnection.
    pub time2wait: u16,
    /// Seconds for which tasks are kept after that.
    pub time2retain: u16,
}

impl LogoutResponse {
    /// Understands a received PDU.
    pub fn parse(raw: RawPdu) -> Result<Self, ParseError> {
        raw.expect_no_data()?;
        let bhs = &raw.bhs;
        Ok(Self {
            response: LogoutResponseCode(bhs.u8(field::RESPONSE)),
            task_tag: bhs.task_tag(),
            stat_sn: bhs.serial(STAT_SN),
            exp_cmd_sn: bhs.serial(EXP_CMD_SN),
            max_cmd_sn: bhs.serial(MAX_CMD_SN),
            time2wait: bhs.u16(field::TIME2WAIT),
            time2retain: bhs.u16(field::TIME2RETAIN),
        })
    }
}

impl From<LogoutResponse> for RawPdu {
    fn from(pdu: LogoutResponse) -> Self {
        Self::header(
            Bhs::new(Opcode::LOGOUT_RESPONSE)
                .with_flag(FINAL, true)
                .with_u8(field::RESPONSE, pdu.response.0)
                .with_task_tag(pdu.task_tag)
                .with_serial(STAT_SN, pdu.stat_sn)
                .with_serial(EXP_CMD_SN, pdu.exp_cmd_sn)
                .with_serial(MAX_CMD_SN, pdu.max_cmd_sn)
                .with_u16(field::TIME2WAIT, pdu.time2wait)
                .with_u16(field::TIME2RETAIN, pdu.time2retain),
        )
    }
}
