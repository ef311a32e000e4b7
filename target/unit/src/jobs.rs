//! A session's requests that are under way, in a table: cheaper than a job of the shard for each, which a mirrored write would need.
//!
//! Each place has a waker of its own, made once. It notes the place as ready and wakes the one job that polls what is ready.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use twinlun_block::BlockResult;

use crate::processor::Pending;

/// Places of a session. More requests than this at a time, which few hosts make, become jobs of the shard.
pub(crate) const PLACES: usize = 256;

/// Places whose requests may have come further.
#[derive(Default)]
struct Ready {
    /// One bit each.
    places: [AtomicU64; PLACES / 64],
    driver: AtomicWaker,
}

impl Ready {
    fn note(&self, place: usize) {
        let before = self.places[place / 64].fetch_or(1 << (place % 64), Ordering::AcqRel);
        // Whoever set the first bit has woken the driver, which takes all of them.
        if before == 0 {
            self.driver.wake();
        }
    }
}

struct PlaceWaker {
    ready: Arc<Ready>,
    place: usize,
}

impl Wake for PlaceWaker {
    fn wake(self: Arc<Self>) {
        self.ready.note(self.place);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.note(self.place);
    }
}

/// A place: its waker, and the request with its owner while there is one.
type Entry<T> = (Waker, Option<(Pending, T)>);

/// Requests under way, each with what its owner needs to go on.
pub(crate) struct Jobs<T> {
    ready: Arc<Ready>,
    places: RefCell<Vec<Entry<T>>>,
    free: RefCell<Vec<usize>>,
    /// Whether somebody calls [`Jobs::poll`].
    pub(crate) driven: Cell<bool>,
}

/// A place that was taken and has no request yet.
pub(crate) struct Place {
    place: usize,
    /// To poll the request with.
    pub(crate) waker: Waker,
}

impl<T> Jobs<T> {
    pub(crate) fn new() -> Self {
        Self {
            ready: Arc::default(),
            places: RefCell::default(),
            free: RefCell::default(),
            driven: Cell::new(false),
        }
    }

    /// Takes a place, when there is one left. It must be given back or be used.
    pub(crate) fn take(&self) -> Option<Place> {
        let mut places = self.places.borrow_mut();
        if let Some(place) = self.free.borrow_mut().pop() {
            return Some(Place { place, waker: places[place].0.clone() });
        }
        if places.len() == PLACES {
            return None;
        }
        let place = places.len();
        let waker = Waker::from(Arc::new(PlaceWaker { ready: self.ready.clone(), place }));
        places.push((waker.clone(), None));
        Some(Place { place, waker })
    }

    /// The request was over at once.
    pub(crate) fn give_back(&self, place: &Place) {
        self.free.borrow_mut().push(place.place);
    }

    /// A request that was polled with the place's waker goes on.
    pub(crate) fn put(&self, place: &Place, pending: Pending, owner: T) {
        self.places.borrow_mut()[place.place].1 = Some((pending, owner));
    }

    /// Whether nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.places.borrow().len() == self.free.borrow().len()
    }

    /// Polls what may have come further; whatever is over goes to `done` with its owner and gives its place back.
    pub(crate) fn poll(&self, cx: &mut Context<'_>, mut done: impl FnMut(BlockResult, T)) {
        self.ready.driver.register(cx.waker());
        for (word, places) in self.ready.places.iter().enumerate() {
            let mut ready = places.swap(0, Ordering::AcqRel);
            while ready != 0 {
                let place = word * 64 + ready.trailing_zeros() as usize;
                ready &= ready - 1;
                if let Some((result, owner)) = self.poll_one(place) {
                    done(result, owner);
                }
            }
        }
    }

    fn poll_one(&self, place: usize) -> Option<(BlockResult, T)> {
        // Taken out while it is polled: it may reach this table.
        let (waker, (mut pending, owner)) = {
            let mut places = self.places.borrow_mut();
            let (waker, request) = &mut places[place];
            // A late wake-up of a former request finds nothing here, or the next one, which does not mind.
            (waker.clone(), request.take()?)
        };
        match pending.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => {
                self.places.borrow_mut()[place].1 = Some((pending, owner));
                None
            }
            Poll::Ready(result) => {
                self.free.borrow_mut().push(place);
                Some((result, owner))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tokio::sync::oneshot;
    use twinlun_block::{BlockError, Payload};

    use super::*;

    fn request(answer: oneshot::Receiver<()>) -> Pending {
        Box::pin(async move { answer.await.map(|()| Payload::new()).map_err(|_| BlockError::Aborted) })
    }

    fn start(jobs: &Jobs<u32>, owner: u32) -> oneshot::Sender<()> {
        let (sender, receiver) = oneshot::channel();
        let place = jobs.take().expect("a place");
        let mut pending = request(receiver);
        assert!(pending.as_mut().poll(&mut Context::from_waker(&place.waker)).is_pending());
        jobs.put(&place, pending, owner);
        sender
    }

    #[test]
    fn only_what_was_woken_is_polled_and_the_driver_hears_of_it() {
        struct Counter(AtomicU64);
        impl Wake for Counter {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let woken = Arc::new(Counter(AtomicU64::new(0)));
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        let jobs = Rc::new(Jobs::new());
        let mut senders: Vec<_> = (0..70).map(|owner| Some(start(&jobs, owner))).collect();
        let mut over = Vec::new();
        jobs.poll(&mut cx, |_, owner| over.push(owner));
        assert!(over.is_empty() && woken.0.load(Ordering::Relaxed) == 0);
        for owner in [69, 3, 2] {
            let sender = senders[owner].take().expect("not sent yet");
            sender.send(()).expect("somebody waits");
        }
        assert!(woken.0.load(Ordering::Relaxed) > 0);
        jobs.poll(&mut cx, |result, owner| {
            assert!(result.is_ok());
            over.push(owner);
        });
        assert_eq!(over, [2, 3, 69]);
        drop(senders);
        jobs.poll(&mut cx, |result, _| assert_eq!(result, Err(BlockError::Aborted)));
        assert!(jobs.is_empty());
    }

    #[test]
    fn places_run_out_and_come_back() {
        let jobs = Jobs::<()>::new();
        let all: Vec<_> = std::iter::from_fn(|| jobs.take()).collect();
        assert_eq!(all.len(), PLACES);
        jobs.give_back(&all[7]);
        assert_eq!(jobs.take().map(|place| place.place), Some(7));
        all.iter().for_each(|place| jobs.give_back(place));
        assert!(jobs.is_empty());
    }
}
