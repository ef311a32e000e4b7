//! For which parts of a LU its disks have taken storage (docs/design/raid.md, "Space").

use std::rc::Rc;

use twinlun_block::{Allocation, BlockError, ByteRange};

use super::LuCore;
use super::member::Member;

/// Chunks that are looked at for one answer; it ends there, and the next question goes on.
const MAX_CHUNKS: usize = 1 << 20;

/// What a column said last: bytes of the column, and whether storage is taken for them.
struct Known {
    until: u64,
    mapped: bool,
}

impl LuCore {
    /// Runs from the start of the range, at most `limit`. A thick LU has all its storage.
    pub(super) async fn allocation(
        &self,
        range: ByteRange,
        limit: usize,
    ) -> Result<Vec<Allocation>, BlockError> {
        if !self.thin {
            return Ok(vec![Allocation { range, mapped: true }]);
        }
        let mut known: Vec<Option<Known>> = (0..self.stripe.columns).map(|_| None).collect();
        let step = if self.stripe.columns == 1 { self.geometry.size } else { self.stripe.chunk };
        let mut runs = Vec::new();
        for piece in range.split_at_multiples(step).take(MAX_CHUNKS) {
            let Some(part) = self.stripe.parts(piece).into_iter().next() else { break };
            let (mut at, end) = (part.range.offset(), part.range.end());
            let column_end = self.stripe.column_size(self.geometry.size);
            while at < end {
                let known = &mut known[part.column];
                let fresh = known.as_ref().is_some_and(|known| known.until > at);
                if !fresh {
                    *known = Some(self.ask(part.column, ByteRange::new(at, column_end - at)).await?);
                }
                let Some(Known { until, mapped }) = *known else { break };
                let len = until.min(end) - at;
                let offset = self.stripe.logical(part.column, at);
                Allocation::join(&mut runs, Allocation { range: ByteRange::new(offset, len), mapped });
                if runs.len() > limit {
                    runs.truncate(limit);
                    return Ok(runs);
                }
                at += len;
            }
        }
        Ok(runs)
    }

    async fn ask(&self, column: usize, range: ByteRange) -> Result<Known, BlockError> {
        let copies = self.copies(column);
        let member = copies.iter().find(|member: &&Rc<Member>| member.is_in_step());
        let member = member.ok_or(BlockError::NotReady)?;
        let (mapped, until) = member.allocated(range).await.map_err(|_| BlockError::NotReady)?;
        // A disk that answers with nothing would be asked for ever.
        Ok(Known { until: until.max(range.offset() + 1), mapped })
    }

    /// Bytes that may still be taken, where the carriers of the disks can run out of them, and bytes that are taken.
    pub(crate) async fn space(&self) -> Result<(Option<u64>, u64), BlockError> {
        let mut available: Option<u64> = None;
        for slot in self.active_slots() {
            if let Some(free) = slot.free_space().await {
                available = Some(available.map_or(free, |least| least.min(free)));
            }
        }
        let (mut used, mut at) = (0, 0);
        while at < self.geometry.size {
            let rest = ByteRange::new(at, self.geometry.size - at);
            let runs = self.allocation(rest, 1024).await?;
            used += runs.iter().filter(|run| run.mapped).map(|run| run.range.len()).sum::<u64>();
            at = runs.last().map_or(self.geometry.size, |run| run.range.end());
        }
        Ok((available, used))
    }
}
