//! What the array is told and what it shows.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use twinlun_block::BlockSize;
use uuid::Uuid;

/// A disk as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// Absolute path of a file or block device, or `ram:NAME` or `null:NAME`.
    pub path: PathBuf,
    /// Size in bytes for a disk that has to be created. An existing one keeps its size.
    pub size: Option<u64>,
}

/// How the array behaves.
#[derive(Clone, Debug)]
pub struct ArrayOptions {
    /// Start with exactly half of the vault copies, declaring the rest lost. Without it a disk of a two-disk unit that
    /// comes back alone is not believed, because the other one may have gone on without it.
    pub accept_half: bool,
    /// A disk that leaves a request unanswered for so long is taken out of use, if nothing is lost with it; `None`: never.
    pub answer_limit: Option<Duration>,
    /// How long a region of a redundant LU stays marked after its last write.
    pub intent_idle: Duration,
    /// Pause between two pieces of a rebuild while hosts are served, as a multiple of the time the piece took.
    pub rebuild_yield: u32,
    /// Bytes between two durable checkpoints of a rebuild.
    pub rebuild_checkpoint: u64,
}

impl Default for ArrayOptions {
    fn default() -> Self {
        Self {
            accept_half: false,
            answer_limit: Some(Duration::from_secs(20)),
            intent_idle: Duration::from_secs(5),
            rebuild_yield: 1,
            rebuild_checkpoint: 64 << 20,
        }
    }
}

/// How the data of a LU is laid on its disks (R-ARR-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Raid {
    /// Striped, no redundancy. One disk is allowed.
    Raid0,
    /// Every disk holds everything.
    Raid1,
    /// Stripes over mirrored pairs.
    Raid10,
    /// Byte-parallel parity; not in this version.
    Raid3,
    /// Rotating parity; not in this version.
    Raid5,
    /// Rotating double parity; not in this version.
    Raid6,
}

impl Raid {
    /// The level as administrators write it: `0`, `1`, `10`, `3`, `5`, `6`.
    pub const fn level(self) -> &'static str {
        match self {
            Self::Raid0 => "0",
            Self::Raid1 => "1",
            Self::Raid10 => "10",
            Self::Raid3 => "3",
            Self::Raid5 => "5",
            Self::Raid6 => "6",
        }
    }

    /// The opposite of [`Raid::level`].
    pub fn from_level(level: &str) -> Option<Self> {
        [Self::Raid0, Self::Raid1, Self::Raid10, Self::Raid3, Self::Raid5, Self::Raid6]
            .into_iter()
            .find(|raid| raid.level() == level)
    }
}

/// A LU to be bound.
#[derive(Clone, Debug)]
pub struct LuSpec {
    /// Its name, unique in the unit: 1 to 64 printable characters.
    pub name: String,
    /// Size in bytes, a multiple of the block size.
    pub size: u64,
    /// RAID level.
    pub raid: Raid,
    /// Slots to use, in this order. Without it: RAID 0 takes one disk, RAID 1 two, RAID 1/0 all (an even number), those
    /// with most room first.
    pub disks: Option<Vec<u32>>,
    /// Logical block size.
    pub block_size: BlockSize,
    /// Bytes on one disk before the stripe goes on to the next; a power of two from 4 KiB to 16 MiB.
    pub chunk: u64,
    /// Whether UNMAP gives space back to the file that carries the disk. Extents stay reserved either way.
    pub thin: bool,
}

impl LuSpec {
    /// A LU with the usual attributes.
    pub fn new(name: impl Into<String>, size: u64, raid: Raid) -> Self {
        Self {
            name: name.into(),
            size,
            raid,
            disks: None,
            block_size: BlockSize::B512,
            chunk: 64 * 1024,
            thin: false,
        }
    }
}

/// State of a LU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LuState {
    /// Every copy is in step.
    Optimal,
    /// Served, with fewer copies than bound.
    Degraded,
    /// Degraded, and copies are being made.
    Rebuilding,
    /// Some data is on no disk that can be used.
    Failed,
}

/// One disk's part of a LU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Slot of the disk; `None` when the disk was replaced by none.
    pub slot: Option<u32>,
    /// Identity of the disk.
    pub disk: Uuid,
    /// Whether its data is in step.
    pub in_step: bool,
}

/// A bound LU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LuInfo {
    /// Identity for life.
    pub uuid: Uuid,
    /// Name.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// RAID level.
    pub raid: Raid,
    /// Logical block size.
    pub block_size: BlockSize,
    /// Stripe chunk in bytes.
    pub chunk: u64,
    /// Whether UNMAP gives space back.
    pub thin: bool,
    /// Disks, in order of the stripe; copies of the same chunk side by side.
    pub members: Vec<MemberInfo>,
    /// State.
    pub state: LuState,
    /// Bytes in regions whose copies may differ (marked by the write intent of the RAID group).
    pub dirty_bytes: u64,
}

/// State of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskState {
    /// In use.
    Online,
    /// In use, and data is being copied to it.
    Rebuilding,
    /// In the unit, waiting to take the place of a failed disk.
    Spare,
    /// Was in use and failed, or the administrator said so.
    Failed,
    /// Belongs to the unit and is not there.
    Missing,
    /// Belongs to the unit, but the unit went on without it; kept out.
    Stale,
    /// Does not belong to the unit; not touched.
    Foreign,
}

/// A disk and how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskStatus {
    /// Its slot; none for a disk that does not belong to the unit.
    pub slot: Option<u32>,
    /// Where it is, or was last seen.
    pub path: PathBuf,
    /// Its identity, when it has one.
    pub uuid: Option<Uuid>,
    /// Size in bytes, 0 when unknown.
    pub size: u64,
    /// Bytes not bound to any LU.
    pub free: u64,
    /// State.
    pub state: DiskState,
    /// Why it is in that state, with the remedy; empty for a healthy disk.
    pub reason: String,
    /// Errors since the start.
    pub errors: u64,
}

/// Something an administrator wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArrayEvent {
    /// A disk is no longer used.
    DiskFailed {
        /// Slot.
        slot: u32,
        /// Why.
        reason: String,
    },
    /// A disk does not answer, and is waited for all the same.
    DiskSilent {
        /// Slot.
        slot: u32,
        /// Why it is not taken out of use.
        kept: String,
    },
    /// A disk was not there, or out of date, at the start.
    DiskLeftOut {
        /// Path.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A disk came into the unit.
    DiskAdded {
        /// Slot.
        slot: u32,
    },
    /// A LU changed its state.
    LuState {
        /// LU.
        uuid: Uuid,
        /// New state.
        state: LuState,
    },
    /// A bad block was rewritten from another copy.
    Healed {
        /// LU.
        uuid: Uuid,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Regions left marked by a crash have been made equal again.
    Resynchronised {
        /// LU.
        uuid: Uuid,
        /// Bytes compared or copied.
        bytes: u64,
    },
    /// A LU has all its copies again.
    RebuildDone {
        /// LU.
        uuid: Uuid,
    },
    /// A rebuild cannot go on, because its source cannot be read or the record cannot be stored.
    RebuildStopped {
        /// LU.
        uuid: Uuid,
        /// Why.
        reason: String,
    },
}

/// How far a rebuild is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RebuildProgress {
    /// LU.
    pub lu: Uuid,
    /// Bytes copied, of one member.
    pub done: u64,
    /// Bytes to copy.
    pub total: u64,
}
