//! A host's session: the protocol core that its connections share, and its tasks.
//!
//! Ownership runs one way, so that a killed unit leaves nothing behind: connections own their session and both own the storage
//! processor; the storage processor's tables know sessions, and a session its connections, by weak references only. A session lives
//! as long as one of its connections is served, a task of it runs, or it waits for a lost connection to come back.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::{Rc, Weak};

use tokio::sync::Notify;
use twinlun_io::Instant;
use twinlun_iscsi::target::{
    AsyncMessage, CloseReason, ConnectionId, Event, ScsiCommand, Session as Core, TaskEnd,
    TaskManagementResponse, Tsih,
};
use twinlun_scsi::{NexusId, TaskManagement};

use crate::connection::HostConnection;
use crate::execute::{Running, UnderWay};
use crate::jobs::Jobs;
use crate::processor::Processor;

/// How many commands before its own turn one is announced to the layers below: as long as a page takes to come from memory.
const AHEAD: usize = 2;

/// One session of a host.
pub(crate) struct HostSession {
    pub(crate) processor: Rc<Processor>,
    pub(crate) tsih: Tsih,
    pub(crate) nexus: Cell<Option<NexusId>>,
    pub(crate) core: RefCell<Core>,
    connections: RefCell<Vec<(ConnectionId, Weak<HostConnection>)>>,
    /// Started tasks that have not ended, by tag. A task that ended within its own turn never gets here.
    pub(crate) running: RefCell<BTreeMap<u32, Rc<Running>>>,
    /// Requests of theirs that are under way.
    pub(crate) jobs: Jobs<UnderWay>,
    /// Tasks that the task set holds back.
    pub(crate) held: RefCell<BTreeMap<u32, ScsiCommand>>,
    closed: Cell<Option<CloseReason>>,
    /// A job waits for lost connections to come back.
    watched: Cell<bool>,
    /// Signalled when a task ends, when a connection leaves and when the session is over.
    pub(crate) changed: Notify,
    over: Cell<bool>,
}

impl HostSession {
    pub(crate) fn new(processor: Rc<Processor>, nexus: Option<NexusId>, core: Core) -> Rc<Self> {
        Rc::new(Self {
            processor,
            tsih: core.tsih(),
            nexus: Cell::new(nexus),
            core: RefCell::new(core),
            connections: RefCell::default(),
            running: RefCell::default(),
            jobs: Jobs::new(),
            held: RefCell::default(),
            closed: Cell::new(None),
            watched: Cell::new(false),
            changed: Notify::new(),
            over: Cell::new(false),
        })
    }

    pub(crate) fn core(&self) -> &RefCell<Core> {
        &self.core
    }

    pub(crate) fn nexus(&self) -> Option<NexusId> {
        self.nexus.get()
    }

    /// A connection carries this session from now on.
    pub(crate) fn attach(&self, id: ConnectionId, connection: &Rc<HostConnection>) {
        self.connections.borrow_mut().push((id, Rc::downgrade(connection)));
    }

    /// Its connections, in the order of their coming.
    pub(crate) fn connections(&self) -> Vec<Rc<HostConnection>> {
        self.connections.borrow().iter().filter_map(|(_, connection)| connection.upgrade()).collect()
    }

    /// A connection's stream is closed. The last one ends the session, unless that waits for connections to come back.
    pub(crate) async fn detach(self: &Rc<Self>, id: ConnectionId) {
        self.core.borrow_mut().release(id, self.processor.now());
        self.connections.borrow_mut().retain(|(other, _)| *other != id);
        self.act_all();
        self.wake();
        self.changed.notify_waiters();
        if !self.connections.borrow().is_empty() {
            return;
        }
        if self.core.borrow().is_over() {
            self.end().await;
        } else if !self.watched.replace(true) {
            let this = self.clone();
            self.processor.shard.spawn(async move { this.watch().await });
        }
    }

    /// Keeps the time while no connection does: until one comes, or the tasks have waited long enough.
    async fn watch(self: Rc<Self>) {
        while self.connections.borrow().is_empty() {
            let changed = self.changed.notified();
            let next = self.core.borrow().next_timeout().map(Instant::from_start);
            match next {
                Some(deadline) => {
                    let left = deadline.saturating_since(self.processor.shard.now());
                    // Either way the core decides what has become due.
                    let _ = self.processor.shard.timeout(left, changed).await;
                    self.core.borrow_mut().on_timeout(self.processor.now());
                }
                None if self.core.borrow().is_over() => {}
                None => changed.await,
            }
            self.act_all();
            if self.core.borrow().is_over() && self.connections.borrow().is_empty() {
                self.end().await;
                return;
            }
        }
        self.watched.set(false);
    }

    /// Ends what is left of a session that is over: none of its tasks can touch anything any more when this returns.
    async fn end(self: &Rc<Self>) {
        if self.over.get() {
            return;
        }
        self.abort_all();
        self.wait_for_tasks().await;
        if let Some(nexus) = self.nexus.take() {
            let closed = self.processor.device.borrow_mut().close_nexus(nexus);
            self.processor.settle_aborts(closed.abort, closed.release).await;
        }
        if !self.over.replace(true) {
            self.processor.forget(self);
        }
        self.changed.notify_waiters();
    }

    /// Why it ended.
    pub(crate) fn reason(&self) -> Option<CloseReason> {
        self.closed.get()
    }

    /// Sends a message that nobody asked for, on one of the connections.
    pub(crate) fn tell(&self, message: AsyncMessage) {
        self.core.borrow_mut().async_message(message);
        self.wake();
    }

    /// Asks the session to end.
    pub(crate) fn close(self: &Rc<Self>, reason: CloseReason) {
        self.core.borrow_mut().close(reason);
        self.wake();
        self.changed.notify_waiters();
    }

    /// Asks the connection with that CID to end, because it is logged in anew.
    pub(crate) async fn reinstate(self: &Rc<Self>, cid: u16) {
        self.core.borrow_mut().reinstate(cid, self.processor.now());
        self.act_all();
        self.wake();
        loop {
            let changed = self.changed.notified();
            let closing = self.connections().iter().any(|c| c.is_closing_with(cid));
            if !closing && (self.core.borrow().is_over() || !self.core.borrow().has_connection(cid)) {
                return;
            }
            changed.await;
        }
    }

    /// Waits until the session is over and its nexus is closed.
    pub(crate) async fn wait_over(&self) {
        loop {
            let changed = self.changed.notified();
            if self.over.get() {
                return;
            }
            changed.await;
        }
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

    /// Wakes the connections: one of them has something to send.
    pub(crate) fn wake(&self) {
        for (_, connection) in &*self.connections.borrow() {
            if let Some(connection) = connection.upgrade() {
                connection.wake();
            }
        }
    }

    /// Wakes the connections that what was done for one of them concerns as well.
    pub(crate) fn wake_others(&self, id: ConnectionId) {
        let core = self.core.borrow();
        for other in core.others_pending(id) {
            let connections = self.connections.borrow();
            let found = connections.iter().find(|(id, _)| *id == other);
            if let Some(connection) = found.and_then(|(_, connection)| connection.upgrade()) {
                connection.wake();
            }
        }
    }

    /// Starts everything that the core asks for.
    pub(crate) fn act_all(self: &Rc<Self>) {
        while self.act_one() {}
    }

    /// Starts the next thing that the core asks for, if there is one.
    pub(crate) fn act_one(self: &Rc<Self>) -> bool {
        // While one command is carried out, what a later one wants is fetched.
        self.announce(AHEAD);
        let event = self.core.borrow_mut().poll_event();
        let Some(event) = event else { return false };
        self.act(event);
        true
    }

    /// Has the layers below fetch what the command behind `skip` others will want.
    fn announce(&self, skip: usize) {
        let core = self.core.borrow();
        let (Some(command), Some(nexus)) = (core.upcoming(skip), self.nexus.get()) else { return };
        let hint = self.processor.device.borrow().hint(nexus, command.lun, &command.cdb);
        if let Some((lu, range, write)) = hint
            && let Some(volume) = self.processor.volume(lu)
        {
            volume.prefetch(range, write);
        }
    }

    fn act(self: &Rc<Self>, event: Event) {
        match event {
            Event::Command(command) => self.begin(command),
            Event::TaskManagement(function) => {
                self.spawn(|this| async move { this.processor.manage(&this, function).await });
            }
            Event::Terminate(ends) => self.spawn(|this| async move { this.terminate(ends).await }),
            Event::Closed(reason) => {
                self.closed.set(Some(reason));
                self.changed.notify_waiters();
            }
            // Only handshakes say this.
            Event::SessionReady(_) => {}
        }
    }

    /// Ends tasks whose connection is gone, as if they were aborted (RFC 7143 section 11.14.5).
    async fn terminate(self: Rc<Self>, ends: Vec<TaskEnd>) {
        let (mut aborts, mut releases) = (Vec::new(), Vec::new());
        for end in &ends {
            let Some(nexus) = self.nexus.get() else { break };
            let function = TaskManagement::AbortTask { tag: end.tag };
            let managed = self.processor.device.borrow_mut().manage(nexus, end.lun, function);
            aborts.extend(managed.abort);
            releases.extend(managed.release);
        }
        self.processor.settle_aborts(aborts, releases).await;
        for end in &ends {
            self.wait_for_task(end.tag).await;
            self.core.borrow_mut().abandon(end.tag);
        }
        if let Some(nexus) = self.nexus.get() {
            let luns: std::collections::BTreeSet<_> = ends.iter().map(|end| end.lun).collect();
            for lun in luns {
                self.processor.device.borrow_mut().tasks_were_cleared(nexus, lun);
            }
        }
        self.act_all();
        self.wake();
        self.changed.notify_waiters();
    }

    pub(crate) fn spawn<F: Future<Output = ()> + 'static>(self: &Rc<Self>, job: impl FnOnce(Rc<Self>) -> F) {
        self.processor.shard.spawn(job(self.clone()));
    }
}
