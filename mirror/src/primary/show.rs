//! What the primary's unit says about a mirror.

use twinlun_block::{BlockLayer, MetaStore};

use super::{Image, Phase, Primary};
use crate::record::SecondaryRecord;
use crate::state::{MirrorState, Relation, conditions};
use crate::view::{ImageView, MirrorView, ProgressView};
use crate::{ByWhom, record};

impl<L: BlockLayer + Clone, M: MetaStore + Clone> Primary<L, M> {
    /// For `mirror show`.
    pub(crate) fn view(&self) -> MirrorView {
        let record = self.db.read();
        let mut view = record::view(&record);
        view.state = self.state.get().name().into();
        let images = self.images.borrow();
        for (shown, secondary) in view.images.iter_mut().skip(1).zip(&record.secondaries) {
            if let Some(image) = images.iter().find(|image| image.id == secondary.id) {
                self.add_live(shown, secondary, image);
            }
        }
        view
    }

    fn add_live(&self, shown: &mut ImageView, secondary: &SecondaryRecord, image: &Image<M::Log>) {
        let dirty = image.dirty_bytes();
        shown.state = secondary.relation.state(self.is_quiet() && image.is_clean()).name().into();
        shown.reachable = image.peer.session().is_some();
        shown.fractured = image.phase.get() == Phase::Away && secondary.relation != Relation::Unrelated;
        if !shown.fractured {
            shown.fracture_reason = None;
        } else if shown.fracture_reason.is_none() {
            shown.fracture_reason = Some("not attached yet".into());
        }
        shown.dirty_bytes = dirty;
        if matches!(secondary.relation, Relation::Copying { .. }) {
            let total = secondary.copy_total.max(dirty);
            let rate =
                if image.phase.get() == Phase::Copying { image.rate(self.around.shard.now()) } else { None };
            let eta_seconds = rate.filter(|rate| *rate > 0).map(|rate| dirty.div_ceil(rate));
            shown.progress =
                Some(ProgressView { copied_bytes: total - dirty, total_bytes: total, eta_seconds });
        }
        if !shown.reachable {
            let reason = image.peer.status().reason;
            shown.error = Some(reason.map_or_else(|| "not reachable".into(), |reason| reason.to_string()));
        }
    }

    /// For `mirror why`: sentences, the most pressing first.
    pub(crate) fn why(&self) -> Vec<String> {
        let record = self.db.read();
        let mut lines = Vec::new();
        let images = self.images.borrow();
        let seen = conditions(&record.attributes, images.len(), self.present());
        lines.push(match self.state.get() {
            MirrorState::Active => format!("Mirror {} is ACTIVE: hosts read and write.", record.name),
            MirrorState::Inactive => format!(
                "Mirror {0} is INACTIVE by the administrator's word: hosts are refused. `mirror activate {0}` ends that.",
                record.name
            ),
            MirrorState::Attention => format!(
                "Mirror {} is in ATTENTION: hosts are told to try again, because {}.",
                record.name,
                match (&seen.activate, record.attributes.activation_policy) {
                    (Err(why), _) => why.clone(),
                    (Ok(()), ByWhom::Manual) =>
                        "activation_policy is manual and nobody has activated it since".into(),
                    (Ok(()), ByWhom::Automatic) => "it is just being activated".into(),
                }
            ),
        });
        if images.is_empty() {
            lines.push("It has no secondary image: the data is on this unit only.".into());
        }
        for image in images.iter() {
            let Some(secondary) = record.secondaries.iter().find(|secondary| secondary.id == image.id) else {
                continue;
            };
            lines.push(self.why_image(secondary, image));
        }
        lines
    }

    fn why_image(&self, secondary: &SecondaryRecord, image: &Image<M::Log>) -> String {
        let unit = &image.unit;
        let dirty = image.dirty_bytes();
        let trouble =
            image.trouble.borrow().clone().map(|text| format!(" Last trouble: {text}.")).unwrap_or_default();
        let fracture = secondary.fracture.as_ref();
        match (image.phase.get(), secondary.relation) {
            (Phase::InStep, _) => format!("The image on {unit} receives every write."),
            (Phase::Copying, _) => {
                format!("The image on {unit} is being copied: {dirty} bytes are left.{trouble}")
            }
            (Phase::Away, _) if fracture.is_some_and(|fracture| fracture.ordered) => format!(
                "The image on {unit} is fractured by order and misses {dirty} bytes. `mirror restore {} --unit {unit}` ends that.",
                self.name()
            ),
            (Phase::Away, _) if image.peer.session().is_none() => format!(
                "The image on {unit} misses {dirty} bytes, because its unit cannot be reached: {}.",
                image
                    .peer
                    .status()
                    .reason
                    .map_or_else(|| "no connection".into(), |reason| reason.to_string())
            ),
            (Phase::Away, _) if secondary.attributes.recovery_policy == ByWhom::Manual && !image.go.get() => {
                format!(
                    "The image on {unit} misses {dirty} bytes and waits for `mirror sync {} --unit {unit}`: its recovery_policy is manual.",
                    self.name()
                )
            }
            (Phase::Away, Relation::Unrelated) => {
                format!("The image on {unit} has no relation to the primary yet.{trouble}")
            }
            (Phase::Away, _) => format!(
                "The image on {unit} misses {dirty} bytes ({}) and is about to be attached.{trouble}",
                fracture.map_or("not attached yet", |fracture| fracture.reason.as_str())
            ),
        }
    }
}
