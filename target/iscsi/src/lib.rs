//! iSCSI (RFC 7143, RFC 7144): PDUs, negotiation, login, sessions. Target and initiator, without I/O: bytes in, bytes and events out;
//! time is an argument and randomness is passed in.

pub mod chap;
pub mod login;
pub mod names;
pub mod negotiate;
pub mod target;
