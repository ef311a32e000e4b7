//! The service: all mirrors in which this storage unit takes part, as the unit sees it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, broadcast};
use twinlun_block::{BlockLayer, MetaStore};
use twinlun_io::Shard;
use uuid::Uuid;

use crate::attributes::WritePolicy;
use crate::events::{Events, Happening, MirrorEvent};
use crate::layer::{MirroredLu, Role};
use crate::link::{Link, LinkConfig};
use crate::members::ServiceHandler;
use crate::primary::Primary;
use crate::protocol::{Answer, Ask};
use crate::record::{self, record_key};
use crate::registry::{Inner, Member};
use crate::signal::Follower;
use crate::state::MirrorState;
use crate::{MirrorError, MirrorView};

/// How long the primary's unit may take to be asked for a view.
const SHOW_TIMEOUT: Duration = Duration::from_secs(3);

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

/// An order to a mirror that is not to be carried out, only to be checked.
#[derive(Clone, Copy, Debug)]
pub enum Rehearsal<'a> {
    /// As [`MirrorService::add_secondary`]; the other unit is not asked.
    AddSecondary {
        /// Its unit.
        unit: &'a str,
        /// Its LUs.
        lus: &'a [String],
    },
    /// As [`MirrorService::remove_secondary`].
    RemoveSecondary {
        /// Its unit.
        unit: &'a str,
        /// Though it cannot be reached.
        force: bool,
    },
    /// As [`MirrorService::sync`].
    Sync {
        /// Unit of the image.
        unit: &'a str,
    },
    /// As [`MirrorService::fracture`].
    Fracture {
        /// Unit of the image.
        unit: &'a str,
    },
    /// As [`MirrorService::restore`].
    Restore {
        /// Unit of the image.
        unit: &'a str,
    },
    /// As [`MirrorService::promote`].
    Promote,
    /// As [`MirrorService::activate`].
    Activate,
    /// As [`MirrorService::deactivate`].
    Deactivate,
    /// As [`MirrorService::destroy`] without force.
    Destroy,
    /// As [`MirrorService::set`].
    Set {
        /// Unit of the image, when it is about one.
        unit: Option<&'a str>,
        /// Attributes by name, as text.
        attributes: &'a BTreeMap<String, String>,
    },
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
                access: Rc::default(),
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
    pub fn access_changes(&self) -> Follower {
        self.inner.access.follow()
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

    /// Checks an order for a new mirror as [`Self::create`] would, and changes nothing.
    pub fn rehearse_create(&self, order: CreateMirror) -> Result<(), MirrorError> {
        self.inner.check_running()?;
        self.inner.plan_mirror(order).map(drop)
    }

    /// Checks an order as the method of that name would, and changes nothing. An order that passes may still fail: other units
    /// are not asked, and things change.
    pub fn rehearse(&self, name: &str, order: &Rehearsal<'_>) -> Result<(), MirrorError> {
        match (self.inner.find(name)?, order) {
            (Member::Primary(primary), _) => primary.rehearse(order),
            (_, Rehearsal::Promote) => Err(MirrorError::NotAvailable("promotion".into())),
            (..) => self.primary(name).map(drop),
        }
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
                match self.inner.shard.timeout(SHOW_TIMEOUT, asked).await {
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

    /// The mirrors whose primary image is here, as the mirror database has them on disk: what would be known of them after a
    /// crash now. Of the images' states only what is on record is in there.
    pub fn recorded(&self) -> Vec<MirrorView> {
        let members = self.inner.members.borrow();
        let primaries = members.values().filter_map(|member| match member {
            Member::Primary(primary) => Some(record::view(&primary.db.durable())),
            Member::Secondary(_) | Member::Unusable(..) => None,
        });
        primaries.collect()
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
