//! The engines that run on an operating system.

mod allocator;
mod buffers;
mod busy_poll;
mod file;
mod flush;
mod map;
mod memory;
mod net;
mod op;
mod open;
mod pages;
mod pool;
#[cfg(test)]
mod tests;
mod uring;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use tokio::task::LocalSet;
use tokio::task::coop::consume_budget;
use twinlun_block::{ByteRange, Payload};

use crate::disk::Backend;
use crate::{Disk, DiskError, DiskOptions, Durability, Instant, Listener, Shard, Stream};
use busy_poll::BusyPoll;
pub(crate) use file::Engine;
use file::FileDisk;
use memory::MemoryDisk;
pub(crate) use net::{RealListener, RealStream};
use pool::Pool;
use uring::Ring;

/// Which disk engine a shard uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring where the kernel allows it, else the portable one; the log says which and why.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// A pool of threads.
    Portable,
}

/// Runs `main` on a new shard of the calling thread, to its end. Jobs that are still there then are dropped.
pub fn run_shard<F: Future>(choice: EngineChoice, main: impl FnOnce(Shard) -> F) -> io::Result<F::Output> {
    // Time counts from the first shard of the process, and a clock that is asked first later would start later.
    start_of_time();
    allocator::keep_buffers();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let jobs = LocalSet::new();
    let engine = choose(choice)?;
    let output = jobs.block_on(&runtime, async {
        let busy_poll = BusyPoll::new();
        if let Engine::Uring(ring) = &engine {
            ring.start(busy_poll.clone())?;
        }
        tokio::task::spawn_local(busy_poll.clone().keep());
        let shard = Shard::real(Rc::new(RealShard { engine, busy_poll }));
        io::Result::Ok(main(shard).await)
    });
    // Inside the runtime, since sockets take their leave of it.
    let _guard = runtime.enter();
    drop(jobs);
    output
}

fn choose(choice: EngineChoice) -> io::Result<Engine> {
    let ring = match choice {
        EngineChoice::Portable => None,
        EngineChoice::Uring => Some(Ring::new()?),
        EngineChoice::Auto => Ring::new()
            .inspect_err(
                |error| tracing::info!(%error, "io_uring is not to be had here, disks are served by threads"),
            )
            .ok(),
    };
    Ok(match ring {
        Some(ring) => Engine::Uring(ring),
        None => Engine::Pool(Rc::new(Pool::new()?)),
    })
}

fn start_of_time() -> std::time::Instant {
    static START: OnceLock<std::time::Instant> = OnceLock::new();
    *START.get_or_init(std::time::Instant::now)
}

pub(crate) struct RealShard {
    pub(crate) engine: Engine,
    busy_poll: Rc<BusyPoll>,
}

impl RealShard {
    pub(crate) fn engine_name(&self) -> &'static str {
        self.engine.name()
    }

    pub(crate) fn busy_poll(&self, limit: Duration) {
        self.busy_poll.set_limit(limit);
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::from_start(start_of_time().elapsed())
    }

    pub(crate) fn unix_time(&self) -> Duration {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }

    pub(crate) fn fill_random(&self, out: &mut [u8]) {
        // Keys and challenges come from here; without randomness there is no going on.
        getrandom::fill(out).expect("the system's random generator works");
    }

    pub(crate) fn spawn(&self, job: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(job);
    }

    pub(crate) async fn sleep_until(&self, deadline: Instant) {
        match start_of_time().checked_add(deadline.since_start()) {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            // Later than the clock can say: never.
            None => std::future::pending().await,
        }
    }

    pub(crate) async fn open_disk(&self, path: &Path, options: DiskOptions) -> Result<Disk, DiskError> {
        let disk = if MemoryDisk::names(path) {
            RealDisk::Memory(MemoryDisk::open(path, options.create)?)
        } else {
            RealDisk::File(FileDisk::open(path, options, self.engine.clone()).await?)
        };
        Ok(Disk::new(Backend::Real(disk)))
    }

    pub(crate) async fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        net::listen(address, self.busy_poll.clone())
    }

    pub(crate) async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        net::connect(address, self.busy_poll.clone()).await
    }
}

pub(crate) enum RealDisk {
    File(FileDisk),
    Memory(MemoryDisk),
}

impl RealDisk {
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::File(disk) => disk.size(),
            Self::Memory(disk) => disk.size(),
        }
    }

    /// Brings a range near that is read or written soon. A disk that is no memory has nothing to do for that.
    pub(crate) fn prefetch(&self, range: ByteRange, write: bool) {
        match self {
            Self::File(_) => {}
            Self::Memory(disk) => disk.prefetch(range, write),
        }
    }

    /// Whether the system has said that writes are lost.
    pub(crate) fn is_suspect(&self) -> bool {
        match self {
            Self::File(disk) => disk.is_suspect(),
            Self::Memory(_) => false,
        }
    }

    pub(crate) async fn read(&self, range: ByteRange) -> Result<Payload, DiskError> {
        // What is served at once never waits, and a flow of such operations would keep all others from the thread.
        consume_budget().await;
        match self {
            Self::File(disk) => disk.read(range).await,
            Self::Memory(disk) => Ok(disk.read(range)),
        }
    }

    pub(crate) async fn write(
        &self,
        offset: u64,
        data: Payload,
        durability: Durability,
    ) -> Result<(), DiskError> {
        consume_budget().await;
        match self {
            Self::File(disk) => disk.write(offset, data, durability).await,
            Self::Memory(disk) => {
                disk.write(offset, &data);
                Ok(())
            }
        }
    }

    pub(crate) async fn flush(&self) -> Result<(), DiskError> {
        match self {
            Self::File(disk) => disk.flush().await,
            Self::Memory(_) => Ok(()),
        }
    }

    pub(crate) async fn allocated(&self, range: ByteRange) -> Result<(bool, u64), DiskError> {
        match self {
            Self::File(disk) => disk.allocated(range).await,
            Self::Memory(disk) => Ok(disk.allocated(range)),
        }
    }

    pub(crate) async fn free_space(&self) -> Option<u64> {
        match self {
            Self::File(disk) => disk.free_space().await,
            Self::Memory(_) => None,
        }
    }

    pub(crate) async fn zero(&self, range: ByteRange, may_unmap: bool) -> Result<(), DiskError> {
        match self {
            Self::File(disk) => disk.zero(range, may_unmap).await,
            Self::Memory(disk) => {
                disk.zero(range);
                Ok(())
            }
        }
    }
}
