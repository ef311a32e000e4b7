//! One connection of a session, and the accounting of its responses.

use std::collections::BTreeSet;

use super::read::Run;
use crate::initiator::login::Login;
use crate::negotiate::Parameters;
use crate::pdu::{Cid, Serial32};
use crate::{Deframer, Encoder};

/// One connection; numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(pub(super) u32);

/// Responses that may be missing before one that has come; more is no honest target's doing.
const GAP_LIMIT: u32 = 1 << 16;

#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) cid: Cid,
    pub(super) phase: LinkPhase,
    pub(super) deframer: Deframer,
    pub(super) encoder: Encoder,
    pub(super) parameters: Parameters,
    pub(super) statuses: Statuses,
    /// When something came last, and whether anything has since time was looked at.
    pub(super) progress: bool,
    /// Intervals without a word although one is due.
    pub(super) silent: u32,
}

#[derive(Debug)]
pub(super) enum LinkPhase {
    Login(Box<Login>),
    Open,
    /// A logout of this connection, or of the session, was sent here.
    LoggingOut,
    /// The stream is gone; a login with the same CID may follow from then on.
    Lost,
    /// Nothing more will come of it.
    Closed,
}

impl Link {
    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, LinkPhase::Open)
    }
}

/// What came of the responses' numbers. Pure.
#[derive(Debug, Default)]
pub(super) struct Statuses {
    /// All below have come.
    next: Serial32,
    /// Beyond a gap.
    ahead: BTreeSet<u32>,
    /// Responses whose command lacks data: they must not be acknowledged yet.
    blocked: BTreeSet<u32>,
    /// Below which every gap has been asked for.
    asked_to: Serial32,
}

/// What a response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It is new; a gap before it is to be asked for.
    New(Option<Run>),
    /// It has come before.
    Duplicate,
    /// No target has sent so many.
    Absurd,
}

impl Statuses {
    pub(super) fn new(next: Serial32) -> Self {
        Self { next, asked_to: next, ..Self::default() }
    }

    /// A response has come.
    pub(super) fn arrive(&mut self, stat_sn: Serial32) -> Arrival {
        if stat_sn.is_before(self.next) || self.ahead.contains(&stat_sn.0) {
            return Arrival::Duplicate;
        }
        if !stat_sn.is_before(self.next.plus(GAP_LIMIT)) {
            return Arrival::Absurd;
        }
        self.ahead.insert(stat_sn.0);
        let gap = self.new_gap(stat_sn);
        while self.ahead.remove(&self.next.0) {
            self.next = self.next.next();
        }
        Arrival::New(gap)
    }

    /// A PDU says which number the next response will have: all below have been sent.
    pub(super) fn sent_below(&mut self, stat_sn: Serial32) -> Option<Run> {
        if !self.next.is_before(stat_sn) || !stat_sn.is_before(self.next.plus(GAP_LIMIT)) {
            return None;
        }
        self.new_gap(stat_sn)
    }

    fn new_gap(&mut self, below: Serial32) -> Option<Run> {
        let begin = self.next.latest(self.asked_to);
        self.asked_to = self.asked_to.latest(below);
        let run = begin.is_before(below).then(|| (begin.0, below.steps_from(begin)))?;
        let missing = !(0..run.1).all(|step| self.ahead.contains(&begin.plus(step).0));
        missing.then_some(run)
    }

    /// The first gap that is known, to be asked for again.
    pub(super) fn gap(&self) -> Option<Run> {
        if self.ahead.is_empty() && self.next == self.asked_to {
            return None;
        }
        let mut length = 0;
        while length < GAP_LIMIT
            && self.next.plus(length).is_before(self.asked_to)
            && !self.ahead.contains(&self.next.plus(length).0)
        {
            length += 1;
        }
        (length > 0).then_some((self.next.0, length))
    }

    pub(super) fn block(&mut self, stat_sn: Serial32) {
        self.blocked.insert(stat_sn.0);
    }

    pub(super) fn unblock(&mut self, stat_sn: Serial32) {
        self.blocked.remove(&stat_sn.0);
    }

    /// ExpStatSN: everything below has come, with its data.
    pub(super) fn acknowledged(&self) -> Serial32 {
        let mut lowest = self.next;
        for stat_sn in &self.blocked {
            if Serial32(*stat_sn).is_before(lowest) {
                lowest = Serial32(*stat_sn);
            }
        }
        lowest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_asked_for_once_and_acknowledged_when_whole() {
        let mut statuses = Statuses::new(Serial32(u32::MAX));
        assert_eq!(statuses.arrive(Serial32(u32::MAX)), Arrival::New(None));
        assert_eq!(statuses.arrive(Serial32(2)), Arrival::New(Some((0, 2))));
        assert_eq!(statuses.arrive(Serial32(4)), Arrival::New(Some((2, 2))), "3 is missing");
        assert_eq!(statuses.gap(), Some((0, 2)));
        assert_eq!(statuses.arrive(Serial32(4)), Arrival::Duplicate);
        assert_eq!(statuses.sent_below(Serial32(6)), Some((4, 2)));
        assert_eq!(statuses.sent_below(Serial32(6)), None);
        for sn in [0, 1, 3, 5] {
            assert_eq!(statuses.arrive(Serial32(sn)), Arrival::New(None));
        }
        assert_eq!((statuses.acknowledged(), statuses.gap()), (Serial32(6), None));
        statuses.block(Serial32(3));
        assert_eq!(statuses.acknowledged(), Serial32(3));
        statuses.unblock(Serial32(3));
        assert_eq!(statuses.acknowledged(), Serial32(6));
        assert_eq!(statuses.arrive(Serial32(6 + GAP_LIMIT)), Arrival::Absurd);
    }
}
