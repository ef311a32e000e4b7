//! Removable media, write protection and physical blocks: how an administrator wants a LU to look.

use super::*;
use crate::commands::TABLE;

fn with(traits: LuTraits) -> Rig {
    Rig::with(LuDescription { traits, ..description(None) })
}

const REMOVABLE: LuTraits = LuTraits { removable: true, read_only: false, physical_block: 0 };
const EJECT: [u8; 6] = [0x1B, 0, 0, 0, 2, 0];
const LOAD: [u8; 6] = [0x1B, 0, 0, 0, 3, 0];
const PREVENT: [u8; 6] = [0x1E, 0, 0, 0, 1, 0];
const ALLOW: [u8; 6] = [0x1E, 0, 0, 0, 0, 0];

#[test]
fn without_medium_every_command_that_needs_one_says_so() {
    let mut rig = with(REMOVABLE);
    let a = rig.open("a");
    assert_eq!(rig.good(a, &[0x12, 0, 0, 0, 96, 0], vec![])[1], 0x80, "RMB");
    rig.good(a, &EJECT, vec![]);
    assert!(matches!(rig.requests[..], [BlockRequest::Flush]), "nothing is lost by ejecting");
    rig.requests.clear();
    for row in TABLE {
        let mut cdb = vec![0; row.usage.len()];
        (cdb[0], cdb[1]) = (row.opcode, row.action.unwrap_or(0));
        if row.opcode == 0xA0 {
            cdb[9] = 16;
        }
        if row.medium {
            rig.sense(a, &cdb, SenseKey::NotReady, Asc::MEDIUM_NOT_PRESENT);
        } else {
            let reply = rig.send(a, &cdb, vec![]);
            assert!(reply.sense.is_none_or(|s| s[2] != SenseKey::NotReady as u8), "{}", row.name);
        }
        assert!(!row.writes || row.medium, "{}: writes a medium", row.name);
    }
    let sense = rig.good(a, &[0x03, 0, 0, 0, 18, 0], vec![]);
    assert_eq!((sense[2], sense[12]), (2, 0x3A), "REQUEST SENSE says it as well");
    rig.good(a, &LOAD, vec![]);
    rig.good(a, &[0; 6], vec![]);
}

#[test]
fn others_learn_that_the_medium_is_back() {
    let mut rig = with(REMOVABLE);
    let (a, b) = (rig.open("a"), rig.open("b"));
    rig.good(a, &LOAD, vec![]);
    rig.good(b, &[0; 6], vec![]);
    rig.good(a, &EJECT, vec![]);
    rig.sense(b, &[0; 6], SenseKey::NotReady, Asc::MEDIUM_NOT_PRESENT);
    rig.good(a, &LOAD, vec![]);
    rig.good(a, &[0; 6], vec![]);
    rig.sense(b, &[0; 6], SenseKey::UnitAttention, Asc(0x28, 0x00));
    rig.good(b, &[0; 6], vec![]);
}

#[test]
fn whoever_prevents_removal_stops_everybody_until_it_allows_or_goes() {
    let mut rig = with(REMOVABLE);
    let (a, b) = (rig.open("a"), rig.open("b"));
    rig.good(a, &PREVENT, vec![]);
    for nexus in [a, b] {
        for cdb in [EJECT, LOAD] {
            rig.illegal(nexus, &cdb, Asc::MEDIUM_REMOVAL_PREVENTED);
        }
    }
    rig.good(b, &ALLOW, vec![]);
    rig.illegal(b, &EJECT, Asc::MEDIUM_REMOVAL_PREVENTED);
    rig.device.close_nexus(a);
    rig.good(b, &EJECT, vec![]);
    rig.good(b, &LOAD, vec![]);
    rig.good(b, &PREVENT, vec![]);
    rig.device.manage(b, lun(0), TaskManagement::LogicalUnitReset);
    rig.sense(b, &[0; 6], SenseKey::UnitAttention, Asc(0x29, 0x03));
    rig.good(b, &EJECT, vec![]);
}

#[test]
fn a_power_condition_or_no_loej_ejects_nothing() {
    let mut rig = with(REMOVABLE);
    let a = rig.open("a");
    for power in 1..16u8 {
        rig.good(a, &[0x1B, 1, 0, 0, power << 4 | 2, 0], vec![]);
        rig.good(a, &[0; 6], vec![]);
    }
    for byte in [0, 1, 4, 5] {
        rig.good(a, &[0x1B, 0, 0, 0, byte, 0], vec![]);
        rig.good(a, &[0; 6], vec![]);
    }
}

#[test]
fn a_read_only_lu_refuses_every_write_and_says_so_beforehand() {
    let mut rig = with(LuTraits { read_only: true, ..LuTraits::default() });
    let a = rig.open("a");
    assert_eq!(rig.good(a, &[0x1A, 0, 0x3F, 0, 255, 0], vec![])[2] & 0x80, 0x80, "WP");
    for row in TABLE.iter().filter(|row| row.writes) {
        let mut cdb = vec![0; row.usage.len()];
        (cdb[0], cdb[1]) = (row.opcode, row.action.unwrap_or(0));
        rig.sense(a, &cdb, SenseKey::DataProtect, Asc::HARDWARE_WRITE_PROTECTED);
    }
    rig.good(a, &ten(0x28, 0, 0, 1), vec![]);
    assert!(rig.requests.iter().all(|r| !r.is_write()));
}

#[test]
fn physical_blocks_show_in_capacity_and_limits() {
    for (physical, exponent, granularity) in [(0, 0, 128), (512, 0, 128), (4096, 3, 128), (65536, 7, 128)] {
        let mut rig = with(LuTraits { physical_block: physical, ..LuTraits::default() });
        let a = rig.open("a");
        let capacity = rig.good(a, &[0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0], vec![]);
        assert_eq!(capacity[13], exponent, "LBPPBE of {physical}");
        let limits = rig.good(a, &[0x12, 1, 0xB0, 0, 255, 0], vec![]);
        assert_eq!(limits[31], granularity, "unmap granularity, at least a physical block");
        let optimal = u16::from_be_bytes([limits[6], limits[7]]);
        assert!(optimal.is_multiple_of(1 << exponent));
    }
}
