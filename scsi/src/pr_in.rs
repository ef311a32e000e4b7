//! PERSISTENT RESERVE IN (SPC-5, 6.16).

use crate::context::{Context, Run};
use crate::wire::Put;

fn header(c: &Context<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.put32(c.lu.reservations.generation);
    out.put32(0);
    out
}

fn finish(c: &Context<'_>, mut out: Vec<u8>) -> Run {
    let additional = out.len() - 8;
    out.set32(4, additional);
    Context::data(out, c.length16(7))
}

pub(crate) fn read_keys(c: &mut Context<'_>) -> Run {
    let mut out = header(c);
    for registration in &c.lu.reservations.registrations {
        out.put64(registration.key);
    }
    finish(c, out)
}

pub(crate) fn read_reservation(c: &mut Context<'_>) -> Run {
    let mut out = header(c);
    let state = &c.lu.reservations;
    if let Some(reservation) = &state.reservation {
        // Under All Registrants the key is zero: nobody in particular holds it.
        let key = reservation.holder.as_ref().and_then(|h| state.key_of(&h.initiator, h.port)).unwrap_or(0);
        out.put64(key);
        out.put32(0);
        out.put8(0);
        out.put8(reservation.kind as u8);
        out.put16(0);
    }
    finish(c, out)
}

pub(crate) fn report_capabilities(c: &mut Context<'_>) -> Run {
    let mut out = Vec::with_capacity(8);
    out.put16(8);
    // CRH, SIP_C, ATP_C, PTPL_C.
    out.put8(0x10 | 0x08 | 0x04 | 0x01);
    // TMV; ALLOW COMMANDS 011b: TEST UNIT READY passes, MODE SENSE and the like pass Write Exclusive; PTPL_A.
    out.put8(0x80 | 3 << 4 | u8::from(c.lu.reservations.persist));
    // WR_EX_AR, EX_AC_RO, WR_EX_RO, EX_AC, WR_EX; EX_AC_AR.
    out.put8(0x80 | 0x40 | 0x20 | 0x08 | 0x02);
    out.put8(0x01);
    out.put16(0);
    Context::data(out, c.length16(7))
}

pub(crate) fn read_full_status(c: &mut Context<'_>) -> Run {
    let mut out = header(c);
    let state = &c.lu.reservations;
    for registration in &state.registrations {
        let who = &registration.who;
        let holder = state.is_holder(&who.initiator, who.port);
        out.put64(registration.key);
        out.put32(0);
        out.put8(u8::from(registration.all_ports) << 1 | u8::from(holder));
        out.put8(if holder { state.kind().map_or(0, |kind| kind as u8) } else { 0 });
        out.put32(0);
        out.put16(who.port);
        let length = out.len();
        out.put32(0);
        who.initiator.put_transport_id(&mut out);
        let additional = out.len() - length - 4;
        out.set32(length, additional);
    }
    finish(c, out)
}
