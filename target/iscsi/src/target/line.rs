//! The order in which commands reach the device server.
//!
//! Commands are taken in CmdSN order, but a write is delivered only when its data is there, and a SIMPLE task need not wait for an
//! earlier SIMPLE one (SAM-5 clause 8.6). Two things do order: an ORDERED task, and a task management function that waits for data
//! under way. Such a *barrier* opens a line, and what comes later stands in it. Usually the line is empty and costs nothing.
//!
//! `ahead` counts the collecting commands that no barrier holds. An ORDERED task leaves the line at its front, when `ahead` is zero
//! and its own data is there.

use std::collections::VecDeque;

use super::event::TaskManagement;
use core::time::Duration;

/// Someone in the line.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// A command; it leaves when it reaches the front, collecting or not.
    Command(u32),
    /// An ORDERED command.
    Ordered(u32),
    /// A function that waits until the tasks it covers are settled, or until the time.
    Function(TaskManagement, Duration),
}

#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) items: VecDeque<Item>,
    pub(super) ahead: usize,
}

impl Line {
    /// Takes a command out wherever it stands: it was aborted or has failed.
    pub(super) fn remove(&mut self, tag: u32) {
        self.items.retain(|item| !matches!(item, Item::Command(t) | Item::Ordered(t) if *t == tag));
    }

    /// The earliest time at which a function stops waiting.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.items
            .iter()
            .filter_map(|item| if let Item::Function(_, until) = item { Some(*until) } else { None })
            .min()
    }
}
