//! A host, a target and the wires between them, in virtual time.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use twinlun_block::Payload;

use crate::initiator::multi::{LinkId, MultiEvent, MultiInitiator};
use crate::initiator::{Command, Completion, InitiatorConfig, InitiatorError, SessionKind, Transfer};
use crate::login::LoginStatus;
use crate::names::IscsiName;
use crate::negotiate::Parameters;
use crate::pdu::{BHS_LEN, Bhs, Cdb, Cid, Isid, Lun, Opcode};
use crate::target::{
    Access, ConnectionConfig, ConnectionId, Directory, Event, Handshake, LoginSubject, ScsiCommand,
    ScsiResponse, Session, TargetRecord, Tsih,
};

const TARGET: &str = "iqn.2026-11.io.twinlun:east";

/// Small pseudo-random numbers (xorshift64*).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound.max(1)
    }

    pub(super) fn one_in(&mut self, count: usize) -> bool {
        count > 0 && self.below(count) == 0
    }
}

/// How bad the wires are: one in so many PDUs; 0 is never.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trouble {
    pub(super) drop: usize,
    pub(super) corrupt: usize,
    pub(super) cut: usize,
}

/// One direction of a connection, cut into PDUs.
#[derive(Default)]
struct Wire {
    /// What was sent and is not a whole PDU yet.
    raw: Vec<u8>,
    pdus: VecDeque<Vec<u8>>,
    /// Digests in force, once full feature phase has begun.
    digests: Option<(bool, bool)>,
}

impl Wire {
    fn put(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
        while let Some(header) = self.raw.first_chunk::<BHS_LEN>() {
            let bhs = Bhs(*header);
            let (header_digest, data_digest) = self.digests.unwrap_or((false, false));
            let data = bhs.data_len().get();
            let mut len = BHS_LEN + bhs.ahs_len() + if header_digest { 4 } else { 0 };
            len += data.next_multiple_of(4) + if data_digest && data > 0 { 4 } else { 0 };
            if self.raw.len() < len {
                return;
            }
            let rest = self.raw.split_off(len);
            self.pdus.push_back(std::mem::replace(&mut self.raw, rest));
        }
    }
}

enum Far {
    Handshake(Box<Handshake>),
    Session(ConnectionId),
    Gone,
}

struct Line {
    link: LinkId,
    cid: u16,
    to_target: Wire,
    to_host: Wire,
    far: Far,
    /// The host's end is up.
    near: bool,
}

struct Fixture<'a>(Option<&'a Session>);

impl Directory for Fixture<'_> {
    fn access(&self, _: &LoginSubject) -> Result<Access, LoginStatus> {
        Ok(Access::open())
    }

    fn session(&self, _: &LoginSubject, tsih: Tsih) -> Option<Parameters> {
        self.0.filter(|session| session.tsih() == tsih && !session.is_over()).map(|s| *s.parameters())
    }

    fn targets(&self, _: &IscsiName) -> Vec<TargetRecord> {
        Vec::new()
    }
}

/// What the target stores, and how often each command did something.
#[derive(Default)]
pub(super) struct Store {
    pub(super) data: BTreeMap<u64, Payload>,
    pub(super) executed: BTreeMap<u64, u32>,
}

pub(super) struct World {
    pub(super) now: Duration,
    pub(super) dice: Dice,
    pub(super) trouble: Trouble,
    pub(super) host: MultiInitiator,
    pub(super) session: Option<Session>,
    /// The first connection that was admitted.
    pub(super) lead: Option<ConnectionId>,
    config: ConnectionConfig,
    lines: Vec<Line>,
    /// Delivered and not answered.
    pub(super) work: Vec<ScsiCommand>,
    pub(super) functions: Vec<u32>,
    pub(super) store: Store,
    /// Connections to be made, by CID, and when.
    reconnect: BTreeMap<u16, Duration>,
    pub(super) completed: Vec<Completion>,
    pub(super) events: Vec<MultiEvent>,
    pub(super) over: bool,
    /// Commands are not answered while this holds.
    pub(super) hold: bool,
    pub(super) cuts: u32,
    pub(super) trace: bool,
}

pub(super) fn offer(level: u8, links: u16) -> Parameters {
    Parameters {
        data_digest: true,
        initial_r2t: false,
        initiator_max_recv: 1024,
        max_burst: 4096,
        first_burst: 2048,
        max_outstanding_r2t: 3,
        time2wait: 0,
        time2retain: 20,
        max_connections: links,
        error_recovery: level,
        data_sequence_in_order: false,
        ..Parameters::default()
    }
}

/// A write of `len` bytes at `place`, named by `id`; or a read.
pub(super) fn command(id: u64, write: bool, place: u64, len: usize) -> Command {
    let mut cdb = [0; 16];
    cdb[0] = if write { 0x8a } else { 0x88 };
    cdb[1] = place as u8;
    cdb[2..10].copy_from_slice(&id.to_be_bytes());
    cdb[10..14].copy_from_slice(&(len as u32).to_be_bytes());
    let transfer = if write { Transfer::Write(contents(id, len)) } else { Transfer::Read(len as u32) };
    Command::new(id, Lun::ZERO, Cdb::from(cdb), transfer)
}

pub(super) fn contents(id: u64, len: usize) -> Payload {
    (0..len).map(|at| (at as u64 * 31 + id * 7 + at as u64 / 251) as u8).collect::<Vec<_>>().into()
}

impl World {
    pub(super) fn new(seed: u64, offer: Parameters, change: impl FnOnce(&mut ConnectionConfig)) -> Self {
        let mut config = ConnectionConfig::new("10.0.0.1:3260".parse().unwrap(), 1);
        config.policy.max_recv_data_segment = 1024;
        config.policy.time2wait = 0;
        config.limits.queue_depth = 16;
        config.limits.solicited = 32 << 10;
        change(&mut config);
        let session = SessionKind::Normal { target: TARGET.parse().unwrap() };
        let name = "iqn.2026-11.io.twinlun:host".parse().unwrap();
        let mut initiator = InitiatorConfig::new(name, Isid::random([1, 2, 3], 4), session);
        initiator.offer = offer;
        initiator.receive_chunk = 4096;
        let (host, lead) = MultiInitiator::new(initiator).unwrap();
        let mut world = Self {
            now: Duration::from_secs(10),
            dice: Dice::new(seed),
            trouble: Trouble::default(),
            host,
            session: None,
            lead: None,
            config,
            lines: Vec::new(),
            work: Vec::new(),
            functions: Vec::new(),
            store: Store::default(),
            reconnect: BTreeMap::new(),
            completed: Vec::new(),
            events: Vec::new(),
            over: false,
            hold: false,
            cuts: 0,
            trace: std::env::var("TRACE").is_ok(),
        };
        world.plug(lead, 0);
        world
    }

    fn plug(&mut self, link: LinkId, cid: u16) {
        let handshake = Handshake::new(self.config.clone(), [7; 32], self.now);
        let far = Far::Handshake(Box::new(handshake));
        self.lines.push(Line {
            link,
            cid,
            to_target: Wire::default(),
            to_host: Wire::default(),
            far,
            near: true,
        });
    }

    /// One more connection.
    pub(super) fn connect(&mut self, cid: u16) -> LinkId {
        let link = self.host.connect(Cid(cid), self.now).unwrap();
        self.plug(link, cid);
        link
    }

    pub(super) fn link_of(&self, cid: u16) -> Option<LinkId> {
        self.lines.iter().rfind(|line| line.cid == cid && line.near).map(|line| line.link)
    }

    /// The host's end breaks now; the target may hear of it later.
    pub(super) fn cut(&mut self, link: LinkId, target_hears: bool) {
        self.cuts += 1;
        self.host.lost(link, self.now);
        let Some(line) = self.lines.iter_mut().find(|line| line.link == link) else { return };
        line.near = false;
        line.to_host = Wire::default();
        line.to_target = Wire::default();
        if target_hears {
            self.hear(link);
        }
    }

    /// The target's end is over.
    fn hear(&mut self, link: LinkId) {
        let Some(line) = self.lines.iter_mut().find(|line| line.link == link) else { return };
        if let (Far::Session(id), Some(session)) = (&line.far, &mut self.session) {
            session.release(*id, self.now);
        }
        line.far = Far::Gone;
    }

    /// Everything that can happen without time passing; `false` when nothing could.
    pub(super) fn step(&mut self) -> bool {
        let mut busy = self.transmit();
        let order: Vec<LinkId> = self.lines.iter().map(|line| line.link).collect();
        for link in order {
            busy |= self.carry(link, true);
            busy |= self.carry(link, false);
        }
        busy |= self.serve();
        busy |= self.listen();
        let due: Vec<u16> =
            self.reconnect.iter().filter(|(_, at)| **at <= self.now).map(|(cid, _)| *cid).collect();
        for cid in due {
            self.reconnect.remove(&cid);
            self.connect(cid);
            busy = true;
        }
        self.lines.retain(|line| line.near || !matches!(line.far, Far::Gone));
        busy
    }

    /// Runs until nothing moves any more; then time passes to the next limit. Ends when `done` says so.
    pub(super) fn run(&mut self, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..400_000 {
            if done(self) {
                return;
            }
            if self.step() {
                self.now += Duration::from_millis(1);
                continue;
            }
            let session = self.session.as_ref().and_then(Session::next_timeout);
            let reconnect = self.reconnect.values().min().copied();
            let next = [self.host.next_timeout(), session, reconnect].into_iter().flatten().min();
            let Some(next) = next else { panic!("nothing will ever happen: {}", self.describe()) };
            self.now = self.now.max(next);
            self.host.on_timeout(self.now);
            if let Some(session) = &mut self.session {
                session.on_timeout(self.now);
            }
        }
        panic!("no end: {}", self.describe());
    }

    pub(super) fn describe(&self) -> String {
        format!(
            "at {:?}, {} unfinished, {} links open, {} in work, target {:#?}, host {:#?}",
            self.now,
            self.host.outstanding(),
            self.host.open_links(),
            self.work.len(),
            self.session,
            self.host,
        )
    }

    fn transmit(&mut self) -> bool {
        let mut busy = false;
        for line in &mut self.lines {
            for bytes in self.host.transmit(line.link) {
                busy = true;
                if line.near {
                    line.to_target.put(&bytes);
                }
            }
            let mut send = |bytes: bytes::Bytes| {
                busy = true;
                if line.near {
                    line.to_host.put(&bytes);
                }
            };
            match &mut line.far {
                Far::Handshake(handshake) => handshake.transmit(&mut send),
                Far::Session(id) => {
                    if let Some(session) = &mut self.session {
                        session.transmit(*id, &mut send);
                    }
                }
                Far::Gone => {}
            }
        }
        busy
    }

    /// Brings one PDU, or a piece of the stream, to one end.
    fn carry(&mut self, link: LinkId, to_target: bool) -> bool {
        let full = {
            let Some(line) = self.lines.iter().find(|line| line.link == link) else { return false };
            line.near && matches!(line.far, Far::Session(_)) && line.to_host.digests.is_some()
        };
        let Some(line) = self.lines.iter_mut().find(|line| line.link == link) else { return false };
        let wire = if to_target { &mut line.to_target } else { &mut line.to_host };
        let Some(mut pdu) = wire.pdus.pop_front() else { return false };
        let opcode = Bhs(*pdu.first_chunk().unwrap()).opcode();
        let login = matches!(opcode, Opcode::LOGIN_REQUEST | Opcode::LOGIN_RESPONSE);
        if full && !login {
            if self.dice.one_in(self.trouble.cut) {
                let hears = self.dice.one_in(2);
                if self.trace {
                    eprintln!("{:?} cut {link:?}, target hears: {hears}", self.now);
                }
                self.cut(link, hears);
                return true;
            }
            if self.dice.one_in(self.trouble.drop) {
                if self.trace {
                    eprintln!("{:?} drop {:?} {link:?}", self.now, Bhs(*pdu.first_chunk().unwrap()));
                }
                return true;
            }
            let data = Bhs(*pdu.first_chunk().unwrap()).data_len().get();
            if data > 0 && self.dice.one_in(self.trouble.corrupt) {
                let at = pdu.len() - 4 - data.next_multiple_of(4) + self.dice.below(data);
                pdu[at] ^= 1 << self.dice.below(8);
                if self.trace {
                    eprintln!("{:?} damage {:?} {link:?}", self.now, Bhs(*pdu.first_chunk().unwrap()));
                }
            }
        }
        if to_target {
            self.deliver_to_target(link, &pdu);
        } else {
            self.deliver_to_host(link, &pdu);
        }
        true
    }

    fn deliver_to_target(&mut self, link: LinkId, bytes: &[u8]) {
        let Some(line) = self.lines.iter_mut().find(|line| line.link == link) else { return };
        match &mut line.far {
            Far::Handshake(handshake) => {
                handshake.buffer().extend_from_slice(bytes);
                handshake.received(self.now, &Fixture(self.session.as_ref()));
            }
            Far::Session(id) => {
                let Some(session) = &mut self.session else { return };
                let mut rest = bytes;
                while !rest.is_empty() {
                    let buffer = session.buffer(*id);
                    let room = (buffer.capacity() - buffer.len()).min(rest.len());
                    buffer.extend_from_slice(&rest[..room]);
                    rest = &rest[room..];
                    session.received(*id, self.now, &Fixture(None));
                }
            }
            Far::Gone => {}
        }
    }

    fn deliver_to_host(&mut self, link: LinkId, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some(buffer) = self.host.buffer(link) else { return };
            let room = (buffer.capacity() - buffer.len()).min(rest.len());
            buffer.extend_from_slice(&rest[..room]);
            rest = &rest[room..];
            self.host.received(link, self.now);
        }
    }

    /// The storage processor's part.
    fn serve(&mut self) -> bool {
        let mut busy = false;
        for at in 0..self.lines.len() {
            busy |= self.admit(at);
        }
        let Some(session) = &mut self.session else { return busy };
        while let Some(event) = session.poll_event() {
            busy = true;
            match event {
                Event::Command(command) => self.work.push(command),
                Event::TaskManagement(management) => self.functions.push(management.tag),
                Event::Terminate(ends) => {
                    for end in ends {
                        self.work.retain(|command| command.tag != end.tag);
                        session.abandon(end.tag);
                    }
                }
                Event::Closed(_) => {
                    self.over = true;
                    self.work.clear();
                }
                Event::SessionReady(_) => unreachable!("handshakes say this"),
            }
        }
        let closing: Vec<LinkId> = self
            .lines
            .iter()
            .filter(|line| matches!(line.far, Far::Session(id) if session.is_closing(id)))
            .filter(|line| {
                let sent = matches!(line.far, Far::Session(id) if !session.wants_transmit(id));
                sent && line.to_host.pdus.is_empty()
            })
            .map(|line| line.link)
            .collect();
        for link in closing {
            busy = true;
            self.hear(link);
            self.cuts += 1;
            self.host.lost(link, self.now);
            if let Some(line) = self.lines.iter_mut().find(|line| line.link == link) {
                line.near = false;
            }
        }
        if !self.work.is_empty() && !self.hold && self.dice.one_in(2) {
            busy = true;
            let command = self.work.swap_remove(self.dice.below(self.work.len()));
            self.execute(&command);
        }
        busy || (!self.work.is_empty() && !self.hold)
    }

    fn execute(&mut self, command: &ScsiCommand) {
        let cdb = &command.cdb;
        let id = u64::from_be_bytes(cdb[2..10].try_into().unwrap());
        let len = u32::from_be_bytes(cdb[10..14].try_into().unwrap()) as usize;
        let place = u64::from(cdb[1]);
        *self.store.executed.entry(id).or_default() += 1;
        let response = if cdb[0] == 0x8a {
            assert_eq!(command.data_out, contents(id, len), "the data of write {id}");
            self.store.data.insert(place, command.data_out.clone());
            ScsiResponse::written(len as u64)
        } else {
            let stored = self.store.data.get(&place).cloned().unwrap_or_else(|| contents(id, len));
            ScsiResponse::data(stored.slice(0, len.min(stored.len())))
        };
        if let Some(session) = &mut self.session {
            session.respond(command.tag, response);
        }
    }

    /// Answers a login that waits for it.
    fn admit(&mut self, at: usize) -> bool {
        let line = &mut self.lines[at];
        let Far::Handshake(handshake) = &mut line.far else { return false };
        let Some(Event::SessionReady(request)) = handshake.poll_event() else { return false };
        let (link, cid, joins) = (line.link, request.cid, request.tsih.is_some());
        if joins {
            // What still has the CID is logged out by this login.
            if let Some(session) = &mut self.session {
                session.reinstate(cid, self.now);
            }
            let old: BTreeSet<LinkId> = self
                .lines
                .iter()
                .filter(|line| line.cid == cid && line.link != link)
                .map(|line| line.link)
                .collect();
            for old in old {
                self.hear(old);
            }
        }
        let line = &mut self.lines[at];
        let Far::Handshake(handshake) = std::mem::replace(&mut line.far, Far::Gone) else { return false };
        let admitted = match &mut self.session {
            Some(session) if joins => match session.join(*handshake, self.now, &Fixture(None)) {
                Ok(id) => Some(id),
                Err(mut handshake) => {
                    handshake.refuse(LoginStatus::TooManyConnections);
                    line.far = Far::Handshake(handshake);
                    return true;
                }
            },
            _ => Session::open(*handshake, Tsih::new(9).unwrap(), self.now, &Fixture(None)).map(
                |(session, id)| {
                    self.session = Some(session);
                    id
                },
            ),
        };
        let Some(id) = admitted else { return true };
        self.lead.get_or_insert(id);
        // The last Login Response is sent by the old rules, all else by the new ones.
        let mut first = Vec::new();
        if let Some(session) = &mut self.session {
            session.transmit(id, |bytes| first.extend_from_slice(&bytes));
            let parameters = session.parameters_of(id);
            let digests = (parameters.header_digest, parameters.data_digest);
            let len = BHS_LEN + Bhs(*first.first_chunk().unwrap()).data_len().get().next_multiple_of(4);
            line.to_host.put(&first[..len]);
            line.to_host.digests = Some(digests);
            line.to_target.digests = Some(digests);
            line.to_host.put(&first[len..]);
        }
        line.far = Far::Session(id);
        true
    }

    /// What the host hears.
    fn listen(&mut self) -> bool {
        let mut busy = false;
        while let Some(event) = self.host.poll_event() {
            busy = true;
            if self.trace {
                eprintln!("{:?} {event:?}", self.now);
            }
            match event {
                MultiEvent::Completed(completion) => self.completed.push(completion),
                MultiEvent::LinkLost { id, cid, retry_at, ref error } => {
                    let refused = matches!(error, Some(InitiatorError::Login(_)));
                    let harmed = self.trouble.drop > 0 || self.trouble.cut > 0;
                    assert!(error.is_none() || refused || harmed, "{error:?}");
                    if let Some(line) = self.lines.iter_mut().find(|line| line.link == id)
                        && line.near
                    {
                        line.near = false;
                        self.hear(id);
                    }
                    if let Some(at) = retry_at {
                        self.reconnect.insert(cid.0, at);
                    }
                    self.events.push(event);
                }
                other => self.events.push(other),
            }
        }
        busy
    }
}
