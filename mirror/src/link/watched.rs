//! A value that flows wait on.

use std::cell::RefCell;

use crate::signal::Signal;

/// A value with waiters, who are woken in the order in which they came. (The `watch` channel of tokio draws the order
/// from a generator of its own: a run in the simulator could not be repeated.)
#[derive(Default)]
pub(super) struct Watched<T> {
    value: RefCell<T>,
    changed: Signal,
}

impl<T: Clone + PartialEq> Watched<T> {
    pub(super) fn new(value: T) -> Self {
        Self { value: RefCell::new(value), changed: Signal::default() }
    }

    pub(super) fn get(&self) -> T {
        self.value.borrow().clone()
    }

    /// Sets the value; gives the old one.
    pub(super) fn set(&self, value: T) -> T {
        let old = self.value.replace(value);
        if *self.value.borrow() != old {
            self.changed.raise();
        }
        old
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut T)) {
        let mut value = self.get();
        change(&mut value);
        self.set(value);
    }

    /// Waits for a value that `look` has an answer for; the one that is there is looked at first.
    pub(super) async fn until<R>(&self, mut look: impl FnMut(&T) -> Option<R>) -> R {
        self.changed.until(|| look(&self.value.borrow())).await
    }

    /// Waits for a value that is as wanted.
    pub(super) async fn wait_for(&self, mut wanted: impl FnMut(&T) -> bool) {
        self.until(|value| wanted(value).then_some(())).await;
    }
}
