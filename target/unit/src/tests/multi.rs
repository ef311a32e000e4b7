//! A host whose session has several connections, driven over streams.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::task::{Context, Poll};

use futures_util::future::select;
use tokio::sync::Notify;
use twinlun_io::Outbox;
use twinlun_iscsi::initiator::Completion;
use twinlun_iscsi::initiator::multi::{LinkId, MultiEvent, MultiInitiator};
use twinlun_iscsi::pdu::{Cid, LogoutResponseCode};

use super::*;

/// Streams that were asked for.
#[derive(Default)]
struct Dialled {
    done: RefCell<Vec<(Cid, std::io::Result<Stream>)>>,
    changed: Notify,
}

/// A session core, its streams, and what has come of its commands.
pub(super) struct MultiHost {
    pub(super) core: MultiInitiator,
    shard: Shard,
    at: SocketAddr,
    pub(super) streams: BTreeMap<LinkId, (Stream, Outbox)>,
    dialled: Rc<Dialled>,
    retry: Vec<(Cid, Duration)>,
    /// Lost connections are replaced, where the level of recovery allows it.
    pub(super) redials: bool,
    pub(super) completed: Vec<Completion>,
    /// Connections that ended, for whatever reason.
    pub(super) lost: usize,
    /// How they ended, for whoever looks for a reason.
    pub(super) ends: Vec<String>,
    logged_out: bool,
    pub(super) over: bool,
}

impl MultiHost {
    /// A session of so many connections, all of them up.
    pub(super) async fn log_in(lab: &Lab, config: InitiatorConfig, links: u16) -> Self {
        let (core, lead) = MultiInitiator::new(config).expect("a good configuration");
        let (shard, at) = (lab.hosts.shard(), portal(3260));
        let stream = shard.connect(at).await.expect("the portal is open");
        let mut host = Self {
            core,
            shard,
            at,
            streams: BTreeMap::from([(lead, (stream, Outbox::default()))]),
            dialled: Rc::default(),
            retry: Vec::new(),
            redials: true,
            completed: Vec::new(),
            lost: 0,
            ends: Vec::new(),
            logged_out: false,
            over: false,
        };
        while host.core.open_links() < 1 {
            host.turn().await;
        }
        for cid in 1..links {
            host.dial(Cid(cid));
        }
        while host.core.open_links() < links.into() {
            host.turn().await;
        }
        host
    }

    pub(super) fn now(&self) -> Duration {
        self.shard.now().since_start()
    }

    fn dial(&self, cid: Cid) {
        let (shard, at, dialled) = (self.shard.clone(), self.at, self.dialled.clone());
        self.shard.spawn(async move {
            let stream = shard.connect(at).await;
            dialled.done.borrow_mut().push((cid, stream));
            dialled.changed.notify_waiters();
        });
    }

    /// Drops the stream of a connection without telling the core, which finds out by itself.
    pub(super) fn cut(&mut self, index: usize) {
        if let Some(id) = self.streams.keys().nth(index % self.streams.len().max(1)).copied() {
            self.streams.remove(&id);
            self.core.lost(id, self.now());
        }
    }

    /// Moves bytes where they can move; says whether any came, or a stream ended.
    fn exchange(&mut self, cx: &mut Context<'_>) -> bool {
        let now = self.shard.now().since_start();
        let (mut progress, mut gone) = (false, Vec::new());
        for (id, (stream, outbox)) in &mut self.streams {
            self.core.transmit(*id).into_iter().for_each(|bytes| outbox.push_bytes(bytes));
            let sent = outbox.poll_send(cx, stream);
            let received = match self.core.buffer(*id) {
                Some(buffer) => stream.poll_recv(cx, buffer),
                None => Poll::Ready(Ok(0)),
            };
            match (sent, received) {
                (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Ok(0) | Err(_))) => gone.push(*id),
                (_, Poll::Ready(Ok(_))) => {
                    progress = true;
                    self.core.received(*id, now);
                }
                (_, Poll::Pending) => {}
            }
        }
        progress |= !gone.is_empty();
        for id in gone {
            self.streams.remove(&id);
            self.core.lost(id, now);
        }
        progress
    }

    /// Waits until something happens, and acts on it.
    pub(super) async fn turn(&mut self) {
        let due = self.retry.iter().map(|(_, at)| *at).chain(self.core.next_timeout()).min();
        let wait = due.unwrap_or(self.now() + Duration::from_secs(1)).saturating_sub(self.now());
        let (shard, dialled) = (self.shard.clone(), self.dialled.clone());
        let dialled = std::pin::pin!(dialled.changed.notified());
        let moved =
            std::future::poll_fn(|cx| if self.exchange(cx) { Poll::Ready(()) } else { Poll::Pending });
        // Which of them it was is seen below.
        let _ = shard.timeout(wait, select(std::pin::pin!(moved), dialled)).await;
        let now = self.now();
        self.core.on_timeout(now);
        let streams = self.dialled.done.take();
        for (cid, stream) in streams {
            match (stream, self.core.connect(cid, now)) {
                (Ok(stream), Ok(link)) => {
                    self.streams.insert(link, (stream, Outbox::default()));
                }
                _ => self.retry.push((cid, now + Duration::from_secs(1))),
            }
        }
        let due: Vec<_> = self.retry.extract_if(.., |(_, at)| *at <= now).collect();
        due.into_iter().for_each(|(cid, _)| self.dial(cid));
        while let Some(event) = self.core.poll_event() {
            match event {
                MultiEvent::Completed(done) => self.completed.push(done),
                MultiEvent::LinkLost { id, cid, retry_at, error } => {
                    self.ends.push(format!("{:?} {cid:?} {error:?}", self.now()));
                    self.lost += 1;
                    self.streams.remove(&id);
                    self.retry.extend(retry_at.filter(|_| self.redials).map(|at| (cid, at)));
                }
                MultiEvent::LoggedOut { response } => {
                    self.logged_out = response == LogoutResponseCode::CLOSED;
                }
                MultiEvent::SessionLost => self.over = true,
                _ => {}
            }
        }
    }

    /// Carries out one command while no other is under way.
    pub(super) async fn execute(&mut self, command: Command) -> Completion {
        assert_eq!(self.core.submit(command), Submitted::Accepted);
        loop {
            self.turn().await;
            assert!(!self.over, "the session lives");
            if let Some(done) = self.completed.pop() {
                return done;
            }
        }
    }

    pub(super) async fn log_out(mut self) {
        while self.core.open_links() == 0 {
            self.turn().await;
        }
        assert_eq!(self.core.logout(LogoutReason::CLOSE_SESSION, Cid(0)), Submitted::Accepted);
        while !self.logged_out {
            self.turn().await;
        }
    }
}
