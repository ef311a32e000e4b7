//! iSCSI (RFC 7143) without I/O: PDUs, framing, digests, and both halves of a session.
//!
//! Nothing here touches a clock, a socket or randomness. A driver feeds received bytes to a [`Deframer`], hands the
//! PDUs to a session core, and sends what the core's [`Encoder`] gathered. Page: `docs/design/iscsi-pdu.md`.

#![forbid(unsafe_code)]

pub mod chap;
pub mod deframer;
pub mod digest;
pub mod encoder;
pub mod initiator;
pub mod isns;
pub mod login;
pub mod names;
pub mod negotiate;
pub mod pdu;
pub mod target;
pub mod text;

pub use deframer::{Deframer, FrameError, FrameLimits};
pub use encoder::Encoder;
