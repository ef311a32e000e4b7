//! Portals: accepting hosts, within caps, and admitting their sessions.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::Notify;
use twinlun_io::{Listener, Stream};
use twinlun_iscsi::login::LoginStatus;
use twinlun_iscsi::target::{
    CloseReason, ConnectionConfig, Handshake, Session as Core, SessionRequest, SessionType, Timers, Tsih,
};
use twinlun_scsi::InitiatorPort;

use crate::config::PortalConfig;
use crate::connection::HostConnection;
use crate::directory::DirectoryView;
use crate::processor::{Processor, StartError};
use crate::session::HostSession;
use crate::sessions::{Session, SessionKey};

/// Pause after a failed accept, so that a lasting error does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether hosts are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// They are.
    Serving,
    /// Nobody new is; those who are there were asked to leave.
    Draining,
    /// Nobody is.
    Drained,
}

impl Service {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Drained => "drained",
        }
    }
}

/// One portal and the connections that came in by it.
pub(crate) struct Portal {
    /// Where it listens, with the port that was chosen.
    pub(crate) address: SocketAddr,
    pub(crate) config: PortalConfig,
    service: Cell<Service>,
    /// Counts changes of service: a job of an earlier time sees that it is out of date.
    epoch: Cell<u64>,
    changed: Notify,
    /// Weak, because connections own the storage processor that owns its portals.
    connections: RefCell<BTreeMap<u64, Weak<HostConnection>>>,
    accepted: Cell<u64>,
}

impl Portal {
    fn new(address: SocketAddr, config: PortalConfig) -> Rc<Self> {
        Rc::new(Self {
            address,
            config,
            service: Cell::new(Service::Serving),
            epoch: Cell::new(0),
            changed: Notify::new(),
            connections: RefCell::default(),
            accepted: Cell::new(0),
        })
    }

    pub(crate) fn service(&self) -> Service {
        self.service.get()
    }

    /// The present time between two changes of service.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    pub(crate) fn set_service(&self, service: Service) {
        self.service.set(service);
        self.epoch.set(self.epoch.get() + 1);
        self.changed.notify_waiters();
    }

    pub(crate) fn connections(&self) -> Vec<Rc<HostConnection>> {
        self.connections.borrow().values().filter_map(Weak::upgrade).collect()
    }

    /// Sessions that came in here.
    pub(crate) fn sessions(&self) -> usize {
        let handles: BTreeSet<_> = self.connections().iter().filter_map(|c| c.session()).collect();
        handles.len()
    }

    /// Waits until `reached` holds; it is asked again whenever a connection ends or the service changes.
    pub(crate) async fn until(&self, reached: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            if reached(self) {
                return;
            }
            changed.await;
        }
    }

    fn enter(&self, connection: &Rc<HostConnection>) -> u64 {
        let number = self.accepted.get() + 1;
        self.accepted.set(number);
        self.connections.borrow_mut().insert(number, Rc::downgrade(connection));
        number
    }

    fn leave(&self, number: u64) {
        self.connections.borrow_mut().remove(&number);
        self.changed.notify_waiters();
    }
}

/// Opens every portal of the configuration and starts accepting.
pub(crate) async fn open_all(processor: &Rc<Processor>) -> Result<(), StartError> {
    for config in processor.config.portals.clone() {
        let address = config.listen;
        let listener =
            processor.shard.listen(address).await.map_err(|error| StartError::Portal { address, error })?;
        let portal = Portal::new(listener.local_address(), config);
        processor.portals.borrow_mut().push(portal.clone());
        processor.accept(listener, portal);
    }
    Ok(())
}

impl Processor {
    /// Accepts hosts at a portal until its service changes.
    pub(crate) fn accept(self: &Rc<Self>, listener: Listener, portal: Rc<Portal>) {
        let this = self.clone();
        self.shard.spawn(async move {
            let epoch = portal.epoch();
            while !this.is_stopping() {
                let over = pin!(portal.until(|portal| portal.epoch() != epoch));
                let next = match select(over, pin!(listener.accept())).await {
                    // The listener closes: who comes now is refused at once and can take another path.
                    Either::Left(_) => return,
                    Either::Right((next, _)) => next,
                };
                match next {
                    Ok(stream) if this.has_room() => {
                        let (this, portal) = (this.clone(), portal.clone());
                        this.shard.clone().spawn(async move { this.serve(stream, portal).await });
                    }
                    // Closed at once: the host tries again, and those who are logged in keep their service.
                    Ok(stream) => {
                        tracing::warn!(host = %stream.peer_address(), "connection cap reached, host turned away");
                    }
                    Err(error) => {
                        tracing::warn!(portal = %portal.address, %error, "cannot accept a connection");
                        this.shard.sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        });
    }

    fn has_room(&self) -> bool {
        let limits = &self.config.limits;
        self.connections.get() < limits.connections && self.logins.get() < limits.logins
    }

    /// The portal that a connection came in by, from this end's address.
    pub(crate) fn portal_at(&self, local: SocketAddr) -> Option<Rc<Portal>> {
        let portals = self.portals.borrow();
        let exact = portals.iter().find(|portal| portal.address == local);
        let any = |portal: &&Rc<Portal>| {
            let address = portal.address;
            address.ip().is_unspecified()
                && address.port() == local.port()
                && (address.is_ipv6() || local.is_ipv4())
        };
        exact.or_else(|| portals.iter().find(any)).cloned()
    }

    async fn serve(self: Rc<Self>, stream: Stream, portal: Rc<Portal>) {
        let peer = stream.peer_address();
        let mut seed = [0; 32];
        self.shard.fill_random(&mut seed);
        let limits = &self.config.limits;
        let mut config = ConnectionConfig::new(stream.local_address(), portal.config.group);
        // A write as long as the device server takes arrives whole.
        config.limits.max_write = 32 << 20;
        let ping = portal.config.ping_seconds.unwrap_or(limits.ping_seconds);
        let answer = portal.config.ping_answer_seconds.unwrap_or(limits.ping_answer_seconds);
        config.timers = Timers {
            login: Duration::from_secs(limits.login_seconds),
            ping_interval: Duration::from_secs(ping),
            ping_timeout: Duration::from_secs(answer),
            ..config.timers
        };
        config.policy.max_connections = limits.session_connections;
        config.policy.error_recovery = limits.error_recovery_level;
        config.policy.time2retain = limits.retain_seconds;
        let handshake = Handshake::new(config, seed, self.now());
        self.connections.set(self.connections.get() + 1);
        self.logins.set(self.logins.get() + 1);
        let connection = HostConnection::new(self.clone(), stream, handshake);
        let number = portal.enter(&connection);
        let reason = connection.serve().await;
        self.connections.set(self.connections.get() - 1);
        if connection.session().is_none() {
            self.logins.set(self.logins.get() - 1);
        }
        portal.leave(number);
        match reason {
            CloseReason::LoggedOut => tracing::info!(host = %peer, "host logged out"),
            reason => tracing::info!(host = %peer, %reason, "connection ended"),
        }
    }

    /// Removes a session that is over.
    pub(crate) fn forget(&self, session: &HostSession) {
        self.sessions.borrow_mut().remove(session.tsih);
        self.events.note("session", &session.tsih.to_string(), "ended");
    }

    /// Decides about a login that has passed every check: a new session, after ending the one that it replaces, or one more connection.
    pub(crate) async fn admit(self: &Rc<Self>, connection: &Rc<HostConnection>, request: SessionRequest) {
        match request.tsih {
            Some(tsih) => self.admit_connection(connection, &request, tsih).await,
            None => self.admit_session(connection, request).await,
        }
    }

    /// Whether the portal still serves: its drain may have begun after the login had been checked.
    fn is_served_at(&self, connection: &HostConnection) -> bool {
        let portal = self.portal_at(connection.stream().local_address());
        portal.is_some_and(|portal| portal.service() == Service::Serving)
    }

    async fn admit_session(self: &Rc<Self>, connection: &Rc<HostConnection>, request: SessionRequest) {
        let subject = request.subject;
        let key = SessionKey::of(&subject, connection.stream().local_address());
        loop {
            let twin = self.sessions.borrow().twin(&key).map(Session::host);
            let Some(twin) = twin else { break };
            if let Some(twin) = twin {
                // RFC 7143, 6.3.5: the old session's tasks have ended before the new one begins.
                twin.close(CloseReason::Reinstated);
                twin.wait_over().await;
            }
            self.shard.yield_now().await;
        }
        let Some(handshake) = connection.take_handshake() else { return };
        if !self.is_served_at(connection) {
            return connection.refuse(handshake, LoginStatus::ServiceUnavailable);
        }
        let Some(port) = self.port(subject.portal_group) else {
            return connection.refuse(handshake, LoginStatus::TargetError);
        };
        let Some(tsih) = self.sessions.borrow_mut().free_handle() else {
            return connection.refuse(handshake, LoginStatus::OutOfResources);
        };
        let directory = DirectoryView { processor: self, local: connection.stream().local_address() };
        let Some((core, id)) = Core::open(handshake, tsih, self.now(), &directory) else { return };
        let nexus = (subject.session_type == SessionType::Normal).then(|| {
            let initiator = InitiatorPort { name: subject.initiator.to_string(), isid: subject.isid.0 };
            let map = self.lun_map(subject.initiator.as_str());
            self.device.borrow_mut().open_nexus(initiator, port, map)
        });
        let initiator = subject.initiator.clone();
        let kind = subject.session_type;
        self.logins.set(self.logins.get() - 1);
        let session = HostSession::new(self.clone(), nexus, core);
        let (alias, user, host) =
            (request.initiator_alias, request.authenticated_as, Rc::downgrade(&session));
        self.sessions.borrow_mut().insert(tsih, Session { key, subject, nexus, alias, user, host });
        connection.admit(session, id, request.cid);
        tracing::info!(%initiator, host = %connection.stream().peer_address(), tsih, ?kind, "session opened");
        self.events.note("session", &tsih.to_string(), &format!("opened by {initiator}"));
    }

    async fn admit_connection(
        self: &Rc<Self>,
        connection: &Rc<HostConnection>,
        request: &SessionRequest,
        tsih: Tsih,
    ) {
        let found = self.sessions.borrow().joinable(&request.subject, tsih);
        if let Some(session) = &found {
            // RFC 7143, 6.3.4: the login logs out a connection that has this CID.
            session.reinstate(request.cid).await;
        }
        let Some(handshake) = connection.take_handshake() else { return };
        if !self.is_served_at(connection) {
            return connection.refuse(handshake, LoginStatus::ServiceUnavailable);
        }
        let Some(session) = found.filter(|session| !session.core().borrow().is_over()) else {
            return connection.refuse(handshake, LoginStatus::SessionDoesNotExist);
        };
        let directory = DirectoryView { processor: self, local: connection.stream().local_address() };
        let joined = session.core().borrow_mut().join(handshake, self.now(), &directory);
        match joined {
            Ok(id) => {
                self.logins.set(self.logins.get() - 1);
                tracing::info!(host = %connection.stream().peer_address(), tsih, cid = request.cid, "connection joined");
                connection.admit(session, id, request.cid);
            }
            Err(handshake) => connection.refuse(*handshake, LoginStatus::TooManyConnections),
        }
    }
}
