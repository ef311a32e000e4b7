//! Administration: HTTP + JSON in front, typed orders behind.
//!
//! The server runs on a thread and runtime of its own and hands each [`Order`] to the shard as a message, so that a slow
//! administrator never delays a host (`docs/design/admin-api.md`).

mod order;
mod server;

pub use order::{Answer, MirrorOrder, Order};
pub use server::{AdminServer, Desk, Slip};
