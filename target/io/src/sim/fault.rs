//! Handles to break things by: links and disk slots.

use std::ops::RangeInclusive;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use twinlun_block::ByteRange;

use super::disk::{DiskState, Faults};
use super::link::{LinkState, link};
use super::medium::Medium;
use super::world::Core;

/// Every kind of fault that a world counts in [`WorldHandle::counters`](super::WorldHandle::counters), so that a harness
/// can assert that each was met.
pub const FAULT_KINDS: &[&str] = &[
    "disk.bit_rot",           // a bit flipped on the medium
    "disk.cut_short",         // a write under way at a crash reached the page cache in part or not at all
    "disk.flush_error",       // a flush or stable write failed; unflushed writes are lost in part
    "disk.full",              // a write into a hole found no space
    "disk.misdirected_read",  // a read returned bytes of another place
    "disk.misdirected_write", // a write went to another place
    "disk.nth_operation",     // the operation chosen by DiskSlot::fail_in failed
    "disk.phantom_write",     // a write was acknowledged and not done
    "disk.read_error",        // a read met a bad sector
    "disk.removed",           // an operation met an empty slot or a handle to a disk that was pulled
    "disk.stall",             // an operation was held up
    "disk.unflushed_lost",    // a power cut lost unflushed writes
    "disk.write_error",       // a write failed; any part of it is done
    "net.clog",               // a segment was delayed
    "net.connect_lost",       // a connection request or its answer vanished
    "net.corrupt",            // a bit flipped on the way
    "net.cut",                // a direction of a connection lost bytes to a cut
    "net.into_the_dark",      // bytes were sent to a machine without power
    "net.mute",               // a connection stayed mute after its link was healed
    "net.refused",            // a connection request was refused by order
    "net.reset",              // a connection was reset by order
    "net.reset_after_cut",    // a connection was reset when its link was healed
    "net.resumed",            // a connection went on when its link was healed, with old bytes late
    "net.short_read",         // a receive returned less than there was
    "process.clock_step",     // a wall clock jumped
    "process.kill",           // a process was killed
    "process.pause",          // a process stood still
    "process.power_cut",      // a machine lost power
];

/// The link between two processes, in both directions.
#[derive(Clone)]
pub struct Link {
    pub(super) core: Rc<Core>,
    pub(super) a: usize,
    pub(super) b: usize,
}

impl Link {
    fn state<R>(&self, change: impl FnOnce(&mut LinkState, usize) -> R) -> R {
        self.core.net(|net| {
            let (state, direction) = link(&mut net.links, &self.core, self.a, self.b);
            change(state, direction)
        })
    }

    /// From now on everything on the way vanishes, in both directions; no end is told.
    pub fn cut(&self) {
        self.state(|link, _| link.cut = [true; 2]);
    }

    /// The same only from the first named process to the second.
    pub fn cut_forward(&self) {
        self.state(|link, direction| link.cut[direction] = true);
    }

    /// The same only from the second named process to the first.
    pub fn cut_backward(&self) {
        self.state(|link, direction| link.cut[1 - direction] = true);
    }

    /// Whether either direction is cut.
    pub fn is_cut(&self) -> bool {
        self.state(|link, _| link.cut != [false; 2])
    }

    /// Ends a cut. A connection that lost bytes to it goes on by retransmission (late, complete), is reset, or stays
    /// mute for ever: drawn by the weights of [`LinkOptions::after_cut`](super::LinkOptions).
    pub fn heal(&self) {
        self.core.net(|net| net.heal(&self.core, self.a, self.b));
    }

    /// Breaks every connection of the link; both ends see ECONNRESET at once.
    pub fn reset(&self) {
        self.core.net(|net| net.reset_link(&self.core, self.a, self.b));
    }

    /// Delays everything that is sent from now on by this on top of the latency; zero ends it.
    pub fn clog(&self, delay: Duration) {
        self.state(|link, _| link.clog = delay);
    }

    /// Refuses new connections, or takes them again.
    pub fn refuse(&self, refuse: bool) {
        self.state(|link, _| link.refuse = refuse);
    }

    /// Flips one bit in each of the next `segments` segments that arrive, unseen by TCP's checksum.
    pub fn corrupt_next(&self, segments: u32) {
        self.state(|link, _| link.corrupt_next = segments);
    }

    /// Flips one bit in this many of a million segments; zero ends it.
    pub fn corrupt_rate(&self, per_million: u64) {
        self.state(|link, _| link.corrupt_rate = per_million);
    }

    /// Changes the latency.
    pub fn set_latency(&self, latency: RangeInclusive<Duration>) {
        self.state(|link, _| link.options.latency = latency);
    }

    /// Changes the weights of resuming, reset and muteness after a cut.
    pub fn set_after_cut(&self, weights: [u64; 3]) {
        self.state(|link, _| link.options.after_cut = weights);
    }
}

/// A place for a disk, and the disk in it.
///
/// Methods that touch the medium panic when the slot is empty, unless they say otherwise.
#[derive(Clone)]
pub struct DiskSlot {
    core: Rc<Core>,
    index: usize,
}

impl DiskSlot {
    pub(super) fn new(core: &Rc<Core>, path: &str) -> Self {
        Self { core: core.clone(), index: core.disk_index(Path::new(path)) }
    }

    fn state<R>(&self, work: impl FnOnce(&mut DiskState) -> R) -> R {
        work(&mut self.core.disks.borrow_mut().all[self.index])
    }

    fn faults(&self, change: impl FnOnce(&mut Faults)) {
        self.state(|disk| change(&mut disk.faults));
    }

    fn medium<R>(&self, work: impl FnOnce(&mut Medium) -> R) -> R {
        self.state(|disk| work(disk.medium.as_mut().expect("the disk slot is empty")))
    }

    /// Whether a disk is in it.
    pub fn is_present(&self) -> bool {
        self.state(|disk| disk.medium.is_some())
    }

    /// Takes the disk out, losing unflushed writes as in a power cut. Handles to it see only errors from now on, also
    /// when it comes back; a process must open it again. `None` when the slot is empty.
    pub fn remove(&self) -> Option<Medium> {
        self.state(DiskState::remove)
    }

    /// Puts a disk in: the one that was there, an old copy, another slot's, or a [blank](Medium::blank) one.
    ///
    /// # Panics
    /// When a disk is in the slot.
    pub fn insert(&self, medium: Medium) {
        self.state(|disk| {
            assert!(disk.medium.is_none(), "the disk slot is taken");
            disk.medium = Some(medium);
        });
    }

    /// A copy of the disk as it is, page cache and all; to be brought back later as a stale disk.
    pub fn copy(&self) -> Medium {
        self.medium(|medium| medium.clone())
    }

    /// What a read of the range returns, errors and misdirection apart.
    pub fn peek(&self, range: ByteRange) -> Vec<u8> {
        self.medium(|medium| medium.peek(range))
    }

    /// What is certain to survive a power cut.
    pub fn peek_durable(&self, range: ByteRange) -> Vec<u8> {
        self.medium(|medium| medium.peek_durable(range))
    }

    /// Overwrites bytes behind everybody's back, durably.
    pub fn poke(&self, offset: u64, data: &[u8]) {
        self.medium(|medium| medium.poke(offset, data));
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.medium(|medium| medium.size())
    }

    /// Number of 512-byte sectors with unflushed writes.
    pub fn unflushed_sectors(&self) -> usize {
        self.medium(|medium| medium.unflushed_sectors())
    }

    /// Operations that are under way.
    pub fn operations(&self) -> usize {
        self.state(|disk| disk.operations())
    }

    /// Loses power on its own: unflushed writes survive in any part, and no handle notices.
    pub fn power_cut(&self) {
        if self.state(DiskState::lose_power) > 0 {
            self.core.count("disk.unflushed_lost");
        }
    }

    /// Makes the sectors of the range unreadable, until each is overwritten whole.
    pub fn fail_reads(&self, range: ByteRange) {
        self.medium(|medium| medium.make_unreadable(range));
    }

    /// Writes that touch the range fail, leaving any part of themselves, until [`DiskSlot::heal`].
    pub fn fail_writes(&self, range: ByteRange) {
        self.faults(|faults| faults.unwritable.push(range));
    }

    /// The next `flushes` flushes and stable writes fail; any part of the unflushed writes is lost then, unnoticed by
    /// reads until a power cut.
    pub fn fail_flushes(&self, flushes: u32) {
        self.faults(|faults| faults.flushes_to_fail = flushes);
    }

    /// The `n`-th operation from now fails, whatever it is (the next one is the first).
    pub fn fail_in(&self, n: u64) {
        self.faults(|faults| faults.fail_in = Some(n));
    }

    /// Whether writes to places that never were written find no space.
    pub fn set_full(&self, full: bool) {
        self.faults(|faults| faults.full = full);
    }

    /// Nothing completes for this time (a gray failure): no error, no answer.
    pub fn stall(&self, time: Duration) {
        let until = self.core.now() + time;
        self.faults(|faults| faults.stalled_until = until.max(faults.stalled_until));
    }

    /// The next `writes` writes are acknowledged and not done.
    pub fn phantom_writes(&self, writes: u32) {
        self.faults(|faults| faults.phantom_writes = writes);
    }

    /// The next `writes` writes go to another place of the disk.
    pub fn misdirect_writes(&self, writes: u32) {
        self.faults(|faults| faults.misdirected_writes = writes);
    }

    /// The next `reads` reads return what stands in another place.
    pub fn misdirect_reads(&self, reads: u32) {
        self.faults(|faults| faults.misdirected_reads = reads);
    }

    /// Flips one bit somewhere in the range.
    pub fn rot(&self, range: ByteRange) {
        self.state(|disk| {
            let medium = disk.medium.as_mut().expect("the disk slot is empty");
            medium.rot(range, &mut disk.rng);
        });
        self.core.count("disk.bit_rot");
    }

    /// Ends every fault that lasts or waits: bad sectors are readable again with their content, stalls end when due.
    pub fn heal(&self) {
        self.state(|disk| {
            let stalled_until = disk.faults.stalled_until;
            disk.faults = Faults { stalled_until, ..Faults::default() };
            disk.medium.iter_mut().for_each(Medium::make_readable);
        });
    }
}
