//! EXTENDED COPY: what is copied, between whom, and how it ends when it cannot go on.

use super::copy_lists::{blocks, bytes, list1, list4, target};
use super::*;

pub(crate) const OTHER: LuId = LuId(8);
/// A LU with blocks of 4096 bytes.
pub(crate) const LARGE: LuId = LuId(9);
/// A LU that no nexus sees, until a test says so.
const HIDDEN: LuId = LuId(10);

pub(crate) fn naa(lu: LuId) -> [u8; 16] {
    let mut naa = description(None).naa;
    naa[15] = lu.0 as u8;
    naa
}

/// Four LUs; hosts see all but the last.
pub(crate) fn rig() -> Rig {
    let mut rig = Rig::with(LuDescription { naa: naa(LU), ..description(None) });
    for (lu, block_size) in [(OTHER, BlockSize::B512), (LARGE, BlockSize::B4096), (HIDDEN, BlockSize::B512)] {
        let geometry = Geometry { block_size, ..geometry() };
        rig.device.add_lu(lu, LuDescription { naa: naa(lu), geometry, ..description(None) });
        rig.others.insert(lu, (vec![0; geometry.size as usize], block_size.bytes() as usize));
    }
    for (at, byte) in rig.disk.iter_mut().enumerate() {
        *byte = (at / BS + at % 7) as u8 | 1;
    }
    rig
}

pub(crate) fn open(rig: &mut Rig, name: &str) -> NexusId {
    let map = [(0, LU), (1, OTHER), (2, LARGE)].into_iter().collect();
    let nexus = rig.device.open_nexus(initiator(name), port(1), map);
    for number in 0..3 {
        rig.send_to(nexus, lun(number), &[0; 6], Payload::new());
    }
    nexus
}

pub(crate) fn copy_cdb(action: u8, len: usize) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (0x83, action);
    cdb[10..14].copy_from_slice(&(len as u32).to_be_bytes());
    cdb
}

/// EXTENDED COPY(LID1) to LUN 0, with the first three LUs as targets.
fn copy(rig: &mut Rig, nexus: NexusId, segments: &[Vec<u8>]) -> Reply {
    let list = list1(7, 0, &[target(naa(LU)), target(naa(OTHER)), target(naa(LARGE))], segments);
    rig.send(nexus, &copy_cdb(0, list.len()), list)
}

/// COPY ABORTED: additional sense code, segment, and the sense data and status that it forwards from the source (0) or destination (1).
/// From the source (0) or destination (1), status, sense data.
type Forward = (usize, u8, Vec<u8>);

#[track_caller]
fn aborted(reply: &Reply) -> (Asc, u16, Option<Forward>) {
    let sense = reply.sense.expect("CHECK CONDITION has sense data");
    assert_eq!(sense[2] & 0x0F, SenseKey::CopyAborted as u8, "{sense:?}");
    let forwarded = [8, 9].iter().position(|at| sense[*at] != 0);
    let forwarded = forwarded.map(|which| {
        let at = usize::from(sense[8 + which]);
        (which, sense[at], sense[at + 1..].to_vec())
    });
    (Asc(sense[12], sense[13]), u16::from_be_bytes([sense[10], sense[11]]), forwarded)
}

fn receive(rig: &mut Rig, nexus: NexusId, action: u8, list: u32) -> Reply {
    let mut cdb = copy_cdb(action, 0x1000);
    cdb[0] = 0x84;
    match action {
        0x00 | 0x01 | 0x04 => cdb[2] = list as u8,
        0x05 | 0x07 => cdb[2..6].copy_from_slice(&list.to_be_bytes()),
        _ => {}
    }
    rig.send(nexus, &cdb, vec![])
}

#[test]
fn segments_are_copied_in_order_and_counted() {
    let mut rig = rig();
    let a = open(&mut rig, "a");
    let reply = copy(
        &mut rig,
        a,
        &[blocks(0, 0, 1, 3000, 10, 20), blocks(0, 1, 0, 1, 20, 0), blocks(0, 0, 1, 0, 0, 0)],
    );
    assert_eq!(reply.status, Status::Good, "{:?}", reply.sense);
    assert_eq!(rig.others[&OTHER].0[20 * BS..3020 * BS], rig.disk[10 * BS..3010 * BS]);
    assert_eq!(rig.disk[..BS], rig.disk[10 * BS..11 * BS]);
    // Chunks of a megabyte: two reads and two writes, then one of each.
    assert_eq!(rig.requests.len(), 6);
    let status = receive(&mut rig, a, 0, 7).data.to_bytes();
    assert_eq!(status[..], [0, 0, 0, 8, 1, 0, 3, 0, 0, 0x17, 0x72, 0], "3 segments, 3001 blocks");
    assert_eq!(receive(&mut rig, a, 4, 7).data.to_bytes()[..], [0; 4], "there is no failure to tell of");
    assert_eq!(receive(&mut rig, a, 1, 7).data.to_bytes()[..], [0; 4], "and nothing is held");
    let other = open(&mut rig, "b");
    let sense = receive(&mut rig, other, 0, 7);
    expect_sense(&sense, &[0x84], SenseKey::IllegalRequest, Asc::INVALID_FIELD_IN_CDB);
}

#[test]
fn the_long_form_knows_the_lu_it_is_sent_to() {
    let mut rig = rig();
    let a = open(&mut rig, "a");
    let list = list4(0x1_0007, &[target(naa(OTHER))], &[blocks(0, 0xFFFF, 0, 4, 0, 0)]);
    rig.good(a, &copy_cdb(1, list.len()), list);
    assert_eq!(rig.others[&OTHER].0[..4 * BS], rig.disk[..4 * BS]);
    let status = receive(&mut rig, a, 5, 0x1_0007).data.to_bytes();
    assert_eq!((status.len(), status[3], status[4], status[5]), (32, 28, 1, 1));
    assert_eq!((&status[16..24], &status[24..26]), (&2048u64.to_be_bytes()[..], &[0, 1][..]));
    rig.good(a, &copy_cdb(1, 0), vec![]);
}

#[test]
fn a_range_that_overlaps_itself_is_moved_whole() {
    for (source, destination) in [(0, 1000), (1000, 0), (5, 5)] {
        let mut rig = rig();
        let a = open(&mut rig, "a");
        let mut expected = rig.disk.clone();
        expected.copy_within(source * BS..(source + 3000) * BS, destination * BS);
        let reply = copy(&mut rig, a, &[blocks(0, 0, 0, 3000, source as u64, destination as u64)]);
        assert_eq!(reply.status, Status::Good);
        assert!(rig.disk == expected, "from {source} to {destination}");
    }
}

#[test]
fn block_sizes_may_differ_where_the_segment_is_exact_or_padded() {
    let mut rig = rig();
    let a = open(&mut rig, "a");
    let reply = copy(&mut rig, a, &[blocks(0, 0, 2, 16, 1, 3), blocks(2, 0, 2, 1, 0, 9)]);
    assert_eq!(reply.status, Status::Good, "{:?}", reply.sense);
    assert_eq!(rig.others[&LARGE].0[3 * 4096..5 * 4096], rig.disk[BS..17 * BS]);
    assert_eq!(rig.others[&LARGE].0[9 * 4096..10 * 4096], rig.disk[..4096], "DC counts destination blocks");
    let reply = copy(&mut rig, a, &[blocks(0, 0, 2, 1, 0, 0), blocks(0, 0, 2, 9, 0, 0)]);
    assert_eq!(aborted(&reply).0, Asc::UNEXPECTED_INEXACT_SEGMENT);
    let mut padded = target(naa(LARGE));
    padded[28] = 4;
    rig.others.get_mut(&LARGE).expect("it is there").0[..8192].fill(0xEE);
    let list = list1(1, 0, &[target(naa(LU)), padded], &[blocks(0, 0, 1, 9, 0, 0)]);
    rig.good(a, &copy_cdb(0, list.len()), list);
    let large = &rig.others[&LARGE].0;
    assert!(large[..9 * BS] == rig.disk[..9 * BS] && large[9 * BS..8192].iter().all(|byte| *byte == 0));
}

#[test]
fn bytes_are_copied_to_where_a_block_begins() {
    let mut rig = rig();
    let a = open(&mut rig, "a");
    let reply = copy(&mut rig, a, &[bytes(0, 1, 1024, (3, 100), (4, 512))]);
    assert_eq!(reply.status, Status::Good, "{:?}", reply.sense);
    assert_eq!(rig.others[&OTHER].0[5 * BS..7 * BS], rig.disk[3 * BS + 100..5 * BS + 100]);
    let reply = copy(&mut rig, a, &[bytes(0, 1, 1024, (3, 0), (4, 100))]);
    assert_eq!(aborted(&reply).0, Asc::COPY_SEGMENT_GRANULARITY_VIOLATION);
}

#[test]
fn only_lus_of_the_nexus_can_be_named() {
    let mut rig = rig();
    let a = open(&mut rig, "a");
    for segment in [blocks(0, 1, 0, 1, 0, 0), blocks(0, 0, 1, 1, 0, 0)] {
        for stranger in [naa(HIDDEN), [0x60; 16]] {
            let list = list1(7, 0, &[target(naa(LU)), target(stranger)], std::slice::from_ref(&segment));
            let reply = rig.send(a, &copy_cdb(0, list.len()), list);
            assert_eq!(
                aborted(&reply),
                (Asc::COPY_TARGET_DEVICE_NOT_REACHABLE, 0, None),
                "they are not told apart"
            );
        }
    }
    // In the middle of a copy as well.
    let list = list1(7, 0, &[target(naa(LU)), target(naa(OTHER))], &[blocks(0, 0, 1, 4000, 0, 0)]);
    let mut cdb = [0; 16];
    cdb.copy_from_slice(&copy_cdb(0, list.len()));
    let mut io = begin(&mut rig, a, &cdb, list);
    step(&mut rig, &mut io, None).expect("a read");
    rig.device.set_lun_map(a, [(0, LU)].into_iter().collect());
    let data = filled(1, 2048);
    let reply = step(&mut rig, &mut io, Some(Ok(data))).expect_err("it has nowhere to go");
    assert_eq!(aborted(&reply).0, Asc::COPY_TARGET_DEVICE_NOT_REACHABLE);
    assert!(rig.requests.is_empty());
}

/// A copy that is begun by hand.
pub(crate) fn begin(rig: &mut Rig, nexus: NexusId, cdb: &[u8; 16], list: Vec<u8>) -> Io {
    let moment = Some(rig.moment());
    let admission = rig.device.begin(nexus, lun(0), rig.tag, TaskAttribute::Simple, cdb);
    assert!(matches!(admission, Admission::Run(_)));
    let command = Command { moment, ..Command::new(rig.tag, cdb, list.into()) };
    match rig.device.execute(nexus, lun(0), command) {
        Outcome::Io(io) => io,
        other => panic!("it is a copy: {other:?}"),
    }
}

pub(crate) fn step(
    rig: &mut Rig,
    io: &mut Io,
    previous: Option<BlockResult>,
) -> Result<(LuId, BlockRequest), Box<Reply>> {
    match rig.device.step(io, previous) {
        Step::Submit(request) => Ok((io.lu(), request)),
        Step::Done(reply) => Err(Box::new(reply)),
    }
}

#[test]
fn reservations_of_both_lus_are_asked_before_every_step() {
    let mut rig = rig();
    let (a, b) = (open(&mut rig, "a"), open(&mut rig, "b"));
    let pr = |rig: &mut Rig, nexus, action: u8, kind: u8, key: u64, new: u64| {
        let mut list = [key.to_be_bytes(), new.to_be_bytes(), [0; 8]].concat();
        list.truncate(24);
        let reply = rig.send_to(nexus, lun(1), &[0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0], list.into());
        assert_eq!(reply.status, Status::Good);
    };
    let list = list1(7, 0, &[target(naa(LU)), target(naa(OTHER))], &[blocks(0, 0, 1, 4000, 0, 0)]);
    let mut io = begin(&mut rig, a, &copy_cdb(0, list.len()), list);
    step(&mut rig, &mut io, None).expect("a read");
    pr(&mut rig, b, 0, 0, 0, 1);
    pr(&mut rig, b, 1, 1, 1, 0);
    let reply =
        step(&mut rig, &mut io, Some(Ok(filled(1, 2048)))).expect_err("b has fenced the destination off");
    let (asc, _, forwarded) = aborted(&reply);
    assert_eq!((asc, forwarded), (Asc::THIRD_PARTY_DEVICE_FAILURE, Some((1, 0x18, vec![]))));
    // Write exclusive: a may still read it.
    let reply = copy(&mut rig, a, &[blocks(0, 1, 0, 1, 0, 0)]);
    assert_eq!(reply.status, Status::Good);
    pr(&mut rig, b, 2, 1, 1, 0);
    pr(&mut rig, b, 1, 3, 1, 0);
    let reply = copy(&mut rig, a, &[blocks(0, 1, 0, 1, 0, 0)]);
    assert_eq!(aborted(&reply).2, Some((0, 0x18, vec![])), "exclusive access: not even that");
    assert_eq!(copy(&mut rig, b, &[blocks(0, 0, 1, 1, 0, 0)]).status, Status::Good);
}

#[test]
fn what_a_source_or_destination_says_is_forwarded() {
    let mut rig = rig();
    let a = open(&mut rig, "a");
    rig.device.set_access(OTHER, LuAccess::Standby);
    let (asc, segment, forwarded) =
        aborted(&copy(&mut rig, a, &[blocks(0, 0, 0, 1, 0, 1), blocks(0, 0, 1, 1, 0, 0)]));
    assert_eq!((asc, segment), (Asc::THIRD_PARTY_DEVICE_FAILURE, 1));
    let (which, status, sense) = forwarded.expect("the destination said something");
    assert_eq!((which, status, sense[2], sense[12], sense[13]), (1, 2, 2, 0x04, 0x0B));
    rig.device.set_access(OTHER, LuAccess::Active);
    rig.fail = Some(BlockError::Medium { offset: 512 * 40 });
    let reply = copy(&mut rig, a, &[blocks(0, 0, 1, 5, 40, 0)]);
    let (_, _, forwarded) = aborted(&reply);
    let (which, _, sense) = forwarded.expect("the source said something");
    assert_eq!((which, sense[2], sense[12], sense[6]), (0, 3, 0x11, 40));
    let whole = reply.sense.expect("sense");
    assert_eq!((whole[0], &whole[3..7]), (0xF0, &[0, 0, 0, 5][..]), "residue: five blocks");
    assert_eq!(whole[15..18], [0x80, 0, 16], "the CSCD descriptor of the source");
    let details = receive(&mut rig, a, 4, 7).data.to_bytes();
    assert_eq!((details[56], &details[60..]), (2, &whole[..]));
    let gone = receive(&mut rig, a, 4, 7);
    expect_sense(&gone, &[0x84], SenseKey::IllegalRequest, Asc::INVALID_FIELD_IN_CDB);
    rig.fail = None;
    for (segment, byte) in [(blocks(0, 0, 1, 2, BLOCKS - 1, 0), 12), (blocks(0, 0, 1, 2, 0, u64::MAX), 20)] {
        let reply = copy(&mut rig, a, &[segment]);
        let (asc, _, forwarded) = aborted(&reply);
        let sense = forwarded.expect("it is too far").2;
        assert_eq!((asc, sense[2], sense[12]), (Asc::NONE, 5, 0x21));
        assert_eq!(reply.sense.expect("sense")[15..18], [0xA0, 0, byte], "in the segment descriptor");
    }
    assert_eq!(rig.others[&OTHER].0[..BS], [0; BS]);
}

#[test]
fn aborting_at_any_of_its_lus_ends_a_copy() {
    let list = list1(7, 0, &[target(naa(LU)), target(naa(OTHER))], &[blocks(0, 0, 1, 4000, 0, 0)]);
    type Function = fn(&mut Rig, NexusId, NexusId) -> Vec<Abort>;
    let functions: [Function; 6] = [
        |rig, _, b| rig.device.manage(b, lun(1), TaskManagement::LogicalUnitReset).abort,
        |rig, _, b| rig.device.manage(b, lun(1), TaskManagement::ClearTaskSet).abort,
        |rig, a, _| rig.device.manage(a, lun(1), TaskManagement::AbortTaskSet).abort,
        |rig, a, _| rig.device.manage(a, lun(0), TaskManagement::AbortTask { tag: rig.tag }).abort,
        |rig, a, _| rig.device.set_lun_map(a, [(0, LU)].into_iter().collect()).abort,
        |rig, _, _| rig.device.remove_lu(OTHER),
    ];
    for function in functions {
        let mut rig = rig();
        let (a, b) = (open(&mut rig, "a"), open(&mut rig, "b"));
        let mut io = begin(&mut rig, a, &copy_cdb(0, list.len()), list.clone());
        let task = Task { lu: Some(LU), nexus: a, tag: rig.tag };
        step(&mut rig, &mut io, None).expect("a read");
        let aborts = function(&mut rig, a, b);
        assert_eq!(
            aborts.iter().map(|abort| (abort.task, abort.running)).collect::<Vec<_>>(),
            [(task, true)]
        );
        // A changed LUN map is announced first.
        rig.send(a, &[0; 6], vec![]);
        assert_eq!(
            receive(&mut rig, a, 0, 7).data.to_bytes()[4],
            0,
            "it is not over before the transport says so"
        );
        rig.device.end(task, None);
        assert!(
            matches!(step(&mut rig, &mut io, Some(Ok(filled(1, 2048)))), Err(reply) if reply.status == Status::TaskAborted)
        );
        let mut cdb = copy_cdb(5, 0x1000);
        (cdb[0], cdb[5]) = (0x84, 7);
        assert_eq!(rig.good(a, &cdb, vec![])[5], 0x60, "terminated");
        assert!(
            !rig.device
                .manage(b, lun(0), TaskManagement::LogicalUnitReset)
                .abort
                .iter()
                .any(|abort| abort.task == task)
        );
    }
}

#[test]
fn copy_operation_abort_names_the_task() {
    let mut rig = rig();
    let a = open(&mut rig, "a");
    let list = list1(7, 0, &[target(naa(LU)), target(naa(OTHER))], &[blocks(0, 0, 1, 4000, 0, 0)]);
    let cdb = copy_cdb(0, list.len());
    let mut io = begin(&mut rig, a, &cdb, list.clone());
    let task = Task { lu: Some(LU), nexus: a, tag: rig.tag };
    step(&mut rig, &mut io, None).expect("a read");
    let reply = rig.send(a, &cdb, list.clone());
    expect_sense(&reply, &cdb, SenseKey::IllegalRequest, Asc::OPERATION_IN_PROGRESS);
    let mut abort = [0; 16];
    (abort[0], abort[1], abort[5]) = (0x83, 0x1C, 7);
    rig.good(a, &abort, vec![]);
    assert_eq!(rig.aborts, [Abort { task, running: true, report: true }]);
    rig.device.end(task, None);
    rig.good(a, &cdb, list);
    abort[5] = 8;
    rig.illegal(a, &abort, Asc::INVALID_FIELD_IN_CDB);
}

#[test]
fn copies_and_what_is_known_of_them_are_bounded() {
    let mut rig = rig();
    let a = open(&mut rig, "a");
    let list = |id| list1(id, 0, &[target(naa(LU))], &[blocks(0, 0, 0, 1, 0, 1)]);
    for id in 0..200 {
        rig.good(a, &copy_cdb(0, list(id).len()), list(id));
    }
    let known = (0..200u32).filter(|id| receive(&mut rig, a, 0, *id).status == Status::Good).count();
    assert_eq!(known, 32);
    let mut under_way = Vec::new();
    for id in 0..32 {
        under_way.push(begin(&mut rig, a, &copy_cdb(0, list(id).len()), list(id)));
    }
    let reply = rig.send(a, &copy_cdb(0, list(99).len()), list(99));
    assert_eq!(reply.status, Status::Busy);
    rig.drive(under_way.pop().expect("one of them"));
    rig.good(a, &copy_cdb(0, list(99).len()), list(99));
}

#[test]
fn limits_are_told_as_they_are() {
    let mut rig = rig();
    let a = open(&mut rig, "a");
    let parameters = receive(&mut rig, a, 3, 0).data.to_bytes();
    assert_eq!(parameters[..4], (parameters.len() as u32 - 4).to_be_bytes());
    assert_eq!((parameters[4], &parameters[8..12]), (1, &[0, 16, 0, 64][..]));
    assert_eq!(parameters[43..], [3, 0x02, 0x0A, 0xE4]);
    let page = rig.good(a, &[0x12, 1, 0x8F, 4, 0, 0], vec![]);
    assert_eq!(usize::from(page[2]) << 8 | usize::from(page[3]), page.len() - 4);
    let (mut at, mut kinds) = (4, Vec::new());
    while at < page.len() {
        kinds.push(u16::from_be_bytes([page[at], page[at + 1]]));
        let len = usize::from(page[at + 2]) << 8 | usize::from(page[at + 3]);
        assert!(len.is_multiple_of(4));
        at += 4 + len;
    }
    assert_eq!((at, &kinds[..]), (page.len(), &[0, 1, 4, 8, 0x0C, 0x106, 0x108, 0x8001][..]));
    assert_eq!(page[4..8], [0, 0, 0, 0x20], "block device ROD token limits come first");
    let commands = [0x83, 5, 0x00, 0x01, 0x10, 0x11, 0x1C, 0x84, 7, 0x00, 0x01, 0x03, 0x04, 0x05, 0x07, 0x08];
    assert_eq!(page[40..44], [0, 1, 0, 20]);
    assert_eq!((page[44], &page[45..61]), (16, &commands[..]));
    assert_eq!(rig.good(a, &[0x12, 0, 0, 0, 96, 0], vec![])[5] & 0x08, 0x08, "3PC");
}
