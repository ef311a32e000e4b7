//! Carrying out a session's commands.
//!
//! A command whose requests complete at once (page cache, memory) never becomes a job of its own.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::{Either, select};
use twinlun_block::BlockResult;
use twinlun_iscsi::target::{ScsiCommand, ScsiResponse, TASK_ABORTED};
use twinlun_scsi::{
    Abort, Admission, Command, Io, LbaStatus, LuId, OperationStart, Outcome, Reply, Settle, Status, Task,
    TaskAttribute, needs_moment, needs_time,
};

use crate::processor::{Next, Pending};
use crate::session::HostSession;

/// A task whose requests are under way.
pub(crate) struct Running {
    aborted: Cell<Option<Aborted>>,
}

/// A command that waits for a request.
pub(crate) struct UnderWay {
    task: Task,
    io: Io,
    running: Rc<Running>,
}

/// How an aborted task ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aborted {
    /// Without an answer.
    Silently,
    /// With status TASK ABORTED.
    Reported,
}

impl HostSession {
    /// Enters a command into its task set.
    pub(crate) fn begin(self: &Rc<Self>, command: ScsiCommand) {
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
            Admission::Run(task) => self.execute(task, command),
            Admission::Hold(task) => {
                self.held.borrow_mut().insert(task.tag, command);
            }
            Admission::Refuse(reply) => self.respond(command.tag, reply),
        }
    }

    /// Starts a task that the task set has released.
    pub(crate) fn release(self: &Rc<Self>, task: Task) {
        let Some(command) = self.held.borrow_mut().remove(&task.tag) else { return };
        self.execute(task, command);
        self.wake();
    }

    fn execute(self: &Rc<Self>, task: Task, command: ScsiCommand) {
        if needs_time(&command.cdb) {
            let time = self.processor.shard.unix_time();
            self.processor.device.borrow_mut().set_time(time);
        }
        let described = Command {
            moment: needs_moment(&command.cdb).then(|| self.processor.moment()),
            ..Command::new(task.tag, &command.cdb, command.data_out)
        };
        let outcome = self.processor.device.borrow_mut().execute(task.nexus, command.lun, described);
        match outcome {
            Outcome::Done(reply) => self.finish(task, reply),
            Outcome::Io(io) => self.run_steps(task, io),
            Outcome::Settle(settle) => self.settle(task, settle),
            Outcome::LbaStatus(asked) => self.ask_allocation(task, *asked),
        }
    }

    /// Runs the steps of a command as far as they complete at once; what does not goes on when it is woken.
    fn run_steps(self: &Rc<Self>, task: Task, mut io: Io) {
        let Some(place) = self.jobs.take() else { return self.run_as_job(task, io) };
        let mut cx = Context::from_waker(&place.waker);
        let mut previous = None;
        let reply = loop {
            match self.processor.step(&mut io, previous.take()) {
                Next::Answer(reply) => break reply,
                Next::Submitted(mut pending) => match pending.as_mut().poll(&mut cx) {
                    Poll::Ready(result) => previous = Some(result),
                    Poll::Pending => {
                        let running = self.start_job(task.tag);
                        self.jobs.put(&place, pending, UnderWay { task, io, running });
                        return self.drive_jobs();
                    }
                },
            }
        };
        self.jobs.give_back(&place);
        self.finish(task, reply);
    }

    /// Sees to it that what is under way goes on.
    fn drive_jobs(self: &Rc<Self>) {
        if self.jobs.driven.replace(true) {
            return;
        }
        self.spawn(|this| async move {
            std::future::poll_fn(|cx| {
                this.jobs.poll(cx, |result, under_way| this.go_on(result, under_way));
                if this.jobs.is_empty() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            this.jobs.driven.set(false);
        });
    }

    /// A request of a command is over.
    fn go_on(self: &Rc<Self>, result: BlockResult, under_way: UnderWay) {
        let UnderWay { task, mut io, running } = under_way;
        // What an aborted task has not written yet it never writes.
        if running.aborted.get().is_some() {
            return self.end_job(task, &running, Reply::with_status(Status::TaskAborted));
        }
        match self.processor.step(&mut io, Some(result)) {
            Next::Answer(reply) => self.end_job(task, &running, reply),
            Next::Submitted(pending) => self.run_rest(task, io, pending, running),
        }
    }

    /// Runs a command that found no place.
    fn run_as_job(self: &Rc<Self>, task: Task, mut io: Io) {
        let running = self.start_job(task.tag);
        match self.processor.step(&mut io, None) {
            Next::Answer(reply) => self.end_job(task, &running, reply),
            Next::Submitted(pending) => self.run_rest(task, io, pending, running),
        }
    }

    /// Runs a command of several requests to its end, as a job of its own.
    fn run_rest(self: &Rc<Self>, task: Task, mut io: Io, pending: Pending, running: Rc<Running>) {
        self.spawn(|this| async move {
            let mut pending = pending;
            let reply = loop {
                let result = pending.await;
                if running.aborted.get().is_some() {
                    break Reply::with_status(Status::TaskAborted);
                }
                match this.processor.step(&mut io, Some(result)) {
                    Next::Submitted(next) => pending = next,
                    Next::Answer(reply) => break reply,
                }
            };
            this.end_job(task, &running, reply);
        });
    }

    fn ask_allocation(self: &Rc<Self>, task: Task, asked: LbaStatus) {
        let Some(volume) = self.processor.volume(asked.lu()) else {
            return self.finish(task, Reply::with_status(Status::Busy));
        };
        let running = self.start_job(task.tag);
        self.spawn(|this| async move {
            let found = volume.allocation(asked.range(), asked.limit()).await;
            this.end_job(task, &running, asked.finish(found));
        });
    }

    /// Stores, aborts, then answers.
    fn settle(self: &Rc<Self>, task: Task, settle: Box<Settle>) {
        let running = self.start_job(task.tag);
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
            if settle.operation_left && stored.is_ok() {
                this.processor.device.borrow_mut().operation_left(lu);
            }
            match settle.operation {
                Some(_) if stored.is_err() => this.processor.device.borrow_mut().operation_not_stored(lu),
                Some(start) => {
                    let ended = this.operate(task, lu, start, &running).await;
                    if let Some(ended) = ended {
                        reply = Reply { data_out_len: reply.data_out_len, ..ended };
                    }
                }
                None => {}
            }
            this.end_job(task, &running, reply);
        });
    }

    /// Begins the operation whose order has been stored. Its outcome, when the command waits for that and is not aborted: an aborted command ends
    /// nothing.
    async fn operate(&self, task: Task, lu: LuId, start: OperationStart, running: &Running) -> Option<Reply> {
        let volume = self.processor.volume(lu)?;
        let others = self.processor.device.borrow_mut().operation_alone(task);
        self.processor.settle_aborts(others.abort, others.release).await;
        let mut over = std::pin::pin!(volume.operated().notified());
        over.as_mut().enable();
        self.processor.start_operation(lu);
        if !start.waits {
            return None;
        }
        loop {
            let changed = std::pin::pin!(self.changed.notified());
            if running.aborted.get().is_some() {
                return None;
            }
            if let Either::Left(_) = select(over.as_mut(), changed).await {
                return Some(self.processor.device.borrow().operation_reply(lu));
            }
        }
    }

    fn start_job(&self, tag: u32) -> Rc<Running> {
        let running = Rc::new(Running { aborted: Cell::new(None) });
        self.running.borrow_mut().insert(tag, running.clone());
        running
    }

    /// Ends a task that had become a job.
    fn end_job(self: &Rc<Self>, task: Task, running: &Running, reply: Reply) {
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
                let ended = self.processor.device.borrow_mut().end(task, None);
                self.processor.release(ended.release);
            }
        }
        self.changed.notify_waiters();
        self.wake();
    }

    /// Takes a task out of its task set and answers it.
    fn finish(self: &Rc<Self>, task: Task, reply: Reply) {
        let ended = self.processor.device.borrow_mut().end(task, Some(&reply));
        if ended.abort.is_empty() {
            self.processor.release(ended.release);
            return self.respond(task.tag, reply);
        }
        // QErr: the host may send again what its failed command took down, so nothing of that may be under way when it hears of it.
        self.spawn(|this| async move {
            this.processor.settle_aborts(ended.abort, ended.release).await;
            this.respond(task.tag, reply);
            this.wake();
        });
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

    /// Silences every task of this session and takes the held ones out.
    pub(crate) fn abort_all(&self) {
        for running in self.running.borrow().values() {
            if running.aborted.get().is_none() {
                running.aborted.set(Some(Aborted::Silently));
            }
        }
        self.changed.notify_waiters();
    }

    pub(crate) async fn wait_for_tasks(&self) {
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
