//! Types of the administration interface: what the daemon answers and `twinlun` sends.
//!
//! JSON over HTTP/1.1, on the unit's admin socket. Keys are snake_case, sizes are integers in bytes, times RFC 3339,
//! durations seconds. [`SCHEMA_VERSION`] stands in every answer (`schema_version`) and grows only when a field changes
//! its meaning or goes away. Errors are [`Problem`]s. `docs/design/admin-api.md` lists the routes.

#![forbid(unsafe_code)]

mod host;
mod lu;
mod mirror;
mod problem;
mod size;
mod unit;

pub use host::{
    AddHost, ChapSecret, ChapView, DiscoveryView, HostView, MapLu, MappingView, SessionView, SetDiscovery,
    UnmapLu,
};
pub use lu::{CreateLu, LuView, RaidLevel};
pub use mirror::{AddSecondary, CreateMirror, ImageOrder, RemoveSecondary, SetAttributes, WhyView};
pub use problem::{Problem, ProblemKind};
pub use size::{ByteSize, ParseSizeError};
pub use unit::{
    AddDisk, DiskView, DrainPortal, EventView, IsnsView, LinkPeerView, PortalView, RedirectPortal,
    ReplaceDisk, StatusView, UnitView, Verdict, VerdictLevel,
};

/// Version of the JSON shapes.
pub const SCHEMA_VERSION: u32 = 1;

/// An answer with the schema's version beside its fields.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Versioned<T> {
    /// [`SCHEMA_VERSION`] of the daemon.
    pub schema_version: u32,
    /// The answer's own fields.
    #[serde(flatten)]
    pub answer: T,
}

impl<T> Versioned<T> {
    /// Stamps an answer.
    pub fn new(answer: T) -> Self {
        Self { schema_version: SCHEMA_VERSION, answer }
    }
}

/// A list answer: `{"schema_version": 1, "items": […]}`.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Items<T> {
    /// The items, in a stable order.
    pub items: Vec<T>,
}
