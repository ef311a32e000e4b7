//! Commands of ROD tokens, which hosts call offloaded data transfer (SBC-3, 5.14, 5.44; SPC-4, 6.25, 6.34).

use std::collections::VecDeque;
use std::time::Duration;

use twinlun_block::{ByteRange, Lba, LbaRange};

use super::extended::status;
use super::job::{Job, Piece};
use super::tokens::{
    ANY_POINT_IN_TIME, CHANGE_VULNERABLE, DEFAULT_TIMEOUT, LENGTH, MAX_TIMEOUT, Token, ZERO,
};
use super::{Across, Denied};
use crate::context::{CONFLICT, Fault, Run};
use crate::lu::LogicalUnit;
use crate::media::out_of_range;
use crate::sense::{Asc, FieldPointer, Reply, Sense, Status};
use crate::wire::{Fields, Put};
use crate::{LuId, Outcome};

/// Block device range descriptors of one command.
pub(crate) const MAX_RANGES: usize = 64;
/// Bytes of one command, over all its ranges.
pub(crate) const MAX_TRANSFER: u64 = 256 << 20;
/// Bytes of one command that are copied within what hosts wait for a command of this kind.
pub(crate) const OPTIMAL_TRANSFER: u64 = 64 << 20;

/// Length of a range descriptor.
const RANGE: usize = 16;
/// Parameter list before the ranges: POPULATE TOKEN.
const POPULATE: usize = 16;
/// Parameter list before the ranges: WRITE USING TOKEN.
const WRITE: usize = 536;

fn length_error() -> Fault {
    Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR).into()
}

/// Block device range descriptors as bytes of the LU, in order; empty ones are left out.
fn ranges(list: &[u8], header: usize, lu: &LogicalUnit) -> Result<Vec<ByteRange>, Fault> {
    let len = usize::from(list.u16_at(header - 2));
    let stated = usize::from(list.u16_at(0)) + 2;
    let descriptors = list.get(header..header + len).ok_or_else(length_error)?;
    if stated < header + len || stated > list.len() {
        return Err(Sense::parameter(0).into());
    }
    if len < RANGE || len / RANGE > MAX_RANGES {
        return Err(Sense::parameter(header as u16 - 2).into());
    }
    let geometry = &lu.geometry;
    let (mut found, mut total) = (Vec::<ByteRange>::new(), 0);
    // A descriptor that is cut off is ignored (SBC-3, 5.14.2).
    for (index, descriptor) in descriptors.chunks_exact(RANGE).enumerate() {
        let (lba, count) = (Lba(descriptor.u64_at(0)), u64::from(descriptor.u32_at(8)));
        let range =
            LbaRange::within(lba, count, geometry.blocks()).map_err(|bad| out_of_range(bad.first_bad))?;
        let range = range.bytes(geometry.block_size).ok_or_else(|| out_of_range(lba))?;
        total += range.len();
        if total > MAX_TRANSFER || found.iter().any(|other| other.overlaps(range)) {
            return Err(Sense::parameter((header + RANGE * index) as u16).into());
        }
        if !range.is_empty() {
            found.push(range);
        }
    }
    Ok(found)
}

pub(crate) fn populate_token(c: &mut Across<'_>) -> Run {
    let Some(list) = c.parameter_list(POPULATE + RANGE * MAX_RANGES)? else {
        return Ok(Outcome::Done(Reply::good()));
    };
    if list.len() < POPULATE {
        return Err(length_error());
    }
    let timeout = match list.u32_at(4) {
        0 => DEFAULT_TIMEOUT,
        seconds => Duration::from_secs(seconds.into()),
    };
    if timeout > MAX_TIMEOUT {
        return Err(Sense::parameter(4).into());
    }
    if list.bit_at(2, 1) && !matches!(list.u32_at(8), CHANGE_VULNERABLE | ANY_POINT_IN_TIME) {
        return Err(Sense::parameter(8).into());
    }
    let ranges = ranges(&list, POPULATE, c.lu)?;
    if c.copies.operations.all_running().any(|(_, job)| job.writes(c.home, &ranges)) {
        // A copy that was sent to another LU writes here at this moment. In the next one it will not.
        return Err(Fault::Status(Status::Busy));
    }
    let token = make(c, ranges, timeout);
    let (bytes, len) = (token.bytes.clone(), token.len());
    let id = c.enter(Some(c.cdb.u32_at(6)), true, None)?;
    if !c.copies.tokens.add(token) {
        c.copies.operations.discard(c.nexus, c.home, c.cdb.u32_at(6));
        return Err(Sense::illegal(Asc::INSUFFICIENT_RESOURCES_TO_CREATE_TOKEN).into());
    }
    if let Some(operation) = c.copies.operations.get_mut(id) {
        operation.token = Some(bytes);
        operation.transferred = len;
    }
    Ok(Outcome::Done(Reply::good()))
}

/// A token for those bytes as they are now (SPC-4, 5.17.6.4; SBC-3, 4.28.3).
fn make(c: &Across<'_>, ranges: Vec<ByteRange>, timeout: Duration) -> Token {
    let initiator = c.world.nexuses.get(&c.nexus).map(|nexus| nexus.initiator.name.clone());
    let block = c.lu.geometry.block_size.bytes();
    let mut token = Token {
        bytes: Box::default(),
        lu: c.home,
        block,
        ranges,
        initiator: initiator.unwrap_or_default(),
        timeout,
        made: c.moment.now,
        used: c.moment.now,
    };
    let mut out = Vec::with_capacity(LENGTH);
    out.put32(CHANGE_VULNERABLE);
    out.zeros(2);
    out.put16(LENGTH as u16 - 8);
    out.put64(c.copies.tokens.next_number());
    // The LU that made it, as an identification descriptor CSCD descriptor.
    out.extend_from_slice(&[0xE4, 0, 0, 0, 1, 3, 0, 16]);
    out.extend_from_slice(&c.lu.naa);
    out.zeros(4);
    out.put32(block);
    out.put64(0);
    out.put64(token.len());
    out.zeros(96 - out.len());
    // Of a block device: the shape that READ CAPACITY (16) tells.
    out.put32(block);
    out.put8(0);
    out.put8(c.lu.physical_exponent());
    out.put16(if c.lu.thin { 0xC000 } else { 0 });
    out.zeros(128 - out.len());
    // The target device: its SCSI name.
    let mut name = c.identity.iqn.as_bytes().to_vec();
    name.truncate(247);
    name.push(0);
    name.zeros(name.len().next_multiple_of(4) - name.len());
    out.extend_from_slice(&[0x53, 0xA8, 0, name.len() as u8]);
    out.extend_from_slice(&name);
    // What makes it impossible to guess comes last.
    out.zeros(LENGTH - 32 - out.len());
    out.extend_from_slice(&c.moment.random);
    token.bytes = out.into_boxed_slice();
    token
}

pub(crate) fn write_using_token(c: &mut Across<'_>) -> Run {
    let Some(list) = c.parameter_list(WRITE + RANGE * MAX_RANGES)? else {
        return Ok(Outcome::Done(Reply::good()));
    };
    if list.len() < WRITE {
        return Err(length_error());
    }
    let ranges = ranges(&list, WRITE, c.lu)?;
    let (delete, offset) = (list.bit_at(2, 1), list.u64_at(8));
    let bytes = &list[16..16 + LENGTH];
    let (pieces, token) = match bytes.u32_at(0) {
        _ if usize::from(bytes.u16_at(6)) != LENGTH - 8 => {
            return Err(pointed(Asc::INVALID_TOKEN_LENGTH, 22));
        }
        ZERO => (ranges.iter().map(|range| Piece::new(None, c.home, *range)).collect(), None),
        CHANGE_VULNERABLE => {
            let (number, source, block, from) = present(c, bytes)?;
            let offset = offset.checked_mul(u64::from(block));
            let skip = offset.ok_or(Fault::from(Sense::parameter(8)))?;
            if source == c.home && from.iter().any(|own| ranges.iter().any(|range| range.overlaps(*own))) {
                // The first write would revoke the token that the next one needs.
                return Err(Sense::parameter(WRITE as u16).into());
            }
            let pieces =
                pair(source, &from, skip, c.home, &ranges).ok_or(Fault::from(Sense::parameter(8)))?;
            (pieces, Some(number))
        }
        _ => return Err(pointed(Asc::UNSUPPORTED_TOKEN_TYPE, 16)),
    };
    let job = Job::pieces(c.nexus, pieces, token, delete);
    c.begin(Some(c.cdb.u32_at(6)), true, job)
}

fn pointed(asc: Asc, byte: u16) -> Fault {
    let field = Some(FieldPointer { in_cdb: false, byte, bit: None });
    Sense { field, ..Sense::illegal(asc) }.into()
}

/// The token that the host presents: number, LU, block size and ranges. Whoever presents it must be able to read that LU by itself.
fn present(c: &mut Across<'_>, bytes: &[u8]) -> Result<(u64, LuId, u32, Vec<ByteRange>), Fault> {
    let found = c.copies.tokens.present(bytes, c.moment.now);
    let (number, token) = found.map_err(|sense| Sense { field: pointed_at(16), ..sense })?;
    match c.world.permit(c.nexus, token.lu, false) {
        Ok(_) => Ok((number, token.lu, token.block, token.ranges.clone())),
        Err(Denied::Unseen) => Err(pointed(Asc::TOKEN_UNKNOWN, 16)),
        Err(Denied::Says(_, Some(sense))) => Err(sense.into()),
        Err(Denied::Says(_, None)) => Err(CONFLICT),
    }
}

fn pointed_at(byte: u16) -> Option<FieldPointer> {
    Some(FieldPointer { in_cdb: false, byte, bit: None })
}

/// Lays the data of a token, from `skip` bytes on, over the ranges to be written. `None` when there is not enough of it.
fn pair(
    source: LuId,
    from: &[ByteRange],
    mut skip: u64,
    destination: LuId,
    to: &[ByteRange],
) -> Option<VecDeque<Piece>> {
    let mut pieces = VecDeque::new();
    let mut sources = from.iter();
    let mut have = ByteRange::new(0, 0);
    for range in to {
        let mut left = *range;
        while !left.is_empty() {
            if have.is_empty() {
                have = *sources.next()?;
                let jump = skip.min(have.len());
                skip -= jump;
                have = ByteRange::new(have.offset() + jump, have.len() - jump);
                continue;
            }
            let len = left.len().min(have.len());
            let read = ByteRange::new(have.offset(), len);
            pieces.push_back(Piece::new(
                Some((source, read)),
                destination,
                ByteRange::new(left.offset(), len),
            ));
            have = ByteRange::new(have.offset() + len, have.len() - len);
            left = ByteRange::new(left.offset() + len, left.len() - len);
        }
    }
    Some(pieces)
}

pub(crate) fn token_information(c: &mut Across<'_>) -> Run {
    let operation = c.named(c.cdb.u32_at(2))?;
    let mut out = status(operation);
    match &operation.token {
        Some(token) => {
            out.put32(2 + token.len() as u32);
            out.zeros(2);
            out.extend_from_slice(token);
        }
        None => out.put32(0),
    }
    let len = out.len() - 4;
    out.set32(0, len);
    c.data(out)
}

pub(crate) fn report_all_tokens(c: &mut Across<'_>) -> Run {
    let map = c.world.nexuses.get(&c.nexus).map(|nexus| &nexus.map);
    let mut out = vec![0; 8];
    // Tokens of LUs that this nexus sees, and of each no more than says nothing about the secret.
    for token in c.copies.tokens.of(|lu| map.is_some_and(|map| map.sees(lu))) {
        out.extend_from_slice(&token.bytes[..96]);
    }
    let len = out.len() - 4;
    out.set32(0, len);
    c.data(out)
}
