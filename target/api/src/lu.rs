//! Logical units.

use serde::{Deserialize, Serialize};

use crate::ByteSize;

/// How a LU is laid over its disks. Spelled as users write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RaidLevel {
    /// Striped, no redundancy.
    #[serde(rename = "0")]
    Raid0,
    /// The same on every member.
    #[serde(rename = "1")]
    Raid1,
    /// Striped over pairs.
    #[serde(rename = "10")]
    Raid10,
    /// Byte-wise parity on one disk.
    #[serde(rename = "3")]
    Raid3,
    /// Rotating parity.
    #[serde(rename = "5")]
    Raid5,
    /// Two parities.
    #[serde(rename = "6")]
    Raid6,
}

impl RaidLevel {
    /// The level's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raid0 => "0",
            Self::Raid1 => "1",
            Self::Raid10 => "10",
            Self::Raid3 => "3",
            Self::Raid5 => "5",
            Self::Raid6 => "6",
        }
    }
}

impl std::str::FromStr for RaidLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "0" => Ok(Self::Raid0),
            "1" => Ok(Self::Raid1),
            "10" | "1/0" => Ok(Self::Raid10),
            "3" => Ok(Self::Raid3),
            "5" => Ok(Self::Raid5),
            "6" => Ok(Self::Raid6),
            other => Err(format!("{other:?} is not a RAID level: 0, 1, 10, 3, 5 or 6")),
        }
    }
}

/// `POST /v1/lus`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateLu {
    /// Name, unique in the unit.
    pub name: String,
    /// Size in bytes; rounded up to the allocation unit of the array.
    pub size: ByteSize,
    /// RAID level.
    pub raid: RaidLevel,
    /// Slots of the disks to lie on; chosen by the array when empty.
    #[serde(default)]
    pub disks: Vec<String>,
    /// 512 or 4096.
    #[serde(default = "default_block_size")]
    pub block_size: u32,
    /// Bytes of a physical block as hosts shall see it: a power of two from the logical block size to 64 KiB; the logical block size when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub physical_block_size: Option<u32>,
    /// Space is given up by UNMAP.
    #[serde(default)]
    pub thin: bool,
    /// The medium is removable: hosts can eject and load it, and prevent that.
    #[serde(default)]
    pub removable: bool,
    /// Hosts cannot write.
    #[serde(default)]
    pub read_only: bool,
    /// Write cache (WCE): with it GOOD means that every image has the data, without it that it is stable there.
    #[serde(default = "default_write_cache")]
    pub write_cache: bool,
}

const fn default_block_size() -> u32 {
    512
}

const fn default_write_cache() -> bool {
    true
}

/// A LU as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LuView {
    /// Name.
    pub name: String,
    /// Its identity for life, RFC 4122 text.
    pub uuid: String,
    /// NAA identifier that hosts see, hexadecimal.
    pub naa: String,
    /// Size in bytes.
    pub size: u64,
    /// Logical block size.
    pub block_size: u32,
    /// RAID level.
    pub raid: RaidLevel,
    /// Slots of its disks.
    pub disks: Vec<String>,
    /// `optimal`, `degraded`, `rebuilding` or `failed`.
    pub state: String,
    /// Share of a running rebuild that is done, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebuild_progress: Option<f64>,
    /// Physical block size that hosts see.
    pub physical_block_size: u32,
    /// Thin provisioning.
    pub thin: bool,
    /// Removable medium.
    pub removable: bool,
    /// Write protected.
    pub read_only: bool,
    /// Write cache.
    pub write_cache: bool,
    /// Mirror whose image it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
    /// `active` or `unavailable`: whether hosts are served here.
    pub access: String,
}
