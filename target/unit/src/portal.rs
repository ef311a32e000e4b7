//! Portals: accepting hosts, within caps, and admitting their sessions.

use std::rc::Rc;
use std::time::Duration;

use twinlun_io::{Listener, Stream};
use twinlun_iscsi::login::LoginStatus;
use twinlun_iscsi::target::{CloseReason, Connection, ConnectionConfig, SessionRequest, SessionType, Timers};
use twinlun_scsi::InitiatorPort;

use crate::connection::HostConnection;
use crate::processor::{Processor, StartError};
use crate::sessions::{Session, SessionKey};

/// Pause after a failed accept, so that a lasting error does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens every portal of the configuration and starts accepting.
pub(crate) async fn open_all(processor: &Rc<Processor>) -> Result<(), StartError> {
    for portal in processor.config.portals.clone() {
        let address = portal.listen;
        let listener =
            processor.shard.listen(address).await.map_err(|error| StartError::Portal { address, error })?;
        processor.portals.borrow_mut().push((listener.local_address(), portal.group));
        let this = processor.clone();
        processor.shard.spawn(async move { this.accept(listener, portal.group).await });
    }
    Ok(())
}

impl Processor {
    async fn accept(self: Rc<Self>, listener: Listener, group: u16) {
        while !self.is_stopping() {
            match listener.accept().await {
                Ok(stream) if self.has_room() => {
                    let this = self.clone();
                    self.shard.spawn(async move { this.serve(stream, group).await });
                }
                // Closed at once: the host tries again, and those who are logged in keep their service.
                Ok(stream) => {
                    tracing::warn!(host = %stream.peer_address(), "connection cap reached, host turned away");
                }
                Err(error) => {
                    tracing::warn!(portal = %listener.local_address(), %error, "cannot accept a connection");
                    self.shard.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        let limits = &self.config.limits;
        self.connections.get() < limits.connections && self.logins.get() < limits.logins
    }

    async fn serve(self: Rc<Self>, stream: Stream, group: u16) {
        let peer = stream.peer_address();
        let mut seed = [0; 32];
        self.shard.fill_random(&mut seed);
        let limits = &self.config.limits;
        let mut config = ConnectionConfig::new(stream.local_address(), group);
        // A write as long as the device server takes arrives whole.
        config.limits.max_write = 32 << 20;
        config.timers = Timers {
            login: Duration::from_secs(limits.login_seconds),
            ping_interval: Duration::from_secs(limits.ping_seconds),
            ping_timeout: Duration::from_secs(limits.ping_answer_seconds),
            ..config.timers
        };
        let core = Connection::new(config, seed, self.now());
        self.connections.set(self.connections.get() + 1);
        self.logins.set(self.logins.get() + 1);
        let connection = HostConnection::new(self.clone(), stream, core);
        let reason = connection.serve().await;
        self.connections.set(self.connections.get() - 1);
        self.forget(&connection);
        match reason {
            CloseReason::LoggedOut => tracing::info!(host = %peer, "host logged out"),
            reason => tracing::info!(host = %peer, %reason, "connection ended"),
        }
    }

    /// Removes the session of a connection that is over.
    fn forget(&self, connection: &Rc<HostConnection>) {
        match connection.session() {
            Some(tsih) => {
                self.sessions.borrow_mut().remove(tsih);
                self.events.note("session", &tsih.to_string(), "ended");
            }
            None => self.logins.set(self.logins.get() - 1),
        }
    }

    /// Admits a session whose login has passed every check, after ending the one that it replaces.
    pub(crate) async fn admit(&self, connection: &Rc<HostConnection>, request: SessionRequest) {
        let subject = request.subject;
        if subject.session_type == SessionType::Normal {
            let key = SessionKey::of(&subject);
            loop {
                let twin = self.sessions.borrow().twin(&key).map(|session| session.connection.clone());
                let Some(twin) = twin else { break };
                // RFC 7143, 6.3.5: the old session's tasks have ended before the new one begins.
                twin.close();
                twin.wait_over().await;
                self.shard.yield_now().await;
            }
        }
        if connection.core().borrow().is_closing() {
            return;
        }
        let Some(port) = self.port(subject.portal_group) else {
            return connection.refuse(LoginStatus::TargetError);
        };
        let Some(tsih) = self.sessions.borrow_mut().free_handle() else {
            return connection.refuse(LoginStatus::OutOfResources);
        };
        let nexus = (subject.session_type == SessionType::Normal).then(|| {
            let initiator = InitiatorPort { name: subject.initiator.to_string(), isid: subject.isid.0 };
            let map = self.lun_map(subject.initiator.as_str());
            self.device.borrow_mut().open_nexus(initiator, port, map)
        });
        let initiator = subject.initiator.clone();
        let kind = subject.session_type;
        self.logins.set(self.logins.get() - 1);
        self.sessions.borrow_mut().insert(tsih, Session { subject, nexus, connection: connection.clone() });
        connection.admit(tsih, nexus);
        tracing::info!(%initiator, host = %connection.stream().peer_address(), tsih, ?kind, "session opened");
        self.events.note("session", &tsih.to_string(), &format!("opened by {initiator}"));
    }
}
