//! Planted bugs: mistakes that the simulator must find, one by one, to show that it sees.
//!
//! Without the feature `planted-bugs` every check is the constant `false` and compiles to nothing.

/// Mistakes that can be planted in this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "planted-bugs"), expect(unreachable_pub, reason = "exported with the feature only"))]
pub enum Bug {
    /// A write goes on while its intent is only in RAM (R-WIL-2).
    AckBeforeIntent,
    /// Intent is dropped although the secondary did not flush (R-WIL-3).
    ClearIntentWithoutFlush,
    /// A copied region is taken for clean when it is sent, not when it is acknowledged (I3).
    ClearDirtyOnSend,
    /// A lost secondary keeps what it acknowledged but may not have flushed (I2).
    ForgetUnflushed,
    /// A write to a half-copied range is left to the copy, and nobody marks the half that was copied (R-SY-2).
    ForwardHalf,
    /// Only the LU whose write failed stops; the others of the set go on (B-2).
    FractureOneLu,
    /// The host is answered before the fracture is on record (I1, R-FL-2).
    SkipFractureRecord,
    /// The secondary carries out writes of an attachment that is over (I4).
    AllowStaleEpoch,
    /// A write gives up its turn before its legs are done (R-WR-3).
    DropTurnEarly,
    /// A copy ends without looking whether everything was copied.
    FinishWithoutCheck,
    /// Intent is dropped before the fracture pages that take over are stored (R-FL-6).
    DropIntentBeforeFracturePages,
    /// A restart trusts a secondary that was in step, whatever the intent log says (R-WIL-4).
    IgnoreIntentAtStart,
}

#[cfg(feature = "planted-bugs")]
impl Bug {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::AckBeforeIntent,
        Self::ClearIntentWithoutFlush,
        Self::ClearDirtyOnSend,
        Self::ForgetUnflushed,
        Self::ForwardHalf,
        Self::FractureOneLu,
        Self::SkipFractureRecord,
        Self::AllowStaleEpoch,
        Self::DropTurnEarly,
        Self::FinishWithoutCheck,
        Self::DropIntentBeforeFracturePages,
        Self::IgnoreIntentAtStart,
    ];
}

#[cfg(feature = "planted-bugs")]
mod selected {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static SELECTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants one bug in this thread, or none.
    pub fn plant(bug: Option<Bug>) {
        SELECTED.set(bug);
    }

    pub(crate) fn planted(bug: Bug) -> bool {
        SELECTED.get() == Some(bug)
    }
}

#[cfg(feature = "planted-bugs")]
pub use selected::plant;
#[cfg(feature = "planted-bugs")]
pub(crate) use selected::planted;

#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub(crate) const fn planted(_bug: Bug) -> bool {
    false
}
