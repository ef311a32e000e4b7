//! One suite for all engines: what everything above may rely on.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;
use twinlun_block::{ByteRange, Payload};
use twinlun_io::sim::{World, WorldOptions};
use twinlun_io::{
    Disk, DiskError, DiskOptions, Durability, EngineChoice, Outbox, Shard, TimedOut, run_shard,
};

const SIZE: u64 = 8 << 20;

/// Where an engine finds its disks, and at which address it listens.
struct Place {
    folder: PathBuf,
    ip: Ipv4Addr,
}

async fn suite(shard: Shard, place: Place) {
    disks(&shard, &place.folder).await;
    streams(&shard, place.ip).await;
    back_pressure(&shard, place.ip).await;
    time(&shard).await;
}

fn create(size: u64) -> DiskOptions {
    DiskOptions { create: Some(size) }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i / 7) as u8 ^ seed).collect()
}

fn payload(data: &[u8], cut: usize) -> Payload {
    let mut payload = Payload::new();
    data.chunks(cut).for_each(|chunk| payload.push(Bytes::copy_from_slice(chunk)));
    payload
}

async fn disks(shard: &Shard, folder: &Path) {
    let path = folder.join("disk");
    let missing = shard.open_disk(&path, DiskOptions::default()).await;
    assert!(matches!(missing, Err(DiskError::NotFound { .. })), "{:?}", missing.err());
    let disk = shard.open_disk(&path, create(SIZE)).await.expect("created");
    assert_eq!(disk.size(), SIZE);
    assert!(disk.read(ByteRange::new(0, SIZE)).await.expect("reads").is_zero(), "a new disk is blank");
    read_after_write(&disk).await;
    flushes(&disk).await;
    zeroing(&disk).await;
    limits(&disk).await;
    let second = shard.open_disk(&path, DiskOptions::default()).await;
    assert!(
        matches!(second, Err(DiskError::Locked { .. })),
        "a lock excludes other opens, of this process as well"
    );
    drop(disk);
    let disk = shard.open_disk(&path, create(SIZE * 2)).await.expect("opens what is there");
    assert_eq!(disk.size(), SIZE, "opening never resizes");
    assert_eq!(disk.read(ByteRange::new(100_000, 3)).await.expect("reads").to_bytes()[..], pattern(3, 9));
}

async fn read_after_write(disk: &Disk) {
    for (offset, len, cut, durability) in [
        (0, 512, 512, Durability::Volatile),
        (4096, 4096, 1000, Durability::Stable),
        (100_001, 70_000, 333, Durability::Volatile),
        (1 << 20, 3 << 20, 65_536, Durability::Volatile),
        ((1 << 20) + 7, 5 << 20, 2048, Durability::Stable),
    ] {
        let data = pattern(len, len as u8);
        disk.write(offset, payload(&data, cut), durability).await.expect("writes");
        let read = disk.read(ByteRange::new(offset, len as u64)).await.expect("reads");
        assert_eq!(read.to_bytes()[..], data, "{len} bytes at {offset} in pieces of {cut}");
    }
    disk.flush().await.expect("flushes");
    disk.write(100_000, pattern(3, 9).into(), Durability::Stable).await.expect("writes");
    // Many at once, more than any queue is deep.
    let writes = (0..600u64).map(|i| disk.write(i * 512, vec![i as u8; 512].into(), Durability::Stable));
    let writes: Vec<_> = writes.collect();
    for done in join_all(writes).await {
        done.expect("writes");
    }
    let read = disk.read(ByteRange::new(0, 600 * 512)).await.expect("reads").to_bytes();
    assert!(read.chunks(512).enumerate().all(|(i, block)| block.iter().all(|b| *b == i as u8)));
    disk.write(100_000, pattern(3, 9).into(), Durability::Stable).await.expect("writes");
}

async fn join_all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, output) in futures.iter_mut().filter(|(_, output)| output.is_none()) {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                *output = Some(value);
            }
        }
        if futures.iter().all(|(_, output)| output.is_some()) {
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
    futures.into_iter().filter_map(|(_, output)| output).collect()
}

/// Flushes asked for together all end, and what was answered before each is stable.
async fn flushes(disk: &Disk) {
    let flows = (0..8u64).map(|i| async move {
        for _ in 0..3 {
            disk.write(i * 4096, vec![i as u8; 4096].into(), Durability::Volatile).await.expect("writes");
            disk.flush().await.expect("flushes");
        }
    });
    join_all(flows.collect()).await;
    assert!(!disk.is_latched());
}

async fn zeroing(disk: &Disk) {
    let whole = ByteRange::new(4 << 20, 1 << 20);
    for (may_unmap, durability) in
        [(true, Durability::Volatile), (false, Durability::Volatile), (true, Durability::Stable)]
    {
        disk.write(whole.offset(), pattern(1 << 20, 3).into(), Durability::Volatile).await.expect("writes");
        let hole = ByteRange::new(whole.offset() + 4096, 512 << 10);
        disk.zero(hole, may_unmap, durability).await.expect("zeroes");
        assert!(disk.read(hole).await.expect("reads").is_zero());
        let before = disk.read(ByteRange::new(whole.offset(), 4096)).await.expect("reads");
        assert_eq!(before.to_bytes()[..], pattern(1 << 20, 3)[..4096], "what is beside it stays");
    }
}

async fn limits(disk: &Disk) {
    let beyond = ByteRange::new(SIZE - 512, 1024);
    assert!(matches!(disk.read(beyond).await, Err(DiskError::OutOfRange { .. })));
    let write = disk.write(SIZE - 1, vec![1, 2].into(), Durability::Volatile).await;
    assert!(matches!(write, Err(DiskError::OutOfRange { .. })));
    assert!(matches!(disk.zero(beyond, true, Durability::Volatile).await, Err(DiskError::OutOfRange { .. })));
    let wrapping = disk.write(u64::MAX, vec![1].into(), Durability::Volatile).await;
    assert!(matches!(wrapping, Err(DiskError::OutOfRange { .. })));
}

async fn streams(shard: &Shard, ip: Ipv4Addr) {
    let listener = shard.listen(SocketAddr::from((ip, 0))).await.expect("listens");
    let address = listener.local_address();
    assert_ne!(address.port(), 0, "the port that was chosen is told");
    let (told, ended) = oneshot::channel();
    shard.spawn(async move {
        let stream = listener.accept().await.expect("accepts");
        let mut buffer = BytesMut::with_capacity(1000);
        loop {
            let room = buffer.capacity() - buffer.len();
            let n = stream.recv(&mut buffer).await.expect("receives");
            assert!(n <= room, "never more than there is room for");
            if n == 0 {
                break;
            }
            stream.send_all(&buffer.split().freeze().into()).await.expect("sends");
            buffer.reserve(1000);
        }
        let _ = told.send(());
        // The port is free again once the listener is gone.
        drop(listener);
    });
    let stream = shard.connect(address).await.expect("connects");
    assert_eq!(stream.peer_address(), address);
    let data = pattern(300_000, 1);
    let sender = stream.clone();
    let sent = payload(&data, 777);
    shard.spawn(async move { sender.send_all(&sent).await.expect("sends") });
    let mut echo = BytesMut::new();
    while echo.len() < data.len() {
        echo.reserve(4096);
        assert_ne!(stream.recv(&mut echo).await.expect("receives"), 0);
    }
    assert_eq!(echo[..], data[..]);
    stream.shutdown();
    ended.await.expect("the other end sees the close");
    let refused = loop {
        // The listener's job may need another moment to end.
        match shard.connect(address).await {
            Err(error) => break error,
            Ok(_) => shard.sleep(Duration::from_millis(1)).await,
        }
    };
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

/// A peer that does not receive fills the pipe; sending goes on where it stopped when room comes.
async fn back_pressure(shard: &Shard, ip: Ipv4Addr) {
    let listener = shard.listen(SocketAddr::from((ip, 0))).await.expect("listens");
    let sender = shard.connect(listener.local_address()).await.expect("connects");
    let receiver = listener.accept().await.expect("accepts");
    assert_eq!(receiver.peer_address(), sender.local_address());
    // A kernel's socket buffers grow to several megabytes; the simulated pipe is short.
    let data = pattern(if shard.engine_name() == "sim" { 1 << 20 } else { 16 << 20 }, 5);
    let mut outbox = Outbox::default();
    outbox.push(&payload(&data, 100_003));
    let full = std::future::poll_fn(|cx| Poll::Ready(outbox.poll_send(cx, &sender).is_pending())).await;
    assert!(full && !outbox.is_empty(), "no pipe holds all of it");
    let mut received = BytesMut::new();
    let receive = async {
        loop {
            received.reserve(64 << 10);
            if receiver.recv(&mut received).await.expect("receives") == 0 {
                break;
            }
        }
    };
    let send = async {
        std::future::poll_fn(|cx| outbox.poll_send(cx, &sender)).await.expect("sends");
        sender.shutdown();
    };
    let both: Vec<Pin<Box<dyn Future<Output = ()>>>> = vec![Box::pin(receive), Box::pin(send)];
    join_all(both).await;
    assert!(received[..] == data[..], "every byte, in order");
    let late = sender.send_all(&vec![1].into()).await;
    assert!(late.is_err(), "nothing is sent after the end");
}

async fn time(shard: &Shard) {
    let order = Rc::new(RefCell::new(Vec::new()));
    for millis in [30u64, 10, 20] {
        let (shard, order) = (shard.clone(), order.clone());
        shard.clone().spawn(async move {
            shard.sleep(Duration::from_millis(millis)).await;
            order.borrow_mut().push(millis);
        });
    }
    let start = shard.now();
    shard.sleep(Duration::from_millis(50)).await;
    assert!(shard.now() - start >= Duration::from_millis(50));
    assert_eq!(*order.borrow(), [10, 20, 30]);
    let never = shard.timeout(Duration::from_millis(1), std::future::pending::<()>()).await;
    assert_eq!(never, Err(TimedOut));
    assert_eq!(shard.timeout(Duration::from_secs(60), async { 7 }).await, Ok(7));
    let (mut a, mut b) = ([0; 32], [0; 32]);
    shard.fill_random(&mut a);
    shard.fill_random(&mut b);
    assert_ne!(a, b);
    shard.yield_now().await;
}

fn real(choice: EngineChoice) {
    let folder = tempfile::tempdir().expect("a folder");
    let place = Place { folder: folder.path().into(), ip: Ipv4Addr::LOCALHOST };
    run_shard(choice, |shard| suite(shard, place)).expect("the engine starts");
}

#[test]
fn portable() {
    real(EngineChoice::Portable);
}

#[test]
fn uring() {
    if let Err(error) = run_shard(EngineChoice::Uring, |_| async {}) {
        println!("SKIPPED uring: the kernel refuses io_uring here: {error}");
        return;
    }
    real(EngineChoice::Uring);
}

#[test]
fn sim() {
    for seed in 0..20 {
        let world = World::new(seed, WorldOptions::default());
        let ip = Ipv4Addr::new(10, 0, 0, 1);
        let process = world.process("a", ip.into());
        world.run(suite(process.shard(), Place { folder: "a".into(), ip })).expect("ends");
    }
}

/// After a flush has failed nothing more is acknowledged, whatever a later flush says.
#[test]
fn a_failed_flush_latches_the_disk() {
    let world = World::new(1, WorldOptions::default());
    let process = world.process("a", Ipv4Addr::new(10, 0, 0, 1).into());
    let shard = process.shard();
    world
        .run(async {
            let disk = shard.open_disk(Path::new("d"), create(SIZE)).await.expect("created");
            disk.write(0, vec![1; 512].into(), Durability::Volatile).await.expect("writes");
            world.disk("d").fail_flushes(1);
            assert!(matches!(disk.flush().await, Err(DiskError::Flush { .. })));
            assert!(disk.is_latched());
            assert!(matches!(disk.flush().await, Err(DiskError::Flush { .. })));
            let write = disk.write(0, vec![2; 512].into(), Durability::Volatile).await;
            assert!(matches!(write, Err(DiskError::Flush { .. })));
            assert!(disk.read(ByteRange::new(0, 512)).await.is_ok(), "reads go on");
        })
        .expect("ends");
}
