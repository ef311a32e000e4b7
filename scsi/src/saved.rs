//! The record of a LU that outlives the process: saved mode pages, reservations, names, and an operation on the medium under way. Its bytes: docs/design/scsi.md.

use bytes::Bytes;

use crate::identify::Names;
use crate::mode::Parameters;
use crate::operation::{Method, Operation};
use crate::port::{InitiatorPort, MAX_NAME};
use crate::reservation::{Kind, MAX_REGISTRATIONS, NexusName, Registration, Reservation, Reservations};
use crate::wire::{Fields, Put};

const MAGIC: u32 = u32::from_be_bytes(*b"TLSC");
/// What every build reads and writes.
const VERSION: u16 = 2;
/// The same with one more byte about task sets behind the thresholds. Written where there is something to say in it: builds from before it
/// read what they can hold.
const VERSION_TASK_SETS: u16 = 3;

/// What a record holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) mode: Option<Parameters>,
    pub(crate) reservations: Reservations,
    pub(crate) operation: Option<Operation>,
    pub(crate) names: Names,
}

fn put_name(out: &mut Vec<u8>, who: &NexusName) {
    out.put16(who.port);
    out.extend_from_slice(&who.initiator.isid);
    let name = who.initiator.name.as_bytes();
    let len = u8::try_from(name.len()).unwrap_or(u8::MAX);
    out.put8(len);
    out.extend_from_slice(&name[..usize::from(len)]);
}

/// Flags of the record.
mod flag {
    pub(super) const PERSIST: u8 = 0x01;
    pub(super) const OPERATION: u8 = 0x02;
    pub(super) const NAMES: u8 = 0x04;
}

fn put_operation(out: &mut Vec<u8>, operation: &Operation) {
    let (method, passes, invert, pattern) = match &operation.method {
        Method::Overwrite { pattern, passes, invert } => (1, *passes, *invert, &pattern[..]),
        Method::BlockErase => (2, 0, false, &[][..]),
        Method::Format { pattern } => (3, 0, false, pattern.as_deref().unwrap_or_default()),
    };
    out.put8(method);
    out.put8(u8::from(operation.unrestricted) | u8::from(operation.failed) << 1 | u8::from(invert) << 2);
    out.put8(passes);
    out.put8(0);
    out.put16(pattern.len() as u16);
    out.extend_from_slice(pattern);
}

fn parse_operation(bytes: &mut &[u8]) -> Option<Operation> {
    let fixed = take(bytes, 6)?;
    let pattern = Bytes::copy_from_slice(take(bytes, usize::from(fixed.u16_at(4)))?);
    let (passes, invert) = (fixed.u8_at(2), fixed.bit_at(1, 2));
    let method = match fixed.u8_at(0) {
        1 if !pattern.is_empty() && (1..=31).contains(&passes) => {
            Method::Overwrite { pattern, passes, invert }
        }
        2 if pattern.is_empty() && passes == 0 && !invert => Method::BlockErase,
        3 if passes == 0 && !invert => Method::Format { pattern: Some(pattern).filter(|p| !p.is_empty()) },
        _ => return None,
    };
    let mut operation = Operation::new(method, fixed.bit_at(1, 0));
    operation.failed = fixed.bit_at(1, 1);
    (fixed.u8_at(1) & !7 == 0 && fixed.u8_at(3) == 0).then_some(operation)
}

fn put_names(out: &mut Vec<u8>, names: &Names) {
    for name in names.each() {
        out.put16(name.len() as u16);
        out.extend_from_slice(name);
    }
}

fn parse_names(bytes: &mut &[u8]) -> Option<Names> {
    let mut names = Names::default();
    for kind in [Names::INFORMATION, Names::TEXT] {
        let len = usize::from(take(bytes, 2)?.u16_at(0));
        if !names.set(kind, take(bytes, len)?) {
            return None;
        }
    }
    Some(names)
}

pub(crate) fn encode(
    mode: Option<Parameters>,
    state: &Reservations,
    operation: Option<&Operation>,
    names: &Names,
) -> Bytes {
    let mut out = Vec::with_capacity(32 + 64 * state.registrations.len());
    out.put32(MAGIC);
    let task_bits = mode.map_or(0, Parameters::task_bits);
    out.put16(if task_bits == 0 { VERSION } else { VERSION_TASK_SETS });
    out.put8(mode.map_or(0, |p| 0x80 | p.to_bits()));
    let has = |is: bool, flag: u8| if is { flag } else { 0 };
    out.put8(
        has(state.persist, flag::PERSIST)
            | has(operation.is_some(), flag::OPERATION)
            | has(!names.is_empty(), flag::NAMES),
    );
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
    if let Some(mode) = mode {
        out.put32(mode.available_threshold);
        out.put32(mode.used_threshold);
    }
    if task_bits != 0 {
        out.put8(task_bits);
    }
    if let Some(operation) = operation {
        put_operation(&mut out, operation);
    }
    if !names.is_empty() {
        put_names(&mut out, names);
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
    let version = header.u16_at(4);
    if header.u32_at(0) != MAGIC || !(VERSION..=VERSION_TASK_SETS).contains(&version) {
        return None;
    }
    let mut mode = header.bit_at(6, 7).then(|| Parameters::from_bits(header.u8_at(6) & 0x7F));
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
    if let Some(mode) = &mut mode {
        let thresholds = take(&mut bytes, 8)?;
        (mode.available_threshold, mode.used_threshold) = (thresholds.u32_at(0), thresholds.u32_at(4));
        if version == VERSION_TASK_SETS {
            *mode = mode.with_task_bits(take(&mut bytes, 1)?.u8_at(0))?;
        }
    } else if version == VERSION_TASK_SETS {
        return None;
    }
    let flags = header.u8_at(7);
    let operation = if flags & flag::OPERATION != 0 { Some(parse_operation(&mut bytes)?) } else { None };
    let names = if flags & flag::NAMES != 0 { parse_names(&mut bytes)? } else { Names::default() };
    bytes.is_empty().then_some(Saved { mode, reservations: state, operation, names })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::QueueError;
    use proptest::prelude::*;

    fn example() -> Saved {
        let who = NexusName {
            initiator: InitiatorPort { name: "iqn.2026-11.io.host:a".into(), isid: [1, 2, 3, 4, 5, 6] },
            port: 7,
        };
        let mut reservations = Reservations { persist: true, ..Reservations::default() };
        assert!(reservations.register(std::slice::from_ref(&who), 99, true));
        reservations.reserve(&who, Kind::WriteExclusiveRegistrantsOnly);
        let mode = Parameters {
            wce: true,
            swp: true,
            used_threshold: 77,
            queue_error: QueueError::AbortOwn,
            separate_sets: true,
            ..Parameters::default()
        };
        let method = Method::Overwrite { pattern: Bytes::from_static(b"abc"), passes: 3, invert: true };
        let mut operation = Operation::new(method, true);
        operation.failed = true;
        let mut names = Names::default();
        assert!(names.set(Names::TEXT, b"database\0"));
        Saved { mode: Some(mode), reservations, operation: Some(operation), names }
    }

    fn whole(saved: &Saved) -> Bytes {
        encode(saved.mode, &saved.reservations, saved.operation.as_ref(), &saved.names)
    }

    #[test]
    fn round_trips() {
        let mut saved = example();
        assert_eq!(parse(&whole(&saved)), Some(saved.clone()));
        assert_eq!(whole(&saved)[4..6], [0, 3]);
        saved.mode = Some(Parameters { tas: true, ..Parameters::default() });
        assert_eq!(whole(&saved)[4..6], [0, 2], "what an older build can hold it can read");
        for pattern in [None, Some(Bytes::from_static(b"xy"))] {
            saved.operation = Some(Operation::new(Method::Format { pattern }, true));
            assert_eq!(parse(&whole(&saved)), Some(saved.clone()));
        }
        assert_eq!(parse(&whole(&Saved::default())), Some(Saved::default()));
    }

    #[test]
    fn a_cut_or_longer_record_is_refused() {
        let saved = example();
        let whole = whole(&saved);
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
            let mut bytes = whole(&saved).to_vec();
            if let Some(byte) = bytes.get_mut(at) { *byte = value; }
            let _ = parse(&bytes);
            bytes.extend(tail);
            let _ = parse(&bytes);
        }
    }
}
