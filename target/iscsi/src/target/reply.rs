//! What goes out: data and status of commands, and the small messages.

use bytes::Bytes;
use twinlun_block::Payload;

use super::collect::Asked;
use super::event::{AsyncMessage, ScsiResponse};
use super::layout::Layout;
use super::sent::Answer;
use super::session::{ConnectionId, Session};
use super::task::{Stage, Task};
use crate::pdu::{
    self, AsyncEvent, Bhs, DataIn, DataInStatus, Lun, NopIn, R2t, RawPdu, Reject, RejectReason, Residual,
    ResponseCode, ScsiStatus, TaskTag, TransferTag,
};

/// Bytes of a SCSI Response that hold the status qualifier (RFC 7144 section 5.2).
const STATUS_QUALIFIER: usize = 8;

/// Statuses that may ride on the last Data-In (RFC 7143 section 11.7.3).
const COLLAPSIBLE: [u8; 2] = [ScsiStatus::GOOD.0, ScsiStatus::CONDITION_MET.0];

impl Session {
    /// Answers [`super::Event::Command`]. A tag that is not outstanding is ignored (the session may have ended meanwhile).
    pub fn respond(&mut self, tag: u32, response: ScsiResponse) {
        if !self.tasks.get(tag).is_some_and(|task| matches!(task.stage, Stage::Delivered)) {
            return;
        }
        if !self.parameters.response_fence || !self.held_by_fence(tag, &response) {
            self.end_task(tag, response);
        }
    }

    /// Takes a task out and sends its answer.
    pub(super) fn end_task(&mut self, tag: u32, response: ScsiResponse) {
        if let Some(task) = self.remove_task(tag) {
            self.answer(tag, &task, response);
            self.solicit();
        }
    }

    /// Answers [`super::Event::Command`] with the service response "target failure" (RFC 7143 section 11.4.3).
    pub fn respond_target_failure(&mut self, tag: u32) {
        if !self.tasks.get(tag).is_some_and(|task| matches!(task.stage, Stage::Delivered)) {
            return;
        }
        if let Some(task) = self.remove_task(tag) {
            let failed = pdu::ScsiResponse {
                response: ResponseCode::TARGET_FAILURE,
                ..self.scsi_response(&task, tag)
            };
            let connection = &mut self.connections[task.connection];
            if connection.can_send() {
                connection.put_status(failed);
            }
            self.solicit();
        }
    }

    /// Sends a command's answer. When its connection is lost, the task stays, with the answer, for its reassignment.
    pub(super) fn answer(&mut self, tag: u32, task: &Task, response: ScsiResponse) {
        let connection = &self.connections[task.connection];
        if connection.can_send() {
            return self.send_response(tag, task, response);
        }
        if connection.is_lost() && !task.immediate {
            self.numbers.opened();
            self.enter_task(tag, task.answered(response));
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
        let level2 = self.parameters.protocol_level >= 2;
        let qualifier = if level2 { response.qualifier } else { 0 };
        let bidirectional = task.read && task.write;
        let collapse = !response.data_in.is_empty()
            && !bidirectional
            && response.sense.is_empty()
            && qualifier == 0
            && COLLAPSIBLE.contains(&response.status);
        let parameters = &self.connections[task.connection].parameters;
        let (segment, burst) = (parameters.initiator_max_recv, parameters.max_burst);
        let layout = Layout::new(0, 0, response.data_in.len(), segment, burst);
        let plain = |this: &mut Self| {
            let mut raw = RawPdu::from(pdu::ScsiResponse {
                status: ScsiStatus(response.status),
                exp_data_sn: layout.end_sn(),
                residual,
                bidirectional_residual,
                sense: response.sense.clone(),
                ..this.scsi_response(task, tag)
            });
            raw.bhs.0[STATUS_QUALIFIER..][..2].copy_from_slice(&qualifier.to_be_bytes());
            raw
        };
        if !self.recovers() {
            let status = collapse.then_some((response.status, residual));
            self.send_data(tag, &response.data_in, layout, status, task);
            if !collapse {
                let raw = plain(self);
                self.connections[task.connection].put_status(raw);
            }
            return;
        }
        if !task.immediate {
            self.numbers.keep();
        }
        let ack_tag = if layout.is_longer_than_burst() { self.transfer_tag() } else { TransferTag::RESERVED };
        let answer = Answer {
            tag,
            lun: task.lun,
            numbered: !task.immediate,
            data: response.data_in.clone(),
            layout,
            acked: 0,
            ack_tag,
            response: plain(self),
            collapsed: collapse,
        };
        self.send_answer(task.connection, Box::new(answer), 0);
    }

    fn scsi_response(&mut self, task: &Task, tag: u32) -> pdu::ScsiResponse {
        pdu::ScsiResponse {
            response: ResponseCode::COMPLETED,
            status: ScsiStatus::GOOD,
            task_tag: TaskTag(tag),
            snack_tag: 0,
            stat_sn: self.connections[task.connection].stat_sn,
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
    /// status.
    fn send_data(
        &mut self,
        tag: u32,
        data: &Payload,
        layout: Layout,
        status: Option<(u8, Residual)>,
        task: &Task,
    ) {
        let connection = &mut self.connections[task.connection];
        let mut data_sn = 0;
        while let Some(cut) = layout.cut(data_sn) {
            let status = status.filter(|_| cut.is_last).map(|(status, residual)| {
                let stat_sn = connection.stat_sn;
                connection.stat_sn = stat_sn.next();
                DataInStatus { status: ScsiStatus(status), residual, stat_sn }
            });
            connection.out.put(DataIn {
                is_final: cut.is_final,
                acknowledge: false,
                status,
                lun: Lun(task.lun),
                task_tag: TaskTag(tag),
                transfer_tag: TransferTag::RESERVED,
                exp_cmd_sn: self.numbers.exp_cmd_sn,
                max_cmd_sn: self.numbers.announce(),
                data_sn,
                buffer_offset: cut.offset as u32,
                data: data.slice(cut.offset, cut.len),
            });
            data_sn += 1;
        }
    }

    pub(super) fn send_r2t(&mut self, on: ConnectionId, tag: u32, lun: [u8; 8], asked: Asked) {
        let connection = &mut self.connections[on];
        connection.out.put(R2t {
            lun: Lun(lun),
            task_tag: TaskTag(tag),
            transfer_tag: asked.tag,
            stat_sn: connection.stat_sn,
            exp_cmd_sn: self.numbers.exp_cmd_sn,
            max_cmd_sn: self.numbers.announce(),
            r2t_sn: asked.r2t_sn,
            buffer_offset: asked.offset,
            desired_len: asked.len,
        });
    }

    /// Rejects a PDU, showing its header.
    pub(super) fn reject(&mut self, on: ConnectionId, reason: RejectReason, header: Bhs) {
        tracing::debug!(?reason, ?header, "rejected");
        let connection = &mut self.connections[on];
        connection.put_status(Reject {
            reason,
            stat_sn: connection.stat_sn,
            exp_cmd_sn: self.numbers.exp_cmd_sn,
            max_cmd_sn: self.numbers.announce(),
            data_sn: 0,
            header,
        });
    }

    fn nop_in(
        &mut self,
        on: ConnectionId,
        task_tag: TaskTag,
        transfer_tag: TransferTag,
        data: Payload,
    ) -> NopIn {
        NopIn {
            lun: Lun::ZERO,
            task_tag,
            transfer_tag,
            stat_sn: self.connections[on].stat_sn,
            exp_cmd_sn: self.numbers.exp_cmd_sn,
            max_cmd_sn: self.numbers.announce(),
            data,
        }
    }

    /// Answers a NOP-Out.
    pub(super) fn send_echo(&mut self, on: ConnectionId, tag: TaskTag, data: Payload) {
        let echo = self.nop_in(on, tag, TransferTag::RESERVED, data);
        self.connections[on].put_status(echo);
        self.urge_acknowledgment(on);
    }

    /// Asks whether the initiator is there. Uses up no StatSN (section 11.19.2).
    pub(super) fn send_ping(&mut self, on: ConnectionId, tag: TransferTag) {
        let ping = self.nop_in(on, TaskTag::RESERVED, tag, Payload::new());
        self.connections[on].out.put(ping);
    }

    /// Tells the initiator that its window is open again.
    pub(super) fn announce_window(&mut self, on: ConnectionId) {
        let word = self.nop_in(on, TaskTag::RESERVED, TransferTag::RESERVED, Payload::new());
        self.connections[on].out.put(word);
    }

    /// Sends an asynchronous message on the first connection that is open. Ignored where nothing but answers may be sent (section
    /// 7.4.3).
    pub fn async_message(&mut self, message: AsyncMessage) {
        let first = self.connections.open().next().map(|(on, _)| on);
        if let Some(on) = first {
            self.async_message_on(on, message);
        }
    }

    /// Sends an asynchronous message on one connection, which a request to log out concerns (section 11.9.1).
    pub fn async_message_on(&mut self, on: ConnectionId, message: AsyncMessage) {
        if !self.is_normal() || !self.connections[on].is_open() {
            return;
        }
        let mut out = pdu::AsyncMessage {
            lun: Lun::ZERO,
            stat_sn: self.connections[on].stat_sn,
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
            AsyncMessage::ConnectionDrop { cid, time2wait, time2retain } => {
                (out.event, out.parameter1) = (AsyncEvent::CONNECTION_DROP, cid);
                (out.parameter2, out.parameter3) = (time2wait, time2retain);
            }
            AsyncMessage::SessionDrop { time2wait } => {
                (out.event, out.parameter2) = (AsyncEvent::SESSION_DROP, time2wait);
            }
        }
        self.connections[on].put_status(out);
    }
}
