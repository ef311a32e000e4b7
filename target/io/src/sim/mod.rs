//! The simulated engine: a world of processes, links and disks in virtual time, from one seed.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use twinlun_block::{ByteRange, Payload};

use crate::{Disk, DiskError, DiskOptions, Durability, Instant, Listener, Stream};

pub(crate) struct SimShard;

impl SimShard {
    pub(crate) fn now(&self) -> Instant {
        unimplemented!()
    }
    pub(crate) fn unix_time(&self) -> Duration {
        unimplemented!()
    }
    pub(crate) fn fill_random(&self, _out: &mut [u8]) {
        unimplemented!()
    }
    pub(crate) fn spawn(&self, _job: Pin<Box<dyn Future<Output = ()>>>) {
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

pub(crate) struct SimDisk;

impl SimDisk {
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

pub(crate) struct SimListener;

impl SimListener {
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        unimplemented!()
    }
    pub(crate) fn local_address(&self) -> SocketAddr {
        unimplemented!()
    }
}

pub(crate) struct SimStream;

impl SimStream {
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
