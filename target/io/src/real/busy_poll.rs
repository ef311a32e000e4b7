//! Looking for work for a while before the thread sleeps.
//!
//! To be woken costs a thread some microseconds, more in a virtual machine: for a host that waits for each answer that is most of its
//! latency. A shard that was just busy therefore asks the kernel again and again for a few microseconds before it lets the kernel wait.
//! How long is learned: a sleep that was shorter than the limit would better have been spent looking and doubles the window, a longer one
//! halves it, down to none. Nobody who is idle pays, nor hosts whose commands are far apart.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::yield_now;

/// Where the window begins to grow, and below which it is none.
const SHORTEST: Duration = Duration::from_micros(8);

/// Offering the processor to others takes less than this when nobody takes it.
const TAKEN: Duration = Duration::from_micros(3);
/// How long a shard whose processor is wanted by others does without, at least; a hundred times what they took, if that is more.
const REST: Duration = Duration::from_millis(10);

/// A shard's busy polling.
pub(crate) struct BusyPoll {
    /// Longest window; zero: never.
    limit: Cell<Duration>,
    /// Whether anything was received or completed since that was last asked.
    worked: Cell<bool>,
    /// Whether the thread may sleep, so that new work must begin another window.
    over: Cell<bool>,
    begin: Notify,
}

impl BusyPoll {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            limit: Cell::new(Duration::ZERO),
            worked: Cell::new(false),
            over: Cell::new(true),
            begin: Notify::new(),
        })
    }

    pub(crate) fn set_limit(&self, limit: Duration) {
        self.limit.set(limit);
    }

    /// Something came: more may follow soon.
    pub(crate) fn note_work(&self) {
        self.worked.set(true);
        if self.over.get() && !self.limit.get().is_zero() {
            self.over.set(false);
            self.begin.notify_one();
        }
    }

    /// The job that keeps the thread awake.
    pub(crate) async fn keep(self: Rc<Self>) {
        let mut window = Duration::ZERO;
        let mut last_work = Instant::now();
        let mut rest_until = last_work;
        let mut taken = false;
        loop {
            self.begin.notified().await;
            let now = Instant::now();
            window = next_window(window, now - last_work, self.limit.get());
            last_work = now;
            self.worked.set(false);
            while now >= rest_until {
                // The runtime asks its sockets and rings before it goes on here.
                yield_now().await;
                let now = Instant::now();
                if self.worked.take() {
                    last_work = now;
                } else if now - last_work >= window {
                    break;
                }
                rustix::thread::sched_yield();
                let away = now.elapsed();
                if away < TAKEN {
                    taken = false;
                } else if std::mem::replace(&mut taken, true) {
                    // Once may be an interrupt; twice, somebody else wants this processor, perhaps the very peer that is waited for.
                    rest_until = Instant::now() + REST.max(away * 100);
                    break;
                }
            }
            self.over.set(true);
        }
    }
}

/// The window after work came `pause` after the work before, too late for `window`.
fn next_window(window: Duration, pause: Duration, limit: Duration) -> Duration {
    let window = if pause <= limit { (window * 2).max(SHORTEST) } else { window / 2 };
    if window < SHORTEST { Duration::ZERO } else { window.min(limit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(50);

    fn after(pauses: &[u64]) -> Duration {
        pauses
            .iter()
            .fold(Duration::ZERO, |window, pause| next_window(window, Duration::from_micros(*pause), LIMIT))
    }

    #[test]
    fn short_pauses_open_the_window_up_to_the_limit() {
        assert_eq!(after(&[30]), SHORTEST);
        assert_eq!(after(&[30, 30, 30]), Duration::from_micros(32));
        assert_eq!(after(&[30; 9]), LIMIT);
    }

    #[test]
    fn long_pauses_close_it() {
        assert_eq!(after(&[9000]), Duration::ZERO);
        assert_eq!(after(&[30, 30, 30, 9000]), Duration::from_micros(16));
        assert_eq!(after(&[30, 30, 30, 9000, 9000, 9000]), Duration::ZERO);
    }

    #[test]
    fn a_limit_of_none_keeps_it_closed() {
        assert_eq!(next_window(Duration::ZERO, Duration::ZERO, Duration::ZERO), Duration::ZERO);
    }
}
