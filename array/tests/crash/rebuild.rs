//! Rebuilds that are cut short, while hosts work and other disks are replaced.

use std::rc::Rc;
use std::time::Duration;

use twinlun_array::{Array, ArrayOptions, DiskState, Lu, LuSpec, LuState, Raid};
use twinlun_io::Shard;
use twinlun_io::sim::{Crash, CrashPoint, Medium, Rng, World};

use crate::common::*;

const SIZE: u64 = 6 * MIB;

/// What differs from seed to seed.
#[derive(Clone)]
struct Plan {
    raid: Raid,
    disks: usize,
    options: ArrayOptions,
}

impl Plan {
    fn new(rng: &mut Rng) -> Self {
        let (raid, disks) = if rng.chance(1, 2) { (Raid::Raid1, 2) } else { (Raid::Raid10, 4) };
        let options = ArrayOptions {
            // From "as soon as possible" to "not within a rebuild".
            intent_idle: Duration::from_millis([0, 1, 20, 200][rng.index(4)]),
            rebuild_checkpoint: [1, 2, 64][rng.index(3)] * MIB,
            rebuild_yield: [1, 10, 60][rng.index(3)],
            ..ArrayOptions::default()
        };
        Self { raid, disks, options }
    }

    async fn open(&self, shard: &Shard) -> (Array, Lu) {
        let array = open_with(shard.clone(), 0..self.disks, self.options.clone()).await.expect("opens");
        if array.lus().is_empty() {
            let spec = LuSpec { chunk: 16384, ..LuSpec::new("data", SIZE, self.raid) };
            array.create_lu(spec).await.expect("there is room");
        }
        let lu = array.lu_by_name("data").expect("it was created");
        (array, lu)
    }

    /// Of every pair one disk may be replaced.
    fn replaceable(&self) -> impl Iterator<Item = usize> {
        (0..self.disks / 2).map(|pair| pair * 2 + 1)
    }
}

async fn until_optimal(shard: &Shard, lu: &Lu) {
    for _ in 0..20_000 {
        if lu.info().state == LuState::Optimal {
            return;
        }
        shard.sleep(Duration::from_millis(20)).await;
    }
    panic!("the rebuild does not end: {:?}", lu.info());
}

/// Two hosts that never rest, and two that write in bursts, so that regions get quiet while the rebuild has company.
fn spawn_hosts(shard: &Shard, lu: &Lu, oracle: &Rc<Oracle>, seeds: &Rng) {
    for lane in 0..4 {
        let mut rng = seeds.fork(&format!("lane{lane}"));
        let (lu, oracle, own) = (lu.clone(), oracle.clone(), shard.clone());
        shard.spawn(async move {
            for burst in 0..40 {
                let steps = if lane < 2 { 6 } else { 30 };
                let chance = rng.fork(&format!("burst{burst}"));
                host(lu.clone(), oracle.clone(), chance, lane, 4, steps).await;
                if lane < 2 {
                    own.sleep(Duration::from_millis(1 + rng.below(40))).await;
                }
            }
        });
    }
}

/// A disk is replaced by a blank one, as far as that is not under way.
async fn replace(array: &Array, slot: usize) {
    let state = array.disks().iter().find(|disk| disk.slot == Some(slot as u32)).map(|disk| disk.state);
    if state
        .is_some_and(|state| matches!(state, DiskState::Online | DiskState::Rebuilding | DiskState::Spare))
    {
        return;
    }
    let (at, size) = blank(&path(slot));
    array.replace_disk(slot as u32, at, size).await.expect("a blank disk is taken");
}

fn pull(world: &World, slot: usize) {
    let disk = world.disk(&path(slot));
    disk.remove();
    disk.insert(Medium::blank(16 * MIB));
}

/// Copies are made anew, once or for two disks at a time, under power cuts; at the end they are equal and right.
pub(crate) fn rebuild_loop(seed: u64) {
    let world = world(seed);
    let mut rng = world.rng("plan");
    let plan = Plan::new(&mut rng);
    let oracle = Oracle::new(SIZE);
    let (first, started) = (oracle.clone(), plan.clone());
    run(&world, async move |shard| {
        let (array, lu) = started.open(&shard).await;
        let left = Rc::new(std::cell::Cell::new(4));
        for lane in 0..4 {
            let (lu, oracle, left) = (lu.clone(), first.clone(), left.clone());
            let rng = Rng::new(seed).fork(&format!("fill{lane}"));
            shard.spawn(async move {
                host(lu, oracle, rng, lane, 4, 60).await;
                left.set(left.get() - 1);
            });
        }
        while left.get() > 0 {
            shard.sleep(Duration::from_millis(5)).await;
        }
        flush(&lu).await.expect("healthy disks flush");
        array.fail_disk(1).await.expect("the other copy is there");
    });
    process(&world).power_cut();
    // The first of `replaceable` is replaced at the start, the others in the middle of its rebuild.
    let slots: Vec<usize> = plan.replaceable().collect();
    pull(&world, slots[0]);
    for round in 0..5 {
        let process = process(&world);
        let (shard, lives, life) = (process.shard(), oracle.clone(), plan.clone());
        let seeds = world.rng(&format!("round{round}"));
        let (handle, second) = (world.handle(), slots.get(1).copied().filter(|_| round == 1));
        let wait = rng.below(120);
        process.spawn(async move {
            let (array, lu) = life.open(&shard).await;
            replace(&array, 1).await;
            verify(&lu, &lives, "rebuilding").await;
            spawn_hosts(&shard, &lu, &lives, &seeds);
            if let Some(slot) = second {
                shard.sleep(Duration::from_millis(wait)).await;
                if array.fail_disk(slot as u32).await.is_ok() {
                    let disk = handle.disk(&path(slot));
                    disk.remove();
                    disk.insert(Medium::blank(16 * MIB));
                    replace(&array, slot).await;
                }
            }
            // The array lives as long as the process.
            std::future::pending::<()>().await;
        });
        if rng.chance(1, 3) {
            process.crash_after(CrashPoint::DiskOps(400 + rng.below(4000)), Crash::PowerCut);
        }
        world.run_for(Duration::from_millis(40 + rng.below(900))).expect("the world goes on");
        process.power_cut();
    }
    let ended = plan.clone();
    run(&world, async move |shard| {
        let (array, lu) = ended.open(&shard).await;
        for slot in ended.replaceable() {
            replace(&array, slot).await;
        }
        until_optimal(&shard, &lu).await;
        verify(&lu, &oracle, "rebuilt").await;
        array.shutdown().await.expect("stops");
    });
    for pair in 0..plan.disks / 2 {
        let len = SIZE / (plan.disks as u64 / 2);
        let copies = [pair * 2, pair * 2 + 1].map(|disk| member_bytes(&world, disk, len));
        assert!(copies[0] == copies[1], "copies are byte-identical (seed {seed})");
    }
}

#[test]
fn rebuilds_that_are_cut_short_end_with_equal_copies() {
    (0..8).for_each(rebuild_loop);
}

fn slow(checkpoint: u64) -> ArrayOptions {
    ArrayOptions {
        intent_idle: Duration::ZERO,
        rebuild_checkpoint: checkpoint,
        rebuild_yield: 40,
        ..ArrayOptions::default()
    }
}

async fn put_blocks(lu: &Lu, oracle: &Oracle, offset: u64) {
    let first = (offset / SECTOR) as usize;
    let (_, data) = oracle.begin(first, 8);
    write(lu, offset, data, false).await.expect("a copy in step takes it");
}

/// Ends a rebuild after a power cut, and compares.
fn finish(world: &World, mut plan: Plan, oracle: Rc<Oracle>) {
    plan.options.rebuild_yield = 1;
    process(world).power_cut();
    let (seed, disks) = (world.seed(), plan.disks);
    run(world, async move |shard| {
        let (array, lu) = plan.open(&shard).await;
        for slot in plan.replaceable() {
            replace(&array, slot).await;
        }
        verify(&lu, &oracle, "after the cut").await;
        until_optimal(&shard, &lu).await;
        verify(&lu, &oracle, "rebuilt").await;
        array.shutdown().await.expect("stops");
    });
    for pair in 0..disks / 2 {
        let len = SIZE / (disks as u64 / 2);
        let copies = [pair * 2, pair * 2 + 1].map(|disk| member_bytes(world, disk, len));
        assert!(copies[0] == copies[1], "copies are byte-identical (seed {seed})");
    }
}

/// Regions that are copied already are written now and then and get quiet, so that their intent is cleared in the middle of the rebuild: it
/// may be only when the new disk has flushed them as well.
pub(crate) fn quiet_regions(seed: u64) {
    let world = world(seed);
    let oracle = Oracle::new(SIZE);
    let plan = Plan { raid: Raid::Raid1, disks: 2, options: slow(MIB) };
    let (handle, life, lives) = (world.handle(), plan.clone(), oracle.clone());
    let process = process(&world);
    let shard = process.shard();
    let mut rng = world.rng("quiet");
    let until = Duration::from_millis(100 + rng.below(400));
    process.spawn(async move {
        let (array, lu) = life.open(&shard).await;
        for region in 0..SIZE / MIB {
            put_blocks(&lu, &lives, region * MIB).await;
        }
        flush(&lu).await.expect("healthy disks flush");
        array.fail_disk(1).await.expect("the other copy is there");
        handle.disk(&path(1)).remove();
        handle.disk(&path(1)).insert(Medium::blank(16 * MIB));
        replace(&array, 1).await;
        // Company all the time, in the last region, or the rebuild would not take its time.
        let (company, other) = (lu.clone(), shard.clone());
        shard.spawn(async move {
            loop {
                let _ = read(&company, SIZE - 4096, 4096).await;
                other.sleep(Duration::from_micros(200)).await;
            }
        });
        loop {
            shard.sleep(Duration::from_millis(1 + rng.below(12))).await;
            let offset = rng.below(SIZE / MIB) * MIB + rng.below(200) * 4096;
            put_blocks(&lu, &lives, offset).await;
        }
    });
    world.run_for(until).expect("the world goes on");
    finish(&world, plan, oracle);
}

#[test]
fn regions_that_get_quiet_during_a_rebuild_are_flushed_on_all_disks() {
    (0..6).for_each(quiet_regions);
}

/// While one disk is rebuilt another one is replaced, which stores the record of the LU: what it says about the first must be stable.
pub(crate) fn two_rebuilds(seed: u64) {
    let world = world(seed);
    let oracle = Oracle::new(SIZE);
    let plan = Plan { raid: Raid::Raid10, disks: 4, options: slow(64 * MIB) };
    let (handle, life, lives) = (world.handle(), plan.clone(), oracle.clone());
    let process = process(&world);
    let (shard, dying) = (process.shard(), process.clone());
    let mut rng = world.rng("two");
    process.spawn(async move {
        let (array, lu) = life.open(&shard).await;
        for block in 0..SIZE / 65536 {
            put_blocks(&lu, &lives, block * 65536).await;
        }
        flush(&lu).await.expect("healthy disks flush");
        for slot in [1, 3] {
            array.fail_disk(slot).await.expect("the other copy is there");
            handle.disk(&path(slot as usize)).remove();
            handle.disk(&path(slot as usize)).insert(Medium::blank(16 * MIB));
        }
        let (company, other) = (lu.clone(), shard.clone());
        shard.spawn(async move {
            loop {
                let _ = read(&company, SIZE - 4096, 4096).await;
                other.sleep(Duration::from_micros(200)).await;
            }
        });
        replace(&array, 1).await;
        shard.sleep(Duration::from_millis(10 + rng.below(100))).await;
        replace(&array, 3).await;
        shard.sleep(Duration::from_millis(rng.below(10))).await;
        dying.power_cut();
    });
    world.run_for(Duration::from_secs(5)).expect("the world goes on");
    assert!(!process.is_alive(), "it got that far");
    finish(&world, plan, oracle);
}

#[test]
fn what_a_record_says_about_a_rebuild_is_stable() {
    (0..6).for_each(two_rebuilds);
}
