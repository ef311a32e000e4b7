//! The network: who listens, who is connected, and what is on the wire.
//!
//! A connection is two ends and two ways. A way carries segments that arrive in order, each at its own time; what its link
//! does to it is decided when a segment is due.

use std::cell::RefMut;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::executor::{Event, Owner};
use super::link::{LinkState, link};
use super::process::{Crash, Status};
use super::world::Core;
use crate::Instant;

pub(super) type ConnId = u64;

/// Connections that may wait for an accept; further requests are dropped and asked again, as Linux does.
const BACKLOG: usize = 128;
/// Connection requests are repeated after 1, 2, 4 ... seconds; after the last, 127 s after the first, connecting fails.
const SYN_TRIES: u32 = 7;

#[derive(Debug)]
pub(super) enum Parcel {
    Data(Bytes),
    Fin,
    Rst,
}

/// One direction of a connection.
#[derive(Default)]
pub(super) struct Way {
    pub(super) queue: VecDeque<(Instant, Parcel)>,
    pub(super) last_arrival: Instant,
    /// Sent and not yet known to be received.
    pub(super) outstanding: usize,
    /// Received, but the word of it met a cut.
    pub(super) unacknowledged: usize,
    /// A segment met a cut: nothing passes any more, until the link is healed.
    pub(super) stalled: bool,
    /// Nothing passes ever again.
    pub(super) mute: bool,
}

pub(super) struct End {
    pub(super) owner: Owner,
    pub(super) address: SocketAddr,
    pub(super) received: BytesMut,
    pub(super) eof: bool,
    pub(super) error: Option<ErrorKind>,
    /// Shut down by its own side.
    pub(super) shut: bool,
    /// Nobody holds it any more.
    gone: bool,
    pub(super) receiver: Option<Waker>,
    pub(super) sender: Option<Waker>,
}

impl End {
    fn new(owner: Owner, address: SocketAddr) -> Self {
        Self {
            owner,
            address,
            received: BytesMut::new(),
            eof: false,
            error: None,
            shut: false,
            gone: false,
            receiver: None,
            sender: None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The client asks, for the `tries`-th time; the server has made its end or not.
    Dialling {
        tries: u32,
        answered: bool,
    },
    Failed(ErrorKind),
    Open,
}

/// End 0 is the client. Way `i` leads from end `i` to the other.
pub(super) struct Conn {
    pub(super) phase: Phase,
    pub(super) ends: [End; 2],
    pub(super) ways: [Way; 2],
    pub(super) buffer: usize,
}

pub(super) struct Backlog {
    pub(super) owner: Owner,
    pub(super) waiting: VecDeque<ConnId>,
    pub(super) acceptors: Vec<Waker>,
}

#[derive(Default)]
pub(super) struct Net {
    pub(super) links: BTreeMap<(usize, usize), LinkState>,
    pub(super) listeners: BTreeMap<SocketAddr, Backlog>,
    pub(super) conns: BTreeMap<ConnId, Conn>,
    next_conn: ConnId,
    next_port: u16,
    /// Woken once the network is not borrowed any more.
    pub(super) wakes: Vec<Waker>,
}

impl Net {
    /// A port that nobody of this address uses.
    pub(super) fn free_port(&mut self, ip: std::net::IpAddr) -> u16 {
        loop {
            self.next_port = self.next_port.wrapping_add(1) | 0xc000; // the dynamic ports, from 49152
            let address = SocketAddr::new(ip, self.next_port);
            if !self.listeners.contains_key(&address) {
                return self.next_port;
            }
        }
    }

    /// Starts to connect.
    pub(super) fn dial(&mut self, core: &Core, owner: Owner, to: SocketAddr) -> io::Result<ConnId> {
        let own = core.slots.borrow()[owner.slot].ip.ok_or(ErrorKind::AddrNotAvailable)?;
        let slot = core.slots.borrow().iter().position(|slot| slot.ip == Some(to.ip()));
        let slot = slot.ok_or(ErrorKind::HostUnreachable)?;
        let from = SocketAddr::new(own, self.free_port(own));
        let (link, _) = link(&mut self.links, core, owner.slot, slot);
        let buffer = link.rng.range(link.options.buffer.clone()).max(1) as usize;
        let server = Owner { slot, life: 0 };
        self.next_conn += 1;
        let conn = Conn {
            phase: Phase::Dialling { tries: 1, answered: false },
            ends: [End::new(owner, from), End::new(server, to)],
            ways: [Way::default(), Way::default()],
            buffer,
        };
        self.conns.insert(self.next_conn, conn);
        self.send_syn(core, self.next_conn, 1);
        Ok(self.next_conn)
    }

    fn send_syn(&mut self, core: &Core, id: ConnId, tries: u32) {
        let Some(conn) = self.conns.get(&id) else { return };
        let (from, to) = (conn.ends[0].owner.slot, conn.ends[1].owner.slot);
        let (link, way) = link(&mut self.links, core, from, to);
        if link.cut[way] {
            core.count("net.connect_lost");
        } else {
            core.schedule(core.now() + link.flight(core), Event::Syn { conn: id });
        }
        let patience = Duration::from_secs(1 << (tries - 1));
        core.schedule(core.now() + patience, Event::SynRetry { conn: id });
    }

    fn syn_retry(&mut self, core: &Core, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let Phase::Dialling { tries, answered } = conn.phase else { return };
        if conn.ends[0].gone {
            return;
        }
        if tries < SYN_TRIES {
            conn.phase = Phase::Dialling { tries: tries + 1, answered };
            return self.send_syn(core, id, tries + 1);
        }
        conn.phase = Phase::Failed(ErrorKind::TimedOut);
        self.wakes.extend(conn.ends[0].receiver.take());
    }

    fn syn_arrives(&mut self, core: &Core, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let Phase::Dialling { tries, answered } = conn.phase else { return };
        let (from, to) = (conn.ends[0].owner.slot, conn.ends[1].owner.slot);
        let (link, way) = link(&mut self.links, core, from, to);
        if link.cut[way] || core.slots.borrow()[to].status == Status::PoweredOff {
            return core.count("net.connect_lost");
        }
        let mut refused = link.refuse;
        if refused {
            core.count("net.refused");
        } else if !answered {
            match self.listeners.get_mut(&conn.ends[1].address) {
                None => refused = true,
                Some(backlog) if backlog.waiting.len() >= BACKLOG => return,
                Some(backlog) => {
                    conn.ends[1].owner = backlog.owner;
                    conn.phase = Phase::Dialling { tries, answered: true };
                    backlog.waiting.push_back(id);
                    self.wakes.append(&mut backlog.acceptors);
                }
            }
        }
        if link.cut[usize::from(to > from)] {
            return core.count("net.connect_lost");
        }
        let at = core.now() + link.flight(core);
        conn.ways[1].last_arrival = at.max(conn.ways[1].last_arrival);
        core.schedule(at, Event::SynAnswer { conn: id, refused });
    }

    fn syn_answered(&mut self, core: &Core, id: ConnId, refused: bool) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let Phase::Dialling { .. } = conn.phase else { return };
        let (link, way) = link(&mut self.links, core, conn.ends[1].owner.slot, conn.ends[0].owner.slot);
        if link.cut[way] {
            return core.count("net.connect_lost");
        }
        conn.phase = if refused { Phase::Failed(ErrorKind::ConnectionRefused) } else { Phase::Open };
        core.trace.fold(id);
        self.wakes.extend(conn.ends[0].receiver.take());
    }

    /// Puts a segment on the way from `end`.
    pub(super) fn send(&mut self, core: &Core, id: ConnId, end: usize, parcel: Parcel) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let (from, to) = (conn.ends[end].owner.slot, conn.ends[1 - end].owner.slot);
        let (link, _) = link(&mut self.links, core, from, to);
        let way = &mut conn.ways[end];
        let at = (core.now() + link.flight(core)).max(way.last_arrival);
        way.last_arrival = at;
        way.queue.push_back((at, parcel));
        core.schedule(at, Event::Segment { conn: id, way: end });
    }

    /// Delivers what is due on a way.
    fn deliver(&mut self, core: &Core, id: ConnId, from: usize) {
        loop {
            let Some(conn) = self.conns.get_mut(&id) else { return };
            if conn.ways[from].queue.front().is_none_or(|(at, _)| *at > core.now()) {
                return;
            }
            let (source, sink) = (conn.ends[from].owner, conn.ends[1 - from].owner);
            let (link, direction) = link(&mut self.links, core, source.slot, sink.slot);
            let way = &mut conn.ways[from];
            if link.cut[direction] {
                if !way.stalled {
                    core.count("net.cut");
                }
                way.stalled = true;
                return;
            }
            if core.slots.borrow()[sink.slot].status == Status::PoweredOff {
                // Sent again and again, until somebody is there to refuse it.
                core.count("net.into_the_dark");
                way.stalled = true;
                return;
            }
            let target = &mut conn.ends[1 - from];
            // An end not yet asked for by any process belongs to no life (0) and holds what comes early.
            let absent = target.gone || target.shut || (sink.life > 0 && !core.is_alive(sink));
            if way.mute && !absent {
                return way.queue.clear();
            }
            let Some((_, parcel)) = way.queue.pop_front() else { return };
            core.trace.fold(id * 2 + from as u64);
            match parcel {
                Parcel::Data(_) if absent => self.answer_with_reset(core, id, 1 - from),
                Parcel::Data(data) => {
                    let data = link.maybe_corrupt(core, data);
                    core.trace.fold_bytes(&data);
                    target.received.extend_from_slice(&data);
                    self.wakes.extend(target.receiver.take());
                }
                Parcel::Fin => {
                    target.eof = true;
                    self.wakes.extend(target.receiver.take());
                }
                Parcel::Rst => self.fail_end(core, id, 1 - from),
            }
        }
    }

    /// Data came for somebody who is not there.
    fn answer_with_reset(&mut self, core: &Core, id: ConnId, end: usize) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let way = &mut conn.ways[end];
        if way.mute {
            way.mute = false;
            way.queue.clear();
        }
        if !matches!(way.queue.back(), Some((_, Parcel::Rst))) {
            self.send(core, id, end, Parcel::Rst);
        }
    }

    /// The end learns that its connection is broken. What it has not yet read may be lost with it.
    pub(super) fn fail_end(&mut self, core: &Core, id: ConnId, end: usize) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let peer = conn.ends[1 - end].owner.slot;
        let (link, _) = link(&mut self.links, core, conn.ends[end].owner.slot, peer);
        let lose = link.rng.chance(1, 2);
        let this = &mut conn.ends[end];
        this.error = Some(ErrorKind::ConnectionReset);
        if lose {
            this.received.clear();
        }
        self.wakes.extend(this.receiver.take());
        self.wakes.extend(this.sender.take());
        conn.ways[end].queue.clear();
    }

    /// The reader took bytes: the sender may send as many, unless the word of it is lost.
    pub(super) fn acknowledge(&mut self, core: &Core, id: ConnId, reader: usize, len: usize) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let (here, there) = (conn.ends[reader].owner.slot, conn.ends[1 - reader].owner.slot);
        let (link, direction) = link(&mut self.links, core, here, there);
        let way = &mut conn.ways[1 - reader];
        if link.cut[direction] {
            way.unacknowledged += len;
        } else {
            way.outstanding = way.outstanding.saturating_sub(len);
            self.wakes.extend(conn.ends[1 - reader].sender.take());
        }
    }

    /// Ends one side: `reset` when it goes with unread data or by force.
    pub(super) fn close(&mut self, core: &Core, id: ConnId, end: usize, reset: bool) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let this = &mut conn.ends[end];
        let silent = this.error.is_some() || (this.shut && this.received.is_empty());
        let reset = reset || !this.received.is_empty();
        this.gone = true;
        this.received.clear();
        if conn.ends[1 - end].gone {
            self.conns.remove(&id);
        } else if !silent {
            self.send(core, id, end, if reset { Parcel::Rst } else { Parcel::Fin });
        }
    }

    /// The dialler does not wait any more.
    pub(super) fn abandon(&mut self, core: &Core, id: ConnId) {
        match self.conns.get(&id).map(|conn| conn.phase) {
            Some(Phase::Open | Phase::Dialling { answered: true, .. }) => self.close(core, id, 0, true),
            _ => drop(self.conns.remove(&id)),
        }
    }

    pub(super) fn close_listener(&mut self, core: &Core, address: SocketAddr, owner: Owner) {
        if self.listeners.get(&address).is_some_and(|backlog| backlog.owner == owner)
            && let Some(backlog) = self.listeners.remove(&address)
        {
            for id in backlog.waiting {
                self.close(core, id, 1, true);
            }
        }
    }

    /// A machine that had lost power is up again: what is still sent to it is answered, by resets.
    fn machine_is_back(&mut self, core: &Core, slot: usize) {
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in ids {
            let Some(conn) = self.conns.get(&id) else { continue };
            let Some(end) = conn.ends.iter().position(|end| end.owner.slot == slot && end.gone) else {
                continue;
            };
            let peer = conn.ends[1 - end].owner.slot;
            let (link, _) = link(&mut self.links, core, peer, slot);
            if conn.ways[1 - end].stalled && link.cut == [false; 2] {
                self.resume(core, id);
            }
        }
    }

    fn process_died(&mut self, core: &Core, owner: Owner, how: Crash) {
        self.listeners.retain(|_, backlog| backlog.owner != owner);
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in ids {
            for end in 0..2 {
                let Some(conn) = self.conns.get_mut(&id) else { break };
                if conn.ends[end].owner != owner || conn.ends[end].gone {
                    continue;
                }
                if let Phase::Dialling { answered: false, .. } | Phase::Failed(_) = conn.phase {
                    self.conns.remove(&id);
                } else if how == Crash::Kill {
                    let peer = conn.ends[1 - end].owner.slot;
                    let (link, _) = link(&mut self.links, core, owner.slot, peer);
                    let reset = link.rng.chance(1, 2);
                    self.close(core, id, end, reset);
                } else {
                    // What is on the wire arrives; what the dead kernel still had to send again does not.
                    if conn.ways[end].stalled {
                        conn.ways[end].queue.clear();
                    }
                    conn.ends[end].received.clear();
                    conn.ends[end].gone = true;
                    if conn.ends[1 - end].gone {
                        self.conns.remove(&id);
                    }
                }
            }
        }
    }
}

impl Core {
    /// Works on the network, then wakes whom it concerns.
    pub(super) fn net<R>(&self, work: impl FnOnce(&mut Net) -> R) -> R {
        let mut net: RefMut<'_, Net> = self.net.borrow_mut();
        let done = work(&mut net);
        let wakes = std::mem::take(&mut net.wakes);
        drop(net);
        wakes.into_iter().for_each(Waker::wake);
        done
    }

    pub(super) fn net_event(self: &Rc<Self>, event: &Event) {
        self.net(|net| match *event {
            Event::Syn { conn } => net.syn_arrives(self, conn),
            Event::SynAnswer { conn, refused } => net.syn_answered(self, conn, refused),
            Event::SynRetry { conn } => net.syn_retry(self, conn),
            Event::Segment { conn, way } => net.deliver(self, conn, way),
            Event::Wake(_) | Event::Disk { .. } => {}
        });
    }

    pub(super) fn net_machine_is_back(&self, slot: usize) {
        self.net(|net| net.machine_is_back(self, slot));
    }

    pub(super) fn net_process_died(&self, owner: Owner, how: Crash) {
        self.net(|net| net.process_died(self, owner, how));
    }
}
