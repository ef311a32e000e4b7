//! What was sent and not acknowledged, above error recovery level 0 (RFC 7143 sections 7.1.4, 11.16).
//!
//! ```text
//!     first                                         StatSN of the next response
//!       |  NOP-In  |  answer to tag 7, its data  |  forgotten  |  answer to tag 9  |
//!       ▲ ExpStatSN acknowledges from this end                                     ▲ new ones
//! ```
//!
//! Pure bookkeeping. Answers to commands are bounded by the command window ([`super::numbers`] closes it when nobody acknowledges);
//! of other responses the latest [`OTHERS_LIMIT`] are kept, and older ones cannot be asked for again.

use std::collections::VecDeque;

use twinlun_block::Payload;

use super::layout::Layout;
use crate::pdu::{RawPdu, Serial32, TransferTag};

/// Responses that answer no command and are kept at a time.
const OTHERS_LIMIT: usize = 32;

/// A command's answer: enough to send any PDU of it again.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// Initiator task tag.
    pub(super) tag: u32,
    pub(super) lun: [u8; 8],
    /// It takes room in the command window.
    pub(super) numbered: bool,
    /// The data for the initiator, empty when there is none.
    pub(super) data: Payload,
    pub(super) layout: Layout,
    /// DataSN below which everything is acknowledged (DataACK, ExpDataSN of TASK REASSIGN).
    pub(super) acked: u32,
    /// Names the answer in a DataACK; reserved when none is asked for.
    pub(super) ack_tag: TransferTag,
    /// The SCSI Response, with StatSN. When the status rode on the last Data-In (`collapsed`), it was not sent itself.
    pub(super) response: RawPdu,
    pub(super) collapsed: bool,
}

/// One response.
#[derive(Debug)]
enum Item {
    Answer(Box<Answer>),
    Other(RawPdu),
    Forgotten,
}

/// What a StatSN stands for.
#[derive(Debug)]
pub(super) enum Kept<'a> {
    /// A command's answer.
    Answer(&'a Answer),
    /// Another response.
    Other(&'a RawPdu),
    /// It was let go, for want of room.
    Forgotten,
}

/// The responses of one connection that may be asked for again.
#[derive(Debug)]
pub(super) struct Sent {
    first: Serial32,
    items: VecDeque<Item>,
    others: usize,
}

impl Sent {
    /// Nothing sent. `first` is the StatSN of the next response.
    pub(super) fn new(first: Serial32) -> Self {
        Self { first, items: VecDeque::new(), others: 0 }
    }

    /// The StatSN of the next response.
    fn next(&self) -> Serial32 {
        self.first.plus(self.items.len() as u32)
    }

    pub(super) fn push_answer(&mut self, answer: Box<Answer>) {
        self.items.push_back(Item::Answer(answer));
    }

    pub(super) fn push_other(&mut self, pdu: RawPdu) {
        self.items.push_back(Item::Other(pdu));
        self.others += 1;
        if self.others > OTHERS_LIMIT
            && let Some(oldest) = self.items.iter_mut().find(|item| matches!(item, Item::Other(_)))
        {
            *oldest = Item::Forgotten;
            self.others -= 1;
        }
    }

    /// Everything below `exp_stat_sn` has arrived. Returns how many answers to numbered commands that lets go.
    pub(super) fn acknowledge(&mut self, exp_stat_sn: Serial32) -> u32 {
        let mut numbered = 0;
        // A number that was never sent acknowledges nothing.
        if !exp_stat_sn.is_at_or_before(self.next()) {
            return 0;
        }
        while self.first.is_before(exp_stat_sn)
            && let Some(item) = self.items.pop_front()
        {
            self.first = self.first.next();
            match item {
                Item::Answer(answer) => numbered += u32::from(answer.numbered),
                Item::Other(_) => self.others -= 1,
                Item::Forgotten => {}
            }
        }
        numbered
    }

    /// The responses of a run; a `length` of 0 means all from `begin` on, and 0 and 0 all that is not acknowledged. `None` when the
    /// run has numbers that were not sent or are acknowledged.
    pub(super) fn run(&self, begin: u32, length: u32) -> Option<impl Iterator<Item = Kept<'_>>> {
        let begin = if begin == 0 && length == 0 { self.first } else { Serial32(begin) };
        if !self.first.is_at_or_before(begin) || !begin.is_before(self.next()) {
            return None;
        }
        let skip = begin.steps_from(self.first) as usize;
        let most = self.items.len() - skip;
        let count = if length == 0 { most } else { length as usize };
        (count <= most).then(|| {
            self.items.range(skip..skip + count).map(|item| match item {
                Item::Answer(answer) => Kept::Answer(answer),
                Item::Other(pdu) => Kept::Other(pdu),
                Item::Forgotten => Kept::Forgotten,
            })
        })
    }

    /// The answer to a command.
    pub(super) fn answer(&mut self, tag: u32) -> Option<&mut Answer> {
        self.find(|answer| answer.tag == tag)
    }

    /// The answer that a DataACK means.
    pub(super) fn answer_by_ack_tag(&mut self, tag: TransferTag) -> Option<&mut Answer> {
        self.find(|answer| answer.ack_tag == tag && !tag.is_reserved())
    }

    fn find(&mut self, wanted: impl Fn(&Answer) -> bool) -> Option<&mut Answer> {
        // The latest first: a tag may have been used again before the older answer was acknowledged.
        self.items.iter_mut().rev().find_map(|item| match item {
            Item::Answer(answer) if wanted(answer) => Some(&mut **answer),
            _ => None,
        })
    }

    /// Takes a command's answer out, to be sent on another connection.
    pub(super) fn take_answer(&mut self, tag: u32) -> Option<Box<Answer>> {
        let wanted = |item: &Item| matches!(item, Item::Answer(answer) if answer.tag == tag);
        let at = self.items.iter().rposition(wanted)?;
        match std::mem::replace(&mut self.items[at], Item::Forgotten) {
            Item::Answer(answer) => Some(answer),
            _ => None,
        }
    }

    /// Whether answers to commands are kept.
    pub(super) fn has_answers(&self) -> bool {
        self.items.iter().any(|item| matches!(item, Item::Answer(_)))
    }

    /// Lets go of all that could not go to another connection anyway: after the connection is lost. Returns how many numbered answers
    /// that are.
    pub(super) fn keep_recoverable(&mut self) {
        for item in &mut self.items {
            let recoverable = matches!(item, Item::Answer(answer) if answer.numbered);
            if !recoverable {
                *item = Item::Forgotten;
            }
        }
        self.others = 0;
    }

    /// Responses without an acknowledgment.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Lets go of everything; returns how many numbered answers that were.
    pub(super) fn clear(&mut self) -> u32 {
        self.acknowledge(self.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::{Bhs, Opcode};

    fn pdu() -> RawPdu {
        RawPdu::header(Bhs::new(Opcode::NOP_IN))
    }

    fn answer(tag: u32, numbered: bool) -> Box<Answer> {
        Box::new(Answer {
            tag,
            lun: [0; 8],
            numbered,
            data: Payload::new(),
            layout: Layout::new(0, 0, 0, 512, 512),
            acked: 0,
            ack_tag: TransferTag::RESERVED,
            response: pdu(),
            collapsed: false,
        })
    }

    #[test]
    fn runs_are_what_was_sent_and_not_acknowledged() {
        let mut sent = Sent::new(Serial32(u32::MAX));
        sent.push_answer(answer(1, true));
        sent.push_other(pdu());
        sent.push_answer(answer(2, false));
        assert_eq!(sent.run(0, 0).unwrap().count(), 3, "0 and 0 are all");
        assert_eq!(sent.run(u32::MAX, 1).unwrap().count(), 1);
        assert_eq!(sent.run(1, 0).unwrap().count(), 1);
        for (begin, length) in [(2, 1), (1, 2), (u32::MAX - 1, 1), (u32::MAX, 4), (u32::MAX, u32::MAX)] {
            assert!(sent.run(begin, length).is_none(), "{begin} {length}");
        }
        assert_eq!(sent.acknowledge(Serial32(9)), 0, "what was not sent cannot be acknowledged");
        assert_eq!(sent.acknowledge(Serial32(0)), 1);
        assert!(sent.run(u32::MAX, 1).is_none());
        assert_eq!(sent.acknowledge(Serial32(u32::MAX)), 0, "an old number takes nothing back");
        assert_eq!(sent.clear(), 0);
        assert!(sent.run(0, 0).is_none(), "nothing is left");
    }

    #[test]
    fn other_responses_are_bounded_and_answers_are_not_touched() {
        let mut sent = Sent::new(Serial32(0));
        sent.push_answer(answer(7, true));
        for _ in 0..OTHERS_LIMIT + 5 {
            sent.push_other(pdu());
        }
        let forgotten = sent.run(0, 0).unwrap().filter(|kept| matches!(kept, Kept::Forgotten)).count();
        assert_eq!(forgotten, 5);
        assert!(sent.take_answer(7).is_some());
        assert!(sent.take_answer(7).is_none() && !sent.has_answers());
    }
}
