//! Time, names, self-test, statistics and thresholds.

use std::time::Duration;

use super::*;

fn list_cdb(opcode: u8, action: u8, len: usize, byte10: u8) -> [u8; 12] {
    [opcode, action, 0, 0, 0, 0, 0, 0, (len >> 8) as u8, len as u8, byte10, 0]
}

#[test]
fn the_timestamp_is_the_clock_until_a_host_sets_it() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open("b"));
    let report = list_cdb(0xA3, 0x0F, 255, 0);
    let set = list_cdb(0xA4, 0x0F, 12, 0);
    assert!(needs_time(&report) && needs_time(&set) && !needs_time(&list_cdb(0xA3, 0x0C, 0, 0)));
    rig.device.set_time(Duration::from_millis(1_000_000));
    let data = rig.good(a, &report, vec![]);
    assert_eq!((data.len(), data[1], data[2]), (12, 10, 3));
    assert_eq!(data[4..10], 1_000_000u64.to_be_bytes()[2..]);
    let mut list = vec![0; 12];
    list[4..10].copy_from_slice(&50u64.to_be_bytes()[2..]);
    rig.good(a, &set, list);
    rig.sense(b, &[0; 6], SenseKey::UnitAttention, Asc(0x2A, 0x10));
    rig.device.set_time(Duration::from_millis(1_000_007));
    let data = rig.good(b, &report, vec![]);
    assert_eq!((data[2], &data[4..10]), (2, &57u64.to_be_bytes()[2..]));
    let wrong = list_cdb(0xA4, 0x0F, 11, 0);
    rig.sense_with(a, &wrong, vec![0; 11], SenseKey::IllegalRequest, Asc::PARAMETER_LIST_LENGTH_ERROR);
}

#[test]
fn names_are_kept() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open("b"));
    let report = |kind: u8| list_cdb(0xA3, 0x05, 255, kind << 1);
    assert_eq!(rig.good(a, &report(0), vec![])[..], [0; 4]);
    assert_eq!(rig.good(a, &report(0x7F), vec![])[..], [0, 0, 0, 8, 0, 0, 0, 64, 4, 0, 1, 0]);
    rig.good(a, &list_cdb(0xA4, 0x06, 5, 0), b"hello".to_vec());
    rig.sense(b, &[0; 6], SenseKey::UnitAttention, Asc(0x3F, 0x05));
    rig.good(a, &list_cdb(0xA4, 0x06, 3, 4), b"db\0".to_vec());
    let record = rig.record.take();
    let mut again = Rig::with(description(record));
    let a = again.open("a");
    assert_eq!(again.good(a, &report(0), vec![])[4..], *b"hello");
    assert_eq!(again.good(a, &report(2), vec![])[4..], *b"db\0");
    let key = SenseKey::IllegalRequest;
    again.sense_with(a, &list_cdb(0xA4, 0x06, 65, 0), vec![0; 65], key, Asc::PARAMETER_LIST_LENGTH_ERROR);
    again.sense_with(
        a,
        &list_cdb(0xA4, 0x06, 2, 4),
        vec![0xFF, 0],
        key,
        Asc::INVALID_FIELD_IN_PARAMETER_LIST,
    );
    again.illegal(a, &report(1), Asc::INVALID_FIELD_IN_CDB);
}

#[test]
fn the_self_test_reads_the_medium() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    rig.good(a, &[0x1D, 0x04, 0, 0, 0, 0], vec![]);
    assert_eq!(rig.requests.len(), 2, "both ends");
    rig.fail = Some(BlockError::Medium { offset: 0 });
    let reply = rig.send(a, &[0x1D, 0x04, 0, 0, 0, 0], vec![]);
    assert_eq!(reply.status, Status::CheckCondition);
    rig.good(a, &[0x1D, 0, 0, 0, 0, 0], vec![]);
    rig.illegal(a, &[0x1D, 0x24, 0, 0, 0, 0], Asc::INVALID_FIELD_IN_CDB);
    assert_eq!(rig.good(a, &[0x1C, 1, 0, 0, 255, 0], vec![])[..], [0, 0, 0, 1, 0]);
    rig.illegal(a, &[0x1C, 1, 1, 0, 255, 0], Asc::INVALID_FIELD_IN_CDB);
}

#[test]
fn statistics_count_commands_and_blocks() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open("b"));
    rig.good(a, &ten(0x28, 0, 0, 3), vec![]);
    rig.good(a, &ten(0x2A, 0, 0, 2), filled(1, 2));
    rig.good(a, &ten(0x2A, 0, 0, 2), filled(1, 2));
    let sense = [0x4D, 0, 0x40 | 0x19, 0, 0, 0, 0, 0, 255, 0];
    let data = rig.good(a, &sense, vec![]);
    let count = |data: &[u8], index: usize| {
        u64::from_be_bytes(data[8 + 8 * index..16 + 8 * index].try_into().unwrap())
    };
    assert_eq!((data.len(), data[7]), (72, 0x40));
    assert_eq!([0, 1, 2, 3].map(|index| count(&data, index)), [1, 2, 4, 3]);
    rig.good(a, &[0x4C, 2, 0xC0, 0, 0, 0, 0, 0, 0, 0], vec![]);
    rig.sense(b, &[0; 6], SenseKey::UnitAttention, Asc(0x2A, 0x02));
    let data = rig.good(a, &sense, vec![]);
    assert_eq!([0, 1, 2, 3].map(|index| count(&data, index)), [0; 4]);
    rig.illegal(a, &[0x4C, 3, 0xC0, 0, 0, 0, 0, 0, 0, 0], Asc::INVALID_FIELD_IN_CDB);
}

/// MODE SELECT of LBPERE and of the threshold page.
fn thresholds(rig: &mut Rig, nexus: NexusId, available: u32, used: u32) {
    let mut recovery = rig.good(nexus, &[0x1A, 0x08, 0x01, 0, 255, 0], vec![])[4..].to_vec();
    recovery[0] &= 0x7F;
    recovery[7] |= 0x80;
    let mut page = rig.good(nexus, &[0x1A, 0x08, 0x1C, 2, 255, 0], vec![])[4..].to_vec();
    page[0] &= 0x7F;
    assert_eq!((page.len(), page[17], page[25], page[24] & 7), (32, 1, 2, 1));
    for (at, count) in [(16, available), (24, used)] {
        page[at] = page[at] & 7 | if count > 0 { 0x80 } else { 0 };
        page[at + 4..at + 8].copy_from_slice(&count.to_be_bytes());
    }
    let mut list = vec![0; 4];
    list.extend(recovery);
    list.extend(page);
    rig.good(nexus, &[0x15, 0x11, 0, 0, list.len() as u8, 0], list);
}

#[test]
fn a_threshold_is_announced_once_until_it_is_left() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open("b"));
    thresholds(&mut rig, a, 10, 100);
    rig.sense(b, &[0; 6], SenseKey::UnitAttention, Asc(0x2A, 0x01));
    let soft = Asc(0x38, 0x07);
    let space = |available: u64, used: u64| Space { available: available << 20, used: used << 20 };
    rig.device.set_space(LU, space(11, 1));
    rig.good(a, &[0; 6], vec![]);
    for _ in 0..2 {
        rig.device.set_space(LU, space(10, 1));
    }
    for nexus in [a, b] {
        rig.sense(nexus, &[0; 6], SenseKey::UnitAttention, soft);
        rig.good(nexus, &[0; 6], vec![]);
    }
    rig.device.set_space(LU, space(50, 1));
    rig.device.set_space(LU, space(50, 100));
    rig.sense(a, &[0; 6], SenseKey::UnitAttention, soft);
    let mut again = Rig::with(description(rig.record));
    let c = again.open("c");
    again.device.set_space(LU, space(3, 1));
    again.sense(c, &[0; 6], SenseKey::UnitAttention, soft);
    let mut thick = Rig::with(LuDescription { thin: false, ..description(None) });
    let d = thick.open("d");
    thick.illegal(d, &[0x1A, 0x08, 0x1C, 2, 255, 0], Asc::INVALID_FIELD_IN_CDB);
}
