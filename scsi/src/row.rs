//! One row of the command table: its columns and what they mean. The rows themselves: `commands`.

use crate::context::{Context, Run};
use crate::wire::Fields;

/// Which blocks a CDB names, and how (SBC-4, 4.4). The range is checked before the handler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    None,
    /// 21-bit LBA; length 0 is 256 blocks.
    Six,
    Ten,
    Twelve,
    Sixteen,
    /// 64-bit LBA and one byte of length.
    CompareAndWrite,
    /// 64-bit LBA and two bytes of length at the end.
    Atomic,
    /// 64-bit LBA that must exist.
    Lba,
}

impl Span {
    /// First LBA and number of blocks.
    pub(crate) fn of(self, cdb: &[u8]) -> Option<(u64, u64)> {
        let (lba, blocks) = match self {
            Self::None => return None,
            Self::Six => match cdb.u8_at(4) {
                0 => (u64::from(cdb.u24_at(1) & 0x1F_FFFF), 256),
                n => (u64::from(cdb.u24_at(1) & 0x1F_FFFF), u64::from(n)),
            },
            Self::Ten => (u64::from(cdb.u32_at(2)), u64::from(cdb.u16_at(7))),
            Self::Twelve => (u64::from(cdb.u32_at(2)), u64::from(cdb.u32_at(6))),
            Self::Sixteen => (cdb.u64_at(2), u64::from(cdb.u32_at(10))),
            Self::CompareAndWrite => (cdb.u64_at(2), u64::from(cdb.u8_at(13))),
            Self::Atomic => (cdb.u64_at(2), u64::from(cdb.u16_at(12))),
            Self::Lba => (cdb.u64_at(2), 1),
        };
        Some((lba, blocks))
    }

    /// Byte of the CDB where the length begins: what INVALID FIELD IN CDB points at when it is too large.
    pub(crate) fn length_byte(self) -> u16 {
        match self {
            Self::None | Self::Six => 4,
            Self::Ten => 7,
            Self::Twelve => 6,
            Self::Atomic => 12,
            Self::Sixteen | Self::Lba => 10,
            Self::CompareAndWrite => 13,
        }
    }
}

/// When a reservation of another I_T nexus lets a command through (SPC-4, table 66; SBC-4, table 13; SPC-2, table 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// Never without being holder or, for the registrants types, registered. Everything that writes.
    Writer,
    /// A writer, unless the masked bits of byte 4 have this value.
    WriterUnless(u8, u8),
    /// Passes the Write Exclusive types.
    Reader,
    /// Passes persistent reservations, not RESERVE of another nexus (SPC-2).
    PersistentOnly,
    /// PERSISTENT RESERVE IN: passes persistent reservations, but no RESERVE of SPC-2, not even one's own (SPC-2, 5.5.1).
    PersistentIn,
    /// Always passes.
    Free,
    /// PERSISTENT RESERVE OUT: its service actions decide, after RESERVE of SPC-2 has: not even one's own lets it pass.
    PersistentOut,
    /// RESERVE and RELEASE of SPC-2: their handlers decide (CRH).
    Legacy,
}

/// Asymmetric access states in which a command runs (SPC-5, 5.18.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    /// In all states.
    Any,
    /// In the active states and standby.
    Standby,
    /// In the active states.
    Active,
}

/// What a pending unit attention does (SAM-5, 5.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attention {
    /// It is reported instead of running the command.
    Report,
    /// The command runs and leaves it pending.
    Leave,
}

/// Direction of a command's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// It has none.
    None,
    /// To the initiator.
    In,
    /// From the initiator.
    Out,
}

pub(crate) type Handler = for<'a> fn(&mut Context<'a>) -> Run;

/// What serves a command.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Server {
    /// The LU alone.
    Lu(Handler),
    /// The copy manager, which reaches several LUs.
    Copy(crate::copy::Handler),
}

/// One command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) opcode: u8,
    /// Service action, in the low five bits of byte 1.
    pub(crate) action: Option<u8>,
    pub(crate) name: &'static str,
    /// CDB usage data (SPC-5, 6.29.3): a set bit may be set. Its length is the CDB's; the service action is left out.
    pub(crate) usage: &'static [u8],
    pub(crate) data: Data,
    pub(crate) span: Span,
    /// Changes data on the medium: refused when the LU is write protected.
    pub(crate) writes: bool,
    pub(crate) conflict: Conflict,
    pub(crate) access: Access,
    pub(crate) attention: Attention,
    /// Exists on thin LUs only.
    pub(crate) thin: bool,
    /// Needs the medium of a removable LU to be there.
    pub(crate) medium: bool,
    pub(crate) run: Server,
}

pub(crate) const fn row(
    opcode: u8,
    name: &'static str,
    usage: &'static [u8],
    data: Data,
    run: Handler,
) -> Row {
    served(opcode, name, usage, data, Server::Lu(run))
}

/// A row with nothing said but who serves it.
pub(crate) const fn served(
    opcode: u8,
    name: &'static str,
    usage: &'static [u8],
    data: Data,
    run: Server,
) -> Row {
    Row {
        opcode,
        action: None,
        name,
        usage,
        data,
        span: Span::None,
        writes: false,
        conflict: Conflict::Writer,
        access: Access::Active,
        attention: Attention::Report,
        thin: false,
        medium: false,
        run,
    }
}

impl Row {
    pub(crate) const fn action(mut self, action: u8) -> Self {
        self.action = Some(action);
        self
    }

    pub(crate) const fn span(mut self, span: Span) -> Self {
        self.span = span;
        self.medium = true;
        self
    }

    /// Changes the medium.
    pub(crate) const fn writes(mut self, span: Span) -> Self {
        self.span = span;
        self.medium = true;
        self.writes = true;
        self
    }

    /// Reads the medium.
    pub(crate) const fn reads(mut self, span: Span) -> Self {
        self.span = span;
        self.medium = true;
        self.conflict = Conflict::Reader;
        self
    }

    pub(crate) const fn conflict(mut self, conflict: Conflict) -> Self {
        self.conflict = conflict;
        self
    }

    pub(crate) const fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    pub(crate) const fn leaves_attention(mut self) -> Self {
        self.attention = Attention::Leave;
        self
    }

    /// Needs the medium, without naming blocks of it.
    pub(crate) const fn medium(mut self) -> Self {
        self.medium = true;
        self
    }

    pub(crate) const fn thin(mut self) -> Self {
        self.thin = true;
        self
    }

    /// The first bit of a CDB that must not be set: byte and bit.
    pub(crate) fn reserved_bit(&self, cdb: &[u8]) -> Option<(u16, u8)> {
        self.usage.iter().zip(cdb).enumerate().skip(1).find_map(|(index, (usage, byte))| {
            let allowed = if index == 1 && self.action.is_some() { usage | 0x1F } else { *usage };
            let wrong = byte & !allowed;
            (wrong != 0).then(|| (index as u16, 7 - wrong.leading_zeros() as u8))
        })
    }
}
