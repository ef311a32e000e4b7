//! What a LU may hold, sector by sector, given what hosts were told.
//!
//! Each sector is a register. A write is known by its stamp, by when it began and, once it can have no effect any more, by when it
//! ended. A write whose command has no status stays open until its host has logged in again: from then on the target has either
//! carried it out or forgotten it. A record leaves the set of possible values when something that certainly came later
//! is known to have happened: an acknowledged write that began after it ended, or a read that found another value.
//! A power cut brings back what left only because of something that was not yet on stable storage.

use std::collections::{BTreeMap, BTreeSet};

use crate::pattern::{self, SECTOR, ZEROS};

/// A point in the order of everything that hosts did and learnt.
type Moment = u64;

/// A write that a host began; its number is its stamp unless it writes zeros.
pub(crate) type WriteId = u64;

#[derive(Clone, Debug)]
struct Write {
    lu: usize,
    first: u64,
    count: u64,
    stamp: u64,
    begun: Moment,
    /// From here on it can have no effect.
    ended: Option<Moment>,
    acknowledged: bool,
    /// On stable storage for certain.
    durable: bool,
    /// Power cuts that had happened when it began.
    era: u32,
    host: usize,
}

#[derive(Clone, Debug)]
struct Record {
    write: WriteId,
    /// Since when it is certainly not the value any more.
    gone: Option<Moment>,
    /// What displaced it is on stable storage.
    gone_for_good: bool,
}

/// A read, a flush or a compare under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token {
    begun: Moment,
    era: u32,
}

/// Which of the possible values are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// As long as the power stays on.
    Live,
    /// What may be found after a power cut.
    Durable,
}

/// Where the image of a whole set stands in the order of writes.
pub(crate) struct Order {
    /// When the newest write on it began.
    newest: (Moment, WriteId),
    /// When the first write that it misses was acknowledged.
    missing: (Moment, WriteId),
}

impl Order {
    pub(crate) const fn new() -> Self {
        Self { newest: (0, 0), missing: (Moment::MAX, 0) }
    }

    /// Nobody who knew of a missing write can have begun one that is there.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.newest.0 <= self.missing.0 {
            return Ok(());
        }
        let ((begun, newest), (ended, missing)) = (self.newest, self.missing);
        Err(format!(
            "write {missing} is missing, acknowledged at {ended}; write {newest}, begun at {begun}, is there"
        ))
    }
}

/// The model of all LUs of the set.
#[derive(Clone)]
pub(crate) struct Oracle {
    lus: Vec<Vec<Vec<Record>>>,
    writes: BTreeMap<WriteId, Write>,
    next_write: WriteId,
    now: Moment,
    era: u32,
    /// Acknowledged writes that a flush would make durable.
    volatile: Vec<BTreeSet<WriteId>>,
    /// Writes without a status whose hosts have not come back.
    lost: BTreeSet<WriteId>,
    /// When each operation under way that looks at values began, and whose it is.
    looking: BTreeMap<Moment, usize>,
}

/// The write that stands for what the LU held at first.
const INITIAL: WriteId = 0;

impl Oracle {
    /// LUs of these sizes in bytes, full of zeros.
    pub(crate) fn new(sizes: &[u64]) -> Self {
        let initial = Write {
            lu: 0,
            first: 0,
            count: 0,
            stamp: ZEROS,
            begun: 0,
            ended: Some(0),
            acknowledged: true,
            durable: true,
            era: 0,
            host: 0,
        };
        let sector = vec![Record { write: INITIAL, gone: None, gone_for_good: false }];
        Self {
            lus: sizes.iter().map(|size| vec![sector.clone(); (size / SECTOR) as usize]).collect(),
            writes: BTreeMap::from([(INITIAL, initial)]),
            next_write: 1,
            now: 1,
            era: 0,
            volatile: vec![BTreeSet::new(); sizes.len()],
            lost: BTreeSet::new(),
            looking: BTreeMap::new(),
        }
    }

    fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// A host begins a write; `zeros`: of zeros, else of its own stamp. Answers with its number.
    pub(crate) fn begin_write(
        &mut self,
        host: usize,
        lu: usize,
        first: u64,
        count: u64,
        zeros: bool,
    ) -> WriteId {
        let id = self.next_write;
        self.next_write += 1;
        let begun = self.tick();
        let stamp = if zeros { ZEROS } else { id };
        let (era, ended) = (self.era, None);
        let write =
            Write { lu, first, count, stamp, begun, ended, acknowledged: false, durable: false, era, host };
        self.writes.insert(id, write);
        let oldest = self.looking.first_key_value().map_or(begun, |(moment, _)| *moment);
        for records in &mut self.lus[lu][first as usize..(first + count) as usize] {
            if records.len() > 4 {
                // Nobody can meet these any more, whatever fails.
                records.retain(|r| !(r.gone_for_good && r.gone.is_some_and(|gone| gone < oldest)));
            }
            records.push(Record { write: id, gone: None, gone_for_good: false });
        }
        id
    }

    /// The target says that the write was not carried out at all.
    pub(crate) fn refused(&mut self, id: WriteId) {
        let Some(write) = self.writes.remove(&id) else { return };
        for records in &mut self.lus[write.lu][write.first as usize..(write.first + write.count) as usize] {
            records.retain(|r| r.write != id);
        }
    }

    /// The write is over; whether and where it took effect is unknown.
    pub(crate) fn failed(&mut self, id: WriteId) {
        let now = self.tick();
        self.lost.remove(&id);
        if let Some(write) = self.writes.get_mut(&id) {
            write.ended = Some(now);
        }
    }

    /// The session ended before the write had a status.
    pub(crate) fn lost(&mut self, id: WriteId) {
        self.lost.insert(id);
    }

    /// The host has a new session: what it had lost is over (RFC 7143, 6.3.5).
    pub(crate) fn logged_in(&mut self, host: usize) {
        let now = self.tick();
        let mine: Vec<_> = self.lost.iter().copied().filter(|id| self.writes[id].host == host).collect();
        for id in mine {
            self.lost.remove(&id);
            if let Some(write) = self.writes.get_mut(&id) {
                write.ended = Some(now);
            }
        }
    }

    /// The write was acknowledged; `durable` when the status promises stable storage.
    pub(crate) fn acknowledged(&mut self, id: WriteId, durable: bool) {
        let now = self.tick();
        self.lost.remove(&id);
        let era = self.era;
        let Some(write) = self.writes.get_mut(&id) else { return };
        write.ended = Some(now);
        if !durable && write.era != era {
            // The answer was on its way while the power failed: it may be lost again already.
            return;
        }
        write.acknowledged = true;
        write.durable = durable;
        let lu = write.lu;
        if !durable {
            self.volatile[lu].insert(id);
        }
        self.displace_older(id, durable);
    }

    /// What certainly came before this write is no possible value any more.
    fn displace_older(&mut self, id: WriteId, for_good: bool) {
        let now = self.now;
        let write = self.writes[&id].clone();
        for records in &mut self.lus[write.lu][write.first as usize..(write.first + write.count) as usize] {
            for record in records.iter_mut().filter(|r| r.write != id) {
                let older = self.writes[&record.write].ended.is_some_and(|ended| ended <= write.begun);
                if older {
                    record.gone.get_or_insert(now);
                    record.gone_for_good |= for_good;
                }
            }
        }
    }

    /// A host has died: nobody will hear of what it had under way, which may take effect until the host is back.
    pub(crate) fn host_died(&mut self, host: usize) {
        let open = self.writes.iter().filter(|(_, write)| write.host == host && write.ended.is_none());
        self.lost.extend(open.map(|(id, _)| *id));
        self.looking.retain(|_, whose| *whose != host);
    }

    /// Something of a host that looks at values, or a flush, begins.
    pub(crate) fn begin(&mut self, host: usize) -> Token {
        let begun = self.tick();
        self.looking.insert(begun, host);
        Token { begun, era: self.era }
    }

    /// It is over, with whatever result.
    pub(crate) fn end(&mut self, token: Token) {
        self.looking.remove(&token.begun);
    }

    /// A flush was acknowledged: what was acknowledged before it began is durable.
    pub(crate) fn flushed(&mut self, token: Token, lu: usize) {
        self.tick();
        if token.era != self.era {
            return;
        }
        let covered = |id: &WriteId| self.writes[id].ended.is_some_and(|ended| ended <= token.begun);
        let now_durable: Vec<_> = self.volatile[lu].iter().copied().filter(covered).collect();
        for id in now_durable {
            self.volatile[lu].remove(&id);
            if let Some(write) = self.writes.get_mut(&id) {
                write.durable = true;
            }
            self.displace_older(id, true);
        }
    }

    /// The unit that serves the LUs lost power: what was not made durable may be undone.
    pub(crate) fn power_cut(&mut self) {
        self.tick();
        self.era += 1;
        self.volatile.iter_mut().for_each(BTreeSet::clear);
        for record in self.lus.iter_mut().flatten().flatten() {
            if !record.gone_for_good {
                record.gone = None;
            }
        }
    }

    /// A host has read these bytes: each sector must be a possible value, and from now on nothing older than what was seen is.
    pub(crate) fn read(&mut self, token: Token, lu: usize, first: u64, data: &[u8]) -> Result<(), String> {
        let now = self.tick();
        for (sector, bytes) in (first..).zip(data.chunks(SECTOR as usize)) {
            self.check(lu, sector, bytes, |record| record.gone.is_none_or(|gone| gone > token.begun))
                .map_err(|what| format!("a host read {what}"))?;
            let seen = pattern::stamp(bytes, lu, sector).unwrap_or(ZEROS);
            let writes = &self.writes;
            let records = &mut self.lus[lu][sector as usize];
            let same = |r: &&Record| writes[&r.write].stamp == seen;
            let durable = records.iter().filter(same).all(|r| writes[&r.write].durable);
            for record in records.iter_mut().filter(|r| writes[&r.write].stamp != seen) {
                if writes[&record.write].ended.is_some_and(|ended| ended <= token.begun) {
                    record.gone.get_or_insert(now);
                    record.gone_for_good |= durable;
                }
            }
        }
        Ok(())
    }

    /// COMPARE AND WRITE found what it was to compare with.
    pub(crate) fn compared(
        &mut self,
        token: Token,
        lu: usize,
        first: u64,
        expected: &[u8],
    ) -> Result<(), String> {
        for (sector, bytes) in (first..).zip(expected.chunks(SECTOR as usize)) {
            self.check(lu, sector, bytes, |record| record.gone.is_none_or(|gone| gone > token.begun))
                .map_err(|what| format!("COMPARE AND WRITE found {what}"))?;
        }
        Ok(())
    }

    /// The bytes of an image: each sector must be a possible value.
    pub(crate) fn check_image(&self, view: View, lu: usize, first: u64, data: &[u8]) -> Result<(), String> {
        for (sector, bytes) in (first..).zip(data.chunks(SECTOR as usize)) {
            self.check(lu, sector, bytes, |record| match view {
                View::Live => record.gone.is_none(),
                View::Durable => !record.gone_for_good,
            })?;
        }
        Ok(())
    }

    /// What an image tells about the point of the write order that it stands for.
    pub(crate) fn place_in_order(&self, order: &mut Order, lu: usize, first: u64, data: &[u8]) {
        for (sector, bytes) in (first..).zip(data.chunks(SECTOR as usize)) {
            let Some(stamp) = pattern::stamp(bytes, lu, sector).filter(|stamp| *stamp != ZEROS) else {
                continue;
            };
            let Some(present) = self.writes.get(&stamp) else { continue };
            if present.begun > order.newest.0 {
                order.newest = (present.begun, stamp);
            }
            let Some(ended) = present.ended else { continue };
            for record in &self.lus[lu][sector as usize] {
                let write = &self.writes[&record.write];
                let missed = write.acknowledged && write.begun >= ended;
                let acknowledged = write.ended.filter(|_| missed).unwrap_or(Moment::MAX);
                if acknowledged < order.missing.0 {
                    order.missing = (acknowledged, record.write);
                }
            }
        }
    }

    fn check(
        &self,
        lu: usize,
        sector: u64,
        bytes: &[u8],
        possible: impl Fn(&Record) -> bool,
    ) -> Result<(), String> {
        let place = format!("LU {lu} sector {sector}");
        let Some(stamp) = pattern::stamp(bytes, lu, sector) else {
            return Err(format!("{place}: garbage {:02x?}…; {}", &bytes[..16], self.history(lu, sector)));
        };
        let records = &self.lus[lu][sector as usize];
        if records.iter().any(|record| self.writes[&record.write].stamp == stamp && possible(record)) {
            return Ok(());
        }
        Err(format!("{place}: write {stamp}, which it cannot hold; {}", self.history(lu, sector)))
    }

    fn history(&self, lu: usize, sector: u64) -> String {
        let mut text = format!("at {}:", self.now);
        for record in &self.lus[lu][sector as usize] {
            let write = &self.writes[&record.write];
            let range =
                format!("{}..{}", write.begun, write.ended.map_or("open".into(), |ended| ended.to_string()));
            let status = match (write.acknowledged, write.durable) {
                (true, true) => " durable",
                (true, false) => " acknowledged",
                _ => "",
            };
            let zeros = if write.stamp == ZEROS { " zeros" } else { "" };
            let gone = record.gone.map_or(String::new(), |gone| format!(" gone {gone}"));
            let good = if record.gone_for_good { " for good" } else { "" };
            text += &format!(
                " [write {} by host {}: {range}{status}{zeros}{gone}{good}]",
                record.write, write.host
            );
        }
        text
    }

    /// What a sector may hold now, one of them: for comparisons that shall succeed now and then.
    pub(crate) fn guess(&self, lu: usize, sector: u64) -> u64 {
        let records = &self.lus[lu][sector as usize];
        let likely = records.iter().rev().find(|r| r.gone.is_none());
        likely.map_or(ZEROS, |record| self.writes[&record.write].stamp)
    }

    /// Writes begun so far.
    pub(crate) fn writes(&self) -> u64 {
        self.next_write - 1
    }
}
