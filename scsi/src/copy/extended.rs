//! EXTENDED COPY, COPY OPERATION ABORT and what RECEIVE COPY tells of them (SPC-4, 6.4, 6.5, 6.18 to 6.22).

use super::job::Job;
use super::operations::{Operation, State};
use super::parse::{CopyList, LONGEST, parse_lid1, parse_lid4};
use super::{Across, GRANULARITY, MAX_COPIES, MAX_LISTS, MAX_SEGMENTS, MAX_TARGETS};
use crate::context::Run;
use crate::device::Settle;
use crate::sense::{Reply, Sense};
use crate::tasks::Abort;
use crate::wire::{Fields, Put};
use crate::{Outcome, SenseBytes};

/// TRANSFER COUNT UNITS: bytes.
const BYTES: u8 = 0x00;
/// TRANSFER COUNT UNITS: KiB.
const KIBIBYTES: u8 = 0x01;
/// TRANSFER COUNT UNITS: logical blocks.
const BLOCKS: u8 = 0xF1;
/// ESTIMATED STATUS UPDATE DELAY: not estimated.
const NOT_ESTIMATED: u32 = 0xFFFF_FFFE;

/// Segment and CSCD descriptor types that are known here, ascending.
pub(crate) const DESCRIPTORS: [u8; 3] = [0x02, 0x0A, 0xE4];

pub(crate) fn lid1(c: &mut Across<'_>) -> Run {
    match c.parameter_list(LONGEST)? {
        None => Ok(Outcome::Done(Reply::good())),
        Some(list) => extended_copy(c, parse_lid1(&list)?),
    }
}

pub(crate) fn lid4(c: &mut Across<'_>) -> Run {
    // IMMED is leave to answer before the end, not an order to: copies are always in the foreground.
    match c.parameter_list(LONGEST)? {
        None => Ok(Outcome::Done(Reply::good())),
        Some(list) => extended_copy(c, parse_lid4(&list)?),
    }
}

fn extended_copy(c: &mut Across<'_>, list: CopyList) -> Run {
    let (id, keep) = (list.list, list.keep);
    let job = Job::segments(c.nexus, c.home, list, &c.world);
    c.begin(id, keep, job)
}

/// COPY OPERATION ABORT: the copy's own command ends with TASK ABORTED, and then this one is answered.
pub(crate) fn abort(c: &mut Across<'_>) -> Run {
    let operation = c.named(c.cdb.u32_at(2))?;
    if !operation.runs() {
        return Ok(Outcome::Done(Reply::good()));
    }
    let abort = vec![Abort { task: operation.task, running: true, report: true }];
    let lu = c.home;
    let (then, otherwise) = (Reply::good(), Reply::good());
    Ok(Outcome::Settle(Box::new(Settle {
        lu,
        record: None,
        abort,
        release: Vec::new(),
        operation: None,
        operation_left: false,
        then,
        otherwise,
    })))
}

pub(crate) fn status_lid1(c: &mut Across<'_>) -> Run {
    let operation = c.named(u32::from(c.cdb.u8_at(2)))?;
    let mut out = Vec::with_capacity(12);
    out.put32(8);
    out.put8(match operation.state {
        State::Running => 0x00,
        State::Done => 0x01,
        State::Failed(_) | State::Terminated => 0x02,
    });
    out.put16(operation.processed);
    let (unit, count) = match u32::try_from(operation.transferred) {
        Ok(bytes) => (BYTES, bytes),
        Err(_) => (KIBIBYTES, u32::try_from(operation.transferred >> 10).unwrap_or(u32::MAX)),
    };
    out.put8(unit);
    out.put32(count);
    c.data(out)
}

pub(crate) fn data_lid1(c: &mut Across<'_>) -> Run {
    let operation = c.named(u32::from(c.cdb.u8_at(2)))?;
    if operation.runs() {
        return Err(Sense::cdb_field(2, None).into());
    }
    // No segment that is known here holds data for the application client.
    c.data(vec![0; 4])
}

pub(crate) fn failure_details_lid1(c: &mut Across<'_>) -> Run {
    let list = u32::from(c.cdb.u8_at(2));
    let operation = c.named(list)?;
    if operation.runs() {
        return Err(Sense::cdb_field(2, None).into());
    }
    let State::Failed(sense) = operation.state else {
        return c.data(vec![0; 4]);
    };
    let mut out = vec![0; 56];
    out.put8(operation.status() as u8);
    out.put8(0);
    out.put16(sense.len() as u16);
    out.extend_from_slice(&sense);
    let len = out.len() - 4;
    out.set32(0, len);
    if c.cdb.u32_at(10) as usize >= out.len() {
        // All of it was told (SPC-4, 6.20).
        c.copies.operations.discard(c.nexus, c.home, list);
    }
    c.data(out)
}

pub(crate) fn operating_parameters(c: &mut Across<'_>) -> Run {
    let mut out = Vec::with_capacity(44 + DESCRIPTORS.len());
    out.put32(0);
    out.put8(0x01); // SNLID: list identifiers may be left out
    out.zeros(3);
    out.put16(MAX_TARGETS as u16);
    out.put16(MAX_SEGMENTS as u16);
    out.put32(MAX_LISTS as u32);
    out.put32(0); // no limit of a segment
    out.put32(0); // no inline data
    out.put32(0); // nothing is held
    out.put32(0); // no streams
    out.zeros(2);
    out.put16(MAX_COPIES as u16);
    out.put8(MAX_COPIES as u8);
    out.put8(GRANULARITY);
    out.zeros(2); // of inline and held data, of which there is none
    out.zeros(3);
    out.put8(DESCRIPTORS.len() as u8);
    out.extend_from_slice(&DESCRIPTORS);
    let len = out.len() - 4;
    out.set32(0, len);
    c.data(out)
}

pub(crate) fn status_lid4(c: &mut Across<'_>) -> Run {
    let operation = c.named(c.cdb.u32_at(2))?;
    let out = status(operation);
    c.data(out)
}

/// What RECEIVE COPY STATUS(LID4) and RECEIVE ROD TOKEN INFORMATION have in common.
pub(crate) fn status(operation: &Operation) -> Vec<u8> {
    let sense: Option<&SenseBytes> = match &operation.state {
        State::Failed(sense) => Some(sense),
        _ => None,
    };
    let sense = sense.map(|sense| &**sense).unwrap_or_default();
    let mut out = vec![0; 4];
    out.put8(operation.action);
    out.put8(match operation.state {
        State::Running => 0x11, // in the foreground
        State::Done => 0x01,
        State::Failed(_) => 0x02,
        State::Terminated => 0x60,
    });
    out.put16(operation.requests);
    out.put32(NOT_ESTIMATED);
    out.put8(operation.status() as u8);
    out.put8(sense.len() as u8);
    out.put8(sense.len() as u8);
    let by_token = matches!(operation.action, 0x10 | 0x11);
    let (unit, count) = if by_token {
        (BLOCKS, operation.transferred / u64::from(operation.block.max(1)))
    } else {
        (BYTES, operation.transferred)
    };
    out.put8(unit);
    out.put64(count);
    out.put16(operation.processed);
    out.zeros(6);
    out.extend_from_slice(sense);
    let len = out.len() - 4;
    out.set32(0, len);
    out
}
