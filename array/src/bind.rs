//! Binding and unbinding LUs.

use std::rc::Rc;

use futures_util::future::join_all;
use twinlun_block::ByteRange;
use twinlun_io::Durability;
use uuid::Uuid;

use crate::array::Array;
use crate::extent::{self, Extent};
use crate::lu::Lu;
use crate::lu::record::{LuRecord, MemberRecord};
use crate::open::random_uuid;
use crate::slot::Slot;
use crate::stripe::Stripe;
use crate::vault::record;
use crate::{ArrayError, LuInfo, LuSpec, Raid};

impl Array {
    /// Binds a LU. It reads as zeros, whatever its disks held before.
    pub async fn create_lu(&self, spec: LuSpec) -> Result<LuInfo, ArrayError> {
        let _alone = self.administer().await?;
        check(&spec)?;
        if self.lu_by_name(&spec.name).is_some() {
            return Err(ArrayError::Exists { name: spec.name });
        }
        let slots = self.choose_disks(&spec)?;
        let stripe = Stripe::of(spec.raid, slots.len(), spec.chunk).map_err(ArrayError::Invalid)?;
        let need = LuRecord::member_size(&stripe, spec.size);
        let mut members = Vec::with_capacity(slots.len());
        for slot in &slots {
            let extents = self.room_on(slot, need)?;
            members.push(MemberRecord { disk: slot.uuid, extents, built: None });
        }
        // Nobody else takes the space meanwhile: changes go one after the other. Only then is it recorded.
        let cleared = slots.iter().zip(&members).map(|(slot, member)| clear(slot, &member.extents));
        for done in join_all(cleared).await {
            done?;
        }
        let record = LuRecord {
            uuid: random_uuid(&self.inner.core.shard),
            name: spec.name,
            size: spec.size,
            raid: spec.raid,
            block_size: spec.block_size.bytes(),
            chunk: spec.chunk,
            thin: spec.thin,
            members,
        };
        let key = LuRecord::key(record.uuid);
        self.inner.core.commit(vec![(key.clone(), Some(record::format(&record)))]).await?;
        match Box::pin(Lu::open(&self.inner.core, &record, &self.inner.options)).await {
            Ok(lu) => {
                let info = lu.info();
                self.inner.lus.borrow_mut().insert(record.uuid, lu);
                Ok(info)
            }
            Err(error) => {
                self.inner.core.commit(vec![(key, None)]).await?;
                Err(error)
            }
        }
    }

    /// Unbinds a LU: its data is gone.
    pub async fn delete_lu(&self, uuid: Uuid) -> Result<(), ArrayError> {
        let _alone = self.administer().await?;
        let lu = self.lu(uuid).ok_or_else(|| ArrayError::NotFound { what: format!("LU {uuid}") })?;
        lu.core.stop().await;
        {
            let _record = lu.core.record_line.acquire().await.map_err(|_| ArrayError::Stopping)?;
            self.inner.core.commit(vec![(LuRecord::key(uuid), None)]).await?;
        }
        self.inner.lus.borrow_mut().remove(&uuid);
        let atomic = LuRecord::atomic_log(uuid);
        if self.inner.core.has_log(&atomic) {
            self.inner.core.remove_log(&atomic).await?;
        }
        if lu.core.intent.is_some() {
            self.inner.core.remove_log(&LuRecord::intent_log(uuid)).await?;
        }
        Ok(())
    }

    /// Room for a member.
    pub(crate) fn room_on(&self, slot: &Slot, need: u64) -> Result<Vec<Extent>, ArrayError> {
        let used = self.used_on(slot.uuid);
        extent::allocate(Self::data_area(slot), &used, need, false).ok_or_else(|| {
            let free = self.free_on(slot);
            ArrayError::NoSpace(format!("disk {} has {free} bytes free, {need} are needed", slot.number))
        })
    }

    fn choose_disks(&self, spec: &LuSpec) -> Result<Vec<Rc<Slot>>, ArrayError> {
        if let Some(wanted) = &spec.disks {
            let mut slots: Vec<Rc<Slot>> = Vec::new();
            for number in wanted {
                let slot = self.slot(*number)?;
                if !slot.is_active() || slot.spare.get() {
                    let state = format!("{:?}", slot.state().0).to_lowercase();
                    return Err(ArrayError::Invalid(format!(
                        "disk {number} is {state}; choose one that is online"
                    )));
                }
                if slots.iter().any(|other| other.number == *number) {
                    return Err(ArrayError::Invalid(format!("disk {number} is named twice")));
                }
                slots.push(slot);
            }
            return Ok(slots);
        }
        let mut slots = self.inner.core.slot_list();
        slots.retain(|slot| slot.is_active() && !slot.spare.get());
        slots.sort_by_key(|slot| (std::cmp::Reverse(self.free_on(slot)), slot.number));
        let count = match spec.raid {
            Raid::Raid0 => 1,
            Raid::Raid1 => 2,
            _ => slots.len() / 2 * 2,
        };
        if slots.len() < count.max(1) {
            let level = spec.raid.level();
            let have = slots.len();
            return Err(ArrayError::Invalid(format!("RAID {level} needs {count} disks, {have} are online")));
        }
        slots.truncate(count);
        slots.sort_by_key(|slot| slot.number);
        Ok(slots)
    }
}

fn check(spec: &LuSpec) -> Result<(), ArrayError> {
    let refuse = |what: String| Err(ArrayError::Invalid(what));
    if spec.name.is_empty() || spec.name.len() > 64 || spec.name.chars().any(char::is_control) {
        return refuse("a LU's name has 1 to 64 printable characters".into());
    }
    let block = u64::from(spec.block_size.bytes());
    if spec.size == 0 || !spec.size.is_multiple_of(block) || spec.size >= 1 << 56 {
        return refuse(format!("a LU's size is a multiple of its block size {block}, not {}", spec.size));
    }
    if !spec.chunk.is_power_of_two() || !(4096..=16 << 20).contains(&spec.chunk) {
        return refuse("a chunk is a power of two from 4 KiB to 16 MiB".into());
    }
    // Levels that are not there yet are refused before anything else is asked for.
    if let Raid::Raid3 | Raid::Raid5 | Raid::Raid6 = spec.raid {
        return Stripe::of(spec.raid, 3, spec.chunk).map(drop).map_err(ArrayError::Invalid);
    }
    Ok(())
}

/// Makes extents read as zeros, durably. Files are punched, which takes no time; the array keeps no map of blocks that
/// were never written.
async fn clear(slot: &Rc<Slot>, extents: &[Extent]) -> Result<(), ArrayError> {
    for extent in extents {
        let done = slot.zero(ByteRange::new(extent.start, extent.len), true, Durability::Volatile).await;
        done.map_err(|error| ArrayError::Disk { path: slot.path.clone(), error })?;
    }
    slot.flush().await.map_err(|error| ArrayError::Disk { path: slot.path.clone(), error })
}
