//! READ BUFFER and WRITE BUFFER (SPC-5, 6.22, 6.49).

use super::*;

fn buffer(opcode: u8, mode: u8, id: u8, offset: u32, len: u32) -> [u8; 10] {
    let (offset, len) = (offset.to_be_bytes(), len.to_be_bytes());
    [opcode, mode, id, offset[1], offset[2], offset[3], len[1], len[2], len[3], 0]
}

const WRITE: u8 = 0x3B;
const READ: u8 = 0x3C;
const DATA: u8 = 0x02;
const ECHO: u8 = 0x0A;
const CAPACITY: u32 = 64 << 10;

#[test]
fn the_data_buffer_is_shared_and_has_the_size_that_is_told() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open("b"));
    assert_eq!(rig.good(a, &buffer(READ, 0x03, 0, 0, 4), vec![])[..], [0, 1, 0, 0]);
    assert_eq!(rig.good(a, &buffer(READ, 0x03, 1, 0, 4), vec![])[..], [0; 4], "no such buffer");
    assert_eq!(rig.good(a, &buffer(READ, DATA, 0, 100, 3), vec![])[..], [0; 3], "nobody has written");
    rig.good(a, &buffer(WRITE, DATA, 0, 100, 3), b"abc".to_vec());
    assert_eq!(rig.good(b, &buffer(READ, DATA, 0, 99, 5), vec![])[..], *b"\0abc\0");
    rig.good(a, &buffer(WRITE, DATA, 0, CAPACITY - 1, 1), b"z".to_vec());
    assert_eq!(rig.good(b, &buffer(READ, DATA, 0, CAPACITY - 2, 9), vec![])[..], *b"\0z", "its end");
    rig.good(a, &buffer(WRITE, DATA, 0, CAPACITY, 0), vec![]);
    assert!(rig.good(a, &buffer(READ, DATA, 0, CAPACITY, 9), vec![]).is_empty());
    for (id, offset, len) in [(1, 0, 1), (0, CAPACITY + 1, 0), (0, CAPACITY, 1), (0, 1, CAPACITY)] {
        let data = vec![0; len as usize];
        let key = SenseKey::IllegalRequest;
        rig.sense_with(a, &buffer(WRITE, DATA, id, offset, len), data, key, Asc::INVALID_FIELD_IN_CDB);
    }
    rig.illegal(a, &buffer(READ, DATA, 1, 0, 4), Asc::INVALID_FIELD_IN_CDB);
    rig.illegal(a, &buffer(READ, DATA, 0, CAPACITY + 1, 4), Asc::INVALID_FIELD_IN_CDB);
    assert!(rig.requests.is_empty(), "never the medium");
}

#[test]
fn everybody_hears_the_own_echo() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open("b"));
    assert_eq!(rig.good(a, &buffer(READ, 0x0B, 0, 0, 4), vec![])[..], [0, 0, 0x10, 0], "4096 bytes, EBOS 0");
    rig.illegal(a, &buffer(READ, ECHO, 0, 0, 4), Asc::COMMAND_SEQUENCE_ERROR);
    rig.good(a, &buffer(WRITE, ECHO, 0, 0, 5), b"hello".to_vec());
    rig.good(b, &buffer(WRITE, ECHO, 0, 0, 2), b"hi".to_vec());
    assert_eq!(rig.good(a, &buffer(READ, ECHO, 0, 0, 4096), vec![])[..], *b"hello");
    assert_eq!(rig.good(a, &buffer(READ, ECHO, 0, 0, 2), vec![])[..], *b"he");
    assert_eq!(rig.good(b, &buffer(READ, ECHO, 0, 0, 4096), vec![])[..], *b"hi");
    let key = SenseKey::IllegalRequest;
    rig.sense_with(a, &buffer(WRITE, ECHO, 0, 0, 4097), vec![0; 4097], key, Asc::INVALID_FIELD_IN_CDB);
    rig.sense_with(a, &buffer(WRITE, ECHO, 0, 0, 9), vec![0; 8], key, Asc::PARAMETER_LIST_LENGTH_ERROR);
    assert_eq!(rig.good(a, &buffer(READ, ECHO, 0, 0, 9), vec![])[..], *b"hello", "as it was");
    rig.device.manage(b, lun(0), TaskManagement::LogicalUnitReset);
    rig.sense(a, &[0; 6], SenseKey::UnitAttention, Asc(0x29, 0x03));
    rig.illegal(a, &buffer(READ, ECHO, 0, 0, 4), Asc::COMMAND_SEQUENCE_ERROR);
}

#[test]
fn microcode_and_all_other_modes_are_refused_and_pointed_at() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    for (opcode, known) in [(WRITE, &[DATA, ECHO][..]), (READ, &[DATA, 0x03, ECHO, 0x0B])] {
        for mode in (0..0x20).filter(|mode| !known.contains(mode)) {
            let reply = rig.send(a, &buffer(opcode, mode, 0, 0, 4), vec![0; 4]);
            let sense =
                expect_sense(&reply, &[opcode, mode], SenseKey::IllegalRequest, Asc::INVALID_FIELD_IN_CDB);
            assert_eq!(sense[15..18], [0xCC, 0, 1], "mode {mode:02x}");
        }
    }
}

#[test]
fn reservations_stop_writing_and_exclusive_access_stops_reading() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open("b"));
    let mut list = vec![0; 24];
    list[15] = 1;
    rig.good(b, &[0x5F, 0x00, 0, 0, 0, 0, 0, 0, 24, 0], list);
    let mut list = vec![0; 24];
    list[7] = 1;
    rig.good(b, &[0x5F, 0x01, 0x01, 0, 0, 0, 0, 0, 24, 0], list.clone());
    rig.conflict(a, &buffer(WRITE, DATA, 0, 0, 1), vec![1]);
    rig.good(a, &buffer(READ, DATA, 0, 0, 1), vec![]);
    rig.good(b, &[0x5F, 0x02, 0x01, 0, 0, 0, 0, 0, 24, 0], list.clone());
    rig.good(b, &[0x5F, 0x01, 0x03, 0, 0, 0, 0, 0, 24, 0], list);
    rig.conflict(a, &buffer(READ, DATA, 0, 0, 1), vec![]);
}
