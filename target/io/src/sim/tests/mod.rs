//! Tests of the world through what processes see of it.

mod disks;
mod network;
mod processes;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use twinlun_block::{ByteRange, Payload};

use super::{Process, World, WorldOptions};
use crate::{Shard, Stream};

fn world(seed: u64) -> World {
    World::new(seed, WorldOptions::default())
}

fn two(world: &World) -> (Process, Process) {
    (world.process("east", [10, 0, 0, 1].into()), world.process("west", [10, 0, 0, 2].into()))
}

fn payload(byte: u8, len: usize) -> Payload {
    Bytes::from(vec![byte; len]).into()
}

const fn range(offset: u64, len: u64) -> ByteRange {
    ByteRange::new(offset, len)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The byte at a place of an endless stream in which a skipped or doubled piece shows.
fn pattern(at: usize) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16)) as u8
}

/// What a receiver has seen so far and how it ended.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    bytes: usize,
    end: Option<Result<(), std::io::ErrorKind>>,
}

/// Receives the pattern to the end and asserts that nothing is skipped, doubled or changed.
async fn receive_pattern(stream: Stream, seen: Rc<RefCell<Seen>>) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.clear();
        buffer.reserve(8192);
        let received = stream.recv(&mut buffer).await;
        let mut seen = seen.borrow_mut();
        match received {
            Ok(0) => seen.end = Some(Ok(())),
            Err(error) => seen.end = Some(Err(error.kind())),
            Ok(_) => {
                for byte in &buffer {
                    assert_eq!(*byte, pattern(seen.bytes), "at byte {}", seen.bytes);
                    seen.bytes += 1;
                }
                continue;
            }
        }
        return;
    }
}

/// Sends the pattern until `bytes` are out or the stream fails.
async fn send_pattern(shard: Shard, stream: Stream, bytes: usize, pause: Duration) {
    let mut sent = 0;
    while sent < bytes {
        let len = 5000.min(bytes - sent);
        let data: Vec<u8> = (sent..sent + len).map(pattern).collect();
        if stream.send_all(&Bytes::from(data).into()).await.is_err() {
            return;
        }
        sent += len;
        shard.sleep(pause).await;
    }
}

/// `east` sends the pattern to `west`; returns what `west` sees.
fn transfer(world: &World, bytes: usize, pause: Duration) -> Rc<RefCell<Seen>> {
    let (east, west) = two(world);
    let seen = Rc::new(RefCell::new(Seen::default()));
    let (shard, address, into) = (west.shard(), west.address(7), seen.clone());
    west.spawn(async move {
        let listener = shard.listen(address).await.expect("the port is free");
        let stream = listener.accept().await.expect("east connects");
        receive_pattern(stream, into).await;
    });
    let (shard, address) = (east.shard(), west.address(7));
    east.spawn(async move {
        shard.sleep(millis(1)).await;
        let stream = shard.connect(address).await.expect("west listens");
        send_pattern(shard, stream, bytes, pause).await;
    });
    seen
}
