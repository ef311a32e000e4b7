//! What happened, for logs, `mirror watch` and metrics. Bounded: a slow listener misses old events and is told so.

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// Events that a slow listener may lag behind.
const KEPT: usize = 256;

/// Something a person may want to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorEvent {
    /// Name of the mirror.
    pub mirror: String,
    /// Unit of the image, when it is about one.
    pub unit: Option<String>,
    /// What happened.
    pub what: Happening,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Happening {
    /// The mirror was created.
    Created,
    /// The mirror was destroyed.
    Destroyed,
    /// The state of the mirror changed.
    State(String),
    /// A secondary was added.
    Added,
    /// A secondary was removed.
    Removed,
    /// A secondary misses writes from now on, for this reason.
    Fractured(String),
    /// A secondary's unit answers.
    Attached,
    /// A copy started; bytes to copy.
    CopyStarted(u64),
    /// A copy ended; the image is in step.
    CopyDone(u64),
    /// A copy or an attachment failed and will be tried again, or waits for the administrator.
    Trouble(String),
    /// Attributes changed.
    Changed,
}

#[derive(Clone)]
pub(crate) struct Events {
    sender: broadcast::Sender<MirrorEvent>,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self { sender: broadcast::channel(KEPT).0 }
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<MirrorEvent> {
        self.sender.subscribe()
    }

    pub(crate) fn tell(&self, mirror: &str, unit: Option<&str>, what: Happening) {
        tracing::info!(mirror, unit, ?what, "mirror event");
        // Nobody listening is fine.
        let _ = self.sender.send(MirrorEvent { mirror: mirror.into(), unit: unit.map(Into::into), what });
    }
}
