//! Block commands (SBC-4, clause 5): from checked CDBs to requests for the block layer.
//!
//! Data-Out that is shorter than the CDB asks for: what came is processed and the transport reports an overflow of the rest (RFC 7143, 11.4.5.1). Where
//! it ends within a block, WRITE leaves the rest of that block as it is; commands that compare or verify refuse it with INVALID FIELD IN
//! COMMAND INFORMATION UNIT.

use std::collections::VecDeque;

use twinlun_block::{BlockRequest, ByteRange, Lba, LbaRange, Payload};

use crate::Outcome;
use crate::context::{Context, Fault, Run};
use crate::inquiry::{MAX_TRANSFER, MAX_UNMAP_BLOCKS, MAX_UNMAP_DESCRIPTORS, MAX_WRITE_SAME, physical};
use crate::io::{CLEAR_STEP, Expected, Long, Merge, Plan, STEP, repeat};
use crate::sense::{Asc, Reply, Sense, SenseKey};
use crate::wire::{Fields, Put};

/// LOGICAL BLOCK ADDRESS OUT OF RANGE, naming the first block that is not there.
pub(crate) fn out_of_range(first_bad: Lba) -> Sense {
    Sense::illegal(Asc::LBA_OUT_OF_RANGE).with_information(first_bad.0)
}

impl Context<'_> {
    /// The bytes of the blocks that the CDB names.
    fn bytes(&self) -> ByteRange {
        let range = self.range.expect("the table gives this command a span");
        to_bytes(range, self)
    }

    /// The same for commands that move data, within MAXIMUM TRANSFER LENGTH.
    fn transfer(&self) -> Result<ByteRange, Fault> {
        let bytes = self.bytes();
        if bytes.len() > MAX_TRANSFER {
            return Err(Sense::cdb_field(self.row.span.length_byte(), None).into());
        }
        Ok(bytes)
    }

    /// FUA, or no write cache that could make a difference.
    fn fua(&self) -> bool {
        self.cdb.len() > 6 && self.cdb.bit_at(1, 3) || !self.lu.mode.current.wce
    }

    /// The Data-Out for `range`: all of it, or as many whole blocks as the initiator sent, with the range they go to.
    fn data_for(&mut self, range: ByteRange) -> Result<(ByteRange, Payload), Fault> {
        self.wanted = range.len();
        let mut data = std::mem::take(&mut self.data_out);
        if data.len() as u64 >= range.len() {
            data.truncate(range.len() as usize);
            return Ok((range, data));
        }
        if !data.len().is_multiple_of(self.lu.geometry.block_size.bytes() as usize) {
            return Err(Sense::illegal(Asc::INVALID_FIELD_IN_INFORMATION_UNIT).into());
        }
        Ok((ByteRange::new(range.offset(), data.len() as u64), data))
    }

    /// Data-Out of exactly this length, where less or more has no meaning.
    fn exact_data(&mut self, len: u64) -> Result<Payload, Fault> {
        self.wanted = len;
        if self.data_out.len() as u64 != len {
            return Err(Sense::illegal(Asc::INVALID_FIELD_IN_INFORMATION_UNIT).into());
        }
        Ok(std::mem::take(&mut self.data_out))
    }

    fn nothing_to_do(&self) -> Run {
        Ok(Outcome::Done(Reply { data_out_len: self.wanted, ..Reply::good() }))
    }
}

fn to_bytes(range: LbaRange, c: &Context<'_>) -> ByteRange {
    range.bytes(c.lu.geometry.block_size).expect("a range within the LU is within its size in bytes")
}

pub(crate) fn test_unit_ready(_: &mut Context<'_>) -> Run {
    // NOT READY was looked at before this.
    Context::good()
}

pub(crate) fn read(c: &mut Context<'_>) -> Run {
    let range = c.transfer()?;
    if range.is_empty() {
        return c.nothing_to_do();
    }
    let request = BlockRequest::Read { range };
    // FUA: what is read is on the medium, so that power loss cannot unread it.
    let from_medium = c.lu.mode.current.wce && c.fua();
    c.io(if from_medium { Plan::Flushed(request) } else { Plan::Single(request) })
}

pub(crate) fn write(c: &mut Context<'_>) -> Run {
    let range = c.transfer()?;
    let fua = c.fua();
    let block = c.lu.geometry.block_size.bytes() as usize;
    let (came, asked) = (c.data_out.len(), range.len());
    if (came as u64) < asked && !came.is_multiple_of(block) {
        c.wanted = asked;
        let data = std::mem::take(&mut c.data_out);
        let whole = came - came % block;
        let front = ByteRange::new(range.offset(), whole as u64);
        let last = ByteRange::new(front.end(), block as u64);
        let write = BlockRequest::Write { range: front, data: data.slice(0, whole), fua };
        let rest = Long::merge(Merge::Replace, last, data.slice(whole, came - whole), fua);
        return c.io(Plan::Long(Box::new(Long::then((whole > 0).then_some(write), rest))));
    }
    let (range, data) = c.data_for(range)?;
    if range.is_empty() {
        return c.nothing_to_do();
    }
    c.io(Plan::Single(BlockRequest::Write { range, data, fua }))
}

/// BYTCHK of VERIFY and WRITE AND VERIFY. 10b is reserved.
fn bytchk(c: &Context<'_>) -> Result<u8, Fault> {
    match c.cdb.u8_at(1) >> 1 & 0x03 {
        0b10 => Err(Sense::cdb_field(1, Some(2)).into()),
        value => Ok(value),
    }
}

pub(crate) fn write_and_verify(c: &mut Context<'_>) -> Run {
    let range = c.transfer()?;
    let compare = match bytchk(c)? {
        0 => false,
        1 => true,
        _ => return Err(Sense::cdb_field(1, Some(2)).into()),
    };
    let (range, data) = c.data_for(range)?;
    if range.is_empty() {
        return c.nothing_to_do();
    }
    // The medium is verified, not a cache before it.
    let write = Some(BlockRequest::Write { range, data: data.clone(), fua: true });
    let expected = if compare { Expected::Data(data) } else { Expected::Readable };
    c.io(Plan::Long(Box::new(Long::then(write, Long::verify(range, expected)))))
}

pub(crate) fn verify(c: &mut Context<'_>) -> Run {
    let block = u64::from(c.lu.geometry.block_size.bytes());
    let (range, expected) = match bytchk(c)? {
        0 => (c.bytes(), Expected::Readable),
        1 => {
            let range = c.transfer()?;
            let (range, data) = c.data_for(range)?;
            (range, Expected::Data(data))
        }
        _ if c.bytes().is_empty() => (c.bytes(), Expected::Readable),
        _ => {
            let range = c.bytes();
            let data = c.exact_data(block)?.to_bytes();
            (range, Expected::Pattern(repeat(&data, range.len().min(STEP))))
        }
    };
    if range.is_empty() {
        return c.nothing_to_do();
    }
    c.io(Plan::Long(Box::new(Long::verify(range, expected))))
}

pub(crate) fn compare_and_write(c: &mut Context<'_>) -> Run {
    let range = c.transfer()?;
    let fua = c.fua();
    if range.is_empty() && c.data_out.is_empty() {
        return c.nothing_to_do();
    }
    if range.is_empty() {
        // Data for no blocks: the host meant 256, which the field cannot say and MAXIMUM COMPARE AND WRITE LENGTH excludes.
        return Err(Sense::cdb_field(c.row.span.length_byte(), None).into());
    }
    let data = c.exact_data(2 * range.len())?;
    let half = range.len() as usize;
    let (compare, data) = (data.slice(0, half), data.slice(half, half));
    c.io(Plan::Single(BlockRequest::CompareAndWrite { range, compare, data, fua }))
}

/// All of it or nothing, whatever fails meanwhile: the layers below see to that.
pub(crate) fn write_atomic(c: &mut Context<'_>) -> Run {
    let range = c.bytes();
    if range.len() > c.lu.geometry.max_atomic() {
        return Err(Sense::cdb_field(c.row.span.length_byte(), None).into());
    }
    // Whole physical blocks: what a LU with such blocks promises is what hosts expect of it, and what VPD B0 says.
    let unit = u64::from(physical(c.lu).max(1)) * u64::from(c.lu.geometry.block_size.bytes());
    if !range.offset().is_multiple_of(unit) {
        return Err(Sense::cdb_field(2, None).into());
    }
    if !range.len().is_multiple_of(unit) {
        return Err(Sense::cdb_field(c.row.span.length_byte(), None).into());
    }
    let fua = c.fua();
    let data = c.exact_data(range.len())?;
    if range.is_empty() {
        return c.nothing_to_do();
    }
    c.io(Plan::Single(BlockRequest::WriteAtomic { range, data, fua }))
}

pub(crate) fn or_write(c: &mut Context<'_>) -> Run {
    let range = c.transfer()?;
    let fua = c.fua();
    let (range, data) = c.data_for(range)?;
    if range.is_empty() {
        return c.nothing_to_do();
    }
    c.io(Plan::Long(Box::new(Long::merge(Merge::Or, range, data, fua))))
}

/// Requests over a long range, piece by piece.
fn in_steps(range: ByteRange, request: impl FnMut(ByteRange) -> BlockRequest) -> VecDeque<BlockRequest> {
    range.split_at_multiples(CLEAR_STEP).map(request).collect()
}

pub(crate) fn write_same(c: &mut Context<'_>) -> Run {
    let range = match c.bytes() {
        // No length means the rest of the LU (WSNZ 0), and there must be one.
        named if named.is_empty() => ByteRange::new(named.offset(), c.lu.geometry.size - named.offset()),
        named => named,
    };
    let unmap = c.cdb.bit_at(1, 3);
    let no_data = c.cdb.len() == 16 && c.cdb.bit_at(1, 0);
    if range.is_empty() {
        return Err(out_of_range(Lba(c.lu.geometry.blocks())).into());
    }
    if range.len() > MAX_WRITE_SAME {
        return Err(Sense::cdb_field(c.row.span.length_byte(), None).into());
    }
    if unmap && !c.lu.thin {
        return Err(Sense::cdb_field(1, Some(3)).into());
    }
    let block = u64::from(c.lu.geometry.block_size.bytes());
    let data = if no_data { Payload::new() } else { c.exact_data(block)? };
    // Every write of the pattern is durable by itself under WCE off; no FUA bit exists for WRITE SAME.
    let fua = !c.lu.mode.current.wce;
    // A host that asks for unmapping gives the blocks up, whatever it sends along; they read as zeros (LBPRZ). Linux's own target has it so,
    // and conformance suites expect it, where SBC-4 would have other data written.
    if unmap || data.is_zero() {
        let request = |range| BlockRequest::WriteZeroes { range, fua, may_unmap: unmap };
        return c
            .io(Plan::Long(Box::new(Long::Sequence { requests: in_steps(range, request), write: true })));
    }
    let pattern = repeat(&data.to_bytes(), range.len().min(STEP));
    c.io(Plan::Long(Box::new(Long::Repeat { left: range, pattern, fua })))
}

pub(crate) fn unmap(c: &mut Context<'_>) -> Run {
    let len = c.length16(7);
    if len == 0 {
        return Context::good();
    }
    let list = c.parameter_list(len as u64)?;
    if list.len() < 8 {
        return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    let described = usize::from(list.u16_at(2));
    let Some(descriptors) = list.get(8..8 + described) else {
        return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR).into());
    };
    let (capacity, mut total) = (c.lu.geometry.blocks(), 0u64);
    let mut ranges = Vec::new();
    // A descriptor that is cut off is ignored (SBC-4, 5.35.2).
    for (index, descriptor) in descriptors.chunks_exact(16).enumerate() {
        let (lba, count) = (Lba(descriptor.u64_at(0)), u64::from(descriptor.u32_at(8)));
        total += count;
        if index >= MAX_UNMAP_DESCRIPTORS || total > MAX_UNMAP_BLOCKS {
            return Err(Sense::parameter(8 + 16 * index as u16).into());
        }
        let range = LbaRange::within(lba, count, capacity).map_err(|bad| out_of_range(bad.first_bad))?;
        if count > 0 {
            ranges.push(to_bytes(range, c));
        }
    }
    let mut requests = VecDeque::new();
    for range in ranges {
        requests.extend(in_steps(range, |range| BlockRequest::Unmap { range }));
    }
    if !c.lu.mode.current.wce && !requests.is_empty() {
        requests.push_back(BlockRequest::Flush);
    }
    c.io(Plan::Long(Box::new(Long::Sequence { requests, write: true })))
}

pub(crate) fn synchronize_cache(c: &mut Context<'_>) -> Run {
    // The whole cache, and IMMED answers no earlier: both are allowed, and neither lies.
    c.io(Plan::Single(BlockRequest::Flush))
}

pub(crate) fn pre_fetch(_: &mut Context<'_>) -> Run {
    // GOOD: not all of it is promised to stay in a cache.
    Context::good()
}

pub(crate) fn read_capacity_10(c: &mut Context<'_>) -> Run {
    let last = c.lu.geometry.blocks().saturating_sub(1);
    let mut out = Vec::with_capacity(8);
    out.put32(u32::try_from(last).unwrap_or(u32::MAX));
    out.put32(c.lu.geometry.block_size.bytes());
    Context::data(out, 8)
}

pub(crate) fn read_capacity_16(c: &mut Context<'_>) -> Run {
    let mut out = Vec::with_capacity(32);
    out.put64(c.lu.geometry.blocks().saturating_sub(1));
    out.put32(c.lu.geometry.block_size.bytes());
    out.put8(0); // no protection
    out.put8(c.lu.physical_exponent());
    out.put16(if c.lu.thin { 0xC000 } else { 0 }); // LBPME, LBPRZ; aligned at LBA 0
    out.zeros(16);
    Context::data(out, c.length32(10))
}

/// The refusal of every row that writes, while SWP is set or the LU is read-only.
pub(crate) fn write_protected(lu: &crate::lu::LogicalUnit) -> Sense {
    let asc = if lu.traits.read_only { Asc::HARDWARE_WRITE_PROTECTED } else { Asc::WRITE_PROTECTED };
    Sense::new(SenseKey::DataProtect, asc)
}
