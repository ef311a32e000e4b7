//! Random writes, random failures, one seed each: nothing acknowledged is lost, no log names too little, both images end
//! equal. With the feature `planted-bugs`, every planted mistake must be found.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use twinlun_block::{BlockLayer, BlockRequest, ByteRange, Payload};
use twinlun_io::sim::Rng;

use super::lab::{LUS, Lab, SECTOR, run_in};
use crate::state::Relation;

/// Hosts write within the first part of each LU, so that they meet.
const SPAN: u64 = 640 << 10;
const SECTORS: usize = (SPAN / SECTOR) as usize;
const WRITERS: usize = 6;

/// A write as its host sees it. Times are ticks of one counter.
#[derive(Clone, Copy, Debug)]
struct Write {
    stamp: u64,
    issued: u64,
    /// When it can take no effect any more: answered, or its unit died.
    ended: u64,
    acked: bool,
    /// A flush issued after its answer was answered, or it was forced.
    stable: bool,
}

const START: Write = Write { stamp: 0, issued: 0, ended: 0, acked: true, stable: true };

/// What every sector may hold.
struct Oracle {
    sectors: Vec<Vec<Vec<Write>>>,
    tick: u64,
}

impl Oracle {
    fn new() -> Self {
        Self { sectors: vec![vec![vec![START]; SECTORS]; LUS], tick: 1 }
    }

    fn tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    fn issue(&mut self, lu: usize, range: ByteRange, stamp: u64) {
        let issued = self.tick();
        for sector in sectors(range) {
            self.sectors[lu][sector].push(Write {
                stamp,
                issued,
                ended: u64::MAX,
                acked: false,
                stable: false,
            });
        }
    }

    fn end(&mut self, lu: usize, range: ByteRange, stamp: u64, acked: bool, stable: bool) {
        let now = self.tick();
        for sector in sectors(range) {
            let writes = &mut self.sectors[lu][sector];
            let Some(write) = writes.iter_mut().find(|write| write.stamp == stamp) else { continue };
            (write.ended, write.acked, write.stable) = (now, acked, acked && stable);
        }
    }

    /// What was answered up to `issued` is stable.
    fn flushed(&mut self, lu: usize, issued: u64) {
        for writes in &mut self.sectors[lu] {
            for write in writes.iter_mut().filter(|write| write.acked && write.ended <= issued) {
                write.stable = true;
            }
        }
    }

    /// Nothing of a dead unit takes effect any more.
    fn died(&mut self) {
        let now = self.tick();
        for write in self.sectors.iter_mut().flatten().flatten().filter(|write| write.ended == u64::MAX) {
            write.ended = now;
        }
    }

    /// Why a sector may not hold this value: a write that was acknowledged replaced it.
    fn check(&self, lu: usize, sector: usize, stamp: u64, stable_only: bool, before: u64, who: &str) {
        let writes = &self.sectors[lu][sector];
        let Some(found) = writes.iter().find(|write| write.stamp == stamp) else {
            panic!("{who}: LU {lu} sector {sector} holds {stamp}, which nobody wrote: {writes:?}");
        };
        let newer = writes.iter().find(|write| {
            let counts = if stable_only { write.stable } else { write.acked };
            counts && write.ended < before && write.issued > found.ended
        });
        if let Some(newer) = newer {
            panic!("{who}: LU {lu} sector {sector} holds {found:?}, but {newer:?} was acknowledged");
        }
    }

    /// Power is gone: what was not stable may be lost, and what is found now is the truth.
    fn rebase(&mut self, lab: &Lab) {
        self.died();
        for lu in 0..LUS {
            let view = lab.east.media[lu].view();
            for sector in 0..SECTORS {
                let stamp = stamp_at(&view, sector);
                self.check(lu, sector, stamp, true, u64::MAX, "after a power cut");
                self.sectors[lu][sector] = vec![Write { stamp, ..START }];
            }
        }
    }
}

fn sectors(range: ByteRange) -> std::ops::Range<usize> {
    (range.offset() / SECTOR) as usize..(range.end() / SECTOR) as usize
}

fn stamp_at(bytes: &[u8], sector: usize) -> u64 {
    let at = sector * SECTOR as usize;
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn content(stamp: u64, len: u64) -> Payload {
    let mut sector = stamp.to_le_bytes().to_vec();
    sector.resize(SECTOR as usize, stamp as u8);
    Payload::from(sector.repeat((len / SECTOR) as usize))
}

/// Everything that the jobs of a run share.
struct Run {
    lab: Rc<Lab>,
    oracle: RefCell<Oracle>,
    west_lives: Cell<u64>,
    quiet: Cell<bool>,
    running: Cell<usize>,
}

impl Run {
    /// A host: random requests to the primary for as long as its unit lives.
    async fn host(self: Rc<Self>, mut rng: Rng) {
        let service = self.lab.east.service();
        let shard = self.lab.east.process().shard();
        while !self.quiet.get() {
            let lu = rng.index(LUS);
            let Some(layer) = service.layer(self.lab.east.lu_uuid(lu)) else { return };
            let len = SECTOR * rng.range(1..=32);
            let hot = if rng.chance(1, 2) { 64 << 10 } else { SPAN };
            let range = ByteRange::new(rng.below((hot - len) / SECTOR + 1) * SECTOR, len);
            match rng.below(12) {
                0 => {
                    let issued = self.oracle.borrow_mut().tick();
                    if layer.execute(BlockRequest::Flush).await.is_ok() {
                        self.oracle.borrow_mut().flushed(lu, issued);
                    }
                }
                1 | 2 => {
                    let issued = self.oracle.borrow_mut().tick();
                    if let Ok(data) = layer.execute(BlockRequest::Read { range }).await {
                        let data = data.to_bytes();
                        for (index, sector) in sectors(range).enumerate() {
                            let stamp = stamp_at(&data, index);
                            self.oracle.borrow().check(lu, sector, stamp, false, issued, "a host's read");
                        }
                    }
                }
                _ => self.write(&layer, lu, range, rng.next_u64() | 1, rng.chance(1, 6)).await,
            }
            shard.sleep(std::time::Duration::from_micros(rng.below(60_000))).await;
        }
    }

    async fn write(&self, layer: &impl BlockLayer, lu: usize, range: ByteRange, stamp: u64, fua: bool) {
        self.oracle.borrow_mut().issue(lu, range, stamp);
        let west = self.west_lives.get();
        let request = BlockRequest::Write { range, data: content(stamp, range.len()), fua };
        let result = layer.execute(request).await;
        self.oracle.borrow_mut().end(lu, range, stamp, result.is_ok(), fua);
        // I1: acknowledged means on the secondary as well, unless that it misses something is on record.
        let record = self.lab.east.record().expect("the mirror");
        let in_step = record.secondary("west").is_some_and(|west| west.relation == Relation::InStep);
        if result.is_ok() && in_step && west == self.west_lives.get() {
            let view = self.lab.west.media[lu].view();
            for sector in sectors(range) {
                let stamp = stamp_at(&view, sector);
                self.oracle.borrow().check(
                    lu,
                    sector,
                    stamp,
                    false,
                    u64::MAX,
                    "the secondary at an acknowledgement",
                );
            }
        }
    }

    async fn start_east(self: &Rc<Self>, rng: &mut Rng) {
        self.lab.east.start(&self.lab.world).await;
        for writer in 0..WRITERS {
            let draw = rng.next_u64();
            let host = self.clone().host(rng.fork(&format!("host {writer} {draw}")));
            self.running.set(self.running.get() + 1);
            let me = self.clone();
            let process = self.lab.east.process();
            self.lab.world.shard().spawn(async move {
                run_in(&process, host).await;
                me.running.set(me.running.get() - 1);
            });
        }
    }

    async fn fail_something(self: &Rc<Self>, rng: &mut Rng) {
        let lab = &self.lab;
        match rng.below(12) {
            0 | 1 => lab.world.link("east", "west").cut(),
            2..=4 => lab.world.link("east", "west").heal(),
            5 => {
                lab.east.kill();
                self.oracle.borrow_mut().died();
            }
            6 => {
                self.west_lives.set(self.west_lives.get() + 1);
                lab.west.kill();
            }
            7 => {
                self.west_lives.set(self.west_lives.get() + 1);
                lab.west.power_cut(rng);
            }
            8 if rng.chance(1, 2) => {
                lab.east.power_cut(rng);
                self.oracle.borrow_mut().rebase(lab);
            }
            9 => {
                let medium = &lab.west.media[rng.index(LUS)];
                medium.frozen.set(!medium.frozen.get());
            }
            10 => {
                let medium = &lab.west.media[rng.index(LUS)];
                medium.fail_writes.set(!medium.fail_writes.get());
            }
            11 if lab.east.is_up() => lab.east.vault.broken.set(!lab.east.vault.broken.get()),
            _ => {}
        }
        if !lab.east.is_up() {
            lab.east.vault.broken.set(false);
        }
        lab.assert_named();
        if !lab.east.is_up() && rng.chance(2, 3) {
            self.start_east(rng).await;
        }
        if !lab.west.is_up() && rng.chance(1, 2) {
            lab.west.start(&lab.world).await;
        }
    }

    async fn heal(self: &Rc<Self>, rng: &mut Rng) {
        let lab = &self.lab;
        lab.world.link("east", "west").heal();
        lab.east.vault.broken.set(false);
        for medium in &lab.west.media {
            medium.frozen.set(false);
            medium.fail_writes.set(false);
        }
        if !lab.west.is_up() {
            lab.west.start(&lab.world).await;
        }
        if !lab.east.is_up() {
            self.start_east(rng).await;
        }
    }
}

fn run(seed: u64) {
    Lab::run(seed, |lab| async move {
        let mut rng = lab.world.rng("chaos");
        let run = Rc::new(Run {
            lab: lab.clone(),
            oracle: RefCell::new(Oracle::new()),
            west_lives: Cell::new(0),
            quiet: Cell::new(false),
            running: Cell::new(0),
        });
        lab.add_secondary(false).await;
        lab.east.kill();
        run.start_east(&mut rng).await;
        for _ in 0..rng.range(8..=24) {
            // Long enough, now and then, for a link to be found dead and for logs to settle.
            let longest = if rng.chance(1, 3) { 9_000 } else { 700 };
            for _ in 0..4 {
                lab.sleep(rng.below(longest / 4)).await;
                lab.assert_named();
            }
            run.fail_something(&mut rng).await;
        }
        run.heal(&mut rng).await;
        lab.sleep(rng.below(5_000)).await;
        run.quiet.set(true);
        while run.running.get() > 0 {
            lab.sleep(50).await;
        }
        // I7: left alone, it converges; then both are equal and hold what they must.
        lab.reach("SYNCHRONIZED").await;
        lab.assert_equal();
        lab.assert_named();
        for lu in 0..LUS {
            let view = lab.west.media[lu].view();
            for sector in 0..SECTORS {
                run.oracle.borrow().check(lu, sector, stamp_at(&view, sector), false, u64::MAX, "at the end");
            }
        }
    });
}

#[test]
fn nothing_acknowledged_is_lost_whatever_fails() {
    let seeds = std::env::var("TWINLUN_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(12);
    let first = std::env::var("TWINLUN_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    for seed in first..first + seeds {
        run(seed);
    }
}

#[cfg(feature = "planted-bugs")]
#[test]
fn every_planted_bug_is_found() {
    use crate::planted::{Bug, plant};

    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        plant(Some(bug));
        let found = (0..150).find(|seed| std::panic::catch_unwind(|| run(*seed)).is_err());
        plant(None);
        println!("{bug:?}: found by seed {found:?}");
        if found.is_none() {
            missed.push(bug);
        }
    }
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
