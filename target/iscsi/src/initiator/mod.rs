//! The initiator half: one session over one connection, without I/O.
//!
//! The driver's loop is short:
//!
//! ```text
//! loop {
//!     send(initiator.transmit());                     // one vectored send for all that was gathered
//!     receive into initiator.buffer();                // one receive of whatever is there
//!     initiator.received()?;                          // many PDUs
//!     while let Some(event) = initiator.poll_event() { … initiator.submit(next)? … }
//! }
//! ```
//!
//! Commands carry the caller's tags; the session core numbers them, keeps them inside the target's command window, cuts
//! their data and puts the answer together. Memory: slots for `max_tasks` tasks that are used again and again; data is
//! passed on by reference count.
//!
//! [`multi`] holds the other kind: several connections, and error recovery up to level 2. Here the level is 0: every
//! violation, digest error or lost PDU ends the session (RFC 7143, 7.1.4), and the tasks that were under way are named by [`Initiator::unfinished`].

pub mod cdb;
mod command;
mod config;
mod discovery;
mod error;
mod login;
pub mod multi;
mod negotiation;
mod receive;
mod session;
mod tasks;

#[cfg(test)]
mod tests;

pub use command::{Command, Completion, Event, Submitted, Transfer};
pub use config::{ChapLogin, InitiatorConfig, MutualChap, SessionKind};
pub use discovery::DiscoveredTarget;
pub use error::{InitiatorError, LoginError, Violation};
pub use session::{Initiator, Phase};
