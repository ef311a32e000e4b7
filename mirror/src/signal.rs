//! Waiting for something that another flow brings about.

use std::cell::Cell;
use std::rc::{Rc, Weak};

use tokio::sync::Notify;

/// Wakes everybody who waits for a condition, to look again.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    notify: Notify,
    /// How many wait: raising costs nothing while nobody does.
    waiting: Cell<usize>,
}

/// Somebody who waits.
struct Waits<'a>(&'a Cell<usize>);

impl<'a> Waits<'a> {
    fn new(waiting: &'a Cell<usize>) -> Self {
        waiting.set(waiting.get() + 1);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Signal {
    /// Something may have changed.
    pub(crate) fn raise(&self) {
        if self.waiting.get() > 0 {
            self.notify.notify_waiters();
        }
    }

    /// Waits until `look` has an answer. It is asked at once and after every [`Self::raise`].
    pub(crate) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let _waits = Waits::new(&self.waiting);
        loop {
            // Made before the look: it misses no wake-up from here on, polled or not.
            let raised = self.notify.notified();
            if let Some(answer) = look() {
                return answer;
            }
            raised.await;
        }
    }
}

/// Counts changes for followers, who are woken in the order in which they came. (The `watch` channel of tokio draws the
/// order from a generator of its own: a run in the simulator could not be repeated.)
#[derive(Debug, Default)]
pub(crate) struct Changes {
    count: Cell<u64>,
    signal: Signal,
}

impl Changes {
    /// Something changed.
    pub(crate) fn note(&self) {
        self.count.set(self.count.get() + 1);
        self.signal.raise();
    }

    /// Follows what changes from now on.
    pub(crate) fn follow(self: &Rc<Self>) -> Follower {
        Follower { seen: self.count.get(), changes: Rc::downgrade(self) }
    }
}

/// Hears of changes; several at once are heard of as one.
#[derive(Debug)]
pub struct Follower {
    changes: Weak<Changes>,
    seen: u64,
}

impl Follower {
    /// Completes when something has changed since the last time. `false` when nothing ever will again.
    ///
    /// Whatever is followed lives for as long as somebody waits here.
    pub async fn changed(&mut self) -> bool {
        let Some(changes) = self.changes.upgrade() else { return false };
        let seen = self.seen;
        self.seen = changes.signal.until(|| Some(changes.count.get()).filter(|count| *count != seen)).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn a_follower_hears_of_what_came_before_it_waited_and_of_the_end() {
        let changes = Rc::new(Changes::default());
        let mut follower = changes.follow();
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(pin!(follower.changed()).poll(&mut cx), Poll::Pending);
        changes.note();
        changes.note();
        assert_eq!(pin!(follower.changed()).poll(&mut cx), Poll::Ready(true));
        assert_eq!(pin!(follower.changed()).poll(&mut cx), Poll::Pending, "both were heard of");
        drop(changes);
        assert_eq!(pin!(follower.changed()).poll(&mut cx), Poll::Ready(false));
    }
}
