//! Tells iSNS servers where this target is (`docs/design/isns.md`).
//!
//! One job per server registers, refreshes before the registration runs out, and starts over when something changes or the server says
//! that it has forgotten. A server that is away costs one attempt a minute and nothing else: no host waits for any of this.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::{Either, join_all, select};
use tokio::sync::Notify;
use twinlun_api::IsnsView;
use twinlun_io::{Listener, Stream};
use twinlun_iscsi::isns::{
    Function, IsnsError, Message, MessageReader, Portal, Registration, Sender, Status, notification, reply,
};

use crate::portal::Service;
use crate::processor::Processor;

/// What one exchange with a server may take.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(10);
/// First and longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Least time between two registrations, however often a server says that it has forgotten this target.
const LEAST_INTERVAL: Duration = Duration::from_secs(5);
/// What the farewell may take.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);
/// Connections of servers at a time.
const MOST_CALLS: usize = 16;
/// Silence that ends a server's connection; longer than any interval between inquiries that is asked for here.
const CALL_SILENCE: Duration = Duration::from_secs(600);
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is known about the servers.
#[derive(Default)]
pub(crate) struct Registrar {
    servers: RefCell<BTreeMap<SocketAddr, Standing>>,
    /// Where inquiries and notifications are taken, by address of this end.
    ports: RefCell<BTreeMap<IpAddr, u16>>,
    /// Signalled when a server has forgotten this target.
    forgotten: Notify,
    calls: Cell<usize>,
    transaction: Cell<u16>,
}

/// How it stands with a server.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Pending,
    Registered,
    Failed(String),
    /// There is nothing to register.
    Idle,
}

/// Why a server was not told.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Protocol(#[from] IsnsError),
    #[error("it closed the connection")]
    Closed,
    #[error("it did not answer in time")]
    Late,
}

/// What a server has shown that it cannot do, and what it knows.
struct Server {
    address: SocketAddr,
    groups: bool,
    inquiries: bool,
    told: Option<Registration>,
}

impl Registrar {
    pub(crate) fn views(&self) -> Vec<IsnsView> {
        let view = |(server, standing): (&SocketAddr, &Standing)| IsnsView {
            server: server.to_string(),
            state: match standing {
                Standing::Pending => "pending",
                Standing::Registered => "registered",
                Standing::Failed(_) => "failed",
                Standing::Idle => "idle",
            }
            .into(),
            reason: if let Standing::Failed(reason) = standing { Some(reason.clone()) } else { None },
        };
        self.servers.borrow().iter().map(view).collect()
    }

    fn transaction(&self) -> u16 {
        self.transaction.set(self.transaction.get().wrapping_add(1));
        self.transaction.get()
    }
}

/// Starts telling the servers of the configuration.
pub(crate) async fn start(processor: &Rc<Processor>) {
    let Some(config) = &processor.config.isns else { return };
    let mut random = [0; 2];
    processor.shard.fill_random(&mut random);
    processor.isns.transaction.set(u16::from_be_bytes(random));
    let portals = processor.portals.borrow().iter().map(|portal| portal.address.ip()).collect::<Vec<_>>();
    for ip in portals {
        if processor.isns.ports.borrow().contains_key(&ip) {
            continue;
        }
        match processor.shard.listen(SocketAddr::new(ip, config.port)).await {
            Ok(listener) => {
                processor.isns.ports.borrow_mut().insert(ip, listener.local_address().port());
                let this = processor.clone();
                processor.shard.spawn(async move { this.take_calls(listener).await });
            }
            // Without it servers cannot ask back; registrations then live by being refreshed.
            Err(error) => tracing::warn!(%ip, %error, "iSNS servers cannot reach this address"),
        }
    }
    for address in &config.servers {
        processor.isns.servers.borrow_mut().insert(*address, Standing::Pending);
        let (this, address) = (processor.clone(), *address);
        let server = Server { address, groups: true, inquiries: true, told: None };
        processor.shard.spawn(async move { this.keep_registered(server).await });
    }
}

impl Processor {
    /// Tells one server for as long as the storage processor runs.
    async fn keep_registered(self: Rc<Self>, mut server: Server) {
        let mut pause = PAUSES.0;
        while !self.is_stopping() {
            let changed = self.portals_changed.notified();
            let forgotten = self.isns.forgotten.notified();
            let told = self.shard.timeout(EXCHANGE_LIMIT, self.tell_server(&mut server)).await;
            let (standing, wait) = match told.unwrap_or(Err(Failure::Late)) {
                Ok(None) => (Standing::Idle, PAUSES.1),
                Ok(Some(period)) => {
                    pause = PAUSES.0;
                    (Standing::Registered, (period / 3).max(LEAST_INTERVAL))
                }
                Err(failure) => {
                    let wait = pause;
                    pause = (pause * 2).min(PAUSES.1);
                    (Standing::Failed(failure.to_string()), wait)
                }
            };
            self.note_standing(server.address, standing);
            let (changed, forgotten) = (pin!(changed), pin!(forgotten));
            let news = select(changed, forgotten);
            // Administrators change portals now and then; what servers say may come without end.
            if let Ok(Either::Right(_)) = self.shard.timeout(wait, news).await {
                self.shard.sleep(LEAST_INTERVAL).await;
            }
        }
    }

    fn note_standing(&self, server: SocketAddr, standing: Standing) {
        let before = self.isns.servers.borrow_mut().insert(server, standing.clone());
        if before.as_ref() == Some(&standing) {
            return;
        }
        let what = match standing {
            Standing::Pending => return,
            Standing::Registered => "registered".into(),
            Standing::Idle => "nothing to register: no portal serves hosts".into(),
            Standing::Failed(reason) => format!("not registered: {reason}"),
        };
        tracing::info!(%server, what, "iSNS");
        self.events.note("isns", &server.to_string(), &what);
    }

    /// One exchange: how long the server keeps what it was told, or nothing when there is nothing to tell.
    async fn tell_server(&self, server: &mut Server) -> Result<Option<Duration>, Failure> {
        let serves = self.portals.borrow().iter().any(|portal| portal.service() == Service::Serving);
        if !serves && server.told.is_none() {
            return Ok(None);
        }
        let mut line = Line::open(self, server.address).await?;
        let mut registration = self.registration(line.stream.local_address().ip());
        if registration.portals.is_empty() {
            let farewell = registration.deregister(self.isns.transaction());
            line.ask(&farewell).await?.confirms(&farewell)?;
            server.told = None;
            return Ok(None);
        }
        let accepted = loop {
            registration.groups = server.groups;
            registration.inquiry = if server.inquiries { registration.inquiry } else { 0 };
            // What changed replaces what was there. A mere refresh must not: the server would tell every host that the target went away.
            let replace = server.told.as_ref() != Some(&registration);
            let request = registration.register(self.isns.transaction(), replace);
            let answer = line.ask(&request).await?;
            match registration.accepted(&request, &answer) {
                Ok(accepted) => break accepted,
                // What a server does not know is left out, once each.
                Err(IsnsError::Refused(Status::NO_SUCH_FEATURE)) if server.groups => server.groups = false,
                Err(IsnsError::Refused(Status::NO_INQUIRIES)) if server.inquiries => server.inquiries = false,
                Err(error) => return Err(error.into()),
            }
        };
        if registration.can_be_notified() {
            let request = registration.notify(self.isns.transaction());
            // Without notifications the registration is as good: it is refreshed all the same.
            if let Err(error) = line.ask(&request).await?.confirms(&request) {
                tracing::warn!(server = %server.address, %error, "no iSNS notifications");
            }
        }
        server.told = Some(registration);
        Ok(Some(Duration::from_secs(accepted.period.into())))
    }

    /// What is to be told. A portal on every address is named by `local`, the address that reaches the server.
    fn registration(&self, local: IpAddr) -> Registration {
        let ports = self.isns.ports.borrow();
        let portals = self.portals.borrow();
        let serving = portals.iter().filter(|portal| portal.service() == Service::Serving);
        let portals = serving.filter_map(|portal| {
            let (listen, notify_port) = (portal.address, ports.get(&portal.address.ip()).copied());
            let ip = if listen.ip().is_unspecified() { local } else { listen.ip() };
            let reached = ip.is_ipv4() == listen.is_ipv4();
            let address = SocketAddr::new(ip, listen.port());
            reached.then_some(Portal { address, group: portal.config.group, notify_port })
        });
        let config = self.config.isns.as_ref();
        Registration {
            entity: config.map_or_else(String::new, |config| config.entity.clone()),
            target: self.target_name.clone(),
            alias: self.config.unit.clone(),
            portals: portals.collect(),
            period: config.map_or(0, |config| config.registration_seconds),
            inquiry: config.map_or(0, |config| config.inquiry_seconds),
            groups: true,
        }
    }

    /// Takes this storage processor out of every server that knows it, as far as they answer at once.
    pub(crate) async fn leave_isns(&self) {
        let known = self.isns.servers.borrow().clone();
        let known = known.into_iter().filter(|(_, standing)| *standing == Standing::Registered);
        let farewells = known.map(|(server, _)| async move {
            let farewell = async {
                let mut line = Line::open(self, server).await?;
                let local = line.stream.local_address().ip();
                let request = self.registration(local).deregister(self.isns.transaction());
                line.ask(&request).await?.confirms(&request)?;
                Ok::<_, Failure>(())
            };
            match self.shard.timeout(FAREWELL_LIMIT, farewell).await.unwrap_or(Err(Failure::Late)) {
                Ok(()) => tracing::info!(%server, "iSNS registration removed"),
                Err(error) => tracing::warn!(%server, %error, "iSNS registration stays until it runs out"),
            }
        });
        join_all(farewells).await;
    }

    /// Accepts the servers' connections. Nobody else is listened to.
    async fn take_calls(self: Rc<Self>, listener: Listener) {
        while !self.is_stopping() {
            match listener.accept().await {
                Ok(stream) => {
                    let peer = stream.peer_address().ip();
                    let servers = self.config.isns.iter().flat_map(|config| &config.servers);
                    let known = servers.into_iter().any(|server| server.ip() == peer);
                    if !known || self.isns.calls.get() >= MOST_CALLS {
                        tracing::debug!(%peer, "a call that is not an iSNS server's, or one too many");
                        continue;
                    }
                    self.isns.calls.set(self.isns.calls.get() + 1);
                    let this = self.clone();
                    self.shard.spawn(async move {
                        if let Err(error) = this.answer_calls(stream).await {
                            tracing::debug!(%error, "an iSNS server's call ended");
                        }
                        this.isns.calls.set(this.isns.calls.get() - 1);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an iSNS server's connection");
                    self.shard.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Answers a server's inquiries and notifications until it hangs up.
    async fn answer_calls(&self, stream: Stream) -> Result<(), Failure> {
        let mut line = Line { stream, reader: MessageReader::default(), buffer: BytesMut::new() };
        loop {
            let next = self.shard.timeout(CALL_SILENCE, line.receive()).await;
            let Some(message) = next.unwrap_or(Ok(None))? else { return Ok(()) };
            if message.function == Function::NOTIFICATION {
                self.on_notification(&message);
            }
            if let Some(answer) = reply(&message) {
                let sent = self.shard.timeout(EXCHANGE_LIMIT, line.send(&answer)).await;
                sent.unwrap_or(Err(Failure::Late))?;
            }
        }
    }

    fn on_notification(&self, message: &Message) {
        let Ok(said) = notification(message) else { return };
        for change in said {
            tracing::debug!(node = %change.node, change.removed, change.changed, "iSNS notification");
            if change.removed && change.node == self.target_name.as_str() {
                self.isns.forgotten.notify_waiters();
            }
        }
    }
}

/// A connection with a server.
struct Line {
    stream: Stream,
    reader: MessageReader,
    buffer: BytesMut,
}

/// Room for one receive.
const CHUNK: usize = 16 << 10;

impl Line {
    async fn open(processor: &Processor, server: SocketAddr) -> Result<Self, Failure> {
        let stream = processor.shard.connect(server).await?;
        Ok(Self { stream, reader: MessageReader::default(), buffer: BytesMut::new() })
    }

    /// Sends a request and takes its answer. A server may put an inquiry in between: it is answered.
    async fn ask(&mut self, request: &Message) -> Result<Message, Failure> {
        self.send(request).await?;
        loop {
            let message = self.receive().await?.ok_or(Failure::Closed)?;
            match reply(&message) {
                Some(answer) => self.send(&answer).await?,
                None => return Ok(message),
            }
        }
    }

    async fn send(&self, message: &Message) -> Result<(), Failure> {
        Ok(self.stream.send_all(&message.encode(Sender::Client).into()).await?)
    }

    /// The next message; `None` when the server has hung up.
    async fn receive(&mut self) -> Result<Option<Message>, Failure> {
        loop {
            if let Some(message) = self.reader.next_message()? {
                return Ok(Some(message));
            }
            self.buffer.clear();
            self.buffer.reserve(CHUNK);
            if self.stream.recv(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
            self.reader.push(&self.buffer)?;
        }
    }
}
