//! The words that all layers of a storage processor share.
//!
//! Every layer below the SCSI device server is a [`BlockLayer`]: it takes a [`BlockRequest`] and answers it exactly
//! once. The mirror driver, a bound LU of the array and the null store are such layers; a LU that does not need one
//! does not have it. Addresses between layers are bytes ([`ByteRange`]); only SCSI counts in logical blocks.
//!
//! Nothing here touches a clock, a socket, a file or randomness.

#![forbid(unsafe_code)]

mod address;
mod layer;
mod meta;
mod payload;
mod turns;

pub use address::{BlockSize, ByteRange, Lba, LbaRange, OutOfRange};
pub use layer::{
    Allocation, BlockError, BlockLayer, BlockRequest, BlockResult, Geometry, UnmapSupport, compare,
};
pub use meta::{MetaError, MetaLog, MetaStore, PAGE_PAYLOAD};
pub use payload::Payload;
pub use turns::{RangeTurns, Turn};
