//! The storage processor itself, its disks, its health.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ByteSize;

/// A portal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortalView {
    /// Address and port.
    pub address: String,
    /// Target portal group tag.
    pub group: u16,
    /// `serving`, `draining` or `drained`.
    pub state: String,
    /// Sessions that came in here.
    pub sessions: usize,
    /// Where its normal logins are sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<String>,
    /// Whether hosts are told to remember that.
    pub redirect_permanent: bool,
}

/// `POST /v1/portals/{address}/drain`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainPortal {
    /// Seconds that hosts have to log out; 1 to 3600.
    #[serde(default = "drain_seconds")]
    pub seconds: u16,
}

fn drain_seconds() -> u16 {
    30
}

/// `POST /v1/portals/{address}/redirect`; the address `all` stands for every portal.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedirectPortal {
    /// Address and port of the other portal; logins are not sent away any more when absent.
    #[serde(default)]
    pub to: Option<SocketAddr>,
    /// Hosts are told to remember it.
    #[serde(default)]
    pub permanent: bool,
}

/// Another unit, as the link sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkPeerView {
    /// Its name.
    pub unit: String,
    /// `REACHABLE`, `UNREACHABLE`, or `IDLE` when no mirror needs it.
    pub state: String,
    /// The last error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An iSNS server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsnsView {
    /// Its address and port.
    pub server: String,
    /// `registered`, `pending`, `failed` or `idle` while no portal serves hosts.
    pub state: String,
    /// The last error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `GET /v1/unit`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitView {
    /// Name of the storage unit.
    pub name: String,
    /// Storage processor, `a` or `b`.
    pub sp: String,
    /// Identity of the unit.
    pub uuid: String,
    /// iSCSI target name.
    pub target: String,
    /// Software version.
    pub version: String,
    /// Portals.
    pub portals: Vec<PortalView>,
    /// iSNS servers that are told about the portals.
    pub isns: Vec<IsnsView>,
    /// Address of the link, if it listens.
    pub link: Option<String>,
    /// Other units.
    pub peers: Vec<LinkPeerView>,
    /// When this process became ready, RFC 3339.
    pub started: String,
    /// Disk engine in use.
    pub engine: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictLevel {
    /// As it should be.
    Ok,
    /// Served, but something needs attention.
    Attention,
    /// Data is at risk or not served.
    Critical,
}

/// One finding of `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// How bad.
    pub level: VerdictLevel,
    /// What it is about, such as `mirror db`.
    pub subject: String,
    /// What is the case.
    pub finding: String,
    /// What to do; empty when nothing.
    #[serde(default)]
    pub remedy: String,
}

/// `GET /v1/status`: is my data safe, is it current, what runs, what should I do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// Worst of all findings.
    pub level: VerdictLevel,
    /// Is my data safe: redundancy of disks and images.
    pub safe: bool,
    /// Is it current: every secondary holds everything acknowledged.
    pub current: bool,
    /// What runs: rebuilds and copies, in words.
    pub running: Vec<String>,
    /// Findings, worst first.
    pub findings: Vec<Verdict>,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskView {
    /// Its slot, the name it is addressed by.
    pub slot: String,
    /// File or device.
    pub path: String,
    /// Identity.
    pub uuid: String,
    /// Size in bytes.
    pub size: u64,
    /// `online`, `failed`, `missing`, `rebuilding`, `spare`, `foreign` or `stale`.
    pub state: String,
    /// Why it is not online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Errors since start.
    pub errors: u64,
}

/// `POST /v1/disks`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddDisk {
    /// File or device, relative to the state directory.
    pub path: String,
    /// Size of a file to create.
    #[serde(default)]
    pub size: Option<ByteSize>,
}

/// `POST /v1/disks/{slot}/replace`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaceDisk {
    /// File or device that takes the slot.
    pub path: String,
    /// Size of a file to create.
    #[serde(default)]
    pub size: Option<ByteSize>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// Grows by one; what follows the largest one seen is new.
    pub sequence: u64,
    /// RFC 3339.
    pub time: String,
    /// `disk`, `lu`, `mirror`, `session`, `link` or `unit`.
    pub subject: String,
    /// What it happened to.
    pub name: String,
    /// What happened.
    pub what: String,
}
