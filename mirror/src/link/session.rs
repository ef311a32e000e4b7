//! The asking end of a session: requests out, each with exactly one outcome.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use tokio::sync::{Semaphore, oneshot};

use super::connection::Transmit;
use super::message::{DataOp, Request, Response};
use super::watched::Watched;
use super::wire::{FrameBody, Window, WireError};

/// The session ended before the answer came. What the request did at the other end is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("link lost: {reason}")]
pub struct LinkLost {
    /// Why the session ended.
    pub reason: Rc<str>,
}

/// A live connection to a peer that takes requests. Clones are the same session; it is never revived once dead.
#[derive(Clone)]
pub struct Session {
    inner: Rc<Inner>,
}

struct Inner {
    id: u64,
    transmit: Rc<Transmit>,
    /// The receiver's window (L3): a permit per request, and one per byte that it carries or asks for.
    requests: Semaphore,
    bytes: Semaphore,
    window: Window,
    next_request: Cell<u64>,
    waiting: RefCell<BTreeMap<u64, Waiting>>,
    ended: Watched<Option<Rc<str>>>,
}

/// A request on its way.
struct Waiting {
    answer: oneshot::Sender<Response>,
    cost: u32,
    expected: Expected,
}

/// What the answer must look like; the peer is not believed.
enum Expected {
    Control,
    /// Length of the payload when the request was done.
    Data(u64),
}

impl Session {
    pub(super) fn new(id: u64, transmit: Rc<Transmit>, window: Window) -> Self {
        let inner = Inner {
            id,
            transmit,
            requests: Semaphore::new(window.requests as usize),
            bytes: Semaphore::new(window.bytes as usize),
            window,
            next_request: Cell::new(1),
            waiting: RefCell::default(),
            ended: Watched::new(None),
        };
        Self { inner: Rc::new(inner) }
    }

    /// Number of the session: drawn from the handshake, the same at both ends, never used again.
    pub fn id(&self) -> u64 {
        self.inner.id
    }

    /// Whether requests can still be made.
    pub fn is_alive(&self) -> bool {
        self.inner.ended.get().is_none()
    }

    /// Completes when the session has ended, with the reason.
    pub async fn closed(&self) -> Rc<str> {
        self.inner.ended.until(Clone::clone).await
    }

    /// Ends the session now, as when the link fails: all outstanding requests are lost. A peer that keeps a request
    /// longer than its caller can wait is cut off this way.
    pub fn abort(&self, reason: &str) {
        self.end(&Rc::from(reason));
    }

    /// Makes one request and waits for its answer; first for its turn, when the peer's window is full.
    ///
    /// Requests of one caller go out in the order in which they were made. They are carried out concurrently: whoever
    /// needs an order waits for the answer of the first.
    ///
    /// # Panics
    /// When the request breaks a limit that its sender has to keep: [`super::MAX_CONTROL`], [`super::MAX_DATA`], a
    /// payload as long as its range.
    pub async fn request(&self, request: Request) -> Result<Response, LinkLost> {
        assert!(request.is_sendable(), "a request beyond the limits of the link");
        // One larger than the whole window goes when nothing else is on its way.
        let cost = u32::try_from(request.cost()).unwrap_or(u32::MAX).min(self.inner.window.bytes);
        let Ok(slot) = self.inner.requests.acquire().await else { return Err(self.lost()) };
        let Ok(space) = self.inner.bytes.acquire_many(cost).await else { return Err(self.lost()) };
        // Given back by the answer and not by this future, which its caller may drop.
        slot.forget();
        space.forget();
        let (answer, outcome) = oneshot::channel();
        let id = self.inner.next_request.get();
        self.inner.next_request.set(id + 1);
        let expected = Expected::of(&request);
        self.inner.waiting.borrow_mut().insert(id, Waiting { answer, cost, expected });
        self.inner.transmit.push(id, FrameBody::Request(request));
        outcome.await.map_err(|_| self.lost())
    }

    /// Hands an answer to whoever waits for it.
    pub(super) fn answered(&self, id: u64, response: Response) -> Result<(), WireError> {
        let Some(waiting) = self.inner.waiting.borrow_mut().remove(&id) else {
            return Err(WireError::UnknownRequest(id));
        };
        if !waiting.expected.matches(&response) {
            return Err(WireError::WrongAnswer(id));
        }
        self.inner.requests.add_permits(1);
        self.inner.bytes.add_permits(waiting.cost as usize);
        // The caller may have gone; the answer is nobody's then.
        let _ = waiting.answer.send(response);
        Ok(())
    }

    /// Marks the session dead and fails everything that waits (L1). The first reason stands.
    pub(super) fn end(&self, reason: &Rc<str>) {
        if !self.is_alive() {
            return;
        }
        self.inner.ended.set(Some(Rc::clone(reason)));
        self.inner.requests.close();
        self.inner.bytes.close();
        let waiting = std::mem::take(&mut *self.inner.waiting.borrow_mut());
        drop(waiting);
    }

    fn lost(&self) -> LinkLost {
        LinkLost { reason: self.inner.ended.get().unwrap_or_else(|| Rc::from("session dropped")) }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({:016x})", self.inner.id)
    }
}

impl Expected {
    fn of(request: &Request) -> Self {
        match request {
            Request::Control(_) => Self::Control,
            Request::Data(data) => match data.op {
                DataOp::Read => Self::Data(data.range.len()),
                DataOp::Write { .. }
                | DataOp::WriteAtomic { .. }
                | DataOp::WriteZeroes { .. }
                | DataOp::Unmap
                | DataOp::Flush => Self::Data(0),
            },
        }
    }

    fn matches(&self, response: &Response) -> bool {
        match (self, response) {
            (Self::Control, Response::Control(_)) => true,
            (Self::Data(len), Response::Data(status, payload)) => {
                let want = if *status == super::DataStatus::Done { *len } else { 0 };
                payload.len() as u64 == want
            }
            (Self::Control, Response::Data(..)) | (Self::Data(_), Response::Control(_)) => false,
        }
    }
}
