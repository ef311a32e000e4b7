//! SANITIZE: what is written, who is refused meanwhile, and what survives.

use super::*;
use crate::commands::{Access, TABLE};

const BUSY: Asc = Asc(0x04, 0x1B);
const FAILED: Asc = Asc(0x31, 0x03);

fn overwrite(flags: u8, list: &[u8]) -> ([u8; 10], Vec<u8>) {
    let mut cdb = [0x48, 0x01 | flags, 0, 0, 0, 0, 0, 0, 0, 0];
    cdb[7..9].copy_from_slice(&(list.len() as u16).to_be_bytes());
    (cdb, list.to_vec())
}

fn pattern(first: u8, pattern: &[u8]) -> Vec<u8> {
    let mut list = vec![first, 0];
    list.extend((pattern.len() as u16).to_be_bytes());
    list.extend(pattern);
    list
}

const IMMED: u8 = 0x80;
const AUSE: u8 = 0x20;
const ERASE: [u8; 10] = [0x48, 0x02, 0, 0, 0, 0, 0, 0, 0, 0];
const EXIT: [u8; 10] = [0x48, 0x1F, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn overwriting_repeats_the_pattern_in_every_block_and_turns_it() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let (cdb, list) = overwrite(0, &pattern(0x80 | 2, &[1, 2, 3]));
    rig.good(a, &cdb, list);
    let block: Vec<u8> = [!1, !2, !3].into_iter().cycle().take(BS).collect();
    assert!(rig.disk.chunks(BS).all(|b| b == block), "the second pass is inverted");
    let flushes = rig.requests.iter().filter(|r| matches!(r, BlockRequest::Flush)).count();
    assert_eq!(flushes, 2, "each pass reaches the medium");
    assert!(rig.device.operating().is_empty());
    rig.good(a, &ten(0x28, 0, 0, 1), vec![]);
}

#[test]
fn erasing_overwrites_before_it_gives_up() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    rig.disk.fill(7);
    rig.good(a, &ERASE, vec![]);
    assert!(rig.disk.iter().all(|b| *b == 0));
    let first_unmap =
        rig.requests.iter().position(|r| matches!(r, BlockRequest::Unmap { .. })).expect("given up");
    let written: u64 = rig.requests[..first_unmap]
        .iter()
        .filter(|r| matches!(r, BlockRequest::Write { .. }))
        .filter_map(BlockRequest::range)
        .map(twinlun_block::ByteRange::len)
        .sum();
    assert_eq!(written, BLOCKS * BS as u64, "zeros lie over everything before its space is given up");
    assert_eq!(
        rig.good(a, &[0x12, 1, 0xB1, 0, 255, 0], vec![])[7],
        0x40,
        "WABEREQ: reads succeed afterwards"
    );
    let mut rig = Rig::with(LuDescription { thin: false, ..description(None) });
    let a = rig.open("a");
    rig.illegal(a, &ERASE, Asc::INVALID_FIELD_IN_CDB);
    rig.illegal(a, &[0x48, 0x03, 0, 0, 0, 0, 0, 0, 0, 0], Asc::INVALID_FIELD_IN_CDB);
}

#[test]
fn parameter_lists_are_checked_before_anything_happens() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    for len in 0..5u16 {
        let (mut cdb, list) = overwrite(0, &pattern(1, &[1]));
        cdb[7..9].copy_from_slice(&len.to_be_bytes());
        rig.sense_with(a, &cdb, list, SenseKey::IllegalRequest, Asc::INVALID_FIELD_IN_CDB);
    }
    let key = SenseKey::IllegalRequest;
    let (cdb, list) = overwrite(0, &pattern(1, &[1; BS + 1]));
    rig.sense_with(a, &cdb, list, key, Asc::INVALID_FIELD_IN_CDB);
    for bad in [pattern(0, &[1]), pattern(0x21, &[1]), vec![1, 9, 0, 1, 1], vec![1, 0, 0, 0, 1]] {
        let (cdb, list) = overwrite(0, &bad);
        rig.sense_with(a, &cdb, list, key, Asc::INVALID_FIELD_IN_PARAMETER_LIST);
    }
    let (cdb, list) = overwrite(0, &[1, 0, 0, 9, 1]);
    rig.sense_with(a, &cdb, list, key, Asc::PARAMETER_LIST_LENGTH_ERROR);
    let mut erase = ERASE;
    erase[8] = 8;
    rig.sense_with(a, &erase, vec![0; 8], key, Asc::INVALID_FIELD_IN_CDB);
    assert!(rig.requests.is_empty() && rig.device.operating().is_empty());
}

#[test]
fn meanwhile_a_lu_speaks_only_of_itself() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open("b"));
    let (cdb, list) = overwrite(IMMED, &pattern(1, &[1]));
    rig.good(a, &cdb, list);
    assert_eq!(rig.device.operating(), [LU]);
    for nexus in [a, b] {
        for row in TABLE {
            let mut cdb = vec![0; row.usage.len()];
            (cdb[0], cdb[1]) = (row.opcode, row.action.unwrap_or(0));
            if row.opcode == 0xA0 {
                cdb[9] = 16;
            }
            let runs = row.data == Data::In && row.access != Access::Active;
            if runs {
                let reply = rig.send(nexus, &cdb, vec![]);
                assert!(reply.sense.is_none_or(|s| s[12..14] != [0x04, 0x1B]), "{}", row.name);
            } else {
                rig.sense(nexus, &cdb, SenseKey::NotReady, BUSY);
            }
        }
    }
    assert!(rig.requests.is_empty());
    let OperationStep::Submit(request) = rig.device.operation_step(LU) else { panic!("there is work") };
    assert!(rig.device.operation_done(LU, &request, Ok(())));
    let sense = rig.good(a, &[0x03, 0, 0, 0, 18, 0], vec![]);
    assert_eq!((sense[2], sense[12], sense[13], sense[15]), (2, 0x04, 0x1B, 0x80));
    assert_eq!(sense[16..18], 0x8000u16.to_be_bytes(), "1 MiB of 2 MiB");
    for function in [TaskManagement::LogicalUnitReset, TaskManagement::TargetColdReset] {
        rig.device.manage(a, lun(0), function);
    }
    rig.device.close_nexus(a);
    rig.sense(b, &[0; 6], SenseKey::UnitAttention, Asc(0x29, 0x02));
    rig.sense(b, &[0; 6], SenseKey::UnitAttention, Asc(0x29, 0x03));
    rig.sense(b, &[0; 6], SenseKey::NotReady, BUSY);
    rig.operate();
    rig.good(b, &[0; 6], vec![]);
}

#[test]
fn a_start_begins_anew_and_an_end_that_is_stored_stays() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let (cdb, list) = overwrite(IMMED, &pattern(1, &[5]));
    rig.good(a, &cdb, list);
    let ordered = rig.record.take();
    assert!(ordered.is_some(), "durable before the answer");
    let mut again = Rig::with(description(ordered));
    assert_eq!(again.device.operating(), [LU]);
    let b = again.open_refused("b");
    again.operate();
    assert!(again.disk.iter().all(|byte| *byte == 5));
    again.good(b, &ten(0x2A, 0, 0, 1), filled(9, 1));
    let third = Rig::with(description(again.record));
    assert!(third.device.operating().is_empty(), "what was written since is not wiped");
}

#[test]
fn a_failure_is_left_only_as_the_order_allows() {
    for (flags, leaves) in [(0, false), (AUSE, true)] {
        let mut rig = Rig::new();
        let a = rig.open("a");
        rig.good(a, &EXIT, vec![]);
        rig.fail = Some(BlockError::Medium { offset: 0 });
        let (cdb, list) = overwrite(flags, &pattern(1, &[5]));
        rig.sense_with(a, &cdb, list, SenseKey::MediumError, FAILED);
        rig.fail = None;
        rig.sense(a, &ten(0x28, 0, 0, 1), SenseKey::MediumError, FAILED);
        let mut again = Rig::with(description(rig.record.clone()));
        assert!(again.device.operating().is_empty(), "a failure is not tried again by itself");
        let b = again.open("b");
        again.sense(b, &[0; 6], SenseKey::MediumError, FAILED);
        if leaves {
            rig.good(a, &EXIT, vec![]);
        } else {
            rig.illegal(a, &EXIT, Asc::INVALID_FIELD_IN_CDB);
            let (cdb, list) = overwrite(AUSE, &pattern(1, &[5]));
            rig.sense_with(a, &cdb, list, SenseKey::IllegalRequest, Asc::INVALID_FIELD_IN_CDB);
            let (cdb, list) = overwrite(0, &pattern(1, &[5]));
            rig.good(a, &cdb, list);
        }
        rig.good(a, &ten(0x28, 0, 0, 1), vec![]);
        assert!(Rig::with(description(rig.record)).device.operating().is_empty());
    }
}

#[test]
fn an_order_that_cannot_be_stored_touches_nothing() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let (cdb, list) = overwrite(0, &pattern(1, &[5]));
    let command = Command::new(1, &cdb, list.into());
    assert!(matches!(rig.device.execute(a, lun(0), command), Outcome::Settle(_)));
    rig.device.operation_not_stored(LU);
    assert!(rig.device.operating().is_empty());
    rig.sense(a, &[0; 6], SenseKey::MediumError, FAILED);
    rig.good(a, &EXIT, vec![]);
    rig.good(a, &[0; 6], vec![]);
    assert!(rig.requests.is_empty());
}

#[test]
fn a_lu_that_is_not_served_just_now_is_waited_for() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let (cdb, list) = overwrite(IMMED, &pattern(1, &[5]));
    rig.good(a, &cdb, list);
    let OperationStep::Submit(request) = rig.device.operation_step(LU) else { panic!("there is work") };
    for error in [BlockError::NotReady, BlockError::NotServed, BlockError::Aborted] {
        assert!(!rig.device.operation_done(LU, &request, Err(error)));
    }
    rig.operate();
    rig.good(a, &[0; 6], vec![]);
    assert!(rig.disk.iter().all(|byte| *byte == 5));
}

#[test]
fn whatever_was_begun_before_is_aborted() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open("b"));
    let begin = |rig: &mut Rig, nexus, tag, cdb: &[u8]| {
        let Admission::Run(task) = rig.device.begin(nexus, lun(0), tag, TaskAttribute::Simple, cdb) else {
            panic!("runs")
        };
        task
    };
    let mine = begin(&mut rig, a, 1, &ten(0x2A, 0, 0, 1));
    let other = begin(&mut rig, b, 1, &ten(0x2A, 0, 0, 1));
    let me = begin(&mut rig, a, 2, &ERASE);
    let managed = rig.device.operation_alone(me);
    let tasks: Vec<_> = managed.abort.iter().map(|abort| abort.task).collect();
    assert_eq!(tasks, [mine, other]);
    rig.sense(b, &[0; 6], SenseKey::UnitAttention, Asc(0x2F, 0x00));
}
