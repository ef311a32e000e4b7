//! The login phase, the target's side (RFC 7143 section 6.3).
//!
//! A pure machine: Login Requests in, what to answer out. It owns nothing that a stranger could exhaust: one collector of at most
//! 64 KiB, one negotiation, one CHAP exchange, and a count of requests.
//!
//! ```text
//!            first text                    proof given            T, NSG=3
//!  (start) ─────────────▶ Security ───────────────────▶ Operational ─────▶ Ready ─▶ (admitted)
//!      │  CSG=1, nothing to prove              ▲  │ T, NSG=3                ▲
//!      └───────────────────────────────────────┘  └─────────────────────────┘
//! ```

mod machine;
mod security;
mod status;
#[cfg(test)]
mod tests;

pub(crate) use machine::{Login, Outcome, Reply};
pub use status::LoginStatus;
