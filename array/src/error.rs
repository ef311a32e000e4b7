//! Refusals of the array. Each names the thing concerned and what the administrator can do.

use std::path::PathBuf;

use twinlun_block::MetaError;
use twinlun_io::DiskError;

/// Why the array does not do what it was told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArrayError {
    /// A disk could not be opened, read or written.
    #[error("disk {path}: {error}", path = path.display())]
    Disk {
        /// The disk.
        path: PathBuf,
        /// What it answered.
        error: DiskError,
    },
    /// The disk holds data that is not this unit's. It is never overwritten.
    #[error(
        "disk {path} is not blank: {what}; take it out of the configuration, or erase its first and last MiB if nothing on it is needed",
        path = path.display()
    )]
    Foreign {
        /// The disk.
        path: PathBuf,
        /// What was found on it.
        what: String,
    },
    /// The disk is too small to carry label, vault and data, or it has no size yet.
    #[error("disk {path}: {what}", path = path.display())]
    Size {
        /// The disk.
        path: PathBuf,
        /// What is wrong and what is needed.
        what: String,
    },
    /// Two paths lead to disks with the same identity.
    #[error(
        "disks {first} and {second} carry the same label (a copy, or one disk under two names); remove one of them from the configuration",
        first = first.display(), second = second.display()
    )]
    Twin {
        /// One path.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The disks that are there cannot prove that they hold the newest state of the unit.
    #[error(
        "only {present} of {needed_of} vault copies are usable ({missing}); more than half are needed: bring the missing disks back, \
         remove their entries from the configuration to declare them lost, or, when exactly half of the copies are here, start once \
         with --accept-half; what only the missing disks know is lost then"
    )]
    NoQuorum {
        /// Usable copies.
        present: usize,
        /// Copies of the newest state found.
        needed_of: usize,
        /// The disks that are missing, and why.
        missing: String,
    },
    /// Two groups of disks went on without each other.
    #[error(
        "the disks hold two separate histories ({first} | {second}); remove the group to be given up from the configuration"
    )]
    Split {
        /// One group.
        first: String,
        /// The other.
        second: String,
    },
    /// The vault is readable but says something impossible.
    #[error("vault record {key} is damaged: {what}")]
    Damaged {
        /// The record.
        key: String,
        /// What is wrong.
        what: String,
    },
    /// Metadata cannot be stored.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// There is no such disk or LU.
    #[error("{what} does not exist")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// The name is taken.
    #[error("a LU named {name} exists already")]
    Exists {
        /// The name.
        name: String,
    },
    /// The request makes no sense; the text says why and what would.
    #[error("{0}")]
    Invalid(String),
    /// The request is sound but would endanger data or conflicts with the present state.
    #[error("{0}")]
    Unsafe(String),
    /// There is no room for the LU.
    #[error("no space: {0}")]
    NoSpace(String),
    /// The array is shutting down.
    #[error("the array is shutting down")]
    Stopping,
}
