//! Disks that hang, are full, or are but half of what was there: nothing is lost, and nobody waits for ever.

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use common::*;
use twinlun_array::{Array, ArrayError, ArrayEvent, ArrayOptions, DiskState, Lu, LuSpec, LuState, Raid};
use twinlun_block::BlockError;
use twinlun_io::Shard;

const SIZE: u64 = 4 * MIB;

async fn bind(array: &Array, raid: Raid) -> Lu {
    let info = array.create_lu(LuSpec::new("data", SIZE, raid)).await.expect("there is room");
    array.lu(info.uuid).expect("it was created")
}

async fn hosts(shard: &Shard, lu: &Lu, oracle: &Rc<Oracle>, seed: u64, steps: u64) {
    let done = Rc::new(Cell::new(0));
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

fn state_of(array: &Array, slot: u32) -> DiskState {
    array.disks().iter().find(|disk| disk.slot == Some(slot)).expect("a disk of the unit").state
}

/// Half of a unit of two is believed when the administrator says so, once; from then on the other half is stale.
#[test]
fn half_of_the_copies_is_believed_when_the_administrator_accepts_that() {
    let world = world(11);
    let handle = world.handle();
    run(&world, async move |shard| {
        let array = open(shard, 0..2).await.expect("opens");
        let lu = bind(&array, Raid::Raid1).await;
        write(&lu, 0, vec![3; 4096], true).await.expect("writes");
        array.shutdown().await.expect("stops");
    });
    let away = handle.disk(&path(1)).remove().expect("it is there");
    run(&world, async move |shard| {
        let error = open(shard.clone(), 0..2).await.err().expect("the other one may know more");
        assert!(error.to_string().contains("--accept-half"), "the way out is named: {error}");
        let accepting = ArrayOptions { accept_half: true, ..options() };
        let array = open_with(shard.clone(), 0..2, accepting).await.expect("the other one is declared lost");
        let lu = array.lu_by_name("data").expect("bound");
        assert_eq!(read(&lu, 0, 4096).await.expect("reads"), vec![3; 4096]);
        write(&lu, 0, vec![4; 4096], true).await.expect("writes");
        array.shutdown().await.expect("stops");
        let array = open(shard, 0..2).await.expect("it needs no second word");
        array.shutdown().await.expect("stops");
    });
    handle.disk(&path(1)).insert(away);
    run(&world, async move |shard| {
        let array = open(shard, 0..2).await.expect("opens");
        assert_eq!(state_of(&array, 1), DiskState::Stale, "what was declared lost is not believed later");
        let lu = array.lu_by_name("data").expect("bound");
        assert_eq!(read(&lu, 0, 4096).await.expect("reads"), vec![4; 4096]);
    });
}

/// Accepting half is no more than that: a third of the copies is refused all the same.
#[test]
fn less_than_half_of_the_copies_is_never_believed() {
    let world = world(12);
    run(&world, async move |shard| {
        open(shard, 0..3).await.expect("opens").shutdown().await.expect("stops");
    });
    world.disk(&path(1)).remove();
    world.disk(&path(2)).remove();
    run(&world, async move |shard| {
        let accepting = ArrayOptions { accept_half: true, ..options() };
        let error = open_with(shard, 0..3, accepting).await.err().expect("one of three");
        assert!(matches!(error, ArrayError::NoQuorum { present: 1, needed_of: 3, .. }), "{error}");
    });
}

const ANSWER_LIMIT: Duration = Duration::from_secs(8);

async fn with_limit(shard: &Shard, disks: usize) -> Array {
    let limited = ArrayOptions { answer_limit: Some(ANSWER_LIMIT), ..options() };
    open_with(shard.clone(), 0..disks, limited).await.expect("opens")
}

/// How long a disk hangs in the end.
const SILENCE: Duration = Duration::from_secs(200);

/// A disk that hangs under a mirrored LU is out within its time, and the write that waited for it is answered.
#[test]
fn a_silent_disk_is_taken_out_of_use_and_hosts_go_on() {
    for seed in 0..6 {
        let world = world(20 + seed);
        let handle = world.handle();
        run(&world, async move |shard| {
            let array = with_limit(&shard, 2).await;
            let lu = bind(&array, Raid::Raid1).await;
            let oracle = Oracle::new(SIZE);
            hosts(&shard, &lu, &oracle, seed, 20).await;
            handle.disk(&path(1)).stall(SILENCE);
            let before = shard.now();
            hosts(&shard, &lu, &oracle, seed + 1, 20).await;
            let took = shard.now() - before;
            assert!(took < ANSWER_LIMIT * 2, "hosts waited for {took:?}");
            assert_eq!((lu.info().state, state_of(&array, 1)), (LuState::Degraded, DiskState::Failed));
            let events = array.events().drain();
            let told = |event: &ArrayEvent| matches!(event, ArrayEvent::DiskFailed { slot: 1, reason } if reason.contains("no answer"));
            assert!(events.iter().any(told), "{events:?}");
            verify(&lu, &oracle, "without the silent disk").await;
            assert!(put(&array.vault(), "k", 1).await, "the vault goes on as well");
        });
        process(&world).power_cut();
        // What it did not take was recorded before anything was answered: it is not believed after a crash.
        run(&world, async move |shard| {
            let array = with_limit(&shard, 2).await;
            assert_eq!(state_of(&array, 1), DiskState::Failed, "a start does not wait for it either");
            array.shutdown().await.expect("stops");
            shard.sleep(SILENCE).await;
            let array = with_limit(&shard, 2).await;
            assert_eq!(state_of(&array, 1), DiskState::Stale, "{:?}", array.disks());
            assert_eq!(get(&array.vault(), "k"), 1);
        });
    }
}

/// The last copy is waited for, and so are disks that hang together: nothing is given up for a file system that pauses.
#[test]
fn silent_disks_without_another_copy_are_waited_for() {
    for (raid, stalled, silent) in
        [(Raid::Raid0, vec![0, 1], 1), (Raid::Raid1, vec![0, 1], 2), (Raid::Raid0, vec![0], 1)]
    {
        let world = world(30);
        let handle = world.handle();
        run(&world, async move |shard| {
            let array = with_limit(&shard, 2).await;
            let info = array
                .create_lu(LuSpec { disks: Some(vec![0, 1]), ..LuSpec::new("data", SIZE, raid) })
                .await
                .expect("there is room");
            let lu = array.lu(info.uuid).expect("it was created");
            write(&lu, 0, vec![5; 4096], true).await.expect("writes");
            stalled.iter().for_each(|disk| handle.disk(&path(*disk)).stall(Duration::from_secs(60)));
            write(&lu, 0, vec![6; 4096], true).await.expect("late, but it is answered");
            assert_eq!(lu.info().state, LuState::Optimal);
            let events = array.events().drain();
            let told = events.iter().filter(|event| matches!(event, ArrayEvent::DiskSilent { .. })).count();
            assert_eq!(told, silent, "it is said once of each that is waited for: {events:?}");
            assert_eq!(read(&lu, 0, 4096).await.expect("reads"), vec![6; 4096]);
        });
    }
}

/// A pause of the whole process makes every answer late. That is not the disks' doing.
#[test]
fn a_pause_of_the_process_costs_no_disk() {
    let world = world(31);
    let process = process(&world);
    let shard = process.shard();
    let done = Rc::new(Cell::new(false));
    let told = done.clone();
    process.spawn(async move {
        let array = with_limit(&shard, 2).await;
        let lu = bind(&array, Raid::Raid1).await;
        for number in 0..200u8 {
            write(&lu, 0, vec![number; 4096], true).await.expect("writes");
            shard.sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(lu.info().state, LuState::Optimal, "{:?}", array.disks());
        told.set(true);
    });
    world.run_for(Duration::from_secs(1)).expect("the world goes on");
    process.pause();
    world.run_for(Duration::from_secs(100)).expect("the world goes on");
    process.resume();
    world.run_for(Duration::from_secs(100)).expect("the world goes on");
    assert!(done.get());
}

/// A full file system: the write is refused by name, no disk is given up, and everything answered before is there.
#[test]
fn a_full_disk_refuses_writes_and_loses_nothing() {
    for (seed, raid, full) in [
        (0, Raid::Raid0, vec![0]),
        (1, Raid::Raid1, vec![0]),
        (2, Raid::Raid1, vec![1]),
        (3, Raid::Raid1, vec![0, 1]),
    ] {
        let world = world(40 + seed);
        let handle = world.handle();
        run(&world, async move |shard| {
            let array = open(shard.clone(), 0..2).await.expect("opens");
            let lu = bind(&array, raid).await;
            write(&lu, 0, vec![1; 65536], true).await.expect("there is room");
            full.iter().for_each(|disk| handle.disk(&path(*disk)).set_full(true));
            let refused = write(&lu, MIB, vec![2; 65536], true).await;
            assert_eq!(refused, Err(BlockError::NoSpace), "{raid:?} with {full:?}");
            for _ in 0..3 {
                assert_eq!(read(&lu, 0, 65536).await.expect("reads"), vec![1; 65536]);
            }
            let after = [read(&lu, MIB, 65536).await, read(&lu, MIB, 65536).await];
            assert_eq!(after[0], after[1], "what was refused is there or not, on all copies alike");
            // What has its room already can be written.
            write(&lu, 0, vec![3; 65536], true).await.expect("an overwrite needs none");
            shard.sleep(Duration::from_secs(2)).await;
            assert_eq!(lu.info().state, LuState::Optimal, "no disk is given up: {:?}", array.disks());
            full.iter().for_each(|disk| handle.disk(&path(*disk)).set_full(false));
            write(&lu, MIB, vec![4; 65536], true).await.expect("there is room again");
            for _ in 0..3 {
                assert_eq!(read(&lu, MIB, 65536).await.expect("reads"), vec![4; 65536]);
                assert_eq!(read(&lu, 0, 65536).await.expect("reads"), vec![3; 65536]);
            }
            array.shutdown().await.expect("stops");
        });
        if raid == Raid::Raid1 {
            assert!(member_bytes(&world, 0, SIZE) == member_bytes(&world, 1, SIZE), "copies are equal");
        }
    }
}
