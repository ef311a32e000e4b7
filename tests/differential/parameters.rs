//! Commands that move parameters and not blocks.

use crate::generate::{Allocation, Generator, LU_SIZE, cdb, set};
use crate::step::{Data, Odd, Page};

/// INQUIRY: standard data or a page that disks have.
pub(crate) fn inquiry(g: &mut Generator) -> ([u8; 16], Data, Odd) {
    let mut out = cdb(0x12, 0);
    if g.rng.chance(2, 3) {
        out[1] = 1;
        out[2] = g.pick(&[0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2, 0xD7]);
    } else if g.rarely(12) {
        out[2] = 0x83; // a page code without EVPD
    }
    (out, Data::None, Odd::No).with_allocation(g, 3)
}

/// READ CAPACITY (10) and (16), GET LBA STATUS.
pub(crate) fn capacity(g: &mut Generator) -> ([u8; 16], Data, Odd) {
    match g.rng.below(4) {
        0 => {
            let expects = if g.rarely(8) { 4 } else { 8 };
            (cdb(0x25, 0), Data::In(expects), if expects < 8 { Odd::Short } else { Odd::No })
        }
        1 => {
            let mut out = cdb(0x9E, 0x12);
            let blocks = LU_SIZE / u64::from(g.block);
            set(&mut out, 2, g.pick(&[0, 1, blocks / 2, blocks - 1, blocks, u64::MAX]).to_be_bytes());
            (out, Data::None, Odd::No).with_allocation(g, 10)
        }
        _ => (cdb(0x9E, 0x10), Data::None, Odd::No).with_allocation(g, 10),
    }
}

/// REPORT LUNS, REPORT SUPPORTED OPERATION CODES, LOG SENSE.
pub(crate) fn report(g: &mut Generator) -> ([u8; 16], Data, Odd) {
    match g.rng.below(4) {
        0 => {
            let mut out = cdb(0xA0, 0);
            out[2] = g.pick(&[0, 0, 1, 2, 3]);
            (out, Data::None, Odd::No).with_allocation(g, 6)
        }
        1 => {
            let mut out = cdb(0xA3, 0x0C);
            out[2] = g.pick(&[0, 1, 2, 3, 0x81]);
            out[3] = g.pick(&[0x00, 0x12, 0x28, 0x2A, 0x5E, 0x88, 0x9E]);
            (out, Data::None, Odd::No).with_allocation(g, 6)
        }
        2 => (cdb(0xA3, g.pick(&[0x0A, 0x0D, 0x1F])), Data::None, Odd::No).with_allocation(g, 6),
        _ => {
            let mut out = cdb(0x4D, 0);
            out[2] = 0x40 | g.pick(&[0x00, 0x0C, 0x2F, 0x3E]);
            (out, Data::None, Odd::No).with_allocation(g, 7)
        }
    }
}

/// START STOP UNIT and PREVENT ALLOW MEDIUM REMOVAL. Never STOP: a target that obeys serves nobody afterwards.
pub(crate) fn start_stop(g: &mut Generator) -> ([u8; 16], Data, Odd) {
    let mut out = cdb(g.pick(&[0x1B, 0x1E]), 0);
    out[4] = if out[0] == 0x1B { 1 } else { g.pick(&[0, 1, 0]) };
    (out, Data::None, Odd::No)
}

/// Operation codes and service actions that no disk of ours has.
pub(crate) fn unknown(g: &mut Generator) -> ([u8; 16], Data, Odd) {
    let (opcode, flags) = g.pick(&[
        (0x02, 0),
        (0x0C, 0),
        (0x2C, 0),
        (0x45, 0),
        (0x9E, 0x1E),
        (0xA3, 0x1E),
        (0xB4, 0),
        (0xC0, 0),
        (0xFF, 0),
    ]);
    (cdb(opcode, flags), Data::None, Odd::No)
}

/// MODE SENSE (6) and (10).
pub(crate) fn mode_sense(g: &mut Generator) -> ([u8; 16], Data, Odd) {
    let ten = g.rng.chance(1, 2);
    let mut out = cdb(if ten { 0x5A } else { 0x1A }, g.pick(&[0, 0, 0x08]));
    let control = if g.rarely(6) { g.pick(&[0x40, 0x80, 0xC0]) } else { 0 };
    out[2] = control | g.pick(&[0x08, 0x08, 0x0A, 0x0A, 0x1C, 0x3F, 0x3F, 0x05]);
    (out, Data::None, Odd::No).with_allocation(g, if ten { 7 } else { 4 })
}

/// Bytes of both pages that hosts change, without their header.
pub(crate) const fn page_len(code: u8) -> usize {
    if code == 0x08 { 20 } else { 12 }
}

/// MODE SELECT (6) and (10) of the caching or the control page.
pub(crate) fn mode_select(g: &mut Generator) -> ([u8; 16], Data, Odd) {
    let header = if g.rng.chance(1, 2) { 8 } else { 4 };
    let (code, byte, mask) = g.pick(g.taste.mode_bits);
    g.modes_changed = true;
    // Write protection set for half of the time would leave little to see.
    let set = if mask == 0x08 { g.rarely(4) } else { g.rng.chance(1, 2) };
    let (data, odd, len) = if g.rarely(10) {
        let mut list = vec![0; header + page_len(code)];
        (list[header], list[header + 1]) = (code, page_len(code) as u8 - 2);
        let odd = spoil_list(g, &mut list);
        let len = list.len();
        (Data::Out(list), odd, len)
    } else {
        (Data::Page(Page { header, code, byte, mask, set }), Odd::No, header + page_len(code))
    };
    let mut out = cdb(if header == 8 { 0x55 } else { 0x15 }, 0x10);
    if header == 8 {
        crate::generate::set(&mut out, 7, (len as u16).to_be_bytes());
    } else {
        out[4] = len as u8;
    }
    (out, data, odd)
}

/// Cuts, lengthens or changes a parameter list.
pub(crate) fn spoil_list(g: &mut Generator, list: &mut Vec<u8>) -> Odd {
    match g.rng.below(3) {
        0 => list.truncate(g.rng.index(list.len().max(1))),
        1 => list.resize(list.len() + g.rng.range(1..=24) as usize, 0),
        _ => {
            let at = g.rng.index(list.len().max(1));
            if let Some(byte) = list.get_mut(at) {
                *byte ^= 1 << g.rng.below(8);
            }
        }
    }
    Odd::List
}
