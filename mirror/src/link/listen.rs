//! The listening end: lets peers in, carries out their requests.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Polling, Poll};
use std::time::Duration;

use futures_util::future::{Either, LocalBoxFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tracing::{info, warn};
use twinlun_io::{Instant, Listener, Stream};

use super::config::Limits;
use super::connection::{Connection, End, Receiver, Transmit};
use super::establish;
use super::message::{Request, Response};
use super::peer::Peer;
use super::watched::Watched;
use super::wire::{Frame, FrameBody, Window, WireError};
use super::{Context, first};

/// Pause after a failed accept: the process is out of descriptors, which passes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who of a peer's connections is served. At most one at a time, and the newest wins: the peer dialled it because it
/// has given up the others.
#[derive(Default)]
pub(super) struct Turn {
    newest: Watched<u64>,
    busy: Watched<bool>,
}

impl Turn {
    /// A ticket that supersedes all before it.
    fn ticket(&self) -> u64 {
        self.newest.update(|newest| *newest += 1);
        self.newest.get()
    }

    async fn superseded(&self, ticket: u64) {
        self.newest.wait_for(|newest| *newest != ticket).await;
    }

    /// Waits until nobody is served and takes the turn. Ends only for the newest ticket.
    async fn take(&self, ticket: u64) {
        self.busy.wait_for(|busy| !busy && self.newest.get() == ticket).await;
        self.busy.set(true);
    }

    fn give_back(&self) {
        self.busy.set(false);
    }
}

/// Runs for as long as the link does.
pub(super) async fn run(context: Rc<Context>, listener: Listener) {
    loop {
        match first(listener.accept(), context.stopped()).await {
            Either::Right(()) => return,
            Either::Left(Ok(stream)) if context.half_open.get() < context.limits.half_open => {
                context.half_open.set(context.half_open.get() + 1);
                context.spawn(serve(Rc::clone(&context), stream));
            }
            Either::Left(Ok(stream)) => {
                refuse(&context, stream.peer_address(), "too many connections in their handshake");
                stream.shutdown();
            }
            Either::Left(Err(error)) => {
                warn!(%error, "cannot accept link connections");
                context.shard.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection, from its first byte to its end.
async fn serve(context: Rc<Context>, stream: Stream) {
    let from = stream.peer_address();
    let known = |unit: &str| context.peers.get(unit).cloned();
    let handshake = establish::listen(&context.shard, &stream, &context.identity, known);
    let outcome = context.shard.timeout(context.timing.handshake_timeout, handshake).await;
    context.half_open.set(context.half_open.get() - 1);
    let (peer, fresh) = match outcome.map_err(establish::Failure::from).and_then(|done| done) {
        Ok(done) => done,
        Err(error) => {
            refuse(&context, from, &error.to_string());
            stream.shutdown();
            return;
        }
    };
    let session = fresh.keys.session;
    let mut connection = Connection::new(&context.shard, stream, context.timing, &fresh.keys, fresh.early);
    let ticket = peer.inner.turn.ticket();
    if let Err(end) = await_turn(&context, &peer, ticket, &mut connection).await {
        connection.close(&end).await;
        info!(peer = %peer.unit(), %from, reason = %end, "link connection closed before it was served");
        return;
    }
    info!(peer = %peer.unit(), %from, session = format_args!("{session:016x}"), "serving peer");
    context.handler.session_opened(peer.unit(), session);
    peer.inner.update(context.shard.now(), |status| status.serving = Some(session));
    connection.transmit.push(0, FrameBody::Open(window(&context.limits)));
    let mut serving = Serving::new(&context, &peer, session);
    let end = serving.run(&mut connection, ticket).await;
    connection.close(&end).await;
    drop(connection);
    serving.drain().await;
    context.handler.session_closed(peer.unit(), session);
    peer.inner.update(context.shard.now(), |status| status.serving = None);
    peer.inner.turn.give_back();
    info!(peer = %peer.unit(), session = format_args!("{session:016x}"), reason = %end, "served peer left");
}

fn window(limits: &Limits) -> Window {
    Window { requests: limits.requests_in_flight, bytes: limits.bytes_in_flight }
}

/// Waits for the peer's former session to be over, while heartbeats go on (L2).
async fn await_turn(
    context: &Context,
    peer: &Peer,
    ticket: u64,
    connection: &mut Connection,
) -> Result<(), End> {
    // Nothing may be asked before the session is open.
    let idle = poll_fn(|cx| {
        connection.poll(cx, &mut |_: &mut Polling<'_>, _| Err(WireError::OutOfPlace), &mut |_| {})
    });
    match first(given_up(context, peer, ticket), first(idle, peer.inner.turn.take(ticket))).await {
        Either::Left(reason) => Err(End::Here(Rc::from(reason))),
        Either::Right(Either::Left(end)) => Err(end),
        Either::Right(Either::Right(())) => Ok(()),
    }
}

/// Completes when this side ends the session.
async fn given_up(context: &Context, peer: &Peer, ticket: u64) -> &'static str {
    match first(peer.inner.turn.superseded(ticket), context.stopped()).await {
        Either::Left(()) => "replaced by a newer connection",
        Either::Right(()) => "the unit stops",
    }
}

/// A request that has been carried out: its number, its cost, its answer.
type Done = (u64, u32, Response);

/// A request that is being carried out.
struct Running {
    id: u64,
    cost: u32,
    answer: LocalBoxFuture<'static, Response>,
}

impl Future for Running {
    type Output = Done;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<Done> {
        let (id, cost) = (self.id, self.cost);
        self.answer.as_mut().poll(cx).map(|response| (id, cost, response))
    }
}

/// A session being served.
struct Serving<'a> {
    context: &'a Context,
    peer: &'a Peer,
    session: u64,
    running: RefCell<FuturesUnordered<Running>>,
    /// What the peer has on its way, against the window it was given (L3).
    requests: Cell<u32>,
    bytes: Cell<u32>,
}

/// What a session being served does with frames.
struct Requests<'a> {
    serving: &'a Serving<'a>,
    transmit: &'a Transmit,
}

impl Receiver for Requests<'_> {
    fn announce(&mut self, frame: &Frame) {
        if let FrameBody::Request(Request::Data(request)) = &frame.body {
            self.serving.context.handler.announce(self.serving.peer.unit(), request);
        }
    }

    fn frame(&mut self, cx: &mut Polling<'_>, frame: Frame) -> Result<(), WireError> {
        match frame.body {
            FrameBody::Request(request) => self.serving.start(cx, frame.request, request, self.transmit),
            _ => Err(WireError::OutOfPlace),
        }
    }
}

impl<'a> Serving<'a> {
    fn new(context: &'a Context, peer: &'a Peer, session: u64) -> Self {
        Self {
            context,
            peer,
            session,
            running: RefCell::default(),
            requests: Cell::new(0),
            bytes: Cell::new(0),
        }
    }

    async fn run(&mut self, connection: &mut Connection, ticket: u64) -> End {
        let transmit = Rc::clone(&connection.transmit);
        let served = poll_fn(|cx| {
            let mut requests = Requests { serving: self, transmit: &transmit };
            connection.poll(cx, &mut requests, &mut |cx| {
                let mut running = self.running.borrow_mut();
                if running.is_empty() {
                    return;
                }
                while let Poll::Ready(Some((id, cost, response))) = running.poll_next_unpin(cx) {
                    self.requests.set(self.requests.get() - 1);
                    self.bytes.set(self.bytes.get() - cost);
                    transmit.push(id, FrameBody::Response(response));
                }
            })
        });
        match first(served, given_up(self.context, self.peer, ticket)).await {
            Either::Left(end) => end,
            Either::Right(reason) => End::Here(Rc::from(reason)),
        }
    }

    /// Carries out a request as far as it goes at once: most writes, which need no job of their own then.
    fn start(
        &self,
        cx: &mut Polling<'_>,
        id: u64,
        request: Request,
        transmit: &Transmit,
    ) -> Result<(), WireError> {
        let window = window(&self.context.limits);
        let cost = u32::try_from(request.cost()).unwrap_or(u32::MAX).min(window.bytes);
        if self.requests.get() >= window.requests || cost > window.bytes - self.bytes.get() {
            return Err(WireError::Window);
        }
        let mut answer = self.context.handler.handle(self.peer.unit(), self.session, request);
        if let Poll::Ready(response) = answer.as_mut().poll(cx) {
            transmit.push(id, FrameBody::Response(response));
            return Ok(());
        }
        self.requests.set(self.requests.get() + 1);
        self.bytes.set(self.bytes.get() + cost);
        self.running.borrow_mut().push(Running { id, cost, answer });
        Ok(())
    }

    /// Lets what runs come to its end; nobody hears the answers (L2).
    async fn drain(&mut self) {
        while self.running.get_mut().next().await.is_some() {}
    }
}

fn refuse(context: &Context, from: SocketAddr, reason: &str) {
    if let Some(suppressed) = context.refusals.borrow_mut().admit(context.shard.now()) {
        warn!(%from, %reason, suppressed, "link connection refused");
    }
}

/// Lets a few log lines through per period; a stranger must not fill the disk with them.
#[derive(Default)]
pub(super) struct LogLimit {
    period: Option<Instant>,
    passed: u32,
    suppressed: u64,
}

impl LogLimit {
    const PERIOD: Duration = Duration::from_secs(10);
    const PER_PERIOD: u32 = 5;

    /// Whether to log; if so, how many were not since the last that was.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.period.is_none_or(|start| now.saturating_since(start) >= Self::PERIOD) {
            self.period = Some(now);
            self.passed = 0;
        }
        if self.passed >= Self::PER_PERIOD {
            self.suppressed += 1;
            return None;
        }
        self.passed += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_get_five_lines_in_ten_seconds() {
        let mut limit = LogLimit::default();
        let at = |seconds| Instant::from_start(Duration::from_secs(seconds));
        let passed = (0..20).filter(|_| limit.admit(at(1)).is_some()).count();
        assert_eq!(passed, 5);
        assert_eq!(limit.admit(at(10)), None);
        assert_eq!(limit.admit(at(11)), Some(16));
    }
}
