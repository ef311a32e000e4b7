//! Sessions of several connections in the simulated world: connections are cut, reset, held up and damaged, and no command is lost or
//! carried out twice. `RECOVERY_SEEDS=1000` runs more seeds than the default.

use std::collections::BTreeMap;

use twinlun_block::Payload;
use twinlun_io::sim::Rng;
use twinlun_iscsi::initiator::Completion;
use twinlun_iscsi::negotiate::Parameters;

use super::multi::MultiHost;
use super::*;

const BLOCK: usize = 512;
/// Places that are written and read as a whole.
const SLOTS: u64 = 24;
const SLOT_BLOCKS: u32 = 32;
/// Blocks behind them that COMPARE AND WRITE counts up: one that runs twice miscompares.
const COUNTERS: u64 = 8;
/// Commands under way.
const DEPTH: usize = 12;

fn session(level: u8, links: u16) -> InitiatorConfig {
    let kind = SessionKind::Normal { target: TARGET.parse().expect("a name") };
    let mut config = InitiatorConfig::new(HOST.parse().expect("a name"), Isid([0x80, 0, 0, 0, 0, 1]), kind);
    config.offer = Parameters {
        header_digest: true,
        data_digest: true,
        initiator_max_recv: 4096,
        max_burst: 8192,
        first_burst: 8192,
        max_outstanding_r2t: 4,
        max_connections: links,
        error_recovery: level,
        data_sequence_in_order: false,
        time2wait: 0,
        time2retain: 300,
        ..config.offer
    };
    config
}

fn ready(tag: u64) -> Command {
    Command::new(tag, Lun::ZERO, cdb::test_unit_ready(), Transfer::None)
}

/// What a place holds after so many writes.
fn contents(place: u64, generation: u64, len: usize) -> Payload {
    let mut bytes = vec![0; len];
    if generation > 0 {
        for (at, word) in bytes.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&(place << 48 | generation << 16 | at as u64).to_le_bytes());
        }
    }
    bytes.into()
}

#[derive(Clone, Copy)]
enum Doing {
    Write,
    Count,
    Read(u64),
}

/// Commands on places of their own, so that what a place holds is always known.
struct Work {
    rng: Rng,
    generations: BTreeMap<u64, u64>,
    under_way: BTreeMap<u64, (u64, Doing)>,
    next: u64,
    done: u64,
}

impl Work {
    fn command(&mut self) -> Option<Command> {
        let place = self.rng.below(SLOTS + COUNTERS);
        if self.under_way.values().any(|(busy, _)| *busy == place) {
            return None;
        }
        let generation = self.generations.get(&place).copied().unwrap_or(0);
        let slots = SLOTS * u64::from(SLOT_BLOCKS);
        let (doing, cdb, transfer) = if place >= SLOTS {
            let mut data = contents(place, generation, BLOCK);
            data.append(contents(place, generation + 1, BLOCK));
            (Doing::Count, cdb::compare_and_write(slots + place - SLOTS, 1, false), Transfer::Write(data))
        } else {
            let (lba, len) = (place * u64::from(SLOT_BLOCKS), SLOT_BLOCKS as usize * BLOCK);
            if self.rng.chance(1, 2) {
                let data = Transfer::Write(contents(place, generation + 1, len));
                (Doing::Write, cdb::write_16(lba, SLOT_BLOCKS, false), data)
            } else {
                let read = cdb::read_16(lba, SLOT_BLOCKS, false);
                (Doing::Read(generation), read, Transfer::Read(len as u32))
            }
        };
        self.next += 1;
        self.under_way.insert(self.next, (place, doing));
        Some(Command::new(self.next, Lun::ZERO, cdb, transfer))
    }

    fn end(&mut self, done: &Completion) {
        let (place, doing) = self.under_way.remove(&done.tag).expect("one end for each command");
        self.done += 1;
        assert!(done.is_good(), "place {place}: {done:?}");
        match doing {
            Doing::Write | Doing::Count => *self.generations.entry(place).or_default() += 1,
            Doing::Read(generation) => {
                let expected = contents(place, generation, SLOT_BLOCKS as usize * BLOCK);
                assert!(done.data == expected, "place {place} does not hold what was written last");
            }
        }
    }

    /// Keeps the host busy until so many commands are done, then until none is under way.
    async fn run(&mut self, host: &mut MultiHost, commands: u64, mut trouble: impl FnMut(&mut MultiHost)) {
        while self.done < commands || !self.under_way.is_empty() {
            for _ in 0..DEPTH {
                if self.done < commands
                    && self.under_way.len() < DEPTH
                    && let Some(command) = self.command()
                {
                    assert_eq!(host.core.submit(command), Submitted::Accepted);
                }
            }
            trouble(host);
            host.turn().await;
            assert!(!host.over, "the session lives: {:#?}", host.ends);
            for done in std::mem::take(&mut host.completed) {
                self.end(&done);
            }
        }
    }
}

/// What is done to the wires, at times that the seed draws.
struct Trouble {
    rng: Rng,
    link: twinlun_io::sim::Link,
    level: u8,
    next: Duration,
    heal_at: Option<Duration>,
}

impl Trouble {
    fn strike(&mut self, host: &mut MultiHost, all: usize) {
        let now = host.now();
        if self.heal_at.is_some_and(|at| now >= at) {
            self.heal_at = None;
            self.link.heal();
            self.link.clog(Duration::ZERO);
        }
        // Logins have no digests: what is damaged there is agreed upon.
        let damage = host.core.open_links() == all;
        if !damage {
            self.link.corrupt_next(0);
        }
        if now < self.next {
            return;
        }
        self.next = now + Duration::from_millis(self.rng.range(20..=3000));
        match self.rng.below(if self.level == 2 { 8 } else { 2 }) {
            0 => {
                self.link.clog(Duration::from_millis(self.rng.range(1..=1500)));
                self.heal_at.get_or_insert(now + Duration::from_millis(self.rng.range(1..=2000)));
            }
            1 => {}
            2 => self.link.reset(),
            3 | 4 if damage => self.link.corrupt_next(1),
            5 => {
                match self.rng.below(3) {
                    0 => self.link.cut(),
                    1 => self.link.cut_forward(),
                    _ => self.link.cut_backward(),
                }
                self.heal_at.get_or_insert(now + Duration::from_millis(self.rng.range(1..=20_000)));
            }
            _ => {
                let index = self.rng.below(16) as usize;
                host.cut(index);
            }
        }
    }
}

/// Seeds to run: so many, from this one on.
fn seeds() -> std::ops::Range<u64> {
    let number = |name, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let first = number("RECOVERY_FROM", 0);
    first..first + number("RECOVERY_SEEDS", 12)
}

/// Runs work on a session of this kind while the wires have trouble; says how many connections it has cost.
fn survive(seed: u64, level: u8, links: u16) -> usize {
    let mut config = config();
    config.limits.retain_seconds = 300;
    let mut cost = 0;
    with_unit_of(seed, config, async |world, lab| {
        lab.add_host(HOST, None, &[]).await;
        let mut host = MultiHost::log_in(lab, session(level, links), links).await;
        assert_eq!(host.core.parameters().error_recovery, level);
        // Unit attention conditions of the beginning.
        for tag in 0..3 {
            host.execute(ready((1 << 40) + tag)).await;
        }
        let rng = world.rng("work");
        let mut work =
            Work { rng, generations: BTreeMap::new(), under_way: BTreeMap::new(), next: 0, done: 0 };
        let link = world.link("east", "hosts");
        let mut trouble = Trouble { rng: world.rng("trouble"), link, level, next: host.now(), heal_at: None };
        work.run(&mut host, 400, |host| trouble.strike(host, links.into())).await;
        trouble.link.heal();
        trouble.link.clog(Duration::ZERO);
        trouble.link.corrupt_next(0);
        cost = host.lost;
        work.run(&mut host, 500, |_| {}).await;
        host.log_out().await;
        let over = async {
            while lab.obey(Order::ListSessions).await.expect("sessions")["items"] != serde_json::json!([]) {
                lab.shard.sleep(Duration::from_millis(20)).await;
            }
        };
        lab.shard.timeout(LONG, over).await.expect("nothing of the session is left");
    });
    cost
}

#[test]
fn level_0_works_on_several_connections() {
    for seed in 0..2 {
        assert_eq!(survive(seed, 0, 1 + 3 * seed as u16), 0);
    }
}

#[test]
fn level_2_survives_connections_that_break() {
    let mut lost = 0;
    for seed in seeds() {
        lost += survive(seed, 2, 1 + (seed % 4) as u16);
    }
    assert!(lost > seeds().count(), "connections were lost: {lost}");
}

/// RFC 7143, 7.8: without markers nothing says where the next PDU begins, so the connection ends; at level 2 its tasks do not.
#[test]
fn a_damaged_header_costs_the_connection_and_no_command() {
    with_unit(config(), async |world, lab| {
        lab.add_host(HOST, None, &[]).await;
        let mut host = MultiHost::log_in(lab, session(2, 2), 2).await;
        for tag in 0..3 {
            host.execute(ready(tag)).await;
        }
        let before = host.lost;
        // A request of 48 bytes and its digest: the bit that flips is one of these.
        world.link("east", "hosts").corrupt_next(1);
        assert!(host.execute(ready(10)).await.is_good());
        while host.core.open_links() < 2 {
            host.turn().await;
        }
        assert_eq!(host.lost, before + 1, "one connection was replaced");
        host.log_out().await;
    });
}

/// RFC 7143, 11.14.5: 06/47/7F at each logical unit, to the nexus whose commands were cleared: by a logout of their connection, or because
/// nobody came back for them in time.
#[test]
fn commands_that_end_with_their_connection_are_told_by_a_unit_attention() {
    for by_logout in [false, true] {
        with_unit(config(), async |world, lab| {
            lab.add_host(HOST, None, &[]).await;
            let mut login = session(if by_logout { 1 } else { 2 }, 2);
            login.offer.time2retain = 1;
            let mut host = MultiHost::log_in(lab, login, 2).await;
            host.redials = false;
            for tag in 0..3 {
                host.execute(ready(tag)).await;
            }
            for disk in ["east/0", "east/1"] {
                world.disk(disk).stall(Duration::from_secs(5));
            }
            let data = Transfer::Write(contents(1, 1, BLOCK));
            let command = Command::new(10, Lun::ZERO, cdb::write_16(0, 1, true), data);
            assert_eq!(host.core.submit(command), Submitted::Accepted);
            let links: Vec<_> = host.streams.keys().copied().collect();
            let index = links.iter().position(|id| host.core.has_transmit(*id)).expect("it is sent on one");
            let begun = host.now();
            while host.now() < begun + Duration::from_millis(500) {
                host.turn().await;
            }
            assert!(host.completed.is_empty(), "the disks stand still");
            if by_logout {
                let cid = twinlun_iscsi::pdu::Cid(index as u16);
                assert_eq!(host.core.logout(LogoutReason::CLOSE_CONNECTION, cid), Submitted::Accepted);
            } else {
                host.cut(index);
            }
            while host.now() < begun + Duration::from_secs(8) {
                host.turn().await;
            }
            let heard = host.execute(ready(11)).await;
            let sense = &heard.sense;
            assert_eq!((sense[2] & 0x0f, sense[12], sense[13]), (6, 0x47, 0x7f), "{heard:?}");
            assert!(host.execute(ready(12)).await.is_good(), "it is told once");
        });
    }
}
