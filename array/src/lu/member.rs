//! One disk's part of a LU: column bytes in, disk bytes out.

use std::cell::Cell;
use std::rc::Rc;

use twinlun_block::{ByteRange, Payload};
use twinlun_io::{DiskError, Durability};
use uuid::Uuid;

use super::record::MemberRecord;
use crate::extent::{self, Extent};
use crate::planted::{Bug, planted};
use crate::slot::Slot;

/// What is written to a range.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// These bytes.
    Data(Payload),
    /// Zeros, giving space up if allowed.
    Zeros { may_unmap: bool },
}

/// A member of a LU.
pub(crate) struct Member {
    pub(crate) disk: Uuid,
    /// `None` when the unit has no such disk any more.
    pub(crate) slot: Option<Rc<Slot>>,
    pub(crate) extents: Vec<Extent>,
    /// `None` when in step; otherwise the bytes from the start of the column that are copied.
    pub(crate) built: Cell<Option<u64>>,
    /// Whether there are other copies: then a disk that does not answer is not waited for.
    has_partner: bool,
    /// The same as it is recorded: behind `built` by what is not flushed.
    pub(crate) stored: Cell<Option<u64>>,
}

impl Member {
    pub(crate) fn new(record: &MemberRecord, slot: Option<Rc<Slot>>, copies: usize) -> Self {
        let (disk, extents) = (record.disk, record.extents.clone());
        let (built, stored) = (Cell::new(record.built), Cell::new(record.built));
        Self { disk, slot, extents, built, has_partner: copies > 1, stored }
    }

    pub(crate) fn record(&self) -> MemberRecord {
        let built = if planted(Bug::StoreProgressFromMemory) { self.built.get() } else { self.stored.get() };
        MemberRecord { disk: self.disk, extents: self.extents.clone(), built }
    }

    /// The slot of a disk in use.
    pub(crate) fn active(&self) -> Option<&Rc<Slot>> {
        self.slot.as_ref().filter(|slot| slot.is_active())
    }

    /// Whether it can be read: its disk is in use and its data is in step.
    pub(crate) fn is_in_step(&self) -> bool {
        self.built.get().is_none() && self.active().is_some()
    }

    /// Whether it is being rebuilt on a disk in use.
    pub(crate) fn is_building(&self) -> bool {
        self.built.get().is_some() && self.active().is_some()
    }

    fn slot(&self) -> Result<&Rc<Slot>, DiskError> {
        self.slot.as_ref().ok_or_else(|| DiskError::NotFound { path: "(replaced disk)".into() })
    }

    /// Passes the hint on to the disk, where the range is in one piece.
    pub(crate) fn prefetch(&self, range: ByteRange, write: bool) {
        if let (Some(slot), [one]) = (&self.slot, &extent::translate(&self.extents, range)[..]) {
            slot.prefetch(*one, write);
        }
    }

    pub(crate) async fn read(&self, range: ByteRange) -> Result<Payload, DiskError> {
        let (slot, read) = (self.slot()?, self.read_now(range));
        if self.has_partner { slot.answer(read).await } else { slot.late_answer(read).await }
    }

    async fn read_now(&self, range: ByteRange) -> Result<Payload, DiskError> {
        let slot = self.slot()?;
        let pieces = extent::translate(&self.extents, range);
        if let [one] = pieces[..] {
            return slot.read(one).await;
        }
        let mut data = Payload::new();
        for piece in pieces {
            data.append(slot.read(piece).await?);
        }
        Ok(data)
    }

    /// Whether storage is taken for the first byte of the range, and where within it that ends.
    pub(crate) async fn allocated(&self, range: ByteRange) -> Result<(bool, u64), DiskError> {
        let slot = self.slot()?;
        let (mut first, mut at) = (None, range.offset());
        for piece in extent::translate(&self.extents, range) {
            let (taken, end) = slot.allocated(piece).await?;
            if *first.get_or_insert(taken) != taken {
                break;
            }
            at += end - piece.offset();
            if end < piece.end() {
                break;
            }
        }
        Ok((first.unwrap_or(true), at))
    }

    pub(crate) async fn write(
        &self,
        range: ByteRange,
        content: Content,
        durability: Durability,
    ) -> Result<(), DiskError> {
        let (slot, write) = (self.slot()?, self.write_now(range, content, durability));
        if self.has_partner { slot.answer(write).await } else { slot.late_answer(write).await }
    }

    async fn write_now(
        &self,
        range: ByteRange,
        content: Content,
        durability: Durability,
    ) -> Result<(), DiskError> {
        let slot = self.slot()?;
        let mut at = 0;
        for piece in extent::translate(&self.extents, range) {
            let len = piece.len() as usize;
            match &content {
                Content::Data(data) => slot.write(piece.offset(), data.slice(at, len), durability).await?,
                Content::Zeros { may_unmap } => slot.zero(piece, *may_unmap, durability).await?,
            }
            at += len;
        }
        Ok(())
    }
}
