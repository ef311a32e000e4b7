//! A logical unit as the device server sees it.

use std::collections::BTreeMap;

use bytes::Bytes;
use twinlun_block::Geometry;

use crate::attention::{Attentions, UnitAttention};
use crate::commands::{Access, Conflict, Row};
use crate::device::{LuAccess, LuDescription, LuTraits, Nexus, RemoteGroup, Space};
use crate::identify::Names;
use crate::mode::ModePages;
use crate::operation::Operation;
use crate::reservation::Reservations;
use crate::sense::{Asc, Sense, SenseKey};
use crate::tasks::{Abort, TaskSet};
use crate::wire::Fields;
use crate::{LuId, NexusId};

/// What a LU keeps for an I_T nexus.
#[derive(Debug, Default)]
pub(crate) struct NexusState {
    pub(crate) attentions: Attentions,
    /// PREVENT of PREVENT ALLOW MEDIUM REMOVAL.
    pub(crate) prevent: bool,
    /// The echo buffer, once it is written.
    pub(crate) echo: Option<Bytes>,
    /// Registered, as [`Reservations`] has it: kept here so that a write compares no names.
    pub(crate) registered: bool,
    /// Persistent reservation holder, likewise.
    pub(crate) holder: bool,
}

/// Commands and blocks since the start, or since LOG SELECT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) blocks_in: u64,
    pub(crate) blocks_out: u64,
}

#[derive(Debug)]
pub(crate) struct LogicalUnit {
    pub(crate) naa: [u8; 16],
    pub(crate) serial: String,
    pub(crate) geometry: Geometry,
    pub(crate) thin: bool,
    pub(crate) traits: LuTraits,
    /// The medium is there: always, but for a removable one that was ejected.
    pub(crate) loaded: bool,
    pub(crate) access: LuAccess,
    pub(crate) remote: Vec<RemoteGroup>,
    pub(crate) space: Option<Space>,
    pub(crate) mode: ModePages,
    pub(crate) reservations: Reservations,
    /// Holder of a RESERVE of SPC-2.
    pub(crate) legacy: Option<NexusId>,
    /// What hosts have named it.
    pub(crate) names: Names,
    /// Difference of the timestamp to the clock, in milliseconds, once a host has set it.
    pub(crate) timestamp_shift: Option<i64>,
    /// Work done, for LOG SENSE.
    pub(crate) work: Work,
    /// Whether the thresholds were passed already: each is announced once until it is left.
    past_threshold: [bool; 2],
    /// A SANITIZE or FORMAT UNIT that was ordered and has not been completed.
    pub(crate) operation: Option<Operation>,
    /// The data buffer of WRITE BUFFER, empty until it is written.
    pub(crate) buffer: Vec<u8>,
    pub(crate) tasks: TaskSet,
    pub(crate) nexuses: BTreeMap<NexusId, NexusState>,
}

impl LogicalUnit {
    pub(crate) fn new(id: LuId, description: LuDescription) -> Self {
        let saved = description.saved_state.as_deref().and_then(crate::saved::parse).unwrap_or_default();
        let mut reservations = saved.reservations;
        let mode = ModePages::new(description.write_cache, saved.mode);
        let mut tasks = TaskSet::new(id);
        tasks.set_separate(mode.current.separate_sets);
        if !description.takeover {
            reservations.power_on();
        }
        Self {
            naa: description.naa,
            serial: description.serial,
            geometry: description.geometry,
            thin: description.thin,
            traits: description.traits,
            loaded: true,
            access: LuAccess::Active,
            remote: Vec::new(),
            space: None,
            mode,
            reservations,
            names: saved.names,
            timestamp_shift: None,
            work: Work::default(),
            past_threshold: [false; 2],
            operation: saved.operation,
            buffer: Vec::new(),
            legacy: None,
            tasks,
            nexuses: BTreeMap::new(),
        }
    }

    /// The record that brings reservations and saved mode pages back.
    pub(crate) fn save(&self) -> Bytes {
        crate::saved::encode(self.mode.saved, &self.reservations, self.operation.as_ref(), &self.names)
    }

    /// The same for when an operation on the medium is over.
    pub(crate) fn save_without_operation(&self) -> Bytes {
        crate::saved::encode(self.mode.saved, &self.reservations, None, &self.names)
    }

    /// Announces thresholds that the space has passed (SBC-4, 4.7.3.8).
    pub(crate) fn check_thresholds(&mut self) {
        let (mode, shift) = (self.mode.current, 20);
        let past = self.space.filter(|_| self.thin && mode.lbpere).map_or([false; 2], |space| {
            let (available, used) = (mode.available_threshold, mode.used_threshold);
            [
                available != 0 && space.available >> shift <= u64::from(available),
                used != 0 && space.used.div_ceil(1 << shift) >= u64::from(used),
            ]
        });
        let before = std::mem::replace(&mut self.past_threshold, past);
        if past.iter().zip(before).any(|(now, before)| *now && !before) {
            self.establish(UnitAttention::ThinProvisioningSoftThreshold, |_| true);
        }
    }

    pub(crate) fn is_write_protected(&self) -> bool {
        self.traits.read_only || self.mode.current.swp
    }

    /// LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT (SBC-4, 5.20.2).
    pub(crate) fn physical_exponent(&self) -> u8 {
        let logical = self.geometry.block_size.bytes();
        (self.traits.physical_block.max(logical) / logical).ilog2().min(15) as u8
    }

    pub(crate) fn open(&mut self, id: NexusId, nexus: &Nexus) {
        let mut state = NexusState::default();
        state.attentions.establish(UnitAttention::PowerOn);
        self.nexuses.insert(id, state);
        self.mark(id, nexus);
    }

    /// Ends what lasts as long as the nexus: RESERVE of SPC-2, PREVENT, ACA. Registrations stay.
    pub(crate) fn lose(&mut self, id: NexusId) {
        self.nexuses.remove(&id);
        self.legacy.take_if(|holder| *holder == id);
    }

    /// Notes for one nexus what the reservations say of it.
    fn mark(&mut self, id: NexusId, nexus: &Nexus) {
        if let Some(state) = self.nexuses.get_mut(&id) {
            state.registered = self.reservations.key_of(&nexus.initiator, nexus.port.relative_id).is_some();
            state.holder = self.reservations.is_holder(&nexus.initiator, nexus.port.relative_id);
        }
    }

    /// The same for all, after the reservations changed.
    pub(crate) fn mark_all(&mut self, nexuses: &BTreeMap<NexusId, Nexus>) {
        for (id, nexus) in nexuses {
            self.mark(*id, nexus);
        }
    }

    /// Tasks that `by` had aborted, without a status that would tell (TAS): their initiators learn of it by a unit attention.
    pub(crate) fn announce_cleared(&mut self, by: NexusId, aborted: &[Abort]) {
        if !self.mode.current.tas {
            let hit = |id| id != by && aborted.iter().any(|abort| abort.task.nexus == id);
            self.establish(UnitAttention::CommandsClearedByAnotherInitiator, hit);
        }
    }

    pub(crate) fn establish(&mut self, condition: UnitAttention, for_whom: impl Fn(NexusId) -> bool) {
        for (id, state) in &mut self.nexuses {
            if for_whom(*id) {
                state.attentions.establish(condition);
            }
        }
    }

    /// Whether another nexus's reservation stops the command.
    pub(crate) fn conflicts(&self, row: &Row, cdb: &[u8], nexus: NexusId) -> bool {
        let legacy_stops = self.legacy.is_some_and(|holder| holder != nexus);
        match row.conflict {
            Conflict::Free | Conflict::Legacy => false,
            Conflict::PersistentOnly => legacy_stops,
            Conflict::PersistentIn | Conflict::PersistentOut => self.legacy.is_some(),
            Conflict::WriterUnless(mask, value) if cdb.u8_at(4) & mask == value => false,
            Conflict::Writer | Conflict::WriterUnless(..) | Conflict::Reader => {
                self.stops(row.conflict == Conflict::Reader, nexus)
            }
        }
    }

    /// Whether another nexus's reservation, persistent or not, stops reading or writing.
    pub(crate) fn stops(&self, reads: bool, nexus: NexusId) -> bool {
        self.legacy.is_some_and(|holder| holder != nexus) || self.persistent_stops(reads, nexus)
    }

    fn persistent_stops(&self, reads: bool, nexus: NexusId) -> bool {
        let Some(kind) = self.reservations.kind() else { return false };
        let (registered, holder) =
            self.nexuses.get(&nexus).map_or((false, false), |state| (state.registered, state.holder));
        !(holder || kind.registrants() && registered || kind.write_exclusive() && reads)
    }

    /// NOT READY, when hosts are not served and the command needs it.
    pub(crate) fn not_ready(&self, needs: Access) -> Option<Sense> {
        let asc = match (self.access, needs) {
            (_, Access::Any) | (LuAccess::Active | LuAccess::NonOptimized, _) => return None,
            (LuAccess::Standby | LuAccess::NotReady, Access::Standby) => return None,
            (LuAccess::Standby, Access::Active) => Asc::TARGET_PORT_IN_STANDBY,
            (LuAccess::Unavailable, _) => Asc::TARGET_PORT_UNAVAILABLE,
            (LuAccess::NotReady, Access::Active) => Asc::BECOMING_READY,
        };
        Some(Sense::new(SenseKey::NotReady, asc))
    }

    /// What a LOGICAL UNIT RESET undoes (SAM-5, 6.3.3).
    pub(crate) fn reset(&mut self, condition: UnitAttention) {
        self.legacy = None;
        self.mode.reset();
        self.tasks.set_separate(self.mode.current.separate_sets);
        for state in self.nexuses.values_mut() {
            state.prevent = false;
            state.echo = None;
            state.attentions.establish(condition);
        }
    }
}
