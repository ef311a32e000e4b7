//! LOG SENSE (SPC-5, 6.9, 7.3; SBC-4, 6.4).

use crate::attention::UnitAttention;
use crate::context::{Context, Run};
use crate::inquiry::threshold_exponent;
use crate::lu::Work;
use crate::sense::Sense;
use crate::wire::{Fields, Put};

/// Pages and subpages, ascending.
const ALL: [(u8, u8); 6] =
    [(0x00, 0x00), (0x00, 0xFF), (0x0C, 0x00), (0x0C, 0xFF), (0x19, 0x00), (0x2F, 0x00)];

pub(crate) fn sense(c: &mut Context<'_>) -> Run {
    let (code, subpage) = (c.cdb.u8_at(2) & 0x3F, c.cdb.u8_at(3));
    // Threshold and default values are not kept: cumulative ones only, and every page control returns them.
    let first = c.cdb.u16_at(5);
    let mut out = vec![code | if subpage == 0 { 0 } else { 0x40 }, subpage, 0, 0];
    match (code, subpage) {
        (0x00, 0x00) => out.extend(ALL.iter().filter(|(_, sub)| *sub == 0).map(|(code, _)| *code)),
        (0x00, 0xFF) => out.extend(ALL.iter().flat_map(|(code, sub)| [*code, *sub])),
        (0x0C, 0xFF) => out.extend([0x0C, 0x00, 0x0C, 0xFF]),
        (0x0C, 0x00) => {
            out[0] |= 0x80; // DS: not saved
            provisioning(c, first, &mut out);
        }
        (0x19, 0x00) if first <= 1 => {
            out[0] |= 0x80;
            statistics(c, &mut out);
        }
        (0x19, 0x00) => return Err(Sense::cdb_field(5, None).into()),
        (0x2F, 0x00) if first == 0 => {
            out[0] |= 0x80;
            // No informational exception; temperature not known.
            out.extend([0x00, 0x00, 0x03, 0x04, 0x00, 0x00, 0xFF, 0x00]);
        }
        (0x2F, 0x00) => return Err(Sense::cdb_field(5, None).into()),
        (known, _) if ALL.iter().any(|(code, _)| *code == known) => {
            return Err(Sense::cdb_field(3, Some(7)).into());
        }
        _ => return Err(Sense::cdb_field(2, Some(5)).into()),
    }
    let len = out.len() - 4;
    out.set16(2, len);
    Context::data(out, c.length16(7))
}

/// General statistics and performance: commands and blocks. Times are not kept, and are zero.
fn statistics(c: &Context<'_>, out: &mut Vec<u8>) {
    let work = c.lu.work;
    out.put16(0x0001);
    out.put8(0x03); // binary list
    out.put8(0x40);
    for count in [work.reads, work.writes, work.blocks_out, work.blocks_in, 0, 0, 0, 0] {
        out.put64(count);
    }
}

/// LOG SELECT: PCR starts the statistics over. There is nothing else to set, and nothing to save.
pub(crate) fn select(c: &mut Context<'_>) -> Run {
    let (reset, save) = (c.cdb.bit_at(1, 1), c.cdb.bit_at(1, 0));
    if save {
        return Err(Sense::cdb_field(1, Some(0)).into());
    }
    if c.length16(7) != 0 {
        return Err(Sense::cdb_field(7, None).into());
    }
    if reset {
        c.lu.work = Work::default();
        let me = c.nexus_id;
        c.lu.establish(UnitAttention::LogParametersChanged, |id| id != me);
    }
    Context::good()
}

/// Available and used LBA mapping resources, in units of the threshold set size.
fn provisioning(c: &Context<'_>, first: u16, out: &mut Vec<u8>) {
    let Some(space) = c.lu.space.filter(|_| c.lu.thin) else { return };
    let shift = u32::from(threshold_exponent(&c.lu.geometry)) + c.lu.geometry.block_size.shift();
    for (parameter, bytes) in [(0x0001, space.available), (0x0002, space.used)] {
        if parameter >= first {
            out.put16(parameter);
            out.put8(0x03); // binary list
            out.put8(0x08);
            out.put32(u32::try_from(bytes >> shift).unwrap_or(u32::MAX));
            out.put8(if parameter == 1 { 0x02 } else { 0x01 }); // shared with other LUs; this LU's own
            out.zeros(3);
        }
    }
}
