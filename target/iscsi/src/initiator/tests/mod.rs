//! The initiator against a target that is played by hand, PDU by PDU.

mod control;
mod data;
mod login;

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
