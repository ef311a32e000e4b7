//! FORMAT UNIT (SBC-4, 5.4): every block holds zeros or the initialization pattern afterwards. Block size and capacity are the array's, so nothing
//! else can change; there is no protection information, and defects are below the array. What comes of it: [`crate::operation`].

use bytes::Bytes;

use crate::context::{Context, Fault, Run};
use crate::operation::{self, Method, Operation};
use crate::sense::{Asc, Sense};
use crate::wire::Fields;

/// Bits of byte 1 of the CDB.
const FMTDATA: u8 = 4;
const LONGLIST: u8 = 5;
/// CMPLST and DEFECT LIST FORMAT: how to read a defect list. Without parameters there is none.
const ABOUT_DEFECTS: u8 = 0x0F;

/// Bits of byte 1 of the parameter list header.
const FOV: u8 = 7;
const IP: u8 = 3;
const IMMED: u8 = 1;
/// FOV, DPRY, DCRT, STPF, IP, IMMED.
const KNOWN: u8 = 0xFA;
/// What counts only with FOV: DPRY, DCRT, STPF, IP.
const OPTIONS: u8 = 0x78;

/// Header of the initialization pattern descriptor.
const DESCRIPTOR: usize = 4;

pub(crate) fn format_unit(c: &mut Context<'_>) -> Run {
    if !c.cdb.bit_at(1, FMTDATA) {
        // Without parameters nothing says how long a list is, or how a defect list would read.
        if c.cdb.u8_at(1) & ABOUT_DEFECTS != 0 {
            return Err(Sense::cdb_field(1, Some(3)).into());
        }
        if c.cdb.bit_at(1, LONGLIST) {
            return Err(Sense::cdb_field(1, Some(LONGLIST)).into());
        }
        return begin(c, None, true);
    }
    let header = if c.cdb.bit_at(1, LONGLIST) { 8 } else { 4 };
    let block = c.lu.geometry.block_size.bytes() as usize;
    // The CDB says no length: the list does, as far as it is there.
    c.data_out.truncate(header + DESCRIPTOR + block);
    let list = std::mem::take(&mut c.data_out).to_bytes();
    c.wanted = header as u64;
    if list.len() < header {
        return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    check_header(&list, header)?;
    let mut pattern = None;
    if list.bit_at(1, IP) {
        let (read, used) = initialization_pattern(&list, header, block)?;
        c.wanted += used as u64;
        pattern = read;
    }
    begin(c, pattern, !list.bit_at(1, IMMED))
}

fn begin(c: &mut Context<'_>, pattern: Option<Bytes>, waits: bool) -> Run {
    operation::begin(c, Operation::new(Method::Format { pattern }, true), waits)
}

fn check_header(list: &[u8], header: usize) -> Result<(), Fault> {
    // PROTECTION FIELD USAGE; the long header has P_I_INFORMATION and PROTECTION INTERVAL EXPONENT as well.
    if list.u8_at(0) != 0 {
        return Err(Sense::parameter(0).into());
    }
    let flags = list.u8_at(1);
    if flags & !KNOWN != 0 || flags & OPTIONS != 0 && !list.bit_at(1, FOV) {
        return Err(Sense::parameter(1).into());
    }
    // Behind that is the length of the defect list, and there is no list to add to.
    match list[2..header].iter().position(|byte| *byte != 0) {
        Some(at) => Err(Sense::parameter(2 + at as u16).into()),
        None => Ok(()),
    }
}

/// The pattern, `None` for the default one, and the bytes of its descriptor.
fn initialization_pattern(list: &[u8], at: usize, block: usize) -> Result<(Option<Bytes>, usize), Fault> {
    let short = || Fault::from(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR));
    let wrong = |byte: usize| Fault::from(Sense::parameter((at + byte) as u16));
    let descriptor = list.get(at..at + DESCRIPTOR).ok_or_else(short)?;
    // SECURITY INITIALIZE would reach blocks that were reassigned, which only the disks below know of.
    if descriptor[0] != 0 {
        return Err(wrong(0));
    }
    let len = usize::from(descriptor.u16_at(2));
    match descriptor[1] {
        0x00 if len == 0 => Ok((None, DESCRIPTOR)),
        0x01 if (1..=block).contains(&len) => {
            let pattern = list.get(at + DESCRIPTOR..at + DESCRIPTOR + len).ok_or_else(short)?;
            Ok((Some(Bytes::copy_from_slice(pattern)), DESCRIPTOR + len))
        }
        0x00 | 0x01 => Err(wrong(2)),
        _ => Err(wrong(1)),
    }
}
