//! The mirror driver: remote mirroring of LU array sets between storage units (S1, S2).
//!
//! [`MirrorService`] is what a storage unit holds; [`MirroredLu`] is the block layer of a LU that belongs to a mirror.

#![forbid(unsafe_code)]

mod attributes;
mod error;
mod events;
pub mod link;
mod service;
mod view;

pub use attributes::{Attributes, ByWhom, ImageAttributes, Priority, WritePolicy};
pub use error::{ErrorKind, MirrorError};
pub use events::{Happening, MirrorEvent};
pub use service::{CreateMirror, LuAccess, LuHandle, LuSource, MirrorService, MirroredLu, UnitIdentity};
pub use view::{ImageView, MirrorView, ProgressView};
