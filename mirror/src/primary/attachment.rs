//! A session with a secondary's unit during which the image takes part.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use twinlun_block::ByteRange;
use twinlun_io::Instant;

use crate::link::{DataRequest, DataStatus, Request, Response, Session};
use crate::signal::Signal;

/// A host's write as a secondary gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// LU of the set.
    pub(crate) lu: usize,
    pub(crate) range: ByteRange,
    /// Generation of writes that it belongs to.
    pub(crate) generation: usize,
    /// Acknowledged only from stable storage.
    pub(crate) stable: bool,
}

/// A session during which the image takes part. Every one has an epoch of its own.
pub(crate) struct Attachment {
    pub(crate) session: Session,
    pub(crate) epoch: u64,
    over: Cell<bool>,
    signal: Signal,
    open: RefCell<Open>,
}

/// What was sent and is not over, oldest first.
#[derive(Default)]
struct Open {
    /// Number of the first entry.
    first: u64,
    entries: VecDeque<Option<Entry>>,
}

struct Entry {
    /// When the part of it that is under way was sent.
    since: Instant,
    /// `None` for copies, which stay marked as missing, and flushes.
    write: Option<Sent>,
}

impl Open {
    fn entry(&mut self, ticket: u64) -> Option<&mut Option<Entry>> {
        self.entries.get_mut(usize::try_from(ticket.checked_sub(self.first)?).ok()?)
    }
}

impl Attachment {
    pub(crate) fn new(session: Session, epoch: u64) -> Rc<Self> {
        Rc::new(Self {
            session,
            epoch,
            over: Cell::new(false),
            signal: Signal::default(),
            open: RefCell::default(),
        })
    }

    /// Whether the image was lost.
    pub(crate) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Ends it: everybody who waits for an answer gives up.
    pub(crate) fn end(&self) {
        self.over.set(true);
        self.signal.raise();
        self.session.wake_all();
    }

    /// Waits for the end.
    pub(crate) async fn ended(&self) {
        self.signal.until(|| self.over.get().then_some(())).await;
    }

    /// Puts a request on the list of what is under way.
    pub(crate) fn open(&self, now: Instant, write: Option<Sent>) -> u64 {
        let mut open = self.open.borrow_mut();
        open.entries.push_back(Some(Entry { since: now, write }));
        open.first + open.entries.len() as u64 - 1
    }

    /// The next part of a request goes out: its time counts from now.
    pub(crate) fn renew(&self, ticket: u64, now: Instant) {
        if let Some(Some(entry)) = self.open.borrow_mut().entry(ticket) {
            entry.since = now;
        }
    }

    /// Takes a request from the list.
    pub(crate) fn close(&self, ticket: u64) -> Option<Sent> {
        let mut open = self.open.borrow_mut();
        let entry = open.entry(ticket)?.take();
        while let Some(None) = open.entries.front() {
            open.entries.pop_front();
            open.first += 1;
        }
        entry?.write
    }

    /// Goes over the writes that are under way.
    pub(crate) fn each_open(&self, see: impl FnMut(Sent)) {
        self.open.borrow().entries.iter().flatten().filter_map(|entry| entry.write).for_each(see);
    }

    /// Whether a request has been waiting for longer than `limit` (R-FL-5).
    pub(crate) fn is_late(&self, now: Instant, limit: Duration) -> bool {
        let open = self.open.borrow();
        open.entries.iter().flatten().any(|entry| now.saturating_since(entry.since) >= limit)
    }

    /// Makes a request that is no host's write; the reason when it was not done.
    pub(crate) async fn ask(&self, now: Instant, request: DataRequest) -> Result<(), String> {
        let ticket = self.open(now, None);
        let result = self.carry(request).await;
        self.close(ticket);
        result
    }

    /// Makes a request that is on the list; the reason when it was not done. Ends with the attachment: whatever becomes
    /// of the request then, the next attachment begins only after it.
    pub(crate) async fn carry(&self, request: DataRequest) -> Result<(), String> {
        if self.over.get() {
            return Err("it was lost before".into());
        }
        let mut answer = pin!(self.session.request(Request::Data(request)));
        // The end of the attachment wakes all who wait at the session.
        let outcome = std::future::poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Pending if self.over.get() => Poll::Ready(None),
            polled => polled.map(Some),
        })
        .await;
        match outcome {
            Some(Ok(Response::Data(DataStatus::Done, _))) => Ok(()),
            Some(Ok(Response::Data(DataStatus::Failed(error), _))) => {
                Err(format!("its unit answers: {error}"))
            }
            Some(Ok(Response::Data(DataStatus::StaleEpoch, _))) => {
                Err("its unit takes part in a newer attachment".into())
            }
            Some(Ok(Response::Data(DataStatus::NotAttached, _))) => Err("its unit does not take part".into()),
            Some(Ok(Response::Control(_))) => Err("its unit answers nonsense".into()),
            Some(Err(lost)) => Err(lost.to_string()),
            None => Err("it was lost meanwhile".into()),
        }
    }
}
