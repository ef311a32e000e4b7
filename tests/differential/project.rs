//! What of an answer's data can be compared between targets: all of a block's bytes, but of parameter data only what does not
//! name the target, its limits or its abilities.

use std::fmt::Write as _;

use twinlun_iscsi::pdu::Residual;

use crate::generate::{HOT, LU_SIZE};
use crate::side::Seen;
use crate::step::{Data, ScsiStep, hex};

/// How the data of a command is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Byte by byte.
    Blocks,
    /// By its fields; the length differs from target to target.
    Parameters,
    /// The command has no data to the initiator.
    None,
}

pub(crate) fn content(cdb: &[u8; 16]) -> Content {
    match cdb[0] {
        0x08 | 0x28 | 0x88 | 0xA8 => Content::Blocks,
        0x03 | 0x12 | 0x1A | 0x25 | 0x37 | 0x4D | 0x5A | 0x5E | 0x9E | 0xA0 | 0xA3 | 0xB7 => {
            Content::Parameters
        }
        _ => Content::None,
    }
}

/// Residual of parameter data: right when it says what is missing from what was expected.
pub(crate) fn parameter_residual(scsi: &ScsiStep, seen: &Seen) -> String {
    let expected = match scsi.data {
        Data::In(len) => len as usize,
        _ => 0,
    };
    let missing = expected.saturating_sub(seen.data.len());
    match seen.residual {
        Residual::None if missing == 0 => "right".into(),
        Residual::Underflow(count) if count as usize == missing && missing > 0 => "right".into(),
        Residual::Overflow(_) if missing == 0 => "overflow".into(),
        other => format!("{other:?} with {} of {expected} bytes", seen.data.len()),
    }
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*data.get(at..)?.first_chunk()?))
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*data.get(at..)?.first_chunk()?))
}

fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*data.get(at..)?.first_chunk()?))
}

/// The comparable fields of parameter data, those that are wholly there.
pub(crate) fn fields(cdb: &[u8; 16], seen: &Seen, generation: u32) -> Vec<(&'static str, String)> {
    let data = &seen.data;
    let mut out = Vec::new();
    let mut put = |name, value: Option<String>| out.extend(value.map(|value| (name, value)));
    match (cdb[0], cdb[1] & 0x1F) {
        (0x03, _) => {
            put("sense", data.get(..14).map(|d| format!("{:X}/{:02X}/{:02X}", d[2] & 15, d[12], d[13])));
        }
        (0x12, 0) => put("peripheral", data.first().map(|byte| format!("{byte:02x}"))),
        (0x12, _) => put("page", data.get(1).map(|byte| format!("{byte:02x}"))),
        (0x25, _) => put("capacity", Some(hex(data))),
        (0x9E, 0x10) => {
            put("capacity", data.get(..12).map(hex));
            put("provisioning", data.get(14).map(|byte| format!("{:02x}", byte & 0xC0)));
        }
        (0x9E, _) => put("first LBA", u64_at(data, 8).map(|lba| lba.to_string())),
        (0x1A, _) => modes(data, 4, &mut put),
        (0x5A, _) => modes(data, 8, &mut put),
        (0x5E, 0) => {
            put("generation", counted(data, generation));
            put("length", u32_at(data, 4).map(|len| len.to_string()));
            put(
                "keys",
                data.get(8..).filter(|keys| Some(keys.len() as u32) == u32_at(data, 4)).map(sorted_keys),
            );
        }
        (0x5E, 1) => {
            put("generation", counted(data, generation));
            put("length", u32_at(data, 4).map(|len| len.to_string()));
            put("key", u64_at(data, 8).map(|key| format!("{key:x}")));
            put("type", data.get(21).map(|byte| format!("{byte:02x}")));
        }
        (0x5E, 2) => put("types", u16_at(data, 4).map(|mask| format!("{mask:04x}"))),
        (0x5E, 3) => {
            put("generation", counted(data, generation));
            put("registrations", full_status(data));
        }
        _ => {}
    }
    out
}

fn counted(data: &[u8], from: u32) -> Option<String> {
    u32_at(data, 0).map(|now| format!("+{}", now.wrapping_sub(from)))
}

fn sorted_keys(keys: &[u8]) -> String {
    let mut keys: Vec<_> = keys.chunks_exact(8).map(hex).collect();
    keys.sort();
    keys.join(", ")
}

/// Key, holder and type of every registration (SPC-5, 6.15.5).
fn full_status(data: &[u8]) -> Option<String> {
    let len = u32_at(data, 4)? as usize;
    let mut rest = data.get(8..8 + len)?;
    let mut all = Vec::new();
    while !rest.is_empty() {
        let more = u32_at(rest, 20)? as usize;
        let flags = rest.get(12)? & 0x01;
        let kind = if flags == 0 { 0 } else { *rest.get(13)? };
        all.push(format!("{:x} {flags} {kind:02x}", u64_at(rest, 0)?));
        rest = rest.get(24 + more..)?;
    }
    all.sort();
    Some(all.join(", "))
}

/// Write protection, and of the pages that are whole what hosts change.
fn modes(data: &[u8], header: usize, put: &mut impl FnMut(&'static str, Option<String>)) {
    put("write protected", data.get(if header == 4 { 2 } else { 3 }).map(|byte| (byte >> 7).to_string()));
    let descriptor = match header {
        4 => data.get(3).map(|len| usize::from(*len)),
        _ => u16_at(data, 6).map(usize::from),
    };
    let Some(descriptor) = descriptor else { return };
    put("descriptor", data.get(header..header + descriptor).map(hex));
    let mut at = header + descriptor;
    while let Some(first) = data.get(at) {
        let (len, body) = if first & 0x40 == 0 {
            (data.get(at + 1).map(|len| usize::from(*len)), 2)
        } else {
            (u16_at(data, at + 2).map(usize::from), 4)
        };
        let Some(page) = len.and_then(|len| data.get(at..at + body + len)) else { return };
        match (first & 0x7F, page) {
            (0x08, [_, _, flags, ..]) => put("write cache", Some((flags >> 2 & 1).to_string())),
            (0x0A, [_, _, a, _, b, ..]) => put("sense format, protection", {
                let mut text = String::new();
                write!(text, "{} {}", a >> 2 & 1, b >> 3 & 1).ok().map(|()| text)
            }),
            _ => {}
        }
        at += page.len();
    }
}

/// Whether a command that writes stays within the ends of the LU whose content every sequence sets anew.
pub(crate) fn is_hot(scsi: &ScsiStep, block: u32) -> bool {
    let blocks = LU_SIZE / u64::from(block);
    let within = |lba: u64, count: u64| {
        let end = lba.saturating_add(count);
        end <= HOT || lba >= blocks - HOT
    };
    let cdb = &scsi.cdb;
    let place = match cdb[0] {
        0x0A => {
            let count = if cdb[4] == 0 { 256 } else { u64::from(cdb[4]) };
            u32_at(cdb, 0).map(|word| (u64::from(word & 0x1F_FFFF), count))
        }
        0x2A | 0x2E | 0x41 => u32_at(cdb, 2).zip(u16_at(cdb, 7)).map(|(lba, n)| (lba.into(), n.into())),
        0xAA | 0xAE => u32_at(cdb, 2).zip(u32_at(cdb, 6)).map(|(lba, n)| (lba.into(), n.into())),
        0x89 => u64_at(cdb, 2).map(|lba| (lba, cdb[13].into())),
        0x42 => None,
        _ => u64_at(cdb, 2).zip(u32_at(cdb, 10)).map(|(lba, n)| (lba, n.into())),
    };
    match (cdb[0], place) {
        // No length is the rest of the LU.
        (0x41 | 0x93, Some((lba, 0))) => lba >= blocks - HOT,
        (_, Some((lba, count))) => within(lba, count),
        (_, None) => {
            let Data::Out(list) = &scsi.data else { return true };
            let ranges = list.get(8..).unwrap_or_default().chunks_exact(16);
            ranges
                .into_iter()
                .all(|range| within(u64_at(range, 0).unwrap_or(0), u32_at(range, 8).unwrap_or(0).into()))
        }
    }
}
