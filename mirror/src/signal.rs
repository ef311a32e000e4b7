//! Waiting for something that another flow brings about.

use tokio::sync::Notify;

/// Wakes everybody who waits for a condition, to look again.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    notify: Notify,
}

impl Signal {
    /// Something may have changed.
    pub(crate) fn raise(&self) {
        self.notify.notify_waiters();
    }

    /// Waits until `look` has an answer. It is asked at once and after every [`Self::raise`].
    pub(crate) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
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
