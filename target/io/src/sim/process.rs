//! Processes: how they start, stand still and die.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use super::SimShard;
use super::executor::{JobId, Owner};
use super::rng::Rng;
use super::world::Core;
use crate::Shard;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// SIGKILL. Its kernel lives on: peers are told, and what was written is kept.
    Kill,
    /// Its machine loses power: peers are told nothing, unflushed writes survive in any part or not at all.
    PowerCut,
}

/// When a process shall end, counted from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPoint {
    /// Right after this many of its disk operations were carried out; the one that is counted last is not answered.
    DiskOps(u64),
    /// Right after its jobs were polled this many times.
    Polls(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Named by a link, never started. Its machine is there: connects are refused.
    Vacant,
    Alive,
    Killed,
    PoweredOff,
}

/// A process over all its lives.
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) ip: Option<IpAddr>,
    pub(super) status: Status,
    pub(super) life: u32,
    pub(super) paused: bool,
    /// Jobs that became ready while it was paused.
    pub(super) parked: Vec<JobId>,
    pub(super) rng: Rng,
    /// Microseconds by which its wall clock is wrong.
    pub(super) clock_error: i64,
    disk_ops: u64,
    polls: u64,
    fuse: Option<(CrashPoint, Crash)>,
}

impl Slot {
    pub(super) fn new(name: &str, rng: Rng) -> Self {
        Self {
            name: name.to_owned(),
            ip: None,
            status: Status::Vacant,
            life: 0,
            paused: false,
            parked: Vec::new(),
            rng,
            clock_error: 0,
            disk_ops: 0,
            polls: 0,
            fuse: None,
        }
    }

    fn burnt(&mut self) -> Option<Crash> {
        let (at, how) = self.fuse?;
        let reached = match at {
            CrashPoint::DiskOps(n) => self.disk_ops >= n,
            CrashPoint::Polls(n) => self.polls >= n,
        };
        reached.then(|| {
            self.fuse = None;
            how
        })
    }
}

impl Core {
    pub(super) fn is_alive(&self, owner: Owner) -> bool {
        let slot = &self.slots.borrow()[owner.slot];
        slot.status == Status::Alive && slot.life == owner.life
    }

    pub(super) fn after_poll(self: &Rc<Self>, owner: Owner) {
        let crash = {
            let slot = &mut self.slots.borrow_mut()[owner.slot];
            slot.polls += 1;
            slot.burnt()
        };
        if let Some(how) = crash {
            self.crash(owner, how);
        }
    }

    /// Counts a disk operation; true when it is the last thing that the process did.
    pub(super) fn after_disk_op(self: &Rc<Self>, owner: Owner) -> bool {
        let crash = {
            let slot = &mut self.slots.borrow_mut()[owner.slot];
            slot.disk_ops += 1;
            slot.burnt()
        };
        if let Some(how) = crash {
            self.crash(owner, how);
        }
        crash.is_some()
    }

    /// Ends a life. From here on nothing that its code does has an effect. Its jobs are dropped at once, or after the
    /// current poll when that is one of its own: their destructors may want what the running job has borrowed.
    pub(super) fn crash(self: &Rc<Self>, owner: Owner, how: Crash) {
        if !self.is_alive(owner) {
            return;
        }
        {
            let slot = &mut self.slots.borrow_mut()[owner.slot];
            slot.status = if how == Crash::Kill { Status::Killed } else { Status::PoweredOff };
            slot.paused = false;
            slot.parked.clear();
            slot.fuse = None;
        }
        self.trace.fold(owner.slot as u64);
        self.count(if how == Crash::Kill { "process.kill" } else { "process.power_cut" });
        self.net_process_died(owner, how);
        self.disks_process_died(owner, how);
        if self.current.get() == Some(owner) {
            self.condemned.borrow_mut().push(owner);
        } else {
            self.bury(owner);
        }
    }

    /// Drops the jobs of a dead life, in an order drawn from the seed.
    pub(super) fn bury(&self, owner: Owner) {
        let mut jobs = self.jobs.borrow_mut().take_of(owner);
        let mut rng = self.slots.borrow()[owner.slot].rng.fork("burial");
        rng.shuffle(&mut jobs);
        jobs.into_iter().for_each(drop);
    }
}

/// One life of a process.
#[derive(Clone)]
pub struct Process {
    core: Rc<Core>,
    owner: Owner,
    ip: IpAddr,
}

impl Process {
    pub(super) fn start(core: &Rc<Core>, name: &str, ip: IpAddr) -> Self {
        let index = core.slot_index(name);
        let mut slots = core.slots.borrow_mut();
        let taken = slots.iter().enumerate().any(|(other, slot)| other != index && slot.ip == Some(ip));
        assert!(!taken, "{ip} belongs to another process than {name}");
        let slot = &mut slots[index];
        if slot.status == Status::Alive {
            assert_eq!(slot.ip, Some(ip), "{name} lives at another address");
        } else {
            slot.status = Status::Alive;
            slot.life += 1;
            slot.ip = Some(ip);
            (slot.disk_ops, slot.polls) = (0, 0);
            // Another life draws other numbers, or it would repeat the identifiers of the last one.
            slot.rng = core.rng(&format!("process/{name}/{}", slot.life));
        }
        let owner = Owner { slot: index, life: slot.life };
        drop(slots);
        core.net_machine_is_back(index);
        Self { core: core.clone(), owner, ip }
    }

    /// Its platform.
    pub fn shard(&self) -> Shard {
        Shard::sim(Rc::new(SimShard { core: self.core.clone(), owner: self.owner }))
    }

    /// Starts a job in it; dropped at once when the process is dead.
    pub fn spawn(&self, job: impl Future<Output = ()> + 'static) {
        self.core.spawn(self.owner, Box::pin(job));
    }

    /// SIGKILL: its jobs are dropped, its listeners are gone, peers see their streams end or reset (unless the link is
    /// cut), disks keep what was written and are unlocked. Of writes that were under way any part may have happened.
    pub fn kill(&self) {
        self.core.crash(self.owner, Crash::Kill);
    }

    /// Power cut of its machine: as for a kill, but peers are told nothing until it lives again and they send, and on
    /// its disks (all that it was the last to open) any 512-byte parts of the unflushed writes survive.
    pub fn power_cut(&self) {
        self.core.crash(self.owner, Crash::PowerCut);
    }

    /// Ends it later, at an exact point.
    pub fn crash_after(&self, point: CrashPoint, how: Crash) {
        if self.is_alive() {
            let slot = &mut self.core.slots.borrow_mut()[self.owner.slot];
            let point = match point {
                CrashPoint::DiskOps(n) => CrashPoint::DiskOps(slot.disk_ops + n),
                CrashPoint::Polls(n) => CrashPoint::Polls(slot.polls + n),
            };
            slot.fuse = Some((point, how));
        }
    }

    /// Stops polling its jobs, as a debugger or an overloaded machine does. Its kernel still receives and writes.
    pub fn pause(&self) {
        if self.is_alive() {
            self.core.slots.borrow_mut()[self.owner.slot].paused = true;
            self.core.count("process.pause");
        }
    }

    /// Ends a pause.
    pub fn resume(&self) {
        if self.is_alive() {
            let mut slots = self.core.slots.borrow_mut();
            let slot = &mut slots[self.owner.slot];
            slot.paused = false;
            let jobs = self.core.jobs.borrow();
            slot.parked.drain(..).for_each(|id| jobs.ready.push(id));
        }
    }

    /// Moves its wall clock ([`Shard::unix_time`]) forward or back. Monotonic time does not jump.
    pub fn step_wall_clock(&self, micros: i64) {
        let slot = &mut self.core.slots.borrow_mut()[self.owner.slot];
        slot.clock_error = slot.clock_error.saturating_add(micros);
        self.core.count("process.clock_step");
    }

    /// Whether this life still lasts.
    pub fn is_alive(&self) -> bool {
        self.core.is_alive(self.owner)
    }

    /// Number of its jobs.
    pub fn jobs(&self) -> usize {
        self.core.jobs.borrow().all.values().filter(|job| job.owner == self.owner).count()
    }

    /// Disk operations that this life has carried out; with [`Process::crash_after`] every one of them can be the last.
    pub fn disk_ops(&self) -> u64 {
        self.core.slots.borrow()[self.owner.slot].disk_ops
    }

    /// Polls of its jobs.
    pub fn polls(&self) -> u64 {
        self.core.slots.borrow()[self.owner.slot].polls
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.core.slots.borrow()[self.owner.slot].name.clone()
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Its address with a port.
    pub fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, port)
    }
}

/// The wall clock of a process.
pub(super) fn unix_time(core: &Core, owner: Owner) -> Duration {
    let error = core.slots.borrow()[owner.slot].clock_error;
    let right = core.options.unix_start + core.now().since_start();
    let step = Duration::from_micros(error.unsigned_abs());
    if error < 0 { right.saturating_sub(step) } else { right.saturating_add(step) }
}
