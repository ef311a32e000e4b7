//! Data both ways.

use core::time::Duration;
use std::collections::VecDeque;

use bytes::Bytes;
use twinlun_block::Payload;

use super::harness::*;
use crate::pdu::{
    self, Lun, R2t, RejectReason, Residual, Response, ResponseCode, ScsiCommand, ScsiStatus, TaskTag,
    TransferTag,
};
use crate::target::{CloseReason, Event, ScsiResponse};

const UNSOLICITED: TransferTag = TransferTag::RESERVED;

/// What a correct initiator does with `data` under the parameters in force: returns the largest number of R2Ts that it saw outstanding.
fn play_write(host: &mut Host, tag: u32, data: &[u8], unsolicited_pdus: bool) -> usize {
    let p = host.connection.parameters().unwrap();
    let most = p.target_max_recv as usize;
    let first_burst = data.len().min(p.first_burst as usize);
    let immediate = if p.immediate_data { first_burst.min(most) } else { 0 };
    let burst = !p.initial_r2t && unsolicited_pdus && immediate < first_burst;
    let command = host.write(tag, data.len() as u32, &data[..immediate], !burst);
    host.send(command);
    if burst {
        send_sequence(host, tag, UNSOLICITED, immediate, &data[immediate..first_burst], most);
    }
    let mut at = if burst { first_burst } else { immediate };
    let mut pending = VecDeque::new();
    let mut deepest = 0;
    loop {
        for response in host.receive() {
            let Response::R2t(r2t) = response else { panic!("{response:?}") };
            assert_eq!(r2t.buffer_offset as usize, at, "sequences are in order");
            assert!(r2t.desired_len > 0 && r2t.desired_len <= p.max_burst);
            at += r2t.desired_len as usize;
            pending.push_back(r2t);
        }
        deepest = deepest.max(pending.len());
        let Some(r2t) = pending.pop_front() else { break };
        let from = r2t.buffer_offset as usize;
        send_sequence(host, tag, r2t.transfer_tag, from, &data[from..from + r2t.desired_len as usize], most);
    }
    assert_eq!(at, data.len());
    deepest
}

fn send_sequence(host: &mut Host, tag: u32, transfer: TransferTag, at: usize, data: &[u8], most: usize) {
    let count = data.len().div_ceil(most).max(1);
    for (sn, chunk) in data.chunks(most).enumerate() {
        let offset = (at + sn * most) as u32;
        host.send(data_out(tag, transfer, sn as u32, offset, chunk, sn + 1 == count));
    }
}

#[test]
fn writes_under_every_combination_of_parameters() {
    for immediate in ["Yes", "No"] {
        for initial in ["Yes", "No"] {
            for outstanding in [1, 2, 8] {
                for digests in ["None", "CRC32C"] {
                    let keys = format!(
                        "ImmediateData={immediate} InitialR2T={initial} MaxOutstandingR2T={outstanding} \
                         FirstBurstLength=3000 MaxBurstLength=4096 DataDigest={digests} HeaderDigest={digests}"
                    );
                    let mut host =
                        Host::logged_in(&keys, |config| config.policy.max_recv_data_segment = 1024);
                    for (tag, len) in [1, 511, 1024, 3000, 3001, 4096, 8192, 40_000].into_iter().enumerate() {
                        for unsolicited in [true, false] {
                            let data = pattern(len);
                            let deepest = play_write(&mut host, tag as u32, &data, unsolicited);
                            assert!(deepest <= outstanding, "{keys}: {deepest} R2Ts outstanding");
                            if len == 40_000 {
                                assert_eq!(deepest, outstanding, "{keys}: R2Ts are sent as soon as allowed");
                            }
                            let command = host.command();
                            assert_eq!(command.data_out.to_bytes(), data, "{keys} {len}");
                            host.connection.respond(command.tag, ScsiResponse::written(len as u64));
                            let Response::Scsi(response) = host.receive_one() else { panic!() };
                            assert_eq!(response.residual, Residual::None);
                        }
                    }
                    assert_eq!(host.connection.outstanding(), 0);
                }
            }
        }
    }
}

fn r2ts(host: &mut Host) -> Vec<R2t> {
    let all = host.receive().into_iter();
    all.map(|response| if let Response::R2t(r2t) = response { r2t } else { panic!("{response:?}") }).collect()
}

#[test]
fn r2ts_answered_out_of_order_are_put_in_order() {
    let mut host = Host::logged_in("MaxOutstandingR2T=4 MaxBurstLength=512 ImmediateData=No", |_| {});
    let data = pattern(1536);
    let command = host.write(1, 1536, &[], true);
    host.send(command);
    let asked = r2ts(&mut host);
    assert_eq!(asked.iter().map(|r| r.r2t_sn).collect::<Vec<_>>(), [0, 1, 2]);
    for r2t in [&asked[2], &asked[0], &asked[1]] {
        let from = r2t.buffer_offset as usize;
        host.send(data_out(1, r2t.transfer_tag, 0, r2t.buffer_offset, &data[from..from + 512], true));
    }
    assert_eq!(host.command().data_out.to_bytes(), data);
}

/// Sends a faulty write and expects its sense code once all data under way has come.
#[track_caller]
fn faulty(keys: &str, code: [u8; 2], play: impl FnOnce(&mut Host)) {
    let mut host = Host::logged_in(keys, |_| {});
    play(&mut host);
    assert!(host.event().is_none(), "the command is not delivered");
    let all = host.receive();
    let Some(Response::Scsi(response)) = all.last() else { panic!("{all:?}") };
    assert_eq!(response.status, ScsiStatus::CHECK_CONDITION);
    assert_eq!(response.sense[2], 0x0b, "aborted command");
    assert_eq!(response.sense[12..14], code);
    assert_eq!(host.connection.outstanding(), 0);
}

const UNEXPECTED: [u8; 2] = [0x0c, 0x0c];
const AMOUNT: [u8; 2] = [0x0c, 0x0d];
const CRC: [u8; 2] = [0x47, 0x05];

#[test]
fn unsolicited_data_that_may_not_come() {
    faulty("ImmediateData=No", UNEXPECTED, |host| {
        let command = host.write(1, 512, &[0; 512], true);
        host.send(command);
    });
    faulty("InitialR2T=Yes", UNEXPECTED, |host| {
        let command = host.write(1, 1024, &[0; 512], false);
        host.send(command);
        assert!(host.receive().is_empty(), "the answer waits for the F bit");
        host.send(data_out(1, UNSOLICITED, 0, 512, &[0; 512], true));
    });
    faulty("", UNEXPECTED, |host| {
        let command = host.read(1, 512);
        host.send(ScsiCommand { data: payload(&[0; 512]), ..command });
    });
}

#[test]
fn wrong_amounts_of_unsolicited_data() {
    faulty("FirstBurstLength=512", AMOUNT, |host| {
        let command = host.write(1, 4096, &[0; 1024], true);
        host.send(command);
    });
    faulty("", AMOUNT, |host| {
        let command = host.write(1, 512, &[0; 1024], true);
        host.send(command);
    });
    // Less than FirstBurstLength although some was sent.
    faulty("InitialR2T=No FirstBurstLength=4096", AMOUNT, |host| {
        let command = host.write(1, 4096, &[], false);
        host.send(command);
        host.send(data_out(1, UNSOLICITED, 0, 0, &[0; 512], true));
    });
    // More.
    faulty("InitialR2T=No FirstBurstLength=1024", AMOUNT, |host| {
        let command = host.write(1, 1024, &[], false);
        host.send(command);
        host.send(data_out(1, UNSOLICITED, 0, 0, &[0; 2048], true));
    });
}

/// Found by fuzzing: what still came behind immediate data beyond FirstBurstLength was counted below zero.
#[test]
fn data_behind_too_much_immediate_data_is_waited_for() {
    for expected in [4096, 600] {
        faulty("InitialR2T=No FirstBurstLength=512", AMOUNT, |host| {
            let command = host.write(1, expected, &[0; 1024], false);
            host.send(command);
            assert!(host.receive().is_empty(), "the F bit has not come");
            host.send(data_out(1, UNSOLICITED, 0, 1024, &[0; 512], true));
        });
    }
}

fn first_r2t(host: &mut Host, len: u32) -> TransferTag {
    let command = host.write(1, len, &[], true);
    host.send(command);
    r2ts(host)[0].transfer_tag
}

#[test]
fn wrong_answers_to_an_r2t() {
    let wrong = |code, play: fn(&mut Host, TransferTag)| {
        faulty("", code, |host| {
            let tag = first_r2t(host, 1024);
            play(host, tag);
        });
    };
    wrong(AMOUNT, |host, tag| host.send(data_out(1, tag, 0, 0, &[0; 512], true)));
    wrong(AMOUNT, |host, tag| host.send(data_out(1, tag, 0, 0, &[0; 1025], true)));
    wrong(AMOUNT, |host, tag| host.send(data_out(1, tag, 0, 512, &[0; 512], true)));
    wrong(AMOUNT, |host, tag| {
        host.send(data_out(1, tag, 0, 0, &[0; 512], false));
        host.send(data_out(1, tag, 1, 0, &[0; 512], true));
    });
    // A gap in DataSN means that a PDU was lost (section 7.9).
    wrong(CRC, |host, tag| host.send(data_out(1, tag, 27, 0, &[0; 1024], true)));
    wrong(CRC, |host, tag| {
        host.send(data_out(1, tag, 0, 0, &[0; 512], false));
        host.send(data_out(1, tag, 2, 512, &[0; 512], true));
    });
}

/// Section 11.4.2: the status waits for the F bits of all that is under way, and nothing more is asked for.
#[test]
fn a_failed_write_waits_for_what_is_under_way() {
    faulty("MaxOutstandingR2T=2 MaxBurstLength=512", AMOUNT, |host| {
        let command = host.write(1, 4096, &[], true);
        host.send(command);
        let asked = r2ts(host);
        assert_eq!(asked.len(), 2);
        host.send(data_out(1, asked[0].transfer_tag, 0, 0, &[0; 100], true));
        assert!(host.receive().is_empty());
        host.send(data_out(1, asked[1].transfer_tag, 0, 512, &[0; 256], false));
        assert!(host.receive().is_empty());
        host.send(data_out(1, asked[1].transfer_tag, 1, 768, &[0; 256], true));
    });
}

/// Section 7.8 b: Reject at once, CHECK CONDITION when all data has come.
#[test]
fn a_damaged_data_out_fails_its_command_only() {
    let mut host = Host::logged_in("DataDigest=CRC32C MaxBurstLength=1024", |_| {});
    let tag = first_r2t(&mut host, 1024);
    let mut bytes = host.encode(data_out(1, tag, 0, 0, &pattern(512), false));
    bytes[100] ^= 1;
    host.send_bytes(&bytes);
    let Response::Reject(reject) = host.receive_one() else { panic!() };
    assert_eq!(reject.reason, RejectReason::DATA_DIGEST_ERROR);
    assert_eq!(reject.header.task_tag(), TaskTag(1));
    host.send(data_out(1, tag, 1, 512, &pattern(512), true));
    let Response::Scsi(response) = host.receive_one() else { panic!() };
    assert_eq!(response.sense[12..14], CRC);
    // The connection lives.
    let command = host.write(2, 512, &pattern(512), true);
    host.send(command);
    assert_eq!(host.command().tag, 2);
}

#[test]
fn a_damaged_command_ends_the_connection() {
    let mut host = Host::logged_in("DataDigest=CRC32C", |_| {});
    let command = host.write(1, 512, &pattern(512), true);
    let mut bytes = host.encode(command);
    bytes[100] ^= 1;
    host.send_bytes(&bytes);
    assert!(matches!(host.receive_one(), Response::Reject(r) if r.reason == RejectReason::DATA_DIGEST_ERROR));
    assert!(matches!(host.event(), Some(Event::Closed(CloseReason::Malformed(_)))));

    let mut host = Host::logged_in("HeaderDigest=CRC32C", |_| {});
    let command = host.write(1, 512, &pattern(512), true);
    let mut bytes = host.encode(command);
    bytes[20] ^= 1;
    host.send_bytes(&bytes);
    assert!(matches!(host.event(), Some(Event::Closed(CloseReason::Malformed(_)))));
}

#[test]
fn data_for_nobody() {
    let mut host = Host::logged_in("", |_| {});
    // No such task: it was aborted, or never was.
    host.send(data_out(77, TransferTag(5), 0, 0, &[0; 512], true));
    assert!(host.receive().is_empty());
    // A task, but not its transfer or not its LU: rejected, and the transfer goes on.
    let tag = first_r2t(&mut host, 512);
    host.send(data_out(1, TransferTag(tag.0 + 1), 0, 0, &[0; 512], true));
    assert!(matches!(host.receive_one(), Response::Reject(r) if r.reason == RejectReason::INVALID_PDU_FIELD));
    let elsewhere =
        pdu::DataOut { lun: Lun([0, 9, 0, 0, 0, 0, 0, 0]), ..data_out(1, tag, 0, 0, &[0; 512], true) };
    host.send(elsewhere);
    assert!(matches!(host.receive_one(), Response::Reject(r) if r.reason == RejectReason::INVALID_PDU_FIELD));
    host.send(data_out(1, tag, 0, 0, &[1; 512], true));
    assert_eq!(host.command().data_out.to_bytes(), [1; 512][..]);
    // A task that has its data.
    host.send(data_out(1, tag, 1, 0, &[0; 512], true));
    assert!(matches!(host.receive_one(), Response::Reject(r) if r.reason == RejectReason::INVALID_PDU_FIELD));
}

#[test]
fn buffer_space_is_granted_in_order_and_whole() {
    let mut host = Host::logged_in("ImmediateData=No MaxBurstLength=4096", |config| {
        (config.limits.solicited, config.limits.max_write) = (8192, 8192);
    });
    let mut tags = Vec::new();
    for tag in 0..4 {
        let command = host.write(tag, 4096, &[], true);
        host.send(command);
        tags.extend(r2ts(&mut host).into_iter().map(|r| (r.task_tag.0, r.transfer_tag)));
    }
    assert_eq!(tags.iter().map(|t| t.0).collect::<Vec<_>>(), [0, 1], "two fit");
    host.send(data_out(0, tags[0].1, 0, 0, &pattern(4096), true));
    assert!(r2ts(&mut host).is_empty(), "data that the device server holds counts");
    assert_eq!(host.command().tag, 0);
    host.connection.respond(0, ScsiResponse::written(4096));
    let all = host.receive();
    assert!(matches!(&all[..], [Response::Scsi(_), Response::R2t(r)] if r.task_tag.0 == 2), "{all:?}");
}

#[test]
fn no_more_is_asked_for_than_one_command_may_bring() {
    let mut host = Host::logged_in("ImmediateData=No", |config| {
        (config.limits.solicited, config.limits.max_write) = (8192, 4096);
    });
    let command = host.write(1, u32::MAX, &[], true);
    host.send(command);
    let asked = r2ts(&mut host);
    assert_eq!((asked.len(), asked[0].desired_len), (1, 4096));
    host.send(data_out(1, asked[0].transfer_tag, 0, 0, &pattern(4096), true));
    let command = host.command();
    assert_eq!((command.data_out.len(), command.expected_out), (4096, u32::MAX));
    host.connection.respond(1, ScsiResponse::written(4096));
    let Response::Scsi(response) = host.receive_one() else { panic!() };
    assert_eq!(response.residual, Residual::Underflow(u32::MAX - 4096));
}

#[test]
fn reads_are_cut_to_what_the_initiator_takes() {
    let mut host = Host::logged_in("MaxRecvDataSegmentLength=1026 MaxBurstLength=2048", |_| {});
    let command = host.read(1, 5000);
    host.send(command);
    assert_eq!(host.command().expected_in, 5000);
    let data = pattern(5000);
    host.connection.respond(1, ScsiResponse::data(payload(&data)));
    let all = host.receive();
    let mut got = Vec::new();
    let mut shape = Vec::new();
    for (sn, response) in all.iter().enumerate() {
        let Response::DataIn(pdu) = response else { panic!("{response:?}") };
        assert_eq!((pdu.data_sn as usize, pdu.buffer_offset as usize), (sn, got.len()));
        assert!(!pdu.acknowledge);
        got.extend_from_slice(&pdu.data.to_bytes());
        shape.push((pdu.data.len(), pdu.is_final, pdu.status.is_some()));
    }
    assert_eq!(got, data);
    assert_eq!(
        shape,
        [
            (1024, false, false),
            (1024, true, false),
            (1024, false, false),
            (1024, true, false),
            (904, true, true)
        ]
    );
}

#[test]
fn residuals_follow_from_both_lengths() {
    let mut host = Host::logged_in("", |_| {});
    let mut read = |expected: u32, response: ScsiResponse| {
        let command = host.read(1, expected);
        host.send(command);
        host.command();
        host.connection.respond(1, response);
        let mut sent = 0;
        let mut end = None;
        for response in host.receive() {
            match response {
                Response::DataIn(pdu) => {
                    sent += pdu.data.len();
                    end = pdu.status.map(|s| (s.status.0, s.residual)).or(end);
                }
                Response::Scsi(pdu) => end = Some((pdu.status.0, pdu.residual)),
                other => panic!("{other:?}"),
            }
        }
        (sent, end.expect("a status"))
    };
    let data = |len| ScsiResponse::data(payload(&pattern(len)));
    assert_eq!(read(512, data(512)), (512, (0, Residual::None)));
    assert_eq!(read(1024, data(512)), (512, (0, Residual::Underflow(512))));
    assert_eq!(read(512, data(1024)), (512, (0, Residual::Overflow(512))));
    assert_eq!(
        read(512, ScsiResponse { presented_in: 4096, ..data(512) }),
        (512, (0, Residual::Overflow(3584)))
    );
    assert_eq!(read(512, ScsiResponse::good()), (0, (0, Residual::Underflow(512))));
    assert_eq!(read(0, data(512)), (0, (0, Residual::Overflow(512))));
    let sense = Bytes::from_static(&[0x70, 0, 5]);
    assert_eq!(read(512, ScsiResponse::check_condition(sense)), (0, (2, Residual::Underflow(512))));

    let mut write = |expected: u32, taken: u64| {
        let command = host.write(1, expected, &pattern(expected as usize), true);
        host.send(command);
        host.command();
        host.connection.respond(1, ScsiResponse::written(taken));
        let Response::Scsi(response) = host.receive_one() else { panic!() };
        response.residual
    };
    assert_eq!(write(512, 512), Residual::None);
    assert_eq!(write(1024, 512), Residual::Underflow(512));
    assert_eq!(write(512, 1024), Residual::Overflow(512));
    assert_eq!(write(0, 512), Residual::Overflow(512));
}

#[test]
fn a_bidirectional_command_has_both_residuals_and_its_own_response() {
    let mut host = Host::logged_in("", |_| {});
    let command = host.write(1, 512, &pattern(512), true);
    host.send(ScsiCommand { read: true, bidirectional_read_len: Some(1024), ..command });
    let command = host.command();
    assert_eq!((command.expected_out, command.expected_in), (512, 1024));
    host.connection
        .respond(1, ScsiResponse { presented_out: 512, ..ScsiResponse::data(payload(&pattern(100))) });
    let all = host.receive();
    let [Response::DataIn(data), Response::Scsi(response)] = &all[..] else { panic!("{all:?}") };
    assert!(data.status.is_none() && data.is_final);
    assert_eq!(response.residual, Residual::None);
    assert_eq!(response.bidirectional_residual, Residual::Underflow(924));
    assert_eq!(response.exp_data_sn, 1);
}

#[test]
fn long_cdbs_arrive_whole() {
    let mut host = Host::logged_in("", |_| {});
    let cdb: Vec<u8> = (0..32).collect();
    let cmd_sn = host.number();
    host.send(ScsiCommand { cdb: pdu::Cdb::new(&cdb).unwrap(), ..scsi(1, cmd_sn) });
    assert_eq!(host.command().cdb[..32], cdb[..]);
}

#[test]
fn priority_and_qualifier_need_protocol_level_2() {
    for (keys, level2) in [("", false), ("iSCSIProtocolLevel=2", true)] {
        let mut host = Host::logged_in(keys, |_| {});
        let cmd_sn = host.number();
        let mut raw = pdu::RawPdu::from(scsi(1, cmd_sn));
        raw.bhs.0[2] = 0x70;
        host.send(raw);
        assert_eq!(host.command().priority, if level2 { 7 } else { 0 });
        host.connection.respond(1, ScsiResponse { status: 8, qualifier: 0x1234, ..ScsiResponse::good() });
        let mut bytes = Vec::new();
        host.connection.transmit(|segment| bytes.extend_from_slice(&segment));
        assert_eq!(bytes[8..10], if level2 { [0x12, 0x34] } else { [0, 0] });
    }
}

#[test]
fn a_target_failure_has_no_status() {
    let mut host = Host::logged_in("", |_| {});
    let command = host.read(1, 512);
    host.send(command);
    host.command();
    host.connection.respond_target_failure(1);
    let Response::Scsi(response) = host.receive_one() else { panic!() };
    assert_eq!((response.response, response.residual), (ResponseCode::TARGET_FAILURE, Residual::None));
    // Twice is once.
    host.connection.respond(1, ScsiResponse::good());
    assert!(host.receive().is_empty());
}

#[test]
fn requested_data_has_a_time_limit() {
    let mut host = Host::logged_in("", |config| config.timers.ping_interval = Duration::ZERO);
    assert_eq!(host.connection.next_timeout(), None);
    let tag = first_r2t(&mut host, 1024);
    host.pass(Duration::from_secs(29));
    host.send(data_out(1, tag, 0, 0, &[0; 512], false));
    host.pass(Duration::from_secs(29));
    assert!(host.event().is_none());
    host.pass(Duration::from_secs(1));
    assert!(matches!(host.event(), Some(Event::Closed(CloseReason::DataTimeout))));
}

/// CVE-2022-21546 in transport terms: a write command without any data, and one whose flag W is not set.
#[test]
fn bug_class_h_commands_without_the_data_they_should_have() {
    let mut host = Host::logged_in("", |_| {});
    let command = host.write(1, 0, &[], true);
    host.send(command);
    assert_eq!(host.command().data_out, Payload::new());
    let cmd_sn = host.number();
    host.send(ScsiCommand { expected_len: 512, ..scsi(2, cmd_sn) });
    let command = host.command();
    assert_eq!((command.expected_out, command.expected_in), (0, 0));
}
