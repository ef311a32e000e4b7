//! The link between storage units: one authenticated, flow-controlled channel for administration, logs and data
//! (R-PL-1). `docs/design/link.md` draws the bytes and gives the reasons.
//!
//! Requests flow from the unit that dialled to the unit that listened. A unit that is primary for a mirror dials the
//! units of its secondaries; two units that are each primary for something have two connections.
//!
//! Invariants, cited in the code by letter:
//! - **L1** A request gets one outcome: its response or [`LinkLost`].
//! - **L2** A peer's session is opened to the [`Handler`] only after every running request of its former session has
//!   ended and `session_closed` was called: a late write never lands behind a newer one (I4).
//! - **L3** Nothing queues without a bound: a sender stays within the window that the receiver gave (I10).
//! - **L4** No bytes from outside cause a panic or an allocation beyond [`MAX_DATA`]; damage ends the session.
//! - **L5** A session over which nothing was heard for `dead_after` is dead, whatever TCP believes (R-FL-5).

mod asking;
mod config;
mod connection;
mod dial;
mod establish;
#[doc(hidden)]
pub mod fuzz;
mod handshake;
mod listen;
mod message;
mod peer;
mod session;
mod watched;
mod wire;

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use futures_util::future::{Either, LocalBoxFuture};
use twinlun_io::Shard;

pub use config::{KeyTooShort, Limits, LinkConfig, LinkKey, PeerConfig, Timing};
pub use message::{DataOp, DataRequest, DataStatus, MAX_CONTROL, MAX_DATA, Request, Response};
pub use peer::{Hold, Peer, PeerStatus, Reachability};
pub use session::{LinkLost, Session};

use watched::Watched;

/// What carries out the requests of peers.
pub trait Handler {
    /// A peer's session begins; its requests follow.
    fn session_opened(&self, peer: &Rc<str>, session: u64);

    /// A hint: this request is carried out in a moment, after those that came before it.
    fn announce(&self, peer: &Rc<str>, request: &DataRequest) {
        let _ = (peer, request);
    }

    /// Carries out one request. All requests of a session run concurrently; its sender has no two at a time that
    /// depend on each other. The future is polled to its end, even when the session has ended meanwhile.
    fn handle(&self, peer: &Rc<str>, session: u64, request: Request) -> LocalBoxFuture<'static, Response>;

    /// A peer's session has ended, and so has every request of it. Only now may its next session begin (L2).
    fn session_closed(&self, peer: &Rc<str>, session: u64);
}

/// This unit's end of all links.
#[derive(Clone)]
pub struct Link {
    context: Rc<Context>,
    local_address: Option<SocketAddr>,
}

/// What the jobs of a link share.
struct Context {
    shard: Shard,
    identity: handshake::Identity,
    timing: Timing,
    limits: Limits,
    handler: Rc<dyn Handler>,
    peers: BTreeMap<Rc<str>, Peer>,
    stop: Watched<bool>,
    /// Jobs that have not ended.
    jobs: Watched<usize>,
    half_open: Cell<usize>,
    refusals: RefCell<listen::LogLimit>,
}

impl Link {
    /// Listens, when the configuration says so, and makes the peers known; nobody is dialled before
    /// [`Peer::connect`]. Fails when the configuration is wrong or the address cannot be listened on.
    pub async fn start(shard: &Shard, config: LinkConfig, handler: Rc<dyn Handler>) -> io::Result<Self> {
        config.check().map_err(|reason| io::Error::new(io::ErrorKind::InvalidInput, reason))?;
        let now = shard.now();
        let peers = config.peers.into_iter().map(|peer| {
            let peer = Peer::new(&peer.unit, peer.addresses, now);
            (Rc::clone(peer.unit()), peer)
        });
        let context = Rc::new(Context {
            shard: shard.clone(),
            identity: handshake::Identity { unit: Rc::from(config.unit), key: config.key },
            timing: config.timing,
            limits: config.limits,
            handler,
            peers: peers.collect(),
            stop: Watched::new(false),
            jobs: Watched::new(0),
            half_open: Cell::new(0),
            refusals: RefCell::default(),
        });
        let mut local_address = None;
        if let Some(address) = config.listen {
            let listener = shard.listen(address).await?;
            local_address = Some(listener.local_address());
            context.spawn(listen::run(Rc::clone(&context), listener));
        }
        for peer in context.peers.values() {
            context.spawn(dial::run(Rc::clone(&context), peer.clone()));
        }
        Ok(Self { context, local_address })
    }

    /// Where it listens, with the port that was chosen.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.local_address
    }

    /// A configured peer by its unit's name.
    pub fn peer(&self, unit: &str) -> Option<Peer> {
        self.context.peers.get(unit).cloned()
    }

    /// All configured peers, by name.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.context.peers.values()
    }

    /// Ends all sessions and takes no new ones; completes when every request of a peer has ended.
    pub async fn stop(&self) {
        self.context.stop.set(true);
        self.context.jobs.wait_for(|jobs| *jobs == 0).await;
    }
}

/// Whichever ends first; the left one when both do. The other is dropped, so both must be mere waiting.
async fn first<A: Future, B: Future>(left: A, right: B) -> Either<A::Output, B::Output> {
    let (mut left, mut right) = (pin!(left), pin!(right));
    poll_fn(|cx| match left.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Either::Left(output)),
        Poll::Pending => right.as_mut().poll(cx).map(Either::Right),
    })
    .await
}

impl Context {
    /// Starts a job that [`Link::stop`] waits for.
    fn spawn(self: &Rc<Self>, job: impl Future<Output = ()> + 'static) {
        self.jobs.update(|jobs| *jobs += 1);
        let context = Rc::clone(self);
        self.shard.spawn(async move {
            job.await;
            context.jobs.update(|jobs| *jobs -= 1);
        });
    }

    /// Completes when the link stops.
    async fn stopped(&self) {
        self.stop.wait_for(|stop| *stop).await;
    }
}
