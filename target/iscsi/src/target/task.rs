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
    /// Whether its answer may have to stand in one order with those on other connections.
    pub(super) order: Order,
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

/// What of a CDB makes its answer one of RFC 7143 section 4.2.2.3.4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Order {
    /// NACA (SAM-5 clause 5.2): an error establishes an ACA condition.
    pub(super) naca: bool,
    /// PERSISTENT RESERVE OUT with the service action PREEMPT AND ABORT.
    pub(super) preempts: bool,
}

impl Order {
    pub(super) fn of(cdb: &[u8]) -> Self {
        let Some(operation) = cdb.first() else { return Self::default() };
        // The CONTROL byte is the last one, but in CDBs of variable length (SPC-5 clause 4.2).
        let control = match operation >> 5 {
            0 => 5,
            1 | 2 => 9,
            5 => 11,
            4 => 15,
            _ => 1,
        };
        Self {
            naca: cdb.get(control).is_some_and(|control| control & 0x04 != 0),
            preempts: *operation == 0x5f && cdb.get(1).is_some_and(|action| action & 0x1f == 5),
        }
    }
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
            order: Order::default(),
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
