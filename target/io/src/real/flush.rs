//! Flushes that are asked for while one is under way share the next one.

use std::cell::Cell;

use tokio::sync::Notify;

/// Turns of flushing one disk. A flush covers what was answered before it began, so whoever comes later waits for another.
#[derive(Default)]
pub(crate) struct FlushTurns {
    begun: Cell<u64>,
    /// The newest turn that succeeded.
    done: Cell<u64>,
    under_way: Cell<bool>,
    ended: Notify,
}

impl FlushTurns {
    /// Completes when a flush that began after this call has succeeded. `flush` runs here or in another caller; an error ends the caller
    /// that ran it, and every other caller tries for itself.
    pub(crate) async fn run<E>(&self, flush: impl AsyncFn() -> Result<(), E>) -> Result<(), E> {
        let wanted = self.begun.get() + 1;
        while self.done.get() < wanted {
            // Made before the look at `under_way`, though nothing can run in between on this thread.
            let ended = self.ended.notified();
            if self.under_way.get() {
                ended.await;
                continue;
            }
            let turn = Turn::begin(self);
            flush().await?;
            self.done.set(turn.number);
        }
        Ok(())
    }
}

/// Ends also when the caller that flushes is dropped.
struct Turn<'a> {
    turns: &'a FlushTurns,
    number: u64,
}

impl<'a> Turn<'a> {
    fn begin(turns: &'a FlushTurns) -> Self {
        let number = turns.begun.get() + 1;
        turns.begun.set(number);
        turns.under_way.set(true);
        Self { turns, number }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.under_way.set(false);
        self.turns.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    /// Flushes that end when the test lets them.
    #[derive(Default)]
    struct Disk {
        begun: Cell<u32>,
        may_end: Cell<u32>,
        fails: Cell<bool>,
    }

    impl Disk {
        async fn flush(&self) -> Result<(), ()> {
            self.begun.set(self.begun.get() + 1);
            let me = self.begun.get();
            std::future::poll_fn(|_| if self.may_end.get() >= me { Poll::Ready(()) } else { Poll::Pending })
                .await;
            if self.fails.get() { Err(()) } else { Ok(()) }
        }
    }

    #[test]
    fn callers_during_a_flush_share_the_next() {
        let (turns, disk) = (FlushTurns::default(), Disk::default());
        let mut cx = Context::from_waker(Waker::noop());
        let run = || turns.run(async || disk.flush().await);
        let (mut a, mut b, mut c) = (pin!(run()), pin!(run()), pin!(run()));
        assert!(a.as_mut().poll(&mut cx).is_pending());
        assert!(b.as_mut().poll(&mut cx).is_pending());
        assert!(c.as_mut().poll(&mut cx).is_pending());
        assert_eq!(disk.begun.get(), 1);
        disk.may_end.set(1);
        assert!(a.as_mut().poll(&mut cx).is_ready());
        // The first flush began before the others asked: it is not theirs.
        assert!(b.as_mut().poll(&mut cx).is_pending());
        assert!(c.as_mut().poll(&mut cx).is_pending());
        assert_eq!(disk.begun.get(), 2);
        disk.may_end.set(2);
        assert!(b.as_mut().poll(&mut cx).is_ready());
        assert!(c.as_mut().poll(&mut cx).is_ready());
        assert_eq!(disk.begun.get(), 2, "one flush for both");
    }

    #[test]
    fn nobody_takes_a_dropped_or_failed_flush_for_theirs() {
        let (turns, disk) = (FlushTurns::default(), Disk::default());
        let mut cx = Context::from_waker(Waker::noop());
        let run = || turns.run(async || disk.flush().await);
        let mut b = pin!(run());
        {
            let mut a = pin!(run());
            assert!(a.as_mut().poll(&mut cx).is_pending());
            assert!(b.as_mut().poll(&mut cx).is_pending());
        }
        assert!(b.as_mut().poll(&mut cx).is_pending());
        assert_eq!(disk.begun.get(), 2, "the one that waited flushes itself");
        let mut c = pin!(run());
        assert!(c.as_mut().poll(&mut cx).is_pending());
        disk.fails.set(true);
        disk.may_end.set(3);
        assert!(matches!(b.as_mut().poll(&mut cx), Poll::Ready(Err(()))));
        assert!(matches!(c.as_mut().poll(&mut cx), Poll::Ready(Err(()))));
    }
}
