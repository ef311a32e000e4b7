//! A disk in its slot: the open handle, whether it is used, and what is not flushed yet.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::pin::pin;
use std::task::Poll;

use tokio::sync::{Notify, Semaphore};
use twinlun_block::{ByteRange, Payload};
use twinlun_io::{Disk, DiskError, Durability};
use uuid::Uuid;

use crate::DiskState;
use crate::label::DiskLayout;
use crate::stall::Waiting;
use crate::vault::image::ImageId;

/// A disk of the unit.
pub(crate) struct Slot {
    pub(crate) number: u32,
    pub(crate) uuid: Uuid,
    pub(crate) generation: u64,
    pub(crate) path: PathBuf,
    pub(crate) layout: DiskLayout,
    /// Keeps nothing (`null:`): no label, no vault copy.
    pub(crate) volatile: bool,
    pub(crate) spare: Cell<bool>,
    disk: RefCell<Option<Disk>>,
    health: RefCell<Health>,
    /// Whether the vault durably says that the disk is out.
    pub(crate) settled: Cell<bool>,
    /// Requests that a silent disk must not keep waiting for ever.
    pub(crate) waiting: Waiting,
    /// Whether it was said that the disk does not answer.
    pub(crate) silent: Cell<bool>,
    given_up: Cell<bool>,
    gave_up: Notify,
    pub(crate) errors: Cell<u64>,
    /// The image slot that does not hold this disk's newest image.
    pub(crate) image_next: Cell<u8>,
    /// What this disk's newest image may be: one, or more after writes whose outcome is unknown.
    pub(crate) newest: RefCell<Vec<ImageId>>,
    /// Volatile writes answered so far, and how many of them a flush has covered.
    written: Cell<u64>,
    flushed: Cell<u64>,
    flush_line: Semaphore,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Health {
    Active,
    Out { state: DiskState, reason: String },
}

impl Slot {
    pub(crate) fn new(
        number: u32,
        uuid: Uuid,
        generation: u64,
        path: PathBuf,
        layout: DiskLayout,
        volatile: bool,
    ) -> Self {
        Self {
            number,
            uuid,
            generation,
            path,
            layout,
            volatile,
            spare: Cell::new(false),
            disk: RefCell::new(None),
            health: RefCell::new(Health::Out { state: DiskState::Missing, reason: "not found".into() }),
            settled: Cell::new(false),
            waiting: Waiting::default(),
            silent: Cell::new(false),
            given_up: Cell::new(false),
            gave_up: Notify::new(),
            errors: Cell::new(0),
            image_next: Cell::new(0),
            newest: RefCell::new(Vec::new()),
            written: Cell::new(0),
            flushed: Cell::new(0),
            flush_line: Semaphore::new(1),
        }
    }

    /// Puts the disk to use.
    pub(crate) fn activate(&self, disk: Disk) {
        *self.disk.borrow_mut() = Some(disk);
        *self.health.borrow_mut() = Health::Active;
        self.settled.set(false);
    }

    /// Takes the disk out of use. Whether it was in use before.
    pub(crate) fn retire(&self, state: DiskState, reason: String) -> bool {
        let was_active = self.is_active();
        *self.health.borrow_mut() = Health::Out { state, reason };
        *self.disk.borrow_mut() = None;
        was_active
    }

    /// Closes the disk at the end of an orderly shutdown.
    pub(crate) fn close(&self) {
        *self.disk.borrow_mut() = None;
    }

    pub(crate) fn is_active(&self) -> bool {
        *self.health.borrow() == Health::Active
    }

    /// Whether it keeps a copy of the vault.
    pub(crate) fn votes(&self) -> bool {
        !self.volatile && self.is_active()
    }

    /// State and reason for people; LU members decide whether an active one is rebuilding.
    pub(crate) fn state(&self) -> (DiskState, String) {
        match &*self.health.borrow() {
            Health::Active if self.spare.get() => (DiskState::Spare, String::new()),
            Health::Active => (DiskState::Online, String::new()),
            Health::Out { state, reason } => (*state, reason.clone()),
        }
    }

    fn disk(&self) -> Result<Disk, DiskError> {
        self.disk.borrow().clone().ok_or_else(|| DiskError::NotFound { path: self.path.clone() })
    }

    fn count<T>(&self, done: Result<T, DiskError>) -> Result<T, DiskError> {
        if done.is_err() {
            self.errors.set(self.errors.get() + 1);
        }
        done
    }

    /// Whoever waits for an answer of the disk waits no longer. What the kernel still has under way keeps the file locked, so that the disk
    /// cannot come back before it is over.
    pub(crate) fn give_up(&self) {
        self.given_up.set(true);
        self.gave_up.notify_waiters();
    }

    /// Waits for the disk, however long.
    pub(crate) async fn late_answer<T>(
        &self,
        work: impl Future<Output = Result<T, DiskError>>,
    ) -> Result<T, DiskError> {
        let _request = self.waiting.begin();
        work.await
    }

    /// Waits for the disk, until it is given up.
    pub(crate) async fn answer<T>(
        &self,
        work: impl Future<Output = Result<T, DiskError>>,
    ) -> Result<T, DiskError> {
        let _request = self.waiting.begin();
        let (mut work, mut gave_up) = (pin!(work), pin!(self.gave_up.notified()));
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            if self.given_up.get() || gave_up.as_mut().poll(cx).is_ready() {
                let reason = "it does not answer".into();
                return Poll::Ready(Err(DiskError::Open { path: self.path.clone(), reason }));
            }
            Poll::Pending
        })
        .await
    }

    /// Passes a hint on.
    pub(crate) fn prefetch(&self, range: ByteRange, write: bool) {
        if let Some(disk) = &*self.disk.borrow() {
            disk.prefetch(range, write);
        }
    }

    pub(crate) async fn read(&self, range: ByteRange) -> Result<Payload, DiskError> {
        let disk = self.disk()?;
        self.count(disk.read(range).await)
    }

    pub(crate) async fn write(
        &self,
        offset: u64,
        data: Payload,
        durability: Durability,
    ) -> Result<(), DiskError> {
        let disk = self.disk()?;
        let done = disk.write(offset, data, durability).await;
        if durability == Durability::Volatile {
            self.written.set(self.written.get() + 1);
        }
        self.count(done)
    }

    pub(crate) async fn allocated(&self, range: ByteRange) -> Result<(bool, u64), DiskError> {
        let disk = self.disk()?;
        self.count(disk.allocated(range).await)
    }

    pub(crate) async fn free_space(&self) -> Option<u64> {
        let disk = self.disk().ok()?;
        disk.free_space().await
    }

    pub(crate) async fn zero(
        &self,
        range: ByteRange,
        may_unmap: bool,
        durability: Durability,
    ) -> Result<(), DiskError> {
        let disk = self.disk()?;
        let done = disk.zero(range, may_unmap, durability).await;
        if durability == Durability::Volatile {
            self.written.set(self.written.get() + 1);
        }
        self.count(done)
    }

    /// Makes every write that was answered before stable. Costs nothing when there is none, and callers that come
    /// while a flush runs share the next one.
    pub(crate) async fn flush(&self) -> Result<(), DiskError> {
        let wanted = self.written.get();
        if self.flushed.get() >= wanted {
            return Ok(());
        }
        let _alone = self.flush_line.acquire().await.expect("the line is never closed");
        if self.flushed.get() >= wanted {
            return Ok(());
        }
        let covers = self.written.get();
        let disk = self.disk()?;
        self.count(disk.flush().await)?;
        self.flushed.set(self.flushed.get().max(covers));
        Ok(())
    }
}
