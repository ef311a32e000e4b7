//! The platform under a storage processor: one thread per core with its timers, jobs, disks and streams.
//!
//! Everything above talks to a [`Shard`] and never to an operating system, so the same code runs on three engines:
//!
//! | engine | sockets and timers | disks |
//! | --- | --- | --- |
//! | `uring` | tokio, one current-thread runtime per shard | one io_uring per shard, polled by the runtime |
//! | `portable` | the same | a small pool of threads, where io_uring is forbidden |
//! | [`sim`] | simulated, in virtual time from one seed | simulated, with faults |
//!
//! One contract suite runs against all three (`tests/contract.rs`). The format of nothing is decided here.

mod clock;
mod disk;
mod net;
mod real;
mod shard;
pub mod sim;

pub use clock::{Instant, TimedOut};
pub use disk::{Disk, DiskError, DiskOptions, Durability};
pub use net::{Listener, Outbox, Stream};
pub use real::{EngineChoice, run_shard};
pub use shard::Shard;
