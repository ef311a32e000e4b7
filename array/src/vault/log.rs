//! Page logs: pages that are replaced one by one, on up to three disks (docs/design/vault.md, "Page logs").
//!
//! A write is answered when every copy in use has it; a copy that fails is recorded as out of use first. So any single
//! copy that is left has everything that was acknowledged.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::oneshot;
use twinlun_block::{ByteRange, MetaError, MetaLog, PAGE_PAYLOAD};
use twinlun_io::Durability;
use uuid::Uuid;

use super::Core;
use super::page::{self, PageBlock};
use super::record::{self, CopyRecord, LOG_PREFIX, LogRecord};
use crate::extent::{self, Extent};
use crate::label::BLOCK;
use crate::planted::{Bug, planted};
use crate::slot::Slot;

/// Copies of a log, when there are as many disks.
const COPIES: usize = 3;
/// Pages of one round that are written as stable ones each. For more of them one flush behind all is cheaper: a stable write
/// costs a file system a commit of its journal.
const STABLE_WRITES: usize = 4;
/// Bytes read or cleared at once.
const PIECE: u64 = 1 << 20;

enum Job {
    Write {
        pages: Vec<(u32, Bytes)>,
        done: oneshot::Sender<Result<(), MetaError>>,
    },
    /// Make up for lost copies.
    Rehome {
        done: oneshot::Sender<Result<(), MetaError>>,
    },
}

#[derive(Clone, Default)]
struct Page {
    sequence: u64,
    content: Bytes,
    damaged: bool,
}

struct Copy {
    slot: Rc<Slot>,
    /// First block in the disk's page area.
    block: u64,
    /// For every page, which of its two blocks does not hold the newest version.
    next: RefCell<Vec<bool>>,
}

impl Copy {
    fn offset(&self, page: u32, second: bool) -> u64 {
        self.slot.layout.pages_at + (self.block + u64::from(page) * 2 + u64::from(second)) * BLOCK
    }
}

/// An open log.
pub(crate) struct LogCore {
    core: Rc<Core>,
    name: String,
    id: u64,
    pages: RefCell<Vec<Page>>,
    copies: RefCell<Vec<Rc<Copy>>>,
    queue: RefCell<Vec<Job>>,
    running: Cell<bool>,
}

/// A log of the vault. Clones are the same log.
#[derive(Clone)]
pub struct VaultLog {
    log: Rc<LogCore>,
}

impl MetaLog for VaultLog {
    fn pages(&self) -> u32 {
        self.log.pages.borrow().len() as u32
    }

    async fn read(&self, page: u32) -> Result<Bytes, MetaError> {
        let pages = self.log.pages.borrow();
        match pages.get(page as usize) {
            Some(found) if !found.damaged => Ok(found.content.clone()),
            _ => Err(MetaError::Damaged { log: self.log.name.clone(), page }),
        }
    }

    async fn write(&self, pages: Vec<(u32, Bytes)>) -> Result<(), MetaError> {
        let count = self.pages();
        if let Some((page, content)) = pages.iter().find(|(p, c)| *p >= count || c.len() > PAGE_PAYLOAD) {
            let what = format!("page {page} with {} bytes in a log of {count} pages", content.len());
            return Err(MetaError::Full { what });
        }
        self.log.submit(|done| Job::Write { pages, done }).await
    }
}

impl LogCore {
    async fn submit(
        self: &Rc<Self>,
        job: impl FnOnce(oneshot::Sender<Result<(), MetaError>>) -> Job,
    ) -> Result<(), MetaError> {
        let (done, answer) = oneshot::channel();
        self.queue.borrow_mut().push(job(done));
        if !self.running.replace(true) {
            let log = self.clone();
            self.core.shard.spawn(async move { log.drain().await });
        }
        answer.await.unwrap_or(Err(MetaError::NoMajority { good: 0, copies: 0 }))
    }

    /// All writes that are waiting go out in one round; of two versions of a page the later one.
    async fn drain(self: Rc<Self>) {
        loop {
            let jobs = self.queue.take();
            if jobs.is_empty() {
                self.running.set(false);
                return;
            }
            let (mut merged, mut writers, mut movers) = (BTreeMap::new(), Vec::new(), Vec::new());
            for job in jobs {
                match job {
                    Job::Write { pages, done } => {
                        merged.extend(pages);
                        writers.push(done);
                    }
                    Job::Rehome { done } => movers.push(done),
                }
            }
            let result = if merged.is_empty() { Ok(()) } else { self.write_round(merged).await };
            writers.into_iter().for_each(|done| drop(done.send(result.clone())));
            if !movers.is_empty() {
                let result = self.rehome().await;
                movers.into_iter().for_each(|done| drop(done.send(result.clone())));
            }
        }
    }

    async fn write_round(&self, pages: BTreeMap<u32, Bytes>) -> Result<(), MetaError> {
        self.settle_lost_copies().await?;
        let copies = self.copies.borrow().clone();
        let sequenced: Vec<(u32, Bytes, Bytes)> = pages
            .into_iter()
            .map(|(page, content)| {
                let mut state = self.pages.borrow_mut();
                let state = &mut state[page as usize];
                // Taken even if the write fails: the same sequence never stands for two contents.
                state.sequence += 1;
                let block = page::encode(self.id, page, state.sequence, &content);
                (page, content, block)
            })
            .collect();
        let blocks: Vec<_> = sequenced.iter().map(|(page, _, block)| (*page, block.clone())).collect();
        let writes = join_all(copies.iter().map(|copy| write_pages(copy, &blocks))).await;
        let failed: BTreeMap<_, _> =
            writes.into_iter().enumerate().filter_map(|(index, done)| Some((index, done.err()?))).collect();
        if !copies.is_empty() && failed.len() == copies.len() {
            return Err(MetaError::NoMajority { good: 0, copies: copies.len() });
        }
        for (index, error) in failed {
            self.core.mark_failed(&copies[index].slot, &format!("vault log: {error}"));
        }
        self.settle_lost_copies().await?;
        let mut state = self.pages.borrow_mut();
        for (page, content, _) in sequenced {
            let state = &mut state[page as usize];
            (state.content, state.damaged) = (content, false);
        }
        Ok(())
    }

    /// Drops copies on disks that are out of use, once that is recorded.
    async fn settle_lost_copies(&self) -> Result<(), MetaError> {
        let lost = |copy: &Rc<Copy>| !copy.slot.is_active();
        if !self.copies.borrow().iter().any(lost) {
            return Ok(());
        }
        let all = self.copies.borrow().clone();
        if all.iter().all(lost) {
            return Err(MetaError::NoMajority { good: 0, copies: all.len() });
        }
        for copy in all.iter().filter(|copy| lost(copy)) {
            self.core.fail(&copy.slot, "").await?;
        }
        self.copies.borrow_mut().retain(|copy| !lost(copy));
        Ok(())
    }

    /// Gives the log as many copies as it should have, if there are disks for them.
    async fn rehome(&self) -> Result<(), MetaError> {
        self.settle_lost_copies().await?;
        let key = format!("{LOG_PREFIX}{}", self.name);
        let Some(value) = self.core.record(&key) else { return Ok(()) };
        let Ok(mut record) = record::parse::<LogRecord>(&key, Some(&value)) else {
            return Err(MetaError::Damaged { log: self.name.clone(), page: 0 });
        };
        let have: BTreeSet<Uuid> = self.copies.borrow().iter().map(|copy| copy.slot.uuid).collect();
        let before = record.copies.len();
        record.copies.retain(|copy| have.contains(&copy.disk));
        let wanted = COPIES.saturating_sub(have.len());
        let _alone = self.core.space_line.acquire().await.expect("the line is never closed");
        let mut added = Vec::new();
        for (slot, block) in self.core.place_copies(self.id, record.pages, wanted, &have) {
            let copy = Rc::new(Copy { slot, block, next: RefCell::new(vec![false; record.pages as usize]) });
            if clear(&copy.slot, copy.block, record.pages).await.is_err() || self.fill(&copy).await.is_err() {
                continue; // The disk is found to be bad by its next use; the log is no worse off than before.
            }
            record.copies.push(CopyRecord { disk: copy.slot.uuid, block: copy.block });
            added.push(copy);
        }
        if added.is_empty() && record.copies.len() == before {
            return Ok(());
        }
        self.core.commit(vec![(key, Some(record::format(&record)))]).await?;
        self.copies.borrow_mut().extend(added.into_iter().filter(|copy| copy.slot.is_active()));
        Ok(())
    }

    /// Writes every page to a new copy. Damaged pages stay so: their content is not known.
    async fn fill(&self, copy: &Copy) -> Result<(), String> {
        let pages: Vec<_> = self.pages.borrow().iter().cloned().enumerate().collect();
        for (number, state) in pages {
            if state.sequence > 0 && !state.damaged {
                let number = number as u32;
                let block = page::encode(self.id, number, state.sequence, &state.content);
                write_page(copy, number, block).await?;
            }
        }
        Ok(())
    }
}

/// Makes pages stable on one copy. A page's other block counts as the older one only once this one is stable.
async fn write_pages(copy: &Copy, blocks: &[(u32, Bytes)]) -> Result<(), String> {
    if blocks.len() <= STABLE_WRITES {
        let writes = blocks.iter().map(|(page, block)| write_page(copy, *page, block.clone()));
        return join_all(writes).await.into_iter().collect();
    }
    let writes = blocks.iter().map(|(page, block)| {
        let at = copy.offset(*page, copy.next.borrow()[*page as usize]);
        copy.slot.answer(copy.slot.write(at, block.clone().into(), Durability::Volatile))
    });
    join_all(writes).await.into_iter().collect::<Result<(), _>>().map_err(|error| error.to_string())?;
    copy.slot.answer(copy.slot.flush()).await.map_err(|error| error.to_string())?;
    let mut next = copy.next.borrow_mut();
    for (page, _) in blocks {
        next[*page as usize] = !next[*page as usize];
    }
    Ok(())
}

async fn write_page(copy: &Copy, page: u32, block: Bytes) -> Result<(), String> {
    let second = copy.next.borrow()[page as usize];
    let write = copy.slot.write(copy.offset(page, second), block.into(), Durability::Stable);
    let done = copy.slot.answer(write).await;
    done.map_err(|error| error.to_string())?;
    copy.next.borrow_mut()[page as usize] = if planted(Bug::PageInPlace) { second } else { !second };
    Ok(())
}

async fn clear(slot: &Slot, block: u64, pages: u32) -> Result<(), String> {
    let range = ByteRange::new(slot.layout.pages_at + block * BLOCK, u64::from(pages) * 2 * BLOCK);
    slot.answer(slot.zero(range, false, Durability::Stable)).await.map_err(|error| error.to_string())
}

/// What one copy holds.
struct Scan {
    versions: Vec<Option<(u64, Bytes)>>,
    /// Pages of which both blocks are unreadable or damaged.
    damaged: Vec<bool>,
}

async fn scan(copy: &Copy, id: u64, pages: u32) -> Result<Scan, String> {
    let mut blocks = Vec::with_capacity(pages as usize * 2);
    let whole = ByteRange::new(copy.offset(0, false), u64::from(pages) * 2 * BLOCK);
    for piece in whole.split_at_multiples(PIECE) {
        match copy.slot.read(piece).await {
            Ok(data) => {
                let data = data.to_bytes();
                blocks.extend(
                    (0..data.len()).step_by(BLOCK as usize).map(|at| data.slice(at..at + BLOCK as usize)),
                );
            }
            // A bad sector costs its block, not the copy.
            Err(_) => {
                for block in piece.split_at_multiples(BLOCK) {
                    let read = copy.slot.read(block).await;
                    blocks.push(read.map_or_else(|_| Bytes::from_static(&[1]), |data| data.to_bytes()));
                }
            }
        }
    }
    let mut found = Scan { versions: Vec::new(), damaged: Vec::new() };
    for (page, pair) in blocks.chunks_exact(2).enumerate() {
        let decoded = [page::decode(&pair[0], id, page as u32), page::decode(&pair[1], id, page as u32)];
        found.damaged.push(decoded.iter().all(|block| *block == PageBlock::Damaged));
        let mut best = None;
        for (second, block) in decoded.into_iter().enumerate() {
            if let PageBlock::Version { sequence, content } = block
                && best.as_ref().is_none_or(|(newest, _)| sequence > *newest)
            {
                best = Some((sequence, content));
                copy.next.borrow_mut()[page] = second == 0;
            }
        }
        found.versions.push(best);
    }
    if found.versions.len() == pages as usize { Ok(found) } else { Err("short read".into()) }
}

impl Core {
    pub(crate) async fn open_log(self: &Rc<Self>, name: &str, pages: u32) -> Result<VaultLog, MetaError> {
        let _alone = self.space_line.acquire().await.expect("the line is never closed");
        if let Some(log) = self.logs.borrow().get(name).and_then(std::rc::Weak::upgrade) {
            return Ok(VaultLog { log });
        }
        let key = format!("{LOG_PREFIX}{name}");
        let damaged = || MetaError::Damaged { log: name.to_owned(), page: 0 };
        let record = match self.record(&key) {
            Some(value) => record::parse::<LogRecord>(&key, Some(&value)).map_err(|_| damaged())?,
            None => self.create_log(&key, pages).await?,
        };
        if record.pages != pages {
            let what = format!("log {name} has {} pages, {pages} are wanted; remove it first", record.pages);
            return Err(MetaError::Full { what });
        }
        let mut copies = Vec::new();
        for copy in &record.copies {
            let Some(slot) = self.slot_of(copy.disk).filter(|slot| slot.votes()) else { continue };
            if copy.block.checked_add(u64::from(pages) * 2).is_none_or(|end| end > slot.layout.page_blocks())
            {
                return Err(damaged());
            }
            copies.push(Rc::new(Copy {
                slot,
                block: copy.block,
                next: RefCell::new(vec![false; pages as usize]),
            }));
        }
        if copies.is_empty() && !record.copies.is_empty() {
            return Err(MetaError::NoMajority { good: 0, copies: record.copies.len() });
        }
        let log = Rc::new(LogCore {
            core: self.clone(),
            name: name.to_owned(),
            id: record.id,
            pages: RefCell::new(vec![Page::default(); pages as usize]),
            copies: RefCell::new(copies),
            queue: RefCell::default(),
            running: Cell::new(false),
        });
        log.load().await?;
        self.logs.borrow_mut().insert(name.to_owned(), Rc::downgrade(&log));
        drop(_alone);
        log.submit(|done| Job::Rehome { done }).await?;
        Ok(VaultLog { log })
    }

    /// Pages of the log of that name, if there is one.
    pub(crate) fn log_pages(&self, name: &str) -> Option<u32> {
        let key = format!("{LOG_PREFIX}{name}");
        let value = self.record(&key)?;
        record::parse::<LogRecord>(&key, Some(&value)).ok().map(|record| record.pages)
    }

    /// Whether there is such a log.
    pub(crate) fn has_log(&self, name: &str) -> bool {
        self.record(&format!("{LOG_PREFIX}{name}")).is_some()
    }

    pub(crate) async fn remove_log(self: &Rc<Self>, name: &str) -> Result<(), MetaError> {
        self.logs.borrow_mut().remove(name);
        self.commit(vec![(format!("{LOG_PREFIX}{name}"), None)]).await
    }

    /// Makes up for copies that were lost, in every open log. Logs opened later do so themselves.
    pub(crate) async fn rehome_logs(self: &Rc<Self>) -> Result<(), MetaError> {
        let logs: Vec<_> = self.logs.borrow().values().filter_map(std::rc::Weak::upgrade).collect();
        for log in logs {
            log.submit(|done| Job::Rehome { done }).await?;
        }
        Ok(())
    }

    async fn create_log(self: &Rc<Self>, key: &str, pages: u32) -> Result<LogRecord, MetaError> {
        let id = self.next_log.get();
        self.next_log.set(id + 1);
        let places = self.place_copies(id, pages, COPIES, &BTreeSet::new());
        if places.is_empty() && self.slots.borrow().values().any(|slot| slot.votes()) {
            let what =
                format!("no room for a log of {pages} pages; remove mirrors or LUs, or use larger disks");
            return Err(MetaError::Full { what });
        }
        let wanted = places.len();
        let mut copies = Vec::new();
        for (slot, block) in places {
            match clear(&slot, block, pages).await {
                Ok(()) => copies.push(CopyRecord { disk: slot.uuid, block }),
                Err(error) => tracing::warn!(slot = slot.number, error, "no log copy on this disk"),
            }
        }
        if copies.is_empty() && wanted > 0 {
            return Err(MetaError::NoMajority { good: 0, copies: wanted });
        }
        let record = LogRecord { id, pages, copies };
        self.commit(vec![(key.to_owned(), Some(record::format(&record)))]).await?;
        Ok(record)
    }

    /// Up to `count` disks with room, beginning with another one for every log.
    fn place_copies(
        &self,
        id: u64,
        pages: u32,
        count: usize,
        except: &BTreeSet<Uuid>,
    ) -> Vec<(Rc<Slot>, u64)> {
        let mut slots = self.slot_list();
        slots.retain(|slot| slot.votes() && !except.contains(&slot.uuid));
        let turn = (id % slots.len().max(1) as u64) as usize;
        slots.rotate_left(turn);
        let records: Vec<LogRecord> = self
            .records_under(LOG_PREFIX)
            .iter()
            .filter_map(|(key, value)| record::parse(key, Some(value)).ok())
            .collect();
        let placed = slots.into_iter().filter_map(|slot| {
            let used: Vec<_> = records
                .iter()
                .flat_map(|log| log.copies.iter().map(move |copy| (copy, log.pages)))
                .filter(|(copy, _)| copy.disk == slot.uuid)
                .map(|(copy, pages)| Extent { start: copy.block, len: u64::from(pages) * 2 })
                .collect();
            let whole = Extent { start: 0, len: slot.layout.page_blocks() };
            let got = extent::allocate(whole, &used, u64::from(pages) * 2, true)?;
            got.first().map(|extent| (slot, extent.start))
        });
        placed.take(count).collect()
    }
}

impl LogCore {
    /// Reads all copies, takes the newest version of every page, and brings copies that lack it up to it: what was
    /// read once is not unread by the loss of the copy it came from.
    async fn load(&self) -> Result<(), MetaError> {
        let copies = self.copies.borrow().clone();
        let count = self.pages.borrow().len() as u32;
        let mut scans = Vec::new();
        for copy in &copies {
            match scan(copy, self.id, count).await {
                Ok(found) => scans.push((copy.clone(), found)),
                Err(error) => self.core.mark_failed(&copy.slot, &format!("vault log: {error}")),
            }
        }
        if scans.is_empty() && !copies.is_empty() {
            return Err(MetaError::NoMajority { good: 0, copies: copies.len() });
        }
        for page in 0..count as usize {
            let newest =
                scans.iter().filter_map(|(_, found)| found.versions[page].as_ref()).max_by_key(|v| v.0);
            let Some((sequence, content)) = newest.cloned() else {
                // A copy with a blank block saw at most the first write, so that one was never answered.
                let damaged = !scans.is_empty() && scans.iter().all(|(_, found)| found.damaged[page]);
                self.pages.borrow_mut()[page].damaged = damaged;
                continue;
            };
            for (copy, found) in &scans {
                if found.versions[page].as_ref().is_none_or(|(have, _)| *have < sequence) {
                    let block = page::encode(self.id, page as u32, sequence, &content);
                    if let Err(error) = write_page(copy, page as u32, block).await {
                        self.core.mark_failed(&copy.slot, &format!("vault log: {error}"));
                    }
                }
            }
            self.pages.borrow_mut()[page] = Page { sequence, content, damaged: false };
        }
        self.settle_lost_copies().await
    }
}
