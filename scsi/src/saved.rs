//! The record of a LU that outlives the process: saved mode pages and reservations. Its bytes: docs/design/scsi.md.

use bytes::Bytes;

use crate::mode::Parameters;
use crate::port::{InitiatorPort, MAX_NAME};
use crate::reservation::{Kind, MAX_REGISTRATIONS, NexusName, Registration, Reservation, Reservations};
use crate::wire::{Fields, Put};

const MAGIC: u32 = u32::from_be_bytes(*b"TLSC");
const VERSION: u16 = 1;

/// What a record holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) mode: Option<Parameters>,
    pub(crate) reservations: Reservations,
}

fn put_name(out: &mut Vec<u8>, who: &NexusName) {
    out.put16(who.port);
    out.extend_from_slice(&who.initiator.isid);
    let name = who.initiator.name.as_bytes();
    let len = u8::try_from(name.len()).unwrap_or(u8::MAX);
    out.put8(len);
    out.extend_from_slice(&name[..usize::from(len)]);
}

pub(crate) fn encode(mode: Option<Parameters>, state: &Reservations) -> Bytes {
    let mut out = Vec::with_capacity(32 + 64 * state.registrations.len());
    out.put32(MAGIC);
    out.put16(VERSION);
    out.put8(mode.map_or(0, |p| 0x80 | p.to_bits()));
    out.put8(u8::from(state.persist));
    out.put32(state.generation);
    out.put16(state.registrations.len() as u16);
    match &state.reservation {
        None => out.put16(0),
        Some(reservation) => {
            out.put8(reservation.kind as u8);
            out.put8(u8::from(reservation.holder.is_some()));
        }
    }
    for registration in &state.registrations {
        out.put64(registration.key);
        out.put8(u8::from(registration.all_ports));
        put_name(&mut out, &registration.who);
    }
    if let Some(holder) = state.reservation.as_ref().and_then(|r| r.holder.as_ref()) {
        put_name(&mut out, holder);
    }
    out.into()
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (front, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(front)
}

fn parse_name(bytes: &mut &[u8]) -> Option<NexusName> {
    let fixed = take(bytes, 9)?;
    let len = usize::from(fixed.u8_at(8));
    if len == 0 || len > MAX_NAME {
        return None;
    }
    let name = std::str::from_utf8(take(bytes, len)?).ok()?.to_owned();
    let mut isid = [0; 6];
    isid.copy_from_slice(&fixed[2..8]);
    Some(NexusName { initiator: InitiatorPort { name, isid }, port: fixed.u16_at(0) })
}

/// Reads a record; `None` when it is none of ours or breaks an invariant of [`Reservations`].
pub(crate) fn parse(mut bytes: &[u8]) -> Option<Saved> {
    let header = take(&mut bytes, 16)?;
    if header.u32_at(0) != MAGIC || header.u16_at(4) != VERSION {
        return None;
    }
    let mode = header.bit_at(6, 7).then(|| Parameters::from_bits(header.u8_at(6) & 0x7F));
    let count = usize::from(header.u16_at(12));
    if count > MAX_REGISTRATIONS {
        return None;
    }
    let mut state = Reservations {
        persist: header.bit_at(7, 0),
        generation: header.u32_at(8),
        ..Reservations::default()
    };
    for _ in 0..count {
        let fixed = take(&mut bytes, 9)?;
        let registration = Registration {
            key: fixed.u64_at(0),
            all_ports: fixed.bit_at(8, 0),
            who: parse_name(&mut bytes)?,
        };
        let doubled = state.registrations.iter().any(|r| r.who == registration.who);
        if registration.key == 0 || doubled {
            return None;
        }
        state.registrations.push(registration);
    }
    if header.u8_at(14) != 0 {
        let kind = Kind::from_code(header.u8_at(14))?;
        let holder = if header.bit_at(15, 0) { Some(parse_name(&mut bytes)?) } else { None };
        let held = match &holder {
            Some(who) => state.registrations.iter().any(|r| r.who == *who),
            None => !state.registrations.is_empty(),
        };
        if !held || holder.is_some() == kind.all_registrants() {
            return None;
        }
        state.reservation = Some(Reservation { kind, holder });
    }
    bytes.is_empty().then_some(Saved { mode, reservations: state })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> Saved {
        let who = NexusName {
            initiator: InitiatorPort { name: "iqn.2026-11.io.host:a".into(), isid: [1, 2, 3, 4, 5, 6] },
            port: 7,
        };
        let mut reservations = Reservations { persist: true, ..Reservations::default() };
        assert!(reservations.register(std::slice::from_ref(&who), 99, true));
        reservations.reserve(&who, Kind::WriteExclusiveRegistrantsOnly);
        Saved { mode: Some(Parameters { wce: true, swp: true, ..Parameters::default() }), reservations }
    }

    #[test]
    fn round_trips() {
        let saved = example();
        assert_eq!(parse(&encode(saved.mode, &saved.reservations)), Some(saved));
        assert_eq!(parse(&encode(None, &Reservations::default())), Some(Saved::default()));
    }

    #[test]
    fn a_cut_or_longer_record_is_refused() {
        let saved = example();
        let whole = encode(saved.mode, &saved.reservations);
        for len in 0..whole.len() {
            assert_eq!(parse(&whole[..len]), None, "cut at {len}");
        }
        let mut longer = whole.to_vec();
        longer.push(0);
        assert_eq!(parse(&longer), None);
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(at in 0usize..80, value: u8, tail in proptest::collection::vec(any::<u8>(), 0..64)) {
            let saved = example();
            let mut bytes = encode(saved.mode, &saved.reservations).to_vec();
            if let Some(byte) = bytes.get_mut(at) { *byte = value; }
            let _ = parse(&bytes);
            bytes.extend(tail);
            let _ = parse(&bytes);
        }
    }
}
