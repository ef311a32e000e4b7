//! The storage processor: one daemon that composes iSCSI target, SCSI device server, mirrors and array.
//!
//! [`Processor::start`] opens everything on a shard and serves hosts; [`Processor::obey`] carries out administrators' orders;
//! [`Processor::shutdown`] ends it. `docs/design/architecture.md` shows how the rooms fit together.

#![forbid(unsafe_code)]

pub mod admin;
pub mod config;
mod connection;
mod directory;
mod events;
mod execute;
mod isns;
mod jobs;
pub mod offline;
mod operation;
mod orders;
mod portal;
mod processor;
mod rehearsal;
mod session;
mod sessions;
mod space;
pub mod state;
mod status;
mod tasks;
#[cfg(test)]
mod tests;
mod time;
mod volume;

pub use processor::{Processor, StartError};
