//! What only shows on real files: lost writes, dropped operations, fairness.

use std::cell::Cell;
use std::fs::File;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::*;

/// Runs a body on each engine that this machine has.
fn on_each_engine<F: Future<Output = ()>>(body: impl Fn(Shard, Engine) -> F) {
    for choice in [EngineChoice::Portable, EngineChoice::Uring] {
        if choice == EngineChoice::Uring && Ring::new().is_err() {
            println!("SKIPPED uring: the kernel refuses io_uring here");
            continue;
        }
        run_shard(choice, |shard| {
            let engine = shard.real_engine();
            body(shard, engine)
        })
        .expect("the engine starts");
    }
}

/// A disk whose flushes the system refuses: a pipe has nothing to flush.
fn unflushable(engine: Engine) -> Disk {
    let (_, writer) = io::pipe().expect("a pipe");
    let disk = FileDisk::new(File::from(OwnedFd::from(writer)), 4096, engine);
    Disk::new(Backend::Real(RealDisk::File(disk)))
}

/// Starts an operation and drops it, mostly before it is done.
async fn start_and_drop(work: impl Future) {
    let mut work = pin!(work);
    std::future::poll_fn(|cx| {
        let _ = work.as_mut().poll(cx);
        Poll::Ready(())
    })
    .await;
}

#[test]
fn a_failed_flush_latches_a_real_disk() {
    on_each_engine(|_, engine| async move {
        let disk = unflushable(engine);
        assert!(!disk.is_latched());
        assert!(matches!(disk.flush().await, Err(DiskError::Flush { .. })));
        assert!(disk.is_latched());
        for durability in [Durability::Volatile, Durability::Stable] {
            let write = disk.write(0, vec![1].into(), durability).await;
            assert!(matches!(write, Err(DiskError::Flush { .. })));
        }
        assert!(matches!(disk.flush().await, Err(DiskError::Flush { .. })));
    });
}

/// The system tells of lost writes once. When the flow that asked is gone by then, the disk must still know.
#[test]
fn a_failed_flush_that_nobody_waits_for_latches_as_well() {
    on_each_engine(|shard, engine| async move {
        let disk = unflushable(engine);
        start_and_drop(disk.flush()).await;
        while !disk.is_latched() {
            shard.sleep(Duration::from_millis(1)).await;
        }
        let write = disk.write(0, vec![1].into(), Durability::Volatile).await;
        assert!(matches!(write, Err(DiskError::Flush { .. })));
    });
}

#[test]
fn dropped_operations_keep_their_buffers_and_free_their_places() {
    on_each_engine(|shard, _| async move {
        let folder = tempfile::tempdir().expect("a folder");
        let options = DiskOptions { create: Some(4 << 20) };
        let disk = shard.open_disk(&folder.path().join("disk"), options).await.expect("creates");
        for round in 0..3u64 {
            for block in 0..400 {
                let data = vec![round as u8 + 1; 4096].into();
                start_and_drop(disk.write(block * 4096, data, Durability::Stable)).await;
                if block % 64 == 0 {
                    shard.yield_now().await;
                }
            }
            // The ring takes operations in order and does not order what it does: only this one's end is waited for.
            disk.write(500 * 4096, vec![9; 4096].into(), Durability::Stable).await.expect("writes");
        }
        let read = disk.read(ByteRange::new(0, 400 * 4096)).await.expect("reads").to_bytes();
        assert!(read.chunks(4096).all(|block| block.iter().all(|b| *b == block[0] && *b <= 3)));
    });
}

/// The last abandoned write still holds the file, and with it the lock, until the kernel has let go.
#[test]
fn a_shard_that_ends_waits_for_the_kernel() {
    if Ring::new().is_err() {
        println!("SKIPPED: the kernel refuses io_uring here");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("disk");
    for round in 0..20 {
        run_shard(EngineChoice::Uring, |shard| {
            let path = path.clone();
            async move {
                let disk = shard.open_disk(&path, DiskOptions { create: Some(1 << 20) }).await.expect("free");
                start_and_drop(disk.write(0, vec![round; 1 << 20].into(), Durability::Stable)).await;
                shard.yield_now().await;
            }
        })
        .expect("the engine starts");
    }
}

#[test]
fn cached_operations_let_other_jobs_run() {
    on_each_engine(|shard, _| async move {
        let disk = shard.open_disk(Path::new("ram:fair"), DiskOptions { create: Some(1 << 20) }).await;
        let disk = disk.expect("creates");
        let ran = Rc::new(Cell::new(false));
        let other = ran.clone();
        shard.spawn(async move { other.set(true) });
        for _ in 0..10_000 {
            disk.write(0, vec![1; 512].into(), Durability::Volatile).await.expect("writes");
            if ran.get() {
                return;
            }
        }
        panic!("ten thousand writes and nobody else has run");
    });
}
