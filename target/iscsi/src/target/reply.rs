//! What goes out: data and status of commands, and the small messages.

use bytes::Bytes;
use twinlun_block::Payload;

use super::connection::Connection;
use super::event::{AsyncMessage, ScsiResponse};
use super::task::{Stage, Task};
use crate::pdu::{
    self, AsyncEvent, Bhs, DataIn, DataInStatus, Lun, NopIn, RawPdu, Reject, RejectReason, Residual,
    ResponseCode, ScsiStatus, TaskTag, TransferTag,
};

/// Bytes of a SCSI Response that hold the status qualifier (RFC 7144 section 5.2).
const STATUS_QUALIFIER: usize = 8;

/// Statuses that may ride on the last Data-In (RFC 7143 section 11.7.3).
const COLLAPSIBLE: [u8; 2] = [ScsiStatus::GOOD.0, ScsiStatus::CONDITION_MET.0];

impl Connection {
    /// Answers [`super::Event::Command`]. A tag that is not outstanding is ignored (the connection may have closed meanwhile).
    pub fn respond(&mut self, tag: u32, response: ScsiResponse) {
        if !self.tasks.get(tag).is_some_and(|task| matches!(task.stage, Stage::Delivered)) {
            return;
        }
        if let Some(task) = self.remove_task(tag) {
            self.send_response(tag, &task, response);
            self.solicit();
        }
    }

    /// Answers [`super::Event::Command`] with the service response "target failure" (RFC 7143 section 11.4.3).
    pub fn respond_target_failure(&mut self, tag: u32) {
        if !self.tasks.get(tag).is_some_and(|task| matches!(task.stage, Stage::Delivered)) {
            return;
        }
        if self.remove_task(tag).is_some() {
            let failed = self.scsi_response(tag);
            self.out.put(pdu::ScsiResponse { response: ResponseCode::TARGET_FAILURE, ..failed });
            self.numbers.used_status();
            self.solicit();
        }
    }

    pub(super) fn send_response(&mut self, tag: u32, task: &Task, mut response: ScsiResponse) {
        let presented_in = response.presented_in.max(response.data_in.len() as u64);
        response.data_in.truncate(task.expected_in as usize);
        let (residual, bidirectional_residual) = match (task.read, task.write) {
            (true, true) => (
                Residual::between(task.expected_out, response.presented_out),
                Residual::between(task.expected_in, presented_in),
            ),
            (false, true) => (Residual::between(task.expected_out, response.presented_out), Residual::None),
            // Neither direction: what the command would have moved all the same is an overflow.
            (true, false) => (Residual::between(task.expected_in, presented_in), Residual::None),
            (false, false) => {
                (Residual::between(0, presented_in.max(response.presented_out)), Residual::None)
            }
        };
        let level2 = self.parameters_in_force().protocol_level >= 2;
        let qualifier = if level2 { response.qualifier } else { 0 };
        let bidirectional = task.read && task.write;
        let collapse = !response.data_in.is_empty()
            && !bidirectional
            && response.sense.is_empty()
            && qualifier == 0
            && COLLAPSIBLE.contains(&response.status);
        let status = collapse.then_some((response.status, residual));
        let sent = self.send_data(tag, &response.data_in, status, task);
        if collapse {
            return;
        }
        let plain = self.scsi_response(tag);
        let mut raw = RawPdu::from(pdu::ScsiResponse {
            status: ScsiStatus(response.status),
            exp_data_sn: sent,
            residual,
            bidirectional_residual,
            sense: response.sense,
            ..plain
        });
        raw.bhs.0[STATUS_QUALIFIER..][..2].copy_from_slice(&qualifier.to_be_bytes());
        self.out.put(raw);
        self.numbers.used_status();
    }

    fn scsi_response(&mut self, tag: u32) -> pdu::ScsiResponse {
        pdu::ScsiResponse {
            response: ResponseCode::COMPLETED,
            status: ScsiStatus::GOOD,
            task_tag: TaskTag(tag),
            snack_tag: 0,
            stat_sn: self.numbers.stat_sn,
            exp_cmd_sn: self.numbers.exp_cmd_sn,
            max_cmd_sn: self.numbers.announce(),
            exp_data_sn: 0,
            residual: Residual::None,
            bidirectional_residual: Residual::None,
            sense: Bytes::new(),
            response_data: Bytes::new(),
        }
    }

    /// Sends data in PDUs of the initiator's MaxRecvDataSegmentLength and sequences of MaxBurstLength; the last PDU may carry the
    /// status. Returns the number of PDUs.
    fn send_data(&mut self, tag: u32, data: &Payload, status: Option<(u8, Residual)>, task: &Task) -> u32 {
        let parameters = self.parameters_in_force();
        // Segments are whole words but for the last of a sequence (section 11.7.7).
        let most = (parameters.initiator_max_recv & !3) as usize;
        let burst = (parameters.max_burst & !3) as usize;
        let total = data.len();
        let (mut at, mut in_burst, mut data_sn) = (0, 0, 0);
        while at < total {
            let len = (total - at).min(most).min(burst - in_burst);
            let last = at + len == total;
            in_burst += len;
            let status = status.filter(|_| last).map(|(status, residual)| {
                let stat_sn = self.numbers.stat_sn;
                self.numbers.used_status();
                DataInStatus { status: ScsiStatus(status), residual, stat_sn }
            });
            self.out.put(DataIn {
                is_final: last || in_burst == burst,
                acknowledge: false,
                status,
                lun: Lun(task.lun),
                task_tag: TaskTag(tag),
                transfer_tag: TransferTag::RESERVED,
                exp_cmd_sn: self.numbers.exp_cmd_sn,
                max_cmd_sn: self.numbers.announce(),
                data_sn,
                buffer_offset: at as u32,
                data: data.slice(at, len),
            });
            if in_burst == burst {
                in_burst = 0;
            }
            at += len;
            data_sn += 1;
        }
        data_sn
    }

    /// Rejects a PDU, showing its header.
    pub(super) fn reject(&mut self, reason: RejectReason, header: Bhs) {
        tracing::debug!(?reason, ?header, "rejected");
        self.out.put(Reject {
            reason,
            stat_sn: self.numbers.stat_sn,
            exp_cmd_sn: self.numbers.exp_cmd_sn,
            max_cmd_sn: self.numbers.announce(),
            data_sn: 0,
            header,
        });
        self.numbers.used_status();
    }

    fn nop_in(&mut self, task_tag: TaskTag, transfer_tag: TransferTag, data: Payload) {
        self.out.put(NopIn {
            lun: Lun::ZERO,
            task_tag,
            transfer_tag,
            stat_sn: self.numbers.stat_sn,
            exp_cmd_sn: self.numbers.exp_cmd_sn,
            max_cmd_sn: self.numbers.announce(),
            data,
        });
    }

    /// Answers a NOP-Out.
    pub(super) fn send_echo(&mut self, tag: TaskTag, data: Payload) {
        self.nop_in(tag, TransferTag::RESERVED, data);
        self.numbers.used_status();
    }

    /// Asks whether the initiator is there. Uses up no StatSN (section 11.19.2).
    pub(super) fn send_ping(&mut self, tag: TransferTag) {
        self.nop_in(TaskTag::RESERVED, tag, Payload::new());
    }

    /// Tells the initiator that its window is open again.
    pub(super) fn announce_window(&mut self) {
        self.nop_in(TaskTag::RESERVED, TransferTag::RESERVED, Payload::new());
    }

    pub(super) fn send_async(&mut self, message: AsyncMessage) {
        let cid = self.session.as_ref().map_or(0, |session| session.cid);
        let mut out = pdu::AsyncMessage {
            lun: Lun::ZERO,
            stat_sn: self.numbers.stat_sn,
            exp_cmd_sn: self.numbers.exp_cmd_sn,
            max_cmd_sn: self.numbers.announce(),
            event: AsyncEvent::SCSI,
            vendor_code: 0,
            parameter1: 0,
            parameter2: 0,
            parameter3: 0,
            sense: Bytes::new(),
            event_data: Bytes::new(),
        };
        match message {
            AsyncMessage::ScsiEvent { lun, sense } => (out.lun, out.sense) = (Lun(lun), sense),
            AsyncMessage::LogoutRequest { within } => {
                (out.event, out.parameter3) = (AsyncEvent::LOGOUT_REQUEST, within);
            }
            AsyncMessage::ConnectionDrop { time2wait } => {
                (out.event, out.parameter1, out.parameter2) = (AsyncEvent::CONNECTION_DROP, cid, time2wait);
            }
            AsyncMessage::SessionDrop { time2wait } => {
                (out.event, out.parameter2) = (AsyncEvent::SESSION_DROP, time2wait);
            }
        }
        self.out.put(out);
        self.numbers.used_status();
    }
}
