//! A unit in a simulated world, and oracles that know what may be read after a crash.
#![allow(dead_code, reason = "every test file uses its own part")]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use twinlun_array::{Array, ArrayError, ArrayOptions, DiskConfig, Lu};
use twinlun_block::{BlockError, BlockLayer, BlockRequest, ByteRange, MetaLog, MetaStore, Payload};
use twinlun_io::sim::{Process, Rng, World, WorldOptions};
use twinlun_io::{DiskOptions, Durability, Shard};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const SECTOR: u64 = 512;

pub(crate) fn world(seed: u64) -> World {
    World::new(seed, WorldOptions::default())
}

pub(crate) fn process(world: &World) -> Process {
    world.process("sp", IpAddr::from([10, 0, 0, 1]))
}

pub(crate) fn path(disk: usize) -> String {
    format!("/disk{disk}")
}

pub(crate) fn configs(disks: impl IntoIterator<Item = usize>) -> Vec<DiskConfig> {
    disks.into_iter().map(|disk| DiskConfig { path: path(disk).into(), size: Some(16 * MIB) }).collect()
}

pub(crate) fn options() -> ArrayOptions {
    ArrayOptions {
        intent_idle: Duration::from_millis(200),
        // Short, so that small LUs have checkpoints to be cut short at.
        rebuild_checkpoint: MIB,
        ..ArrayOptions::default()
    }
}

pub(crate) async fn open(shard: Shard, disks: impl IntoIterator<Item = usize>) -> Result<Array, ArrayError> {
    open_with(shard, disks, options()).await
}

pub(crate) async fn open_with(
    shard: Shard,
    disks: impl IntoIterator<Item = usize>,
    options: ArrayOptions,
) -> Result<Array, ArrayError> {
    Array::open_with(shard, "east", configs(disks), options).await
}

/// Runs a job in a new life of the process and waits for its end.
pub(crate) fn run<T: 'static>(world: &World, job: impl AsyncFnOnce(Shard) -> T + 'static) -> T {
    let process = process(world);
    let out = Rc::new(RefCell::new(None));
    let (put, shard) = (out.clone(), process.shard());
    process.spawn(async move {
        let value = job(shard).await;
        *put.borrow_mut() = Some(value);
    });
    for _ in 0..600 {
        world.run_for(Duration::from_secs(1)).expect("the world goes on");
        if let Some(value) = out.borrow_mut().take() {
            return value;
        }
    }
    panic!("the job does not end (seed {})", world.seed());
}

pub(crate) async fn read(lu: &Lu, offset: u64, len: u64) -> Result<Vec<u8>, BlockError> {
    let data = lu.execute(BlockRequest::Read { range: ByteRange::new(offset, len) }).await?;
    assert_eq!(data.len() as u64, len);
    Ok(data.to_bytes().to_vec())
}

pub(crate) async fn write(lu: &Lu, offset: u64, data: Vec<u8>, fua: bool) -> Result<(), BlockError> {
    let range = ByteRange::new(offset, data.len() as u64);
    lu.execute(BlockRequest::Write { range, data: data.into(), fua }).await.map(drop)
}

pub(crate) async fn flush(lu: &Lu) -> Result<(), BlockError> {
    lu.execute(BlockRequest::Flush).await.map(drop)
}

/// What each sector may hold: the newest version first, then what a power cut may bring back.
pub(crate) struct Oracle {
    sectors: RefCell<Vec<BTreeSet<u32>>>,
    /// Sectors that a write of unknown outcome is touching, or touched when the process died.
    next: RefCell<u32>,
    /// Versions that are zeros: discards. Version 0 is one of them.
    zeros: RefCell<BTreeSet<u32>>,
}

impl Oracle {
    pub(crate) fn new(size: u64) -> Rc<Self> {
        let sectors = vec![BTreeSet::from([0]); (size / SECTOR) as usize];
        Rc::new(Self {
            sectors: RefCell::new(sectors),
            next: RefCell::new(0),
            zeros: RefCell::new(BTreeSet::from([0])),
        })
    }

    pub(crate) fn size(&self) -> u64 {
        self.sectors.borrow().len() as u64 * SECTOR
    }

    /// A new version for a run of sectors; from now on any of them may hold it.
    pub(crate) fn begin(&self, first: usize, count: usize) -> (u32, Vec<u8>) {
        let mut next = self.next.borrow_mut();
        *next += 1;
        for sector in &mut self.sectors.borrow_mut()[first..first + count] {
            sector.insert(*next);
        }
        let mut data = Vec::with_capacity(count * SECTOR as usize);
        for sector in first..first + count {
            data.extend_from_slice(&content(*next, sector));
        }
        (*next, data)
    }

    /// A new version that is zeros.
    pub(crate) fn begin_zeros(&self, first: usize, count: usize) -> u32 {
        let (version, _) = self.begin(first, count);
        self.zeros.borrow_mut().insert(version);
        version
    }

    /// Which of the versions that a sector may hold these bytes are: of several times zeros the newest.
    fn version_of(&self, bytes: &[u8], sector: usize) -> Option<u32> {
        match version_of(bytes, sector)? {
            0 => {
                let (sectors, zeros) = (self.sectors.borrow(), self.zeros.borrow());
                Some(sectors[sector].intersection(&zeros).last().copied().unwrap_or(0))
            }
            version => Some(version),
        }
    }

    /// The version is on stable storage: nothing older may be seen.
    pub(crate) fn stable(&self, first: usize, count: usize, version: u32) {
        for sector in &mut self.sectors.borrow_mut()[first..first + count] {
            sector.retain(|other| *other >= version);
        }
    }

    pub(crate) fn newest(&self, sector: usize) -> u32 {
        *self.sectors.borrow()[sector].last().expect("never empty")
    }

    /// Checks what was read; `settled` sectors have nothing in flight and must be one of what is possible from now on.
    pub(crate) fn check(&self, first: usize, data: &[u8], context: &str) {
        for (index, bytes) in data.chunks_exact(SECTOR as usize).enumerate() {
            let sector = first + index;
            let version = self
                .version_of(bytes, sector)
                .unwrap_or_else(|| panic!("{context}: sector {sector} is garbage"));
            let possible = self.sectors.borrow()[sector].clone();
            assert!(
                possible.contains(&version),
                "{context}: sector {sector} holds {version}, possible {possible:?}"
            );
        }
    }

    /// After a check of everything and a flush: what was read is what there is.
    pub(crate) fn adopt(&self, first: usize, data: &[u8]) {
        for (index, bytes) in data.chunks_exact(SECTOR as usize).enumerate() {
            let version = self.version_of(bytes, first + index).expect("checked before");
            self.sectors.borrow_mut()[first + index] = BTreeSet::from([version]);
        }
    }
}

fn content(version: u32, sector: usize) -> Vec<u8> {
    if version == 0 {
        return vec![0; SECTOR as usize];
    }
    let stamp = [version.to_le_bytes(), (sector as u32).to_le_bytes()].concat();
    stamp.repeat(SECTOR as usize / stamp.len())
}

fn version_of(bytes: &[u8], sector: usize) -> Option<u32> {
    let version = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
    (content(version, sector) == bytes).then_some(version)
}

/// Reads the whole LU, checks it, flushes, and lets the oracle forget what is impossible now.
pub(crate) async fn verify(lu: &Lu, oracle: &Oracle, context: &str) {
    let mut all = Vec::new();
    for at in (0..oracle.size()).rev().step_by(16384).map(|last| last + 1 - 16384) {
        // The second read goes to the next copy: they must agree, also before the background work got here.
        let mut copies = Vec::new();
        for _ in 0..3 {
            copies.push(
                read(lu, at, 16384).await.unwrap_or_else(|error| panic!("{context}: read {at}: {error}")),
            );
        }
        assert!(copies.windows(2).all(|pair| pair[0] == pair[1]), "{context}: copies differ at {at}");
        all.splice(0..0, copies.remove(0));
    }
    oracle.check(0, &all, context);
    flush(lu).await.unwrap_or_else(|error| panic!("{context}: flush: {error}"));
    oracle.adopt(0, &all);
}

/// One host: random writes (one in four with FUA), reads and flushes, until told to stop. It never has two requests
/// under way to the same sectors; `lane` of `lanes` is its own.
pub(crate) async fn host(lu: Lu, oracle: Rc<Oracle>, mut rng: Rng, lane: usize, lanes: usize, steps: u64) {
    let sectors = (oracle.size() / SECTOR) as usize / lanes;
    let base = lane * sectors;
    // What was answered since the last flush: sector runs with their versions.
    let mut answered: Vec<(usize, usize, u32)> = Vec::new();
    for _ in 0..steps {
        let most: usize = if rng.chance(1, 8) { 300 } else { 24 };
        let count = 1 + rng.index(most.min(sectors));
        let first = base + rng.index(sectors - count + 1);
        match rng.below(10) {
            0 => {
                if flush(&lu).await.is_ok() {
                    answered
                        .drain(..)
                        .for_each(|(first, count, version)| oracle.stable(first, count, version));
                }
            }
            1..=3 => {
                if let Ok(data) = read(&lu, first as u64 * SECTOR, count as u64 * SECTOR).await {
                    oracle.check(first, &data, "live read");
                    for (index, bytes) in data.chunks_exact(SECTOR as usize).enumerate() {
                        let sector = first + index;
                        if answered
                            .iter()
                            .any(|(f, c, v)| (*f..*f + *c).contains(&sector) && *v == oracle.newest(sector))
                        {
                            assert_eq!(
                                oracle.version_of(bytes, sector),
                                Some(oracle.newest(sector)),
                                "an answered write is read"
                            );
                        }
                    }
                }
            }
            4 => {
                let version = oracle.begin_zeros(first, count);
                let range = ByteRange::new(first as u64 * SECTOR, count as u64 * SECTOR);
                if lu.execute(BlockRequest::Unmap { range }).await.is_ok() {
                    answered.push((first, count, version));
                }
            }
            _ => {
                let fua = rng.chance(1, 4);
                let (version, data) = oracle.begin(first, count);
                if write(&lu, first as u64 * SECTOR, data, fua).await.is_ok() {
                    if fua {
                        oracle.stable(first, count, version);
                    }
                    answered.push((first, count, version));
                }
            }
        }
    }
}

/// Both copies of a member of the first LU, as they are on the media.
pub(crate) fn member_bytes(world: &World, disk: usize, len: u64) -> Vec<u8> {
    world.disk(&path(disk)).peek(ByteRange::new(4 * MIB, len))
}

/// A blank disk that a person puts into a slot.
pub(crate) fn blank(path: &str) -> (PathBuf, Option<u64>) {
    (path.into(), Some(16 * MIB))
}

/// Overwrites something on a disk through the engine, as another program would.
pub(crate) async fn scribble(shard: &Shard, disk: usize, offset: u64, data: Vec<u8>) {
    let options = DiskOptions { create: Some(16 * MIB) };
    let disk = shard.open_disk(path(disk).as_ref(), options).await.expect("opens");
    disk.write(offset, Payload::from(data), Durability::Stable).await.expect("writes");
}

pub(crate) async fn put(store: &impl MetaStore, key: &str, value: u64) -> bool {
    let value = Bytes::copy_from_slice(&value.to_le_bytes());
    store.put(vec![(key.to_owned(), Some(value))]).await.is_ok()
}

pub(crate) fn get(store: &impl MetaStore, key: &str) -> u64 {
    number(&store.get(key).unwrap_or_default())
}

pub(crate) fn number(bytes: &[u8]) -> u64 {
    bytes.get(..8).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
}

pub(crate) async fn log_number(log: &impl MetaLog, page: u32) -> u64 {
    let content = log.read(page).await.expect("a page can be read");
    let value = number(&content);
    assert!(content.chunks_exact(8).all(|word| number(word) == value), "page {page} is of one piece");
    value
}
