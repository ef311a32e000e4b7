//! The initiator half with several connections per session and error recovery up to level 2 (RFC 7143 chapter 7).
//!
//! Real initiators rarely go beyond level 0; this one exists to hold the target to what it promises, in tests and wherever a session
//! must outlive its connections. It follows the same rules as the plain [`Initiator`](super::Initiator), without I/O:
//!
//! ```text
//! let (mut session, lead) = MultiInitiator::new(config)?;         // then a stream for `lead`
//! for each link `id` with its stream:
//!     send(session.transmit(id)); receive into session.buffer(id); session.received(id, now)
//!     the stream broke -> session.lost(id, now)
//! session.next_timeout() reached -> session.on_timeout(now)
//! while let Some(event) = session.poll_event():
//!     LinkUp        -> session.connect(cid, now) for more of them
//!     LinkLost      -> close the stream; at `retry_at` session.connect(cid, now), with a new stream
//!     Completed     -> the command's one end
//! ```
//!
//! | what was lost | how it comes back |
//! | --- | --- |
//! | command | the same PDU again, same CmdSN and task tag, when ExpCmdSN does not move |
//! | Data-In | Data SNACK of the hole, at once; again when time passes |
//! | R2T | Data/R2T SNACK of the hole; the target asks again by itself |
//! | response | Status SNACK of the hole, found by a later StatSN, in the end by a ping |
//! | connection (level 2) | a login with the same CID, then TASK REASSIGN of each task that the target has taken |
//!
//! A status is acknowledged only when all data of its command is here (section 7.9).

mod link;
mod read;
mod receive;
mod recover;
mod session;
#[cfg(test)]
mod tests;

pub use link::LinkId;
pub use session::{MultiEvent, MultiInitiator};
