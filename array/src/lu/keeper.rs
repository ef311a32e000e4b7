//! What keeps the copies of a LU equal: resynchronisation after a crash, rebuild, clearing of the write intent.

use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use twinlun_block::{BlockError, ByteRange, Payload};
use twinlun_io::{DiskError, Durability};

use super::LuCore;
use super::member::{Content, Member};
use crate::planted::{Bug, planted};
use crate::stripe::ColumnPart;
use crate::vault::record;
use crate::{ArrayEvent, RebuildProgress};

use super::record::LuRecord;

/// Bytes copied under one turn.
const PIECE: u64 = 1 << 20;
/// What is copied alone when a larger piece cannot be read.
const SMALL: u64 = 4096;
/// How long the keeper rests after something went wrong.
const RETRY: Duration = Duration::from_secs(30);

/// Shortest rest.
const MIN_REST: Duration = Duration::from_millis(20);

/// Starts the keeper of a redundant LU; it ends when the LU stops.
pub(crate) fn start(lu: &Rc<LuCore>) {
    if lu.intent.is_some() {
        let keeper = lu.clone();
        lu.vault.shard.spawn(async move { keeper.keep().await });
    }
}

impl LuCore {
    async fn keep(self: Rc<Self>) {
        let Some(intent) = self.intent.clone() else { return };
        let shard = self.vault.shard.clone();
        while !self.stopping.get() {
            let rest = match self.work().await {
                Ok(()) => intent.next_clearing(self.options.intent_idle).map(|until| until - shard.now()),
                Err(reason) => {
                    self.vault.events.push(ArrayEvent::RebuildStopped { uuid: self.uuid, reason });
                    Some(RETRY)
                }
            };
            match rest {
                // Never without a pause: what could not be cleared is tried again, but not at once.
                Some(rest) => drop(shard.timeout(rest.max(MIN_REST), intent.kick.notified()).await),
                None => {
                    intent.is_resting.set(true);
                    intent.kick.notified().await;
                    intent.is_resting.set(false);
                }
            }
            if !self.stopping.get() {
                self.clear_intent(self.options.intent_idle).await;
            }
        }
    }

    async fn work(self: &Rc<Self>) -> Result<(), String> {
        if !self.is_served() {
            return Ok(()); // Nothing to copy from; a disk that comes back kicks.
        }
        self.resynchronise_all().await.map_err(|error| error.to_string())?;
        self.rebuild().await
    }

    /// Flushes the copies and clears the marks of regions without a write for `idle`.
    pub(crate) async fn clear_intent(&self, idle: Duration) {
        let Some(intent) = &self.intent else { return };
        let now = self.vault.shard.now().since_start();
        let before = twinlun_io::Instant::from_start(now.saturating_sub(idle));
        let regions = if now < idle { return } else { intent.clearable(before) };
        if regions.is_empty() || self.has_unsettled_loss() {
            return;
        }
        let flushed = planted(Bug::ClearIntentWithoutFlush) || self.flush().await.is_ok();
        if !flushed || self.has_unsettled_loss() {
            return;
        }
        if let Err(error) = intent.clear(regions).await {
            tracing::warn!(lu = %self.uuid, %error, "write intent cannot be cleared");
        }
    }

    async fn resynchronise_all(self: &Rc<Self>) -> Result<(), BlockError> {
        let Some(intent) = &self.intent else { return Ok(()) };
        let mut bytes = 0;
        for region in intent.suspects(self.geometry.whole()) {
            if self.stopping.get() {
                return Ok(());
            }
            self.resynchronise(region).await?;
            bytes += region.len();
        }
        if bytes > 0 {
            self.vault.events.push(ArrayEvent::Resynchronised { uuid: self.uuid, bytes });
        }
        Ok(())
    }

    /// Makes the copies of a suspect region equal. Any copy will do as the source, but always the same one: what is
    /// suspect was never acknowledged, and is not read before this is over.
    pub(super) async fn resynchronise(self: &Rc<Self>, region: ByteRange) -> Result<(), BlockError> {
        let Some(intent) = &self.intent else { return Ok(()) };
        let _turn = self.turns.exclusive(region).await;
        if !intent.is_suspect(region) {
            return Ok(());
        }
        for part in self.stripe.parts(region) {
            for piece in part.range.split_at_multiples(PIECE) {
                self.equalise(&ColumnPart { column: part.column, range: piece }).await?;
            }
        }
        self.settle_losses().await?;
        intent.settle(region);
        Ok(())
    }

    /// Copies a piece from the first copy that can be read to all others in use.
    async fn equalise(&self, part: &ColumnPart) -> Result<(), BlockError> {
        let (source, data) = match self.read_source(part).await {
            Ok(found) => found,
            // No copy of it can be read, now or by a host, until it is written again; that makes the copies equal.
            Err(BlockError::Medium { .. }) if part.range.len() <= SMALL => return Ok(()),
            Err(error @ BlockError::NotReady) => return Err(error),
            Err(_) => {
                for small in part.range.split_at_multiples(SMALL) {
                    let part = ColumnPart { column: part.column, range: small };
                    Box::pin(self.equalise(&part)).await?;
                }
                return Ok(());
            }
        };
        let mut failed = self.copy_from(&source, &data, part).await;
        // One that has no room takes nothing new, but may be copied from: what differs was not answered, so either is right.
        let is_full = |(copy, error): &(Rc<Member>, DiskError)| {
            copy.is_in_step() && matches!(error, DiskError::Full { .. })
        };
        if let Some((full, _)) = failed.iter().find(|failure| is_full(failure))
            && let Ok(data) = full.read(part.range).await
        {
            let full = full.clone();
            failed = self.copy_from(&full, &data, part).await;
        }
        for (copy, error) in failed {
            if let Some(slot) = &copy.slot {
                self.vault.mark_failed(slot, &error.to_string());
            }
        }
        Ok(())
    }

    /// Writes a piece to all copies but the one it is from, where they differ; those that failed, and how.
    async fn copy_from(
        &self,
        source: &Rc<Member>,
        data: &Payload,
        part: &ColumnPart,
    ) -> Vec<(Rc<Member>, DiskError)> {
        let mut targets = self.copies(part.column);
        targets.retain(|copy| !Rc::ptr_eq(copy, source) && copy.active().is_some());
        let bytes = data.to_bytes();
        let writes = targets.iter().map(async |copy| {
            // Equal already, for the most part; and a hole that reads as zeros stays one.
            if copy.read(part.range).await.is_ok_and(|found| found.to_bytes() == bytes) {
                return Ok(());
            }
            copy.write(part.range, Content::Data(data.clone()), Durability::Volatile).await
        });
        let done = join_all(writes).await;
        targets.into_iter().zip(done).filter_map(|(copy, done)| Some((copy, done.err()?))).collect()
    }

    async fn read_source(&self, part: &ColumnPart) -> Result<(Rc<Member>, Payload), BlockError> {
        let mut last = BlockError::NotReady;
        for member in self.copies(part.column).into_iter().filter(|member| member.is_in_step()) {
            match member.read(part.range).await {
                Ok(data) => return Ok((member, data)),
                Err(error) => last = self.medium(part, &error),
            }
        }
        Err(last)
    }

    /// Rebuilds all members that are not in step and whose disk is in use, one after the other.
    async fn rebuild(self: &Rc<Self>) -> Result<(), String> {
        for (index, member) in self.member_list().into_iter().enumerate() {
            if member.is_building() {
                self.rebuild_member(index, &member).await?;
            }
        }
        Ok(())
    }

    async fn rebuild_member(self: &Rc<Self>, index: usize, member: &Rc<Member>) -> Result<(), String> {
        let column = index / self.stripe.copies;
        let size = self.stripe.column_size(self.geometry.size);
        let shard = self.vault.shard.clone();
        let mut checkpoint = member.built.get().unwrap_or(0);
        let mut at = checkpoint;
        while at < size {
            if self.stopping.get() || !member.is_building() {
                return Ok(());
            }
            let started = shard.now();
            let had_company = !self.turns.is_empty();
            let part = ColumnPart { column, range: ByteRange::new(at, PIECE.min(size - at)) };
            {
                let _turn = self.turns.exclusive(self.logical_hull(part.range)).await;
                if !(planted(Bug::RebuildSkipsBusy) && had_company) {
                    self.copy_to(member, &part).await?;
                }
            }
            at = part.range.end();
            member.built.set(Some(at));
            if at - checkpoint >= self.options.rebuild_checkpoint {
                self.store_built(member, Some(at)).await?;
                checkpoint = at;
                self.clear_intent(self.options.intent_idle).await;
            }
            if had_company || !self.turns.is_empty() {
                // Hosts first: the disk is theirs for as long as the piece took.
                shard.sleep((shard.now() - started) * self.options.rebuild_yield).await;
            } else {
                shard.yield_now().await;
            }
        }
        self.store_built(member, None).await?;
        self.vault.events.push(ArrayEvent::RebuildDone { uuid: self.uuid });
        if let Some(state) = self.state_change() {
            self.vault.events.push(ArrayEvent::LuState { uuid: self.uuid, state });
        }
        Ok(())
    }

    /// The smallest range of the LU that covers a range of every column.
    fn logical_hull(&self, range: ByteRange) -> ByteRange {
        if self.stripe.columns == 1 {
            return range;
        }
        let row = self.stripe.chunk * self.stripe.columns;
        let start = range.offset() / self.stripe.chunk * row;
        let end = (range.end().div_ceil(self.stripe.chunk) * row).min(self.geometry.size);
        ByteRange::new(start, end.saturating_sub(start))
    }

    async fn copy_to(&self, member: &Rc<Member>, part: &ColumnPart) -> Result<(), String> {
        // An unreadable block stops the rebuild: the new disk must not hold anything else in its place.
        let (_, data) = self.read_source(part).await.map_err(|error| error.to_string())?;
        let done = member.write(part.range, Content::Data(data), Durability::Volatile).await;
        if let (Err(error), Some(slot)) = (&done, &member.slot) {
            let _ = self.vault.fail(slot, &format!("rebuild: {error}")).await;
        }
        done.map_err(|error| error.to_string())
    }

    /// Records how far a rebuild is, once that is stable on the disk.
    async fn store_built(&self, member: &Rc<Member>, built: Option<u64>) -> Result<(), String> {
        let slot = member.active().cloned().ok_or("its disk failed")?;
        if !planted(Bug::CheckpointWithoutFlush) {
            slot.answer(slot.flush()).await.map_err(|error| {
                self.vault.mark_failed(&slot, &error.to_string());
                error.to_string()
            })?;
        }
        let _alone = self.record_line.acquire().await.expect("the line is never closed");
        let mut record = self.record();
        for (stored, current) in record.members.iter_mut().zip(self.member_list()) {
            if Rc::ptr_eq(&current, member) {
                stored.built = built;
            }
        }
        let change = (LuRecord::key(self.uuid), Some(record::format(&record)));
        self.vault.commit(vec![change]).await.map_err(|error| error.to_string())?;
        member.stored.set(built);
        if member.is_building() {
            member.built.set(built);
        }
        Ok(())
    }

    /// Rebuilds under way.
    pub(crate) fn progress(&self) -> Vec<RebuildProgress> {
        let total = self.stripe.column_size(self.geometry.size);
        let building = self.member_list().into_iter().filter(|member| member.is_building());
        building
            .map(|member| RebuildProgress { lu: self.uuid, done: member.built.get().unwrap_or(0), total })
            .collect()
    }
}
