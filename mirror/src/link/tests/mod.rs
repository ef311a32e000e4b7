//! Sessions in the simulator.

mod chaos;
mod hostile;
mod sessions;

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use twinlun_block::{ByteRange, Payload};
use twinlun_io::sim::{Process, World, WorldOptions};

use super::*;

const PORT: u16 = 7400;
const EAST: [u8; 4] = [10, 0, 0, 1];
const WEST: [u8; 4] = [10, 0, 0, 2];

/// Long enough for everything that the default timing allows.
const LONG: Duration = Duration::from_secs(120);

fn key() -> LinkKey {
    LinkKey::new(b"a key for tests only".to_vec()).expect("long enough")
}

fn config(unit: &str, peers: &[(&str, [u8; 4])]) -> LinkConfig {
    let peer = |&(unit, ip): &(&str, [u8; 4])| PeerConfig {
        unit: unit.to_owned(),
        addresses: vec![SocketAddr::new(IpAddr::from(ip), PORT)],
    };
    LinkConfig {
        unit: unit.to_owned(),
        listen: Some(SocketAddr::new(IpAddr::from([0, 0, 0, 0]), PORT)),
        key: key(),
        peers: peers.iter().map(peer).collect(),
        timing: Timing::default(),
        limits: Limits::default(),
    }
}

/// Answers with what it was sent, holds requests back while its gate is closed, and checks L2 at every step.
struct Echo {
    gate: Rc<Watched<bool>>,
    open: RefCell<BTreeMap<Rc<str>, u64>>,
    running: Rc<Cell<usize>>,
    most: Cell<usize>,
    opened: Watched<usize>,
    closed: Watched<usize>,
}

impl Echo {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            gate: Rc::new(Watched::new(true)),
            open: RefCell::default(),
            running: Rc::default(),
            most: Cell::new(0),
            opened: Watched::new(0),
            closed: Watched::new(0),
        })
    }

    async fn wait_running(&self, shard: &Shard, count: usize) {
        while self.running.get() != count {
            shard.sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Handler for Echo {
    fn session_opened(&self, peer: &Rc<str>, session: u64) {
        let other = self.open.borrow_mut().insert(Rc::clone(peer), session);
        assert_eq!(other, None, "L2: another session of {peer} is open");
        assert_eq!(self.running.get(), 0, "L2: requests of a former session still run");
        self.opened.update(|count| *count += 1);
    }

    fn handle(&self, peer: &Rc<str>, session: u64, request: Request) -> LocalBoxFuture<'static, Response> {
        assert_eq!(
            self.open.borrow().get(peer),
            Some(&session),
            "L2: a request of a session that is not open"
        );
        let running = Rc::clone(&self.running);
        running.set(running.get() + 1);
        self.most.set(self.most.get().max(running.get()));
        let gate = Rc::clone(&self.gate);
        Box::pin(async move {
            gate.wait_for(|open| *open).await;
            running.set(running.get() - 1);
            match request {
                Request::Control(message) => Response::Control(message),
                Request::Data(data) => match data.op {
                    DataOp::Read => Response::Data(DataStatus::Done, pattern(data.range)),
                    DataOp::Write { payload, .. } if payload != pattern(data.range) => {
                        Response::Data(DataStatus::NotAttached, Payload::new())
                    }
                    _ => Response::Data(DataStatus::Done, Payload::new()),
                },
            }
        })
    }

    fn session_closed(&self, peer: &Rc<str>, session: u64) {
        assert_eq!(self.open.borrow_mut().remove(peer), Some(session));
        assert_eq!(self.running.get(), 0, "L2: closed while requests run");
        self.closed.update(|count| *count += 1);
    }
}

/// Data that tells where it belongs.
fn pattern(range: ByteRange) -> Payload {
    let word = |at: u64| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    (range.offset()..range.end()).map(word).collect::<Vec<u8>>().into()
}

fn data(range: ByteRange, op: DataOp) -> Request {
    Request::Data(DataRequest { image: [7; 16], lu: 2, epoch: 3, range, copy: false, op })
}

fn write(offset: u64, len: u64) -> Request {
    let range = ByteRange::new(offset, len);
    data(range, DataOp::Write { payload: pattern(range), stable: true })
}

/// Makes a request and says whether its answer was right, or why there was none.
async fn ask(session: &Session, request: Request) -> Result<(), LinkLost> {
    let response = session.request(request.clone()).await?;
    let right = match request {
        Request::Control(message) => Response::Control(message),
        Request::Data(DataRequest { op: DataOp::Read, range, .. }) => {
            Response::Data(DataStatus::Done, pattern(range))
        }
        Request::Data(_) => Response::Data(DataStatus::Done, Payload::new()),
    };
    assert_eq!(response, right);
    Ok(())
}

fn control(text: &'static str) -> Request {
    Request::Control(Bytes::from_static(text.as_bytes()))
}

/// A unit: its process, what handles requests, its link.
struct Unit {
    process: Process,
    echo: Rc<Echo>,
    link: Link,
}

impl Unit {
    async fn start(world: &twinlun_io::sim::WorldHandle, ip: [u8; 4], config: LinkConfig) -> Self {
        let process = world.process(&config.unit, ip.into());
        let echo = Echo::new();
        let handler: Rc<dyn Handler> = echo.clone();
        let link = Link::start(&process.shard(), config, handler).await.expect("starts");
        Self { process, echo, link }
    }

    fn peer(&self, unit: &str) -> Peer {
        self.link.peer(unit).expect("configured")
    }
}

/// Runs a test with two units that know each other.
fn with_pair(seed: u64, test: impl AsyncFnOnce(&World, Unit, Unit)) {
    with_units(seed, config("east", &[("west", WEST)]), config("west", &[("east", EAST)]), test);
}

fn with_units(seed: u64, east: LinkConfig, west: LinkConfig, test: impl AsyncFnOnce(&World, Unit, Unit)) {
    let world = World::new(seed, WorldOptions::default());
    let done = world.run(async {
        let east = Unit::start(&world, EAST, east).await;
        let west = Unit::start(&world, WEST, west).await;
        test(&world, east, west).await;
    });
    done.expect("the test ends");
}

/// Waits until the peer's status is as wanted.
async fn until(world: &World, peer: &Peer, wanted: impl FnMut(&PeerStatus) -> bool) -> PeerStatus {
    if world.shard().timeout(LONG, peer.wait_status(wanted)).await.is_err() {
        panic!("at {:?} the peer still is {:?}", world.now(), peer.status());
    }
    peer.status()
}

async fn unreachable(world: &World, peer: &Peer) -> PeerStatus {
    until(world, peer, |status| status.reachability == Reachability::Unreachable).await
}

async fn session(world: &World, peer: &Peer) -> Session {
    match world.shard().timeout(LONG, peer.wait_session()).await {
        Ok(session) => session,
        Err(_) => panic!("no session, but {:?}", peer.status()),
    }
}
