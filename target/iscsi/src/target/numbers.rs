//! StatSN, ExpCmdSN and MaxCmdSN (RFC 7143 sections 4.2.2.1 and 4.2.2.2).

use crate::pdu::Serial32;

/// The numbers of a session with one connection.
///
/// `MaxCmdSN = ExpCmdSN + (depth − open) − 1`, where `open` counts numbered commands without an answer. It never goes back: a command
/// that arrives moves ExpCmdSN and `open` together, an answer lowers `open`.
#[derive(Debug)]
pub(super) struct Numbers {
    pub(super) stat_sn: Serial32,
    pub(super) exp_cmd_sn: Serial32,
    depth: u32,
    open: u32,
    started: bool,
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
    pub(super) fn new(depth: u32) -> Self {
        Self {
            stat_sn: Serial32(1),
            exp_cmd_sn: Serial32(0),
            depth: depth.max(1),
            open: 0,
            started: false,
            told_closed: false,
        }
    }

    /// The leading login's CmdSN is the first that is expected (section 11.12.8).
    pub(super) fn start(&mut self, cmd_sn: Serial32) {
        self.exp_cmd_sn = cmd_sn;
        self.started = true;
    }

    pub(super) fn started(&self) -> bool {
        self.started
    }

    pub(super) fn max_cmd_sn(&self) -> Serial32 {
        self.exp_cmd_sn.plus(self.depth - self.open).previous()
    }

    /// MaxCmdSN, for a PDU that is about to be sent.
    pub(super) fn announce(&mut self) -> Serial32 {
        self.told_closed = self.open == self.depth;
        self.max_cmd_sn()
    }

    /// Whether the initiator holds its window for closed and no answer that is due says otherwise (section 11.4.11).
    pub(super) fn must_announce(&self) -> bool {
        self.told_closed && self.open < self.depth
    }

    pub(super) fn turn(&self, cmd_sn: Serial32) -> Turn {
        if self.open == self.depth {
            return Turn::Outside;
        }
        if cmd_sn == self.exp_cmd_sn {
            Turn::Now
        } else if self.exp_cmd_sn.is_before(cmd_sn) && cmd_sn.is_at_or_before(self.max_cmd_sn()) {
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

    /// A response with a StatSN was made.
    pub(super) fn used_status(&mut self) {
        self.stat_sn = self.stat_sn.next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_closes_and_opens_and_never_goes_back() {
        let mut numbers = Numbers::new(2);
        numbers.start(Serial32(u32::MAX));
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
}
