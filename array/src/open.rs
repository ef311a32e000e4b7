//! Bringing a unit up: who is here, who may be believed, what is missing (docs/design/vault.md, docs/design/disk-label.md).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use twinlun_io::{Disk, DiskError, Shard};
use uuid::Uuid;

use crate::events::Events;
use crate::label::{DiskLayout, Label};
use crate::planted::{Bug, planted};
use crate::probe::{self, Found, NewestImage};
use crate::slot::Slot;
use crate::vault::Core;
use crate::vault::image::{ImageId, Records};
use crate::vault::quorum::{self, NoChoice, Seen};
use crate::vault::record::{DiskRecord, UnitRecord};
use crate::{ArrayError, ArrayEvent, ArrayOptions, DiskConfig, DiskState, DiskStatus};

/// A unit whose disks are known and whose vault is open; nothing is served yet.
pub(crate) struct Opened {
    pub(crate) core: Rc<Core>,
    /// Disks that do not belong to the unit, or cannot be told.
    pub(crate) strangers: Vec<DiskStatus>,
    /// New disks to be taken in.
    pub(crate) additions: Vec<DiskConfig>,
}

struct Labelled {
    path: PathBuf,
    disk: Disk,
    label: Label,
    image: Option<NewestImage>,
}

impl Labelled {
    /// Whether it was being made part of a unit and never held anything.
    fn is_unfinished(&self) -> bool {
        self.image.as_ref().map_or(self.label.generation == 0, |image| image.unit.forming)
    }
}

struct Probed {
    /// Paths as configured: slots of a new unit follow this order.
    order: Vec<PathBuf>,
    labelled: Vec<Labelled>,
    blank: Vec<(DiskConfig, Disk)>,
    foreign: Vec<(DiskConfig, String)>,
    absent: Vec<(DiskConfig, DiskError)>,
}

pub(crate) fn random_uuid(shard: &Shard) -> Uuid {
    let mut bytes = [0; 16];
    shard.fill_random(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// Opens the unit on these disks, or makes it when all of them are blank.
pub(crate) async fn open_unit(
    shard: &Shard,
    name: &str,
    disks: Vec<DiskConfig>,
    options: &ArrayOptions,
    events: &Events,
) -> Result<Opened, ArrayError> {
    if disks.is_empty() {
        return Err(ArrayError::Invalid(
            "a unit needs at least one disk; add a [[disk]] to its configuration".into(),
        ));
    }
    let mut probed = probe_all(shard, disks, options.answer_limit).await?;
    let strangers = set_strangers_apart(&mut probed, name)?;
    if probed.labelled.iter().all(Labelled::is_unfinished) {
        if let Some(stranger) = strangers.first() {
            return Err(ArrayError::Foreign { path: stranger.path.clone(), what: stranger.reason.clone() });
        }
        let core = form_unit(shard, name, probed, events).await?;
        return Ok(Opened { core, strangers, additions: Vec::new() });
    }
    resume_unit(shard, probed, strangers, options, events).await
}

/// Looks at a disk and its newest image, but not longer than a disk may take to answer: one that hangs is as good as absent.
async fn probe_one(
    shard: &Shard,
    config: &DiskConfig,
    limit: Option<Duration>,
) -> Result<(Found, Option<NewestImage>), ArrayError> {
    let look = Box::pin(async {
        let found = probe::look(shard, config).await?;
        let image = match &found {
            Found::Labelled { disk, label } => probe::newest_image(disk, label).await,
            _ => None,
        };
        Ok((found, image))
    });
    let Some(limit) = limit.filter(|limit| !limit.is_zero()) else { return look.await };
    shard.timeout(limit, look).await.unwrap_or_else(|_| {
        let reason = format!("no answer within {} s", limit.as_secs());
        Ok((Found::Absent(DiskError::Open { path: config.path.clone(), reason }), None))
    })
}

async fn probe_all(
    shard: &Shard,
    disks: Vec<DiskConfig>,
    limit: Option<Duration>,
) -> Result<Probed, ArrayError> {
    let mut probed = Probed {
        order: disks.iter().map(|config| config.path.clone()).collect(),
        labelled: Vec::new(),
        blank: Vec::new(),
        foreign: Vec::new(),
        absent: Vec::new(),
    };
    for config in disks {
        let (found, image) = probe_one(shard, &config, limit).await?;
        match found {
            Found::Labelled { disk, label } => {
                if let Some(twin) = probed.labelled.iter().find(|other| other.label.disk == label.disk) {
                    return Err(ArrayError::Twin { first: twin.path.clone(), second: config.path });
                }
                probed.labelled.push(Labelled { path: config.path, disk, label, image });
            }
            Found::Blank(disk) => probed.blank.push((config, disk)),
            Found::Foreign(what) => probed.foreign.push((config, what)),
            Found::Absent(error) => probed.absent.push((config, error)),
        }
    }
    Ok(probed)
}

fn stranger(path: &Path, uuid: Option<Uuid>, state: DiskState, reason: String) -> DiskStatus {
    DiskStatus { slot: None, path: path.to_owned(), uuid, size: 0, free: 0, state, reason, errors: 0 }
}

/// Moves disks of other units, and whatever else is not ours, out of the way.
fn set_strangers_apart(probed: &mut Probed, name: &str) -> Result<Vec<DiskStatus>, ArrayError> {
    let mut strangers = Vec::new();
    for (config, what) in probed.foreign.drain(..) {
        let reason = format!("{what}; it is not touched: erase it, or take it out of the configuration");
        strangers.push(stranger(&config.path, None, DiskState::Foreign, reason));
    }
    let name_of = |found: &Labelled| found.image.as_ref().map(|image| image.unit.name.clone());
    let ours = probed.labelled.iter().find(|f| name_of(f).as_deref() == Some(name)).map(|f| f.label.unit);
    if ours.is_none()
        && let Some(other) = probed.labelled.iter().find(|found| name_of(found).is_some())
    {
        let what = format!("it belongs to unit {}", name_of(other).unwrap_or_default());
        return Err(ArrayError::Foreign { path: other.path.clone(), what });
    }
    // Without any image all labels count: they are of a unit that was never finished, or are refused for want of images.
    let Some(unit) = ours else { return Ok(strangers) };
    for found in std::mem::take(&mut probed.labelled) {
        if found.label.unit == unit || found.is_unfinished() {
            probed.labelled.push(found);
        } else {
            let owner = name_of(&found).unwrap_or_else(|| found.label.unit.to_string());
            let reason = format!("it belongs to unit {owner}; take it out of the configuration, or erase it");
            strangers.push(stranger(&found.path, Some(found.label.disk), DiskState::Foreign, reason));
        }
    }
    Ok(strangers)
}

fn layout_of(path: &Path, size: u64) -> Result<DiskLayout, ArrayError> {
    DiskLayout::of(size).ok_or_else(|| ArrayError::Size {
        path: path.to_owned(),
        what: format!("{size} bytes are too few; at least {} are needed", crate::label::MIN_DISK),
    })
}

/// Opens or creates a disk that is to be taken in; anything but a blank one is refused.
pub(crate) async fn open_blank(shard: &Shard, config: &DiskConfig) -> Result<Disk, ArrayError> {
    let path = config.path.clone();
    match probe::look_or_create(shard, config).await? {
        Found::Blank(disk) => Ok(disk),
        // Labelled by an addition that was cut short; it never held data.
        Found::Labelled { disk, label } if label.generation == 0 => Ok(disk),
        Found::Labelled { label, .. } => Err(ArrayError::Foreign {
            path,
            what: format!("it is disk {} of unit {}", label.disk, label.unit),
        }),
        Found::Foreign(what) => Err(ArrayError::Foreign { path, what }),
        Found::Absent(DiskError::NotFound { .. }) if config.size.is_none() => Err(ArrayError::Size {
            path,
            what: "it does not exist, and no size is given to create it with".into(),
        }),
        Found::Absent(error) => Err(ArrayError::Disk { path, error }),
    }
}

/// A slot for a new disk.
pub(crate) fn new_slot(shard: &Shard, number: u32, path: &Path, disk: Disk) -> Result<Rc<Slot>, ArrayError> {
    let layout = layout_of(path, disk.size())?;
    let slot = Slot::new(number, random_uuid(shard), 1, path.to_owned(), layout, probe::is_null(path));
    slot.activate(disk);
    Ok(Rc::new(slot))
}

/// Makes a new unit. Labels of generation 0 and the mark `forming` say that nothing is worth keeping until all is done.
async fn form_unit(
    shard: &Shard,
    name: &str,
    probed: Probed,
    events: &Events,
) -> Result<Rc<Core>, ArrayError> {
    let mut disks: BTreeMap<PathBuf, Disk> = BTreeMap::new();
    disks.extend(probed.blank.into_iter().map(|(config, disk)| (config.path, disk)));
    disks.extend(probed.labelled.into_iter().map(|found| (found.path, found.disk)));
    for (config, error) in probed.absent {
        if !matches!(error, DiskError::NotFound { .. }) {
            return Err(ArrayError::Disk { path: config.path, error });
        }
        let disk = open_blank(shard, &config).await?;
        disks.insert(config.path, disk);
    }
    let record = UnitRecord {
        name: name.to_owned(),
        forming: true,
        clean: false,
        next_log: 1,
        accepts: Vec::new(),
        disks: Vec::new(),
    };
    let start = ImageId::default();
    let core = Core::new(shard.clone(), random_uuid(shard), events.clone(), &record, start, Records::new());
    for (number, path) in (0..).zip(&probed.order) {
        let Some(disk) = disks.remove(path) else { continue };
        let slot = new_slot(shard, number, path, disk)?;
        core.slots.borrow_mut().insert(number, slot);
    }
    let slots = core.slot_list();
    for slot in slots.iter().filter(|slot| !slot.volatile) {
        probe::write_labels(slot, core.unit, 0).await?;
    }
    core.commit(Vec::new()).await?;
    for slot in slots.iter().filter(|slot| !slot.volatile) {
        probe::write_labels(slot, core.unit, slot.generation).await?;
    }
    core.forming.set(false);
    core.commit(Vec::new()).await?;
    Ok(core)
}

/// Takes up a unit where it was left.
async fn resume_unit(
    shard: &Shard,
    mut probed: Probed,
    mut strangers: Vec<DiskStatus>,
    options: &ArrayOptions,
    events: &Events,
) -> Result<Opened, ArrayError> {
    let (chosen, newest) = choose_image(&probed, options)?;
    let image = probed.labelled[chosen].image.take().expect("an image was chosen, so it is there");
    let unit = probed.labelled[chosen].label.unit;
    let seen = &newest[&probed.labelled[chosen].label.disk];
    let current = quorum::supporters(seen, &newest);
    let top = newest.values().map(|seen| seen.id.sequence).max().unwrap_or_default();
    let last = ImageId { sequence: top, ..image.id };
    let core = Core::new(shard.clone(), unit, events.clone(), &image.unit, last, image.records);
    let mut slots = BTreeMap::new();
    for record in &image.unit.disks {
        let layout = layout_of(&record.path, record.size)?;
        let found = probed.labelled.iter().position(|found| found.label.disk == record.uuid);
        let found = found.map(|index| probed.labelled.swap_remove(index));
        let path = found.as_ref().map_or_else(|| record.path.clone(), |found| found.path.clone());
        let slot = Slot::new(record.slot, record.uuid, record.generation, path, layout, record.volatile);
        slot.spare.set(record.spare);
        slot.settled.set(record.out.is_some());
        match found {
            Some(found) => take_back(&slot, record, found, current.contains(&record.uuid), &newest, image.at),
            None => leave_missing(&slot, record, &mut probed),
        }
        if !slot.is_active() {
            events.push(ArrayEvent::DiskLeftOut { path: slot.path.clone(), reason: slot.state().1 });
        }
        slots.insert(record.slot, Rc::new(slot));
    }
    let known: BTreeSet<PathBuf> = image.unit.disks.iter().map(|disk| disk.path.clone()).collect();
    *core.slots.borrow_mut() = slots;
    let additions = sort_out_the_rest(probed, &known, &mut strangers);
    for left in &strangers {
        events.push(ArrayEvent::DiskLeftOut { path: left.path.clone(), reason: left.reason.clone() });
    }
    core.clean.set(false);
    // From here on the vault says who is out; whatever those disks hold is not believed when they come back.
    core.commit(Vec::new()).await?;
    for slot in core.slot_list().into_iter().filter(|slot| slot.votes()) {
        // Repairs a damaged label, and ends an addition that was cut short.
        if let Err(error) = probe::write_labels(&slot, unit, slot.generation).await {
            core.fail(&slot, &error.to_string()).await?;
        }
    }
    Ok(Opened { core, strangers, additions })
}

fn choose_image(
    probed: &Probed,
    options: &ArrayOptions,
) -> Result<(usize, BTreeMap<Uuid, Seen>), ArrayError> {
    let mut newest = BTreeMap::new();
    let mut records: BTreeMap<Uuid, DiskRecord> = BTreeMap::new();
    // Leftovers of a unit that was never finished may be among them; at least one disk is of a finished one.
    let unit = probed.labelled.iter().find(|found| !found.is_unfinished()).map(|found| found.label.unit);
    for found in probed.labelled.iter().filter(|found| Some(found.label.unit) == unit) {
        if let Some(image) = &found.image {
            newest.insert(found.label.disk, image.unit.seen(image.id));
            records.extend(image.unit.disks.iter().map(|disk| (disk.uuid, disk.clone())));
        }
    }
    let configured: BTreeSet<&PathBuf> = (probed.labelled.iter().map(|found| &found.path))
        .chain(probed.blank.iter().map(|(config, _)| &config.path))
        .chain(probed.absent.iter().map(|(config, _)| &config.path))
        .collect();
    let here: BTreeSet<Uuid> = probed.labelled.iter().map(|found| found.label.disk).collect();
    let lost: BTreeSet<Uuid> = (records.values())
        .filter(|disk| !here.contains(&disk.uuid) && !configured.contains(&disk.path))
        .map(|disk| disk.uuid)
        .collect();
    let describe = |disks: &BTreeSet<Uuid>| {
        let name = |uuid: &Uuid| records.get(uuid).map_or(uuid.to_string(), |d| d.path.display().to_string());
        disks.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    match quorum::choose(&newest, &lost, options.accept_half) {
        Ok(holder) => {
            let index = probed.labelled.iter().position(|found| found.label.disk == holder);
            Ok((index.expect("the holder is one of the labelled disks"), newest))
        }
        Err(NoChoice::Nothing) => {
            let paths: Vec<_> = probed.labelled.iter().map(|f| f.path.display().to_string()).collect();
            let what = format!("no intact copy on {}", paths.join(", "));
            Err(ArrayError::Damaged { key: ".unit".into(), what })
        }
        Err(NoChoice::NoQuorum { present, voters, missing }) => {
            let missing = format!("missing or out of date: {}", describe(&missing));
            Err(ArrayError::NoQuorum { present, needed_of: voters, missing })
        }
        Err(NoChoice::Split { first, second }) => {
            Err(ArrayError::Split { first: describe(&first), second: describe(&second) })
        }
    }
}

/// A disk that is here: is it current?
fn take_back(
    slot: &Slot,
    record: &DiskRecord,
    found: Labelled,
    is_current: bool,
    newest: &BTreeMap<Uuid, Seen>,
    chosen_at: u8,
) {
    const REMEDY: &str = "`disk replace` with the same path takes it back and rebuilds it";
    let stale = |why: String| {
        slot.retire(DiskState::Stale, format!("{why}; the unit went on without it: {REMEDY}"));
    };
    let stale_counts = !planted(Bug::StaleDiskBelieved);
    if let Some(reason) = record.out.as_ref().filter(|_| stale_counts) {
        // The reason of the first time is the one that counts, however often the unit was started since.
        let first = reason.split("; the unit went on without it").next().unwrap_or_default();
        stale(first.to_owned());
    } else if !is_current && stale_counts {
        stale("what it holds is older than the rest of the unit".into());
    } else if found.label.generation != record.generation && found.label.generation != 0 {
        stale("its label is of another time".into());
    } else if found.label.layout != slot.layout {
        stale("its label describes another size than the unit knows".into());
    } else {
        let at = found.image.as_ref().map_or(chosen_at, |image| image.at);
        slot.image_next.set(1 - at);
        slot.newest.borrow_mut().extend(newest.get(&record.uuid).map(|seen| seen.id));
        slot.activate(found.disk);
    }
}

fn leave_missing(slot: &Slot, record: &DiskRecord, probed: &mut Probed) {
    let blank = probed.blank.iter().position(|(config, _)| config.path == record.path);
    if let Some(index) = blank {
        let (_, disk) = probed.blank.swap_remove(index);
        if record.volatile {
            slot.activate(disk);
            return;
        }
        let reason = "a blank disk is in its place: `disk replace` takes that one and rebuilds";
        slot.retire(DiskState::Missing, reason.into());
        return;
    }
    let absent = probed.absent.iter().position(|(config, _)| config.path == record.path);
    let reason = absent.map(|index| probed.absent.swap_remove(index).1.to_string());
    match (&record.out, reason) {
        (Some(out), _) => slot.retire(DiskState::Failed, out.clone()),
        (None, Some(reason)) => slot.retire(DiskState::Missing, reason),
        (None, None) => slot.retire(DiskState::Missing, "it is not in the configuration any more".into()),
    };
}

/// Disks that no slot claims: new ones are taken in, others shown.
fn sort_out_the_rest(
    probed: Probed,
    known: &BTreeSet<PathBuf>,
    strangers: &mut Vec<DiskStatus>,
) -> Vec<DiskConfig> {
    let mut additions = Vec::new();
    for found in probed.labelled {
        if found.label.generation == 0 {
            additions.push(DiskConfig { path: found.path, size: None });
            continue;
        }
        let reason = "it was a disk of this unit and has been replaced; erase it to use it again";
        strangers.push(stranger(&found.path, Some(found.label.disk), DiskState::Foreign, reason.into()));
    }
    additions.extend(probed.blank.into_iter().map(|(config, _)| config));
    for (config, error) in probed.absent {
        if matches!(error, DiskError::NotFound { .. })
            && config.size.is_some()
            && !known.contains(&config.path)
        {
            additions.push(config);
        } else {
            strangers.push(stranger(&config.path, None, DiskState::Missing, error.to_string()));
        }
    }
    additions
}
