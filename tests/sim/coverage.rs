//! What the seeds of a whole run must have met, or the run has shown less than it says.

use std::collections::BTreeMap;

use twinlun_io::sim::FAULT_KINDS;

/// Kinds of faults of the world that the atlas leaves out (docs/design/simulator.md, "Faults and the atlas").
const LEFT_OUT: [&str; 5] =
    ["disk.bit_rot", "disk.full", "disk.misdirected_read", "disk.misdirected_write", "disk.phantom_write"];

/// What the harness counts itself: faults that hit something alive, orders that were carried out, states that were seen.
const SEEN: [&str; 36] = [
    "array.disk_failed",        // a disk was taken out of use
    "fork",                     // all power failed in a copy of the world
    "host.abort",               // a host's ABORT TASK ended a command
    "host.chap",                // a host proved itself
    "host.comparison_failed",   // COMPARE AND WRITE found something else
    "host.killed",              // a host was killed and came back
    "host.mutual_chap",         // host and unit proved themselves
    "host.no_status",           // a host gave a session up for want of a status
    "host.not_ready",           // a mirror in ATTENTION refused a command
    "host.power_cut",           // a host lost power and came back
    "host.session_lost",        // a session ended under a host
    "host.stranger_refused",    // a login with a wrong secret was refused
    "host.unit_attention",      // a command met a unit attention
    "mirror.activated",         // ATTENTION ended by an administrator's word
    "mirror.attention",         // a mirror was in ATTENTION
    "mirror.attention_ended",   // and left it by itself
    "mirror.fractured",         // a secondary was fractured
    "mirror.resynchronized",    // and came to be in step again
    "mirror.synchronizing",     // a secondary was being copied to
    "order.drop_sessions",      // an administrator ended sessions
    "order.fail_disk",          // took a disk out of use
    "order.fracture",           // fractured a secondary
    "order.replace_disk",       // replaced a disk
    "order.restore",            // restored a secondary
    "order.retune",             // changed an attribute
    "order.sync",               // ordered a whole copy
    "unit.all_power_cut",       // every unit lost power at once
    "unit.fuse_primary",        // the primary died at an exact operation
    "unit.fuse_secondary",      // a secondary did
    "unit.killed_twice",        // a unit died while it recovered
    "unit.paused_primary",      // the primary stood still
    "unit.paused_secondary",    // a secondary stood still
    "unit.primary_killed",      // the primary was killed
    "unit.primary_power_cut",   // the primary lost power
    "unit.secondary_killed",    // a secondary was killed
    "unit.secondary_power_cut", // a secondary lost power
];

/// Everything that is counted.
pub(crate) fn kinds() -> impl Iterator<Item = &'static str> {
    FAULT_KINDS.iter().chain(&SEEN).copied()
}

/// What a whole run has to meet and has not.
pub(crate) fn missing(met: &BTreeMap<&'static str, u64>) -> Vec<&'static str> {
    kinds().filter(|kind| !LEFT_OUT.contains(kind) && met.get(kind).is_none_or(|times| *times == 0)).collect()
}

/// The line in which a process says what it met.
pub(crate) fn line(met: &BTreeMap<&'static str, u64>) -> String {
    let met: Vec<_> = kinds().filter_map(|kind| Some(format!("{kind} {}", met.get(kind)?))).collect();
    format!("faults met: {}", met.join(", "))
}

/// Adds what such a line says.
pub(crate) fn add_line(met: &mut BTreeMap<&'static str, u64>, line: &str) {
    let Some(words) = line.strip_prefix("faults met: ") else { return };
    for word in words.split(", ") {
        let Some((name, times)) = word.split_once(' ') else { continue };
        if let (Some(kind), Ok(times)) = (kinds().find(|kind| *kind == name), times.parse::<u64>()) {
            *met.entry(kind).or_default() += times;
        }
    }
}
