//! Every PDU from hand-made bytes and back, and all parsers on bytes of chance.

use bytes::Bytes;
use proptest::prelude::*;
use twinlun_block::Payload;

use super::*;
use crate::deframer::{Deframer, FrameLimits};
use crate::encoder::Encoder;

const TAGS: Serial32 = Serial32(0x0a0b_0c0d);

/// A header from its words as the RFC's figures number them.
fn words(words: [u32; 12]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn received(wire: &[u8]) -> RawPdu {
    let mut deframer = Deframer::new(0);
    deframer.set_limits(FrameLimits { max_data: 65536, allow_ahs: true, ..FrameLimits::LOGIN });
    deframer.buffer().extend_from_slice(wire);
    let raw = deframer.next().unwrap().expect("one whole PDU");
    assert!(deframer.buffer().is_empty(), "nothing is left over");
    raw
}

fn sent(pdu: impl Into<RawPdu>) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.put(pdu);
    encoder.drain().collect::<Vec<_>>().concat()
}

#[track_caller]
fn request(wire: &[u8], pdu: Request) {
    assert_eq!(Request::parse(received(wire)), Ok(pdu.clone()));
    assert_eq!(sent(pdu), wire);
}

#[track_caller]
fn response(wire: &[u8], pdu: Response) {
    assert_eq!(Response::parse(received(wire)), Ok(pdu.clone()));
    assert_eq!(sent(pdu), wire);
}

fn data(bytes: &'static [u8]) -> Payload {
    Bytes::from_static(bytes).into()
}

#[test]
fn scsi_command() {
    let mut wire = words([
        0x01a1_0000,
        5,
        0x0007_0000,
        0,
        0x1122_3344,
        0x1000,
        0x55,
        0x66,
        0x8a00_0000,
        0,
        0x0000_0008,
        0x0800_0000,
    ]);
    wire.extend_from_slice(b"hello\0\0\0");
    let mut cdb = [0; 16];
    cdb[0] = 0x8a;
    cdb[11] = 8;
    cdb[12] = 8;
    request(
        &wire,
        Request::ScsiCommand(ScsiCommand {
            immediate: false,
            is_final: true,
            read: false,
            write: true,
            attribute: TaskAttribute::SIMPLE,
            lun: Lun::from_number(7).unwrap(),
            task_tag: TaskTag(0x1122_3344),
            expected_len: 0x1000,
            cmd_sn: Serial32(0x55),
            exp_stat_sn: Serial32(0x66),
            cdb: cdb.into(),
            bidirectional_read_len: None,
            data: data(b"hello"),
        }),
    );
}

#[test]
fn scsi_command_with_additional_header_segments() {
    // 16 + 3 bytes of CDB: content is the reserved byte and the tail, four bytes; then a bidirectional read length.
    let mut wire = words([0x41e2_0000, 0x0400_0000, 0, 0, 1, 512, 2, 3, 0x7f00_0000, 0, 0, 0]);
    wire.extend_from_slice(&[0, 4, 1, 0, 0xa1, 0xa2, 0xa3, 0]);
    wire.extend_from_slice(&[0, 5, 2, 0, 0, 1, 0, 0]);
    let mut cdb = [0; 19];
    cdb[0] = 0x7f;
    cdb[16..].copy_from_slice(&[0xa1, 0xa2, 0xa3]);
    request(
        &wire,
        Request::ScsiCommand(ScsiCommand {
            immediate: true,
            is_final: true,
            read: true,
            write: true,
            attribute: TaskAttribute::ORDERED,
            lun: Lun::ZERO,
            task_tag: TaskTag(1),
            expected_len: 512,
            cmd_sn: Serial32(2),
            exp_stat_sn: Serial32(3),
            cdb: Cdb::new(&cdb).unwrap(),
            bidirectional_read_len: Some(0x1_0000),
            data: Payload::new(),
        }),
    );
}

#[test]
fn malformed_additional_header_segments() {
    for ahs in [
        &[0, 1, 1, 0][..],                                 // an extended CDB of nothing
        &[0, 0, 1, 0],                                     // not even its reserved byte
        &[0, 9, 1, 0, 1, 2, 3, 4],                         // cut off
        &[0xff, 0xff, 1, 0],                               // far too long
        &[0, 4, 2, 0, 0, 0, 0, 0],                         // a bidirectional length of another length
        &[0, 1, 3, 0],                                     // unknown
        &[0, 2, 1, 0, 1, 0, 0, 0, 0, 2, 1, 0, 1, 0, 0, 0], // doubled
        &[0, 5, 2, 0, 0, 0, 0, 1, 0, 5, 2, 0, 0, 0, 0, 1], // doubled
        &[0, 1, 0, 0],                                     // reserved
    ] {
        let raw =
            RawPdu { ahs: Bytes::copy_from_slice(ahs), ..RawPdu::header(Bhs::new(Opcode::SCSI_COMMAND)) };
        assert_eq!(ScsiCommand::parse(raw), Err(ParseError::Ahs), "{ahs:?}");
    }
    let mut long = vec![0, 246, 1, 0];
    long.resize(3 + 246, 7);
    long.resize(long.len().next_multiple_of(4), 0);
    let raw = RawPdu { ahs: long.into(), ..RawPdu::header(Bhs::new(Opcode::SCSI_COMMAND)) };
    assert_eq!(ScsiCommand::parse(raw), Err(ParseError::Ahs), "a CDB of 261 bytes");
    assert_eq!(Cdb::new(&[0; 261]), None);
}

#[test]
fn scsi_response() {
    let mut wire = words([0x2182_0002, 8, 0, 0, 9, 0, TAGS.0, 11, 12, 3, 0, 0x200]);
    wire.extend_from_slice(&[0, 4, 0x70, 0, 5, 0, 0xee, 0xff]);
    response(
        &wire,
        Response::Scsi(ScsiResponse {
            response: ResponseCode::COMPLETED,
            status: ScsiStatus::CHECK_CONDITION,
            task_tag: TaskTag(9),
            snack_tag: 0,
            stat_sn: TAGS,
            exp_cmd_sn: Serial32(11),
            max_cmd_sn: Serial32(12),
            exp_data_sn: 3,
            residual: Residual::Underflow(0x200),
            bidirectional_residual: Residual::None,
            sense: Bytes::from_static(&[0x70, 0, 5, 0]),
            response_data: Bytes::from_static(&[0xee, 0xff]),
        }),
    );
    let wire = words([0x2194_0100, 0, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7]);
    response(
        &wire,
        Response::Scsi(ScsiResponse {
            response: ResponseCode::TARGET_FAILURE,
            status: ScsiStatus::GOOD,
            task_tag: TaskTag(9),
            snack_tag: 1,
            stat_sn: Serial32(2),
            exp_cmd_sn: Serial32(3),
            max_cmd_sn: Serial32(4),
            exp_data_sn: 5,
            residual: Residual::Overflow(7),
            bidirectional_residual: Residual::Overflow(6),
            sense: Bytes::new(),
            response_data: Bytes::new(),
        }),
    );
}

#[test]
fn sense_length_beyond_the_segment() {
    // CVE-2026-74557: a length that ignores its own two bytes.
    for bad in [&[0][..], &[0, 1], &[0, 3, 1, 2], &[0xff, 0xff, 1]] {
        let raw = RawPdu::with_data(Bhs::new(Opcode::SCSI_RESPONSE), Bytes::copy_from_slice(bad).into());
        assert_eq!(ScsiResponse::parse(raw), Err(ParseError::Data), "{bad:?}");
        let raw = RawPdu::with_data(Bhs::new(Opcode::ASYNC_MESSAGE), Bytes::copy_from_slice(bad).into());
        assert_eq!(AsyncMessage::parse(raw), Err(ParseError::Data), "{bad:?}");
    }
}

#[test]
fn residual_is_the_difference_to_the_expected_length() {
    assert_eq!(Residual::between(512, 512), Residual::None);
    assert_eq!(Residual::between(512, 0), Residual::Underflow(512));
    assert_eq!(Residual::between(0, 8), Residual::Overflow(8));
    assert_eq!(Residual::between(1, u64::MAX), Residual::Overflow(u32::MAX));
}

#[test]
fn data_out_and_data_in() {
    let mut wire = words([0x0580_0000, 2, 0x4123_0000, 0, 4, 5, 0, 7, 0, 9, 10, 0]);
    wire.extend_from_slice(b"ab\0\0");
    request(
        &wire,
        Request::DataOut(DataOut {
            is_final: true,
            lun: Lun::from_number(0x123).unwrap(),
            task_tag: TaskTag(4),
            transfer_tag: TransferTag(5),
            exp_stat_sn: Serial32(7),
            data_sn: 9,
            buffer_offset: 10,
            data: data(b"ab"),
        }),
    );
    let mut wire = words([0x25c3_0000, 4, 0, 0, 4, 0xffff_ffff, 6, 7, 8, 9, 10, 11]);
    wire.extend_from_slice(b"abcd");
    let with_status = DataIn {
        is_final: true,
        acknowledge: true,
        status: Some(DataInStatus {
            status: ScsiStatus::GOOD,
            residual: Residual::Underflow(11),
            stat_sn: Serial32(6),
        }),
        lun: Lun::ZERO,
        task_tag: TaskTag(4),
        transfer_tag: TransferTag::RESERVED,
        exp_cmd_sn: Serial32(7),
        max_cmd_sn: Serial32(8),
        data_sn: 9,
        buffer_offset: 10,
        data: data(b"abcd"),
    };
    response(&wire, Response::DataIn(with_status.clone()));
    let mut wire = words([0x2500_0000, 4, 0, 0, 4, 0xffff_ffff, 0, 7, 8, 9, 10, 0]);
    wire.extend_from_slice(b"abcd");
    response(
        &wire,
        Response::DataIn(DataIn { is_final: false, acknowledge: false, status: None, ..with_status }),
    );
}

#[test]
fn r2t() {
    response(
        &words([0x3180_0000, 0, 0x0001_0000, 0, 2, 3, 4, 5, 6, 7, 8, 9]),
        Response::R2t(R2t {
            lun: Lun::from_number(1).unwrap(),
            task_tag: TaskTag(2),
            transfer_tag: TransferTag(3),
            stat_sn: Serial32(4),
            exp_cmd_sn: Serial32(5),
            max_cmd_sn: Serial32(6),
            r2t_sn: 7,
            buffer_offset: 8,
            desired_len: 9,
        }),
    );
}

#[test]
fn task_management() {
    request(
        &words([0x4281_0000, 0, 0x0001_0000, 0, 2, 3, 4, 5, 6, 7, 0, 0]),
        Request::Task(TaskRequest {
            immediate: true,
            function: TaskFunction::ABORT_TASK,
            lun: Lun::from_number(1).unwrap(),
            task_tag: TaskTag(2),
            referenced_task_tag: TaskTag(3),
            cmd_sn: Serial32(4),
            exp_stat_sn: Serial32(5),
            ref_cmd_sn: Serial32(6),
            exp_data_sn: 7,
        }),
    );
    response(
        &words([0x2280_ff00, 0, 0x0102_0300, 0, 2, 0, 4, 5, 6, 0, 0, 0]),
        Response::Task(TaskResponse {
            response: TaskResponseCode::REJECTED,
            task_tag: TaskTag(2),
            additional_information: [1, 2, 3],
            stat_sn: Serial32(4),
            exp_cmd_sn: Serial32(5),
            max_cmd_sn: Serial32(6),
        }),
    );
}

#[test]
fn login() {
    let mut wire = words([0x4387_0000, 4, 0x8012_3456, 0x789a_0bcd, 1, 0x0002_0000, 3, 4, 0, 0, 0, 0]);
    wire.extend_from_slice(b"a=b\0");
    let isid = Isid([0x80, 0x12, 0x34, 0x56, 0x78, 0x9a]);
    request(
        &wire,
        Request::Login(LoginRequest {
            transit: true,
            continues: false,
            current_stage: Stage::OPERATIONAL,
            next_stage: Stage::FULL_FEATURE,
            version_max: 0,
            version_min: 0,
            isid,
            tsih: Tsih(0x0bcd),
            task_tag: TaskTag(1),
            cid: Cid(2),
            cmd_sn: Serial32(3),
            exp_stat_sn: Serial32(4),
            text: Bytes::from_static(b"a=b\0"),
        }),
    );
    response(
        &words([0x2340_0102, 0, 0x8012_3456, 0x789a_0bcd, 1, 0, 3, 4, 5, 0x0201_0000, 0, 0]),
        Response::Login(LoginResponse {
            transit: false,
            continues: true,
            current_stage: Stage::SECURITY,
            next_stage: Stage::SECURITY,
            version_max: 1,
            version_active: 2,
            isid,
            tsih: Tsih(0x0bcd),
            task_tag: TaskTag(1),
            stat_sn: Serial32(3),
            exp_cmd_sn: Serial32(4),
            max_cmd_sn: Serial32(5),
            status: LoginStatus::AUTHENTICATION_FAILURE,
            text: Bytes::new(),
        }),
    );
}

#[test]
fn text() {
    let mut wire = words([0x4480_0000, 4, 0, 0, 1, 0xffff_ffff, 3, 4, 0, 0, 0, 0]);
    wire.extend_from_slice(b"a=b\0");
    request(
        &wire,
        Request::Text(TextRequest {
            immediate: true,
            is_final: true,
            continues: false,
            lun: Lun::ZERO,
            task_tag: TaskTag(1),
            transfer_tag: TransferTag::RESERVED,
            cmd_sn: Serial32(3),
            exp_stat_sn: Serial32(4),
            text: Bytes::from_static(b"a=b\0"),
        }),
    );
    response(
        &words([0x2440_0000, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0]),
        Response::Text(TextResponse {
            is_final: false,
            continues: true,
            lun: Lun::ZERO,
            task_tag: TaskTag(1),
            transfer_tag: TransferTag(2),
            stat_sn: Serial32(3),
            exp_cmd_sn: Serial32(4),
            max_cmd_sn: Serial32(5),
            text: Bytes::new(),
        }),
    );
}

#[test]
fn logout() {
    request(
        &words([0x4681_0000, 0, 0, 0, 1, 0x0002_0000, 3, 4, 0, 0, 0, 0]),
        Request::Logout(LogoutRequest {
            immediate: true,
            reason: LogoutReason::CLOSE_CONNECTION,
            task_tag: TaskTag(1),
            cid: Cid(2),
            cmd_sn: Serial32(3),
            exp_stat_sn: Serial32(4),
        }),
    );
    response(
        &words([0x2680_0100, 0, 0, 0, 1, 0, 3, 4, 5, 0, 0x0006_0007, 0]),
        Response::Logout(LogoutResponse {
            response: LogoutResponseCode::NO_SUCH_CID,
            task_tag: TaskTag(1),
            stat_sn: Serial32(3),
            exp_cmd_sn: Serial32(4),
            max_cmd_sn: Serial32(5),
            time2wait: 6,
            time2retain: 7,
        }),
    );
}

#[test]
fn snack() {
    request(
        &words([0x1082_0000, 0, 0, 0, 1, 2, 0, 3, 0, 0, 4, 5]),
        Request::Snack(SnackRequest {
            kind: SnackType::DATA_ACK,
            lun: Lun::ZERO,
            task_tag: TaskTag(1),
            tag: 2,
            exp_stat_sn: Serial32(3),
            begin: 4,
            length: 5,
        }),
    );
}

#[test]
fn reject() {
    let bad = Bhs::new(Opcode(0x1e));
    let mut wire = words([0x3f80_0500, 48, 0, 0, 0xffff_ffff, 0, 3, 4, 5, 6, 0, 0]);
    wire.extend_from_slice(&bad.0);
    response(
        &wire,
        Response::Reject(Reject {
            reason: RejectReason::COMMAND_NOT_SUPPORTED,
            stat_sn: Serial32(3),
            exp_cmd_sn: Serial32(4),
            max_cmd_sn: Serial32(5),
            data_sn: 6,
            header: bad,
        }),
    );
    let short = RawPdu::with_data(Bhs::new(Opcode::REJECT), data(&[0; 47]));
    assert_eq!(Reject::parse(short), Err(ParseError::Data));
}

#[test]
fn nop() {
    let mut wire = words([0x4080_0000, 1, 0x0003_0000, 0, 0xffff_ffff, 2, 3, 4, 0, 0, 0, 0]);
    wire.extend_from_slice(&[0x55, 0, 0, 0]);
    request(
        &wire,
        Request::NopOut(NopOut {
            immediate: true,
            lun: Lun::from_number(3).unwrap(),
            task_tag: TaskTag::RESERVED,
            transfer_tag: TransferTag(2),
            cmd_sn: Serial32(3),
            exp_stat_sn: Serial32(4),
            data: data(&[0x55]),
        }),
    );
    response(
        &words([0x2080_0000, 0, 0, 0, 1, 0xffff_ffff, 3, 4, 5, 0, 0, 0]),
        Response::NopIn(NopIn {
            lun: Lun::ZERO,
            task_tag: TaskTag(1),
            transfer_tag: TransferTag::RESERVED,
            stat_sn: Serial32(3),
            exp_cmd_sn: Serial32(4),
            max_cmd_sn: Serial32(5),
            data: Payload::new(),
        }),
    );
}

#[test]
fn async_message() {
    let mut wire =
        words([0x3280_0000, 4, 0x0001_0000, 0, 0xffff_ffff, 0, 3, 4, 5, 0x0107_0008, 0x0009_000a, 0]);
    wire.extend_from_slice(&[0, 1, 0x70, 0x33]);
    response(
        &wire,
        Response::Async(AsyncMessage {
            lun: Lun::from_number(1).unwrap(),
            stat_sn: Serial32(3),
            exp_cmd_sn: Serial32(4),
            max_cmd_sn: Serial32(5),
            event: AsyncEvent::LOGOUT_REQUEST,
            vendor_code: 7,
            parameter1: 8,
            parameter2: 9,
            parameter3: 10,
            sense: Bytes::from_static(&[0x70]),
            event_data: Bytes::from_static(&[0x33]),
        }),
    );
}

#[test]
fn pdus_without_data_may_have_none() {
    for opcode in [Opcode::R2T, Opcode::TASK_RESPONSE, Opcode::LOGOUT_RESPONSE] {
        let raw = RawPdu::with_data(Bhs::new(opcode), data(b"x"));
        assert_eq!(Response::parse(raw), Err(ParseError::UnexpectedData(opcode)));
    }
    for opcode in [Opcode::TASK_REQUEST, Opcode::LOGOUT_REQUEST, Opcode::SNACK_REQUEST] {
        let raw = RawPdu::with_data(Bhs::new(opcode), data(b"x"));
        assert_eq!(Request::parse(raw), Err(ParseError::UnexpectedData(opcode)));
    }
}

#[test]
fn unknown_codes_survive_and_print() {
    assert_eq!(format!("{:?} {:?}", Opcode::R2T, Opcode(0x1c)), "R2T Opcode(0x1c)");
    let raw = RawPdu::header(Bhs::new(Opcode(0x1c)));
    assert_eq!(Request::parse(raw.clone()), Err(ParseError::Opcode(Opcode(0x1c))));
    assert_eq!(Response::parse(raw), Err(ParseError::Opcode(Opcode(0x1c))));
    let wrong_way = RawPdu::header(Bhs::new(Opcode::NOP_IN));
    assert_eq!(Request::parse(wrong_way), Err(ParseError::Opcode(Opcode::NOP_IN)));
}

#[test]
fn luns_have_two_single_level_forms() {
    assert_eq!(Lun::from_number(255).unwrap().0, [0, 255, 0, 0, 0, 0, 0, 0]);
    assert_eq!(Lun::from_number(256).unwrap().0, [0x41, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(Lun::from_number(0x4000), None);
    for number in [0, 1, 255, 256, 0x3fff] {
        assert_eq!(Lun::from_number(number).and_then(Lun::number), Some(number));
    }
    // REPORT LUNS well known LUN; a second level; bus 1.
    for other in [[0xc1, 1, 0, 0, 0, 0, 0, 0], [0, 1, 0, 2, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]] {
        assert_eq!(Lun(other).number(), None);
    }
    assert_eq!(Lun([0x40, 7, 0, 0, 0, 0, 0, 0]).number(), Some(7), "flat space may say small numbers too");
}

#[test]
fn serial_numbers_wrap() {
    let (old, new) = (Serial32(0xffff_fffe), Serial32(3));
    assert!(old.is_before(new) && !new.is_before(old));
    assert_eq!(new.steps_from(old), 5);
    assert_eq!(old.latest(new), new);
    assert_eq!(new.latest(old), new);
    assert_eq!(Serial32(0).previous().next(), Serial32(0));
    // RFC 1982, 3.2: undefined; neither order may be believed.
    assert!(!Serial32(0).is_before(Serial32(1 << 31)) && !Serial32(1 << 31).is_before(Serial32(0)));
}

#[test]
fn data_segment_lengths_fit_the_field() {
    assert_eq!(DataSegmentLength::checked(0x00ff_ffff), Some(DataSegmentLength::MAX));
    assert_eq!(DataSegmentLength::checked(0x0100_0000), None);
    let paddings: Vec<usize> = (0..5).map(|len| DataSegmentLength::checked(len).unwrap().padding()).collect();
    assert_eq!(paddings, [0, 3, 2, 1, 0]);
}

prop_compose! {
    /// Any bytes, but with a real opcode most of the time.
    fn any_raw()(
        head in any::<[u8; 24]>(),
        tail in any::<[u8; 24]>(),
        opcode in prop_oneof![
            8 => proptest::sample::select(vec![0u8, 1, 2, 3, 4, 5, 6, 0x10, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3f]),
            1 => any::<u8>(),
        ],
        ahs in prop_oneof![3 => Just(vec![]), 1 => proptest::collection::vec(any::<u8>(), 0..300)],
        data in prop_oneof![1 => Just(vec![]), 1 => proptest::collection::vec(any::<u8>(), 0..100)],
    ) -> RawPdu {
        let mut bytes = [0; BHS_LEN];
        bytes[..24].copy_from_slice(&head);
        bytes[24..].copy_from_slice(&tail);
        bytes[0] = opcode;
        let ahs = Bytes::from(ahs);
        let whole_words = ahs.len() / 4 * 4;
        RawPdu { bhs: Bhs(bytes), ahs: ahs.slice(..whole_words), data: data.into() }
    }
}

proptest! {
    /// What is understood is sent as something that is understood the same way.
    #[test]
    fn parsing_anything_is_safe_and_stable(raw in any_raw()) {
        if let Ok(pdu) = Request::parse(raw.clone()) {
            prop_assert_eq!(Request::parse(received(&sent(pdu.clone()))), Ok(pdu));
        }
        if let Ok(pdu) = Response::parse(raw) {
            prop_assert_eq!(Response::parse(received(&sent(pdu.clone()))), Ok(pdu));
        }
    }
}
