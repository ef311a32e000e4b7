//! Listeners and streams as processes hold them.

use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use super::executor::Owner;
use super::link::link;
use super::net::{Backlog, ConnId, Parcel, Phase};
use super::world::Core;
use crate::net::{ListenerBackend, StreamBackend};
use crate::{Listener, Stream};

/// Waits for ever: what a dead process's calls do until its jobs are dropped.
async fn if_dead_wait(core: &Core, owner: Owner) {
    if !core.is_alive(owner) {
        std::future::pending::<()>().await;
    }
}

pub(super) async fn listen(core: Rc<Core>, owner: Owner, mut address: SocketAddr) -> io::Result<Listener> {
    if_dead_wait(&core, owner).await;
    let own = core.slots.borrow()[owner.slot].ip.ok_or(ErrorKind::AddrNotAvailable)?;
    if address.ip().is_unspecified() {
        address.set_ip(own);
    }
    if address.ip() != own {
        return Err(ErrorKind::AddrNotAvailable.into());
    }
    let backlog = Backlog { owner, waiting: Default::default(), acceptors: Vec::new() };
    core.net(|net| {
        if address.port() == 0 {
            address.set_port(net.free_port(own));
        }
        if net.listeners.contains_key(&address) {
            return Err(io::Error::from(ErrorKind::AddrInUse));
        }
        net.listeners.insert(address, backlog);
        Ok(())
    })?;
    Ok(Listener { backend: ListenerBackend::Sim(SimListener { core, owner, address }) })
}

pub(super) async fn connect(core: Rc<Core>, owner: Owner, address: SocketAddr) -> io::Result<Stream> {
    if_dead_wait(&core, owner).await;
    let id = core.net(|net| net.dial(&core, owner, address))?;
    let mut dial = Dial { core: core.clone(), id: Some(id) };
    let local = poll_fn(|cx| {
        core.net(|net| {
            // A connection that is not there any more went with its process.
            let Some(conn) = net.conns.get_mut(&id) else { return Poll::Pending };
            match conn.phase {
                Phase::Open => Poll::Ready(Ok(conn.ends[0].address)),
                Phase::Failed(kind) => Poll::Ready(Err(io::Error::from(kind))),
                Phase::Dialling { .. } => {
                    conn.ends[0].receiver = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
    })
    .await?;
    dial.id = None;
    Ok(stream(core, owner, id, 0, local, address))
}

/// Gives a request up when the caller stops waiting.
struct Dial {
    core: Rc<Core>,
    id: Option<ConnId>,
}

impl Drop for Dial {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.core.net(|net| net.abandon(&self.core, id));
        }
    }
}

fn stream(
    core: Rc<Core>,
    owner: Owner,
    id: ConnId,
    end: usize,
    local: SocketAddr,
    peer: SocketAddr,
) -> Stream {
    Stream::new(StreamBackend::Sim(SimStream { core, owner, id, end, local, peer }))
}

pub(crate) struct SimListener {
    core: Rc<Core>,
    owner: Owner,
    address: SocketAddr,
}

impl SimListener {
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        let (id, peer) = poll_fn(|cx| {
            self.core.net(|net| {
                let backlog = net.listeners.get_mut(&self.address);
                let Some(backlog) = backlog.filter(|backlog| backlog.owner == self.owner) else {
                    return Poll::Pending;
                };
                while let Some(id) = backlog.waiting.pop_front() {
                    if let Some(conn) = net.conns.get(&id) {
                        return Poll::Ready((id, conn.ends[0].address));
                    }
                }
                backlog.acceptors.push(cx.waker().clone());
                Poll::Pending
            })
        })
        .await;
        Ok(stream(self.core.clone(), self.owner, id, 1, self.address, peer))
    }

    pub(crate) fn local_address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.core.net(|net| net.close_listener(&self.core, self.address, self.owner));
    }
}

pub(crate) struct SimStream {
    core: Rc<Core>,
    owner: Owner,
    id: ConnId,
    end: usize,
    local: SocketAddr,
    peer: SocketAddr,
}

impl SimStream {
    pub(crate) fn peer_address(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn local_address(&self) -> SocketAddr {
        self.local
    }

    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        let core = &*self.core;
        if !core.is_alive(self.owner) {
            return Poll::Pending;
        }
        core.net(|net| {
            let Some(conn) = net.conns.get_mut(&self.id) else { return Poll::Pending };
            let peer = conn.ends[1 - self.end].owner.slot;
            let end = &mut conn.ends[self.end];
            if end.shut {
                return Poll::Ready(Ok(0));
            }
            if !end.received.is_empty() {
                let (link, _) = link(&mut net.links, core, self.owner.slot, peer);
                let mut len = end.received.len().min(buffer.capacity() - buffer.len());
                if len > 1 && link.rng.chance(1, 4) {
                    core.count("net.short_read");
                    len = link.rng.range(1..=len as u64) as usize;
                }
                buffer.extend_from_slice(&end.received.split_to(len));
                net.acknowledge(core, self.id, self.end, len);
                return Poll::Ready(Ok(len));
            }
            if let Some(kind) = end.error {
                return Poll::Ready(Err(kind.into()));
            }
            if end.eof {
                return Poll::Ready(Ok(0));
            }
            end.receiver = Some(cx.waker().clone());
            Poll::Pending
        })
    }

    pub(crate) fn poll_send(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let core = &*self.core;
        if !core.is_alive(self.owner) {
            return Poll::Pending;
        }
        core.net(|net| {
            let Some(conn) = net.conns.get_mut(&self.id) else { return Poll::Pending };
            let peer = conn.ends[1 - self.end].owner.slot;
            let end = &mut conn.ends[self.end];
            if let Some(kind) = end.error {
                return Poll::Ready(Err(kind.into()));
            }
            if end.shut {
                return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
            }
            let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
            if wanted == 0 {
                return Poll::Ready(Ok(0));
            }
            let way = &mut conn.ways[self.end];
            let mut len = wanted.min(conn.buffer.saturating_sub(way.outstanding));
            if len == 0 {
                end.sender = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let (link, _) = link(&mut net.links, core, self.owner.slot, peer);
            if link.rng.chance(1, 8) {
                len = link.rng.range(1..=len as u64) as usize;
            }
            way.outstanding += len;
            let mut data = gather(slices, len);
            let mut chunks = Vec::new();
            while !data.is_empty() {
                let most = match link.rng.below(8) {
                    0 => link.rng.range(1..=64),
                    1..=3 => link.rng.range(1..=1460),
                    _ => data.len() as u64,
                };
                chunks.push(data.split_to(data.len().min(most as usize)));
            }
            for chunk in chunks {
                net.send(core, self.id, self.end, Parcel::Data(chunk));
            }
            Poll::Ready(Ok(len))
        })
    }

    pub(crate) fn shutdown(&self) {
        let core = &*self.core;
        if !core.is_alive(self.owner) {
            return;
        }
        core.net(|net| {
            let Some(conn) = net.conns.get_mut(&self.id) else { return };
            let end = &mut conn.ends[self.end];
            if std::mem::replace(&mut end.shut, true) {
                return;
            }
            let broken = end.error.is_some();
            end.received.clear();
            net.wakes.extend(end.receiver.take());
            net.wakes.extend(end.sender.take());
            if !broken {
                net.send(core, self.id, self.end, Parcel::Fin);
            }
        });
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        // A dead process's kernel has closed it already.
        if self.core.is_alive(self.owner) {
            self.core.net(|net| net.close(&self.core, self.id, self.end, false));
        }
    }
}

/// The first `len` bytes of the slices.
fn gather(slices: &[IoSlice<'_>], len: usize) -> Bytes {
    let mut data = BytesMut::with_capacity(len);
    for slice in slices {
        let take = slice.len().min(len - data.len());
        data.extend_from_slice(&slice[..take]);
    }
    data.freeze()
}
