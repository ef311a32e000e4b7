//! Text, pings, logout, async messages.

use core::time::Duration;

use twinlun_block::Payload;

use super::harness::*;
use crate::pdu::{
    self, AsyncEvent, LogoutReason, LogoutRequest, LogoutResponseCode, Lun, NopOut, RejectReason, Response,
    Serial32, SnackRequest, SnackType, TaskTag, TextRequest, TransferTag,
};
use crate::target::{AsyncMessage, CloseReason, Event, ScsiResponse, SessionType, TaskEnd};

fn text(host: &mut Host, pairs: &str) -> TextRequest {
    let text = pairs.split(' ').filter(|p| !p.is_empty()).map(|pair| format!("{pair}\0")).collect::<String>();
    TextRequest {
        immediate: false,
        is_final: true,
        continues: false,
        lun: Lun::ZERO,
        task_tag: TaskTag(1),
        transfer_tag: TransferTag::RESERVED,
        cmd_sn: host.number(),
        exp_stat_sn: Serial32(0),
        text: text.into(),
    }
}

fn nop(host: &Host, task_tag: u32, transfer_tag: TransferTag, data: &[u8]) -> NopOut {
    NopOut {
        immediate: true,
        lun: Lun::ZERO,
        task_tag: TaskTag(task_tag),
        transfer_tag,
        cmd_sn: Serial32(host.cmd_sn),
        exp_stat_sn: Serial32(0),
        data: payload(data),
    }
}

fn logout(host: &Host, reason: LogoutReason, cid: u16) -> LogoutRequest {
    let cmd_sn = Serial32(host.cmd_sn);
    let exp_stat_sn = Serial32(0);
    LogoutRequest { immediate: true, reason, task_tag: TaskTag(8), cid: pdu::Cid(cid), cmd_sn, exp_stat_sn }
}

fn discovery(more_targets: usize, keys: &str) -> Host {
    let mut host = Host::new(Fixture { more_targets, ..Fixture::default() }, |_| {});
    host.log_in(keys, SessionType::Discovery);
    host
}

fn text_answer(host: &mut Host, request: TextRequest) -> pdu::TextResponse {
    host.send(request);
    match host.receive_one() {
        Response::Text(response) => response,
        other => panic!("{other:?}"),
    }
}

const RECORD: &str = "TargetAddress=10.0.0.1:3260,1 TargetAddress=[fd00::1]:3260,2";

#[test]
fn send_targets_in_discovery() {
    let mut host = discovery(1, "");
    let request = text(&mut host, "SendTargets=All");
    let response = text_answer(&mut host, request);
    assert!(response.is_final && !response.continues && response.transfer_tag.is_reserved());
    assert_eq!(
        words(&response.text),
        format!("TargetName={TARGET} {RECORD} TargetName=iqn.2026-11.io.twinlun:more-0000 {RECORD}")
    );
    let request = text(&mut host, "SendTargets=iqn.2026-11.io.twinlun:more-0000");
    let response = text_answer(&mut host, request);
    assert_eq!(words(&response.text), format!("TargetName=iqn.2026-11.io.twinlun:more-0000 {RECORD}"));
    let request = text(&mut host, "SendTargets=iqn.2026-11.io.twinlun:none");
    assert_eq!(text_answer(&mut host, request).text.len(), 0);
}

#[test]
fn send_targets_in_a_normal_session_tells_of_its_own() {
    let mut host = Host::new(Fixture { more_targets: 3, ..Fixture::default() }, |_| {});
    host.log_in("", SessionType::Normal);
    for (request, expected) in [
        ("SendTargets=", format!("TargetName={TARGET} {RECORD}")),
        (&format!("SendTargets={TARGET}"), format!("TargetName={TARGET} {RECORD}")),
        ("SendTargets=iqn.2026-11.io.twinlun:more-0000", String::new()),
        ("SendTargets=All", format!("TargetName={TARGET} {RECORD}")),
        ("SendTargets=Alle", "SendTargets=Reject".into()),
        ("sENDtARGETS=aLL", "sENDtARGETS=NotUnderstood".into()),
    ] {
        let request = text(&mut host, request);
        assert_eq!(words(&text_answer(&mut host, request).text), expected);
    }
}

#[test]
fn long_answers_are_fetched_piece_by_piece() {
    let mut host = discovery(99, "MaxRecvDataSegmentLength=512");
    let request = text(&mut host, "SendTargets=All");
    let mut response = text_answer(&mut host, request);
    let mut all = response.text.to_vec();
    let mut parts = 1;
    while !response.is_final {
        assert!(response.continues && !response.transfer_tag.is_reserved());
        assert!(response.text.len() <= 512 && response.text.ends_with(&[0]), "cut between pairs");
        let transfer_tag = response.transfer_tag;
        let request = TextRequest { transfer_tag, ..text(&mut host, "") };
        response = text_answer(&mut host, request);
        all.extend_from_slice(&response.text);
        parts += 1;
    }
    assert!(parts > 10 && response.transfer_tag.is_reserved());
    assert_eq!(words(&all).matches("TargetName=").count(), 100);
    assert_eq!(words(&all).matches("TargetAddress=").count(), 200);
}

#[test]
fn a_discovery_session_does_nothing_else() {
    let mut host = discovery(0, "");
    let cmd_sn = host.number();
    host.send(scsi(1, cmd_sn));
    assert!(
        matches!(host.receive_one(), Response::Reject(r) if r.reason == RejectReason::COMMAND_NOT_SUPPORTED)
    );
    host.send(host.function(2, pdu::TaskFunction::LOGICAL_UNIT_RESET, u32::MAX, 0));
    assert!(
        matches!(host.receive_one(), Response::Reject(r) if r.reason == RejectReason::COMMAND_NOT_SUPPORTED)
    );
    host.connection.async_message(AsyncMessage::LogoutRequest { within: 5 });
    assert!(host.receive().is_empty());
    // Its silence ends it, unasked (section 7.4.3).
    host.pass(Duration::from_secs(30));
    assert!(host.receive().is_empty());
    assert!(matches!(host.event(), Some(Event::Closed(CloseReason::PingTimeout))));
}

#[test]
fn the_segment_length_may_be_declared_anew() {
    let mut host = Host::logged_in("MaxRecvDataSegmentLength=512", |_| {});
    let request = text(&mut host, "MaxRecvDataSegmentLength=4096 X-com.example.a=1");
    let open = TextRequest { is_final: false, ..request };
    let response = text_answer(&mut host, open);
    assert_eq!(words(&response.text), "X-com.example.a=NotUnderstood");
    assert!(!response.is_final && !response.transfer_tag.is_reserved());
    assert_eq!(host.connection.parameters().unwrap().initiator_max_recv, 512, "not before the end");
    let request = TextRequest { transfer_tag: response.transfer_tag, ..text(&mut host, "") };
    assert!(text_answer(&mut host, request).is_final);
    assert_eq!(host.connection.parameters().unwrap().initiator_max_recv, 4096);
}

#[test]
fn text_that_breaks_the_rules_is_rejected_and_changes_nothing() {
    let mut host = Host::logged_in("", |_| {});
    for pairs in [
        "MaxBurstLength=512",
        "InitiatorName=iqn.2001-01.a",
        "MaxRecvDataSegmentLength=1024 MaxRecvDataSegmentLength=2048",
        "MaxRecvDataSegmentLength=1",
        "SendTargets=All InitiatorAlias=x",
        "AuthMethod=None",
    ] {
        let request = text(&mut host, pairs);
        host.send(request);
        let Response::Reject(reject) = host.receive_one() else { panic!("{pairs}") };
        assert_eq!(reject.reason, RejectReason::PROTOCOL_ERROR, "{pairs}");
    }
    assert_eq!(host.connection.parameters().unwrap().initiator_max_recv, 8192);
    let request = TextRequest { transfer_tag: TransferTag(4711), ..text(&mut host, "") };
    host.send(request);
    assert!(matches!(host.receive_one(), Response::Reject(r) if r.reason == RejectReason::INVALID_PDU_FIELD));
    let request = TextRequest { continues: true, ..text(&mut host, "InitiatorAlias=x") };
    host.send(request);
    assert!(matches!(host.receive_one(), Response::Reject(r) if r.reason == RejectReason::PROTOCOL_ERROR));
    // A renegotiation within one sequence, over two requests.
    let request = TextRequest { is_final: false, ..text(&mut host, "MaxRecvDataSegmentLength=1024") };
    let response = text_answer(&mut host, request);
    let transfer_tag = response.transfer_tag;
    let request = TextRequest { transfer_tag, ..text(&mut host, "MaxRecvDataSegmentLength=2048") };
    host.send(request);
    assert!(matches!(host.receive_one(), Response::Reject(r) if r.reason == RejectReason::PROTOCOL_ERROR));
    assert_eq!(host.connection.parameters().unwrap().initiator_max_recv, 8192);
}

/// CVE-2021-28361: a Text Request with the C bit and no data. And floods of such.
#[test]
fn bug_class_h_continued_text_without_data() {
    let mut host = Host::logged_in("", |_| {});
    let mut transfer_tag = TransferTag::RESERVED;
    for round in 0..65 {
        let request = TextRequest { continues: true, is_final: false, transfer_tag, ..text(&mut host, "") };
        host.send(request);
        match host.receive_one() {
            Response::Text(response) => {
                assert!(response.text.is_empty() && !response.is_final && round < 64);
                transfer_tag = response.transfer_tag;
            }
            Response::Reject(_) => assert_eq!(round, 64),
            other => panic!("{other:?}"),
        }
    }
    // A new request begins anew.
    let request = text(&mut host, "InitiatorAlias=x");
    assert!(text_answer(&mut host, request).is_final);
}

/// CVE-2026-63888: a Text Request with a data digest and padding.
#[test]
fn bug_class_d_text_with_a_data_digest() {
    let mut host = Host::logged_in("DataDigest=CRC32C HeaderDigest=CRC32C", |_| {});
    let request = text(&mut host, "InitiatorAlias=odd");
    assert!(!request.text.len().is_multiple_of(4));
    assert!(text_answer(&mut host, request).is_final);
}

#[test]
fn pings_are_echoed() {
    let mut host = Host::logged_in("MaxRecvDataSegmentLength=512", |_| {});
    let data = pattern(600);
    host.send(nop(&host, 5, TransferTag::RESERVED, &data));
    let Response::NopIn(echo) = host.receive_one() else { panic!() };
    assert_eq!((echo.task_tag, echo.transfer_tag), (TaskTag(5), TransferTag::RESERVED));
    assert_eq!(echo.data.to_bytes(), data[..512], "no more than the initiator takes");
    // A numbered ping uses up its number.
    let cmd_sn = host.number();
    host.send(NopOut { immediate: false, cmd_sn, ..nop(&host, 6, TransferTag::RESERVED, &[]) });
    let Response::NopIn(echo) = host.receive_one() else { panic!() };
    assert_eq!(echo.exp_cmd_sn, Serial32(FIRST_CMD_SN + 1));
    // No answer without a task tag.
    host.send(nop(&host, u32::MAX, TransferTag::RESERVED, &[]));
    assert!(host.receive().is_empty());
}

#[test]
fn silence_is_pinged_and_then_ends() {
    let mut host = Host::logged_in("", |_| {});
    assert_eq!(host.connection.next_timeout(), Some(host.now + Duration::from_secs(30)));
    host.pass(Duration::from_secs(30));
    let Response::NopIn(ping) = host.receive_one() else { panic!() };
    assert!(ping.task_tag.is_reserved() && !ping.transfer_tag.is_reserved() && ping.data.is_empty());
    host.send(nop(&host, u32::MAX, ping.transfer_tag, &[]));
    assert!(host.receive().is_empty(), "the answer is not answered");
    assert_eq!(host.connection.next_timeout(), Some(host.now + Duration::from_secs(30)));
    host.pass(Duration::from_secs(30));
    assert!(matches!(host.receive_one(), Response::NopIn(_)));
    // Other traffic shows life as well.
    host.pass(Duration::from_secs(10));
    let cmd_sn = host.number();
    host.send(scsi(1, cmd_sn));
    host.pass(Duration::from_secs(10));
    host.pass(Duration::from_secs(20));
    assert!(matches!(host.receive_one(), Response::NopIn(_)));
    assert!(matches!(host.event(), Some(Event::Command(_))));
    host.pass(Duration::from_secs(20));
    assert!(matches!(host.event(), Some(Event::Closed(CloseReason::PingTimeout))));
}

#[test]
fn logout_waits_for_the_delivered_tasks() {
    for (reason, cid) in [(LogoutReason::CLOSE_SESSION, 99), (LogoutReason::CLOSE_CONNECTION, 3)] {
        let mut host = Host::logged_in("", |_| {});
        let cmd_sn = host.number();
        host.send(scsi(1, cmd_sn));
        host.command();
        // Delivered but not yet looked at: it never starts.
        let cmd_sn = host.number();
        host.send(scsi(2, cmd_sn));
        let write = host.write(3, 512, &[], true);
        host.send(write);
        host.receive();
        host.send(logout(&host, reason, cid));
        let Some(Event::Terminate(ends)) = host.event() else { panic!() };
        assert_eq!(ends, [TaskEnd { tag: 1, lun: [0; 8] }]);
        assert!(host.event().is_none() && host.receive().is_empty());
        host.connection.respond(1, ScsiResponse::good());
        assert!(host.receive().is_empty(), "no response after a logout");
        let cmd_sn = host.number();
        host.send(scsi(4, cmd_sn));
        assert!(host.event().is_none());
        host.connection.abandon(1);
        let Response::Logout(response) = host.receive_one() else { panic!() };
        assert_eq!((response.response, response.task_tag), (LogoutResponseCode::CLOSED, TaskTag(8)));
        assert!(matches!(host.event(), Some(Event::Closed(CloseReason::LoggedOut))));
        assert!(host.connection.is_closing());
    }
}

#[test]
fn logouts_that_change_nothing() {
    let mut host = Host::logged_in("", |_| {});
    host.send(logout(&host, LogoutReason::CLOSE_CONNECTION, 4));
    assert!(
        matches!(host.receive_one(), Response::Logout(r) if r.response == LogoutResponseCode::NO_SUCH_CID)
    );
    host.send(logout(&host, LogoutReason::RECOVERY, 3));
    let Response::Logout(response) = host.receive_one() else { panic!() };
    assert_eq!(response.response, LogoutResponseCode::RECOVERY_NOT_SUPPORTED);
    host.send(logout(&host, LogoutReason(7), 3));
    assert!(matches!(host.receive_one(), Response::Reject(r) if r.reason == RejectReason::INVALID_PDU_FIELD));
    assert!(host.event().is_none() && host.connection.wants_input());
}

#[test]
fn what_does_not_belong_here_is_rejected() {
    let mut host = Host::logged_in("", |_| {});
    let snack = SnackRequest {
        kind: SnackType::STATUS,
        lun: Lun::ZERO,
        task_tag: TaskTag::RESERVED,
        tag: u32::MAX,
        exp_stat_sn: Serial32(0),
        begin: 0,
        length: 0,
    };
    host.send(snack);
    assert!(matches!(host.receive_one(), Response::Reject(r) if r.reason == RejectReason::PROTOCOL_ERROR));
    host.send(login(pdu::Stage::SECURITY, None, ""));
    assert!(matches!(host.receive_one(), Response::Reject(r) if r.reason == RejectReason::PROTOCOL_ERROR));
    for opcode in [0x1c, 0x21, 0x3f] {
        let mut raw = pdu::RawPdu::header(pdu::Bhs([0; 48]));
        raw.bhs.0[0] = opcode;
        let header = raw.bhs;
        host.send(raw);
        let Response::Reject(reject) = host.receive_one() else { panic!() };
        assert_eq!((reject.reason, reject.header), (RejectReason::COMMAND_NOT_SUPPORTED, header));
    }
    assert!(host.event().is_none());
}

#[test]
fn async_messages() {
    let mut host = Host::logged_in("", |_| {});
    let mut send = |message| {
        host.connection.async_message(message);
        match host.receive_one() {
            Response::Async(message) => message,
            other => panic!("{other:?}"),
        }
    };
    let event =
        send(AsyncMessage::ScsiEvent { lun: [0, 1, 0, 0, 0, 0, 0, 0], sense: vec![0x70, 0, 6].into() });
    assert_eq!((event.event, event.lun.number(), event.sense.len()), (AsyncEvent::SCSI, Some(1), 3));
    let event = send(AsyncMessage::LogoutRequest { within: 10 });
    assert_eq!((event.event, event.parameter3), (AsyncEvent::LOGOUT_REQUEST, 10));
    let event = send(AsyncMessage::ConnectionDrop { cid: 3, time2wait: 2, time2retain: 20 });
    assert_eq!((event.event, event.parameter1), (AsyncEvent::CONNECTION_DROP, 3));
    assert_eq!((event.parameter2, event.parameter3), (2, 20));
    let event = send(AsyncMessage::SessionDrop { time2wait: 2 });
    assert_eq!((event.event, event.parameter2), (AsyncEvent::SESSION_DROP, 2));
}

#[test]
fn closing_from_this_side_voids_what_was_not_seen() {
    let mut host = Host::logged_in("", |_| {});
    let cmd_sn = host.number();
    host.send(scsi(1, cmd_sn));
    host.connection.close(CloseReason::Local("a test"));
    assert!(matches!(host.event(), Some(Event::Closed(CloseReason::Local("a test")))));
    assert!(host.event().is_none() && host.connection.is_closing());
    host.connection.respond(1, ScsiResponse::data(Payload::new()));
    host.connection.close(CloseReason::Lost);
    assert!(host.event().is_none() && host.receive().is_empty());
    assert_eq!(host.connection.next_timeout(), None);
}
