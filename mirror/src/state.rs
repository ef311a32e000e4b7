//! States of mirrors and images, as tables (R-MS, R-IS). `docs/design/mirror.md` shows them drawn.

use serde::{Deserialize, Serialize};

use crate::Attributes;

/// State of a mirror (R-MS-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum MirrorState {
    /// Hosts may neither read nor write, by the administrator's word.
    Inactive,
    /// Hosts may read and write.
    Active,
    /// A condition fails; hosts are told to try again.
    Attention,
}

/// What moves a mirror from state to state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MirrorChange {
    /// The administrator activates it; whether the conditions for activation hold.
    Activate(bool),
    /// The administrator deactivates it.
    Deactivate,
    /// A condition for staying active fails.
    ConditionsFail,
    /// The conditions for activation hold, and the activation policy is automatic.
    ConditionsHold,
}

impl MirrorState {
    /// The state after a change (R-MS-2).
    pub(crate) const fn after(self, change: MirrorChange) -> Self {
        match (self, change) {
            (_, MirrorChange::Activate(true)) => Self::Active,
            (Self::Active, MirrorChange::Activate(false)) => Self::Active,
            (Self::Inactive | Self::Attention, MirrorChange::Activate(false)) => Self::Attention,
            (_, MirrorChange::Deactivate) => Self::Inactive,
            (Self::Active, MirrorChange::ConditionsFail) => Self::Attention,
            (Self::Attention, MirrorChange::ConditionsHold) => Self::Active,
            (state, MirrorChange::ConditionsFail | MirrorChange::ConditionsHold) => state,
        }
    }

    /// As it is shown.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Inactive => "INACTIVE",
            Self::Active => "ACTIVE",
            Self::Attention => "ATTENTION",
        }
    }
}

/// Whether a mirror may be activated and may stay active (R-MS-3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conditions {
    /// Which condition for staying active fails.
    pub(crate) stay: Result<(), String>,
    /// Which condition for activation fails.
    pub(crate) activate: Result<(), String>,
}

/// Looks at the conditions: `present` of `secondaries` secondary images can be reached and are not fractured.
pub(crate) fn conditions(attributes: &Attributes, secondaries: usize, present: usize) -> Conditions {
    let missing = secondaries.saturating_sub(present) as i64;
    let stay = match attributes.maximum_missing_images {
        most if most >= 0 && missing > most => {
            Err(format!("{missing} images are missing, maximum_missing_images is {most}"))
        }
        _ => Ok(()),
    };
    let images = present as i64 + 1;
    let activate = match attributes.minimum_images_required {
        least if least >= 0 && images < least => {
            Err(format!("{images} images are there, minimum_images_required is {least}"))
        }
        _ => stay.clone(),
    };
    Conditions { stay, activate }
}

/// State of a secondary image (R-IS-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum ImageState {
    /// No known relation to the primary.
    Unsynchronized,
    /// Byte for byte equal, on stable storage, no write outstanding.
    Synchronized,
    /// Every acknowledged write up to some point, and any of those not yet acknowledged then.
    Consistent,
    /// Being updated other than by host writes, or half updated.
    Synchronizing,
}

impl ImageState {
    /// As it is shown.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Unsynchronized => "UNSYNCHRONIZED",
            Self::Synchronized => "SYNCHRONIZED",
            Self::Consistent => "CONSISTENT",
            Self::Synchronizing => "SYNCHRONIZING",
        }
    }
}

/// What the mirror database knows durably of a secondary. SYNCHRONIZED against CONSISTENT is no part of it: that
/// changes with every write and costs no I/O (R-IS-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Relation {
    /// None known: only a full copy helps.
    Unrelated,
    /// It was in step once; the logs name all that it misses.
    Behind,
    /// A copy runs or was interrupted; the logs name what is left.
    Copying {
        /// Whether there never was a consistent point to fall back to.
        full: bool,
    },
    /// It receives every write; differences are in the intent log only.
    InStep,
}

/// What changes a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelationChange {
    /// The administrator vouches that the image is equal; the log records from now on.
    Vouched,
    /// A copy starts or goes on.
    CopyStarts,
    /// Nothing is left to copy.
    CaughtUp,
    /// It misses writes from now on.
    Lost,
    /// The fracture log is gone or cannot be trusted.
    LogsLost,
}

impl Relation {
    /// The relation after a change; `None` where a change cannot happen.
    pub(crate) const fn after(self, change: RelationChange) -> Option<Self> {
        use RelationChange as C;
        Some(match (self, change) {
            (Self::Unrelated, C::Vouched) => Self::Behind,
            (Self::Unrelated, C::CopyStarts) => Self::Copying { full: true },
            (Self::Unrelated, C::Lost) => Self::Unrelated,
            (Self::Behind, C::CopyStarts) => Self::Copying { full: false },
            (Self::Behind, C::CaughtUp) => Self::InStep,
            (Self::Behind, C::Lost) => Self::Behind,
            (Self::Copying { full }, C::CopyStarts | C::Lost) => Self::Copying { full },
            (Self::Copying { .. }, C::CaughtUp) => Self::InStep,
            (Self::InStep, C::CaughtUp) => Self::InStep,
            (Self::InStep, C::Lost) => Self::Behind,
            (_, C::LogsLost) => Self::Unrelated,
            (Self::Unrelated, C::CaughtUp) => return None,
            (Self::Behind | Self::Copying { .. } | Self::InStep, C::Vouched) => return None,
            (Self::InStep, C::CopyStarts) => return None,
        })
    }

    /// The state shown; `quiet` when nothing is outstanding and everything is on stable storage.
    pub(crate) const fn state(self, quiet: bool) -> ImageState {
        match self {
            Self::Unrelated => ImageState::Unsynchronized,
            Self::Behind => ImageState::Consistent,
            Self::Copying { .. } => ImageState::Synchronizing,
            Self::InStep if quiet => ImageState::Synchronized,
            Self::InStep => ImageState::Consistent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIRROR: [MirrorState; 3] = [MirrorState::Inactive, MirrorState::Active, MirrorState::Attention];

    #[test]
    fn mirror_states_follow_the_requirement() {
        use MirrorChange::{Activate, ConditionsFail, ConditionsHold, Deactivate};
        use MirrorState::{Active, Attention, Inactive};
        // Rows: from; columns: Activate(true), Activate(false), Deactivate, ConditionsFail, ConditionsHold.
        let table = [
            (Inactive, [Active, Attention, Inactive, Inactive, Inactive]),
            (Active, [Active, Active, Inactive, Attention, Active]),
            (Attention, [Active, Attention, Inactive, Attention, Active]),
        ];
        for (from, row) in table {
            let changes = [Activate(true), Activate(false), Deactivate, ConditionsFail, ConditionsHold];
            for (change, to) in changes.into_iter().zip(row) {
                assert_eq!(from.after(change), to, "{from:?} {change:?}");
            }
        }
    }

    #[test]
    fn inactive_is_entered_and_left_only_by_the_administrator() {
        for from in MIRROR {
            for change in [MirrorChange::ConditionsFail, MirrorChange::ConditionsHold] {
                let to = from.after(change);
                assert_eq!(from == MirrorState::Inactive, to == MirrorState::Inactive);
            }
        }
    }

    #[test]
    fn conditions_count_the_primary() {
        let mut attributes = Attributes::default();
        assert!(conditions(&attributes, 2, 0).activate.is_ok(), "both are off by default");
        attributes.maximum_missing_images = 0;
        assert!(conditions(&attributes, 2, 1).stay.is_err());
        assert!(conditions(&attributes, 2, 2).stay.is_ok());
        assert!(conditions(&attributes, 0, 0).stay.is_ok());
        attributes.maximum_missing_images = 1;
        attributes.minimum_images_required = 3;
        let seen = conditions(&attributes, 2, 1);
        assert!(
            seen.stay.is_ok() && seen.activate.is_err(),
            "minimum_images_required is for activation only"
        );
    }

    const RELATIONS: [Relation; 5] = [
        Relation::Unrelated,
        Relation::Behind,
        Relation::Copying { full: false },
        Relation::Copying { full: true },
        Relation::InStep,
    ];

    /// R-IS-2, line by line: which state may follow which.
    #[test]
    fn image_states_follow_the_requirement() {
        use ImageState::{Consistent, Synchronized, Synchronizing, Unsynchronized};
        use RelationChange as C;
        for from in RELATIONS {
            for change in [C::Vouched, C::CopyStarts, C::CaughtUp, C::Lost, C::LogsLost] {
                let Some(to) = from.after(change) else { continue };
                for quiet in [false, true] {
                    let step = (from.state(quiet), to.state(false));
                    let allowed = match change {
                        C::Vouched => step == (Unsynchronized, Consistent),
                        C::CopyStarts => {
                            matches!(step.0, Unsynchronized | Consistent | Synchronizing)
                                && step.1 == Synchronizing
                        }
                        C::CaughtUp => step.0 != Unsynchronized && step.1 == Consistent,
                        // R-IS-4: CONSISTENT stays so; progress of a copy is kept; nothing gets better by failing.
                        C::Lost => step == (Synchronized, Consistent) || step.0 == step.1,
                        C::LogsLost => step.1 == Unsynchronized,
                    };
                    assert!(allowed, "{from:?} {change:?} {step:?}");
                }
            }
        }
    }

    #[test]
    fn only_what_caught_up_is_in_step() {
        for from in RELATIONS {
            for change in [
                RelationChange::Vouched,
                RelationChange::CopyStarts,
                RelationChange::Lost,
                RelationChange::LogsLost,
            ] {
                assert_ne!(from.after(change), Some(Relation::InStep), "{from:?} {change:?}");
            }
        }
    }
}
