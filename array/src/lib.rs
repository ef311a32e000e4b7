//! Disks, vault, RAID groups and the LUs bound on them.
mod error;
mod skeleton;
mod types;

pub use error::ArrayError;
pub use skeleton::*;
pub use types::{
    ArrayEvent, ArrayOptions, DiskConfig, DiskState, DiskStatus, LuInfo, LuSpec, LuState, MemberInfo, Raid,
    RebuildProgress,
};
