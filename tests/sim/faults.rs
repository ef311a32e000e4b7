//! What goes wrong, when, and what must not: a schedule of faults from the seed that never destroys the last good copy.
//!
//! The atlas: power may fail anywhere at any time, since durability is promised. A disk may fail only where the array has another
//! copy, and only one per unit, the weak one; it and its replacements are the only disks that lie, lose or refuse. Bits flip
//! only where a checksum is checked: on the link between units, and between hosts and units when digests are negotiated.

use std::rc::Rc;
use std::time::Duration;

use twinlun_api as api;
use twinlun_api::ByteSize;
use twinlun_block::ByteRange;
use twinlun_io::sim::{Crash, CrashPoint, DiskSlot, Link, Rng};
use twinlun_unit::admin::{MirrorOrder, Order};
use twinlun_unit::config::DiskConfig;

use crate::plan::UnitPlan;
use crate::stage::{DISK_SIZE, MIRROR, NoAnswer, Stage, disk_path};
use crate::{host, lives};

/// A kind of fault, or of an administrator's doing in the middle of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The link between units goes silent, both ways.
    PeerCut,
    /// One way only.
    PeerHalfCut,
    PeerReset,
    PeerClog,
    PeerRefuse,
    PeerCorrupt,
    HostCut,
    HostReset,
    HostClog,
    HostRefuse,
    HostCorrupt,
    KillPrimary,
    KillSecondary,
    PowerPrimary,
    PowerSecondary,
    /// Everything at once.
    PowerAll,
    /// A death at an exact disk operation or poll.
    FusePrimary,
    FuseSecondary,
    /// A second death while the first is being recovered from.
    KillTwice,
    PausePrimary,
    PauseSecondary,
    ClockStep,
    DiskStall,
    DiskRead,
    DiskWrite,
    DiskFlush,
    DiskNth,
    DiskGone,
    Fracture,
    Restore,
    Sync,
    Retune,
    FailDisk,
    ReplaceDisk,
    DropSessions,
    /// The administrator's word that ends ATTENTION.
    Activate,
    KillHost,
    PowerHost,
}

impl Fault {
    /// All kinds that are drawn; what is listed here decides what a seed draws, so others are added by the plan.
    pub(crate) const ALL: [Self; 35] = [
        Self::PeerCut,
        Self::PeerHalfCut,
        Self::PeerReset,
        Self::PeerClog,
        Self::PeerRefuse,
        Self::PeerCorrupt,
        Self::HostCut,
        Self::HostReset,
        Self::HostClog,
        Self::HostRefuse,
        Self::HostCorrupt,
        Self::KillPrimary,
        Self::KillSecondary,
        Self::PowerPrimary,
        Self::PowerSecondary,
        Self::PowerAll,
        Self::FusePrimary,
        Self::FuseSecondary,
        Self::KillTwice,
        Self::PausePrimary,
        Self::PauseSecondary,
        Self::ClockStep,
        Self::DiskStall,
        Self::DiskRead,
        Self::DiskWrite,
        Self::DiskFlush,
        Self::DiskNth,
        Self::DiskGone,
        Self::Fracture,
        Self::Restore,
        Self::Sync,
        Self::Retune,
        Self::FailDisk,
        Self::ReplaceDisk,
        Self::DropSessions,
    ];

    /// Whether a stage can bear it.
    pub(crate) fn is_possible(self, units: &[UnitPlan], digests: bool) -> bool {
        match self {
            Self::HostCorrupt => digests,
            fault if fault.is_of_disks() => units.iter().any(|unit| unit.weak_disk.is_some()),
            _ => true,
        }
    }

    /// What is counted when the order is carried out.
    fn order(self) -> Option<&'static str> {
        match self {
            Self::Fracture => Some("order.fracture"),
            Self::Restore => Some("order.restore"),
            Self::Sync => Some("order.sync"),
            Self::Retune => Some("order.retune"),
            Self::FailDisk => Some("order.fail_disk"),
            Self::Activate => Some("mirror.activated"),
            _ => None,
        }
    }

    /// Whether it takes a disk, or part of one, from the array.
    pub(crate) fn is_of_disks(self) -> bool {
        matches!(
            self,
            Self::DiskRead
                | Self::DiskWrite
                | Self::DiskFlush
                | Self::DiskNth
                | Self::DiskGone
                | Self::FailDisk
                | Self::ReplaceDisk
        )
    }
}

/// Breaks things until the time of trouble is over.
pub(crate) async fn break_things(stage: Rc<Stage>) {
    let mut injector = Injector { rng: stage.rng("faults"), stage: stage.clone() };
    let end = stage.shard.now() + stage.plan.trouble;
    loop {
        let calm = stage.plan.calm.as_micros() as u64;
        stage.shard.sleep(Duration::from_micros(injector.rng.range(1000..=2 * calm))).await;
        if stage.shard.now() >= end || stage.violation().is_some() {
            return;
        }
        if let Some(fault) = injector.rng.pick(&stage.plan.faults).copied() {
            injector.inject(fault).await;
        }
    }
}

/// Ends every outage. Units that are down come up by themselves.
pub(crate) fn heal(stage: &Stage) {
    for a in 0..stage.units.len() {
        for b in 0..a {
            heal_link(&stage.world.link(stage.units[a].name, stage.units[b].name));
        }
        for host in 0..stage.plan.hosts {
            heal_link(&stage.world.link(&host::name(host), stage.units[a].name));
        }
        if let Some(process) = stage.units[a].process() {
            process.resume();
            // A fuse cannot be put out, but made so long that nobody lives to see its end.
            process.crash_after(CrashPoint::Polls(u64::MAX / 2), Crash::Kill);
            stage.units[a].fuse.set(false);
        }
        for disk in disks(stage, a) {
            disk.heal();
        }
    }
}

fn heal_link(link: &Link) {
    link.heal();
    link.clog(Duration::ZERO);
    link.refuse(false);
    link.corrupt_next(0);
}

/// All disks of a unit that are in their slots.
pub(crate) fn disks(stage: &Stage, unit: usize) -> Vec<DiskSlot> {
    let config = stage.units[unit].config.borrow();
    let slots = config.disks.iter().map(|disk| stage.world.disk(&disk.path.to_string_lossy()));
    slots.filter(DiskSlot::is_present).collect()
}

struct Injector {
    stage: Rc<Stage>,
    rng: Rng,
}

impl Injector {
    fn millis(&mut self, low: u64, high: u64) -> Duration {
        // Short and long outages alike: evenly drawn ones would all be long.
        let high = self.rng.range(low..=high);
        Duration::from_millis(self.rng.range(low..=high))
    }

    fn later(&self, time: Duration, act: impl FnOnce(&Stage) + 'static) {
        let stage = self.stage.clone();
        self.stage.shard.spawn(async move {
            stage.shard.sleep(time).await;
            act(&stage);
        });
    }

    fn secondary(&mut self) -> usize {
        1 + self.rng.index(self.stage.units.len() - 1)
    }

    async fn inject(&mut self, fault: Fault) {
        self.stage.note(|| format!("fault {fault:?}"));
        match fault {
            Fault::PeerCut
            | Fault::PeerHalfCut
            | Fault::PeerReset
            | Fault::PeerClog
            | Fault::PeerRefuse
            | Fault::PeerCorrupt => {
                let peer = self.secondary();
                self.break_link(fault, self.stage.primary().name.into(), self.stage.units[peer].name.into());
            }
            Fault::HostCut | Fault::HostReset | Fault::HostClog | Fault::HostRefuse | Fault::HostCorrupt => {
                let host = self.rng.index(self.stage.plan.hosts);
                self.break_link(fault, host::name(host), self.stage.primary().name.into());
            }
            Fault::KillPrimary => self.end(0, Crash::Kill, "unit.primary_killed"),
            Fault::PowerPrimary => self.end(0, Crash::PowerCut, "unit.primary_power_cut"),
            Fault::KillSecondary => {
                let unit = self.secondary();
                self.end(unit, Crash::Kill, "unit.secondary_killed");
            }
            Fault::PowerSecondary => {
                let unit = self.secondary();
                self.end(unit, Crash::PowerCut, "unit.secondary_power_cut");
            }
            Fault::PowerAll => {
                let ended = self.stage.units.iter().filter(|unit| unit.end(Crash::PowerCut)).count();
                if ended == self.stage.units.len() {
                    self.stage.met("unit.all_power_cut");
                }
            }
            Fault::KillHost | Fault::PowerHost => {
                let host = self.rng.index(self.stage.plan.hosts);
                let how = if fault == Fault::KillHost { Crash::Kill } else { Crash::PowerCut };
                lives::end(&self.stage, host, how);
            }
            Fault::FusePrimary => self.light_fuse(0),
            Fault::FuseSecondary => {
                let unit = self.secondary();
                self.light_fuse(unit);
            }
            Fault::KillTwice => self.kill_twice(),
            Fault::PausePrimary => self.pause(0),
            Fault::PauseSecondary => {
                let unit = self.secondary();
                self.pause(unit);
            }
            Fault::ClockStep => {
                let unit = self.rng.index(self.stage.units.len());
                let micros = self.rng.range(0..=2_000_000_000) as i64 - 1_000_000_000;
                if let Some(process) = self.stage.units[unit].process() {
                    process.step_wall_clock(micros);
                }
            }
            Fault::DiskStall
            | Fault::DiskRead
            | Fault::DiskWrite
            | Fault::DiskFlush
            | Fault::DiskNth
            | Fault::DiskGone => self.break_disk(fault),
            Fault::Fracture
            | Fault::Restore
            | Fault::Sync
            | Fault::Retune
            | Fault::FailDisk
            | Fault::ReplaceDisk
            | Fault::DropSessions
            | Fault::Activate => self.administer(fault),
        }
    }

    fn end(&self, unit: usize, how: Crash, kind: &'static str) {
        if self.stage.units[unit].end(how) {
            self.stage.met(kind);
        }
    }

    fn break_link(&mut self, fault: Fault, a: String, b: String) {
        let link = self.stage.world.link(&a, &b);
        let time = self.millis(5, 15_000);
        match fault {
            Fault::PeerCut | Fault::HostCut => link.cut(),
            Fault::PeerHalfCut if self.rng.chance(1, 2) => link.cut_forward(),
            Fault::PeerHalfCut => link.cut_backward(),
            Fault::PeerReset | Fault::HostReset => return link.reset(),
            Fault::PeerClog | Fault::HostClog => link.clog(self.millis(1, 4000)),
            Fault::PeerRefuse | Fault::HostRefuse => link.refuse(true),
            _ => return link.corrupt_next(1 + self.rng.below(3) as u32),
        }
        self.later(time, move |stage| {
            stage.note(|| format!("link {a}-{b} is healed"));
            heal_link(&stage.world.link(&a, &b));
        });
    }

    fn light_fuse(&mut self, unit: usize) {
        let unit = &self.stage.units[unit];
        let Some(process) = unit.process() else { return };
        let point = match self.rng.chance(1, 2) {
            true => CrashPoint::DiskOps(self.rng.range(1..=200)),
            false => CrashPoint::Polls(self.rng.range(1..=2000)),
        };
        let how = if self.rng.chance(1, 2) { Crash::Kill } else { Crash::PowerCut };
        unit.death.set(how);
        unit.fuse.set(true);
        process.crash_after(point, how);
    }

    /// Kills a unit, starts it at once, and ends it again during recovery.
    fn kill_twice(&mut self) {
        let index = self.rng.index(self.stage.units.len());
        let unit = &self.stage.units[index];
        let power = |rng: &mut Rng| if rng.chance(1, 2) { Crash::Kill } else { Crash::PowerCut };
        if unit.process().is_none() {
            return;
        }
        let first = power(&mut self.rng);
        unit.end(first);
        if first == Crash::PowerCut && index == 0 {
            self.stage.oracle.borrow_mut().power_cut();
        }
        self.stage.boot(index);
        let how = power(&mut self.rng);
        let ops = self.rng.range(1..=60);
        unit.death.set(how);
        if let Some(process) = unit.process() {
            self.stage.met("unit.killed_twice");
            process.crash_after(CrashPoint::DiskOps(ops), how);
        }
    }

    fn pause(&mut self, unit: usize) {
        let Some(process) = self.stage.units[unit].process() else { return };
        process.pause();
        self.stage.met(if unit == 0 { "unit.paused_primary" } else { "unit.paused_secondary" });
        let time = self.millis(10, 25_000);
        self.later(time, move |_| process.resume());
    }

    /// A unit with a weak disk, and the path of that disk.
    fn weak(&mut self) -> Option<(usize, String)> {
        let plans = self.stage.plan.units.iter().enumerate();
        let weak: Vec<_> = plans.filter_map(|(index, unit)| Some((index, unit.weak_disk?))).collect();
        let (index, disk) = *self.rng.pick(&weak)?;
        let unit = &self.stage.units[index];
        let path = unit.weak_path.borrow().clone().unwrap_or_else(|| disk_path(unit.name, disk));
        Some((index, path))
    }

    fn break_disk(&mut self, fault: Fault) {
        if fault == Fault::DiskStall {
            let unit = self.rng.index(self.stage.units.len());
            let time = self.millis(10, 8000);
            if let Some(disk) = self.rng.pick(&disks(&self.stage, unit)) {
                disk.stall(time);
            }
            return;
        }
        let Some((unit, path)) = self.weak() else { return };
        let disk = self.stage.world.disk(&path);
        if !disk.is_present() {
            return;
        }
        let start = self.rng.below(DISK_SIZE / 4096) * 4096;
        let range = ByteRange::new(start, (self.rng.range(1..=2048) * 4096).min(DISK_SIZE - start));
        match fault {
            Fault::DiskRead => disk.fail_reads(range),
            Fault::DiskWrite => {
                disk.fail_writes(range);
                let time = self.millis(100, 10_000);
                self.later(time, move |_| disk.heal());
            }
            Fault::DiskFlush => disk.fail_flushes(1 + self.rng.below(3) as u32),
            Fault::DiskNth => disk.fail_in(self.rng.range(1..=300)),
            Fault::DiskGone => {
                // It comes back as it was: what the unit did meanwhile is missing on it. An older state than the one at which it was
                // pulled would be a forgery, and nothing could tell it from the truth when no other disk was written meanwhile.
                let away = self.millis(1, 20_000);
                let Some(medium) = disk.remove() else { return };
                if unit == 0 {
                    // Its cache lost power; a unit that is down cannot know.
                    self.stage.oracle.borrow_mut().power_cut();
                }
                self.stage.pulled.borrow_mut().insert(path.clone(), medium);
                self.later(away, move |stage| {
                    if let Some(medium) = stage.pulled.borrow_mut().remove(&path) {
                        stage.world.disk(&path).insert(medium);
                    }
                });
            }
            _ => {}
        }
    }

    /// Gives an order and does not wait for it: what is meant is its effect in the middle of everything.
    fn administer(&mut self, fault: Fault) {
        let unit = self.secondary();
        let secondary = self.stage.units[unit].name.to_owned();
        let image = api::ImageOrder { unit: secondary.clone() };
        let mirror = |order| Order::Mirror { name: MIRROR.into(), order };
        let (index, order) = match fault {
            Fault::Fracture => {
                // Some administrators forget to restore; the end of the run does it then.
                if self.rng.chance(2, 3) {
                    let (time, image) = (self.millis(50, 10_000), image.clone());
                    let stage = self.stage.clone();
                    self.stage.shard.spawn(async move {
                        stage.shard.sleep(time).await;
                        if stage.order_mirror(MirrorOrder::Restore(image)).await.is_ok() {
                            stage.met("order.restore");
                        }
                    });
                }
                (0, mirror(MirrorOrder::Fracture(image)))
            }
            Fault::Activate => (0, mirror(MirrorOrder::Activate)),
            Fault::Restore => (0, mirror(MirrorOrder::Restore(image))),
            Fault::Sync => (0, mirror(MirrorOrder::Sync(image))),
            Fault::Retune => {
                let choices = [
                    ("synchronization_rate", "unlimited"),
                    ("synchronization_rate", "128KiB/s"),
                    ("recovery_policy", "manual"),
                    ("recovery_policy", "automatic"),
                    ("write_timeout", "1"),
                    ("write_timeout", "10"),
                    ("synchronization_priority", "high"),
                ];
                let (name, value) = *self.rng.pick(&choices).expect("not empty");
                let of_image = name.starts_with("synchronization_rate") || name == "recovery_policy";
                let set = api::SetAttributes {
                    unit: of_image.then_some(secondary),
                    attributes: [(name.to_owned(), value.to_owned())].into(),
                };
                (0, mirror(MirrorOrder::Set(set)))
            }
            Fault::FailDisk | Fault::ReplaceDisk => {
                let Some((index, _)) = self.weak() else { return };
                let disk = self.stage.plan.units[index].weak_disk.expect("it has one");
                if fault == Fault::FailDisk {
                    (index, Order::FailDisk { slot: disk.to_string() })
                } else {
                    self.replace_disk(index, disk);
                    return;
                }
            }
            _ => (0, Order::ListSessions),
        };
        let stage = self.stage.clone();
        let drop_sessions = fault == Fault::DropSessions;
        self.stage.shard.spawn(async move {
            let answer = stage.order(index, order).await;
            if let (Ok(_), Some(kind)) = (&answer, fault.order()) {
                stage.met(kind);
            }
            stage.note(|| {
                format!("{fault:?}: {}", if answer.is_ok() { "done".into() } else { format!("{answer:?}") })
            });
            if let (true, Ok(sessions)) = (drop_sessions, answer) {
                for session in sessions["items"].as_array().into_iter().flatten() {
                    let tsih = session["tsih"].as_u64().unwrap_or(0) as u16;
                    if stage.order(index, Order::DropSession { tsih }).await.is_ok() {
                        stage.met("order.drop_sessions");
                    }
                }
            }
        });
    }

    fn replace_disk(&mut self, index: usize, disk: usize) {
        let stage = self.stage.clone();
        self.stage.shard.spawn(async move {
            let done = replace_disk(&stage, index, disk).await;
            if done.is_ok() {
                stage.met("order.replace_disk");
            }
            stage.note(|| format!("{} disk {disk} replaced: {done:?}", stage.units[index].name));
        });
    }
}

/// Puts a new disk into the place of another; the configuration follows.
pub(crate) async fn replace_disk(stage: &Stage, index: usize, disk: usize) -> Result<(), String> {
    let unit = &stage.units[index];
    let path = unit.new_disk();
    // Refused when it is out of use already, or not to be spared: the second order says which.
    let _ = stage.order(index, Order::FailDisk { slot: disk.to_string() }).await;
    // The order takes paths relative to the unit's folder.
    let file = path.strip_prefix(&format!("{}/", unit.name)).unwrap_or(&path).to_owned();
    let with = api::ReplaceDisk { path: file, size: Some(ByteSize(DISK_SIZE)) };
    let answer = stage.order(index, Order::ReplaceDisk { slot: disk.to_string(), with }).await;
    if matches!(answer, Err(NoAnswer::Problem(_))) {
        return Err(format!("{answer:?}"));
    }
    let config = DiskConfig { path: path.clone().into(), size: None };
    let mut configured = unit.config.borrow_mut();
    if answer.is_ok() {
        let old = unit.weak_path.borrow().clone().unwrap_or_else(|| disk_path(unit.name, disk));
        configured.disks.retain(|disk| disk.path.to_string_lossy() != old);
    }
    // The unit may have died before or after it took the disk in: then both are named, and it knows which one is its own.
    configured.disks.push(config);
    *unit.weak_path.borrow_mut() = Some(path);
    answer.map(drop).map_err(|error| format!("{error:?}"))
}
