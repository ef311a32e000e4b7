//! A command from its arrival to its answer.

use super::collect::Collect;
use super::event::{ScsiCommand, ScsiResponse};
use super::session::ConnectionId;

/// A task that has no answer yet.
#[derive(Debug)]
pub(super) struct Task {
    /// The connection that it is allegiant to (RFC 7143 section 4.2.5.1). When that was lost, the task waits to be reassigned.
    pub(super) connection: ConnectionId,
    pub(super) lun: [u8; 8],
    pub(super) immediate: bool,
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) expected_out: u32,
    pub(super) expected_in: u32,
    /// Bytes of the session's buffer for solicited data that it holds.
    pub(super) reserved: u32,
    pub(super) stage: Stage,
}

/// How far it has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// Data is to come.
    Collecting(Box<Collect>),
    /// Complete, but in the line behind a barrier.
    Waiting(Box<ScsiCommand>),
    /// With the device server.
    Delivered,
    /// The device server has answered, but the connection is lost: the answer waits for the task's reassignment.
    Answered(Box<ScsiResponse>),
    /// With the device server, which was told to end it: it gets no answer.
    Ending,
    /// A task management function, with the storage processor or in the line.
    Function,
}

impl Task {
    /// A task management function.
    pub(super) fn function(connection: ConnectionId, immediate: bool, lun: [u8; 8]) -> Self {
        Self {
            connection,
            lun,
            immediate,
            read: false,
            write: false,
            expected_out: 0,
            expected_in: 0,
            reserved: 0,
            stage: Stage::Function,
        }
    }

    /// The same task with the device server's answer, which waits for the task's reassignment.
    pub(super) fn answered(&self, response: ScsiResponse) -> Self {
        Self { reserved: 0, stage: Stage::Answered(Box::new(response)), ..*self }
    }

    /// Whether it was discarded and waits only for data that is under way.
    pub(super) fn is_silenced(&self) -> bool {
        matches!(&self.stage, Stage::Collecting(collect) if collect.is_silenced())
    }

    /// Whether the device server never saw it.
    pub(super) fn is_undelivered(&self) -> bool {
        matches!(self.stage, Stage::Collecting(_) | Stage::Waiting(_))
    }
}
