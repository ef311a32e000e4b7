//! Requirements of RFC 7143 that no scenario shows by the way; docs/rfc7143.md lists all of them.

use twinlun_block::Payload;

use super::harness::*;
use crate::names::IscsiName;
use crate::pdu::{
    self, Lun, NopOut, RawPdu, Response, ScsiStatus, Serial32, TaskFunction, TaskTag, TransferTag,
};
use crate::target::{Event, ScsiResponse};

fn ping(host: &Host, tag: u32) -> NopOut {
    NopOut {
        immediate: true,
        lun: Lun::ZERO,
        task_tag: TaskTag(tag),
        transfer_tag: TransferTag::RESERVED,
        cmd_sn: Serial32(host.cmd_sn),
        exp_stat_sn: Serial32(0),
        data: Payload::new(),
    }
}

/// The header of the only PDU that the target has to send. Not read by the host: it is the last thing in a test.
fn header(host: &mut Host) -> [u8; 48] {
    let mut bytes = Vec::new();
    host.connection.transmit(|segment| bytes.extend_from_slice(&segment));
    bytes[..48].try_into().expect("a header")
}

/// Section 4.2.2.1: no response precedes the acknowledgement of its command.
#[test]
fn an_answer_acknowledges_its_command() {
    let mut host = Host::logged_in("", |_| {});
    for tag in 0..3 {
        let command = host.read(tag, 512);
        let after = command.cmd_sn.next();
        host.send(command);
        host.command();
        host.connection.respond(tag, ScsiResponse::data(payload(&pattern(512))));
        host.receive_one();
        assert_eq!(host.window.0, after, "ExpCmdSN of the final Data-In");
    }
}

/// Section 4.2.7.1.
#[test]
fn names_of_223_bytes_are_taken() {
    let longest = format!("iqn.2026-11.io.twinlun:{}", "x".repeat(200));
    assert_eq!(longest.len(), 223);
    assert!(IscsiName::parse(longest.as_bytes()).is_ok());
    assert!(IscsiName::parse(format!("{longest}x").as_bytes()).is_err());
}

/// Section 11: what a PDU does not define is zero. Per opcode the bits of bytes 1 to 3, and ranges of whole bytes.
#[test]
fn reserved_fields_are_sent_as_zero() {
    let check = |header: [u8; 48], opcode: u8, flags: [u8; 3], ranges: &[(usize, usize)]| {
        assert_eq!(header[0], opcode);
        assert_eq!(header[4], 0, "no AHS: {header:02x?}");
        for (at, mask) in (1..).zip(flags) {
            assert_eq!(header[at] & mask, 0, "byte {at} of {header:02x?}");
        }
        for &(from, to) in ranges {
            let bytes = &header[from..to];
            assert!(bytes.iter().all(|byte| *byte == 0), "bytes {from} to {to} of {header:02x?}");
        }
    };
    let fresh = || Host::logged_in("", |_| {});

    let mut host = fresh();
    let command = host.read(1, 512);
    host.send(command);
    host.command();
    host.connection.respond(1, ScsiResponse::good());
    check(header(&mut host), 0x21, [0x61, 0, 0], &[(8, 16)]);

    let mut host = fresh();
    let command = host.read(1, 512);
    host.send(command);
    host.command();
    host.connection.respond(1, ScsiResponse::data(payload(&pattern(512))));
    check(header(&mut host), 0x25, [0x38, 0xff, 0], &[(8, 16)]);

    let mut host = fresh();
    let command = host.write(1, 512, &[], true);
    host.send(command);
    check(header(&mut host), 0x31, [0x7f, 0xff, 0xff], &[(5, 8)]);

    let mut host = fresh();
    let request = ping(&host, 5);
    host.send(request);
    check(header(&mut host), 0x20, [0x7f, 0xff, 0xff], &[(8, 16), (36, 48)]);

    let mut host = fresh();
    host.send(host.function(2, TaskFunction::TASK_REASSIGN, 9, 0));
    check(header(&mut host), 0x22, [0x7f, 0, 0xff], &[(5, 16), (20, 24), (36, 48)]);

    let mut host = fresh();
    let mut unknown = RawPdu::header(pdu::Bhs([0; 48]));
    unknown.bhs.0[0] = 0x1c;
    host.send(unknown);
    check(header(&mut host), 0x3f, [0x7f, 0, 0xff], &[(8, 16), (20, 24), (40, 48)]);
}

/// Section 11: receivers look at no bit that is not defined.
#[test]
fn reserved_bits_of_requests_are_ignored() {
    let mut host = Host::logged_in("", |_| {});
    let mut command = RawPdu::from(host.read(1, 512));
    command.bhs.0[0] |= 0x80;
    command.bhs.0[1] |= 0x18;
    command.bhs.0[3] = 0xff;
    host.send(command);
    assert_eq!(host.command().tag, 1);

    let mut request = RawPdu::from(ping(&host, 5));
    request.bhs.0[1] |= 0x7f;
    request.bhs.0[2..4].fill(0xff);
    request.bhs.0[32..48].fill(0xff);
    host.send(request);
    assert!(matches!(host.receive_one(), Response::NopIn(nop) if nop.task_tag == TaskTag(5)));

    let mut function = RawPdu::from(host.function(2, TaskFunction::TASK_REASSIGN, 9, 0));
    function.bhs.0[2..4].fill(0xff);
    function.bhs.0[40..48].fill(0xff);
    host.send(function);
    assert!(matches!(host.receive_one(), Response::Task(_)));
}

/// Section 11.7.3.
#[test]
fn an_error_is_told_in_a_response() {
    let mut host = Host::logged_in("", |_| {});
    let command = host.read(1, 512);
    host.send(command);
    host.command();
    let sense = bytes::Bytes::from_static(&[0x70, 0, 3]);
    let failed = ScsiResponse { status: 2, sense, ..ScsiResponse::data(payload(&pattern(256))) };
    host.connection.respond(1, failed);
    let all = host.receive();
    let Some((Response::Scsi(response), before)) = all.split_last() else { panic!("{all:?}") };
    assert_eq!((response.status, response.sense.len()), (ScsiStatus::CHECK_CONDITION, 3));
    assert!(before.iter().all(|pdu| matches!(pdu, Response::DataIn(data) if data.status.is_none())));
}

/// Section 11.7.7: they should not be sent and must be taken.
#[test]
fn an_empty_data_out_is_taken() {
    let mut host = Host::logged_in("", |_| {});
    let command = host.write(1, 512, &[], true);
    host.send(command);
    let Response::R2t(r2t) = host.receive_one() else { panic!() };
    host.send(data_out(1, r2t.transfer_tag, 0, 0, &[], false));
    host.send(data_out(1, r2t.transfer_tag, 1, 0, &[7; 512], false));
    host.send(data_out(1, r2t.transfer_tag, 2, 512, &[], true));
    assert_eq!(host.command().data_out.to_bytes(), [7; 512][..]);
}

/// Section 11.8.5: 0xffffffff is left out when the numbers come round.
#[test]
fn no_r2t_has_the_reserved_tag() {
    let mut host = Host::logged_in("ImmediateData=No", |_| {});
    host.connection.session().expect("a session").0.next_transfer_tag = u32::MAX - 2;
    for tag in 0..4 {
        let command = host.write(tag, 512, &[], true);
        host.send(command);
        let Response::R2t(r2t) = host.receive_one() else { panic!() };
        assert!(!r2t.transfer_tag.is_reserved());
        host.send(data_out(tag, r2t.transfer_tag, 0, 0, &[7; 512], true));
        assert!(matches!(host.event(), Some(Event::Command(_))));
    }
}
