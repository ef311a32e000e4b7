//! Negotiation of operational parameters (RFC 7143 sections 6.2 and 13).
//!
//! [`Negotiation`] is the target's side: it answers every key of the standards by a pure function of the key, the value offered, and
//! the target's [`Policy`](crate::target::Policy). What comes out takes effect only when the exchange ends (section 6.2: negotiations
//! are atomic), so a failed one leaves nothing behind.

mod key;
mod operational;
mod parameters;
#[cfg(test)]
mod tests;

pub use key::{Key, KeySet, Place, Use};
pub(crate) use operational::admit;
pub use operational::{Negotiation, NegotiationError};
pub use parameters::Parameters;
