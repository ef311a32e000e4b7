//! A secondary image: carries out what its primary sends, and nothing else. Hosts are refused (R-HOST-3).
//!
//! Invariants:
//! 1. Data is taken only from the attachment of the highest epoch ever seen, which is durable before it is answered.
//! 2. When an attachment is answered, every request of earlier ones is over: no late write lands behind a newer one.
//! 3. `consistent` is durably false before the first block of a copy is overwritten.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::sync::Mutex;
use twinlun_block::{BlockError, BlockLayer, BlockRequest, ByteRange, MetaStore, Payload};
use uuid::Uuid;

use crate::MirrorError;
use crate::decide::{Generation, Role, SecondarySide};
use crate::link::{DataOp, DataRequest, DataStatus, Response};
use crate::planted::{Bug, planted};
use crate::record::{LocalRecord, MirrorRecord, local_key, record_key};
use crate::signal::Signal;

/// The secondary image of one mirror on this unit.
pub(crate) struct Secondary<L, M> {
    meta: M,
    pub(crate) image: Uuid,
    record: RefCell<MirrorRecord>,
    local: RefCell<LocalRecord>,
    layers: Vec<L>,
    /// Session and epoch whose requests are carried out.
    attached: Cell<Option<(u64, u64)>>,
    executing: Cell<u64>,
    signal: Signal,
    /// Held by whoever changes `local` or `record`.
    changing: Mutex<()>,
}

impl<L: BlockLayer + Clone, M: MetaStore + Clone> Secondary<L, M> {
    pub(crate) fn new(
        meta: M,
        image: Uuid,
        record: MirrorRecord,
        local: LocalRecord,
        layers: Vec<L>,
    ) -> Rc<Self> {
        Rc::new(Self {
            meta,
            image,
            record: RefCell::new(record),
            local: RefCell::new(local),
            layers,
            attached: Cell::new(None),
            executing: Cell::new(0),
            signal: Signal::default(),
            changing: Mutex::new(()),
        })
    }

    pub(crate) fn record(&self) -> MirrorRecord {
        self.record.borrow().clone()
    }

    pub(crate) fn local(&self) -> LocalRecord {
        self.local.borrow().clone()
    }

    /// Whether the primary is on that unit.
    pub(crate) fn follows(&self, unit: &str) -> bool {
        self.record.borrow().primary.unit == unit
    }

    /// Whether its primary is attached just now.
    pub(crate) fn is_attached(&self) -> bool {
        self.attached.get().is_some()
    }

    /// Begins an attachment: ends the former one, remembers the epoch, says what this side holds.
    pub(crate) async fn attach(
        &self,
        session: u64,
        epoch: u64,
        record: MirrorRecord,
    ) -> Result<SecondarySide, MirrorError> {
        let _one = self.changing.lock().await;
        if epoch <= self.local.borrow().epoch {
            let unit = record.primary.unit.clone();
            return Err(MirrorError::Diverged { unit, why: "a later attachment was seen already".into() });
        }
        self.attached.set(None);
        self.drained().await;
        let known = self.record.borrow().configuration;
        let local = LocalRecord { epoch, ..self.local() };
        let newer = (record.configuration > known).then_some(record);
        self.store(local, newer).await?;
        self.attached.set(Some((session, epoch)));
        let local = self.local.borrow();
        Ok(SecondarySide {
            role: Role::Secondary,
            generation: local.generation,
            consistent: local.consistent,
            configuration: known,
        })
    }

    /// Remembers of which generation the data is from now on, and whether it is a consistent point.
    pub(crate) async fn set_data(
        &self,
        epoch: u64,
        generation: Generation,
        consistent: bool,
    ) -> Result<(), MirrorError> {
        let _one = self.changing.lock().await;
        let local = self.local();
        if epoch != local.epoch {
            let unit = self.record.borrow().primary.unit.clone();
            return Err(MirrorError::Diverged { unit, why: "a later attachment was seen".into() });
        }
        self.store(LocalRecord { generation: Some(generation), consistent, epoch }, None).await
    }

    /// Takes a newer configuration; an older one never overrides (R-DB-2, I9).
    pub(crate) async fn configure(&self, record: MirrorRecord) -> Result<(), MirrorError> {
        let _one = self.changing.lock().await;
        if record.configuration <= self.record.borrow().configuration {
            return Ok(());
        }
        self.store(self.local(), Some(record)).await
    }

    async fn store(&self, local: LocalRecord, record: Option<MirrorRecord>) -> Result<(), MirrorError> {
        let mirror = self.record.borrow().uuid;
        let mut changes = vec![(local_key(mirror), Some(local.encode()))];
        if let Some(record) = &record {
            changes.push((record_key(mirror), Some(record.encode())));
        }
        self.meta.put(changes).await?;
        self.local.replace(local);
        if let Some(record) = record {
            self.record.replace(record);
        }
        Ok(())
    }

    /// Takes no requests any more and waits for those under way.
    pub(crate) async fn detach(&self) {
        self.attached.set(None);
        self.drained().await;
    }

    /// The session is gone, with everything that it asked for.
    pub(crate) fn session_closed(&self, session: u64) {
        if self.attached.get().is_some_and(|(of, _)| of == session) {
            self.attached.set(None);
        }
    }

    async fn drained(&self) {
        if planted(Bug::AllowStaleEpoch) {
            return;
        }
        self.signal.until(|| (self.executing.get() == 0).then_some(())).await;
    }

    /// A hint: this is carried out in a moment.
    pub(crate) fn announce(&self, request: &DataRequest) {
        let write = matches!(request.op, DataOp::Write { .. } | DataOp::WriteAtomic { .. });
        if let Some(layer) = self.layers.get(usize::from(request.lu)).filter(|_| write) {
            layer.prefetch(request.range, true);
        }
    }

    /// Carries out work on the image.
    pub(crate) async fn execute(&self, session: u64, request: DataRequest) -> Response {
        let refuse = |status| Response::Data(status, Payload::new());
        let current = self.attached.get() == Some((session, request.epoch));
        if !current && !planted(Bug::AllowStaleEpoch) {
            return refuse(DataStatus::StaleEpoch);
        }
        let Some(layer) = self.layers.get(usize::from(request.lu)) else {
            return refuse(DataStatus::NotAttached);
        };
        // The primary has the same geometry; a range that does not fit comes from something else.
        let geometry = layer.geometry();
        let block = u64::from(geometry.block_size.bytes());
        let range = request.range;
        let aligned = range.offset().is_multiple_of(block) && range.len().is_multiple_of(block);
        if !geometry.whole().contains(range) || !aligned {
            return refuse(DataStatus::Failed(BlockError::Medium { offset: range.offset() }));
        }
        self.executing.set(self.executing.get() + 1);
        let result = layer.execute(block_request(request.op, range)).await;
        self.executing.set(self.executing.get() - 1);
        if self.executing.get() == 0 {
            self.signal.raise();
        }
        match result {
            Ok(payload) => Response::Data(DataStatus::Done, payload),
            Err(error) => refuse(DataStatus::Failed(error)),
        }
    }
}

fn block_request(op: DataOp, range: ByteRange) -> BlockRequest {
    match op {
        DataOp::Write { payload, stable } => BlockRequest::Write { range, data: payload, fua: stable },
        DataOp::WriteAtomic { payload, stable } => {
            BlockRequest::WriteAtomic { range, data: payload, fua: stable }
        }
        DataOp::WriteZeroes { may_unmap, stable } => {
            BlockRequest::WriteZeroes { range, fua: stable, may_unmap }
        }
        DataOp::Unmap => BlockRequest::Unmap { range },
        DataOp::Read => BlockRequest::Read { range },
        DataOp::Flush => BlockRequest::Flush,
    }
}
