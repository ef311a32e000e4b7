//! The engines that run on an operating system.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::Path;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use twinlun_block::{ByteRange, Payload};

use crate::{Disk, DiskError, DiskOptions, Durability, Instant, Listener, Shard, Stream};

/// Which disk engine a shard uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring where the kernel allows it, else the portable one; the log says which and why.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// A pool of threads.
    Portable,
}

/// Runs `main` on a new shard of the calling thread, to its end.
pub fn run_shard<F: Future>(_choice: EngineChoice, _main: impl FnOnce(Shard) -> F) -> io::Result<F::Output> {
    unimplemented!()
}

pub(crate) struct RealShard;

impl RealShard {
    pub(crate) fn engine_name(&self) -> &'static str {
        unimplemented!()
    }
    pub(crate) fn now(&self) -> Instant {
        unimplemented!()
    }
    pub(crate) fn unix_time(&self) -> Duration {
        unimplemented!()
    }
    pub(crate) fn fill_random(&self, _out: &mut [u8]) {
        unimplemented!()
    }
    pub(crate) fn spawn(&self, _job: impl Future<Output = ()> + 'static) {
        unimplemented!()
    }
    pub(crate) async fn sleep_until(&self, _deadline: Instant) {
        unimplemented!()
    }
    pub(crate) async fn open_disk(&self, _path: &Path, _options: DiskOptions) -> Result<Disk, DiskError> {
        unimplemented!()
    }
    pub(crate) async fn listen(&self, _address: SocketAddr) -> io::Result<Listener> {
        unimplemented!()
    }
    pub(crate) async fn connect(&self, _address: SocketAddr) -> io::Result<Stream> {
        unimplemented!()
    }
}

pub(crate) struct RealDisk;

impl RealDisk {
    pub(crate) fn size(&self) -> u64 {
        unimplemented!()
    }
    pub(crate) async fn read(&self, _range: ByteRange) -> Result<Payload, DiskError> {
        unimplemented!()
    }
    pub(crate) async fn write(&self, _offset: u64, _data: Payload, _d: Durability) -> Result<(), DiskError> {
        unimplemented!()
    }
    pub(crate) async fn flush(&self) -> Result<(), DiskError> {
        unimplemented!()
    }
    pub(crate) async fn zero(&self, _range: ByteRange, _may_unmap: bool) -> Result<(), DiskError> {
        unimplemented!()
    }
}

pub(crate) struct RealListener;

impl RealListener {
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        unimplemented!()
    }
    pub(crate) fn local_address(&self) -> SocketAddr {
        unimplemented!()
    }
}

pub(crate) struct RealStream;

impl RealStream {
    pub(crate) fn peer_address(&self) -> SocketAddr {
        unimplemented!()
    }
    pub(crate) fn local_address(&self) -> SocketAddr {
        unimplemented!()
    }
    pub(crate) fn poll_recv(&self, _cx: &mut Context<'_>, _buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        unimplemented!()
    }
    pub(crate) fn poll_send(
        &self,
        _cx: &mut Context<'_>,
        _slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        unimplemented!()
    }
    pub(crate) fn shutdown(&self) {
        unimplemented!()
    }
}
