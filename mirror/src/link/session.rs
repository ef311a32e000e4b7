//! The asking end of a session: requests out, each with exactly one outcome.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::asking::{Asking, Line};
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
    window: Window,
    /// Who waits for room in the receiver's window, and what is left of it (L3).
    line: RefCell<Line>,
    asking: RefCell<Asking>,
    ended: Watched<Option<Rc<str>>>,
}

/// What the answer must look like; the peer is not believed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expected {
    Control,
    /// Length of the payload when the request was done.
    Data(u64),
}

impl Session {
    pub(super) fn new(id: u64, transmit: Rc<Transmit>, window: Window) -> Self {
        let inner = Inner {
            id,
            transmit,
            window,
            line: RefCell::new(Line::new(window)),
            asking: RefCell::default(),
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
    /// Requests of one caller go out in the order in which they were first polled. They are carried out concurrently:
    /// whoever needs an order waits for the answer of the first. An answer that nobody waits for any more is nobody's.
    ///
    /// # Panics
    /// When the request breaks a limit that its sender has to keep: [`super::MAX_CONTROL`], [`super::MAX_DATA`], a
    /// payload as long as its range.
    pub fn request(&self, request: Request) -> impl Future<Output = Result<Response, LinkLost>> + use<> {
        assert!(request.is_sendable(), "a request beyond the limits of the link");
        // One larger than the whole window goes when nothing else is on its way.
        let cost = u32::try_from(request.cost()).unwrap_or(u32::MAX).min(self.inner.window.bytes);
        Exchange { session: self.clone(), cost, state: State::New(request) }
    }

    /// Wakes everybody who waits here, to look whether there is a reason to give up.
    pub(crate) fn wake_all(&self) {
        self.inner.line.borrow_mut().wake_all();
        self.inner.asking.borrow_mut().wake_all();
    }

    /// Hands an answer to whoever waits for it.
    pub(super) fn answered(&self, id: u64, response: Response) -> Result<(), WireError> {
        let cost = self.inner.asking.borrow_mut().answer(id, response)?;
        self.inner.line.borrow_mut().give_back(cost);
        Ok(())
    }

    /// Marks the session dead and fails everything that waits (L1). The first reason stands.
    pub(super) fn end(&self, reason: &Rc<str>) {
        if !self.is_alive() {
            return;
        }
        self.inner.ended.set(Some(Rc::clone(reason)));
        self.wake_all();
    }

    /// Puts a request on its way; gives its number.
    fn send(&self, request: Request, cost: u32) -> u64 {
        let id = self.inner.asking.borrow_mut().begin(Expected::of(&request), cost);
        self.inner.transmit.push(id, FrameBody::Request(request));
        id
    }

    fn lost(&self) -> LinkLost {
        LinkLost { reason: self.inner.ended.get().unwrap_or_else(|| Rc::from("session dropped")) }
    }
}

/// One request from its making to its answer.
struct Exchange {
    session: Session,
    cost: u32,
    state: State,
}

enum State {
    New(Request),
    /// It waits for room, at this place of the line.
    InLine(u64, Request),
    /// It is on its way, under this number.
    Sent(u64),
    Over,
}

impl Future for Exchange {
    type Output = Result<Response, LinkLost>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let session = self.session.clone();
        let inner = &session.inner;
        if let State::Sent(id) = self.state
            && let Some(response) = inner.asking.borrow_mut().take(id, cx)
        {
            self.state = State::Over;
            return Poll::Ready(Ok(response));
        }
        if !session.is_alive() {
            return Poll::Ready(Err(session.lost()));
        }
        let cost = self.cost;
        let mut line = inner.line.borrow_mut();
        let (entered, request) = match std::mem::replace(&mut self.state, State::Over) {
            State::New(request) => (line.enter(cost, cx), request),
            State::InLine(place, request) if line.advance(place, cx) => (Ok(()), request),
            waiting => {
                self.state = waiting;
                return Poll::Pending;
            }
        };
        drop(line);
        self.state = match entered {
            Err(place) => State::InLine(place, request),
            Ok(()) => {
                let id = session.send(request, cost);
                let answered = inner.asking.borrow_mut().take(id, cx);
                debug_assert!(answered.is_none(), "nobody answers what has not left");
                State::Sent(id)
            }
        };
        Poll::Pending
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let inner = &self.session.inner;
        match self.state {
            State::InLine(place, _) => inner.line.borrow_mut().leave(place),
            // Its room is given back by the answer.
            State::Sent(id) => inner.asking.borrow_mut().forsake(id),
            State::New(_) | State::Over => {}
        }
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

    pub(super) fn matches(self, response: &Response) -> bool {
        match (self, response) {
            (Self::Control, Response::Control(_)) => true,
            (Self::Data(len), Response::Data(status, payload)) => {
                let want = if *status == super::DataStatus::Done { len } else { 0 };
                payload.len() as u64 == want
            }
            (Self::Control, Response::Data(..)) | (Self::Data(_), Response::Control(_)) => false,
        }
    }
}
