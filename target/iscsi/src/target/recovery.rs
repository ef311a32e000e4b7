//! The end of connections, and what becomes of their tasks (RFC 7143 sections 6.3.4 to 6.3.6, 7.2.2, 7.14, 8, 11.14).
//!
//! ```text
//!                     logout                                   logout for recovery, or login with the same CID
//!   Open ───────────▶ LoggingOut ─ tasks ended ─▶ Vacant       Open, Failed ────────▶ Recovering ─ no task left ─▶ Vacant
//!     │ stream lost, level 2                                                              ▲   │ TASK REASSIGN takes tasks along
//!     └──────────▶ Failed ── Time2Wait + Time2Retain ──▶ tasks end, Vacant ◀── the same ──────┘
//! ```
//!
//! Below level 2 nothing outlives a connection: at level 0 the session ends with it, at level 1 only its tasks do.

use core::time::Duration;

use super::connection::Phase;
use super::event::{Event, TaskEnd, TaskManagementResponse};
use super::session::{ConnectionId, Session};
use super::task::Stage;
use super::{AsyncMessage, CloseReason};
use crate::pdu::{LogoutReason, LogoutRequest, LogoutResponse, LogoutResponseCode, TaskRequest, TaskTag};

/// A logout that waits for tasks to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingLogout {
    /// The request; `None` when nobody is to be answered any more.
    answer: Option<(ConnectionId, TaskTag)>,
    /// The connection that ends, or the whole session.
    of: Option<ConnectionId>,
}

impl Session {
    /// Whether tasks of a lost connection are kept for another one.
    fn retains(&self) -> bool {
        self.parameters.error_recovery == 2 && self.is_normal() && self.parameters.time2retain > 0
    }

    fn retain_until(&self) -> Duration {
        let seconds = u64::from(self.parameters.time2wait) + u64::from(self.parameters.time2retain);
        self.now.saturating_add(Duration::from_secs(seconds))
    }

    /// A connection is over without a logout.
    pub(super) fn fail(&mut self, id: ConnectionId, reason: CloseReason) {
        let over = self.is_over();
        let connection = &mut self.connections[id];
        if connection.closing.is_some() || over {
            return;
        }
        tracing::debug!(%reason, cid = connection.cid, "iSCSI connection ends");
        connection.closing = Some(reason);
        if !connection.is_open() {
            // It was on its way out: what ends with it ends all the same, only nobody is told.
            return self.forget_answers(id);
        }
        if self.retains() {
            let until = self.retain_until();
            self.suspend(id);
            self.connections[id].phase = Phase::Failed { until };
            self.announce_loss(id, self.parameters.time2wait, self.parameters.time2retain);
            return self.after_loss();
        }
        let alone = self.connections.open().all(|(other, _)| other == id);
        let others_wait = self.connections.iter().any(|(_, c)| c.is_lost());
        if self.parameters.error_recovery == 0 || (alone && !others_wait) {
            return self.end(reason);
        }
        self.suspend(id);
        self.connections[id].phase = Phase::Vacant;
        self.terminate_tasks_of(id);
        self.announce_loss(id, 0, 0);
        self.after_loss();
    }

    /// Says on another connection that one is gone (section 7.1.4.3).
    fn announce_loss(&mut self, id: ConnectionId, time2wait: u16, time2retain: u16) {
        let cid = self.connections[id].cid;
        self.async_message(AsyncMessage::ConnectionDrop { cid, time2wait, time2retain });
    }

    /// Takes a connection out of service: nothing of it that is under way will arrive.
    fn suspend(&mut self, id: ConnectionId) {
        // What was not taken in order was not acknowledged: the initiator sends it again elsewhere.
        self.held.retain(|held| held.on != Some(id));
        let of_it = self.tasks.iter().filter(|(_, task)| task.connection == id);
        let (mut silenced, mut collecting, mut immediate) = (Vec::new(), Vec::new(), Vec::new());
        for (tag, task) in of_it {
            if task.is_silenced() {
                silenced.push(tag);
            } else if task.immediate && !matches!(task.stage, Stage::Function) {
                immediate.push(tag);
            } else if matches!(task.stage, Stage::Collecting(_)) {
                collecting.push(tag);
            }
        }
        for tag in silenced {
            self.remove_task(tag);
        }
        for tag in collecting {
            self.interrupt(id, tag);
        }
        // Immediate commands do not survive their connection (section 7.14).
        self.terminate(immediate);
        let connection = &mut self.connections[id];
        connection.text = None;
        connection.ping = None;
        connection.stall_check = None;
        if let Some(sent) = &mut connection.sent {
            sent.keep_recoverable();
        }
        self.forget_answers(id);
        self.advance_line();
    }

    /// Logouts that were asked for on a connection are carried out without an answer.
    fn forget_answers(&mut self, id: ConnectionId) {
        for logout in &mut self.logouts {
            logout.answer = logout.answer.filter(|(on, _)| *on != id);
        }
    }

    /// A command's data stops coming.
    fn interrupt(&mut self, id: ConnectionId, tag: u32) {
        let Some(collect) = self.collecting(tag) else { return };
        let oldest = collect.oldest_unfulfilled();
        let open = collect.give_up_open();
        collect.renumber(u32::MAX, oldest);
        let settled = collect.settled();
        self.connections[id].open_sequences -= open;
        if let Some(doom) = settled {
            self.withdraw(tag);
            self.end_doomed(tag, doom);
        }
    }

    fn after_loss(&mut self) {
        if !self.fences.is_empty() {
            self.clear_fences();
        }
        self.check_logouts();
        self.reap();
    }

    /// Ends tasks without an answer: undelivered ones here, the others are the driver's to end.
    pub(super) fn terminate(&mut self, tags: Vec<u32>) {
        // All leave the line before it advances: one of them must not deliver another.
        for tag in &tags {
            self.withdraw(*tag);
        }
        let mut ends = Vec::new();
        // What nobody has looked at yet never starts.
        let mut unseen = Vec::new();
        self.events.retain(|event| match event {
            Event::Command(command) if tags.contains(&command.tag) => {
                unseen.push(command.tag);
                false
            }
            _ => true,
        });
        for tag in tags {
            let Some(task) = self.tasks.get_mut(tag) else { continue };
            match task.stage {
                Stage::Collecting(_) | Stage::Waiting(_) | Stage::Answered(_) => {
                    self.remove_task(tag);
                }
                Stage::Delivered if unseen.contains(&tag) => {
                    self.remove_task(tag);
                }
                Stage::Delivered => {
                    task.stage = Stage::Ending;
                    ends.push(TaskEnd { tag, lun: task.lun });
                }
                Stage::Ending | Stage::Function => {}
            }
        }
        if !ends.is_empty() {
            self.events.push_back(Event::Terminate(ends));
        }
        self.solicit();
        self.advance_line();
    }

    fn terminate_tasks_of(&mut self, id: ConnectionId) {
        let of_it = self.tasks.iter().filter(|(_, task)| task.connection == id);
        let tags = of_it.map(|(tag, _)| tag).collect();
        self.terminate(tags);
        if let Some(sent) = &mut self.connections[id].sent {
            let gone = sent.clear();
            self.numbers.let_go(gone);
        }
    }

    /// Tasks of a connection that nobody has come back for.
    pub(super) fn discard_expired(&mut self, id: ConnectionId) {
        if self.connections[id].retained_until().is_none_or(|until| self.now < until) {
            return;
        }
        self.connections[id].phase = Phase::Vacant;
        self.terminate_tasks_of(id);
        self.check_logouts();
        let alive = |phase| !matches!(phase, Phase::Vacant);
        if !self.connections.iter().any(|(_, c)| alive(c.phase)) {
            self.end(CloseReason::NotRecovered);
        }
    }

    /// Frees connections that were logged out for recovery and of which no task is left, while the session lives on in others.
    pub(super) fn reap(&mut self) {
        if self.connections.open().next().is_none() {
            return;
        }
        for connection in &mut self.connections.0 {
            let has_answers = connection.sent.as_ref().is_some_and(|sent| sent.has_answers());
            if matches!(connection.phase, Phase::Recovering { .. }) && connection.tasks == 0 && !has_answers {
                connection.phase = Phase::Vacant;
            }
        }
    }

    /// Ends the connection with that CID because the initiator logs in anew with it: [`Session::join`] follows when its stream is
    /// released and [`Session::has_connection`] is false.
    pub fn reinstate(&mut self, cid: u16, now: Duration) {
        self.now = self.now.max(now);
        if let Some(id) = self.connections.open_with_cid(cid) {
            if self.retains() {
                self.fail(id, CloseReason::Reinstated);
            } else {
                // Its tasks end without a word, the session goes on with the connection that comes (section 6.3.4).
                self.suspend(id);
                let connection = &mut self.connections[id];
                connection.closing.get_or_insert(CloseReason::Reinstated);
                connection.phase = Phase::Vacant;
                self.terminate_tasks_of(id);
                self.after_loss();
            }
        }
    }

    /// A login with the CID of a lost connection logs that out for recovery.
    pub(super) fn log_out_implicitly(&mut self, cid: u16) {
        let until = self.retain_until();
        for connection in &mut self.connections.0 {
            if connection.cid == cid && matches!(connection.phase, Phase::Failed { .. }) {
                connection.phase = Phase::Recovering { until };
            }
        }
    }

    pub(super) fn logout_request(&mut self, on: ConnectionId, pdu: &LogoutRequest) {
        if pdu.reason == LogoutReason::RECOVERY && self.parameters.error_recovery < 2 {
            return self.send_logout_response(on, pdu.task_tag, LogoutResponseCode::RECOVERY_NOT_SUPPORTED);
        }
        let of = match pdu.reason {
            LogoutReason::CLOSE_SESSION => None,
            _ => match self.connections.with_cid(pdu.cid.0) {
                Some(id) => Some(id),
                None => {
                    return self.send_logout_response(on, pdu.task_tag, LogoutResponseCode::NO_SUCH_CID);
                }
            },
        };
        match of {
            Some(id) if pdu.reason == LogoutReason::RECOVERY => {
                self.remove_for_recovery(on, id, pdu.task_tag);
            }
            _ => self.begin_logout(on, of, pdu.task_tag),
        }
    }

    /// Everything undelivered is gone, the delivered is the storage processor's to end; then the answer is sent.
    fn begin_logout(&mut self, on: ConnectionId, of: Option<ConnectionId>, tag: TaskTag) {
        for id in self.connections.ids() {
            if of.is_some_and(|of| of != id) || self.connections[id].phase == Phase::Vacant {
                continue;
            }
            self.suspend(id);
            if id != on {
                self.connections[id].closing.get_or_insert(CloseReason::LoggedOut);
            }
            self.connections[id].phase = Phase::LoggingOut;
            self.terminate_tasks_of(id);
        }
        self.logouts.push(PendingLogout { answer: Some((on, tag)), of });
        self.after_loss();
    }

    /// Answers the logouts that have nothing to wait for any more. Functions change no data, and nobody hears of their end: they are not
    /// waited for.
    pub(super) fn check_logouts(&mut self) {
        self.logouts_due = false;
        let mut at = 0;
        while let Some(PendingLogout { answer, of }) = self.logouts.get(at).copied() {
            let covered = |connection| of.is_none_or(|of| of == connection);
            let waits = self
                .tasks
                .iter()
                .any(|(_, task)| covered(task.connection) && !matches!(task.stage, Stage::Function));
            if waits {
                at += 1;
                continue;
            }
            self.logouts.remove(at);
            if let Some((on, tag)) = answer {
                self.send_logout_response(on, tag, LogoutResponseCode::CLOSED);
            }
            match of {
                None => return self.end(CloseReason::LoggedOut),
                Some(id) => {
                    let connection = &mut self.connections[id];
                    connection.closing.get_or_insert(CloseReason::LoggedOut);
                    connection.phase = Phase::Vacant;
                }
            }
            if self.connections.iter().all(|(_, c)| c.phase == Phase::Vacant) {
                return self.end(CloseReason::LoggedOut);
            }
        }
    }

    fn remove_for_recovery(&mut self, on: ConnectionId, id: ConnectionId, tag: TaskTag) {
        if self.connections[id].is_open() {
            self.suspend(id);
        }
        let until = self.retain_until();
        self.connections[id].phase = Phase::Recovering { until };
        self.send_logout_response(on, tag, LogoutResponseCode::CLOSED);
        self.connections[id].closing.get_or_insert(CloseReason::LoggedOut);
        if !self.retains() {
            // Time2Retain of 0: it is discarded at once, and the answer says so (section 11.15.4).
            self.connections[id].phase = Phase::Recovering { until: self.now };
            self.discard_expired(id);
        }
        self.after_loss();
    }

    fn send_logout_response(&mut self, on: ConnectionId, tag: TaskTag, response: LogoutResponseCode) {
        let time2retain = if self.retains() { self.parameters.time2retain } else { 0 };
        let connection = &mut self.connections[on];
        connection.put_status(LogoutResponse {
            response,
            task_tag: tag,
            stat_sn: connection.stat_sn,
            exp_cmd_sn: self.numbers.exp_cmd_sn,
            max_cmd_sn: self.numbers.announce(),
            time2wait: self.parameters.time2wait,
            time2retain,
        });
    }

    /// TASK REASSIGN: a task continues on the connection that asks for it. The answer to the function goes out first (section 7.2.2).
    pub(super) fn reassign(&mut self, on: ConnectionId, pdu: &TaskRequest) {
        use TaskManagementResponse as R;
        let tag = pdu.referenced_task_tag.0;
        if self.parameters.error_recovery < 2 {
            return self.send_task_response(on, pdu.task_tag, R::ReassignmentNotSupported, [0; 3]);
        }
        let recovering =
            |this: &Self, id: ConnectionId| matches!(this.connections[id].phase, Phase::Recovering { .. });
        if let Some(task) = self.tasks.get(tag) {
            let from = task.connection;
            let refused = match &task.stage {
                Stage::Function => Some(R::Rejected),
                Stage::Ending => Some(R::NoTask),
                _ if task.is_silenced() => Some(R::NoTask),
                _ if !recovering(self, from) => Some(R::StillAllegiant),
                _ => None,
            };
            self.send_task_response(on, pdu.task_tag, refused.unwrap_or(R::Complete), [0; 3]);
            if refused.is_none() {
                self.move_task(from, on, tag, pdu.exp_data_sn);
            }
            return self.reap();
        }
        let from = self.holder_of_answer(tag);
        let response = match from {
            None => R::NoTask,
            Some(from) if !recovering(self, from) => R::StillAllegiant,
            Some(_) => R::Complete,
        };
        self.send_task_response(on, pdu.task_tag, response, [0; 3]);
        if let (R::Complete, Some(from)) = (response, from) {
            self.move_answer(from, on, tag, pdu.exp_data_sn);
        }
        self.reap();
    }

    /// The connection that keeps the answer to a command.
    fn holder_of_answer(&mut self, tag: u32) -> Option<ConnectionId> {
        self.connections
            .ids()
            .find(|id| self.connections[*id].sent.as_mut().is_some_and(|sent| sent.answer(tag).is_some()))
    }

    fn move_answer(&mut self, from: ConnectionId, on: ConnectionId, tag: u32, exp_data_sn: u32) {
        let answer = self.connections[from].sent.as_mut().and_then(|sent| sent.take_answer(tag));
        if let Some(answer) = answer {
            self.send_answer_elsewhere(on, answer, exp_data_sn);
        }
    }

    /// Sends here the answer to a command whose connection was lost with it.
    pub(super) fn send_lost_answer(&mut self, on: ConnectionId, tag: u32) {
        if let Some(from) = self.holder_of_answer(tag).filter(|from| self.connections[*from].is_lost()) {
            self.move_answer(from, on, tag, 0);
        }
    }

    fn move_task(&mut self, from: ConnectionId, on: ConnectionId, tag: u32, exp_data_sn: u32) {
        let now = self.now;
        let Some(task) = self.tasks.get_mut(tag) else { return };
        task.connection = on;
        self.connections[from].tasks -= 1;
        self.connections[on].tasks += 1;
        if let Some(collect) = self.collecting(tag) {
            let oldest = collect.next_r2t_sn();
            collect.renumber(exp_data_sn, oldest);
            collect.progress = now;
            return self.ask(tag);
        }
        if !self.tasks.get(tag).is_some_and(|task| matches!(task.stage, Stage::Answered(_))) {
            return;
        }
        if let Some(task) = self.remove_task(tag)
            && let Stage::Answered(response) = task.stage
        {
            let task = super::task::Task { stage: Stage::Delivered, ..task };
            self.send_response(tag, &task, *response);
        }
    }

    /// Sequences of Data-Out that have stalled are taken for lost (section 7.1.4.1 b): the rest is asked for again.
    pub(super) fn recover_stalled(&mut self, id: ConnectionId) {
        let (now, stall) = (self.now, self.config.timers.sequence);
        let mut next: Option<Duration> = None;
        let mut stalled = Vec::new();
        for (tag, task) in self.tasks.iter().filter(|(_, task)| task.connection == id) {
            let Stage::Collecting(collect) = &task.stage else { continue };
            let due = collect.progress.saturating_add(stall);
            if collect.is_doomed() || collect.open_sequences() == 0 {
                continue;
            }
            if due <= now {
                stalled.push(tag);
            } else {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        self.connections[id].stall_check = next;
        for tag in stalled {
            let Some(collect) = self.collecting(tag) else { continue };
            let open = collect.give_up_open();
            collect.progress = now;
            let settled = collect.settled();
            self.connections[id].open_sequences -= open;
            match settled {
                Some(doom) => {
                    self.withdraw(tag);
                    self.end_doomed(tag, doom);
                }
                None => self.ask(tag),
            }
        }
    }
}
