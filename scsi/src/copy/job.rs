//! A copy on its way: from segments or tokens to block requests, one at a time.
//!
//! Each chunk is a read, then a write; both are requests like those of a host's READ and WRITE and go the same way down, so they take turns
//! with whatever overlaps, and every byte written reaches the mirror. One chunk is in memory at a time.

use std::collections::VecDeque;

use twinlun_block::{BlockError, BlockRequest, BlockResult, BlockSize, ByteRange, LbaRange, Payload};

use super::parse::{Amount, CopyList, HOME, Segment, Target};
use super::tokens::Tokens;
use super::{CHUNK, Denied, World};
use crate::io::CLEAR_STEP;
use crate::lu::LogicalUnit;
use crate::sense::{Asc, CopyFailure, FieldPointer, Forwarded, Sense, SenseKey, Status};
use crate::{LuId, NexusId};

/// A copy under way.
#[derive(Debug)]
pub(crate) struct Job {
    nexus: NexusId,
    work: Work,
    piece: Option<Piece>,
    waiting: Waiting,
    /// Segments that are done.
    pub(crate) processed: u16,
    /// Bytes written.
    pub(crate) transferred: u64,
    /// Requests made.
    pub(crate) requests: u16,
}

/// What there is to do.
#[derive(Debug)]
enum Work {
    /// EXTENDED COPY: each segment is looked at when its turn comes.
    Segments { home: LuId, list: CopyList, seen: Vec<LuId> },
    /// WRITE USING TOKEN.
    Pieces {
        left: VecDeque<Piece>,
        /// The token whose data is written; `None` for zeros.
        token: Option<u64>,
        /// It is deleted when all is written (DEL_TKN).
        delete: bool,
    },
}

/// A run of bytes to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where the data is; zeros when there is none. It may be shorter than what is written: the rest is padding.
    pub(crate) source: Option<(LuId, ByteRange)>,
    pub(crate) destination: LuId,
    /// Whole blocks.
    pub(crate) range: ByteRange,
    /// What of it is written.
    done: u64,
    /// From the end to the start, because it overlaps itself.
    backwards: bool,
    /// Unit of the residue that INFORMATION reports; 0 for none.
    unit: u32,
    /// Where the parameter list names the copy source and destination.
    fields: [Option<u16>; 2],
}

impl Piece {
    pub(crate) fn new(source: Option<(LuId, ByteRange)>, destination: LuId, range: ByteRange) -> Self {
        let backwards = source.is_some_and(|(lu, from)| {
            lu == destination && from.overlaps(range) && range.offset() > from.offset()
        });
        Self { source, destination, range, done: 0, backwards, unit: 0, fields: [None, None] }
    }

    /// The next bytes to write.
    fn chunk(&self) -> ByteRange {
        let left = self.range.len() - self.done;
        let len = left.min(if self.source.is_some() { CHUNK } else { CLEAR_STEP });
        let skip = if self.backwards { left - len } else { self.done };
        ByteRange::new(self.range.offset() + skip, len)
    }

    /// The LU and the bytes of the source that belong to a chunk; `None` when it is padding alone.
    fn source_of(&self, chunk: ByteRange) -> Option<(LuId, ByteRange)> {
        let (lu, source) = self.source?;
        let skip = chunk.offset() - self.range.offset();
        let left = source.len().checked_sub(skip).filter(|left| *left > 0)?;
        Some((lu, ByteRange::new(source.offset() + skip, left.min(chunk.len()))))
    }
}

/// The request under way.
#[derive(Debug)]
enum Waiting {
    None,
    /// A read for `chunk`: its data begins `skip` bytes into what is read, and is `len` bytes long.
    Read {
        chunk: ByteRange,
        skip: usize,
        len: usize,
    },
    Write {
        lu: LuId,
        chunk: ByteRange,
    },
}

/// What comes next.
pub(crate) enum Next {
    Submit(LuId, BlockRequest),
    /// All is written; the token is to be deleted.
    Done(Option<u64>),
    Failed(Sense),
}

/// Why a copy ends early. Told as COPY ABORTED.
#[derive(Clone, Copy)]
struct Fault {
    asc: Asc,
    /// A field of the segment descriptor, or of the parameter list.
    field: Option<(bool, u16)>,
    forwarded: Option<Forwarded>,
}

impl Fault {
    fn in_segment(asc: Asc, byte: u16) -> Self {
        Self { asc, field: Some((true, byte)), forwarded: None }
    }

    fn in_list(asc: Asc, byte: u16) -> Self {
        Self { asc, field: Some((false, byte)), forwarded: None }
    }

    fn denied(denied: Denied, source: bool, field: Option<u16>) -> Self {
        let (asc, forwarded) = denied.forward(source);
        Self { asc, field: field.map(|byte| (false, byte)), forwarded }
    }
}

impl Job {
    /// EXTENDED COPY, sent to `home`.
    pub(crate) fn segments(nexus: NexusId, home: LuId, list: CopyList, world: &World<'_>) -> Self {
        let named = list.targets.iter().filter_map(|target| target.naa);
        let mut seen: Vec<LuId> = named.filter_map(|naa| Some(world.find(nexus, &naa)?.0)).collect();
        seen.dedup();
        Self::new(nexus, Work::Segments { home, list, seen })
    }

    /// WRITE USING TOKEN.
    pub(crate) fn pieces(nexus: NexusId, left: VecDeque<Piece>, token: Option<u64>, delete: bool) -> Self {
        Self::new(nexus, Work::Pieces { left, token, delete })
    }

    fn new(nexus: NexusId, work: Work) -> Self {
        Self { nexus, work, piece: None, waiting: Waiting::None, processed: 0, transferred: 0, requests: 0 }
    }

    /// Whether it may read or write that LU.
    pub(crate) fn touches(&self, lu: LuId) -> bool {
        match &self.work {
            Work::Segments { home, seen, .. } => *home == lu || seen.contains(&lu),
            Work::Pieces { left, .. } => left
                .iter()
                .chain(&self.piece)
                .any(|piece| piece.destination == lu || piece.source.is_some_and(|(source, _)| source == lu)),
        }
    }

    /// Whether it copies what that token stands for.
    pub(crate) fn uses(&self, token: u64) -> bool {
        matches!(self.work, Work::Pieces { token: Some(own), .. } if own == token)
    }

    /// Whether a write to any of those ranges is under way just now.
    pub(crate) fn writes(&self, lu: LuId, ranges: &[ByteRange]) -> bool {
        matches!(&self.waiting, Waiting::Write { lu: own, chunk }
            if *own == lu && ranges.iter().any(|range| range.overlaps(*chunk)))
    }

    /// The next step, after the result of the one before.
    pub(crate) fn next(&mut self, world: &World<'_>, tokens: &Tokens, previous: Option<BlockResult>) -> Next {
        if let Work::Pieces { token: Some(token), .. } = self.work
            && let Err(sense) = tokens.alive(token)
        {
            // What was just read may be newer than what the token stands for. It goes nowhere.
            return Next::Failed(sense);
        }
        let result = match std::mem::replace(&mut self.waiting, Waiting::None) {
            Waiting::None => self.go_on(world),
            Waiting::Read { chunk, skip, len } => self.write(world, chunk, skip, len, previous),
            Waiting::Write { chunk, .. } => self.written(world, chunk, previous),
        };
        match result {
            Ok(Some((lu, request))) => {
                self.requests = self.requests.saturating_add(1);
                Next::Submit(lu, request)
            }
            Ok(None) => Next::Done(match self.work {
                Work::Pieces { token, delete: true, .. } => token,
                _ => None,
            }),
            Err(fault) => Next::Failed(self.sense(fault)),
        }
    }

    /// Begins the next chunk.
    fn go_on(&mut self, world: &World<'_>) -> Result<Option<(LuId, BlockRequest)>, Fault> {
        loop {
            if let Some(piece) = &self.piece {
                let chunk = piece.chunk();
                let source = piece.source_of(chunk);
                let Some((lu, from)) = source else {
                    return self.clear(world, chunk).map(Some);
                };
                let unit = world
                    .permit(self.nexus, lu, false)
                    .map_err(|denied| Fault::denied(denied, true, piece.fields[0]))?;
                let range = whole_blocks(from, unit.geometry.block_size);
                if !unit.geometry.whole().contains(range) {
                    return Err(beyond(unit, range, true, 12));
                }
                let skip = (from.offset() - range.offset()) as usize;
                self.waiting = Waiting::Read { chunk, skip, len: from.len() as usize };
                return Ok(Some((lu, BlockRequest::Read { range })));
            }
            match &mut self.work {
                Work::Pieces { left, .. } => match left.pop_front() {
                    None => return Ok(None),
                    piece => self.piece = piece,
                },
                Work::Segments { home, list, .. } => {
                    let Some(segment) = list.segments.get(usize::from(self.processed)) else {
                        return Ok(None);
                    };
                    match resolve(segment, &list.targets, self.nexus, *home, world)? {
                        None => self.processed += 1,
                        piece => self.piece = piece,
                    }
                }
            }
        }
    }

    /// The LU that the piece is written to, when that is allowed.
    fn destination<'w>(&self, world: &World<'w>, chunk: ByteRange) -> Result<(LuId, &'w LogicalUnit), Fault> {
        let Some(piece) = &self.piece else {
            return Err(Fault { asc: Asc::NONE, field: None, forwarded: None });
        };
        let unit = world
            .permit(self.nexus, piece.destination, true)
            .map_err(|denied| Fault::denied(denied, false, piece.fields[1]))?;
        if !unit.geometry.whole().contains(chunk) {
            return Err(beyond(unit, chunk, false, 20));
        }
        Ok((piece.destination, unit))
    }

    /// Zeros: of the zero token, or padding.
    fn clear(&mut self, world: &World<'_>, chunk: ByteRange) -> Result<(LuId, BlockRequest), Fault> {
        let (lu, unit) = self.destination(world, chunk)?;
        self.waiting = Waiting::Write { lu, chunk };
        let fua = !unit.mode.current.wce;
        Ok((lu, BlockRequest::WriteZeroes { range: chunk, fua, may_unmap: unit.thin }))
    }

    /// Writes what was read.
    fn write(
        &mut self,
        world: &World<'_>,
        chunk: ByteRange,
        skip: usize,
        len: usize,
        read: Option<BlockResult>,
    ) -> Result<Option<(LuId, BlockRequest)>, Fault> {
        let read = read.unwrap_or(Err(BlockError::Aborted)).map_err(|e| self.failed(world, e, true))?;
        if read.len() < skip + len {
            return Err(self.failed(world, BlockError::Aborted, true));
        }
        let (lu, unit) = self.destination(world, chunk)?;
        let mut data = read.slice(skip, len);
        data.append(Payload::from(vec![0; chunk.len() as usize - len]));
        self.waiting = Waiting::Write { lu, chunk };
        let fua = !unit.mode.current.wce;
        Ok(Some((lu, BlockRequest::Write { range: chunk, data, fua })))
    }

    /// A chunk is written.
    fn written(
        &mut self,
        world: &World<'_>,
        chunk: ByteRange,
        result: Option<BlockResult>,
    ) -> Result<Option<(LuId, BlockRequest)>, Fault> {
        result.unwrap_or(Err(BlockError::Aborted)).map_err(|e| self.failed(world, e, false))?;
        self.transferred += chunk.len();
        if let Some(piece) = &mut self.piece {
            piece.done += chunk.len();
            if piece.done >= piece.range.len() {
                self.piece = None;
                if matches!(self.work, Work::Segments { .. }) {
                    self.processed += 1;
                }
            }
        }
        self.go_on(world)
    }

    /// A request failed below.
    fn failed(&self, world: &World<'_>, error: BlockError, source: bool) -> Fault {
        let piece = self.piece.as_ref();
        let lu = piece.and_then(|p| if source { p.source.map(|(lu, _)| lu) } else { Some(p.destination) });
        let size = lu.and_then(|lu| world.lus.get(&lu)).map(|lu| lu.geometry.block_size);
        let sense = Sense::from_block_error(error, !source, size.unwrap_or_default());
        let denied = Denied::Says(Status::CheckCondition, Some(sense));
        Fault::denied(denied, source, piece.and_then(|p| p.fields[usize::from(!source)]))
    }

    fn sense(&self, fault: Fault) -> Sense {
        let field = fault.field.map(|(_, byte)| FieldPointer { in_cdb: false, byte, bit: None });
        let residue = self.piece.as_ref().filter(|piece| piece.unit > 0);
        let information = residue.map(|p| (p.range.len() - p.done).div_ceil(u64::from(p.unit)));
        let copy = CopyFailure {
            segment: self.processed,
            in_segment: fault.field.is_some_and(|(in_segment, _)| in_segment),
            forwarded: fault.forwarded,
        };
        Sense { field, information, copy: Some(copy), ..Sense::new(SenseKey::CopyAborted, fault.asc) }
    }
}

/// The blocks that hold the bytes.
fn whole_blocks(bytes: ByteRange, size: BlockSize) -> ByteRange {
    let unit = u64::from(size.bytes());
    let start = bytes.offset() - bytes.offset() % unit;
    let end = bytes.end().checked_next_multiple_of(unit).unwrap_or(bytes.end());
    ByteRange::new(start, end - start)
}

/// LOGICAL BLOCK ADDRESS OUT OF RANGE, as the LU itself would say it.
fn beyond(unit: &LogicalUnit, range: ByteRange, source: bool, byte: u16) -> Fault {
    let geometry = &unit.geometry;
    let unit = u64::from(geometry.block_size.bytes());
    let (first, count) = (twinlun_block::Lba(range.offset() / unit), range.len().div_ceil(unit));
    let bad = LbaRange::within(first, count, geometry.blocks()).err().map_or(first, |e| e.first_bad);
    let sense = Some((SenseKey::IllegalRequest, Asc::LBA_OUT_OF_RANGE, Some(bad.0)));
    let forwarded = Some(Forwarded { source, status: Status::CheckCondition, sense });
    Fault { forwarded, ..Fault::in_segment(Asc::NONE, byte) }
}

/// A copy source or destination of a segment.
struct End<'w> {
    lu: LuId,
    unit: &'w LogicalUnit,
    pad: bool,
    field: Option<u16>,
}

/// The LU that a CSCD descriptor identifier stands for (SPC-4, 6.4.5.1). `byte` is where the segment descriptor names it.
fn end<'w>(
    id: u16,
    byte: u16,
    targets: &[Target],
    nexus: NexusId,
    home: LuId,
    world: &World<'w>,
) -> Result<End<'w>, Fault> {
    if id == HOME {
        let unit =
            world.lus.get(&home).ok_or(Fault::in_segment(Asc::COPY_TARGET_DEVICE_NOT_REACHABLE, byte))?;
        return Ok(End { lu: home, unit, pad: false, field: None });
    }
    let Some(target) = targets.get(usize::from(id)) else {
        return Err(Fault::in_segment(Asc::UNREACHABLE_COPY_TARGET, byte));
    };
    if target.null {
        return Err(Fault::in_list(Asc::COPY_TARGET_DEVICE_NOT_REACHABLE, target.at + 1));
    }
    if target.device_type != 0 {
        return Err(Fault::in_list(Asc::INCORRECT_COPY_TARGET_DEVICE_TYPE, target.at + 1));
    }
    // A LU that is not in the nexus's LUN map does not exist, whoever knows its name.
    let found = target.naa.and_then(|naa| world.find(nexus, &naa));
    let Some((lu, unit)) = found else {
        return Err(Fault::in_list(Asc::COPY_TARGET_DEVICE_NOT_REACHABLE, target.at));
    };
    if target.block != 0 && target.block != unit.geometry.block_size.bytes() {
        return Err(Fault::in_list(Asc::INVALID_COPY_SOURCE_OR_DESTINATION, target.at + 29));
    }
    Ok(End { lu, unit, pad: target.pad, field: Some(target.at) })
}

/// What a segment comes to; `None` when it copies nothing.
fn resolve(
    segment: &Segment,
    targets: &[Target],
    nexus: NexusId,
    home: LuId,
    world: &World<'_>,
) -> Result<Option<Piece>, Fault> {
    let from = end(segment.from, 4, targets, nexus, home, world)?;
    let to = end(segment.to, 6, targets, nexus, home, world)?;
    if segment.fast_only {
        return Err(Fault::in_segment(Asc::FAST_COPY_NOT_POSSIBLE, 1));
    }
    let (source_block, block) =
        (u64::from(from.unit.geometry.block_size.bytes()), u64::from(to.unit.geometry.block_size.bytes()));
    let (len, unit) = match segment.amount {
        Amount::SourceBlocks(count) => (u64::from(count) * source_block, source_block),
        Amount::DestinationBlocks(count) => (u64::from(count) * block, block),
        Amount::Bytes(count) => (u64::from(count), 1),
    };
    if len == 0 {
        return Ok(None);
    }
    let (offset, in_block) = segment.destination;
    if u64::from(in_block) % block != 0 {
        // Part of a block cannot be written without what is around it.
        return Err(Fault::in_segment(Asc::COPY_SEGMENT_GRANULARITY_VIOLATION, 30));
    }
    // Inexact segments (SPC-4, 6.4.6.2): what is left of a destination block is padded with zeros, what is left of a source block is
    // dropped, each where its PAD bit allows it. Residual data is not carried to another segment (CAT).
    let part_of_source = matches!(segment.amount, Amount::DestinationBlocks(_)) && len % source_block != 0;
    let part_of_block = len % block != 0;
    if part_of_source && (segment.cat || !from.pad) || part_of_block && (segment.cat || !to.pad) {
        return Err(Fault::in_segment(Asc::UNEXPECTED_INEXACT_SEGMENT, 1));
    }
    let place = |(lba, bytes): (u64, u16), size: u64, len: u64| {
        ByteRange::checked(lba.checked_mul(size)?.checked_add(u64::from(bytes))?, len)
    };
    let far = |end: &End<'_>, lba: u64, source, byte| {
        let size = end.unit.geometry.block_size.bytes();
        let whole = end.unit.geometry.blocks().min(lba) * u64::from(size);
        beyond(end.unit, ByteRange::new(whole, u64::from(size)), source, byte)
    };
    let (range, source) = (
        place((offset, in_block), block, len.next_multiple_of(block)),
        place(segment.source, source_block, len),
    );
    let Some(source) = source.filter(|range| from.unit.geometry.whole().contains(*range)) else {
        return Err(source.map_or_else(
            || far(&from, segment.source.0, true, 12),
            |range| beyond(from.unit, whole_blocks(range, from.unit.geometry.block_size), true, 12),
        ));
    };
    let Some(range) = range.filter(|range| to.unit.geometry.whole().contains(*range)) else {
        return Err(
            range.map_or_else(|| far(&to, offset, false, 20), |range| beyond(to.unit, range, false, 20))
        );
    };
    let mut piece = Piece::new(Some((from.lu, source)), to.lu, range);
    piece.unit = u32::try_from(unit).unwrap_or(0);
    piece.fields = [from.field, to.field];
    Ok(Some(piece))
}
