//! Writing: all copies in parallel; one that fails is durably out before the host hears of it.

use std::rc::Rc;

use futures_util::future::join_all;
use twinlun_block::{BlockError, ByteRange, Payload, compare};
use twinlun_io::{DiskError, Durability};

use super::intent::Mark;
use super::member::{Content, Member};
use super::{Counted, LuCore};
use crate::planted::{Bug, planted};
use crate::stripe::ColumnPart;

struct Leg {
    column: usize,
    part: ColumnPart,
    member: Rc<Member>,
}

impl LuCore {
    /// Writes a range. Overlapping writes take turns, so that all copies end with the same bytes (R-WR-3).
    pub(super) async fn write(
        self: &Rc<Self>,
        range: ByteRange,
        content: Content,
        durability: Durability,
    ) -> Result<(), BlockError> {
        if planted(Bug::DiscardLate) && matches!(content, Content::Zeros { .. }) {
            let later = self.clone();
            let discard = async move {
                let _ = later.write_in_turn(range, content, durability).await;
            };
            self.vault.shard.spawn(discard);
            return Ok(());
        }
        if planted(Bug::WriteWithoutTurn) {
            return self.write_in_turn(range, content, durability).await;
        }
        let _turn = self.turns.exclusive(range).await;
        self.write_in_turn(range, content, durability).await
    }

    /// COMPARE AND WRITE (SBC-4, 5.3): alone among all requests that overlap.
    pub(super) async fn compare_and_write(
        self: &Rc<Self>,
        range: ByteRange,
        expected: &Payload,
        data: Payload,
        durability: Durability,
    ) -> Result<(), BlockError> {
        let _comparing = Counted::new(&self.comparing);
        loop {
            let turn = self.turns.exclusive(range).await;
            if let Some(intent) = self.intent.as_ref().filter(|intent| intent.is_suspect(range)) {
                drop(turn);
                for region in intent.suspects(range) {
                    self.resynchronise(region).await?;
                }
                continue;
            }
            let found = self.read_parts(range).await?;
            compare(&found, expected)?;
            return self.write_in_turn(range, Content::Data(data), durability).await;
        }
    }

    pub(super) async fn write_in_turn(
        self: &Rc<Self>,
        range: ByteRange,
        content: Content,
        durability: Durability,
    ) -> Result<(), BlockError> {
        if self.stripe.copies == 1 {
            return self.write_single(range, content, durability).await;
        }
        if !self.is_served() {
            return Err(BlockError::NotReady);
        }
        let _mark = self.mark(range).await?;
        self.write_copies(range, &content, durability).await
    }

    async fn write_single(
        &self,
        range: ByteRange,
        content: Content,
        durability: Durability,
    ) -> Result<(), BlockError> {
        let parts = self.stripe.parts(range);
        if let [part] = &parts[..] {
            let member = self.members.borrow()[part.column].clone();
            if member.active().is_none() {
                return Err(BlockError::NotReady);
            }
            let done = member.write(part.range, content, durability).await;
            return done.map_err(|error| self.write_error(part, &error));
        }
        let writes = parts.iter().map(|part| {
            let member = self.members.borrow()[part.column].clone();
            let content = self.content_of(range, &content, part);
            async move { member.write(part.range, content, durability).await }
        });
        for (part, done) in parts.iter().zip(join_all(writes).await) {
            done.map_err(|error| self.write_error(part, &error))?;
        }
        Ok(())
    }

    fn content_of(&self, range: ByteRange, content: &Content, part: &ColumnPart) -> Content {
        match content {
            Content::Data(data) => Content::Data(self.stripe.gather(range, data, part)),
            Content::Zeros { may_unmap } => Content::Zeros { may_unmap: *may_unmap },
        }
    }

    fn write_error(&self, part: &ColumnPart, error: &DiskError) -> BlockError {
        match error {
            DiskError::Full { .. } => BlockError::NoSpace,
            DiskError::NotFound { .. } => BlockError::NotReady,
            _ => self.medium(part, error),
        }
    }

    /// Marks the range in the write intent. Needless while there is but one copy: nothing can differ.
    async fn mark(&self, range: ByteRange) -> Result<Option<Mark>, BlockError> {
        let Some(intent) = &self.intent else { return Ok(None) };
        let is_mirrored = |column: &[Rc<Member>]| column.iter().filter(|m| m.active().is_some()).count() > 1;
        let needed = self.members.borrow().chunks(self.stripe.copies).any(is_mirrored);
        if !needed {
            return Ok(None);
        }
        intent.mark(range).await.map(Some).map_err(|error| {
            tracing::warn!(lu = %self.uuid, %error, "write intent cannot be stored");
            BlockError::NotReady
        })
    }

    async fn write_copies(
        self: &Rc<Self>,
        range: ByteRange,
        content: &Content,
        durability: Durability,
    ) -> Result<(), BlockError> {
        let parts = self.stripe.parts(range);
        let mut legs = Vec::with_capacity(parts.len() * self.stripe.copies);
        for part in &parts {
            for member in self.copies(part.column) {
                if member.active().is_some() {
                    legs.push(Leg { column: part.column, part: part.clone(), member });
                }
            }
        }
        let writes = legs.iter().map(|leg| {
            let content = self.content_of(range, content, &leg.part);
            leg.member.write(leg.part.range, content, durability)
        });
        let done = join_all(writes).await;
        let mut result = Ok(());
        for part in &parts {
            // A copy that is being rebuilt cannot stand in for one in step.
            let in_step = || {
                let column = legs.iter().zip(&done).filter(|(leg, _)| leg.column == part.column);
                column.filter(|(leg, _)| leg.member.built.get().is_none()).map(|(_, done)| done)
            };
            // A file system that is full is not a bad disk: the write is refused, and no copy is given up for it.
            let full = in_step().find(|done| matches!(done, Err(DiskError::Full { .. })));
            if full.is_some() || !in_step().any(Result::is_ok) {
                // No disk is taken out: the last copies are kept, and made equal before they are read again.
                let error = full.or_else(|| in_step().find(|done| done.is_err()));
                let error = error.and_then(|done| done.as_ref().err());
                result = Err(error.map_or(BlockError::NotReady, |error| self.write_error(part, error)));
                if let Some(intent) = &self.intent {
                    intent.suspect(range);
                }
                continue;
            }
            for (leg, done) in legs.iter().zip(&done).filter(|(leg, _)| leg.column == part.column) {
                if let (Err(error), Some(slot)) = (done, &leg.member.slot) {
                    self.vault.mark_failed(slot, &error.to_string());
                }
            }
        }
        self.settle_losses().await?;
        result
    }

    /// Waits until the vault says durably what is out of use. Nothing is acknowledged before.
    pub(super) async fn settle_losses(&self) -> Result<(), BlockError> {
        if !self.has_unsettled_loss() || planted(Bug::LossNotRecorded) {
            return Ok(());
        }
        for member in self.member_list() {
            if let Some(slot) = member.slot.as_ref().filter(|slot| !slot.is_active()) {
                self.vault.fail(slot, "").await.map_err(|error| {
                    tracing::warn!(lu = %self.uuid, %error, "the loss of a disk cannot be recorded");
                    BlockError::NotReady
                })?;
            }
        }
        Ok(())
    }

    /// Makes everything answered so far stable on every copy in use. A disk that cannot is out, if it has a partner.
    pub(super) async fn flush(&self) -> Result<(), BlockError> {
        let members = self.members.borrow().clone();
        if let [only] = &members[..] {
            let slot = only.active().ok_or(BlockError::NotReady)?.clone();
            return slot.flush().await.map_err(|_| BlockError::Medium { offset: 0 });
        }
        let mut slots = self.active_slots();
        if planted(Bug::FlushSkipsRebuilding) {
            slots.retain(|slot| members.iter().all(|m| m.disk != slot.uuid || m.is_in_step()));
        }
        let done = join_all(slots.iter().map(|slot| slot.answer(slot.flush()))).await;
        let failed: Vec<_> = slots.iter().zip(&done).filter(|(_, done)| done.is_err()).collect();
        let is_bad = |member: &Rc<Member>| failed.iter().any(|(slot, _)| slot.uuid == member.disk);
        let survives = members
            .chunks(self.stripe.copies)
            .all(|column| column.iter().any(|member| member.is_in_step() && !is_bad(member)));
        if !survives {
            return Err(if failed.is_empty() {
                BlockError::NotReady
            } else {
                BlockError::Medium { offset: 0 }
            });
        }
        for (slot, done) in failed {
            if let Err(error) = done {
                self.vault.mark_failed(slot, &error.to_string());
            }
        }
        self.settle_losses().await
    }
}
