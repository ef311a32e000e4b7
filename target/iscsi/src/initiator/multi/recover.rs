//! What has not come in time, and connections that are lost.

use core::time::Duration;

use super::link::{LinkId, LinkPhase};
use super::session::{Kind, MultiEvent, MultiInitiator, Task};
use crate::initiator::{Completion, InitiatorError, LoginError};
use crate::pdu::{
    LoginStatus, Residual, ResponseCode, ScsiStatus, SnackType, TaskResponseCode, TaskTag, Tsih,
};

/// Intervals of silence after which a connection counts as lost.
const SILENCE: u32 = 10;

impl MultiInitiator {
    /// When [`MultiInitiator::on_timeout`] must be called.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.next_check.filter(|_| !self.over)
    }

    /// Looks at what has not come: asks for it again, sends again what the target has not taken, pings where nothing moves.
    pub fn on_timeout(&mut self, now: Duration) {
        self.now = self.now.max(now);
        if self.next_check.is_none_or(|at| self.now < at) {
            return;
        }
        self.next_check = None;
        let ids: Vec<LinkId> = self.links.iter().filter(|link| link.is_open()).map(|link| link.id).collect();
        self.retry_commands();
        for id in ids {
            self.check_link(id);
        }
        self.schedule();
    }

    fn check_link(&mut self, id: LinkId) {
        let mine: Vec<TaskTag> =
            self.tasks.iter().filter(|(_, task)| task.link == id).map(|(tag, _)| tag).collect();
        let stuck = self.has_waiting();
        let Some(link) = self.link(id) else { return };
        let moved = std::mem::take(&mut link.progress);
        if moved || (mine.is_empty() && !stuck && link.statuses.gap().is_none()) {
            return;
        }
        link.silent += 1;
        if link.silent > SILENCE {
            return self.fail(id, None);
        }
        if let Some(gap) = link.statuses.gap() {
            link.snack(SnackType::STATUS, TaskTag::RESERVED, gap);
        }
        let mut probed = false;
        for tag in mine {
            match self.tasks.get(tag).map(|task| &task.kind) {
                Some(Kind::Scsi(task)) => {
                    if let (Some(hole), Some(link)) = (task.read.hole(), self.link(id)) {
                        link.snack(SnackType::DATA_OR_R2T, tag, hole);
                    }
                }
                Some(Kind::Management { .. } | Kind::Reassign { .. }) => self.send_immediate(tag),
                // An unanswered ping is given up; its number may be the gap that the next one shows.
                Some(Kind::Probe) => {
                    self.tasks.remove(tag);
                }
                Some(Kind::Logout { .. }) | None => probed = true,
            }
        }
        if !probed {
            self.probe(id);
        }
    }

    /// Sends again what the target has not taken, when its ExpCmdSN has not moved for an interval (section 7.1.4.2 a).
    fn retry_commands(&mut self) {
        let stuck = self.stuck_at.replace(self.exp_cmd_sn) == Some(self.exp_cmd_sn);
        if !stuck || self.exp_cmd_sn == self.cmd_sn {
            return;
        }
        let missing: Vec<TaskTag> = self
            .tasks
            .iter()
            .filter(|(_, task)| matches!(&task.kind, Kind::Scsi(scsi) if !scsi.orphan))
            .filter(|(_, task)| self.exp_cmd_sn.is_at_or_before(task.cmd_sn))
            .map(|(tag, _)| tag)
            .collect();
        for tag in missing {
            self.send_scsi(tag);
        }
    }

    /// A connection's stream broke.
    pub fn lost(&mut self, id: LinkId, now: Duration) {
        self.now = self.now.max(now);
        self.fail(id, None);
    }

    /// A connection is over. At level 2 its commands wait for another, else the session is over with it.
    pub(super) fn fail(&mut self, id: LinkId, error: Option<InitiatorError>) {
        let level = self.parameters.error_recovery;
        let (now, wait) = (self.now, Duration::from_secs(u64::from(self.parameters.time2wait)));
        let Some(link) = self.link(id) else { return };
        let joining = matches!(link.phase, LinkPhase::Login(_));
        if matches!(link.phase, LinkPhase::Lost | LinkPhase::Closed) {
            return;
        }
        let retry_at = (level == 2).then(|| now.saturating_add(wait));
        link.phase = if level == 2 { LinkPhase::Lost } else { LinkPhase::Closed };
        link.encoder = crate::Encoder::new();
        let cid = link.cid;
        let refused = LoginError::Refused(LoginStatus::NO_SUCH_SESSION);
        let unknown = error == Some(InitiatorError::Login(refused));
        self.events.push_back(MultiEvent::LinkLost { id, cid, retry_at, error });
        if unknown || self.tsih == Tsih(0) || (retry_at.is_none() && !joining) {
            return self.end();
        }
        let mine: Vec<TaskTag> =
            self.tasks.iter().filter(|(_, task)| task.link == id).map(|(tag, _)| tag).collect();
        for tag in mine {
            match self.tasks.get(tag).map(|task| &mut task.kind) {
                Some(Kind::Scsi(task)) => {
                    task.orphan = true;
                    task.read.restart();
                    task.r2ts_ahead.clear();
                    task.r2t_asked_to = task.next_r2t_sn;
                }
                Some(Kind::Management { tag: caller, .. }) => {
                    let event = MultiEvent::TaskManagement { tag: *caller, response: None };
                    self.tasks.remove(tag);
                    self.events.push_back(event);
                }
                Some(Kind::Reassign { .. } | Kind::Probe | Kind::Logout { .. }) => {
                    self.tasks.remove(tag);
                }
                None => {}
            }
        }
    }

    pub(super) fn end(&mut self) {
        if !self.over {
            self.over = true;
            self.events.push_back(MultiEvent::SessionLost);
        }
    }

    /// A connection has come up in the place of a lost one with its CID, which the login has logged out: its commands go on here.
    pub(super) fn adopt(&mut self, id: LinkId) {
        let Some(cid) = self.link(id).map(|link| link.cid) else { return };
        let gone: Vec<LinkId> = self
            .links
            .iter()
            .filter(|link| link.cid == cid && link.id != id && !matches!(link.phase, LinkPhase::Closed))
            .map(|link| link.id)
            .collect();
        let of_gone = |task: &Task| gone.contains(&task.link) && matches!(task.kind, Kind::Scsi(_));
        let mut orphans: Vec<_> = self
            .tasks
            .iter()
            .filter(|(_, task)| of_gone(task))
            .map(|(tag, task)| (task.cmd_sn.0.wrapping_sub(self.cmd_sn.0), tag))
            .collect();
        orphans.sort_unstable();
        for link in &mut self.links {
            if gone.contains(&link.id) {
                link.phase = LinkPhase::Closed;
            }
        }
        for (_, tag) in orphans {
            let Some(task) = self.tasks.get(tag) else { continue };
            let cmd_sn = task.cmd_sn;
            task.link = id;
            if self.exp_cmd_sn.is_at_or_before(cmd_sn) {
                // The target never had it: it is sent again as it was (section 7.2.1).
                if let Some(Task { kind: Kind::Scsi(task), .. }) = self.tasks.get(tag) {
                    task.orphan = false;
                }
                self.send_scsi(tag);
            } else {
                self.reassign(id, tag);
            }
        }
        self.schedule();
    }

    fn reassign(&mut self, id: LinkId, of: TaskTag) {
        let cmd_sn = self.cmd_sn;
        let function = self.tasks.insert_beyond(Task { cmd_sn, link: id, kind: Kind::Reassign { of } });
        self.send_immediate(function);
    }

    /// The target has answered a TASK REASSIGN.
    pub(super) fn reassigned(&mut self, id: LinkId, of: TaskTag, response: TaskResponseCode) {
        let Some(Task { kind: Kind::Scsi(task), .. }) = self.tasks.get(of) else { return };
        if response == TaskResponseCode::COMPLETE {
            task.orphan = false;
            return;
        }
        if response == TaskResponseCode::STILL_ALLEGIANT {
            // The login has logged the old connection out, so this cannot be. Another login may do better.
            return self.fail(id, None);
        }
        // Nobody knows what became of it: that is for the caller to find out.
        let tag = task.command.tag;
        self.tasks.remove(of);
        self.events.push_back(MultiEvent::Completed(Completion {
            tag,
            response: ResponseCode::TARGET_FAILURE,
            status: ScsiStatus::TASK_ABORTED,
            residual: Residual::None,
            sense: bytes::Bytes::new(),
            data: twinlun_block::Payload::new(),
        }));
    }
}
