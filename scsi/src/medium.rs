//! The medium of a removable LU: START STOP UNIT and PREVENT ALLOW MEDIUM REMOVAL (SBC-4, 5.31; SPC-5, 6.15).
//!
//! Ejecting hides the blocks from every host until somebody loads the medium again, and does nothing to the data. A start of the process finds
//! the medium loaded.

use twinlun_block::BlockRequest;

use crate::attention::UnitAttention;
use crate::context::{Context, Run};
use crate::io::Plan;
use crate::sense::{Asc, Sense};
use crate::wire::Fields;

pub(crate) fn start_stop_unit(c: &mut Context<'_>) -> Run {
    let byte = c.cdb.u8_at(4);
    let (power, no_flush, eject_or_load, start) = (byte >> 4, byte & 4 != 0, byte & 2 != 0, byte & 1 != 0);
    // START and LOEJ are ignored beside a power condition; a LU that several hosts use has but one.
    if power != 0 {
        return Context::good();
    }
    if eject_or_load {
        if !c.lu.traits.removable {
            return Err(Sense::cdb_field(4, Some(1)).into());
        }
        if c.lu.nexuses.values().any(|state| state.prevent) {
            return Err(Sense::illegal(Asc::MEDIUM_REMOVAL_PREVENTED).into());
        }
        let was_loaded = std::mem::replace(&mut c.lu.loaded, start);
        if start && !was_loaded {
            let me = c.nexus_id;
            c.lu.establish(UnitAttention::MediumMayHaveChanged, |id| id != me);
        }
    }
    // One host cannot stop a LU that others use: stopping makes the cache durable and is otherwise an idle condition.
    if !start && !no_flush {
        return c.io(Plan::Single(BlockRequest::Flush));
    }
    Context::good()
}

pub(crate) fn prevent_allow(c: &mut Context<'_>) -> Run {
    let prevent = match c.cdb.u8_at(4) & 3 {
        0 => false,
        1 => true,
        _ => return Err(Sense::cdb_field(4, Some(1)).into()),
    };
    if let Some(state) = c.lu.nexuses.get_mut(&c.nexus_id) {
        state.prevent = prevent;
    }
    Context::good()
}

/// Used by tests to see who prevents removal.
#[cfg(test)]
pub(crate) fn prevents(lu: &crate::lu::LogicalUnit, nexus: crate::NexusId) -> bool {
    lu.nexuses.get(&nexus).is_some_and(|state| state.prevent)
}
