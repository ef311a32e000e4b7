//! ExpCmdSN and MaxCmdSN of a session (RFC 7143 section 4.2.2.1).

use crate::pdu::Serial32;

/// The command window of a session, over all its connections.
///
/// `MaxCmdSN = ExpCmdSN + (depth − open − excess) − 1`, where `open` counts numbered commands without an answer and `excess` the answers
/// beyond `depth` that are kept because nobody has acknowledged them (error recovery above level 0). MaxCmdSN never goes back: a command
/// that arrives moves ExpCmdSN and `open` together, an answer lowers `open`, and what was promised stays promised.
#[derive(Debug)]
pub(super) struct Numbers {
    pub(super) exp_cmd_sn: Serial32,
    depth: u32,
    open: u32,
    kept: u32,
    /// The highest MaxCmdSN that the initiator was told.
    promised: Serial32,
    /// What the initiator was told last: whether its window is closed.
    told_closed: bool,
}

/// Where a command's number lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is the next.
    Now,
    /// In the window, but others are missing before it.
    Later,
    /// Outside of the window: ignored without a word.
    Outside,
}

impl Numbers {
    /// The leading login's CmdSN is the first that is expected (section 11.12.8).
    pub(super) fn new(depth: u32, first: Serial32) -> Self {
        Self {
            exp_cmd_sn: first,
            depth: depth.max(1),
            open: 0,
            kept: 0,
            promised: first.previous(),
            told_closed: false,
        }
    }

    pub(super) fn max_cmd_sn(&self) -> Serial32 {
        let taken = self.open + self.kept.saturating_sub(self.depth);
        let now = self.exp_cmd_sn.plus(self.depth.saturating_sub(taken)).previous();
        if self.kept > self.depth { now.latest(self.promised) } else { now }
    }

    /// MaxCmdSN, for a PDU that is about to be sent.
    pub(super) fn announce(&mut self) -> Serial32 {
        let max = self.max_cmd_sn();
        self.promised = max;
        self.told_closed = max == self.exp_cmd_sn.previous();
        max
    }

    /// Whether the initiator holds its window for closed and no answer that is due says otherwise (section 11.4.11).
    pub(super) fn must_announce(&self) -> bool {
        self.told_closed && self.max_cmd_sn() != self.exp_cmd_sn.previous()
    }

    pub(super) fn turn(&self, cmd_sn: Serial32) -> Turn {
        let max = self.max_cmd_sn();
        if max == self.exp_cmd_sn.previous() {
            return Turn::Outside;
        }
        if cmd_sn == self.exp_cmd_sn {
            Turn::Now
        } else if self.exp_cmd_sn.is_before(cmd_sn) && cmd_sn.is_at_or_before(max) {
            Turn::Later
        } else {
            Turn::Outside
        }
    }

    /// The next command was taken.
    pub(super) fn advance(&mut self) {
        self.exp_cmd_sn = self.exp_cmd_sn.next();
    }

    /// A numbered command will be answered later.
    pub(super) fn opened(&mut self) {
        self.open += 1;
    }

    /// A numbered command was answered, or will never be.
    pub(super) fn closed(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// The answer to a numbered command is kept until it is acknowledged.
    pub(super) fn keep(&mut self) {
        self.kept += 1;
    }

    /// Whether so many answers are kept that the next ones take room in the window.
    pub(super) fn lacks_acknowledgments(&self) -> bool {
        self.kept >= self.depth
    }

    /// So many kept answers are gone.
    pub(super) fn let_go(&mut self, count: u32) {
        self.kept = self.kept.saturating_sub(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_closes_and_opens_and_never_goes_back() {
        let mut numbers = Numbers::new(2, Serial32(u32::MAX));
        assert_eq!(numbers.announce(), Serial32(0));
        assert_eq!(numbers.turn(Serial32(u32::MAX)), Turn::Now);
        assert_eq!(numbers.turn(Serial32(0)), Turn::Later);
        assert_eq!(numbers.turn(Serial32(1)), Turn::Outside);
        assert_eq!(numbers.turn(Serial32(u32::MAX - 1)), Turn::Outside);
        for _ in 0..2 {
            numbers.advance();
            numbers.opened();
            assert_eq!(numbers.max_cmd_sn(), Serial32(0));
        }
        assert_eq!(numbers.announce(), numbers.exp_cmd_sn.previous());
        assert_eq!(numbers.turn(Serial32(1)), Turn::Outside);
        assert!(!numbers.must_announce());
        numbers.closed();
        assert!(numbers.must_announce());
        assert_eq!(numbers.announce(), Serial32(1));
        assert!(!numbers.must_announce());
    }

    /// An initiator that acknowledges nothing gets no further than twice the depth.
    #[test]
    fn answers_that_nobody_acknowledges_close_the_window() {
        let mut numbers = Numbers::new(4, Serial32(0));
        let (mut taken, mut max) = (0, numbers.announce());
        while numbers.turn(numbers.exp_cmd_sn) == Turn::Now {
            numbers.advance();
            numbers.opened();
            numbers.closed();
            numbers.keep();
            taken += 1;
            assert!(max.is_at_or_before(numbers.announce()), "MaxCmdSN never goes back");
            max = numbers.announce();
            assert!(taken <= 8);
        }
        assert_eq!(taken, 8);
        numbers.let_go(3);
        assert!(numbers.must_announce());
        assert_eq!(numbers.turn(numbers.exp_cmd_sn), Turn::Now);
    }
}
