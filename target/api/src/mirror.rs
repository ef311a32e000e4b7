//! Mirrors (S2): orders. What `mirror show` answers is the mirror room's own view, passed on as it is (`twinlun-mirror`, `view`).

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

/// Why a mirror is as it is, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyView {
    /// One sentence a line.
    pub lines: Vec<String>,
}
