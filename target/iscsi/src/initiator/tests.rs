//! The initiator against a target that is played by hand, PDU by PDU.

use bytes::Bytes;
use proptest::prelude::*;
use twinlun_block::Payload;

use super::*;
use crate::chap::{Algorithm, ChapError, Secret};
use crate::deframer::{Deframer, FrameLimits};
use crate::encoder::Encoder;
use crate::pdu::*;
use crate::text;

/// The other end of the wire.
struct Target {
    initiator: Initiator,
    deframer: Deframer,
    encoder: Encoder,
    stat_sn: Serial32,
    exp_cmd_sn: Serial32,
    max_cmd_sn: Serial32,
}

const TARGET: &str = "iqn.2026-11.io.twinlun:east";
const LUN: Lun = Lun::ZERO;

fn config() -> InitiatorConfig {
    let session = SessionKind::Normal { target: TARGET.parse().unwrap() };
    InitiatorConfig::new("iqn.2026-11.io.twinlun:host".parse().unwrap(), Isid::random([1, 2, 3], 4), session)
}

impl Target {
    fn new(config: InitiatorConfig) -> Self {
        Self {
            initiator: Initiator::new(config).unwrap(),
            deframer: Deframer::new(1 << 16),
            encoder: Encoder::new(),
            stat_sn: Serial32(0xffff_fffe),
            exp_cmd_sn: Serial32(1),
            max_cmd_sn: Serial32(100),
        }
    }

    /// Logged in, with these answers to the operational offer.
    fn ready(config: InitiatorConfig, answers: &str) -> Self {
        let mut target = Self::new(config);
        target.login();
        target.answer(true, Stage::SECURITY, "AuthMethod=None\0").unwrap();
        target.login();
        target.answer(true, Stage::OPERATIONAL, answers).unwrap();
        assert_eq!(target.event(), Event::LoggedIn);
        let parameters = *target.initiator.parameters();
        target.deframer.set_limits(FrameLimits {
            max_data: parameters.target_max_recv,
            header_digest: parameters.header_digest,
            data_digest: parameters.data_digest,
            allow_ahs: true,
        });
        target.encoder.set_digests(parameters.header_digest, parameters.data_digest);
        target
    }

    fn requests(&mut self) -> Vec<Request> {
        for segment in self.initiator.transmit() {
            self.deframer.buffer().extend_from_slice(&segment);
        }
        let mut out = Vec::new();
        while let Some(raw) = self.deframer.next().unwrap() {
            out.push(Request::parse(raw).unwrap());
        }
        out
    }

    fn request(&mut self) -> Request {
        let mut all = self.requests();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    fn login(&mut self) -> LoginRequest {
        match self.request() {
            Request::Login(request) => request,
            other => panic!("{other:?}"),
        }
    }

    fn command(&mut self) -> ScsiCommand {
        match self.request() {
            Request::ScsiCommand(command) => command,
            other => panic!("{other:?}"),
        }
    }

    fn send(&mut self, pdu: impl Into<RawPdu>) -> Result<(), InitiatorError> {
        self.encoder.put(pdu);
        for segment in self.encoder.drain() {
            self.initiator.buffer().extend_from_slice(&segment);
        }
        self.initiator.received()
    }

    fn next_stat_sn(&mut self) -> Serial32 {
        let now = self.stat_sn;
        self.stat_sn = now.next();
        now
    }

    fn login_response(&mut self, transit: bool, stage: Stage, text: &str) -> LoginResponse {
        let last = transit && stage == Stage::OPERATIONAL;
        LoginResponse {
            transit,
            continues: false,
            current_stage: stage,
            next_stage: match (transit, stage) {
                (false, _) => Stage::SECURITY,
                (true, Stage::SECURITY) => Stage::OPERATIONAL,
                _ => Stage::FULL_FEATURE,
            },
            version_max: 0,
            version_active: 0,
            isid: Isid::random([1, 2, 3], 4),
            tsih: Tsih(if last { 77 } else { 0 }),
            task_tag: TaskTag(0),
            stat_sn: self.next_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn,
            status: LoginStatus::SUCCESS,
            text: Bytes::copy_from_slice(text.as_bytes()),
        }
    }

    fn answer(&mut self, transit: bool, stage: Stage, text: &str) -> Result<(), InitiatorError> {
        let response = self.login_response(transit, stage, text);
        self.send(response)
    }

    fn event(&mut self) -> Event {
        self.initiator.poll_event().expect("an event")
    }

    fn scsi_response(&mut self, task_tag: TaskTag) -> ScsiResponse {
        ScsiResponse {
            response: ResponseCode::COMPLETED,
            status: ScsiStatus::GOOD,
            task_tag,
            snack_tag: 0,
            stat_sn: self.next_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn,
            exp_data_sn: 0,
            residual: Residual::None,
            bidirectional_residual: Residual::None,
            sense: Bytes::new(),
            response_data: Bytes::new(),
        }
    }

    fn data_in(&self, task_tag: TaskTag, data_sn: u32, buffer_offset: u32, data: &'static [u8]) -> DataIn {
        DataIn {
            is_final: false,
            acknowledge: false,
            status: None,
            lun: LUN,
            task_tag,
            transfer_tag: TransferTag::RESERVED,
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn,
            data_sn,
            buffer_offset,
            data: Bytes::from_static(data).into(),
        }
    }

    fn r2t(&self, task_tag: TaskTag, r2t_sn: u32, buffer_offset: u32, desired_len: u32) -> R2t {
        R2t {
            lun: LUN,
            task_tag,
            transfer_tag: TransferTag(500 + r2t_sn),
            stat_sn: self.stat_sn,
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn,
            r2t_sn,
            buffer_offset,
            desired_len,
        }
    }

    fn read(&mut self, tag: u64, len: u32) -> ScsiCommand {
        let command = Command::new(tag, LUN, cdb::read_16(0, len / 512, false), Transfer::Read(len));
        assert_eq!(self.initiator.submit(command), Submitted::Accepted);
        self.command()
    }
}

fn violation(result: Result<(), InitiatorError>) -> Violation {
    match result {
        Err(InitiatorError::Violation(violation)) => violation,
        other => panic!("{other:?}"),
    }
}

fn pattern(len: usize) -> Payload {
    (0..len).map(|index| (index * 7 % 253) as u8).collect::<Vec<_>>().into()
}

#[test]
fn login_without_authentication() {
    let mut target = Target::new(config());
    let first = target.login();
    assert!(
        first.transit && first.current_stage == Stage::SECURITY && first.next_stage == Stage::OPERATIONAL
    );
    assert_eq!(
        first.text,
        "InitiatorName=iqn.2026-11.io.twinlun:host\0SessionType=Normal\0\
         TargetName=iqn.2026-11.io.twinlun:east\0AuthMethod=None\0"
    );
    target.answer(true, Stage::SECURITY, "AuthMethod=None\0TargetPortalGroupTag=1\0").unwrap();
    let second = target.login();
    assert_eq!(second.exp_stat_sn, Serial32(0xffff_ffff));
    assert!(second.transit && second.next_stage == Stage::FULL_FEATURE);
    assert!(
        text::pairs(&second.text)
            .unwrap()
            .iter()
            .any(|p| p.key == "FirstBurstLength" && p.value == b"262144")
    );
    let busy = Command::new(1, LUN, cdb::test_unit_ready(), Transfer::None);
    assert_eq!(target.initiator.submit(busy.clone()), Submitted::NotReady);
    let answers = "InitialR2T=Yes\0ImmediateData=No\0MaxBurstLength=65536\0FirstBurstLength=131072\0\
                   MaxRecvDataSegmentLength=4096\0X-com.example.key=1\0MaxOutstandingR2T=1\0";
    target.answer(false, Stage::OPERATIONAL, answers).unwrap();
    let third = target.login();
    assert_eq!(third.text, "X-com.example.key=NotUnderstood\0");
    target.answer(true, Stage::OPERATIONAL, "").unwrap();
    assert_eq!(target.event(), Event::LoggedIn);
    assert_eq!(target.initiator.tsih(), Tsih(77));
    let parameters = target.initiator.parameters();
    assert!(parameters.initial_r2t && !parameters.immediate_data);
    assert_eq!(
        (parameters.max_burst, parameters.first_burst),
        (65536, 65536),
        "a first burst is within a burst"
    );
    assert_eq!((parameters.target_max_recv, parameters.initiator_max_recv), (4096, 256 << 10));
    assert_eq!(target.initiator.submit(busy), Submitted::Accepted);
    let command = target.command();
    assert_eq!((command.cmd_sn, command.exp_stat_sn), (Serial32(1), Serial32(1)), "StatSN has wrapped");
}

#[test]
fn login_text_over_several_answers() {
    let mut target = Target::new(config());
    target.login();
    target.answer(true, Stage::SECURITY, "").unwrap();
    target.login();
    let part = target.login_response(false, Stage::OPERATIONAL, "MaxBurst");
    target.send(LoginResponse { continues: true, ..part }).unwrap();
    let empty = target.login();
    assert!(empty.text.is_empty() && !empty.transit && !empty.continues);
    target.answer(true, Stage::OPERATIONAL, "Length=4096\0").unwrap_err();
    let mut target = Target::new(config());
    target.login();
    target.answer(true, Stage::SECURITY, "").unwrap();
    target.login();
    let part = target.login_response(false, Stage::OPERATIONAL, "MaxBurst");
    target.send(LoginResponse { continues: true, ..part }).unwrap();
    target.login();
    target.answer(false, Stage::OPERATIONAL, "Length=4096\0").unwrap();
    assert!(target.login().transit);
    target.answer(true, Stage::OPERATIONAL, "").unwrap();
    assert_eq!(target.initiator.parameters().max_burst, 4096);
}

#[test]
fn an_endless_login_is_given_up() {
    let mut target = Target::new(config());
    target.login();
    target.answer(true, Stage::SECURITY, "").unwrap();
    let ended = (0..100).find_map(|_| target.answer(false, Stage::OPERATIONAL, "").err());
    assert_eq!(ended, Some(LoginError::TooManyRounds.into()));
}

#[test]
fn answers_beyond_the_offer_are_refused() {
    for (key, answer) in [
        ("InitialR2T", "InitialR2T=Maybe\0"),
        ("ImmediateData", "ImmediateData=\0"),
        ("MaxBurstLength", "MaxBurstLength=16777215\0"),
        ("MaxBurstLength", "MaxBurstLength=1\0"),
        ("FirstBurstLength", "FirstBurstLength=99999999999999999999\0"),
        ("MaxRecvDataSegmentLength", "MaxRecvDataSegmentLength=511\0"),
        ("MaxRecvDataSegmentLength", "MaxRecvDataSegmentLength=16777216\0"),
        ("HeaderDigest", "HeaderDigest=CRC32C\0"),
        ("DataDigest", "DataDigest=Reject\0"),
        ("MaxOutstandingR2T", "MaxOutstandingR2T=0\0"),
        ("MaxConnections", "MaxConnections=2\0"),
        ("ErrorRecoveryLevel", "ErrorRecoveryLevel=1\0"),
        ("DataPDUInOrder", "DataPDUInOrder=No\0"),
    ] {
        let mut target = Target::new(config());
        target.login();
        target.answer(true, Stage::SECURITY, "").unwrap();
        assert_eq!(
            target.answer(true, Stage::OPERATIONAL, answer),
            Err(LoginError::Negotiation { key }.into())
        );
        assert_eq!(target.initiator.phase(), Phase::Closed);
        assert!(target.initiator.received().is_err(), "the failure stays");
    }
}

#[test]
fn a_refused_or_redirected_login() {
    let mut target = Target::new(config());
    let refusal =
        LoginResponse { status: LoginStatus::NOT_FOUND, ..target.login_response(false, Stage::SECURITY, "") };
    assert_eq!(target.send(refusal), Err(LoginError::Refused(LoginStatus::NOT_FOUND).into()));
    let mut target = Target::new(config());
    let moved = LoginResponse {
        status: LoginStatus::MOVED_TEMPORARILY,
        ..target.login_response(false, Stage::SECURITY, "TargetAddress=[::1]:3260,1\0")
    };
    let address = "[::1]:3260,1".to_owned();
    assert_eq!(target.send(moved), Err(LoginError::Redirected { address, permanently: false }.into()));
}

#[test]
fn login_answers_out_of_order() {
    let wrong: [fn(&mut LoginResponse); 6] = [
        |response| response.task_tag = TaskTag(1),
        |response| response.isid = Isid::default(),
        |response| response.current_stage = Stage::OPERATIONAL,
        |response| response.next_stage = Stage::FULL_FEATURE,
        |response| response.next_stage = Stage::SECURITY,
        |response| response.continues = true,
    ];
    for (index, change) in wrong.into_iter().enumerate() {
        let mut target = Target::new(config());
        let mut response = target.login_response(true, Stage::SECURITY, "AuthMethod=None\0");
        change(&mut response);
        assert_eq!(target.send(response), Err(LoginError::Sequence.into()), "case {index}");
    }
}

fn chap(mutual: bool) -> InitiatorConfig {
    let mutual = mutual.then(|| MutualChap {
        user: "array".into(),
        secret: Secret::new(b"secret of target".to_vec()),
        random: [9; 33],
    });
    let secret = Secret::new(b"secret of host".to_vec());
    let algorithms = vec![Algorithm::Sha256, Algorithm::Md5];
    InitiatorConfig { chap: Some(ChapLogin { user: "host".into(), secret, algorithms, mutual }), ..config() }
}

fn value(request: &LoginRequest, key: &str) -> String {
    let pairs = text::pairs(&request.text).unwrap();
    let pair = pairs.iter().find(|pair| pair.key == key).unwrap_or_else(|| panic!("no {key}"));
    String::from_utf8(pair.value.to_vec()).unwrap()
}

/// Up to the initiator's own response.
fn chap_exchange(target: &mut Target, algorithm: Algorithm) -> LoginRequest {
    let first = target.login();
    assert!(!first.transit, "the stage cannot be left before the exchange");
    target.answer(false, Stage::SECURITY, "AuthMethod=CHAP\0").unwrap();
    assert_eq!(target.login().text, "CHAP_A=7,5\0");
    let challenge = format!("CHAP_A={}\0CHAP_I=33\0CHAP_C=0x0102030405\0", algorithm as u8);
    target.answer(false, Stage::SECURITY, &challenge).unwrap();
    let proof = target.login();
    assert!(proof.transit);
    let expected = algorithm.respond(33, &Secret::new(b"secret of host".to_vec()), &[1, 2, 3, 4, 5]);
    assert_eq!((value(&proof, "CHAP_N"), value(&proof, "CHAP_R")), ("host".to_owned(), text::hex(&expected)));
    proof
}

#[test]
fn chap_one_way() {
    let mut target = Target::new(chap(false));
    chap_exchange(&mut target, Algorithm::Md5);
    target.answer(true, Stage::SECURITY, "").unwrap();
    assert_eq!(target.login().current_stage, Stage::OPERATIONAL);
    // A target may also ask for nothing.
    let mut target = Target::new(chap(false));
    assert_eq!(value(&target.login(), "AuthMethod"), "CHAP,None");
    target.answer(false, Stage::SECURITY, "AuthMethod=None\0").unwrap();
    assert!(target.login().transit);
}

#[test]
fn chap_mutual() {
    let secret = Secret::new(b"secret of target".to_vec());
    let prove = |request: &LoginRequest| {
        let challenge = text::binary(value(request, "CHAP_C").as_bytes(), 64).unwrap();
        assert_eq!(challenge.len(), 32);
        text::hex(&Algorithm::Sha256.respond(value(request, "CHAP_I").parse().unwrap(), &secret, &challenge))
    };
    let mut target = Target::new(chap(true));
    let proof = prove(&chap_exchange(&mut target, Algorithm::Sha256));
    target.answer(true, Stage::SECURITY, &format!("CHAP_N=array\0CHAP_R={proof}\0")).unwrap();
    assert_eq!(target.login().current_stage, Stage::OPERATIONAL);

    let answer = |text: &dyn Fn(String) -> String| {
        let mut target = Target::new(chap(true));
        let proof = prove(&chap_exchange(&mut target, Algorithm::Sha256));
        target.answer(true, Stage::SECURITY, &text(proof)).unwrap_err()
    };
    let refused = |error: ChapError| InitiatorError::from(LoginError::from(error));
    assert_eq!(answer(&|_| String::new()), refused(ChapError::Sequence), "no proof at all");
    assert_eq!(answer(&|proof| format!("CHAP_N=evil\0CHAP_R={proof}\0")), refused(ChapError::Name));
    assert_eq!(
        answer(&|_| format!("CHAP_N=array\0CHAP_R=0x{}\0", "00".repeat(32))),
        refused(ChapError::Response)
    );
    assert_eq!(
        answer(&|_| format!("CHAP_N=array\0CHAP_R=0x{}\0", "00".repeat(33))),
        refused(ChapError::Value)
    );
    // Who demands a proof does not go without.
    let mut target = Target::new(chap(true));
    target.login();
    assert_eq!(
        target.answer(false, Stage::SECURITY, "AuthMethod=None\0"),
        Err(LoginError::AuthMethod.into())
    );
    // Our own challenge sent back.
    let mut target = Target::new(chap(true));
    target.answer(false, Stage::SECURITY, "AuthMethod=CHAP\0").unwrap();
    let reflected = format!("CHAP_A=7\0CHAP_I=1\0CHAP_C=0x{}\0", "09".repeat(32));
    assert_eq!(target.answer(false, Stage::SECURITY, &reflected), Err(refused(ChapError::Reflected)));
}

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

fn text_response(
    target: &Target,
    task_tag: TaskTag,
    stat_sn: Serial32,
    is_final: bool,
    text: &str,
) -> TextResponse {
    TextResponse {
        is_final,
        continues: !is_final,
        lun: LUN,
        task_tag,
        transfer_tag: if is_final { TransferTag::RESERVED } else { TransferTag(4) },
        stat_sn,
        exp_cmd_sn: target.exp_cmd_sn,
        max_cmd_sn: target.max_cmd_sn,
        text: Bytes::copy_from_slice(text.as_bytes()),
    }
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
