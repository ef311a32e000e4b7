//! SCSI device server: CDB in, outcome out (SAM-5, SPC-5, SBC-4). Pure: no I/O, no clock, no threads.
//!
//! [`TargetDevice`] holds the LUs and I_T nexuses of one storage processor. The way of a command:
//!
//! 1. [`TargetDevice::begin`] enters it into the LU's task set: run it, hold it, or refuse it.
//! 2. [`TargetDevice::execute`] checks unit attentions, reservations, ALUA and the CDB, all from one command table,
//!    and says what is to be done: answer ([`Outcome::Done`]), run block requests ([`Outcome::Io`], [`TargetDevice::step`]), or store something first
//!    ([`Outcome::Settle`]).
//! 3. [`TargetDevice::end`] takes the task out and names the held tasks that may run now.
//!
//! Task management goes through [`TargetDevice::manage`], which names the tasks to abort.

#![forbid(unsafe_code)]

mod attention;
mod buffer;
mod commands;
mod context;
mod copy;
mod device;
mod format;
mod identify;
mod inquiry;
mod io;
mod lba_status;
mod log;
mod lu;
pub mod lun;
mod manage;
mod media;
mod medium;
mod mode;
mod operation;
mod port;
mod pr_in;
mod pr_out;
mod report;
mod reservation;
mod row;
mod sanitize;
mod saved;
mod sense;
mod tasks;
#[cfg(test)]
mod tests;
mod wire;

pub use attention::{Attentions, UnitAttention};
pub use commands::{CommandInfo, Data, describe};
pub use copy::{Moment, needs_moment};
pub use device::{
    Command, LuAccess, LuDescription, LuId, LuTraits, NexusId, Outcome, RemoteGroup, ReservationStatus,
    Settle, Space, TargetDevice, TargetIdentity, needs_time,
};
pub use io::{Io, Step};
pub use lba_status::LbaStatus;
pub use lun::LunMap;
pub use operation::{OperationStart, OperationStep};
pub use port::{InitiatorPort, TargetPort};
pub use sense::{Asc, CopyFailure, FieldPointer, Forwarded, Reply, Sense, SenseBytes, SenseKey, Status};
pub use tasks::{
    Abort, Admission, Ended, MAX_TASKS, Managed, ManagementResponse, Task, TaskAttribute, TaskManagement,
};
