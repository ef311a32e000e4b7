//! Time as flows see it: monotonic, counted from the shard's start.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in monotonic time. Virtual in the simulator; the same on all shards of a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant {
    since_start: Duration,
}

impl Instant {
    /// The point `since_start` after the start of the process (or of the simulated world).
    pub const fn from_start(since_start: Duration) -> Self {
        Self { since_start }
    }

    /// Time since the start.
    pub const fn since_start(self) -> Duration {
        self.since_start
    }

    /// Time since `earlier`; zero when that is later.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        self.since_start.saturating_sub(earlier.since_start)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self { since_start: self.since_start.saturating_add(later) }
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.saturating_since(earlier)
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}s", self.since_start.as_secs_f64())
    }
}

/// The time limit passed before the work was done. The work has been dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("time limit passed")]
pub struct TimedOut;
