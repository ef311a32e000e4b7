//! A secondary image as its primary sees it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use twinlun_block::ByteRange;
use twinlun_io::Instant;
use uuid::Uuid;

use crate::fracture::MissMap;
use crate::link::{DataRequest, DataStatus, Hold, Peer, Request, Response, Session};
use crate::planted::{Bug, planted};
use crate::signal::Signal;
use crate::throttle::Throttle;

/// What happens to a host's write with respect to one secondary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It is not sent there; its regions are marked.
    Away,
    /// It is sent there when all its regions are copied already, else marked (R-SY-2).
    Copying,
    /// It is sent there.
    InStep,
}

/// One secondary image.
pub(crate) struct Image<G> {
    /// Identity in the database.
    pub(crate) id: Uuid,
    pub(crate) unit: String,
    pub(crate) peer: Peer,
    _hold: Hold,
    /// What it misses, by LU of the set. All change together: the set fractures as one (B-2).
    pub(crate) maps: RefCell<Vec<MissMap>>,
    /// Where that is stored.
    pub(crate) logs: Vec<G>,
    pub(crate) phase: Cell<Phase>,
    pub(crate) attachment: RefCell<Option<Rc<Attachment>>>,
    /// It was added just now and does not count as missing yet.
    pub(crate) joining: Cell<bool>,
    /// It is no image of the mirror any more.
    pub(crate) removed: Cell<bool>,
    /// The administrator gave the word to resynchronise.
    pub(crate) go: Cell<bool>,
    /// What keeps it from being attached or copied, in words.
    pub(crate) trouble: RefCell<Option<String>>,
    /// Something of the above, or of the mirror, changed.
    pub(crate) signal: Signal,
    pub(crate) throttle: RefCell<Throttle>,
    /// Bytes copied since the copy was taken up, and when that was.
    pub(crate) copied: Cell<(u64, Instant)>,
    /// Planted bug only: the one LU that stopped.
    pub(crate) lame: Cell<Option<usize>>,
}

impl<G> Image<G> {
    pub(crate) fn new(id: Uuid, peer: Peer, maps: Vec<MissMap>, logs: Vec<G>, rate: u64) -> Rc<Self> {
        let hold = peer.connect();
        Rc::new(Self {
            id,
            unit: peer.unit().to_string(),
            peer,
            _hold: hold,
            maps: RefCell::new(maps),
            logs,
            phase: Cell::new(Phase::Away),
            attachment: RefCell::default(),
            joining: Cell::new(false),
            removed: Cell::new(false),
            go: Cell::new(false),
            trouble: RefCell::default(),
            signal: Signal::default(),
            throttle: RefCell::new(Throttle::new(rate)),
            copied: Cell::default(),
            lame: Cell::new(None),
        })
    }

    /// Decides about a host's write in one step with marking it: no write is half forwarded (R-SY-2). `Some` when it
    /// has to be sent now.
    pub(crate) fn admit(&self, lu: usize, range: ByteRange, generation: usize) -> Option<Rc<Attachment>> {
        let map = &mut self.maps.borrow_mut()[lu];
        let attachment = match self.phase.get() {
            Phase::Away => None,
            Phase::Copying | Phase::InStep => self.attachment.borrow().clone(),
        };
        match attachment {
            Some(attachment) if map.may_forward(range) && self.lame.get() != Some(lu) => {
                map.sent(range, generation);
                Some(attachment)
            }
            Some(_) if planted(Bug::ForwardHalf) => None,
            _ => {
                map.miss(range);
                None
            }
        }
    }

    /// The attachment over which writes go, when it is in step.
    pub(crate) fn in_step(&self) -> Option<Rc<Attachment>> {
        (self.phase.get() == Phase::InStep).then(|| self.attachment.borrow().clone()).flatten()
    }

    pub(crate) fn is_attached(&self, attachment: &Rc<Attachment>) -> bool {
        self.attachment.borrow().as_ref().is_some_and(|mine| Rc::ptr_eq(mine, attachment))
    }

    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.maps.borrow().iter().map(MissMap::dirty_bytes).sum()
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.maps.borrow().iter().all(MissMap::is_clean)
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.maps.borrow().iter().all(MissMap::is_settled)
    }

    /// Bytes per second of the present copy; `None` before there is a measure.
    pub(crate) fn rate(&self, now: Instant) -> Option<u64> {
        let (bytes, since) = self.copied.get();
        let millis = now.saturating_since(since).as_millis() as u64;
        (bytes > 0 && millis > 0).then(|| bytes.saturating_mul(1000) / millis)
    }
}

/// A session with the secondary's unit during which the image takes part. Every one has an epoch of its own.
pub(crate) struct Attachment {
    pub(crate) session: Session,
    pub(crate) epoch: u64,
    over: Cell<bool>,
    signal: Signal,
    legs: RefCell<Legs>,
}

/// Requests not yet answered, oldest first.
#[derive(Default)]
struct Legs {
    first: u64,
    started: VecDeque<Option<Instant>>,
}

impl Attachment {
    pub(crate) fn new(session: Session, epoch: u64) -> Rc<Self> {
        Rc::new(Self {
            session,
            epoch,
            over: Cell::new(false),
            signal: Signal::default(),
            legs: RefCell::default(),
        })
    }

    /// Whether the image was lost.
    pub(crate) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Ends it: everybody who waits for an answer gives up.
    pub(crate) fn end(&self) {
        self.over.set(true);
        self.signal.raise();
    }

    /// Waits for the end.
    pub(crate) async fn ended(&self) {
        self.signal.until(|| self.over.get().then_some(())).await;
    }

    /// Makes a request; the reason when it was not done. Ends with the attachment: whatever becomes of the request
    /// then, the next attachment begins only after it.
    pub(crate) async fn ask(&self, now: Instant, request: DataRequest) -> Result<(), String> {
        if self.over.get() {
            return Err("it was lost before".into());
        }
        let ticket = self.start(now);
        let mut answer = pin!(self.session.request(Request::Data(request)));
        let mut over = pin!(self.ended());
        let outcome = std::future::poll_fn(|cx| {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            over.as_mut().poll(cx).map(|()| None)
        })
        .await;
        self.stop(ticket);
        match outcome {
            Some(Ok(Response::Data(DataStatus::Done, _))) => Ok(()),
            Some(Ok(Response::Data(DataStatus::Failed(error), _))) => {
                Err(format!("its unit answers: {error}"))
            }
            Some(Ok(Response::Data(DataStatus::StaleEpoch, _))) => {
                Err("its unit takes part in a newer attachment".into())
            }
            Some(Ok(Response::Data(DataStatus::NotAttached, _))) => Err("its unit does not take part".into()),
            Some(Ok(Response::Control(_))) => Err("its unit answers nonsense".into()),
            Some(Err(lost)) => Err(lost.to_string()),
            None => Err("it was lost meanwhile".into()),
        }
    }

    /// Whether a request has been waiting for longer than `limit` (R-FL-5).
    pub(crate) fn is_late(&self, now: Instant, limit: Duration) -> bool {
        let legs = self.legs.borrow();
        legs.started
            .front()
            .is_some_and(|oldest| oldest.is_some_and(|start| now.saturating_since(start) >= limit))
    }

    fn start(&self, now: Instant) -> u64 {
        let mut legs = self.legs.borrow_mut();
        legs.started.push_back(Some(now));
        legs.first + legs.started.len() as u64 - 1
    }

    fn stop(&self, ticket: u64) {
        let mut legs = self.legs.borrow_mut();
        let index = (ticket - legs.first) as usize;
        legs.started[index] = None;
        while let Some(None) = legs.started.front() {
            legs.started.pop_front();
            legs.first += 1;
        }
    }
}
