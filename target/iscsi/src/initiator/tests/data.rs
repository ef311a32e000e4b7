//! Reads and writes, and the command window.

use super::*;

/// Plays the target of one write and puts the data together from wherever it comes.
fn write_through(config: InitiatorConfig, answers: &str, len: usize) -> Vec<&'static str> {
    let mut target = Target::ready(config, answers);
    let parameters = *target.initiator.parameters();
    let data = pattern(len);
    let command = Command::new(5, LUN, cdb::write_16(0, 1, false), Transfer::Write(data.clone()));
    assert_eq!(target.initiator.submit(command), Submitted::Accepted);
    let mut image = vec![0; len];
    let mut have = 0;
    let mut ways = Vec::new();
    let mut r2t_sn = 0;
    let mut task_tag = TaskTag::RESERVED;
    let mut open_sequence = false;
    loop {
        let mut data_sn = 0;
        for request in target.requests() {
            let (offset, data, way) = match request {
                Request::ScsiCommand(command) => {
                    assert_eq!(
                        (command.expected_len, command.write, command.read),
                        (len as u32, len > 0, false)
                    );
                    task_tag = command.task_tag;
                    open_sequence = !command.is_final;
                    (0, command.data, "immediate")
                }
                Request::DataOut(out) => {
                    assert_eq!(out.data_sn, data_sn, "counted per sequence");
                    data_sn += 1;
                    open_sequence = !out.is_final;
                    let way = if out.transfer_tag.is_reserved() { "unsolicited" } else { "solicited" };
                    (out.buffer_offset as usize, out.data, way)
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(offset, have, "in order, without holes");
            assert!(data.len() <= parameters.target_max_recv as usize);
            data.copy_to_slice(&mut image[offset..offset + data.len()]);
            have += data.len();
            if !data.is_empty() && ways.last() != Some(&way) {
                ways.push(way);
            }
        }
        assert!(!open_sequence, "the last PDU of a sequence has the F bit");
        if have == len {
            break;
        }
        if r2t_sn == 0 {
            let limit =
                if parameters.initial_r2t && !parameters.immediate_data { 0 } else { parameters.first_burst };
            assert!(have <= limit as usize, "unsolicited data within the first burst");
        }
        let want = (len - have).min(parameters.max_burst as usize) as u32;
        let r2t = target.r2t(task_tag, r2t_sn, have as u32, want);
        target.send(r2t).unwrap();
        r2t_sn += 1;
    }
    assert_eq!(Payload::from(image), data);
    let response = target.scsi_response(task_tag);
    target.send(response).unwrap();
    assert!(
        matches!(target.event(), Event::Completed(completion) if completion.tag == 5 && completion.is_good())
    );
    assert_eq!(target.initiator.outstanding(), 0);
    ways
}

#[test]
fn a_write_takes_every_way_that_was_negotiated() {
    let all = "MaxRecvDataSegmentLength=4096\0FirstBurstLength=16384\0MaxBurstLength=32768\0";
    let way = |answers: &str, len| write_through(config(), &format!("{all}{answers}"), len);
    assert_eq!(way("InitialR2T=No\0ImmediateData=Yes\0", 100_000), ["immediate", "unsolicited", "solicited"]);
    assert_eq!(way("InitialR2T=No\0ImmediateData=No\0", 100_000), ["unsolicited", "solicited"]);
    assert_eq!(way("InitialR2T=Yes\0ImmediateData=Yes\0", 100_000), ["immediate", "solicited"]);
    assert_eq!(way("InitialR2T=Yes\0ImmediateData=No\0", 100_000), ["solicited"]);
    assert_eq!(way("InitialR2T=No\0ImmediateData=Yes\0", 4096), ["immediate"]);
    assert_eq!(way("InitialR2T=No\0ImmediateData=Yes\0", 4097), ["immediate", "unsolicited"]);
    assert_eq!(way("InitialR2T=No\0ImmediateData=Yes\0", 16384), ["immediate", "unsolicited"]);
    assert!(way("InitialR2T=No\0ImmediateData=Yes\0", 0).is_empty());
}

#[test]
fn digests_both_ways() {
    let mut offer = config();
    offer.offer.header_digest = true;
    offer.offer.data_digest = true;
    let answers = "HeaderDigest=CRC32C\0DataDigest=CRC32C\0InitialR2T=No\0MaxRecvDataSegmentLength=8192\0";
    write_through(offer, answers, 300_001);
}

#[test]
fn a_read_is_put_together() {
    let mut target = Target::ready(config(), "");
    let command = target.read(7, 1024);
    assert!(command.read && command.is_final && command.expected_len == 1024);
    let tag = command.task_tag;
    let first = target.data_in(tag, 0, 0, &[1; 512]);
    target.send(first).unwrap();
    assert_eq!(target.initiator.poll_event(), None);
    let status = DataInStatus {
        status: ScsiStatus::GOOD,
        residual: Residual::Underflow(12),
        stat_sn: target.next_stat_sn(),
    };
    let last = DataIn { is_final: true, status: Some(status), ..target.data_in(tag, 1, 512, &[2; 500]) };
    target.send(last).unwrap();
    let Event::Completed(done) = target.event() else { panic!() };
    assert!(done.is_good() && done.tag == 7 && done.residual == Residual::Underflow(12));
    assert_eq!(done.data, Payload::from([[1; 512].as_slice(), &[2; 500]].concat()));

    let tag = target.read(8, 512).task_tag;
    let sense = Bytes::from_static(&[0x70, 0, 3]);
    let failed = ScsiResponse {
        status: ScsiStatus::CHECK_CONDITION,
        residual: Residual::Underflow(512),
        sense: sense.clone(),
        ..target.scsi_response(tag)
    };
    target.send(failed).unwrap();
    let Event::Completed(done) = target.event() else { panic!() };
    assert!(!done.is_good() && done.sense == sense && done.data.is_empty());
}

#[test]
fn a_target_that_breaks_the_protocol_is_caught() {
    type Break = fn(&mut Target, TaskTag) -> Result<(), InitiatorError>;
    let breaks: [(Violation, Break); 12] = [
        (Violation::DataOrder, |t, tag| t.send(t.data_in(tag, 1, 0, &[0; 512]))),
        (Violation::DataOrder, |t, tag| t.send(t.data_in(tag, 0, 512, &[0; 512]))),
        (Violation::TooMuchData, |t, tag| t.send(t.data_in(tag, 0, 0, &[0; 1025]))),
        (Violation::UnknownTask(TaskTag(0x1234), Opcode::DATA_IN), |t, _| {
            t.send(t.data_in(TaskTag(0x1234), 0, 0, &[0; 512]))
        }),
        (Violation::DataMissing, |t, tag| {
            t.send(t.data_in(tag, 0, 0, &[0; 512]))?;
            let response = t.scsi_response(tag);
            t.send(response)
        }),
        (Violation::DataMissing, |t, tag| {
            let response = ScsiResponse { exp_data_sn: 1, ..t.scsi_response(tag) };
            t.send(response)
        }),
        (Violation::R2t, |t, tag| t.send(t.r2t(tag, 0, 0, 512))),
        (Violation::Unexpected(Opcode::TASK_RESPONSE), |t, tag| {
            let stat_sn = t.next_stat_sn();
            let response = TaskResponseCode::COMPLETE;
            let (exp_cmd_sn, max_cmd_sn) = (t.exp_cmd_sn, t.max_cmd_sn);
            let additional_information = [0; 3];
            t.send(TaskResponse {
                response,
                task_tag: tag,
                additional_information,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
            })
        }),
        (Violation::StatSn { expected: Serial32(0), got: Serial32(1) }, |t, tag| {
            t.next_stat_sn();
            let response = t.scsi_response(tag);
            t.send(response)
        }),
        (Violation::UnknownTask(TaskTag(9), Opcode::SCSI_RESPONSE), |t, _| {
            let response = t.scsi_response(TaskTag(9));
            t.send(response)
        }),
        (Violation::Unexpected(Opcode::LOGIN_RESPONSE), |t, _| t.answer(false, Stage::OPERATIONAL, "")),
        (Violation::Unexpected(Opcode::TEXT_RESPONSE), |t, tag| {
            let stat_sn = t.next_stat_sn();
            t.send(text_response(t, tag, stat_sn, true, "x=y\0"))
        }),
    ];
    for (index, (expected, send)) in breaks.into_iter().enumerate() {
        let mut target = Target::ready(config(), "");
        let tag = target.read(7, 1024).task_tag;
        assert_eq!(violation(send(&mut target, tag)), expected, "case {index}");
        assert_eq!(target.initiator.phase(), Phase::Closed);
        let again = Command::new(1, LUN, cdb::test_unit_ready(), Transfer::None);
        assert_eq!(target.initiator.submit(again), Submitted::NotReady);
    }
}

#[test]
fn an_r2t_stays_within_the_write() {
    for (r2t_sn, offset, len) in [(1, 0, 512), (0, 0, 0), (0, 512, 513), (0, 1 << 31, 1 << 31), (0, 0, 4096)]
    {
        let mut target = Target::ready(config(), "ImmediateData=No\0InitialR2T=Yes\0MaxBurstLength=1024\0");
        let write = Transfer::Write(pattern(8192 / 8));
        assert_eq!(target.initiator.submit(Command::new(1, LUN, [0; 16], write)), Submitted::Accepted);
        let tag = target.command().task_tag;
        let r2t = target.r2t(tag, r2t_sn, offset, len);
        assert_eq!(violation(target.send(r2t)), Violation::R2t);
    }
}

#[test]
fn commands_wait_for_the_window() {
    let mut target = Target::new(config());
    target.max_cmd_sn = Serial32(2);
    target.login();
    target.answer(true, Stage::SECURITY, "").unwrap();
    target.login();
    target.answer(true, Stage::OPERATIONAL, "").unwrap();
    for tag in 0..5 {
        let command = Command::new(tag, LUN, cdb::test_unit_ready(), Transfer::None);
        assert_eq!(target.initiator.submit(command), Submitted::Accepted);
    }
    assert_eq!(target.requests().len(), 2);
    let urgent = Command { immediate: true, ..Command::new(9, LUN, cdb::test_unit_ready(), Transfer::None) };
    assert_eq!(target.initiator.submit(urgent), Submitted::Accepted);
    let urgent = target.command();
    assert_eq!(
        (urgent.immediate, urgent.cmd_sn),
        (true, Serial32(3)),
        "beside the window, with the next number"
    );
    assert_eq!(target.initiator.outstanding(), 6);
    assert_eq!(target.initiator.unfinished().count(), 6);
    // An older window does not close it, one that contradicts itself counts for nothing.
    let news = |target: &Target, max| NopIn {
        lun: LUN,
        task_tag: TaskTag::RESERVED,
        transfer_tag: TransferTag::RESERVED,
        stat_sn: target.stat_sn,
        exp_cmd_sn: Serial32(3),
        max_cmd_sn: Serial32(max),
        data: Payload::new(),
    };
    for max in [1, 0, 2] {
        let nop = news(&target, max);
        target.send(nop).unwrap();
        assert!(target.requests().is_empty());
    }
    let nop = news(&target, 4);
    target.send(nop).unwrap();
    let sent = target.requests();
    let numbers: Vec<_> =
        sent.iter().map(|r| if let Request::ScsiCommand(c) = r { c.cmd_sn.0 } else { 0 }).collect();
    assert_eq!(numbers, [3, 4]);
}

#[test]
fn a_full_table_says_so() {
    let mut target = Target::ready(InitiatorConfig { max_tasks: 2, ..config() }, "");
    let command = |tag| Command::new(tag, LUN, cdb::test_unit_ready(), Transfer::None);
    for tag in 0..2 {
        assert_eq!(target.initiator.submit(command(tag)), Submitted::Accepted);
    }
    assert_eq!(target.initiator.submit(command(2)), Submitted::Full);
    let Request::ScsiCommand(first) = target.requests().remove(0) else { panic!() };
    let response = target.scsi_response(first.task_tag);
    target.send(response).unwrap();
    assert_eq!(target.initiator.submit(command(2)), Submitted::Accepted);
    assert_ne!(target.command().task_tag, first.task_tag, "a late answer never meets the slot's next user");
}
