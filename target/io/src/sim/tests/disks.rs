//! Disks that work, and disks that do not.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use super::*;
use crate::sim::{DiskSlot, FAULT_KINDS, Medium};
use crate::{Disk, DiskError, DiskOptions, Durability};

const SIZE: u64 = 1 << 20;

async fn open(shard: &Shard, path: &str) -> Result<Disk, DiskError> {
    shard.open_disk(Path::new(path), DiskOptions { create: Some(SIZE) }).await
}

/// Runs `work` with a new disk of a new process.
fn with_disk<T>(seed: u64, work: impl AsyncFnOnce(&World, Process, Disk, DiskSlot) -> T) -> T {
    let world = world(seed);
    let east = world.process("east", [10, 0, 0, 1].into());
    let shard = east.shard();
    let done = world.run(async {
        let disk = open(&shard, "d").await.expect("created");
        work(&world, east, disk, world.disk("d")).await
    });
    done.expect("ends")
}

async fn read(disk: &Disk, offset: u64, len: u64) -> Result<Vec<u8>, DiskError> {
    disk.read(range(offset, len)).await.map(|data| data.to_bytes().to_vec())
}

#[test]
fn what_is_written_is_read_and_what_is_flushed_stays() {
    with_disk(1, async |_, _, disk, slot| {
        assert_eq!(disk.size(), SIZE);
        assert_eq!(read(&disk, 4000, 200).await, Ok(vec![0; 200]));
        disk.write(1000, payload(1, 5000), Durability::Volatile).await.expect("written");
        assert_eq!(read(&disk, 999, 5002).await.map(|data| (data[0], data[1], data[5001])), Ok((0, 1, 0)));
        assert_eq!(slot.peek_durable(range(1000, 1)), [0]);
        disk.write(512, payload(2, 512), Durability::Stable).await.expect("written");
        assert_eq!(slot.peek_durable(range(512, 513)), [vec![2; 512], vec![0]].concat());
        disk.flush().await.expect("flushed");
        assert_eq!(slot.unflushed_sectors(), 0);
        assert_eq!(slot.peek_durable(range(1024, 1)), [1]);
        disk.zero(range(512, 1024), true, Durability::Stable).await.expect("zeroed");
        assert_eq!(slot.peek_durable(range(0, 2000))[..1536], [0; 1536]);
        assert!(matches!(disk.read(range(SIZE, 1)).await, Err(DiskError::OutOfRange { .. })));
    });
}

#[test]
fn a_kill_keeps_the_page_cache_and_unlocks() {
    let world = world(2);
    let (east, west) = two(&world);
    let (mine, theirs, slot) = (east.shard(), west.shard(), world.disk("d"));
    let missing = world.run(mine.open_disk(Path::new("none"), DiskOptions::default()));
    assert!(matches!(missing, Ok(Err(DiskError::NotFound { .. }))));
    let written = world.run(async {
        let disk = open(&mine, "d").await.expect("created");
        assert!(matches!(open(&mine, "d").await, Err(DiskError::Locked { .. })), "the same process may not");
        assert!(matches!(open(&theirs, "d").await, Err(DiskError::Locked { .. })));
        disk.write(0, payload(1, 4096), Durability::Volatile).await.expect("written");
        disk
    });
    let stale = written.expect("ends");
    east.kill();
    assert_eq!(slot.peek(range(0, 4096)), [1; 4096]);
    let opened = world.run(open(&theirs, "d")).expect("ends");
    assert!(opened.is_ok());
    drop(stale);
    let east = world.process("east", east.ip()).shard();
    let locked = world.run(open(&east, "d")).expect("ends");
    assert!(matches!(locked, Err(DiskError::Locked { .. })), "the dead handle unlocked nothing");
}

#[test]
fn a_power_cut_tears_only_what_is_not_flushed() {
    let (mut torn, mut kept, mut lost) = (0, 0, 0);
    for seed in 0..60 {
        with_disk(seed, async |_, east, disk, slot| {
            disk.write(0, payload(1, 8192), Durability::Volatile).await.expect("written");
            disk.flush().await.expect("flushed");
            disk.write(2048, payload(2, 2048), Durability::Stable).await.expect("written");
            disk.write(4096, payload(3, 4096), Durability::Volatile).await.expect("written");
            east.power_cut();
            let after = slot.peek(range(0, 8192));
            assert_eq!(after, slot.peek_durable(range(0, 8192)));
            assert_eq!(after[..4096], [vec![1; 2048], vec![2; 2048]].concat());
            let new = after[4096..].chunks(512).filter(|sector| **sector == [3; 512]).count();
            let old = after[4096..].chunks(512).filter(|sector| **sector == [1; 512]).count();
            assert_eq!(new + old, 8, "512-byte steps");
            torn += u32::from(new > 0 && old > 0);
            kept += u32::from(old == 0);
            lost += u32::from(new == 0);
        });
    }
    assert!(torn > 0 && kept > 0 && lost > 0);
}

#[test]
fn a_write_under_way_at_a_kill_is_done_in_any_part() {
    let mut parts = std::collections::BTreeSet::new();
    for seed in 0..40 {
        with_disk(seed, async |world, east, disk, slot| {
            let done = Rc::new(Cell::new(false));
            let flag = done.clone();
            east.spawn(async move {
                disk.write(0, payload(1, 2048), Durability::Volatile).await.expect("no fault ordered");
                flag.set(true);
            });
            let wait = world.rng("wait").duration(&(Duration::ZERO..=Duration::from_micros(5)));
            world.shard().sleep(wait).await;
            east.kill();
            let sectors = slot.peek(range(0, 2048)).iter().filter(|byte| **byte == 1).count() / 512;
            assert!(!done.get() && slot.unflushed_sectors() == sectors);
            parts.insert(sectors);
        });
    }
    assert!(parts.len() >= 4, "{parts:?}");
}

#[test]
fn a_failed_flush_loses_writes_and_latches_the_disk() {
    let mut lost = 0;
    for seed in 0..30 {
        with_disk(seed, async |_, east, disk, slot| {
            disk.write(0, payload(1, 4096), Durability::Volatile).await.expect("written");
            slot.fail_flushes(1);
            assert!(matches!(disk.flush().await, Err(DiskError::Flush { .. })));
            assert!(disk.is_latched());
            assert!(disk.write(0, payload(2, 512), Durability::Volatile).await.is_err());
            assert_eq!(read(&disk, 0, 4096).await, Ok(vec![1; 4096]), "reads do not notice");
            drop(disk);
            let again = open(&east.shard(), "d").await.expect("another handle");
            again.flush().await.expect("nothing is left to flush");
            east.power_cut();
            lost += u32::from(slot.peek(range(0, 4096)) != [1; 4096]);
        });
    }
    assert!(lost > 0, "the later flush saved nothing");
}

#[test]
fn reads_and_writes_fail_where_ordered() {
    with_disk(3, async |world, _, disk, slot| {
        disk.write(0, payload(1, 8192), Durability::Stable).await.expect("written");
        slot.fail_reads(range(1024, 512));
        assert!(matches!(disk.read(range(0, 8192)).await, Err(DiskError::Read { offset: 1024, .. })));
        assert_eq!(read(&disk, 0, 1024).await, Ok(vec![1; 1024]));
        disk.write(1024, payload(2, 512), Durability::Volatile).await.expect("written");
        assert_eq!(read(&disk, 1024, 512).await, Ok(vec![2; 512]), "cured by the write");
        slot.fail_writes(range(4096, 4096));
        let failed = disk.write(0, payload(3, 8192), Durability::Volatile).await;
        assert!(matches!(failed, Err(DiskError::Write { offset: 4096, .. })));
        assert!(disk.zero(range(4096, 512), true, Durability::Volatile).await.is_err());
        slot.heal();
        disk.write(0, payload(4, 8192), Durability::Volatile).await.expect("healed");
        slot.set_full(true);
        disk.write(0, payload(5, 8192), Durability::Volatile).await.expect("no new space needed");
        assert_eq!(
            disk.write(8192, payload(5, 512), Durability::Volatile).await,
            Err(DiskError::Full { offset: 8192 })
        );
        slot.set_full(false);
        slot.fail_in(2);
        assert!(disk.read(range(0, 512)).await.is_ok());
        assert!(disk.read(range(0, 512)).await.is_err());
        assert!(disk.read(range(0, 512)).await.is_ok());
        let before = world.now();
        slot.stall(millis(3000));
        disk.flush().await.expect("late, not lost");
        assert!(world.now() - before >= millis(3000));
    });
}

#[test]
fn silent_faults_are_silent() {
    with_disk(4, async |_, _, disk, slot| {
        disk.write(0, payload(1, 8192), Durability::Stable).await.expect("written");
        slot.phantom_writes(1);
        disk.write(0, payload(2, 512), Durability::Stable).await.expect("so it says");
        assert_eq!(read(&disk, 0, 512).await, Ok(vec![1; 512]));
        slot.misdirect_writes(1);
        disk.write(0, payload(3, 512), Durability::Stable).await.expect("so it says");
        assert_eq!(read(&disk, 0, 512).await, Ok(vec![1; 512]));
        let whole = slot.peek_durable(range(0, SIZE));
        assert_eq!(whole.iter().filter(|byte| **byte == 3).count(), 512, "somebody else's data is gone");
        let place = whole.iter().position(|byte| *byte == 3).expect("just counted") as u64;
        disk.write(place, payload(9, 512), Durability::Stable).await.expect("written");
        slot.misdirect_reads(1);
        assert_ne!(read(&disk, place, 512).await, Ok(vec![9; 512]));
        assert_eq!(read(&disk, place, 512).await, Ok(vec![9; 512]));
        slot.rot(range(place, 512));
        let rotten = read(&disk, place, 512).await.expect("no error");
        assert_eq!(rotten.iter().map(|byte| (byte ^ 9).count_ones()).sum::<u32>(), 1);
        assert_eq!(slot.peek_durable(range(place, 512)), rotten);
    });
}

#[test]
fn disks_can_be_pulled_brought_back_and_swapped() {
    with_disk(5, async |world, east, disk, slot| {
        let shard = east.shard();
        disk.write(0, payload(1, 512), Durability::Stable).await.expect("written");
        let old = slot.copy();
        disk.write(0, payload(2, 512), Durability::Stable).await.expect("written");
        let newer = slot.remove().expect("it was there");
        assert!(!slot.is_present() && slot.remove().is_none());
        assert!(disk.read(range(0, 512)).await.is_err());
        assert!(disk.write(0, payload(3, 512), Durability::Volatile).await.is_err());
        assert!(matches!(open(&shard, "d").await, Err(DiskError::NotFound { .. })), "no new disk grows");
        slot.insert(newer);
        assert!(disk.read(range(0, 512)).await.is_err(), "the handle was lost with the disk");
        let again = open(&shard, "d").await.expect("it is back");
        assert_eq!(read(&again, 0, 512).await, Ok(vec![2; 512]));
        drop(disk);
        let other = world.process("west", [10, 0, 0, 2].into()).shard();
        assert!(
            matches!(open(&other, "d").await, Err(DiskError::Locked { .. })),
            "old handles unlock nothing"
        );
        slot.remove();
        slot.insert(old);
        let again = open(&shard, "d").await.expect("an old copy");
        assert_eq!(read(&again, 0, 512).await, Ok(vec![1; 512]));
        world.disk("e").insert(Medium::blank(4096));
        world.swap_disks("d", "e");
        let swapped = open(&shard, "d").await.expect("the other one");
        assert_eq!((swapped.size(), world.disk("e").peek(range(0, 1))), (4096, vec![1]));
    });
}

#[test]
fn an_abandoned_operation_is_carried_out_and_leaves_nothing() {
    with_disk(6, async |world, east, disk, slot| {
        let write = disk.write(0, payload(1, 512), Durability::Stable);
        assert!(east.shard().timeout(Duration::from_nanos(1), write).await.is_err());
        world.shard().sleep(millis(100)).await;
        assert_eq!(slot.peek_durable(range(0, 512)), [1; 512]);
        assert_eq!(slot.operations(), 0);
    });
}

#[test]
fn every_fault_that_is_counted_is_listed() {
    assert!(FAULT_KINDS.is_sorted());
    let sources = [
        include_str!("../disk.rs"),
        include_str!("../fault.rs"),
        include_str!("../link.rs"),
        include_str!("../net.rs"),
        include_str!("../process.rs"),
        include_str!("../stream.rs"),
    ];
    let mut counted: Vec<&str> = sources
        .iter()
        .flat_map(|source| source.split('"'))
        .filter(|word| {
            let mut parts = word.split('.');
            matches!(parts.next(), Some("disk" | "net" | "process"))
                && parts.next().is_some_and(|kind| kind.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
                && parts.next().is_none()
        })
        .collect();
    counted.sort_unstable();
    counted.dedup();
    assert_eq!(counted, FAULT_KINDS);
}
