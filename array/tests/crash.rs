//! Crash loops: random work, a kill or a power cut at any disk operation, also in the middle of a recovery.

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use twinlun_array::{Array, LuSpec, LuState, Raid};
use twinlun_block::{BlockLayer, BlockRequest, ByteRange, MetaLog, MetaStore, PAGE_PAYLOAD};
use twinlun_io::Shard;
use twinlun_io::sim::{Crash, CrashPoint, Medium};

const SIZE: u64 = 3 * MIB;

async fn first_lu(array: &Array, raid: Raid) -> twinlun_array::Lu {
    if array.lus().is_empty() {
        let spec = LuSpec { chunk: 16384, ..LuSpec::new("data", SIZE, raid) };
        array.create_lu(spec).await.expect("a new unit has room");
    }
    array.lu_by_name("data").expect("it was created")
}

async fn life(shard: Shard, disks: usize, raid: Raid, oracle: Rc<Oracle>, seeds: twinlun_io::sim::Rng) {
    let array = open(shard.clone(), 0..disks).await.expect("every disk is there");
    let lu = first_lu(&array, raid).await;
    assert_eq!(lu.info().state, LuState::Optimal);
    verify(&lu, &oracle, "after a crash").await;
    for lane in 0..4 {
        let rng = seeds.fork(&format!("lane{lane}"));
        shard.spawn(host(lu.clone(), oracle.clone(), rng, lane, 4, 40));
    }
}

fn crash_loop(seed: u64, disks: usize, raid: Raid) {
    let world = world(seed);
    let oracle = Oracle::new(SIZE);
    let mut rng = world.rng("crash");
    for round in 0..12 {
        let process = process(&world);
        let how = if rng.chance(2, 3) { Crash::PowerCut } else { Crash::Kill };
        // A third of them early, in the middle of formatting or recovery.
        let ops = if rng.chance(1, 3) { rng.below(60) } else { rng.below(1500) };
        process.crash_after(CrashPoint::DiskOps(ops + 1), how);
        let seeds = world.rng(&format!("round{round}"));
        process.spawn(life(process.shard(), disks, raid, oracle.clone(), seeds));
        world.run_for(Duration::from_secs(20)).expect("the world goes on");
        process.power_cut();
    }
    let checked = oracle.clone();
    run(&world, async move |shard| {
        let array = open(shard.clone(), 0..disks).await.expect("opens");
        let lu = first_lu(&array, raid).await;
        verify(&lu, &checked, "at the end").await;
        shard.sleep(Duration::from_secs(2)).await;
        assert_eq!(lu.info().dirty_bytes, 0, "marks go when nothing is written");
        array.shutdown().await.expect("stops");
    });
    if raid != Raid::Raid0 {
        for pair in (0..disks).collect::<Vec<_>>().chunks(2) {
            let equal = member_bytes(&world, pair[0], SIZE) == member_bytes(&world, pair[1], SIZE);
            assert!(equal, "copies are byte-identical (seed {seed})");
        }
    }
}

/// A killed process leaves its writes in the page cache. The next life serves them, so a flush of its own must make them stable.
#[test]
fn a_flush_covers_what_a_killed_life_has_written() {
    for (seed, raid) in (0..16).map(|seed| (seed, if seed % 2 == 0 { Raid::Raid0 } else { Raid::Raid1 })) {
        let world = world(seed);
        run(&world, async move |shard| {
            let array = open(shard, 0..2).await.expect("a new unit opens");
            let lu = first_lu(&array, raid).await;
            write(&lu, MIB, vec![7; 4096], false).await.expect("healthy disks take it");
        });
        process(&world).kill();
        run(&world, async move |shard| {
            let array = open(shard, 0..2).await.expect("opens after a kill");
            let lu = first_lu(&array, raid).await;
            flush(&lu).await.expect("healthy disks flush");
        });
        process(&world).power_cut();
        run(&world, async move |shard| {
            let array = open(shard, 0..2).await.expect("opens after a power cut");
            let lu = first_lu(&array, raid).await;
            let data = read(&lu, MIB, 4096).await.expect("healthy disks answer");
            assert!(data == vec![7; 4096], "{raid:?}: it was flushed");
        });
    }
}

#[test]
fn raid_0_keeps_what_was_flushed() {
    (0..3).for_each(|seed| crash_loop(seed, 1, Raid::Raid0));
    (0..2).for_each(|seed| crash_loop(100 + seed, 3, Raid::Raid0));
}

#[test]
fn raid_1_keeps_what_was_flushed_and_its_copies_equal() {
    (0..8).for_each(|seed| crash_loop(200 + seed, 2, Raid::Raid1));
}

#[test]
fn raid_10_keeps_what_was_flushed_and_its_copies_equal() {
    (0..3).for_each(|seed| crash_loop(300 + seed, 4, Raid::Raid10));
}

#[derive(Default)]
struct Meta {
    /// Acknowledged and attempted value of a record and of two log pages.
    acknowledged: [u64; 3],
    attempted: [u64; 3],
}

async fn meta_life(shard: Shard, disks: usize, meta: Rc<RefCell<Meta>>, context: String) {
    let array = open(shard.clone(), 0..disks).await.expect("every disk is there");
    let vault = array.vault();
    let log = vault.open_log("bits", 5).await.expect("there is room");
    let found = [get(&vault, "k"), log_number(&log, 0).await, log_number(&log, 4).await];
    for (index, found) in found.into_iter().enumerate() {
        let (low, high) = (meta.borrow().acknowledged[index], meta.borrow().attempted[index]);
        assert!((low..=high).contains(&found), "{context}: {index} holds {found}, not {low} to {high}");
        // What was read once is what there is.
        let mut meta = meta.borrow_mut();
        (meta.acknowledged[index], meta.attempted[index]) = (found, high);
    }
    for index in 0..3 {
        let (vault, log, meta) = (vault.clone(), log.clone(), meta.clone());
        shard.spawn(async move {
            loop {
                let value = meta.borrow().attempted[index] + 1;
                meta.borrow_mut().attempted[index] = value;
                let page = if index == 1 { 0 } else { 4 };
                // A full page, or a torn write would have nothing to tear.
                let bytes = Bytes::from(value.to_le_bytes().repeat(PAGE_PAYLOAD / 8));
                let done = match index {
                    0 => put(&vault, "k", value).await,
                    _ => log.write(vec![(page, bytes)]).await.is_ok(),
                };
                assert!(done);
                meta.borrow_mut().acknowledged[index] = value;
            }
        });
    }
}

fn meta_loop(seed: u64, disks: usize) {
    let world = world(seed);
    let meta = Rc::new(RefCell::new(Meta::default()));
    let mut rng = world.rng("crash");
    for round in 0..25 {
        let process = process(&world);
        let ops = if rng.chance(1, 2) { rng.below(40) } else { rng.below(300) };
        process.crash_after(CrashPoint::DiskOps(ops + 1), Crash::PowerCut);
        let context = format!("seed {seed}, round {round}");
        process.spawn(meta_life(process.shard(), disks, meta.clone(), context));
        world.run_for(Duration::from_secs(5)).expect("the world goes on");
        assert!(!process.is_alive(), "it has crashed");
    }
    assert!(
        meta.borrow().acknowledged.iter().all(|value| *value > 0),
        "work was done: {:?}",
        meta.borrow().acknowledged
    );
}

#[test]
fn metadata_survives_torn_writes() {
    for seed in 0..4 {
        meta_loop(seed, 1);
        meta_loop(1000 + seed, 2);
        meta_loop(2000 + seed, 4);
    }
}

/// A minority of the disks is lost for good at every crash, and replaced.
#[test]
fn metadata_survives_the_loss_of_a_minority() {
    for seed in 0..6 {
        let world = world(seed);
        let mut rng = world.rng("loss");
        let meta = Rc::new(RefCell::new(Meta::default()));
        for _ in 0..8 {
            let process = process(&world);
            let lives = meta.clone();
            process.spawn(meta_life(process.shard(), 3, lives, format!("seed {seed}")));
            world.run_for(Duration::from_millis(1 + rng.below(400))).expect("the world goes on");
            process.power_cut();
            let lost = rng.index(3);
            let checked = meta.clone();
            if world.disk(&path(lost)).is_present() && meta.borrow().acknowledged[2] > 0 {
                world.disk(&path(lost)).remove();
                let handle = world.handle();
                run(&world, async move |shard| {
                    let array = open(shard, 0..3).await.expect("a minority is missing");
                    let vault = array.vault();
                    assert!(get(&vault, "k") >= checked.borrow().acknowledged[0]);
                    let log = vault.open_log("bits", 5).await.expect("opens");
                    assert!(log_number(&log, 4).await >= checked.borrow().acknowledged[2]);
                    let number =
                        array.disks().into_iter().find(|d| d.path == *path(lost)).and_then(|d| d.slot);
                    handle.disk(&path(lost)).insert(Medium::blank(16 * MIB));
                    let (path, size) = blank(&path(lost));
                    array
                        .replace_disk(number.expect("a disk of the unit"), path, size)
                        .await
                        .expect("is replaced");
                    array.shutdown().await.expect("stops");
                });
            }
        }
    }
}

/// Every sector of the area says which write it is of.
fn stamped(stamp: u64, len: u64) -> Bytes {
    let mut data = Vec::with_capacity(len as usize);
    for _ in 0..len / 512 {
        data.extend_from_slice(&stamp.to_le_bytes());
        data.resize(data.len().next_multiple_of(512), 0);
    }
    data.into()
}

/// One life: the area holds one write whole, at least the last one that was answered; then more of them, until the crash.
async fn atomic_life(
    shard: Shard,
    raid: Raid,
    answered: Rc<std::cell::Cell<u64>>,
    next: Rc<std::cell::Cell<u64>>,
) {
    const AREA: ByteRange = ByteRange::new(MIB - 40960, 128 << 10);
    let array = open(shard, 0..4).await.expect("every disk is there");
    let lu = first_lu(&array, raid).await;
    let data = lu.execute(BlockRequest::Read { range: AREA }).await.expect("readable").to_bytes();
    let stamp = u64::from_le_bytes(data[..8].try_into().expect("8 bytes"));
    assert_eq!(data, stamped(stamp, AREA.len()), "the area holds one write, whole");
    assert!(stamp >= answered.get(), "{stamp} is older than {}", answered.get());
    // What was not answered and is not there never comes back: an old entry of the log is not written over newer data.
    answered.set(stamp);
    loop {
        let stamp = next.get() + 1;
        next.set(stamp);
        let data = stamped(stamp, AREA.len());
        let request =
            BlockRequest::WriteAtomic { range: AREA, data: data.into(), fua: stamp.is_multiple_of(2) };
        lu.execute(request).await.expect("healthy disks take it");
        answered.set(stamp);
    }
}

#[test]
fn an_atomic_write_is_whole_after_any_crash() {
    for (seed, raid) in
        (0..12).flat_map(|seed| [(seed, Raid::Raid0), (seed, Raid::Raid1), (seed, Raid::Raid10)])
    {
        let world = world(seed);
        let mut rng = world.rng("crash");
        let counters = [Rc::new(std::cell::Cell::new(0)), Rc::new(std::cell::Cell::new(0))];
        for _ in 0..10 {
            let process = process(&world);
            let how = if rng.chance(2, 3) { Crash::PowerCut } else { Crash::Kill };
            process.crash_after(CrashPoint::DiskOps(1 + rng.below(700)), how);
            process.spawn(atomic_life(process.shard(), raid, counters[0].clone(), counters[1].clone()));
            world.run_for(Duration::from_secs(5)).expect("the world goes on");
            process.power_cut();
        }
        assert!(counters[0].get() > 10, "seed {seed}: atomic writes were done");
    }
}

#[test]
fn an_old_atomic_write_never_comes_back() {
    let world = world(3);
    run(&world, async move |shard| {
        let array = open(shard, 0..2).await.expect("a new unit opens");
        let lu = first_lu(&array, Raid::Raid1).await;
        let range = ByteRange::new(8192, 8192);
        let data = stamped(1, range.len());
        lu.execute(BlockRequest::WriteAtomic { range, data: data.into(), fua: true }).await.expect("written");
        lu.execute(BlockRequest::Write { range, data: stamped(2, range.len()).into(), fua: true })
            .await
            .expect("written");
        let large = ByteRange::new(0, 129 << 10);
        let data = stamped(3, large.len());
        let refused =
            lu.execute(BlockRequest::WriteAtomic { range: large, data: data.into(), fua: true }).await;
        assert!(refused.is_err(), "larger than what a LU keeps room for");
    });
    process(&world).power_cut();
    run(&world, async move |shard| {
        let array = open(shard, 0..2).await.expect("opens again");
        let lu = first_lu(&array, Raid::Raid1).await;
        let read =
            lu.execute(BlockRequest::Read { range: ByteRange::new(8192, 8192) }).await.expect("readable");
        assert_eq!(read.to_bytes(), stamped(2, 8192));
    });
}
