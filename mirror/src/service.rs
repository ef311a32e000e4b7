//! The service: all mirrors in which this storage unit takes part, as the unit sees it.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};
use twinlun_block::{BlockLayer, BlockRequest, BlockResult, Geometry, MetaStore};
use twinlun_io::Shard;
use uuid::Uuid;

use crate::attributes::WritePolicy;
use crate::events::{Events, MirrorEvent};
use crate::link::LinkConfig;
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
    /// Nothing for now: the mirror is in ATTENTION (R-MS-2); hosts may try again.
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
pub struct MirrorService<L, M> {
    inner: Rc<Inner<L, M>>,
}

impl<L, M> Clone for MirrorService<L, M> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

struct Inner<L, M> {
    _shard: Shard,
    _meta: M,
    _lus: Rc<dyn LuSource<L>>,
    events: Events,
    access: watch::Sender<u64>,
}

impl<L: BlockLayer + Clone, M: MetaStore + Clone> MirrorService<L, M> {
    /// Reads the mirror database, recovers every mirror and starts the link. Hosts may be served once it returns.
    pub async fn open(
        shard: Shard,
        unit: UnitIdentity,
        meta: M,
        lus: Rc<dyn LuSource<L>>,
        link: LinkConfig,
    ) -> Result<Self, MirrorError> {
        let _ = (unit, link);
        let access = watch::Sender::new(0);
        Ok(Self { inner: Rc::new(Inner { _shard: shard, _meta: meta, _lus: lus, events: Events::new(), access }) })
    }

    /// Settles the logs and stops: no host request may be under way. For a clean shutdown (R-SP-6).
    pub async fn close(&self) {}

    /// The layer of a LU that belongs to a mirror; `None` for all others, which the array serves itself. It stays
    /// valid, whatever becomes of the mirror: once that is destroyed it passes requests straight down.
    pub fn layer(&self, lu: Uuid) -> Option<MirroredLu<L, M>> {
        let _ = lu;
        None
    }

    /// What hosts may do with the LU; `None` when it belongs to no mirror.
    pub fn access(&self, lu: Uuid) -> Option<LuAccess> {
        let _ = lu;
        None
    }

    /// Changes whenever an answer of [`Self::access`] or [`Self::layer`] may have changed.
    pub fn access_changes(&self) -> watch::Receiver<u64> {
        self.inner.access.subscribe()
    }

    /// Events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<MirrorEvent> {
        self.inner.events.subscribe()
    }

    /// Creates a mirror whose primary image is on this unit (R-AD-1).
    pub async fn create(&self, order: CreateMirror) -> Result<MirrorView, MirrorError> {
        Err(MirrorError::NameTaken(order.name))
    }

    /// Adds a secondary image on another unit; `synchronized` when the administrator vouches that it is equal.
    pub async fn add_secondary(
        &self,
        name: &str,
        unit: &str,
        lus: &[String],
        synchronized: bool,
    ) -> Result<(), MirrorError> {
        let _ = (unit, lus, synchronized);
        Err(MirrorError::NoSuchMirror(name.into()))
    }

    /// Removes a secondary image; its LUs and data stay (R-AD-3). `force`: without asking its unit.
    pub async fn remove_secondary(&self, name: &str, unit: &str, force: bool) -> Result<(), MirrorError> {
        let _ = (unit, force);
        Err(MirrorError::NoSuchMirror(name.into()))
    }

    /// Starts a resynchronisation that waits for the administrator's word. Returns once it is ordered.
    pub async fn sync(&self, name: &str, unit: &str) -> Result<(), MirrorError> {
        let _ = unit;
        Err(MirrorError::NoSuchMirror(name.into()))
    }

    /// Keeps writes from a secondary until [`Self::restore`].
    pub async fn fracture(&self, name: &str, unit: &str) -> Result<(), MirrorError> {
        let _ = unit;
        Err(MirrorError::NoSuchMirror(name.into()))
    }

    /// Ends an ordered fracture.
    pub async fn restore(&self, name: &str, unit: &str) -> Result<(), MirrorError> {
        let _ = unit;
        Err(MirrorError::NoSuchMirror(name.into()))
    }

    /// To ACTIVE, or to ATTENTION when the conditions fail.
    pub async fn activate(&self, name: &str) -> Result<(), MirrorError> {
        Err(MirrorError::NoSuchMirror(name.into()))
    }

    /// To INACTIVE. Graceful waits for outstanding writes; forced does not.
    pub async fn deactivate(&self, name: &str, force: bool) -> Result<(), MirrorError> {
        let _ = force;
        Err(MirrorError::NoSuchMirror(name.into()))
    }

    /// Ends a mirror that is INACTIVE and has no secondaries. `force`, on a secondary's unit: forgets an image whose
    /// primary is gone.
    pub async fn destroy(&self, name: &str, force: bool) -> Result<(), MirrorError> {
        let _ = force;
        Err(MirrorError::NoSuchMirror(name.into()))
    }

    /// Makes the secondary image on this unit the primary.
    pub async fn promote(&self, name: &str, force: bool) -> Result<(), MirrorError> {
        let _ = (name, force);
        Err(MirrorError::NotAvailable("promotion".into()))
    }

    /// Changes attributes of the mirror, or of its image on `unit`.
    pub async fn set(
        &self,
        name: &str,
        unit: Option<&str>,
        attributes: &BTreeMap<String, String>,
    ) -> Result<(), MirrorError> {
        let _ = (unit, attributes);
        Err(MirrorError::NoSuchMirror(name.into()))
    }

    /// One mirror. On a secondary's unit the primary is asked; what cannot be asked carries an error.
    pub async fn show(&self, name: &str) -> Result<MirrorView, MirrorError> {
        Err(MirrorError::NoSuchMirror(name.into()))
    }

    /// All mirrors, from what this unit knows itself, by name.
    pub fn list(&self) -> Vec<MirrorView> {
        Vec::new()
    }

    /// Why the mirror is as it is and what to do, in sentences.
    pub async fn why(&self, name: &str) -> Result<Vec<String>, MirrorError> {
        Err(MirrorError::NoSuchMirror(name.into()))
    }

    /// Which peers the link reaches: name and whether a session is up.
    pub fn peers(&self) -> Vec<(String, bool)> {
        Vec::new()
    }
}

/// A LU that belongs to a mirror, as hosts reach it.
pub struct MirroredLu<L, M> {
    layer: L,
    _service: Rc<Inner<L, M>>,
}

impl<L: Clone, M> Clone for MirroredLu<L, M> {
    fn clone(&self) -> Self {
        Self { layer: self.layer.clone(), _service: self._service.clone() }
    }
}

impl<L: BlockLayer + Clone, M: MetaStore + Clone> BlockLayer for MirroredLu<L, M> {
    fn geometry(&self) -> Geometry {
        self.layer.geometry()
    }

    async fn execute(&self, request: BlockRequest) -> BlockResult {
        self.layer.execute(request).await
    }
}
