//! Task management, and what opening and closing of nexuses does to tasks (SAM-5, clauses 6.3 and 7).
//!
//! Nothing here waits: the answer names the tasks that must end, and the transport's response waits for them. A response
//! that is sent earlier would let an aborted write land behind newer data.

use crate::attention::UnitAttention;
use crate::copy::CopyManager;
use crate::device::TargetDevice;
use crate::lu::LogicalUnit;
use crate::lun::LunMap;
use crate::tasks::{Abort, Managed, ManagementResponse, Task, TaskManagement};
use crate::{LuId, NexusId};

#[derive(Default)]
struct Effects {
    abort: Vec<Abort>,
    release: Vec<Task>,
}

impl Effects {
    fn answer(self, response: ManagementResponse) -> Managed {
        Managed { response, abort: self.abort, release: self.release }
    }

    /// Aborts tasks at one LU on behalf of `by`.
    fn abort_at(&mut self, unit: &mut LogicalUnit, by: NexusId, which: impl Fn(NexusId, u32) -> bool) {
        let tas = unit.mode.current.tas;
        unit.tasks.abort(which, |nexus| tas && nexus != by, &mut self.abort, &mut self.release);
    }

    /// CLEAR TASK SET: all tasks, or those of the nexus where it has a task set of its own.
    fn clear(&mut self, unit: &mut LogicalUnit, by: NexusId) {
        let before = self.abort.len();
        let own_alone = unit.mode.current.separate_sets;
        self.abort_at(unit, by, |id, _| id == by || !own_alone);
        unit.announce_cleared(by, &self.abort[before..]);
    }

    fn reset(&mut self, unit: &mut LogicalUnit, by: NexusId, condition: UnitAttention) {
        self.abort_at(unit, by, |_, _| true);
        unit.tasks.clear_every_aca(&mut self.release);
        unit.reset(condition);
    }

    /// Third-party copies from or to this LU that were sent to another one.
    fn copies(&mut self, copies: &CopyManager, lu: LuId, which: impl Fn(NexusId) -> bool) {
        self.abort.extend(copies.touching(lu, which));
    }

    /// What the loss of a nexus ends at one LU; its state there is kept or dropped by the caller.
    fn lose(&mut self, unit: &mut LogicalUnit, nexus: NexusId) {
        self.abort_at(unit, nexus, |id, _| id == nexus);
        unit.tasks.clear_aca(nexus, &mut Vec::new(), &mut self.release);
        unit.legacy.take_if(|holder| *holder == nexus);
    }
}

impl TargetDevice {
    /// Closes an I_T nexus: its tasks must be aborted. Held ones of others may run.
    pub fn close_nexus(&mut self, nexus: NexusId) -> Managed {
        let mut effects = Effects::default();
        if self.nexuses.remove(&nexus).is_some() {
            self.copies.forget(nexus);
            for unit in self.lus.values_mut() {
                effects.lose(unit, nexus);
                unit.lose(nexus);
            }
        }
        effects.answer(ManagementResponse::Complete)
    }

    /// Other LUs for a nexus: REPORTED LUNS DATA HAS CHANGED where it differs, and INQUIRY DATA HAS CHANGED where a number means
    /// another LU than before, even when there was none in between. Tasks at LUs that it no longer sees must be aborted.
    pub fn set_lun_map(&mut self, nexus: NexusId, map: LunMap) -> Managed {
        let mut effects = Effects::default();
        let Some(state) = self.nexuses.get_mut(&nexus) else {
            return effects.answer(ManagementResponse::Rejected);
        };
        if state.map == map {
            return effects.answer(ManagementResponse::Complete);
        }
        let old = std::mem::replace(&mut state.map, map);
        for (id, unit) in &mut self.lus {
            match (old.sees(*id), state.map.sees(*id)) {
                (true, false) => {
                    effects.lose(unit, nexus);
                    effects.copies(&self.copies, *id, |owner| owner == nexus);
                    unit.lose(nexus);
                }
                (false, true) => unit.open(nexus, state),
                _ => {}
            }
            unit.establish(UnitAttention::ReportedLunsDataHasChanged, |id| id == nexus);
        }
        state.earlier.overlay(&old);
        for (number, lu) in state.map.iter() {
            if state.earlier.get(number).is_some_and(|before| before != lu)
                && let Some(unit) = self.lus.get_mut(&lu)
                && old.get(number) != Some(lu)
            {
                unit.establish(UnitAttention::InquiryDataHasChanged, |id| id == nexus);
            }
        }
        effects.answer(ManagementResponse::Complete)
    }

    /// Tasks of a nexus were ended without an answer because the connection that carried them is gone: the next command at that LU
    /// hears of it (RFC 7143 section 11.14.5).
    pub fn tasks_were_cleared(&mut self, nexus: NexusId, lun: [u8; 8]) {
        let lu = self.nexuses.get(&nexus).and_then(|state| state.resolve(lun));
        if let Some(unit) = lu.and_then(|id| self.lus.get_mut(&id)) {
            unit.establish(UnitAttention::SomeCommandsClearedByIscsiProtocolEvent, |id| id == nexus);
        }
    }

    /// Carries out a task management function.
    pub fn manage(&mut self, nexus: NexusId, lun: [u8; 8], function: TaskManagement) -> Managed {
        let mut effects = Effects::default();
        let Some(state) = self.nexuses.get(&nexus) else {
            return effects.answer(ManagementResponse::Rejected);
        };
        // Target-wide functions reach the LUs that this initiator sees, and no others (R-HOST-4).
        let seen: Vec<LuId> = state.map.iter().map(|(_, lu)| lu).collect();
        let across = |lus: &mut std::collections::BTreeMap<LuId, LogicalUnit>,
                      each: &mut dyn FnMut(&mut LogicalUnit)| {
            lus.iter_mut().filter(|(id, _)| seen.contains(id)).for_each(|(_, unit)| each(unit));
        };
        match function {
            TaskManagement::TargetWarmReset | TaskManagement::TargetColdReset => {
                across(&mut self.lus, &mut |unit| effects.reset(unit, nexus, UnitAttention::TargetReset));
                for lu in &seen {
                    effects.copies(&self.copies, *lu, |_| true);
                }
                return effects.answer(ManagementResponse::Complete);
            }
            TaskManagement::NexusReset => {
                across(&mut self.lus, &mut |unit| {
                    effects.lose(unit, nexus);
                    if let Some(state) = unit.nexuses.get_mut(&nexus) {
                        state.prevent = false;
                        state.attentions.establish(UnitAttention::NexusLoss);
                    }
                });
                return effects.answer(ManagementResponse::Complete);
            }
            _ => {}
        }
        let unit = state.resolve(lun).and_then(|id| self.lus.get_mut(&id).map(|unit| (id, unit)));
        let Some((id, unit)) = unit else {
            return effects.answer(ManagementResponse::LunDoesNotExist);
        };
        let response = at_lu(unit, nexus, function, &mut effects);
        match function {
            TaskManagement::AbortTaskSet => effects.copies(&self.copies, id, |owner| owner == nexus),
            TaskManagement::ClearTaskSet => {
                let tasks = &self.lus[&id].tasks;
                effects.copies(&self.copies, id, |owner| tasks.share(owner, nexus));
            }
            TaskManagement::LogicalUnitReset => effects.copies(&self.copies, id, |_| true),
            _ => {}
        }
        effects.answer(response)
    }
}

fn at_lu(
    unit: &mut LogicalUnit,
    nexus: NexusId,
    function: TaskManagement,
    effects: &mut Effects,
) -> ManagementResponse {
    let yes = |yes: bool| if yes { ManagementResponse::Succeeded } else { ManagementResponse::Complete };
    match function {
        TaskManagement::AbortTask { tag } => {
            if !unit.tasks.has(nexus, tag) {
                return ManagementResponse::TaskDoesNotExist;
            }
            effects.abort_at(unit, nexus, |id, t| id == nexus && t == tag);
        }
        TaskManagement::AbortTaskSet => effects.abort_at(unit, nexus, |id, _| id == nexus),
        TaskManagement::ClearTaskSet => effects.clear(unit, nexus),
        TaskManagement::LogicalUnitReset => effects.reset(unit, nexus, UnitAttention::LogicalUnitReset),
        TaskManagement::ClearAca => {
            if unit.tasks.under_aca(nexus) && !unit.tasks.faulted(nexus) {
                return ManagementResponse::Rejected;
            }
            unit.tasks.clear_aca(nexus, &mut effects.abort, &mut effects.release);
        }
        TaskManagement::QueryTask { tag } => return yes(unit.tasks.has(nexus, tag)),
        TaskManagement::QueryTaskSet => return yes(unit.tasks.has_any(nexus)),
        TaskManagement::QueryAsynchronousEvent => {
            let first = unit.nexuses.get(&nexus).and_then(|state| state.attentions.first());
            return first.map_or(ManagementResponse::Complete, |attention| {
                let sense = attention.sense();
                ManagementResponse::Event([sense.key as u8, sense.asc.0, sense.asc.1])
            });
        }
        TaskManagement::TargetWarmReset | TaskManagement::TargetColdReset | TaskManagement::NexusReset => {
            return ManagementResponse::Rejected;
        }
    }
    ManagementResponse::Complete
}
