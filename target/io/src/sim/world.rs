//! The world: processes, virtual time, and the loop that decides what happens next.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::ops::Deref;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::disk::Disks;
use super::executor::{Event, JobFuture, JobId, Jobs, Owner, TimerKey, Timers};
use super::fault::{DiskSlot, Link};
use super::net::Net;
use super::process::{Process, Slot, Status};
use super::rng::{Rng, Trace};
use super::{DiskTimes, LinkOptions, SimShard};
use crate::{Instant, Shard};

/// What a world is like where nobody says otherwise.
#[derive(Clone, Debug)]
pub struct WorldOptions {
    /// Virtual time that one [`World::run`] may take.
    pub time_limit: Duration,
    /// Polls that one [`World::run`] may take: ends jobs that wake each other for ever.
    pub step_limit: u64,
    /// Wall clock at the start, since 1970.
    pub unix_start: Duration,
    /// Links that were not set up otherwise.
    pub link: LinkOptions,
    /// How long disk operations take.
    pub disk: DiskTimes,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self {
            time_limit: Duration::from_secs(3600),
            step_limit: 20_000_000,
            unix_start: Duration::from_secs(1_800_000_000),
            link: LinkOptions::default(),
            disk: DiskTimes::default(),
        }
    }
}

/// Why [`World::run`] gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StallKind {
    /// No job is ready and no timer runs: nothing can ever happen again.
    Idle,
    /// The virtual time limit passed.
    TimeLimit,
    /// The limit of polls was reached.
    StepLimit,
}

/// A run that did not end.
#[derive(Clone, Debug, thiserror::Error)]
#[error("seed {seed}: {kind:?} at {at:?} after {steps} polls; jobs: {jobs:?}")]
pub struct Stalled {
    /// Why.
    pub kind: StallKind,
    /// The world's seed.
    pub seed: u64,
    /// Virtual time.
    pub at: Instant,
    /// Polls since the world began.
    pub steps: u64,
    /// Jobs per living process.
    pub jobs: BTreeMap<String, usize>,
}

/// All state of a world. Each part has its own cell; no cell stays borrowed while foreign code (a poll, a destructor) runs.
pub(super) struct Core {
    pub(super) seed: u64,
    pub(super) options: WorldOptions,
    pub(super) trace: Trace,
    pub(super) jobs: RefCell<Jobs>,
    pub(super) timers: RefCell<Timers>,
    pub(super) slots: RefCell<Vec<Slot>>,
    pub(super) net: RefCell<Net>,
    pub(super) disks: RefCell<Disks>,
    /// Whose job is being polled.
    pub(super) current: Cell<Option<Owner>>,
    /// Dead processes whose jobs are dropped once the current poll is over.
    pub(super) condemned: RefCell<Vec<Owner>>,
    counters: RefCell<BTreeMap<&'static str, u64>>,
    schedule: RefCell<Rng>,
    now: Cell<Instant>,
    steps: Cell<u64>,
}

/// The process slot of the test itself: it never dies and has no address.
pub(super) const TEST: Owner = Owner { slot: 0, life: 1 };

impl Core {
    pub(super) fn now(&self) -> Instant {
        self.now.get()
    }

    pub(super) fn rng(&self, name: &str) -> Rng {
        Rng::new(self.seed).fork(name)
    }

    pub(super) fn count(&self, kind: &'static str) {
        *self.counters.borrow_mut().entry(kind).or_default() += 1;
        self.trace.fold(kind.len() as u64);
    }

    pub(super) fn schedule(&self, at: Instant, event: Event) -> TimerKey {
        self.timers.borrow_mut().add(at, event)
    }

    pub(super) fn spawn(&self, owner: Owner, job: JobFuture) {
        // A dead process starts nothing; the job is dropped here, with nothing borrowed.
        if self.is_alive(owner) {
            self.jobs.borrow_mut().insert(owner, job);
        }
    }

    /// The next job to poll. `main` belongs to the caller; jobs of paused processes are set aside.
    fn draw(&self, main: Option<JobId>) -> Option<JobId> {
        let mut rng = self.schedule.borrow_mut();
        let jobs = self.jobs.borrow();
        loop {
            let id = jobs.ready.draw(&mut rng)?;
            if Some(id) == main {
                return main;
            }
            let Some(job) = jobs.all.get(&id) else { continue };
            let slot = &mut self.slots.borrow_mut()[job.owner.slot];
            if slot.paused {
                slot.parked.push(id);
            } else {
                return Some(id);
            }
        }
    }

    fn begin_poll(&self, id: JobId, owner: Owner) {
        self.steps.set(self.steps.get() + 1);
        self.trace.fold(id);
        self.current.set(Some(owner));
    }

    fn end_poll(self: &Rc<Self>, owner: Owner) {
        self.current.set(None);
        self.after_poll(owner);
        loop {
            let Some(dead) = self.condemned.borrow_mut().pop() else { return };
            self.bury(dead);
        }
    }

    fn poll_job(self: &Rc<Self>, id: JobId) {
        let (owner, future, wake) = {
            let mut jobs = self.jobs.borrow_mut();
            let Some(job) = jobs.all.get_mut(&id) else { return };
            job.wake.drawn();
            (job.owner, job.future.take(), job.wake.clone())
        };
        let Some(mut future) = future else { return };
        self.begin_poll(id, owner);
        let done = future.as_mut().poll(&mut Context::from_waker(&Waker::from(wake))).is_ready();
        if done {
            self.jobs.borrow_mut().all.remove(&id);
            drop(future);
        } else if let Some(job) = self.jobs.borrow_mut().all.get_mut(&id) {
            job.future = Some(future);
        }
        self.end_poll(owner);
    }

    /// Lets everything happen that is due now.
    fn fire_due(self: &Rc<Self>) {
        loop {
            let event = self.timers.borrow_mut().pop_due(self.now());
            match event {
                None => return,
                Some(Event::Wake(waker)) => waker.wake(),
                Some(Event::Disk { disk, op }) => self.disk_done(disk, op),
                Some(network) => self.net_event(&network),
            }
        }
    }

    /// Jumps to the next timer, but not beyond `limit`.
    fn advance(self: &Rc<Self>, limit: Instant) -> Result<(), StallKind> {
        let next = self.timers.borrow().next_deadline().ok_or(StallKind::Idle)?;
        if next > limit {
            self.now.set(limit.max(self.now()));
            return Err(StallKind::TimeLimit);
        }
        self.now.set(next.max(self.now()));
        self.trace.fold(self.now().since_start().as_nanos() as u64);
        self.fire_due();
        Ok(())
    }

    /// One decision. Returns `main` when it is the caller's turn to poll it.
    fn step(self: &Rc<Self>, main: Option<JobId>, limit: Instant) -> Result<Option<JobId>, StallKind> {
        self.fire_due();
        match self.draw(main) {
            Some(id) if Some(id) == main => return Ok(main),
            Some(id) => self.poll_job(id),
            None => self.advance(limit)?,
        }
        Ok(None)
    }

    fn stalled(&self, kind: StallKind) -> Stalled {
        let mut jobs = BTreeMap::new();
        let slots = self.slots.borrow();
        for job in self.jobs.borrow().all.values() {
            *jobs.entry(slots[job.owner.slot].name.clone()).or_default() += 1;
        }
        Stalled { kind, seed: self.seed, at: self.now(), steps: self.steps.get(), jobs }
    }

    pub(super) fn slot_index(&self, name: &str) -> usize {
        let mut slots = self.slots.borrow_mut();
        if let Some(index) = slots.iter().position(|slot| slot.name == name) {
            return index;
        }
        slots.push(Slot::new(name, self.rng(&format!("process/{name}"))));
        slots.len() - 1
    }
}

/// A simulated world; it ends, with everything in it, when this is dropped. See the [module](super).
pub struct World {
    handle: WorldHandle,
}

/// What a world can be told, also from jobs within it. Cheap to clone.
#[derive(Clone)]
pub struct WorldHandle {
    core: Rc<Core>,
}

impl Deref for World {
    type Target = WorldHandle;

    fn deref(&self) -> &WorldHandle {
        &self.handle
    }
}

impl World {
    /// An empty world. Everything that happens in it follows from the seed.
    pub fn new(seed: u64, options: WorldOptions) -> Self {
        let mut test = Slot::new("test", Rng::new(seed).fork("process/test"));
        (test.status, test.life) = (Status::Alive, TEST.life);
        let core = Core {
            seed,
            options,
            trace: Trace::default(),
            jobs: RefCell::default(),
            timers: RefCell::default(),
            slots: RefCell::new(vec![test]),
            net: RefCell::default(),
            disks: RefCell::default(),
            current: Cell::new(None),
            condemned: RefCell::default(),
            counters: RefCell::default(),
            schedule: RefCell::new(Rng::new(seed).fork("schedule")),
            now: Cell::default(),
            steps: Cell::new(0),
        };
        Self { handle: WorldHandle { core: Rc::new(core) } }
    }

    /// A handle that jobs may keep.
    pub fn handle(&self) -> WorldHandle {
        self.handle.clone()
    }

    /// Runs the world until `main` is done. `main` is the test's own job and belongs to no process.
    ///
    /// # Panics
    /// When called from within a job; and whatever panics in a job panics here.
    pub fn run<F: Future>(&self, main: F) -> Result<F::Output, Stalled> {
        let core = &self.handle.core;
        assert!(core.current.get().is_none(), "a world cannot be run from within itself");
        let (id, wake) = core.jobs.borrow_mut().enlist();
        let waker = Waker::from(Arc::clone(&wake));
        let mut main = pin!(main);
        let limit = core.now() + core.options.time_limit;
        let last_step = core.steps.get().saturating_add(core.options.step_limit);
        loop {
            if core.steps.get() >= last_step {
                return Err(core.stalled(StallKind::StepLimit));
            }
            if core.step(Some(id), limit).map_err(|kind| core.stalled(kind))?.is_none() {
                continue;
            }
            wake.drawn();
            core.begin_poll(id, TEST);
            let polled = main.as_mut().poll(&mut Context::from_waker(&waker));
            core.end_poll(TEST);
            if let Poll::Ready(output) = polled {
                return Ok(output);
            }
        }
    }

    /// Runs the world until this point of virtual time, also when nothing happens. Errs only at the step limit.
    pub fn run_until(&self, deadline: Instant) -> Result<(), Stalled> {
        let core = &self.handle.core;
        assert!(core.current.get().is_none(), "a world cannot be run from within itself");
        let last_step = core.steps.get().saturating_add(core.options.step_limit);
        while core.steps.get() < last_step {
            if core.step(None, deadline).is_err() {
                core.now.set(deadline.max(core.now()));
                return Ok(());
            }
        }
        Err(core.stalled(StallKind::StepLimit))
    }

    /// [`World::run_until`] for a time from now.
    pub fn run_for(&self, time: Duration) -> Result<(), Stalled> {
        self.run_until(self.now() + time)
    }
}

impl WorldHandle {
    /// The living process `name`, or a new life of it when it is dead or never lived.
    ///
    /// # Panics
    /// When the process lives at another address, or another process has this one.
    pub fn process(&self, name: &str, ip: IpAddr) -> Process {
        Process::start(&self.core, name, ip)
    }

    /// A platform for jobs that belong to no process: fault schedules, oracles. It has no address.
    pub fn shard(&self) -> Shard {
        Shard::sim(Rc::new(SimShard { core: self.core.clone(), owner: TEST }))
    }

    /// The link between two processes, by name, in both directions. It outlives them.
    pub fn link(&self, a: &str, b: &str) -> Link {
        let (a, b) = (self.core.slot_index(a), self.core.slot_index(b));
        Link { core: self.core.clone(), a, b }
    }

    /// The disk slot that processes open by this path; every process sees the same.
    pub fn disk(&self, path: &str) -> DiskSlot {
        DiskSlot::new(&self.core, path)
    }

    /// Exchanges the media of two slots, as a person with two disks in hand does.
    pub fn swap_disks(&self, a: &str, b: &str) {
        let (a, b) = (self.disk(a), self.disk(b));
        let (from_a, from_b) = (a.remove(), b.remove());
        from_b.into_iter().for_each(|medium| a.insert(medium));
        from_a.into_iter().for_each(|medium| b.insert(medium));
    }

    /// Virtual time.
    pub fn now(&self) -> Instant {
        self.core.now()
    }

    /// The seed that it was made from.
    pub fn seed(&self) -> u64 {
        self.core.seed
    }

    /// A stream of random numbers for this name; the same name gives the same stream from its start.
    pub fn rng(&self, name: &str) -> Rng {
        self.core.rng(&format!("test/{name}"))
    }

    /// A hash over every decision, message and disk operation so far. Equal seeds and equal code give equal hashes.
    pub fn trace_hash(&self) -> u64 {
        self.core.trace.value()
    }

    /// Polls so far.
    pub fn steps(&self) -> u64 {
        self.core.steps.get()
    }

    /// How often each kind of fault had an effect (see [`FAULT_KINDS`](super::FAULT_KINDS)). A fault that was ordered
    /// but met no operation is not counted.
    pub fn counters(&self) -> BTreeMap<&'static str, u64> {
        self.core.counters.borrow().clone()
    }

    /// Counts a fault of the caller's own kind.
    pub fn count(&self, kind: &'static str) {
        self.core.count(kind);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let core = &self.handle.core;
        if std::thread::panicking() {
            eprintln!(
                "simulated world: seed {}, at {:?}, {} polls, trace {:016x}",
                core.seed,
                core.now(),
                core.steps.get(),
                core.trace.value()
            );
        }
        // Jobs hold the world and the world holds jobs: cut here, or every world would leak.
        core.current.set(None);
        let owners: Vec<Owner> = {
            let mut slots = core.slots.borrow_mut();
            let live = slots.iter_mut().enumerate().map(|(slot, state)| {
                state.status = Status::Killed;
                Owner { slot, life: state.life }
            });
            live.collect()
        };
        for owner in owners {
            core.bury(owner);
        }
        // Whoever still holds the world, say a process's own ring of references, must not hold its disks: they are most of it.
        for disk in &mut core.disks.borrow_mut().all {
            disk.medium = None;
        }
    }
}
