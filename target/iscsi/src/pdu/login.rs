//! Login Request and Response (RFC 7143, 11.12 and 11.13).

use bytes::Bytes;

use super::bhs::field::{CMD_SN, CONTINUE, EXP_CMD_SN, EXP_STAT_SN, FINAL, FLAGS, MAX_CMD_SN, STAT_SN};
use super::{Bhs, Cid, Isid, LoginStatus, Opcode, ParseError, RawPdu, Serial32, Stage, TaskTag, Tsih};

/// ```text
///    0 |.|1| 0x03      |T|C|.|.|CSG|NSG| Version-max   | Version-min   |   Request
///    0 |.|.| 0x23      |T|C|.|.|CSG|NSG| Version-max   | Version-active|   Response
///    8 | ISID                                                          |
///   12 |                               | TSIH                          |
///   20 | CID                           | Reserved                      |   Request
///   24 | CmdSN / StatSN                                                |
///   28 | ExpStatSN or Reserved / ExpCmdSN                              |
///   32 | Reserved / MaxCmdSN                                           |
///   36 | Status-Class  | Status-Detail | Reserved                      |   Response
/// ```
mod field {
    pub(super) const CSG_SHIFT: u8 = 2;
    pub(super) const STAGE_MASK: u8 = 0x03;
    pub(super) const VERSION_MAX: usize = 2;
    pub(super) const VERSION_MIN_OR_ACTIVE: usize = 3;
    pub(super) const ISID: usize = 8;
    pub(super) const TSIH: usize = 14;
    pub(super) const CID: usize = 20;
    pub(super) const STATUS: usize = 36;
}

fn current_stage(bhs: &Bhs) -> Stage {
    Stage(bhs.u8(FLAGS) >> field::CSG_SHIFT & field::STAGE_MASK)
}

fn next_stage(bhs: &Bhs) -> Stage {
    Stage(bhs.u8(FLAGS) & field::STAGE_MASK)
}

fn stages(current: Stage, next: Stage) -> u8 {
    (current.0 & field::STAGE_MASK) << field::CSG_SHIFT | next.0 & field::STAGE_MASK
}

/// Login Request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginRequest {
    /// T bit: ready to go on to `next_stage`.
    pub transit: bool,
    /// C bit: the text goes on in the next request.
    pub continues: bool,
    /// CSG.
    pub current_stage: Stage,
    /// NSG; counts only with `transit`.
    pub next_stage: Stage,
    /// Highest version supported.
    pub version_max: u8,
    /// Lowest version supported.
    pub version_min: u8,
    /// ISID.
    pub isid: Isid,
    /// TSIH, 0 for a new session.
    pub tsih: Tsih,
    /// Initiator task tag, the same throughout a login.
    pub task_tag: TaskTag,
    /// CID.
    pub cid: Cid,
    /// CmdSN: the first of the session, when it is new.
    pub cmd_sn: Serial32,
    /// ExpStatSN, except in the first request of a login.
    pub exp_stat_sn: Serial32,
    /// Keys and values.
    pub text: Bytes,
}

impl LoginRequest {
    /// Understands a received PDU.
    pub fn parse(raw: RawPdu) -> Result<Self, ParseError> {
        let bhs = &raw.bhs;
        Ok(Self {
            transit: bhs.is_final(),
            continues: bhs.flag(CONTINUE),
            current_stage: current_stage(bhs),
            next_stage: next_stage(bhs),
            version_max: bhs.u8(field::VERSION_MAX),
            version_min: bhs.u8(field::VERSION_MIN_OR_ACTIVE),
            isid: Isid(bhs.bytes(field::ISID)),
            tsih: Tsih(bhs.u16(field::TSIH)),
            task_tag: bhs.task_tag(),
            cid: Cid(bhs.u16(field::CID)),
            cmd_sn: bhs.serial(CMD_SN),
            exp_stat_sn: bhs.serial(EXP_STAT_SN),
            text: raw.data.to_bytes(),
        })
    }
}

impl From<LoginRequest> for RawPdu {
    fn from(pdu: LoginRequest) -> Self {
        let mut bhs = Bhs::new(Opcode::LOGIN_REQUEST)
            .with_immediate(true)
            .with_u8(FLAGS, stages(pdu.current_stage, pdu.next_stage))
            .with_flag(FINAL, pdu.transit)
            .with_flag(CONTINUE, pdu.continues)
            .with_u8(field::VERSION_MAX, pdu.version_max)
            .with_u8(field::VERSION_MIN_OR_ACTIVE, pdu.version_min)
            .with_u16(field::TSIH, pdu.tsih.0)
            .with_task_tag(pdu.task_tag)
            .with_u16(field::CID, pdu.cid.0)
            .with_serial(CMD_SN, pdu.cmd_sn)
            .with_serial(EXP_STAT_SN, pdu.exp_stat_sn);
        bhs.put(field::ISID, pdu.isid.0);
        Self::with_data(bhs, pdu.text.into())
    }
}

/// Login Response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginResponse {
    /// T bit: login goes on to `next_stage`.
    pub transit: bool,
    /// C bit: the text goes on in the next response.
    pub continues: bool,
    /// CSG.
    pub current_stage: Stage,
    /// NSG; counts only with `transit`.
    pub next_stage: Stage,
    /// Highest version supported.
    pub version_max: u8,
    /// Version in use.
    pub version_active: u8,
    /// ISID of the request.
    pub isid: Isid,
    /// TSIH; that of a new session stands in the last response.
    pub tsih: Tsih,
    /// Initiator task tag.
    pub task_tag: TaskTag,
    /// StatSN.
    pub stat_sn: Serial32,
    /// ExpCmdSN.
    pub exp_cmd_sn: Serial32,
    /// MaxCmdSN.
    pub max_cmd_sn: Serial32,
    /// How it goes.
    pub status: LoginStatus,
    /// Keys and values.
    pub text: Bytes,
}

impl LoginResponse {
    /// Understands a received PDU.
    pub fn parse(raw: RawPdu) -> Result<Self, ParseError> {
        let bhs = &raw.bhs;
        Ok(Self {
            transit: bhs.is_final(),
            continues: bhs.flag(CONTINUE),
            current_stage: current_stage(bhs),
            next_stage: next_stage(bhs),
            version_max: bhs.u8(field::VERSION_MAX),
            version_active: bhs.u8(field::VERSION_MIN_OR_ACTIVE),
            isid: Isid(bhs.bytes(field::ISID)),
            tsih: Tsih(bhs.u16(field::TSIH)),
            task_tag: bhs.task_tag(),
            stat_sn: bhs.serial(STAT_SN),
            exp_cmd_sn: bhs.serial(EXP_CMD_SN),
            max_cmd_sn: bhs.serial(MAX_CMD_SN),
            status: LoginStatus(bhs.u16(field::STATUS)),
            text: raw.data.to_bytes(),
        })
    }
}

impl From<LoginResponse> for RawPdu {
    fn from(pdu: LoginResponse) -> Self {
        let mut bhs = Bhs::new(Opcode::LOGIN_RESPONSE)
            .with_u8(FLAGS, stages(pdu.current_stage, pdu.next_stage))
            .with_flag(FINAL, pdu.transit)
            .with_flag(CONTINUE, pdu.continues)
            .with_u8(field::VERSION_MAX, pdu.version_max)
            .with_u8(field::VERSION_MIN_OR_ACTIVE, pdu.version_active)
            .with_u16(field::TSIH, pdu.tsih.0)
            .with_task_tag(pdu.task_tag)
            .with_serial(STAT_SN, pdu.stat_sn)
            .with_serial(EXP_CMD_SN, pdu.exp_cmd_sn)
            .with_serial(MAX_CMD_SN, pdu.max_cmd_sn)
            .with_u16(field::STATUS, pdu.status.0);
        bhs.put(field::ISID, pdu.isid.0);
        Self::with_data(bhs, pdu.text.into())
    }
}
