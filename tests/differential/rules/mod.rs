//! The table of differences that are known: what they are, who is right, and by which clause. A difference without a rule fails the test.

mod lio;
mod tgt;

use crate::compare::{Aspect, Difference};

/// Whom we are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Tgt,
    Lio,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tgt => "tgt",
            Self::Lio => "LIO",
        }
    }

    pub(crate) fn rules(self) -> &'static [Rule] {
        match self {
            Self::Tgt => tgt::RULES,
            Self::Lio => lio::RULES,
        }
    }
}

/// Who is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The other target does not do what the clause demands.
    TheirsWrong,
    /// The standard leaves it to the target, or the other has not got the feature.
    Freedom,
}

impl Verdict {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::TheirsWrong => "ours",
            Self::Freedom => "both",
        }
    }
}

/// A known difference. All words are patterns: `|` separates alternatives, `*` stands for anything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub(crate) id: &'static str,
    pub(crate) commands: &'static str,
    pub(crate) odd: &'static str,
    pub(crate) aspect: Aspect,
    pub(crate) ours: &'static str,
    pub(crate) theirs: &'static str,
    pub(crate) verdict: Verdict,
    /// Where it stands.
    pub(crate) clause: &'static str,
    pub(crate) why: &'static str,
}

impl Rule {
    pub(crate) fn explains(&self, difference: &Difference) -> bool {
        self.aspect == difference.aspect
            && matches(self.commands, &difference.command)
            && matches(self.odd, &difference.odd)
            && matches(self.ours, &difference.ours)
            && matches(self.theirs, &difference.theirs)
    }
}

/// Whether one of the alternatives of a pattern fits.
fn matches(pattern: &str, text: &str) -> bool {
    pattern.split('|').any(|pattern| fits(pattern, text))
}

fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| fits(after, &rest[at..]))
        }),
    }
}
