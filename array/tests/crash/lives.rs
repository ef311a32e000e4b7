//! Hosts at work, and the unit dies under them.

use std::rc::Rc;
use std::time::Duration;

use twinlun_array::{Array, LuSpec, LuState, Raid};
use twinlun_block::{BlockLayer, BlockRequest, ByteRange};
use twinlun_io::Shard;
use twinlun_io::sim::{Crash, CrashPoint};

use crate::common::*;

const SIZE: u64 = 3 * MIB;

pub(crate) async fn first_lu(array: &Array, raid: Raid) -> twinlun_array::Lu {
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

/// Two copies.
pub(crate) fn mirrored(seed: u64) {
    crash_loop(200 + seed, 2, Raid::Raid1);
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
    (0..16).for_each(flush_after_kill);
}

pub(crate) fn flush_after_kill(seed: u64) {
    let raid = if seed.is_multiple_of(2) { Raid::Raid0 } else { Raid::Raid1 };
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

/// Hosts that do not wait for each other write and discard the same areas, one area after the other: all copies end with the same bytes
/// (R-WR-3), and what is there is one of the writes from end to end.
pub(crate) fn overlapping(seed: u64) {
    const AREA: u64 = 8 << 10;
    const AREAS: u64 = 60;
    let world = world(seed);
    run(&world, async move |shard| {
        let array = open(shard.clone(), 0..2).await.expect("a new unit opens");
        let lu = first_lu(&array, Raid::Raid1).await;
        let left = Rc::new(std::cell::Cell::new(8u8));
        for number in 1..=8u8 {
            let (lu, left) = (lu.clone(), left.clone());
            let mut rng = twinlun_io::sim::Rng::new(seed).fork(&format!("host{number}"));
            shard.spawn(async move {
                for area in 0..AREAS {
                    let range = ByteRange::new(area * AREA, AREA);
                    let request = match rng.below(4) {
                        0 => BlockRequest::Unmap { range },
                        _ => {
                            let data = vec![number; AREA as usize].into();
                            BlockRequest::Write { range, data, fua: rng.chance(1, 4) }
                        }
                    };
                    lu.execute(request).await.expect("healthy disks take it");
                }
                left.set(left.get() - 1);
            });
        }
        while left.get() > 0 {
            shard.sleep(Duration::from_millis(5)).await;
        }
        for area in 0..AREAS {
            let data = read(&lu, area * AREA, AREA).await.expect("healthy disks answer");
            assert!(data.iter().all(|byte| *byte == data[0]), "seed {seed}: pieces of two writes in {area}");
        }
        array.shutdown().await.expect("stops");
    });
    let copies = [0, 1].map(|disk| member_bytes(&world, disk, AREAS * AREA));
    assert!(copies[0] == copies[1], "seed {seed}: copies differ");
}

#[test]
fn overlapping_writes_and_discards_leave_the_copies_equal() {
    (0..6).for_each(overlapping);
}

#[test]
fn raid_0_keeps_what_was_flushed() {
    (0..3).for_each(|seed| crash_loop(seed, 1, Raid::Raid0));
    (0..2).for_each(|seed| crash_loop(100 + seed, 3, Raid::Raid0));
}

#[test]
fn raid_1_keeps_what_was_flushed_and_its_copies_equal() {
    (0..8).for_each(mirrored);
}

#[test]
fn raid_10_keeps_what_was_flushed_and_its_copies_equal() {
    (0..3).for_each(|seed| crash_loop(300 + seed, 4, Raid::Raid10));
}
