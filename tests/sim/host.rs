//! Hosts: initiators that write stamps, read them back, lose their sessions, come back and go on.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use twinlun::initiator::{Session, SessionError, sense_codes};
use twinlun_block::Payload;
use twinlun_io::Shard;
use twinlun_io::sim::{Process, Rng};
use twinlun_iscsi::initiator::{
    Command, Completion, InitiatorConfig, InitiatorError, LoginError, SessionKind, Transfer, cdb,
};
use twinlun_iscsi::pdu::{Isid, LoginStatus, Lun, ResponseCode, ScsiStatus};

use crate::lives;
use crate::oracle::WriteId;
use crate::pattern::{self, SECTOR};
use crate::plan::Proof;
use crate::stage::Stage;

/// Largest transfer in sectors.
const MOST: u64 = 256;

/// What became of a command.
enum Fate {
    /// GOOD.
    Good(Payload),
    /// Certainly not carried out.
    NotDone,
    /// Over, with whatever effect.
    Over,
    /// No status: the session is gone.
    Lost,
}

/// Starts a life of host number `index`; the answer comes when it has stopped, and none when it was killed.
pub(crate) fn start(stage: &Rc<Stage>, index: usize, life: u32) -> oneshot::Receiver<()> {
    let ip = std::net::Ipv4Addr::new(10, 0, 1, 1 + index as u8).into();
    let process = stage.world.process(&name(index), ip);
    let (ended, end) = oneshot::channel();
    stage.hosts.borrow_mut().insert(index, process.clone());
    let host =
        Rc::new(Host { stage: stage.clone(), index, life, shard: process.shard(), process: process.clone() });
    process.spawn(async move {
        host.run().await;
        let _ = ended.send(());
    });
    end
}

/// Process name of a host.
pub(crate) fn name(index: usize) -> String {
    format!("host{index}")
}

struct Host {
    stage: Rc<Stage>,
    index: usize,
    life: u32,
    shard: Shard,
    process: Process,
}

impl Host {
    async fn run(self: &Rc<Self>) {
        let mut rng = self.stage.rng(&self.stream());
        let mut sessions = 0;
        while !self.stage.closing.get() {
            let session = match self.connect(&mut rng).await {
                Ok(session) => session,
                Err(error) => {
                    self.judge_end("login", &error);
                    self.shard.sleep(Duration::from_millis(rng.range(10..=1000))).await;
                    continue;
                }
            };
            sessions += 1;
            self.stage.oracle.borrow_mut().logged_in(self.index);
            self.stage.note(|| format!("{} has session {sessions}", name(self.index)));
            if !self.all_ready(&session).await {
                self.shard.sleep(Duration::from_millis(rng.range(10..=1000))).await;
                continue;
            }
            self.work(&session, &mut rng, sessions).await;
            if let Some(error) = session.ended() {
                self.judge_end("session", &error);
            }
        }
    }

    /// Name of its random numbers: others in every life.
    fn stream(&self) -> String {
        match self.life {
            1 => name(self.index),
            life => format!("{} life {life}", name(self.index)),
        }
    }

    async fn connect(&self, rng: &mut Rng) -> Result<Session, SessionError> {
        let primary = self.stage.primary();
        let initiator = format!("iqn.2026-11.example:{}", name(self.index));
        let target = primary.target().parse().expect("a good name");
        // The same ISID every time: a new session of the host ends its old one.
        let isid = Isid::random([1, 2, 3], self.index as u16);
        let kind = SessionKind::Normal { target };
        let mut config = InitiatorConfig::new(initiator.parse().expect("a good name"), isid, kind);
        config.max_tasks = 64;
        config.receive_chunk = 16 << 10;
        config.offer.header_digest = self.stage.plan.digests;
        config.offer.data_digest = self.stage.plan.digests;
        config.offer.immediate_data = rng.chance(2, 3);
        config.offer.initial_r2t = rng.chance(1, 2);
        config.offer.first_burst = 512 << rng.below(8);
        config.offer.max_burst = config.offer.first_burst.max(4096 << rng.below(6));
        let proof = self.stage.plan.proof;
        if proof != Proof::None && rng.chance(1, 6) {
            self.try_as_stranger(InitiatorConfig { chap: lives::guess(proof, rng), ..config.clone() }).await;
        }
        config.chap = lives::login(proof, rng);
        let session =
            Session::connect(&self.shard, primary.portal(), config, Duration::from_secs(10)).await?;
        match proof {
            Proof::None => {}
            Proof::OneWay => self.stage.met("host.chap"),
            Proof::Mutual => self.stage.met("host.mutual_chap"),
        }
        let agreed = session.parameters();
        if self.stage.plan.digests && !(agreed.header_digest && agreed.data_digest) {
            // A bit flipped during login: this session could not tell damage from data.
            return Err(SessionError::Closed);
        }
        Ok(session)
    }

    /// Somebody who says that he is this host, and has no right secret.
    async fn try_as_stranger(&self, config: InitiatorConfig) {
        let portal = self.stage.primary().portal();
        match Session::connect(&self.shard, portal, config, Duration::from_secs(10)).await {
            Ok(_) => self.stage.violated("a host with a wrong secret is let in (I8)"),
            Err(SessionError::Session(InitiatorError::Login(LoginError::Refused(status)))) => {
                if status == LoginStatus::AUTHENTICATION_FAILURE {
                    self.stage.met("host.stranger_refused");
                }
            }
            Err(_) => {}
        }
    }

    /// Clears unit attention conditions until every LU answers.
    async fn all_ready(&self, session: &Session) -> bool {
        for lun in 0..self.stage.plan.lus.len() {
            let ready = self.shard.timeout(Duration::from_secs(20), session.ready(number(lun))).await;
            if !matches!(ready, Ok(Ok(()))) {
                self.stage.note(|| format!("{} LUN {lun} is not ready: {ready:?}", name(self.index)));
                return false;
            }
        }
        true
    }

    /// Works with several commands under way until the session ends or enough is done.
    async fn work(self: &Rc<Self>, session: &Session, rng: &mut Rng, sessions: u64) {
        let budget = if rng.chance(1, 3) { rng.range(1..=40) } else { u64::MAX };
        let mut workers = Vec::new();
        for worker in 0..self.stage.plan.depth {
            let (done, wait) = oneshot::channel::<()>();
            let rng = self.stage.rng(&format!("{} session {sessions} worker {worker}", self.stream()));
            let worker = Worker { host: self.clone(), session: session.clone(), rng, budget };
            self.process.spawn(async move {
                worker.run().await;
                let _ = done.send(());
            });
            workers.push(wait);
        }
        for worker in workers {
            let _ = worker.await;
        }
        // Some say good-bye; others just drop the connection.
        if session.ended().is_none() && rng.chance(1, 2) {
            let _ = self.shard.timeout(Duration::from_secs(5), session.logout()).await;
        }
    }

    /// A session may end by any fault of the link or the unit, but never because the target broke the protocol.
    fn judge_end(&self, what: &str, error: &SessionError) {
        self.stage.note(|| format!("{} {what} ended: {error}", name(self.index)));
        let damage = self.stage.plan.digests;
        let broken = match error {
            SessionError::Session(InitiatorError::Login(LoginError::Refused(status))) => {
                // Its secret is right.
                !damage && *status == LoginStatus::AUTHENTICATION_FAILURE
            }
            SessionError::Session(_) => !damage,
            SessionError::Rejected(_) => !damage,
            _ => false,
        };
        if broken {
            self.stage.violated(format!("{} {what}: {error} (I8)", name(self.index)));
        }
    }
}

fn number(lu: usize) -> Lun {
    Lun::from_number(lu as u16).expect("small numbers fit")
}

struct Worker {
    host: Rc<Host>,
    session: Session,
    rng: Rng,
    budget: u64,
}

/// A place on a LU, in sectors.
#[derive(Clone, Copy)]
struct Place {
    lu: usize,
    first: u64,
    count: u64,
    block: u64,
}

impl Place {
    fn lba(self) -> u64 {
        self.first * SECTOR / self.block
    }

    fn blocks(self) -> u32 {
        (self.count * SECTOR / self.block) as u32
    }

    fn bytes(self) -> u32 {
        (self.count * SECTOR) as u32
    }
}

impl Worker {
    async fn run(mut self) {
        while self.budget > 0 && !self.host.stage.closing.get() && self.session.ended().is_none() {
            self.budget -= 1;
            // Bursts, and quiet in which logs are emptied and images become SYNCHRONIZED.
            let pause = match self.rng.below(24) {
                _ if self.host.stage.resting.get() => self.rng.range(1_000_000..=8_000_000),
                0 => self.rng.range(1_000_000..=15_000_000),
                1..=5 => self.rng.range(10_000..=400_000),
                _ => self.rng.range(0..=5_000),
            };
            self.host.shard.sleep(Duration::from_micros(pause)).await;
            match self.rng.below(100) {
                0..40 => self.write().await,
                40..72 => self.read().await,
                72..80 => self.flush().await,
                80..86 => self.write_zeros().await,
                86..91 => self.unmap().await,
                _ => self.compare_and_write().await,
            }
        }
    }

    fn place(&mut self, most: u64) -> Place {
        let plan = &self.host.stage.plan;
        let lu = self.rng.index(plan.lus.len());
        let (size, block) = (plan.lus[lu].size, u64::from(plan.lus[lu].block_size));
        let per_block = block / SECTOR;
        let blocks = size / block;
        let most = (most / per_block).clamp(1, blocks);
        let count = match self.rng.below(4) {
            0 => 1,
            1 => self.rng.range(1..=most),
            _ => self.rng.range(1..=most.min(16)),
        };
        // Most traffic meets in a few places, so that commands overlap.
        let first = match self.rng.below(4) {
            0 => self.rng.range(0..=blocks - count),
            1 => (blocks / 2 + self.rng.below(32)).min(blocks - count),
            _ => self.rng.below(64).min(blocks - count),
        };
        Place { lu, first: first * per_block, count: count * per_block, block }
    }

    fn durable(&self, fua: bool) -> bool {
        fua || !self.host.stage.plan.write_cache
    }

    async fn write(&mut self) {
        let place = self.place(MOST);
        let fua = self.rng.chance(1, 6);
        let id = self.begin_write(place, false);
        let data = pattern::data(id, place.lu, place.first, place.count);
        let command = cdb::write_16(place.lba(), place.blocks(), fua);
        let fate = self.execute(place, command, Transfer::Write(Bytes::from(data).into())).await;
        self.end_write(id, &fate, self.durable(fua));
    }

    async fn write_zeros(&mut self) {
        let place = self.place(4 * MOST);
        let unmap = self.host.stage.plan.lus[place.lu].thin && self.rng.chance(1, 2);
        let id = self.begin_write(place, true);
        let command = cdb::write_same_16(place.lba(), place.blocks(), unmap, true);
        let fate = self.execute(place, command, Transfer::None).await;
        self.end_write(id, &fate, self.durable(false));
    }

    async fn unmap(&mut self) {
        let place = self.place(4 * MOST);
        if !self.host.stage.plan.lus[place.lu].thin {
            return;
        }
        let id = self.begin_write(place, true);
        let list = cdb::unmap_parameters(&[(place.lba(), place.blocks())]);
        let command = cdb::unmap(list.len() as u16);
        let fate = self.execute(place, command, Transfer::Write(Bytes::from(list).into())).await;
        self.end_write(id, &fate, self.durable(false));
    }

    async fn compare_and_write(&mut self) {
        let mut place = self.place(8);
        // One block: its expected content may come from one write or several.
        place.count = place.block / SECTOR;
        let fua = self.rng.chance(1, 6);
        let mut data = Vec::new();
        for sector in place.first..place.first + place.count {
            let stamp = self.host.stage.oracle.borrow().guess(place.lu, sector);
            pattern::fill(&mut data, stamp, place.lu, sector);
        }
        let expected = data.clone();
        let id = self.begin_write(place, false);
        data.extend(pattern::data(id, place.lu, place.first, place.count));
        let token = self.host.stage.oracle.borrow_mut().begin(self.host.index);
        let command = cdb::compare_and_write(place.lba(), 1, fua);
        let fate = self.execute(place, command, Transfer::Write(Bytes::from(data).into())).await;
        let stage = &self.host.stage;
        if matches!(fate, Fate::Good(_)) {
            let compared = stage.oracle.borrow_mut().compared(token, place.lu, place.first, &expected);
            stage.check(compared);
        }
        stage.oracle.borrow_mut().end(token);
        self.end_write(id, &fate, self.durable(fua));
    }

    async fn read(&mut self) {
        let place = self.place(MOST);
        let token = self.host.stage.oracle.borrow_mut().begin(self.host.index);
        let command = cdb::read_16(place.lba(), place.blocks(), self.rng.chance(1, 10));
        let fate = self.execute(place, command, Transfer::Read(place.bytes())).await;
        let stage = &self.host.stage;
        if let Fate::Good(data) = fate {
            let data = data.to_bytes();
            if data.len() as u64 == place.count * SECTOR {
                let seen = stage.oracle.borrow_mut().read(token, place.lu, place.first, &data);
                stage.check(seen);
            } else {
                stage.violated(format!("READ of {} bytes answered GOOD with {}", place.bytes(), data.len()));
            }
        }
        stage.oracle.borrow_mut().end(token);
    }

    async fn flush(&mut self) {
        let place = self.place(1);
        let token = self.host.stage.oracle.borrow_mut().begin(self.host.index);
        let fate = self.execute(place, cdb::synchronize_cache_16(0, 0), Transfer::None).await;
        let mut oracle = self.host.stage.oracle.borrow_mut();
        if matches!(fate, Fate::Good(_)) {
            oracle.flushed(token, place.lu);
        }
        oracle.end(token);
    }

    fn begin_write(&self, place: Place, zeros: bool) -> WriteId {
        let mut oracle = self.host.stage.oracle.borrow_mut();
        oracle.begin_write(self.host.index, place.lu, place.first, place.count, zeros)
    }

    fn end_write(&self, id: WriteId, fate: &Fate, durable: bool) {
        let stage = &self.host.stage;
        let mut oracle = stage.oracle.borrow_mut();
        match fate {
            Fate::Good(_) => oracle.acknowledged(id, durable),
            Fate::NotDone => oracle.refused(id),
            Fate::Over => oracle.failed(id),
            Fate::Lost => oracle.lost(id),
        }
        drop(oracle);
        if matches!(fate, Fate::Good(_)) {
            stage.acknowledged();
        }
    }

    /// Carries out a command; now and then aborts it, and gives the session up when no status comes.
    async fn execute(&mut self, place: Place, cdb: cdb::Bytes16, transfer: Transfer) -> Fate {
        let tag = self.session.new_tag();
        let operation = cdb[0];
        let command = Command::new(tag, number(place.lu), cdb, transfer);
        if self.rng.chance(1, 60) {
            let (session, shard) = (self.session.clone(), self.host.shard.clone());
            let delay = Duration::from_micros(self.rng.range(0..=4000));
            self.host.process.spawn(async move {
                shard.sleep(delay).await;
                let _ = session.abort(tag).await;
            });
        }
        let limit = Duration::from_secs(self.rng.range(5..=40));
        let begun = self.host.shard.now();
        let stage = &self.host.stage;
        let what = move || {
            format!("{operation:#04x} at {}+{} of LU {}, tag {tag}", place.first, place.count, place.lu)
        };
        stage.detail(|| format!("{} sends {}", name(self.host.index), what()));
        let done = self.host.shard.timeout(limit, self.session.execute_as(command)).await;
        stage.detail(|| format!("{} ends {}", name(self.host.index), what()));
        match done {
            Ok(Ok(completion)) => self.judge(&completion, place, cdb[0]),
            Ok(Err(SessionError::Aborted)) => {
                stage.met("host.abort");
                Fate::Over
            }
            Ok(Err(SessionError::Full)) => Fate::NotDone,
            Ok(Err(_)) => {
                stage.met("host.session_lost");
                Fate::Lost
            }
            Err(_) => {
                let waited = self.host.shard.now() - begun;
                stage.note(|| {
                    format!("{}: no status for {:#04x} in {waited:?}", name(self.host.index), cdb[0])
                });
                if stage.healed.get() {
                    stage.violated(format!(
                        "command {:#04x} had no status for {waited:?} without any fault (I8)",
                        cdb[0]
                    ));
                }
                stage.met("host.no_status");
                // The last resort of every initiator.
                self.session.close();
                Fate::Lost
            }
        }
    }

    fn judge(&self, completion: &Completion, place: Place, operation: u8) -> Fate {
        if completion.is_good() {
            return Fate::Good(completion.data.clone());
        }
        let (key, asc, ascq) = sense_codes(&completion.sense).unwrap_or_default();
        let stage = &self.host.stage;
        let what = || {
            format!(
                "{} {operation:#04x} at {}+{} of LU {}: {:?} {:?} {key:x}/{asc:02x}/{ascq:02x}",
                name(self.host.index),
                place.first,
                place.count,
                place.lu,
                completion.response,
                completion.status
            )
        };
        stage.note(what);
        if completion.response != ResponseCode::COMPLETED {
            return Fate::Over;
        }
        match (completion.status, key) {
            // Unit attention, or the comparison failed.
            (ScsiStatus::CHECK_CONDITION, 0x6) => {
                stage.met("host.unit_attention");
                Fate::NotDone
            }
            (ScsiStatus::BUSY | ScsiStatus::TASK_SET_FULL, _) => Fate::NotDone,
            (ScsiStatus::CHECK_CONDITION, 0xe) if operation == 0x89 => {
                stage.met("host.comparison_failed");
                Fate::NotDone
            }
            // Aborted: the host tries again.
            (ScsiStatus::CHECK_CONDITION, 0xb) | (ScsiStatus::TASK_ABORTED, _) => Fate::Over,
            // The mirror is in ATTENTION (R-MS-3).
            (ScsiStatus::CHECK_CONDITION, 0x2) if stage.plan.strict => {
                stage.met("host.not_ready");
                Fate::Over
            }
            // Recovering, or too many disks are gone.
            (ScsiStatus::CHECK_CONDITION, 0x2..=0x4) if stage.plan.weak_primary() => Fate::Over,
            _ => {
                stage.violated(format!("a host sees an error that no fault explains (R-FL-5): {}", what()));
                Fate::Over
            }
        }
    }
}

/// Reads all LUs whole through a session of their own, and checks every sector.
pub(crate) async fn read_everything(stage: &Rc<Stage>) -> Result<(), String> {
    let ip = std::net::Ipv4Addr::new(10, 0, 2, 1).into();
    let process = stage.world.process("reader", ip);
    let index = stage.plan.hosts;
    let host = Rc::new(Host {
        stage: stage.clone(),
        index,
        life: 1,
        shard: process.shard(),
        process: process.clone(),
    });
    let (done, wait) = oneshot::channel();
    process.spawn(async move {
        let _ = done.send(host.read_all().await);
    });
    let read = stage.shard.timeout(Duration::from_secs(300), wait).await;
    read.map_err(|_| "reading everything takes for ever".to_owned())?
        .map_err(|_| "the reader died".to_owned())?
}

impl Host {
    async fn read_all(&self) -> Result<(), String> {
        let mut rng = self.stage.rng("reader");
        let session =
            self.connect(&mut rng).await.map_err(|error| format!("the last login failed: {error}"))?;
        for (lu, plan) in self.stage.plan.lus.iter().enumerate() {
            session
                .ready(number(lu))
                .await
                .map_err(|error| format!("LU {lu} is not ready at the end: {error}"))?;
            let sectors = plan.size / SECTOR;
            let step = 2048;
            for first in (0..sectors).step_by(step as usize) {
                let count = step.min(sectors - first);
                let token = self.stage.oracle.borrow_mut().begin(self.index);
                let block = u64::from(plan.block_size);
                let (lba, blocks) = (first * SECTOR / block, (count * SECTOR / block) as u32);
                let data = session.read(number(lu), lba, blocks, plan.block_size).await;
                let data = data.map_err(|error| format!("LU {lu} cannot be read at the end: {error}"))?;
                self.stage.oracle.borrow_mut().read(token, lu, first, &data.to_bytes())?;
                self.stage.oracle.borrow_mut().end(token);
            }
        }
        let _ = session.logout().await;
        Ok(())
    }
}
