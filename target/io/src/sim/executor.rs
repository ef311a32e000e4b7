//! Jobs, wake-ups and timers: which job runs next is drawn from the seed.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use super::rng::Rng;
use super::world::Core;
use crate::Instant;

pub(super) type JobId = u64;
pub(super) type JobFuture = Pin<Box<dyn Future<Output = ()>>>;

/// A process in one of its lives. What a dead life left behind must not touch what the next one owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub(super) slot: usize,
    pub(super) life: u32,
}

/// Jobs that want to be polled. A waker must be `Send`, hence the lock; nothing ever contends for it.
#[derive(Default)]
pub(super) struct Ready {
    queue: Mutex<Vec<JobId>>,
}

impl Ready {
    pub(super) fn push(&self, job: JobId) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push(job);
    }

    pub(super) fn draw(&self, rng: &mut Rng) -> Option<JobId> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        match queue.len() {
            0 => None,
            1 => queue.pop(),
            len => Some(queue.swap_remove(rng.index(len))),
        }
    }
}

/// Wakes one job. It touches nothing but the ready queue, so it may be called with the world's state borrowed.
pub(super) struct JobWaker {
    id: JobId,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl JobWaker {
    /// Says that the job was taken from the queue: wake-ups from now on count again.
    pub(super) fn drawn(&self) {
        self.queued.store(false, Ordering::Relaxed);
    }
}

impl Wake for JobWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.push(self.id);
        }
    }
}

pub(super) struct Job {
    pub(super) owner: Owner,
    /// `None` while it is polled.
    pub(super) future: Option<JobFuture>,
    pub(super) wake: Arc<JobWaker>,
}

/// All jobs. A future is never dropped while this is borrowed: its destructors may come back here.
#[derive(Default)]
pub(super) struct Jobs {
    pub(super) ready: Arc<Ready>,
    pub(super) all: BTreeMap<JobId, Job>,
    next: JobId,
}

impl Jobs {
    /// A new id with its waker, already queued.
    pub(super) fn enlist(&mut self) -> (JobId, Arc<JobWaker>) {
        self.next += 1;
        let wake =
            Arc::new(JobWaker { id: self.next, queued: AtomicBool::new(false), ready: self.ready.clone() });
        wake.wake_by_ref();
        (self.next, wake)
    }

    pub(super) fn insert(&mut self, owner: Owner, future: JobFuture) {
        let (id, wake) = self.enlist();
        self.all.insert(id, Job { owner, future: Some(future), wake });
    }

    /// Takes all jobs of a process out.
    pub(super) fn take_of(&mut self, owner: Owner) -> Vec<Job> {
        let ids: Vec<JobId> =
            self.all.iter().filter(|(_, job)| job.owner == owner).map(|(id, _)| *id).collect();
        ids.iter().filter_map(|id| self.all.remove(id)).collect()
    }
}

/// What happens when a timer fires.
pub(super) enum Event {
    /// A job's timer.
    Wake(Waker),
    /// A connection request arrives.
    Syn { conn: u64 },
    /// The answer to a connection request arrives.
    SynAnswer { conn: u64, refused: bool },
    /// No answer came; ask again.
    SynRetry { conn: u64 },
    /// Bytes, an end or a reset are due at the other end.
    Segment { conn: u64, way: usize },
    /// A disk operation is done.
    Disk { disk: usize, op: u64 },
}

pub(super) type TimerKey = (Instant, u64);

/// Timers in the order of deadline, then of registration.
#[derive(Default)]
pub(super) struct Timers {
    all: BTreeMap<TimerKey, Event>,
    next: u64,
}

impl Timers {
    pub(super) fn add(&mut self, at: Instant, event: Event) -> TimerKey {
        self.next += 1;
        self.all.insert((at, self.next), event);
        (at, self.next)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.all.first_key_value().map(|((at, _), _)| *at)
    }

    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Event> {
        let entry = self.all.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}

/// A job's timer. Dropping it removes it.
pub(super) struct Sleep {
    core: Rc<Core>,
    deadline: Instant,
    key: Option<TimerKey>,
}

impl Sleep {
    pub(super) fn new(core: Rc<Core>, deadline: Instant) -> Self {
        Self { core, deadline, key: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.core.now() >= self.deadline {
            return Poll::Ready(());
        }
        let deadline = self.deadline;
        let wake = Event::Wake(cx.waker().clone());
        let mut timers = self.core.timers.borrow_mut();
        let key = match self.key {
            Some(key) => {
                timers.all.insert(key, wake);
                key
            }
            None => timers.add(deadline, wake),
        };
        drop(timers);
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.core.timers.borrow_mut().all.remove(&key);
        }
    }
}
