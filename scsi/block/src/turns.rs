//! Turns: requests that overlap go one after the other, in the order in which they arrived (R-WR-3).
//!
//! Invariants:
//! 1. Of two overlapping entries the earlier one, if either is exclusive, is over before the later one begins.
//! 2. Nobody waits for a later entry, so turns cannot deadlock, whatever the ranges.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::ByteRange;

/// The waiting line of one address space. Cheap to clone; all clones are the same line.
#[derive(Clone, Debug, Default)]
pub struct RangeTurns {
    line: Rc<RefCell<Line>>,
}

#[derive(Debug, Default)]
struct Line {
    next_id: u64,
    /// In order of arrival.
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    range: ByteRange,
    exclusive: bool,
    granted: bool,
    waker: Option<Waker>,
}

impl Line {
    fn position(&self, id: u64) -> Option<usize> {
        // Ids grow along the line.
        self.entries.binary_search_by_key(&id, |e| e.id).ok()
    }

    fn is_free(&self, index: usize) -> bool {
        let me = &self.entries[index];
        self.entries
            .iter()
            .take(index)
            .all(|earlier| !(me.exclusive || earlier.exclusive) || !earlier.range.overlaps(me.range))
    }

    fn leave(&mut self, id: u64) {
        let Some(index) = self.position(id) else { return };
        let Some(gone) = self.entries.remove(index) else { return };
        for later in index..self.entries.len() {
            let entry = &self.entries[later];
            if !entry.granted && entry.range.overlaps(gone.range) && self.is_free(later) {
                let entry = &mut self.entries[later];
                entry.granted = true;
                if let Some(waker) = entry.waker.take() {
                    waker.wake();
                }
            }
        }
    }
}

impl RangeTurns {
    /// An empty line.
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits until no earlier entry overlaps. For writes, copies and everything that must be alone.
    pub fn exclusive(&self, range: ByteRange) -> impl Future<Output = Turn> + use<> {
        self.enter(range, true)
    }

    /// Waits until no earlier exclusive entry overlaps. For reads.
    pub fn shared(&self, range: ByteRange) -> impl Future<Output = Turn> + use<> {
        self.enter(range, false)
    }

    /// Number of entries that hold a turn or wait for one.
    pub fn len(&self) -> usize {
        self.line.borrow().entries.len()
    }

    /// Whether nobody holds or awaits a turn.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether an exclusive turn that overlaps `range` is held or awaited.
    pub fn is_busy(&self, range: ByteRange) -> bool {
        self.line.borrow().entries.iter().any(|e| e.exclusive && e.range.overlaps(range))
    }

    /// Takes the place in line at once, so that order is the order of calls, not of first polls.
    fn enter(&self, range: ByteRange, exclusive: bool) -> Waiting {
        let mut line = self.line.borrow_mut();
        let id = line.next_id;
        line.next_id += 1;
        line.entries.push_back(Entry { id, range, exclusive, granted: false, waker: None });
        let index = line.entries.len() - 1;
        let free = line.is_free(index);
        line.entries[index].granted = free;
        drop(line);
        Waiting { turn: Some(Turn { line: self.line.clone(), id }) }
    }
}

/// The right to go on. Ends when dropped.
#[derive(Debug)]
#[must_use = "a turn lasts only as long as it is held"]
pub struct Turn {
    line: Rc<RefCell<Line>>,
    id: u64,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.line.borrow_mut().leave(self.id);
    }
}

struct Waiting {
    turn: Option<Turn>,
}

impl Future for Waiting {
    type Output = Turn;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Turn> {
        let turn = self.turn.as_ref().expect("a turn is polled again after it was handed out");
        let mut line = turn.line.borrow_mut();
        let index = line.position(turn.id).expect("an entry stays in line until its turn is dropped");
        if line.entries[index].granted {
            drop(line);
            return Poll::Ready(self.turn.take().expect("checked above"));
        }
        line.entries[index].waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        match Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn overlapping_writes_take_turns_in_order_of_arrival() {
        let line = RangeTurns::new();
        let mut first = Box::pin(line.exclusive(ByteRange::new(0, 8)));
        let mut second = Box::pin(line.exclusive(ByteRange::new(4, 8)));
        let mut third = Box::pin(line.exclusive(ByteRange::new(8, 8)));
        assert!(poll(&mut second).is_none(), "the first holds bytes 4 to 8 even before it is polled");
        let turn = poll(&mut first).expect("nobody is before the first");
        assert!(poll(&mut third).is_none(), "the third waits for the second, who waits for the first");
        drop(turn);
        let turn = poll(&mut second).expect("the first is over");
        assert!(poll(&mut third).is_none());
        drop(turn);
        assert!(poll(&mut third).is_some());
    }

    #[test]
    fn reads_share_and_wait_only_for_writes() {
        let line = RangeTurns::new();
        let mut a = Box::pin(line.shared(ByteRange::new(0, 8)));
        let mut b = Box::pin(line.shared(ByteRange::new(0, 8)));
        let mut w = Box::pin(line.exclusive(ByteRange::new(0, 8)));
        let mut c = Box::pin(line.shared(ByteRange::new(0, 8)));
        let turns = (poll(&mut a).expect("free"), poll(&mut b).expect("reads share"));
        assert!(poll(&mut w).is_none());
        assert!(poll(&mut c).is_none(), "a read behind a write waits for it, or it would starve the write");
        drop(turns);
        drop(poll(&mut w).expect("both reads are over"));
        assert!(poll(&mut c).is_some());
    }

    #[test]
    fn a_dropped_waiter_lets_the_next_go() {
        let line = RangeTurns::new();
        let mut a = Box::pin(line.exclusive(ByteRange::new(0, 8)));
        let b = Box::pin(line.exclusive(ByteRange::new(0, 8)));
        let mut c = Box::pin(line.exclusive(ByteRange::new(0, 8)));
        let turn = poll(&mut a).expect("free");
        drop(b);
        assert!(poll(&mut c).is_none());
        drop(turn);
        assert!(poll(&mut c).is_some());
    }

    proptest! {
        #[test]
        fn nobody_overlaps_a_writer_and_everybody_gets_a_turn(
            requests in proptest::collection::vec((0u64..40, 1u64..12, any::<bool>()), 1..40), order in any::<u64>()) {
            let line = RangeTurns::new();
            let mut waiting: Vec<_> = requests.iter().map(|(o, l, x)| {
                let range = ByteRange::new(*o, *l);
                (range, *x, Box::pin(line.enter(range, *x)))
            }).collect();
            let mut held: Vec<(ByteRange, bool, Turn)> = Vec::new();
            let mut pick = order;
            while !waiting.is_empty() || !held.is_empty() {
                let mut still = Vec::new();
                for (range, exclusive, mut future) in waiting {
                    match poll(&mut future) {
                        Some(turn) => {
                            for (other, other_exclusive, _) in &held {
                                prop_assert!(!(exclusive || *other_exclusive) || !range.overlaps(*other));
                            }
                            held.push((range, exclusive, turn));
                        }
                        None => still.push((range, exclusive, future)),
                    }
                }
                waiting = still;
                prop_assert!(!held.is_empty(), "somebody must hold a turn, or nobody ever would");
                pick = pick.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let index = (pick >> 33) as usize % held.len();
                drop(held.swap_remove(index));
            }
            prop_assert!(line.is_empty());
        }
    }
}
