//! A storage processor in the simulated world, hosts that log in, and orders of administrators.

mod commands;
mod isns;
mod multi;
mod portals;
mod recovery;
mod sessions;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use twinlun_api as api;
use twinlun_io::sim::{Process, World, WorldOptions};
use twinlun_io::{Shard, Stream};
use twinlun_iscsi::chap::{Algorithm, Secret};
use twinlun_iscsi::initiator::{
    ChapLogin, Command, DiscoveredTarget, Event, Initiator, InitiatorConfig, InitiatorError, LoginError,
    MutualChap, SessionKind, Submitted, Transfer, cdb,
};
use twinlun_iscsi::pdu::{AsyncMessage, Isid, LoginStatus, LogoutReason, Lun};

use crate::admin::{Answer, Order};
use crate::config::{ChapConfig, Config, DiskConfig, EngineName, Limits, PortalConfig};
use crate::processor::Processor;

const HOST: &str = "iqn.1993-08.org.debian:01:host";
const OTHER: &str = "iqn.1993-08.org.debian:01:other";
const TARGET: &str = "iqn.2026-11.io.twinlun:east";
const UNIT_IP: [u8; 4] = [10, 0, 0, 1];
const LONG: Duration = Duration::from_secs(300);

fn portal(port: u16) -> SocketAddr {
    SocketAddr::from((UNIT_IP, port))
}

fn config() -> Config {
    let disk = |n| DiskConfig { path: format!("east/{n}").into(), size: Some(128 << 20) };
    Config {
        unit: "east".into(),
        busy_poll: Duration::ZERO,
        sp: 'a',
        state_dir: "east".into(),
        disks: (0..2).map(disk).collect(),
        portals: vec![PortalConfig::new(portal(3260), 1), PortalConfig::new(portal(3261), 2)],
        chap: ChapConfig::default(),
        isns: None,
        link: None,
        admin_socket: "admin.sock".into(),
        engine: EngineName::Auto,
        limits: Limits::default(),
        accept_half: false,
    }
}

/// A running unit and where hosts live.
struct Lab {
    processor: Rc<Processor>,
    shard: Shard,
    hosts: Process,
}

/// Runs a test against a unit with this configuration and a LU `db` that nobody sees yet.
fn with_unit(config: Config, test: impl AsyncFnOnce(&World, &Lab)) {
    with_unit_of(11, config, test);
}

/// The same in another world.
fn with_unit_of(seed: u64, config: Config, test: impl AsyncFnOnce(&World, &Lab)) {
    let world = World::new(seed, WorldOptions::default());
    let done = world.run(async {
        let shard = world.process("east", UNIT_IP.into()).shard();
        let hosts = world.process("hosts", [10, 0, 1, 1].into());
        let processor = Processor::start(shard.clone(), config, None).await.expect("starts");
        let lab = Lab { processor, shard, hosts };
        lab.obey(lu("db")).await.expect("a LU");
        test(&world, &lab).await;
    });
    done.expect("the test ends");
}

fn lu(name: &str) -> Order {
    let fields = serde_json::json!({"name": name, "size": 8 << 20, "raid": "1"});
    Order::CreateLu(serde_json::from_value(fields).expect("an order"))
}

fn chap(user: &str, secret: &str) -> api::ChapSecret {
    api::ChapSecret { user: user.into(), secret: secret.into() }
}

impl Lab {
    async fn obey(&self, order: Order) -> Answer {
        self.processor.obey(order, false).await
    }

    /// Makes a host known that sees the LU as LUN 0.
    async fn add_host(&self, iqn: &str, chap: Option<api::ChapSecret>, groups: &[u16]) {
        let host = api::AddHost { iqn: iqn.into(), chap, mutual: None, groups: groups.to_vec() };
        self.obey(Order::AddHost(host)).await.expect("a host");
        let map = api::MapLu { host: iqn.into(), lun: Some(0) };
        self.obey(Order::MapLu { name: "db".into(), map }).await.expect("mapped");
    }

    async fn portals(&self) -> Vec<Value> {
        let answer = self.obey(Order::ListPortals).await.expect("portals");
        answer["items"].as_array().expect("a list").clone()
    }

    /// Waits until the first portal is in this state.
    async fn until_portal(&self, state: &str) {
        let reached = async {
            while self.portals().await[0]["state"] != state {
                self.shard.sleep(Duration::from_millis(20)).await;
            }
        };
        let reached = self.shard.timeout(LONG, reached).await;
        assert!(reached.is_ok(), "the portal becomes {state}: {:?}", self.portals().await);
    }

    /// Logs a host in for commands.
    async fn log_in(&self, host: &str, at: SocketAddr) -> Result<Host, InitiatorError> {
        self.log_in_as(host, at, Some(TARGET), |_| {}).await
    }

    /// Logs in; without a target for discovery.
    async fn log_in_as(
        &self,
        host: &str,
        at: SocketAddr,
        target: Option<&str>,
        change: impl FnOnce(&mut InitiatorConfig),
    ) -> Result<Host, InitiatorError> {
        let session = match target {
            Some(target) => SessionKind::Normal { target: target.parse().expect("a name") },
            None => SessionKind::Discovery,
        };
        let isid = Isid([0x80, 0, 0, 0, 0, at.port() as u8]);
        let mut config = InitiatorConfig::new(host.parse().expect("a name"), isid, session);
        change(&mut config);
        let stream = self.hosts.shard().connect(at).await.expect("the portal is open");
        let mut host = Host { initiator: Initiator::new(config)?, stream };
        match host.event().await? {
            Event::LoggedIn => Ok(host),
            other => panic!("no login: {other:?}"),
        }
    }

    /// What a discovery session finds.
    async fn discover(&self, host: &str, at: SocketAddr) -> Vec<DiscoveredTarget> {
        let mut host = self.log_in_as(host, at, None, |_| {}).await.expect("discovery");
        assert_eq!(host.initiator.send_targets(1, "All"), Submitted::Accepted);
        match host.event().await.expect("an answer") {
            Event::Targets { targets, .. } => targets,
            other => panic!("{other:?}"),
        }
    }
}

/// A host's session.
struct Host {
    initiator: Initiator,
    stream: Stream,
}

impl Host {
    async fn send(&mut self) {
        let out: Vec<u8> = self.initiator.transmit().flat_map(|bytes| bytes.to_vec()).collect();
        if !out.is_empty() {
            let _ = self.stream.send_all(&out.into()).await;
        }
    }

    /// What happens next, or `None` when the unit has closed the connection.
    async fn next(&mut self) -> Result<Option<Event>, InitiatorError> {
        loop {
            if let Some(event) = self.initiator.poll_event() {
                return Ok(Some(event));
            }
            self.send().await;
            match self.stream.recv(self.initiator.buffer()).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => self.initiator.received()?,
            }
        }
    }

    async fn event(&mut self) -> Result<Event, InitiatorError> {
        Ok(self.next().await?.expect("the unit says something"))
    }

    async fn message(&mut self) -> AsyncMessage {
        match self.event().await.expect("no violation") {
            Event::Async(message) => message,
            other => panic!("{other:?}"),
        }
    }

    /// TEST UNIT READY: the sense code of an error, if there is one.
    async fn ready(&mut self) -> Option<(u8, u8, u8)> {
        let command = Command::new(1, Lun::ZERO, cdb::test_unit_ready(), Transfer::None);
        assert_eq!(self.initiator.submit(command), Submitted::Accepted);
        match self.event().await.expect("no violation") {
            Event::Completed(completion) if completion.is_good() => None,
            Event::Completed(completion) => {
                let sense = &completion.sense;
                Some((sense[2] & 0x0f, sense[12], sense[13]))
            }
            other => panic!("{other:?}"),
        }
    }

    async fn log_out(mut self) {
        assert_eq!(self.initiator.logout(9, LogoutReason::CLOSE_SESSION), Submitted::Accepted);
        assert!(matches!(self.event().await, Ok(Event::LoggedOut { .. })));
    }
}

fn refused(error: Result<Host, InitiatorError>) -> LoginError {
    match error {
        Err(InitiatorError::Login(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("logged in"),
    }
}
