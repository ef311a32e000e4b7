//! Reading: any copy that is in step, another one when that fails.

use std::rc::Rc;

use futures_util::future::join_all;
use twinlun_block::{BlockError, BlockResult, ByteRange, Payload};
use twinlun_io::Durability;

use super::member::{Content, Member};
use super::{Counted, LuCore};
use crate::ArrayEvent;
use crate::planted::{Bug, planted};
use crate::stripe::ColumnPart;

/// Bad blocks rewritten at the same time; more are left to the next reader.
const MAX_HEALING: u32 = 4;
/// Read errors after which a disk with a partner is taken out of use.
const MAX_ERRORS: u64 = 64;

impl LuCore {
    /// Reads a range.
    ///
    /// Without redundancy nothing is waited for but a COMPARE AND WRITE: a read that meets a write sees the old or the
    /// new blocks, as on any disk. With redundancy it waits for writes that overlap: data seen on one copy before the
    /// other has it could be unread by the loss of the first (I6). Regions whose copies may differ after a crash are
    /// made equal before they are read, for the same reason.
    pub(super) async fn read(self: &Rc<Self>, range: ByteRange) -> BlockResult {
        let Some(intent) = &self.intent else {
            if self.comparing.get() == 0 {
                return self.read_parts(range).await;
            }
            let _turn = self.turns.shared(range).await;
            return self.read_parts(range).await;
        };
        loop {
            let turn = self.turns.shared(range).await;
            if !intent.is_suspect(range) {
                return self.read_parts(range).await;
            }
            drop(turn);
            for region in intent.suspects(range) {
                self.resynchronise(region).await?;
            }
        }
    }

    /// Reads under whatever turn the caller holds.
    pub(super) async fn read_parts(self: &Rc<Self>, range: ByteRange) -> BlockResult {
        let parts = self.stripe.parts(range);
        if let [part] = &parts[..] {
            return self.read_part(part, range).await;
        }
        let reads = join_all(parts.iter().map(|part| self.read_part(part, range))).await;
        let mut done = Vec::with_capacity(parts.len());
        for (part, data) in parts.into_iter().zip(reads) {
            done.push((part, data?));
        }
        Ok(self.stripe.scatter(range, &done))
    }

    async fn read_part(self: &Rc<Self>, part: &ColumnPart, whole: ByteRange) -> BlockResult {
        if self.stripe.copies == 1 {
            let member = self.members.borrow()[part.column].clone();
            if member.active().is_none() {
                return Err(BlockError::NotReady);
            }
            return member.read(part.range).await.map_err(|error| self.medium(part, &error));
        }
        let mut copies = self.copies(part.column);
        copies.retain(|m| m.is_in_step() || (planted(Bug::ReadFromRebuilding) && m.is_building()));
        if copies.is_empty() {
            return Err(BlockError::NotReady);
        }
        let turn = self.reads.get();
        self.reads.set(turn.wrapping_add(1));
        let first = turn % copies.len();
        copies.rotate_left(first);
        let mut last = None;
        for (tried, member) in copies.iter().enumerate() {
            match member.read(part.range).await {
                Ok(data) => {
                    copies[..tried].iter().for_each(|bad| self.heal(bad, part, whole));
                    return Ok(data);
                }
                Err(error) => last = Some(self.medium(part, &error)),
            }
        }
        Err(last.unwrap_or(BlockError::NotReady))
    }

    pub(super) fn medium(&self, part: &ColumnPart, error: &twinlun_io::DiskError) -> BlockError {
        let offset = self.stripe.logical(part.column, part.range.offset());
        tracing::warn!(lu = %self.uuid, offset, %error, "no copy left");
        BlockError::Medium { offset }
    }

    /// Rewrites a bad block from another copy, in the background.
    fn heal(self: &Rc<Self>, bad: &Rc<Member>, part: &ColumnPart, whole: ByteRange) {
        if self.healing.get() >= MAX_HEALING {
            return;
        }
        let (lu, bad, part) = (self.clone(), bad.clone(), part.clone());
        self.vault.shard.spawn(async move {
            let _counted = Counted::new(&lu.healing);
            let Some(slot) = bad.active().cloned() else { return };
            if slot.errors.get() > MAX_ERRORS {
                // What the vault says about it is stored by whoever needs the answer; nobody is waiting here.
                let _ = lu.vault.fail(&slot, "too many read errors").await;
                return;
            }
            let _turn = lu.turns.exclusive(whole).await;
            if bad.read(part.range).await.is_ok() {
                return;
            }
            let Some(data) = lu.read_other(&bad, &part).await else { return };
            let done = bad.write(part.range, Content::Data(data), Durability::Stable).await;
            match done {
                Ok(()) => lu.vault.events.push(ArrayEvent::Healed {
                    uuid: lu.uuid,
                    offset: lu.stripe.logical(part.column, part.range.offset()),
                    len: part.range.len(),
                }),
                Err(error) => drop(lu.vault.fail(&slot, &format!("rewriting a bad block: {error}")).await),
            }
        });
    }

    async fn read_other(&self, than: &Rc<Member>, part: &ColumnPart) -> Option<Payload> {
        for member in self.copies(part.column) {
            if !Rc::ptr_eq(&member, than)
                && member.is_in_step()
                && let Ok(data) = member.read(part.range).await
            {
                return Some(data);
            }
        }
        None
    }
}
