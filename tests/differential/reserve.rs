//! Persistent reservations: keys, types and service actions that mostly fit together.

use crate::generate::{Allocation, Generator, NEXUSES, cdb, set};
use crate::parameters::spoil_list;
use crate::step::{Data, Odd};

/// Keys that hosts use; the last is nobody's.
const KEYS: [u64; 4] = [0xA, 0xB, 0xA0A0_0000_0000_0001, 0xDEAD];

/// The keys that the hosts hold if everything succeeded.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Keys {
    held: [u64; NEXUSES],
    kind: u8,
    used: bool,
}

impl Keys {
    /// Whether a PERSISTENT RESERVE OUT was sent.
    pub(crate) fn were_used(self) -> bool {
        self.used
    }
}

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const PREEMPT_AND_ABORT: u8 = 5;
const REGISTER_AND_IGNORE: u8 = 6;
/// The first of the types for all registrants.
const ALL_REGISTRANTS: u8 = 7;

/// PERSISTENT RESERVE OUT.
pub(crate) fn persistent_out(g: &mut Generator, nexus: usize) -> ([u8; 16], Data, Odd) {
    let actions = if g.keys.held[nexus] == 0 {
        [REGISTER, REGISTER, REGISTER, REGISTER_AND_IGNORE, REGISTER_AND_IGNORE, RESERVE, CLEAR, RELEASE]
    } else {
        [RESERVE, RESERVE, RELEASE, PREEMPT, PREEMPT_AND_ABORT, REGISTER, REGISTER_AND_IGNORE, CLEAR]
    };
    let action = if g.rarely(50) { g.pick(&[8, 9, 0x1F]) } else { g.pick(&actions) };
    // Where that takes the reservation over, the sides would be in different states from here on.
    let spared = !g.taste.keeps_all_registrants && g.keys.kind >= ALL_REGISTRANTS;
    let action = if spared && matches!(action, PREEMPT | PREEMPT_AND_ABORT) { RELEASE } else { action };
    let kind = match action {
        RELEASE if !g.rarely(6) => g.keys.kind.max(1),
        _ if g.rarely(24) => g.pick(&[0, 2, 4, 9, 15]),
        _ => g.pick(&[1, 3, 5, 5, 6, 7, 8]),
    };
    let key = if g.rarely(8) { g.pick(&KEYS) } else { g.keys.held[nexus] };
    let other = g.keys.held[1 - nexus];
    let action_key = match action {
        REGISTER | REGISTER_AND_IGNORE if g.rarely(5) => 0,
        REGISTER | REGISTER_AND_IGNORE => KEYS[nexus],
        PREEMPT | PREEMPT_AND_ABORT if !g.rarely(6) => other,
        PREEMPT | PREEMPT_AND_ABORT => g.pick(&[0, KEYS[0], KEYS[1], KEYS[3]]),
        _ => 0,
    };
    let spared = !g.taste.own_key_unregisters && matches!(action, PREEMPT | PREEMPT_AND_ABORT);
    let action_key = if spared && action_key == g.keys.held[nexus] { KEYS[3] } else { action_key };
    match action {
        REGISTER | REGISTER_AND_IGNORE => g.keys.held[nexus] = action_key,
        RESERVE => g.keys.kind = kind,
        PREEMPT | PREEMPT_AND_ABORT => g.keys.held[1 - nexus] = 0,
        CLEAR => g.keys.held = [0; NEXUSES],
        _ => {}
    }
    g.keys.used = true;
    let mut list = vec![0; 24];
    set(&mut list, 0, key.to_be_bytes());
    set(&mut list, 8, action_key.to_be_bytes());
    let odd = if g.rarely(30) { spoil_list(g, &mut list) } else { Odd::No };
    let mut out = cdb(0x5F, action);
    out[2] = kind;
    set(&mut out, 5, (list.len() as u32).to_be_bytes());
    (out, Data::Out(list), odd)
}

/// PERSISTENT RESERVE IN.
pub(crate) fn persistent_in(g: &mut Generator) -> ([u8; 16], Data, Odd) {
    let action = if g.rarely(24) { g.pick(&[4, 5, 0x1F]) } else { g.pick(&[0, 0, 1, 1, 1, 2, 3]) };
    (cdb(0x5E, action), Data::None, Odd::No).with_allocation(g, 7)
}
