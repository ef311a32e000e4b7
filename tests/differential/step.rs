//! One step of a sequence: what a host does, in a form that can be printed, shrunk and sent to any target.

use std::fmt;

use twinlun_iscsi::pdu::{TaskAttribute, TaskFunction};

/// What is wrong with a step on purpose. Rules may ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Odd {
    /// Nothing.
    No,
    /// One bit of the CDB was turned over: byte and bit.
    Bit(u8, u8),
    /// The initiator expects fewer bytes than the CDB asks for.
    Short,
    /// The initiator expects more.
    Long,
    /// A parameter list that is not as it should be.
    List,
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("as it should be"),
            Self::Bit(byte, bit) => write!(f, "byte {byte} bit {bit} turned over"),
            Self::Short => f.write_str("short transfer"),
            Self::Long => f.write_str("long transfer"),
            Self::List => f.write_str("odd list"),
        }
    }
}

/// The data of a command as its initiator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    None,
    /// That many bytes are expected.
    In(u32),
    /// These are sent.
    Out(Vec<u8>),
    /// A mode page is sent as the target has it by default, but for one bit.
    Page(Page),
}

/// A mode page with one bit chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Bytes of the mode parameter header before it.
    pub(crate) header: usize,
    pub(crate) code: u8,
    /// Byte of the page.
    pub(crate) byte: usize,
    pub(crate) mask: u8,
    pub(crate) set: bool,
}

/// A SCSI command of one of the nexuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScsiStep {
    pub(crate) nexus: usize,
    pub(crate) cdb: [u8; 16],
    pub(crate) data: Data,
    pub(crate) attribute: TaskAttribute,
    pub(crate) odd: Odd,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Scsi(ScsiStep),
    /// A task management function on the LU while nothing is under way.
    Manage {
        nexus: usize,
        function: TaskFunction,
    },
}

impl Step {
    pub(crate) fn nexus(&self) -> usize {
        match self {
            Self::Scsi(scsi) => scsi.nexus,
            Self::Manage { nexus, .. } => *nexus,
        }
    }

    pub(crate) fn odd(&self) -> Odd {
        match self {
            Self::Scsi(scsi) => scsi.odd,
            Self::Manage { .. } => Odd::No,
        }
    }

    /// The command's name as the standards spell it; rules go by it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Scsi(scsi) => format!("{}{}", name(&scsi.cdb), variant(&scsi.cdb)),
            Self::Manage { function, .. } => function.name().unwrap_or("unknown function").to_owned(),
        }
    }

    /// Whether the step, done by one side only, leaves the sides in different states.
    pub(crate) fn changes_state(&self) -> bool {
        match self {
            Self::Scsi(scsi) => !READERS.contains(&scsi.cdb[0]),
            // With nothing under way the others have nothing to do.
            Self::Manage { function, .. } => *function == TaskFunction::LOGICAL_UNIT_RESET,
        }
    }
}

/// Commands that leave nothing behind. REQUEST SENSE does: it takes a unit attention.
const READERS: [u8; 22] = [
    0x00, 0x08, 0x12, 0x1A, 0x25, 0x28, 0x2F, 0x34, 0x35, 0x37, 0x4D, 0x5A, 0x5E, 0x88, 0x8F, 0x90, 0x91,
    0x9E, 0xA0, 0xA3, 0xA8, 0xAF,
];

fn name(cdb: &[u8]) -> String {
    match twinlun_scsi::describe(cdb) {
        Some(info) => info.name.to_owned(),
        None => format!("operation {:02X}/{:02X}", cdb[0], cdb[1] & 0x1F),
    }
}

/// What of the CDB's flags decides which of a command's sides is seen.
fn variant(cdb: &[u8; 16]) -> String {
    let flags = cdb[1];
    let mut words = Vec::new();
    match cdb[0] {
        0x2E | 0x2F | 0x8E | 0x8F | 0xAE | 0xAF => {
            words.push(["", "BYTCHK", "BYTCHK 2", "BYTCHK 3"][usize::from(flags >> 1 & 3)]);
        }
        0x41 | 0x93 => {
            words.push(if flags & 8 == 0 { "" } else { "UNMAP" });
            words.push(if cdb[0] == 0x41 || flags & 1 == 0 { "" } else { "NDOB" });
        }
        0x34 | 0x35 | 0x90 | 0x91 => words.push(if flags & 2 == 0 { "" } else { "IMMED" }),
        0x1A | 0x5A => words.push(["", "changeable", "default", "saved"][usize::from(cdb[2] >> 6)]),
        _ => {}
    }
    let nothing = match cdb[0] {
        0x28 | 0x2A | 0x2E | 0x2F | 0x34 | 0x35 | 0x41 => cdb[7..9] == [0; 2],
        0x89 => cdb[13] == 0,
        0x88 | 0x8A..=0x93 => cdb[10..14] == [0; 4],
        0xA8..=0xAF => cdb[6..10] == [0; 4],
        _ => false,
    };
    words.push(if nothing { "no blocks" } else { "" });
    words.iter().filter(|word| !word.is_empty()).map(|word| format!(" {word}")).collect()
}

/// Length of a CDB by its group code (SPC-5, 4.2.5.1).
pub(crate) fn cdb_len(opcode: u8) -> usize {
    match opcode >> 5 {
        0 => 6,
        1 | 2 => 10,
        5 => 12,
        _ => 16,
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = char::from(b'A' + self.nexus() as u8);
        write!(f, "{host} {}", self.name())?;
        let Self::Scsi(scsi) = self else { return Ok(()) };
        write!(f, "\n      CDB {}", hex(&scsi.cdb[..cdb_len(scsi.cdb[0])]))?;
        match &scsi.data {
            Data::None => {}
            Data::In(len) => write!(f, ", expects {len} bytes")?,
            Data::Page(page) => write!(
                f,
                ", sends its default page {:02x} with byte {} bit {:02x} {}",
                page.code,
                page.byte,
                page.mask,
                if page.set { "set" } else { "clear" }
            )?,
            Data::Out(bytes) if bytes.len() <= 96 => write!(f, ", sends {}", hex(bytes))?,
            Data::Out(bytes) => write!(f, ", sends {} bytes, first {}", bytes.len(), hex(&bytes[..16]))?,
        }
        if scsi.attribute != TaskAttribute::SIMPLE {
            write!(f, ", {}", scsi.attribute.name().unwrap_or("attribute"))?;
        }
        if scsi.odd != Odd::No {
            write!(f, " ({})", scsi.odd)?;
        }
        Ok(())
    }
}

/// Bytes as pairs of hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}
