//! Error recovery as a single peer sees it, and peers that ask for what is not theirs. Whole sessions: `initiator::multi`'s tests.

use core::time::Duration;

use super::harness::*;
use crate::pdu::{
    self, DataIn, LogoutReason, LogoutRequest, LogoutResponseCode, Lun, NopOut, RejectReason, Response,
    ScsiStatus, Serial32, SnackRequest, SnackType, TaskFunction, TaskResponseCode, TaskTag, TextRequest,
    TransferTag,
};
use crate::target::{CloseReason, Event, ScsiResponse};
use twinlun_block::Payload;

const KEYS: &str = "ErrorRecoveryLevel=1 MaxRecvDataSegmentLength=512 MaxBurstLength=1024 FirstBurstLength=1024 InitialR2T=No \
     MaxOutstandingR2T=4 DataSequenceInOrder=No";
const KEYS_2: &str = "ErrorRecoveryLevel=2 DefaultTime2Retain=20 DefaultTime2Wait=2";

fn snack(kind: SnackType, task_tag: u32, begin: u32, length: u32) -> SnackRequest {
    let exp_stat_sn = Serial32(0);
    SnackRequest {
        kind,
        lun: Lun::ZERO,
        task_tag: TaskTag(task_tag),
        tag: u32::MAX,
        exp_stat_sn,
        begin,
        length,
    }
}

fn rejected(host: &mut Host, pdu: &SnackRequest, reason: RejectReason) {
    host.send(pdu.clone());
    match host.receive_one() {
        Response::Reject(reject) => assert_eq!(reject.reason, reason, "{pdu:?}"),
        other => panic!("{pdu:?}: {other:?}"),
    }
}

/// Says that everything has arrived.
fn acknowledge(host: &mut Host) {
    let exp_stat_sn = host.stat_sn.unwrap();
    let (cmd_sn, data) = (Serial32(host.cmd_sn), Payload::new());
    let (task_tag, transfer_tag) = (TaskTag::RESERVED, TransferTag::RESERVED);
    host.send(NopOut { immediate: true, lun: Lun::ZERO, task_tag, transfer_tag, cmd_sn, exp_stat_sn, data });
}

/// Reads so many bytes, up to the answer.
fn read(host: &mut Host, tag: u32, len: u32) -> Vec<DataIn> {
    let read = host.read(tag, len);
    host.send(read);
    host.command();
    host.connection.respond(tag, ScsiResponse::data(payload(&pattern(len as usize))));
    data_in(host.receive())
}

fn data_in(all: Vec<Response>) -> Vec<DataIn> {
    all.into_iter()
        .map(|response| match response {
            Response::DataIn(pdu) => pdu,
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn data_and_status_can_be_asked_for_until_they_are_acknowledged() {
    let mut host = Host::logged_in(KEYS, |_| {});
    let first = host.stat_sn.unwrap().0;
    let sent = read(&mut host, 1, 2500);
    assert_eq!(sent.iter().map(|pdu| pdu.data.len()).collect::<Vec<_>>(), [512, 512, 512, 512, 452]);
    let asks: Vec<_> = sent.iter().map(|pdu| pdu.acknowledge).collect();
    assert_eq!(asks, [false, true, false, true, false], "once per burst, and not where the status is");
    for (begin, length, expected) in
        [(1, 1, &sent[1..2]), (2, 0, &sent[2..]), (0, 0, &sent[..]), (0, 3, &sent[..3])]
    {
        host.send(snack(SnackType::DATA_OR_R2T, 1, begin, length));
        assert_eq!(data_in(host.receive_again()), expected, "{begin} {length}");
    }
    host.send(snack(SnackType::STATUS, u32::MAX, first, 1));
    assert_eq!(data_in(host.receive_again()), &sent[4..], "the status rode on the last one");
    for (begin, length) in [(5, 0), (4, 2), (0, 6), (1, u32::MAX), (u32::MAX, 1)] {
        rejected(&mut host, &snack(SnackType::DATA_OR_R2T, 1, begin, length), RejectReason::PROTOCOL_ERROR);
    }
    // What has arrived need not be kept.
    let mut ack = snack(SnackType::DATA_ACK, u32::MAX, 2, 0);
    ack.tag = sent[1].transfer_tag.0;
    host.send(ack);
    assert!(host.receive().is_empty());
    rejected(&mut host, &snack(SnackType::DATA_OR_R2T, 1, 1, 1), RejectReason::PROTOCOL_ERROR);
    host.send(snack(SnackType::DATA_OR_R2T, 1, 0, 0));
    assert_eq!(data_in(host.receive_again()), &sent[2..], "0 and 0 are all that is not acknowledged");
    acknowledge(&mut host);
    rejected(&mut host, &snack(SnackType::DATA_OR_R2T, 1, 2, 1), RejectReason::PROTOCOL_ERROR);
    acknowledge(&mut host);
    rejected(&mut host, &snack(SnackType::STATUS, u32::MAX, first, 1), RejectReason::PROTOCOL_ERROR);
    let next = host.stat_sn.unwrap().0;
    rejected(&mut host, &snack(SnackType::STATUS, u32::MAX, next, 1), RejectReason::PROTOCOL_ERROR);
    rejected(&mut host, &snack(SnackType(9), 1, 0, 0), RejectReason::INVALID_PDU_FIELD);
}

#[test]
fn a_smaller_segment_is_served_by_r_data_snack() {
    let mut host = Host::logged_in(&KEYS.replace("=512", "=1024"), |_| {});
    let sent = read(&mut host, 1, 2000);
    let stat_sn = sent.last().unwrap().status.unwrap().stat_sn;
    let cmd_sn = host.number();
    host.send(TextRequest {
        immediate: false,
        is_final: true,
        continues: false,
        lun: Lun::ZERO,
        task_tag: TaskTag(5),
        transfer_tag: TransferTag::RESERVED,
        cmd_sn,
        exp_stat_sn: Serial32(0),
        text: "MaxRecvDataSegmentLength=512\0".into(),
    });
    assert!(matches!(host.receive_one(), Response::Text(_)));
    for tag in [0, u32::MAX] {
        let request = SnackRequest { tag, ..snack(SnackType::R_DATA, 1, 0, 0) };
        rejected(&mut host, &request, RejectReason::PROTOCOL_ERROR);
    }
    host.send(SnackRequest { tag: 77, ..snack(SnackType::R_DATA, 1, 0, 0) });
    let mut again = host.receive_again();
    let Some(Response::Scsi(response)) = again.pop() else { panic!() };
    assert_eq!((response.snack_tag, response.stat_sn, response.status), (77, stat_sn, ScsiStatus::GOOD));
    let again = data_in(again);
    assert_eq!(again.iter().map(|pdu| pdu.data.len()).collect::<Vec<_>>(), [512, 512, 512, 464]);
    assert_eq!(response.exp_data_sn, 4);
    let bytes: Vec<u8> = again.iter().flat_map(|pdu| pdu.data.to_bytes().to_vec()).collect();
    assert_eq!(bytes, pattern(2000));
    // From now on that is the response.
    host.send(snack(SnackType::STATUS, u32::MAX, stat_sn.0, 1));
    assert!(matches!(&host.receive_again()[..], [Response::Scsi(again)] if again.snack_tag == 77));
}

#[test]
fn lost_data_is_asked_for_again_and_nothing_else() {
    let mut host = Host::logged_in(KEYS, |_| {});
    let bytes = pattern(1024 + 1024);
    let write = host.write(1, 2048, &[], false);
    host.send(write);
    let Response::R2t(whole) = host.receive_one() else { panic!() };
    assert_eq!((whole.buffer_offset, whole.desired_len, whole.r2t_sn), (1024, 1024, 0));
    // The second of four unsolicited PDUs gets lost.
    let unsolicited = TransferTag::RESERVED;
    host.send(data_out(1, unsolicited, 0, 0, &bytes[..256], false));
    host.send(data_out(1, unsolicited, 2, 512, &bytes[512..768], false));
    let Response::R2t(hole) = host.receive_one() else { panic!() };
    assert_eq!((hole.buffer_offset, hole.desired_len, hole.r2t_sn), (256, 256, 1));
    host.send(data_out(1, unsolicited, 3, 768, &bytes[768..1024], true));
    host.send(data_out(1, whole.transfer_tag, 0, 1024, &bytes[1024..], true));
    assert!(host.event().is_none(), "the hole is open");
    host.send(data_out(1, hole.transfer_tag, 0, 256, &bytes[256..512], true));
    assert_eq!(host.command().data_out, payload(&bytes));
}

/// Section 13.19: only the last R2T could be asked for again.
#[test]
fn sequences_in_order_are_asked_for_one_by_one() {
    let keys = KEYS.replace("DataSequenceInOrder=No", "DataSequenceInOrder=Yes");
    let mut host = Host::logged_in(&keys, |_| {});
    let bytes = pattern(4096);
    let write = host.write(1, 4096, &[], true);
    host.send(write);
    for offset in [0, 1024, 2048, 3072] {
        let Response::R2t(r2t) = host.receive_one() else { panic!("one R2T, and no other") };
        assert_eq!((r2t.buffer_offset, r2t.desired_len), (offset, 1024));
        let part = &bytes[offset as usize..][..512];
        host.send(data_out(1, r2t.transfer_tag, 0, offset, part, false));
        let part = &bytes[offset as usize + 512..][..512];
        host.send(data_out(1, r2t.transfer_tag, 1, offset + 512, part, true));
    }
    assert_eq!(host.command().data_out, payload(&bytes));
}

#[test]
fn what_stalls_is_asked_for_again_under_a_new_tag() {
    let mut host = Host::logged_in(KEYS, |config| config.timers.sequence = Duration::from_secs(5));
    let bytes = pattern(1024);
    let write = host.write(1, 1024, &bytes[..512], true);
    host.send(write);
    let Response::R2t(first) = host.receive_one() else { panic!() };
    host.send(data_out(1, first.transfer_tag, 0, 512, &bytes[512..640], false));
    host.pass(Duration::from_secs(4));
    assert!(host.receive().is_empty());
    host.pass(Duration::from_secs(1));
    let Response::R2t(again) = host.receive_one() else { panic!() };
    assert_eq!((again.buffer_offset, again.desired_len, again.r2t_sn), (640, 384, 1));
    // The old one is too late.
    host.send(data_out(1, first.transfer_tag, 1, 640, &bytes[640..], true));
    assert!(host.receive().is_empty() && host.event().is_none());
    host.send(data_out(1, again.transfer_tag, 0, 640, &bytes[640..], true));
    assert_eq!(host.command().data_out, payload(&bytes));
}

/// A write whose every PDU loses its predecessor ends instead of growing for ever.
#[test]
fn holes_are_bounded() {
    let mut host = Host::logged_in("ErrorRecoveryLevel=1 InitialR2T=No FirstBurstLength=65536", |_| {});
    let write = host.write(1, 65_536, &[], false);
    host.send(write);
    for n in 0..600u32 {
        host.send(data_out(1, TransferTag::RESERVED, 2 * n + 1, 100 * n + 50, &[7; 50], false));
        host.receive_again();
    }
    host.send(data_out(1, TransferTag::RESERVED, 1201, 65_000, &[7; 536], true));
    // R2Ts that are open must be answered before the status may go out; then it says what happened.
    assert!(host.connection.outstanding() <= 1);
    assert!(host.event().is_none());
}

/// Requests of 48 bytes must not make the target queue gigabytes.
#[test]
fn a_flood_of_snacks_is_bounded() {
    let mut host = Host::logged_in("ErrorRecoveryLevel=1 MaxRecvDataSegmentLength=262144", |_| {});
    read(&mut host, 1, 4 << 20);
    for _ in 0..1000 {
        host.send(snack(SnackType::DATA_OR_R2T, 1, 0, 0));
    }
    let all = host.receive_again();
    let bytes: usize =
        all.iter().map(|r| if let Response::DataIn(pdu) = r { pdu.data.len() } else { 0 }).sum();
    assert!((4 << 20..=36 << 20).contains(&bytes), "{bytes}");
    let refused = |r: &&Response| matches!(r, Response::Reject(r) if r.reason == RejectReason::SNACK_REJECT);
    assert!(all.iter().filter(refused).count() > 900);
    // With the output gone there is room again.
    host.send(snack(SnackType::DATA_OR_R2T, 1, 0, 1));
    assert!(matches!(host.receive_again()[..], [Response::DataIn(_)]));
}

/// An initiator that never acknowledges gets no further than twice the depth, and is asked for a word.
#[test]
fn answers_are_kept_within_bounds() {
    let mut host = Host::logged_in("ErrorRecoveryLevel=1", |config| config.limits.queue_depth = 4);
    let mut pings = 0;
    for tag in 0..20 {
        let cmd_sn = Serial32(host.cmd_sn);
        host.send(scsi(tag, cmd_sn));
        let Some(Event::Command(command)) = host.event() else { break };
        host.number();
        host.connection.respond(command.tag, ScsiResponse::good());
        pings += host.receive().iter().filter(|r| matches!(r, Response::NopIn(_))).count();
    }
    assert_eq!(host.cmd_sn - FIRST_CMD_SN, 8);
    assert_eq!(pings, 1, "asked once");
    acknowledge(&mut host);
    let cmd_sn = host.number();
    host.send(scsi(99, cmd_sn));
    host.command();
}

#[test]
fn tasks_are_reassigned_only_from_a_connection_that_is_logged_out() {
    let mut host = Host::logged_in("", |_| {});
    let ask = |host: &mut Host, tag| {
        let request = host.function(50, TaskFunction::TASK_REASSIGN, tag, 0);
        host.send(request);
        match host.receive_one() {
            Response::Task(response) => response.response,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(&mut host, 1), TaskResponseCode::REASSIGN_NOT_SUPPORTED);
    let mut host = Host::logged_in(KEYS_2, |_| {});
    assert_eq!(ask(&mut host, 1), TaskResponseCode::NO_SUCH_TASK);
    let read = host.read(1, 512);
    host.send(read);
    host.command();
    assert_eq!(ask(&mut host, 1), TaskResponseCode::STILL_ALLEGIANT);
    host.connection.respond(1, ScsiResponse::data(payload(&pattern(512))));
    host.receive();
    assert_eq!(ask(&mut host, 1), TaskResponseCode::STILL_ALLEGIANT, "answered, and not acknowledged");
    acknowledge(&mut host);
    assert_eq!(ask(&mut host, 1), TaskResponseCode::NO_SUCH_TASK);
    let reset = host.function(2, TaskFunction::LOGICAL_UNIT_RESET, u32::MAX, 0);
    host.send(reset);
    assert_eq!(ask(&mut host, 2), TaskResponseCode::REJECTED, "a function");
}

#[test]
fn a_connection_that_is_removed_for_recovery_leaves_its_tasks_for_a_while() {
    let mut host = Host::logged_in(KEYS_2, |_| {});
    let read = host.read(1, 512);
    host.send(read);
    host.command();
    let cmd_sn = Serial32(host.cmd_sn);
    host.send(LogoutRequest {
        immediate: true,
        reason: LogoutReason::RECOVERY,
        task_tag: TaskTag(8),
        cid: pdu::Cid(3),
        cmd_sn,
        exp_stat_sn: Serial32(0),
    });
    let Response::Logout(response) = host.receive_one() else { panic!() };
    assert_eq!(response.response, LogoutResponseCode::CLOSED);
    assert_eq!((response.time2wait, response.time2retain), (2, 20));
    assert!(host.connection.is_closing() && host.event().is_none(), "the session lives");
    // The device server finishes the task; nobody hears of it yet.
    host.connection.respond(1, ScsiResponse::data(payload(&pattern(512))));
    assert_eq!(host.connection.outstanding(), 1);
    host.pass(Duration::from_millis(21_999));
    assert!(host.event().is_none());
    host.pass(Duration::from_millis(1));
    assert!(matches!(host.event(), Some(Event::Closed(CloseReason::NotRecovered))));
    assert_eq!(host.connection.outstanding(), 0);
}

/// A damaged command is rejected and not received; the same comes once more.
#[test]
fn a_damaged_command_may_be_sent_again() {
    let keys = "ErrorRecoveryLevel=1 DataDigest=CRC32C";
    let mut host = Host::logged_in(keys, |_| {});
    let write = host.write(1, 512, &pattern(512), true);
    let mut bytes = host.encode(write.clone());
    *bytes.last_mut().unwrap() ^= 1;
    host.send_bytes(&bytes);
    assert!(matches!(host.receive_one(), Response::Reject(r) if r.reason == RejectReason::DATA_DIGEST_ERROR));
    assert!(host.event().is_none() && host.connection.wants_input());
    host.send(write.clone());
    assert_eq!(host.command().data_out, payload(&pattern(512)));
    // And once too often: it has arrived.
    host.send(write);
    assert!(host.event().is_none() && host.receive().is_empty());
}
