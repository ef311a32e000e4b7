//! What happened, for administrators: a bounded log that can be followed.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use tokio::sync::{Notify, broadcast};
use twinlun_api::EventView;
use twinlun_array::ArrayEvent;
use twinlun_io::Shard;

use crate::processor::Processor;
use crate::time::rfc3339;

/// Events kept; older ones are forgotten.
const KEPT: usize = 1024;

/// The log.
pub(crate) struct EventLog {
    shard: Shard,
    events: RefCell<VecDeque<EventView>>,
    last: Cell<u64>,
    added: Notify,
}

impl EventLog {
    pub(crate) fn new(shard: Shard) -> Self {
        Self { shard, events: RefCell::default(), last: Cell::new(0), added: Notify::new() }
    }

    pub(crate) fn note(&self, subject: &str, name: &str, what: &str) {
        self.last.set(self.last.get() + 1);
        let mut events = self.events.borrow_mut();
        if events.len() == KEPT {
            events.pop_front();
        }
        events.push_back(EventView {
            sequence: self.last.get(),
            time: rfc3339(self.shard.unix_time()),
            subject: subject.into(),
            name: name.into(),
            what: what.into(),
        });
        drop(events);
        self.added.notify_waiters();
    }

    /// Events after a sequence number; with `wait`, not before there is one.
    pub(crate) async fn after(&self, sequence: u64, wait: bool) -> Vec<EventView> {
        loop {
            let added = self.added.notified();
            let found: Vec<_> =
                self.events.borrow().iter().filter(|e| e.sequence > sequence).cloned().collect();
            if !found.is_empty() || !wait {
                return found;
            }
            added.await;
        }
    }
}

/// Starts the jobs that carry the rooms' events into the log, and their changes to the device server.
pub(crate) fn collect(processor: &Rc<Processor>) {
    let this = processor.clone();
    processor.shard.spawn(async move {
        let events = this.array.events();
        loop {
            let event = events.next().await;
            let (name, what) = array_words(&this, &event);
            tracing::warn!(name, what, "array");
            this.events.note("array", &name, &what);
        }
    });
    let this = processor.clone();
    processor.shard.spawn(async move {
        let mut events = this.mirrors.subscribe();
        loop {
            match events.recv().await {
                Ok(event) => {
                    let what = serde_json::to_string(&event.what).unwrap_or_default();
                    let unit = event.unit.map_or_else(String::new, |unit| format!("{unit}: "));
                    this.events.note("mirror", &event.mirror, &format!("{unit}{}", what.trim_matches('"')));
                }
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    this.events.note("mirror", "", &format!("{missed} events were lost"));
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    });
    let this = processor.clone();
    processor.shard.spawn(async move {
        let mut changes = this.mirrors.access_changes();
        while changes.changed().await {
            this.refresh_access();
        }
    });
}

fn array_words(processor: &Processor, event: &ArrayEvent) -> (String, String) {
    let lu = |uuid| processor.array.lu(uuid).map_or_else(|| uuid.to_string(), |lu| lu.info().name);
    match event {
        ArrayEvent::DiskFailed { slot, reason } => (format!("disk {slot}"), format!("failed: {reason}")),
        ArrayEvent::DiskSilent { slot, kept } => {
            (format!("disk {slot}"), format!("does not answer; it is waited for: {kept}"))
        }
        ArrayEvent::DiskLeftOut { path, reason } => {
            (path.display().to_string(), format!("left out: {reason}"))
        }
        ArrayEvent::DiskAdded { slot } => (format!("disk {slot}"), "added".into()),
        ArrayEvent::LuState { uuid, state } => (lu(*uuid), format!("{state:?}").to_lowercase()),
        ArrayEvent::Healed { uuid, offset, len } => {
            (lu(*uuid), format!("{len} bytes at {offset} rewritten from another copy"))
        }
        ArrayEvent::Resynchronised { uuid, bytes } => {
            (lu(*uuid), format!("copies made equal after a crash, {bytes} bytes"))
        }
        ArrayEvent::RebuildDone { uuid } => (lu(*uuid), "rebuilt".into()),
        ArrayEvent::RebuildStopped { uuid, reason } => (lu(*uuid), format!("rebuild stopped: {reason}")),
    }
}
