//! The administrator's orders to a mirror (R-AD), on the primary's unit. One at a time per mirror.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use futures_util::future::join_all;
use twinlun_block::{BlockLayer, MetaStore};
use uuid::Uuid;

use super::attach::CONTROL_TIMEOUT;
use super::{Image, Phase, Primary};
use crate::events::Happening;
use crate::link::{Peer, Session};
use crate::protocol::{Answer, Ask};
use crate::record::{
    Departed, LuRecord, MOST_SECONDARIES, MirrorRecord, SecondaryRecord, fracture_name, intent_name,
};
use crate::service::Rehearsal;
use crate::state::{Conditions, MirrorChange, MirrorState, Relation, RelationChange, conditions};
use crate::{Attributes, ImageAttributes, MirrorError};

/// A secondary that is to be removed, and the way to its unit when there is one.
type Leaving<L> = (Rc<Image<L>>, Option<Session>);

impl<L: BlockLayer + Clone, M: MetaStore + Clone> Primary<L, M> {
    /// Whether the order would be carried out as things stand, as far as this unit can tell: with the same checks.
    pub(crate) fn rehearse(&self, order: &Rehearsal<'_>) -> Result<(), MirrorError> {
        match *order {
            Rehearsal::AddSecondary { unit, lus } => self.check_new_secondary(unit, lus).map(drop),
            Rehearsal::RemoveSecondary { unit, force } => self.check_removal(unit, force).map(drop),
            Rehearsal::Sync { unit } => self.check_sync(unit).map(drop),
            Rehearsal::Fracture { unit } => self.check_fracture(unit).map(drop),
            Rehearsal::Restore { unit } => self.check_restore(unit).map(drop),
            Rehearsal::Promote => Err(MirrorError::NotAvailable("promotion".into())),
            Rehearsal::Activate => {
                let (mirror, seen) = (self.name(), self.conditions_to_activate());
                seen.activate.map_err(|why| MirrorError::ConditionsNotMet { mirror, why })
            }
            Rehearsal::Deactivate => Ok(()),
            Rehearsal::Destroy => self.check_end(),
            Rehearsal::Set { unit: Some(unit), attributes } => {
                self.changed_attributes_of(unit, attributes).map(drop)
            }
            Rehearsal::Set { unit: None, attributes } => self.changed_attributes(attributes).map(drop),
        }
    }

    /// Adds a secondary image (R-AD-1). Its unit checks its LUs and remembers the mirror before this one does.
    pub(crate) async fn add_secondary(
        self: &Rc<Self>,
        unit: &str,
        lus: &[String],
        synchronized: bool,
    ) -> Result<(), MirrorError> {
        let _one = self.orders.lock().await;
        let peer = self.check_new_secondary(unit, lus)?;
        let _hold = peer.connect();
        let session = self.around.shard.timeout(CONTROL_TIMEOUT, peer.wait_session()).await;
        let session = session.map_err(|_| unreachable(&peer))?;
        let mut id = [0; 16];
        self.around.shard.fill_random(&mut id);
        let id = Uuid::from_bytes(id);
        let record = self.db.durable();
        let ask = Ask::Join { record, image: id, lus: lus.to_vec() };
        let Answer::Joined { lus: found } = self.ask(&session, unit, &ask).await? else {
            let why = "its answer makes no sense".into();
            return Err(MirrorError::Unreachable { unit: unit.into(), why });
        };
        self.check_shape(&found)?;
        let relation = Relation::Unrelated;
        let relation =
            if synchronized { relation.after(RelationChange::Vouched).unwrap_or(relation) } else { relation };
        let secondary = SecondaryRecord {
            id,
            unit: unit.into(),
            lus: found,
            relation,
            fracture: None,
            copy_total: 0,
            attributes: ImageAttributes::default(),
        };
        // Log space is reserved now: it must not be missing on the day of the fracture. Writes under way do not know the
        // image yet; the intent log names them, and so does its fracture log.
        let image = self.open_image(&secondary).await?;
        image.go.set(true);
        image.joining.set(true);
        self.images.borrow_mut().push(image.clone());
        image.maps.borrow_mut().iter_mut().zip(&self.lus).for_each(|(map, lu)| {
            map.add(|dirty| lu.intent.expand_into(dirty));
        });
        if synchronized {
            let generation = self.db.read().generation;
            let ask = Ask::CaughtUp { mirror: self.uuid, epoch: 0, generation };
            if let Err(error) = self.ask(&session, unit, &ask).await {
                self.forget(&image).await;
                return Err(error);
            }
        }
        let number = self.db.change(|record| record.secondaries.push(secondary));
        self.db.stored(number).await?;
        self.tell(Some(unit), Happening::Added);
        self.around.shard.spawn(self.clone().tend(image));
        self.propagate().await;
        Ok(())
    }

    fn check_new_secondary(&self, unit: &str, lus: &[String]) -> Result<Peer, MirrorError> {
        let peer = self.peer(unit)?;
        let record = self.db.read();
        if record.secondary(unit).is_some() || record.primary.unit == unit {
            return Err(MirrorError::AlreadyInMirror { mirror: record.name.clone(), unit: unit.into() });
        }
        if lus.len() != record.primary.lus.len() {
            return Err(MirrorError::CountsDiffer {
                primary: record.primary.lus.len(),
                secondary: lus.len(),
            });
        }
        if record.secondaries.len() >= MOST_SECONDARIES {
            return Err(MirrorError::Invalid(format!(
                "a mirror has at most {MOST_SECONDARIES} secondary images"
            )));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = lus.iter().find(|lu| !seen.insert(lu.as_str())) {
            return Err(MirrorError::LuTwice(twice.clone()));
        }
        Ok(peer)
    }

    /// Sizes of corresponding LUs must match exactly (R-ARR-2); the other unit is not believed.
    fn check_shape(&self, found: &[LuRecord]) -> Result<(), MirrorError> {
        let record = self.db.read();
        if found.len() != record.primary.lus.len() {
            return Err(MirrorError::CountsDiffer {
                primary: record.primary.lus.len(),
                secondary: found.len(),
            });
        }
        for (ours, theirs) in record.primary.lus.iter().zip(found) {
            if let Some(difference) = ours.difference(theirs) {
                let (primary, secondary) = (ours.name.clone(), theirs.name.clone());
                return Err(MirrorError::LusDiffer { primary, secondary, difference });
            }
        }
        Ok(())
    }

    fn check_removal(&self, unit: &str, force: bool) -> Result<Leaving<M::Log>, MirrorError> {
        let image = self.image(unit)?;
        let session = image.peer.session();
        if session.is_none() && !force {
            return Err(unreachable(&image.peer));
        }
        Ok((image, session))
    }

    /// Removes a secondary; its data stays (R-AD-3). Graceful: its unit forgets the mirror first. Forced: it is told
    /// when it can be reached.
    pub(crate) async fn remove_secondary(
        self: &Rc<Self>,
        unit: &str,
        force: bool,
    ) -> Result<(), MirrorError> {
        let _one = self.orders.lock().await;
        let (image, session) = self.check_removal(unit, force)?;
        if !force && image.phase.get() == Phase::InStep {
            // What was acknowledged is stable on it when it leaves.
            self.settle().await;
        }
        image.removed.set(true);
        let gone = Departed { unit: unit.into(), image: image.id };
        let attachment = image.attachment.borrow().clone();
        if let Some(attachment) = attachment {
            self.lose(&image, &attachment, "it was removed", 0);
        }
        self.images.borrow_mut().retain(|other| other.id != image.id);
        let number = self.db.change(|record| {
            record.secondaries.retain(|secondary| secondary.id != image.id);
            record.departed.retain(|other| other.unit != gone.unit);
            record.departed.push(gone.clone());
        });
        self.db.stored(number).await?;
        image.signal.raise();
        self.reconsider();
        if let Some(session) = session {
            let ask = Ask::Leave { mirror: self.uuid, image: image.id };
            if self.ask(&session, unit, &ask).await.is_ok() {
                let number = self.db.change(|record| record.departed.retain(|other| *other != gone));
                self.db.stored(number).await?;
            }
        }
        self.forget(&image).await;
        self.tell(Some(unit), Happening::Removed);
        self.propagate().await;
        Ok(())
    }

    /// Gives the log space of an image back that is no more.
    async fn forget(&self, image: &Image<M::Log>) {
        self.images.borrow_mut().retain(|other| other.id != image.id);
        // A round that stores its pages may be under way.
        let _one = self.settling.lock().await;
        for lu in 0..self.lus.len() {
            let name = fracture_name(self.uuid, image.id, lu);
            if let Err(error) = self.around.meta.remove_log(&name).await {
                tracing::warn!(%error, name, "the space of a fracture log cannot be given back");
            }
        }
    }

    /// The administrator's word to resynchronise (R-SY-4).
    pub(crate) async fn sync(self: &Rc<Self>, unit: &str) -> Result<(), MirrorError> {
        let _one = self.orders.lock().await;
        let image = self.check_sync(unit)?;
        image.go.set(true);
        image.signal.raise();
        Ok(())
    }

    fn check_sync(&self, unit: &str) -> Result<Rc<Image<M::Log>>, MirrorError> {
        let image = self.image(unit)?;
        if self.state.get() == MirrorState::Inactive {
            return Err(MirrorError::Inactive(self.name()));
        }
        if self.is_ordered(unit) {
            return Err(MirrorError::Fractured(unit.into()));
        }
        if image.peer.session().is_none() {
            return Err(unreachable(&image.peer));
        }
        Ok(image)
    }

    /// Keeps writes from a secondary until it is restored. On record before the order is answered.
    pub(crate) async fn fracture(self: &Rc<Self>, unit: &str) -> Result<(), MirrorError> {
        let _one = self.orders.lock().await;
        let image = self.check_fracture(unit)?;
        let attachment = image.attachment.borrow().clone();
        if let Some(attachment) = attachment {
            self.lose(&image, &attachment, "fractured by the administrator", 0);
        }
        self.record_fracture(&image, Phase::Away, "fractured by the administrator", true);
        image.signal.raise();
        let number = self.db.change(|_| ());
        self.db.stored(number).await?;
        self.propagate().await;
        Ok(())
    }

    fn check_fracture(&self, unit: &str) -> Result<Rc<Image<M::Log>>, MirrorError> {
        let image = self.image(unit)?;
        if self.is_ordered(unit) {
            return Err(MirrorError::Fractured(unit.into()));
        }
        Ok(image)
    }

    /// Ends an ordered fracture.
    pub(crate) async fn restore(self: &Rc<Self>, unit: &str) -> Result<(), MirrorError> {
        let _one = self.orders.lock().await;
        let image = self.check_restore(unit)?;
        let number = self.db.change(|record| {
            if let Some(fracture) = record.by_id_mut(image.id).and_then(|s| s.fracture.as_mut()) {
                fracture.ordered = false;
                fracture.reason = "restored by the administrator, not yet attached".into();
            }
        });
        self.db.stored(number).await?;
        image.go.set(true);
        image.signal.raise();
        self.propagate().await;
        Ok(())
    }

    fn check_restore(&self, unit: &str) -> Result<Rc<Image<M::Log>>, MirrorError> {
        let image = self.image(unit)?;
        if !self.is_ordered(unit) {
            return Err(MirrorError::NotFractured(unit.into()));
        }
        Ok(image)
    }

    /// Secondaries are not attached while the mirror is INACTIVE: whoever can be reached counts.
    fn conditions_to_activate(&self) -> Conditions {
        let images = self.images.borrow();
        let present = images.iter().filter(|image| image.peer.session().is_some()).count();
        conditions(&self.db.read().attributes, images.len(), present.max(self.present()))
    }

    /// To ACTIVE, or to ATTENTION when the conditions fail (R-MS-2).
    pub(crate) async fn activate(self: &Rc<Self>) -> Result<(), MirrorError> {
        let _one = self.orders.lock().await;
        let seen = self.conditions_to_activate();
        let state = self.state.get().after(MirrorChange::Activate(seen.activate.is_ok()));
        if state == MirrorState::Active {
            // They get the chance to be attached before they count as missing.
            self.images.borrow().iter().for_each(|i| i.joining.set(i.peer.session().is_some()));
        }
        let number = self.db.change(|record| record.state = state);
        self.db.stored(number).await?;
        self.enter(state);
        self.propagate().await;
        let mirror = self.name();
        seen.activate.map_err(|why| MirrorError::ConditionsNotMet { mirror, why })
    }

    /// To INACTIVE. Graceful: what is under way is finished and settled first. Forced: at once; it gets its status all
    /// the same, and the intent log keeps what is not settled.
    pub(crate) async fn deactivate(self: &Rc<Self>, force: bool) -> Result<(), MirrorError> {
        let _one = self.orders.lock().await;
        let state = self.state.get().after(MirrorChange::Deactivate);
        self.enter(state);
        if !force {
            self.flights.drained().await;
            self.settle().await;
        }
        let number = self.db.change(|record| record.state = state);
        self.db.stored(number).await?;
        self.propagate().await;
        Ok(())
    }

    /// Checks that the mirror may end (R-AD-2) and ends it, without its record and its place among the mirrors.
    pub(crate) async fn end(self: &Rc<Self>) -> Result<(), MirrorError> {
        let _one = self.orders.lock().await;
        self.check_end()?;
        self.close().await;
        Ok(())
    }

    fn check_end(&self) -> Result<(), MirrorError> {
        if !self.images.borrow().is_empty() {
            return Err(MirrorError::HasSecondaries(self.name()));
        }
        if self.state.get() != MirrorState::Inactive {
            return Err(MirrorError::NotInactive(self.name()));
        }
        Ok(())
    }

    /// Gives the space of the intent logs back.
    pub(crate) async fn remove_logs(&self) -> Result<(), MirrorError> {
        for lu in 0..self.lus.len() {
            self.around.meta.remove_log(&intent_name(self.uuid, lu)).await?;
        }
        Ok(())
    }

    /// Changes attributes of the mirror, or of its image on `unit`.
    pub(crate) async fn set(
        self: &Rc<Self>,
        unit: Option<&str>,
        changes: &BTreeMap<String, String>,
    ) -> Result<(), MirrorError> {
        let _one = self.orders.lock().await;
        if let Some(unit) = unit {
            let image = self.image(unit)?;
            let attributes = self.changed_attributes_of(unit, changes)?;
            let rate = attributes.synchronization_rate;
            let number = self.db.change(|record| {
                if let Some(secondary) = record.by_id_mut(image.id) {
                    secondary.attributes = attributes;
                }
            });
            self.db.stored(number).await?;
            image.throttle.borrow_mut().set_rate(rate, self.around.shard.now());
            image.signal.raise();
        } else {
            let attributes = self.changed_attributes(changes)?;
            let number = self.db.change(|record| record.attributes = attributes);
            self.db.stored(number).await?;
        }
        self.reconsider();
        self.tell(unit, Happening::Changed);
        self.propagate().await;
        Ok(())
    }

    fn changed_attributes(&self, changes: &BTreeMap<String, String>) -> Result<Attributes, MirrorError> {
        let mut attributes = self.db.read().attributes.clone();
        attributes.set(changes, !self.images.borrow().is_empty())?;
        Ok(attributes)
    }

    fn changed_attributes_of(
        &self,
        unit: &str,
        changes: &BTreeMap<String, String>,
    ) -> Result<ImageAttributes, MirrorError> {
        let found = self.db.read().secondary(unit).map(|secondary| secondary.attributes.clone());
        let mut attributes =
            found.ok_or_else(|| MirrorError::NoSuchSecondary { mirror: self.name(), unit: unit.into() })?;
        attributes.set(changes)?;
        Ok(attributes)
    }

    /// Brings the record to every member that can be reached (R-DB-2). The others get it when they are attached.
    pub(super) async fn propagate(&self) {
        let images = self.images();
        let record: &MirrorRecord = &self.db.durable();
        self.propagated.set(record.configuration);
        join_all(images.iter().map(|image| async move {
            let Some(session) = image.peer.session() else { return };
            let record = record.clone();
            if let Err(error) = self.ask(&session, &image.unit, &Ask::Configure { record }).await {
                tracing::warn!(%error, "a member did not take the new configuration");
            }
        }))
        .await;
    }

    fn is_ordered(&self, unit: &str) -> bool {
        let record = self.db.read();
        record.secondary(unit).and_then(|s| s.fracture.as_ref()).is_some_and(|fracture| fracture.ordered)
    }

    fn image(&self, unit: &str) -> Result<Rc<Image<M::Log>>, MirrorError> {
        let images = self.images.borrow();
        images
            .iter()
            .find(|image| image.unit == unit)
            .cloned()
            .ok_or_else(|| MirrorError::NoSuchSecondary { mirror: self.name(), unit: unit.into() })
    }
}

fn unreachable(peer: &Peer) -> MirrorError {
    let why = peer.status().reason.map_or_else(|| "no connection".into(), |reason| reason.to_string());
    MirrorError::Unreachable { unit: peer.unit().to_string(), why }
}
