//! The simulated engine: a world of processes, links and disks in virtual time, from one seed.
//!
//! [`World::new`] makes an empty world, [`WorldHandle::process`] starts a process in it, and [`Process::shard`] gives the
//! platform that the real code runs on. [`World::run`] drives everything until the test's own job is done:
//!
//! ```
//! use twinlun_io::sim::{World, WorldOptions};
//!
//! let world = World::new(42, WorldOptions::default());
//! let east = world.process("east-a", [10, 0, 0, 1].into());
//! let shard = east.shard();
//! east.spawn(async move { shard.sleep(std::time::Duration::from_secs(1)).await });
//! let shard = world.shard();
//! world.run(async { shard.sleep(std::time::Duration::from_secs(2)).await }).expect("two virtual seconds pass");
//! assert_eq!(east.jobs(), 0);
//! ```
//!
//! Which ready job runs next, how long a message or an operation takes, how a stream is cut into pieces and what a crash
//! leaves behind is drawn from the seed. Faults are ordered through [`Link`], [`DiskSlot`] and [`Process`]; those that had
//! an effect are counted. The model, and what it leaves out, is described in `docs/design/simulator.md`.

mod disk;
mod executor;
mod fault;
mod link;
mod medium;
mod net;
mod process;
mod rng;
mod stream;
mod world;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use crate::{Disk, DiskError, DiskOptions, Instant, Listener, Stream};

pub use disk::DiskTimes;
pub use fault::{DiskSlot, FAULT_KINDS, Link};
pub use link::LinkOptions;
pub use medium::{Medium, SECTOR};
pub use process::{Crash, CrashPoint, Process};
pub use rng::Rng;
pub use world::{StallKind, Stalled, World, WorldHandle, WorldOptions};

pub(crate) use disk::SimDisk;
pub(crate) use stream::{SimListener, SimStream};

/// One life of a process, as its shard sees the world.
pub(crate) struct SimShard {
    core: Rc<world::Core>,
    owner: executor::Owner,
}

impl SimShard {
    pub(crate) fn now(&self) -> Instant {
        self.core.now()
    }

    pub(crate) fn unix_time(&self) -> Duration {
        process::unix_time(&self.core, self.owner)
    }

    pub(crate) fn fill_random(&self, out: &mut [u8]) {
        self.core.slots.borrow_mut()[self.owner.slot].rng.fill(out);
    }

    pub(crate) fn spawn(&self, job: Pin<Box<dyn Future<Output = ()>>>) {
        self.core.spawn(self.owner, job);
    }

    pub(crate) async fn sleep_until(&self, deadline: Instant) {
        executor::Sleep::new(self.core.clone(), deadline).await;
    }

    pub(crate) async fn open_disk(&self, path: &Path, options: DiskOptions) -> Result<Disk, DiskError> {
        disk::open(self.core.clone(), self.owner, path, options).await
    }

    pub(crate) async fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        stream::listen(self.core.clone(), self.owner, address).await
    }

    pub(crate) async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        stream::connect(self.core.clone(), self.owner, address).await
    }
}
