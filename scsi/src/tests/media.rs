//! Block commands.

use twinlun_block::ByteRange;

use super::*;

const LAST: u32 = BLOCKS as u32 - 1;

#[test]
fn reads_and_writes_of_every_length() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    rig.good(a, &[0x0A, 0, 0, 1, 1, 0], filled(1, 1));
    rig.good(a, &ten(0x2A, 0, 2, 1), filled(2, 1));
    rig.good(a, &[0xAA, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0], filled(3, 1));
    rig.good(a, &sixteen(0x8A, 0, 4, 1), filled(4, 1));
    let whole = rig.good(a, &[0x08, 0, 0, 0, 5, 0], vec![]);
    for (byte, block) in whole.chunks(BS).enumerate() {
        assert!(block.iter().all(|b| usize::from(*b) == byte));
    }
    assert_eq!(rig.good(a, &ten(0x28, 0, 0, 5), vec![]), whole);
    assert_eq!(rig.good(a, &[0xA8, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0], vec![]), whole);
    assert_eq!(rig.good(a, &sixteen(0x88, 0, 0, 5), vec![]), whole);
    assert_eq!(rig.good(a, &[0x08, 0, 0, 0, 0, 0], vec![]).len(), 256 * BS, "READ(6) of 0 is 256 blocks");
}

#[test]
fn the_end_of_the_lu_is_the_end() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    for opcode in [0x28, 0x2A, 0x2E, 0x2F, 0x34, 0x35, 0x41] {
        let sense = rig.illegal(a, &ten(opcode, 0, LAST, 2), Asc::LBA_OUT_OF_RANGE);
        assert_eq!(sense[0], 0xF0, "VALID");
        assert_eq!(
            sense[3..7],
            (LAST + 1).to_be_bytes(),
            "INFORMATION names the first block that is not there"
        );
        rig.illegal(a, &ten(opcode, 0, LAST + 2, 0), Asc::LBA_OUT_OF_RANGE);
        rig.illegal(a, &ten(opcode, 0, u32::MAX, 1), Asc::LBA_OUT_OF_RANGE);
    }
    for opcode in [0x88, 0x8A, 0x8B, 0x8E, 0x8F, 0x90, 0x91, 0x93] {
        for lba in [BLOCKS, 1 << 63, u64::MAX] {
            rig.illegal(a, &sixteen(opcode, 0, lba, 1), Asc::LBA_OUT_OF_RANGE);
        }
        rig.illegal(a, &sixteen(opcode, 0, 0, u32::MAX), Asc::LBA_OUT_OF_RANGE);
    }
    rig.good(a, &ten(0x28, 0, LAST, 1), vec![]);
    rig.good(a, &ten(0x28, 0, LAST + 1, 0), vec![]);
    rig.good(a, &ten(0x2A, 0, 0, 0), vec![]);
}

#[test]
fn short_data_out_writes_what_came_and_leaves_the_rest() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let reply = rig.send(a, &ten(0x2A, 0, 0, 2), filled(9, 1));
    assert_eq!((reply.status, reply.data_out_len), (Status::Good, 2 * BS as u64));
    assert_eq!((rig.disk[BS - 1], rig.disk[BS]), (9, 0));
    let reply = rig.send(a, &ten(0x2A, 0, 0, 3), vec![8; BS + 200]);
    assert_eq!((reply.status, reply.data_out_len), (Status::Good, 3 * BS as u64), "the residual is told");
    assert_eq!([rig.disk[BS - 1], rig.disk[BS + 199], rig.disk[BS + 200]], [8, 8, 0], "what came is written");
    assert!(
        matches!(rig.requests.last(), Some(BlockRequest::CompareAndWrite { .. })),
        "and nobody's write is lost"
    );
    let reply = rig.send(a, &ten(0x2E, 2, 0, 1), vec![8; 200]);
    expect_sense(&reply, &[0x2E], SenseKey::IllegalRequest, Asc::INVALID_FIELD_IN_INFORMATION_UNIT);
    let reply = rig.send(a, &ten(0x2A, 0, 0, 1), vec![]);
    assert_eq!(
        (reply.status, reply.data_out_len),
        (Status::Good, BS as u64),
        "nothing sent, nothing written"
    );
    let reply = rig.send(a, &ten(0x2A, 0, 4, 1), vec![7; 10_000]);
    assert_eq!((reply.status, reply.data_out_len), (Status::Good, BS as u64));
    assert_eq!((rig.disk[5 * BS - 1], rig.disk[5 * BS]), (7, 0), "more than asked for is not written");
}

#[test]
fn fua_follows_the_bit_and_the_write_cache() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let fua = |rig: &Rig| matches!(rig.requests.last(), Some(BlockRequest::Write { fua: true, .. }));
    rig.good(a, &ten(0x2A, 0, 0, 1), filled(1, 1));
    assert!(!fua(&rig));
    rig.good(a, &ten(0x2A, 0x08, 0, 1), filled(1, 1));
    assert!(fua(&rig));
    let mut rig = Rig::with(LuDescription { write_cache: false, ..description(None) });
    let a = rig.open("a");
    rig.good(a, &ten(0x2A, 0, 0, 1), filled(1, 1));
    assert!(fua(&rig), "without a write cache every answer means stable storage");
    rig.good(a, &ten(0x41, 0, 0, 4), filled(1, 1));
    assert!(fua(&rig));
}

#[test]
fn a_read_with_fua_reads_what_is_on_the_medium() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    rig.good(a, &ten(0x2A, 0, 0, 1), filled(1, 1));
    assert_eq!(rig.good(a, &ten(0x28, 0x08, 0, 1), vec![])[..], [1; BS]);
    assert!(matches!(rig.requests[1..], [BlockRequest::Flush, BlockRequest::Read { .. }]));
    rig.requests.clear();
    rig.good(a, &[0x08, 0x00, 0, 0, 1, 0], vec![]);
    assert_eq!(rig.requests.len(), 1);
    rig.fail = Some(BlockError::Medium { offset: 0 });
    rig.sense(a, &ten(0x28, 0x08, 0, 1), SenseKey::MediumError, Asc::WRITE_ERROR);
}

#[test]
fn verify_compares_bytes() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    rig.good(a, &ten(0x2A, 0, 0, 4), filled(5, 4));
    for opcode in [0x2F, 0x2E] {
        rig.illegal(a, &ten(opcode, 0x04, 0, 1), Asc::INVALID_FIELD_IN_CDB);
    }
    rig.good(a, &ten(0x2F, 0x00, 0, 4), vec![]);
    rig.good(a, &ten(0x2F, 0x02, 0, 4), filled(5, 4));
    rig.good(a, &ten(0x2F, 0x06, 0, 4), filled(5, 1));
    let mut wrong = vec![5; 4 * BS];
    wrong[3 * BS + 7] = 6;
    let sense =
        rig.sense_with(a, &ten(0x2F, 0x02, 0, 4), wrong, SenseKey::Miscompare, Asc::MISCOMPARE_DURING_VERIFY);
    assert_eq!(sense[3..7], (3 * BS as u32 + 7).to_be_bytes());
    rig.disk[2 * BS] = 0;
    let cdb = ten(0x2F, 0x06, 0, 4);
    rig.sense_with(a, &cdb, filled(5, 1), SenseKey::Miscompare, Asc::MISCOMPARE_DURING_VERIFY);
    rig.good(a, &ten(0x2F, 0x02, 0, 0), vec![]);
}

#[test]
fn verify_goes_on_over_several_steps() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let blocks = 3000;
    let data: Vec<u8> = (0..blocks * BS).map(|i| (i / 7) as u8).collect();
    rig.good(a, &ten(0x2E, 0x02, 5, blocks as u16), data.clone());
    assert_eq!(rig.disk[5 * BS..(5 + blocks) * BS], data);
    assert!(rig.requests.len() >= 3, "one write and reads of 1 MiB each");
    let mut wrong = data;
    let at = 2900 * BS + 3;
    wrong[at] ^= 1;
    let cdb = ten(0x2F, 0x02, 5, blocks as u16);
    let sense = rig.sense_with(a, &cdb, wrong, SenseKey::Miscompare, Asc::MISCOMPARE_DURING_VERIFY);
    assert_eq!(sense[3..7], (at as u32).to_be_bytes());
}

#[test]
fn compare_and_write_is_one_request_and_names_the_offset() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let caw = |blocks: u8| {
        let mut cdb = sixteen(0x89, 0, 8, 0);
        cdb[13] = blocks;
        cdb
    };
    let mut data = vec![0; 2 * 255 * BS];
    data[255 * BS..].fill(3);
    rig.good(a, &caw(255), data.clone());
    assert!(rig.disk[8 * BS..263 * BS].iter().all(|b| *b == 3));
    data[..255 * BS].fill(3);
    data[700] = 1;
    let sense = rig.sense_with(a, &caw(255), data, SenseKey::Miscompare, Asc::MISCOMPARE_DURING_VERIFY);
    assert_eq!(sense[3..7], 700u32.to_be_bytes());
    rig.good(a, &caw(0), vec![]);
    // 256 blocks' worth of data with a field that reads 0.
    rig.sense_with(a, &caw(0), vec![0; 512 * BS], SenseKey::IllegalRequest, Asc::INVALID_FIELD_IN_CDB);
    for len in [BS, 3 * BS, 4 * BS] {
        let data = vec![0; len];
        rig.sense_with(a, &caw(1), data, SenseKey::IllegalRequest, Asc::INVALID_FIELD_IN_INFORMATION_UNIT);
    }
}

#[test]
fn write_same_repeats_clears_and_unmaps() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let pattern: Vec<u8> = (0..BS).map(|i| i as u8).collect();
    rig.good(a, &sixteen(0x93, 0, 1, 4000), pattern.clone());
    assert!(rig.disk[BS..4001 * BS].chunks(BS).all(|block| block == pattern));
    assert!(rig.disk[4001 * BS..].iter().all(|b| *b == 0));
    rig.requests.clear();
    rig.good(a, &sixteen(0x93, 0x01, 1, 100), vec![]);
    assert!(rig.disk[..101 * BS].iter().all(|b| *b == 0), "NDOB writes zeros");
    rig.good(a, &ten(0x41, 0x08, 101, 100), filled(0, 1));
    assert!(matches!(rig.requests[0], BlockRequest::WriteZeroes { may_unmap: false, .. }));
    assert!(matches!(rig.requests[1], BlockRequest::WriteZeroes { may_unmap: true, .. }));
    rig.good(a, &ten(0x41, 0x00, 0, 1), filled(1, 1));
    rig.good(a, &ten(0x41, 0x08, 0, 1), filled(1, 1));
    assert_eq!(rig.disk[0], 0, "UNMAP gives the block up, whatever comes along");
    rig.illegal(a, &ten(0x41, 0x10, 0, 1), Asc::INVALID_FIELD_IN_CDB);
    rig.sense_with(
        a,
        &ten(0x41, 0, 0, 1),
        filled(0, 2),
        SenseKey::IllegalRequest,
        Asc::INVALID_FIELD_IN_INFORMATION_UNIT,
    );
}

#[test]
fn write_same_without_length_goes_to_the_end() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    rig.good(a, &ten(0x41, 0, LAST - 1, 0), filled(4, 1));
    assert!(rig.disk[(LAST as usize - 1) * BS..].iter().all(|b| *b == 4));
    assert_eq!(rig.disk[(LAST as usize - 1) * BS - 1], 0);
    rig.illegal(a, &ten(0x41, 0, LAST + 1, 0), Asc::LBA_OUT_OF_RANGE);
    rig.device.set_geometry(LU, Geometry { size: 1 << 40, ..geometry() });
    rig.sense(a, &[0; 6], SenseKey::UnitAttention, Asc(0x2A, 0x09));
    rig.illegal(a, &ten(0x41, 0, 0, 0), Asc::INVALID_FIELD_IN_CDB);
}

fn unmap_list(descriptors: &[(u64, u32)]) -> Vec<u8> {
    let len = 16 * descriptors.len() as u16;
    let mut list = (len + 6).to_be_bytes().to_vec();
    list.extend(len.to_be_bytes());
    list.extend([0; 4]);
    for (lba, count) in descriptors {
        list.extend(lba.to_be_bytes());
        list.extend(count.to_be_bytes());
        list.extend([0; 4]);
    }
    list
}

fn unmap_cdb(len: usize) -> [u8; 10] {
    ten(0x42, 0, 0, len as u16)
}

#[test]
fn unmap_takes_lists_and_checks_them_whole() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    rig.disk.fill(9);
    let list = unmap_list(&[(0, 1), (4, 2), (9, 0)]);
    rig.good(a, &unmap_cdb(list.len()), list);
    let zero = |rig: &Rig, block: usize| rig.disk[block * BS] == 0;
    assert!([0, 4, 5].into_iter().all(|b| zero(&rig, b)) && !zero(&rig, 1) && !zero(&rig, 9));
    let list = unmap_list(&[(20, 1), (BLOCKS, 1)]);
    let cdb = unmap_cdb(list.len());
    rig.sense_with(a, &cdb, list, SenseKey::IllegalRequest, Asc::LBA_OUT_OF_RANGE);
    assert!(!zero(&rig, 20), "a list with one bad descriptor does nothing");
    rig.good(a, &unmap_cdb(0), vec![]);
    rig.good(a, &unmap_cdb(8), unmap_list(&[]));
    let empty = unmap_list(&[(BLOCKS, 0)]);
    rig.good(a, &unmap_cdb(empty.len()), empty);
    let key = SenseKey::IllegalRequest;
    rig.sense_with(a, &unmap_cdb(4), vec![0; 4], key, Asc::PARAMETER_LIST_LENGTH_ERROR);
    rig.sense_with(a, &unmap_cdb(24), vec![0; 8], key, Asc::PARAMETER_LIST_LENGTH_ERROR);
    let most = unmap_list(&[(1, 1); 256]);
    rig.good(a, &unmap_cdb(most.len()), most);
    let many = unmap_list(&[(1, 1); 257]);
    rig.sense_with(a, &unmap_cdb(many.len()), many, key, Asc::INVALID_FIELD_IN_PARAMETER_LIST);
}

#[test]
fn or_write_sets_bits_atomically() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    rig.good(a, &ten(0x2A, 0, 0, 2), filled(0x0F, 2));
    rig.good(a, &sixteen(0x8B, 0, 1, 1), filled(0xA0, 1));
    assert_eq!((rig.disk[0], rig.disk[BS]), (0x0F, 0xAF));
    assert!(matches!(rig.requests.last(), Some(BlockRequest::CompareAndWrite { .. })));
}

#[test]
fn or_write_starts_over_when_another_write_came_between() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let cdb = sixteen(0x8B, 0, 0, 1);
    let command = Command::new(0, &cdb, filled(1, 1));
    let Outcome::Io(mut io) = rig.device.execute(a, lun(0), command) else { panic!("needs the medium") };
    let mut result = None;
    for _ in 0..2 {
        assert!(matches!(io.next(result.take()), Step::Submit(BlockRequest::Read { .. })));
        assert!(matches!(
            io.next(Some(Ok(filled(2, 1)))),
            Step::Submit(BlockRequest::CompareAndWrite { .. })
        ));
        result = Some(Err(BlockError::Miscompare { offset: 0 }));
    }
    assert!(matches!(io.next(result), Step::Submit(BlockRequest::Read { .. })));
    assert!(matches!(io.next(Some(Ok(filled(2, 1)))), Step::Submit(_)));
    let Step::Done(reply) = io.next(Some(Ok(Payload::new()))) else { panic!("it landed") };
    assert_eq!(reply.status, Status::Good);
}

#[test]
fn what_fails_below_becomes_sense_data() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let cases = [
        (BlockError::Medium { offset: 5 * BS as u64 }, SenseKey::MediumError, Asc(0x11, 0), Asc(0x0C, 0)),
        (BlockError::NoSpace, SenseKey::DataProtect, Asc(0x27, 7), Asc(0x27, 7)),
        (BlockError::NotServed, SenseKey::NotReady, Asc(0x04, 0x0B), Asc(0x04, 0x0B)),
        (BlockError::NotReady, SenseKey::NotReady, Asc(0x04, 0x01), Asc(0x04, 0x01)),
        (BlockError::Aborted, SenseKey::AbortedCommand, Asc::NONE, Asc::NONE),
    ];
    for (error, key, reading, writing) in cases {
        rig.fail = Some(error);
        let sense = rig.sense(a, &ten(0x28, 0, 0, 8), key, reading);
        if let BlockError::Medium { .. } = error {
            assert_eq!((sense[0], sense[6]), (0xF0, 5), "INFORMATION is an LBA");
        }
        rig.sense_with(a, &ten(0x2A, 0, 0, 8), filled(1, 8), key, writing);
        rig.sense(a, &ten(0x2F, 0, 0, 8), key, reading);
        rig.sense_with(a, &ten(0x41, 0, 0, 8), filled(1, 1), key, writing);
        rig.sense(a, &ten(0x35, 0, 0, 0), key, writing);
    }
}

#[test]
fn capacity_is_told_twice() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let ten = rig.good(a, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], vec![]);
    assert_eq!(ten[..], [0, 0, 0x0F, 0xFF, 0, 0, 2, 0]);
    let sixteen = rig.good(a, &[0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0], vec![]);
    assert_eq!(sixteen.len(), 32);
    assert_eq!(sixteen[6..16], [0x0F, 0xFF, 0, 0, 2, 0, 0, 0, 0xC0, 0]);
    rig.device.set_geometry(LU, Geometry { size: 1 << 42, ..geometry() });
    rig.sense(a, &[0; 6], SenseKey::UnitAttention, Asc(0x2A, 0x09));
    let big = rig.good(a, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], vec![]);
    assert_eq!(big[..4], [0xFF; 4], "too large for four bytes");
}

#[test]
fn lba_status_begins_where_it_was_asked() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let status = |lba: u64| {
        let mut cdb = sixteen(0x9E, 0x12, lba, 24);
        cdb[1] = 0x12;
        cdb
    };
    let data = rig.good(a, &status(17), vec![]);
    assert_eq!((data.len(), data[15], data[20] & 0x0F), (24, 17, 0));
    for lba in [BLOCKS, BLOCKS + 1, 1 << 63, u64::MAX] {
        rig.illegal(a, &status(lba), Asc::LBA_OUT_OF_RANGE);
    }
}

#[test]
fn a_transfer_beyond_the_limit_is_refused() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    rig.device.set_geometry(LU, Geometry { size: 1 << 40, ..geometry() });
    rig.sense(a, &[0; 6], SenseKey::UnitAttention, Asc(0x2A, 0x09));
    for opcode in [0x88, 0x8A] {
        let sense = rig.illegal(a, &sixteen(opcode, 0, 0, 65537), Asc::INVALID_FIELD_IN_CDB);
        assert_eq!(sense[17], 10, "points at the transfer length");
    }
    let same = sixteen(0x93, 0, 0, 131_073);
    rig.sense_with(a, &same, filled(0, 1), SenseKey::IllegalRequest, Asc::INVALID_FIELD_IN_CDB);
}

#[test]
fn stopping_flushes_and_harms_nobody() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    rig.good(a, &[0x1B, 0, 0, 0, 0, 0], vec![]);
    assert!(matches!(rig.requests.last(), Some(BlockRequest::Flush)));
    rig.good(a, &[0; 6], vec![]);
    rig.good(a, &[0x1B, 0, 0, 0, 1, 0], vec![]);
    rig.illegal(a, &[0x1B, 0, 0, 0, 3, 0], Asc::INVALID_FIELD_IN_CDB);
    rig.good(a, &[0x1E, 0, 0, 0, 1, 0], vec![]);
    assert!(medium::prevents(&rig.device.lus[&LU], a));
    rig.good(a, &[0x1E, 0, 0, 0, 0, 0], vec![]);
    rig.illegal(a, &[0x1E, 0, 0, 0, 2, 0], Asc::INVALID_FIELD_IN_CDB);
}

#[test]
fn a_small_write_reaches_the_layer_in_the_segment_it_came_in() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let data = Bytes::from(vec![1; 8 * BS]);
    let at = data.as_ptr();
    rig.good(a, &ten(0x2A, 0, 0, 8), Payload::from(data));
    let Some(BlockRequest::Write { data, .. }) = rig.requests.last() else { panic!("a write") };
    assert_eq!(data.segments()[0].as_ptr(), at, "not copied");
}

#[test]
fn an_atomic_write_is_one_request_within_the_limit() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let atomic = |lba: u64, blocks: u16| {
        let mut cdb = sixteen(0x9C, 0, lba, 0);
        cdb[12..14].copy_from_slice(&blocks.to_be_bytes());
        cdb
    };
    rig.good(a, &atomic(7, 256), filled(5, 256));
    assert!(matches!(rig.requests[..], [BlockRequest::WriteAtomic { .. }]));
    rig.good(a, &atomic(0, 0), vec![]);
    let sense = rig.sense_with(
        a,
        &atomic(0, 257),
        filled(5, 257),
        SenseKey::IllegalRequest,
        Asc::INVALID_FIELD_IN_CDB,
    );
    assert_eq!(sense[17], 12, "points at the transfer length");
    let key = SenseKey::IllegalRequest;
    rig.sense_with(a, &atomic(0, 2), filled(5, 1), key, Asc::INVALID_FIELD_IN_INFORMATION_UNIT);
    rig.illegal(a, &atomic(LAST.into(), 2), Asc::LBA_OUT_OF_RANGE);
    let mut boundary = atomic(0, 2);
    boundary[11] = 1;
    rig.sense_with(a, &boundary, filled(5, 2), key, Asc::INVALID_FIELD_IN_CDB);
    let limits = rig.good(a, &[0x12, 1, 0xB0, 0, 255, 0], vec![]);
    assert_eq!(limits.len(), 64);
    assert_eq!(limits[44..48], 256u32.to_be_bytes(), "MAXIMUM ATOMIC TRANSFER LENGTH");
    assert_eq!(limits[48..64], [0; 16], "no alignment, no granularity, no boundaries");
    let traits = LuTraits { physical_block: 4096, ..LuTraits::default() };
    let mut rig = Rig::with(LuDescription { traits, ..description(None) });
    let a = rig.open("a");
    let limits = rig.good(a, &[0x12, 1, 0xB0, 0, 255, 0], vec![]);
    assert_eq!(limits[48..56], [0, 0, 0, 8, 0, 0, 0, 8], "whole physical blocks");
    rig.good(a, &atomic(8, 16), filled(5, 16));
    rig.sense_with(a, &atomic(1, 8), filled(5, 8), key, Asc::INVALID_FIELD_IN_CDB);
    rig.sense_with(a, &atomic(8, 9), filled(5, 9), key, Asc::INVALID_FIELD_IN_CDB);
}

#[test]
fn lba_status_tells_what_is_taken() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let run = |offset: u64, len: u64, mapped| Allocation { range: ByteRange::new(offset, len), mapped };
    let bs = BS as u64;
    // A hole that begins and ends within blocks.
    rig.allocation =
        Some(vec![run(0, 1000, true), run(1000, 5000, false), run(6000, BLOCKS * bs - 6000, true)]);
    let status = |lba: u64, len: u32| {
        let mut cdb = sixteen(0x9E, 0, lba, len);
        cdb[1] = 0x12;
        cdb
    };
    let descriptors = |data: &[u8]| -> Vec<(u64, u32, u8)> {
        data[8..]
            .chunks(16)
            .map(|d| {
                let lba = u64::from_be_bytes(d[..8].try_into().unwrap());
                (lba, u32::from_be_bytes(d[8..12].try_into().unwrap()), d[12])
            })
            .collect()
    };
    let data = rig.good(a, &status(0, 4096), vec![]);
    assert_eq!(u32::from_be_bytes(data[..4].try_into().unwrap()) as usize, data.len() - 4);
    assert_eq!(descriptors(&data), [(0, 2, 0), (2, 9, 1), (11, BLOCKS as u32 - 11, 0)]);
    assert_eq!(
        descriptors(&rig.good(a, &status(0, 24), vec![])),
        [(0, 2, 0)],
        "as many as there is room for"
    );
    assert_eq!(rig.good(a, &status(0, 10), vec![]).len(), 10);
    rig.fail = Some(BlockError::NotReady);
    rig.sense(a, &status(0, 24), SenseKey::NotReady, Asc::BECOMING_READY);
}

#[test]
fn lba_status_cuts_runs_that_a_descriptor_cannot_count() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    rig.device.set_geometry(LU, Geometry { size: 1 << 42, ..geometry() });
    rig.sense(a, &[0; 6], SenseKey::UnitAttention, Asc(0x2A, 0x09));
    let mut cdb = sixteen(0x9E, 0, 0, 4096);
    cdb[1] = 0x12;
    let data = rig.good(a, &cdb, vec![]);
    assert_eq!(data.len(), 8 + 3 * 16, "2^33 blocks");
    assert_eq!(data[16..20], [0xFF; 4]);
}
