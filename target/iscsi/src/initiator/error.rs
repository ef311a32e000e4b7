//! How a session ends before its time, sorted by whose fault it is.

use crate::chap::ChapError;
use crate::deframer::FrameError;
use crate::pdu::{LoginStatus, Opcode, ParseError, Serial32, TaskTag};
use crate::text::TextError;

/// Why a session is over. After the first one every call says the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InitiatorError {
    /// The byte stream is damaged or beyond the declared limits.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The target sent a PDU that cannot be understood.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// Login failed.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The target broke the protocol.
    #[error("the target broke the protocol: {0}")]
    Violation(#[from] Violation),
}

/// Why a login failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The target refused.
    #[error("the target refused the login: {0:?}")]
    Refused(LoginStatus),
    /// The target sends the initiator elsewhere (RFC 7143, 13.8).
    #[error("the target has moved to {address}")]
    Redirected {
        /// TargetAddress as received: `host:port[,group]`. Text of the network.
        address: String,
        /// Whether to remember it.
        permanently: bool,
    },
    /// The text of an answer is malformed.
    #[error("malformed login text: {0}")]
    Text(#[from] TextError),
    /// The target answered a key with something that was not on offer.
    #[error("the target's answer to {key} is not one that was offered")]
    Negotiation {
        /// The key.
        key: &'static str,
    },
    /// One of the two sides could not be authenticated.
    #[error("authentication failed: {0}")]
    Chap(#[from] ChapError),
    /// The target wants an authentication that is not configured, or skips one that is demanded.
    #[error("no common authentication method")]
    AuthMethod,
    /// Stages, numbers or tags of an answer do not fit.
    #[error("login answer out of order")]
    Sequence,
    /// The target answers without coming to an end.
    #[error("login takes too many rounds")]
    TooManyRounds,
}

/// What a target did that RFC 7143 forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A PDU of this kind has no place in this phase or for this task.
    #[error("unexpected {0:?}")]
    Unexpected(Opcode),
    /// A PDU for a task that does not exist.
    #[error("{1:?} for unknown task {0:?}")]
    UnknownTask(TaskTag, Opcode),
    /// A status was lost or repeated.
    #[error("StatSN {got:?} where {expected:?} is due")]
    StatSn {
        /// Due.
        expected: Serial32,
        /// Received.
        got: Serial32,
    },
    /// A Data-In was lost or repeated, or is not where the last one ended.
    #[error("Data-In out of order")]
    DataOrder,
    /// More data than expected, or data for a command that reads none.
    #[error("Data-In beyond the expected length")]
    TooMuchData,
    /// GOOD status, but not all data that it promises.
    #[error("status without all data")]
    DataMissing,
    /// An R2T was lost or repeated, asks for nothing, or for more than the command has or a burst allows.
    #[error("R2T out of order or range")]
    R2t,
    /// A text exchange that does not end or whose text is malformed.
    #[error("malformed text response")]
    Text,
}
