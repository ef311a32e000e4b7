//! The service: all mirrors in which this storage unit takes part, as the unit sees it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, broadcast, watch};
use twinlun_block::{BlockLayer, MetaStore};
use twinlun_io::Shard;
use uuid::Uuid;

use crate::attributes::{Attributes, WritePolicy};
use crate::decide::Generation;
use crate::events::{Events, Happening, MirrorEvent};
use crate::layer::{MirroredLu, Role, Slot};
use crate::link::{Link, LinkConfig};
use crate::members::ServiceHandler;
use crate::primary::{CopyBoard, Primary, Surroundings};
use crate::protocol::{Answer, Ask};
use crate::record::{
    self, INDEX_KEY, LocalRecord, LuRecord, MOST_LUS, MOST_MIRRORS, MirrorRecord, PrimaryRecord, local_key,
    record_key,
};
use crate::secondary::Secondary;
use crate::state::MirrorState;
use crate::{MirrorError, MirrorView};

/// Who this storage unit is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitIdentity {
    /// Name, as its peers' link configurations spell it.
    pub name: String,
    /// Identity for life.
    pub uuid: Uuid,
}

/// A LU of the array below.
#[derive(Clone, Debug)]
pub struct LuHandle<L> {
    /// Identity for life.
    pub uuid: Uuid,
    /// The administrator's name for it.
    pub name: String,
    /// The array's layer.
    pub layer: L,
}

/// Where the service finds the LUs of the array.
pub trait LuSource<L>: 'static {
    /// By identity.
    fn by_uuid(&self, uuid: Uuid) -> Option<LuHandle<L>>;
    /// By name.
    fn by_name(&self, name: &str) -> Option<LuHandle<L>>;
}

/// What hosts may do with a LU that belongs to a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LuAccess {
    /// Read and write: primary image of an ACTIVE mirror.
    Served,
    /// Nothing: a secondary image (R-HOST-3).
    Secondary,
    /// Nothing: the mirror is INACTIVE (R-MS-1).
    Inactive,
    /// Nothing for now: the mirror is in ATTENTION (R-MS-2) or could not be recovered; hosts may try again.
    Attention,
}

/// An order for a new mirror.
#[derive(Clone, Debug)]
pub struct CreateMirror {
    /// Name, unique on the unit: 1 to 64 of letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Names of the LUs of the set, in order.
    pub lus: Vec<String>,
    /// Write policy.
    pub policy: WritePolicy,
    /// Attributes by name, as text.
    pub attributes: BTreeMap<String, String>,
}

/// All mirrors of this unit. Cheap to clone; all clones are the same service.
pub struct MirrorService<L, M: MetaStore> {
    pub(crate) inner: Rc<Inner<L, M>>,
}

impl<L, M: MetaStore> Clone for MirrorService<L, M> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

/// What this unit is for a mirror.
pub(crate) enum Member<L, M: MetaStore> {
    Primary(Rc<Primary<L, M>>),
    Secondary(Rc<Secondary<L, M>>),
    /// It could not be recovered; the reason.
    Unusable(Box<MirrorRecord>, MirrorError),
}

impl<L, M: MetaStore> Clone for Member<L, M> {
    fn clone(&self) -> Self {
        match self {
            Self::Primary(primary) => Self::Primary(primary.clone()),
            Self::Secondary(secondary) => Self::Secondary(secondary.clone()),
            Self::Unusable(record, why) => Self::Unusable(record.clone(), why.clone()),
        }
    }
}

pub(crate) struct Inner<L, M: MetaStore> {
    pub(crate) shard: Shard,
    pub(crate) unit: UnitIdentity,
    pub(crate) meta: M,
    pub(crate) lus: Rc<dyn LuSource<L>>,
    pub(crate) events: Events,
    pub(crate) members: RefCell<BTreeMap<Uuid, Member<L, M>>>,
    slots: RefCell<BTreeMap<Uuid, Rc<Slot<L, M>>>>,
    /// Held by whoever adds or takes away a member.
    pub(crate) membership: Mutex<()>,
    link: OnceCell<Link>,
    board: Rc<CopyBoard>,
    access: watch::Sender<u64>,
    pub(crate) stopping: Cell<bool>,
}

impl<L: BlockLayer + Clone, M: MetaStore + Clone> MirrorService<L, M> {
    /// Reads the mirror database, recovers every mirror and starts the link. Hosts may be served once it returns.
    ///
    /// A mirror that cannot be recovered does not keep the others from service: its LUs answer NOT READY, and `show` says
    /// why. Without a link, mirrors can be created but have no secondaries.
    pub async fn open(
        shard: Shard,
        unit: UnitIdentity,
        meta: M,
        lus: Rc<dyn LuSource<L>>,
        link: Option<LinkConfig>,
    ) -> Result<Self, MirrorError> {
        let me = Self {
            inner: Rc::new(Inner {
                shard: shard.clone(),
                unit,
                meta,
                lus,
                events: Events::new(),
                members: RefCell::default(),
                slots: RefCell::default(),
                membership: Mutex::new(()),
                link: OnceCell::new(),
                board: Rc::default(),
                access: watch::Sender::new(0),
                stopping: Cell::new(false),
            }),
        };
        let mut primaries = Vec::new();
        for record in me.inner.read_records()? {
            if record.primary.unit == me.inner.unit.name {
                me.inner.set_roles(&record, || Role::Unusable);
                primaries.push(record);
            } else {
                me.inner.load_secondary(record)?;
            }
        }
        if let Some(config) = link {
            // Secondaries are known before the first peer can ask for them.
            let handler = Rc::new(ServiceHandler::new(&me.inner));
            let link = Link::start(&shard, config, handler).await;
            let link =
                link.map_err(|error| MirrorError::Invalid(format!("the link cannot start: {error}")))?;
            let _ = me.inner.link.set(link);
        }
        for record in primaries {
            me.inner.clone().start_primary(record).await;
        }
        Ok(me)
    }

    /// Settles the logs and stops. Hosts' requests from now on are aborted. For a clean shutdown (R-SP-6).
    pub async fn close(&self) {
        self.inner.stopping.set(true);
        let _one = self.inner.membership.lock().await;
        let members: Vec<_> = self.inner.members.borrow().values().cloned().collect();
        for member in members {
            if let Member::Primary(primary) = member {
                primary.close().await;
            }
        }
        if let Some(link) = self.inner.link.get() {
            link.stop().await;
        }
    }

    /// The layer of a LU that belongs to a mirror; `None` for all others.
    pub fn layer(&self, lu: Uuid) -> Option<MirroredLu<L, M>> {
        self.access(lu)?;
        Some(self.front(self.inner.lus.by_uuid(lu)?))
    }

    /// The layer of any LU, through which it can come into a mirror while hosts use it. A LU that is served otherwise must
    /// be idle while a mirror is created over it.
    pub fn front(&self, handle: LuHandle<L>) -> MirroredLu<L, M> {
        MirroredLu::new(handle.layer, self.inner.slot(handle.uuid))
    }

    /// What hosts may do with the LU; `None` when it belongs to no mirror.
    pub fn access(&self, lu: Uuid) -> Option<LuAccess> {
        let slot = self.inner.slots.borrow().get(&lu).cloned()?;
        match slot.role() {
            Role::Plain => None,
            Role::Secondary => Some(LuAccess::Secondary),
            Role::Unusable => Some(LuAccess::Attention),
            Role::Primary(primary, _) => Some(match primary.state() {
                MirrorState::Active => LuAccess::Served,
                MirrorState::Inactive => LuAccess::Inactive,
                MirrorState::Attention => LuAccess::Attention,
            }),
        }
    }

    /// Name of the mirror that the LU belongs to. Such a LU must not be deleted or resized.
    pub fn mirror_of(&self, lu: Uuid) -> Option<String> {
        let members = self.inner.members.borrow();
        members.values().find_map(|member| {
            let record = member.record();
            self.inner.own_lus(&record).iter().any(|own| own.uuid == lu).then_some(record.name)
        })
    }

    /// Changes whenever an answer of [`Self::access`] or [`Self::layer`] may have changed.
    pub fn access_changes(&self) -> watch::Receiver<u64> {
        self.inner.access.subscribe()
    }

    /// Events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<MirrorEvent> {
        self.inner.events.subscribe()
    }

    /// The link, for its status.
    pub fn link(&self) -> Option<&Link> {
        self.inner.link.get()
    }

    /// Creates a mirror whose primary image is on this unit (R-AD-1). It is ACTIVE (R-MS-2).
    pub async fn create(&self, order: CreateMirror) -> Result<MirrorView, MirrorError> {
        let inner = &self.inner;
        let _one = inner.membership.lock().await;
        inner.check_running()?;
        let (handles, record) = inner.plan_mirror(order)?;
        let index = inner.index_with(Some(record.uuid), None)?;
        inner.meta.put(vec![index, (record_key(record.uuid), Some(record.encode()))]).await?;
        let primary = Primary::start(inner.clone().surroundings(), record.clone(), handles).await?;
        inner.add_primary(&primary);
        // Requests that passed before belong to no generation of writes; there is no secondary yet that could miss them.
        for lu in &record.primary.lus {
            inner.slot(lu.uuid).plain_drained().await;
        }
        inner.events.tell(&record.name, None, Happening::Created);
        Ok(primary.view())
    }

    /// Adds a secondary image on another unit; `synchronized` when the administrator vouches that it is equal.
    pub async fn add_secondary(
        &self,
        name: &str,
        unit: &str,
        lus: &[String],
        synchronized: bool,
    ) -> Result<(), MirrorError> {
        self.primary(name)?.add_secondary(unit, lus, synchronized).await
    }

    /// Removes a secondary image; its LUs and data stay (R-AD-3). `force`: though its unit cannot be reached.
    pub async fn remove_secondary(&self, name: &str, unit: &str, force: bool) -> Result<(), MirrorError> {
        self.primary(name)?.remove_secondary(unit, force).await
    }

    /// Starts a resynchronisation that waits for the administrator's word. Returns once it is ordered.
    pub async fn sync(&self, name: &str, unit: &str) -> Result<(), MirrorError> {
        self.primary(name)?.sync(unit).await
    }

    /// Keeps writes from a secondary until [`Self::restore`].
    pub async fn fracture(&self, name: &str, unit: &str) -> Result<(), MirrorError> {
        self.primary(name)?.fracture(unit).await
    }

    /// Ends an ordered fracture.
    pub async fn restore(&self, name: &str, unit: &str) -> Result<(), MirrorError> {
        self.primary(name)?.restore(unit).await
    }

    /// To ACTIVE, or to ATTENTION (and an error that says why) when the conditions fail.
    pub async fn activate(&self, name: &str) -> Result<(), MirrorError> {
        self.primary(name)?.activate().await
    }

    /// To INACTIVE. Graceful waits for outstanding writes; forced does not.
    pub async fn deactivate(&self, name: &str, force: bool) -> Result<(), MirrorError> {
        self.primary(name)?.deactivate(force).await
    }

    /// Ends a mirror that is INACTIVE and has no secondaries; its LUs become ordinary LUs (R-AD-3). `force`, on a secondary's
    /// unit: forgets an image whose primary is gone.
    pub async fn destroy(&self, name: &str, force: bool) -> Result<(), MirrorError> {
        let inner = &self.inner;
        let _one = inner.membership.lock().await;
        match inner.find(name)? {
            Member::Primary(primary) => {
                primary.end().await?;
                let record = primary.db.read().clone();
                inner.forget(&record).await?;
                primary.remove_logs().await?;
            }
            Member::Secondary(secondary) if force => {
                if secondary.is_attached() {
                    let record = secondary.record();
                    return Err(MirrorError::NotPrimary {
                        mirror: record.name,
                        primary: record.primary.unit,
                    });
                }
                secondary.detach().await;
                inner.forget(&secondary.record()).await?;
            }
            Member::Unusable(record, _) if force => inner.forget(&record).await?,
            Member::Unusable(_, why) => return Err(why),
            Member::Secondary(secondary) => {
                let record = secondary.record();
                return Err(MirrorError::NotPrimary { mirror: record.name, primary: record.primary.unit });
            }
        }
        inner.events.tell(name, None, Happening::Destroyed);
        Ok(())
    }

    /// Makes the secondary image on this unit the primary.
    pub async fn promote(&self, name: &str, force: bool) -> Result<(), MirrorError> {
        let _ = (self.inner.find(name)?, force);
        Err(MirrorError::NotAvailable("promotion".into()))
    }

    /// Changes attributes of the mirror, or of its image on `unit`.
    pub async fn set(
        &self,
        name: &str,
        unit: Option<&str>,
        attributes: &BTreeMap<String, String>,
    ) -> Result<(), MirrorError> {
        self.primary(name)?.set(unit, attributes).await
    }

    /// One mirror. On a secondary's unit the primary is asked; what cannot be asked carries an error.
    pub async fn show(&self, name: &str) -> Result<MirrorView, MirrorError> {
        let member = self.inner.find(name)?;
        let Member::Secondary(secondary) = &member else { return Ok(self.inner.view(&member)) };
        let record = secondary.record();
        let mut view = self.inner.view(&member);
        let unit = &record.primary.unit;
        let why = match self.inner.link.get().and_then(|link| link.peer(unit)) {
            None => MirrorError::NoSuchUnit(unit.clone()).to_string(),
            Some(peer) => {
                let _hold = peer.connect();
                let ask = Ask::Show { mirror: record.uuid };
                let asked = async { ask.send(&peer.wait_session().await, unit).await };
                match self.inner.shard.timeout(std::time::Duration::from_secs(3), asked).await {
                    Ok(Ok(Answer::View(view))) => return Ok(view),
                    Ok(Ok(_)) => "its answer makes no sense".into(),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => format!("unit \"{unit}\" cannot be reached"),
                }
            }
        };
        for image in view.images.iter_mut().filter(|image| image.unit != self.inner.unit.name) {
            image.reachable = false;
            image.error = Some(why.clone());
        }
        Ok(view)
    }

    /// All mirrors, from what this unit knows itself, by name.
    pub fn list(&self) -> Vec<MirrorView> {
        let members: Vec<_> = self.inner.members.borrow().values().cloned().collect();
        let mut views: Vec<_> = members.iter().map(|member| self.inner.view(member)).collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    /// Why the mirror is as it is and what to do, in sentences.
    pub async fn why(&self, name: &str) -> Result<Vec<String>, MirrorError> {
        Ok(match self.inner.find(name)? {
            Member::Primary(primary) => primary.why(),
            Member::Unusable(_, why) => {
                vec![
                    format!("The mirror could not be recovered: {why}."),
                    format!("What to do: {}.", why.remedy()),
                ]
            }
            Member::Secondary(secondary) => {
                let (record, local) = (secondary.record(), secondary.local());
                let data = match (local.generation, local.consistent) {
                    (None, _) => "It holds nothing of the mirror yet.",
                    (Some(_), true) => "Its data is a consistent point of the primary's history.",
                    (Some(_), false) => "Its data is half copied and of no use by itself.",
                };
                let there = if secondary.is_attached() { "is attached" } else { "is not attached" };
                vec![
                    format!(
                        "This unit has a secondary image; hosts are served on unit {}.",
                        record.primary.unit
                    ),
                    format!("The primary {there}."),
                    data.into(),
                ]
            }
        })
    }

    fn primary(&self, name: &str) -> Result<Rc<Primary<L, M>>, MirrorError> {
        self.inner.check_running()?;
        match self.inner.find(name)? {
            Member::Primary(primary) => Ok(primary),
            Member::Unusable(_, why) => Err(why),
            Member::Secondary(secondary) => {
                let record = secondary.record();
                Err(MirrorError::NotPrimary { mirror: record.name, primary: record.primary.unit })
            }
        }
    }
}

impl<L: BlockLayer + Clone, M: MetaStore + Clone> Member<L, M> {
    pub(crate) fn record(&self) -> MirrorRecord {
        match self {
            Self::Primary(primary) => primary.db.read().clone(),
            Self::Secondary(secondary) => secondary.record(),
            Self::Unusable(record, _) => (**record).clone(),
        }
    }
}

impl<L: BlockLayer + Clone, M: MetaStore + Clone> Inner<L, M> {
    pub(crate) fn check_running(&self) -> Result<(), MirrorError> {
        if self.stopping.get() { Err(MirrorError::Stopping) } else { Ok(()) }
    }

    /// The records of all mirrors. A damaged one is an error: to go on without it would serve its LUs unmirrored.
    fn read_records(&self) -> Result<Vec<MirrorRecord>, MirrorError> {
        let damaged = |what: String| MirrorError::Storage(what);
        let Some(index) = self.meta.get(INDEX_KEY) else { return Ok(Vec::new()) };
        let index: Vec<Uuid> =
            serde_json::from_slice(&index).map_err(|e| damaged(format!("the index: {e}")))?;
        let mut records = Vec::with_capacity(index.len());
        for uuid in index {
            let bytes = self.meta.get(&record_key(uuid));
            let bytes = bytes.ok_or_else(|| damaged(format!("mirror {uuid} has no record")))?;
            records.push(MirrorRecord::decode(&bytes).map_err(|e| damaged(e.to_string()))?);
        }
        Ok(records)
    }

    /// The index with one mirror more or less, for [`MetaStore::put`].
    pub(crate) fn index_with(
        &self,
        more: Option<Uuid>,
        less: Option<Uuid>,
    ) -> Result<(String, Option<bytes::Bytes>), MirrorError> {
        let mut index: BTreeSet<Uuid> = self.members.borrow().keys().copied().collect();
        index.extend(more);
        index.retain(|uuid| Some(*uuid) != less);
        if index.len() > MOST_MIRRORS {
            return Err(MirrorError::Invalid(format!("a unit takes part in at most {MOST_MIRRORS} mirrors")));
        }
        let bytes = serde_json::to_vec(&index).expect("a list of identities");
        Ok((INDEX_KEY.into(), Some(bytes.into())))
    }

    /// Checks an order for a new mirror and makes its record.
    fn plan_mirror(&self, order: CreateMirror) -> Result<(Vec<LuHandle<L>>, MirrorRecord), MirrorError> {
        if !record::is_name(&order.name) {
            let what = "a name is 1 to 64 of letters, digits, \"-\", \"_\" and \".\"";
            return Err(MirrorError::Invalid(what.into()));
        }
        if self.find(&order.name).is_ok() {
            return Err(MirrorError::NameTaken(order.name));
        }
        if order.policy != WritePolicy::Sync {
            return Err(MirrorError::NotAvailable(format!("write policy {}", order.policy.name())));
        }
        if order.lus.is_empty() || order.lus.len() > MOST_LUS {
            return Err(MirrorError::Invalid(format!("a mirror has 1 to {MOST_LUS} LUs")));
        }
        let mut attributes = Attributes::default();
        attributes.set(&order.attributes, false)?;
        let handles = self.free_lus(&order.lus, None)?;
        let mut random = [[0; 16]; 2];
        random.iter_mut().for_each(|id| self.shard.fill_random(id));
        let record = MirrorRecord {
            version: record::VERSION,
            uuid: Uuid::from_bytes(random[0]),
            name: order.name,
            configuration: 1,
            state: MirrorState::Active,
            policy: order.policy,
            attributes,
            generation: Generation { number: 1, id: Uuid::from_bytes(random[1]) },
            ancestors: Vec::new(),
            incarnation: 0,
            primary: PrimaryRecord { unit: self.unit.name.clone(), lus: lu_records(&handles) },
            secondaries: Vec::new(),
            departed: Vec::new(),
        };
        Ok((handles, record))
    }

    /// The LUs of those names, none of them in a mirror other than `except` (R-AD-2).
    pub(crate) fn free_lus(
        &self,
        names: &[String],
        except: Option<Uuid>,
    ) -> Result<Vec<LuHandle<L>>, MirrorError> {
        let unit = || self.unit.name.clone();
        let mut handles: Vec<LuHandle<L>> = Vec::with_capacity(names.len());
        for name in names {
            let handle = self.lus.by_name(name);
            let handle = handle.ok_or_else(|| MirrorError::NoSuchLu { unit: unit(), lu: name.clone() })?;
            if handles.iter().any(|other| other.uuid == handle.uuid) {
                return Err(MirrorError::LuTwice(name.clone()));
            }
            let members = self.members.borrow();
            let owner = members.iter().filter(|(uuid, _)| Some(**uuid) != except).find_map(|(_, member)| {
                let record = member.record();
                self.own_lus(&record).iter().any(|lu| lu.uuid == handle.uuid).then_some(record.name)
            });
            if let Some(mirror) = owner {
                return Err(MirrorError::LuInMirror { unit: unit(), lu: name.clone(), mirror });
            }
            handles.push(handle);
        }
        Ok(handles)
    }

    /// The LUs of this unit's image.
    pub(crate) fn own_lus(&self, record: &MirrorRecord) -> Vec<LuRecord> {
        if record.primary.unit == self.unit.name {
            return record.primary.lus.clone();
        }
        record.secondary(&self.unit.name).map(|secondary| secondary.lus.clone()).unwrap_or_default()
    }

    /// The array's layers of the LUs, all as they were.
    pub(crate) fn handles(&self, lus: &[LuRecord]) -> Result<Vec<LuHandle<L>>, MirrorError> {
        lus.iter()
            .map(|lu| {
                let handle = self.lus.by_uuid(lu.uuid);
                let handle = handle.ok_or_else(|| MirrorError::NoSuchLu {
                    unit: self.unit.name.clone(),
                    lu: lu.name.clone(),
                })?;
                let now = LuRecord::new(lu.uuid, &lu.name, handle.layer.geometry());
                match now.difference(lu) {
                    None => Ok(handle),
                    Some(difference) => Err(MirrorError::LusDiffer {
                        primary: lu.name.clone(),
                        secondary: "the mirror database".into(),
                        difference,
                    }),
                }
            })
            .collect()
    }

    pub(crate) fn find(&self, name: &str) -> Result<Member<L, M>, MirrorError> {
        let members = self.members.borrow();
        let found = members.values().find(|member| member.record().name == name).cloned();
        found.ok_or_else(|| MirrorError::NoSuchMirror(name.into()))
    }

    fn slot(&self, lu: Uuid) -> Rc<Slot<L, M>> {
        self.slots.borrow_mut().entry(lu).or_insert_with(Slot::new).clone()
    }

    /// Gives the LUs of this unit's image a role.
    pub(crate) fn set_roles(&self, record: &MirrorRecord, role: impl Fn() -> Role<L, M>) {
        for lu in self.own_lus(record) {
            self.slot(lu.uuid).set(role());
        }
        self.access.send_modify(|count| *count += 1);
    }

    pub(crate) fn load_secondary(&self, record: MirrorRecord) -> Result<(), MirrorError> {
        let uuid = record.uuid;
        let local = match self.meta.get(&local_key(uuid)) {
            None => LocalRecord::default(),
            Some(bytes) => {
                LocalRecord::decode(&bytes).map_err(|error| MirrorError::Storage(error.to_string()))?
            }
        };
        let image = record.secondary(&self.unit.name).map(|secondary| secondary.id);
        let handles = self.handles(&self.own_lus(&record));
        let member = match (image, handles) {
            (Some(image), Ok(handles)) => {
                self.set_roles(&record, || Role::Secondary);
                let layers = handles.into_iter().map(|handle| handle.layer).collect();
                Member::Secondary(Secondary::new(self.meta.clone(), image, record, local, layers))
            }
            (_, handles) => {
                self.set_roles(&record, || Role::Unusable);
                let why = handles
                    .err()
                    .unwrap_or_else(|| MirrorError::Storage("the record does not name this unit".into()));
                Member::Unusable(Box::new(record), why)
            }
        };
        self.members.borrow_mut().insert(uuid, member);
        Ok(())
    }

    async fn start_primary(self: Rc<Self>, record: MirrorRecord) {
        let started = match self.handles(&record.primary.lus) {
            Ok(handles) => Primary::start(self.clone().surroundings(), record.clone(), handles).await,
            Err(error) => Err(error),
        };
        match started {
            Ok(primary) => self.add_primary(&primary),
            Err(why) => {
                tracing::error!(mirror = record.name, %why, "a mirror cannot be recovered");
                self.members.borrow_mut().insert(record.uuid, Member::Unusable(Box::new(record), why));
            }
        }
    }

    fn add_primary(&self, primary: &Rc<Primary<L, M>>) {
        self.members.borrow_mut().insert(primary.uuid, Member::Primary(primary.clone()));
        let lus = primary.db.read().primary.lus.clone();
        for (index, lu) in lus.iter().enumerate() {
            self.slot(lu.uuid).set(Role::Primary(primary.clone(), index));
        }
        self.access.send_modify(|count| *count += 1);
    }

    /// Takes a mirror from the database; its LUs become ordinary ones.
    pub(crate) async fn forget(&self, record: &MirrorRecord) -> Result<(), MirrorError> {
        let index = self.index_with(None, Some(record.uuid))?;
        self.meta.put(vec![index, (record_key(record.uuid), None), (local_key(record.uuid), None)]).await?;
        self.members.borrow_mut().remove(&record.uuid);
        self.set_roles(record, || Role::Plain);
        Ok(())
    }

    fn surroundings(self: Rc<Self>) -> Surroundings<M> {
        let access = self.access.clone();
        Surroundings {
            shard: self.shard.clone(),
            meta: self.meta.clone(),
            link: self.link.get().cloned(),
            events: self.events.clone(),
            board: self.board.clone(),
            access_changed: Rc::new(move || access.send_modify(|count| *count += 1)),
        }
    }

    /// What this unit knows itself.
    pub(crate) fn view(&self, member: &Member<L, M>) -> MirrorView {
        match member {
            Member::Primary(primary) => primary.view(),
            Member::Secondary(secondary) => {
                let mut view = record::view(&secondary.record());
                let local = secondary.local();
                for image in &mut view.images {
                    if image.unit == self.unit.name {
                        image.reachable = true;
                        image.cookie = local.generation.map_or_else(
                            || "none".into(),
                            |generation| format!("{}:{}", generation.number, generation.id),
                        );
                    } else {
                        image.reachable = secondary.is_attached() && image.designator == "primary";
                    }
                }
                view
            }
            Member::Unusable(record, why) => {
                let mut view = record::view(record);
                view.state = MirrorState::Attention.name().into();
                view.images.iter_mut().for_each(|image| image.error = Some(why.to_string()));
                view
            }
        }
    }
}

/// The LUs as the database keeps them.
pub(crate) fn lu_records<L: BlockLayer>(handles: &[LuHandle<L>]) -> Vec<LuRecord> {
    handles.iter().map(|handle| LuRecord::new(handle.uuid, &handle.name, handle.layer.geometry())).collect()
}
