//! Group commit, as a value: who waits for which write, and what it came to.
//!
//! Several flows change something in RAM; one job writes it out. A flow may go on only once a write that *started
//! after* its change has ended. Seeing the change in RAM is not enough: the write that carries it may be under way.

use twinlun_block::MetaError;

/// Numbers of writes: asked for, under way, done, failed.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    started: u64,
    wanted: u64,
    done: u64,
    failed: Option<(u64, MetaError)>,
    running: bool,
}

impl Commits {
    /// A change was made: the number of the first write that will carry it.
    pub(crate) fn want(&mut self) -> u64 {
        self.wanted = self.started + 1;
        self.wanted
    }

    /// Number of the last write that somebody wants.
    pub(crate) fn last_wanted(&self) -> u64 {
        self.wanted
    }

    /// Takes the part of the writing job; false when somebody has it, who will see what is wanted.
    pub(crate) fn take_over(&mut self) -> bool {
        !std::mem::replace(&mut self.running, true)
    }

    /// The writing job ends, unless more is wanted.
    pub(crate) fn hand_back(&mut self) -> bool {
        self.running = self.wanted > self.started;
        !self.running
    }

    /// The writing job ends, whatever is wanted.
    pub(crate) fn stop(&mut self) {
        self.running = false;
    }

    /// Whether somebody writes.
    pub(crate) fn is_running(&self) -> bool {
        self.running
    }

    /// A write starts; it carries all changes made so far.
    pub(crate) fn start(&mut self) -> u64 {
        self.started += 1;
        self.started
    }

    /// The write that was started last ended.
    pub(crate) fn end(&mut self, result: Result<(), MetaError>) {
        match result {
            Ok(()) => self.done = self.started,
            Err(error) => self.failed = Some((self.started, error)),
        }
    }

    /// What became of the change that wanted write `number`; `None` while it is not known.
    pub(crate) fn outcome(&self, number: u64) -> Option<Result<(), MetaError>> {
        if self.done >= number {
            return Some(Ok(()));
        }
        match &self.failed {
            Some((last, error)) if *last >= number => Some(Err(error.clone())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_during_a_write_waits_for_the_next_one() {
        let mut commits = Commits::default();
        let first = commits.want();
        assert!(commits.take_over());
        commits.start();
        let second = commits.want();
        assert!(!commits.take_over(), "one job writes");
        commits.end(Ok(()));
        assert_eq!(commits.outcome(first), Some(Ok(())));
        assert_eq!(commits.outcome(second), None, "its bits were not in the first write");
        assert!(!commits.hand_back(), "more is wanted");
        commits.start();
        commits.end(Err(MetaError::NoMajority { good: 1, copies: 3 }));
        assert!(matches!(commits.outcome(second), Some(Err(_))));
        assert!(commits.hand_back());
    }

    #[test]
    fn a_later_write_makes_good_for_a_failed_one() {
        let mut commits = Commits::default();
        let first = commits.want();
        commits.start();
        commits.end(Err(MetaError::NoMajority { good: 0, copies: 3 }));
        commits.want();
        commits.start();
        commits.end(Ok(()));
        assert_eq!(commits.outcome(first), Some(Ok(())));
    }
}
