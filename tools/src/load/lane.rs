//! One connection under load.

use std::rc::Rc;
use std::task::{Context, Poll};

use twinlun_io::{Instant, Shard};
use twinlun_iscsi::initiator::{Command, Completion, Event, Submitted, Transfer, cdb};
use twinlun_iscsi::pdu::ScsiStatus;

use super::report::LaneTally;
use super::verify::{self, Cells};
use super::workload::{Plan, Sequence, Timeline};
use super::{LoadError, Mismatch};
use crate::initiator::{Pump, SessionError};

/// Turns after which other connections get theirs.
const TURNS: usize = 8;

/// A command under way; its index is the tag.
#[derive(Clone, Copy, Debug)]
struct Slot {
    since: Instant,
    cell: u64,
    /// Number of the write; `None` for a read.
    write: Option<u64>,
}

pub(super) struct Lane {
    connection: u32,
    pump: Pump,
    plan: Rc<Plan>,
    timeline: Timeline,
    sequence: Sequence,
    part: std::ops::Range<u64>,
    next_cell: u64,
    next_write: u64,
    slots: Vec<Slot>,
    free: Vec<u32>,
    cells: Option<Cells>,
    /// Next cell of the final check.
    recheck: Option<u64>,
    tally: LaneTally,
}

/// What one completion tells.
enum Failure {
    Mismatch(Mismatch),
    Session(SessionError),
}

impl Lane {
    pub(super) fn new(connection: u32, pump: Pump, plan: Rc<Plan>, timeline: Timeline) -> Self {
        let part = plan.part(connection);
        let slot = Slot { since: Instant::default(), cell: 0, write: None };
        Self {
            connection,
            pump,
            timeline,
            sequence: Sequence(plan.seed ^ u64::from(connection + 1) << 32),
            next_cell: part.start,
            // Numbers are unique over all connections, so that data of the wrong one is found out.
            next_write: u64::from(connection) << 40 | 1,
            slots: vec![slot; plan.depth as usize],
            free: (0..plan.depth).rev().collect(),
            cells: plan.verify.then(|| Cells::new(part.clone())),
            recheck: None,
            tally: LaneTally::new(),
            part,
            plan,
        }
    }

    /// Runs to the end of the time, waits for the last answers, and checks.
    pub(super) async fn run(mut self, shard: &Shard) -> Result<LaneTally, LoadError> {
        self.fill(shard.now());
        let connection = self.connection;
        std::future::poll_fn(|cx| self.poll(cx, shard)).await.map_err(|failure| match failure {
            Failure::Mismatch(mismatch) => LoadError::Mismatch { connection, mismatch },
            Failure::Session(error) => LoadError::Session { connection, error },
        })?;
        Ok(self.tally)
    }

    fn poll(&mut self, cx: &mut Context<'_>, shard: &Shard) -> Poll<Result<(), Failure>> {
        for _ in 0..TURNS {
            if self.free.len() == self.slots.len() {
                return Poll::Ready(Ok(()));
            }
            std::task::ready!(self.pump.poll_turn(cx)).map_err(Failure::Session)?;
            // One look at the clock for the whole batch.
            let now = shard.now();
            while let Some(event) = self.pump.initiator.poll_event() {
                match event {
                    Event::Completed(completion) => self.complete(&completion, now)?,
                    Event::Rejected { reason, .. } => {
                        return Poll::Ready(Err(Failure::Session(SessionError::Rejected(reason))));
                    }
                    _ => {}
                }
            }
            self.fill(now);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn complete(&mut self, completion: &Completion, now: Instant) -> Result<(), Failure> {
        let index = completion.tag as usize;
        let Slot { since, cell, write } = self.slots[index];
        self.free.push(index as u32);
        let good = completion.is_good();
        if self.recheck.is_none() && now >= self.timeline.measure && now <= self.timeline.end {
            match completion.status {
                _ if good => self.tally.record(write.is_some(), u64::from(self.plan.cell), now - since),
                ScsiStatus::BUSY | ScsiStatus::TASK_SET_FULL => self.tally.busy += 1,
                _ => self.tally.errors += 1,
            }
        }
        let Some(cells) = &mut self.cells else { return Ok(()) };
        match write {
            Some(number) => cells.written(cell, good.then_some(number)),
            None => {
                cells.give_back(cell);
                if let Some(number) = cells.expected(cell).filter(|_| good) {
                    let offset = self.plan.byte(cell);
                    verify::check(self.plan.seed, offset, number, &completion.data)
                        .map_err(Failure::Mismatch)?;
                    self.tally.verified += 1;
                }
            }
        }
        Ok(())
    }

    /// Starts a command in every free slot, as long as there are any to be started.
    fn fill(&mut self, now: Instant) {
        while let Some(index) = self.free.pop() {
            let Some((cell, write)) = self.next(now) else {
                self.free.push(index);
                return;
            };
            let (lba, blocks) = (self.plan.lba(cell), self.plan.blocks);
            let command = if let Some(number) = write {
                let data = if self.plan.verify {
                    verify::pattern(self.plan.seed, self.plan.byte(cell), number, self.plan.cell as usize)
                        .into()
                } else {
                    self.plan.data.clone()
                };
                (cdb::write_16(lba, blocks, self.plan.fua), Transfer::Write(data))
            } else {
                (cdb::read_16(lba, blocks, false), Transfer::Read(self.plan.cell))
            };
            self.slots[index as usize] = Slot { since: now, cell, write };
            let command = Command::new(u64::from(index), self.plan.lun, command.0, command.1);
            if self.pump.initiator.submit(command) != Submitted::Accepted {
                // The session is ending; the next turn says how.
                self.free.push(index);
                return;
            }
        }
    }

    /// The next cell, and the number of the write if it is one.
    fn next(&mut self, now: Instant) -> Option<(u64, Option<u64>)> {
        if now >= self.timeline.end {
            return self.next_recheck().map(|cell| (cell, None));
        }
        let write = !self.plan.wants_read(&mut self.sequence);
        let cell = loop {
            let cell = if self.plan.is_sequential() {
                let cell = self.next_cell;
                self.next_cell = if cell + 1 == self.part.end { self.part.start } else { cell + 1 };
                cell
            } else {
                self.part.start + self.sequence.below(self.part.end - self.part.start)
            };
            // There are twice as many cells as commands under way, so a free one is found soon.
            if self.cells.as_mut().is_none_or(|cells| cells.take(cell)) {
                break cell;
            }
        };
        let number = write.then(|| {
            self.next_write += 1;
            self.next_write
        });
        Some((cell, number))
    }

    /// After the run: the next cell whose content is known.
    fn next_recheck(&mut self) -> Option<u64> {
        let cells = self.cells.as_mut()?;
        // The first ones to be read again must not be under way any more.
        if self.recheck.is_none() && self.free.len() + 1 < self.slots.len() {
            return None;
        }
        let mut cell = self.recheck.unwrap_or(self.part.start);
        while cell < self.part.end && cells.expected(cell).is_none() {
            cell += 1;
        }
        self.recheck = Some((cell + 1).min(self.part.end));
        (cell < self.part.end && cells.take(cell)).then_some(cell)
    }
}
