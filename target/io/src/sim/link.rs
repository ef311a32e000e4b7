//! Links: how they behave, and what becomes of the connections over a link that was broken.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::executor::Event;
use super::net::{Conn, ConnId, Net, Phase};
use super::rng::Rng;
use super::world::Core;
use crate::Instant;

/// How a link behaves.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    /// Time on the way, drawn per segment. Order within a connection is kept.
    pub latency: RangeInclusive<Duration>,
    /// Bytes that may be sent and not yet received, per direction of a connection; drawn per connection.
    pub buffer: RangeInclusive<u64>,
    /// What becomes of a connection that lost bytes to a cut when the link is healed: weights of going on by
    /// retransmission, of a reset, and of staying mute for ever.
    pub after_cut: [u64; 3],
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(20)..=Duration::from_micros(400),
            buffer: 4096..=262_144,
            after_cut: [2, 2, 1],
        }
    }
}

/// The link between two processes. Direction 0 goes from the lower slot number to the higher.
pub(super) struct LinkState {
    pub(super) rng: Rng,
    pub(super) options: LinkOptions,
    pub(super) cut: [bool; 2],
    pub(super) clog: Duration,
    pub(super) refuse: bool,
    /// Segments to corrupt for certain.
    pub(super) corrupt_next: u32,
    /// Segments to corrupt, of a million.
    pub(super) corrupt_rate: u64,
}

impl LinkState {
    pub(super) fn flight(&mut self, core: &Core) -> Duration {
        if !self.clog.is_zero() {
            core.count("net.clog");
        }
        self.rng.duration(&self.options.latency) + self.clog
    }

    pub(super) fn maybe_corrupt(&mut self, core: &Core, data: Bytes) -> Bytes {
        let certain = self.corrupt_next > 0;
        if !certain && (self.corrupt_rate == 0 || !self.rng.chance(self.corrupt_rate, 1_000_000)) {
            return data;
        }
        self.corrupt_next = self.corrupt_next.saturating_sub(1);
        core.count("net.corrupt");
        let mut data = BytesMut::from(data);
        let at = self.rng.index(data.len());
        data[at] ^= 1 << self.rng.below(8);
        data.freeze()
    }
}

/// The link and the direction of `from` to `to`.
pub(super) fn link<'a>(
    links: &'a mut BTreeMap<(usize, usize), LinkState>,
    core: &Core,
    from: usize,
    to: usize,
) -> (&'a mut LinkState, usize) {
    let key = (from.min(to), from.max(to));
    let state = links.entry(key).or_insert_with(|| {
        let slots = core.slots.borrow();
        LinkState {
            rng: core.rng(&format!("link/{}/{}", slots[key.0].name, slots[key.1].name)),
            options: core.options.link.clone(),
            cut: [false; 2],
            clog: Duration::ZERO,
            refuse: false,
            corrupt_next: 0,
            corrupt_rate: 0,
        }
    });
    (state, usize::from(from > to))
}

impl Net {
    fn conns_between(&self, a: usize, b: usize) -> Vec<ConnId> {
        let matches = |conn: &Conn| {
            let slots = (conn.ends[0].owner.slot, conn.ends[1].owner.slot);
            slots == (a, b) || slots == (b, a)
        };
        self.conns.iter().filter(|(_, conn)| matches(conn)).map(|(id, _)| *id).collect()
    }

    /// Breaks all connections of a link, for both ends at once.
    pub(super) fn reset_link(&mut self, core: &Core, a: usize, b: usize) {
        for id in self.conns_between(a, b) {
            if self.conns.get(&id).is_some_and(|conn| conn.phase == Phase::Open) {
                core.count("net.reset");
                self.fail_end(core, id, 0);
                self.fail_end(core, id, 1);
            }
        }
    }

    /// Opens both directions and decides what becomes of connections that lost something.
    pub(super) fn heal(&mut self, core: &Core, a: usize, b: usize) {
        let (state, _) = link(&mut self.links, core, a, b);
        state.cut = [false; 2];
        for id in self.conns_between(a, b) {
            let Some(conn) = self.conns.get_mut(&id) else { continue };
            let (link, _) = link(&mut self.links, core, a, b);
            let hurt = conn.ways.iter().any(|way| way.stalled);
            let weights = link.options.after_cut;
            let fate = link.rng.below(weights.iter().sum::<u64>().max(1));
            if !hurt || fate < weights[0] {
                if hurt {
                    core.count("net.resumed");
                }
                self.resume(core, id);
            } else if fate < weights[0] + weights[1] {
                core.count("net.reset_after_cut");
                self.fail_end(core, id, 0);
                self.fail_end(core, id, 1);
            } else {
                core.count("net.mute");
                for way in &mut conn.ways {
                    way.queue.clear();
                    (way.stalled, way.mute) = (false, true);
                }
            }
        }
    }

    /// Retransmission: what was held back arrives after all, in order.
    pub(super) fn resume(&mut self, core: &Core, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        for from in 0..2 {
            let slots = (conn.ends[from].owner.slot, conn.ends[1 - from].owner.slot);
            let (link, _) = link(&mut self.links, core, slots.0, slots.1);
            let way = &mut conn.ways[from];
            way.outstanding = way.outstanding.saturating_sub(std::mem::take(&mut way.unacknowledged));
            self.wakes.extend(conn.ends[from].sender.take());
            if std::mem::take(&mut way.stalled) {
                let backoff = link.rng.duration(&(Duration::ZERO..=Duration::from_secs(1)));
                let at = core.now() + backoff + link.flight(core);
                way.queue.iter_mut().for_each(|(due, _)| *due = at.max(*due));
                way.last_arrival = way.last_arrival.max(at);
                let dues: Vec<Instant> = way.queue.iter().map(|(due, _)| *due).collect();
                for due in dues {
                    core.schedule(due, Event::Segment { conn: id, way: from });
                }
            }
        }
    }
}
