//! One host connection: moves bytes between the stream and the protocol core, and starts what the core asks for.
//!
//! Everything that one receive brings is executed before anything is sent, and all answers of such a turn leave in one
//! vectored send. A command whose requests complete at once (page cache, memory) never becomes a job of its own.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::future::{Either, select};
use tokio::sync::Notify;
use twinlun_io::{Instant, Outbox, Stream};
use twinlun_iscsi::login::LoginStatus;
use twinlun_iscsi::target::{
    AsyncMessage, CloseReason, Connection, Event, ScsiCommand, ScsiResponse, TASK_ABORTED,
    TaskManagementResponse, Tsih,
};
use twinlun_scsi::{
    Abort, Admission, Command, Io, LbaStatus, LuId, NexusId, Outcome, Reply, SanitizeStart, Settle, Status,
    Task, TaskAttribute, needs_moment, needs_time,
};

use crate::directory::DirectoryView;
use crate::processor::{Next, Pending, Processor};

/// While this much waits to be sent, nothing more is received from the host.
const SEND_HIGH_WATER: usize = 4 << 20;
/// Commands after which their answers are sent, though more wait to be carried out.
const EVENTS_PER_SEND: u32 = 8;
/// Receives in one turn before answers are sent, so that a fast sender cannot hold answers back.
const RECEIVES_PER_TURN: usize = 4;

/// A host's connection and its tasks.
pub(crate) struct HostConnection {
    processor: Rc<Processor>,
    stream: Stream,
    core: RefCell<Connection>,
    session: Cell<Option<Tsih>>,
    nexus: Cell<Option<NexusId>>,
    /// Started tasks that have not ended, by tag. A task that ended within its own turn never gets here.
    running: RefCell<BTreeMap<u32, Rc<Running>>>,
    /// Tasks that the task set holds back.
    held: RefCell<BTreeMap<u32, ScsiCommand>>,
    /// Wakes the turn when an answer is ready.
    waker: RefCell<Option<Waker>>,
    closed: Cell<Option<CloseReason>>,
    /// Signalled when a task ends and when the connection is over.
    changed: Notify,
    over: Cell<bool>,
}

/// A task whose requests are under way.
struct Running {
    aborted: Cell<Option<Aborted>>,
}

/// How an aborted task ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aborted {
    /// Without an answer.
    Silently,
    /// With status TASK ABORTED.
    Reported,
}

/// What a turn's receiving came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Received {
    /// Everything; the turn is woken when more comes.
    All,
    /// There may be more.
    MaybeMore,
    /// Nothing is received now: too much waits to be sent, or the connection ends.
    Blocked,
}

/// A running timer and when it fires.
type Timer = (Instant, Pin<Box<dyn Future<Output = ()>>>);

impl HostConnection {
    pub(crate) fn new(processor: Rc<Processor>, stream: Stream, core: Connection) -> Rc<Self> {
        Rc::new(Self {
            processor,
            stream,
            core: RefCell::new(core),
            session: Cell::new(None),
            nexus: Cell::new(None),
            running: RefCell::default(),
            held: RefCell::default(),
            waker: RefCell::default(),
            closed: Cell::new(None),
            changed: Notify::new(),
            over: Cell::new(false),
        })
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    pub(crate) fn core(&self) -> &RefCell<Connection> {
        &self.core
    }

    pub(crate) fn nexus(&self) -> Option<NexusId> {
        self.nexus.get()
    }

    pub(crate) fn session(&self) -> Option<Tsih> {
        self.session.get()
    }

    /// The session begins.
    pub(crate) fn admit(&self, tsih: Tsih, nexus: Option<NexusId>) {
        self.session.set(Some(tsih));
        self.nexus.set(nexus);
        let directory = DirectoryView { processor: &self.processor, local: self.stream.local_address() };
        self.core.borrow_mut().admit(tsih, self.processor.now(), &directory);
        self.wake();
    }

    /// There will be no session.
    pub(crate) fn refuse(&self, status: LoginStatus) {
        self.core.borrow_mut().refuse(status);
        self.wake();
    }

    pub(crate) fn answer_management(&self, tag: u32, response: TaskManagementResponse, information: [u8; 3]) {
        self.core.borrow_mut().respond_task_management(tag, response, information);
        self.wake();
    }

    /// Drops commands that still wait for data; another session's function covers them.
    pub(crate) fn discard_undelivered(&self, lun: Option<[u8; 8]>) {
        self.core.borrow_mut().abort_undelivered(lun, None);
        self.wake();
    }

    /// Commands without an answer.
    pub(crate) fn outstanding(&self) -> usize {
        self.core.borrow().outstanding()
    }

    /// Serves the host until the connection is over and none of its tasks can touch anything any more.
    pub(crate) async fn serve(self: &Rc<Self>) -> CloseReason {
        let mut outbox = Outbox::default();
        let mut timer: Option<Timer> = None;
        let reason = std::future::poll_fn(|cx| self.turn(cx, &mut outbox, &mut timer)).await;
        self.stream.shutdown();
        self.core.borrow_mut().close();
        self.abort_all();
        self.wait_for_tasks().await;
        if let Some(nexus) = self.nexus.take() {
            let closed = self.processor.device.borrow_mut().close_nexus(nexus);
            self.processor.settle_aborts(closed.abort, closed.release).await;
        }
        self.over.set(true);
        self.changed.notify_waiters();
        reason
    }

    /// Sends a message that nobody asked for; nothing outside of a normal session.
    pub(crate) fn tell(&self, message: AsyncMessage) {
        self.core.borrow_mut().async_message(message);
        self.wake();
    }

    /// Asks the connection to end.
    pub(crate) fn close(&self) {
        self.core.borrow_mut().close();
        self.wake();
    }

    /// Waits until the connection is over and its nexus is closed.
    pub(crate) async fn wait_over(&self) {
        loop {
            let changed = self.changed.notified();
            if self.over.get() {
                return;
            }
            changed.await;
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// One turn: receive, execute, send. Ready when everything is over.
    fn turn(
        self: &Rc<Self>,
        cx: &mut Context<'_>,
        outbox: &mut Outbox,
        timer: &mut Option<Timer>,
    ) -> Poll<CloseReason> {
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        loop {
            let received = self.receive(cx, outbox);
            let mut acted = 0;
            while let Some(event) = self.next_event() {
                self.act(event, cx);
                acted += 1;
                if acted % EVENTS_PER_SEND == 0 {
                    // The host works on the first answers while the next are made. A socket that fails fails again below.
                    self.core.borrow_mut().transmit(|bytes| outbox.push_bytes(bytes));
                    let _ = outbox.poll_send(cx, &self.stream);
                }
            }
            self.core.borrow_mut().transmit(|bytes| outbox.push_bytes(bytes));
            match outbox.poll_send(cx, &self.stream) {
                Poll::Ready(Ok(())) if self.core.borrow().is_closing() => {
                    return Poll::Ready(self.closed.get().unwrap_or(CloseReason::Local));
                }
                Poll::Ready(Err(_)) => return Poll::Ready(self.closed.get().unwrap_or(CloseReason::Local)),
                _ => {}
            }
            let unblocked = received == Received::Blocked
                && outbox.len() < SEND_HIGH_WATER
                && self.core.borrow().wants_input()
                && !self.core.borrow().is_closing();
            if self.tick(cx, timer) || unblocked {
                continue;
            }
            if received == Received::MaybeMore {
                // There may be more to receive, but others on this shard have waited.
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
    }

    /// Receives what is there.
    fn receive(&self, cx: &mut Context<'_>, outbox: &Outbox) -> Received {
        let directory = DirectoryView { processor: &self.processor, local: self.stream.local_address() };
        for _ in 0..RECEIVES_PER_TURN {
            let mut core = self.core.borrow_mut();
            if core.is_closing() || !core.wants_input() || outbox.len() >= SEND_HIGH_WATER {
                return Received::Blocked;
            }
            let buffer = core.buffer();
            let room = buffer.capacity() - buffer.len();
            match self.stream.poll_recv(cx, buffer) {
                Poll::Pending => return Received::All,
                Poll::Ready(Ok(n)) if n > 0 => {
                    core.received(self.processor.now(), &directory);
                    if n < room {
                        // The socket was empty just now. Asking it again at once would cost a system call for nothing.
                        return Received::MaybeMore;
                    }
                }
                Poll::Ready(_) => {
                    core.close();
                    return Received::All;
                }
            }
        }
        Received::MaybeMore
    }

    fn next_event(&self) -> Option<Event> {
        self.core.borrow_mut().poll_event()
    }

    /// Keeps the timer at the core's next time limit; says whether one has passed.
    fn tick(&self, cx: &mut Context<'_>, timer: &mut Option<Timer>) -> bool {
        let Some(deadline) = self.core.borrow().next_timeout().map(Instant::from_start) else {
            *timer = None;
            return false;
        };
        // A later limit than the one that runs needs no new timer: when it fires too early, it is set again.
        if timer.as_ref().is_none_or(|(at, _)| *at > deadline) {
            let shard = self.processor.shard.clone();
            *timer = Some((deadline, Box::pin(async move { shard.sleep_until(deadline).await })));
        }
        let fired = timer.as_mut().is_some_and(|(_, sleep)| sleep.as_mut().poll(cx).is_ready());
        if fired {
            *timer = None;
            self.core.borrow_mut().on_timeout(self.processor.now());
        }
        fired
    }

    fn act(self: &Rc<Self>, event: Event, cx: &mut Context<'_>) {
        match event {
            Event::Command(command) => self.begin(command, cx),
            Event::SessionReady(request) => {
                self.spawn(|this| async move { this.processor.admit(&this, *request).await });
            }
            Event::TaskManagement(function) => {
                self.spawn(|this| async move { this.processor.manage(&this, function).await });
            }
            Event::Logout => self.spawn(|this| async move {
                this.abort_all();
                this.wait_for_tasks().await;
                this.core.borrow_mut().finish_logout();
                this.wake();
            }),
            Event::Closed(reason) => self.closed.set(Some(reason)),
        }
    }

    fn spawn<F: Future<Output = ()> + 'static>(self: &Rc<Self>, job: impl FnOnce(Rc<Self>) -> F) {
        self.processor.shard.spawn(job(self.clone()));
    }

    /// Enters a command into its task set.
    fn begin(self: &Rc<Self>, command: ScsiCommand, cx: &mut Context<'_>) {
        let Some(nexus) = self.nexus.get() else {
            // Commands exist only in normal sessions, and those have a nexus before they are admitted.
            return self.core.borrow_mut().respond_target_failure(command.tag);
        };
        let attribute = attribute(command.attribute);
        let admission = self.processor.device.borrow_mut().begin(
            nexus,
            command.lun,
            command.tag,
            attribute,
            &command.cdb,
        );
        match admission {
            Admission::Run(task) => self.execute(task, command, cx),
            Admission::Hold(task) => {
                self.held.borrow_mut().insert(task.tag, command);
            }
            Admission::Refuse(reply) => self.respond(command.tag, reply),
        }
    }

    /// Starts a task that the task set has released.
    pub(crate) fn release(self: &Rc<Self>, task: Task) {
        let Some(command) = self.held.borrow_mut().remove(&task.tag) else { return };
        self.execute(task, command, &mut Context::from_waker(Waker::noop()));
        self.wake();
    }

    fn execute(self: &Rc<Self>, task: Task, command: ScsiCommand, cx: &mut Context<'_>) {
        if needs_time(&command.cdb) {
            let time = self.processor.shard.unix_time();
            self.processor.device.borrow_mut().set_time(time);
        }
        let command = (
            command.lun,
            Command {
                moment: needs_moment(&command.cdb).then(|| self.processor.moment()),
                ..Command::new(task.tag, &command.cdb, command.data_out)
            },
        );
        let outcome = self.processor.device.borrow_mut().execute(task.nexus, command.0, command.1);
        match outcome {
            Outcome::Done(reply) => self.finish(task, reply),
            Outcome::Io(io) => self.run_steps(task, io, cx),
            Outcome::Settle(settle) => self.settle(task, settle),
            Outcome::LbaStatus(asked) => self.ask_allocation(task, *asked),
        }
    }

    /// Runs the steps of a command as far as they complete at once; what does not becomes a job.
    fn run_steps(self: &Rc<Self>, task: Task, mut io: Io, cx: &mut Context<'_>) {
        let mut previous = None;
        loop {
            match self.processor.step(&mut io, previous.take()) {
                Next::Answer(reply) => return self.finish(task, reply),
                Next::Submitted(mut pending) => match pending.as_mut().poll(cx) {
                    Poll::Ready(result) => previous = Some(result),
                    Poll::Pending => return self.run_as_job(task, io, pending),
                },
            }
        }
    }

    fn run_as_job(self: &Rc<Self>, task: Task, mut io: Io, pending: Pending) {
        let running = self.enter(task.tag);
        self.spawn(|this| async move {
            let mut pending = pending;
            let reply = loop {
                let result = pending.await;
                // What an aborted task has not written yet it never writes.
                if running.aborted.get().is_some() {
                    break Reply::with_status(Status::TaskAborted);
                }
                match this.processor.step(&mut io, Some(result)) {
                    Next::Submitted(next) => pending = next,
                    Next::Answer(reply) => break reply,
                }
            };
            this.leave(task, &running, reply);
        });
    }

    fn ask_allocation(self: &Rc<Self>, task: Task, asked: LbaStatus) {
        let Some(volume) = self.processor.volume(asked.lu()) else {
            return self.finish(task, Reply::with_status(Status::Busy));
        };
        let running = self.enter(task.tag);
        self.spawn(|this| async move {
            let found = volume.allocation(asked.range(), asked.limit()).await;
            this.leave(task, &running, asked.finish(found));
        });
    }

    /// Stores, aborts, then answers.
    fn settle(self: &Rc<Self>, task: Task, settle: Box<Settle>) {
        let running = self.enter(task.tag);
        // The place in line is taken now: records must be stored in the order of their making.
        let volume = self.processor.volume(settle.lu);
        let turn = volume.as_ref().map(|volume| (volume.record_turn(), volume.uuid()));
        self.spawn(|this| async move {
            let settle = *settle;
            let lu = settle.lu;
            let stored = match (settle.record, turn) {
                (Some(record), Some((turn, uuid))) => {
                    let _turn = turn.await;
                    this.processor.store_lu_record(uuid, record).await
                }
                _ => Ok(()),
            };
            this.processor.settle_aborts(settle.abort, settle.release).await;
            let mut reply = if stored.is_ok() { settle.then } else { settle.otherwise };
            if settle.sanitize_left && stored.is_ok() {
                this.processor.device.borrow_mut().sanitize_left(lu);
            }
            match settle.sanitize {
                Some(_) if stored.is_err() => this.processor.device.borrow_mut().sanitize_not_stored(lu),
                Some(start) => {
                    let ended = this.sanitize(task, lu, start, &running).await;
                    if let Some(ended) = ended {
                        reply = Reply { data_out_len: reply.data_out_len, ..ended };
                    }
                }
                None => {}
            }
            this.leave(task, &running, reply);
        });
    }

    /// Begins the operation whose order has been stored. Its outcome, when the command waits for that and is not aborted: an aborted command ends
    /// nothing.
    async fn sanitize(&self, task: Task, lu: LuId, start: SanitizeStart, running: &Running) -> Option<Reply> {
        let volume = self.processor.volume(lu)?;
        let others = self.processor.device.borrow_mut().sanitize_alone(task);
        self.processor.settle_aborts(others.abort, others.release).await;
        let mut over = std::pin::pin!(volume.sanitized().notified());
        over.as_mut().enable();
        self.processor.start_sanitizing(lu);
        if !start.waits {
            return None;
        }
        loop {
            let changed = std::pin::pin!(self.changed.notified());
            if running.aborted.get().is_some() {
                return None;
            }
            if let Either::Left(_) = select(over.as_mut(), changed).await {
                return Some(self.processor.device.borrow().sanitize_reply(lu));
            }
        }
    }

    fn enter(&self, tag: u32) -> Rc<Running> {
        let running = Rc::new(Running { aborted: Cell::new(None) });
        self.running.borrow_mut().insert(tag, running.clone());
        running
    }

    /// Ends a task that had become a job.
    fn leave(self: &Rc<Self>, task: Task, running: &Running, reply: Reply) {
        self.running.borrow_mut().remove(&task.tag);
        match running.aborted.get() {
            None => self.finish(task, reply),
            Some(how) => {
                match how {
                    Aborted::Silently => self.core.borrow_mut().abandon(task.tag),
                    Aborted::Reported => {
                        self.core.borrow_mut().respond(task.tag, ScsiResponse::status(TASK_ABORTED));
                    }
                }
                self.end_in_task_set(task, None);
            }
        }
        self.changed.notify_waiters();
        self.wake();
    }

    /// Answers a task and takes it out of its task set.
    fn finish(self: &Rc<Self>, task: Task, reply: Reply) {
        self.end_in_task_set(task, Some(&reply));
        self.respond(task.tag, reply);
    }

    fn end_in_task_set(&self, task: Task, reply: Option<&Reply>) {
        let released = self.processor.device.borrow_mut().end(task, reply);
        self.processor.release(released);
    }

    fn respond(&self, tag: u32, reply: Reply) {
        let response = ScsiResponse {
            status: reply.status as u8,
            qualifier: 0,
            sense: reply.sense.map(|sense| Bytes::copy_from_slice(&sense)).unwrap_or_default(),
            presented_in: reply.data.len() as u64,
            data_in: reply.data,
            presented_out: reply.data_out_len,
        };
        self.core.borrow_mut().respond(tag, response);
    }

    /// Marks a task as aborted. Says whether it is still under way: then it must be waited for.
    pub(crate) fn abort(&self, abort: Abort) -> bool {
        let tag = abort.task.tag;
        let how = if abort.report { Aborted::Reported } else { Aborted::Silently };
        if self.held.borrow_mut().remove(&tag).is_some() {
            match how {
                Aborted::Silently => self.core.borrow_mut().abandon(tag),
                Aborted::Reported => {
                    self.core.borrow_mut().respond(tag, ScsiResponse::status(TASK_ABORTED));
                }
            }
            self.wake();
            return false;
        }
        let running = self.running.borrow();
        let Some(task) = running.get(&tag) else { return false };
        if task.aborted.get().is_none() {
            task.aborted.set(Some(how));
            self.changed.notify_waiters();
        }
        true
    }

    /// Waits until that task has ended.
    pub(crate) async fn wait_for_task(&self, tag: u32) {
        loop {
            let changed = self.changed.notified();
            if !self.running.borrow().contains_key(&tag) {
                return;
            }
            changed.await;
        }
    }

    /// Silences every task of this connection and takes the held ones out.
    fn abort_all(&self) {
        for running in self.running.borrow().values() {
            if running.aborted.get().is_none() {
                running.aborted.set(Some(Aborted::Silently));
            }
        }
        self.changed.notify_waiters();
    }

    async fn wait_for_tasks(&self) {
        loop {
            let changed = self.changed.notified();
            if self.running.borrow().is_empty() {
                return;
            }
            changed.await;
        }
    }
}

fn attribute(attribute: twinlun_iscsi::target::TaskAttribute) -> TaskAttribute {
    use twinlun_iscsi::target::TaskAttribute as Wire;
    match attribute {
        Wire::Simple => TaskAttribute::Simple,
        Wire::Ordered => TaskAttribute::Ordered,
        Wire::HeadOfQueue => TaskAttribute::HeadOfQueue,
        Wire::Aca => TaskAttribute::Aca,
    }
}
