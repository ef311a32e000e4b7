//! Disks that are away for a life of the unit and come back, fail in the middle of it, or have a damaged label.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use twinlun_array::{ArrayError, DiskState, LuSpec, LuState, Raid};
use twinlun_block::ByteRange;
use twinlun_io::sim::{Medium, World};

use crate::common::*;

const SIZE: u64 = 2 * MIB;

/// What the unit acknowledged, data and record, is there again or the unit does not start, whichever of its disks are away and come back.
pub(crate) fn come_and_go(seed: u64) {
    let world = world(seed);
    let mut rng = world.rng("plan");
    let disks = 2 + rng.index(2);
    let oracle = Oracle::new(SIZE);
    let key = Rc::new(Cell::new((0u64, 0u64)));
    let mut away: Option<(usize, Medium)> = None;
    for round in 0..10 {
        if let Some((disk, medium)) = away.take() {
            world.disk(&path(disk)).insert(medium);
        }
        if round > 0 && rng.chance(2, 3) {
            let disk = rng.index(disks);
            away = world.disk(&path(disk)).remove().map(|medium| (disk, medium));
        }
        let faulty = rng.chance(1, 3).then(|| rng.index(disks));
        let (handle, lives, record) = (world.handle(), oracle.clone(), key.clone());
        let process = process(&world);
        let (shard, seeds) = (process.shard(), world.rng(&format!("round{round}")));
        let back = rng.chance(1, 2);
        process.spawn(async move {
            let array = match open(shard.clone(), 0..disks).await {
                Ok(array) => array,
                // What is missing may know more. That is the answer that loses nothing.
                Err(ArrayError::NoQuorum { .. }) => return,
                Err(error) => panic!("seed {seed}, round {round}: {error}"),
            };
            if array.lus().is_empty() {
                array.create_lu(LuSpec::new("data", SIZE, Raid::Raid1)).await.expect("a new unit has room");
            }
            let lu = array.lu_by_name("data").expect("it was created");
            let found = get(&array.vault(), "k");
            let (low, high) = record.get();
            assert!(
                (low..=high).contains(&found),
                "seed {seed}, round {round}: {found}, not {low} to {high}"
            );
            record.set((found, high));
            if lu.info().state == LuState::Failed {
                // The members in step are away; nothing is served, and nothing is made up.
                return;
            }
            verify(&lu, &lives, &format!("seed {seed}, round {round}")).await;
            for disk in array.disks().into_iter().filter(|_| back) {
                if let (DiskState::Stale, Some(slot)) = (disk.state, disk.slot) {
                    array
                        .replace_disk(slot, disk.path, None)
                        .await
                        .expect("the unit's own disk is taken back");
                }
            }
            for lane in 0..4 {
                shard.spawn(host(lu.clone(), lives.clone(), seeds.fork(&format!("lane{lane}")), lane, 4, 40));
            }
            let vault = array.vault();
            for value in high + 1..high + 4 {
                record.set((record.get().0, value));
                if put(&vault, "k", value).await {
                    record.set((value, value));
                }
                shard.sleep(Duration::from_millis(5)).await;
            }
            if let Some(disk) = faulty {
                handle.disk(&path(disk)).fail_writes(ByteRange::new(4 * MIB, SIZE));
            }
            std::future::pending::<()>().await;
        });
        world.run_for(Duration::from_millis(50 + rng.below(400))).expect("the world goes on");
        process.power_cut();
        (0..disks).for_each(|disk| world.disk(&path(disk)).heal());
    }
}

#[test]
fn disks_that_come_and_go_unread_nothing() {
    (0..24).for_each(come_and_go);
}

/// A disk misses a write; right after the write is answered the power fails, and the unit comes up with that disk and without the other
/// copy. The disk must not be believed.
pub(crate) fn loss_and_power_cut(seed: u64) {
    let world = world(seed);
    let mut rng = world.rng("plan");
    let oracle = Oracle::new(SIZE);
    run(&world, async |shard| {
        let array = open(shard, 0..3).await.expect("a new unit opens");
        array.create_lu(LuSpec::new("data", SIZE, Raid::Raid1)).await.expect("a new unit has room");
        array.shutdown().await.expect("stops");
    });
    let (faulty, wait) = (rng.index(2), rng.below(300));
    let process = process(&world);
    let (shard, handle, power, answers) = (process.shard(), world.handle(), process.clone(), oracle.clone());
    let first = rng.index(64);
    process.spawn(async move {
        let array = open(shard.clone(), 0..3).await.expect("all disks are there");
        let lu = array.lu_by_name("data").expect("it was created");
        handle.disk(&path(faulty)).fail_writes(ByteRange::new(4 * MIB, SIZE));
        let (version, data) = answers.begin(first, 8);
        write(&lu, first as u64 * SECTOR, data, true).await.expect("one copy is left");
        answers.stable(first, 8, version);
        shard.sleep(Duration::from_micros(wait)).await;
        power.power_cut();
    });
    world.run_for(Duration::from_secs(5)).expect("the world goes on");
    assert!(!process.is_alive(), "seed {seed}: the write was answered");
    world.disk(&path(faulty)).heal();
    world.disk(&path(1 - faulty)).remove();
    run(&world, async move |shard| {
        let array = match open(shard, 0..3).await {
            Ok(array) => array,
            // One of the two disks that know of the loss is away: that is said, and nothing is lost.
            Err(ArrayError::NoQuorum { .. }) => return,
            Err(error) => panic!("seed {seed}: {error}"),
        };
        let lu = array.lu_by_name("data").expect("it was created");
        if lu.info().state != LuState::Failed {
            verify(&lu, &oracle, &format!("seed {seed}")).await;
        }
    });
}

#[test]
fn a_disk_that_missed_an_answered_write_is_not_believed_after_a_power_cut() {
    (0..24).for_each(loss_and_power_cut);
}

fn labels_of(world: &World, disk: usize) -> [Vec<u8>; 2] {
    [0, 16 * MIB - 4096].map(|at| world.disk(&path(disk)).peek(ByteRange::new(at, 4096)))
}

/// One of the two labels of each disk is damaged, torn between two versions or rotten: the other one tells, and mends it.
pub(crate) fn damaged_label(seed: u64) {
    let world = world(seed);
    let mut rng = world.rng("damage");
    run(&world, async move |shard| {
        let array = open(shard, 0..2).await.expect("a new unit opens");
        assert!(put(&array.vault(), "k", 7).await);
        array.shutdown().await.expect("stops");
    });
    let whole = labels_of(&world, 0);
    let place = [0, 16 * MIB - 4096][rng.index(2)];
    // Anything behind the magic and the version, which are not checksums' business.
    let at = place + 16 + rng.below(88);
    let damaged = world.disk(&path(0));
    let old = damaged.peek(ByteRange::new(at, 1))[0];
    damaged.poke(at, &[old ^ (1 << rng.index(8))]);
    run(&world, async move |shard| {
        let array = open(shard, 0..2).await.expect("the other label tells");
        assert!(array.disks().iter().all(|disk| disk.state == DiskState::Online), "{:?}", array.disks());
        assert_eq!(get(&array.vault(), "k"), 7);
        array.shutdown().await.expect("stops");
    });
    assert!(labels_of(&world, 0) == whole, "seed {seed}: both labels are whole again");
}

#[test]
fn a_damaged_label_is_not_believed_and_is_mended() {
    (0..24).for_each(damaged_label);
}
