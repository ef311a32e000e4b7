//! Scheduling, time, determinism, and how processes die.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;

use super::*;
use crate::sim::{Crash, CrashPoint, StallKind};
use crate::{DiskOptions, Durability};

/// A bit of everything: two processes that talk, a disk, a fault.
fn busy(seed: u64) -> (u64, Vec<u8>) {
    let world = world(seed);
    let seen = transfer(&world, 200_000, millis(1));
    let (east, _) = two(&world);
    let shard = east.shard();
    east.spawn(async move {
        let disk =
            shard.open_disk(Path::new("d"), DiskOptions { create: Some(1 << 20) }).await.expect("created");
        for round in 0..50_u8 {
            let mut place = [0; 2];
            shard.fill_random(&mut place);
            let offset = u64::from(place[0]) * 512;
            disk.write(offset, payload(round, 1024), Durability::Volatile).await.expect("no fault ordered");
            if place[1] < 50 {
                disk.flush().await.expect("no fault ordered");
            }
        }
    });
    world.run_for(millis(20)).expect("within the step limit");
    world.link("east", "west").cut();
    world.run_for(millis(20)).expect("within the step limit");
    world.link("east", "west").heal();
    world.run_for(millis(5)).expect("within the step limit");
    east.power_cut();
    world.run_for(millis(5000)).expect("within the step limit");
    drop(seen);
    (world.trace_hash(), world.disk("d").peek(range(0, 1 << 17)))
}

#[test]
fn the_same_seed_gives_the_same_history_and_another_one_does_not() {
    let mut hashes = BTreeSet::new();
    for seed in 0..10 {
        let first = busy(seed);
        assert_eq!(first, busy(seed), "seed {seed}");
        hashes.insert(first.0);
    }
    assert_eq!(hashes.len(), 10);
}

#[test]
fn ready_jobs_run_in_an_order_drawn_from_the_seed() {
    let mut orders = BTreeSet::new();
    for seed in 0..40 {
        let world = world(seed);
        let east = world.process("east", [10, 0, 0, 1].into());
        let order = Rc::new(RefCell::new(Vec::new()));
        for job in 0..3 {
            let order = order.clone();
            east.spawn(async move { order.borrow_mut().push(job) });
        }
        world.run_for(millis(1)).expect("ends");
        orders.insert(order.take());
    }
    assert_eq!(orders.len(), 6, "every order of three jobs is reached");
}

#[test]
fn timers_fire_in_order_and_time_jumps() {
    let world = world(1);
    let shard = world.shard();
    let order = Rc::new(RefCell::new(Vec::new()));
    for late in [30, 10, 20] {
        let (shard2, order) = (shard.clone(), order.clone());
        shard.spawn(async move {
            shard2.sleep(millis(late)).await;
            assert_eq!(shard2.now().since_start(), millis(late));
            order.borrow_mut().push(late);
        });
    }
    let limited = world.run(async {
        let timed_out = shard.timeout(millis(25), std::future::pending::<()>()).await;
        (timed_out, shard.now().since_start())
    });
    let (timed_out, at) = limited.expect("the limit passes");
    assert!(timed_out.is_err());
    assert_eq!((at, order.borrow().clone()), (millis(25), vec![10, 20]));
    world.run_until(crate::Instant::from_start(millis(3_600_000))).expect("nothing but time passes");
    assert_eq!((world.now().since_start(), order.borrow().len()), (millis(3_600_000), 3));
}

#[test]
fn a_run_that_cannot_end_says_why() {
    let small = WorldOptions { time_limit: millis(50), step_limit: 1000, ..WorldOptions::default() };
    let world = World::new(3, small);
    let shard = world.shard();
    let stalled = world.run(async {
        let short = shard.timeout(millis(40), shard.yield_now()).await;
        short.expect("a timer that is not needed any more is gone");
        std::future::pending::<()>().await;
    });
    let stalled = stalled.expect_err("nothing can happen");
    assert_eq!(stalled.at.since_start(), Duration::ZERO);
    assert_eq!((stalled.kind, stalled.seed), (StallKind::Idle, 3));
    let stalled = world.run(shard.sleep(millis(51))).expect_err("too long");
    assert_eq!((stalled.kind, stalled.at.since_start()), (StallKind::TimeLimit, millis(50)));
    let east = world.process("east", [10, 0, 0, 1].into());
    let busy = east.shard();
    east.spawn(async move {
        loop {
            busy.yield_now().await;
        }
    });
    let stalled = world.run(shard.sleep(millis(1))).expect_err("a job spins");
    assert_eq!(stalled.kind, StallKind::StepLimit);
    assert_eq!(stalled.jobs.get("east"), Some(&1));
}

/// Touches its shard and what its process shares when dropped, as guards of real code do.
struct Meddler {
    shard: Shard,
    dropped: Rc<RefCell<u32>>,
}

impl Drop for Meddler {
    fn drop(&mut self) {
        *self.dropped.borrow_mut() += 1;
        let (again, now) = (self.shard.clone(), self.shard.now());
        self.shard.fill_random(&mut [0; 4]);
        self.shard.spawn(async move { again.sleep_until(now).await });
    }
}

#[test]
fn a_process_may_kill_itself_at_any_moment() {
    for how in [Crash::Kill, Crash::PowerCut] {
        let world = world(5);
        let (east, west) = two(&world);
        let dropped = Rc::new(RefCell::new(0));
        for _ in 0..3 {
            let meddler = Meddler { shard: east.shard(), dropped: dropped.clone() };
            let shard = east.shard();
            east.spawn(async move {
                let _meddler = meddler;
                shard.sleep(millis(10)).await;
                unreachable!("killed before");
            });
        }
        let (victim, shared) = (east.clone(), dropped.clone());
        let shard = east.shard();
        east.spawn(async move {
            shard.sleep(millis(5)).await;
            {
                let mut borrowed = shared.borrow_mut();
                match how {
                    Crash::Kill => victim.kill(),
                    Crash::PowerCut => victim.power_cut(),
                }
                assert!(!victim.is_alive(), "the moment is exact");
                assert_eq!(*borrowed, 0, "the destructors wait for what this job has borrowed");
                *borrowed += 10;
            }
            shard.spawn(async { unreachable!("a dead process starts nothing") });
            shard.sleep(millis(1)).await;
            unreachable!("it is dropped at its next await");
        });
        world.run_for(millis(100)).expect("ends");
        assert_eq!((*dropped.borrow(), east.jobs()), (13, 0));
        assert!(west.is_alive());
        let next = world.process("east", east.ip());
        assert!(next.is_alive() && !east.is_alive(), "another life");
    }
}

#[test]
fn one_job_may_kill_another_process_and_start_it_again() {
    let world = world(6);
    let (east, west) = two(&world);
    let dropped = Rc::new(RefCell::new(0));
    let meddler = Meddler { shard: west.shard(), dropped: dropped.clone() };
    west.spawn(async move {
        let _meddler = meddler;
        std::future::pending::<()>().await;
    });
    let (handle, victim, shard) = (world.handle(), west.clone(), east.shard());
    let alive = Rc::new(Cell::new(false));
    let flag = alive.clone();
    east.spawn(async move {
        shard.yield_now().await;
        shard.sleep(millis(1)).await;
        victim.kill();
        assert_eq!(victim.jobs(), 0);
        let next = handle.process("west", victim.ip());
        next.spawn(async move { flag.set(true) });
    });
    world.run_for(millis(10)).expect("ends");
    assert!(alive.get());
    assert_eq!(*dropped.borrow(), 1);
}

#[test]
fn a_crash_point_is_exact() {
    for n in 1..=6 {
        let world = world(7);
        let east = world.process("east", [10, 0, 0, 1].into());
        east.crash_after(CrashPoint::DiskOps(n), Crash::PowerCut);
        let shard = east.shard();
        let answered = Rc::new(Cell::new(0));
        let count = answered.clone();
        east.spawn(async move {
            let options = DiskOptions { create: Some(1 << 20) };
            let disk = shard.open_disk(Path::new("d"), options).await.expect("created");
            for block in 0..6 {
                disk.write(block * 512, payload(1, 512), Durability::Stable).await.expect("no fault ordered");
                count.set(count.get() + 1);
            }
        });
        world.run_for(millis(500)).expect("ends");
        assert_eq!(answered.get() + 1, n, "the last one is done and not answered");
        let disk = world.disk("d").peek_durable(range(0, 4096));
        assert_eq!(disk.iter().filter(|byte| **byte == 1).count() as u64, n * 512);
    }
    let world = world(7);
    let east = world.process("east", [10, 0, 0, 1].into());
    let shard = east.shard();
    east.crash_after(CrashPoint::Polls(4), Crash::Kill);
    east.spawn(async move {
        loop {
            shard.yield_now().await;
        }
    });
    world.run_for(millis(1)).expect("ends");
    assert_eq!((east.is_alive(), east.polls()), (false, 4));
}

#[test]
fn a_paused_process_stands_still_and_goes_on() {
    let world = world(8);
    let (east, _) = two(&world);
    let shard = east.shard();
    let ticks = Rc::new(Cell::new(0));
    let count = ticks.clone();
    east.spawn(async move {
        loop {
            shard.sleep(millis(10)).await;
            count.set(count.get() + 1);
        }
    });
    world.run_for(millis(35)).expect("ends");
    east.pause();
    world.run_for(millis(1000)).expect("ends");
    assert_eq!(ticks.get(), 3);
    east.resume();
    world.run_for(millis(11)).expect("ends");
    assert_eq!(ticks.get(), 5, "the late tick and the one after");
    let before = east.shard().unix_time();
    east.step_wall_clock(-5_000_000);
    assert_eq!(before - east.shard().unix_time(), millis(5000));
}

#[test]
fn a_world_that_ends_drops_everything() {
    let dropped = Rc::new(RefCell::new(0));
    let world = world(9);
    let seen = transfer(&world, 1_000_000, millis(1));
    let (east, _) = two(&world);
    let meddler = Meddler { shard: east.shard(), dropped: dropped.clone() };
    let handle = world.handle();
    east.spawn(async move {
        let _kept = (meddler, handle);
        std::future::pending::<()>().await;
    });
    world.run_for(millis(20)).expect("ends");
    drop(world);
    assert_eq!((*dropped.borrow(), Rc::strong_count(&seen)), (1, 1));
}
