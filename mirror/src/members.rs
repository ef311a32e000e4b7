//! What other units may ask of this one.

use std::rc::{Rc, Weak};

use futures_util::future::LocalBoxFuture;
use twinlun_block::{BlockLayer, MetaStore, Payload};
use uuid::Uuid;

use crate::MirrorError;
use crate::decide::{Role as MemberRole, SecondarySide};
use crate::events::Happening;
use crate::layer::Role;
use crate::link::{DataRequest, DataStatus, Handler, Request, Response};
use crate::protocol::{Answer, Ask};
use crate::record::{LocalRecord, LuRecord, MirrorRecord, SecondaryRecord, local_key, record_key};
use crate::registry::{Inner, Member, lu_records};
use crate::secondary::Secondary;
use crate::state::Relation;

/// Carries out the requests of peers.
pub(crate) struct ServiceHandler<L, M: MetaStore> {
    // The service owns the link, which owns this.
    service: Weak<Inner<L, M>>,
}

impl<L, M: MetaStore> ServiceHandler<L, M> {
    pub(crate) fn new(service: &Rc<Inner<L, M>>) -> Self {
        Self { service: Rc::downgrade(service) }
    }
}

impl<L: BlockLayer + Clone, M: MetaStore + Clone> Handler for ServiceHandler<L, M> {
    fn session_opened(&self, peer: &Rc<str>, session: u64) {
        tracing::debug!(%peer, session, "a peer's session begins");
    }

    fn announce(&self, peer: &Rc<str>, request: &DataRequest) {
        let Some(service) = self.service.upgrade() else { return };
        if let Some(secondary) = service.secondary_of(Uuid::from_bytes(request.image), peer) {
            secondary.announce(request);
        }
    }

    fn handle(&self, peer: &Rc<str>, session: u64, request: Request) -> LocalBoxFuture<'static, Response> {
        let service = self.service.upgrade();
        let peer = peer.clone();
        Box::pin(async move {
            match (service, request) {
                (Some(service), Request::Data(data)) => {
                    let mirror = Uuid::from_bytes(data.image);
                    match service.secondary_of(mirror, &peer) {
                        Some(secondary) => secondary.execute(session, data).await,
                        None => Response::Data(DataStatus::NotAttached, Payload::new()),
                    }
                }
                (Some(service), Request::Control(message)) => match Ask::decode(&message) {
                    Ok(ask) => {
                        service.answer(&peer, session, ask).await.unwrap_or_else(Answer::Refused).encode()
                    }
                    Err(error) => Answer::Refused(MirrorError::Invalid(error)).encode(),
                },
                (None, Request::Data(_)) => Response::Data(DataStatus::NotAttached, Payload::new()),
                (None, Request::Control(_)) => Answer::Refused(MirrorError::Stopping).encode(),
            }
        })
    }

    fn session_closed(&self, peer: &Rc<str>, session: u64) {
        tracing::debug!(%peer, session, "a peer's session ended");
        let Some(service) = self.service.upgrade() else { return };
        for member in service.members.borrow().values() {
            if let Member::Secondary(secondary) = member {
                secondary.session_closed(session);
            }
        }
    }
}

impl<L: BlockLayer + Clone, M: MetaStore + Clone> Inner<L, M> {
    /// This unit's secondary image of the mirror, when `peer` has the primary.
    fn secondary_of(&self, mirror: Uuid, peer: &str) -> Option<Rc<Secondary<L, M>>> {
        match self.members.borrow().get(&mirror)? {
            Member::Secondary(secondary) if secondary.follows(peer) => Some(secondary.clone()),
            _ => None,
        }
    }

    fn secondary_or_refuse(&self, mirror: Uuid, peer: &str) -> Result<Rc<Secondary<L, M>>, MirrorError> {
        let unit = self.unit.name.clone();
        let why = "it has no secondary image of this mirror for that primary".into();
        self.secondary_of(mirror, peer).ok_or(MirrorError::Diverged { unit, why })
    }

    async fn answer(self: &Rc<Self>, peer: &str, session: u64, ask: Ask) -> Result<Answer, MirrorError> {
        self.check_running()?;
        match ask {
            Ask::Join { record, image, lus } => {
                check_sender(peer, &record)?;
                Ok(Answer::Joined { lus: self.join(record, image, &lus).await? })
            }
            Ask::Attach { record, image, epoch } => {
                check_sender(peer, &record)?;
                let found = self.secondary_of(record.uuid, peer).filter(|secondary| secondary.image == image);
                Ok(Answer::Attached(match found {
                    Some(secondary) => secondary.attach(session, epoch, record).await?,
                    None => self.not_a_secondary(record.uuid),
                }))
            }
            Ask::BeginCopy { mirror, epoch, generation } => {
                let secondary = self.secondary_or_refuse(mirror, peer)?;
                secondary.set_data(epoch, generation, false).await.map(|()| Answer::Done)
            }
            Ask::CaughtUp { mirror, epoch, generation } => {
                let secondary = self.secondary_or_refuse(mirror, peer)?;
                secondary.set_data(epoch, generation, true).await.map(|()| Answer::Done)
            }
            Ask::Configure { record } => {
                check_sender(peer, &record)?;
                let secondary = self.secondary_or_refuse(record.uuid, peer)?;
                secondary.configure(record).await.map(|()| Answer::Done)
            }
            Ask::Leave { mirror, image } => {
                self.leave(peer, mirror, image).await?;
                Ok(Answer::Done)
            }
            Ask::Show { mirror } => {
                let member = self.members.borrow().get(&mirror).cloned();
                let member = member.ok_or_else(|| MirrorError::NoSuchMirror(mirror.to_string()))?;
                if member.record().secondary(peer).is_none() {
                    return Err(MirrorError::NoSuchMirror(mirror.to_string()));
                }
                Ok(Answer::View(self.view(&member)))
            }
        }
    }

    /// Becomes a secondary, after the checks of R-AD-2. Nothing is written to the LUs.
    async fn join(
        self: &Rc<Self>,
        mut record: MirrorRecord,
        image: Uuid,
        names: &[String],
    ) -> Result<Vec<LuRecord>, MirrorError> {
        let _one = self.membership.lock().await;
        let former = self.members.borrow().get(&record.uuid).cloned();
        if let Some(Member::Primary(_)) = former {
            return Err(MirrorError::AlreadyInMirror { mirror: record.name, unit: self.unit.name.clone() });
        }
        if self.find(&record.name).is_ok_and(|other| other.record().uuid != record.uuid) {
            return Err(MirrorError::NameTaken(record.name));
        }
        let handles = self.free_lus(names, Some(record.uuid))?;
        let lus = lu_records(&handles);
        if lus.len() != record.primary.lus.len() {
            return Err(MirrorError::CountsDiffer {
                primary: record.primary.lus.len(),
                secondary: lus.len(),
            });
        }
        for (ours, theirs) in lus.iter().zip(&record.primary.lus) {
            if let Some(difference) = theirs.difference(ours) {
                let (primary, secondary) = (theirs.name.clone(), ours.name.clone());
                return Err(MirrorError::LusDiffer { primary, secondary, difference });
            }
        }
        // An image that was removed while this unit could not be reached is still known here: the new one takes over.
        if let Some(member) = former {
            if let Member::Secondary(secondary) = &member {
                secondary.detach().await;
            }
            self.set_roles(&member.record(), || Role::Plain);
        }
        record.secondaries.retain(|secondary| secondary.unit != self.unit.name);
        record.secondaries.push(SecondaryRecord {
            id: image,
            unit: self.unit.name.clone(),
            lus: lus.clone(),
            relation: Relation::Unrelated,
            fracture: None,
            copy_total: 0,
            attributes: crate::ImageAttributes::default(),
        });
        let uuid = record.uuid;
        self.meta
            .put(vec![
                self.index_with(Some(uuid), None)?,
                (record_key(uuid), Some(record.encode())),
                (local_key(uuid), Some(LocalRecord::default().encode())),
            ])
            .await?;
        let name = record.name.clone();
        self.load_secondary(record)?;
        self.events.tell(&name, Some(&self.unit.name), Happening::Added);
        Ok(lus)
    }

    async fn leave(&self, peer: &str, mirror: Uuid, image: Uuid) -> Result<(), MirrorError> {
        let _one = self.membership.lock().await;
        let Some(secondary) = self.secondary_of(mirror, peer).filter(|secondary| secondary.image == image)
        else {
            // Left already.
            return Ok(());
        };
        secondary.detach().await;
        let record = secondary.record();
        self.forget(&record).await?;
        self.events.tell(&record.name, Some(&self.unit.name), Happening::Removed);
        Ok(())
    }

    /// What this unit says to a primary whose secondary it is not.
    fn not_a_secondary(&self, mirror: Uuid) -> SecondarySide {
        let members = self.members.borrow();
        let (role, generation, configuration) = match members.get(&mirror) {
            Some(Member::Primary(primary)) => {
                let record = primary.db.read();
                (MemberRole::Primary, Some(record.generation), record.configuration)
            }
            _ => (MemberRole::None, None, 0),
        };
        SecondarySide { role, generation, consistent: false, configuration }
    }
}

/// Records come only from the unit that they name as the primary's.
fn check_sender(peer: &str, record: &MirrorRecord) -> Result<(), MirrorError> {
    if record.primary.unit == peer {
        return Ok(());
    }
    Err(MirrorError::NotPrimary { mirror: record.name.clone(), primary: record.primary.unit.clone() })
}
