//! Disks, vault, RAID groups and the LUs bound on them.
//!
//! An [`Array`] owns the disks of one storage unit. Every disk has a label that says who it is (`label`), a part of the
//! vault where small metadata is kept in several copies ([`Vault`], R-ARR-4), and room for LU data. A [`Lu`] lays its
//! bytes over member disks (`stripe`), keeps copies equal (R-WR-3), goes on without a failed one and rebuilds it
//! (R-ARR-3), and knows after a crash where copies may differ (R-ARR-5).
//!
//! Formats and rules: `docs/design/disk-label.md`, `docs/design/vault.md`, `docs/design/raid.md`.

#![forbid(unsafe_code)]

mod admin;
mod array;
mod bind;
mod bytes;
mod error;
mod events;
mod extent;
mod label;
mod lu;
mod open;
mod planted;
mod probe;
mod slot;
mod stall;
mod stripe;
mod types;
mod vault;

pub use array::Array;
pub use error::ArrayError;
pub use events::Events;
pub use lu::Lu;
#[cfg(feature = "planted-bugs")]
pub use planted::{Bug, plant};
pub use types::{
    ArrayEvent, ArrayOptions, DiskConfig, DiskState, DiskStatus, LuInfo, LuSpec, LuState, MemberInfo, Raid,
    RebuildProgress,
};
pub use vault::{Vault, VaultLog};
