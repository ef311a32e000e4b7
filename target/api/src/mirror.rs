//! Mirrors (S2): orders and views.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `POST /v1/mirrors`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateMirror {
    /// Name, unique among the mirrors of the unit.
    pub name: String,
    /// LUs of the set, in order.
    pub lus: Vec<String>,
    /// `sync`, `async` or `cyclic`.
    #[serde(default = "default_policy")]
    pub policy: String,
    /// Attributes by name (R-DB-3), as text.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

fn default_policy() -> String {
    "sync".into()
}

/// `POST /v1/mirrors/{name}/add-secondary`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddSecondary {
    /// The other storage unit.
    pub unit: String,
    /// Its LUs, in the order of the set.
    pub lus: Vec<String>,
    /// The administrator vouches that both images are equal: no first copy.
    #[serde(default)]
    pub synchronized: bool,
}

/// `POST /v1/mirrors/{name}/remove-secondary`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveSecondary {
    /// The other storage unit.
    pub unit: String,
    /// Without waiting for it.
    #[serde(default)]
    pub force: bool,
}

/// Orders that name one secondary: sync, fracture, restore.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageOrder {
    /// The secondary's storage unit.
    pub unit: String,
}

/// `POST /v1/mirrors/{name}/set`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetAttributes {
    /// The secondary whose attributes are meant; mirror-wide ones when absent.
    #[serde(default)]
    pub unit: Option<String>,
    /// Attributes by name (R-DB-3, R-DB-4), as text.
    pub attributes: BTreeMap<String, String>,
}

/// A running copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProgressView {
    /// Bytes copied so far.
    pub copied_bytes: u64,
    /// Bytes to copy in all; grows when hosts write to what is not copied yet.
    pub total_bytes: u64,
    /// Estimate at the present rate.
    pub eta_seconds: Option<u64>,
}

/// One image of a mirror, as seen from the unit that was asked.
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
    /// Whether writes are not sent to it.
    pub fractured: bool,
    /// Why it is fractured.
    pub fracture_reason: Option<String>,
    /// Bytes in regions that it misses.
    pub dirty_bytes: u64,
    /// Copy under way.
    pub progress: Option<ProgressView>,
    /// What ties the image's data to the mirror's history.
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

/// A mirror.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MirrorView {
    /// Name.
    pub name: String,
    /// Identity, RFC 4122 text.
    pub uuid: String,
    /// `ACTIVE`, `INACTIVE` or `ATTENTION`.
    pub state: String,
    /// `sync`, `async` or `cyclic`.
    pub policy: String,
    /// Number of the configuration, never goes back.
    pub configuration: u64,
    /// Mirror-wide attributes (R-DB-3).
    pub attributes: BTreeMap<String, serde_json::Value>,
    /// The images, primary first.
    pub images: Vec<ImageView>,
}

/// Why a mirror is as it is, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyView {
    /// One sentence a line.
    pub lines: Vec<String>,
}
