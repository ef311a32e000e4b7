//! Disks that do not answer (docs/design/raid.md, "Silent disks").
//!
//! A disk that hangs would hang its hosts with it. One that leaves a request unanswered for the configured time is taken out of use, if
//! every LU is served and the vault has its majority without it; the last copy of anything is waited for.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::{Rc, Weak};
use std::time::Duration;

use uuid::Uuid;

use crate::ArrayEvent;
use crate::array::{Array, Inner};
use crate::slot::Slot;

/// Looks that a request must have been under way for. Time alone would not do: after a pause of the whole process everything looks late,
/// and the watcher has looked but once.
const LOOKS: usize = 4;

/// Looks that are told apart.
const KEPT: usize = 8;

/// Requests under way on a disk, by the look before which they began.
#[derive(Default)]
pub(crate) struct Waiting {
    now: Cell<usize>,
    began: [Cell<u32>; KEPT],
}

/// A request under way. Ends when dropped.
pub(crate) struct Request<'a>(&'a Cell<u32>);

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Waiting {
    pub(crate) fn begin(&self) -> Request<'_> {
        let count = &self.began[self.now.get()];
        count.set(count.get() + 1);
        Request(count)
    }

    /// One more look. Whether a request has been under way for as many as it may.
    fn look(&self) -> bool {
        let next = (self.now.get() + 1) % KEPT;
        if self.began[next].get() > 0 {
            // Nothing is older than what is there, so it must not be taken for new.
            return true;
        }
        self.now.set(next);
        let age = |at: usize| (next + KEPT - at) % KEPT;
        (0..KEPT).any(|at| age(at) > LOOKS && self.began[at].get() > 0)
    }
}

impl Array {
    /// Starts watching; ends with the array.
    pub(crate) fn watch_answers(&self) {
        let Some(limit) = self.inner.options.answer_limit.filter(|limit| !limit.is_zero()) else { return };
        let (shard, weak) = (self.inner.core.shard.clone(), Rc::downgrade(&self.inner));
        self.inner.core.shard.spawn(async move {
            loop {
                shard.sleep(limit / LOOKS as u32).await;
                let Some(inner) = Weak::upgrade(&weak) else { return };
                inner.look_at_disks(limit);
            }
        });
    }
}

impl Inner {
    fn look_at_disks(&self, limit: Duration) {
        let slots = self.core.slot_list();
        let (silent, others): (Vec<_>, Vec<_>) =
            slots.iter().filter(|slot| slot.is_active()).partition(|slot| slot.waiting.look());
        others.iter().for_each(|slot| slot.silent.set(false));
        if silent.is_empty() {
            return;
        }
        let kept = self.why_kept(&silent, &others);
        for slot in silent {
            match &kept {
                Some(why) if !slot.silent.replace(true) => {
                    tracing::warn!(slot = slot.number, why, "disk does not answer");
                    let event = ArrayEvent::DiskSilent { slot: slot.number, kept: why.clone() };
                    self.core.events.push(event);
                }
                Some(_) => {}
                None => {
                    let reason = format!("no answer within {} s", limit.as_secs());
                    self.core.mark_failed(slot, &reason);
                    slot.give_up();
                    // Whoever waited records the loss before it answers; this is for when nobody did.
                    let (core, slot) = (self.core.clone(), slot.clone());
                    self.core.shard.spawn(async move { drop(core.fail(&slot, "").await) });
                }
            }
        }
    }

    /// Why silent disks are not taken out of use. They are judged together: what they hang on is often the same thing.
    fn why_kept(&self, silent: &[&Rc<Slot>], others: &[&Rc<Slot>]) -> Option<String> {
        let gone: BTreeSet<Uuid> = silent.iter().map(|slot| slot.uuid).collect();
        if let Some(lu) = self.lus.borrow().values().find(|lu| !lu.core.survives_without(&gone)) {
            return Some(format!("LU {} has no other copy", lu.core.name()));
        }
        let voters = |slots: &[&Rc<Slot>]| slots.iter().filter(|slot| slot.votes()).count();
        let (lost, left) = (voters(silent), voters(others));
        (left < lost).then(|| "too few copies of the vault would be left".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_late_after_enough_looks_and_not_before() {
        let waiting = Waiting::default();
        assert!((0..20).all(|_| !waiting.look()), "nothing is under way");
        let first = waiting.begin();
        let late: Vec<bool> = (0..12).map(|_| waiting.look()).collect();
        assert!(late[..4].iter().all(|late| !late) && late[4..].iter().all(|late| *late), "{late:?}");
        let second = waiting.begin();
        drop(first);
        assert!(!waiting.look(), "the other one has only begun");
        drop(second);
        assert!((0..20).all(|_| !waiting.look()));
    }
}
