//! Carrying out administrators' orders. Each is checked whole before anything changes; a dry run stops there.

mod hosts;
mod portals;

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use serde::Serialize;
use serde_json::{Value, json};
use twinlun_api as api;
use twinlun_api::{Problem, ProblemKind};
use twinlun_array::{ArrayError, LuInfo, LuSpec, LuState, Raid};
use twinlun_block::{BlockSize, MetaStore};
use twinlun_iscsi::names::IscsiName;
use twinlun_iscsi::target::CloseReason;
use twinlun_mirror::{CreateMirror, ErrorKind, MirrorError, WritePolicy};
use uuid::Uuid;

use crate::admin::{Answer, MirrorOrder, Order};
use crate::processor::{Processor, lu_record, naa};
use crate::state::{ANY, Host, LuOptions, UnitState};

/// LUNs reach this far.
const MAX_LUN: u16 = twinlun_scsi::lun::MAX_LUN;
/// Largest physical block that hosts are told of.
const MAX_PHYSICAL_BLOCK: u32 = 64 << 10;

impl Processor {
    /// Carries out an order; with `dry_run` a changing one is checked and described only.
    pub fn obey(self: &Rc<Self>, order: Order, dry_run: bool) -> LocalBoxFuture<'_, Answer> {
        Box::pin(self.carry_out(order, dry_run))
    }

    async fn carry_out(self: &Rc<Self>, order: Order, dry_run: bool) -> Answer {
        match order {
            Order::ShowUnit => value(self.unit_view()),
            Order::Status => value(self.status()),
            Order::ListDisks => items(self.disk_views()),
            Order::ListLus => items(self.array.lus().iter().map(|info| self.lu_view(info)).collect()),
            Order::ShowLu { name } => value(self.lu_view(&self.lu(&name)?)),
            Order::ListHosts => items(self.host_views()),
            Order::ListSessions => items(self.session_views()),
            Order::Events { after, wait } => items(self.events.after(after, wait).await),
            Order::ListMirrors => items(self.mirrors.list()),
            Order::ShowMirror { name } => {
                value(self.mirrors.show(&name).await.map_err(|e| mirror_problem(&e))?)
            }
            Order::WhyMirror { name } => {
                let lines = self.mirrors.why(&name).await.map_err(|e| mirror_problem(&e))?;
                value(api::WhyView { lines })
            }
            Order::AddDisk(_) | Order::FailDisk { .. } | Order::ReplaceDisk { .. } => {
                self.order_disk(order, dry_run).await
            }
            Order::CreateLu(order) => self.create_lu(order, dry_run).await,
            Order::DeleteLu { name } => self.delete_lu(&name, dry_run).await,
            Order::MapLu { name, map } => self.map_lu(&name, map, dry_run).await,
            Order::UnmapLu { name, unmap } => self.unmap_lu(&name, &unmap.host, dry_run).await,
            Order::AddHost(order) => self.add_host(order, dry_run).await,
            Order::RemoveHost { iqn } => self.remove_host(&iqn, dry_run).await,
            Order::ShowDiscovery => value(self.discovery_view()),
            Order::SetDiscovery(order) => self.set_discovery(order, dry_run).await,
            Order::ListPortals => items(self.portal_views()),
            Order::DrainPortal { address, drain } => self.drain_portal(&address, &drain, dry_run),
            Order::ResumePortal { address } => self.resume_portal(&address, dry_run).await,
            Order::RedirectPortal { address, redirect } => {
                self.redirect_portal(&address, &redirect, dry_run).await
            }
            Order::DropSession { tsih } => self.drop_session(tsih, dry_run),
            Order::CreateMirror(order) => self.create_mirror(order, dry_run).await,
            Order::Mirror { name, order } => self.order_mirror(&name, order, dry_run).await,
        }
    }

    async fn order_disk(&self, order: Order, dry_run: bool) -> Answer {
        let path = |path: &str| match path {
            memory if memory.starts_with("ram:") => memory.into(),
            path => self.config.state_dir.join(path),
        };
        match order {
            Order::AddDisk(add) => {
                let config = twinlun_array::DiskConfig { path: path(&add.path), size: add.size.map(|s| s.0) };
                if dry_run {
                    return plan(format!("add disk {}", config.path.display()));
                }
                let slot = self.array.add_disk(config, false).await.map_err(|e| array_problem(&e))?;
                value(json!({ "slot": slot.to_string() }))
            }
            Order::FailDisk { slot } => {
                let number = self.slot(&slot)?;
                if dry_run {
                    return plan(format!("stop using disk {slot}"));
                }
                self.array.fail_disk(number).await.map_err(|e| array_problem(&e))?;
                value(json!({ "slot": slot, "state": "failed" }))
            }
            Order::ReplaceDisk { slot, with } => {
                let number = self.slot(&slot)?;
                let path = path(&with.path);
                if dry_run {
                    return plan(format!("rebuild disk {slot} onto {}", path.display()));
                }
                self.array
                    .replace_disk(number, path, with.size.map(|s| s.0))
                    .await
                    .map_err(|e| array_problem(&e))?;
                value(json!({ "slot": slot, "state": "rebuilding" }))
            }
            _ => unreachable!("only orders to disks come here"),
        }
    }

    fn slot(&self, slot: &str) -> Result<u32, Problem> {
        let number = slot.parse().ok().filter(|n| self.array.disks().iter().any(|d| d.slot == Some(*n)));
        number.ok_or_else(|| {
            not_found(
                "E-DISK-SLOT",
                format!("there is no disk slot {slot:?}"),
                "see twinlun disk list for the slots",
            )
        })
    }

    async fn create_lu(&self, order: api::CreateLu, dry_run: bool) -> Answer {
        let raid = match order.raid {
            api::RaidLevel::Raid0 => Raid::Raid0,
            api::RaidLevel::Raid1 => Raid::Raid1,
            api::RaidLevel::Raid10 => Raid::Raid10,
            api::RaidLevel::Raid3 => Raid::Raid3,
            api::RaidLevel::Raid5 => Raid::Raid5,
            api::RaidLevel::Raid6 => Raid::Raid6,
        };
        let Some(block_size) = BlockSize::from_bytes(order.block_size) else {
            let detail = format!("a LU cannot have blocks of {} bytes", order.block_size);
            return Err(usage("E-LU-BLOCK-SIZE", detail, "write 512 or 4096"));
        };
        let physical_block = order.physical_block_size.unwrap_or(order.block_size);
        if !physical_block.is_power_of_two()
            || !(order.block_size..=MAX_PHYSICAL_BLOCK).contains(&physical_block)
        {
            let detail = format!("a LU cannot have physical blocks of {physical_block} bytes");
            let remedy = format!("write a power of two from {} to {MAX_PHYSICAL_BLOCK}", order.block_size);
            return Err(usage("E-LU-BLOCK-SIZE", detail, &remedy));
        }
        let slots: Result<Vec<_>, _> = order.disks.iter().map(|slot| self.slot(slot)).collect();
        let disks = Some(slots?).filter(|slots| !slots.is_empty());
        let spec = LuSpec {
            disks,
            block_size,
            thin: order.thin,
            ..LuSpec::new(order.name.clone(), order.size.0, raid)
        };
        if self.array.lu_by_name(&order.name).is_some() {
            return Err(array_problem(&ArrayError::Exists { name: order.name }));
        }
        if dry_run {
            return plan(format!("bind LU {} of {} as RAID {}", order.name, order.size, order.raid.as_str()));
        }
        let info = self.array.create_lu(spec).await.map_err(|e| array_problem(&e))?;
        let options = LuOptions {
            write_cache: order.write_cache,
            removable: order.removable,
            read_only: order.read_only,
            physical_block,
        };
        self.change_state(|state| {
            state.lus.insert(info.uuid, options);
        })
        .await?;
        self.add_lu(&info);
        self.events.note("lu", &info.name, "bound");
        value(self.lu_view(&info))
    }

    async fn delete_lu(&self, name: &str, dry_run: bool) -> Answer {
        let info = self.lu(name)?;
        if let Some(mirror) = self.mirrors.mirror_of(info.uuid) {
            let detail = format!("LU {name} belongs to mirror {mirror}");
            return Err(refused(
                "E-LU-MIRRORED",
                detail,
                "remove its image from the mirror, or destroy the mirror, first",
            ));
        }
        let hosts: Vec<_> = self.mapped_hosts(info.uuid);
        if !hosts.is_empty() {
            let detail = format!("LU {name} is mapped to {}", hosts.join(", "));
            return Err(refused("E-LU-MAPPED", detail, "unmap it first: twinlun lu unmap"));
        }
        if dry_run {
            return plan(format!("remove LU {name} and all its data"));
        }
        self.drop_lu(info.uuid).await;
        self.array.delete_lu(info.uuid).await.map_err(|e| array_problem(&e))?;
        self.change_state(|state| {
            state.lus.remove(&info.uuid);
        })
        .await?;
        self.vault.put(vec![(lu_record(info.uuid), None)]).await.map_err(|e| meta_problem(&e))?;
        self.events.note("lu", name, "deleted");
        value(json!({ "name": name }))
    }

    async fn map_lu(&self, name: &str, map: api::MapLu, dry_run: bool) -> Answer {
        let info = self.lu(name)?;
        let host_name = host_name(&map.host)?;
        let state = self.state.borrow().clone();
        let host = match state.hosts.get(&host_name) {
            Some(host) => host.clone(),
            None if host_name == ANY => Host::default(),
            None => {
                let remedy = format!("make it known first: twinlun host add {host_name}");
                return Err(not_found("E-HOST", format!("there is no host {host_name}"), &remedy));
            }
        };
        if let Some((lun, _)) = host.luns.iter().find(|(_, lu)| **lu == info.uuid) {
            let detail = format!("{host_name} sees LU {name} as LUN {lun} already");
            return Err(refused("E-LU-MAPPED", detail, "unmap it first to give it another number"));
        }
        let lun = match map.lun {
            Some(lun) if lun > MAX_LUN => {
                return Err(usage(
                    "E-LUN",
                    format!("LUN {lun} does not exist"),
                    &format!("use 0 to {MAX_LUN}"),
                ));
            }
            Some(lun) if host.luns.contains_key(&lun) => {
                let remedy = "choose another number, or leave it out for the lowest free one";
                return Err(refused("E-LUN-TAKEN", format!("LUN {lun} of {host_name} is taken"), remedy));
            }
            Some(lun) => lun,
            None => (0..=MAX_LUN).find(|lun| !host.luns.contains_key(lun)).ok_or_else(|| {
                refused("E-LUN-TAKEN", format!("all LUNs of {host_name} are taken"), "unmap one first")
            })?,
        };
        if dry_run {
            return plan(format!("show LU {name} to {host_name} as LUN {lun}"));
        }
        self.change_state(|state| {
            state.hosts.entry(host_name.clone()).or_default().luns.insert(lun, info.uuid);
        })
        .await?;
        self.refresh_lun_maps().await;
        self.events.note("lu", name, &format!("mapped to {host_name} as LUN {lun}"));
        value(json!({ "lu": name, "host": host_name, "lun": lun, "target": self.target_name.as_str() }))
    }

    async fn unmap_lu(&self, name: &str, host: &str, dry_run: bool) -> Answer {
        let info = self.lu(name)?;
        let host_name = host_name(host)?;
        let mapped = self
            .state
            .borrow()
            .hosts
            .get(&host_name)
            .is_some_and(|h| h.luns.values().any(|lu| *lu == info.uuid));
        if !mapped {
            let detail = format!("{host_name} does not see LU {name}");
            return Err(not_found("E-LU-NOT-MAPPED", detail, "see twinlun host list"));
        }
        if dry_run {
            return plan(format!("hide LU {name} from {host_name}"));
        }
        self.change_state(|state| {
            if let Some(host) = state.hosts.get_mut(&host_name) {
                host.luns.retain(|_, lu| *lu != info.uuid);
                if host_name == ANY && host.luns.is_empty() {
                    state.hosts.remove(ANY);
                }
            }
        })
        .await?;
        self.refresh_lun_maps().await;
        self.events.note("lu", name, &format!("unmapped from {host_name}"));
        value(json!({ "lu": name, "host": host_name }))
    }

    fn drop_session(&self, tsih: u16, dry_run: bool) -> Answer {
        let handle = twinlun_iscsi::target::Tsih::new(tsih);
        let session =
            handle.and_then(|handle| self.sessions.borrow().get(handle).cloned()).ok_or_else(|| {
                not_found("E-SESSION", format!("there is no session {tsih}"), "see twinlun session list")
            })?;
        if dry_run {
            return plan(format!("end session {tsih} of {}", session.subject.initiator));
        }
        if let Some(host) = session.host() {
            host.close(CloseReason::Local("by order"));
        }
        value(json!({ "tsih": tsih }))
    }

    async fn create_mirror(&self, order: api::CreateMirror, dry_run: bool) -> Answer {
        let policies = [WritePolicy::Sync, WritePolicy::Async, WritePolicy::Cyclic];
        let Some(policy) = policies.into_iter().find(|policy| policy.name() == order.policy) else {
            let detail = format!("{:?} is no write policy", order.policy);
            return Err(usage("E-MIRROR-POLICY", detail, "use sync, async or cyclic"));
        };
        let create = CreateMirror { name: order.name, lus: order.lus, policy, attributes: order.attributes };
        if dry_run {
            let what = format!("create mirror {} of {}", create.name, create.lus.join(", "));
            self.mirrors.rehearse_create(create).map_err(|e| mirror_problem(&e))?;
            return plan(what);
        }
        let view = self.mirrors.create(create).await.map_err(|e| mirror_problem(&e))?;
        self.refresh_access();
        value(view)
    }

    async fn order_mirror(&self, name: &str, order: MirrorOrder, dry_run: bool) -> Answer {
        if dry_run {
            let (rehearsal, what) = crate::rehearsal::of(&order);
            self.mirrors.rehearse(name, &rehearsal).map_err(|e| mirror_problem(&e))?;
            return plan(format!("mirror {name}: {what}"));
        }
        let mirrors = &self.mirrors;
        match order {
            MirrorOrder::AddSecondary(o) => {
                mirrors.add_secondary(name, &o.unit, &o.lus, o.synchronized).await
            }
            MirrorOrder::RemoveSecondary(o) => mirrors.remove_secondary(name, &o.unit, o.force).await,
            MirrorOrder::Sync(o) => mirrors.sync(name, &o.unit).await,
            MirrorOrder::Fracture(o) => mirrors.fracture(name, &o.unit).await,
            MirrorOrder::Restore(o) => mirrors.restore(name, &o.unit).await,
            MirrorOrder::Promote { force } => mirrors.promote(name, force).await,
            MirrorOrder::Activate => mirrors.activate(name).await,
            MirrorOrder::Deactivate { force } => mirrors.deactivate(name, force).await,
            MirrorOrder::Destroy => {
                mirrors.destroy(name, false).await.map_err(|e| mirror_problem(&e))?;
                self.refresh_access();
                return value(json!({ "name": name }));
            }
            MirrorOrder::Set(o) => mirrors.set(name, o.unit.as_deref(), &o.attributes).await,
        }
        .map_err(|e| mirror_problem(&e))?;
        self.refresh_access();
        value(mirrors.show(name).await.map_err(|e| mirror_problem(&e))?)
    }

    /// Changes the unit's record: durable first, in force afterwards.
    async fn change_state(&self, change: impl FnOnce(&mut UnitState)) -> Result<(), Problem> {
        let mut state = self.state.borrow().clone();
        change(&mut state);
        state.store(&self.vault).await.map_err(|e| meta_problem(&e))?;
        *self.state.borrow_mut() = state;
        Ok(())
    }

    fn lu(&self, name: &str) -> Result<LuInfo, Problem> {
        self.array
            .lu_by_name(name)
            .map(|lu| lu.info())
            .ok_or_else(|| not_found("E-LU", format!("there is no LU {name:?}"), "see twinlun lu list"))
    }

    fn mapped_hosts(&self, lu: Uuid) -> Vec<String> {
        let state = self.state.borrow();
        let mapped = state.hosts.iter().filter(|(_, host)| host.luns.values().any(|mapped| *mapped == lu));
        mapped.map(|(name, _)| name.clone()).collect()
    }

    fn lu_view(&self, info: &LuInfo) -> api::LuView {
        let rebuild = self.array.rebuild_progress().into_iter().find(|r| r.lu == info.uuid);
        #[allow(clippy::cast_precision_loss, reason = "a share for people")]
        let share = |done: u64, total: u64| if total == 0 { 1.0 } else { done as f64 / total as f64 };
        let options = self.state.borrow().lus.get(&info.uuid).copied().unwrap_or_default();
        let served = matches!(self.mirrors.access(info.uuid), None | Some(twinlun_mirror::LuAccess::Served));
        api::LuView {
            name: info.name.clone(),
            uuid: info.uuid.to_string(),
            naa: naa(info.uuid).iter().map(|b| format!("{b:02x}")).collect(),
            size: info.size,
            block_size: info.block_size.bytes(),
            raid: info.raid.level().parse().expect("the array names its levels as the interface does"),
            disks: info
                .members
                .iter()
                .map(|m| m.slot.map_or_else(|| "-".into(), |s| s.to_string()))
                .collect(),
            state: match info.state {
                LuState::Optimal => "optimal",
                LuState::Degraded => "degraded",
                LuState::Rebuilding => "rebuilding",
                LuState::Failed => "failed",
            }
            .into(),
            rebuild_progress: rebuild.map(|r| share(r.done, r.total)),
            physical_block_size: options.physical_block.max(info.block_size.bytes()),
            thin: info.thin,
            removable: options.removable,
            read_only: options.read_only,
            write_cache: options.write_cache,
            mirror: self.mirrors.mirror_of(info.uuid),
            access: if served { "active" } else { "unavailable" }.into(),
        }
    }

    fn disk_views(&self) -> Vec<api::DiskView> {
        let disks = self.array.disks();
        let view = |disk: &twinlun_array::DiskStatus| api::DiskView {
            slot: disk.slot.map_or_else(|| "-".into(), |slot| slot.to_string()),
            path: disk.path.display().to_string(),
            uuid: disk.uuid.map_or_else(String::new, |uuid| uuid.to_string()),
            size: disk.size,
            state: format!("{:?}", disk.state).to_lowercase(),
            reason: Some(disk.reason.clone()).filter(|reason| !reason.is_empty()),
            errors: disk.errors,
        };
        disks.iter().map(view).collect()
    }
}

fn host_name(name: &str) -> Result<String, Problem> {
    if name == ANY {
        return Ok(name.into());
    }
    name.parse::<IscsiName>().map(|name| name.to_string()).map_err(|error| {
        let remedy = "write the initiator's name as its own configuration has it, or any";
        usage("E-HOST-NAME", format!("{name:?} is no initiator name: {error}"), remedy)
    })
}

#[allow(clippy::needless_pass_by_value, reason = "answers are made to be given away")]
fn value(answer: impl Serialize) -> Answer {
    serde_json::to_value(answer).map_err(|e| failed("E-UNIT", e.to_string(), ""))
}

fn items<T: Serialize>(items: Vec<T>) -> Answer {
    value(api::Items { items })
}

fn plan(what: String) -> Answer {
    Ok(json!({ "plan": Value::String(what) }))
}

fn failed(code: &str, detail: impl Into<String>, remedy: &str) -> Problem {
    Problem::new(ProblemKind::Failed, code, detail, remedy)
}

fn usage(code: &str, detail: impl Into<String>, remedy: &str) -> Problem {
    Problem::new(ProblemKind::Usage, code, detail, remedy)
}

fn refused(code: &str, detail: impl Into<String>, remedy: &str) -> Problem {
    Problem::new(ProblemKind::Refused, code, detail, remedy)
}

fn not_found(code: &str, detail: impl Into<String>, remedy: &str) -> Problem {
    Problem::new(ProblemKind::NotFound, code, detail, remedy)
}

fn meta_problem(error: &twinlun_block::MetaError) -> Problem {
    failed(
        "E-VAULT",
        format!("the change cannot be stored: {error}"),
        "see twinlun disk list for failed disks",
    )
}

fn array_problem(error: &ArrayError) -> Problem {
    let detail = error.to_string();
    match error {
        ArrayError::NotFound { .. } => {
            not_found("E-ARRAY-NOT-FOUND", detail, "see twinlun disk list and lu list")
        }
        ArrayError::Exists { .. } => refused("E-LU-EXISTS", detail, "choose another name"),
        ArrayError::Invalid(_) | ArrayError::Size { .. } => usage("E-ARRAY-INVALID", detail, ""),
        ArrayError::Unsafe(_) | ArrayError::Foreign { .. } => refused("E-ARRAY-UNSAFE", detail, ""),
        ArrayError::NoSpace(_) => refused("E-ARRAY-SPACE", detail, "add a disk: twinlun disk add"),
        _ => failed("E-ARRAY", detail, "see twinlun disk list"),
    }
}

fn mirror_problem(error: &MirrorError) -> Problem {
    let kind = match error.kind() {
        ErrorKind::NotFound => ProblemKind::NotFound,
        ErrorKind::Conflict | ErrorKind::Unsafe => ProblemKind::Refused,
        ErrorKind::Usage => ProblemKind::Usage,
        ErrorKind::Unreachable | ErrorKind::Failed => ProblemKind::Failed,
    };
    Problem::new(kind, "E-MIRROR", error.to_string(), error.remedy())
}
