//! A command from its arrival to its answer.

use super::collect::Collect;
use super::event::ScsiCommand;

/// A task that has no answer yet.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) lun: [u8; 8],
    pub(super) immediate: bool,
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) expected_out: u32,
    pub(super) expected_in: u32,
    /// Bytes of the connection's buffer for solicited data that it holds.
    pub(super) reserved: u32,
    pub(super) stage: Stage,
}

/// How far it has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// Data is to come.
    Collecting(Box<Collect>),
    /// Complete, but in the line behind a barrier.
    Waiting(Box<ScsiCommand>),
    /// With the device server.
    Delivered,
    /// A task management function, with the storage processor or in the line.
    Function,
}

impl Task {
    /// A task management function.
    pub(super) fn function(immediate: bool, lun: [u8; 8]) -> Self {
        Self {
            lun,
            immediate,
            read: false,
            write: false,
            expected_out: 0,
            expected_in: 0,
            reserved: 0,
            stage: Stage::Function,
        }
    }

    /// Whether it was discarded and waits only for data that is under way.
    pub(super) fn is_silenced(&self) -> bool {
        matches!(&self.stage, Stage::Collecting(collect) if collect.is_silenced())
    }
}
