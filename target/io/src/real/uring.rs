//! The io_uring disk engine: one ring per shard, submitted once per round of the runtime, polled by it.

#![allow(unsafe_code)] // submission entries hold raw pointers into operations

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode, squeue, types};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::busy_poll::BusyPoll;
use super::op::{Kind, MAX_SEGMENTS, Op, OpResult};

/// Pause before the kernel is asked again when it had no room for submissions.
const BUSY_PAUSE: Duration = Duration::from_millis(1);
/// Entries of the submission queue, and operations that are in the kernel at a time; more wait in memory.
const DEPTH: u32 = 256;
/// `RWF_DSYNC` of preadv2(2).
const RWF_DSYNC: i32 = 0x2;

/// A `struct iovec`: what a vectored write's entry points to.
#[repr(C)]
struct Segment {
    start: *const u8,
    len: usize,
}

struct Entry {
    op: Op,
    /// The kernel reads these while the operation is under way.
    segments: Vec<Segment>,
    state: State,
}

enum State {
    /// Queued or in the kernel.
    Waiting(Option<Waker>),
    /// Nobody waits for it any more, but the kernel may still touch its buffers.
    Abandoned,
    Done(OpResult),
}

/// A shard's ring.
pub(crate) struct Ring {
    inner: RefCell<Inner>,
    /// Told when something is queued.
    queued: Notify,
}

struct Inner {
    ring: IoUring,
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
    queue: VecDeque<usize>,
    in_kernel: u32,
}

struct RingFd(RawFd);

/// Takes completions when the runtime says that there are some.
struct Poller {
    // Dropped before the ring closes its descriptor.
    readable: AsyncFd<RingFd>,
    ring: Rc<Ring>,
    busy_poll: Rc<BusyPoll>,
}

impl Poller {
    async fn run(self) {
        while let Ok(mut guard) = self.readable.readable().await {
            // What comes after this look makes the descriptor ready again.
            guard.clear_ready();
            self.ring.reap();
            self.busy_poll.note_work();
        }
    }
}

impl AsRawFd for RingFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl Ring {
    /// Makes a ring and tries it. An error says why the kernel refuses.
    pub(crate) fn new() -> io::Result<Rc<Self>> {
        // One thread uses the ring, and completions can wait until it enters the kernel; kernels before 6.0 do not know these hints.
        let hinted = IoUring::builder().setup_coop_taskrun().setup_single_issuer().build(DEPTH);
        let mut ring = hinted.or_else(|_| IoUring::new(DEPTH))?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [opcode::Read::CODE, opcode::Writev::CODE, opcode::Fsync::CODE, opcode::Fallocate::CODE];
        if !needed.iter().all(|code| probe.is_supported(*code)) {
            return Err(io::Error::other("the kernel's io_uring lacks an operation"));
        }
        // SAFETY: a no-op entry has no pointers.
        unsafe { ring.submission().push(&opcode::Nop::new().build()) }.map_err(io::Error::other)?;
        ring.submit_and_wait(1)?;
        let answered = ring.completion().next().is_some();
        if !answered {
            return Err(io::Error::other("a no-op was not answered"));
        }
        let inner =
            Inner { ring, entries: Vec::new(), free: Vec::new(), queue: VecDeque::new(), in_kernel: 0 };
        Ok(Rc::new(Self { inner: RefCell::new(inner), queued: Notify::new() }))
    }

    /// The two jobs of a ring: one submits what a round of the runtime has queued, one takes what is done.
    pub(crate) fn start(self: &Rc<Self>, busy_poll: Rc<BusyPoll>) -> io::Result<()> {
        let fd = self.inner.borrow().ring.as_raw_fd();
        // SAFETY: `Poller` holds the ring as well, whose descriptor stays open until after this value is dropped.
        let readable = unsafe { AsyncFd::register_with_interest(RingFd(fd), Interest::READABLE) }?;
        let this = self.clone();
        tokio::task::spawn_local(async move {
            loop {
                this.queued.notified().await;
                this.submit_queued();
            }
        });
        let poller = Poller { readable, ring: self.clone(), busy_poll };
        tokio::task::spawn_local(async move { poller.run().await });
        Ok(())
    }

    pub(crate) fn submit(self: &Rc<Self>, op: Op) -> Submitted {
        let mut inner = self.inner.borrow_mut();
        let entry = Some(Entry { op, segments: Vec::new(), state: State::Waiting(None) });
        let index = match inner.free.pop() {
            Some(index) => {
                inner.entries[index] = entry;
                index
            }
            None => {
                inner.entries.push(entry);
                inner.entries.len() - 1
            }
        };
        inner.queue.push_back(index);
        self.queued.notify_one();
        Submitted { ring: self.clone(), index: Some(index) }
    }

    /// Hands everything that is queued to the kernel in one system call.
    fn submit_queued(self: &Rc<Self>) {
        let mut inner = self.inner.borrow_mut();
        while inner.in_kernel < DEPTH {
            let Some(index) = inner.queue.pop_front() else { break };
            let Inner { ring, entries, .. } = &mut *inner;
            let entry = entries[index].as_mut().expect("a queued operation keeps its entry");
            let sqe = prepare(entry).user_data(index as u64);
            // SAFETY: everything that the entry points to lives in `entries[index]`, on the heap, until its completion is reaped.
            let pushed = unsafe { ring.submission().push(&sqe) };
            pushed.expect("the submission queue has as many places as operations may be in the kernel");
            inner.in_kernel += 1;
        }
        // The kernel may take a part only, and stops at an entry that it refuses.
        while !inner.ring.submission().is_empty() {
            let Err(error) = inner.ring.submit() else { continue };
            let is = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
            if is(Errno::INTR) {
                continue;
            }
            if !is(Errno::AGAIN) && !is(Errno::BUSY) {
                tracing::error!(%error, "io_uring does not take submissions");
            }
            // Out of memory for now; no completion need be on its way that would remind us.
            let this = self.clone();
            tokio::task::spawn_local(async move {
                tokio::time::sleep(BUSY_PAUSE).await;
                this.queued.notify_one();
            });
            break;
        }
        drop(inner);
        self.reap();
    }

    /// Takes every completion that is there.
    fn reap(&self) {
        let mut wakers = Vec::new();
        let mut inner = self.inner.borrow_mut();
        let Inner { ring, entries, free, in_kernel, .. } = &mut *inner;
        for cqe in ring.completion() {
            let index = cqe.user_data() as usize;
            *in_kernel -= 1;
            let slot = &mut entries[index];
            let entry = slot.as_mut().expect("an operation in the kernel keeps its entry");
            let result = match cqe.result() {
                code if code < 0 => Err(Errno::from_raw_os_error(-code)),
                bytes => Ok(bytes as usize),
            };
            entry.op.note(result);
            match std::mem::replace(&mut entry.state, State::Done(result)) {
                State::Waiting(waker) => wakers.extend(waker),
                State::Abandoned => {
                    *slot = None;
                    free.push(index);
                }
                State::Done(_) => unreachable!("an operation completes once"),
            }
        }
        let more = !inner.queue.is_empty();
        drop(inner);
        if more {
            self.queued.notify_one();
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Ring {
    /// The kernel must let go of every buffer before it is freed.
    fn drop(&mut self) {
        while self.inner.borrow().in_kernel > 0 {
            let waited = self.inner.borrow().ring.submit_and_wait(1);
            self.reap();
            let interrupted = |error: io::Error| error.kind() == io::ErrorKind::Interrupted;
            if waited.is_err_and(|error| !interrupted(error)) && self.inner.borrow().in_kernel > 0 {
                // The kernel does not say what it still uses, so that is never freed.
                std::mem::forget(std::mem::take(&mut self.inner.borrow_mut().entries));
                return;
            }
        }
    }
}

fn prepare(entry: &mut Entry) -> squeue::Entry {
    let fd = types::Fd(entry.op.file.file.as_raw_fd());
    match &mut entry.op.kind {
        Kind::Read { buffer, at, offset } => {
            let rest = buffer.rest(*at);
            opcode::Read::new(fd, rest.as_mut_ptr(), rest.len() as u32).offset(*offset).build()
        }
        Kind::Write { data, offset, stable } => {
            let segments = data.segments().iter().take(MAX_SEGMENTS);
            entry.segments = segments.map(|s| Segment { start: s.as_ptr(), len: s.len() }).collect();
            opcode::Writev::new(fd, entry.segments.as_ptr().cast(), entry.segments.len() as u32)
                .offset(*offset)
                .rw_flags(if *stable { RWF_DSYNC } else { 0 })
                .build()
        }
        Kind::Flush { range } => {
            // No bytes from byte 0 is everything; so is a range too long to be said.
            let whole = (0, 0);
            let (offset, len) = range.map_or(whole, |range| match u32::try_from(range.len()) {
                Ok(len) => (range.offset(), len),
                Err(_) => whole,
            });
            opcode::Fsync::new(fd).offset(offset).len(len).flags(types::FsyncFlags::DATASYNC).build()
        }
        Kind::Zero { offset, len, mode } => {
            opcode::Fallocate::new(fd, *len).offset(*offset).mode(mode.bits().cast_signed()).build()
        }
    }
}

/// An operation under way.
pub(crate) struct Submitted {
    ring: Rc<Ring>,
    index: Option<usize>,
}

impl Future for Submitted {
    type Output = (Op, OpResult);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let index = self.index.expect("a finished operation is not polled again");
        let ring = self.ring.clone();
        let mut inner = ring.inner.borrow_mut();
        let entry = inner.entries[index].as_mut().expect("an awaited operation keeps its entry");
        match &mut entry.state {
            State::Waiting(waker) => {
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            State::Done(result) => {
                let result = *result;
                let entry = inner.entries[index].take().expect("looked at above");
                inner.free.push(index);
                self.index = None;
                Poll::Ready((entry.op, result))
            }
            State::Abandoned => unreachable!("an abandoned operation has nobody who polls it"),
        }
    }
}

impl Drop for Submitted {
    fn drop(&mut self) {
        let Some(index) = self.index else { return };
        let mut inner = self.ring.inner.borrow_mut();
        let entry = inner.entries[index].as_mut().expect("an awaited operation keeps its entry");
        if matches!(entry.state, State::Done(_)) {
            inner.entries[index] = None;
            inner.free.push(index);
        } else {
            entry.state = State::Abandoned;
        }
    }
}
