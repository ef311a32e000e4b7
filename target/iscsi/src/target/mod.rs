//! The target's half of a connection, without I/O.
//!
//! The storage processor runs one [`Connection`] per accepted stream:
//!
//! ```text
//! loop {
//!     wait for any of: stream readable -> receive into conn.buffer(); conn.received(now, &directory)
//!                      conn.next_timeout() reached -> conn.on_timeout(now)
//!                      a command finished -> conn.respond(tag, response)
//!     while let Some(event) = conn.poll_event() { start it }
//!     conn.transmit(|bytes| outbox.push_bytes(bytes));        // one vectored send for the whole batch
//!     if conn.is_closing() && outbox.is_empty() { close the stream; break }
//! }
//! ```
//!
//! While much output waits to be sent, the storage processor stops receiving: that bounds what pings can make it hold.
//! Error recovery level 0, one connection per session. States and limits: `docs/design/iscsi-session.md`.

mod collect;
mod commands;
mod config;
mod connection;
mod directory;
mod event;
mod functions;
mod line;
mod numbers;
mod reply;
mod tags;
mod task;
#[cfg(test)]
mod tests;
mod text_exchange;

pub use config::{ConnectionConfig, DigestPolicy, Limits, Policy, Timers};
pub use connection::Connection;
pub use directory::{
    Access, Authentication, ChapCredentials, Directory, LoginSubject, Redirect, SessionType, TargetRecord,
};
pub use event::{
    AsyncMessage, Cdb, CloseReason, Event, ScsiCommand, ScsiResponse, SessionRequest, TaskAttribute,
    TaskFunction, TaskManagement, TaskManagementResponse, Tsih,
};

/// SAM-5 status GOOD.
pub const GOOD: u8 = 0x00;
/// SAM-5 status CHECK CONDITION.
pub const CHECK_CONDITION: u8 = 0x02;
/// SAM-5 status TASK ABORTED.
pub const TASK_ABORTED: u8 = 0x40;
