//! The third-party copy VPD page (SPC-4, 7.8.17; SBC-3, 6.6.6).

use twinlun_block::Geometry;

use super::extended::DESCRIPTORS;
use super::parse::HOME;
use super::tokens::{CHANGE_VULNERABLE, DEFAULT_TIMEOUT, MAX_LIFETIME, MAX_TIMEOUT, ZERO};
use super::{GRANULARITY, MAX_COPIES, MAX_LISTS, MAX_SEGMENTS, MAX_TARGETS, odx};
use crate::commands::rows;
use crate::wire::Put;

/// The page behind its header.
pub(crate) fn page(geometry: &Geometry) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    // The block device ROD token limits come first: some hosts look no further.
    descriptor(&mut out, 0x0000, |out| token_limits(out, geometry));
    descriptor(&mut out, 0x0001, commands);
    descriptor(&mut out, 0x0004, parameters);
    descriptor(&mut out, 0x0008, |out| {
        out.put8(DESCRIPTORS.len() as u8);
        out.extend_from_slice(&DESCRIPTORS);
    });
    descriptor(&mut out, 0x000C, |out| {
        out.put16(2);
        out.put16(HOME);
    });
    descriptor(&mut out, 0x0106, token_features);
    descriptor(&mut out, 0x0108, token_types);
    descriptor(&mut out, 0x8001, general);
    out
}

/// One descriptor, padded to a multiple of four.
fn descriptor(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    out.put16(kind);
    out.put16(0);
    let start = out.len();
    fill(out);
    let len = (out.len() - start).next_multiple_of(4);
    out.zeros(start + len - out.len());
    out.set16(start - 2, len);
}

fn token_limits(out: &mut Vec<u8>, geometry: &Geometry) {
    let shift = geometry.block_size.shift();
    out.zeros(6);
    out.put16(odx::MAX_RANGES as u16);
    out.put32(MAX_TIMEOUT.as_secs() as u32);
    out.put32(DEFAULT_TIMEOUT.as_secs() as u32);
    out.put64(odx::MAX_TRANSFER >> shift);
    out.put64(odx::OPTIMAL_TRANSFER >> shift);
}

/// What the command table has, so that the page cannot say anything else.
fn commands(out: &mut Vec<u8>) {
    let at = out.len();
    out.put8(0);
    for opcode in [0x83, 0x84] {
        let rows = rows(opcode);
        out.put8(opcode);
        out.put8(rows.len() as u8);
        out.extend(rows.iter().filter_map(|row| row.action));
    }
    out[at] = (out.len() - at - 1) as u8;
}

fn parameters(out: &mut Vec<u8>) {
    out.zeros(4);
    out.put16(MAX_TARGETS as u16);
    out.put16(MAX_SEGMENTS as u16);
    out.put32(MAX_LISTS as u32);
    out.put32(0); // no inline data
    out.zeros(12);
}

fn token_features(out: &mut Vec<u8>) {
    out.put8(0); // tokens of other copy managers are not taken
    out.zeros(11);
    out.put32(0); // a change of the data ends a token at once
    out.put32(MAX_LIFETIME.as_secs() as u32);
    out.put32(MAX_TIMEOUT.as_secs() as u32);
    out.zeros(18);
    out.put16(48);
    // Of block devices.
    out.put16(0);
    out.put16(44);
    out.zeros(2);
    out.put16(0); // any length
    out.put64(odx::MAX_TRANSFER);
    out.put64(odx::OPTIMAL_TRANSFER);
    out.put64(odx::MAX_TRANSFER); // to a token: nothing is copied
    out.put64(odx::OPTIMAL_TRANSFER);
    out.zeros(8);
}

fn token_types(out: &mut Vec<u8>) {
    out.zeros(2);
    out.put16(2 * 64);
    // TOKEN_IN: WRITE USING TOKEN takes it. TOKEN_OUT: POPULATE TOKEN makes it.
    for (kind, flags) in [(CHANGE_VULNERABLE, 0x02 | 0x01), (ZERO, 0x02)] {
        out.put32(kind);
        out.put8(flags);
        out.zeros(1);
        out.put16(0);
        out.zeros(56);
    }
}

fn general(out: &mut Vec<u8>) {
    out.put32(MAX_COPIES as u32);
    out.put32(MAX_COPIES as u32);
    out.put32(0); // no limit of a segment
    out.put8(GRANULARITY);
    out.put8(0);
    out.zeros(18);
}
