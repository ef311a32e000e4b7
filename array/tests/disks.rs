//! Disks that fail, are replaced, come back late, or never were ours.

mod common;

use std::rc::Rc;
use std::time::Duration;

use common::*;
use twinlun_array::{Array, ArrayError, ArrayEvent, DiskConfig, DiskState, Lu, LuSpec, LuState, Raid};
use twinlun_block::{BlockError, BlockLayer, BlockRequest, ByteRange, MetaStore, Payload};
use twinlun_io::sim::Medium;
use twinlun_io::{DiskError, Shard};

const SIZE: u64 = 4 * MIB;

async fn bind(array: &Array, raid: Raid) -> Lu {
    let info = array.create_lu(LuSpec::new("data", SIZE, raid)).await.expect("there is room");
    array.lu(info.uuid).expect("it was created")
}

async fn hosts(shard: &Shard, lu: &Lu, oracle: &Rc<Oracle>, seed: u64, steps: u64) {
    let done = Rc::new(std::cell::Cell::new(0));
    for lane in 0..4 {
        let rng = twinlun_io::sim::Rng::new(seed).fork(&format!("lane{lane}"));
        let (lu, oracle, done) = (lu.clone(), oracle.clone(), done.clone());
        shard.spawn(async move {
            host(lu, oracle, rng, lane, 4, steps).await;
            done.set(done.get() + 1);
        });
    }
    while done.get() < 4 {
        shard.sleep(Duration::from_millis(10)).await;
    }
}

async fn until(shard: &Shard, lu: &Lu, state: LuState) {
    for _ in 0..20_000 {
        if lu.info().state == state {
            return;
        }
        shard.sleep(Duration::from_millis(20)).await;
    }
    panic!("{:?} is not reached: {:?}", state, lu.info());
}

fn state_of(array: &Array, slot: u32) -> DiskState {
    array.disks().iter().find(|disk| disk.slot == Some(slot)).expect("a disk of the unit").state
}

fn degrade_replace_rebuild(seed: u64, raid: Raid, disks: usize) {
    let world = world(seed);
    let handle = world.handle();
    run(&world, async move |shard| {
        let array = open(shard.clone(), 0..disks).await.expect("opens");
        let lu = bind(&array, raid).await;
        let oracle = Oracle::new(SIZE);
        hosts(&shard, &lu, &oracle, seed, 30).await;
        // The second disk stops taking writes in the middle of the work.
        let faulty = handle.clone();
        let later = shard.clone();
        shard.spawn(async move {
            later.sleep(Duration::from_millis(5)).await;
            faulty.disk(&path(1)).fail_writes(ByteRange::new(0, 16 * MIB));
        });
        hosts(&shard, &lu, &oracle, seed + 1, 60).await;
        assert_eq!((lu.info().state, state_of(&array, 1)), (LuState::Degraded, DiskState::Failed));
        verify(&lu, &oracle, "degraded").await;
        // Another disk takes its place while hosts work.
        handle.disk(&path(1)).remove();
        handle.disk(&path(1)).heal();
        handle.disk(&path(1)).insert(Medium::blank(16 * MIB));
        let (at, size) = blank(&path(1));
        let work = hosts(&shard, &lu, &oracle, seed + 2, 60);
        let (replaced, ()) = futures_util::future::join(array.replace_disk(1, at, size), work).await;
        replaced.expect("is replaced");
        until(&shard, &lu, LuState::Optimal).await;
        verify(&lu, &oracle, "rebuilt").await;
        let events = array.events().drain();
        assert!(events.iter().any(|event| matches!(event, ArrayEvent::DiskFailed { slot: 1, .. })));
        assert!(events.iter().any(|event| matches!(event, ArrayEvent::RebuildDone { .. })));
        array.shutdown().await.expect("stops");
    });
    assert_eq!(
        member_bytes(&world, 0, SIZE),
        member_bytes(&world, 1, SIZE),
        "copies are byte-identical (seed {seed})"
    );
}

#[test]
fn a_failed_disk_is_replaced_and_rebuilt_under_load() {
    (0..6).for_each(|seed| degrade_replace_rebuild(seed, Raid::Raid1, 2));
    (10..13).for_each(|seed| degrade_replace_rebuild(seed, Raid::Raid10, 4));
}

/// The rebuild is cut short by power cuts, again and again, and goes on.
#[test]
fn a_rebuild_survives_power_cuts() {
    for seed in 0..4 {
        let world = world(seed);
        let oracle = Oracle::new(SIZE);
        let (first, handle) = (oracle.clone(), world.handle());
        run(&world, async move |shard| {
            let array = open(shard.clone(), 0..2).await.expect("opens");
            let lu = bind(&array, Raid::Raid1).await;
            hosts(&shard, &lu, &first, seed, 30).await;
            flush(&lu).await.expect("flushes");
            array.fail_disk(1).await.expect("the other copy is there");
            handle.disk(&path(1)).remove();
            handle.disk(&path(1)).insert(Medium::blank(16 * MIB));
            let (at, size) = blank(&path(1));
            array.replace_disk(1, at, size).await.expect("is replaced");
        });
        for round in 0..6 {
            let process = process(&world);
            process.power_cut();
            let process = common::process(&world);
            let (shard, lives) = (process.shard(), oracle.clone());
            process.spawn(async move {
                let array = open(shard.clone(), 0..2).await.expect("opens");
                let lu = array.lu_by_name("data").expect("it is bound");
                verify(&lu, &lives, "rebuilding").await;
                hosts(&shard, &lu, &lives, seed * 100 + round, 20).await;
            });
            world.run_for(Duration::from_millis(30 + 10 * round)).expect("the world goes on");
            process.power_cut();
        }
        run(&world, async move |shard| {
            let array = open(shard.clone(), 0..2).await.expect("opens");
            let lu = array.lu_by_name("data").expect("it is bound");
            until(&shard, &lu, LuState::Optimal).await;
            verify(&lu, &oracle, "rebuilt").await;
            array.shutdown().await.expect("stops");
        });
        assert_eq!(member_bytes(&world, 0, SIZE), member_bytes(&world, 1, SIZE), "seed {seed}");
    }
}

#[test]
fn a_stale_disk_is_kept_out_until_it_is_taken_back() {
    let world = world(1);
    let handle = world.handle();
    run(&world, async move |shard| {
        let array = open(shard, 0..3).await.expect("opens");
        let spec = LuSpec { disks: Some(vec![0, 1]), ..LuSpec::new("data", SIZE, Raid::Raid1) };
        array.create_lu(spec).await.expect("there is room");
        let lu = array.lu_by_name("data").expect("bound");
        write(&lu, 0, vec![1; 4096], true).await.expect("writes");
        array.shutdown().await.expect("stops");
    });
    // Disk 1 is away for one life of the unit.
    let away = handle.disk(&path(1)).remove().expect("it is there");
    run(&world, async move |shard| {
        let array = open(shard, 0..3).await.expect("two of three are a majority");
        assert_eq!(state_of(&array, 1), DiskState::Missing);
        let lu = array.lu_by_name("data").expect("bound");
        assert_eq!(lu.info().state, LuState::Degraded);
        write(&lu, 0, vec![2; 4096], true).await.expect("writes");
        assert!(put(&array.vault(), "k", 7).await);
        array.shutdown().await.expect("stops");
    });
    handle.disk(&path(1)).insert(away);
    run(&world, async move |shard| {
        let array = open(shard.clone(), 0..3).await.expect("opens");
        assert_eq!(state_of(&array, 1), DiskState::Stale);
        let lu = array.lu_by_name("data").expect("bound");
        for _ in 0..4 {
            assert_eq!(read(&lu, 0, 4096).await.expect("reads"), vec![2; 4096]);
        }
        assert_eq!(get(&array.vault(), "k"), 7);
        array.replace_disk(1, path(1).into(), None).await.expect("it is taken back");
        until(&shard, &lu, LuState::Optimal).await;
        for _ in 0..4 {
            assert_eq!(read(&lu, 0, 4096).await.expect("reads"), vec![2; 4096]);
        }
        array.shutdown().await.expect("stops");
    });
    // An old copy of a disk, brought in behind everybody's back, has a state of the vault that is too old.
    let copy = handle.disk(&path(1)).copy();
    run(&world, async move |shard| {
        let array = open(shard, 0..3).await.expect("opens");
        array.shutdown().await.expect("stops");
    });
    handle.disk(&path(1)).remove();
    handle.disk(&path(1)).insert(copy);
    run(&world, async move |shard| {
        let array = open(shard, 0..3).await.expect("opens");
        assert_eq!(state_of(&array, 1), DiskState::Stale);
    });
}

#[test]
fn half_of_the_copies_is_not_believed_unless_the_rest_is_declared_lost() {
    let world = world(2);
    run(&world, async move |shard| {
        let array = open(shard, 0..2).await.expect("opens");
        bind(&array, Raid::Raid1).await;
        array.fail_disk(0).await.expect("the other copy is there");
        assert!(put(&array.vault(), "k", 1).await, "one of two goes on");
        array.shutdown().await.expect("stops");
    });
    world.disk(&path(1)).remove();
    run(&world, async move |shard| {
        let error = open(shard.clone(), 0..2).await.err().expect("the stale disk is alone");
        assert!(matches!(error, ArrayError::NoQuorum { .. }));
        assert!(error.to_string().contains("/disk1"), "the missing disk is named: {error}");
        let array = open(shard, [0]).await.expect("disk 1 is declared lost");
        assert_eq!(get(&array.vault(), "k"), 0, "what disk 1 alone knew is lost, as the administrator said");
    });
}

#[test]
fn foreign_disks_are_refused_and_left_as_they_are() {
    let world = world(3);
    let handle = world.handle();
    run(&world, async move |shard| {
        scribble(&shard, 1, 700_000, vec![7; 512]).await;
        let error = open(shard.clone(), 0..2).await.err().expect("disk 1 is not blank");
        assert!(matches!(&error, ArrayError::Foreign { path, .. } if *path == *common::path(1)), "{error}");
        assert_eq!(handle.disk(&path(1)).peek(ByteRange::new(700_000, 512)), vec![7; 512]);
        assert_eq!(handle.disk(&path(1)).peek(ByteRange::new(0, 4096)), vec![0; 4096]);
        let array = open(shard.clone(), [0]).await.expect("opens");
        let error = array.add_disk(configs([1]).remove(0), false).await.expect_err("disk 1 is not blank");
        assert!(matches!(error, ArrayError::Foreign { .. }));
        array.shutdown().await.expect("stops");
        // A unit that is there goes on without it, and shows it.
        let array = open(shard.clone(), 0..2).await.expect("opens");
        assert!(array.disks().iter().any(|disk| disk.path == *path(1) && disk.state == DiskState::Foreign));
        array.shutdown().await.expect("stops");
        // A disk of one unit is foreign to another.
        let other = Array::open(shard.clone(), "west", configs([0])).await.err().expect("it belongs to east");
        assert!(other.to_string().contains("east"), "{other}");
    });
}

#[test]
fn two_daemons_on_one_disk_are_told() {
    let world = world(4);
    let handle = world.handle();
    run(&world, async move |shard| {
        let array = open(shard, [0]).await.expect("opens");
        let second = handle.process("second", [10, 0, 0, 2].into());
        let error = open(second.shard(), [0]).await.err().expect("it is taken");
        assert!(matches!(error, ArrayError::Disk { error: DiskError::Locked { .. }, .. }), "{error}");
        array.shutdown().await.expect("stops");
        open(second.shard(), [0]).await.expect("it is free now");
    });
}

#[test]
fn new_lus_are_zero_and_space_is_given_back() {
    let world = world(5);
    run(&world, async move |shard| {
        let array = open(shard, 0..2).await.expect("opens");
        for raid in [Raid::Raid0, Raid::Raid1, Raid::Raid10] {
            let spec = LuSpec { disks: Some(vec![0, 1]), ..LuSpec::new("data", SIZE, raid) };
            let info = array.create_lu(spec.clone()).await.expect("there is room");
            let lu = array.lu(info.uuid).expect("bound");
            assert_eq!(read(&lu, 0, SIZE).await.expect("reads"), vec![0; SIZE as usize]);
            write(&lu, 0, vec![9; SIZE as usize], false).await.expect("writes");
            assert!(matches!(array.create_lu(spec).await, Err(ArrayError::Exists { .. })));
            array.delete_lu(info.uuid).await.expect("is deleted");
            assert_eq!(read(&lu, 0, 512).await, Err(BlockError::Aborted));
        }
        let error = array.create_lu(LuSpec::new("big", 1 << 40, Raid::Raid0)).await.expect_err("too big");
        assert!(matches!(error, ArrayError::NoSpace(_)));
        let error = array.create_lu(LuSpec::new("five", SIZE, Raid::Raid5)).await.expect_err("not yet");
        assert!(error.to_string().contains("not yet"), "{error}");
        let error = array.fail_disk(9).await.expect_err("no such slot");
        assert!(matches!(error, ArrayError::NotFound { .. }));
    });
}

#[test]
fn a_bad_block_is_read_from_the_other_copy_and_rewritten() {
    let world = world(6);
    let handle = world.handle();
    run(&world, async move |shard| {
        let array = open(shard.clone(), 0..2).await.expect("opens");
        let lu = bind(&array, Raid::Raid1).await;
        write(&lu, 8192, vec![5; 4096], true).await.expect("writes");
        handle.disk(&path(0)).fail_reads(ByteRange::new(4 * MIB + 8192, 4096));
        for _ in 0..4 {
            assert_eq!(read(&lu, 8192, 4096).await.expect("reads"), vec![5; 4096]);
        }
        shard.sleep(Duration::from_secs(1)).await;
        assert!(
            array
                .events()
                .drain()
                .iter()
                .any(|event| matches!(event, ArrayEvent::Healed { offset: 8192, .. }))
        );
        assert_eq!(lu.info().state, LuState::Optimal);
        handle.disk(&path(0)).fail_reads(ByteRange::new(4 * MIB, 512));
        handle.disk(&path(1)).fail_reads(ByteRange::new(4 * MIB, 512));
        assert_eq!(read(&lu, 0, 512).await, Err(BlockError::Medium { offset: 0 }));
    });
}

#[test]
fn a_failed_flush_costs_the_disk_not_the_data() {
    let world = world(7);
    let handle = world.handle();
    run(&world, async move |shard| {
        let array = open(shard.clone(), 0..2).await.expect("opens");
        let lu = bind(&array, Raid::Raid1).await;
        let oracle = Oracle::new(SIZE);
        hosts(&shard, &lu, &oracle, 7, 20).await;
        write(&lu, 0, oracle.begin(0, 8).1, false).await.expect("writes");
        handle.disk(&path(0)).fail_flushes(1);
        flush(&lu).await.expect("the other copy is stable");
        assert_eq!(state_of(&array, 0), DiskState::Failed);
        verify(&lu, &oracle, "one copy").await;
        handle.disk(&path(1)).fail_flushes(1);
        write(&lu, 0, oracle.begin(0, 8).1, false).await.expect("writes");
        flush(&lu).await.expect_err("nothing may be called stable");
        flush(&lu).await.expect_err("nor later");
    });
}

#[test]
fn a_spare_takes_the_place_of_a_failed_disk() {
    let world = world(8);
    run(&world, async move |shard| {
        let array = open(shard.clone(), 0..2).await.expect("opens");
        let lu = bind(&array, Raid::Raid1).await;
        let oracle = Oracle::new(SIZE);
        hosts(&shard, &lu, &oracle, 8, 20).await;
        let config = DiskConfig { path: path(2).into(), size: Some(16 * MIB) };
        let spare = array.add_disk(config, true).await.expect("is added");
        assert_eq!(state_of(&array, spare), DiskState::Spare);
        array.fail_disk(0).await.expect("the other copy is there");
        until(&shard, &lu, LuState::Optimal).await;
        verify(&lu, &oracle, "on the spare").await;
        assert_eq!(state_of(&array, spare), DiskState::Online);
        array.fail_disk(1).await.expect("the spare has it all");
        verify(&lu, &oracle, "on the spare alone").await;
        let error = array.fail_disk(spare).await.expect_err("it is the last");
        assert!(matches!(error, ArrayError::Unsafe(_)), "{error}");
    });
}

#[test]
fn compare_and_write_is_atomic() {
    for raid in [Raid::Raid0, Raid::Raid1] {
        let world = world(9);
        run(&world, async move |shard| {
            let array = open(shard.clone(), 0..2).await.expect("opens");
            let lu = bind(&array, raid).await;
            // Eight hosts count in one block; no count may be lost.
            let left = Rc::new(std::cell::Cell::new(8));
            for _ in 0..8 {
                let (lu, left) = (lu.clone(), left.clone());
                shard.spawn(async move {
                    for _ in 0..10 {
                        loop {
                            let old = read(&lu, 0, 512).await.expect("reads");
                            let mut new = old.clone();
                            new[0] += 1;
                            let request = BlockRequest::CompareAndWrite {
                                range: ByteRange::new(0, 512),
                                compare: Payload::from(old),
                                data: Payload::from(new),
                                fua: false,
                            };
                            match lu.execute(request).await {
                                Ok(_) => break,
                                Err(error) => assert_eq!(error, BlockError::Miscompare { offset: 0 }),
                            }
                        }
                    }
                    left.set(left.get() - 1);
                });
            }
            while left.get() > 0 {
                shard.sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(read(&lu, 0, 512).await.expect("reads")[0], 80);
        });
    }
}

#[test]
fn a_vault_that_is_full_says_so_and_keeps_what_it_has() {
    let world = world(10);
    run(&world, async move |shard| {
        let array = open(shard, [0]).await.expect("opens");
        let vault = array.vault();
        assert!(put(&vault, "k", 3).await);
        let big = vec![("big".to_owned(), Some(vec![1; 2 << 20].into()))];
        assert!(vault.put(big).await.is_err());
        assert!(vault.open_log("huge", 100_000).await.is_err());
        assert_eq!(get(&vault, "k"), 3);
        assert!(put(&vault, "k", 4).await);
    });
}

/// The loss of a disk is recorded before the write that it missed is answered: a crash right after cannot bring the disk
/// back as a good copy, even as the one that others are made equal to.
#[test]
fn a_disk_that_missed_an_answered_write_is_not_believed_after_a_crash() {
    for seed in 0..8 {
        let world = world(seed);
        let handle = world.handle();
        let process = process(&world);
        let shard = process.shard();
        let answered = Rc::new(std::cell::Cell::new(false));
        let (life, told) = (process.clone(), answered.clone());
        process.spawn(async move {
            let array = open(shard.clone(), 0..2).await.expect("opens");
            let lu = bind(&array, Raid::Raid1).await;
            write(&lu, 0, vec![1; 4096], true).await.expect("writes");
            let faulty = (seed % 2) as usize;
            handle.disk(&path(faulty)).fail_writes(ByteRange::new(4 * MIB, SIZE));
            write(&lu, 0, vec![2; 4096], true).await.expect("the other copy has it");
            told.set(true);
            life.power_cut();
        });
        world.run_for(Duration::from_secs(5)).expect("the world goes on");
        assert!(answered.get());
        (0..2).for_each(|disk| world.disk(&path(disk)).heal());
        run(&world, async move |shard| {
            let array = open(shard, 0..2).await.expect("opens");
            let lu = array.lu_by_name("data").expect("it is bound");
            for _ in 0..4 {
                assert_eq!(read(&lu, 0, 4096).await.expect("reads"), vec![2; 4096]);
            }
            assert_eq!(lu.info().state, LuState::Degraded);
        });
    }
}
