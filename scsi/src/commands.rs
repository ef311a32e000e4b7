//! The command table: one row per command. Dispatch, the check of reserved bits, the check of the LBA range, reservation conflicts,
//! ALUA, unit attentions, write protection and REPORT SUPPORTED OPERATION CODES all read it, so a command cannot be in one and
//! missing from another.
//!
//! What a row leaves unsaid is the safe case: conflicts with every reservation of another nexus, runs only where hosts are
//! served, reports unit attentions.

pub use crate::row::Data;
pub(crate) use crate::row::{Access, Attention, Conflict, Row, Span};
pub(crate) use crate::row::{Handler, Server};
use crate::row::{row, served};
use crate::wire::Fields;
use crate::{
    buffer, copy, format, identify, inquiry, lba_status, log, media, medium, mode, pr_in, pr_out, report,
    sanitize,
};

/// What the table says of a command to whoever logs, counts or times it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandInfo {
    /// Name as the standards spell it.
    pub name: &'static str,
    /// Direction of its data.
    pub data: Data,
    /// Whether it changes data on the medium.
    pub writes: bool,
}

/// The command of a CDB, `None` when the table has none.
pub fn describe(cdb: &[u8]) -> Option<CommandInfo> {
    lookup(cdb, true).ok().map(|row| CommandInfo { name: row.name, data: row.data, writes: row.writes })
}

/// POPULATE TOKEN: the point in time that a token stands for is between two tasks.
pub(crate) fn populates(cdb: &[u8]) -> bool {
    cdb.u8_at(0) == 0x83 && cdb.u8_at(1) & 0x1F == 0x10
}

const TEN_RW: &[u8; 8] = &[0xFF, 0xFF, 0xFF, 0xFF, 0x3F, 0xFF, 0xFF, 0x04];
const TWELVE_RW: &[u8; 10] = &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x3F, 0x04];
const SIXTEEN_RW: &[u8; 14] =
    &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x3F, 0x04];

/// Opcode and flags before the common rest of a block command.
const fn usage<const REST: usize, const ALL: usize>(opcode: u8, flags: u8, rest: &[u8; REST]) -> [u8; ALL] {
    let mut out = [0; ALL];
    out[0] = opcode;
    out[1] = flags;
    let mut at = 0;
    while at < REST {
        out[at + 2] = rest[at];
        at += 1;
    }
    out
}

const fn ten(opcode: u8, flags: u8) -> [u8; 10] {
    usage(opcode, flags, TEN_RW)
}

const fn twelve(opcode: u8, flags: u8) -> [u8; 12] {
    usage(opcode, flags, TWELVE_RW)
}

const fn sixteen(opcode: u8, flags: u8) -> [u8; 16] {
    usage(opcode, flags, SIXTEEN_RW)
}

/// DPO, FUA and the obsolete FUA_NV, which some hosts still set.
const DPO_FUA: u8 = 0x1A;
/// DPO and BYTCHK.
const DPO_BYTCHK: u8 = 0x16;

/// All commands, by opcode and service action.
pub(crate) static TABLE: &[Row] = &[
    row(0x00, "TEST UNIT READY", &[0x00, 0, 0, 0, 0, 4], Data::None, media::test_unit_ready)
        .conflict(Conflict::PersistentOnly)
        .medium(),
    row(0x03, "REQUEST SENSE", &[0x03, 1, 0, 0, 0xFF, 4], Data::In, report::request_sense)
        .conflict(Conflict::Free)
        .access(Access::Any)
        .leaves_attention(),
    row(0x04, "FORMAT UNIT", &[0x04, 0x3F, 0, 0, 0, 4], Data::Out, format::format_unit).writes(Span::None),
    row(0x08, "READ(6)", &[0x08, 0x1F, 0xFF, 0xFF, 0xFF, 4], Data::In, media::read).reads(Span::Six),
    row(0x0A, "WRITE(6)", &[0x0A, 0x1F, 0xFF, 0xFF, 0xFF, 4], Data::Out, media::write).writes(Span::Six),
    row(0x12, "INQUIRY", &[0x12, 1, 0xFF, 0xFF, 0xFF, 4], Data::In, inquiry::inquiry)
        .conflict(Conflict::Free)
        .access(Access::Any)
        .leaves_attention(),
    row(0x15, "MODE SELECT(6)", &[0x15, 0x11, 0, 0, 0xFF, 4], Data::Out, mode::select)
        .access(Access::Standby),
    row(0x16, "RESERVE(6)", &[0x16, 0, 0, 0, 0, 4], Data::None, pr_out::reserve_legacy)
        .conflict(Conflict::Legacy),
    row(0x17, "RELEASE(6)", &[0x17, 0, 0, 0, 0, 4], Data::None, pr_out::release_legacy)
        .conflict(Conflict::Legacy),
    row(0x1A, "MODE SENSE(6)", &[0x1A, 0x08, 0xFF, 0xFF, 0xFF, 4], Data::In, mode::sense)
        .conflict(Conflict::Reader)
        .access(Access::Standby),
    row(0x1B, "START STOP UNIT", &[0x1B, 1, 0, 0x0F, 0xF7, 4], Data::None, medium::start_stop_unit)
        .conflict(Conflict::WriterUnless(0xF1, 0x01)),
    row(
        0x1C,
        "RECEIVE DIAGNOSTIC RESULTS",
        &[0x1C, 1, 0xFF, 0xFF, 0xFF, 4],
        Data::In,
        identify::receive_diagnostic,
    )
    .access(Access::Standby),
    row(0x1D, "SEND DIAGNOSTIC", &[0x1D, 0xF7, 0, 0xFF, 0xFF, 4], Data::Out, identify::send_diagnostic)
        .medium(),
    row(0x1E, "PREVENT ALLOW MEDIUM REMOVAL", &[0x1E, 0, 0, 0, 3, 4], Data::None, medium::prevent_allow)
        .conflict(Conflict::WriterUnless(0x03, 0x00)),
    row(0x25, "READ CAPACITY(10)", &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 4], Data::In, media::read_capacity_10)
        .conflict(Conflict::Free)
        .medium(),
    row(0x28, "READ(10)", &ten(0x28, DPO_FUA), Data::In, media::read).reads(Span::Ten),
    row(0x2A, "WRITE(10)", &ten(0x2A, DPO_FUA), Data::Out, media::write).writes(Span::Ten),
    row(0x2E, "WRITE AND VERIFY(10)", &ten(0x2E, DPO_BYTCHK), Data::Out, media::write_and_verify)
        .writes(Span::Ten),
    row(0x2F, "VERIFY(10)", &ten(0x2F, DPO_BYTCHK), Data::Out, media::verify).reads(Span::Ten),
    row(0x34, "PRE-FETCH(10)", &ten(0x34, 0x02), Data::None, media::pre_fetch).reads(Span::Ten),
    row(0x35, "SYNCHRONIZE CACHE(10)", &ten(0x35, 0x06), Data::None, media::synchronize_cache)
        .span(Span::Ten),
    row(
        0x37,
        "READ DEFECT DATA(10)",
        &[0x37, 0, 0x1F, 0, 0, 0, 0, 0xFF, 0xFF, 4],
        Data::In,
        report::read_defect_data_10,
    )
    .conflict(Conflict::Reader)
    .medium(),
    row(0x3B, "WRITE BUFFER", BUFFER_USAGE_OUT, Data::Out, buffer::write_buffer).access(Access::Standby),
    row(0x3C, "READ BUFFER(10)", BUFFER_USAGE_IN, Data::In, buffer::read_buffer)
        .conflict(Conflict::Reader)
        .access(Access::Standby),
    row(0x41, "WRITE SAME(10)", &ten(0x41, 0x08), Data::Out, media::write_same).writes(Span::Ten),
    row(0x42, "UNMAP", &[0x42, 0, 0, 0, 0, 0, 0x3F, 0xFF, 0xFF, 4], Data::Out, media::unmap)
        .writes(Span::None)
        .thin(),
    row(
        0x48,
        "SANITIZE: OVERWRITE",
        &[0x48, 0xA0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 4],
        Data::Out,
        sanitize::overwrite,
    )
    .action(0x01)
    .writes(Span::None),
    row(
        0x48,
        "SANITIZE: BLOCK ERASE",
        &[0x48, 0xA0, 0, 0, 0, 0, 0, 0, 0, 4],
        Data::None,
        sanitize::block_erase,
    )
    .action(0x02)
    .writes(Span::None)
    .thin(),
    row(
        0x48,
        "SANITIZE: EXIT FAILURE MODE",
        &[0x48, 0, 0, 0, 0, 0, 0, 0, 0, 4],
        Data::None,
        sanitize::exit_failure_mode,
    )
    .action(0x1F)
    .medium(),
    row(0x4C, "LOG SELECT", &[0x4C, 0x03, 0xFF, 0xFF, 0, 0, 0, 0xFF, 0xFF, 4], Data::Out, log::select)
        .access(Access::Standby),
    row(0x4D, "LOG SENSE", &[0x4D, 0, 0xFF, 0xFF, 0, 0xFF, 0xFF, 0xFF, 0xFF, 4], Data::In, log::sense)
        .conflict(Conflict::Free)
        .access(Access::Standby),
    row(0x55, "MODE SELECT(10)", &[0x55, 0x11, 0, 0, 0, 0, 0, 0xFF, 0xFF, 4], Data::Out, mode::select)
        .access(Access::Standby),
    row(0x56, "RESERVE(10)", &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 4], Data::None, pr_out::reserve_legacy)
        .conflict(Conflict::Legacy),
    row(0x57, "RELEASE(10)", &[0x57, 0, 0, 0, 0, 0, 0, 0, 0, 4], Data::None, pr_out::release_legacy)
        .conflict(Conflict::Legacy),
    row(0x5A, "MODE SENSE(10)", &[0x5A, 0x18, 0xFF, 0xFF, 0, 0, 0, 0xFF, 0xFF, 4], Data::In, mode::sense)
        .conflict(Conflict::Reader)
        .access(Access::Standby),
    persistent_in(0x00, "PERSISTENT RESERVE IN: READ KEYS", pr_in::read_keys),
    persistent_in(0x01, "PERSISTENT RESERVE IN: READ RESERVATION", pr_in::read_reservation),
    persistent_in(0x02, "PERSISTENT RESERVE IN: REPORT CAPABILITIES", pr_in::report_capabilities),
    persistent_in(0x03, "PERSISTENT RESERVE IN: READ FULL STATUS", pr_in::read_full_status),
    persistent_out(0x00, "PERSISTENT RESERVE OUT: REGISTER", pr_out::register),
    persistent_out(0x01, "PERSISTENT RESERVE OUT: RESERVE", pr_out::reserve),
    persistent_out(0x02, "PERSISTENT RESERVE OUT: RELEASE", pr_out::release),
    persistent_out(0x03, "PERSISTENT RESERVE OUT: CLEAR", pr_out::clear),
    persistent_out(0x04, "PERSISTENT RESERVE OUT: PREEMPT", pr_out::preempt),
    persistent_out(0x05, "PERSISTENT RESERVE OUT: PREEMPT AND ABORT", pr_out::preempt_and_abort),
    persistent_out(
        0x06,
        "PERSISTENT RESERVE OUT: REGISTER AND IGNORE EXISTING KEY",
        pr_out::register_and_ignore,
    ),
    persistent_out(0x07, "PERSISTENT RESERVE OUT: REGISTER AND MOVE", pr_out::register_and_move),
    copy_out(
        0x00,
        "EXTENDED COPY(LID1)",
        &[0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 4],
        copy::lid1,
    ),
    copy_out(
        0x01,
        "EXTENDED COPY(LID4)",
        &[0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 4],
        copy::lid4,
    ),
    copy_out(0x10, "POPULATE TOKEN", TOKEN_USAGE, copy::populate_token).reads(Span::None),
    copy_out(0x11, "WRITE USING TOKEN", TOKEN_USAGE, copy::write_using_token).writes(Span::None),
    copy_out(
        0x1C,
        "COPY OPERATION ABORT",
        &[0x83, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4],
        copy::abort,
    ),
    copy_in(0x00, "RECEIVE COPY STATUS(LID1)", LID1_USAGE, copy::status_lid1),
    copy_in(0x01, "RECEIVE COPY DATA(LID1)", LID1_USAGE, copy::data_lid1),
    copy_in(0x03, "RECEIVE COPY OPERATING PARAMETERS", NO_LIST_USAGE, copy::operating_parameters),
    copy_in(0x04, "RECEIVE COPY FAILURE DETAILS(LID1)", LID1_USAGE, copy::failure_details_lid1),
    copy_in(0x05, "RECEIVE COPY STATUS(LID4)", LID4_USAGE, copy::status_lid4),
    copy_in(0x07, "RECEIVE ROD TOKEN INFORMATION", LID4_USAGE, copy::token_information),
    copy_in(0x08, "REPORT ALL ROD TOKENS", NO_LIST_USAGE, copy::report_all_tokens),
    row(0x88, "READ(16)", &sixteen(0x88, DPO_FUA), Data::In, media::read).reads(Span::Sixteen),
    row(
        0x89,
        "COMPARE AND WRITE",
        &[0x89, DPO_FUA, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0xFF, 0x3F, 4],
        Data::Out,
        media::compare_and_write,
    )
    .writes(Span::CompareAndWrite),
    row(0x8A, "WRITE(16)", &sixteen(0x8A, DPO_FUA), Data::Out, media::write).writes(Span::Sixteen),
    row(0x8B, "ORWRITE", &sixteen(0x8B, DPO_FUA), Data::Out, media::or_write).writes(Span::Sixteen),
    row(0x8E, "WRITE AND VERIFY(16)", &sixteen(0x8E, DPO_BYTCHK), Data::Out, media::write_and_verify)
        .writes(Span::Sixteen),
    row(0x8F, "VERIFY(16)", &sixteen(0x8F, DPO_BYTCHK), Data::Out, media::verify).reads(Span::Sixteen),
    row(0x90, "PRE-FETCH(16)", &sixteen(0x90, 0x02), Data::None, media::pre_fetch).reads(Span::Sixteen),
    row(0x91, "SYNCHRONIZE CACHE(16)", &sixteen(0x91, 0x06), Data::None, media::synchronize_cache)
        .span(Span::Sixteen),
    row(0x93, "WRITE SAME(16)", &sixteen(0x93, 0x09), Data::Out, media::write_same).writes(Span::Sixteen),
    row(
        0x9C,
        "WRITE ATOMIC(16)",
        &[0x9C, 0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0xFF, 0xFF, 0x3F, 4],
        Data::Out,
        media::write_atomic,
    )
    .writes(Span::Atomic),
    row(
        0x9E,
        "READ CAPACITY(16)",
        &[0x9E, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 4],
        Data::In,
        media::read_capacity_16,
    )
    .action(0x10)
    .conflict(Conflict::Free)
    .medium(),
    row(
        0x9E,
        "GET LBA STATUS",
        &[0x9E, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 4],
        Data::In,
        lba_status::get_lba_status,
    )
    .action(0x12)
    .reads(Span::Lba),
    row(
        0xA0,
        "REPORT LUNS",
        &[0xA0, 0, 0xFF, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 4],
        Data::In,
        report::report_luns,
    )
    .conflict(Conflict::Free)
    .access(Access::Any)
    .leaves_attention(),
    row(
        0xA3,
        "REPORT IDENTIFYING INFORMATION",
        &[0xA3, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE, 4],
        Data::In,
        identify::report_information,
    )
    .action(0x05)
    .conflict(Conflict::Free)
    .access(Access::Standby),
    row(
        0xA3,
        "REPORT TARGET PORT GROUPS",
        &[0xA3, 0xE0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 4],
        Data::In,
        report::target_port_groups,
    )
    .action(0x0A)
    .conflict(Conflict::Free)
    .access(Access::Any),
    row(
        0xA3,
        "REPORT SUPPORTED OPERATION CODES",
        &[0xA3, 0, 0x87, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 4],
        Data::In,
        report::supported_operation_codes,
    )
    .action(0x0C)
    .conflict(Conflict::Free)
    .access(Access::Standby),
    row(
        0xA3,
        "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
        &[0xA3, 0, 0x80, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 4],
        Data::In,
        report::supported_task_management,
    )
    .action(0x0D)
    .conflict(Conflict::Free)
    .access(Access::Standby),
    row(
        0xA3,
        "REPORT TIMESTAMP",
        &[0xA3, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 4],
        Data::In,
        identify::report_timestamp,
    )
    .action(0x0F)
    .conflict(Conflict::Free)
    .access(Access::Standby),
    row(
        0xA4,
        "SET IDENTIFYING INFORMATION",
        &[0xA4, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE, 4],
        Data::Out,
        identify::set_information,
    )
    .action(0x06)
    .access(Access::Standby),
    row(
        0xA4,
        "SET TIMESTAMP",
        &[0xA4, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 4],
        Data::Out,
        identify::set_timestamp,
    )
    .action(0x0F)
    .access(Access::Standby),
    row(0xA8, "READ(12)", &twelve(0xA8, DPO_FUA), Data::In, media::read).reads(Span::Twelve),
    row(0xAA, "WRITE(12)", &twelve(0xAA, DPO_FUA), Data::Out, media::write).writes(Span::Twelve),
    row(0xAE, "WRITE AND VERIFY(12)", &twelve(0xAE, DPO_BYTCHK), Data::Out, media::write_and_verify)
        .writes(Span::Twelve),
    row(0xAF, "VERIFY(12)", &twelve(0xAF, DPO_BYTCHK), Data::Out, media::verify).reads(Span::Twelve),
    row(
        0xB7,
        "READ DEFECT DATA(12)",
        &[0xB7, 0x1F, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 4],
        Data::In,
        report::read_defect_data_12,
    )
    .conflict(Conflict::Reader)
    .medium(),
];

const fn persistent_in(action: u8, name: &'static str, run: Handler) -> Row {
    row(0x5E, name, &[0x5E, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 4], Data::In, run)
        .action(action)
        .conflict(Conflict::PersistentIn)
        .access(Access::Standby)
}

const fn persistent_out(action: u8, name: &'static str, run: Handler) -> Row {
    row(0x5F, name, &[0x5F, 0, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 4], Data::Out, run)
        .action(action)
        .conflict(Conflict::PersistentOut)
        .access(Access::Standby)
}

/// Mode, buffer, offset and length.
const BUFFER_USAGE_OUT: &[u8] = &[0x3B, 0x1F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 4];
const BUFFER_USAGE_IN: &[u8] = &[0x3C, 0x1F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 4];
/// List identifier and parameter list length.
const TOKEN_USAGE: &[u8] = &[0x83, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x3F, 4];
/// List identifier, if any, and allocation length.
const LID1_USAGE: &[u8] = &[0x84, 0, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 4];
const LID4_USAGE: &[u8] = &[0x84, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 4];
const NO_LIST_USAGE: &[u8] = &[0x84, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 4];

/// THIRD-PARTY COPY OUT. Reservations, access and write protection of the copy sources and destinations are the copy manager's to check.
const fn copy_out(action: u8, name: &'static str, usage: &'static [u8], run: copy::Handler) -> Row {
    let data = if action == 0x1C { Data::None } else { Data::Out };
    served(0x83, name, usage, data, Server::Copy(run)).action(action)
}

/// THIRD-PARTY COPY IN.
const fn copy_in(action: u8, name: &'static str, usage: &'static [u8], run: copy::Handler) -> Row {
    served(0x84, name, usage, Data::In, Server::Copy(run)).action(action).conflict(Conflict::Reader)
}

/// First row and number of rows of each opcode.
static INDEX: [(u8, u8); 256] = {
    let mut index = [(0, 0); 256];
    let mut at = 0;
    while at < TABLE.len() {
        let slot = &mut index[TABLE[at].opcode as usize];
        if slot.1 == 0 {
            slot.0 = at as u8;
        }
        slot.1 += 1;
        at += 1;
    }
    index
};

/// All rows of an opcode: several when it has service actions.
pub(crate) fn rows(opcode: u8) -> &'static [Row] {
    let (first, count) = INDEX[usize::from(opcode)];
    &TABLE[usize::from(first)..usize::from(first) + usize::from(count)]
}

/// Why a CDB has no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    Opcode,
    ServiceAction,
}

/// The row of a CDB on a LU that is thin or not.
pub(crate) fn lookup(cdb: &[u8], thin: bool) -> Result<&'static Row, Unknown> {
    match rows(cdb.u8_at(0)) {
        [] => Err(Unknown::Opcode),
        [row] if row.thin && !thin => Err(Unknown::Opcode),
        [row] if row.action.is_none() => Ok(row),
        rows => {
            let wanted = |row: &&Row| row.action == Some(cdb.u8_at(1) & 0x1F) && (thin || !row.thin);
            rows.iter().find(wanted).ok_or(Unknown::ServiceAction)
        }
    }
}
