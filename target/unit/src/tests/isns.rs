//! Registration with iSNS servers: a small server in the same world, and one that is not there.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;

use bytes::BytesMut;
use twinlun_iscsi::isns::{
    AttributeWriter, Function, Message, MessageReader, Sender, Status, Tag, attributes,
};

use super::*;
use crate::config::IsnsConfig;

const SERVER_IP: [u8; 4] = [10, 0, 2, 1];
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 2, 1)), 3205);

/// What a server has been told, and how it behaves.
#[derive(Default)]
struct Server {
    /// Portals with their groups and notification ports.
    portals: RefCell<BTreeMap<SocketAddr, (u16, u16)>>,
    registrations: Cell<usize>,
    replacements: Cell<usize>,
    notified: Cell<bool>,
    /// Statuses that the next registrations get, in place of success.
    refusals: RefCell<Vec<u32>>,
    period: Cell<u32>,
}

impl Server {
    fn start(process: &Process) -> Rc<Self> {
        let server = Rc::new(Self::default());
        let (this, shard) = (server.clone(), process.shard());
        process.spawn(async move {
            let listener = shard.listen(SERVER).await.expect("listens");
            while let Ok(stream) = listener.accept().await {
                let this = this.clone();
                shard.spawn(async move { this.serve(stream).await });
            }
        });
        server
    }

    async fn serve(self: Rc<Self>, stream: Stream) {
        let mut reader = MessageReader::default();
        while let Some(request) = receive(&stream, &mut reader).await {
            let mut payload = AttributeWriter::with_status(Status(self.take(&request)));
            if request.function == Function::REGISTER && self.period.get() > 0 {
                payload = payload.delimiter().number(Tag::REGISTRATION_PERIOD, self.period.get());
            }
            let function = request.function.response();
            let answer = Message { function, payload: payload.finish(), replace: false, ..request };
            let _ = stream.send_all(&answer.encode(Sender::Server).into()).await;
        }
    }

    fn take(&self, request: &Message) -> u32 {
        let found = attributes(&request.payload).expect("well-formed");
        match request.function {
            Function::REGISTER => {
                if !self.refusals.borrow().is_empty() {
                    return self.refusals.borrow_mut().remove(0);
                }
                self.registrations.set(self.registrations.get() + 1);
                let mut portals = self.portals.borrow_mut();
                if request.replace {
                    self.replacements.set(self.replacements.get() + 1);
                    portals.clear();
                }
                let (mut at, mut group) = (None, 0);
                for attribute in found {
                    let number = attribute.number().unwrap_or_default() as u16;
                    match attribute.tag {
                        Tag::PORTAL_ADDRESS | Tag::GROUP_ADDRESS => at = attribute.address(),
                        Tag::PORTAL_PORT => {
                            let address = SocketAddr::new(at.take().expect("an address comes first"), number);
                            portals.entry(address).or_insert((1, 0));
                        }
                        Tag::NOTIFICATION_PORT => portals.values_mut().for_each(|portal| portal.1 = number),
                        Tag::GROUP => group = number,
                        Tag::GROUP_PORT => {
                            let address = SocketAddr::new(at.take().expect("an address comes first"), number);
                            portals.get_mut(&address).expect("a portal of this registration").0 = group;
                        }
                        _ => {}
                    }
                }
            }
            Function::NOTIFY_REGISTER => self.notified.set(true),
            Function::DEREGISTER => self.portals.borrow_mut().clear(),
            other => panic!("{other:?}"),
        }
        0
    }

    fn groups(&self) -> Vec<(u16, u16)> {
        self.portals.borrow().iter().map(|(address, (group, _))| (address.port(), *group)).collect()
    }
}

async fn receive(stream: &Stream, reader: &mut MessageReader) -> Option<Message> {
    loop {
        if let Some(message) = reader.next_message().expect("well-formed") {
            return Some(message);
        }
        let mut buffer = BytesMut::with_capacity(4096);
        match stream.recv(&mut buffer).await {
            Ok(n) if n > 0 => reader.push(&buffer).expect("not too long"),
            _ => return None,
        }
    }
}

fn config() -> Config {
    let isns = IsnsConfig {
        servers: vec![SERVER, SocketAddr::new(IpAddr::from([10, 0, 2, 2]), 3205)],
        entity: "east-a".into(),
        port: 0,
        registration_seconds: 60,
        inquiry_seconds: 30,
    };
    Config { isns: Some(isns), ..super::config() }
}

async fn until(lab: &Lab, what: &str, reached: impl Fn() -> bool) {
    let wait = async {
        while !reached() {
            lab.shard.sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(lab.shard.timeout(LONG, wait).await.is_ok(), "not in time: {what}");
}

#[test]
fn the_target_is_registered_refreshed_and_removed() {
    with_unit(config(), async |world, lab| {
        // The unit came first: it tries again until a server answers.
        lab.shard.sleep(Duration::from_secs(5)).await;
        let server = Server::start(&world.process("isns", SERVER_IP.into()));
        server.period.set(30);
        until(lab, "registered", || server.groups() == [(3260, 1), (3261, 2)]).await;
        until(lab, "notified", || server.notified.get()).await;
        let unit = lab.obey(Order::ShowUnit).await.expect("the unit");
        assert_eq!(unit["isns"][0]["state"], "registered", "{unit}");
        assert_eq!(
            unit["isns"][1]["state"], "failed",
            "a server that is not there stands in nobody's way: {unit}"
        );
        assert!(unit["isns"][1]["reason"].is_string());
        until(lab, "refreshed", || server.registrations.get() >= 3).await;
        assert_eq!(server.replacements.get(), 1, "a refresh takes nothing away");
        // A server that has lost its memory is told again.
        server.portals.borrow_mut().clear();
        until(lab, "registered again", || server.groups().len() == 2).await;
        // A portal that does not serve is not there.
        let drain = api::DrainPortal { seconds: 1 };
        lab.obey(Order::DrainPortal { address: portal(3260).to_string(), drain }).await.expect("drains");
        until(lab, "without the drained portal", || server.groups() == [(3261, 2)]).await;
        lab.obey(Order::ResumePortal { address: portal(3260).to_string() }).await.expect("serves");
        until(lab, "with it again", || server.groups().len() == 2).await;
        lab.processor.shutdown().await;
        assert!(server.groups().is_empty(), "gone before the process ends");
    });
}

#[test]
fn a_server_that_knows_less_gets_less() {
    with_unit(config(), async |world, lab| {
        let process = world.process("isns", SERVER_IP.into());
        let server = Server::start(&process);
        *server.refusals.borrow_mut() = vec![8, 23, 21];
        until(lab, "registered", || server.registrations.get() > 0).await;
        assert_eq!(server.groups(), [(3260, 1), (3261, 1)], "without portal groups");
        assert!(server.refusals.borrow().is_empty());
    });
}

#[test]
fn inquiries_are_answered_and_a_removal_leads_to_a_new_registration() {
    with_unit(config(), async |world, lab| {
        let process = world.process("isns", SERVER_IP.into());
        let server = Server::start(&process);
        until(lab, "notified", || server.notified.get()).await;
        let port = server.portals.borrow().values().next().expect("a portal").1;
        let stream = process.shard().connect(SocketAddr::from((UNIT_IP, port))).await.expect("it listens");
        let mut reader = MessageReader::default();
        let mut ask = async |function, payload: AttributeWriter| {
            let message = Message { function, transaction: 77, replace: false, payload: payload.finish() };
            stream.send_all(&message.encode(Sender::Server).into()).await.expect("sent");
            let answer = receive(&stream, &mut reader).await.expect("answered");
            assert_eq!((answer.transaction, answer.function), (77, function.response()));
            assert_eq!(answer.status().expect("a status").0, Status::SUCCESS);
        };
        let inquiry =
            || AttributeWriter::default().bytes(Tag::TIMESTAMP, &[0; 8]).text(Tag::ENTITY, "east-a");
        ask(Function::INQUIRY, inquiry()).await;
        let before = server.registrations.get();
        let removed = |node: &str| {
            let out = AttributeWriter::default().text(Tag::NAME, TARGET).bytes(Tag::TIMESTAMP, &[0; 8]);
            out.number(Tag::NOTIFICATIONS, 0x90).text(Tag::NAME, node)
        };
        ask(Function::NOTIFICATION, removed(HOST)).await;
        lab.shard.sleep(Duration::from_secs(10)).await;
        assert_eq!(server.registrations.get(), before, "a host's going is no reason");
        let asked = world.now();
        // However often it is said, it is answered by one registration in five seconds.
        for _ in 0..50 {
            ask(Function::NOTIFICATION, removed(TARGET)).await;
        }
        until(lab, "registered again", || server.registrations.get() > before).await;
        assert!(world.now().since_start() - asked.since_start() < Duration::from_secs(15));
        assert!(server.registrations.get() <= before + 3);
        assert_eq!(server.replacements.get(), 1);
        // Nobody else is listened to, and garbage ends the call.
        let stranger = lab.hosts.shard().connect(SocketAddr::from((UNIT_IP, port))).await.expect("connects");
        let mut buffer = BytesMut::with_capacity(64);
        assert!(!matches!(stranger.recv(&mut buffer).await, Ok(n) if n > 0), "closed without a word");
        stream.send_all(&vec![0xff; 64].into()).await.expect("sent");
        assert!(!matches!(stream.recv(&mut buffer).await, Ok(n) if n > 0), "closed without a word");
    });
}
