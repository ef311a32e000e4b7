//! SCSI Data-Out and Data-In (RFC 7143, 11.7).

use twinlun_block::Payload;

use super::bhs::field::{EXP_CMD_SN, EXP_STAT_SN, FINAL, FLAGS, MAX_CMD_SN, STAT_SN};
use super::response::RESIDUAL_COUNT;
use super::{Bhs, Lun, Opcode, ParseError, RawPdu, Residual, ScsiStatus, Serial32, TaskTag, TransferTag};

/// ```text
///    0 |.|.| 0x05      |F| Reserved                                    |   Data-Out
///    0 |.|.| 0x25      |F|A|0 0 0|O|U|S| Reserved      |Status or Rsvd |   Data-In
///    8 | LUN or Reserved                                               |
///   20 | Target Transfer Tag or 0xffffffff                             |
///   24 | Reserved / StatSN or Reserved                                 |
///   28 | ExpStatSN / ExpCmdSN                                          |
///   32 | Reserved / MaxCmdSN                                           |
///   36 | DataSN                                                        |
///   40 | Buffer Offset                                                 |
///   44 | Reserved / Residual Count                                     |
/// ```
mod field {
    pub(super) const ACKNOWLEDGE: u8 = 0x40;
    pub(super) const HAS_STATUS: u8 = 0x01;
    pub(super) const STATUS: usize = 3;
    pub(super) const DATA_SN: usize = 36;
    pub(super) const BUFFER_OFFSET: usize = 40;
}

/// SCSI Data-Out: data of a write, unsolicited or asked for by an R2T.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataOut {
    /// F bit: last PDU of the unsolicited data or of the answer to an R2T.
    pub is_final: bool,
    /// LUN; counts only beside a transfer tag.
    pub lun: Lun,
    /// Initiator task tag.
    pub task_tag: TaskTag,
    /// The R2T's tag; reserved for unsolicited data.
    pub transfer_tag: TransferTag,
    /// ExpStatSN.
    pub exp_stat_sn: Serial32,
    /// Number of the PDU within its sequence, from 0.
    pub data_sn: u32,
    /// Where the data belongs within the command's data.
    pub buffer_offset: u32,
    /// The data.
    pub data: Payload,
}

impl DataOut {
    /// Understands a received PDU.
    pub fn parse(raw: RawPdu) -> Result<Self, ParseError> {
        let bhs = &raw.bhs;
        Ok(Self {
            is_final: bhs.is_final(),
            lun: bhs.lun(),
            task_tag: bhs.task_tag(),
            transfer_tag: bhs.transfer_tag(),
            exp_stat_sn: bhs.serial(EXP_STAT_SN),
            data_sn: bhs.u32(field::DATA_SN),
            buffer_offset: bhs.u32(field::BUFFER_OFFSET),
            data: raw.data,
        })
    }
}

impl From<DataOut> for RawPdu {
    fn from(pdu: DataOut) -> Self {
        let bhs = Bhs::new(Opcode::DATA_OUT)
            .with_flag(FINAL, pdu.is_final)
            .with_lun(pdu.lun)
            .with_task_tag(pdu.task_tag)
            .with_transfer_tag(pdu.transfer_tag)
            .with_serial(EXP_STAT_SN, pdu.exp_stat_sn)
            .with_u32(field::DATA_SN, pdu.data_sn)
            .with_u32(field::BUFFER_OFFSET, pdu.buffer_offset);
        Self::with_data(bhs, pdu.data)
    }
}

/// Status that rides on the last Data-In (S bit), which saves the SCSI Response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataInStatus {
    /// SCSI status: one without exception.
    pub status: ScsiStatus,
    /// Residual of the command.
    pub residual: Residual,
    /// StatSN; only a PDU with status has one.
    pub stat_sn: Serial32,
}

/// SCSI Data-In: data of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataIn {
    /// F bit: last PDU of a sequence.
    pub is_final: bool,
    /// A bit: the target wants a DataACK.
    pub acknowledge: bool,
    /// Status, when this PDU ends the command.
    pub status: Option<DataInStatus>,
    /// LUN; counts only beside a transfer tag.
    pub lun: Lun,
    /// Initiator task tag.
    pub task_tag: TaskTag,
    /// Tag for a DataACK; else reserved.
    pub transfer_tag: TransferTag,
    /// ExpCmdSN.
    pub exp_cmd_sn: Serial32,
    /// MaxCmdSN.
    pub max_cmd_sn: Serial32,
    /// Number of the PDU within the command, from 0.
    pub data_sn: u32,
    /// Where the data belongs within the command's data.
    pub buffer_offset: u32,
    /// The data.
    pub data: Payload,
}

impl DataIn {
    /// Understands a received PDU.
    pub fn parse(raw: RawPdu) -> Result<Self, ParseError> {
        let bhs = &raw.bhs;
        let flags = bhs.u8(FLAGS);
        let status = bhs.flag(field::HAS_STATUS).then(|| DataInStatus {
            status: ScsiStatus(bhs.u8(field::STATUS)),
            residual: Residual::from_wire(flags, bhs.u32(RESIDUAL_COUNT)),
            stat_sn: bhs.serial(STAT_SN),
        });
        Ok(Self {
            is_final: bhs.is_final(),
            acknowledge: bhs.flag(field::ACKNOWLEDGE),
            status,
            lun: bhs.lun(),
            task_tag: bhs.task_tag(),
            transfer_tag: bhs.transfer_tag(),
            exp_cmd_sn: bhs.serial(EXP_CMD_SN),
            max_cmd_sn: bhs.serial(MAX_CMD_SN),
            data_sn: bhs.u32(field::DATA_SN),
            buffer_offset: bhs.u32(field::BUFFER_OFFSET),
            data: raw.data,
        })
    }
}

impl From<DataIn> for RawPdu {
    fn from(pdu: DataIn) -> Self {
        let mut bhs = Bhs::new(Opcode::DATA_IN)
            .with_flag(FINAL, pdu.is_final)
            .with_flag(field::ACKNOWLEDGE, pdu.acknowledge)
            .with_lun(pdu.lun)
            .with_task_tag(pdu.task_tag)
            .with_transfer_tag(pdu.transfer_tag)
            .with_serial(EXP_CMD_SN, pdu.exp_cmd_sn)
            .with_serial(MAX_CMD_SN, pdu.max_cmd_sn)
            .with_u32(field::DATA_SN, pdu.data_sn)
            .with_u32(field::BUFFER_OFFSET, pdu.buffer_offset);
        if let Some(end) = pdu.status {
            let (flags, count) = end.residual.to_wire();
            bhs = bhs
                .with_flag(field::HAS_STATUS | flags, true)
                .with_u8(field::STATUS, end.status.0)
                .with_serial(STAT_SN, end.stat_sn)
                .with_u32(RESIDUAL_COUNT, count);
        }
        Self::with_data(bhs, pdu.data)
    }
}
