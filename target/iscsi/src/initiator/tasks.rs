//! Tasks under way, found by their initiator task tag.

use twinlun_block::Payload;

use super::discovery::Answer;
use crate::pdu::{Lun, Serial32, TaskFunction, TaskTag};

/// A task that was sent and is not answered.
#[derive(Debug)]
pub(super) struct Task {
    /// The caller's tag.
    pub(super) tag: u64,
    pub(super) lun: Lun,
    pub(super) cmd_sn: Serial32,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Scsi(Progress),
    Management { function: TaskFunction, referenced: TaskTag },
    Ping,
    Discovery(Answer),
    Logout,
}

/// How far a command's data has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Bytes that may be read; 0 for others.
    pub(super) read_len: u32,
    pub(super) received: Payload,
    pub(super) next_data_sn: u32,
    /// All data of a write.
    pub(super) write: Payload,
    pub(super) next_r2t_sn: u32,
}

/// A table of bounded size. A tag is slot and generation, so a late answer never meets the slot's next user.
#[derive(Debug)]
pub(super) struct Tasks<T = Task> {
    slots: Vec<Slot<T>>,
    free: Vec<u16>,
    max: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u16,
    task: Option<T>,
}

/// Keeps tags off 0xffffffff, which is reserved.
const GENERATIONS: u16 = 0x7fff;

impl<T> Tasks<T> {
    pub(super) fn new(max: usize) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), max: max.clamp(1, usize::from(u16::MAX)) }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Enters a task whatever the limit is: for functions that help other tasks along. The bound is twice the limit then.
    pub(super) fn insert_beyond(&mut self, task: T) -> TaskTag {
        self.max = self.max.max(self.len() + 1).min(usize::from(u16::MAX));
        self.insert(task)
    }

    /// Enters a task; the caller has checked [`Tasks::len`] against its limit.
    pub(super) fn insert(&mut self, task: T) -> TaskTag {
        let index = self.free.pop().unwrap_or_else(|| {
            debug_assert!(self.slots.len() < self.max);
            self.slots.push(Slot { generation: 0, task: None });
            (self.slots.len() - 1) as u16
        });
        let slot = &mut self.slots[usize::from(index)];
        slot.task = Some(task);
        TaskTag(u32::from(slot.generation) << 16 | u32::from(index))
    }

    fn slot(&mut self, tag: TaskTag) -> Option<&mut Slot<T>> {
        let slot = self.slots.get_mut((tag.0 & 0xffff) as usize)?;
        (u32::from(slot.generation) == tag.0 >> 16).then_some(slot)
    }

    pub(super) fn get(&mut self, tag: TaskTag) -> Option<&mut T> {
        self.slot(tag)?.task.as_mut()
    }

    pub(super) fn remove(&mut self, tag: TaskTag) -> Option<T> {
        let slot = self.slot(tag)?;
        let task = slot.task.take()?;
        slot.generation = (slot.generation + 1) % GENERATIONS;
        self.free.push((tag.0 & 0xffff) as u16);
        Some(task)
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (TaskTag, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let tag = TaskTag(u32::from(slot.generation) << 16 | index as u32);
            slot.task.as_ref().map(|task| (tag, task))
        })
    }
}
