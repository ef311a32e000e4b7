//! Several connections per session and error recovery, over real sockets: the crate's own initiator against a real unit through a wire
//! that damages data and breaks connections. Nothing may be lost, and nothing may be done twice.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use twinlun_block::Payload;
use twinlun_iscsi::initiator::multi::{LinkId, MultiEvent, MultiInitiator};
use twinlun_iscsi::initiator::{Command, Completion, InitiatorConfig, SessionKind, Submitted, Transfer, cdb};
use twinlun_iscsi::negotiate::Parameters;
use twinlun_iscsi::pdu::{Cid, Isid, LogoutReason, LogoutResponseCode, Lun};

use crate::pair::single;
use crate::runner::{Case, Failure, Outcome, Verdict};
use crate::wire::{BadWire, Badness};

const SIZE: u64 = 64 << 20;
const BLOCK: usize = 512;
/// Connections of the session.
const LINKS: u16 = 4;
/// Commands under way.
const DEPTH: usize = 32;
/// Places for writes, each of this many blocks.
const SLOTS: u64 = 128;
const SLOT_BLOCKS: u32 = 96;
/// Blocks that are counted up by COMPARE AND WRITE, behind the slots.
const COUNTERS: u64 = 32;

/// The cases of this room.
pub(crate) fn cases() -> Vec<Case> {
    let case = |name, level, badness| {
        Case::new(name, Duration::from_secs(240), move |folder| run(folder, level, badness))
    };
    vec![
        case("recovery_level_0_with_four_connections", 0, Badness { damage: 0, cut: 0 }),
        case("recovery_level_1_on_a_wire_that_damages", 1, Badness { damage: 150, cut: 0 }),
        case("recovery_level_2_on_a_wire_that_breaks", 2, Badness { damage: 300, cut: 900 }),
    ]
}

/// What one end of a stream says to the loop.
enum News {
    Bytes(LinkId, Bytes),
    Gone(LinkId),
}

/// The session core on its sockets.
struct Host {
    core: MultiInitiator,
    wire: SocketAddr,
    started: Instant,
    writers: BTreeMap<LinkId, OwnedWriteHalf>,
    news: mpsc::UnboundedReceiver<News>,
    tell: mpsc::UnboundedSender<News>,
    /// Connections to be made: CID and when.
    retry: Vec<(Cid, Duration)>,
    completed: Vec<Completion>,
    logged_out: bool,
}

impl Host {
    fn new(target: &str, wire: SocketAddr, level: u8) -> Result<(Self, LinkId), Failure> {
        let session = SessionKind::Normal { target: target.parse()? };
        let name = "iqn.2026-11.io.twinlun:recovery".parse()?;
        let mut config = InitiatorConfig::new(name, Isid::random([7, 7, 7], 1), session);
        config.offer = Parameters {
            data_digest: true,
            initiator_max_recv: 8192,
            max_burst: 16384,
            first_burst: 16384,
            max_outstanding_r2t: 4,
            max_connections: LINKS,
            error_recovery: level,
            data_sequence_in_order: false,
            time2wait: 0,
            ..config.offer
        };
        let (core, lead) = MultiInitiator::new(config)?;
        let (tell, news) = mpsc::unbounded_channel();
        let started = Instant::now();
        let host = Self {
            core,
            wire,
            started,
            writers: BTreeMap::new(),
            news,
            tell,
            retry: Vec::new(),
            completed: Vec::new(),
            logged_out: false,
        };
        Ok((host, lead))
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    async fn plug(&mut self, link: LinkId) -> Result<(), Failure> {
        let stream = TcpStream::connect(self.wire).await?;
        stream.set_nodelay(true)?;
        let (mut reader, writer) = stream.into_split();
        self.writers.insert(link, writer);
        let tell = self.tell.clone();
        tokio::task::spawn_local(async move {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(len @ 1..) = reader.read(&mut buffer).await {
                if tell.send(News::Bytes(link, Bytes::copy_from_slice(&buffer[..len]))).is_err() {
                    return;
                }
            }
            // The loop may be gone already.
            let _ = tell.send(News::Gone(link));
        });
        Ok(())
    }

    /// One turn: sends, waits for something, takes it in.
    async fn turn(&mut self) -> Result<(), Failure> {
        let links: Vec<LinkId> = self.writers.keys().copied().collect();
        for link in links {
            for bytes in self.core.transmit(link) {
                let Some(writer) = self.writers.get_mut(&link) else { break };
                if writer.write_all(&bytes).await.is_err() {
                    self.writers.remove(&link);
                    self.core.lost(link, self.started.elapsed());
                }
            }
        }
        let due = self.retry.iter().map(|(_, at)| *at).chain(self.core.next_timeout()).min();
        let wait = due.unwrap_or(Duration::from_secs(1)).saturating_sub(self.now());
        if let Ok(Some(first)) = tokio::time::timeout(wait, self.news.recv()).await {
            self.take(first);
            while let Ok(more) = self.news.try_recv() {
                self.take(more);
            }
        }
        let now = self.now();
        self.core.on_timeout(now);
        for (cid, at) in std::mem::take(&mut self.retry) {
            if at > now {
                self.retry.push((cid, at));
            } else {
                let link = self.core.connect(cid, now)?;
                self.plug(link).await?;
            }
        }
        while let Some(event) = self.core.poll_event() {
            match event {
                MultiEvent::Completed(done) => self.completed.push(done),
                MultiEvent::LinkLost { id, cid, retry_at, .. } => {
                    self.writers.remove(&id);
                    self.retry.extend(retry_at.map(|at| (cid, at)));
                }
                MultiEvent::LoggedOut { response } => {
                    self.logged_out = response == LogoutResponseCode::CLOSED;
                }
                MultiEvent::SessionLost if !self.logged_out => return Err("the session is lost".into()),
                _ => {}
            }
        }
        Ok(())
    }

    fn take(&mut self, news: News) {
        let now = self.now();
        match news {
            News::Bytes(link, bytes) => {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let Some(buffer) = self.core.buffer(link) else { return };
                    let room = (buffer.capacity() - buffer.len()).min(rest.len());
                    buffer.extend_from_slice(&rest[..room]);
                    rest = &rest[room..];
                    self.core.received(link, now);
                }
            }
            News::Gone(link) => {
                self.writers.remove(&link);
                self.core.lost(link, now);
            }
        }
    }
}

/// What a place must hold.
fn contents(place: u64, generation: u64, len: usize) -> Payload {
    let mut bytes = vec![0; len];
    for (at, block) in bytes.chunks_mut(BLOCK).enumerate() {
        let stamp = [place, generation, at as u64, place ^ generation.rotate_left(17)];
        for (word, value) in block.chunks_exact_mut(8).zip(stamp.iter().cycle()) {
            word.copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes.into()
}

fn counter_block(place: u64, count: u64) -> Payload {
    if count == 0 { vec![0; BLOCK].into() } else { contents(place, count, BLOCK) }
}

/// What is under way at a place.
#[derive(Clone, Copy)]
enum Doing {
    Write { generation: u64 },
    Read { generation: u64, blocks: u32 },
    Count,
}

/// Verified writes, in the way of fio: what was written last is what is read, and a counter that was counted twice miscompares.
#[derive(Default)]
struct Work {
    /// Generation by slot, 0 when never written; and the count of each counter.
    state: BTreeMap<u64, u64>,
    under_way: BTreeMap<u64, (u64, Doing)>,
    busy: BTreeMap<u64, u64>,
    next: u64,
    done: u64,
    random: u64,
}

impl Work {
    fn roll(&mut self, bound: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    fn command(&mut self) -> Option<Command> {
        let place = self.roll(SLOTS + COUNTERS);
        if self.busy.contains_key(&place) {
            return None;
        }
        let current = self.state.get(&place).copied().unwrap_or(0);
        let lba = if place < SLOTS {
            place * u64::from(SLOT_BLOCKS)
        } else {
            SLOTS * u64::from(SLOT_BLOCKS) + place - SLOTS
        };
        let whole = SLOT_BLOCKS as usize * BLOCK;
        let (doing, cdb, transfer) = if place >= SLOTS {
            let mut data = counter_block(place, current);
            data.append(counter_block(place, current + 1));
            (Doing::Count, cdb::compare_and_write(lba, 1, false), Transfer::Write(data))
        } else if current == 0 || self.roll(2) == 0 {
            let data = contents(place, current + 1, whole);
            let doing = Doing::Write { generation: current + 1 };
            (doing, cdb::write_16(lba, SLOT_BLOCKS, false), Transfer::Write(data))
        } else {
            let blocks = 1 + self.roll(SLOT_BLOCKS.into()) as u32;
            let doing = Doing::Read { generation: current, blocks };
            (doing, cdb::read_16(lba, blocks, false), Transfer::Read(blocks * BLOCK as u32))
        };
        self.next += 1;
        self.busy.insert(place, self.next);
        self.under_way.insert(self.next, (place, doing));
        Some(Command::new(self.next, Lun::ZERO, cdb, transfer))
    }

    fn end(&mut self, done: &Completion) -> Result<(), Failure> {
        let Some((place, doing)) = self.under_way.remove(&done.tag) else {
            return Err(format!("command {} ended twice", done.tag).into());
        };
        self.busy.remove(&place);
        self.done += 1;
        if !done.is_good() {
            return Err(format!("command {} at place {place}: {done:?}", done.tag).into());
        }
        match doing {
            Doing::Write { generation } => {
                self.state.insert(place, generation);
            }
            Doing::Count => *self.state.entry(place).or_default() += 1,
            Doing::Read { generation, blocks } => {
                if done.data != contents(place, generation, blocks as usize * BLOCK) {
                    return Err(format!("place {place} does not hold what was written last").into());
                }
            }
        }
        Ok(())
    }
}

async fn settle(host: &mut Host, commands: Vec<Command>) -> Result<BTreeMap<u64, Completion>, Failure> {
    let mut left = commands.len();
    for command in commands {
        if host.core.submit(command) != Submitted::Accepted {
            return Err("a command was not accepted".into());
        }
    }
    let mut all = BTreeMap::new();
    while left > 0 {
        host.turn().await?;
        for done in std::mem::take(&mut host.completed) {
            left -= 1;
            all.insert(done.tag, done);
        }
    }
    Ok(all)
}

async fn run(folder: PathBuf, level: u8, badness: Badness) -> Outcome {
    let mut unit = single(&folder, SIZE, json!({})).await?;
    let portal: SocketAddr = unit.portal().parse()?;
    let good = Badness { damage: 0, cut: 0 };
    let wire = BadWire::lay(portal, 17, good).await?;
    let (mut host, lead) = Host::new(&unit.target(), wire.address(), level)?;
    host.plug(lead).await?;
    while host.core.open_links() < 1 {
        host.turn().await?;
    }
    if host.core.parameters().error_recovery != level {
        return Err(format!("level {} was negotiated", host.core.parameters().error_recovery).into());
    }
    for cid in 1..LINKS {
        let link = host.core.connect(Cid(cid), host.now())?;
        host.plug(link).await?;
    }
    while host.core.open_links() < LINKS.into() {
        host.turn().await?;
    }
    // The first command hears of the power on.
    let hello = |tag| Command::new(tag, Lun::ZERO, cdb::test_unit_ready(), Transfer::None);
    settle(&mut host, vec![hello(1 << 40)]).await?;
    wire.set(badness);
    let mut work = Work { random: 1, ..Work::default() };
    let enough = |work: &Work, wire: &BadWire| {
        let (damaged, cuts) = wire.trouble();
        let trouble = (badness.damage == 0 || damaged >= 30) && (badness.cut == 0 || cuts >= 12);
        work.done >= 3000 && trouble
    };
    while !enough(&work, &wire) {
        for _ in 0..DEPTH {
            if work.under_way.len() < DEPTH
                && let Some(command) = work.command()
                && host.core.submit(command) != Submitted::Accepted
            {
                return Err("a command was not accepted".into());
            }
        }
        host.turn().await?;
        for done in std::mem::take(&mut host.completed) {
            work.end(&done)?;
        }
    }
    while !work.under_way.is_empty() {
        host.turn().await?;
        for done in std::mem::take(&mut host.completed) {
            work.end(&done)?;
        }
    }
    let (damaged, cuts) = wire.trouble();
    wire.set(good);
    verify(&mut host, &work).await?;
    println!("  level {level}: {} commands, {damaged} PDUs damaged, {cuts} connections cut", work.done);
    while host.core.open_links() == 0 {
        host.turn().await?;
    }
    if host.core.logout(LogoutReason::CLOSE_SESSION, Cid(0)) != Submitted::Accepted {
        return Err("the logout was not accepted".into());
    }
    while !host.logged_out {
        host.turn().await?;
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let sessions = unit.client().get("/v1/sessions").await?;
        if sessions["items"].as_array().is_some_and(Vec::is_empty) {
            break;
        }
        if Instant::now() > deadline {
            return Err(format!("a session is left: {sessions}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    unit.stop().await?;
    Ok(Verdict::Passed)
}

/// Reads everything.
async fn verify(host: &mut Host, work: &Work) -> Result<(), Failure> {
    for (place, generation) in &work.state {
        let slot = *place < SLOTS;
        let (lba, blocks) = if slot {
            (place * u64::from(SLOT_BLOCKS), SLOT_BLOCKS)
        } else {
            (SLOTS * u64::from(SLOT_BLOCKS) + place - SLOTS, 1)
        };
        let read = cdb::read_16(lba, blocks, false);
        let command = Command::new((1 << 41) + place, Lun::ZERO, read, Transfer::Read(blocks * BLOCK as u32));
        let ends = settle(host, vec![command]).await?;
        let wanted = if slot {
            contents(*place, *generation, blocks as usize * BLOCK)
        } else {
            counter_block(*place, *generation)
        };
        if ends.values().any(|done| !done.is_good() || done.data != wanted) {
            return Err(format!("place {place} does not hold generation {generation}").into());
        }
    }
    Ok(())
}
