//! One host connection: moves bytes between the stream and the protocol core.
//!
//! Everything that one receive brings is executed before anything is sent, and all answers of such a turn leave in one
//! vectored send. A command whose requests complete at once (page cache, memory) never becomes a job of its own.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use twinlun_io::{Instant, Outbox, Stream};
use twinlun_iscsi::login::LoginStatus;
use twinlun_iscsi::target::{
    AsyncMessage, CloseReason, ConnectionId, Event, Handshake, SessionRequest, Tsih,
};

use crate::directory::DirectoryView;
use crate::processor::Processor;
use crate::session::HostSession;

/// While this much waits to be sent, nothing more is received from the host.
const SEND_HIGH_WATER: usize = 4 << 20;
/// Commands after which their answers are sent, though more wait to be carried out.
const EVENTS_PER_SEND: u32 = 8;
/// Receives in one turn before answers are sent, so that a fast sender cannot hold answers back.
const RECEIVES_PER_TURN: usize = 4;
/// How long a closed connection's last words may take to leave. A peer that is gone must not hold up who takes its place.
const LINGER: Duration = Duration::from_secs(1);

/// A host's connection.
pub(crate) struct HostConnection {
    processor: Rc<Processor>,
    stream: Stream,
    /// Until the login is answered.
    handshake: RefCell<Option<Handshake>>,
    /// From then on.
    session: OnceCell<(Rc<HostSession>, ConnectionId)>,
    cid: Cell<Option<u16>>,
    /// Wakes the turn when an answer is ready.
    waker: RefCell<Option<Waker>>,
    closed: Cell<Option<CloseReason>>,
    /// It is closing, and its last words are on their way.
    lingers: Cell<bool>,
}

/// What a turn's receiving came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Received {
    /// Everything; the turn is woken when more comes.
    All,
    /// There may be more.
    MaybeMore,
    /// Nothing is received now: too much waits to be sent, or the connection ends.
    Blocked,
}

/// Who stays behind at a portal that is drained.
const DRAINED: CloseReason = CloseReason::Local("the portal is drained");

/// Why nothing more can be received.
fn end_of_stream(ended: std::io::Result<usize>) -> CloseReason {
    ended.map_or_else(|error| CloseReason::Broken(error.kind()), |_| CloseReason::HostClosed)
}

/// A running timer and when it fires.
type Timer = (Instant, Pin<Box<dyn Future<Output = ()>>>);

impl HostConnection {
    pub(crate) fn new(processor: Rc<Processor>, stream: Stream, handshake: Handshake) -> Rc<Self> {
        Rc::new(Self {
            processor,
            stream,
            handshake: RefCell::new(Some(handshake)),
            session: OnceCell::new(),
            cid: Cell::new(None),
            waker: RefCell::default(),
            closed: Cell::new(None),
            lingers: Cell::new(false),
        })
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The session's handle, once there is one.
    pub(crate) fn session(&self) -> Option<Tsih> {
        self.session.get().map(|(session, _)| session.tsih)
    }

    /// The login waits for its answer. The connection is then in the hands of the caller.
    pub(crate) fn take_handshake(&self) -> Option<Handshake> {
        self.handshake.borrow_mut().take()
    }

    /// The connection belongs to a session.
    pub(crate) fn admit(self: &Rc<Self>, session: Rc<HostSession>, id: ConnectionId, cid: u16) {
        self.cid.set(Some(cid));
        session.attach(id, self);
        // Set once: a connection is admitted once, and only then has it no handshake any more.
        let _ = self.session.set((session, id));
        self.wake();
    }

    /// There will be no session.
    pub(crate) fn refuse(&self, mut handshake: Handshake, status: LoginStatus) {
        handshake.refuse(status);
        *self.handshake.borrow_mut() = Some(handshake);
        self.wake();
    }

    /// Whether it carries that CID and has not left its session yet.
    pub(crate) fn is_closing_with(&self, cid: u16) -> bool {
        self.cid.get() == Some(cid)
            && self.session.get().is_some_and(|(session, id)| session.core().borrow().is_closing(*id))
    }

    /// Serves the host until the connection is over. The last connection of a session that ends returns only when none of its tasks
    /// can touch anything any more.
    pub(crate) async fn serve(self: &Rc<Self>) -> CloseReason {
        let mut outbox = Outbox::default();
        let mut timer: Option<Timer> = None;
        if let Some(request) = std::future::poll_fn(|cx| self.greet(cx, &mut outbox, &mut timer)).await {
            self.admission(request, &mut outbox).await;
        }
        timer = None;
        if self.session.get().is_some() {
            let reason = std::future::poll_fn(|cx| self.turn(cx, &mut outbox, &mut timer)).await;
            self.closed.set(Some(reason));
        } else {
            self.flush(&mut outbox).await;
        }
        self.stream.shutdown();
        if let Some((session, id)) = self.session.get() {
            session.detach(*id).await;
            // When the session ended with it, the session's reason is the better one.
            if let Some(reason) = session.reason() {
                self.closed.set(Some(reason));
            }
        }
        self.closed.get().unwrap_or(CloseReason::Lost)
    }

    /// Has the storage processor decide about a login that passed every check.
    async fn admission(self: &Rc<Self>, request: SessionRequest, outbox: &mut Outbox) {
        let limit = Duration::from_secs(self.processor.config.limits.login_seconds);
        let admission = self.processor.admit(self, request);
        if self.processor.shard.timeout(limit, admission).await.is_err()
            && let Some(handshake) = self.take_handshake()
        {
            // What it would replace does not end; the host may try again.
            self.refuse(handshake, LoginStatus::ServiceUnavailable);
        }
        if let Some(handshake) = &mut *self.handshake.borrow_mut() {
            handshake.transmit(|bytes| outbox.push_bytes(bytes));
            self.closed.set(handshake.reason());
        }
    }

    /// Sends what is left, within a limit.
    async fn flush(&self, outbox: &mut Outbox) {
        let sent = std::future::poll_fn(|cx| outbox.poll_send(cx, &self.stream));
        // A host that does not take its refusal goes without.
        let _ = self.processor.shard.timeout(LINGER, sent).await;
    }

    /// Sends a message that nobody asked for on this very connection; nothing outside of a normal session.
    pub(crate) fn tell(&self, message: AsyncMessage) {
        if let Some((session, id)) = self.session.get() {
            session.core().borrow_mut().async_message_on(*id, message);
        }
        self.wake();
    }

    /// Says that this connection will be closed, and closes it: what its session has left goes on, as far as error recovery allows.
    pub(crate) fn drop_announced(&self, time2wait: u16) {
        match (self.session.get(), &mut *self.handshake.borrow_mut()) {
            (Some((session, id)), _) => {
                let mut core = session.core().borrow_mut();
                let time2retain = core.parameters().time2retain;
                let cid = self.cid.get().unwrap_or_default();
                core.async_message_on(*id, AsyncMessage::ConnectionDrop { cid, time2wait, time2retain });
                core.close_connection(*id, DRAINED, self.processor.now());
            }
            (None, Some(handshake)) => handshake.close(DRAINED),
            (None, None) => {}
        }
        self.wake();
    }

    /// Ends it, if it is still logging in.
    pub(crate) fn close_login(&self, reason: CloseReason) {
        if let Some(handshake) = &mut *self.handshake.borrow_mut() {
            handshake.close(reason);
        }
        self.wake();
    }

    pub(crate) fn wake(&self) {
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// One turn of the login. Ready with the request that is to be admitted, or with nothing when it is over.
    fn greet(
        &self,
        cx: &mut Context<'_>,
        outbox: &mut Outbox,
        timer: &mut Option<Timer>,
    ) -> Poll<Option<SessionRequest>> {
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        let directory = DirectoryView { processor: &self.processor, local: self.stream.local_address() };
        loop {
            let mut handshake = self.handshake.borrow_mut();
            let Some(handshake) = &mut *handshake else { return Poll::Ready(None) };
            let received = if handshake.wants_input() {
                self.stream.poll_recv(cx, handshake.buffer())
            } else {
                Poll::Pending
            };
            let progress = received.is_ready();
            match received {
                Poll::Ready(Ok(n)) if n > 0 => handshake.received(self.processor.now(), &directory),
                Poll::Ready(ended) => handshake.close(end_of_stream(ended)),
                Poll::Pending => {}
            }
            handshake.transmit(|bytes| outbox.push_bytes(bytes));
            while let Some(event) = handshake.poll_event() {
                match event {
                    Event::SessionReady(request) => return Poll::Ready(Some(*request)),
                    Event::Closed(reason) => {
                        self.closed.set(Some(reason));
                        return Poll::Ready(None);
                    }
                    _ => {}
                }
            }
            if let Poll::Ready(Err(error)) = outbox.poll_send(cx, &self.stream) {
                handshake.close(CloseReason::Broken(error.kind()));
                continue;
            }
            if self.tick(cx, timer, handshake.next_timeout()) {
                handshake.on_timeout(self.processor.now());
            } else if !progress {
                return Poll::Pending;
            }
        }
    }

    /// One turn: receive, execute, send. Ready when everything is over.
    fn turn(
        &self,
        cx: &mut Context<'_>,
        outbox: &mut Outbox,
        timer: &mut Option<Timer>,
    ) -> Poll<CloseReason> {
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        let Some((session, id)) = self.session.get() else { return Poll::Ready(CloseReason::Lost) };
        let id = *id;
        loop {
            let received = self.receive(session, id, cx, outbox);
            let mut acted = 0;
            while session.act_one() {
                acted += 1;
                if acted % EVENTS_PER_SEND == 0 {
                    // The host works on the first answers while the next are made. A socket that fails fails again below.
                    session.core().borrow_mut().transmit(id, |bytes| outbox.push_bytes(bytes));
                    let _ = outbox.poll_send(cx, &self.stream);
                }
            }
            session.core().borrow_mut().transmit(id, |bytes| outbox.push_bytes(bytes));
            session.wake_others(id);
            let sent = outbox.poll_send(cx, &self.stream);
            let closing = session.core().borrow().reason(id);
            match (sent, closing) {
                (Poll::Ready(Err(error)), _) => {
                    let reason = closing.unwrap_or(CloseReason::Broken(error.kind()));
                    session.core().borrow_mut().close_connection(id, reason, self.processor.now());
                    return Poll::Ready(reason);
                }
                (Poll::Ready(Ok(())), Some(reason)) => return Poll::Ready(reason),
                _ => {}
            }
            if let Some(reason) = closing {
                // The last words wait for a peer that may be gone.
                if !self.lingers.replace(true) {
                    *timer = Some(self.timer(self.processor.shard.now(), LINGER));
                }
                let over = timer.as_mut().is_none_or(|(_, sleep)| sleep.as_mut().poll(cx).is_ready());
                return if over { Poll::Ready(reason) } else { Poll::Pending };
            }
            let unblocked = received == Received::Blocked
                && outbox.len() < SEND_HIGH_WATER
                && session.core().borrow().wants_input(id);
            let next = session.core().borrow().next_timeout();
            let fired = self.tick(cx, timer, next);
            if fired {
                session.core().borrow_mut().on_timeout(self.processor.now());
            }
            if fired || unblocked {
                continue;
            }
            if received == Received::MaybeMore {
                // There may be more to receive, but others on this shard have waited.
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
    }

    /// Receives what is there.
    fn receive(
        &self,
        session: &HostSession,
        id: ConnectionId,
        cx: &mut Context<'_>,
        outbox: &Outbox,
    ) -> Received {
        let directory = DirectoryView { processor: &self.processor, local: self.stream.local_address() };
        for _ in 0..RECEIVES_PER_TURN {
            let mut core = session.core().borrow_mut();
            if !core.wants_input(id) || outbox.len() >= SEND_HIGH_WATER {
                return Received::Blocked;
            }
            let buffer = core.buffer(id);
            let room = buffer.capacity() - buffer.len();
            match self.stream.poll_recv(cx, buffer) {
                Poll::Pending => return Received::All,
                Poll::Ready(Ok(n)) if n > 0 => {
                    core.received(id, self.processor.now(), &directory);
                    // A short receive has emptied the socket: asking it again at once would cost a system call for nothing. And what has come is
                    // carried out before more is received, into the same memory where it can be, which is in the processor's cache.
                    if n < room || core.has_events() {
                        return Received::MaybeMore;
                    }
                }
                Poll::Ready(ended) => {
                    core.close_connection(id, end_of_stream(ended), self.processor.now());
                    return Received::All;
                }
            }
        }
        Received::MaybeMore
    }

    /// Keeps the timer at the next time limit; says whether one has passed.
    fn tick(&self, cx: &mut Context<'_>, timer: &mut Option<Timer>, next: Option<Duration>) -> bool {
        let Some(deadline) = next.map(Instant::from_start) else {
            *timer = None;
            return false;
        };
        // A later limit than the one that runs needs no new timer: when it fires too early, it is set again.
        if timer.as_ref().is_none_or(|(at, _)| *at > deadline) {
            *timer = Some(self.timer(deadline, Duration::ZERO));
        }
        let fired = timer.as_mut().is_some_and(|(_, sleep)| sleep.as_mut().poll(cx).is_ready());
        if fired {
            *timer = None;
        }
        fired
    }

    /// A timer that fires some time after a point of time.
    fn timer(&self, from: Instant, after: Duration) -> Timer {
        let shard = self.processor.shard.clone();
        let deadline = Instant::from_start(from.since_start().saturating_add(after));
        (deadline, Box::pin(async move { shard.sleep_until(deadline).await }))
    }
}
