//! Where a layer keeps what must outlive the process. The array's vault implements it (R-ARR-4).

use std::future::Future;

use bytes::Bytes;

/// Bytes of caller's data in one page of a [`MetaLog`]. The rest of the 4 KiB is header, sequence and checksum.
pub const PAGE_PAYLOAD: usize = 4032;

/// Why metadata could not be stored or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// Fewer than a majority of the copies can be written or read.
    #[error("only {good} of {copies} metadata copies are usable, a majority is needed")]
    NoMajority {
        /// Usable copies.
        good: usize,
        /// All copies.
        copies: usize,
    },
    /// The vault has no room left.
    #[error("the vault is full: {what}")]
    Full {
        /// What did not fit.
        what: String,
    },
    /// No copy of this page is intact. Its former content is unknown.
    #[error("no intact copy of page {page} of log {log}")]
    Damaged {
        /// Name of the log.
        log: String,
        /// Page number.
        page: u32,
    },
}

/// Named records and page logs, each kept in several copies on different disks.
///
/// When a call that stores returns `Ok`, the content is durable on a majority of the copies; when it fails or the
/// process dies in the middle, either the old or the new content is read later, never a mixture.
pub trait MetaStore: 'static {
    /// The log type of this store.
    type Log: MetaLog;

    /// The newest content of a record, `None` when there is none.
    fn get(&self, key: &str) -> Option<Bytes>;

    /// Replaces records, all or none: `None` removes.
    fn put(&self, changes: Vec<(String, Option<Bytes>)>) -> impl Future<Output = Result<(), MetaError>>;

    /// Opens a log of `pages` pages, reserving its space when it does not exist. A new log's pages are empty.
    fn open_log(&self, name: &str, pages: u32) -> impl Future<Output = Result<Self::Log, MetaError>>;

    /// Gives a log's space back.
    fn remove_log(&self, name: &str) -> impl Future<Output = Result<(), MetaError>>;
}

/// A fixed number of pages, replaced one by one without allocation: what bitmaps live in.
pub trait MetaLog: 'static {
    /// Number of pages.
    fn pages(&self) -> u32;

    /// The newest durable content of a page: at most [`PAGE_PAYLOAD`] bytes; empty when it was never written.
    fn read(&self, page: u32) -> impl Future<Output = Result<Bytes, MetaError>>;

    /// Replaces pages. Each page is atomic for itself; several are written in one go.
    fn write(&self, pages: Vec<(u32, Bytes)>) -> impl Future<Output = Result<(), MetaError>>;
}
