//! PERSISTENT RESERVE OUT (SPC-5, 6.17), and RESERVE and RELEASE of SPC-2 beside it.

use bytes::Bytes;

use crate::attention::UnitAttention;
use crate::context::{CONFLICT, Context, Fault, Run};
use crate::port::TransportId;
use crate::reservation::{Change, Kind, NexusName};
use crate::sense::{Asc, Sense};
use crate::tasks::{Abort, Task};
use crate::wire::Fields;
use crate::{NexusId, Outcome};

/// Basic parameter list: two keys and flags.
const BASIC: usize = 24;

/// Longest parameter list that is looked at: TransportIDs of 512 ports fit.
const LONGEST: u64 = 256 << 10;

struct Parameters {
    list: Bytes,
    key: u64,
    action_key: u64,
}

impl Parameters {
    fn spec_i_pt(&self) -> bool {
        self.list.bit_at(20, 3)
    }

    fn all_tg_pt(&self) -> bool {
        self.list.bit_at(20, 2)
    }

    fn aptpl(&self) -> bool {
        self.list.bit_at(20, 0)
    }
}

fn parameters(c: &mut Context<'_>) -> Result<Parameters, Fault> {
    let len = u64::from(c.cdb.u32_at(5));
    if len < BASIC as u64 || len > LONGEST {
        return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    let list = c.parameter_list(len)?;
    Ok(Parameters { key: list.u64_at(0), action_key: list.u64_at(8), list })
}

/// The parameters of everything but REGISTER and REGISTER AND MOVE: exactly the basic list, no initiators named in it.
fn basic(c: &mut Context<'_>) -> Result<Parameters, Fault> {
    let p = parameters(c)?;
    if p.spec_i_pt() {
        return Err(Sense::parameter(20).into());
    }
    if p.list.len() != BASIC {
        return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    Ok(p)
}

fn name(c: &Context<'_>) -> NexusName {
    NexusName { initiator: c.nexus.initiator.clone(), port: c.nexus.port.relative_id }
}

fn own_key(c: &Context<'_>) -> Option<u64> {
    c.lu.reservations.key_of(&c.nexus.initiator, c.nexus.port.relative_id)
}

/// Only a registered nexus that knows its key may go on.
fn registered(c: &Context<'_>, p: &Parameters) -> Result<(), Fault> {
    if own_key(c) == Some(p.key) { Ok(()) } else { Err(CONFLICT) }
}

/// Scope and type of the CDB. The only scope is the LU.
fn kind(c: &Context<'_>) -> Result<Kind, Fault> {
    let byte = c.cdb.u8_at(2);
    if byte >> 4 != 0 {
        return Err(Sense::cdb_field(2, Some(7)).into());
    }
    Kind::from_code(byte & 0x0F).ok_or(Sense::cdb_field(2, Some(3)).into())
}

fn no_room() -> Fault {
    Sense::illegal(Asc::INSUFFICIENT_REGISTRATION_RESOURCES).into()
}

/// Tells everybody what a change means for them.
fn announce(c: &mut Context<'_>, change: &Change) {
    let nexuses = c.nexuses;
    let lists = [
        (UnitAttention::RegistrationsPreempted, &change.preempted),
        (UnitAttention::ReservationsPreempted, &change.cleared),
        (UnitAttention::ReservationsReleased, &change.released),
    ];
    for (condition, names) in lists {
        if !names.is_empty() {
            c.lu.establish(condition, |id| is_among(nexuses.get(&id), names));
        }
    }
    c.lu.mark_all(nexuses);
}

fn is_among(nexus: Option<&crate::device::Nexus>, names: &[NexusName]) -> bool {
    nexus.is_some_and(|n| names.iter().any(|name| name.is(&n.initiator, n.port.relative_id)))
}

fn done(c: &mut Context<'_>, change: &Change) -> Run {
    announce(c, change);
    c.settle(Vec::new(), Vec::new())
}

pub(crate) fn register(c: &mut Context<'_>) -> Run {
    let p = parameters(c)?;
    match own_key(c) {
        Some(key) if key != p.key => Err(CONFLICT),
        None if p.key != 0 => Err(CONFLICT),
        own => register_any(c, &p, own.is_some()),
    }
}

pub(crate) fn register_and_ignore(c: &mut Context<'_>) -> Run {
    let p = basic(c)?;
    let known = own_key(c).is_some();
    register_any(c, &p, known)
}

fn register_any(c: &mut Context<'_>, p: &Parameters, known: bool) -> Run {
    if p.spec_i_pt() && known {
        return Err(Sense::parameter(20).into());
    }
    if !p.spec_i_pt() && p.list.len() != BASIC {
        return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    let me = name(c);
    if p.action_key == 0 {
        if !known {
            return Context::good();
        }
        let change = c.lu.reservations.unregister(&me);
        return done(c, &change);
    }
    let mut initiators = vec![me.initiator.clone()];
    if p.spec_i_pt() {
        named_initiators(c, &p.list, &mut initiators)?;
    }
    let mut who = Vec::new();
    for initiator in initiators {
        if p.all_tg_pt() {
            for port in &c.identity.ports {
                who.push(NexusName { initiator: initiator.clone(), port: port.relative_id });
            }
        }
        let through_this = NexusName { initiator, port: me.port };
        if !who.contains(&through_this) {
            who.push(through_this);
        }
    }
    // A nexus that others register for must not have a key of its own yet (SPC-5, 5.14.7.3).
    let foreign = |n: &&NexusName| **n != me && c.lu.reservations.key_of(&n.initiator, n.port).is_some();
    if p.spec_i_pt() && who.iter().any(|n| foreign(&n)) {
        return Err(CONFLICT);
    }
    if !c.lu.reservations.register(&who, p.action_key, p.all_tg_pt()) {
        return Err(no_room());
    }
    c.lu.reservations.persist = p.aptpl();
    done(c, &Change::default())
}

/// The TransportIDs behind the basic list. A TransportID without ISID means every port of that name that is logged in.
fn named_initiators(c: &Context<'_>, list: &[u8], out: &mut Vec<crate::InitiatorPort>) -> Result<(), Fault> {
    let wrong = || Fault::from(Sense::parameter(28));
    let len = list.u32_at(24) as usize;
    if list.len() < 28 || len != list.len() - 28 {
        return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    let mut rest = list.get(28..).ok_or_else(wrong)?;
    while !rest.is_empty() {
        let (id, used) = TransportId::parse(rest).ok_or_else(wrong)?;
        rest = rest.get(used..).ok_or_else(wrong)?;
        let before = out.len();
        match id.isid {
            Some(isid) => out.push(crate::InitiatorPort { name: id.name, isid }),
            None => {
                let known = c.nexuses.values().filter(|n| id.names(&n.initiator));
                out.extend(known.map(|n| n.initiator.clone()));
                if out.len() == before {
                    return Err(wrong());
                }
            }
        }
        out.sort();
        out.dedup();
        if out.len() > crate::reservation::MAX_REGISTRATIONS {
            return Err(no_room());
        }
    }
    Ok(())
}

pub(crate) fn reserve(c: &mut Context<'_>) -> Run {
    let p = basic(c)?;
    registered(c, &p)?;
    let kind = kind(c)?;
    let me = name(c);
    match c.lu.reservations.kind() {
        None => {
            c.lu.reservations.reserve(&me, kind);
            done(c, &Change::default())
        }
        Some(held) if held == kind && c.lu.reservations.is_holder(&me.initiator, me.port) => Context::good(),
        Some(_) => Err(CONFLICT),
    }
}

pub(crate) fn release(c: &mut Context<'_>) -> Run {
    let p = basic(c)?;
    registered(c, &p)?;
    let me = name(c);
    if !c.lu.reservations.is_holder(&me.initiator, me.port) {
        return Context::good();
    }
    if c.cdb.u8_at(2) >> 4 != 0 || c.lu.reservations.kind() != Kind::from_code(c.cdb.u8_at(2) & 0x0F) {
        return Err(Sense::illegal(Asc::INVALID_RELEASE_OF_RESERVATION).into());
    }
    let change = c.lu.reservations.release(&me);
    done(c, &change)
}

pub(crate) fn clear(c: &mut Context<'_>) -> Run {
    let p = basic(c)?;
    registered(c, &p)?;
    let me = name(c);
    let change = c.lu.reservations.clear(&me);
    done(c, &change)
}

pub(crate) fn preempt(c: &mut Context<'_>) -> Run {
    let change = preempt_any(c)?;
    done(c, &change)
}

/// As PREEMPT, and the tasks of everybody who lost a registration end before the answer: a fenced host's late write can
/// not land behind it.
pub(crate) fn preempt_and_abort(c: &mut Context<'_>) -> Run {
    let change = preempt_any(c)?;
    announce(c, &change);
    let (nexuses, me, tas) = (c.nexuses, c.nexus_id, c.lu.mode.current.tas);
    let hit = |id: NexusId| id != me && is_among(nexuses.get(&id), &change.preempted);
    let (mut abort, mut release): (Vec<Abort>, Vec<Task>) = (Vec::new(), Vec::new());
    c.lu.tasks.abort(|id, _| hit(id), |_| tas, &mut abort, &mut release);
    c.lu.announce_cleared(me, &abort);
    c.lu.tasks.clear_acas(hit, &mut abort, &mut release);
    // What others copy from or to this LU by way of another one ends as well.
    abort.extend(c.copies.touching(c.lu_id, hit));
    c.settle(abort, release)
}

fn preempt_any(c: &mut Context<'_>) -> Result<Change, Fault> {
    let p = basic(c)?;
    registered(c, &p)?;
    let kind = kind(c)?;
    let everybody = c.lu.reservations.kind().is_some_and(Kind::all_registrants);
    if p.action_key == 0 && !everybody {
        return Err(Sense::parameter(8).into());
    }
    let me = name(c);
    let change = c.lu.reservations.preempt(&me, p.action_key, kind).ok_or(CONFLICT)?;
    Ok(change)
}

pub(crate) fn register_and_move(c: &mut Context<'_>) -> Run {
    let p = parameters(c)?;
    registered(c, &p)?;
    let me = name(c);
    let state = &c.lu.reservations;
    if !state.is_holder(&me.initiator, me.port) || state.kind().is_some_and(Kind::all_registrants) {
        return Err(CONFLICT);
    }
    if p.action_key == 0 {
        return Err(Sense::parameter(8).into());
    }
    let len = p.list.u32_at(20) as usize;
    if len != p.list.len() - BASIC {
        return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    let port = p.list.u16_at(18);
    if !c.identity.ports.iter().any(|p| p.relative_id == port) {
        return Err(Sense::parameter(18).into());
    }
    let id = p.list.get(BASIC..).and_then(TransportId::parse);
    let Some((TransportId { name, isid: Some(isid) }, used)) = id else {
        return Err(Sense::parameter(24).into());
    };
    let to = NexusName { initiator: crate::InitiatorPort { name, isid }, port };
    if used != len || to == me {
        return Err(Sense::parameter(24).into());
    }
    if !c.lu.reservations.move_to(&me, &to, p.action_key, p.list.bit_at(17, 1)) {
        return Err(no_room());
    }
    c.lu.reservations.persist = p.list.bit_at(17, 0);
    done(c, &Change::default())
}

/// Compatible reservation handling: whoever may pass the persistent reservation is told GOOD and nothing happens (SPC-4,
/// 5.13.3). `None` when there is no registration at all and SPC-2 rules.
fn compatible(c: &Context<'_>) -> Option<Run> {
    if c.lu.reservations.registrations.is_empty() {
        return None;
    }
    let state = c.lu.nexuses.get(&c.nexus_id);
    let (registered, holder) = state.map_or((false, false), |s| (s.registered, s.holder));
    let passes = holder || registered && c.lu.reservations.kind().is_some_and(Kind::registrants);
    Some(if passes { Context::good() } else { Err(CONFLICT) })
}

pub(crate) fn reserve_legacy(c: &mut Context<'_>) -> Run {
    if let Some(answer) = compatible(c) {
        return answer;
    }
    if c.lu.legacy.is_some_and(|holder| holder != c.nexus_id) {
        return Err(CONFLICT);
    }
    c.lu.legacy = Some(c.nexus_id);
    Context::good()
}

pub(crate) fn release_legacy(c: &mut Context<'_>) -> Run {
    if let Some(answer) = compatible(c) {
        return answer;
    }
    c.lu.legacy.take_if(|holder| *holder == c.nexus_id);
    Ok(Outcome::Done(crate::Reply::good()))
}
