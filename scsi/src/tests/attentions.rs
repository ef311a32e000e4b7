//! Unit attentions: to whom, in which order, and what takes them.

use super::*;

fn pending(rig: &mut Rig, nexus: NexusId) -> Option<(u8, u8)> {
    let data = rig.good(nexus, &[0x03, 0, 0, 0, 18, 0], vec![]);
    (data[2] == 6).then_some((data[12], data[13]))
}

#[test]
fn each_nexus_learns_by_itself() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open("b"));
    rig.device.set_geometry(LU, Geometry { size: 1 << 30, ..geometry() });
    rig.sense(a, &[0; 6], SenseKey::UnitAttention, Asc(0x2A, 0x09));
    rig.good(a, &[0; 6], vec![]);
    rig.sense(b, &[0; 6], SenseKey::UnitAttention, Asc(0x2A, 0x09));
    rig.good(b, &[0; 6], vec![]);
}

#[test]
fn three_commands_run_past_a_unit_attention() {
    let mut rig = Rig::new();
    let map = [(0, LU)].into_iter().collect();
    let a = rig.device.open_nexus(initiator("a"), port(1), map);
    rig.good(a, &[0x12, 0, 0, 0, 96, 0], vec![]);
    rig.good(a, &[0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], vec![]);
    assert_eq!(pending(&mut rig, a), Some((0x29, 0)), "REQUEST SENSE reports it and takes it");
    assert_eq!(pending(&mut rig, a), None);
    rig.good(a, &[0; 6], vec![]);
}

#[test]
fn report_luns_takes_the_change_that_it_reports() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    rig.device.set_lun_map(a, [(0, LU), (1, LU)].into_iter().collect());
    assert!(rig.device.set_lun_map(a, [(0, LU), (1, LU)].into_iter().collect()).abort.is_empty());
    rig.good(a, &[0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], vec![]);
    rig.good(a, &[0; 6], vec![]);
    rig.device.set_lun_map(a, [(0, LU)].into_iter().collect());
    rig.sense(a, &[0; 6], SenseKey::UnitAttention, Asc(0x3F, 0x0E));
}

#[test]
fn a_number_that_means_another_lu_says_so() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let other = LuId(8);
    rig.device.add_lu(other, LuDescription { serial: "other".into(), ..description(None) });
    rig.device.set_lun_map(a, [(0, other)].into_iter().collect());
    let mut told = Vec::new();
    while let Some(code) = pending(&mut rig, a) {
        told.push(code);
    }
    assert_eq!(told, [(0x29, 0x00), (0x3F, 0x0E), (0x3F, 0x03)]);
}

#[test]
fn a_number_that_was_free_in_between_says_so_too() {
    let mut rig = Rig::new();
    let other = LuId(8);
    rig.device.add_lu(other, LuDescription { serial: "other".into(), ..description(None) });
    let a = rig.device.open_nexus(initiator("a"), port(1), [(0, LU), (5, LU)].into_iter().collect());
    rig.device.set_lun_map(a, [(0, LU)].into_iter().collect());
    rig.device.set_lun_map(a, [(0, LU), (5, other), (6, other)].into_iter().collect());
    let told = |rig: &mut Rig, number: u16| {
        let mut told = Vec::new();
        loop {
            let reply = rig.send_to(a, lun(number), &[0; 6], Payload::new());
            match reply.sense {
                Some(sense) => told.push((sense[12], sense[13])),
                None => return told,
            }
        }
    };
    assert_eq!(told(&mut rig, 5), [(0x29, 0x00), (0x3F, 0x0E), (0x3F, 0x03)]);
    assert_eq!(told(&mut rig, 0), [(0x29, 0x00), (0x3F, 0x0E)]);
    // The same LU again under its number is no other one.
    rig.device.set_lun_map(a, [(0, LU)].into_iter().collect());
    rig.device.set_lun_map(a, [(0, LU), (5, other)].into_iter().collect());
    assert_eq!(told(&mut rig, 5), [(0x29, 0x00), (0x3F, 0x0E)]);
}

/// Everything that changes a LU or what is seen of it: what `a`, who does it where a host does it, is told afterwards, and what `b` is.
#[test]
fn every_reconfiguration_tells_every_nexus() {
    type Change = fn(&mut Rig, NexusId);
    type Told = &'static [(u8, u8)];
    let changes: [(&str, Change, Told, Told); 17] = [
        (
            "size",
            |r, _| r.device.set_geometry(LU, Geometry { size: 1 << 30, ..geometry() }),
            &[(0x2A, 0x09)],
            &[(0x2A, 0x09)],
        ),
        ("access", |r, _| r.device.set_access(LU, LuAccess::NonOptimized), &[(0x2A, 0x06)], &[(0x2A, 0x06)]),
        (
            "paths elsewhere",
            |r, _| {
                let far = RemoteGroup { id: 9, access: LuAccess::Standby, ports: vec![3] };
                r.device.set_remote_groups(LU, vec![far]);
            },
            &[(0x2A, 0x06)],
            &[(0x2A, 0x06)],
        ),
        (
            "LUN map",
            |r, a| drop(r.device.set_lun_map(a, [(0, LU), (1, LU)].into_iter().collect())),
            &[(0x3F, 0x0E)],
            &[],
        ),
        ("MODE SELECT", |r, a| drop(r.good(a, &SELECT, SWP.to_vec())), &[], &[(0x2A, 0x01)]),
        (
            "LOG SELECT",
            |r, a| drop(r.good(a, &[0x4C, 2, 0xC0, 0, 0, 0, 0, 0, 0, 0], vec![])),
            &[],
            &[(0x2A, 0x02)],
        ),
        (
            "SET TIMESTAMP",
            |r, a| drop(r.good(a, &[0xA4, 0x0F, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0], vec![0; 12])),
            &[],
            &[(0x2A, 0x10)],
        ),
        (
            "SET IDENTIFYING INFORMATION",
            |r, a| drop(r.good(a, &[0xA4, 0x06, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0], vec![1])),
            &[],
            &[(0x3F, 0x05)],
        ),
        (
            "threshold",
            |r, _| r.device.raise(LU, UnitAttention::ThinProvisioningSoftThreshold),
            &[(0x38, 0x07)],
            &[(0x38, 0x07)],
        ),
        ("LU reset", |r, a| reset(r, a, TaskManagement::LogicalUnitReset), &[(0x29, 0x03)], &[(0x29, 0x03)]),
        (
            "target warm reset",
            |r, a| reset(r, a, TaskManagement::TargetWarmReset),
            &[(0x29, 0x02)],
            &[(0x29, 0x02)],
        ),
        (
            "target cold reset",
            |r, a| reset(r, a, TaskManagement::TargetColdReset),
            &[(0x29, 0x02)],
            &[(0x29, 0x02)],
        ),
        ("nexus reset", |r, a| reset(r, a, TaskManagement::NexusReset), &[(0x29, 0x07)], &[]),
        ("CLEAR of reservations", |r, a| reserve(r, a, 0x03, 0), &[], &[(0x2A, 0x03)]),
        ("RELEASE of a registrants type", |r, a| reserve(r, a, 0x02, 0), &[], &[(0x2A, 0x04)]),
        ("PREEMPT of a registration", |r, a| reserve(r, a, 0x04, 2), &[], &[(0x2A, 0x05)]),
        ("clearing of tasks", clear, &[], &[(0x2F, 0x00)]),
    ];
    for (name, change, a_is_told, b_is_told) in changes {
        let mut rig = Rig::new();
        let (a, b) = (rig.open("a"), rig.open("b"));
        register_both(&mut rig, a, b);
        change(&mut rig, a);
        let mut told = [a, b].map(|nexus| {
            let mut told = Vec::new();
            while let Some(code) = pending(&mut rig, nexus) {
                told.push(code);
            }
            told
        });
        told[0].dedup();
        assert_eq!((&told[0][..], &told[1][..]), (a_is_told, b_is_told), "{name}");
    }
}

/// MODE SELECT (6) of the control page with SWP.
const SELECT: [u8; 6] = [0x15, 0x10, 0, 0, 16, 0];
const SWP: [u8; 16] = [0, 0, 0, 0, 0x0A, 0x0A, 0x02, 0x10, 0x08, 0, 0, 0, 0xFF, 0xFF, 0, 0];

fn reset(rig: &mut Rig, a: NexusId, function: TaskManagement) {
    rig.device.manage(a, lun(0), function);
}

fn key_list(key: u8, action_key: u8) -> Vec<u8> {
    let mut list = vec![0; 24];
    (list[7], list[15]) = (key, action_key);
    list
}

/// Both are registered, and `a` holds Write Exclusive – Registrants Only.
fn register_both(rig: &mut Rig, a: NexusId, b: NexusId) {
    rig.good(a, &[0x5F, 0x00, 0, 0, 0, 0, 0, 0, 24, 0], key_list(0, 1));
    rig.good(b, &[0x5F, 0x00, 0, 0, 0, 0, 0, 0, 24, 0], key_list(0, 2));
    rig.good(a, &[0x5F, 0x01, 0x05, 0, 0, 0, 0, 0, 24, 0], key_list(1, 0));
}

fn reserve(rig: &mut Rig, a: NexusId, action: u8, action_key: u8) {
    rig.good(a, &[0x5F, action, 0x05, 0, 0, 0, 0, 0, 24, 0], key_list(1, action_key));
}

/// CLEAR TASK SET while every other nexus has a task.
fn clear(rig: &mut Rig, a: NexusId) {
    let others: Vec<NexusId> = rig.device.nexuses.keys().copied().filter(|id| *id != a).collect();
    for nexus in others {
        rig.device.begin(nexus, lun(0), 77, TaskAttribute::Simple, &ten(0x2A, 0, 0, 1));
    }
    reset(rig, a, TaskManagement::ClearTaskSet);
}

#[test]
fn access_changes_are_announced_once_per_change() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    rig.device.set_access(LU, LuAccess::Active);
    assert_eq!(pending(&mut rig, a), None, "nothing changed");
    rig.device.set_access(LU, LuAccess::Unavailable);
    assert_eq!(pending(&mut rig, a), Some((0x2A, 0x06)));
    let data = rig.good(a, &[0x03, 0, 0, 0, 18, 0], vec![]);
    assert_eq!((data[2], data[12], data[13]), (2, 0x04, 0x0C), "REQUEST SENSE says why it is not ready");
    rig.device.raise(LU, UnitAttention::ThinProvisioningSoftThreshold);
    assert_eq!(pending(&mut rig, a), Some((0x38, 0x07)));
}

#[test]
fn asking_for_events_takes_nothing() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let ask = |rig: &mut Rig| rig.device.manage(a, lun(0), TaskManagement::QueryAsynchronousEvent).response;
    assert_eq!(ask(&mut rig), ManagementResponse::Complete);
    rig.device.raise(LU, UnitAttention::CapacityDataHasChanged);
    for _ in 0..2 {
        assert_eq!(ask(&mut rig), ManagementResponse::Event([6, 0x2A, 0x09]));
    }
    assert_eq!(pending(&mut rig, a), Some((0x2A, 0x09)));
}

#[test]
fn a_lu_that_comes_later_is_found_by_those_who_map_it() {
    let mut rig = Rig::new();
    let late = LuId(9);
    let a = rig.device.open_nexus(initiator("a"), port(1), [(0, LU), (4, late)].into_iter().collect());
    let reply = rig.send_to(a, lun(4), &[0; 6], Payload::new());
    expect_sense(&reply, &[0], SenseKey::IllegalRequest, Asc::LUN_NOT_SUPPORTED);
    rig.device.add_lu(late, description(None));
    let reply = rig.send_to(a, lun(4), &[0; 6], Payload::new());
    expect_sense(&reply, &[0], SenseKey::UnitAttention, Asc(0x29, 0));
    assert!(rig.device.remove_lu(late).is_empty());
    let reply = rig.send_to(a, lun(4), &[0; 6], Payload::new());
    expect_sense(&reply, &[0], SenseKey::IllegalRequest, Asc::LUN_NOT_SUPPORTED);
}
