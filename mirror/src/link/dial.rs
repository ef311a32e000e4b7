//! The dialling end: keeps a session to one peer for as long as somebody holds it.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context as Polling, Poll};
use std::time::Duration;

use futures_util::future::Either;
use tracing::{info, warn};

use super::config::Timing;
use super::connection::{Connection, End};
use super::establish::{self, Failure, Fresh};
use super::peer::{Peer, Reachability};
use super::session::Session;
use super::wire::{Frame, FrameBody, Window, WireError};
use super::{Context, first};

/// Runs for as long as the link does.
pub(super) async fn run(context: Rc<Context>, peer: Peer) {
    let mut backoff = Backoff::new(&context.timing);
    loop {
        let held = peer.inner.holds.wait_for(|holds| *holds > 0);
        if let Either::Left(()) = first(context.stopped(), held).await {
            return;
        }
        let began = context.shard.now();
        peer.inner.update(began, |status| {
            if status.reachability == Reachability::Idle {
                status.reachability = Reachability::Connecting;
            }
        });
        match first(connect(&context, &peer), unwanted(&context, &peer)).await {
            Either::Left(Ok((connection, session))) => {
                let reason = hold_session(&context, &peer, connection, &session).await;
                if context.shard.now().saturating_since(began) >= context.timing.reconnect_longest {
                    backoff = Backoff::new(&context.timing);
                }
                closed(&context, &peer, &session, &reason);
            }
            Either::Left(Err(reason)) => failed(&context, &peer, &reason),
            Either::Right(_) => {}
        }
        if peer.inner.holds.get() == 0 {
            peer.inner.update(context.shard.now(), |status| {
                status.reachability = Reachability::Idle;
                status.failed_attempts = 0;
            });
            backoff = Backoff::new(&context.timing);
            continue;
        }
        let mut random = [0];
        context.shard.fill_random(&mut random);
        first(context.shard.sleep(backoff.next(random[0])), unwanted(&context, &peer)).await;
    }
}

/// Completes when nobody holds the peer any more, or the link stops.
async fn unwanted(context: &Context, peer: &Peer) -> &'static str {
    match first(peer.inner.holds.wait_for(|holds| *holds == 0), context.stopped()).await {
        Either::Left(_) => "no longer needed",
        Either::Right(_) => "the unit stops",
    }
}

/// Tries the addresses in turn for a session. May be dropped at any point.
async fn connect(context: &Context, peer: &Peer) -> Result<(Connection, Session), Rc<str>> {
    let mut reason = Rc::from("no address is configured");
    for address in &peer.inner.addresses {
        match connect_to(context, peer, *address).await {
            Ok(open) => return Ok(open),
            Err(error) => reason = Rc::from(format!("{address}: {error}")),
        }
    }
    Err(reason)
}

async fn connect_to(
    context: &Context,
    peer: &Peer,
    address: SocketAddr,
) -> Result<(Connection, Session), Failure> {
    let (shard, timing) = (&context.shard, context.timing);
    let stream = match shard.timeout(timing.connect_timeout, shard.connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(Failure::Connect(error)),
        Err(_) => return Err(Failure::ConnectTimeout),
    };
    let handshake = establish::dial(shard, &stream, &context.identity, peer);
    let Fresh { keys, early } = shard.timeout(timing.handshake_timeout, handshake).await??;
    let mut connection = Connection::new(shard, stream, timing, &keys, early);
    // No limit here: the peer may still be ending our former session, and its heartbeats say that it lives (L2).
    match opening(&mut connection).await {
        Ok(window) => {
            let session = Session::new(keys.session, Rc::clone(&connection.transmit), window);
            Ok((connection, session))
        }
        Err(end) => {
            connection.close(&end).await;
            Err(Failure::NotOpened(end))
        }
    }
}

/// Waits until the peer takes requests.
async fn opening(connection: &mut Connection) -> Result<Window, End> {
    let window = Cell::new(None);
    poll_fn(|cx| {
        let mut on_frame = |_: &mut Polling<'_>, frame: Frame| match frame.body {
            FrameBody::Open(open) if window.get().is_none() => {
                window.set(Some(open));
                Ok(())
            }
            _ => Err(WireError::OutOfPlace),
        };
        match connection.poll(cx, &mut on_frame, &mut |_| {}) {
            Poll::Ready(end) => Poll::Ready(Err(end)),
            Poll::Pending => window.get().map_or(Poll::Pending, |open| Poll::Ready(Ok(open))),
        }
    })
    .await
}

/// Publishes the session and drives it to its end; gives the reason.
async fn hold_session(
    context: &Context,
    peer: &Peer,
    mut connection: Connection,
    session: &Session,
) -> Rc<str> {
    let now = context.shard.now();
    *peer.inner.session.borrow_mut() = Some(session.clone());
    peer.inner.update(now, |status| {
        status.reachability = Reachability::Reachable;
        status.reason = None;
        status.session = Some(session.id());
        status.failed_attempts = 0;
    });
    info!(peer = %peer.unit(), session = format_args!("{:016x}", session.id()), "link open");
    let end = {
        let driven = poll_fn(|cx| {
            let mut on_frame = |_: &mut Polling<'_>, frame: Frame| match frame.body {
                FrameBody::Response(response) => session.answered(frame.request, response),
                _ => Err(WireError::OutOfPlace),
            };
            connection.poll(cx, &mut on_frame, &mut |_| {})
        });
        match first(driven, first(session.closed(), unwanted(context, peer))).await {
            Either::Left(end) => end,
            Either::Right(Either::Left(reason)) => End::Here(reason),
            Either::Right(Either::Right(reason)) => End::Here(Rc::from(reason)),
        }
    };
    // Callers learn it before anything else is awaited (R-FL-5).
    let reason: Rc<str> = Rc::from(end.to_string());
    session.end(&reason);
    connection.close(&end).await;
    reason
}

fn closed(context: &Context, peer: &Peer, session: &Session, reason: &Rc<str>) {
    warn!(peer = %peer.unit(), session = format_args!("{:016x}", session.id()), %reason, "link lost");
    *peer.inner.session.borrow_mut() = None;
    peer.inner.update(context.shard.now(), |status| {
        status.reachability = Reachability::Unreachable;
        status.reason = Some(Rc::clone(reason));
        status.session = None;
    });
}

fn failed(context: &Context, peer: &Peer, reason: &Rc<str>) {
    // Once per reason: a unit that is away for a week is not worth a line every five seconds.
    if peer.status().reason.as_ref() != Some(reason) {
        warn!(peer = %peer.unit(), %reason, "cannot reach peer; keep trying");
    }
    peer.inner.update(context.shard.now(), |status| {
        status.reachability = Reachability::Unreachable;
        status.reason = Some(Rc::clone(reason));
        status.failed_attempts = status.failed_attempts.saturating_add(1);
    });
}

/// Pauses between attempts: doubling up to a limit, each drawn from three quarters to five quarters of its length so
/// that units that lost each other at one moment do not come back in step.
struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    fn new(timing: &Timing) -> Self {
        Self { next: timing.reconnect_first.min(timing.reconnect_longest), longest: timing.reconnect_longest }
    }

    fn next(&mut self, random: u8) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause * 3 / 4 + pause * u32::from(random) / 510
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_jitter_stays_within_a_quarter() {
        let timing = Timing::default();
        for random in [0, 128, 255] {
            let mut backoff = Backoff::new(&timing);
            let mut nominal = timing.reconnect_first;
            for _ in 0..12 {
                let pause = backoff.next(random);
                assert!(pause >= nominal * 3 / 4 && pause <= nominal * 5 / 4, "{pause:?} of {nominal:?}");
                nominal = (nominal * 2).min(timing.reconnect_longest);
            }
        }
    }
}
