//! The handle through which everything above reaches the platform.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::real::RealShard;
use crate::sim::SimShard;
use crate::{Disk, DiskError, DiskOptions, Instant, Listener, Stream, TimedOut};

/// One thread's platform. Cheap to clone; not `Send`: whoever holds it lives on that thread.
#[derive(Clone)]
pub struct Shard {
    engine: Engine,
}

#[derive(Clone)]
enum Engine {
    Real(Rc<RealShard>),
    Sim(Rc<SimShard>),
}

impl Shard {
    pub(crate) fn real(shard: Rc<RealShard>) -> Self {
        Self { engine: Engine::Real(shard) }
    }

    pub(crate) fn sim(shard: Rc<SimShard>) -> Self {
        Self { engine: Engine::Sim(shard) }
    }

    /// Name of the engine: `uring`, `portable` or `sim`.
    pub fn engine_name(&self) -> &'static str {
        match &self.engine {
            Engine::Real(shard) => shard.engine_name(),
            Engine::Sim(_) => "sim",
        }
    }

    #[cfg(test)]
    pub(crate) fn real_engine(&self) -> crate::real::Engine {
        match &self.engine {
            Engine::Real(shard) => shard.engine.clone(),
            Engine::Sim(_) => panic!("a simulated shard has no real engine"),
        }
    }

    /// Monotonic time. On the real engines this is read once per wake-up of the shard, or costs one vDSO call.
    pub fn now(&self) -> Instant {
        match &self.engine {
            Engine::Real(shard) => shard.now(),
            Engine::Sim(shard) => shard.now(),
        }
    }

    /// After work, looks for more for up to `limit` before the thread sleeps; zero: sleeps at once, as every shard does until this is
    /// called. How long is learned from the pauses between work. It trades processor time of a busy shard for latency.
    pub fn busy_poll(&self, limit: Duration) {
        match &self.engine {
            Engine::Real(shard) => shard.busy_poll(limit),
            // Waking costs nothing there.
            Engine::Sim(_) => {}
        }
    }

    /// Wall clock: time since 1970, for people and for records they read. Nothing is decided by it.
    pub fn unix_time(&self) -> Duration {
        match &self.engine {
            Engine::Real(shard) => shard.unix_time(),
            Engine::Sim(shard) => shard.unix_time(),
        }
    }

    /// Fills `out` from the system's generator, or from the seed in the simulator.
    pub fn fill_random(&self, out: &mut [u8]) {
        match &self.engine {
            Engine::Real(shard) => shard.fill_random(out),
            Engine::Sim(shard) => shard.fill_random(out),
        }
    }

    /// Starts a job on this shard. It runs to its end unless the shard stops (the process ends or is killed).
    pub fn spawn(&self, job: impl Future<Output = ()> + 'static) {
        match &self.engine {
            Engine::Real(shard) => shard.spawn(job),
            Engine::Sim(shard) => shard.spawn(Box::pin(job)),
        }
    }

    /// Completes after `time`.
    pub async fn sleep(&self, time: Duration) {
        self.sleep_until(self.now() + time).await;
    }

    /// Completes at `deadline`.
    pub async fn sleep_until(&self, deadline: Instant) {
        match &self.engine {
            Engine::Real(shard) => shard.sleep_until(deadline).await,
            Engine::Sim(shard) => shard.sleep_until(deadline).await,
        }
    }

    /// Lets other jobs run once.
    pub async fn yield_now(&self) {
        let mut yielded = false;
        std::future::poll_fn(move |cx| {
            if yielded {
                return Poll::Ready(());
            }
            yielded = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Runs `work` for at most `limit`, then drops it. Only for work that may be dropped: waiting, connecting.
    pub async fn timeout<F: Future>(&self, limit: Duration, work: F) -> Result<F::Output, TimedOut> {
        let mut work = pin!(work);
        let mut timer = pin!(self.sleep(limit));
        // The work is asked first: what is done at the deadline is done.
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            timer.as_mut().poll(cx).map(|()| Err(TimedOut))
        })
        .await
    }

    /// Opens a disk and locks it against every other process; see [`DiskOptions`].
    pub async fn open_disk(&self, path: &Path, options: DiskOptions) -> Result<Disk, DiskError> {
        match &self.engine {
            Engine::Real(shard) => shard.open_disk(path, options).await,
            Engine::Sim(shard) => shard.open_disk(path, options).await,
        }
    }

    /// Listens for TCP connections.
    pub async fn listen(&self, address: SocketAddr) -> std::io::Result<Listener> {
        match &self.engine {
            Engine::Real(shard) => shard.listen(address).await,
            Engine::Sim(shard) => shard.listen(address).await,
        }
    }

    /// Connects over TCP.
    pub async fn connect(&self, address: SocketAddr) -> std::io::Result<Stream> {
        match &self.engine {
            Engine::Real(shard) => shard.connect(address).await,
            Engine::Sim(shard) => shard.connect(address).await,
        }
    }
}
