//! Hosts, what they may see, and who is logged in.

use serde::{Deserialize, Serialize};

/// `POST /v1/hosts`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddHost {
    /// Initiator name (`iqn.`, `eui.` or `naa.`).
    pub iqn: String,
    /// CHAP that the host must pass.
    #[serde(default)]
    pub chap: Option<ChapSecret>,
    /// CHAP by which the unit proves itself to the host.
    #[serde(default)]
    pub mutual: Option<ChapSecret>,
    /// Portal groups that the host may come in by; all when empty.
    #[serde(default)]
    pub groups: Vec<u16>,
}

/// `POST /v1/discovery`: the credentials of discovery sessions. Both absent: hosts prove themselves as for normal sessions.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetDiscovery {
    /// CHAP that everybody must pass to discover.
    #[serde(default)]
    pub chap: Option<ChapSecret>,
    /// CHAP by which the unit proves itself.
    #[serde(default)]
    pub mutual: Option<ChapSecret>,
}

/// `GET /v1/discovery`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryView {
    /// CHAP of discovery sessions.
    pub chap: ChapView,
}

pub use chap::ChapSecret;

mod chap {
    use std::fmt;

    use serde::{Deserialize, Serialize};

    /// A CHAP name and secret. Crosses the admin socket once and is never shown again.
    #[derive(Clone, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct ChapSecret {
        /// CHAP name.
        pub user: String,
        /// CHAP secret; 12 to 16 bytes work with every initiator.
        pub secret: String,
    }

    impl fmt::Debug for ChapSecret {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "ChapSecret({})", self.user)
        }
    }
}

/// CHAP of a host, without secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChapView {
    /// CHAP name that the host uses.
    pub user: Option<String>,
    /// CHAP name that the unit uses towards the host.
    pub mutual_user: Option<String>,
}

/// One LUN of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappingView {
    /// Logical unit number.
    pub lun: u16,
    /// Name of the LU.
    pub lu: String,
}

/// A host and its LUNs. The host `any` stands for every initiator that has no entry of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostView {
    /// Initiator name, or `any`.
    pub iqn: String,
    /// CHAP.
    pub chap: ChapView,
    /// Its LUNs.
    pub luns: Vec<MappingView>,
    /// Portal groups that it may come in by; all when empty.
    pub groups: Vec<u16>,
    /// Sessions it has now.
    pub sessions: usize,
}

/// `POST /v1/lus/{name}/map`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapLu {
    /// Initiator name, or `any`.
    pub host: String,
    /// LUN; the lowest free one when absent.
    #[serde(default)]
    pub lun: Option<u16>,
}

/// `POST /v1/lus/{name}/unmap`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnmapLu {
    /// Initiator name, or `any`.
    pub host: String,
}

/// An iSCSI session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// Target session identifying handle, unique in the storage processor.
    pub tsih: u16,
    /// Initiator name.
    pub initiator: String,
    /// Alias that the initiator gave itself. Text of the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// CHAP name that the initiator has proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chap_user: Option<String>,
    /// Initiator session id, hexadecimal.
    pub isid: String,
    /// Peer address.
    pub address: String,
    /// Portal it came in by.
    pub portal: String,
    /// `normal` or `discovery`.
    pub kind: String,
    /// Commands under way.
    pub commands: usize,
}
