//! FORMAT UNIT: what the medium holds afterwards, who is refused meanwhile, and what survives (SBC-4, 5.4).

use super::*;

const BUSY: Asc = Asc(0x04, 0x04);
const FAILED: Asc = Asc(0x31, 0x01);
const FORMAT: [u8; 6] = [0x04, 0, 0, 0, 0, 0];
const FMTDATA: u8 = 0x10;
const LONGLIST: u8 = 0x20;
const FOV: u8 = 0x80;
const IP: u8 = 0x08;
const IMMED: u8 = 0x02;

fn with_data(flags: u8) -> [u8; 6] {
    [0x04, FMTDATA | flags, 0, 0, 0, 0]
}

/// Short header and the initialization pattern descriptor.
fn with_pattern(flags: u8, pattern: &[u8]) -> Vec<u8> {
    let mut list = vec![0, FOV | IP | flags, 0, 0, 0, 1];
    list.extend((pattern.len() as u16).to_be_bytes());
    list.extend(pattern);
    list
}

fn thick() -> Rig {
    Rig::with(LuDescription { thin: false, ..description(None) })
}

#[test]
fn a_thin_lu_is_empty_afterwards() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    rig.disk.fill(7);
    rig.good(a, &FORMAT, vec![]);
    assert!(rig.disk.iter().all(|b| *b == 0));
    let unmapped: u64 = rig
        .requests
        .iter()
        .filter(|r| matches!(r, BlockRequest::Unmap { .. }))
        .filter_map(BlockRequest::range)
        .map(twinlun_block::ByteRange::len)
        .sum();
    assert_eq!(unmapped, BLOCKS * BS as u64);
    assert!(matches!(rig.requests.last(), Some(BlockRequest::Flush)), "it is on the medium");
    assert_eq!(rig.device.operating(), []);
    rig.good(a, &ten(0x28, 0, 0, 1), vec![]);
}

#[test]
fn a_thick_lu_is_cleared_and_keeps_its_space() {
    let mut rig = thick();
    let a = rig.open("a");
    rig.disk.fill(7);
    rig.good(a, &FORMAT, vec![]);
    assert!(rig.disk.iter().all(|b| *b == 0));
    let keeps = |r: &BlockRequest| {
        matches!(r, BlockRequest::WriteZeroes { may_unmap: false, .. } | BlockRequest::Flush)
    };
    assert!(rig.requests.iter().all(keeps));
}

#[test]
fn a_pattern_fills_every_block() {
    for mut rig in [Rig::new(), thick()] {
        let a = rig.open("a");
        rig.good(a, &with_data(0), with_pattern(0, &[1, 2, 3]));
        let block: Vec<u8> = [1, 2, 3].into_iter().cycle().take(BS).collect();
        assert!(rig.disk.chunks(BS).all(|b| b == block));
        // The long header, and the default pattern.
        let list = vec![0, FOV | IP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let reply = rig.send(a, &with_data(LONGLIST), list);
        assert_eq!((reply.status, reply.data_out_len), (Status::Good, 12));
        assert!(rig.disk.iter().all(|b| *b == 0));
    }
}

#[test]
fn what_there_is_not_is_refused_before_anything_happens() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    // FMTPINFO, FFMT, and defect lists without a list.
    for cdb in [[0x04, 0x80, 0, 0, 0, 0], [0x04, 0x40, 0, 0, 0, 0], [0x04, 0, 0, 0, 1, 0]] {
        rig.illegal(a, &cdb, Asc::INVALID_FIELD_IN_CDB);
    }
    for flags in [LONGLIST, 0x08, 0x01, 0x05] {
        rig.illegal(a, &[0x04, flags, 0, 0, 0, 0], Asc::INVALID_FIELD_IN_CDB);
    }
    let key = SenseKey::IllegalRequest;
    let lists: [(&[u8], u8); 9] = [
        (&[1, 0, 0, 0], 0),                       // PROTECTION FIELD USAGE
        (&[0, 0x40, 0, 0], 1),                    // DPRY without FOV
        (&[0, IP, 0, 0, 0, 0, 0, 0], 1),          // IP without FOV
        (&[0, FOV | 0x04, 0, 0], 1),              // obsolete
        (&[0, FOV, 0, 8, 0, 0, 0, 0], 3),         // a defect list
        (&[0, FOV | IP, 0, 0, 0x20, 0, 0, 0], 4), // SECURITY INITIALIZE
        (&[0, FOV | IP, 0, 0, 0, 2, 0, 0], 5),    // an unknown pattern type
        (&[0, FOV | IP, 0, 0, 0, 0, 0, 1], 6),    // a default pattern with a length
        (&[0, FOV | IP, 0, 0, 0, 1, 0x02, 1], 6), // more than a block
    ];
    for (list, byte) in lists {
        let sense =
            rig.sense_with(a, &with_data(0), list.to_vec(), key, Asc::INVALID_FIELD_IN_PARAMETER_LIST);
        assert_eq!(sense[15..18], [0x80, 0, byte], "{list:02x?}");
    }
    let long = vec![0, 0, 0, 0x10, 0, 0, 0, 0];
    rig.sense_with(a, &with_data(LONGLIST), long, key, Asc::INVALID_FIELD_IN_PARAMETER_LIST);
    for (flags, list) in [(0, vec![0; 3]), (LONGLIST, vec![0; 7]), (0, vec![0, FOV | IP, 0, 0, 0, 1, 0])] {
        rig.sense_with(a, &with_data(flags), list, key, Asc::PARAMETER_LIST_LENGTH_ERROR);
    }
    let mut cut = with_pattern(0, &[1, 2, 3]);
    cut.pop();
    rig.sense_with(a, &with_data(0), cut, key, Asc::PARAMETER_LIST_LENGTH_ERROR);
    assert!(rig.requests.is_empty() && rig.device.operating().is_empty());
}

#[test]
fn meanwhile_and_after_a_failure_the_medium_is_refused() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open("b"));
    rig.disk.fill(7);
    rig.good(a, &with_data(0), vec![0, IMMED, 0, 0]);
    assert_eq!(rig.device.operating(), [LU]);
    for nexus in [a, b] {
        rig.good(nexus, &[0x12, 0, 0, 0, 96, 0], vec![]);
        for cdb in [&[0; 6][..], &FORMAT, &ten(0x28, 0, 0, 1), &[0x48, 0x02, 0, 0, 0, 0, 0, 0, 0, 0]] {
            let sense = rig.sense(nexus, cdb, SenseKey::NotReady, BUSY);
            assert_eq!(sense[15], 0x80, "with a progress indication");
        }
        let data = rig.good(nexus, &[0x03, 0, 0, 0, 18, 0], vec![]);
        assert_eq!((data[2], data[12], data[13], data[15]), (2, 0x04, 0x04, 0x80));
    }
    rig.fail = Some(BlockError::Medium { offset: 0 });
    rig.operate();
    let mut again = Rig::with(description(rig.record));
    let a = again.open("a");
    again.sense(a, &ten(0x2A, 0, 0, 1), SenseKey::MediumError, FAILED);
    again.good(a, &[0x48, 0x1F, 0, 0, 0, 0, 0, 0, 0, 0], vec![]);
    again.sense(a, &[0; 6], SenseKey::MediumError, FAILED);
    again.disk.fill(7);
    again.good(a, &FORMAT, vec![]);
    again.good(a, &[0; 6], vec![]);
    assert!(again.disk.iter().all(|b| *b == 0));
}

#[test]
fn a_failed_sanitize_is_not_mended_by_formatting() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    rig.fail = Some(BlockError::Medium { offset: 0 });
    rig.sense(a, &[0x48, 0x02, 0, 0, 0, 0, 0, 0, 0, 0], SenseKey::MediumError, Asc::SANITIZE_COMMAND_FAILED);
    rig.sense(a, &FORMAT, SenseKey::MediumError, Asc::SANITIZE_COMMAND_FAILED);
    // The other way round it is.
    let mut rig = Rig::new();
    let a = rig.open("a");
    rig.fail = Some(BlockError::Medium { offset: 0 });
    rig.sense(a, &FORMAT, SenseKey::MediumError, FAILED);
    rig.fail = None;
    rig.good(a, &[0x48, 0x02, 0, 0, 0, 0, 0, 0, 0, 0], vec![]);
    rig.good(a, &[0; 6], vec![]);
}

#[test]
fn a_start_begins_anew_and_an_end_that_is_stored_stays() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let mut list = with_pattern(IMMED, &[9]);
    list[1] |= 0x70; // DPRY, DCRT, STPF: about defects that there are none of
    rig.good(a, &with_data(0x0D), list);
    let mut again = Rig::with(description(rig.record.take()));
    assert_eq!(again.device.operating(), [LU]);
    again.operate();
    assert!(again.disk.iter().all(|b| *b == 9));
    let after = Rig::with(description(again.record));
    assert_eq!(after.device.operating(), [], "what hosts write now stays");
}

#[test]
fn reservations_and_write_protection_stop_it() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open("b"));
    rig.good(b, &[0x16, 0, 0, 0, 0, 0], vec![]);
    rig.conflict(a, &FORMAT, vec![]);
    let traits = LuTraits { read_only: true, ..LuTraits::default() };
    let mut rig = Rig::with(LuDescription { traits, ..description(None) });
    let a = rig.open("a");
    rig.sense(a, &FORMAT, SenseKey::DataProtect, Asc::HARDWARE_WRITE_PROTECTED);
}

#[test]
fn tokens_of_what_was_there_are_revoked() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let mut list = vec![0, 30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16];
    list.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0]);
    rig.good(a, &[0x83, 0x10, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 32, 0, 0], list);
    let told = rig.good(a, &[0x84, 0x07, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0], vec![]);
    let token = told[38..550].to_vec();
    rig.good(a, &FORMAT, vec![]);
    let mut list = vec![0; 536];
    list[16..528].copy_from_slice(&token);
    list.extend([0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 0, 0]);
    (list[0], list[1], list[535]) = (0x02, 0x26, 16);
    let cdb = [0x83, 0x11, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0x02, 0x28, 0, 0];
    rig.sense_with(a, &cdb, list, SenseKey::IllegalRequest, Asc::TOKEN_REVOKED);
}
