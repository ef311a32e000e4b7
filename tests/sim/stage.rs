//! Storage units on a simulated world: their lives, and the orders that administrators give them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use twinlun_api as api;
use twinlun_api::ByteSize;
use twinlun_io::Shard;
use twinlun_io::sim::{Crash, Medium, Process, Rng, WorldHandle};
use twinlun_mirror::MirrorView;
use twinlun_unit::Processor;
use twinlun_unit::admin::{MirrorOrder, Order};
use twinlun_unit::config::{
    ChapConfig, Config, DiskConfig, EngineName, Limits, LinkConfig, PeerConfig, PortalConfig,
};

use crate::lives;
use crate::oracle::Oracle;
use crate::plan::Plan;
use crate::verify::{self, Fork};

/// The mirror that all units take part in.
pub(crate) const MIRROR: &str = "m";
/// Size of a disk in bytes. Sparse: only what is written costs memory.
pub(crate) const DISK_SIZE: u64 = 128 << 20;
const KEY: &[u8] = b"a key for simulated units only";
const NAMES: [&str; 3] = ["east", "west", "north"];
const LINK_PORT: u16 = 7400;
const ISCSI_PORT: u16 = 3260;

/// A storage unit over all its lives.
pub(crate) struct Unit {
    pub(crate) name: &'static str,
    pub(crate) ip: IpAddr,
    pub(crate) config: RefCell<Config>,
    process: RefCell<Option<Process>>,
    processor: RefCell<Weak<Processor>>,
    refused: RefCell<Option<String>>,
    /// What its next death will be put down to.
    pub(crate) death: Cell<Crash>,
    /// Whether its death at an exact operation is ordered.
    pub(crate) fuse: Cell<bool>,
    /// Whether it shall run.
    pub(crate) wanted: Cell<bool>,
    pub(crate) lives: Cell<u32>,
    /// Disks that replaced others.
    replaced: Cell<u32>,
    /// The disk that stands in the place of the weak one now.
    pub(crate) weak_path: RefCell<Option<String>>,
}

/// Why an order was not carried out.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// The unit is not there, or died over it.
    Down,
    /// It refuses.
    #[allow(dead_code, reason = "shown in reports")]
    Problem(api::Problem),
}

impl Unit {
    fn new(plan: &Plan, index: usize) -> Self {
        let name = NAMES[index];
        let disks = 0..plan.units[index].disks;
        let peers = (0..plan.units.len()).filter(|peer| *peer != index);
        let ip = address(index);
        let config = Config {
            unit: name.into(),
            busy_poll: Duration::ZERO,
            sp: 'a',
            state_dir: name.into(),
            disks: disks
                .map(|disk| DiskConfig { path: disk_path(name, disk).into(), size: Some(DISK_SIZE) })
                .collect(),
            portals: vec![PortalConfig::new(SocketAddr::new(ip, ISCSI_PORT), 1)],
            chap: ChapConfig::default(),
            isns: None,
            link: Some(LinkConfig {
                listen: Some(SocketAddr::new(ip, LINK_PORT)),
                key_file: "link.key".into(),
                peers: peers
                    .map(|peer| PeerConfig {
                        unit: NAMES[peer].into(),
                        addresses: vec![SocketAddr::new(address(peer), LINK_PORT)],
                    })
                    .collect(),
            }),
            admin_socket: "admin.sock".into(),
            engine: EngineName::Auto,
            limits: Limits { ping_seconds: 5, ping_answer_seconds: 5, ..Limits::default() },
            accept_half: false,
        };
        Self {
            name,
            ip,
            config: RefCell::new(config),
            process: RefCell::default(),
            processor: RefCell::default(),
            refused: RefCell::default(),
            death: Cell::new(Crash::Kill),
            fuse: Cell::new(false),
            wanted: Cell::new(true),
            lives: Cell::new(0),
            replaced: Cell::new(0),
            weak_path: RefCell::default(),
        }
    }

    pub(crate) fn portal(&self) -> SocketAddr {
        SocketAddr::new(self.ip, ISCSI_PORT)
    }

    pub(crate) fn target(&self) -> String {
        format!("iqn.2026-11.io.twinlun:{}", self.name)
    }

    /// Its present life, if it lives.
    pub(crate) fn process(&self) -> Option<Process> {
        self.process.borrow().clone().filter(Process::is_alive)
    }

    /// Whether it has come up.
    pub(crate) fn is_ready(&self) -> bool {
        self.process().is_some() && self.processor.borrow().strong_count() > 0
    }

    /// Ends its life now. Whether there was one to end.
    pub(crate) fn end(&self, how: Crash) -> bool {
        let Some(process) = self.process() else { return false };
        self.death.set(how);
        self.fuse.set(false);
        match how {
            Crash::Kill => process.kill(),
            Crash::PowerCut => process.power_cut(),
        }
        true
    }

    /// Leaves numbers of disks out that another world has used.
    pub(crate) fn skip_disks(&self, count: u32) {
        self.replaced.set(self.replaced.get() + count);
    }

    /// Path for a disk that has never been.
    pub(crate) fn new_disk(&self) -> String {
        self.replaced.set(self.replaced.get() + 1);
        disk_path(self.name, 10 + self.replaced.get() as usize)
    }
}

fn address(unit: usize) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, 1 + unit as u8).into()
}

/// Path of a disk of a unit.
pub(crate) fn disk_path(unit: &str, disk: usize) -> String {
    format!("{unit}/disk{disk}")
}

/// Name of a LU of the set, the same on every unit.
pub(crate) fn lu_name(lu: usize) -> String {
    format!("lu{lu}")
}

/// All units of a world, and what is known about the run.
pub(crate) struct Stage {
    pub(crate) plan: Plan,
    pub(crate) world: WorldHandle,
    /// The platform of whoever watches and breaks things.
    pub(crate) shard: Shard,
    pub(crate) units: Vec<Unit>,
    pub(crate) oracle: RefCell<Oracle>,
    /// Disks that were pulled and will be put back.
    pub(crate) pulled: RefCell<BTreeMap<String, Medium>>,
    /// Hosts do little while it is set.
    pub(crate) resting: Cell<bool>,
    /// Hosts stop when it is set.
    pub(crate) closing: Cell<bool>,
    /// Faults are over: nothing may fail any more.
    pub(crate) healed: Cell<bool>,
    /// Copies of the disks at moments when a host heard of a write and the fracture in force was not on record.
    pub(crate) overtaken: RefCell<Vec<Fork>>,
    /// The present life of each host.
    pub(crate) hosts: RefCell<BTreeMap<usize, Process>>,
    /// What was met, by the names of `coverage.rs`.
    met: RefCell<BTreeMap<&'static str, u64>>,
    violations: RefCell<Vec<String>>,
    log: RefCell<Vec<String>>,
    loud: bool,
}

/// Copies of this kind that are made in a run.
const OVERTAKEN: usize = 2;

/// Lines of the log that are kept for the report of a failure.
const KEPT: usize = 120;

impl Stage {
    pub(crate) fn new(plan: Plan, world: WorldHandle, loud: bool) -> Rc<Self> {
        let sizes: Vec<u64> = plan.lus.iter().map(|lu| lu.size).collect();
        Rc::new(Self {
            units: (0..plan.units.len()).map(|index| Unit::new(&plan, index)).collect(),
            shard: world.shard(),
            world,
            oracle: RefCell::new(Oracle::new(&sizes)),
            pulled: RefCell::default(),
            resting: Cell::new(false),
            closing: Cell::new(false),
            healed: Cell::new(false),
            overtaken: RefCell::default(),
            hosts: RefCell::default(),
            met: RefCell::default(),
            violations: RefCell::default(),
            log: RefCell::default(),
            loud,
            plan,
        })
    }

    /// The unit that holds the primary.
    pub(crate) fn primary(&self) -> &Unit {
        &self.units[0]
    }

    pub(crate) fn secondaries(&self) -> &[Unit] {
        &self.units[1..]
    }

    pub(crate) fn rng(&self, name: &str) -> Rng {
        self.world.rng(name)
    }

    /// Notes what happens, for whoever reads about a failure.
    pub(crate) fn note(&self, text: impl FnOnce() -> String) {
        let line = format!("{:?} {}", self.world.now(), text());
        if self.loud {
            println!("{line}");
        }
        let mut log = self.log.borrow_mut();
        if log.len() >= 2 * KEPT {
            log.drain(..KEPT);
        }
        log.push(line);
    }

    /// Counts something that a whole run has to meet.
    pub(crate) fn met(&self, kind: &'static str) {
        *self.met.borrow_mut().entry(kind).or_default() += 1;
    }

    /// What was met, and how often.
    pub(crate) fn all_met(&self) -> BTreeMap<&'static str, u64> {
        self.met.borrow().clone()
    }

    /// Notes what is too much for every run.
    pub(crate) fn detail(&self, text: impl FnOnce() -> String) {
        if self.loud {
            self.note(text);
        }
    }

    /// A promise was broken.
    pub(crate) fn violated(&self, what: impl Into<String>) {
        let what = what.into();
        self.note(|| format!("VIOLATION {what}"));
        self.violations.borrow_mut().push(what);
    }

    pub(crate) fn check(&self, result: Result<(), String>) {
        if let Err(what) = result {
            self.violated(what);
        }
    }

    pub(crate) fn violation(&self) -> Option<String> {
        self.violations.borrow().first().cloned()
    }

    pub(crate) fn last_lines(&self) -> Vec<String> {
        let log = self.log.borrow();
        log[log.len().saturating_sub(KEPT)..].to_vec()
    }

    /// Starts a life of a unit.
    pub(crate) fn boot(self: &Rc<Self>, index: usize) {
        let unit = &self.units[index];
        if unit.process().is_some() {
            return;
        }
        unit.lives.set(unit.lives.get() + 1);
        unit.death.set(Crash::Kill);
        unit.refused.borrow_mut().take();
        let process = self.world.process(unit.name, unit.ip);
        *unit.process.borrow_mut() = Some(process.clone());
        let (shard, config, this) = (process.shard(), unit.config.borrow().clone(), Rc::downgrade(self));
        self.note(|| format!("{} starts, life {}", unit.name, unit.lives.get()));
        process.spawn(async move {
            let started = Processor::start(shard, config, Some(KEY.to_vec())).await;
            let Some(this) = this.upgrade() else { return };
            let unit = &this.units[index];
            match started {
                Ok(processor) => {
                    this.note(|| format!("{} is up", unit.name));
                    *unit.processor.borrow_mut() = Rc::downgrade(&processor);
                    drop(this);
                    std::future::pending::<()>().await;
                    drop(processor);
                }
                Err(error) => {
                    this.note(|| format!("{} does not start: {error}", unit.name));
                    *unit.refused.borrow_mut() = Some(error.to_string());
                }
            }
        });
    }

    /// Why the unit did not come up, if it did not.
    pub(crate) fn refusal(&self, index: usize) -> Option<String> {
        self.units[index].refused.borrow().clone()
    }

    /// Keeps a unit running, as an init system does: a dead one is started again after a while.
    pub(crate) async fn supervise(self: Rc<Self>, index: usize) {
        let mut rng = self.rng(&format!("supervisor {index}"));
        loop {
            self.shard.sleep(Duration::from_millis(50)).await;
            let unit = &self.units[index];
            if unit.refused.borrow().is_some() {
                unit.end(Crash::Kill);
            }
            if unit.process().is_some() || !unit.wanted.get() {
                continue;
            }
            let how = unit.death.get();
            self.note(|| format!("{} is found dead ({how:?})", unit.name));
            if unit.fuse.replace(false) {
                self.met(if index == 0 { "unit.fuse_primary" } else { "unit.fuse_secondary" });
            }
            if how == Crash::PowerCut && index == 0 {
                self.oracle.borrow_mut().power_cut();
            }
            let patience = if self.healed.get() { 500 } else { 8000 };
            self.shard.sleep(Duration::from_millis(rng.range(20..=patience))).await;
            self.boot(index);
        }
    }

    /// Gives an order to a unit and waits for the answer, or for its death.
    pub(crate) async fn order(&self, index: usize, order: Order) -> Result<serde_json::Value, NoAnswer> {
        let unit = &self.units[index];
        let (Some(process), Some(processor)) = (unit.process(), unit.processor.borrow().upgrade()) else {
            return Err(NoAnswer::Down);
        };
        let (answer, answered) = oneshot::channel();
        process.spawn(async move {
            let result = processor.obey(order, false).await;
            let _ = answer.send(result);
        });
        match answered.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(problem)) => Err(NoAnswer::Problem(problem)),
            Err(_) => Err(NoAnswer::Down),
        }
    }

    /// An order about the mirror, to the primary.
    pub(crate) async fn order_mirror(&self, order: MirrorOrder) -> Result<(), NoAnswer> {
        self.order(0, Order::Mirror { name: MIRROR.into(), order }).await.map(drop)
    }

    /// The mirror as a unit sees it, from what it knows itself.
    pub(crate) fn view(&self, index: usize) -> Option<MirrorView> {
        let unit = &self.units[index];
        unit.process()?;
        let views = unit.processor.borrow().upgrade()?.present_mirrors();
        views.into_iter().find(|view| view.name == MIRROR)
    }

    /// The mirror as its primary's disks know it.
    pub(crate) fn recorded(&self) -> Option<MirrorView> {
        let unit = self.primary();
        unit.process()?;
        let views = unit.processor.borrow().upgrade()?.recorded_mirrors();
        views.into_iter().find(|view| view.name == MIRROR)
    }

    /// A host hears that a write is done. When the primary's disks still say that a secondary is in step which the primary has
    /// lost, that secondary must have the write (I1): the disks are copied, to look.
    pub(crate) fn acknowledged(&self) {
        if self.overtaken.borrow().len() < OVERTAKEN && verify::is_overtaken(self) {
            let fork = verify::fork(self);
            self.overtaken.borrow_mut().push(fork);
        }
    }

    /// Whether the mirror is known to its primary: a power cut may come before it was stored.
    pub(crate) async fn exists(&self) -> bool {
        while !self.primary().is_ready() {
            self.shard.sleep(Duration::from_millis(10)).await;
        }
        self.view(0).is_some()
    }

    /// Builds LUs, maps them, creates the mirror and adds its secondaries.
    pub(crate) async fn set_up(self: &Rc<Self>) -> Result<(), String> {
        for index in 0..self.units.len() {
            self.boot(index);
        }
        for index in 0..self.units.len() {
            while !self.units[index].is_ready() {
                if let Some(refusal) = self.refusal(index) {
                    return Err(format!("a new unit does not start: {refusal}"));
                }
                self.shard.sleep(Duration::from_millis(1)).await;
            }
            for (lu, plan) in self.plan.lus.iter().enumerate() {
                let create = api::CreateLu {
                    name: lu_name(lu),
                    size: ByteSize(plan.size),
                    raid: self.plan.units[index].raid,
                    disks: Vec::new(),
                    block_size: plan.block_size,
                    thin: plan.thin,
                    write_cache: self.plan.write_cache,
                    physical_block_size: None,
                    removable: false,
                    read_only: false,
                };
                self.must(index, Order::CreateLu(create)).await?;
            }
        }
        if let Some(credentials) = lives::credentials(self.plan.proof) {
            self.must(0, Order::AddHost(credentials)).await?;
        }
        for lu in 0..self.plan.lus.len() {
            let map = api::MapLu { host: "any".into(), lun: Some(lu as u16) };
            self.must(0, Order::MapLu { name: lu_name(lu), map }).await?;
        }
        let lus: Vec<String> = (0..self.plan.lus.len()).map(lu_name).collect();
        let attributes = [("extent_size", self.plan.extent_size), ("write_timeout", self.plan.write_timeout)];
        let create = api::CreateMirror {
            name: MIRROR.into(),
            lus: lus.clone(),
            policy: "sync".into(),
            attributes: attributes.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        };
        self.must(0, Order::CreateMirror(create)).await?;
        for unit in self.secondaries() {
            let add = api::AddSecondary {
                unit: unit.name.into(),
                lus: lus.clone(),
                synchronized: self.plan.vouched,
            };
            self.must(0, Order::Mirror { name: MIRROR.into(), order: MirrorOrder::AddSecondary(add) })
                .await?;
            let policy = if self.plan.manual_recovery { "manual" } else { "automatic" };
            let set = [("synchronization_rate", self.plan.rate), ("recovery_policy", policy)];
            let set = api::SetAttributes {
                unit: Some(unit.name.into()),
                attributes: set.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            };
            self.must(0, Order::Mirror { name: MIRROR.into(), order: MirrorOrder::Set(set) }).await?;
        }
        if self.plan.strict {
            let policy = if self.plan.manual_activation { "manual" } else { "automatic" };
            let set = [("maximum_missing_images", "0"), ("activation_policy", policy)];
            let attributes = set.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            let set = MirrorOrder::Set(api::SetAttributes { unit: None, attributes });
            self.must(0, Order::Mirror { name: MIRROR.into(), order: set }).await?;
        }
        Ok(())
    }

    async fn must(&self, index: usize, order: Order) -> Result<serde_json::Value, String> {
        let text = format!("{order:?}");
        self.order(index, order).await.map_err(|error| format!("set-up: {text}: {error:?}"))
    }
}
