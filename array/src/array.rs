//! The array: disks, vault and LUs of one storage unit.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::{Rc, Weak};

use tokio::sync::{Semaphore, SemaphorePermit};
use twinlun_io::Shard;
use uuid::Uuid;

use crate::events::Events;
use crate::extent::{self, Extent};
use crate::lu::Lu;
use crate::lu::record::{LU_PREFIX, LuRecord};
use crate::open::{self, Opened};
use crate::slot::Slot;
use crate::vault::{Core, Vault, record};
use crate::{
    ArrayError, ArrayEvent, ArrayOptions, DiskConfig, DiskState, DiskStatus, LuInfo, LuState, RebuildProgress,
};

/// The disks, the vault and the LUs of a unit. Clones are the same array.
#[derive(Clone)]
pub struct Array {
    pub(crate) inner: Rc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) core: Rc<Core>,
    pub(crate) options: ArrayOptions,
    pub(crate) lus: RefCell<BTreeMap<Uuid, Lu>>,
    pub(crate) strangers: RefCell<Vec<DiskStatus>>,
    /// Changes by the administrator go one after the other.
    admin: Semaphore,
    stopping: Cell<bool>,
}

impl Array {
    /// Opens the array of `unit` with the usual options; see [`Array::open_with`].
    pub async fn open(shard: Shard, unit: &str, disks: Vec<DiskConfig>) -> Result<Self, ArrayError> {
        Self::open_with(shard, unit, disks, ArrayOptions::default()).await
    }

    /// Opens the array of `unit` on these disks.
    ///
    /// When all of them are blank, they become a new unit (files that do not exist are created). Otherwise: disks of other
    /// units and disks with other data are left alone and shown as foreign; disks that the unit went on without are
    /// shown as stale; what is missing makes LUs degraded. New blank disks at new paths are taken in.
    pub async fn open_with(
        shard: Shard,
        unit: &str,
        disks: Vec<DiskConfig>,
        options: ArrayOptions,
    ) -> Result<Self, ArrayError> {
        let events = Events::default();
        let opened = Box::pin(open::open_unit(&shard, unit, disks, &options, &events)).await?;
        let Opened { core, strangers, additions } = opened;
        let mut lus = BTreeMap::new();
        let mut used: BTreeMap<Uuid, Vec<Extent>> = BTreeMap::new();
        for (key, value) in core.records_under(LU_PREFIX) {
            let record: LuRecord = record::parse(&key, Some(&value))?;
            check_overlap(&key, &record, &mut used)?;
            let lu = Box::pin(Lu::open(&core, &record, &options)).await?;
            let state = lu.core.state();
            if state != LuState::Optimal {
                events.push(ArrayEvent::LuState { uuid: record.uuid, state });
            }
            lus.insert(record.uuid, lu);
        }
        let inner = Rc::new(Inner {
            core,
            options,
            lus: RefCell::new(lus),
            strangers: RefCell::new(strangers),
            admin: Semaphore::new(1),
            stopping: Cell::new(false),
        });
        let array = Self { inner };
        for config in additions {
            let path = config.path.clone();
            if let Err(error) = array.add_disk(config, false).await {
                tracing::warn!(path = %path.display(), %error, "disk not taken in");
                let reason = error.to_string();
                let status = DiskStatus { state: DiskState::Foreign, reason, ..absent_status(path) };
                array.inner.strangers.borrow_mut().push(status);
            }
        }
        array.watch();
        array.watch_answers();
        Ok(array)
    }

    /// Identity of the unit.
    pub fn unit_uuid(&self) -> Uuid {
        self.inner.core.unit
    }

    /// Where layers above keep their metadata.
    pub fn vault(&self) -> Vault {
        Vault { core: self.inner.core.clone() }
    }

    /// What has happened; one consumer.
    pub fn events(&self) -> Events {
        self.inner.core.events.clone()
    }

    /// All LUs, by identity.
    pub fn lus(&self) -> Vec<LuInfo> {
        self.inner.lus.borrow().values().map(Lu::info).collect()
    }

    /// A LU.
    pub fn lu(&self, uuid: Uuid) -> Option<Lu> {
        self.inner.lus.borrow().get(&uuid).cloned()
    }

    /// A LU by its name.
    pub fn lu_by_name(&self, name: &str) -> Option<Lu> {
        self.inner.lus.borrow().values().find(|lu| lu.core.name() == name).cloned()
    }

    /// Rebuilds under way.
    pub fn rebuild_progress(&self) -> Vec<RebuildProgress> {
        self.inner.lus.borrow().values().flat_map(|lu| lu.core.progress()).collect()
    }

    /// All disks: first those of the unit by slot, then what else was configured.
    pub fn disks(&self) -> Vec<DiskStatus> {
        let lus: Vec<_> = self.inner.lus.borrow().values().cloned().collect();
        let is_building = |slot: &Slot| {
            lus.iter().any(|lu| lu.core.member_list().iter().any(|m| m.disk == slot.uuid && m.is_building()))
        };
        let status = |slot: &Rc<Slot>| {
            let (mut state, reason) = slot.state();
            if state == DiskState::Online && is_building(slot) {
                state = DiskState::Rebuilding;
            }
            DiskStatus {
                slot: Some(slot.number),
                path: slot.path.clone(),
                uuid: Some(slot.uuid),
                size: slot.layout.size,
                free: self.free_on(slot),
                state,
                reason,
                errors: slot.errors.get(),
            }
        };
        let mut all: Vec<_> = self.inner.core.slots.borrow().values().map(status).collect();
        all.extend(self.inner.strangers.borrow().iter().cloned());
        all
    }

    /// Stops serving, flushes everything, and stores that the unit was left in order.
    pub async fn shutdown(&self) -> Result<(), ArrayError> {
        let _alone = self.inner.admin.acquire().await.map_err(|_| ArrayError::Stopping)?;
        if self.inner.stopping.replace(true) {
            return Ok(());
        }
        let lus: Vec<_> = self.inner.lus.borrow().values().cloned().collect();
        for lu in &lus {
            lu.core.stop().await;
        }
        let core = &self.inner.core;
        for slot in core.slot_list().iter().filter(|slot| slot.is_active()) {
            if let Err(error) = slot.flush().await {
                core.fail(slot, &error.to_string()).await?;
            }
        }
        for lu in &lus {
            lu.core.clear_intent(std::time::Duration::ZERO).await;
        }
        core.clean.set(true);
        let done = core.commit(Vec::new()).await;
        core.slot_list().iter().for_each(|slot| slot.close());
        Ok(done?)
    }

    /// The right to change the array, one at a time.
    pub(crate) async fn administer(&self) -> Result<SemaphorePermit<'_>, ArrayError> {
        let permit = self.inner.admin.acquire().await.map_err(|_| ArrayError::Stopping)?;
        if self.inner.stopping.get() { Err(ArrayError::Stopping) } else { Ok(permit) }
    }

    pub(crate) fn slot(&self, number: u32) -> Result<Rc<Slot>, ArrayError> {
        let slot = self.inner.core.slots.borrow().get(&number).cloned();
        slot.ok_or_else(|| ArrayError::NotFound { what: format!("disk slot {number}") })
    }

    pub(crate) fn lu_list(&self) -> Vec<Lu> {
        self.inner.lus.borrow().values().cloned().collect()
    }

    /// What LUs take of a disk.
    pub(crate) fn used_on(&self, disk: Uuid) -> Vec<Extent> {
        let lus = self.inner.lus.borrow();
        let members = lus.values().flat_map(|lu| lu.core.member_list());
        members.filter(|member| member.disk == disk).flat_map(|member| member.extents.clone()).collect()
    }

    pub(crate) fn data_area(slot: &Slot) -> Extent {
        Extent { start: slot.layout.data_at, len: slot.layout.data_len() }
    }

    pub(crate) fn free_on(&self, slot: &Slot) -> u64 {
        extent::free(Self::data_area(slot), &self.used_on(slot.uuid))
    }

    /// Says what the loss of a disk means for LUs, and puts spares to use.
    fn watch(&self) {
        let (core, weak) = (self.inner.core.clone(), Rc::downgrade(&self.inner));
        self.inner.core.shard.spawn(async move {
            loop {
                core.disk_lost.notified().await;
                let Some(array) = Weak::upgrade(&weak).map(|inner| Self { inner }) else { return };
                if array.inner.stopping.get() {
                    return;
                }
                array.tell_states();
                if let Err(error) = Box::pin(array.use_spares()).await {
                    tracing::warn!(%error, "no spare put to use");
                }
                if let Err(error) = core.rehome_logs().await {
                    tracing::warn!(%error, "logs keep fewer copies");
                }
                array.tell_states();
            }
        });
    }

    pub(crate) fn tell_states(&self) {
        for lu in self.lu_list() {
            if let Some(state) = lu.core.state_change() {
                self.inner.core.events.push(ArrayEvent::LuState { uuid: lu.core.uuid, state });
                lu.core.kick();
            }
        }
    }
}

fn absent_status(path: PathBuf) -> DiskStatus {
    let (slot, uuid, reason) = (None, None, String::new());
    DiskStatus { slot, path, uuid, size: 0, free: 0, state: DiskState::Missing, reason, errors: 0 }
}

fn check_overlap(
    key: &str,
    record: &LuRecord,
    used: &mut BTreeMap<Uuid, Vec<Extent>>,
) -> Result<(), ArrayError> {
    let disks: BTreeSet<Uuid> = record.members.iter().map(|member| member.disk).collect();
    if disks.len() != record.members.len() {
        return Err(ArrayError::Damaged { key: key.into(), what: "a disk is its member twice".into() });
    }
    for member in &record.members {
        let taken = used.entry(member.disk).or_default();
        for extent in &member.extents {
            let end = extent.start.saturating_add(extent.len);
            if taken
                .iter()
                .any(|other| other.start < end && extent.start < other.start.saturating_add(other.len))
            {
                return Err(ArrayError::Damaged { key: key.into(), what: "it overlaps another LU".into() });
            }
            taken.push(*extent);
        }
    }
    Ok(())
}
