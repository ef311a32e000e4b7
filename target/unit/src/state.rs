//! What the administrator has decided about hosts and LUs: kept in the vault, changed through orders only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use twinlun_block::{MetaError, MetaStore};
use uuid::Uuid;

/// Vault record that holds it.
const KEY: &str = "unit/state";
/// Version of the record's shape.
const VERSION: u32 = 1;
/// Stands for every initiator without an entry of its own.
pub const ANY: &str = "any";
/// Stands for every portal.
pub const ALL: &str = "all";

/// Hosts, their LUNs, and how each LU behaves towards hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitState {
    version: u32,
    /// Initiator name, or [`ANY`], to host.
    pub hosts: BTreeMap<String, Host>,
    /// LU to its behaviour.
    pub lus: BTreeMap<Uuid, LuOptions>,
    /// What discovery sessions take.
    #[serde(default)]
    pub discovery: Discovery,
    /// Portal address, or [`ALL`], to where its logins are sent.
    #[serde(default)]
    pub redirects: BTreeMap<String, RedirectOrder>,
}

/// Credentials for discovery. Without them a host proves itself there as it does for its normal sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discovery {
    /// CHAP that everybody must pass.
    pub chap: Option<Credentials>,
    /// CHAP by which the unit proves itself.
    pub mutual: Option<Credentials>,
}

/// Where logins are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedirectOrder {
    /// The other portal.
    pub to: SocketAddr,
    /// For good, not for one login.
    pub permanent: bool,
}

/// A host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// CHAP that it must pass.
    pub chap: Option<Credentials>,
    /// CHAP by which the unit proves itself to it.
    pub mutual: Option<Credentials>,
    /// LUN to LU.
    pub luns: BTreeMap<u16, Uuid>,
    /// Portal groups that it may come in by; all when there is none.
    #[serde(default)]
    pub groups: BTreeSet<u16>,
}

impl Host {
    /// Whether the host may come in by that portal group.
    pub fn may_use(&self, group: u16) -> bool {
        self.groups.is_empty() || self.groups.contains(&group)
    }
}

/// A CHAP name and secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// CHAP name.
    pub user: String,
    /// CHAP secret.
    pub secret: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.user)
    }
}

/// How a LU behaves towards hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LuOptions {
    /// WCE.
    pub write_cache: bool,
    /// RMB: hosts can eject and load the medium.
    #[serde(default)]
    pub removable: bool,
    /// Hosts cannot write.
    #[serde(default)]
    pub read_only: bool,
    /// Bytes of a physical block as hosts see it; 0: as a logical one.
    #[serde(default)]
    pub physical_block: u32,
}

impl Default for UnitState {
    fn default() -> Self {
        Self {
            version: VERSION,
            hosts: BTreeMap::new(),
            lus: BTreeMap::new(),
            discovery: Discovery::default(),
            redirects: BTreeMap::new(),
        }
    }
}

impl LuOptions {
    /// What of it the device server shows.
    pub fn traits(self) -> twinlun_scsi::LuTraits {
        twinlun_scsi::LuTraits {
            removable: self.removable,
            read_only: self.read_only,
            physical_block: self.physical_block,
        }
    }
}

/// The record cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("vault record {KEY} cannot be used: {what}")]
pub struct StateError {
    what: String,
}

impl UnitState {
    /// Reads the record; a new unit has none.
    pub fn load(vault: &impl MetaStore) -> Result<Self, StateError> {
        let Some(bytes) = vault.get(KEY) else { return Ok(Self::default()) };
        let state: Self = serde_json::from_slice(&bytes).map_err(|e| StateError { what: e.to_string() })?;
        if state.version != VERSION {
            let what = format!("it has version {}, this software knows version {VERSION}", state.version);
            return Err(StateError { what });
        }
        Ok(state)
    }

    /// Makes this state the durable one.
    pub async fn store(&self, vault: &impl MetaStore) -> Result<(), MetaError> {
        let bytes = serde_json::to_vec(self).expect("maps with text keys are always JSON");
        vault.put(vec![(KEY.into(), Some(bytes.into()))]).await
    }

    /// The entry that decides about an initiator: its own, else the one for any.
    pub fn host(&self, initiator: &str) -> Option<&Host> {
        self.hosts.get(initiator).or_else(|| self.hosts.get(ANY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_from_before_portal_groups_and_redirects_is_read() {
        let old = r#"{"version":1,"hosts":{"any":{"chap":null,"mutual":null,"luns":{"0":"6f2c9a54-7c2e-4a35-9d83-111111111111"}}},"lus":{}}"#;
        let state: UnitState = serde_json::from_str(old).expect("an old record");
        assert!(state.hosts[ANY].may_use(7) && state.discovery == Discovery::default());
        let again: UnitState = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        assert_eq!(again, state);
    }

    #[test]
    fn a_host_is_bound_to_its_portal_groups() {
        let host = Host { groups: [2, 3].into(), ..Host::default() };
        assert!(host.may_use(2) && !host.may_use(1));
    }
}
