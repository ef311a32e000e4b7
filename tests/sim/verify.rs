//! Whether the promises hold: while things break, after everything is healed, and after a power cut in a copy of the world.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use twinlun_api as api;
use twinlun_block::ByteRange;
use twinlun_io::Shard;
use twinlun_io::sim::{Crash, Medium, World, WorldOptions};
use twinlun_mirror::{ImageView, MirrorView};
use twinlun_unit::admin::{MirrorOrder, Order as AdminOrder};
use twinlun_unit::config::Config;
use twinlun_unit::offline::{self, OfflineLu};

use crate::faults;
use crate::oracle::{Oracle, Order, View};
use crate::pattern::SECTOR;
use crate::plan::Plan;
use crate::stage::{Stage, lu_name};

/// Virtual time within which everything left alone must be in step again (I7).
const CONVERGENCE: Duration = Duration::from_secs(600);
/// Jobs that a unit may have at most (I10): a few per connection, command and copy in these small worlds.
const MOST_JOBS: usize = 1500;

/// Watches what must hold at every moment.
pub(crate) async fn watch(stage: Rc<Stage>) {
    let mut configuration = vec![0; stage.units.len()];
    let mut last = None;
    loop {
        stage.shard.sleep(Duration::from_millis(100)).await;
        last = see(&stage, last.as_ref());
        for (index, newest) in configuration.iter_mut().enumerate() {
            let unit = &stage.units[index];
            if let Some(view) = stage.view(index) {
                if view.configuration < *newest {
                    let number = view.configuration;
                    stage.violated(format!(
                        "{} went back from configuration {newest} to {number} (I9)",
                        unit.name
                    ));
                }
                *newest = view.configuration;
            }
            let jobs = unit.process().map_or(0, |process| process.jobs());
            if jobs > MOST_JOBS {
                stage.violated(format!("{} has {jobs} jobs (I10)", unit.name));
            }
        }
    }
}

/// Counts what the mirror's primary shows that it did not show before.
fn see(stage: &Stage, last: Option<&MirrorView>) -> Option<MirrorView> {
    let view = stage.view(0);
    let (Some(now), Some(before)) = (&view, last) else { return view };
    match (before.state.as_str(), now.state.as_str()) {
        ("ACTIVE", "ATTENTION") => stage.met("mirror.attention"),
        ("ATTENTION", "ACTIVE") if !stage.plan.manual_activation => stage.met("mirror.attention_ended"),
        _ => {}
    }
    for image in now.images.iter().filter(|image| image.designator == "secondary") {
        let Some(old) = before.images.iter().find(|old| old.unit == image.unit) else { continue };
        let began = |is: fn(&ImageView) -> bool| is(image) && !is(old);
        if began(|image| image.fractured) {
            stage.met("mirror.fractured");
        }
        if began(|image| image.state == "SYNCHRONIZING") {
            stage.met("mirror.synchronizing");
        }
        if began(is_in_step) {
            stage.met("mirror.resynchronized");
        }
    }
    view
}

fn is_in_step(image: &ImageView) -> bool {
    !image.fractured && matches!(image.state.as_str(), "SYNCHRONIZED" | "CONSISTENT")
}

/// Whether a secondary is lost, and on record as being in step.
pub(crate) fn is_overtaken(stage: &Stage) -> bool {
    let (Some(now), Some(recorded)) = (stage.view(0), stage.recorded()) else { return false };
    let lost = |unit: &str| now.images.iter().any(|image| image.unit == unit && image.fractured);
    recorded
        .images
        .iter()
        .any(|image| image.designator == "secondary" && is_in_step(image) && lost(&image.unit))
}

fn is_synchronized(view: &MirrorView) -> bool {
    let mut secondaries = view.images.iter().filter(|image| image.designator == "secondary");
    view.state == "ACTIVE"
        && secondaries.all(|i| i.state == "SYNCHRONIZED" && !i.fractured && i.dirty_bytes == 0)
}

/// Waits until the mirror is synchronized; gives orders that wait for an administrator's word.
pub(crate) async fn converge(stage: &Rc<Stage>) -> Result<(), String> {
    let end = stage.shard.now() + CONVERGENCE;
    let mut round = 0_u32;
    loop {
        let view = stage.view(0);
        if view.as_ref().is_some_and(is_synchronized) && stage.units.iter().all(super::stage::Unit::is_ready)
        {
            return Ok(());
        }
        if stage.shard.now() >= end {
            let refusals: Vec<_> = (0..stage.units.len()).filter_map(|index| stage.refusal(index)).collect();
            let why = stage.order(0, AdminOrder::WhyMirror { name: crate::stage::MIRROR.into() }).await;
            return Err(format!(
                "not in step {CONVERGENCE:?} after everything was healed (I7): {view:?} {why:?} {refusals:?}"
            ));
        }
        if round.is_multiple_of(20) && view.is_some_and(|view| view.state != "ACTIVE") {
            // Under the automatic policy it comes back by itself, or the test for that would be worth nothing.
            if stage.plan.manual_activation && stage.order_mirror(MirrorOrder::Activate).await.is_ok() {
                stage.met("mirror.activated");
            }
        }
        if round.is_multiple_of(20) {
            for unit in stage.secondaries() {
                let image = api::ImageOrder { unit: unit.name.into() };
                let _ = stage.order_mirror(MirrorOrder::Restore(image.clone())).await;
                let _ = stage.order_mirror(MirrorOrder::Sync(image)).await;
            }
        }
        round += 1;
        stage.shard.sleep(Duration::from_millis(50)).await;
    }
}

/// Replaces disks that are out of use and waits until every LU has all its copies.
pub(crate) async fn repair_arrays(stage: &Rc<Stage>) -> Result<(), String> {
    let end = stage.shard.now() + CONVERGENCE;
    for index in 0..stage.units.len() {
        let unit = &stage.units[index];
        let mut complaint = String::from("the unit does not start");
        loop {
            if stage.shard.now() >= end {
                let refusal = stage.refusal(index);
                return Err(format!(
                    "{}: {complaint} {CONVERGENCE:?} after everything was healed (I7) {refusal:?}",
                    unit.name
                ));
            }
            match look_at_array(stage, index).await {
                Ok(()) => break,
                Err(what) => complaint = what,
            }
            stage.shard.sleep(Duration::from_millis(200)).await;
        }
    }
    Ok(())
}

async fn look_at_array(stage: &Rc<Stage>, index: usize) -> Result<(), String> {
    let disks: api::Items<api::DiskView> = ask(stage, index, AdminOrder::ListDisks).await?;
    if let Some(disk) = disks.items.iter().find(|disk| {
        matches!(disk.state.as_str(), "failed" | "missing" | "stale") && disk.slot.parse::<usize>().is_ok()
    }) {
        let slot = disk.slot.parse().map_err(|_| "a slot without number")?;
        let done = faults::replace_disk(stage, index, slot).await;
        stage.met("array.disk_failed");
        stage.note(|| {
            format!("{} disk {slot} is {}, replaced: {done:?}", stage.units[index].name, disk.state)
        });
        return Err(format!("disk {slot} is {}: {:?}; replacing it: {done:?}", disk.state, disk.reason));
    }
    let lus: api::Items<api::LuView> = ask(stage, index, AdminOrder::ListLus).await?;
    match lus.items.iter().find(|lu| lu.state != "optimal") {
        Some(lu) => Err(format!("LU {} is {}", lu.name, lu.state)),
        None => Ok(()),
    }
}

async fn ask<T: serde::de::DeserializeOwned>(
    stage: &Rc<Stage>,
    index: usize,
    order: AdminOrder,
) -> Result<T, String> {
    let value = stage.order(index, order).await.map_err(|error| format!("{error:?}"))?;
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// Ends all units and compares their images byte by byte with the primary's, and that with what hosts were told.
pub(crate) async fn compare_images(stage: &Rc<Stage>, view: View) -> Result<(), String> {
    for unit in &stage.units {
        unit.wanted.set(false);
        unit.end(Crash::Kill);
    }
    let inspector = stage.world.process("inspector", std::net::Ipv4Addr::new(10, 0, 3, 1).into());
    let shard = inspector.shard();
    for lu in 0..stage.plan.lus.len() {
        let config = stage.primary().config.borrow().clone();
        let primary = open(&shard, &config, lu).await?;
        let oracle = stage.oracle.borrow().clone();
        check_lu(&primary, &oracle, view, lu).await.map_err(|what| format!("primary: {what}"))?;
        for unit in stage.secondaries() {
            let config = unit.config.borrow().clone();
            let secondary = open(&shard, &config, lu).await?;
            let differences =
                offline::compare(&primary, &secondary).await.map_err(|error| error.to_string())?;
            close(secondary).await?;
            if let Some(range) = differences.first() {
                let sector = range.offset() / SECTOR;
                return Err(format!(
                    "LU {lu}: SYNCHRONIZED image on {} differs from the primary at sector {sector} (I2, I3)",
                    unit.name
                ));
            }
        }
        close(primary).await?;
    }
    Ok(())
}

async fn open(shard: &Shard, config: &Config, lu: usize) -> Result<OfflineLu, String> {
    let name = lu_name(lu);
    OfflineLu::open(shard, config, &name)
        .await
        .map_err(|error| format!("unit {} offline: {error}", config.unit))
}

async fn close(lu: OfflineLu) -> Result<(), String> {
    lu.close().await.map_err(|error| error.to_string())
}

async fn check_lu(lu: &OfflineLu, oracle: &Oracle, view: View, index: usize) -> Result<(), String> {
    for range in ByteRange::new(0, lu.size()).split_at_multiples(offline::STEP) {
        let data = lu.read(range).await.map_err(|error| error.to_string())?;
        oracle.check_image(view, index, range.offset() / SECTOR, &data.to_bytes())?;
    }
    Ok(())
}

/// All disks at one moment, and what must be on them.
pub(crate) struct Fork {
    at: Duration,
    disks: Vec<(PathBuf, Medium)>,
    configs: Vec<Config>,
    oracle: Oracle,
    /// Units of secondaries that the primary held for in step, or that were on record as such.
    in_step: Vec<usize>,
    /// Units of secondaries that it held for consistent, though they miss writes.
    behind: Vec<usize>,
    /// The primary was alive: a living one has decided about everything that it acknowledged.
    serving: bool,
}

/// Copies all disks, and notes what they must hold.
pub(crate) fn fork(stage: &Stage) -> Fork {
    let mut media = Vec::new();
    for unit in &stage.units {
        for disk in &unit.config.borrow().disks {
            let slot = stage.world.disk(&disk.path.to_string_lossy());
            let pulled = stage.pulled.borrow().get(&*disk.path.to_string_lossy()).cloned();
            let medium = slot.is_present().then(|| slot.copy()).or(pulled);
            media.extend(medium.map(|medium| (disk.path.clone(), medium)));
        }
    }
    let (view, recorded) = (stage.view(0), stage.recorded());
    let which = |views: &[&Option<MirrorView>], fits: fn(&ImageView) -> bool| {
        let images: Vec<_> =
            views.iter().flat_map(|view| view.iter()).flat_map(|view| &view.images).collect();
        let fits =
            |unit: &str| images.iter().any(|i| i.unit == unit && i.designator == "secondary" && fits(i));
        (1..stage.units.len()).filter(|index| fits(stage.units[*index].name)).collect::<Vec<_>>()
    };
    let in_step = which(&[&view, &recorded], is_in_step);
    let behind = which(&[&view], |image| image.fractured && image.state == "CONSISTENT");
    stage.note(|| format!("fork: {in_step:?} in step"));
    Fork {
        at: stage.shard.now().since_start(),
        disks: media,
        configs: stage.units.iter().map(|unit| unit.config.borrow().clone()).collect(),
        oracle: stage.oracle.borrow().clone(),
        in_step,
        behind,
        serving: view.is_some(),
    }
}

fn world(seed: u64, fork: &Fork, power_cut: bool) -> World {
    let options = WorldOptions { time_limit: Duration::from_secs(2000), ..WorldOptions::default() };
    let world = World::new(seed, options);
    for (path, medium) in &fork.disks {
        let slot = world.disk(&path.to_string_lossy());
        slot.insert(medium.clone());
        slot.heal();
        if power_cut {
            slot.power_cut();
        }
    }
    world
}

/// What secondaries hold that miss writes and are consistent: a point of the write order of the whole set (I5, B-2).
pub(crate) fn check_order(plan: &Plan, fork: &Fork) -> Result<(), String> {
    if plan.write_cache {
        // A secondary that lost power may have lost any of what no flush covered.
        return Ok(());
    }
    for index in &fork.behind {
        let config = &fork.configs[*index];
        let order = look(plan, fork, config, |oracle, order, lu, first, data| {
            oracle.place_in_order(order, lu, first, data);
            Ok(())
        })?;
        order.check().map_err(|what| format!("{:?}: secondary {} (I5): {what}", fork.at, config.unit))?;
    }
    Ok(())
}

/// Reads all LUs of a unit in a world of their own.
fn look(
    plan: &Plan,
    fork: &Fork,
    config: &Config,
    mut see: impl FnMut(&Oracle, &mut Order, usize, u64, &[u8]) -> Result<(), String>,
) -> Result<Order, String> {
    let world = world(plan.seed, fork, false);
    let inspector = world.process("inspector", std::net::Ipv4Addr::new(10, 0, 3, 1).into());
    let shard = inspector.shard();
    let looked = world.run(async {
        let mut order = Order::new();
        for lu in 0..plan.lus.len() {
            // A unit that has just lost a disk may need it to come up; that is judged elsewhere.
            let Ok(opened) = open(&shard, config, lu).await else { continue };
            for range in ByteRange::new(0, opened.size()).split_at_multiples(offline::STEP) {
                let data = opened.read(range).await.map_err(|error| error.to_string())?;
                see(&fork.oracle, &mut order, lu, range.offset() / SECTOR, &data.to_bytes())?;
            }
            close(opened).await?;
        }
        Ok(order)
    });
    looked.map_err(|stalled| stalled.to_string())?
}

/// What the secondaries hold that are in step: everything acknowledged (I1).
pub(crate) fn check_secondaries(plan: &Plan, fork: &Fork) -> Result<(), String> {
    if !fork.serving {
        return Ok(());
    }
    // A secondary that lost power a moment ago may have lost what no flush covered; the primary learns that later.
    let view = if plan.write_cache { View::Durable } else { View::Live };
    for index in &fork.in_step {
        let config = &fork.configs[*index];
        look(plan, fork, config, |oracle, _, lu, first, data| oracle.check_image(view, lu, first, data))
            .map_err(|what| format!("{:?}: secondary {} in step (I1): {what}", fork.at, config.unit))?;
    }
    Ok(())
}

/// All power fails at that moment and comes back: nothing promised is lost, and the images become equal again.
pub(crate) fn check_recovery(plan: &Plan, fork: &Fork, loud: bool) -> Result<(), String> {
    let world = world(plan.seed ^ 0x5eed, fork, true);
    let stage = Stage::new(plan.clone(), world.handle(), loud);
    for (unit, config) in stage.units.iter().zip(&fork.configs) {
        *unit.config.borrow_mut() = config.clone();
        unit.skip_disks(100);
    }
    let mut oracle = fork.oracle.clone();
    oracle.power_cut();
    *stage.oracle.borrow_mut() = oracle;
    stage.healed.set(true);
    let done = Rc::new(Cell::new(false));
    let recovered = world.run(async {
        for index in 0..stage.units.len() {
            stage.boot(index);
            stage.shard.spawn(stage.clone().supervise(index));
        }
        repair_arrays(&stage).await?;
        if !stage.exists().await {
            return Ok(());
        }
        converge(&stage).await?;
        crate::host::read_everything(&stage).await?;
        stage.violation().map_or(Ok(()), Err)?;
        compare_images(&stage, View::Live).await?;
        done.set(true);
        Ok(())
    });
    let result =
        recovered.map_err(|stalled| stalled.to_string()).and_then(|result: Result<(), String>| result);
    result.map_err(|what| format!("power cut of everything at {:?}: {what}", fork.at))
}
