//! The command table against itself, and what is derived from it.

use super::*;
use crate::commands::{Access, Conflict, TABLE, lookup};

#[test]
fn every_row_is_whole() {
    for (index, row) in TABLE.iter().enumerate() {
        let name = row.name;
        assert_eq!(row.usage[0], row.opcode, "{name}: usage begins with the opcode");
        let by_group = match row.opcode >> 5 {
            0 => 6,
            1 | 2 => 10,
            4 => 16,
            _ => 12,
        };
        assert_eq!(row.usage.len(), by_group, "{name}: length of its group");
        assert_eq!(row.usage.last(), Some(&4), "{name}: NACA may be set");
        assert_eq!(
            row.action.map_or(0, |_| row.usage[1] & 0x1F),
            0,
            "{name}: the service action is left out"
        );
        if index > 0 {
            let before = (TABLE[index - 1].opcode, TABLE[index - 1].action);
            assert!(before < (row.opcode, row.action), "{name}: in order and once");
        }
        let mut cdb = [0; 16];
        (cdb[0], cdb[1]) = (row.opcode, row.action.unwrap_or(0));
        assert_eq!(lookup(&cdb, true).map(|found| found.name), Ok(name), "{name}: is found");
    }
}

#[test]
fn whatever_writes_is_a_writer_and_runs_only_where_hosts_are_served() {
    for row in TABLE.iter().filter(|row| row.writes) {
        assert_eq!(row.conflict, Conflict::Writer, "{}", row.name);
        assert_eq!(row.access, Access::Active, "{}", row.name);
        assert_ne!(row.data, Data::In, "{}", row.name);
    }
}

#[test]
fn reserved_bits_are_refused_and_pointed_at() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    for row in TABLE {
        for (byte, usage) in row.usage.iter().enumerate().skip(1) {
            let allowed = if byte == 1 && row.action.is_some() { usage | 0x1F } else { *usage };
            for bit in (0..8).filter(|bit| allowed >> bit & 1 == 0) {
                let mut cdb = vec![0; row.usage.len()];
                (cdb[0], cdb[1]) = (row.opcode, row.action.unwrap_or(0));
                cdb[byte] |= 1 << bit;
                let sense = rig.illegal(a, &cdb, Asc::INVALID_FIELD_IN_CDB);
                assert_eq!(sense[15], 0xC8 | bit, "{}: byte {byte}", row.name);
                assert_eq!(sense[16..18], [0, byte as u8], "{}", row.name);
            }
        }
    }
}

#[test]
fn unknown_opcodes_and_service_actions_are_told_apart() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    rig.illegal(a, &[0xC5], Asc::INVALID_OPCODE);
    rig.illegal(a, &[0x9E, 0x1F], Asc::INVALID_FIELD_IN_CDB);
    for action in 4..0x20 {
        rig.illegal(a, &[0x5E, action, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0], Asc::INVALID_FIELD_IN_CDB);
    }
}

fn supported(options: u8, opcode: u8, action: u8) -> [u8; 12] {
    [0xA3, 0x0C, options, opcode, 0, action, 0, 0, 0xFF, 0xFF, 0, 0]
}

#[test]
fn supported_operation_codes_are_the_table() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    for (timeouts, size) in [(0, 8), (0x80, 20)] {
        let all = rig.good(a, &supported(timeouts, 0, 0), vec![]);
        assert_eq!(all.len(), 4 + size * TABLE.len());
        assert_eq!(u32::from_be_bytes(all[..4].try_into().unwrap()) as usize, all.len() - 4);
        for (entry, row) in all[4..].chunks(size).zip(TABLE) {
            let has_action = u8::from(row.action.is_some());
            assert_eq!(entry[0], row.opcode);
            assert_eq!(entry[3], row.action.unwrap_or(0));
            assert_eq!(entry[5], timeouts >> 6 | has_action);
            assert_eq!(usize::from(entry[7]), row.usage.len());
            if timeouts != 0 {
                assert_eq!(entry[8..10], [0, 0x0A]);
            }
            let (right, wrong) = if has_action == 1 { (2, 1) } else { (1, 2) };
            let action = row.action.unwrap_or(0);
            let one = rig.good(a, &supported(right, row.opcode, action), vec![]);
            assert_eq!(one[..4], [0, 3, 0, row.usage.len() as u8]);
            assert_eq!(one[4], row.opcode);
            assert_eq!(one[5] & 0x1F & !row.usage[1], action, "the service action shows in the usage data");
            rig.illegal(a, &supported(wrong, row.opcode, action), Asc::INVALID_FIELD_IN_CDB);
            rig.good(a, &supported(3, row.opcode, action), vec![]);
        }
    }
    assert_eq!(rig.good(a, &supported(1, 0xC5, 0), vec![])[..2], [0, 1], "not supported");
    rig.illegal(a, &supported(4, 0, 0), Asc::INVALID_FIELD_IN_CDB);
}

#[test]
fn a_thick_lu_has_no_unmap() {
    let mut rig = Rig::with(LuDescription { thin: false, ..description(None) });
    let a = rig.open("a");
    rig.illegal(a, &[0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0], Asc::INVALID_OPCODE);
    assert_eq!(rig.good(a, &supported(1, 0x42, 0), vec![])[1], 1);
    rig.sense_with(
        a,
        &ten(0x41, 0x08, 0, 1),
        filled(0, 1),
        SenseKey::IllegalRequest,
        Asc::INVALID_FIELD_IN_CDB,
    );
    let limits = rig.good(a, &[0x12, 1, 0xB0, 0, 255, 0], vec![]);
    assert_eq!(limits[20..32], [0; 12]);
    assert_eq!(rig.good(a, &[0x12, 1, 0xB2, 0, 255, 0], vec![])[4..], [0; 4]);
}

#[test]
fn every_row_obeys_the_access_state() {
    for (access, asc) in [
        (LuAccess::Standby, Asc::TARGET_PORT_IN_STANDBY),
        (LuAccess::Unavailable, Asc::TARGET_PORT_UNAVAILABLE),
        (LuAccess::NotReady, Asc::BECOMING_READY),
    ] {
        let mut rig = Rig::new();
        let a = rig.open("a");
        rig.device.set_access(LU, access);
        rig.sense(a, &[0; 6], SenseKey::UnitAttention, Asc(0x2A, 0x06));
        for row in TABLE {
            let mut cdb = vec![0; row.usage.len()];
            (cdb[0], cdb[1]) = (row.opcode, row.action.unwrap_or(0));
            if row.opcode == 0xA0 {
                cdb[9] = 16;
            }
            let refused = match row.access {
                Access::Any => false,
                Access::Standby => access == LuAccess::Unavailable,
                Access::Active => true,
            };
            if refused {
                rig.sense(a, &cdb, SenseKey::NotReady, asc);
            } else {
                let reply = rig.send(a, &cdb, vec![]);
                assert!(reply.sense.is_none_or(|s| s[2] != SenseKey::NotReady as u8), "{}", row.name);
            }
        }
        assert!(rig.requests.is_empty(), "nothing reaches the block layer");
    }
}
