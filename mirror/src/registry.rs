//! Which mirrors this unit takes part in, and as what: reading them at the start, adding and forgetting them.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use tokio::sync::Mutex;
use twinlun_block::{BlockLayer, MetaStore};
use twinlun_io::Shard;
use uuid::Uuid;

use crate::attributes::{Attributes, WritePolicy};
use crate::decide::Generation;
use crate::events::Events;
use crate::layer::{Role, Slot};
use crate::link::Link;
use crate::primary::{CopyBoard, Primary, Surroundings};
use crate::record::{
    self, INDEX_KEY, LocalRecord, LuRecord, MOST_LUS, MOST_MIRRORS, MirrorRecord, PrimaryRecord, local_key,
    record_key,
};
use crate::secondary::Secondary;
use crate::service::{CreateMirror, LuHandle, LuSource, UnitIdentity};
use crate::signal::Changes;
use crate::state::MirrorState;
use crate::{MirrorError, MirrorView};

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
    pub(crate) slots: RefCell<BTreeMap<Uuid, Rc<Slot<L, M>>>>,
    /// Held by whoever adds or takes away a member.
    pub(crate) membership: Mutex<()>,
    pub(crate) link: OnceCell<Link>,
    pub(crate) board: Rc<CopyBoard>,
    pub(crate) access: Rc<Changes>,
    pub(crate) stopping: Cell<bool>,
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
    pub(crate) fn read_records(&self) -> Result<Vec<MirrorRecord>, MirrorError> {
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
    pub(crate) fn plan_mirror(
        &self,
        order: CreateMirror,
    ) -> Result<(Vec<LuHandle<L>>, MirrorRecord), MirrorError> {
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

    pub(crate) fn slot(&self, lu: Uuid) -> Rc<Slot<L, M>> {
        self.slots.borrow_mut().entry(lu).or_insert_with(Slot::new).clone()
    }

    /// Gives the LUs of this unit's image a role.
    pub(crate) fn set_roles(&self, record: &MirrorRecord, role: impl Fn() -> Role<L, M>) {
        for lu in self.own_lus(record) {
            self.slot(lu.uuid).set(role());
        }
        self.access.note();
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

    pub(crate) async fn start_primary(self: Rc<Self>, record: MirrorRecord) {
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

    pub(crate) fn add_primary(&self, primary: &Rc<Primary<L, M>>) {
        self.members.borrow_mut().insert(primary.uuid, Member::Primary(primary.clone()));
        let lus = primary.db.read().primary.lus.clone();
        for (index, lu) in lus.iter().enumerate() {
            self.slot(lu.uuid).set(Role::Primary(primary.clone(), index));
        }
        self.access.note();
    }

    /// Takes a mirror from the database; its LUs become ordinary ones.
    pub(crate) async fn forget(&self, record: &MirrorRecord) -> Result<(), MirrorError> {
        let index = self.index_with(None, Some(record.uuid))?;
        self.meta.put(vec![index, (record_key(record.uuid), None), (local_key(record.uuid), None)]).await?;
        self.members.borrow_mut().remove(&record.uuid);
        self.set_roles(record, || Role::Plain);
        Ok(())
    }

    pub(crate) fn surroundings(self: Rc<Self>) -> Surroundings<M> {
        Surroundings {
            shard: self.shard.clone(),
            meta: self.meta.clone(),
            link: self.link.get().cloned(),
            events: self.events.clone(),
            board: self.board.clone(),
            access: self.access.clone(),
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
