//! How fast a copy may go: a token bucket over the shard's time (R-SY-1).

use std::time::Duration;

use twinlun_io::Instant;

/// Longest time whose tokens may be saved up: a pause does not earn a burst.
const BURST: Duration = Duration::from_millis(100);

/// Grants bytes at a rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Throttle {
    rate: u64,
    /// When everything granted so far is paid for.
    paid: Instant,
}

impl Throttle {
    /// `rate` bytes per second; 0 is unlimited.
    pub(crate) fn new(rate: u64) -> Self {
        Self { rate, paid: Instant::default() }
    }

    /// Changes the rate from now on.
    pub(crate) fn set_rate(&mut self, rate: u64, now: Instant) {
        if rate != self.rate {
            self.rate = rate;
            self.paid = now;
        }
    }

    /// Takes `bytes`; the copy may go on after the time returned.
    pub(crate) fn take(&mut self, bytes: u64, now: Instant) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let earliest = Instant::from_start(now.since_start().saturating_sub(BURST));
        let cost = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        self.paid = self.paid.max(earliest) + Duration::from_nanos(u64::try_from(cost).unwrap_or(u64::MAX));
        self.paid.saturating_since(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn never_faster_than_the_rate_and_a_burst(
            rate in 1000u64..1 << 30, takes in proptest::collection::vec((1u64..1 << 20, 0u64..50), 1..50)) {
            let mut throttle = Throttle::new(rate);
            let start = Instant::from_start(Duration::from_secs(5));
            let (mut now, mut total) = (start, 0);
            for (bytes, idle_ms) in takes {
                now = now + Duration::from_millis(idle_ms);
                now = now + throttle.take(bytes, now);
                total += bytes;
                let allowed = rate as f64 * ((now - start) + BURST).as_secs_f64();
                prop_assert!(total as f64 <= allowed * 1.001 + 1.0, "{total} in {now:?}");
            }
        }
    }

    #[test]
    fn unlimited_never_waits() {
        let mut throttle = Throttle::new(0);
        assert_eq!(throttle.take(u64::MAX, Instant::default()), Duration::ZERO);
    }
}
