//! What the administrator is told. Bounded: the oldest go first (I10).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::ArrayEvent;

const LIMIT: usize = 256;

/// The queue of events. Clones are the same queue; each event is handed out once.
#[derive(Clone, Default)]
pub struct Events {
    inner: Rc<Inner>,
}

#[derive(Default)]
struct Inner {
    queue: RefCell<VecDeque<ArrayEvent>>,
    arrived: Notify,
}

impl Events {
    /// The next event, waiting for it.
    pub async fn next(&self) -> ArrayEvent {
        loop {
            let event = self.inner.queue.borrow_mut().pop_front();
            if let Some(event) = event {
                return event;
            }
            self.inner.arrived.notified().await;
        }
    }

    /// All events that nobody has taken yet.
    pub fn drain(&self) -> Vec<ArrayEvent> {
        self.inner.queue.borrow_mut().drain(..).collect()
    }

    pub(crate) fn push(&self, event: ArrayEvent) {
        tracing::info!(?event, "array");
        let mut queue = self.inner.queue.borrow_mut();
        if queue.len() == LIMIT {
            queue.pop_front();
        }
        queue.push_back(event);
        drop(queue);
        self.inner.arrived.notify_one();
    }
}
