//! READ BUFFER and WRITE BUFFER (SPC-5, 6.22, 6.49): memory that hosts write and read back to test the way to the LU. Never the medium.
//!
//! One data buffer of the LU, which all nexuses share, and an echo buffer of each nexus, so that nobody overwrites another's. Both take memory once
//! they are written. Modes that download microcode are refused: software comes by packages, not from hosts.

use crate::context::{Context, Fault, Run};
use crate::sense::{Asc, Sense};
use crate::wire::{Fields, Put};

/// Bytes of the data buffer.
const DATA: usize = 64 << 10;
/// Bytes of an echo buffer: as many as SPC-5 allows.
const ECHO: usize = 4096;

/// MODE, in the low bits of byte 1.
mod mode {
    pub(super) const DATA: u8 = 0x02;
    pub(super) const DESCRIPTOR: u8 = 0x03;
    pub(super) const ECHO: u8 = 0x0A;
    pub(super) const ECHO_DESCRIPTOR: u8 = 0x0B;
}

/// OFFSET BOUNDARY: any byte.
const ANY_OFFSET: u8 = 0;

fn mode(c: &Context<'_>) -> u8 {
    c.cdb.u8_at(1) & 0x1F
}

fn unknown_mode<T>() -> Result<T, Fault> {
    Err(Sense::cdb_field(1, Some(4)).into())
}

/// BUFFER OFFSET, which must lie in the one data buffer there is.
fn offset(c: &Context<'_>) -> Result<usize, Fault> {
    if c.cdb.u8_at(2) != 0 {
        return Err(Sense::cdb_field(2, Some(7)).into());
    }
    let offset = c.cdb.u24_at(3) as usize;
    if offset > DATA { Err(Sense::cdb_field(3, None).into()) } else { Ok(offset) }
}

pub(crate) fn read_buffer(c: &mut Context<'_>) -> Run {
    let allocation = c.cdb.u24_at(6) as usize;
    let out = match mode(c) {
        mode::DATA => {
            let offset = offset(c)?;
            let len = allocation.min(DATA - offset);
            // Before the first write it holds zeros.
            match c.lu.buffer.get(offset..offset + len) {
                Some(written) => written.to_vec(),
                None => vec![0; len],
            }
        }
        mode::DESCRIPTOR if c.cdb.u8_at(2) == 0 => {
            let [_, high, middle, low] = (DATA as u32).to_be_bytes();
            vec![ANY_OFFSET, high, middle, low]
        }
        mode::DESCRIPTOR => vec![0; 4], // there is no such buffer
        mode::ECHO => {
            let echo = c.lu.nexuses.get(&c.nexus_id).and_then(|state| state.echo.as_ref());
            echo.ok_or(Sense::illegal(Asc::COMMAND_SEQUENCE_ERROR))?.to_vec()
        }
        mode::ECHO_DESCRIPTOR => {
            let mut out = vec![0; 2]; // EBOS is 0: nobody overwrites another's
            out.put16(ECHO as u16);
            out
        }
        _ => return unknown_mode(),
    };
    Context::data(out, allocation)
}

pub(crate) fn write_buffer(c: &mut Context<'_>) -> Run {
    let len = c.cdb.u24_at(6) as usize;
    let room = match mode(c) {
        mode::DATA => DATA - offset(c)?,
        mode::ECHO => ECHO,
        _ => return unknown_mode(),
    };
    if len > room {
        return Err(Sense::cdb_field(6, None).into());
    }
    let data = c.parameter_list(len as u64)?;
    if mode(c) == mode::ECHO {
        if let Some(state) = c.lu.nexuses.get_mut(&c.nexus_id) {
            // A copy of its own: what came may be a small part of a large receive buffer.
            state.echo = Some(bytes::Bytes::copy_from_slice(&data));
        }
    } else if !data.is_empty() {
        let at = DATA - room;
        c.lu.buffer.resize(DATA, 0);
        c.lu.buffer[at..at + len].copy_from_slice(&data);
    }
    Context::good()
}
