//! The target's half of a session, without I/O.
//!
//! The storage processor runs a [`Handshake`] on each accepted stream. What comes of it is a [`Session`], or one more connection of one:
//!
//! ```text
//! handshake: receive into handshake.buffer(); handshake.received(now, &directory); send what it transmits
//!            Event::SessionReady -> Session::open(handshake, …), session.join(handshake, …), or handshake.refuse(…)
//!
//! loop {                                                      // for each connection `id` of a session
//!     wait for any of: stream readable -> receive into session.buffer(id); session.received(id, now, &directory)
//!                      session.next_timeout() reached -> session.on_timeout(now)
//!                      a command finished -> session.respond(tag, response)
//!     while let Some(event) = session.poll_event() { start it }
//!     session.transmit(id, |bytes| outbox.push_bytes(bytes)); // one vectored send for the whole batch
//!     wake the loops of session.others_pending(id)
//!     if session.is_closing(id) && outbox.is_empty() { close the stream; session.release(id, now); break }
//! }
//! ```
//!
//! While much output waits to be sent, the storage processor stops receiving: that bounds what pings can make it hold.
//! States and limits: `docs/design/iscsi-session.md`; what happens after errors: `docs/design/iscsi-recovery.md`.

mod collect;
mod commands;
mod config;
mod connection;
mod directory;
mod event;
mod fence;
mod functions;
mod handshake;
mod layout;
mod line;
mod numbers;
mod recovery;
mod reply;
mod sent;
mod session;
mod single;
mod snack;
mod tags;
mod task;
#[cfg(test)]
mod tests;
mod text_exchange;

pub use config::{ConnectionConfig, DigestPolicy, Limits, Policy, Timers};
pub use directory::{
    Access, Authentication, ChapCredentials, Directory, LoginSubject, Redirect, SessionType, TargetRecord,
};
pub use event::{
    AsyncMessage, Cdb, CloseReason, Event, ScsiCommand, ScsiResponse, SessionRequest, TaskAttribute, TaskEnd,
    TaskFunction, TaskManagement, TaskManagementResponse, Tsih,
};

pub use handshake::Handshake;
pub use session::{ConnectionId, Session};
pub use single::SingleConnection;

/// SAM-5 status GOOD.
pub const GOOD: u8 = 0x00;
/// SAM-5 status CHECK CONDITION.
pub const CHECK_CONDITION: u8 = 0x02;
/// SAM-5 status TASK ABORTED.
pub const TASK_ABORTED: u8 = 0x40;
