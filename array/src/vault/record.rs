//! What the vault keeps about itself and the disks.

use std::collections::BTreeSet;
use std::path::PathBuf;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::image::{ImageId, Records};
use super::quorum::Seen;
use crate::ArrayError;

/// Key of the [`UnitRecord`]. Keys of the array's own records begin with a dot, those of layers above with `u/`.
pub(crate) const UNIT_KEY: &str = ".unit";
/// Prefix of [`LogRecord`] keys.
pub(crate) const LOG_PREFIX: &str = ".log/";
/// Most slots a unit may ever have given out.
pub(crate) const MAX_SLOTS: u32 = 256;

/// The unit and its disks; part of every image, and written only by the vault itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnitRecord {
    pub(crate) name: String,
    /// Set until all disks of a new unit have their labels: nothing on them is worth keeping.
    pub(crate) forming: bool,
    /// Set by an orderly shutdown, cleared before anything is served.
    pub(crate) clean: bool,
    pub(crate) next_log: u64,
    pub(crate) accepts: Vec<ImageId>,
    pub(crate) disks: Vec<DiskRecord>,
}

/// A disk of the unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskRecord {
    pub(crate) slot: u32,
    pub(crate) uuid: Uuid,
    pub(crate) generation: u64,
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    pub(crate) volatile: bool,
    pub(crate) spare: bool,
    /// Why it is out of use; `None` for a disk that keeps copies.
    pub(crate) out: Option<String>,
}

/// A page log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogRecord {
    /// Never used twice in a unit, so that leftovers of another log are not taken for pages of this one.
    pub(crate) id: u64,
    pub(crate) pages: u32,
    pub(crate) copies: Vec<CopyRecord>,
}

/// One copy of a page log: block pairs from `block` of the disk's page area.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CopyRecord {
    pub(crate) disk: Uuid,
    pub(crate) block: u64,
}

impl UnitRecord {
    /// The record in an image.
    pub(crate) fn read(records: &Records) -> Result<Self, ArrayError> {
        let record: Self = parse(UNIT_KEY, records.get(UNIT_KEY))?;
        let slots: BTreeSet<u32> = record.disks.iter().map(|disk| disk.slot).collect();
        let uuids: BTreeSet<Uuid> = record.disks.iter().map(|disk| disk.uuid).collect();
        let count = record.disks.len();
        if slots.len() != count || uuids.len() != count || slots.last().is_some_and(|slot| *slot >= MAX_SLOTS)
        {
            return Err(ArrayError::Damaged { key: UNIT_KEY.into(), what: "a slot or disk twice".into() });
        }
        Ok(record)
    }

    /// What matters for choosing among images.
    pub(crate) fn seen(&self, id: ImageId) -> Seen {
        let voters = self.disks.iter().filter(|disk| disk.out.is_none() && !disk.volatile);
        Seen {
            id,
            voters: voters.map(|disk| disk.uuid).collect(),
            accepts: self.accepts.iter().copied().collect(),
        }
    }
}

/// Reads a record of the array.
pub(crate) fn parse<T: DeserializeOwned>(key: &str, value: Option<&Bytes>) -> Result<T, ArrayError> {
    let damaged = |what: String| ArrayError::Damaged { key: key.to_owned(), what };
    let value = value.ok_or_else(|| damaged("it is not there".into()))?;
    serde_json::from_slice(value).map_err(|error| damaged(error.to_string()))
}

/// The bytes of a record of the array.
pub(crate) fn format<T: Serialize>(record: &T) -> Bytes {
    serde_json::to_vec(record).expect("records have string keys and plain values").into()
}
