//! A mirror's record on its primary unit: changed in RAM at once, stored by one job in group commits.

use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;
use std::time::Duration;

use twinlun_block::{MetaError, MetaStore};
use twinlun_io::Shard;

use crate::commit::Commits;
use crate::record::{MirrorRecord, record_key};
use crate::signal::Signal;

/// Pause before a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The record with its writing job.
pub(crate) struct Database<M> {
    shard: Shard,
    meta: M,
    record: RefCell<MirrorRecord>,
    /// The record as it is on disk: the only one that other units may hear of. One that is in RAM only may be gone after a
    /// crash, and its number would be given to another (I9).
    durable: RefCell<MirrorRecord>,
    commits: RefCell<Commits>,
    /// Number of the write that carries the last fracture: no host is answered before (I1).
    barrier: Cell<u64>,
    /// Whether that write is done.
    settled: Cell<bool>,
    /// The record is gone for good.
    closed: Cell<bool>,
    signal: Signal,
}

impl<M: MetaStore + Clone> Database<M> {
    /// Takes a record that is stored already.
    pub(crate) fn new(shard: Shard, meta: M, record: MirrorRecord) -> Rc<Self> {
        Rc::new(Self {
            shard,
            meta,
            durable: RefCell::new(record.clone()),
            record: RefCell::new(record),
            commits: RefCell::default(),
            barrier: Cell::new(0),
            settled: Cell::new(true),
            closed: Cell::new(false),
            signal: Signal::default(),
        })
    }

    /// The record as it is in RAM.
    pub(crate) fn read(&self) -> Ref<'_, MirrorRecord> {
        self.record.borrow()
    }

    /// The record as it is on disk, for other units.
    pub(crate) fn durable(&self) -> MirrorRecord {
        self.durable.borrow().clone()
    }

    /// Changes the record and counts the configuration up. Returns the number for [`Self::stored`].
    pub(crate) fn change(self: &Rc<Self>, change: impl FnOnce(&mut MirrorRecord)) -> u64 {
        {
            let mut record = self.record.borrow_mut();
            change(&mut record);
            record.configuration += 1;
        }
        let number = self.commits.borrow_mut().want();
        self.write_out();
        number
    }

    /// As [`Self::change`], for a fracture: [`Self::barrier`] holds answers back until it is stored.
    pub(crate) fn change_before_answers(self: &Rc<Self>, change: impl FnOnce(&mut MirrorRecord)) {
        let number = self.change(change);
        self.barrier.set(number);
        self.settled.set(false);
    }

    /// Waits until a change is durable.
    pub(crate) async fn stored(&self, number: u64) -> Result<(), MetaError> {
        self.signal.until(|| self.commits.borrow().outcome(number)).await
    }

    /// Returns once every fracture so far is durable. Costs nothing when it is.
    pub(crate) async fn barrier(&self) -> Result<(), MetaError> {
        if self.settled.get() {
            return Ok(());
        }
        self.stored(self.barrier.get()).await
    }

    /// Writes nothing any more, and waits for the write under way. For the end of the mirror.
    pub(crate) async fn close(&self) {
        self.closed.set(true);
        self.signal.until(|| (!self.commits.borrow().is_running()).then_some(())).await;
    }

    fn write_out(self: &Rc<Self>) {
        if self.closed.get() || !self.commits.borrow_mut().take_over() {
            return;
        }
        let me = self.clone();
        self.shard.spawn(async move {
            loop {
                me.commits.borrow_mut().start();
                let record = me.record.borrow().clone();
                let result = me.meta.put(vec![(record_key(record.uuid), Some(record.encode()))]).await;
                let failed = result.is_err();
                if !failed {
                    me.durable.replace(record);
                }
                if let Err(error) = &result {
                    tracing::error!(%error, "the mirror database cannot be stored");
                }
                let over = {
                    let mut commits = me.commits.borrow_mut();
                    commits.end(result);
                    if commits.outcome(me.barrier.get()) == Some(Ok(())) {
                        me.settled.set(true);
                    }
                    if failed && !me.closed.get() {
                        // What is in RAM is in force; it has to reach the disks whenever they take it.
                        commits.want();
                    }
                    me.closed.get() || commits.hand_back()
                };
                if over {
                    me.commits.borrow_mut().stop();
                }
                me.signal.raise();
                if over {
                    return;
                }
                if failed {
                    me.shard.sleep(RETRY).await;
                }
            }
        });
    }
}
