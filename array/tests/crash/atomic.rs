//! Atomic writes: whole or not at all, whatever happens.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use twinlun_array::Raid;
use twinlun_block::{BlockLayer, BlockRequest, ByteRange};
use twinlun_io::Shard;
use twinlun_io::sim::{Crash, CrashPoint};

use crate::common::*;
use crate::lives::first_lu;

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
