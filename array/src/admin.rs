//! Disks come, fail and are replaced (R-ARR-3).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use uuid::Uuid;

use crate::array::Array;
use crate::lu::Lu;
use crate::lu::member::Member;
use crate::lu::record::{LuRecord, MemberRecord};
use crate::open::{new_slot, open_blank};
use crate::probe::{self, Found};
use crate::slot::Slot;
use crate::vault::record::{self, LOG_PREFIX, LogRecord, MAX_SLOTS};
use crate::{ArrayError, ArrayEvent, DiskConfig, DiskState};

/// A member that is to be put in the place of another one.
struct Exchange {
    lu: Lu,
    index: usize,
    record: MemberRecord,
}

impl Array {
    /// Takes a blank disk into the unit, as a spare if so wished. Answers its slot.
    pub async fn add_disk(&self, config: DiskConfig, spare: bool) -> Result<u32, ArrayError> {
        let _alone = self.administer().await?;
        let core = &self.inner.core;
        let number = core.slots.borrow().keys().last().map_or(0, |last| last + 1);
        if number >= MAX_SLOTS {
            return Err(ArrayError::Invalid(format!("a unit has at most {MAX_SLOTS} disks")));
        }
        let disk = open_blank(&core.shard, &config).await?;
        let slot = new_slot(&core.shard, number, &config.path, disk)?;
        slot.spare.set(spare);
        self.install(&slot, None, Vec::new()).await?;
        self.inner.strangers.borrow_mut().retain(|stranger| stranger.path != config.path);
        core.events.push(ArrayEvent::DiskAdded { slot: number });
        core.rehome_logs().await?;
        Ok(number)
    }

    /// Takes a disk out of use. Refused when data or the vault would be lost with it.
    pub async fn fail_disk(&self, slot: u32) -> Result<(), ArrayError> {
        let _alone = self.administer().await?;
        let slot = self.slot(slot)?;
        if !slot.is_active() {
            return Ok(());
        }
        let gone = BTreeSet::from([slot.uuid]);
        if let Some(lu) = self.lu_list().into_iter().find(|lu| !lu.core.survives_without(&gone)) {
            return Err(ArrayError::Unsafe(format!(
                "disk {} holds the only copy of data of LU {}; delete the LU or let its rebuild finish first",
                slot.number,
                lu.core.name()
            )));
        }
        let voters = self.inner.core.slot_list().iter().filter(|slot| slot.votes()).count();
        if slot.votes() && voters < 2 {
            return Err(ArrayError::Unsafe(format!("disk {} holds the only copy of the vault", slot.number)));
        }
        Ok(self.inner.core.fail(&slot, "failed by the administrator").await?)
    }

    /// Puts a disk into a slot whose disk is out of use: a blank one, or the one that was there before. Redundant LUs are
    /// rebuilt on it. A stripe without redundancy comes back only with its own disk.
    pub async fn replace_disk(&self, slot: u32, path: PathBuf, size: Option<u64>) -> Result<(), ArrayError> {
        let _alone = self.administer().await?;
        let old = self.slot(slot)?;
        if old.is_active() {
            return Err(ArrayError::Unsafe(format!("disk {slot} is in use; fail it first")));
        }
        let core = self.inner.core.clone();
        let config = DiskConfig { path, size };
        let new = match probe::look_or_create(&core.shard, &config).await? {
            Found::Labelled { disk, label } if label.unit == core.unit && label.disk == old.uuid => {
                if label.layout != old.layout {
                    let what = "its size is not what the unit knows; erase it to use it as a new disk".into();
                    return Err(ArrayError::Size { path: config.path, what });
                }
                let generation = label.generation.max(old.generation) + 1;
                let volatile = probe::is_null(&config.path);
                let back = Slot::new(slot, old.uuid, generation, config.path.clone(), old.layout, volatile);
                back.activate(disk);
                Rc::new(back)
            }
            Found::Labelled { label, .. } if label.generation != 0 => {
                let what = format!("it is disk {} of unit {}", label.disk, label.unit);
                return Err(ArrayError::Foreign { path: config.path, what });
            }
            // Closed, and opened again as what it must be: a blank disk.
            other => {
                drop(other);
                let disk = open_blank(&core.shard, &config).await?;
                new_slot(&core.shard, slot, &config.path, disk)?
            }
        };
        let exchanges = self.plan_exchange(old.uuid, &new)?;
        self.install(&new, Some(&old), exchanges).await?;
        self.inner.strangers.borrow_mut().retain(|stranger| stranger.path != new.path);
        core.events.push(ArrayEvent::DiskAdded { slot });
        self.tell_states();
        core.rehome_logs().await?;
        Ok(())
    }

    /// Members of redundant LUs on `old` move to `new`; those of others stay where they are, and come back with the disk.
    fn plan_exchange(&self, old: Uuid, new: &Slot) -> Result<Vec<Exchange>, ArrayError> {
        let mut exchanges: Vec<Exchange> = Vec::new();
        let mut taken = self.used_on(new.uuid);
        for lu in self.lu_list() {
            for (index, member) in lu.core.member_list().into_iter().enumerate() {
                if member.disk != old {
                    continue;
                }
                let redundant = lu.core.stripe.copies > 1;
                let built = redundant.then_some(0);
                if new.uuid == old {
                    let record = MemberRecord { disk: old, extents: member.extents.clone(), built };
                    exchanges.push(Exchange { lu: lu.clone(), index, record });
                } else if redundant {
                    let need = member.extents.iter().map(|extent| extent.len).sum();
                    let room = crate::extent::allocate(Self::data_area(new), &taken, need, false);
                    let extents = room.ok_or_else(|| {
                        ArrayError::NoSpace(format!(
                            "{} is too small for LU {}",
                            new.path.display(),
                            lu.core.name()
                        ))
                    })?;
                    taken.extend(extents.iter().copied());
                    let record = MemberRecord { disk: new.uuid, extents, built };
                    exchanges.push(Exchange { lu: lu.clone(), index, record });
                }
            }
        }
        Ok(exchanges)
    }

    /// Brings a disk and its members into the unit with one change of the vault, or not at all.
    async fn install(
        &self,
        new: &Rc<Slot>,
        old: Option<&Rc<Slot>>,
        exchanges: Vec<Exchange>,
    ) -> Result<(), ArrayError> {
        let core = &self.inner.core;
        let is_back = old.is_some_and(|old| old.uuid == new.uuid);
        if !new.volatile {
            // A new disk is nobody's until the vault knows it; one that was here before stays stale until then.
            let generation = if is_back { new.generation } else { 0 };
            probe::write_labels(new, core.unit, generation).await?;
        }
        let changes = old.map_or_else(Vec::new, |old| self.logs_without(old.uuid));
        let number = new.number;
        let before = core.slots.borrow_mut().insert(number, new.clone());
        if let Err(error) = self.exchange(new, exchanges, changes).await {
            let mut slots = core.slots.borrow_mut();
            match before {
                Some(before) => drop(slots.insert(number, before)),
                None => drop(slots.remove(&number)),
            }
            new.retire(DiskState::Failed, error.to_string());
            return Err(error);
        }
        if let Some(old) = old {
            old.settled.set(true); // The vault does not know it any more.
        }
        if !is_back && !new.volatile {
            probe::write_labels(new, core.unit, new.generation).await?;
        }
        Ok(())
    }

    /// Stores exchanged members together with `changes`, then lets the LUs use them.
    async fn exchange(
        &self,
        slot: &Rc<Slot>,
        exchanges: Vec<Exchange>,
        mut changes: Vec<(String, Option<Bytes>)>,
    ) -> Result<(), ArrayError> {
        let mut lines = Vec::new();
        for exchange in &exchanges {
            lines.push(exchange.lu.core.record_line.acquire().await.map_err(|_| ArrayError::Stopping)?);
            let mut record = exchange.lu.core.record();
            record.members[exchange.index] = exchange.record.clone();
            changes.push((LuRecord::key(record.uuid), Some(record::format(&record))));
        }
        self.inner.core.commit(changes).await?;
        for exchange in &exchanges {
            let copies = exchange.lu.core.stripe.copies;
            let member = Member::new(&exchange.record, Some(slot.clone()), copies);
            exchange.lu.core.set_member(exchange.index, member);
        }
        Ok(())
    }

    /// What the disk holds of page logs is out of date; it is given new copies later.
    fn logs_without(&self, disk: Uuid) -> Vec<(String, Option<Bytes>)> {
        let mut changes = Vec::new();
        for (key, value) in self.inner.core.records_under(LOG_PREFIX) {
            if let Ok(mut log) = record::parse::<LogRecord>(&key, Some(&value))
                && log.copies.iter().any(|copy| copy.disk == disk)
                && log.copies.iter().any(|copy| copy.disk != disk)
            {
                log.copies.retain(|copy| copy.disk != disk);
                changes.push((key, Some(record::format(&log))));
            }
        }
        changes
    }

    /// Moves members of redundant LUs from disks that are out of use to spares, as far as there are any.
    pub(crate) async fn use_spares(&self) -> Result<(), ArrayError> {
        let _alone = self.administer().await?;
        let slots = self.inner.core.slot_list();
        for lost in slots.iter().filter(|slot| !slot.is_active()) {
            let Some(spare) = slots.iter().find(|slot| slot.is_active() && slot.spare.get()) else { break };
            let exchanges = self.plan_exchange(lost.uuid, spare)?;
            if exchanges.is_empty() {
                continue;
            }
            spare.spare.set(false);
            if let Err(error) = self.exchange(spare, exchanges, Vec::new()).await {
                spare.spare.set(true);
                return Err(error);
            }
            self.inner.core.events.push(ArrayEvent::DiskAdded { slot: spare.number });
        }
        Ok(())
    }
}
