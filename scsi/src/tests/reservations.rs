//! Persistent reservations against every row of the table, and RESERVE of SPC-2.

use super::*;
use crate::commands::{Conflict, Row, TABLE};
use crate::reservation::{Kind, MAX_REGISTRATIONS};

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const PREEMPT_AND_ABORT: u8 = 5;
const IGNORE: u8 = 6;
const MOVE: u8 = 7;

fn out(action: u8, kind: u8, len: usize) -> [u8; 10] {
    let [a, b, c, d] = (len as u32).to_be_bytes();
    [0x5F, action, kind, 0, 0, a, b, c, d, 0]
}

fn list(key: u64, action_key: u64, flags: u8) -> Vec<u8> {
    let mut list = key.to_be_bytes().to_vec();
    list.extend(action_key.to_be_bytes());
    list.extend([0, 0, 0, 0, flags, 0, 0, 0]);
    list
}

impl Rig {
    #[track_caller]
    fn pr(&mut self, nexus: NexusId, action: u8, kind: u8, key: u64, action_key: u64) {
        self.good(nexus, &out(action, kind, 24), list(key, action_key, 0));
    }

    #[track_caller]
    fn pr_conflict(&mut self, nexus: NexusId, action: u8, kind: u8, key: u64, action_key: u64) {
        self.conflict(nexus, &out(action, kind, 24), list(key, action_key, 0));
    }

    #[track_caller]
    fn read_in(&mut self, nexus: NexusId, action: u8) -> Bytes {
        self.good(nexus, &[0x5E, action, 0, 0, 0, 0, 0, 0x40, 0, 0], vec![])
    }

    /// Key and type of the reservation.
    #[track_caller]
    fn reserved(&mut self, nexus: NexusId) -> Option<(u64, u8)> {
        let data = self.read_in(nexus, 1);
        (data.len() > 8).then(|| (u64::from_be_bytes(data[8..16].try_into().unwrap()), data[21]))
    }

    #[track_caller]
    fn keys(&mut self, nexus: NexusId) -> Vec<u64> {
        let data = self.read_in(nexus, 0);
        data[8..].chunks(8).map(|key| u64::from_be_bytes(key.try_into().unwrap())).collect()
    }

    fn attention(&mut self, nexus: NexusId) -> Option<(u8, u8)> {
        let data = self.good(nexus, &[0x03, 0, 0, 0, 18, 0], vec![]);
        (data[2] == 6).then_some((data[12], data[13]))
    }
}

/// Whether the table's word for a row lets a nexus through, written down once more and independently.
fn passes(row: &Row, kind: Kind, registered: bool) -> bool {
    let registrants_only = !matches!(kind, Kind::WriteExclusive | Kind::ExclusiveAccess);
    let others_read = matches!(
        kind,
        Kind::WriteExclusive | Kind::WriteExclusiveRegistrantsOnly | Kind::WriteExclusiveAllRegistrants
    );
    match row.opcode {
        // INQUIRY, REQUEST SENSE, REPORT LUNS, the reports, capacity, LOG SENSE, TEST UNIT READY, PERSISTENT RESERVE IN.
        0x00 | 0x03 | 0x12 | 0xA0 | 0xA3 | 0x25 | 0x4D | 0x5E => true,
        0x9E if row.action == Some(0x10) => true,
        // Making a token of data reads it; RECEIVE COPY only looks.
        0x83 if row.action == Some(0x10) => registered && registrants_only || others_read,
        0x84 => registered && registrants_only || others_read,
        // Reads and what only looks.
        0x08 | 0x28 | 0xA8 | 0x88 | 0x2F | 0xAF | 0x8F | 0x34 | 0x90 | 0x1A | 0x5A | 0x37 | 0xB7 | 0x9E
        | 0x3C => registered && registrants_only || others_read,
        _ => registered && registrants_only,
    }
}

#[test]
fn every_type_fences_every_command() {
    for kind in Kind::ALL {
        for registered in [false, true] {
            let mut rig = Rig::new();
            let (a, b) = (rig.open("a"), rig.open("b"));
            rig.pr(a, REGISTER, 0, 0, 1);
            if registered {
                rig.pr(b, REGISTER, 0, 0, 2);
            }
            rig.pr(a, RESERVE, kind as u8, 1, 0);
            for row in TABLE {
                // Their own rules, tested elsewhere.
                if matches!(row.conflict, Conflict::PersistentOut | Conflict::Legacy) {
                    continue;
                }
                let mut cdb = vec![0; row.usage.len()];
                (cdb[0], cdb[1]) = (row.opcode, row.action.unwrap_or(0));
                if row.opcode == 0x1E {
                    cdb[4] = 1;
                }
                rig.requests.clear();
                let reply = rig.send(b, &cdb, vec![]);
                let conflict = reply.status == Status::ReservationConflict;
                let name = row.name;
                assert_eq!(
                    conflict,
                    !passes(row, kind, registered),
                    "{name}, {kind:?}, registered {registered}"
                );
                if conflict {
                    assert!(rig.requests.is_empty(), "{name}: a fenced command reaches nothing");
                }
                let own = rig.send(a, &cdb, vec![]);
                assert_ne!(own.status, Status::ReservationConflict, "{name}: the holder is not fenced");
            }
            // A writer with real data, not only an empty one.
            let may_write = registered && !matches!(kind, Kind::WriteExclusive | Kind::ExclusiveAccess);
            let reply = rig.send(b, &ten(0x2A, 0, 0, 1), filled(6, 1));
            assert_eq!(reply.status == Status::Good, may_write);
            assert_eq!(rig.disk[0] == 6, may_write);
            rig.good(b, &[0x1E, 0, 0, 0, 0, 0], vec![]);
            rig.good(b, &[0x1B, 0, 0, 0, 1, 0], vec![]);
        }
    }
}

#[test]
fn registering() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open("b"));
    rig.pr_conflict(a, REGISTER, 0, 5, 6);
    rig.pr_conflict(a, RESERVE, 1, 5, 0);
    rig.pr(a, REGISTER, 0, 0, 0);
    assert!(rig.keys(a).is_empty());
    rig.pr(a, REGISTER, 0, 0, 5);
    assert_eq!(rig.keys(b), [5]);
    rig.pr_conflict(a, REGISTER, 0, 4, 6);
    rig.pr(a, REGISTER, 0, 5, 6);
    rig.pr(a, IGNORE, 0, 99, 7);
    rig.pr(b, IGNORE, 0, 99, 8);
    assert_eq!(rig.keys(a), [7, 8]);
    let generation = |rig: &mut Rig| rig.read_in(a, 0)[3];
    assert_eq!(generation(&mut rig), 4);
    rig.pr(a, REGISTER, 0, 7, 0);
    assert_eq!((rig.keys(a), generation(&mut rig)), (vec![8], 5));
}

#[test]
fn reserving_and_releasing() {
    let mut rig = Rig::new();
    let (a, b, c) = (rig.open("a"), rig.open("b"), rig.open("c"));
    for (nexus, key) in [(a, 1), (b, 2)] {
        rig.pr(nexus, REGISTER, 0, 0, key);
    }
    for kind in Kind::ALL {
        let code = kind as u8;
        rig.pr(a, RESERVE, code, 1, 0);
        rig.pr(a, RESERVE, code, 1, 0);
        let key = if kind.all_registrants() { 0 } else { 1 };
        assert_eq!(rig.reserved(c), Some((key, code)));
        let other = if code == 1 { 3 } else { 1 };
        rig.pr_conflict(a, RESERVE, other, 1, 0);
        rig.pr_conflict(c, RESERVE, code, 0, 0);
        rig.sense_with(
            a,
            &out(RELEASE, other, 24),
            list(1, 0, 0),
            SenseKey::IllegalRequest,
            Asc::INVALID_RELEASE_OF_RESERVATION,
        );
        if kind.all_registrants() {
            rig.pr(b, RESERVE, code, 2, 0);
            rig.pr(b, RELEASE, code, 2, 0);
            assert_eq!(rig.attention(a), Some((0x2A, 0x04)));
        } else {
            rig.pr_conflict(b, RESERVE, code, 2, 0);
            rig.pr(b, RELEASE, code, 2, 0);
            assert_eq!(rig.reserved(c), Some((1, code)), "who does not hold it cannot release it");
            rig.pr(a, RELEASE, code, 1, 0);
            let told = kind.registrants().then_some((0x2A, 0x04));
            assert_eq!(rig.attention(b), told, "{kind:?}");
        }
        assert_eq!(rig.reserved(c), None);
        assert_eq!((rig.attention(a), rig.attention(b), rig.attention(c)), (None, None, None));
    }
    rig.illegal(a, &out(RESERVE, 0x02, 0), Asc::PARAMETER_LIST_LENGTH_ERROR);
    for bad in [0x00, 0x02, 0x04, 0x09, 0x11] {
        let key = SenseKey::IllegalRequest;
        rig.sense_with(a, &out(RESERVE, bad, 24), list(1, 0, 0), key, Asc::INVALID_FIELD_IN_CDB);
    }
}

#[test]
fn unregistering_the_holder_ends_the_reservation() {
    for kind in Kind::ALL {
        let mut rig = Rig::new();
        let (a, b) = (rig.open("a"), rig.open("b"));
        rig.pr(a, IGNORE, 0, 0, 1);
        rig.pr(b, IGNORE, 0, 0, 2);
        rig.pr(a, RESERVE, kind as u8, 1, 0);
        rig.pr(a, REGISTER, 0, 1, 0);
        if kind.all_registrants() {
            assert_eq!(rig.reserved(a), Some((0, kind as u8)), "b still holds it");
            rig.pr(b, REGISTER, 0, 2, 0);
            assert_eq!(rig.reserved(a), None, "the last registrant went");
        } else {
            assert_eq!(rig.reserved(a), None);
            assert_eq!(rig.attention(b), kind.registrants().then_some((0x2A, 0x04)));
        }
        assert_eq!(rig.attention(a), None);
    }
}

#[test]
fn clearing_tells_the_others() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open("b"));
    rig.pr(a, REGISTER, 0, 0, 1);
    rig.pr(b, REGISTER, 0, 0, 2);
    rig.pr(a, RESERVE, 1, 1, 0);
    rig.pr_conflict(b, CLEAR, 0, 1, 0);
    rig.pr(b, CLEAR, 0, 2, 0);
    assert_eq!((rig.keys(b), rig.reserved(b)), (vec![], None));
    assert_eq!((rig.attention(a), rig.attention(b)), (Some((0x2A, 0x03)), None));
}

#[test]
fn preempting() {
    let mut rig = Rig::new();
    let (a, b, c) = (rig.open("a"), rig.open("b"), rig.open("c"));
    for (nexus, key) in [(a, 1), (b, 2), (c, 1)] {
        rig.pr(nexus, REGISTER, 0, 0, key);
    }
    rig.pr(a, RESERVE, 5, 1, 0);
    rig.pr_conflict(b, PREEMPT, 5, 2, 77);
    let zero = list(2, 0, 0);
    let key = SenseKey::IllegalRequest;
    rig.sense_with(b, &out(PREEMPT, 5, 24), zero, key, Asc::INVALID_FIELD_IN_PARAMETER_LIST);
    rig.pr(b, PREEMPT, 6, 2, 1);
    assert_eq!((rig.keys(b), rig.reserved(b)), (vec![2], Some((2, 6))));
    for nexus in [a, c] {
        assert_eq!(rig.attention(nexus), Some((0x2A, 0x05)));
        rig.conflict(nexus, &ten(0x2A, 0, 0, 1), filled(1, 1));
    }
    // A registration alone may be preempted, too.
    rig.pr(a, REGISTER, 0, 0, 9);
    rig.pr(b, PREEMPT, 1, 2, 9);
    assert_eq!((rig.keys(b), rig.reserved(b)), (vec![2], Some((2, 6))), "the reservation stays as it is");
}

#[test]
fn preempting_all_registrants() {
    let mut rig = Rig::new();
    let (a, b, c) = (rig.open("a"), rig.open("b"), rig.open("c"));
    for (nexus, key) in [(a, 1), (b, 2), (c, 3)] {
        rig.pr(nexus, REGISTER, 0, 0, key);
    }
    rig.pr(a, RESERVE, 7, 1, 0);
    rig.pr(b, PREEMPT, 7, 2, 3);
    assert_eq!((rig.keys(b), rig.reserved(b)), (vec![1, 2], Some((0, 7))));
    rig.pr(b, PREEMPT, 1, 2, 0);
    assert_eq!((rig.keys(b), rig.reserved(b)), (vec![2], Some((2, 1))));
    assert_eq!((rig.attention(a), rig.attention(c)), (Some((0x2A, 0x05)), Some((0x2A, 0x05))));
}

#[test]
fn preempt_and_abort_names_the_tasks_of_the_preempted() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open("b"));
    rig.pr(a, REGISTER, 0, 0, 1);
    rig.pr(b, REGISTER, 0, 0, 2);
    rig.pr(a, RESERVE, 5, 1, 0);
    let write = ten(0x2A, 0, 0, 1);
    let task = |nexus| Task { lu: Some(LU), nexus, tag: 10 };
    for nexus in [a, b] {
        let admission = rig.device.begin(nexus, lun(0), 10, TaskAttribute::Simple, &write);
        assert!(matches!(admission, Admission::Run(t) if t == task(nexus)));
    }
    let held = rig.device.begin(a, lun(0), 11, TaskAttribute::Ordered, &write);
    assert!(matches!(held, Admission::Hold(_)));
    rig.pr(b, PREEMPT_AND_ABORT, 5, 2, 1);
    let aborts = std::mem::take(&mut rig.aborts);
    let held = Task { tag: 11, ..task(a) };
    assert_eq!(
        aborts,
        [
            Abort { task: task(a), running: true, report: false },
            Abort { task: held, running: false, report: false }
        ],
        "b's own task goes on"
    );
    assert!(rig.device.end(task(a), None).release.is_empty());
    assert_eq!(rig.attention(a), Some((0x2F, 0x00)));
    assert_eq!(rig.attention(a), Some((0x2A, 0x05)));
    assert_eq!(rig.reserved(b), Some((2, 5)));
}

fn move_list(key: u64, action_key: u64, flags: u8, port: u16, to: &InitiatorPort) -> Vec<u8> {
    let mut id = Vec::new();
    to.put_transport_id(&mut id);
    let mut list = key.to_be_bytes().to_vec();
    list.extend(action_key.to_be_bytes());
    list.extend([0, flags]);
    list.extend(port.to_be_bytes());
    list.extend((id.len() as u32).to_be_bytes());
    list.extend(id);
    list
}

#[test]
fn moving_a_reservation() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open_at("b", 2));
    rig.pr(a, REGISTER, 0, 0, 1);
    let list = move_list(1, 2, 0x02, 2, &initiator("b"));
    rig.conflict(a, &out(MOVE, 0, list.len()), list.clone());
    rig.pr(a, RESERVE, 3, 1, 0);
    let nowhere = move_list(1, 2, 0, 77, &initiator("b"));
    let to_itself = move_list(1, 2, 0, 1, &initiator("a"));
    for wrong in [nowhere, to_itself] {
        let cdb = out(MOVE, 0, wrong.len());
        let key = SenseKey::IllegalRequest;
        rig.sense_with(a, &cdb, wrong, key, Asc::INVALID_FIELD_IN_PARAMETER_LIST);
    }
    rig.good(a, &out(MOVE, 0, list.len()), list);
    assert_eq!((rig.keys(b), rig.reserved(b)), (vec![2], Some((2, 3))));
    rig.good(b, &ten(0x2A, 0, 0, 1), filled(1, 1));
    rig.conflict(a, &ten(0x28, 0, 0, 1), vec![]);
}

#[test]
fn registering_for_others_and_for_all_ports() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open_at("b", 2));
    let mut ids = Vec::new();
    initiator("b").put_transport_id(&mut ids);
    let mut both = list(0, 5, 0x0C);
    both.extend((ids.len() as u32).to_be_bytes());
    both.extend(ids);
    rig.good(a, &out(REGISTER, 0, both.len()), both.clone());
    assert_eq!(rig.keys(a).len(), 4, "two initiators through two ports");
    let full = rig.read_in(b, 3);
    let descriptors = u32::from_be_bytes(full[4..8].try_into().unwrap()) as usize;
    assert_eq!(descriptors, full.len() - 8);
    assert_eq!(full[20], 0x02, "ALL_TG_PT");
    rig.pr(b, RESERVE, 1, 5, 0);
    rig.conflict(a, &out(REGISTER, 0, both.len()), both.clone());
    let key = SenseKey::IllegalRequest;
    let cdb = out(IGNORE, 0, both.len());
    rig.sense_with(a, &cdb, both.clone(), key, Asc::INVALID_FIELD_IN_PARAMETER_LIST);
    both.pop();
    let c = rig.open("c");
    let cdb = out(REGISTER, 0, both.len());
    rig.sense_with(c, &cdb, both, key, Asc::PARAMETER_LIST_LENGTH_ERROR);
}

#[test]
fn capabilities_say_what_there_is() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    assert_eq!(rig.read_in(a, 2)[..], [0, 8, 0x1D, 0xB0, 0xEA, 0x01, 0, 0]);
    rig.good(a, &out(REGISTER, 0, 24), list(0, 1, 1));
    assert_eq!(rig.read_in(a, 2)[3] & 1, 1, "PTPL_A");
}

#[test]
fn aptpl_survives_power_loss_and_takeover_keeps_all() {
    for aptpl in [0, 1] {
        let mut rig = Rig::new();
        let a = rig.open("a");
        rig.good(a, &out(REGISTER, 0, 24), list(0, 1, aptpl));
        rig.pr(a, RESERVE, 1, 1, 0);
        let record = rig.record.clone();
        assert_eq!(record, rig.device.saved_state(LU));
        for takeover in [false, true] {
            let mut again = Rig::with(LuDescription { takeover, ..description(record.clone()) });
            let (a, b) = (again.open("a"), again.open("b"));
            let kept = aptpl == 1 || takeover;
            assert_eq!(again.reserved(b), kept.then_some((1, 1)), "APTPL {aptpl}, takeover {takeover}");
            again.good(a, &ten(0x2A, 0, 0, 1), filled(1, 1));
            let fenced = again.send(b, &ten(0x2A, 0, 0, 1), filled(1, 1)).status;
            assert_eq!(fenced == Status::ReservationConflict, kept);
        }
    }
}

#[test]
fn a_registration_outlives_its_session() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open("b"));
    rig.pr(a, REGISTER, 0, 0, 1);
    rig.pr(a, RESERVE, 1, 1, 0);
    rig.device.close_nexus(a);
    let status = rig.device.reservations(LU).expect("the LU is there");
    assert_eq!(status.registrations, [(initiator("a"), 1, 1)]);
    assert_eq!((status.kind, status.holder), (Some("Write Exclusive"), Some(initiator("a"))));
    rig.conflict(b, &ten(0x2A, 0, 0, 1), filled(1, 1));
    let again = rig.open("a");
    rig.good(again, &ten(0x2A, 0, 0, 1), filled(1, 1));
    let elsewhere = rig.open_at("a", 2);
    rig.conflict(elsewhere, &ten(0x2A, 0, 0, 1), filled(1, 1));
}

#[test]
fn registrations_are_bounded() {
    let mut rig = Rig::new();
    for index in 0..MAX_REGISTRATIONS {
        let nexus = rig.open(&index.to_string());
        rig.pr(nexus, REGISTER, 0, 0, 1 + index as u64);
    }
    let late = rig.open("late");
    let key = SenseKey::IllegalRequest;
    let cdb = out(REGISTER, 0, 24);
    rig.sense_with(late, &cdb, list(0, 1, 0), key, Asc::INSUFFICIENT_REGISTRATION_RESOURCES);
}

#[test]
fn preempting_ones_own_key_without_a_reservation_unregisters() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open("b"));
    rig.pr(a, REGISTER, 0, 0, 1);
    rig.pr(b, REGISTER, 0, 0, 1);
    rig.pr(a, PREEMPT, 5, 1, 1);
    assert!(rig.device.reservations(LU).expect("the LU is there").registrations.is_empty());
    assert_eq!(rig.attention(a), None, "it knows what it did");
    assert_eq!(rig.attention(b), Some((0x2A, 5)));
    // The holder keeps its registration, and changes the type.
    rig.pr(a, REGISTER, 0, 0, 1);
    rig.pr(a, RESERVE, 5, 1, 0);
    rig.pr(a, PREEMPT, 6, 1, 1);
    assert_eq!(rig.reserved(a), Some((1, 6)));
    // Under All Registrants the reservation goes with its last holder.
    rig.pr(a, PREEMPT, 8, 1, 1);
    rig.pr(a, PREEMPT, 8, 1, 1);
    assert_eq!(rig.reserved(b), None);
}

#[test]
fn reserve_of_spc_2() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open("b"));
    rig.good(a, &[0x16, 0, 0, 0, 0, 0], vec![]);
    rig.good(a, &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0], vec![]);
    rig.conflict(b, &[0x16, 0, 0, 0, 0, 0], vec![]);
    rig.good(b, &[0x17, 0, 0, 0, 0, 0], vec![]);
    for free in [&[0x12, 0, 0, 0, 96, 0][..], &[0x03, 0, 0, 0, 18, 0]] {
        rig.good(b, free, vec![]);
    }
    let mode_sense = [0x1A, 0, 0x3F, 0, 255, 0];
    rig.good(a, &mode_sense, vec![]);
    for fenced in [&mode_sense[..], &[0; 6], &ten(0x28, 0, 0, 1), &[0x5E, 0, 0, 0, 0, 0, 0, 0, 8, 0]] {
        rig.conflict(b, fenced, vec![]);
    }
    rig.conflict(a, &out(REGISTER, 0, 24), list(0, 1, 0));
    rig.conflict(a, &[0x5E, 0, 0, 0, 0, 0, 0, 0, 8, 0], vec![]);
    rig.good(a, &[0x17, 0, 0, 0, 0, 0], vec![]);
    rig.good(b, &[0x16, 0, 0, 0, 0, 0], vec![]);
    rig.device.close_nexus(b);
    rig.good(a, &[0x16, 0, 0, 0, 0, 0], vec![]);
    rig.device.manage(a, lun(0), TaskManagement::LogicalUnitReset);
    let c = rig.open("c");
    rig.good(c, &[0x16, 0, 0, 0, 0, 0], vec![]);
}

#[test]
fn reserve_of_spc_2_beside_persistent_reservations() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open("b"));
    rig.pr(a, REGISTER, 0, 0, 1);
    for cdb in [[0x16, 0, 0, 0, 0, 0], [0x17, 0, 0, 0, 0, 0]] {
        rig.conflict(a, &cdb, vec![]);
    }
    rig.pr(a, RESERVE, 5, 1, 0);
    for cdb in [[0x16, 0, 0, 0, 0, 0], [0x17, 0, 0, 0, 0, 0]] {
        rig.good(a, &cdb, vec![]);
        rig.conflict(b, &cdb, vec![]);
    }
    assert_eq!(rig.reserved(b), Some((1, 5)), "nothing changed");
    rig.pr(b, REGISTER, 0, 0, 2);
    rig.good(b, &[0x16, 0, 0, 0, 0, 0], vec![]);
}

mod random {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// After any run of service actions, sessions coming and going: the state can be stored and read back, and exactly
        /// those write whom the registrations let.
        #[test]
        fn fences_follow_registrations(
            steps in proptest::collection::vec((0u8..10, 0usize..4, 0usize..9, 0u64..4, 0u64..4), 1..60),
        ) {
            let mut rig = Rig::new();
            let who = [("a", 1), ("b", 1), ("c", 1), ("a", 2)];
            let mut open = who.map(|(name, port_id)| rig.open_at(name, port_id));
            for (action, index, kind, key, action_key) in steps {
                let nexus = open[index];
                while rig.attention(nexus).is_some() {}
                match action {
                    MOVE => {
                        let (name, port_id) = who[kind % who.len()];
                        let list = move_list(key, action_key, kind as u8 & 2, port_id, &initiator(name));
                        rig.send(nexus, &out(MOVE, 0, list.len()), list);
                    }
                    8 => {
                        rig.device.close_nexus(nexus);
                        let (name, port_id) = who[index];
                        open[index] = rig.open_at(name, port_id);
                    }
                    9 => {
                        rig.device.manage(nexus, lun(0), TaskManagement::LogicalUnitReset);
                    }
                    _ => {
                        rig.send(nexus, &out(action, kind as u8, 24), list(key, action_key, 0));
                    }
                }
                let record = rig.device.saved_state(LU).expect("the LU is there");
                let saved = saved::parse(&record).expect("what is stored can be read");
                prop_assert_eq!(saved::encode(saved.mode, &saved.reservations, None, &saved.names), record);
                let status = rig.device.reservations(LU).expect("the LU is there");
                for (nexus, (name, port_id)) in open.into_iter().zip(who) {
                    while rig.attention(nexus).is_some() {}
                    let me = initiator(name);
                    let registered = status.registrations.iter().any(|(i, p, _)| *i == me && *p == port_id);
                    let holds = status.holder == Some(me) && registered && saved.reservations.reservation.as_ref()
                        .and_then(|r| r.holder.as_ref()).is_some_and(|h| h.port == port_id);
                    let open_to_registrants = status.kind.is_none_or(|kind| kind.contains("Registrants"));
                    let may = status.kind.is_none() || holds || registered && open_to_registrants;
                    let reply = rig.send(nexus, &ten(0x2A, 0, 0, 1), filled(1, 1));
                    prop_assert_eq!(reply.status == Status::Good, may, "{} {:?}", name, status);
                }
            }
        }
    }
}
