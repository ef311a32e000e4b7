//! Planted bugs: mistakes that the crash tests must find, one by one, to show that they see.
//!
//! Without the feature `planted-bugs` every check is the constant `false` and compiles to nothing.

/// Mistakes that can be planted in this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "planted-bugs"), expect(unreachable_pub, reason = "exported with the feature only"))]
pub enum Bug {
    /// A write reaches its copies while its intent is only in memory (invariant 1 of the write intent).
    DataBeforeIntent,
    /// Intent is cleared although the copies did not flush (invariant 2 of the write intent).
    ClearIntentWithoutFlush,
    /// What a crash left marked is not made equal before it is read.
    IgnoreIntentAtStart,
    /// Overlapping writes do not take turns on their copies (R-WR-3).
    WriteWithoutTurn,
    /// A discard is answered at once and carried out later, behind writes that came after it.
    DiscardLate,
    /// A flush leaves out disks that are being rebuilt.
    FlushSkipsRebuilding,
    /// A record stores how far a rebuild is in memory, not how far it is stable.
    StoreProgressFromMemory,
    /// A rebuild's checkpoint is stored without flushing the disk first.
    CheckpointWithoutFlush,
    /// A rebuild leaves out a piece while hosts are at work.
    RebuildSkipsBusy,
    /// A degraded LU is read from the copy that is being rebuilt, too.
    ReadFromRebuilding,
    /// A write is answered before the vault says that one of the disks missed it.
    LossNotRecorded,
    /// A disk that the unit went on without is taken back as it is.
    StaleDiskBelieved,
    /// Half of the vault copies are enough to believe in them.
    HalfIsQuorum,
    /// The newest image is overwritten in place.
    ImageInPlace,
    /// A page of a log is overwritten in place.
    PageInPlace,
    /// The checksum of a log page is not looked at.
    TornPageAccepted,
    /// The checksum of a disk label is not looked at.
    TornLabelAccepted,
    /// What a killed life has written is believed without having been made stable.
    BelieveTheCache,
}

#[cfg(feature = "planted-bugs")]
impl Bug {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::DataBeforeIntent,
        Self::ClearIntentWithoutFlush,
        Self::IgnoreIntentAtStart,
        Self::WriteWithoutTurn,
        Self::DiscardLate,
        Self::FlushSkipsRebuilding,
        Self::StoreProgressFromMemory,
        Self::CheckpointWithoutFlush,
        Self::RebuildSkipsBusy,
        Self::ReadFromRebuilding,
        Self::LossNotRecorded,
        Self::StaleDiskBelieved,
        Self::HalfIsQuorum,
        Self::ImageInPlace,
        Self::PageInPlace,
        Self::TornPageAccepted,
        Self::TornLabelAccepted,
        Self::BelieveTheCache,
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
