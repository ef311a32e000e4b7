//! Task management, pings, discovery, logout, and hostile targets.

use super::*;

fn task_response(target: &mut Target, task_tag: TaskTag, response: TaskResponseCode) -> TaskResponse {
    TaskResponse {
        response,
        task_tag,
        additional_information: [0; 3],
        stat_sn: target.next_stat_sn(),
        exp_cmd_sn: target.exp_cmd_sn,
        max_cmd_sn: target.max_cmd_sn,
    }
}

#[test]
fn task_management_ends_what_it_covers() {
    let mut target = Target::ready(config(), "");
    let other = Lun::from_number(1).unwrap();
    for (tag, lun) in [(1, LUN), (2, LUN), (3, other)] {
        let command = Command::new(tag, lun, cdb::test_unit_ready(), Transfer::None);
        assert_eq!(target.initiator.submit(command), Submitted::Accepted);
    }
    let Request::ScsiCommand(first) = target.requests().remove(0) else { panic!() };
    assert_eq!(target.initiator.manage_task(50, TaskFunction::ABORT_TASK, 1), Submitted::Accepted);
    let Request::Task(abort) = target.request() else { panic!() };
    assert_eq!((abort.referenced_task_tag, abort.ref_cmd_sn), (first.task_tag, first.cmd_sn));
    assert!(abort.immediate);
    let response = task_response(&mut target, abort.task_tag, TaskResponseCode::COMPLETE);
    target.send(response).unwrap();
    assert_eq!(target.event(), Event::Aborted { tag: 1 });
    assert_eq!(target.event(), Event::TaskManagement { tag: 50, response: TaskResponseCode::COMPLETE });

    assert_eq!(target.initiator.manage_lun(51, TaskFunction::LOGICAL_UNIT_RESET, LUN), Submitted::Accepted);
    let Request::Task(reset) = target.request() else { panic!() };
    let response = task_response(&mut target, reset.task_tag, TaskResponseCode::COMPLETE);
    target.send(response).unwrap();
    assert_eq!(target.event(), Event::Aborted { tag: 2 });
    assert_eq!(target.event(), Event::TaskManagement { tag: 51, response: TaskResponseCode::COMPLETE });
    assert_eq!(target.initiator.unfinished().collect::<Vec<_>>(), [3], "the other LU's command goes on");

    assert_eq!(target.initiator.manage_lun(52, TaskFunction::TARGET_COLD_RESET, LUN), Submitted::Accepted);
    let Request::Task(reset) = target.request() else { panic!() };
    let response = task_response(&mut target, reset.task_tag, TaskResponseCode::NOT_AUTHORIZED);
    target.send(response).unwrap();
    assert_eq!(target.event(), Event::TaskManagement { tag: 52, response: TaskResponseCode::NOT_AUTHORIZED });
    assert_eq!(target.initiator.outstanding(), 1, "a refused function aborts nothing");
}

#[test]
fn pings_both_ways() {
    let mut target = Target::ready(config(), "");
    assert_eq!(target.initiator.ping(3, pattern(9000)), Submitted::Accepted);
    let Request::NopOut(ping) = target.request() else { panic!() };
    assert_eq!(ping.data.len(), 8192, "cut to what the target takes");
    let pong = NopIn {
        lun: LUN,
        task_tag: ping.task_tag,
        transfer_tag: TransferTag::RESERVED,
        stat_sn: target.next_stat_sn(),
        exp_cmd_sn: target.exp_cmd_sn,
        max_cmd_sn: target.max_cmd_sn,
        data: ping.data.clone(),
    };
    target.send(pong.clone()).unwrap();
    assert_eq!(target.event(), Event::Pong { tag: 3, data: ping.data });
    let lun = Lun::from_number(5).unwrap();
    let (task_tag, transfer_tag, stat_sn) = (TaskTag::RESERVED, TransferTag(8), target.stat_sn);
    target.send(NopIn { lun, task_tag, transfer_tag, stat_sn, data: Payload::new(), ..pong }).unwrap();
    let Request::NopOut(answer) = target.request() else { panic!() };
    assert_eq!((answer.lun, answer.transfer_tag, answer.task_tag), (lun, TransferTag(8), TaskTag::RESERVED));
    assert!(answer.immediate);
}

#[test]
fn discovery_over_several_answers() {
    let mut target = Target::ready(InitiatorConfig { session: SessionKind::Discovery, ..config() }, "");
    assert_eq!(target.initiator.send_targets(1, "All"), Submitted::Accepted);
    let Request::Text(ask) = target.request() else { panic!() };
    assert_eq!(ask.text, "SendTargets=All\0");
    let stat_sn = target.next_stat_sn();
    let part = text_response(
        &target,
        ask.task_tag,
        stat_sn,
        false,
        "TargetName=iqn.2026-11.io.twinlun:east\0TargetAdd",
    );
    target.send(part).unwrap();
    let Request::Text(more) = target.request() else { panic!() };
    assert_eq!((more.transfer_tag, more.task_tag, more.text.len()), (TransferTag(4), ask.task_tag, 0));
    let stat_sn = target.next_stat_sn();
    let rest = "ress=10.0.0.1:3260,1\0TargetAddress=[::1]:3260,2\0TargetName=iqn.2026-11.io.twinlun:west\0";
    let last = text_response(&target, ask.task_tag, stat_sn, true, rest);
    target.send(last).unwrap();
    let Event::Targets { tag: 1, targets } = target.event() else { panic!() };
    assert_eq!(targets.len(), 2);
    assert_eq!(targets[0].addresses, ["10.0.0.1:3260,1", "[::1]:3260,2"]);
    assert_eq!(targets[1].name.as_str(), "iqn.2026-11.io.twinlun:west");
}

#[test]
fn malformed_discovery() {
    let escape = "TargetName=iqn.2026-11.io.twinlun:east\0TargetAddress=\u{1b}[2J\0";
    for text in ["TargetAddress=10.0.0.1\0", "TargetName=../../etc\0", "TargetName=iqn.2026-11.io.x", escape]
    {
        let mut target = Target::ready(InitiatorConfig { session: SessionKind::Discovery, ..config() }, "");
        assert_eq!(target.initiator.send_targets(1, "All"), Submitted::Accepted);
        let Request::Text(ask) = target.request() else { panic!() };
        let stat_sn = target.next_stat_sn();
        let answer = text_response(&target, ask.task_tag, stat_sn, true, text);
        assert_eq!(violation(target.send(answer)), Violation::Text, "{text:?}");
    }
}

#[test]
fn a_rejected_command_may_still_be_answered_once() {
    let mut target = Target::ready(config(), "");
    let command = target.read(7, 512);
    let reject = Reject {
        reason: RejectReason::PROTOCOL_ERROR,
        stat_sn: target.next_stat_sn(),
        exp_cmd_sn: target.exp_cmd_sn,
        max_cmd_sn: target.max_cmd_sn,
        data_sn: 0,
        header: RawPdu::from(command.clone()).bhs,
    };
    target.send(reject).unwrap();
    assert!(matches!(target.event(), Event::Rejected { tag: Some(7), .. }));
    let late = target.scsi_response(command.task_tag);
    target.send(late).unwrap();
    assert_eq!(target.initiator.poll_event(), None);
    let twice = target.scsi_response(command.task_tag);
    let unknown = Violation::UnknownTask(command.task_tag, Opcode::SCSI_RESPONSE);
    assert_eq!(violation(target.send(twice)), unknown);
}

#[test]
fn logout() {
    let mut target = Target::ready(config(), "");
    assert_eq!(target.initiator.logout(1, LogoutReason::CLOSE_SESSION), Submitted::Accepted);
    assert_eq!(target.initiator.ping(2, Payload::new()), Submitted::NotReady);
    let Request::Logout(request) = target.request() else { panic!() };
    let response = LogoutResponse {
        response: LogoutResponseCode::CLOSED,
        task_tag: request.task_tag,
        stat_sn: target.next_stat_sn(),
        exp_cmd_sn: target.exp_cmd_sn,
        max_cmd_sn: target.max_cmd_sn,
        time2wait: 0,
        time2retain: 0,
    };
    target.send(response).unwrap();
    assert_eq!(target.event(), Event::LoggedOut { response: LogoutResponseCode::CLOSED });
    assert_eq!(target.initiator.phase(), Phase::Closed);
}

#[test]
fn task_termination_is_acknowledged() {
    let mut target = Target::ready(config(), "");
    let message = AsyncMessage {
        lun: Lun::from_number(2).unwrap(),
        stat_sn: target.next_stat_sn(),
        exp_cmd_sn: target.exp_cmd_sn,
        max_cmd_sn: target.max_cmd_sn,
        event: AsyncEvent::TASK_TERMINATION,
        vendor_code: 0,
        parameter1: 0,
        parameter2: 0,
        parameter3: 0,
        sense: Bytes::new(),
        event_data: Bytes::new(),
    };
    target.send(message.clone()).unwrap();
    let Request::NopOut(acknowledgment) = target.request() else { panic!() };
    assert_eq!((acknowledgment.lun, acknowledgment.exp_stat_sn), (message.lun, message.stat_sn.next()));
    assert_eq!(target.event(), Event::Async(message));
}

#[test]
fn cdbs_have_their_fields_in_place() {
    assert_eq!(cdb::read_16(0x0102, 8, true), [0x88, 8, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 8, 0, 0]);
    assert_eq!(cdb::inquiry(Some(0x83), 0x1234)[..6], [0x12, 1, 0x83, 0x12, 0x34, 0]);
    assert_eq!(cdb::read_capacity_16()[..2], [0x9e, 0x10]);
    assert_eq!(cdb::read_capacity_16()[10..14], [0, 0, 0, 32]);
    assert_eq!(cdb::report_luns(16)[6..10], [0, 0, 0, 16]);
    assert_eq!(cdb::compare_and_write(1, 2, false)[9..14], [1, 0, 0, 0, 2]);
    assert_eq!(cdb::write_same_16(0, 1, true, true)[1], 0x09);
    assert_eq!(cdb::verify_16(0, 1, true)[1], 0x02);
    let list = cdb::unmap_parameters(&[(1, 2)]);
    assert_eq!(list, [0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0]);
    let answer = [0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 2, 0];
    assert_eq!(cdb::parse_read_capacity_16(&answer), Some((10, 512)));
    assert_eq!(cdb::parse_read_capacity_16(&answer[..11]), None);
    assert_eq!(cdb::parse_read_capacity_16(&[0xff; 12]), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// A hostile target: PDUs of chance, mostly for the task that is under way and with the right numbers.
    #[test]
    fn no_target_can_crash_it(
        pdus in proptest::collection::vec((
            proptest::sample::select(vec![0x20u8, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3f]),
            any::<u8>(),
            proptest::collection::vec((20usize..48, any::<u8>()), 0..6),
            proptest::collection::vec(any::<u8>(), 0..60),
            any::<bool>(),
        ), 1..12),
        noise in proptest::collection::vec(any::<u8>(), 0..100),
        logged_in: bool,
    ) {
        let mut target = if logged_in { Target::ready(config(), "") } else { Target::new(config()) };
        if logged_in {
            let write = Command::new(1, LUN, cdb::write_16(0, 1, false), Transfer::Write(pattern(100_000)));
            prop_assert_eq!(target.initiator.submit(write), Submitted::Accepted);
            prop_assert_eq!(target.initiator.send_targets(2, "All"), Submitted::Accepted);
            prop_assert_eq!(target.initiator.ping(3, Payload::new()), Submitted::Accepted);
            target.requests();
        }
        for (index, (opcode, flags, changes, data, valid_tag)) in pdus.into_iter().enumerate() {
            let mut bhs = [0; BHS_LEN];
            bhs[0] = opcode;
            bhs[1] = flags;
            let tag = if valid_tag { index as u32 % 3 } else { 0xffff_ffff };
            bhs[16..20].copy_from_slice(&tag.to_be_bytes());
            bhs[24..28].copy_from_slice(&target.stat_sn.0.to_be_bytes());
            for (at, byte) in changes {
                bhs[at] = byte;
            }
            let before = target.initiator.phase();
            if target.send(RawPdu::with_data(Bhs(bhs), data.into())).is_err() {
                prop_assert_eq!(target.initiator.phase(), Phase::Closed);
                return Ok(());
            }
            target.stat_sn = if before == Phase::Login { target.stat_sn } else { target.initiator.exp_stat_sn };
            let mut sent = 0;
            for segment in target.initiator.transmit() {
                sent += segment.len();
            }
            prop_assert!(sent < 200_000, "an answer to one PDU is bounded by the write");
            while target.initiator.poll_event().is_some() {}
        }
        target.initiator.buffer().extend_from_slice(&noise);
        let _ = target.initiator.received();
    }
}
