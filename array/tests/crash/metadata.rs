//! Records and page logs of the vault under crashes.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use twinlun_block::{MetaLog, MetaStore, PAGE_PAYLOAD};
use twinlun_io::Shard;
use twinlun_io::sim::{Crash, CrashPoint, Medium};

use crate::common::*;

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

/// Torn writes have no other disk to be made good from.
pub(crate) fn one_disk(seed: u64) {
    meta_loop(seed, 1);
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
        one_disk(seed);
        meta_loop(1000 + seed, 2);
        meta_loop(2000 + seed, 4);
    }
}

/// A minority of the disks is lost for good at every crash, and replaced.
#[test]
fn metadata_survives_the_loss_of_a_minority() {
    (0..6).for_each(minority_loss);
}

fn minority_loss(seed: u64) {
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
                let number = array.disks().into_iter().find(|d| d.path == *path(lost)).and_then(|d| d.slot);
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
