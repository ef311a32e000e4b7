//! SNACK: sending again what was sent (RFC 7143 section 11.16), and answers that can be sent again.
//!
//! | type | asks for | answered from |
//! | --- | --- | --- |
//! | Data/R2T | Data-In of an answered command; R2Ts of one that collects data | `sent`, [`Collect::asked_again`](super::collect::Collect) |
//! | Status | responses by StatSN | `sent` |
//! | DataACK | nothing; lets go of data | `sent` |
//! | R-Data | all unacknowledged Data-In, cut anew, then a response with the SNACK's tag | `sent` |
//!
//! A run with numbers that were never sent or are acknowledged is a protocol error; what was let go for want of room is "SNACK reject".

use super::connection::Connection;
use super::layout::Layout;
use super::numbers::Numbers;
use super::sent::{Answer, Kept};
use super::session::{ConnectionId, Session};
use crate::pdu::{
    Bhs, DataIn, DataInStatus, Lun, RawPdu, RejectReason, ScsiResponse, SnackRequest, SnackType, TaskTag,
    TransferTag,
};

/// Bytes that SNACKs may make this side send again in one go; what is beyond must be asked for once more. A request of 48 bytes must not
/// queue data without bound.
const RESEND_LIMIT: usize = 32 << 20;

type Refused = RejectReason;

impl Session {
    pub(super) fn snack(&mut self, on: ConnectionId, pdu: &SnackRequest, header: Bhs) {
        let done = match pdu.kind {
            SnackType::DATA_OR_R2T => self.data_snack(on, pdu),
            SnackType::STATUS => self.status_snack(on, pdu),
            SnackType::DATA_ACK => self.data_ack(on, pdu),
            SnackType::R_DATA => self.r_data_snack(on, pdu),
            _ => Err(RejectReason::INVALID_PDU_FIELD),
        };
        if let Err(reason) = done {
            self.reject(on, reason, header);
        }
    }

    fn data_snack(&mut self, on: ConnectionId, pdu: &SnackRequest) -> Result<(), Refused> {
        let tag = pdu.task_tag.0;
        if self.tasks.get(tag).is_some_and(|task| task.connection == on) {
            // Nothing was sent yet but R2Ts.
            let Some(collect) = self.collecting(tag) else { return Err(RejectReason::PROTOCOL_ERROR) };
            let lun = collect.command.lun;
            let again = collect.asked_again(pdu.begin, pdu.length).ok_or(RejectReason::PROTOCOL_ERROR)?;
            for asked in again {
                self.send_r2t(on, tag, lun, asked);
            }
            return Ok(());
        }
        let connection = &mut self.connections[on];
        let answer = connection.sent.as_mut().and_then(|sent| sent.answer(tag));
        let answer = answer.ok_or(RejectReason::PROTOCOL_ERROR)?.clone();
        let begin = if pdu.begin == 0 && pdu.length == 0 { answer.acked } else { pdu.begin };
        let end = answer.layout.end_sn();
        let behind = if pdu.length == 0 { end } else { begin.saturating_add(pdu.length) };
        if begin < answer.acked || begin >= end || behind > end {
            return Err(RejectReason::PROTOCOL_ERROR);
        }
        take_credit(connection, &answer, begin, behind)?;
        put_data(connection, &mut self.numbers, &answer, begin, behind);
        Ok(())
    }

    fn status_snack(&mut self, on: ConnectionId, pdu: &SnackRequest) -> Result<(), Refused> {
        let connection = &mut self.connections[on];
        let Some(sent) = connection.sent.take() else { return Err(RejectReason::PROTOCOL_ERROR) };
        let done = match sent.run(pdu.begin, pdu.length) {
            // "All that is not acknowledged" may be nothing: then there is nothing to complain about.
            None if pdu.begin == 0 && pdu.length == 0 => Ok(()),
            None => Err(RejectReason::PROTOCOL_ERROR),
            Some(run) => resend(connection, &mut self.numbers, run),
        };
        connection.sent = Some(sent);
        done
    }

    /// Data below BegRun has arrived.
    fn data_ack(&mut self, on: ConnectionId, pdu: &SnackRequest) -> Result<(), Refused> {
        let sent = self.connections[on].sent.as_mut();
        let answer = sent.and_then(|sent| sent.answer_by_ack_tag(TransferTag(pdu.tag)));
        // The status may have been acknowledged meanwhile, and with it the data.
        let Some(answer) = answer else { return Ok(()) };
        if pdu.length != 0 || pdu.lun.0 != answer.lun || pdu.begin > answer.layout.end_sn() {
            return Err(RejectReason::INVALID_DATA_ACK);
        }
        answer.acked = answer.acked.max(pdu.begin);
        Ok(())
    }

    fn r_data_snack(&mut self, on: ConnectionId, pdu: &SnackRequest) -> Result<(), Refused> {
        let connection = &mut self.connections[on];
        let segment = connection.parameters.initiator_max_recv;
        let burst = connection.parameters.max_burst;
        let stands_for_none = pdu.tag == 0 || pdu.tag == u32::MAX;
        if pdu.begin != 0 || pdu.length != 0 || stands_for_none {
            return Err(RejectReason::PROTOCOL_ERROR);
        }
        let answer = connection.sent.as_mut().and_then(|sent| sent.answer(pdu.task_tag.0));
        let answer = answer.ok_or(RejectReason::PROTOCOL_ERROR)?;
        answer.recut(segment, burst);
        answer.collapsed = false;
        answer.response.bhs.set_snack_tag(pdu.tag);
        answer.response.bhs.set_exp_data_sn(answer.layout.end_sn());
        let answer = answer.clone();
        let end = answer.layout.end_sn();
        take_credit(connection, &answer, answer.acked, end)?;
        put_data(connection, &mut self.numbers, &answer, answer.acked, end);
        put_again(connection, &mut self.numbers, &answer.response);
        Ok(())
    }

    /// Sends an answer from a DataSN on, with the next StatSN, and keeps it. It is counted among the kept ones already, so that no
    /// window is promised that it takes room in.
    pub(super) fn send_answer(&mut self, on: ConnectionId, mut answer: Box<Answer>, from: u32) {
        let connection = &mut self.connections[on];
        answer.response.bhs.set_stat_sn(connection.stat_sn);
        connection.stat_sn = connection.stat_sn.next();
        put_data(connection, &mut self.numbers, &answer, from, answer.layout.end_sn());
        if !answer.collapsed {
            put_again(connection, &mut self.numbers, &answer.response);
        }
        if let Some(sent) = &mut connection.sent {
            sent.push_answer(answer);
        }
        self.urge_acknowledgment(on);
    }

    /// Sends an answer on the connection that its task was reassigned to. The initiator says what it has (section 11.5.6); a value that
    /// cannot be is ignored.
    pub(super) fn send_answer_elsewhere(
        &mut self,
        on: ConnectionId,
        mut answer: Box<Answer>,
        exp_data_sn: u32,
    ) {
        let parameters = &self.connections[on].parameters;
        let (segment, burst) = (parameters.initiator_max_recv, parameters.max_burst);
        if (answer.acked..=answer.layout.end_sn()).contains(&exp_data_sn) {
            answer.acked = exp_data_sn;
        }
        answer.recut(segment, burst);
        // A tag of the old connection is deleted (section 7.2.2), and so is a status that would ride on no Data-In.
        answer.response.bhs.set_snack_tag(0);
        answer.response.bhs.set_exp_data_sn(answer.layout.end_sn());
        answer.collapsed &= answer.acked < answer.layout.end_sn();
        let from = answer.acked;
        self.send_answer(on, answer, from);
    }
}

impl Answer {
    /// Cuts what is not acknowledged into segments of another size.
    fn recut(&mut self, segment: u32, burst: u32) {
        let offset = self.layout.cut(self.acked).map_or(self.data.len(), |cut| cut.offset);
        self.layout = Layout::new(self.acked, offset, self.data.len(), segment, burst);
    }
}

/// Books what is sent again.
fn take_credit(connection: &mut Connection, answer: &Answer, begin: u32, end: u32) -> Result<(), Refused> {
    let offset = |sn| answer.layout.cut(sn).map_or(answer.data.len(), |cut| cut.offset);
    let bytes = offset(end) - offset(begin) + (end - begin) as usize * 48;
    if connection.resent + bytes > RESEND_LIMIT && connection.resent > 0 {
        return Err(RejectReason::SNACK_REJECT);
    }
    connection.resent += bytes;
    Ok(())
}

/// Sends the Data-In PDUs from `begin` to below `end`. The last of all carries the status where that was collapsed into it.
fn put_data(connection: &mut Connection, numbers: &mut Numbers, answer: &Answer, begin: u32, end: u32) {
    for data_sn in begin..end {
        let Some(cut) = answer.layout.cut(data_sn) else { return };
        let ends = cut.is_last && answer.collapsed;
        let response = ends.then(|| ScsiResponse::parse(answer.response.clone()).ok()).flatten();
        let status = response.map(|response| DataInStatus {
            status: response.status,
            residual: response.residual,
            stat_sn: response.stat_sn,
        });
        // Once per sequence, and not where the status does as well (section 11.7.2).
        let acknowledge = cut.is_final && !cut.is_last && !answer.ack_tag.is_reserved();
        connection.out.put(DataIn {
            is_final: cut.is_final,
            acknowledge,
            status,
            lun: Lun(answer.lun),
            task_tag: TaskTag(answer.tag),
            transfer_tag: if acknowledge { answer.ack_tag } else { TransferTag::RESERVED },
            exp_cmd_sn: numbers.exp_cmd_sn,
            max_cmd_sn: numbers.announce(),
            data_sn,
            buffer_offset: cut.offset as u32,
            data: answer.data.slice(cut.offset, cut.len),
        });
    }
}

/// Sends a response as it was, with the window of now.
fn put_again(connection: &mut Connection, numbers: &mut Numbers, pdu: &RawPdu) {
    let mut pdu = pdu.clone();
    pdu.bhs.set_window(numbers.exp_cmd_sn, numbers.announce());
    connection.out.put(pdu);
}

/// Sends a run of responses again.
fn resend<'a>(
    connection: &mut Connection,
    numbers: &mut Numbers,
    run: impl Iterator<Item = Kept<'a>>,
) -> Result<(), Refused> {
    let mut whole = true;
    for kept in run {
        match kept {
            Kept::Forgotten => whole = false,
            Kept::Other(pdu) => {
                connection.resent += pdu.data.len() + 48;
                if connection.resent > RESEND_LIMIT {
                    return Err(RejectReason::SNACK_REJECT);
                }
                put_again(connection, numbers, pdu);
            }
            Kept::Answer(answer) if answer.collapsed => {
                let last = answer.layout.end_sn() - 1;
                take_credit(connection, answer, last, last + 1)?;
                put_data(connection, numbers, answer, last, last + 1);
            }
            Kept::Answer(answer) => {
                connection.resent += answer.response.data.len() + 48;
                put_again(connection, numbers, &answer.response);
            }
        }
    }
    if whole { Ok(()) } else { Err(RejectReason::SNACK_REJECT) }
}
