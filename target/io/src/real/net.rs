//! TCP on the runtime of the shard.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use super::busy_poll::BusyPoll;
use crate::net::{ListenerBackend, StreamBackend};
use crate::{Listener, Stream};

/// Connections that the kernel completes before they are accepted.
const BACKLOG: i32 = 1024;
/// Pause when the process is out of descriptors: some must be closed first.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

pub(crate) fn listen(address: SocketAddr, busy_poll: Rc<BusyPoll>) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier process that linger must not keep its successor from the port.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // [::] and 0.0.0.0 are two portals.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    let local = listener.local_addr()?;
    let listener = RealListener { listener, local, exhausted: Cell::new(false), busy_poll };
    Ok(Listener { backend: ListenerBackend::Real(listener) })
}

pub(crate) async fn connect(address: SocketAddr, busy_poll: Rc<BusyPoll>) -> io::Result<Stream> {
    stream(TcpStream::connect(address).await?, busy_poll)
}

fn stream(stream: TcpStream, busy_poll: Rc<BusyPoll>) -> io::Result<Stream> {
    // Batches are made above; the kernel must not wait for more.
    stream.set_nodelay(true)?;
    let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
    Ok(Stream::new(StreamBackend::Real(RealStream { stream: RefCell::new(stream), local, peer, busy_poll })))
}

pub(crate) struct RealListener {
    listener: TcpListener,
    local: SocketAddr,
    /// Said once, not for every attempt.
    exhausted: Cell<bool>,
    busy_poll: Rc<BusyPoll>,
}

impl RealListener {
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        loop {
            match self.listener.accept().await {
                Ok((accepted, _)) => {
                    self.exhausted.set(false);
                    // One that is gone already is the peer's business.
                    if let Ok(stream) = stream(accepted, self.busy_poll.clone()) {
                        return Ok(stream);
                    }
                }
                Err(error) => self.survive(error).await?,
            }
        }
    }

    /// Errors of one connection, and those that pass, must not end the listener.
    async fn survive(&self, error: io::Error) -> io::Result<()> {
        let is = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
        if is(Errno::MFILE) || is(Errno::NFILE) || is(Errno::NOBUFS) || is(Errno::NOMEM) {
            if !self.exhausted.replace(true) {
                tracing::warn!(%error, listener = %self.local, "no connection can be accepted until others are closed");
            }
            tokio::time::sleep(EXHAUSTED_PAUSE).await;
            return Ok(());
        }
        if is(Errno::CONNABORTED) || is(Errno::INTR) || is(Errno::PROTO) { Ok(()) } else { Err(error) }
    }

    pub(crate) fn local_address(&self) -> SocketAddr {
        self.local
    }
}

pub(crate) struct RealStream {
    /// Borrowed only within a poll: tokio's reads and writes want it exclusively.
    stream: RefCell<TcpStream>,
    local: SocketAddr,
    peer: SocketAddr,
    busy_poll: Rc<BusyPoll>,
}

impl RealStream {
    pub(crate) fn peer_address(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn local_address(&self) -> SocketAddr {
        self.local
    }

    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        // `BufMut` would grow the buffer without bound; the room that is there is the limit.
        let left = buffer.capacity() - buffer.len();
        let mut room = buffer.limit(left);
        // Not `try_read_buf`: this one knows that a short read has emptied the socket, and saves the call that would only say so.
        let mut stream = self.stream.borrow_mut();
        let read = pin!(stream.read_buf(&mut room));
        let received = read.poll(cx);
        if received.is_ready() {
            self.busy_poll.note_work();
        }
        received
    }

    pub(crate) fn poll_send(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_write_vectored(cx, slices)
    }

    pub(crate) fn shutdown(&self) {
        // An error means that the connection is down already.
        let _ = rustix::net::shutdown(&*self.stream.borrow(), rustix::net::Shutdown::Both);
    }
}
