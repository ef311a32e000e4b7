//! SCSI Command (RFC 7143, 11.3).

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;
use twinlun_block::Payload;

use super::bhs::field::{CMD_SN, EXP_STAT_SN, FINAL, FLAGS};
use super::{Bhs, Lun, Opcode, ParseError, RawPdu, Serial32, TaskAttribute, TaskTag};

/// ```text
///    0 |.|I| 0x01      |F|R|W|. .|ATTR | Reserved                      |
///   20 | Expected Data Transfer Length                                 |
///   24 | CmdSN                                                         |
///   28 | ExpStatSN                                                     |
///   32 / SCSI Command Descriptor Block (CDB)                           /
/// ```
mod field {
    pub(super) const READ: u8 = 0x40;
    pub(super) const WRITE: u8 = 0x20;
    pub(super) const ATTR_MASK: u8 = 0x07;
    pub(super) const EXPECTED_DATA_TRANSFER_LENGTH: usize = 20;
    pub(super) const CDB: usize = 32;
    pub(super) const CDB_LEN: usize = 16;
    /// AHS codes (11.2.2.1) and their layout: two bytes of length, one of type, one that counts as content.
    pub(super) const AHS_EXTENDED_CDB: u8 = 1;
    pub(super) const AHS_BIDIRECTIONAL_READ: u8 = 2;
    pub(super) const AHS_TYPE_MASK: u8 = 0x3f;
    pub(super) const AHS_HEAD: usize = 3;
}

/// Longest CDB that a SCSI Command can carry: SPC-4 ends at 260 bytes.
const MAX_CDB_LEN: usize = 260;

/// A command descriptor block. At least the 16 bytes of the header; longer ones come from an Extended CDB AHS (11.2.2.3).
#[derive(Clone, PartialEq, Eq)]
pub struct Cdb {
    bytes: SmallVec<[u8; 16]>,
}

impl Cdb {
    /// A CDB of up to 260 bytes, filled up with zeros to 16. `None` when it is longer.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_CDB_LEN {
            return None;
        }
        let mut padded = SmallVec::from_slice(bytes);
        padded.resize(bytes.len().max(field::CDB_LEN), 0);
        Some(Self { bytes: padded })
    }

    /// All bytes, at least 16.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<[u8; 16]> for Cdb {
    fn from(bytes: [u8; 16]) -> Self {
        Self { bytes: SmallVec::from_buf(bytes) }
    }
}

impl std::fmt::Debug for Cdb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CDB")?;
        self.bytes.iter().try_for_each(|byte| write!(f, " {byte:02x}"))
    }
}

/// SCSI Command: carries a task and maybe its first data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScsiCommand {
    /// I bit.
    pub immediate: bool,
    /// F bit: no unsolicited Data-Out follows.
    pub is_final: bool,
    /// R bit: data flows to the initiator.
    pub read: bool,
    /// W bit: data flows to the target.
    pub write: bool,
    /// Task attribute.
    pub attribute: TaskAttribute,
    /// LUN.
    pub lun: Lun,
    /// Initiator task tag.
    pub task_tag: TaskTag,
    /// Expected data transfer length in bytes (of the write, when bidirectional).
    pub expected_len: u32,
    /// CmdSN.
    pub cmd_sn: Serial32,
    /// ExpStatSN.
    pub exp_stat_sn: Serial32,
    /// The CDB.
    pub cdb: Cdb,
    /// Bidirectional Read Expected Data Transfer Length AHS (11.2.2.4).
    pub bidirectional_read_len: Option<u32>,
    /// Immediate data.
    pub data: Payload,
}

impl ScsiCommand {
    /// Understands a received PDU.
    pub fn parse(raw: RawPdu) -> Result<Self, ParseError> {
        let bhs = &raw.bhs;
        let mut command = Self {
            immediate: bhs.is_immediate(),
            is_final: bhs.is_final(),
            read: bhs.flag(field::READ),
            write: bhs.flag(field::WRITE),
            attribute: TaskAttribute(bhs.u8(FLAGS) & field::ATTR_MASK),
            lun: bhs.lun(),
            task_tag: bhs.task_tag(),
            expected_len: bhs.u32(field::EXPECTED_DATA_TRANSFER_LENGTH),
            cmd_sn: bhs.serial(CMD_SN),
            exp_stat_sn: bhs.serial(EXP_STAT_SN),
            cdb: Cdb::from(bhs.bytes::<{ field::CDB_LEN }>(field::CDB)),
            bidirectional_read_len: None,
            data: raw.data,
        };
        if !raw.ahs.is_empty() {
            command.parse_ahs(&raw.ahs)?;
        }
        Ok(command)
    }

    fn parse_ahs(&mut self, mut rest: &[u8]) -> Result<(), ParseError> {
        let mut extended = false;
        while let Some((head, behind)) = rest.split_first_chunk::<{ field::AHS_HEAD }>() {
            let len = usize::from(u16::from_be_bytes([head[0], head[1]]));
            let content = behind.get(..len).ok_or(ParseError::Ahs)?;
            match head[2] & field::AHS_TYPE_MASK {
                // The content's first byte is reserved.
                field::AHS_EXTENDED_CDB => {
                    let tail = content.get(1..).filter(|tail| !tail.is_empty()).ok_or(ParseError::Ahs)?;
                    if extended || field::CDB_LEN + tail.len() > MAX_CDB_LEN {
                        return Err(ParseError::Ahs);
                    }
                    extended = true;
                    self.cdb.bytes.extend_from_slice(tail);
                }
                field::AHS_BIDIRECTIONAL_READ => {
                    let &[_, a, b, c, d] = content else { return Err(ParseError::Ahs) };
                    if self.bidirectional_read_len.replace(u32::from_be_bytes([a, b, c, d])).is_some() {
                        return Err(ParseError::Ahs);
                    }
                }
                _ => return Err(ParseError::Ahs),
            }
            let padded = (field::AHS_HEAD + len).next_multiple_of(4);
            rest = rest.get(padded..).ok_or(ParseError::Ahs)?;
        }
        if rest.is_empty() { Ok(()) } else { Err(ParseError::Ahs) }
    }

    fn ahs(&self) -> Bytes {
        let tail = self.cdb.bytes.get(field::CDB_LEN..).unwrap_or_default();
        if tail.is_empty() && self.bidirectional_read_len.is_none() {
            return Bytes::new();
        }
        let mut ahs = BytesMut::new();
        if !tail.is_empty() {
            ahs.put_u16(tail.len() as u16 + 1);
            ahs.put_u8(field::AHS_EXTENDED_CDB);
            ahs.put_u8(0);
            ahs.put_slice(tail);
            ahs.resize(ahs.len().next_multiple_of(4), 0);
        }
        if let Some(len) = self.bidirectional_read_len {
            ahs.put_u16(5);
            ahs.put_u8(field::AHS_BIDIRECTIONAL_READ);
            ahs.put_u8(0);
            ahs.put_u32(len);
        }
        ahs.freeze()
    }
}

impl From<ScsiCommand> for RawPdu {
    fn from(pdu: ScsiCommand) -> Self {
        let mut cdb = [0; field::CDB_LEN];
        cdb.copy_from_slice(&pdu.cdb.bytes[..field::CDB_LEN]);
        let mut bhs = Bhs::new(Opcode::SCSI_COMMAND)
            .with_immediate(pdu.immediate)
            .with_u8(FLAGS, pdu.attribute.0 & field::ATTR_MASK)
            .with_flag(FINAL, pdu.is_final)
            .with_flag(field::READ, pdu.read)
            .with_flag(field::WRITE, pdu.write)
            .with_lun(pdu.lun)
            .with_task_tag(pdu.task_tag)
            .with_u32(field::EXPECTED_DATA_TRANSFER_LENGTH, pdu.expected_len)
            .with_serial(CMD_SN, pdu.cmd_sn)
            .with_serial(EXP_STAT_SN, pdu.exp_stat_sn);
        bhs.put(field::CDB, cdb);
        let ahs = pdu.ahs();
        Self { bhs, ahs, data: pdu.data }
    }
}
