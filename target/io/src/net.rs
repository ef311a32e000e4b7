//! Byte streams between hosts and storage processors.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use twinlun_block::Payload;

use crate::real::{RealListener, RealStream};
use crate::sim::{SimListener, SimStream};

/// A listening TCP socket.
pub struct Listener {
    pub(crate) backend: ListenerBackend,
}

pub(crate) enum ListenerBackend {
    Real(RealListener),
    Sim(SimListener),
}

impl Listener {
    /// The next connection.
    pub async fn accept(&self) -> io::Result<Stream> {
        match &self.backend {
            ListenerBackend::Real(listener) => listener.accept().await,
            ListenerBackend::Sim(listener) => listener.accept().await,
        }
    }

    /// Where it listens, with the port that was chosen.
    pub fn local_address(&self) -> SocketAddr {
        match &self.backend {
            ListenerBackend::Real(listener) => listener.local_address(),
            ListenerBackend::Sim(listener) => listener.local_address(),
        }
    }
}

/// A connected TCP stream. Clones are the same stream; one job may receive while another sends.
#[derive(Clone)]
pub struct Stream {
    backend: Rc<StreamBackend>,
}

pub(crate) enum StreamBackend {
    Real(RealStream),
    Sim(SimStream),
}

impl Stream {
    pub(crate) fn new(backend: StreamBackend) -> Self {
        Self { backend: Rc::new(backend) }
    }

    /// The other end.
    pub fn peer_address(&self) -> SocketAddr {
        match &*self.backend {
            StreamBackend::Real(stream) => stream.peer_address(),
            StreamBackend::Sim(stream) => stream.peer_address(),
        }
    }

    /// This end.
    pub fn local_address(&self) -> SocketAddr {
        match &*self.backend {
            StreamBackend::Real(stream) => stream.local_address(),
            StreamBackend::Sim(stream) => stream.local_address(),
        }
    }

    /// Receives into the spare capacity of `buffer` (which must have some) as much as is there, in one system call.
    /// `Ok(0)`: the peer has closed its side.
    pub fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        assert!(buffer.capacity() > buffer.len(), "receiving needs room");
        match &*self.backend {
            StreamBackend::Real(stream) => stream.poll_recv(cx, buffer),
            StreamBackend::Sim(stream) => stream.poll_recv(cx, buffer),
        }
    }

    /// Sends as much of the slices as the socket takes, in one system call.
    pub fn poll_send(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match &*self.backend {
            StreamBackend::Real(stream) => stream.poll_send(cx, slices),
            StreamBackend::Sim(stream) => stream.poll_send(cx, slices),
        }
    }

    /// [`Stream::poll_recv`] as a future.
    pub async fn recv(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_recv(cx, buffer)).await
    }

    /// Sends everything.
    pub async fn send_all(&self, data: &Payload) -> io::Result<()> {
        let mut outbox = Outbox::default();
        outbox.push(data);
        std::future::poll_fn(|cx| outbox.poll_send(cx, self)).await
    }

    /// Closes both directions now; both ends' pending operations end.
    pub fn shutdown(&self) {
        match &*self.backend {
            StreamBackend::Real(stream) => stream.shutdown(),
            StreamBackend::Sim(stream) => stream.shutdown(),
        }
    }
}

/// Bytes that wait to be sent, gathered into as few system calls as possible.
#[derive(Default)]
pub struct Outbox {
    segments: std::collections::VecDeque<bytes::Bytes>,
    len: usize,
}

/// Segments handed to one vectored send (the kernel's limit is 1024).
const SLICES_PER_SEND: usize = 256;

impl Outbox {
    /// Appends data.
    pub fn push(&mut self, data: &Payload) {
        self.len += data.len();
        self.segments.extend(data.segments().iter().cloned());
    }

    /// Appends one segment.
    pub fn push_bytes(&mut self, segment: bytes::Bytes) {
        if !segment.is_empty() {
            self.len += segment.len();
            self.segments.push_back(segment);
        }
    }

    /// Bytes not yet sent.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether everything is sent.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sends until everything is out (`Ready(Ok)`), the socket is full (`Pending`) or it fails.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, stream: &Stream) -> Poll<io::Result<()>> {
        while self.len > 0 {
            let mut slices = [IoSlice::new(&[]); SLICES_PER_SEND];
            let mut count = 0;
            for (slot, segment) in slices.iter_mut().zip(&self.segments) {
                *slot = IoSlice::new(segment);
                count += 1;
            }
            let sent = std::task::ready!(stream.poll_send(cx, &slices[..count]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(sent);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut sent: usize) {
        self.len -= sent;
        while sent > 0 {
            let Some(front) = self.segments.front_mut() else { return };
            if sent < front.len() {
                *front = front.slice(sent..);
                return;
            }
            sent -= front.len();
            self.segments.pop_front();
        }
    }
}
