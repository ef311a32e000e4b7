//! What `mirror show` answers. Names are those of the administration interface.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A mirror as this unit sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MirrorView {
    /// Name.
    pub name: String,
    /// Identity, RFC 9562 text.
    pub uuid: String,
    /// `ACTIVE`, `INACTIVE` or `ATTENTION`.
    pub state: String,
    /// `sync`, `async` or `cyclic`.
    pub policy: String,
    /// Number of the configuration; never goes back (I9).
    pub configuration: u64,
    /// Mirror-wide attributes (R-DB-3).
    pub attributes: BTreeMap<String, serde_json::Value>,
    /// The images, primary first.
    pub images: Vec<ImageView>,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageView {
    /// Storage unit.
    pub unit: String,
    /// `primary` or `secondary`.
    pub designator: String,
    /// `SYNCHRONIZED`, `CONSISTENT`, `SYNCHRONIZING` or `UNSYNCHRONIZED`.
    pub state: String,
    /// Whether the unit can be reached.
    pub reachable: bool,
    /// Whether writes are kept from it.
    pub fractured: bool,
    /// Why.
    pub fracture_reason: Option<String>,
    /// Bytes in regions that it misses or may miss.
    pub dirty_bytes: u64,
    /// Copy under way or interrupted.
    pub progress: Option<ProgressView>,
    /// What ties its data to the mirror's history.
    pub cookie: String,
    /// Names of its LUs.
    pub lus: Vec<String>,
    /// `automatic` or `manual`.
    pub recovery_policy: String,
    /// Bytes per second, or `unlimited`.
    pub synchronization_rate: String,
    /// Why it could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How far a copy is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressView {
    /// Bytes copied so far.
    pub copied_bytes: u64,
    /// Bytes to copy in all; grows when hosts write to what is not copied yet.
    pub total_bytes: u64,
    /// Estimate at the present rate; `None` while there is none.
    pub eta_seconds: Option<u64>,
}
