//! The SCSI target device of a storage processor: LUs, I_T nexuses, and the way of a command between them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use twinlun_block::{BlockResult, ByteRange, Geometry, LbaRange, Payload};

use crate::attention::UnitAttention;
use crate::commands::{self, Attention, Row, Server, Unknown};
use crate::context::{CONFLICT, Context, Fault};
use crate::copy::{CopyManager, Moment, World};
use crate::io::{Io, Step};
use crate::lba_status::LbaStatus;
use crate::lu::LogicalUnit;
use crate::lun::{self, Addressed, LunMap};
use crate::operation::OperationStart;
use crate::port::{InitiatorPort, TargetPort};
use crate::reservation::{Kind, Registration};
use crate::sense::{Asc, Reply, Sense, SenseKey, Status};
use crate::tasks::{Abort, Admission, Ended, Refusal, Task, TaskAttribute};
use crate::wire::Fields;
use crate::{inquiry, media, report, saved};

/// Bytes that [`TargetDevice::hint`] names at most: of more, the processor finds out by itself.
pub(crate) const HINT: u64 = 16 << 10;

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
    /// How it looks to hosts.
    pub traits: LuTraits,
    /// What an earlier [`Outcome::Settle`] stored for this LU.
    pub saved_state: Option<Bytes>,
    /// The LU comes from the other SP or unit while its hosts go on: reservations without APTPL are kept as well (B-9).
    pub takeover: bool,
}

/// How a LU looks to hosts, as its administrator wants it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LuTraits {
    /// RMB: the medium can be ejected and loaded (START STOP UNIT), and kept from it (PREVENT ALLOW MEDIUM REMOVAL).
    pub removable: bool,
    /// Write protected, whatever the control mode page says.
    pub read_only: bool,
    /// Bytes of a physical block, a power of two and at least a logical block; 0: as large as a logical block.
    pub physical_block: u32,
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

/// Space behind a thin LU, for LOG SENSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that may still be allocated.
    pub available: u64,
    /// Bytes that are allocated to this LU.
    pub used: u64,
}

/// What an administrator sees of a LU's persistent reservations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservationStatus {
    /// Initiator, relative target port and key of every registration.
    pub registrations: Vec<(InitiatorPort, u16, u64)>,
    /// Type of the reservation as SPC spells it, when there is one.
    pub kind: Option<&'static str>,
    /// Its holder; `None` under the All Registrants types as well.
    pub holder: Option<InitiatorPort>,
    /// Kept over power loss (APTPL).
    pub persist: bool,
}

/// A command as the transport delivers it.
#[derive(Clone, Debug)]
pub struct Command<'a> {
    /// The CDB, as long as the transport carried it (iSCSI: 16 bytes; more bytes than the command has are ignored).
    pub cdb: &'a [u8],
    /// All Data-Out that the initiator sent. It may be less or more than the CDB asks for.
    pub data_out: Payload,
    /// The initiator's task tag, as [`TargetDevice::begin`] was told it.
    pub tag: u32,
    /// For third-party copies ([`crate::needs_moment`]); others do without.
    pub moment: Option<Moment>,
}

impl<'a> Command<'a> {
    /// A command that needs no moment.
    pub fn new(tag: u32, cdb: &'a [u8], data_out: Payload) -> Self {
        Self { cdb, data_out, tag, moment: None }
    }
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
    /// Ask the layers below which storage is taken, then answer.
    LbaStatus(Box<LbaStatus>),
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
    /// SANITIZE, FORMAT UNIT: once the record is stored, the operation begins.
    pub operation: Option<OperationStart>,
    /// EXIT FAILURE MODE: once the record is stored, [`TargetDevice::operation_left`] is to be called.
    pub operation_left: bool,
    /// The answer.
    pub then: Reply,
    /// The answer instead, when the record could not be stored.
    pub otherwise: Reply,
}

/// The SCSI target device.
#[derive(Debug)]
pub struct TargetDevice {
    pub(crate) identity: TargetIdentity,
    pub(crate) next_nexus: u32,
    pub(crate) nexuses: BTreeMap<NexusId, Nexus>,
    pub(crate) lus: BTreeMap<LuId, LogicalUnit>,
    pub(crate) copies: CopyManager,
    /// Time since 1970, as far as commands need it.
    time: Duration,
}

/// An I_T nexus: who, through which port, and what it sees.
#[derive(Debug)]
pub(crate) struct Nexus {
    pub(crate) initiator: InitiatorPort,
    pub(crate) port: TargetPort,
    pub(crate) map: LunMap,
    /// Which LU was last behind a number that now has none: when another one comes, the host may not have noticed that the first went.
    pub(crate) earlier: LunMap,
}

impl Nexus {
    /// The LU that a LUN addresses for this nexus.
    pub(crate) fn resolve(&self, lun: [u8; 8]) -> Option<LuId> {
        match lun::decode(lun) {
            Addressed::Number(number) => self.map.get(number),
            Addressed::ReportLuns | Addressed::Unknown => None,
        }
    }
}

impl TargetDevice {
    /// A target device without LUs and nexuses.
    pub fn new(identity: TargetIdentity) -> Self {
        Self {
            identity,
            next_nexus: 0,
            nexuses: BTreeMap::new(),
            lus: BTreeMap::new(),
            copies: CopyManager::default(),
            time: Duration::ZERO,
        }
    }

    /// Adds a LU. It is [`LuAccess::Active`] until [`TargetDevice::set_access`] says otherwise.
    ///
    /// `false` when the saved state could not be read: the LU is there without reservations and saved mode pages, and the
    /// administrator should know.
    pub fn add_lu(&mut self, lu: LuId, description: LuDescription) -> bool {
        let readable = description.saved_state.as_deref().is_none_or(|record| saved::parse(record).is_some());
        let mut unit = LogicalUnit::new(lu, description);
        for (id, nexus) in self.nexuses.iter().filter(|(_, nexus)| nexus.map.sees(lu)) {
            unit.open(*id, nexus);
        }
        self.lus.insert(lu, unit);
        readable
    }

    /// Takes a LU away. Its tasks must be aborted; map it away from the nexuses with [`TargetDevice::set_lun_map`] as well.
    pub fn remove_lu(&mut self, lu: LuId) -> Vec<Abort> {
        let mut abort = Vec::new();
        if let Some(mut unit) = self.lus.remove(&lu) {
            unit.tasks.abort(|_, _| true, |_| false, &mut abort, &mut Vec::new());
        }
        abort.extend(self.copies.touching(lu, |_| true));
        self.copies.tokens.changed(lu, None);
        abort
    }

    /// A new size: CAPACITY DATA HAS CHANGED for every nexus.
    pub fn set_geometry(&mut self, lu: LuId, geometry: Geometry) {
        if let Some(unit) = self.lus.get_mut(&lu)
            && unit.geometry != geometry
        {
            let shrinks = geometry.size < unit.geometry.size;
            unit.geometry = geometry;
            unit.establish(UnitAttention::CapacityDataHasChanged, |_| true);
            if shrinks {
                self.copies.tokens.changed(lu, None);
            }
        }
    }

    /// Whether hosts are served: ASYMMETRIC ACCESS STATE CHANGED for every nexus when it differs.
    pub fn set_access(&mut self, lu: LuId, access: LuAccess) {
        if let Some(unit) = self.lus.get_mut(&lu)
            && unit.access != access
        {
            unit.access = access;
            unit.establish(UnitAttention::AsymmetricAccessStateChanged, |_| true);
            // Where another image takes over or a mirror copies back, the data may be other data afterwards.
            if !matches!(access, LuAccess::Active | LuAccess::NonOptimized) {
                self.copies.tokens.changed(lu, None);
            }
        }
    }

    /// The data of a LU has changed by other means than its hosts' commands (a restored point in time, say): tokens that stand for it
    /// are revoked.
    pub fn data_changed(&mut self, lu: LuId) {
        self.copies.tokens.changed(lu, None);
    }

    /// The other target port groups that lead to the LU. A change is announced like one of the local state.
    pub fn set_remote_groups(&mut self, lu: LuId, groups: Vec<RemoteGroup>) {
        if let Some(unit) = self.lus.get_mut(&lu)
            && unit.remote != groups
        {
            unit.remote = groups;
            unit.establish(UnitAttention::AsymmetricAccessStateChanged, |_| true);
        }
    }

    /// Space behind a thin LU, for the logical block provisioning log page and the thresholds of its mode page.
    pub fn set_space(&mut self, lu: LuId, space: Space) {
        if let Some(unit) = self.lus.get_mut(&lu) {
            unit.space = Some(space);
            unit.check_thresholds();
        }
    }

    /// Tells the time since 1970. Needed before commands that [`needs_time`] names.
    pub fn set_time(&mut self, unix: Duration) {
        self.time = unix;
    }

    /// Establishes a unit attention for every nexus that sees the LU.
    pub fn raise(&mut self, lu: LuId, condition: UnitAttention) {
        if let Some(unit) = self.lus.get_mut(&lu) {
            unit.establish(condition, |_| true);
        }
    }

    /// What must be saved to carry the LU over to another SP or unit (reservations, mode pages).
    pub fn saved_state(&self, lu: LuId) -> Option<Bytes> {
        self.lus.get(&lu).map(LogicalUnit::save)
    }

    /// Who is registered and who holds a reservation.
    pub fn reservations(&self, lu: LuId) -> Option<ReservationStatus> {
        self.lus.get(&lu).map(|unit| {
            let state = &unit.reservations;
            let registration = |r: &Registration| (r.who.initiator.clone(), r.who.port, r.key);
            ReservationStatus {
                registrations: state.registrations.iter().map(registration).collect(),
                kind: state.kind().map(Kind::name),
                holder: state
                    .reservation
                    .as_ref()
                    .and_then(|r| r.holder.as_ref())
                    .map(|h| h.initiator.clone()),
                persist: state.persist,
            }
        })
    }

    /// Opens an I_T nexus. POWER ON waits for it at every LU.
    pub fn open_nexus(&mut self, initiator: InitiatorPort, port: TargetPort, map: LunMap) -> NexusId {
        self.next_nexus = self.next_nexus.checked_add(1).expect("2^32 logins outlast any process");
        let id = NexusId(self.next_nexus);
        let nexus = Nexus { initiator, port, map, earlier: LunMap::new() };
        for (_, lu) in nexus.map.iter() {
            if let Some(unit) = self.lus.get_mut(&lu) {
                unit.open(id, &nexus);
            }
        }
        self.nexuses.insert(id, nexus);
        id
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
        let lu = self.nexuses.get(&nexus).and_then(|n| n.resolve(lun));
        let Some((id, unit)) = lu.and_then(|id| self.lus.get_mut(&id).map(|unit| (id, unit))) else {
            return Admission::Run(Task { lu: None, nexus, tag });
        };
        let preempts = cdb.u8_at(0) == 0x5F && cdb.u8_at(1) & 0x1F == 0x05;
        let task = Task { lu: Some(id), nexus, tag };
        // The data that a token stands for is what is there when no older command can change it any more.
        let attribute = if commands::populates(cdb) { TaskAttribute::Ordered } else { attribute };
        match unit.tasks.admit(nexus, tag, attribute, naca(cdb), preempts) {
            Ok(true) => Admission::Run(task),
            Ok(false) => Admission::Hold(task),
            Err(Refusal::Status(status)) => Admission::Refuse(Reply::with_status(status)),
            Err(Refusal::AcaWithoutCause) => {
                let sense = Sense::illegal(Asc::INVALID_MESSAGE);
                Admission::Refuse(Reply::check(&sense, unit.mode.current.d_sense))
            }
        }
    }

    /// A hint for what a command that has come will want: the bytes that a READ or WRITE moves, at most 16 KiB of them, and whether it
    /// writes. Checks nothing.
    pub fn hint(&self, nexus: NexusId, lun: [u8; 8], cdb: &[u8]) -> Option<(LuId, ByteRange, bool)> {
        let (lba, blocks) = match cdb.u8_at(0) {
            0x28 | 0x2A => (cdb.u32_at(2).into(), cdb.u16_at(7).into()),
            0x88 | 0x8A => (cdb.u64_at(2), cdb.u32_at(10)),
            _ => return None,
        };
        let id = self.nexuses.get(&nexus)?.resolve(lun)?;
        let block = self.lus.get(&id)?.geometry.block_size.bytes();
        let offset = lba.checked_mul(block.into())?;
        let range = ByteRange::checked(offset, (u64::from(blocks) * u64::from(block)).min(HINT))?;
        Some((id, range, cdb.u8_at(0) & 0x02 != 0))
    }

    /// Takes a task out of its task set when it is answered or was aborted.
    ///
    /// `reply` is what its initiator is told, `None` when it is told nothing. With CHECK CONDITION the mode parameters may have other tasks
    /// aborted (QErr): send it when those have ended, or the host would take a write for undone that lands later.
    pub fn end(&mut self, task: Task, reply: Option<&Reply>) -> Ended {
        let mut ended = Ended::default();
        if let Some(unit) = task.lu.and_then(|lu| self.lus.get_mut(&lu)) {
            let (error, tas) = (unit.mode.current.queue_error, unit.mode.current.tas);
            ended = unit.tasks.end(task.nexus, task.tag, reply, error, tas);
            if !ended.abort.is_empty() {
                unit.announce_cleared(task.nexus, &ended.abort);
            }
        }
        self.copies.ended(task, self.nexuses.contains_key(&task.nexus));
        ended
    }

    /// Executes a command that was admitted.
    pub fn execute(&mut self, nexus: NexusId, lun: [u8; 8], command: Command<'_>) -> Outcome {
        let Some(state) = self.nexuses.get(&nexus) else {
            // The session went while the command was on its way.
            return Outcome::Done(Reply::with_status(Status::TaskAborted));
        };
        let unit = state.resolve(lun).and_then(|id| self.lus.get_mut(&id).map(|unit| (id, unit)));
        let Some((lu_id, lu)) = unit else {
            let outcome = nowhere(&self.identity, state, command.cdb);
            return self.after(nexus, command.cdb, outcome);
        };
        let row = match admit(lu, nexus, command.cdb) {
            Ok(row) => row,
            Err(fault) => return Outcome::Done(fault.reply(lu.mode.current.d_sense)),
        };
        let serve = match row.run {
            Server::Lu(serve) => serve,
            Server::Copy(serve) => return self.copy(nexus, lu_id, row, serve, command),
        };
        let mut context = Context {
            identity: &self.identity,
            nexuses: &self.nexuses,
            nexus_id: nexus,
            nexus: state,
            lu_id,
            lu,
            copies: &mut self.copies,
            row,
            cdb: &command.cdb[..row.usage.len()],
            range: None,
            data_out: command.data_out,
            wanted: 0,
            now: self.time,
        };
        let result = run(&mut context, serve);
        let (wanted, descriptor_sense) = (context.wanted, context.lu.mode.current.d_sense);
        let mut outcome = result.unwrap_or_else(|fault: Fault| Outcome::Done(fault.reply(descriptor_sense)));
        match &mut outcome {
            Outcome::Done(reply) => reply.data_out_len = wanted,
            // From here on the data is no longer what a token of it stands for.
            Outcome::Io(io) if self.copies.tokens.any() => {
                io.each_write(|range| self.copies.tokens.changed(lu_id, Some(range)));
            }
            Outcome::Settle(settle) if settle.operation.is_some() => self.copies.tokens.changed(lu_id, None),
            _ => {}
        }
        self.after(nexus, command.cdb, outcome)
    }

    /// The next step of a command; `previous` is the result of the request submitted last, `None` at the beginning. Submit what it
    /// asks for to the layer of [`Io::lu`], which may be another LU at each step, and come back until it is done.
    ///
    /// A command that is aborted may be dropped between two steps: nothing of it is under way then.
    pub fn step(&mut self, io: &mut Io, previous: Option<BlockResult>) -> Step {
        match io.copy() {
            None => io.next(previous),
            Some(copy) => {
                let world = World { lus: &self.lus, nexuses: &self.nexuses };
                let (lu, step) = self.copies.advance(copy, &world, previous);
                io.turn_to(lu);
                step
            }
        }
    }

    /// REPORT LUNS tells what REPORTED LUNS DATA HAS CHANGED would have told (SAM-5, 5.14).
    fn after(&mut self, nexus: NexusId, cdb: &[u8], outcome: Outcome) -> Outcome {
        if cdb.u8_at(0) == 0xA0
            && let Outcome::Done(Reply { status: Status::Good, .. }) = &outcome
        {
            for unit in self.lus.values_mut() {
                if let Some(state) = unit.nexuses.get_mut(&nexus) {
                    state.attentions.clear(UnitAttention::ReportedLunsDataHasChanged);
                }
            }
        }
        outcome
    }
}

/// Whether the command reads the clock: [`TargetDevice::set_time`] comes first.
pub fn needs_time(cdb: &[u8]) -> bool {
    matches!(cdb.u8_at(0), 0xA3 | 0xA4) && cdb.u8_at(1) & 0x1F == 0x0F
}

/// NACA of the control byte, the last of every CDB of fixed length.
fn naca(cdb: &[u8]) -> bool {
    let control = match cdb.u8_at(0) >> 5 {
        0 => 5,
        1 | 2 => 9,
        4 => 15,
        5 => 11,
        _ => return false,
    };
    cdb.bit_at(control, 2)
}

/// Everything that can stop a command before its handler, in the order in which hosts are told.
fn admit(lu: &mut LogicalUnit, nexus: NexusId, cdb: &[u8]) -> Result<&'static Row, Fault> {
    let row = commands::lookup(cdb, lu.thin);
    if !row.is_ok_and(|row| row.attention == Attention::Leave)
        && let Some(state) = lu.nexuses.get_mut(&nexus)
        && let Some(attention) = state.attentions.take()
    {
        return Err(attention.sense().into());
    }
    let row = row.map_err(|unknown| match unknown {
        Unknown::Opcode => Sense::illegal(Asc::INVALID_OPCODE),
        Unknown::ServiceAction => Sense::cdb_field(1, Some(4)),
    })?;
    if let Some(sense) = lu.not_ready(row.access) {
        return Err(sense.into());
    }
    if let Some(sense) = lu.stopped_by_operation(row) {
        return Err(sense.into());
    }
    if lu.conflicts(row, cdb, nexus) {
        return Err(CONFLICT);
    }
    check_bits(row, cdb)?;
    if row.medium && !lu.loaded {
        return Err(Sense::new(SenseKey::NotReady, Asc::MEDIUM_NOT_PRESENT).into());
    }
    if row.writes && lu.is_write_protected() {
        return Err(media::write_protected(lu).into());
    }
    Ok(row)
}

fn check_bits(row: &Row, cdb: &[u8]) -> Result<(), Sense> {
    if cdb.len() < row.usage.len() {
        return Err(Sense::cdb_field(0, None));
    }
    match row.reserved_bit(cdb) {
        Some((byte, bit)) => Err(Sense::cdb_field(byte, Some(bit))),
        None => Ok(()),
    }
}

/// The range that the CDB names, and its handler.
fn run(c: &mut Context<'_>, serve: commands::Handler) -> crate::context::Run {
    if let Some((lba, blocks)) = c.row.span.of(c.cdb) {
        let range = LbaRange::within(twinlun_block::Lba(lba), blocks, c.lu.geometry.blocks());
        c.range = Some(range.map_err(|bad| media::out_of_range(bad.first_bad))?);
    }
    serve(c)
}

/// A command to a LUN behind which nothing is (SPC-5, 4.3.2): three commands answer, the rest is LOGICAL UNIT NOT SUPPORTED.
fn nowhere(identity: &TargetIdentity, nexus: &Nexus, cdb: &[u8]) -> Outcome {
    let answer = match commands::lookup(cdb, false) {
        Ok(row) if matches!(row.opcode, 0x03 | 0x12 | 0xA0) => {
            check_bits(row, cdb).and_then(|()| match row.opcode {
                0x03 => Ok(report::sense_of_nothing(cdb)),
                0x12 => inquiry::of_nothing(identity, cdb),
                _ => report::luns(nexus, cdb),
            })
        }
        _ => Err(Sense::new(SenseKey::IllegalRequest, Asc::LUN_NOT_SUPPORTED)),
    };
    answer.unwrap_or_else(|sense| Outcome::Done(Reply::check(&sense, false)))
}
