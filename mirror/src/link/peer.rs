//! Another storage unit as this one sees it.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use twinlun_io::Instant;

use super::listen::Turn;
use super::session::Session;
use super::watched::Watched;

/// Whether a peer can be reached (R-PL-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// Nobody has asked for a connection to it.
    Idle,
    /// The first attempt since it was asked for is under way.
    Connecting,
    /// A session is open.
    Reachable,
    /// The last session or attempt failed; attempts go on.
    Unreachable,
}

/// What is known of a peer just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Whether it can be reached from here.
    pub reachability: Reachability,
    /// Since when that is so.
    pub since: Instant,
    /// Why the last session or attempt ended, until the next session opens.
    pub reason: Option<Rc<str>>,
    /// The open session that we dialled.
    pub session: Option<u64>,
    /// The open session that the peer dialled.
    pub serving: Option<u64>,
    /// Attempts that failed since the last session.
    pub failed_attempts: u32,
}

/// A peer; cheap to clone.
#[derive(Clone)]
pub struct Peer {
    pub(super) inner: Rc<PeerInner>,
}

pub(super) struct PeerInner {
    pub(super) unit: Rc<str>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) status: Watched<PeerStatus>,
    /// How many [`Hold`]s there are.
    pub(super) holds: Watched<usize>,
    pub(super) session: RefCell<Option<Session>>,
    pub(super) turn: Turn,
}

/// Keeps a connection to a peer up, or being retried, for as long as it lives.
#[must_use = "the connection is given up when the hold is dropped"]
pub struct Hold {
    peer: Peer,
}

impl Peer {
    pub(super) fn new(unit: &str, addresses: Vec<SocketAddr>, now: Instant) -> Self {
        let status = PeerStatus {
            reachability: Reachability::Idle,
            since: now,
            reason: None,
            session: None,
            serving: None,
            failed_attempts: 0,
        };
        let inner = PeerInner {
            unit: Rc::from(unit),
            addresses,
            status: Watched::new(status),
            holds: Watched::new(0),
            session: RefCell::new(None),
            turn: Turn::default(),
        };
        Self { inner: Rc::new(inner) }
    }

    /// Its unit's name.
    pub fn unit(&self) -> &Rc<str> {
        &self.inner.unit
    }

    /// Asks for a connection to it. Whoever may have to write to an image there holds one; without any, none is kept.
    pub fn connect(&self) -> Hold {
        self.inner.holds.update(|holds| *holds += 1);
        Hold { peer: self.clone() }
    }

    /// The open session, if there is one.
    pub fn session(&self) -> Option<Session> {
        self.inner.session.borrow().as_ref().filter(|session| session.is_alive()).cloned()
    }

    /// Waits for a session. Without a [`Hold`] that may be for ever.
    pub async fn wait_session(&self) -> Session {
        self.inner.status.until(|_| self.session()).await
    }

    /// What is known of it.
    pub fn status(&self) -> PeerStatus {
        self.inner.status.get()
    }

    /// Completes once [`Peer::status`] is as wanted, which it may be already.
    pub async fn wait_status(&self, wanted: impl FnMut(&PeerStatus) -> bool) {
        self.inner.status.wait_for(wanted).await;
    }

    /// Completes at the next change of [`Peer::status`].
    pub async fn changed(&self) {
        let before = self.status();
        self.wait_status(|status| *status != before).await;
    }
}

impl PeerInner {
    /// Changes the status; `since` follows the reachability.
    pub(super) fn update(&self, now: Instant, change: impl FnOnce(&mut PeerStatus)) {
        self.status.update(|status| {
            let before = status.reachability;
            change(status);
            if status.reachability != before {
                status.since = now;
            }
        });
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.peer.inner.holds.update(|holds| *holds -= 1);
    }
}
