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
