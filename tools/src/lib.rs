//! What the tools share with tests and benches: the admin client, storage units as child processes, an asynchronous initiator,
//! and the load generator.

#![forbid(unsafe_code)]

pub mod client;
pub mod initiator;
pub mod load;
pub mod stage;
