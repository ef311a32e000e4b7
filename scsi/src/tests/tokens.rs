//! ROD tokens: what they give, to whom, and that it is never other data than they were made for.

use super::copies::{LARGE, OTHER, begin, copy_cdb, naa, open, rig, step};
use super::copy_lists::{blocks, list1, target};
use super::*;

type Ranges<'a> = &'a [(u64, u32)];

fn ranges(list: &mut Vec<u8>, at: usize, ranges: Ranges<'_>) {
    for (lba, count) in ranges {
        list.extend(lba.to_be_bytes());
        list.extend(count.to_be_bytes());
        list.extend([0; 4]);
    }
    let len = (16 * ranges.len()) as u16;
    list[at..at + 2].copy_from_slice(&len.to_be_bytes());
    let len = list.len() as u16 - 2;
    list[..2].copy_from_slice(&len.to_be_bytes());
}

fn populate_list(seconds: u32, blocks: Ranges<'_>) -> Vec<u8> {
    let mut list = vec![0; 16];
    list[4..8].copy_from_slice(&seconds.to_be_bytes());
    ranges(&mut list, 14, blocks);
    list
}

fn write_list(token: &[u8], flags: u8, offset: u64, blocks: Ranges<'_>) -> Vec<u8> {
    let mut list = vec![0; 536];
    list[2] = flags;
    list[8..16].copy_from_slice(&offset.to_be_bytes());
    list[16..528].copy_from_slice(token);
    ranges(&mut list, 534, blocks);
    list
}

/// POPULATE TOKEN or WRITE USING TOKEN with a list identifier.
fn cdb(action: u8, list: u32, len: usize) -> [u8; 16] {
    let mut cdb = copy_cdb(action, len);
    cdb[6..10].copy_from_slice(&list.to_be_bytes());
    cdb
}

fn information(rig: &mut Rig, nexus: NexusId, number: u16, list: u32) -> Bytes {
    let mut cdb = copy_cdb(0x07, 0x1000);
    cdb[0] = 0x84;
    cdb[2..6].copy_from_slice(&list.to_be_bytes());
    let reply = rig.send_to(nexus, lun(number), &cdb, Payload::new());
    assert_eq!(reply.status, Status::Good, "{:?}", reply.sense);
    reply.data.to_bytes()
}

#[track_caller]
fn populate(rig: &mut Rig, nexus: NexusId, blocks: Ranges<'_>) -> Bytes {
    let list = populate_list(0, blocks);
    rig.good(nexus, &cdb(0x10, 1, list.len()), list);
    let information = information(rig, nexus, 0, 1);
    assert_eq!((information[4], information[5], information[15]), (0x10, 0x01, 0xF1));
    let count: u32 = blocks.iter().map(|(_, count)| count).sum();
    assert_eq!(information[16..24], u64::from(count).to_be_bytes());
    assert_eq!(information[32..38], [0, 0, 2, 2, 0, 0]);
    information.slice(38..550)
}

fn write(rig: &mut Rig, nexus: NexusId, number: u16, list: Vec<u8>) -> Reply {
    rig.send_to(nexus, lun(number), &cdb(0x11, 2, list.len()), list.into())
}

#[track_caller]
fn token_refused(reply: &Reply, asc: Asc) {
    expect_sense(reply, &[0x83, 0x11], SenseKey::IllegalRequest, asc);
}

#[test]
fn a_token_gives_the_data_it_was_made_for() {
    let mut rig = rig();
    let a = open(&mut rig, "a");
    let token = populate(&mut rig, a, &[(100, 3000), (8, 8)]);
    let reply = write(&mut rig, a, 1, write_list(&token, 0, 0, &[(0, 10), (500, 2998)]));
    assert_eq!(reply.status, Status::Good, "{:?}", reply.sense);
    let other = &rig.others[&OTHER].0;
    assert!(other[..10 * BS] == rig.disk[100 * BS..110 * BS]);
    assert!(other[500 * BS..3490 * BS] == rig.disk[110 * BS..3100 * BS]);
    assert!(other[3490 * BS..3498 * BS] == rig.disk[8 * BS..16 * BS]);
    let told = information(&mut rig, a, 1, 2);
    assert_eq!((told[4], told[5], &told[16..24]), (0x11, 0x01, &3008u64.to_be_bytes()[..]));
    assert_eq!(told.len(), 36, "no token comes back");
    // From the middle, to a LU with larger blocks, by another host; and then it is deleted.
    let b = open(&mut rig, "b");
    let reply = write(&mut rig, b, 2, write_list(&token, 2, 16, &[(1, 2)]));
    assert_eq!(reply.status, Status::Good, "{:?}", reply.sense);
    assert!(rig.others[&LARGE].0[4096..3 * 4096] == rig.disk[116 * BS..132 * BS]);
    token_refused(&write(&mut rig, b, 2, write_list(&token, 0, 0, &[(1, 2)])), Asc::TOKEN_DELETED);
}

#[test]
fn a_token_says_what_it_is_and_keeps_its_secret() {
    let mut rig = rig();
    let a = open(&mut rig, "a");
    let (token, other) = (populate(&mut rig, a, &[(0, 16)]), populate(&mut rig, a, &[(0, 16)]));
    assert_eq!(token[..8], [0x00, 0x80, 0x00, 0x01, 0, 0, 0x01, 0xF8], "point in time, change vulnerable");
    assert_eq!((token[16], &token[24..40]), (0xE4, &naa(LU)[..]));
    assert_eq!((&token[56..64], &token[96..100]), (&8192u64.to_be_bytes()[..], &[0, 0, 2, 0][..]));
    assert_ne!(token[480..], other[480..]);
    let mut cdb = copy_cdb(0x08, 0x1000);
    cdb[0] = 0x84;
    let all = rig.good(a, &cdb, vec![]);
    assert_eq!((all.len(), &all[8..104], &all[104..]), (200, &token[..96], &other[..96]));
    for at in [10, 15, 200, 480, 511] {
        let mut forged = token.to_vec();
        forged[at] ^= 1;
        token_refused(&write(&mut rig, a, 1, write_list(&forged, 0, 0, &[(0, 1)])), Asc::TOKEN_UNKNOWN);
    }
    let mut foreign = token.to_vec();
    foreign[1] = 0x01;
    token_refused(&write(&mut rig, a, 1, write_list(&foreign, 0, 0, &[(0, 1)])), Asc::UNSUPPORTED_TOKEN_TYPE);
    foreign[7] = 0;
    token_refused(&write(&mut rig, a, 1, write_list(&foreign, 0, 0, &[(0, 1)])), Asc::INVALID_TOKEN_LENGTH);
    assert!(rig.requests.is_empty());
}

#[test]
fn whoever_does_not_see_the_source_cannot_use_its_token() {
    let mut rig = rig();
    let a = open(&mut rig, "a");
    let token = populate(&mut rig, a, &[(0, 16)]);
    let stranger = rig.device.open_nexus(initiator("c"), port(1), [(1, OTHER)].into_iter().collect());
    rig.send_to(stranger, lun(1), &[0; 6], Payload::new());
    token_refused(&write(&mut rig, stranger, 1, write_list(&token, 0, 0, &[(0, 1)])), Asc::TOKEN_UNKNOWN);
    let mut cdb = copy_cdb(0x08, 0x1000);
    cdb[0] = 0x84;
    let all = rig.send_to(stranger, lun(1), &cdb, Payload::new());
    assert_eq!(all.data.len(), 8, "nor learns that there is one");
    // An exclusive reservation at the source fences reading by token like reading.
    let b = open(&mut rig, "b");
    let list = [0u64.to_be_bytes(), 9u64.to_be_bytes(), [0; 8]].concat();
    rig.good(b, &[0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0], list);
    let list = [9u64.to_be_bytes(), [0; 8], [0; 8]].concat();
    rig.good(b, &[0x5F, 1, 3, 0, 0, 0, 0, 0, 24, 0], list);
    let reply = write(&mut rig, a, 1, write_list(&token, 0, 0, &[(0, 1)]));
    assert_eq!(reply.status, Status::ReservationConflict);
    assert!(rig.requests.is_empty());
}

#[test]
fn every_command_that_changes_the_data_revokes_the_token() {
    let writes: [(&[u8], usize); 9] = [
        (&ten(0x2A, 0, 15, 1), 1),
        (&sixteen(0x8A, 0, 8, 8), 8),
        (&ten(0x2E, 0, 15, 2), 2),
        (&ten(0x41, 0, 0, 40), 1),
        (&ten(0x41, 8, 0, 40), 1),
        (&sixteen(0x8B, 0, 15, 1), 1),
        (&[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 15, 0, 0, 0, 1, 0, 0], 2),
        (&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], 0),
        (&[0x0A, 0, 0, 15, 1, 0], 1),
    ];
    for (cdb, data) in writes {
        let mut rig = rig();
        let a = open(&mut rig, "a");
        let token = populate(&mut rig, a, &[(8, 8), (100, 4)]);
        let unmap =
            [&[0, 22, 0, 16, 0, 0, 0, 0][..], &14u64.to_be_bytes(), &[0, 0, 0, 4, 0, 0, 0, 0]].concat();
        let data = if data == 0 { unmap.into() } else { filled(3, data) };
        // What lies beside it does not count, nor does reading.
        rig.good(a, &ten(0x2A, 0, 16, 84), filled(1, 84));
        rig.good(a, &ten(0x28, 0, 0, 200), vec![]);
        let good = write(&mut rig, a, 1, write_list(&token, 0, 0, &[(0, 12)]));
        assert_eq!(good.status, Status::Good, "{:?}", good.sense);
        rig.send(a, cdb, data);
        rig.requests.clear();
        token_refused(&write(&mut rig, a, 1, write_list(&token, 0, 0, &[(0, 12)])), Asc::TOKEN_REVOKED);
        assert!(rig.requests.is_empty(), "{cdb:02x?}");
    }
    let mut rig = rig();
    let a = open(&mut rig, "a");
    let token = populate(&mut rig, a, &[(8, 8)]);
    let list = list1(7, 0, &[target(naa(LU)), target(naa(OTHER))], &[blocks(0, 1, 0, 1, 0, 8)]);
    let reply = rig.send_to(a, lun(1), &copy_cdb(0, list.len()), list.into());
    assert_eq!(reply.status, Status::Good, "a copy that was sent to another LU");
    token_refused(&write(&mut rig, a, 1, write_list(&token, 0, 0, &[(0, 8)])), Asc::TOKEN_REVOKED);
    let token = populate(&mut rig, a, &[(8, 8)]);
    rig.device.data_changed(LU);
    token_refused(&write(&mut rig, a, 1, write_list(&token, 0, 0, &[(0, 8)])), Asc::TOKEN_REVOKED);
    let token = populate(&mut rig, a, &[(8, 8)]);
    rig.device.set_access(LU, LuAccess::Standby);
    rig.device.set_access(LU, LuAccess::Active);
    token_refused(&write(&mut rig, a, 1, write_list(&token, 0, 0, &[(0, 8)])), Asc::TOKEN_REVOKED);
}

#[test]
fn a_change_in_the_middle_stops_the_copy_before_newer_data_is_written() {
    let mut rig = rig();
    let a = open(&mut rig, "a");
    let token = populate(&mut rig, a, &[(0, 4096)]);
    // Sent to LUN 0 by a nexus that sees the LUs in another order.
    let map = [(0, OTHER), (1, LU)].into_iter().collect();
    let b = rig.device.open_nexus(initiator("b"), port(1), map);
    for number in 0..2 {
        rig.send_to(b, lun(number), &[0; 6], Payload::new());
    }
    let list = write_list(&token, 0, 0, &[(0, 4096)]);
    let mut io = begin(&mut rig, b, &cdb(0x11, 2, list.len()), list);
    let mut next = step(&mut rig, &mut io, None);
    for _ in 0..2 {
        let (lu, request) = next.expect("a read, then a write");
        let result = rig.serve(lu, request);
        next = step(&mut rig, &mut io, Some(result));
    }
    let (lu, read) = next.expect("the second read");
    assert!(matches!(read, BlockRequest::Read { .. }) && lu == LU);
    rig.good(a, &ten(0x2A, 0, 4000, 1), filled(0xEE, 1));
    let late = rig.serve(lu, read);
    let reply = step(&mut rig, &mut io, Some(late)).expect_err("what was read may be newer");
    token_refused(&reply, Asc::TOKEN_REVOKED);
    assert!(rig.others[&OTHER].0[..2048 * BS] == rig.disk[..2048 * BS]);
    assert!(rig.others[&OTHER].0[2048 * BS..].iter().all(|byte| *byte == 0));
    let told = information(&mut rig, b, 0, 2);
    assert_eq!((told[5], told[12], &told[16..24]), (0x02, 0x02, &2048u64.to_be_bytes()[..]));
    assert_eq!((told[14], told[32 + 12], told[32 + 13]), (18, 0x23, 0x06));
}

#[test]
fn a_token_waits_for_older_commands() {
    let mut rig = rig();
    let a = open(&mut rig, "a");
    let write = ten(0x2A, 0, 0, 1);
    assert!(matches!(rig.device.begin(a, lun(0), 900, TaskAttribute::Simple, &write), Admission::Run(_)));
    let list = populate_list(0, &[(0, 8)]);
    let held = rig.device.begin(a, lun(0), 901, TaskAttribute::Simple, &cdb(0x10, 1, list.len()));
    assert!(matches!(held, Admission::Hold(_)), "the write may reach the disk before or after");
    let ended = rig.device.end(Task { lu: Some(LU), nexus: a, tag: 900 }, Some(&Reply::good()));
    assert_eq!(ended.release.len(), 1);
    // A write of a copy that is a task of another LU is under way.
    let list = list1(7, 0, &[target(naa(LU)), target(naa(OTHER))], &[blocks(0, 1, 0, 8, 0, 0)]);
    let b = rig.device.open_nexus(initiator("b"), port(1), [(0, OTHER), (1, LU)].into_iter().collect());
    for number in 0..2 {
        rig.send_to(b, lun(number), &[0; 6], Payload::new());
    }
    let mut io = begin(&mut rig, b, &copy_cdb(0, list.len()), list);
    let (lu, read) = step(&mut rig, &mut io, None).expect("a read");
    let read = rig.serve(lu, read);
    step(&mut rig, &mut io, Some(read)).expect("a write");
    let list = populate_list(0, &[(0, 8)]);
    let reply = rig.send(a, &cdb(0x10, 1, list.len()), list);
    assert_eq!(reply.status, Status::Busy);
    populate(&mut rig, a, &[(8, 8)]);
}

#[test]
fn zeros_need_no_source() {
    let mut rig = rig();
    let a = open(&mut rig, "a");
    let mut zero = vec![0; 512];
    zero[..8].copy_from_slice(&[0xFF, 0xFF, 0x00, 0x01, 0, 0, 0x01, 0xF8]);
    let reply = write(&mut rig, a, 0, write_list(&zero, 0, 0, &[(10, 20), (100, 1)]));
    assert_eq!(reply.status, Status::Good, "{:?}", reply.sense);
    assert!(rig.disk[10 * BS..30 * BS].iter().all(|byte| *byte == 0) && rig.disk[30 * BS] != 0);
    assert!(rig.requests.iter().all(|request| matches!(request, BlockRequest::WriteZeroes { .. })));
    assert_eq!(information(&mut rig, a, 0, 2)[16..24], 21u64.to_be_bytes());
}

#[test]
fn tokens_end_when_nobody_uses_them_and_are_bounded() {
    let mut rig = rig();
    let a = open(&mut rig, "a");
    let list = populate_list(10, &[(0, 8)]);
    rig.good(a, &cdb(0x10, 1, list.len()), list);
    let token = information(&mut rig, a, 0, 1).slice(38..550);
    for _ in 0..3 {
        rig.now += Duration::from_secs(9);
        let reply = write(&mut rig, a, 1, write_list(&token, 0, 0, &[(0, 8)]));
        assert_eq!(reply.status, Status::Good, "use keeps it alive");
    }
    rig.now += Duration::from_secs(11);
    token_refused(&write(&mut rig, a, 1, write_list(&token, 0, 0, &[(0, 8)])), Asc::TOKEN_EXPIRED);
    let list = populate_list(3601, &[(0, 8)]);
    let reply = rig.send(a, &cdb(0x10, 1, list.len()), list);
    expect_sense(&reply, &[0x83], SenseKey::IllegalRequest, Asc::INVALID_FIELD_IN_PARAMETER_LIST);
    for _ in 0..256 {
        populate(&mut rig, a, &[(0, 8)]);
    }
    let list = populate_list(0, &[(0, 8)]);
    let reply = rig.send(a, &cdb(0x10, 1, list.len()), list);
    expect_sense(&reply, &[0x83], SenseKey::IllegalRequest, Asc::INSUFFICIENT_RESOURCES_TO_CREATE_TOKEN);
    rig.now += Duration::from_secs(301);
    populate(&mut rig, a, &[(0, 8)]);
}

#[test]
fn lists_of_ranges_are_checked_whole() {
    let mut rig = rig();
    let a = open(&mut rig, "a");
    let token = populate(&mut rig, a, &[(0, 16)]);
    let wrong: [(Ranges<'_>, Asc); 4] = [
        (&[(0, 8), (4, 8)], Asc::INVALID_FIELD_IN_PARAMETER_LIST),
        (&[(0, 8), (BLOCKS, 1)], Asc::LBA_OUT_OF_RANGE),
        (&[(u64::MAX, 2)], Asc::LBA_OUT_OF_RANGE),
        (&[], Asc::INVALID_FIELD_IN_PARAMETER_LIST),
    ];
    for (blocks, asc) in wrong {
        let list = populate_list(0, blocks);
        expect_sense(&rig.send(a, &cdb(0x10, 1, list.len()), list), &[0x83], SenseKey::IllegalRequest, asc);
        token_refused(&write(&mut rig, a, 1, write_list(&token, 0, 0, blocks)), asc);
    }
    for (offset, count) in [(0, 17), (10, 7), (17, 1), (u64::MAX, 1)] {
        let reply = write(&mut rig, a, 1, write_list(&token, 0, offset, &[(0, count)]));
        token_refused(&reply, Asc::INVALID_FIELD_IN_PARAMETER_LIST);
    }
    let reply = write(&mut rig, a, 0, write_list(&token, 0, 0, &[(15, 1)]));
    token_refused(&reply, Asc::INVALID_FIELD_IN_PARAMETER_LIST);
    let whole = write_list(&token, 0, 0, &[(0, 16)]);
    for len in (1..whole.len()).step_by(7) {
        let reply = write(&mut rig, a, 1, whole[..len].to_vec());
        assert_eq!(reply.status, Status::CheckCondition, "{len} bytes");
    }
    let many: Vec<_> = (0..65).map(|lba| (lba, 1)).collect();
    let list = populate_list(0, &many);
    expect_sense(
        &rig.send(a, &cdb(0x10, 1, list.len()), list),
        &[0x83],
        SenseKey::IllegalRequest,
        Asc::PARAMETER_LIST_LENGTH_ERROR,
    );
    assert!(rig.requests.is_empty());
}
