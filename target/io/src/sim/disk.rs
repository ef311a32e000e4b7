//! Simulated disks: operations that take time, and what goes wrong with them.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use twinlun_block::{ByteRange, Payload};

use super::executor::{Event, Owner};
use super::medium::{Medium, SECTOR};
use super::process::Crash;
use super::rng::Rng;
use super::world::Core;
use crate::disk::Backend;
use crate::{Disk, DiskError, DiskOptions, Durability, Instant};

/// How long operations take, drawn evenly per operation; one in fifty takes ten times as long.
#[derive(Clone, Debug)]
pub struct DiskTimes {
    /// Reads.
    pub read: RangeInclusive<Duration>,
    /// Writes and zeroing.
    pub write: RangeInclusive<Duration>,
    /// Flushes, and what a stable write takes on top.
    pub flush: RangeInclusive<Duration>,
}

impl Default for DiskTimes {
    fn default() -> Self {
        let micros = |low, high| Duration::from_micros(low)..=Duration::from_micros(high);
        Self { read: micros(40, 400), write: micros(10, 300), flush: micros(100, 2000) }
    }
}

#[derive(Default)]
pub(super) struct Disks {
    pub(super) all: Vec<DiskState>,
    next_op: u64,
}

/// Faults that wait for an operation.
#[derive(Default)]
pub(super) struct Faults {
    pub(super) unwritable: Vec<ByteRange>,
    pub(super) flushes_to_fail: u32,
    pub(super) full: bool,
    pub(super) phantom_writes: u32,
    pub(super) misdirected_writes: u32,
    pub(super) misdirected_reads: u32,
    /// Operations until one fails.
    pub(super) fail_in: Option<u64>,
    pub(super) stalled_until: Instant,
}

pub(super) struct DiskState {
    pub(super) path: PathBuf,
    pub(super) medium: Option<Medium>,
    /// Goes up when the medium is taken out; handles of an older generation see only errors.
    generation: u64,
    /// Who has it open, how often.
    lock: Option<Owner>,
    /// Whose power cut loses what is not flushed.
    last_owner: Option<usize>,
    pub(super) faults: Faults,
    pub(super) rng: Rng,
    ops: BTreeMap<u64, Op>,
}

enum Kind {
    Read(ByteRange),
    Write {
        offset: u64,
        data: Bytes,
        stable: bool,
    },
    Flush {
        mark: u64,
    },
    /// `hole`: places that never held anything may stay so.
    Zero {
        range: ByteRange,
        hole: bool,
    },
}

struct Op {
    owner: Owner,
    generation: u64,
    kind: Kind,
    result: Option<Result<Payload, DiskError>>,
    waker: Option<Waker>,
    /// Nobody waits for the result.
    abandoned: bool,
}

impl DiskState {
    /// Takes the medium out; power goes with it.
    pub(super) fn remove(&mut self) -> Option<Medium> {
        let mut medium = self.medium.take()?;
        medium.power_cut(&mut self.rng);
        self.generation += 1;
        self.lock = None;
        Some(medium)
    }

    pub(super) fn operations(&self) -> usize {
        self.ops.len()
    }

    pub(super) fn lose_power(&mut self) -> u64 {
        self.medium.as_mut().map_or(0, |medium| medium.power_cut(&mut self.rng))
    }

    /// Where a misdirected operation goes: another sector-aligned place, `None` when the disk has no other.
    fn elsewhere(&mut self, range: ByteRange, size: u64) -> Option<u64> {
        let places = size.saturating_sub(range.len()) / SECTOR;
        let at = self.rng.range(0..=places) * SECTOR;
        let at = if at == range.offset() { at.checked_sub(SECTOR).unwrap_or(SECTOR) } else { at };
        (at + range.len() <= size).then_some(at)
    }

    fn take(charges: &mut u32) -> bool {
        let left = charges.checked_sub(1);
        *charges = left.unwrap_or(0);
        left.is_some()
    }

    fn nth_is_due(&mut self) -> bool {
        let Some(left) = self.faults.fail_in.as_mut() else { return false };
        *left = left.saturating_sub(1);
        let due = *left == 0;
        if due {
            self.faults.fail_in = None;
        }
        due
    }

    /// Carries an operation out.
    fn perform(&mut self, core: &Core, kind: &Kind, generation: u64) -> Result<Payload, DiskError> {
        let fail = self.nth_is_due();
        if fail {
            core.count("disk.nth_operation");
        }
        let current = generation == self.generation;
        let Some(mut medium) = self.medium.take_if(|_| current) else {
            core.count("disk.removed");
            return Err(kind.error("device is gone"));
        };
        let done = match kind {
            Kind::Read(range) => self.read(core, &medium, *range, fail),
            Kind::Write { offset, data, stable } => {
                self.write(core, &mut medium, *offset, data, *stable, fail).map(|()| Payload::new())
            }
            Kind::Flush { mark } => {
                if fail || Self::take(&mut self.faults.flushes_to_fail) {
                    core.count("disk.flush_error");
                    medium.fail_flush(&mut self.rng);
                    Err(kind.error("injected"))
                } else {
                    medium.flush(*mark);
                    Ok(Payload::new())
                }
            }
            Kind::Zero { range, hole } => {
                if fail || self.faults.unwritable.iter().any(|bad| bad.overlaps(*range)) {
                    core.count("disk.write_error");
                    Err(kind.error("injected"))
                } else {
                    medium.zero(*range, *hole);
                    Ok(Payload::new())
                }
            }
        };
        self.medium = Some(medium);
        done
    }

    fn read(
        &mut self,
        core: &Core,
        medium: &Medium,
        range: ByteRange,
        fail: bool,
    ) -> Result<Payload, DiskError> {
        let bad = medium.unreadable(range).or(fail.then_some(range.offset()));
        if let Some(offset) = bad {
            core.count("disk.read_error");
            return Err(DiskError::Read { offset, reason: "injected".into() });
        }
        let mut from = range;
        if Self::take(&mut self.faults.misdirected_reads)
            && let Some(elsewhere) = self.elsewhere(range, medium.size())
        {
            core.count("disk.misdirected_read");
            from = ByteRange::new(elsewhere, range.len());
        }
        let data = medium.peek(from);
        core.trace.fold_bytes(&data);
        Ok(Bytes::from(data).into())
    }

    fn write(
        &mut self,
        core: &Core,
        medium: &mut Medium,
        offset: u64,
        data: &[u8],
        stable: bool,
        fail: bool,
    ) -> Result<(), DiskError> {
        let range = ByteRange::new(offset, data.len() as u64);
        core.trace.fold_bytes(data);
        let bad = self.faults.unwritable.iter().find_map(|bad| bad.intersection(range));
        if fail || bad.is_some() {
            core.count("disk.write_error");
            // Nobody knows how far it came.
            let rng = &mut self.rng;
            medium.store(offset, data, false, |_| rng.chance(1, 2));
            let offset = bad.map_or(offset, ByteRange::offset);
            return Err(DiskError::Write { offset, reason: "injected".into() });
        }
        if self.faults.full && medium.has_hole(range) {
            core.count("disk.full");
            return Err(DiskError::Full { offset });
        }
        if Self::take(&mut self.faults.phantom_writes) {
            core.count("disk.phantom_write");
            return Ok(());
        }
        if Self::take(&mut self.faults.misdirected_writes)
            && let Some(elsewhere) = self.elsewhere(range, medium.size())
        {
            core.count("disk.misdirected_write");
            medium.store(elsewhere, data, stable, |_| true);
            return Ok(());
        }
        if stable && Self::take(&mut self.faults.flushes_to_fail) {
            core.count("disk.flush_error");
            medium.store(offset, data, false, |_| true);
            medium.fail_flush(&mut self.rng);
            return Err(DiskError::Flush { reason: "injected".into() });
        }
        medium.store(offset, data, stable, |_| true);
        Ok(())
    }

    /// A process is gone: of its writes under way any sectors may have reached the page cache.
    fn process_died(&mut self, core: &Core, owner: Owner, how: Crash) {
        let ids: Vec<u64> = self.ops.iter().filter(|(_, op)| op.owner == owner).map(|(id, _)| *id).collect();
        for op in ids.iter().filter_map(|id| self.ops.remove(id)) {
            let generation = self.generation;
            let Some(medium) = self.medium.as_mut().filter(|_| op.generation == generation) else { continue };
            if let (Kind::Write { offset, data, .. }, None) = (&op.kind, &op.result) {
                let (rng, mut left_out) = (&mut self.rng, false);
                medium.store(*offset, data, false, |_| {
                    let keep = rng.chance(1, 2);
                    left_out |= !keep;
                    keep
                });
                if left_out {
                    core.count("disk.cut_short");
                }
            }
        }
        self.lock = self.lock.filter(|holder| *holder != owner);
        if how == Crash::PowerCut && self.last_owner == Some(owner.slot) && self.lose_power() > 0 {
            core.count("disk.unflushed_lost");
        }
    }
}

impl Kind {
    fn error(&self, reason: &str) -> DiskError {
        let reason = reason.to_owned();
        match self {
            Self::Read(range) => DiskError::Read { offset: range.offset(), reason },
            Self::Write { offset, .. } => DiskError::Write { offset: *offset, reason },
            Self::Zero { range, .. } => DiskError::Write { offset: range.offset(), reason },
            Self::Flush { .. } => DiskError::Flush { reason },
        }
    }

    fn describe(&self) -> (u64, u64) {
        match self {
            Self::Read(range) => (1, range.offset()),
            Self::Write { offset, .. } => (2, *offset),
            Self::Flush { mark } => (3, *mark),
            Self::Zero { range, .. } => (4, range.offset()),
        }
    }
}

impl Core {
    pub(super) fn disk_index(&self, path: &Path) -> usize {
        let mut disks = self.disks.borrow_mut();
        if let Some(index) = disks.all.iter().position(|disk| disk.path == path) {
            return index;
        }
        disks.all.push(DiskState {
            path: path.to_owned(),
            medium: None,
            generation: 0,
            lock: None,
            last_owner: None,
            faults: Faults::default(),
            rng: self.rng(&format!("disk/{}", path.display())),
            ops: BTreeMap::new(),
        });
        disks.all.len() - 1
    }

    /// An operation's time is up.
    pub(super) fn disk_done(self: &Rc<Self>, index: usize, id: u64) {
        let mut disks = self.disks.borrow_mut();
        let disk = &mut disks.all[index];
        let Some(mut op) = disk.ops.remove(&id) else { return };
        if disk.faults.stalled_until > self.now() {
            let until = disk.faults.stalled_until;
            disk.ops.insert(id, op);
            drop(disks);
            self.count("disk.stall");
            self.schedule(until, Event::Disk { disk: index, op: id });
            return;
        }
        let (tag, at) = op.kind.describe();
        self.trace.fold(id);
        self.trace.fold(tag);
        self.trace.fold(at);
        let result = disk.perform(self, &op.kind, op.generation);
        self.trace.fold(u64::from(result.is_ok()));
        op.result = Some(result);
        let (waker, owner) = (op.waker.take(), op.owner);
        if !op.abandoned {
            disk.ops.insert(id, op);
        }
        drop(disks);
        if !self.after_disk_op(owner) {
            waker.into_iter().for_each(Waker::wake);
        }
    }

    pub(super) fn disks_process_died(&self, owner: Owner, how: Crash) {
        for disk in &mut self.disks.borrow_mut().all {
            disk.process_died(self, owner, how);
        }
    }
}

/// Opens a disk for a process.
pub(super) async fn open(
    core: Rc<Core>,
    owner: Owner,
    path: &Path,
    options: DiskOptions,
) -> Result<Disk, DiskError> {
    if !core.is_alive(owner) {
        std::future::pending::<()>().await;
    }
    let index = core.disk_index(path);
    let (size, generation) = {
        let mut disks = core.disks.borrow_mut();
        let disk = &mut disks.all[index];
        let path = path.to_owned();
        // As flock(2) has it: a second open is refused, of the same process too.
        if disk.lock.is_some() {
            return Err(DiskError::Locked { path });
        }
        // A slot whose disk was pulled does not grow a new one.
        if let (None, 0, Some(size)) = (&disk.medium, disk.generation, options.create) {
            disk.medium = Some(Medium::blank(size));
        }
        let size = disk.medium.as_ref().ok_or(DiskError::NotFound { path })?.size();
        disk.lock = Some(owner);
        disk.last_owner = Some(owner.slot);
        (size, disk.generation)
    };
    Ok(Disk::new(Backend::Sim(SimDisk { core, owner, index, size, generation })))
}

pub(crate) struct SimDisk {
    core: Rc<Core>,
    owner: Owner,
    index: usize,
    size: u64,
    generation: u64,
}

impl SimDisk {
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) async fn read(&self, range: ByteRange) -> Result<Payload, DiskError> {
        self.submit(Kind::Read(range)).await
    }

    pub(crate) async fn write(&self, offset: u64, data: Payload, how: Durability) -> Result<(), DiskError> {
        let stable = how == Durability::Stable;
        self.submit(Kind::Write { offset, data: data.to_bytes(), stable }).await.map(drop)
    }

    pub(crate) async fn flush(&self) -> Result<(), DiskError> {
        let mark = {
            let disks = self.core.disks.borrow();
            disks.all[self.index].medium.as_ref().map_or(0, Medium::mark)
        };
        self.submit(Kind::Flush { mark }).await.map(drop)
    }

    /// Simulated disks keep no map.
    pub(crate) fn allocated(&self, range: ByteRange) -> (bool, u64) {
        (self.size > 0, range.end())
    }

    pub(crate) async fn zero(&self, range: ByteRange, may_unmap: bool) -> Result<(), DiskError> {
        self.submit(Kind::Zero { range, hole: may_unmap }).await.map(drop)
    }

    /// Hands an operation to the disk. It is carried out even when nobody waits for it any more.
    fn submit(&self, kind: Kind) -> Pending<'_> {
        if !self.core.is_alive(self.owner) {
            return Pending { disk: self, op: None };
        }
        let times = &self.core.options.disk;
        let mut disks = self.core.disks.borrow_mut();
        disks.next_op += 1;
        let id = disks.next_op;
        let disk = &mut disks.all[self.index];
        let mut time = match &kind {
            Kind::Read(_) => disk.rng.duration(&times.read),
            Kind::Write { stable: false, .. } | Kind::Zero { .. } => disk.rng.duration(&times.write),
            Kind::Write { .. } => disk.rng.duration(&times.write) + disk.rng.duration(&times.flush),
            Kind::Flush { .. } => disk.rng.duration(&times.flush),
        };
        if disk.rng.chance(1, 50) {
            time *= 10;
        }
        let op = Op {
            owner: self.owner,
            generation: self.generation,
            kind,
            result: None,
            waker: None,
            abandoned: false,
        };
        disk.ops.insert(id, op);
        self.core.schedule(self.core.now() + time, Event::Disk { disk: self.index, op: id });
        Pending { disk: self, op: Some(id) }
    }
}

impl Drop for SimDisk {
    fn drop(&mut self) {
        let disk = &mut self.core.disks.borrow_mut().all[self.index];
        if disk.generation == self.generation {
            disk.lock = disk.lock.filter(|holder| *holder != self.owner);
        }
    }
}

/// An operation under way. `None`: asked for by a dead process, never answered.
struct Pending<'a> {
    disk: &'a SimDisk,
    op: Option<u64>,
}

impl Future for Pending<'_> {
    type Output = Result<Payload, DiskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(id) = self.op else { return Poll::Pending };
        let mut disks = self.disk.core.disks.borrow_mut();
        let disk = &mut disks.all[self.disk.index];
        // An operation that is not there any more went with its process.
        let Some(op) = disk.ops.get_mut(&id) else { return Poll::Pending };
        let Some(result) = op.result.take() else {
            op.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        disk.ops.remove(&id);
        drop(disks);
        self.op = None;
        Poll::Ready(result)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let Some(id) = self.op else { return };
        let ops = &mut self.disk.core.disks.borrow_mut().all[self.disk.index].ops;
        match ops.get_mut(&id) {
            Some(op) if op.result.is_none() => op.abandoned = true,
            _ => drop(ops.remove(&id)),
        }
    }
}
