//! The primary image of a mirror: what serves hosts, keeps the logs and brings the secondaries along.
//!
//! [`io`] is the data path and reads like the requirement; [`attach`] brings a secondary into service, [`resync`] copies,
//! [`settle`] moves what is settled out of the logs.

mod attach;
mod attachment;
mod image;
mod io;
mod orders;
mod resync;
mod settle;
mod show;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::sync::Mutex;
use twinlun_block::{BlockError, BlockLayer, MetaError, MetaLog, MetaStore, RangeTurns};
use twinlun_io::Shard;
use uuid::Uuid;

use crate::MirrorError;
use crate::database::Database;
use crate::events::{Events, Happening};
use crate::flights::Flights;
use crate::fracture::{self, MissMap};
use crate::intent::{self, IntentLog};
use crate::link::{Link, Peer};
use crate::planted::{Bug, planted};
use crate::record::{Fracture, MirrorRecord, SecondaryRecord, fracture_name, intent_name};
use crate::service::LuHandle;
use crate::signal::{Changes, Signal};
use crate::state::{MirrorChange, MirrorState, Relation, RelationChange, conditions};

pub(crate) use attachment::Attachment;
pub(crate) use image::{Image, Phase};
pub(crate) use resync::CopyBoard;

/// What a primary needs of the service.
pub(crate) struct Surroundings<M> {
    pub(crate) shard: Shard,
    pub(crate) meta: M,
    pub(crate) link: Option<Link>,
    pub(crate) events: Events,
    pub(crate) board: Rc<CopyBoard>,
    /// Noted when hosts may do more or less than before.
    pub(crate) access: Rc<Changes>,
}

impl<M: Clone> Clone for Surroundings<M> {
    fn clone(&self) -> Self {
        Self {
            shard: self.shard.clone(),
            meta: self.meta.clone(),
            link: self.link.clone(),
            events: self.events.clone(),
            board: self.board.clone(),
            access: self.access.clone(),
        }
    }
}

/// One LU of the set.
pub(crate) struct SetLu<L, G> {
    pub(crate) layer: L,
    pub(crate) turns: RangeTurns,
    pub(crate) intent: Rc<IntentLog<G>>,
}

/// The primary image.
pub(crate) struct Primary<L, M: MetaStore> {
    pub(crate) around: Surroundings<M>,
    pub(crate) uuid: Uuid,
    pub(crate) db: Rc<Database<M>>,
    pub(crate) lus: Vec<SetLu<L, M::Log>>,
    images: RefCell<Vec<Rc<Image<M::Log>>>>,
    state: Cell<MirrorState>,
    flights: Rc<Flights>,
    /// Attachments of this incarnation so far.
    attachments: Cell<u64>,
    /// Configuration that the members were told last.
    propagated: Cell<u64>,
    /// Held by whoever turns the generation of writes over.
    settling: Mutex<()>,
    /// Held by the administrator's order under way.
    pub(crate) orders: Mutex<()>,
    /// The mirror is no more, or the service stops.
    closed: Cell<bool>,
    signal: Signal,
}

impl<L: BlockLayer + Clone, M: MetaStore + Clone> Primary<L, M> {
    /// Takes up a mirror from its record and logs (R-WIL-4): whatever the logs name is missing on every secondary.
    pub(crate) async fn start(
        around: Surroundings<M>,
        record: MirrorRecord,
        handles: Vec<LuHandle<L>>,
    ) -> Result<Rc<Self>, MirrorError> {
        let mut lus = Vec::with_capacity(handles.len());
        for (index, handle) in handles.into_iter().enumerate() {
            let layout = intent::layout(handle.layer.geometry().size);
            let log = around.meta.open_log(&intent_name(record.uuid, index), layout.pages()).await?;
            let intent = IntentLog::open(around.shard.clone(), log, layout).await;
            lus.push(SetLu { layer: handle.layer, turns: RangeTurns::new(), intent });
        }
        let me = Rc::new(Self {
            uuid: record.uuid,
            state: Cell::new(record.state),
            db: Database::new(around.shard.clone(), around.meta.clone(), record.clone()),
            around,
            lus,
            images: RefCell::default(),
            flights: Rc::default(),
            attachments: Cell::new(0),
            propagated: Cell::new(0),
            settling: Mutex::new(()),
            orders: Mutex::new(()),
            closed: Cell::new(false),
            signal: Signal::default(),
        });
        for secondary in &record.secondaries {
            let image = me.open_image(secondary).await?;
            me.images.borrow_mut().push(image);
        }
        me.begin_incarnation().await?;
        for image in me.images() {
            me.around.shard.spawn(me.clone().tend(image));
        }
        me.around.shard.spawn(me.clone().settle_now_and_then());
        me.around.shard.spawn(me.clone().dismiss_departed());
        Ok(me)
    }

    /// Nobody is in step until it is attached again: that is on record before the first host is served.
    async fn begin_incarnation(self: &Rc<Self>) -> Result<(), MirrorError> {
        let since_unix = self.around.shard.unix_time().as_secs();
        self.db.change(|record| {
            record.incarnation += 1;
            for secondary in &mut record.secondaries {
                if secondary.relation == Relation::InStep {
                    secondary.relation = Relation::Behind;
                    let reason = "its primary was restarted".into();
                    secondary.fracture = Some(Fracture { ordered: false, reason, since_unix });
                }
            }
        });
        self.reconsider();
        let last = self.db.change(|_| ());
        Ok(self.db.stored(last).await?)
    }

    /// Opens the fracture logs of a secondary and adds what the intent log names.
    async fn open_image(&self, secondary: &SecondaryRecord) -> Result<Rc<Image<M::Log>>, MirrorError> {
        let peer = self.peer(&secondary.unit)?;
        let attributes = self.db.read().attributes.clone();
        let mut maps = Vec::new();
        let mut logs = Vec::new();
        for (index, lu) in self.lus.iter().enumerate() {
            let layout = fracture::layout(lu.layer.geometry().size, &attributes);
            let name = fracture_name(self.uuid, secondary.id, index);
            let log = self.around.meta.open_log(&name, layout.pages()).await?;
            let mut map = MissMap::new(layout);
            for page in 0..layout.pages() {
                map.load(page, log.read(page).await);
            }
            if !planted(Bug::IgnoreIntentAtStart) {
                map.add(|dirty| lu.intent.expand_into(dirty));
            }
            maps.push(map);
            logs.push(log);
        }
        Ok(Image::new(secondary.id, peer, maps, logs, secondary.attributes.synchronization_rate))
    }

    /// The peer of that name.
    pub(crate) fn peer(&self, unit: &str) -> Result<Peer, MirrorError> {
        let link = self.around.link.as_ref();
        link.and_then(|link| link.peer(unit)).ok_or_else(|| MirrorError::NoSuchUnit(unit.into()))
    }

    pub(crate) fn name(&self) -> String {
        self.db.read().name.clone()
    }

    pub(crate) fn state(&self) -> MirrorState {
        self.state.get()
    }

    fn images(&self) -> Vec<Rc<Image<M::Log>>> {
        self.images.borrow().clone()
    }

    fn tell(&self, unit: Option<&str>, what: Happening) {
        self.around.events.tell(&self.db.read().name, unit, what);
    }

    /// Whether a host's request may go on (R-MS-1).
    fn admit(&self) -> Result<(), BlockError> {
        if self.closed.get() {
            return Err(BlockError::Aborted);
        }
        match self.state.get() {
            MirrorState::Active => Ok(()),
            MirrorState::Inactive => Err(BlockError::NotServed),
            MirrorState::Attention => Err(BlockError::NotReady),
        }
    }

    /// A secondary misses something from now on. Nothing is sent any more on any LU of the set, from this very moment
    /// (B-2); answers to hosts wait until that is on record (I1, R-FL-2).
    fn lose(self: &Rc<Self>, image: &Image<M::Log>, attachment: &Rc<Attachment>, reason: &str, lu: usize) {
        if !image.is_attached(attachment) {
            return;
        }
        if planted(Bug::FractureOneLu) && self.lus.len() > 1 && attachment.session.is_alive() {
            image.lame.set(Some(lu));
            return;
        }
        image.attachment.replace(None);
        attachment.end();
        let before = image.phase.replace(Phase::Away);
        image.lose_everything_open(attachment);
        image.go.set(false);
        self.record_fracture(image, before, reason, false);
        self.tell(Some(&image.unit), Happening::Fractured(reason.into()));
        image.signal.raise();
    }

    /// Puts a fracture on record, together with what it does to the mirror's state (R-MS-2).
    fn record_fracture(self: &Rc<Self>, image: &Image<M::Log>, before: Phase, reason: &str, ordered: bool) {
        let state = self.state_by_conditions();
        let since_unix = self.around.shard.unix_time().as_secs();
        let change = |record: &mut MirrorRecord| {
            record.state = state;
            if let Some(secondary) = record.by_id_mut(image.id) {
                let after = secondary.relation.after(RelationChange::Lost);
                secondary.relation = after.expect("every relation can be lost");
                secondary.fracture = Some(Fracture { ordered, reason: reason.into(), since_unix });
            }
        };
        // Only a secondary that was in step is believed to have all that was acknowledged.
        if before == Phase::InStep {
            self.db.change_before_answers(change);
        } else {
            self.db.change(change);
        }
        self.enter(state);
    }

    fn present(&self) -> usize {
        let images = self.images.borrow();
        images.iter().filter(|i| i.attachment.borrow().is_some() || i.joining.get()).count()
    }

    fn state_by_conditions(&self) -> MirrorState {
        let record = self.db.read();
        let seen = conditions(&record.attributes, self.images.borrow().len(), self.present());
        let state = self.state.get();
        if state == MirrorState::Active && seen.stay.is_err() {
            state.after(MirrorChange::ConditionsFail)
        } else if seen.activate.is_ok() && record.attributes.activation_policy == crate::ByWhom::Automatic {
            state.after(MirrorChange::ConditionsHold)
        } else {
            state
        }
    }

    /// Follows the conditions (R-MS-2, R-MS-3) after anything that may change them.
    fn reconsider(self: &Rc<Self>) {
        let state = self.state_by_conditions();
        if state != self.state.get() {
            self.db.change(|record| record.state = state);
            self.enter(state);
        }
    }

    /// Enters a state, in RAM; it is on record or on its way there.
    fn enter(&self, state: MirrorState) {
        if self.state.replace(state) == state {
            return;
        }
        self.tell(None, Happening::State(state.name().into()));
        self.around.access.note();
        for image in self.images() {
            image.signal.raise();
        }
        self.signal.raise();
    }

    /// Stores what the fracture logs of an image lack. `Ok` means: every region that was dirty is named.
    async fn store_pages(&self, image: &Image<M::Log>) -> Result<(), MetaError> {
        for (lu, log) in image.logs.iter().enumerate() {
            let pages = image.maps.borrow_mut()[lu].take_stale(image.phase.get() == Phase::InStep);
            if pages.is_empty() {
                continue;
            }
            if let Err(error) = log.write(pages.clone()).await {
                image.maps.borrow_mut()[lu].not_stored(&pages);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Settles what can be settled and stops; hosts are not served any more (R-SP-6).
    pub(crate) async fn close(self: &Rc<Self>) {
        self.closed.set(true);
        self.flights.drained().await;
        self.settle().await;
        for lu in &self.lus {
            lu.intent.stored().await;
        }
        for image in self.images() {
            image.removed.set(true);
            if let Some(attachment) = image.attachment.take() {
                attachment.end();
            }
            image.signal.raise();
        }
        self.signal.raise();
        self.db.close().await;
    }
}
