//! A bound LU: RAID over members, served to the layer above (docs/design/raid.md).

mod allocation;
mod atomic;
pub(crate) mod intent;
pub(crate) mod keeper;
pub(crate) mod member;
mod read;
pub(crate) mod record;
mod write;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use tokio::sync::Semaphore;
use twinlun_block::{
    Allocation, BlockError, BlockLayer, BlockRequest, BlockResult, ByteRange, Geometry, MetaError, Payload,
    RangeTurns, UnmapSupport,
};
use twinlun_io::Durability;
use uuid::Uuid;

use self::atomic::Atomic;
use self::intent::Intent;
use self::member::{Content, Member};
use self::record::LuRecord;
use crate::slot::Slot;
use crate::stripe::Stripe;
use crate::vault::Core;
use crate::{ArrayError, ArrayOptions, LuInfo, LuState, MemberInfo, Raid};

/// A bound LU. Clones are the same LU.
#[derive(Clone)]
pub struct Lu {
    pub(crate) core: Rc<LuCore>,
}

pub(crate) struct LuCore {
    pub(crate) vault: Rc<Core>,
    pub(crate) uuid: Uuid,
    name: String,
    raid: Raid,
    thin: bool,
    geometry: Geometry,
    pub(crate) stripe: Stripe,
    /// Copies of one column side by side.
    members: RefCell<Vec<Rc<Member>>>,
    turns: RangeTurns,
    /// COMPARE AND WRITEs under way: the only thing that reads of a LU without redundancy wait for.
    comparing: Cell<u32>,
    /// Reads so far; spreads them over the copies.
    reads: Cell<usize>,
    /// Bad blocks being rewritten.
    healing: Cell<u32>,
    /// Set for LUs with more than one copy.
    pub(crate) intent: Option<Rc<Intent>>,
    /// Write log of atomic writes.
    atomic: Atomic,
    stopping: Cell<bool>,
    /// Held while the record is changed, from reading the members to having stored them.
    pub(crate) record_line: Semaphore,
    options: ArrayOptions,
    last_state: Cell<LuState>,
}

/// Counts something for as long as it lives.
struct Counted<'a>(&'a Cell<u32>);

impl<'a> Counted<'a> {
    fn new(cell: &'a Cell<u32>) -> Self {
        cell.set(cell.get() + 1);
        Self(cell)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

fn durability(fua: bool) -> Durability {
    if fua { Durability::Stable } else { Durability::Volatile }
}

impl Lu {
    /// Opens a LU from its record, and starts what keeps its copies equal.
    pub(crate) async fn open(
        vault: &Rc<Core>,
        record: &LuRecord,
        options: &ArrayOptions,
    ) -> Result<Self, ArrayError> {
        let (stripe, block_size) = record.check(|disk| vault.slot_of(disk).map(|slot| slot.layout))?;
        let member = |m| Rc::new(Member::new(m, vault.slot_of(m.disk), stripe.copies));
        let members = record.members.iter().map(member).collect();
        let intent = if stripe.copies > 1 { Some(open_intent(vault, record).await?) } else { None };
        let core = LuCore {
            vault: vault.clone(),
            uuid: record.uuid,
            name: record.name.clone(),
            raid: record.raid,
            thin: record.thin,
            geometry: Geometry {
                size: record.size,
                block_size,
                optimal_io: if stripe.columns > 1 { stripe.chunk * stripe.columns } else { 0 },
                unmap: UnmapSupport { granularity: if record.thin { 4096 } else { 0 } },
            },
            stripe,
            members: RefCell::new(members),
            turns: RangeTurns::new(),
            comparing: Cell::new(0),
            reads: Cell::new(0),
            healing: Cell::new(0),
            intent,
            atomic: Atomic::open(vault, record.uuid).await?,
            stopping: Cell::new(false),
            record_line: Semaphore::new(1),
            options: options.clone(),
            last_state: Cell::new(LuState::Optimal),
        };
        core.last_state.set(core.state());
        let lu = Self { core: Rc::new(core) };
        keeper::start(&lu.core);
        if let Err(error) = lu.core.finish_atomic().await {
            tracing::warn!(lu = record.name, %error, "an atomic write waits to be finished; the LU is not ready before");
        }
        Ok(lu)
    }

    /// Identity for life.
    pub fn uuid(&self) -> Uuid {
        self.core.uuid
    }

    /// Bytes that may still be taken for it, `None` where its disks have room of their own, and bytes that are taken.
    pub async fn space(&self) -> Result<(Option<u64>, u64), BlockError> {
        self.core.space().await
    }

    /// What it is and how it is.
    pub fn info(&self) -> LuInfo {
        self.core.info()
    }
}

/// Opens the write intent. One that was lost with all its disks is made anew with everything in it.
async fn open_intent(vault: &Rc<Core>, record: &LuRecord) -> Result<Rc<Intent>, ArrayError> {
    let (name, pages) = (LuRecord::intent_log(record.uuid), intent::pages(record.size));
    let log = match vault.open_log(&name, pages).await {
        Err(MetaError::NoMajority { .. } | MetaError::Damaged { .. }) => None,
        other => Some(other?),
    };
    if let Some(log) = log {
        return Ok(Intent::open(vault.shard.clone(), log, record.size).await?);
    }
    vault.remove_log(&name).await?;
    let log = vault.open_log(&name, pages).await?;
    let intent = Intent::open(vault.shard.clone(), log, record.size).await?;
    let whole = ByteRange::new(0, record.size);
    drop(intent.mark(whole).await?);
    intent.suspect(whole);
    Ok(intent)
}

impl BlockLayer for Lu {
    fn geometry(&self) -> Geometry {
        self.core.geometry
    }

    async fn execute(&self, request: BlockRequest) -> BlockResult {
        let lu = &self.core;
        if lu.stopping.get() {
            return Err(BlockError::Aborted);
        }
        if request.range().is_some_and(ByteRange::is_empty) {
            return Ok(Payload::new());
        }
        if lu.atomic.is_pending() {
            lu.finish_atomic().await.map_err(|_| BlockError::NotReady)?;
        }
        let done = match request {
            BlockRequest::Read { range } => return lu.read(range).await,
            BlockRequest::Write { range, data, fua } => {
                lu.write(range, Content::Data(data), durability(fua)).await
            }
            BlockRequest::Flush => lu.flush().await,
            BlockRequest::Unmap { range } => {
                lu.write(range, Content::Zeros { may_unmap: lu.thin }, Durability::Volatile).await
            }
            BlockRequest::WriteZeroes { range, fua, may_unmap } => {
                let may_unmap = may_unmap && lu.thin;
                lu.write(range, Content::Zeros { may_unmap }, durability(fua)).await
            }
            // Stable whether or not that is asked for: nothing less is atomic.
            BlockRequest::WriteAtomic { range, data, .. } => lu.write_atomic(range, data).await,
            BlockRequest::CompareAndWrite { range, compare, data, fua } => {
                lu.compare_and_write(range, &compare, data, durability(fua)).await
            }
        };
        done.map(|()| Payload::new())
    }

    fn prefetch(&self, range: ByteRange, write: bool) {
        if self.core.geometry.whole().contains(range) {
            self.core.prefetch(range, write);
        }
    }

    async fn allocation(&self, range: ByteRange, limit: usize) -> Result<Vec<Allocation>, BlockError> {
        self.core.allocation(range, limit).await
    }
}

impl LuCore {
    /// The copies of a column.
    fn copies(&self, column: usize) -> Vec<Rc<Member>> {
        let start = column * self.stripe.copies;
        self.members.borrow()[start..start + self.stripe.copies].to_vec()
    }

    /// Passes the hint on where it costs nearly nothing: to a LU on one disk.
    fn prefetch(&self, range: ByteRange, write: bool) {
        if let [only] = &self.members.borrow()[..] {
            only.prefetch(range, write);
        }
    }

    pub(crate) fn member_list(&self) -> Vec<Rc<Member>> {
        self.members.borrow().clone()
    }

    /// Disks in use, each once.
    fn active_slots(&self) -> Vec<Rc<Slot>> {
        let mut slots: Vec<_> = self.members.borrow().iter().filter_map(|m| m.active().cloned()).collect();
        slots.sort_by_key(|slot| slot.number);
        slots.dedup_by_key(|slot| slot.number);
        slots
    }

    /// Whether the loss of a disk that is not recorded yet stands between this LU and its next answer.
    fn has_unsettled_loss(&self) -> bool {
        let unsettled = |slot: &Rc<Slot>| !slot.is_active() && !slot.settled.get();
        self.members.borrow().iter().any(|member| member.slot.as_ref().is_some_and(unsettled))
    }

    /// Whether every column can be read.
    pub(crate) fn is_served(&self) -> bool {
        self.members.borrow().chunks(self.stripe.copies).all(|column| column.iter().any(|m| m.is_in_step()))
    }

    /// Whether it would still be served without these disks, or does not need them.
    pub(crate) fn survives_without(&self, gone: &BTreeSet<Uuid>) -> bool {
        let members = self.members.borrow();
        members.iter().all(|m| !gone.contains(&m.disk))
            || members
                .chunks(self.stripe.copies)
                .all(|column| column.iter().any(|m| m.is_in_step() && !gone.contains(&m.disk)))
    }

    pub(crate) fn state(&self) -> LuState {
        let members = self.members.borrow();
        if !members.chunks(self.stripe.copies).all(|column| column.iter().any(|m| m.is_in_step())) {
            LuState::Failed
        } else if members.iter().all(|m| m.is_in_step()) {
            LuState::Optimal
        } else if members.iter().any(|m| m.is_building()) {
            LuState::Rebuilding
        } else {
            LuState::Degraded
        }
    }

    /// The state, when it is another one than at the last call.
    pub(crate) fn state_change(&self) -> Option<LuState> {
        let state = self.state();
        (self.last_state.replace(state) != state).then_some(state)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn record(&self) -> LuRecord {
        LuRecord {
            uuid: self.uuid,
            name: self.name.clone(),
            size: self.geometry.size,
            raid: self.raid,
            block_size: self.geometry.block_size.bytes(),
            chunk: self.stripe.chunk,
            thin: self.thin,
            members: self.members.borrow().iter().map(|member| member.record()).collect(),
        }
    }

    /// Puts another member in the place of one; the record is stored by the caller first.
    pub(crate) fn set_member(&self, index: usize, member: Member) {
        self.members.borrow_mut()[index] = Rc::new(member);
        self.kick();
    }

    pub(crate) fn kick(&self) {
        if let Some(intent) = &self.intent {
            intent.kick.notify_one();
        }
    }

    pub(crate) fn info(&self) -> LuInfo {
        let member = |member: &Rc<Member>| MemberInfo {
            slot: member.slot.as_ref().map(|slot| slot.number),
            disk: member.disk,
            in_step: member.is_in_step(),
        };
        LuInfo {
            uuid: self.uuid,
            name: self.name.clone(),
            size: self.geometry.size,
            raid: self.raid,
            block_size: self.geometry.block_size,
            chunk: self.stripe.chunk,
            thin: self.thin,
            members: self.members.borrow().iter().map(member).collect(),
            state: self.state(),
            dirty_bytes: self.intent.as_ref().map_or(0, |intent| intent.marked_bytes()),
        }
    }

    /// Lets no further request in and waits for those under way.
    pub(crate) async fn stop(&self) {
        self.stopping.set(true);
        self.kick();
        drop(self.turns.exclusive(self.geometry.whole()).await);
    }
}
