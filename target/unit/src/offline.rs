//! Reading a unit's LUs while its daemon is stopped: for dumps, and for comparing images without the mirror's own bookkeeping.

use futures_util::future::LocalBoxFuture;
use twinlun_array::{Array, ArrayError, Lu};
use twinlun_block::{BlockError, BlockLayer, BlockRequest, ByteRange, Payload};
use twinlun_io::Shard;

use crate::config::Config;

/// Bytes read at a time.
pub const STEP: u64 = 1 << 20;

/// Why a LU cannot be read offline.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The array does not open; a running daemon holds its disks.
    #[error(transparent)]
    Array(#[from] ArrayError),
    /// No such LU.
    #[error("unit {unit} has no LU {lu:?}; it has {known}")]
    NoSuchLu {
        /// Storage unit.
        unit: String,
        /// What was asked for.
        lu: String,
        /// What there is.
        known: String,
    },
    /// A read failed.
    #[error("reading LU {lu}: {error}")]
    Read {
        /// The LU.
        lu: String,
        /// Why.
        error: BlockError,
    },
    /// The LUs differ in size.
    #[error("the LUs differ in size: {0} and {1} bytes")]
    Sizes(u64, u64),
}

/// A LU of a stopped unit.
pub struct OfflineLu {
    array: Array,
    lu: Lu,
    name: String,
}

impl OfflineLu {
    /// Opens the unit's array and finds the LU.
    pub fn open<'a>(
        shard: &'a Shard,
        config: &'a Config,
        name: &'a str,
    ) -> LocalBoxFuture<'a, Result<Self, OfflineError>> {
        Box::pin(Self::find(shard, config, name))
    }

    async fn find(shard: &Shard, config: &Config, name: &str) -> Result<Self, OfflineError> {
        let disks = config.disks.iter();
        // No size: a disk that is not there is not made.
        let disks = disks.map(|d| twinlun_array::DiskConfig { path: d.path.clone(), size: None }).collect();
        let array = Array::open(shard.clone(), &config.unit, disks).await?;
        let Some(lu) = array.lu_by_name(name) else {
            let known: Vec<_> = array.lus().into_iter().map(|info| info.name).collect();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            return Err(OfflineError::NoSuchLu { unit: config.unit.clone(), lu: name.into(), known });
        };
        Ok(Self { array, lu, name: name.into() })
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.lu.geometry().size
    }

    /// Reads a range.
    pub fn read(&self, range: ByteRange) -> LocalBoxFuture<'_, Result<Payload, OfflineError>> {
        Box::pin(async move {
            let read = self.lu.execute(BlockRequest::Read { range }).await;
            read.map_err(|error| OfflineError::Read { lu: self.name.clone(), error })
        })
    }

    /// Gives the array back.
    pub fn close(self) -> LocalBoxFuture<'static, Result<(), OfflineError>> {
        Box::pin(async move { Ok(self.array.shutdown().await?) })
    }
}

/// Compares two LUs byte by byte. Answers with the ranges, in steps of [`STEP`], that differ, each from its first different byte.
pub async fn compare(a: &OfflineLu, b: &OfflineLu) -> Result<Vec<ByteRange>, OfflineError> {
    if a.size() != b.size() {
        return Err(OfflineError::Sizes(a.size(), b.size()));
    }
    let mut differences = Vec::new();
    for range in ByteRange::new(0, a.size()).split_at_multiples(STEP) {
        if let Some(at) = a.read(range).await?.first_difference(&b.read(range).await?) {
            differences.push(ByteRange::new(range.offset() + at as u64, range.len() - at as u64));
        }
    }
    Ok(differences)
}
