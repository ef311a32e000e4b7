//! `status`: is my data safe, is it current, what runs, what should I do.

use twinlun_api::{LinkPeerView, StatusView, UnitView, Verdict, VerdictLevel};
use twinlun_array::{DiskState, LuState};
use twinlun_mirror::link::Link;

use crate::processor::Processor;
use crate::time::rfc3339;

impl Processor {
    pub(crate) fn unit_view(&self) -> UnitView {
        let peers = self.mirrors.link().into_iter().flat_map(Link::peers).map(|peer| {
            let status = peer.status();
            LinkPeerView {
                unit: peer.unit().to_string(),
                state: format!("{:?}", status.reachability).to_uppercase(),
                reason: status.reason.map(|reason| reason.to_string()),
            }
        });
        UnitView {
            name: self.config.unit.clone(),
            sp: self.config.sp.to_string(),
            uuid: self.array.unit_uuid().to_string(),
            target: self.target_name.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            portals: self.portal_views(),
            isns: self.isns.views(),
            link: self.mirrors.link().and_then(Link::local_address).map(|address| address.to_string()),
            peers: peers.collect(),
            started: rfc3339(self.started),
            engine: self.shard.engine_name().into(),
        }
    }

    pub(crate) fn status(&self) -> StatusView {
        let mut findings = Vec::new();
        let mut running = Vec::new();
        self.judge_disks(&mut findings);
        self.judge_lus(&mut findings, &mut running);
        let current = self.judge_mirrors(&mut findings, &mut running);
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        let level = findings.first().map_or(VerdictLevel::Ok, |finding| finding.level);
        let safe = level == VerdictLevel::Ok;
        StatusView { level, safe, current, running, findings }
    }

    fn judge_disks(&self, findings: &mut Vec<Verdict>) {
        for disk in self.array.disks() {
            let level = match disk.state {
                DiskState::Online | DiskState::Spare | DiskState::Rebuilding => continue,
                DiskState::Failed | DiskState::Missing | DiskState::Stale | DiskState::Foreign => {
                    VerdictLevel::Attention
                }
            };
            let slot = disk.slot.map_or_else(|| disk.path.display().to_string(), |slot| slot.to_string());
            findings.push(Verdict {
                level,
                subject: format!("disk {slot}"),
                finding: format!("{:?}: {}", disk.state, disk.reason).to_lowercase(),
                remedy: format!("replace it: twinlun disk replace {slot} --path PATH --size SIZE"),
            });
        }
    }

    fn judge_lus(&self, findings: &mut Vec<Verdict>, running: &mut Vec<String>) {
        for rebuild in self.array.rebuild_progress() {
            let name = self.array.lu(rebuild.lu).map_or_else(|| rebuild.lu.to_string(), |lu| lu.info().name);
            running.push(format!("rebuild of LU {name}: {} of {} bytes", rebuild.done, rebuild.total));
        }
        for lu in self.array.lus() {
            let (level, finding, remedy) = match lu.state {
                LuState::Optimal => continue,
                LuState::Rebuilding => (VerdictLevel::Attention, "is being rebuilt", "wait"),
                LuState::Degraded => (
                    VerdictLevel::Attention,
                    "has lost redundancy",
                    "replace the disk that failed: twinlun disk list",
                ),
                LuState::Failed => (
                    VerdictLevel::Critical,
                    "cannot be served: too many of its disks are gone",
                    "bring the missing disks back and start the storage processor again",
                ),
            };
            findings.push(Verdict {
                level,
                subject: format!("lu {}", lu.name),
                finding: finding.into(),
                remedy: remedy.into(),
            });
        }
    }

    /// Says whether every secondary holds everything acknowledged.
    fn judge_mirrors(&self, findings: &mut Vec<Verdict>, running: &mut Vec<String>) -> bool {
        let mut current = true;
        for mirror in self.mirrors.list() {
            if mirror.state == "ATTENTION" {
                findings.push(Verdict {
                    level: VerdictLevel::Critical,
                    subject: format!("mirror {}", mirror.name),
                    finding: "is in ATTENTION: hosts are not served".into(),
                    remedy: format!("see twinlun mirror why {}", mirror.name),
                });
            }
            for image in mirror.images.iter().filter(|image| image.designator == "secondary") {
                if let Some(progress) = &image.progress {
                    running.push(format!(
                        "copy of {} to {}: {} of {} bytes",
                        mirror.name, image.unit, progress.copied_bytes, progress.total_bytes
                    ));
                }
                let in_step =
                    !image.fractured && matches!(image.state.as_str(), "SYNCHRONIZED" | "CONSISTENT");
                if !in_step && image.error.is_none() {
                    current = false;
                    let reason = image.fracture_reason.clone().unwrap_or_else(|| "not synchronized".into());
                    findings.push(Verdict {
                        level: VerdictLevel::Attention,
                        subject: format!("mirror {} on {}", mirror.name, image.unit),
                        finding: format!("{}, misses {} bytes: {reason}", image.state, image.dirty_bytes),
                        remedy: format!("see twinlun mirror why {}", mirror.name),
                    });
                }
            }
        }
        current
    }
}
