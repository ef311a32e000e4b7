//! The vault: small records and page logs in several copies on different disks (docs/design/vault.md, R-ARR-4).
//!
//! Invariants:
//! 1. A change is answered only when every disk in use has it. A disk that does not take it is first recorded as out of
//!    use, on at least half of the disks that kept the state before; so more than half of those find it again.
//! 2. Each disk keeps its newest intact image until the next one is stable: writes go to its other slot.
//! 3. What an image says about disks is what holds: nothing is acknowledged on fewer copies before it is recorded.

pub(crate) mod image;
pub(crate) mod log;
pub(crate) mod page;
pub(crate) mod quorum;
pub(crate) mod record;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::{Notify, Semaphore, oneshot};
use twinlun_block::{MetaError, MetaStore};
use twinlun_io::{Durability, Shard};
use uuid::Uuid;

use self::image::{ImageId, Records};
use self::log::LogCore;
pub use self::log::VaultLog;
use self::record::{DiskRecord, UNIT_KEY, UnitRecord};
use crate::events::Events;
use crate::planted::{Bug, planted};
use crate::slot::Slot;
use crate::{ArrayEvent, DiskState};

/// Room kept free in every image for the unit record, which grows with the number of disks.
const UNIT_RESERVE: u64 = 128 << 10;
/// Longest key of a record or log.
const MAX_KEY: usize = 512;
/// Writes of unknown outcome that are remembered per disk. More of them in a row means that the vault is unwritable.
const MAX_UNKNOWN: usize = 16;

type Change = (String, Option<Bytes>);

struct Job {
    changes: Vec<Change>,
    done: oneshot::Sender<Result<(), MetaError>>,
}

/// Records of the unit and the table of its disks; what [`Vault`] and the array share.
pub(crate) struct Core {
    pub(crate) shard: Shard,
    pub(crate) unit: Uuid,
    name: String,
    pub(crate) events: Events,
    pub(crate) slots: RefCell<BTreeMap<u32, Rc<Slot>>>,
    /// Told whenever a disk goes out of use.
    pub(crate) disk_lost: Notify,
    pub(crate) forming: Cell<bool>,
    pub(crate) clean: Cell<bool>,
    next_log: Cell<u64>,
    records: RefCell<Records>,
    sequence: Cell<u64>,
    /// Disks that had to keep the last acknowledged image.
    voters: RefCell<BTreeSet<Uuid>>,
    queue: RefCell<Vec<Job>>,
    running: Cell<bool>,
    logs: RefCell<BTreeMap<String, Weak<LogCore>>>,
    /// One log at a time is given space.
    space_line: Semaphore,
}

impl Core {
    /// A vault whose slots are filled in and whose disks are active already. `last` is the newest image there is.
    pub(crate) fn new(
        shard: Shard,
        unit: Uuid,
        events: Events,
        record: &UnitRecord,
        last: ImageId,
        records: Records,
    ) -> Rc<Self> {
        let voters = record.seen(last).voters;
        Rc::new(Self {
            shard,
            unit,
            name: record.name.clone(),
            events,
            slots: RefCell::default(),
            disk_lost: Notify::new(),
            forming: Cell::new(record.forming),
            clean: Cell::new(record.clean),
            next_log: Cell::new(record.next_log),
            records: RefCell::new(records),
            sequence: Cell::new(last.sequence),
            voters: RefCell::new(voters),
            queue: RefCell::default(),
            running: Cell::new(false),
            logs: RefCell::default(),
            space_line: Semaphore::new(1),
        })
    }

    pub(crate) fn slot_of(&self, disk: Uuid) -> Option<Rc<Slot>> {
        self.slots.borrow().values().find(|slot| slot.uuid == disk).cloned()
    }

    pub(crate) fn slot_list(&self) -> Vec<Rc<Slot>> {
        self.slots.borrow().values().cloned().collect()
    }

    pub(crate) fn record(&self, key: &str) -> Option<Bytes> {
        self.records.borrow().get(key).cloned()
    }

    pub(crate) fn records_under(&self, prefix: &str) -> Vec<(String, Bytes)> {
        let records = self.records.borrow();
        let from = records.range(prefix.to_owned()..);
        from.take_while(|(key, _)| key.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// Stores changes, all or none; with none, stores what became of the disks. Calls made at the same time are merged.
    pub(crate) async fn commit(self: &Rc<Self>, changes: Vec<Change>) -> Result<(), MetaError> {
        let (done, answer) = oneshot::channel();
        self.queue.borrow_mut().push(Job { changes, done });
        if !self.running.replace(true) {
            // A job of its own: the round must end whatever becomes of the caller.
            let core = self.clone();
            self.shard.spawn(async move { core.drain().await });
        }
        answer.await.unwrap_or(Err(MetaError::NoMajority { good: 0, copies: 0 }))
    }

    /// Takes a disk out of use, durably. Returns at once when that is recorded already.
    pub(crate) async fn fail(self: &Rc<Self>, slot: &Rc<Slot>, reason: &str) -> Result<(), MetaError> {
        self.mark_failed(slot, reason);
        if slot.settled.get() { Ok(()) } else { self.commit(Vec::new()).await }
    }

    /// Takes a disk out of use; nothing may be acknowledged without it until [`Core::fail`] has recorded that.
    pub(crate) fn mark_failed(&self, slot: &Rc<Slot>, reason: &str) {
        if slot.is_active() && slot.retire(DiskState::Failed, reason.to_owned()) {
            tracing::warn!(slot = slot.number, path = %slot.path.display(), reason, "disk failed");
            self.events.push(ArrayEvent::DiskFailed { slot: slot.number, reason: reason.to_owned() });
            self.disk_lost.notify_one();
        }
    }

    async fn drain(self: Rc<Self>) {
        loop {
            let jobs = self.queue.take();
            if jobs.is_empty() {
                self.running.set(false);
                return;
            }
            self.round(jobs).await;
        }
    }

    /// One image for all jobs that are waiting.
    async fn round(self: &Rc<Self>, jobs: Vec<Job>) {
        let mut records = self.records.borrow().clone();
        let mut taken = Vec::with_capacity(jobs.len());
        for job in jobs {
            let before = (!job.changes.is_empty()).then(|| records.clone());
            for (key, value) in job.changes {
                match value {
                    Some(value) => drop(records.insert(key, value)),
                    None => drop(records.remove(&key)),
                }
            }
            match before {
                Some(before) if !self.fits(&records) => {
                    records = before;
                    let what = "the records do not fit; remove what is not needed, or use larger disks";
                    let _ = job.done.send(Err(MetaError::Full { what: what.into() }));
                }
                _ => taken.push(job.done),
            }
        }
        let result = self.store(&mut records).await;
        if result.is_ok() {
            *self.records.borrow_mut() = records;
        }
        for done in taken {
            // A caller that went away does not want to know.
            let _ = done.send(result.clone());
        }
    }

    fn fits(&self, records: &Records) -> bool {
        let room = self.slots.borrow().values().filter(|s| s.votes()).map(|s| s.layout.image).min();
        let need: u64 = records.iter().map(|(key, value)| 6 + (key.len() + value.len()) as u64).sum();
        room.is_none_or(|room| need + UNIT_RESERVE <= room)
    }

    /// Writes the records to all disks in use, taking out those that fail, until all that are left have them.
    async fn store(self: &Rc<Self>, records: &mut Records) -> Result<(), MetaError> {
        loop {
            let slots = self.slot_list();
            let targets: Vec<_> = slots.iter().filter(|slot| slot.votes()).cloned().collect();
            let out: Vec<_> = slots.iter().filter(|slot| !slot.is_active()).cloned().collect();
            let record = self.unit_record(&slots, &targets);
            records.insert(UNIT_KEY.into(), record::format(&record));
            let id = self.next_id();
            let body = image::encode_body(records);
            let writes = join_all(targets.iter().map(|slot| self.write_image(slot, id, &body))).await;
            let (good, bad): (Vec<_>, Vec<_>) =
                targets.iter().zip(writes).partition(|(_, done)| done.is_ok());
            let voters = self.voters.borrow().clone();
            let kept = good.iter().filter(|(slot, _)| voters.contains(&slot.uuid)).count();
            if kept * 2 < voters.len() || (good.is_empty() && !voters.is_empty()) {
                // Disks stay in use: each still has an intact older image, and the next try may succeed.
                return Err(MetaError::NoMajority { good: kept, copies: voters.len() });
            }
            if bad.is_empty() {
                *self.voters.borrow_mut() = targets.iter().map(|slot| slot.uuid).collect();
                // One that came back into use meanwhile is not settled by this image.
                out.iter().filter(|slot| !slot.is_active()).for_each(|slot| slot.settled.set(true));
                return Ok(());
            }
            for (slot, done) in bad {
                let error = done.err().unwrap_or_default();
                self.mark_failed(slot, &format!("vault: {error}"));
            }
        }
    }

    async fn write_image(&self, slot: &Rc<Slot>, id: ImageId, body: &Bytes) -> Result<(), String> {
        if image::encoded_len(body) > slot.layout.image {
            return Err("the records do not fit its vault".into());
        }
        let at = slot.image_next.get();
        let data = image::encode(self.unit, slot.uuid, id, body);
        let done = slot.answer(slot.write(slot.layout.image_at(at), data, Durability::Stable)).await;
        let mut newest = slot.newest.borrow_mut();
        if done.is_ok() {
            slot.image_next.set(if planted(Bug::ImageInPlace) { at } else { 1 - at });
            newest.clear();
        } else if newest.len() >= MAX_UNKNOWN {
            newest.remove(1);
        }
        newest.push(id);
        done.map_err(|error| error.to_string())
    }

    fn next_id(&self) -> ImageId {
        let mut nonce = [0; 8];
        self.shard.fill_random(&mut nonce);
        self.sequence.set(self.sequence.get() + 1);
        ImageId { sequence: self.sequence.get(), nonce: u64::from_le_bytes(nonce) }
    }

    fn unit_record(&self, slots: &[Rc<Slot>], targets: &[Rc<Slot>]) -> UnitRecord {
        let accepts: BTreeSet<ImageId> =
            targets.iter().flat_map(|slot| slot.newest.borrow().clone()).collect();
        let disks = slots.iter().map(|slot| DiskRecord {
            slot: slot.number,
            uuid: slot.uuid,
            generation: slot.generation,
            path: slot.path.clone(),
            size: slot.layout.size,
            volatile: slot.volatile,
            spare: slot.spare.get(),
            out: (!slot.is_active()).then(|| slot.state().1),
        });
        UnitRecord {
            name: self.name.clone(),
            forming: self.forming.get(),
            clean: self.clean.get(),
            next_log: self.next_log.get(),
            accepts: accepts.into_iter().collect(),
            disks: disks.collect(),
        }
    }
}

/// Records and page logs for the layers above the array. Clones are the same vault.
#[derive(Clone)]
pub struct Vault {
    pub(crate) core: Rc<Core>,
}

fn user_key(key: &str) -> Result<String, MetaError> {
    if key.len() > MAX_KEY {
        return Err(MetaError::Full { what: format!("a key of {} bytes; {MAX_KEY} are allowed", key.len()) });
    }
    Ok(format!("u/{key}"))
}

impl Vault {
    /// Keys that begin with `prefix`, in order.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let under = self.core.records_under(&format!("u/{prefix}"));
        under.into_iter().filter_map(|(key, _)| key.strip_prefix("u/").map(str::to_owned)).collect()
    }
}

impl MetaStore for Vault {
    type Log = VaultLog;

    fn get(&self, key: &str) -> Option<Bytes> {
        self.core.record(&format!("u/{key}"))
    }

    async fn put(&self, changes: Vec<(String, Option<Bytes>)>) -> Result<(), MetaError> {
        let named = changes.into_iter().map(|(key, value)| Ok((user_key(&key)?, value)));
        self.core.commit(named.collect::<Result<_, MetaError>>()?).await
    }

    async fn open_log(&self, name: &str, pages: u32) -> Result<VaultLog, MetaError> {
        self.core.open_log(&user_key(name)?, pages).await
    }

    async fn remove_log(&self, name: &str) -> Result<(), MetaError> {
        self.core.remove_log(&user_key(name)?).await
    }
}
