//! Task management: an answer goes out only when no aborted write can reach a disk any more.

use std::rc::Rc;

use twinlun_iscsi::target::{TaskFunction, TaskManagement, TaskManagementResponse as Response};
use twinlun_scsi::{Abort, ManagementResponse, Task, TaskManagement as Function, lun};

use crate::connection::HostConnection;
use crate::processor::Processor;

impl Processor {
    /// Carries out a function that came over `connection`, and answers it.
    pub(crate) async fn manage(&self, connection: &Rc<HostConnection>, request: TaskManagement) {
        let Some(nexus) = connection.nexus() else { return };
        let managed = self.device.borrow_mut().manage(nexus, request.lun, function(&request));
        if managed.response == ManagementResponse::Complete {
            self.discard_undelivered(connection, &request);
        }
        self.settle_aborts(managed.abort, managed.release).await;
        let (response, information) = response(managed.response, &request);
        connection.answer_management(request.tag, response, information);
        if request.function == TaskFunction::TargetColdReset && response == Response::Complete {
            // The target comes back as after power on: all sessions end (RFC 7143, 11.5.1).
            let connections: Vec<_> =
                self.sessions.borrow().iter().map(|(_, s)| s.connection.clone()).collect();
            for connection in connections {
                connection.close();
            }
        }
    }

    /// Functions that reach beyond one nexus cover the other sessions' commands that still wait for data as well.
    fn discard_undelivered(&self, connection: &Rc<HostConnection>, request: &TaskManagement) {
        let all = matches!(request.function, TaskFunction::TargetWarmReset | TaskFunction::TargetColdReset);
        let one = matches!(request.function, TaskFunction::ClearTaskSet | TaskFunction::LogicalUnitReset);
        if !all && !one {
            return;
        }
        let lu = match (lun::decode(request.lun), self.initiator_of(connection)) {
            (lun::Addressed::Number(number), Some(initiator)) => self.lun_map(&initiator).get(number),
            _ => None,
        };
        for (_, session) in self.sessions.borrow().iter() {
            if Rc::ptr_eq(&session.connection, connection) || session.nexus.is_none() {
                continue;
            }
            let map = self.lun_map(session.subject.initiator.as_str());
            if all {
                session.connection.discard_undelivered(None);
            } else {
                for (number, _) in map.iter().filter(|(_, mapped)| Some(*mapped) == lu) {
                    session.connection.discard_undelivered(Some(lun::encode(number)));
                }
            }
        }
    }

    fn initiator_of(&self, connection: &HostConnection) -> Option<String> {
        let sessions = self.sessions.borrow();
        connection.session().and_then(|tsih| sessions.get(tsih)).map(|s| s.subject.initiator.to_string())
    }

    /// Aborts tasks, starts those that were held behind them, and returns when every aborted one has ended.
    pub(crate) async fn settle_aborts(&self, aborts: Vec<Abort>, release: Vec<Task>) {
        let mut under_way = Vec::new();
        for abort in aborts {
            if let Some(connection) = self.connection_of(abort.task.nexus)
                && connection.abort(abort)
            {
                under_way.push((connection, abort.task.tag));
            }
        }
        self.release(release);
        for (connection, tag) in under_way {
            connection.wait_for_task(tag).await;
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
