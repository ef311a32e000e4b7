//! GET LBA STATUS: for which blocks storage is taken (SBC-4, 5.6).

use twinlun_block::{Allocation, BlockError, BlockSize, ByteRange};

use crate::context::{Context, Run};
use crate::sense::{Reply, Sense};
use crate::wire::{Fields, Put};
use crate::{LuId, Outcome};

const HEADER: usize = 8;
const DESCRIPTOR: usize = 16;
/// Descriptors of one answer, whatever room the host has.
const MOST: usize = 4096;

/// GET LBA STATUS on its way: what the layers below are asked, and how their answer reads.
#[derive(Debug)]
pub struct LbaStatus {
    lu: LuId,
    range: ByteRange,
    limit: usize,
    size: BlockSize,
    allocation_length: usize,
    descriptor_sense: bool,
}

pub(crate) fn get_lba_status(c: &mut Context<'_>) -> Run {
    let size = c.lu.geometry.block_size;
    let offset = c.cdb.u64_at(2) << size.shift();
    let allocation_length = c.length32(10);
    let limit = (allocation_length.saturating_sub(HEADER) / DESCRIPTOR).clamp(1, MOST);
    Ok(Outcome::LbaStatus(Box::new(LbaStatus {
        lu: c.lu_id,
        range: ByteRange::new(offset, c.lu.geometry.size - offset),
        limit,
        size,
        allocation_length,
        descriptor_sense: c.lu.mode.current.d_sense,
    })))
}

impl LbaStatus {
    /// The LU whose layer is asked.
    pub fn lu(&self) -> LuId {
        self.lu
    }

    /// The bytes that are asked about.
    pub fn range(&self) -> ByteRange {
        self.range
    }

    /// How many runs the host has room for.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The answer to the host, from that of [`twinlun_block::BlockLayer::allocation`].
    pub fn finish(self, found: Result<Vec<Allocation>, BlockError>) -> Reply {
        let runs = match found {
            Ok(runs) => self.in_blocks(&runs),
            Err(error) => {
                let sense = Sense::from_block_error(error, false, self.size);
                return Reply::check(&sense, self.descriptor_sense);
            }
        };
        let mut out = Vec::with_capacity(HEADER + DESCRIPTOR * runs.len());
        out.put32((4 + DESCRIPTOR * runs.len()) as u32);
        out.put32(0);
        for (lba, blocks, mapped) in runs {
            out.put64(lba);
            out.put32(blocks);
            out.put8(u8::from(!mapped)); // 0: mapped or unknown; 1: deallocated
            out.zeros(3);
        }
        out.truncate(self.allocation_length);
        Reply::data(out)
    }

    /// Whole blocks: one of which storage is taken for a part is mapped. Runs are cut where a descriptor can count no further.
    fn in_blocks(&self, runs: &[Allocation]) -> Vec<(u64, u32, bool)> {
        let shift = self.size.shift();
        let block = u64::from(self.size.bytes());
        let mut joined = Vec::new();
        let mut at = self.range.offset();
        for run in runs {
            let end = run.range.end();
            let stop = if run.mapped { end.next_multiple_of(block) } else { end - end % block };
            let stop = stop.min(self.range.end());
            if run.range.offset() > at && !run.mapped {
                continue;
            }
            if !run.mapped && run.range.offset().next_multiple_of(block) > at {
                // It begins within a block of which storage is taken for the front.
                let next = run.range.offset().next_multiple_of(block);
                Allocation::join(
                    &mut joined,
                    Allocation { range: ByteRange::new(at, next - at), mapped: true },
                );
                at = next;
            }
            if stop > at {
                let range = ByteRange::new(at, stop - at);
                Allocation::join(&mut joined, Allocation { range, mapped: run.mapped });
                at = stop;
            }
        }
        if joined.is_empty() {
            let range = ByteRange::new(self.range.offset(), block.min(self.range.len()));
            joined.push(Allocation { range, mapped: true });
        }
        let most = u64::from(u32::MAX) << shift;
        let pieces = joined.iter().flat_map(|run| {
            let mapped = run.mapped;
            let count = run.range.len().div_ceil(most);
            let piece = move |index: u64| {
                let offset = run.range.offset() + index * most;
                let len = most.min(run.range.end() - offset);
                (offset >> shift, (len >> shift) as u32, mapped)
            };
            (0..count).map(piece)
        });
        pieces.take(self.limit).collect()
    }
}
