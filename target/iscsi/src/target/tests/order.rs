//! Command numbering, delivery order and task management.

use core::time::Duration;

use super::harness::*;
use crate::pdu::{
    self, Lun, RejectReason, Response, ScsiCommand, Serial32, TaskAttribute, TaskFunction as F,
    TaskResponseCode, TransferTag,
};
use crate::target::{CloseReason, Event, ScsiResponse, TASK_ABORTED, TaskFunction, TaskManagementResponse};

const OTHER_LUN: Lun = Lun([0, 1, 0, 0, 0, 0, 0, 0]);

fn respond_all(host: &mut Host, tags: &[u32]) {
    for tag in tags {
        host.connection.respond(*tag, ScsiResponse::good());
    }
}

/// Sends a write without data; the tag of its R2T.
fn collecting(host: &mut Host, tag: u32) -> TransferTag {
    collecting_as(host, tag, Lun::ZERO, TaskAttribute::SIMPLE)
}

fn collecting_as(host: &mut Host, tag: u32, lun: Lun, attribute: TaskAttribute) -> TransferTag {
    let command = host.write(tag, 512, &[], true);
    host.send(ScsiCommand { lun, attribute, ..command });
    let all = host.receive();
    let Some(Response::R2t(r2t)) = all.first() else { panic!("{all:?}") };
    r2t.transfer_tag
}

fn finish(host: &mut Host, tag: u32, transfer: TransferTag, lun: Lun) {
    host.send(pdu::DataOut { lun, ..data_out(tag, transfer, 0, 0, &[1; 512], true) });
}

fn simple(host: &mut Host, tag: u32) {
    let command = host.read(tag, 0);
    host.send(command);
}

fn attributed(host: &mut Host, tag: u32, attribute: TaskAttribute) {
    let command = host.read(tag, 0);
    host.send(ScsiCommand { attribute, ..command });
}

fn code(host: &mut Host) -> TaskResponseCode {
    match host.receive_one() {
        Response::Task(response) => response.response,
        other => panic!("{other:?}"),
    }
}

#[test]
fn numbers_outside_of_the_window_are_ignored() {
    let mut host = Host::logged_in("", |config| config.limits.queue_depth = 4);
    for cmd_sn in [FIRST_CMD_SN - 1, FIRST_CMD_SN + 4, FIRST_CMD_SN + (1 << 31)] {
        host.send(scsi(1, Serial32(cmd_sn)));
    }
    assert!(host.event().is_none() && host.receive().is_empty());
    simple(&mut host, 1);
    assert_eq!(host.delivered(), [1]);
    // A duplicate of a number is ignored too.
    host.send(scsi(2, Serial32(FIRST_CMD_SN)));
    assert!(host.event().is_none());
}

#[test]
fn the_window_closes_and_a_nop_in_says_when_it_opens() {
    let mut host = Host::logged_in("", |config| config.limits.queue_depth = 2);
    simple(&mut host, 1);
    simple(&mut host, 2);
    let command = host.read(3, 0);
    host.send(command);
    assert_eq!(host.delivered(), [1, 2], "the third is outside of the window");
    host.cmd_sn -= 1;
    host.connection.respond(1, ScsiResponse::good());
    assert!(matches!(host.receive_one(), Response::Scsi(_)));
    assert_eq!(host.window, (Serial32(FIRST_CMD_SN + 2), Serial32(FIRST_CMD_SN + 2)));
    simple(&mut host, 3);
    assert_eq!(host.delivered(), [3]);
    // The initiator learns of the closed window, then both tasks end without a response.
    host.send(host.function(50, F::QUERY_TASK, 2, 0));
    host.receive();
    host.connection.abandon(2);
    host.connection.abandon(3);
    assert!(host.connection.wants_transmit());
    let Response::NopIn(nop) = host.receive_one() else { panic!() };
    assert!(nop.task_tag.is_reserved() && nop.transfer_tag.is_reserved());
    assert_eq!(nop.max_cmd_sn, Serial32(FIRST_CMD_SN + 4));
    assert!(!host.connection.wants_transmit());
}

#[test]
fn commands_run_in_the_order_of_their_numbers() {
    let mut host = Host::logged_in("InitialR2T=No ImmediateData=No", |_| {});
    let first = host.read(1, 0);
    let second = host.write(2, 512, &[], false);
    let third = host.read(3, 0);
    host.send(third);
    host.send(second);
    // Unsolicited data of a command whose turn has not come waits with it.
    host.send(data_out(2, TransferTag::RESERVED, 0, 0, &[7; 512], true));
    assert!(host.event().is_none());
    host.send(first);
    assert_eq!(host.command().tag, 1);
    assert_eq!(host.command().data_out.to_bytes(), [7; 512][..]);
    assert_eq!(host.command().tag, 3);
}

#[test]
fn a_tag_in_use_is_rejected_and_its_number_is_still_expected() {
    let mut host = Host::logged_in("", |_| {});
    simple(&mut host, 1);
    simple(&mut host, 1);
    let Response::Reject(reject) = host.receive_one() else { panic!() };
    assert_eq!(reject.reason, RejectReason::TASK_IN_PROGRESS);
    assert_eq!(reject.exp_cmd_sn, Serial32(FIRST_CMD_SN + 1));
    assert_eq!(host.delivered(), [1]);
    host.cmd_sn -= 1;
    simple(&mut host, 2);
    assert_eq!(host.delivered(), [2]);
}

#[test]
fn immediate_commands_are_bounded_but_a_function_finds_room() {
    let mut host = Host::logged_in("", |config| config.limits.immediate_tasks = 2);
    for tag in 1..=3 {
        host.send(ScsiCommand { immediate: true, ..scsi(tag, Serial32(FIRST_CMD_SN)) });
    }
    assert!(
        matches!(host.receive_one(), Response::Reject(r) if r.reason == RejectReason::TOO_MANY_IMMEDIATE_COMMANDS)
    );
    assert_eq!(host.delivered(), [1, 2]);
    host.send(host.function(9, F::LOGICAL_UNIT_RESET, u32::MAX, 0));
    assert_eq!(host.delivered(), [9]);
    host.connection.respond(1, ScsiResponse::good());
    host.send(ScsiCommand { immediate: true, ..scsi(4, Serial32(FIRST_CMD_SN)) });
    host.connection.respond_task_management(9, TaskManagementResponse::Complete, [0; 3]);
    host.connection.respond(2, ScsiResponse::good());
    assert_eq!(host.window.0, Serial32(FIRST_CMD_SN), "immediate commands use no number");
}

#[test]
fn a_read_does_not_wait_for_an_earlier_write() {
    let mut host = Host::logged_in("", |_| {});
    let transfer = collecting(&mut host, 1);
    simple(&mut host, 2);
    assert_eq!(host.delivered(), [2]);
    finish(&mut host, 1, transfer, Lun::ZERO);
    assert_eq!(host.delivered(), [1]);
}

#[test]
fn an_ordered_command_waits_and_holds_what_follows() {
    let mut host = Host::logged_in("", |_| {});
    let first = collecting(&mut host, 1);
    attributed(&mut host, 2, TaskAttribute::ORDERED);
    simple(&mut host, 3);
    let fourth = collecting(&mut host, 4);
    attributed(&mut host, 5, TaskAttribute::ORDERED);
    simple(&mut host, 6);
    assert!(host.delivered().is_empty());
    // A HEAD OF QUEUE task passes all of them.
    attributed(&mut host, 7, TaskAttribute::HEAD_OF_QUEUE);
    assert_eq!(host.delivered(), [7]);
    finish(&mut host, 1, first, Lun::ZERO);
    assert_eq!(host.delivered(), [1, 2, 3]);
    finish(&mut host, 4, fourth, Lun::ZERO);
    assert_eq!(host.delivered(), [4, 5, 6]);
}

#[test]
fn an_ordered_write_holds_what_follows_until_its_data_is_there() {
    let mut host = Host::logged_in("", |_| {});
    let transfer = collecting_as(&mut host, 1, Lun::ZERO, TaskAttribute::ORDERED);
    simple(&mut host, 2);
    assert!(host.delivered().is_empty());
    finish(&mut host, 1, transfer, Lun::ZERO);
    assert_eq!(host.delivered(), [1, 2]);
}

#[test]
fn a_failed_write_lets_an_ordered_command_pass() {
    let mut host = Host::logged_in("MaxOutstandingR2T=2 MaxBurstLength=512", |_| {});
    let command = host.write(1, 1024, &[], true);
    host.send(command);
    let all = host.receive();
    let [Response::R2t(a), Response::R2t(b)] = &all[..] else { panic!("{all:?}") };
    attributed(&mut host, 2, TaskAttribute::ORDERED);
    host.send(data_out(1, a.transfer_tag, 5, 0, &[0; 512], true));
    assert_eq!(host.delivered(), [2]);
    host.send(data_out(1, b.transfer_tag, 0, 512, &[0; 512], true));
    assert!(matches!(host.receive_one(), Response::Scsi(r) if r.task_tag.0 == 1));
}

#[test]
fn abort_task_of_a_delivered_task_is_the_storage_processors() {
    let mut host = Host::logged_in("", |_| {});
    simple(&mut host, 1);
    assert_eq!(host.delivered(), [1]);
    host.send(host.function(2, F::ABORT_TASK, 1, FIRST_CMD_SN));
    let Some(Event::TaskManagement(management)) = host.event() else { panic!() };
    assert_eq!(
        (management.function, management.tag, management.referenced_tag),
        (TaskFunction::AbortTask, 2, 1)
    );
    host.connection.abandon(1);
    host.connection.respond_task_management(2, TaskManagementResponse::Complete, [0; 3]);
    assert_eq!(code(&mut host), TaskResponseCode::COMPLETE);
    // The aborted task is silent for ever.
    host.connection.respond(1, ScsiResponse::good());
    assert!(host.receive().is_empty());
}

#[test]
fn abort_task_of_an_undelivered_task_is_answered_here() {
    let mut host = Host::logged_in("", |_| {});
    let transfer = collecting(&mut host, 1);
    host.send(host.function(2, F::ABORT_TASK, 1, FIRST_CMD_SN));
    assert_eq!(code(&mut host), TaskResponseCode::COMPLETE);
    finish(&mut host, 1, transfer, Lun::ZERO);
    assert!(host.event().is_none() && host.receive().is_empty(), "late data is dropped");
    assert_eq!(host.connection.outstanding(), 0);
    // Also when it only stood in line.
    let first = collecting(&mut host, 3);
    attributed(&mut host, 4, TaskAttribute::ORDERED);
    simple(&mut host, 5);
    host.send(host.function(6, F::ABORT_TASK, 4, FIRST_CMD_SN + 2));
    assert_eq!(code(&mut host), TaskResponseCode::COMPLETE);
    assert_eq!(host.delivered(), [5], "the barrier is gone");
    finish(&mut host, 3, first, Lun::ZERO);
    assert_eq!(host.delivered(), [3]);
}

#[test]
fn abort_task_of_what_is_not_there() {
    let mut host = Host::logged_in("", |_| {});
    simple(&mut host, 1);
    host.delivered();
    respond_all(&mut host, &[1]);
    host.receive();
    host.send(host.function(2, F::ABORT_TASK, 1, FIRST_CMD_SN));
    assert_eq!(code(&mut host), TaskResponseCode::NO_SUCH_TASK, "its response was sent");
    // Another LU's task.
    simple(&mut host, 3);
    host.delivered();
    let wrong = pdu::TaskRequest { lun: OTHER_LUN, ..host.function(4, F::ABORT_TASK, 3, FIRST_CMD_SN + 1) };
    host.send(wrong);
    assert_eq!(code(&mut host), TaskResponseCode::NO_SUCH_TASK);
    // A function cannot be aborted.
    host.send(host.function(5, F::LOGICAL_UNIT_RESET, u32::MAX, 0));
    host.send(host.function(6, F::ABORT_TASK, 5, FIRST_CMD_SN));
    assert_eq!(code(&mut host), TaskResponseCode::REJECTED);
}

/// Section 11.6.1 b: an abort stands for a command that never came, and closes the gap.
#[test]
fn abort_task_plugs_a_gap() {
    let mut host = Host::logged_in("", |_| {});
    host.number();
    simple(&mut host, 2);
    assert!(host.event().is_none());
    host.send(host.function(3, F::ABORT_TASK, 1, FIRST_CMD_SN));
    assert_eq!(host.delivered(), [2]);
    assert_eq!(code(&mut host), TaskResponseCode::COMPLETE);
    assert_eq!(host.window.0, Serial32(FIRST_CMD_SN + 2));
}

#[test]
fn a_reset_waits_for_data_under_way_and_nothing_passes_it() {
    let mut host = Host::logged_in("", |_| {});
    let mine = collecting(&mut host, 1);
    let other = collecting_as(&mut host, 2, OTHER_LUN, TaskAttribute::SIMPLE);
    simple(&mut host, 3);
    assert_eq!(host.delivered(), [3]);
    host.send(host.function(4, F::LOGICAL_UNIT_RESET, u32::MAX, 0));
    simple(&mut host, 5);
    assert!(host.delivered().is_empty());
    finish(&mut host, 2, other, OTHER_LUN);
    assert_eq!(host.delivered(), [2], "another LU's command is not covered");
    finish(&mut host, 1, mine, Lun::ZERO);
    let Some(Event::TaskManagement(management)) = host.event() else { panic!() };
    assert_eq!((management.tag, management.undelivered), (4, 1));
    assert_eq!(host.delivered(), [5]);
    host.connection.abandon(3);
    host.connection.respond_task_management(4, TaskManagementResponse::Complete, [0; 3]);
    assert_eq!(code(&mut host), TaskResponseCode::COMPLETE);
    assert_eq!(host.connection.outstanding(), 2);
}

/// Linux stops sending when it resets ("fast abort"): the function must not wait for ever.
#[test]
fn a_reset_waits_no_longer_than_its_time() {
    let mut host = Host::logged_in("", |_| {});
    let transfer = collecting(&mut host, 1);
    host.send(host.function(2, F::LOGICAL_UNIT_RESET, u32::MAX, 0));
    assert!(host.event().is_none());
    host.pass(Duration::from_millis(999));
    assert!(host.event().is_none());
    host.pass(Duration::from_millis(1));
    assert_eq!(host.delivered(), [2]);
    finish(&mut host, 1, transfer, Lun::ZERO);
    assert!(host.event().is_none() && host.receive().is_empty());
    host.connection.respond_task_management(2, TaskManagementResponse::Complete, [0; 3]);
    assert_eq!(host.connection.outstanding(), 0);
}

/// A barrier that is discarded must not let another covered command slip through to the device server.
#[test]
fn a_reset_discards_a_barrier_and_what_stands_behind_it() {
    let mut host = Host::logged_in("", |_| {});
    let transfer = collecting_as(&mut host, 1, Lun::ZERO, TaskAttribute::ORDERED);
    simple(&mut host, 2);
    simple(&mut host, 3);
    host.send(host.function(4, F::LOGICAL_UNIT_RESET, u32::MAX, 0));
    assert!(host.event().is_none());
    finish(&mut host, 1, transfer, Lun::ZERO);
    let Some(Event::TaskManagement(management)) = host.event() else { panic!() };
    assert_eq!((management.tag, management.undelivered), (4, 3));
    assert!(host.event().is_none());
}

#[test]
fn target_resets_cover_all_units() {
    for (function, level) in
        [(F::TARGET_WARM_RESET, ""), (F::TARGET_COLD_RESET, ""), (F::I_T_NEXUS_RESET, "iSCSIProtocolLevel=2")]
    {
        let mut host = Host::logged_in(level, |_| {});
        let a = collecting(&mut host, 1);
        let b = collecting_as(&mut host, 2, OTHER_LUN, TaskAttribute::SIMPLE);
        host.send(host.function(3, function, u32::MAX, 0));
        finish(&mut host, 1, a, Lun::ZERO);
        assert!(host.event().is_none());
        finish(&mut host, 2, b, OTHER_LUN);
        let Some(Event::TaskManagement(management)) = host.event() else { panic!() };
        assert_eq!(management.undelivered, 2);
    }
}

#[test]
fn an_immediate_reset_waits_for_commands_before_it() {
    let mut host = Host::logged_in("", |_| {});
    let missing = host.read(1, 0);
    host.send(host.function(2, F::ABORT_TASK_SET, u32::MAX, 0));
    simple(&mut host, 3);
    assert!(host.event().is_none());
    host.send(missing);
    assert_eq!(host.delivered(), [1, 2, 3]);
}

#[test]
fn functions_that_are_answered_here() {
    let mut host = Host::logged_in("", |_| {});
    host.send(host.function(1, F::TASK_REASSIGN, 9, 0));
    assert_eq!(code(&mut host), TaskResponseCode::REASSIGN_NOT_SUPPORTED);
    for unknown in [F(0), F(13), F(127), F::QUERY_TASK, F::QUERY_TASK_SET, F::I_T_NEXUS_RESET] {
        host.send(host.function(1, unknown, 9, 0));
        assert_eq!(code(&mut host), TaskResponseCode::NOT_SUPPORTED, "{unknown:?} at level 1");
    }
    assert_eq!(host.connection.outstanding(), 0);
}

#[test]
fn queries_at_level_2() {
    let mut host = Host::logged_in("iSCSIProtocolLevel=2", |_| {});
    let _under_way = collecting(&mut host, 1);
    simple(&mut host, 2);
    host.delivered();
    host.send(host.function(9, F::QUERY_TASK, 1, FIRST_CMD_SN));
    assert_eq!(code(&mut host), TaskResponseCode::SUCCEEDED);
    host.send(host.function(9, F::QUERY_TASK, 77, FIRST_CMD_SN));
    assert_eq!(code(&mut host), TaskResponseCode::COMPLETE);
    host.send(host.function(9, F::QUERY_TASK, 2, FIRST_CMD_SN + 1));
    assert_eq!(host.delivered(), [9]);
    host.connection.respond_task_management(9, TaskManagementResponse::Succeeded, [1, 2, 3]);
    let Response::Task(response) = host.receive_one() else { panic!() };
    assert_eq!(response.additional_information, [1, 2, 3]);
    host.send(host.function(9, F::QUERY_TASK_SET, u32::MAX, 0));
    let Some(Event::TaskManagement(management)) = host.event() else { panic!() };
    assert_eq!((management.function, management.undelivered), (TaskFunction::QueryTaskSet, 1));
}

#[test]
fn another_sessions_reset_ends_what_waits_here() {
    for (status, tas) in [(None, false), (Some(TASK_ABORTED), true)] {
        let mut host = Host::logged_in("", |_| {});
        let mine = collecting(&mut host, 1);
        let other = collecting_as(&mut host, 2, OTHER_LUN, TaskAttribute::SIMPLE);
        assert_eq!(host.connection.abort_undelivered(Some([0; 8]), status), 1);
        assert!(host.receive().is_empty(), "its data is under way");
        finish(&mut host, 1, mine, Lun::ZERO);
        let all = host.receive();
        match &all[..] {
            [] => assert!(!tas),
            [Response::Scsi(response)] => assert!(tas && response.status.0 == TASK_ABORTED),
            other => panic!("{other:?}"),
        }
        finish(&mut host, 2, other, OTHER_LUN);
        assert_eq!(host.delivered(), [2]);
    }
}

#[test]
fn format_errors_end_the_connection() {
    let bad = |change: fn(&mut ScsiCommand)| {
        let mut host = Host::logged_in("", |_| {});
        let mut command = host.read(1, 512);
        change(&mut command);
        host.send(command);
        assert!(matches!(host.event(), Some(Event::Closed(CloseReason::Malformed(_)))));
    };
    bad(|c| c.attribute = TaskAttribute(5));
    bad(|c| c.is_final = false);
    bad(|c| c.task_tag = pdu::TaskTag::RESERVED);
}
