//! Two storage units in the simulator: arrays and vaults of RAM that outlive their processes, and an oracle.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use twinlun_block::{
    BlockError, BlockLayer, BlockRequest, BlockResult, BlockSize, ByteRange, Geometry, MetaError, MetaLog,
    MetaStore, Payload, UnmapSupport,
};
use twinlun_io::Shard;
use twinlun_io::sim::{Process, Rng, World, WorldHandle, WorldOptions};
use uuid::Uuid;

use crate::link::{Limits, LinkConfig, LinkKey, PeerConfig, Timing};
use crate::record::{MirrorRecord, fracture_name, intent_name, record_key};
use crate::region::RegionMap;
use crate::state::Relation;
use crate::{CreateMirror, LuHandle, LuSource, MirrorService, UnitIdentity, WritePolicy, fracture, intent};

pub(super) const SECTOR: u64 = 512;
pub(super) const SIZE: u64 = 4 << 20;
pub(super) const LUS: usize = 2;

/// A disk of RAM with a volatile cache.
pub(super) struct Medium {
    view: RefCell<Vec<u8>>,
    durable: RefCell<Vec<u8>>,
    unflushed: RefCell<BTreeSet<u64>>,
    pub(super) fail_writes: Cell<bool>,
    pub(super) fail_reads: Cell<bool>,
    pub(super) frozen: Cell<bool>,
    /// How many times as long as usual each piece of a write takes.
    pub(super) pace: Cell<u32>,
    pub(super) written: Cell<u64>,
}

impl Medium {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            view: RefCell::new(vec![0; SIZE as usize]),
            durable: RefCell::new(vec![0; SIZE as usize]),
            unflushed: RefCell::default(),
            fail_writes: Cell::default(),
            fail_reads: Cell::default(),
            frozen: Cell::default(),
            pace: Cell::new(1),
            written: Cell::default(),
        })
    }

    pub(super) fn view(&self) -> Vec<u8> {
        self.view.borrow().clone()
    }

    fn put(&self, offset: u64, data: &[u8]) {
        let at = offset as usize;
        self.view.borrow_mut()[at..at + data.len()].copy_from_slice(data);
        let first = offset / SECTOR;
        self.unflushed.borrow_mut().extend(first..first + data.len() as u64 / SECTOR);
        self.written.set(self.written.get() + data.len() as u64);
    }

    fn make_durable(&self, sectors: impl IntoIterator<Item = u64>) {
        let view = self.view.borrow();
        for sector in sectors {
            if self.unflushed.borrow_mut().remove(&sector) {
                let at = (sector * SECTOR) as usize;
                self.durable.borrow_mut()[at..at + SECTOR as usize]
                    .copy_from_slice(&view[at..at + SECTOR as usize]);
            }
        }
    }

    /// Any of the unflushed sectors survive.
    pub(super) fn power_cut(&self, rng: &mut Rng) {
        let unflushed: Vec<u64> = self.unflushed.borrow().iter().copied().collect();
        self.make_durable(unflushed.into_iter().filter(|_| rng.chance(1, 2)).collect::<Vec<_>>());
        self.unflushed.borrow_mut().clear();
        self.view.replace(self.durable.borrow().clone());
    }
}

/// The layer of a medium in one life of a process.
#[derive(Clone)]
pub(super) struct RamLu {
    pub(super) medium: Rc<Medium>,
    shard: Shard,
}

async fn pause(shard: &Shard) {
    let mut byte = [0];
    shard.fill_random(&mut byte);
    shard.sleep(Duration::from_micros(u64::from(byte[0]) * 4)).await;
}

impl BlockLayer for RamLu {
    fn geometry(&self) -> Geometry {
        Geometry { size: SIZE, block_size: BlockSize::B512, optimal_io: 0, unmap: UnmapSupport::default() }
    }

    async fn execute(&self, request: BlockRequest) -> BlockResult {
        pause(&self.shard).await;
        while self.medium.frozen.get() {
            self.shard.sleep(Duration::from_millis(50)).await;
        }
        let bad = BlockError::Medium { offset: 0 };
        let (range, data, fua) = match request {
            BlockRequest::Read { range } if self.medium.fail_reads.get() => {
                return Err(BlockError::Medium { offset: range.offset() });
            }
            BlockRequest::Read { range } => {
                let (from, to) = (range.offset() as usize, range.end() as usize);
                return Ok(Bytes::copy_from_slice(&self.medium.view.borrow()[from..to]).into());
            }
            BlockRequest::Flush => {
                let sectors: Vec<u64> = self.medium.unflushed.borrow().iter().copied().collect();
                pause(&self.shard).await;
                self.medium.make_durable(sectors);
                return Ok(Payload::new());
            }
            BlockRequest::Write { range, data, fua } | BlockRequest::WriteAtomic { range, data, fua } => {
                (range, data.to_bytes(), fua)
            }
            BlockRequest::Unmap { range } => (range, Bytes::from(vec![0; range.len() as usize]), false),
            BlockRequest::WriteZeroes { range, fua, .. } => {
                (range, Bytes::from(vec![0; range.len() as usize]), fua)
            }
            BlockRequest::CompareAndWrite { .. } => return Err(bad),
        };
        // A write takes place bit by bit: a crash finds any part of it done.
        for piece in range.split_at_multiples(4096) {
            if self.medium.fail_writes.get() {
                return Err(bad);
            }
            let at = (piece.offset() - range.offset()) as usize;
            self.medium.put(piece.offset(), &data[at..at + piece.len() as usize]);
            for _ in 0..self.medium.pace.get() {
                pause(&self.shard).await;
            }
        }
        if fua {
            self.medium.make_durable(range.offset() / SECTOR..range.end() / SECTOR);
        }
        Ok(Payload::new())
    }
}

/// A vault of RAM: everything in it is durable.
#[derive(Default)]
pub(super) struct Vault {
    records: RefCell<BTreeMap<String, Bytes>>,
    logs: RefCell<BTreeMap<String, BTreeMap<u32, Bytes>>>,
    pub(super) broken: Cell<bool>,
    pub(super) page_writes: Cell<u64>,
}

/// Content of a vault.
type Content = (BTreeMap<String, Bytes>, BTreeMap<String, BTreeMap<u32, Bytes>>);

impl Vault {
    pub(super) fn snapshot(&self) -> Content {
        (self.records.borrow().clone(), self.logs.borrow().clone())
    }

    pub(super) fn restore(&self, (records, logs): Content) {
        self.records.replace(records);
        self.logs.replace(logs);
    }
}

#[derive(Clone)]
pub(super) struct RamMeta {
    vault: Rc<Vault>,
    shard: Shard,
}

pub(super) struct RamLog {
    meta: RamMeta,
    name: String,
    pages: u32,
}

impl RamMeta {
    fn check(&self) -> Result<(), MetaError> {
        if self.vault.broken.get() { Err(MetaError::NoMajority { good: 1, copies: 3 }) } else { Ok(()) }
    }
}

impl MetaStore for RamMeta {
    type Log = RamLog;

    fn get(&self, key: &str) -> Option<Bytes> {
        self.vault.records.borrow().get(key).cloned()
    }

    async fn put(&self, changes: Vec<(String, Option<Bytes>)>) -> Result<(), MetaError> {
        pause(&self.shard).await;
        self.check()?;
        for (key, value) in changes {
            match value {
                Some(value) => self.vault.records.borrow_mut().insert(key, value),
                None => self.vault.records.borrow_mut().remove(&key),
            };
        }
        pause(&self.shard).await;
        Ok(())
    }

    async fn open_log(&self, name: &str, pages: u32) -> Result<RamLog, MetaError> {
        self.check()?;
        self.vault.logs.borrow_mut().entry(name.into()).or_default();
        Ok(RamLog { meta: self.clone(), name: name.into(), pages })
    }

    async fn remove_log(&self, name: &str) -> Result<(), MetaError> {
        self.vault.logs.borrow_mut().remove(name);
        Ok(())
    }
}

impl MetaLog for RamLog {
    fn pages(&self) -> u32 {
        self.pages
    }

    async fn read(&self, page: u32) -> Result<Bytes, MetaError> {
        self.meta.check()?;
        Ok(self
            .meta
            .vault
            .logs
            .borrow()
            .get(&self.name)
            .and_then(|log| log.get(&page))
            .cloned()
            .unwrap_or_default())
    }

    async fn write(&self, pages: Vec<(u32, Bytes)>) -> Result<(), MetaError> {
        for (page, content) in pages {
            pause(&self.meta.shard).await;
            self.meta.check()?;
            assert!(page < self.pages && content.len() <= twinlun_block::PAGE_PAYLOAD);
            self.meta.vault.page_writes.set(self.meta.vault.page_writes.get() + 1);
            if let Some(log) = self.meta.vault.logs.borrow_mut().get_mut(&self.name) {
                log.insert(page, content);
            }
        }
        pause(&self.meta.shard).await;
        Ok(())
    }
}

pub(super) type Service = MirrorService<RamLu, RamMeta>;

/// A storage unit over its lives.
pub(super) struct Unit {
    pub(super) name: &'static str,
    ip: IpAddr,
    peers: Vec<(&'static str, IpAddr)>,
    pub(super) media: Vec<Rc<Medium>>,
    pub(super) vault: Rc<Vault>,
    process: RefCell<Option<Process>>,
    service: RefCell<Option<Service>>,
}

struct Lus(Vec<LuHandle<RamLu>>);

impl LuSource<RamLu> for Lus {
    fn by_uuid(&self, uuid: Uuid) -> Option<LuHandle<RamLu>> {
        self.0.iter().find(|lu| lu.uuid == uuid).cloned()
    }

    fn by_name(&self, name: &str) -> Option<LuHandle<RamLu>> {
        self.0.iter().find(|lu| lu.name == name).cloned()
    }
}

impl Unit {
    fn new(name: &'static str, last: u8, peers: &[(&'static str, u8)]) -> Rc<Self> {
        let ip = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
        Rc::new(Self {
            name,
            ip: ip(last),
            peers: peers.iter().map(|(name, last)| (*name, ip(*last))).collect(),
            media: (0..LUS).map(|_| Medium::new()).collect(),
            vault: Rc::default(),
            process: RefCell::default(),
            service: RefCell::default(),
        })
    }

    pub(super) fn lu_uuid(&self, index: usize) -> Uuid {
        Uuid::new_v5_like(self.name, index)
    }

    pub(super) fn process(&self) -> Process {
        self.process.borrow().clone().expect("started")
    }

    pub(super) fn service(&self) -> Service {
        self.service.borrow().clone().expect("started")
    }

    pub(super) fn is_up(&self) -> bool {
        self.service.borrow().is_some()
    }

    /// Starts the next life and waits until it serves.
    pub(super) async fn start(self: &Rc<Self>, world: &WorldHandle) {
        let process = world.process(self.name, self.ip);
        let shard = process.shard();
        let lus = (0..LUS).map(|index| LuHandle {
            uuid: self.lu_uuid(index),
            name: format!("lu{index}"),
            layer: RamLu { medium: self.media[index].clone(), shard: shard.clone() },
        });
        let lus = Rc::new(Lus(lus.collect()));
        let meta = RamMeta { vault: self.vault.clone(), shard: shard.clone() };
        let identity = UnitIdentity { name: self.name.into(), uuid: Uuid::from_u128(1) };
        let link = LinkConfig {
            unit: self.name.into(),
            listen: Some(SocketAddr::new(self.ip, 7400)),
            key: LinkKey::new(b"0123456789abcdef".to_vec()).expect("long enough"),
            peers: self
                .peers
                .iter()
                .map(|(unit, ip)| PeerConfig {
                    unit: (*unit).into(),
                    addresses: vec![SocketAddr::new(*ip, 7400)],
                })
                .collect(),
            timing: Timing::default(),
            limits: Limits::default(),
        };
        let service = run_in(&process, MirrorService::open(shard, identity, meta, lus, Some(link))).await;
        self.process.replace(Some(process));
        self.service.replace(service.map(|service| service.expect("a unit starts whatever its past")));
    }

    pub(super) fn kill(&self) {
        self.service.replace(None);
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    pub(super) fn power_cut(&self, rng: &mut Rng) {
        self.service.replace(None);
        if let Some(process) = self.process.take() {
            process.power_cut();
        }
        self.media.iter().for_each(|medium| medium.power_cut(rng));
    }

    /// The record of the only mirror, as a new life would find it.
    pub(super) fn record(&self) -> Option<MirrorRecord> {
        let records = self.vault.records.borrow();
        let index: Vec<Uuid> = serde_json::from_slice(records.get("mirror/index")?).expect("an index");
        let record = records.get(&record_key(*index.first()?))?;
        Some(MirrorRecord::decode(record).expect("a record"))
    }

    /// A request to a LU as a host makes it. `None` when the unit died.
    pub(super) async fn request(&self, lu: usize, request: BlockRequest) -> Option<BlockResult> {
        let layer = self.service().layer(self.lu_uuid(lu))?;
        run_in(&self.process(), async move { layer.execute(request).await }).await
    }
}

trait NameUuid {
    fn new_v5_like(name: &str, index: usize) -> Uuid;
}

impl NameUuid for Uuid {
    fn new_v5_like(name: &str, index: usize) -> Uuid {
        let mut bytes = [index as u8; 16];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Uuid::from_bytes(bytes)
    }
}

/// Runs a job inside a process; `None` when the process dies first.
pub(super) async fn run_in<T: 'static>(
    process: &Process,
    job: impl Future<Output = T> + 'static,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    process.spawn(async move {
        let _ = sender.send(job.await);
    });
    receiver.await.ok()
}

/// The units.
pub(super) struct Lab {
    pub(super) east: Rc<Unit>,
    pub(super) west: Rc<Unit>,
    /// A third unit, for a second secondary; not started.
    pub(super) north: Rc<Unit>,
    pub(super) world: WorldHandle,
}

pub(super) const NAME: &str = "m";

impl Lab {
    /// Runs a scenario in a fresh world in which both units are up and `m` is a mirror with two LUs and no secondary.
    pub(super) fn run<F: Future<Output = ()>>(seed: u64, scenario: impl FnOnce(Rc<Lab>) -> F) {
        let world = World::new(seed, WorldOptions::default());
        let lab = Rc::new(Lab {
            east: Unit::new("east", 1, &[("west", 2), ("north", 3)]),
            west: Unit::new("west", 2, &[("east", 1)]),
            north: Unit::new("north", 3, &[("east", 1)]),
            world: world.handle(),
        });
        let main = async {
            lab.west.start(&lab.world).await;
            lab.east.start(&lab.world).await;
            lab.create(BTreeMap::new()).await;
            scenario(lab.clone()).await;
        };
        if let Err(stalled) = world.run(main) {
            panic!("seed {seed}: {stalled:?}");
        }
    }

    pub(super) async fn create(&self, attributes: BTreeMap<String, String>) {
        let order = CreateMirror {
            name: NAME.into(),
            lus: (0..LUS).map(|lu| format!("lu{lu}")).collect(),
            policy: WritePolicy::Sync,
            attributes,
        };
        let service = self.east.service();
        let made = run_in(&self.east.process(), async move { service.create(order).await }).await;
        made.expect("alive").expect("created");
    }

    /// An order to the mirror on the primary's unit.
    pub(super) async fn order<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        order: impl FnOnce(Service) -> F,
    ) -> T {
        run_in(&self.east.process(), order(self.east.service())).await.expect("the unit lives")
    }

    pub(super) async fn add_secondary(&self, synchronized: bool) {
        self.add_secondary_on("west", synchronized).await;
    }

    pub(super) async fn add_secondary_on(&self, unit: &'static str, synchronized: bool) {
        let lus: Vec<String> = (0..LUS).map(|lu| format!("lu{lu}")).collect();
        let added = self
            .order(|service| async move { service.add_secondary(NAME, unit, &lus, synchronized).await })
            .await;
        added.expect("added");
    }

    pub(super) async fn sleep(&self, millis: u64) {
        self.world.shard().sleep(Duration::from_millis(millis)).await;
    }

    pub(super) fn view(&self) -> crate::MirrorView {
        self.east.service().list().pop().expect("one mirror")
    }

    pub(super) fn image_state(&self) -> String {
        self.view().images[1].state.clone()
    }

    /// Waits until the secondary has that state.
    pub(super) async fn reach(&self, state: &str) {
        for _ in 0..1200 {
            if self.image_state() == state {
                return;
            }
            self.sleep(100).await;
        }
        let why = self.order(|service| async move { service.why(NAME).await }).await;
        panic!("never {state}: {:?} {why:?}", self.view());
    }

    pub(super) async fn write(&self, lu: usize, offset: u64, len: u64, byte: u8) -> BlockResult {
        let data = Payload::from(vec![byte; len as usize]);
        let range = ByteRange::new(offset, len);
        self.east.request(lu, BlockRequest::Write { range, data, fua: false }).await.expect("alive")
    }

    pub(super) fn assert_equal(&self) {
        for lu in 0..LUS {
            let (a, b) = (self.east.media[lu].view(), self.west.media[lu].view());
            if let Some(at) = a.iter().zip(&b).position(|(x, y)| x != y) {
                panic!("LU {lu} differs at byte {at}: {} and {}", a[at], b[at]);
            }
        }
    }

    /// I2: durable bytes that differ are named by a durable log.
    pub(super) fn assert_named(&self) {
        let Some(record) = self.east.record() else { return };
        let Some(secondary) = record.secondary("west") else { return };
        if secondary.relation == Relation::Unrelated {
            return;
        }
        let logs = self.east.vault.logs.borrow();
        let load = |name: &str, map: &mut RegionMap, magic| {
            for (page, content) in logs.get(name).into_iter().flatten() {
                map.decode(*page, magic, content).expect("a page");
            }
        };
        for lu in 0..LUS {
            let mut named = RegionMap::new(fracture::layout(SIZE, &record.attributes));
            load(&fracture_name(record.uuid, secondary.id, lu), &mut named, fracture::MAGIC);
            let mut open = RegionMap::new(intent::layout(SIZE));
            load(&intent_name(record.uuid, lu), &mut open, intent::MAGIC);
            named.union_coarse(&open);
            let (a, b) = (self.east.media[lu].durable.borrow(), self.west.media[lu].durable.borrow());
            if *a == *b {
                continue;
            }
            for at in (0..SIZE).step_by(SECTOR as usize) {
                let range = at as usize..(at + SECTOR) as usize;
                if a[range.clone()] != b[range] {
                    let region = named.layout().touched(ByteRange::new(at, SECTOR));
                    assert!(named.all(&region), "LU {lu} byte {at} differs durably and no log names it (I2)");
                }
            }
        }
    }
}
