//! The PDUs of RFC 7143, section 11, as values.
//!
//! A [`RawPdu`] is what stands on the wire without digests and padding: header, additional header segments, data
//! segment. Every PDU has a type with public fields, a `parse` that takes a raw PDU and a `From` that makes one.
//! Codes are open newtypes: a value that we do not know is kept and printed, never turned into another one.
//!
//! Reserved bits are ignored on receipt and zero on sending (RFC 7143, 11.2). Parsing checks what is needed to
//! understand the bytes; whether a PDU is allowed here and now is the session's business.

#![allow(clippy::needless_pass_by_value, reason = "all PDUs are parsed alike, and those with data keep it")]

mod async_message;
mod bhs;
mod codes;
mod command;
mod data;
mod login;
mod logout;
mod nop;
mod r2t;
mod reject;
mod response;
mod snack;
mod task;
mod text;
mod values;

#[cfg(test)]
mod tests;

pub use async_message::AsyncMessage;
pub use bhs::{BHS_LEN, Bhs, MAX_AHS_LEN, RawPdu};
pub use codes::{
    AsyncEvent, LoginStatus, LogoutReason, LogoutResponseCode, Opcode, RejectReason, ResponseCode,
    ScsiStatus, SnackType, Stage, TaskAttribute, TaskFunction, TaskResponseCode,
};
pub use command::{Cdb, ScsiCommand};
pub use data::{DataIn, DataInStatus, DataOut};
pub use login::{LoginRequest, LoginResponse};
pub use logout::{LogoutRequest, LogoutResponse};
pub use nop::{NopIn, NopOut};
pub use r2t::R2t;
pub use reject::Reject;
pub use response::{Residual, ScsiResponse};
pub use snack::SnackRequest;
pub use task::{TaskRequest, TaskResponse};
pub use text::{TextRequest, TextResponse};
pub use values::{Cid, DataSegmentLength, Isid, Lun, Serial32, TaskTag, TransferTag, Tsih};

/// Why bytes are not the PDU that their opcode says. The answer to such a PDU is a Reject, "Invalid PDU field" unless
/// the variant says otherwise (RFC 7143, 11.17.1), or the end of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// No PDU of this direction has this opcode. Reject reason: "Command not supported".
    #[error("opcode {0:?} is not one that this side receives")]
    Opcode(Opcode),
    /// An additional header segment is cut off, doubled or too long.
    #[error("additional header segments are malformed")]
    Ahs,
    /// The data segment is shorter than its own length fields say.
    #[error("data segment is malformed")]
    Data,
    /// The PDU may not carry a data segment.
    #[error("{0:?} may not carry data")]
    UnexpectedData(Opcode),
}

/// A PDU from initiator to target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// 0x00.
    NopOut(NopOut),
    /// 0x01.
    ScsiCommand(ScsiCommand),
    /// 0x02.
    Task(TaskRequest),
    /// 0x03.
    Login(LoginRequest),
    /// 0x04.
    Text(TextRequest),
    /// 0x05.
    DataOut(DataOut),
    /// 0x06.
    Logout(LogoutRequest),
    /// 0x10.
    Snack(SnackRequest),
}

impl Request {
    /// Understands a received PDU. Keep a copy of its header for the Reject that an error asks for.
    pub fn parse(raw: RawPdu) -> Result<Self, ParseError> {
        Ok(match raw.bhs.opcode() {
            Opcode::SCSI_COMMAND => Self::ScsiCommand(ScsiCommand::parse(raw)?),
            Opcode::DATA_OUT => Self::DataOut(DataOut::parse(raw)?),
            Opcode::NOP_OUT => Self::NopOut(NopOut::parse(raw)?),
            Opcode::TASK_REQUEST => Self::Task(TaskRequest::parse(raw)?),
            Opcode::LOGIN_REQUEST => Self::Login(LoginRequest::parse(raw)?),
            Opcode::TEXT_REQUEST => Self::Text(TextRequest::parse(raw)?),
            Opcode::LOGOUT_REQUEST => Self::Logout(LogoutRequest::parse(raw)?),
            Opcode::SNACK_REQUEST => Self::Snack(SnackRequest::parse(raw)?),
            other => return Err(ParseError::Opcode(other)),
        })
    }
}

impl From<Request> for RawPdu {
    fn from(request: Request) -> Self {
        match request {
            Request::NopOut(pdu) => pdu.into(),
            Request::ScsiCommand(pdu) => pdu.into(),
            Request::Task(pdu) => pdu.into(),
            Request::Login(pdu) => pdu.into(),
            Request::Text(pdu) => pdu.into(),
            Request::DataOut(pdu) => pdu.into(),
            Request::Logout(pdu) => pdu.into(),
            Request::Snack(pdu) => pdu.into(),
        }
    }
}

/// A PDU from target to initiator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// 0x20.
    NopIn(NopIn),
    /// 0x21.
    Scsi(ScsiResponse),
    /// 0x22.
    Task(TaskResponse),
    /// 0x23.
    Login(LoginResponse),
    /// 0x24.
    Text(TextResponse),
    /// 0x25.
    DataIn(DataIn),
    /// 0x26.
    Logout(LogoutResponse),
    /// 0x31.
    R2t(R2t),
    /// 0x32.
    Async(AsyncMessage),
    /// 0x3f.
    Reject(Reject),
}

impl Response {
    /// Understands a received PDU.
    pub fn parse(raw: RawPdu) -> Result<Self, ParseError> {
        Ok(match raw.bhs.opcode() {
            Opcode::DATA_IN => Self::DataIn(DataIn::parse(raw)?),
            Opcode::SCSI_RESPONSE => Self::Scsi(ScsiResponse::parse(raw)?),
            Opcode::R2T => Self::R2t(R2t::parse(raw)?),
            Opcode::NOP_IN => Self::NopIn(NopIn::parse(raw)?),
            Opcode::TASK_RESPONSE => Self::Task(TaskResponse::parse(raw)?),
            Opcode::LOGIN_RESPONSE => Self::Login(LoginResponse::parse(raw)?),
            Opcode::TEXT_RESPONSE => Self::Text(TextResponse::parse(raw)?),
            Opcode::LOGOUT_RESPONSE => Self::Logout(LogoutResponse::parse(raw)?),
            Opcode::ASYNC_MESSAGE => Self::Async(AsyncMessage::parse(raw)?),
            Opcode::REJECT => Self::Reject(Reject::parse(raw)?),
            other => return Err(ParseError::Opcode(other)),
        })
    }
}

impl From<Response> for RawPdu {
    fn from(response: Response) -> Self {
        match response {
            Response::NopIn(pdu) => pdu.into(),
            Response::Scsi(pdu) => pdu.into(),
            Response::Task(pdu) => pdu.into(),
            Response::Login(pdu) => pdu.into(),
            Response::Text(pdu) => pdu.into(),
            Response::DataIn(pdu) => pdu.into(),
            Response::Logout(pdu) => pdu.into(),
            Response::R2t(pdu) => pdu.into(),
            Response::Async(pdu) => pdu.into(),
            Response::Reject(pdu) => pdu.into(),
        }
    }
}
