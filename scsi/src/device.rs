//! The SCSI target device of a storage processor: LUs, I_T nexuses, and the way of a command between them.

use std::collections::BTreeMap;

use bytes::Bytes;
use twinlun_block::{Geometry, Payload};

use crate::attention::UnitAttention;
use crate::io::Io;
use crate::lun::LunMap;
use crate::port::{InitiatorPort, TargetPort};
use crate::sense::Reply;
use crate::tasks::{Abort, Admission, Managed, ManagementResponse, Task, TaskAttribute, TaskManagement};

/// A logical unit of this target device, whatever number it has for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LuId(pub u32);

/// An I_T nexus: an iSCSI session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NexusId(pub u32);

/// How the target device names itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetIdentity {
    /// T10 vendor identification, up to 8 characters.
    pub vendor: String,
    /// Product identification, up to 16 characters.
    pub product: String,
    /// Product revision level, up to 4 characters.
    pub revision: String,
    /// iSCSI name of the target.
    pub iqn: String,
    /// Its ports, all in the local target port group.
    pub ports: Vec<TargetPort>,
    /// Identifier of the local target port group.
    pub port_group: u16,
}

/// What a LU is.
#[derive(Clone, Debug)]
pub struct LuDescription {
    /// NAA IEEE Registered Extended designator, first nibble 6.
    pub naa: [u8; 16],
    /// Unit serial number.
    pub serial: String,
    /// Size and shape.
    pub geometry: Geometry,
    /// WCE: answers may precede stable storage.
    pub write_cache: bool,
    /// Thin: LBPME is set and UNMAP gives space back.
    pub thin: bool,
    /// What an earlier [`Outcome::Settle`] stored for this LU.
    pub saved_state: Option<Bytes>,
    /// The LU comes from the other SP or unit while its hosts go on: reservations without APTPL are kept as well (B-9).
    pub takeover: bool,
}

/// Whether hosts are served here (R-HOST-3, R-MS-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LuAccess {
    /// ALUA active/optimized.
    Active,
    /// ALUA active/non-optimized: served, but by way of another SP.
    NonOptimized,
    /// ALUA standby: a secondary image. Answers about itself, never data.
    Standby,
    /// ALUA unavailable: an INACTIVE mirror.
    Unavailable,
    /// Served here, but not yet or not now: NOT READY, becoming ready.
    NotReady,
}

/// A target port group elsewhere that leads to the same LU: the other SP, the other unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteGroup {
    /// Target port group identifier.
    pub id: u16,
    /// Its access state.
    pub access: LuAccess,
    /// Relative identifiers of its ports.
    pub ports: Vec<u16>,
}

/// A command as the transport delivers it.
#[derive(Clone, Debug)]
pub struct Command<'a> {
    /// The CDB, as long as the transport carried it (iSCSI: 16 bytes; more bytes than the command has are ignored).
    pub cdb: &'a [u8],
    /// All Data-Out that the initiator sent. It may be less or more than the CDB asks for.
    pub data_out: Payload,
}

/// What becomes of a command.
#[derive(Debug)]
pub enum Outcome {
    /// Answer.
    Done(Reply),
    /// Run its steps, then answer.
    Io(Io),
    /// Store and abort first, then answer.
    Settle(Box<Settle>),
}

/// A command whose answer must wait for durability or for aborted tasks: reservations, saved mode pages.
#[derive(Debug)]
pub struct Settle {
    /// The LU.
    pub lu: LuId,
    /// Replaces the LU's saved state, durably, before the answer. Records of one LU must be stored in the order of their making.
    pub record: Option<Bytes>,
    /// PREEMPT AND ABORT: these tasks must have ended before the answer.
    pub abort: Vec<Abort>,
    /// Held tasks that may run now.
    pub release: Vec<Task>,
    /// The answer.
    pub then: Reply,
    /// The answer instead, when the record could not be stored.
    pub otherwise: Reply,
}

/// The SCSI target device.
#[derive(Debug)]
pub struct TargetDevice {
    identity: TargetIdentity,
    next_nexus: u32,
    lus: BTreeMap<LuId, ()>,
}

impl TargetDevice {
    /// A target device without LUs and nexuses.
    pub fn new(identity: TargetIdentity) -> Self {
        Self { identity, next_nexus: 0, lus: BTreeMap::new() }
    }

    /// Adds a LU. It is [`LuAccess::Active`] until [`TargetDevice::set_access`] says otherwise.
    pub fn add_lu(&mut self, lu: LuId, description: LuDescription) {
        let _ = (lu, description);
    }

    /// Takes a LU away. Its tasks must be aborted; map it away from the nexuses with [`TargetDevice::set_lun_map`] as well.
    pub fn remove_lu(&mut self, lu: LuId) -> Vec<Abort> {
        self.lus.remove(&lu);
        Vec::new()
    }

    /// A new size: CAPACITY DATA HAS CHANGED for every nexus.
    pub fn set_geometry(&mut self, lu: LuId, geometry: Geometry) {
        let _ = (lu, geometry);
    }

    /// Whether hosts are served: ASYMMETRIC ACCESS STATE CHANGED for every nexus when it differs.
    pub fn set_access(&mut self, lu: LuId, access: LuAccess) {
        let _ = (lu, access);
    }

    /// The other target port groups that lead to the LU.
    pub fn set_remote_groups(&mut self, lu: LuId, groups: Vec<RemoteGroup>) {
        let _ = (lu, groups);
    }

    /// Establishes a unit attention for every nexus that sees the LU.
    pub fn raise(&mut self, lu: LuId, condition: UnitAttention) {
        let _ = (lu, condition);
    }

    /// What must be saved to carry the LU over to another SP or unit (reservations, mode pages).
    pub fn saved_state(&self, lu: LuId) -> Option<Bytes> {
        let _ = lu;
        None
    }

    /// Opens an I_T nexus.
    pub fn open_nexus(&mut self, initiator: InitiatorPort, port: TargetPort, map: LunMap) -> NexusId {
        let _ = (initiator, port, map);
        self.next_nexus += 1;
        NexusId(self.next_nexus)
    }

    /// Closes an I_T nexus: its tasks must be aborted. Held ones of others may run.
    pub fn close_nexus(&mut self, nexus: NexusId) -> Managed {
        let _ = nexus;
        Managed { response: ManagementResponse::Complete, abort: Vec::new(), release: Vec::new() }
    }

    /// Other LUs for a nexus: REPORTED LUNS DATA HAS CHANGED where it differs.
    pub fn set_lun_map(&mut self, nexus: NexusId, map: LunMap) {
        let _ = (nexus, map);
    }

    /// Enters a task into its LU's task set. `cdb` as in [`Command`].
    pub fn begin(
        &mut self,
        nexus: NexusId,
        lun: [u8; 8],
        tag: u32,
        attribute: TaskAttribute,
        cdb: &[u8],
    ) -> Admission {
        let _ = (lun, attribute, cdb);
        Admission::Run(Task { lu: None, nexus, tag })
    }

    /// Takes a task out of its task set when it has been answered or aborted; the tasks in the answer may run now.
    pub fn end(&mut self, task: Task, reply: Option<&Reply>) -> Vec<Task> {
        let _ = (task, reply);
        Vec::new()
    }

    /// Executes a command that was admitted.
    pub fn execute(&mut self, nexus: NexusId, lun: [u8; 8], command: Command<'_>) -> Outcome {
        let _ = (nexus, lun, command, &self.identity);
        Outcome::Done(Reply::check(&crate::Sense::illegal(crate::Asc::INVALID_OPCODE), false))
    }

    /// Carries out a task management function.
    pub fn manage(&mut self, nexus: NexusId, lun: [u8; 8], function: TaskManagement) -> Managed {
        let _ = (nexus, lun, function);
        Managed { response: ManagementResponse::Rejected, abort: Vec::new(), release: Vec::new() }
    }
}
