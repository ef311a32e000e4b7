//! What goes in and what comes out.

use bytes::Bytes;
use twinlun_block::Payload;

use super::DiscoveredTarget;
use crate::pdu::{
    AsyncMessage, Bhs, Cdb, LogoutResponseCode, Lun, RejectReason, Residual, ResponseCode, ScsiStatus,
    TaskAttribute, TaskResponseCode,
};

/// The data of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Transfer {
    /// None.
    #[default]
    None,
    /// At most that many bytes from the target.
    Read(u32),
    /// To the target; below 4 GiB.
    Write(Payload),
}

/// A SCSI command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Comes back with the completion; the caller keeps it unique among unfinished requests.
    pub tag: u64,
    /// Logical unit.
    pub lun: Lun,
    /// CDB; see [`super::cdb`].
    pub cdb: Cdb,
    /// Data.
    pub transfer: Transfer,
    /// Task attribute.
    pub attribute: TaskAttribute,
    /// Immediate delivery: beside the command window.
    pub immediate: bool,
}

impl Command {
    /// A SIMPLE command.
    pub fn new(tag: u64, lun: Lun, cdb: impl Into<Cdb>, transfer: Transfer) -> Self {
        Self { tag, lun, cdb: cdb.into(), transfer, attribute: TaskAttribute::SIMPLE, immediate: false }
    }
}

/// Whether a request was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Submitted {
    /// It will be answered by one event, unless the session ends first.
    Accepted,
    /// `max_tasks` requests are unfinished. Nothing happened.
    Full,
    /// The session is not in full feature phase (any more). Nothing happened.
    NotReady,
}

/// The end of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The caller's tag.
    pub tag: u64,
    /// iSCSI service response. Unless it is `COMPLETED`, the status means nothing.
    pub response: ResponseCode,
    /// SCSI status.
    pub status: ScsiStatus,
    /// Difference between expected and actual transfer.
    pub residual: Residual,
    /// Sense data.
    pub sense: Bytes,
    /// What was read.
    pub data: Payload,
}

impl Completion {
    /// Whether the command ended with GOOD.
    pub fn is_good(&self) -> bool {
        self.response == ResponseCode::COMPLETED && self.status == ScsiStatus::GOOD
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Full feature phase: commands are welcome.
    LoggedIn,
    /// A command ended.
    Completed(Completion),
    /// A command ended without status, by a task management function that the target has confirmed.
    Aborted {
        /// The command's tag.
        tag: u64,
    },
    /// A task management function ended. The events of the commands that it aborted came before.
    TaskManagement {
        /// The function's tag.
        tag: u64,
        /// How it went.
        response: TaskResponseCode,
    },
    /// A ping came back.
    Pong {
        /// The ping's tag.
        tag: u64,
        /// Its data.
        data: Payload,
    },
    /// The answer to SendTargets.
    Targets {
        /// The request's tag.
        tag: u64,
        /// All targets with their addresses.
        targets: Vec<DiscoveredTarget>,
    },
    /// The target did not take a request. When `tag` is given, that request is over.
    Rejected {
        /// The request's tag.
        tag: Option<u64>,
        /// Why.
        reason: RejectReason,
        /// The PDU's header.
        header: Bhs,
    },
    /// News from the target. LOGOUT_REQUEST must be obeyed with [`super::Initiator::logout`].
    Async(AsyncMessage),
    /// Logout was answered; the connection is to be closed.
    LoggedOut {
        /// How it went.
        response: LogoutResponseCode,
    },
}
