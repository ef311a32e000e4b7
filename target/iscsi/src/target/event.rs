//! What a connection tells the storage processor.

use std::num::NonZeroU16;
use std::rc::Rc;

use bytes::Bytes;
use smallvec::SmallVec;
use twinlun_block::Payload;

use super::directory::LoginSubject;
use crate::negotiate::Parameters;

/// A command descriptor block: 16 bytes, or more when an extended CDB came in an AHS (RFC 7143 section 11.2.2.3).
pub type Cdb = SmallVec<[u8; 16]>;

/// Something the storage processor must act on, in this order.
#[derive(Clone, Debug)]
pub enum Event {
    /// A handshake is complete but for its last response: answer with [`Session::open`](super::Session::open),
    /// [`Session::join`](super::Session::join) or [`Handshake::refuse`](super::Handshake::refuse).
    SessionReady(Box<SessionRequest>),
    /// Execute this, then `respond`. Everything that the command needs is here.
    Command(ScsiCommand),
    /// Do this, then `respond_task_management`.
    TaskManagement(TaskManagement),
    /// End these delivered tasks, which get no response, and `abandon` each when it can touch nothing any more: their connection
    /// was logged out or lost (RFC 7143 section 11.14.5). The answer to a logout goes out when all of them have ended.
    Terminate(Vec<TaskEnd>),
    /// The session is over, or a handshake: end the delivered tasks, send what is still to be sent, then close the streams. Last event.
    Closed(CloseReason),
}

/// A task to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskEnd {
    /// Initiator task tag.
    pub tag: u32,
    /// Its logical unit.
    pub lun: [u8; 8],
}

/// A login that passed every check.
#[derive(Clone, Debug)]
pub struct SessionRequest {
    /// Who with whom. The initiator's name is proven if the directory asked for a proof. A session of the same initiator, ISID,
    /// target and portal group is to be ended first (RFC 7143 section 6.3.5); for an unnamed discovery session the same initiator,
    /// ISID and portal address (section 7.4.2.1).
    pub subject: LoginSubject,
    /// The connection's identifier within the session.
    pub cid: u16,
    /// The session that the connection is to join; `None` for a new one.
    pub tsih: Option<Tsih>,
    /// CHAP user, when there was a proof.
    pub authenticated_as: Option<Rc<str>>,
    /// What was negotiated.
    pub parameters: Parameters,
    /// InitiatorAlias, for people.
    pub initiator_alias: Option<Rc<str>>,
}

/// The task's place in the task set (SAM-5 clause 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskAttribute {
    /// SIMPLE; an untagged task is treated as one.
    Simple,
    /// ORDERED. The session delivers it after all earlier commands, and later ones after it.
    Ordered,
    /// HEAD OF QUEUE.
    HeadOfQueue,
    /// ACA.
    Aca,
}

/// A SCSI command with all its data.
#[derive(Clone, Debug)]
pub struct ScsiCommand {
    /// Initiator task tag: names the task in its session until it is answered.
    pub tag: u32,
    /// Its place in the stream of commands.
    pub cmd_sn: u32,
    /// Whether it was marked for immediate delivery.
    pub immediate: bool,
    /// Logical unit number, as on the wire (SAM-5 clause 4.7).
    pub lun: [u8; 8],
    /// Command descriptor block.
    pub cdb: Cdb,
    /// Task attribute.
    pub attribute: TaskAttribute,
    /// Command priority 0 to 15 (RFC 7144 section 5.1.1); zero unless protocol level 2 was negotiated.
    pub priority: u8,
    /// Data from the initiator, complete: `expected_out` bytes, or [`super::Limits::max_write`] if that is less.
    pub data_out: Payload,
    /// Bytes that the initiator means to send.
    pub expected_out: u32,
    /// Bytes that the initiator has room for. More need not be read from anywhere.
    pub expected_in: u32,
}

/// Task management functions (RFC 7143 section 11.5.1, RFC 7144 section 6.3). TASK REASSIGN is answered by the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskFunction {
    /// ABORT TASK (1).
    AbortTask,
    /// ABORT TASK SET (2).
    AbortTaskSet,
    /// CLEAR ACA (3).
    ClearAca,
    /// CLEAR TASK SET (4).
    ClearTaskSet,
    /// LOGICAL UNIT RESET (5).
    LogicalUnitReset,
    /// TARGET WARM RESET (6).
    TargetWarmReset,
    /// TARGET COLD RESET (7).
    TargetColdReset,
    /// QUERY TASK (9).
    QueryTask,
    /// QUERY TASK SET (10).
    QueryTaskSet,
    /// I_T NEXUS RESET (11).
    NexusReset,
    /// QUERY ASYNCHRONOUS EVENT (12).
    QueryAsyncEvent,
}

/// A task management function that the storage processor must carry out.
///
/// The session has done its own part already: all commands that came before it are delivered or, where the function covers
/// them and they still waited for data, discarded without a trace. ABORT TASK and QUERY TASK reach the storage processor only for
/// tasks that were delivered and are unanswered. So aborting the tasks in scope *that were delivered before this event* is the whole
/// truth; what is delivered after it is not covered, even if the function is still at work then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskManagement {
    /// Initiator task tag of the function itself.
    pub tag: u32,
    /// What to do.
    pub function: TaskFunction,
    /// The logical unit; not significant for target resets and I_T NEXUS RESET.
    pub lun: [u8; 8],
    /// ABORT TASK and QUERY TASK: the task meant.
    pub referenced_tag: u32,
    /// The function's place in the stream of commands.
    pub cmd_sn: u32,
    /// Tasks in scope that were never delivered: discarded by the abort functions, merely counted by QUERY TASK SET.
    pub undelivered: usize,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The initiator logged out.
    #[error("logged out")]
    LoggedOut,
    /// The login ended with this status.
    #[error("login refused with status {0:?}")]
    LoginRefused(crate::login::LoginStatus),
    /// The login took longer than the login timer allows.
    #[error("login not finished in time")]
    LoginTimeout,
    /// No answer to a ping.
    #[error("ping not answered in time")]
    PingTimeout,
    /// Requested data did not come.
    #[error("requested data did not come in time")]
    DataTimeout,
    /// The stream of bytes cannot be followed any further (RFC 7143 section 7.7, 7.8).
    #[error("malformed PDU: {0}")]
    Malformed(&'static str),
    /// A rule of the exchange was broken beyond repair.
    #[error("protocol violation: {0}")]
    Protocol(&'static str),
    /// A bound of this connection was reached.
    #[error("limit reached: {0}")]
    Limit(&'static str),
    /// The initiator closed the stream without a logout.
    #[error("closed by the host without a logout")]
    HostClosed,
    /// The stream broke.
    #[error("connection broke: {0}")]
    Broken(std::io::ErrorKind),
    /// The stream is gone, and nobody knows why.
    #[error("connection lost")]
    Lost,
    /// The initiator has logged in anew with this connection's identifier.
    #[error("replaced by a new login")]
    Reinstated,
    /// Nobody came back for the session in time.
    #[error("connection lost and not recovered in time")]
    NotRecovered,
    /// The storage processor wanted it, for this reason.
    #[error("closed by the storage processor: {0}")]
    Local(&'static str),
}

/// What goes back for a command.
#[derive(Clone, Debug, Default)]
pub struct ScsiResponse {
    /// SAM-5 status; 0 is GOOD.
    pub status: u8,
    /// Status qualifier (RFC 7144 section 5.2.1); sent at protocol level 2 only.
    pub qualifier: u16,
    /// Sense data; empty when there is none.
    pub sense: Bytes,
    /// Data for the initiator. What exceeds its expected length is not sent.
    pub data_in: Payload,
    /// Bytes that the command would transfer to the initiator had it unbounded room (SPDTL, RFC 7143 section 11.4.5.2). May
    /// exceed `data_in`: what the initiator has no room for need not be read.
    pub presented_in: u64,
    /// Bytes that the command takes from the initiator by its CDB.
    pub presented_out: u64,
}

impl ScsiResponse {
    /// GOOD, no data moved.
    pub fn good() -> Self {
        Self::default()
    }

    /// GOOD with data.
    pub fn data(data_in: Payload) -> Self {
        Self { presented_in: data_in.len() as u64, data_in, ..Self::default() }
    }

    /// GOOD after taking `presented_out` bytes.
    pub fn written(presented_out: u64) -> Self {
        Self { presented_out, ..Self::default() }
    }

    /// A status without sense data.
    pub fn status(status: u8) -> Self {
        Self { status, ..Self::default() }
    }

    /// CHECK CONDITION.
    pub fn check_condition(sense: Bytes) -> Self {
        Self { status: super::CHECK_CONDITION, sense, ..Self::default() }
    }
}

/// Answer to a task management function (RFC 7143 section 11.6.1, RFC 7144 section 6.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TaskManagementResponse {
    /// Done.
    Complete = 0,
    /// No such task.
    NoTask = 1,
    /// No such logical unit.
    NoLun = 2,
    /// The task still belongs to its connection.
    StillAllegiant = 3,
    /// Tasks cannot be reassigned.
    ReassignmentNotSupported = 4,
    /// This function is not supported.
    NotSupported = 5,
    /// Not allowed.
    NotAuthorized = 6,
    /// A query found what it looked for.
    Succeeded = 7,
    /// Refused.
    Rejected = 255,
}

/// Unsolicited word to the initiator (RFC 7143 section 11.9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AsyncMessage {
    /// A SCSI event on a logical unit.
    ScsiEvent {
        /// The logical unit.
        lun: [u8; 8],
        /// Sense data.
        sense: Bytes,
    },
    /// Please log out within so many seconds.
    LogoutRequest {
        /// Seconds.
        within: u16,
    },
    /// A connection of the session was dropped, or will be.
    ConnectionDrop {
        /// Its CID.
        cid: u16,
        /// Seconds before a new attempt makes sense.
        time2wait: u16,
        /// Seconds after that for which its tasks are kept.
        time2retain: u16,
    },
    /// The session will be dropped.
    SessionDrop {
        /// Seconds before a new attempt makes sense.
        time2wait: u16,
    },
}

/// A session handle; zero is "none" on the wire and no handle.
pub type Tsih = NonZeroU16;
