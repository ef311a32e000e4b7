//! Who may resynchronise whom (B-1): one total function over what both sides know. Everything that brings an image
//! into service goes through it, and nothing else may.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::state::Relation;

/// A stretch of history with one writer (I4). A new one begins with every promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Generation {
    /// Counts up along one line of history.
    pub(crate) number: u64,
    /// Drawn at random: two lines that count alike are told apart.
    pub(crate) id: Uuid,
}

/// The primary's side.
#[derive(Clone, Debug)]
pub(crate) struct PrimarySide<'a> {
    /// Generation in which it writes.
    pub(crate) generation: Generation,
    /// Generations that led to it, newest first.
    pub(crate) ancestors: &'a [Generation],
    /// What its database says of the secondary.
    pub(crate) relation: Relation,
    /// Whether the logs name anything that the secondary may miss.
    pub(crate) marked: bool,
    /// Number of its configuration.
    pub(crate) configuration: u64,
}

/// What the other unit is for the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// It has no image of this mirror.
    None,
    /// It has a secondary image.
    Secondary,
    /// It takes itself for the primary.
    Primary,
}

/// The secondary's side, as it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SecondarySide {
    /// What it is for the mirror.
    pub(crate) role: Role,
    /// Generation that its data follows; `None` when it holds nothing of the mirror.
    pub(crate) generation: Option<Generation>,
    /// Whether its data is a consistent point, not half of a copy.
    pub(crate) consistent: bool,
    /// Number of its configuration.
    pub(crate) configuration: u64,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nothing is missing: forward writes.
    InStep,
    /// Copy what the logs name.
    LogDriven,
    /// Copy everything.
    Full,
    /// Neither; the administrator decides.
    Refuse(Refusal),
}

/// Why images must not be brought together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The other unit has no image of the mirror.
    NotAMember,
    /// Both take themselves for the primary of one generation.
    TwoPrimaries,
    /// The other side was promoted after us.
    Superseded,
    /// A former primary that has not been made a secondary yet.
    FormerPrimary,
    /// The other side knows a newer configuration (I9).
    NewerConfiguration,
    /// Its data belongs to a history that is not ours.
    ForeignHistory,
}

impl Refusal {
    /// The reason in words.
    pub(crate) const fn why(self) -> &'static str {
        match self {
            Self::NotAMember => "that unit has no image of this mirror",
            Self::TwoPrimaries => "both units take themselves for the primary (split brain)",
            Self::Superseded => "that unit was promoted after this one wrote last",
            Self::FormerPrimary => "that unit was the primary before and has not become a secondary",
            Self::NewerConfiguration => "that unit knows a newer configuration of the mirror than this one",
            Self::ForeignHistory => "its data belongs to another history than that of the primary",
        }
    }
}

/// Decides. Bits are cleared by no outcome: `InStep` is possible only where no bit is set.
pub(crate) fn decide(primary: &PrimarySide<'_>, secondary: &SecondarySide) -> Decision {
    let ours = primary.generation;
    if secondary.generation.is_some_and(|theirs| theirs.number > ours.number) {
        return Decision::Refuse(Refusal::Superseded);
    }
    match secondary.role {
        Role::None => return Decision::Refuse(Refusal::NotAMember),
        Role::Primary if secondary.generation.is_none_or(|theirs| theirs.number == ours.number) => {
            return Decision::Refuse(Refusal::TwoPrimaries);
        }
        Role::Primary => return Decision::Refuse(Refusal::FormerPrimary),
        Role::Secondary => {}
    }
    if secondary.configuration > primary.configuration {
        return Decision::Refuse(Refusal::NewerConfiguration);
    }
    let Some(theirs) = secondary.generation else { return Decision::Full };
    if theirs == ours {
        return match primary.relation {
            Relation::Unrelated => Decision::Full,
            Relation::InStep | Relation::Behind if secondary.consistent && !primary.marked => {
                Decision::InStep
            }
            Relation::InStep | Relation::Behind | Relation::Copying { .. } => Decision::LogDriven,
        };
    }
    if primary.ancestors.contains(&theirs) {
        // Its last generation is known to us, but our logs began with ours: they may not name all that it misses.
        return Decision::Full;
    }
    Decision::Refuse(Refusal::ForeignHistory)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn generation(number: u64, id: u128) -> Generation {
        Generation { number, id: Uuid::from_u128(id) }
    }

    const RELATIONS: [Relation; 5] = [
        Relation::Unrelated,
        Relation::Behind,
        Relation::Copying { full: false },
        Relation::Copying { full: true },
        Relation::InStep,
    ];

    /// Every combination of roles, generations, relations, marks and configurations: 3 × 6 × 5 × 2 × 2 × 3 = 1080.
    #[test]
    fn every_case() {
        let ours = generation(5, 50);
        let ancestors = [generation(4, 40), generation(3, 30)];
        let theirs = [
            None,
            Some(ours),
            Some(ancestors[0]),
            Some(generation(4, 99)),
            Some(generation(5, 99)),
            Some(generation(6, 60)),
        ];
        let mut cases = 0;
        for role in [Role::None, Role::Secondary, Role::Primary] {
            for generation in theirs {
                for relation in RELATIONS {
                    for (marked, consistent) in [(false, false), (false, true), (true, false), (true, true)] {
                        for configuration in [6, 7, 8] {
                            let primary = PrimarySide {
                                generation: ours,
                                ancestors: &ancestors,
                                relation,
                                marked,
                                configuration: 7,
                            };
                            let secondary = SecondarySide { role, generation, consistent, configuration };
                            check(&primary, &secondary, decide(&primary, &secondary));
                            cases += 1;
                        }
                    }
                }
            }
        }
        assert_eq!(cases, 1080);
    }

    fn check(primary: &PrimarySide<'_>, secondary: &SecondarySide, decision: Decision) {
        let case = format!("{primary:?} {secondary:?} {decision:?}");
        let same = secondary.generation == Some(primary.generation);
        let foreign =
            secondary.generation.is_some_and(|g| g != primary.generation && !primary.ancestors.contains(&g));
        if secondary.role != Role::Secondary || secondary.configuration > primary.configuration || foreign {
            assert!(matches!(decision, Decision::Refuse(_)), "{case}");
            return;
        }
        assert!(!matches!(decision, Decision::Refuse(_)), "nothing keeps them apart: {case}");
        // No bit is dropped: whoever is put in step without a copy has none, is whole, and was in step before.
        if decision == Decision::InStep {
            assert!(same && !primary.marked && secondary.consistent, "{case}");
            assert!(matches!(primary.relation, Relation::InStep | Relation::Behind), "{case}");
        }
        // The logs are believed only for data of the generation in which they were kept.
        if decision == Decision::LogDriven {
            assert!(same && primary.relation != Relation::Unrelated, "{case}");
        }
        // And they are used wherever they can be: a full copy of what the logs cover is a fault as well (R-FL-3).
        if decision == Decision::Full {
            assert!(!same || primary.relation == Relation::Unrelated, "{case}");
        }
    }

    #[test]
    fn a_newer_generation_is_never_overwritten() {
        for role in [Role::None, Role::Secondary, Role::Primary] {
            let primary = PrimarySide {
                generation: generation(5, 50),
                ancestors: &[],
                relation: Relation::InStep,
                marked: false,
                configuration: 7,
            };
            let secondary = SecondarySide {
                role,
                generation: Some(generation(6, 60)),
                consistent: true,
                configuration: 1,
            };
            assert_eq!(decide(&primary, &secondary), Decision::Refuse(Refusal::Superseded));
        }
    }
}
