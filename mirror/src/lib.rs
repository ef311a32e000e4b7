//! The mirror driver: remote mirroring of LU array sets between storage units (S1, S2).
//!
//! [`MirrorService`] is what a storage unit holds; [`MirroredLu`] is the block layer of a LU that belongs to a mirror.
//! Where to read first:
//!
//! | module | what it is |
//! | --- | --- |
//! | `primary::io` | the path of a host's request through a primary image, in the order of the requirement |
//! | `intent`, `fracture` | the two logs; both are values over `region`'s bitmaps, with their writing beside them |
//! | `decide`, `state` | who may resynchronise whom, and the states: tables, enumerated in tests |
//! | `primary::attach`, `resync`, `settle` | bringing a secondary into service, copying, emptying the intent log |
//! | `secondary`, `members` | the other end |
//! | `record`, `database`, `registry` | the mirror database, and what this unit is in each mirror |
//! | [`link`] | the channel between units |
//!
//! Everything lives on one shard. Decisions are taken without awaiting between looking and acting; comments say where that
//! matters.

#![forbid(unsafe_code)]

mod attributes;
mod commit;
mod database;
mod decide;
mod error;
mod events;
mod flights;
mod fracture;
#[doc(hidden)]
pub mod fuzz;
mod intent;
mod layer;
pub mod link;
mod members;
mod planted;
mod primary;
mod protocol;
mod record;
mod region;
mod registry;
mod secondary;
mod service;
mod signal;
mod state;
mod throttle;
mod view;

#[cfg(test)]
mod tests;

pub use attributes::{Attributes, ByWhom, ImageAttributes, Priority, WritePolicy};
pub use error::{ErrorKind, MirrorError};
pub use events::{Happening, MirrorEvent};
pub use layer::MirroredLu;
#[cfg(feature = "planted-bugs")]
pub use planted::{Bug, plant};
pub use service::{CreateMirror, LuAccess, LuHandle, LuSource, MirrorService, Rehearsal, UnitIdentity};
pub use signal::Follower;
pub use view::{ImageView, MirrorView, ProgressView};
