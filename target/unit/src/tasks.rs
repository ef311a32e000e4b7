//! Task management: an answer goes out only when no aborted write can reach a disk any more.

use std::rc::Rc;

use twinlun_iscsi::target::{CloseReason, TaskFunction, TaskManagement, TaskManagementResponse as Response};
use twinlun_scsi::{Abort, ManagementResponse, Task, TaskManagement as Function, lun};

use crate::processor::Processor;
use crate::session::HostSession;

impl Processor {
    /// Carries out a function of a session, and answers it.
    pub(crate) async fn manage(&self, session: &Rc<HostSession>, request: TaskManagement) {
        let Some(nexus) = session.nexus() else { return };
        let managed = self.device.borrow_mut().manage(nexus, request.lun, function(&request));
        if managed.response == ManagementResponse::Complete {
            self.discard_undelivered(session, &request);
        }
        self.settle_aborts(managed.abort, managed.release).await;
        let (response, information) = response(managed.response, &request);
        session.answer_management(request.tag, response, information);
        if request.function == TaskFunction::TargetColdReset && response == Response::Complete {
            self.end_all_connections(CloseReason::Local("TARGET COLD RESET"));
        }
    }

    /// The target comes back as after power on: all sessions end, and logins as well (RFC 7143, 11.5.1).
    fn end_all_connections(&self, reason: CloseReason) {
        let sessions = self.sessions.borrow().hosts();
        for session in sessions {
            session.close(reason);
        }
        for portal in &*self.portals.borrow() {
            for connection in portal.connections() {
                connection.close_login(reason);
            }
        }
    }

    /// Functions that reach beyond one nexus cover the other sessions' commands that still wait for data as well.
    fn discard_undelivered(&self, issuer: &Rc<HostSession>, request: &TaskManagement) {
        let all = matches!(request.function, TaskFunction::TargetWarmReset | TaskFunction::TargetColdReset);
        let one = matches!(request.function, TaskFunction::ClearTaskSet | TaskFunction::LogicalUnitReset);
        if !all && !one {
            return;
        }
        let lu = match (lun::decode(request.lun), self.initiator_of(issuer)) {
            (lun::Addressed::Number(number), Some(initiator)) => self.lun_map(&initiator).get(number),
            _ => None,
        };
        for (_, session) in self.sessions.borrow().iter() {
            let Some(host) = session.host().filter(|host| !Rc::ptr_eq(host, issuer)) else { continue };
            if session.nexus.is_none() {
                continue;
            }
            let map = self.lun_map(session.subject.initiator.as_str());
            if all {
                host.discard_undelivered(None);
            } else {
                for (number, _) in map.iter().filter(|(_, mapped)| Some(*mapped) == lu) {
                    host.discard_undelivered(Some(lun::encode(number)));
                }
            }
        }
    }

    fn initiator_of(&self, session: &HostSession) -> Option<String> {
        self.sessions.borrow().get(session.tsih).map(|session| session.subject.initiator.to_string())
    }

    /// Aborts tasks, starts those that were held behind them, and returns when every aborted one has ended.
    pub(crate) async fn settle_aborts(&self, aborts: Vec<Abort>, release: Vec<Task>) {
        let mut under_way = Vec::new();
        for abort in aborts {
            if let Some(session) = self.session_of(abort.task.nexus)
                && session.abort(abort)
            {
                under_way.push((session, abort.task.tag));
            }
        }
        self.release(release);
        for (session, tag) in under_way {
            session.wait_for_task(tag).await;
        }
    }
}

fn function(request: &TaskManagement) -> Function {
    let tag = request.referenced_tag;
    match request.function {
        TaskFunction::AbortTask => Function::AbortTask { tag },
        TaskFunction::AbortTaskSet => Function::AbortTaskSet,
        TaskFunction::ClearAca => Function::ClearAca,
        TaskFunction::ClearTaskSet => Function::ClearTaskSet,
        TaskFunction::LogicalUnitReset => Function::LogicalUnitReset,
        TaskFunction::TargetWarmReset => Function::TargetWarmReset,
        TaskFunction::TargetColdReset => Function::TargetColdReset,
        TaskFunction::QueryTask => Function::QueryTask { tag },
        TaskFunction::QueryTaskSet => Function::QueryTaskSet,
        TaskFunction::NexusReset => Function::NexusReset,
        TaskFunction::QueryAsyncEvent => Function::QueryAsynchronousEvent,
    }
}

fn response(response: ManagementResponse, request: &TaskManagement) -> (Response, [u8; 3]) {
    let none = [0; 3];
    match response {
        // A command that still waits for its data is in the task set as far as the initiator can tell.
        ManagementResponse::Complete
            if request.function == TaskFunction::QueryTaskSet && request.undelivered > 0 =>
        {
            (Response::Succeeded, none)
        }
        ManagementResponse::Complete => (Response::Complete, none),
        ManagementResponse::Succeeded => (Response::Succeeded, none),
        ManagementResponse::Event(information) => (Response::Succeeded, information),
        ManagementResponse::TaskDoesNotExist => (Response::NoTask, none),
        ManagementResponse::LunDoesNotExist => (Response::NoLun, none),
        ManagementResponse::Rejected => (Response::Rejected, none),
    }
}
