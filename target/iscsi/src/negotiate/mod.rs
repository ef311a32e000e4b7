//! Negotiation of operational parameters (RFC 7143 sections 6 and 13).

mod parameters;

pub use parameters::Parameters;
