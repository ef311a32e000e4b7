//! The data of a read while it comes, with holes. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use twinlun_block::Payload;

use crate::initiator::Violation;
use crate::pdu::{DataIn, Lun, Residual, ResponseCode, ScsiStatus, Serial32, TransferTag};

/// PDUs that may wait behind a hole; honest targets send a burst or two.
const EARLY_LIMIT: usize = 8192;

/// How a command ended, as soon as that is known. Data may still be missing.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) stat_sn: Serial32,
    pub(super) response: ResponseCode,
    pub(super) status: ScsiStatus,
    pub(super) residual: Residual,
    pub(super) sense: Bytes,
    /// The DataSN behind the last Data-In, when the target has said so.
    pub(super) end_sn: Option<u32>,
}

/// A run of numbers.
pub(super) type Run = (u32, u32);

/// Data-In of one command.
#[derive(Debug, Default)]
pub(super) struct Read {
    expected: u32,
    /// Without a hole.
    data: Payload,
    next_sn: u32,
    /// Behind holes: offset and data by DataSN.
    early: BTreeMap<u32, (u32, Payload)>,
    /// DataSN below which every hole has been asked for.
    asked_to: u32,
    pub(super) end: Option<End>,
    /// A DataACK that is due when the holes are filled.
    acknowledge: Option<(u32, TransferTag, Lun)>,
}

impl Read {
    pub(super) fn new(expected: u32) -> Self {
        Self { expected, ..Self::default() }
    }

    /// DataSN of the first PDU that is missing.
    pub(super) fn next_sn(&self) -> u32 {
        self.next_sn
    }

    /// Takes a Data-In; the hole before it that is to be asked for, if there is a new one. A PDU that is here already is discarded.
    pub(super) fn take(&mut self, pdu: &DataIn) -> Result<Option<Run>, Violation> {
        if pdu.acknowledge {
            self.acknowledge = Some((pdu.data_sn.wrapping_add(1), pdu.transfer_tag, pdu.lun));
        }
        if pdu.data_sn < self.next_sn || self.early.contains_key(&pdu.data_sn) {
            return Ok(None);
        }
        if u64::from(pdu.buffer_offset) + pdu.data.len() as u64 > u64::from(self.expected) {
            return Err(Violation::TooMuchData);
        }
        if self.early.len() >= EARLY_LIMIT {
            return Err(Violation::DataOrder);
        }
        self.early.insert(pdu.data_sn, (pdu.buffer_offset, pdu.data.clone()));
        while let Some((offset, data)) = self.early.remove(&self.next_sn) {
            if offset as usize != self.data.len() {
                return Err(Violation::DataOrder);
            }
            self.data.append(data);
            self.next_sn += 1;
        }
        Ok(self.new_hole(pdu.data_sn))
    }

    /// The first hole below `sn` that nobody has asked for yet.
    fn new_hole(&mut self, sn: u32) -> Option<Run> {
        let begin = self.next_sn.max(self.asked_to);
        let end = self.early.range(begin..).next().map_or(sn, |(first, _)| (*first).min(sn));
        self.asked_to = self.asked_to.max(sn);
        (begin < end).then(|| (begin, end - begin))
    }

    /// The status has come; the hole before its end that is to be asked for.
    pub(super) fn ended(&mut self, end: End) -> Option<Run> {
        let end_sn = end.end_sn.filter(|_| self.expected > 0);
        self.end = Some(end);
        end_sn.and_then(|end_sn| self.new_hole(end_sn))
    }

    /// A PDU is known to be lost.
    pub(super) fn lost(&mut self, data_sn: u32) -> Option<Run> {
        self.new_hole(data_sn.wrapping_add(1))
    }

    /// All holes that are known, to be asked for again.
    pub(super) fn hole(&self) -> Option<Run> {
        let known = self.end.as_ref().and_then(|end| end.end_sn).filter(|_| self.expected > 0);
        let end = self.early.keys().next().copied().or(known)?;
        (self.next_sn < end).then(|| (self.next_sn, end - self.next_sn))
    }

    /// The end, when all data that the target has sent is here.
    pub(super) fn is_complete(&self) -> bool {
        self.end.as_ref().is_some_and(|end| end.end_sn.is_none_or(|end_sn| self.next_sn >= end_sn))
    }

    /// The StatSN that must not be acknowledged yet, because data is missing (section 7.9).
    pub(super) fn blocked(&self) -> Option<Serial32> {
        self.end.as_ref().map(|end| end.stat_sn).filter(|_| !self.is_complete())
    }

    /// The DataACK that may be sent now: DataSN, tag, LUN.
    pub(super) fn acknowledgment(&mut self) -> Option<(u32, TransferTag, Lun)> {
        let due = self.acknowledge.filter(|(sn, ..)| *sn <= self.next_sn)?;
        self.acknowledge = None;
        Some(due)
    }

    /// Forgets what is not without holes, and the status: the task goes on over another connection (section 11.5.6).
    pub(super) fn restart(&mut self) {
        self.early.clear();
        self.asked_to = self.next_sn;
        self.end = None;
        self.acknowledge = None;
    }

    /// Data and end.
    pub(super) fn finish(self) -> (Payload, Option<End>) {
        (self.data, self.end)
    }
}
