//! An initiator over the platform's streams: the session core of `twinlun-iscsi` and what drives it.
//!
//! [`Pump`] moves bytes and is what the load generator builds on. [`Session`] is for callers who await one command at a
//! time, from as many jobs as they like.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use twinlun_block::Payload;
use twinlun_io::{Outbox, Shard, Stream, TimedOut};
use twinlun_iscsi::initiator::{
    Command, Completion, DiscoveredTarget, Event, Initiator, InitiatorConfig, InitiatorError, Submitted,
    Transfer, cdb,
};
use twinlun_iscsi::negotiate::Parameters;
use twinlun_iscsi::pdu::{
    AsyncEvent, AsyncMessage, Cdb, LogoutReason, Lun, RejectReason, ResponseCode, ScsiStatus, TaskFunction,
    TaskResponseCode,
};

/// Turns after which a busy connection lets other jobs run.
const TURNS: usize = 16;

/// Unread asynchronous messages that a session keeps.
const MESSAGES: usize = 64;

/// Why a request has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The connection failed.
    #[error("connection failed: {0}")]
    Io(io::ErrorKind),
    /// The target closed the connection.
    #[error("the target closed the connection")]
    Closed,
    /// Nothing came within the time limit.
    #[error("time limit passed")]
    TimedOut,
    /// The session ended by an error of the protocol or a refused login.
    #[error(transparent)]
    Session(#[from] InitiatorError),
    /// The session was logged out.
    #[error("logged out")]
    LoggedOut,
    /// The command was ended by a task management function.
    #[error("aborted")]
    Aborted,
    /// The target rejected the request.
    #[error("rejected: {0:?}")]
    Rejected(RejectReason),
    /// More requests are unfinished than the session has slots.
    #[error("too many unfinished requests")]
    Full,
    /// The command ended with another status than GOOD.
    #[error("{status:?}, sense key {key:#x}, additional sense {asc:#04x}/{ascq:#04x}")]
    Scsi {
        /// SCSI status.
        status: ScsiStatus,
        /// Sense key, 0 without sense data.
        key: u8,
        /// Additional sense code.
        asc: u8,
        /// Its qualifier.
        ascq: u8,
    },
    /// The device server's answer makes no sense.
    #[error("malformed answer to {0}")]
    Malformed(&'static str),
}

impl From<io::Error> for SessionError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.kind())
    }
}

impl From<TimedOut> for SessionError {
    fn from(_: TimedOut) -> Self {
        Self::TimedOut
    }
}

/// Sense key, additional sense code and qualifier of fixed or descriptor sense data (SPC-5, 4.4).
pub fn sense_codes(sense: &[u8]) -> Option<(u8, u8, u8)> {
    match sense.first()? & 0x7f {
        0x70 | 0x71 => {
            Some((sense.get(2)? & 0x0f, *sense.get(12).unwrap_or(&0), *sense.get(13).unwrap_or(&0)))
        }
        0x72 | 0x73 => Some((sense.get(1)? & 0x0f, *sense.get(2)?, *sense.get(3)?)),
        _ => None,
    }
}

/// An error unless the command ended with GOOD.
pub fn expect_good(completion: Completion) -> Result<Completion, SessionError> {
    if completion.is_good() {
        return Ok(completion);
    }
    let (key, asc, ascq) = sense_codes(&completion.sense).unwrap_or_default();
    // A service response other than "completed" has no status; the host's stack would call it a target failure.
    let completed = completion.response == ResponseCode::COMPLETED;
    let status = if completed { completion.status } else { ScsiStatus::TASK_ABORTED };
    Err(SessionError::Scsi { status, key, asc, ascq })
}

/// A session core on its stream. One turn is one vectored send and one receive.
pub struct Pump {
    /// The session core.
    pub initiator: Initiator,
    stream: Stream,
    outbox: Outbox,
}

impl Pump {
    /// A new session; its login begins with the first turn.
    pub fn new(stream: Stream, config: InitiatorConfig) -> Result<Self, SessionError> {
        Ok(Self { initiator: Initiator::new(config)?, stream, outbox: Outbox::default() })
    }

    /// Sends what there is and receives once. `Ready(Ok)`: look for events, then take another turn.
    pub fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        if self.initiator.has_transmit() {
            self.initiator.transmit().for_each(|segment| self.outbox.push_bytes(segment));
        }
        // A full socket does not keep us from receiving: the target may be waiting for just that.
        if let Poll::Ready(sent) = self.outbox.poll_send(cx, &self.stream) {
            sent?;
        }
        match std::task::ready!(self.stream.poll_recv(cx, self.initiator.buffer()))? {
            0 => Poll::Ready(Err(SessionError::Closed)),
            _ => Poll::Ready(Ok(self.initiator.received()?)),
        }
    }

    /// Takes turns until there is an event.
    pub async fn next_event(&mut self) -> Result<Event, SessionError> {
        loop {
            if let Some(event) = self.initiator.poll_event() {
                return Ok(event);
            }
            std::future::poll_fn(|cx| self.poll_turn(cx)).await?;
        }
    }

    /// Connects and logs in.
    pub async fn connect(
        shard: &Shard,
        address: SocketAddr,
        config: InitiatorConfig,
        limit: Duration,
    ) -> Result<Self, SessionError> {
        let login = async {
            let mut pump = Self::new(shard.connect(address).await?, config)?;
            match pump.next_event().await? {
                Event::LoggedIn => Ok(pump),
                _ => Err(SessionError::Closed),
            }
        };
        shard.timeout(limit, login).await?
    }

    /// Carries out one command while no other is under way: for set-up before load begins.
    pub async fn execute(&mut self, command: Command) -> Result<Completion, SessionError> {
        match self.initiator.submit(command) {
            Submitted::Accepted => {}
            Submitted::Full => return Err(SessionError::Full),
            Submitted::NotReady => return Err(SessionError::Closed),
        }
        loop {
            match self.next_event().await? {
                Event::Completed(completion) => return Ok(completion),
                Event::Rejected { reason, .. } => return Err(SessionError::Rejected(reason)),
                _ => {}
            }
        }
    }
}

/// A logged in session. Clones are the same session; when the last goes, the connection is closed.
#[derive(Clone)]
pub struct Session {
    handle: Rc<Handle>,
}

/// What closes the connection when no caller is left; the driving job holds only the inner part.
struct Handle {
    shared: Rc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stream.shutdown();
    }
}

struct Shared {
    pump: RefCell<Pump>,
    stream: Stream,
    waiting: RefCell<BTreeMap<u64, oneshot::Sender<Event>>>,
    next_tag: Cell<u64>,
    slots: Semaphore,
    driver: RefCell<Option<Waker>>,
    messages: RefCell<VecDeque<AsyncMessage>>,
    ended: RefCell<Option<SessionError>>,
}

impl Session {
    /// Connects and logs in within `limit`.
    pub async fn connect(
        shard: &Shard,
        address: SocketAddr,
        config: InitiatorConfig,
        limit: Duration,
    ) -> Result<Self, SessionError> {
        let slots = Semaphore::new(config.max_tasks);
        let pump = Pump::connect(shard, address, config, limit).await?;
        let shared = Rc::new(Shared {
            stream: pump.stream.clone(),
            pump: RefCell::new(pump),
            waiting: RefCell::default(),
            next_tag: Cell::new(1),
            slots,
            driver: RefCell::default(),
            messages: RefCell::default(),
            ended: RefCell::default(),
        });
        shard.spawn(shared.clone().drive());
        Ok(Self { handle: Rc::new(Handle { shared }) })
    }

    /// What was negotiated.
    pub fn parameters(&self) -> Parameters {
        *self.handle.shared.pump.borrow().initiator.parameters()
    }

    /// How the session ended, if it has.
    pub fn ended(&self) -> Option<SessionError> {
        self.handle.shared.ended.borrow().clone()
    }

    /// The oldest unread message of the target.
    pub fn next_message(&self) -> Option<AsyncMessage> {
        self.handle.shared.messages.borrow_mut().pop_front()
    }

    /// A tag for [`Session::execute_as`].
    pub fn new_tag(&self) -> u64 {
        let next = &self.handle.shared.next_tag;
        next.replace(next.get() + 1)
    }

    /// Carries out a command, whatever its status.
    pub async fn execute(
        &self,
        lun: Lun,
        cdb: impl Into<Cdb>,
        transfer: Transfer,
    ) -> Result<Completion, SessionError> {
        self.execute_as(Command::new(self.new_tag(), lun, cdb, transfer)).await
    }

    /// The same with a tag of [`Session::new_tag`], by which it can be aborted.
    pub async fn execute_as(&self, command: Command) -> Result<Completion, SessionError> {
        let tag = command.tag;
        match self.request(tag, |initiator| initiator.submit(command)).await? {
            Event::Completed(completion) => Ok(completion),
            Event::Aborted { .. } => Err(SessionError::Aborted),
            Event::Rejected { reason, .. } => Err(SessionError::Rejected(reason)),
            _ => Err(SessionError::Closed),
        }
    }

    /// Aborts the command of that tag.
    pub async fn abort(&self, command: u64) -> Result<TaskResponseCode, SessionError> {
        let tag = self.new_tag();
        self.managed(tag, |initiator| initiator.manage_task(tag, TaskFunction::ABORT_TASK, command)).await
    }

    /// Carries out a task management function on a LU or the target.
    pub async fn manage(&self, function: TaskFunction, lun: Lun) -> Result<TaskResponseCode, SessionError> {
        let tag = self.new_tag();
        self.managed(tag, |initiator| initiator.manage_lun(tag, function, lun)).await
    }

    async fn managed(
        &self,
        tag: u64,
        start: impl FnOnce(&mut Initiator) -> Submitted,
    ) -> Result<TaskResponseCode, SessionError> {
        match self.request(tag, start).await? {
            Event::TaskManagement { response, .. } => Ok(response),
            Event::Rejected { reason, .. } => Err(SessionError::Rejected(reason)),
            _ => Err(SessionError::Closed),
        }
    }

    /// Sends `data` there and back.
    pub async fn ping(&self, data: Payload) -> Result<Payload, SessionError> {
        let tag = self.new_tag();
        match self.request(tag, |initiator| initiator.ping(tag, data)).await? {
            Event::Pong { data, .. } => Ok(data),
            Event::Rejected { reason, .. } => Err(SessionError::Rejected(reason)),
            _ => Err(SessionError::Closed),
        }
    }

    /// SendTargets.
    pub async fn send_targets(&self, which: &str) -> Result<Vec<DiscoveredTarget>, SessionError> {
        let tag = self.new_tag();
        match self.request(tag, |initiator| initiator.send_targets(tag, which)).await? {
            Event::Targets { targets, .. } => Ok(targets),
            Event::Rejected { reason, .. } => Err(SessionError::Rejected(reason)),
            _ => Err(SessionError::Closed),
        }
    }

    /// Closes the connection without a word; whoever waits learns that the session is over.
    pub fn close(&self) {
        self.handle.shared.stream.shutdown();
    }

    /// Logs out and closes.
    pub async fn logout(&self) -> Result<(), SessionError> {
        let tag = self.new_tag();
        match self.request(tag, |initiator| initiator.logout(tag, LogoutReason::CLOSE_SESSION)).await? {
            Event::LoggedOut { .. } => Ok(()),
            Event::Rejected { reason, .. } => Err(SessionError::Rejected(reason)),
            _ => Err(SessionError::Closed),
        }
    }

    // What most callers want of SCSI.

    /// TEST UNIT READY until no unit attention condition is left.
    pub async fn ready(&self, lun: Lun) -> Result<(), SessionError> {
        for _ in 0..16 {
            match expect_good(self.execute(lun, cdb::test_unit_ready(), Transfer::None).await?) {
                Err(SessionError::Scsi { key: 6, .. }) => {}
                other => return other.map(drop),
            }
        }
        Err(SessionError::Malformed("TEST UNIT READY"))
    }

    /// Number of blocks, and bytes of one.
    pub async fn capacity(&self, lun: Lun) -> Result<(u64, u32), SessionError> {
        let transfer = Transfer::Read(cdb::READ_CAPACITY_16_LEN);
        let answer = expect_good(self.execute(lun, cdb::read_capacity_16(), transfer).await?)?;
        cdb::parse_read_capacity_16(&answer.data.to_bytes())
            .ok_or(SessionError::Malformed("READ CAPACITY (16)"))
    }

    /// READ (16) of blocks that are `block` bytes long.
    pub async fn read(&self, lun: Lun, lba: u64, blocks: u32, block: u32) -> Result<Payload, SessionError> {
        let len = blocks.checked_mul(block).ok_or(SessionError::Malformed("request"))?;
        let done = self.execute(lun, cdb::read_16(lba, blocks, false), Transfer::Read(len)).await?;
        Ok(expect_good(done)?.data)
    }

    /// WRITE (16) of `blocks` blocks.
    pub async fn write(
        &self,
        lun: Lun,
        lba: u64,
        blocks: u32,
        data: Payload,
        fua: bool,
    ) -> Result<(), SessionError> {
        let done = self.execute(lun, cdb::write_16(lba, blocks, fua), Transfer::Write(data)).await?;
        expect_good(done).map(drop)
    }

    /// SYNCHRONIZE CACHE (16) of the whole LU.
    pub async fn flush(&self, lun: Lun) -> Result<(), SessionError> {
        expect_good(self.execute(lun, cdb::synchronize_cache_16(0, 0), Transfer::None).await?).map(drop)
    }

    async fn request(
        &self,
        tag: u64,
        start: impl FnOnce(&mut Initiator) -> Submitted,
    ) -> Result<Event, SessionError> {
        let shared = &self.handle.shared;
        let gone = || shared.ended.borrow().clone().unwrap_or(SessionError::Closed);
        let _slot = shared.slots.acquire().await.map_err(|_| gone())?;
        let submitted = start(&mut shared.pump.borrow_mut().initiator);
        match submitted {
            Submitted::Accepted => {}
            // A caller that was dropped gave its slot back, but its command is still under way.
            Submitted::Full => return Err(SessionError::Full),
            Submitted::NotReady => return Err(gone()),
        }
        let (answer, answered) = oneshot::channel();
        shared.waiting.borrow_mut().insert(tag, answer);
        shared.wake();
        answered.await.map_err(|_| gone())
    }
}

impl Shared {
    fn wake(&self) {
        if let Some(waker) = self.driver.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Runs until the session is over.
    async fn drive(self: Rc<Self>) {
        let end = std::future::poll_fn(|cx| self.poll_drive(cx)).await;
        *self.ended.borrow_mut() = Some(end);
        self.slots.close();
        // Whoever waits learns it by the loss of the other end.
        self.waiting.borrow_mut().clear();
        self.stream.shutdown();
    }

    fn poll_drive(&self, cx: &mut Context<'_>) -> Poll<SessionError> {
        *self.driver.borrow_mut() = Some(cx.waker().clone());
        for _ in 0..TURNS {
            let turn = self.pump.borrow_mut().poll_turn(cx);
            while let Some(event) = self.next_event() {
                if let Some(end) = self.deliver(event) {
                    return Poll::Ready(end);
                }
            }
            if let Err(end) = std::task::ready!(turn) {
                return Poll::Ready(end);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn next_event(&self) -> Option<Event> {
        self.pump.borrow_mut().initiator.poll_event()
    }

    /// Hands an event to whom it concerns. Some: the session is over.
    fn deliver(&self, event: Event) -> Option<SessionError> {
        let mut waiting = self.waiting.borrow_mut();
        let tag = match &event {
            Event::Completed(completion) => Some(completion.tag),
            Event::Aborted { tag }
            | Event::TaskManagement { tag, .. }
            | Event::Pong { tag, .. }
            | Event::Targets { tag, .. } => Some(*tag),
            Event::Rejected { tag, .. } => *tag,
            Event::LoggedOut { .. } => {
                // Nothing but the logout can be the last one to wait: the newest tag is its own.
                if let Some((_, answer)) = waiting.pop_last() {
                    let _ = answer.send(event);
                }
                return Some(SessionError::LoggedOut);
            }
            Event::Async(message) => {
                if message.event == AsyncEvent::LOGOUT_REQUEST {
                    // To be obeyed (RFC 7143, 11.9.1). Refused only when a logout is under way already.
                    let tag = self.next_tag.replace(self.next_tag.get() + 1);
                    let _ = self.pump.borrow_mut().initiator.logout(tag, LogoutReason::CLOSE_SESSION);
                }
                let mut messages = self.messages.borrow_mut();
                if messages.len() == MESSAGES {
                    messages.pop_front();
                }
                messages.push_back(message.clone());
                None
            }
            Event::LoggedIn => None,
        };
        if let Some(answer) = tag.and_then(|tag| waiting.remove(&tag)) {
            // A caller that gave up does not mind.
            let _ = answer.send(event);
        }
        None
    }
}

/// All targets of a portal.
pub async fn discover(
    shard: &Shard,
    portal: SocketAddr,
    config: InitiatorConfig,
    limit: Duration,
) -> Result<Vec<DiscoveredTarget>, SessionError> {
    let session = Session::connect(shard, portal, config, limit).await?;
    let targets = session.send_targets("All").await?;
    session.logout().await?;
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sense_formats_are_read() {
        let fixed = [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 1, 0, 0, 0, 0];
        assert_eq!(sense_codes(&fixed), Some((5, 0x24, 1)));
        assert_eq!(sense_codes(&fixed[..3]), Some((5, 0, 0)));
        assert_eq!(sense_codes(&[0x72, 6, 0x29, 0]), Some((6, 0x29, 0)));
        for nothing in [&[][..], &[0x70], &[0x72, 6, 0x29], &[0x7f, 0, 0, 0]] {
            assert_eq!(sense_codes(nothing), None, "{nothing:?}");
        }
    }
}
