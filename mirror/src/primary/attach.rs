//! Bringing a secondary into service, and noticing when it has to leave.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{Either, select};
use twinlun_block::{BlockLayer, MetaStore};

use super::{Attachment, Image, Phase, Primary};
use crate::decide::{Decision, Generation, PrimarySide, decide};
use crate::events::Happening;
use crate::fracture::MissMap;
use crate::link::Session;
use crate::protocol::{Answer, Ask};
use crate::record::SecondaryRecord;
use crate::state::{MirrorState, Relation, RelationChange};
use crate::{ByWhom, MirrorError};

/// First and longest pause after an attachment that failed.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Limit for an answer to a control message.
pub(super) const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);
/// Low bits of an epoch, for attachments; the incarnation of the primary stands above them.
const ATTACHMENT_BITS: u32 = 24;

impl<L: BlockLayer + Clone, M: MetaStore + Clone> Primary<L, M> {
    /// Looks after one secondary for as long as it is an image of the mirror.
    pub(super) async fn tend(self: Rc<Self>, image: Rc<Image<M::Log>>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let gone = image.signal.until(|| self.may_attach(&image)).await;
            if gone {
                return;
            }
            let Some(session) = self.session(&image).await else { continue };
            let shard = &self.around.shard;
            match self.attach(&image, session).await {
                Ok(attachment) => {
                    pause = FIRST_PAUSE;
                    image.trouble.replace(None);
                    self.accompany(&image, &attachment).await;
                }
                Err(error) => {
                    let text = error.to_string();
                    let before = image.trouble.replace(Some(text.clone()));
                    if before.as_ref() != Some(&text) {
                        self.tell(Some(&image.unit), Happening::Trouble(text));
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    image.joining.set(false);
                    self.reconsider();
                }
            }
            // A secondary that comes and goes must not keep both units busy with attachments.
            shard.sleep(pause).await;
        }
    }

    /// `Some(false)` when it may be attached now, `Some(true)` when it never will be again.
    fn may_attach(&self, image: &Image<M::Log>) -> Option<bool> {
        if image.removed.get() {
            return Some(true);
        }
        let record = self.db.read();
        let secondary = record.secondaries.iter().find(|secondary| secondary.id == image.id)?;
        let ordered = secondary.fracture.as_ref().is_some_and(|fracture| fracture.ordered);
        let word = image.go.get() || secondary.attributes.recovery_policy == ByWhom::Automatic;
        // R-SY-4, R-SY-5
        (!ordered && word && self.state.get() != MirrorState::Inactive).then_some(false)
    }

    /// Waits for a session with the image's unit, as long as one is of use.
    async fn session(&self, image: &Image<M::Log>) -> Option<Session> {
        let mut session = pin!(image.peer.wait_session());
        let mut unwanted = pin!(image.signal.until(|| (self.may_attach(image) != Some(false)).then_some(())));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(session) = session.as_mut().poll(cx) {
                return Poll::Ready(Some(session));
            }
            unwanted.as_mut().poll(cx).map(|()| None)
        })
        .await
    }

    /// A control message with a time limit.
    pub(super) async fn ask(&self, session: &Session, unit: &str, ask: &Ask) -> Result<Answer, MirrorError> {
        let answer = self.around.shard.timeout(CONTROL_TIMEOUT, ask.send(session, unit)).await;
        answer.unwrap_or_else(|_| {
            Err(MirrorError::Unreachable { unit: unit.into(), why: "no answer in time".into() })
        })
    }

    /// The conversation at the beginning of a session: hear what the other side holds, decide, act.
    async fn attach(
        self: &Rc<Self>,
        image: &Rc<Image<M::Log>>,
        session: Session,
    ) -> Result<Rc<Attachment>, MirrorError> {
        // That it misses something is on record before anything new is sent to it.
        self.db.barrier().await?;
        let epoch = self.next_epoch();
        let record = self.db.durable();
        let ask = Ask::Attach { record, image: image.id, epoch };
        let Answer::Attached(side) = self.ask(&session, &image.unit, &ask).await? else {
            let why = "its answer makes no sense".into();
            return Err(MirrorError::Unreachable { unit: image.unit.clone(), why });
        };
        let attachment = Attachment::new(session, epoch);
        // From the decision to its effect nothing else runs: no host's write slips in between.
        let decision = {
            let record = self.db.read();
            let secondary = self.entry(&record.secondaries, image)?;
            decide(
                &PrimarySide {
                    generation: record.generation,
                    ancestors: &record.ancestors,
                    relation: secondary.relation,
                    marked: !image.is_clean(),
                    configuration: record.configuration,
                },
                &side,
            )
        };
        tracing::info!(unit = %image.unit, ?decision, ?side, epoch, "secondary answers");
        match decision {
            Decision::InStep => self.put_in_step(image, &attachment),
            Decision::LogDriven => self.begin_copy(image, &attachment, false).await?,
            Decision::Full => self.begin_copy(image, &attachment, true).await?,
            Decision::Refuse(refusal) => {
                return Err(MirrorError::Diverged { unit: image.unit.clone(), why: refusal.why().into() });
            }
        }
        self.tell(Some(&image.unit), Happening::Attached);
        self.reconsider();
        Ok(attachment)
    }

    /// Prepares both sides for a copy, then lets writes to copied regions through.
    async fn begin_copy(
        self: &Rc<Self>,
        image: &Rc<Image<M::Log>>,
        attachment: &Rc<Attachment>,
        full: bool,
    ) -> Result<(), MirrorError> {
        if full {
            let number = self.change_relation(image, RelationChange::LogsLost);
            self.db.stored(number).await?;
            image.maps.borrow_mut().iter_mut().for_each(MissMap::miss_all);
        }
        // What is to be copied is in the fracture log before the database believes the fracture log.
        self.store_pages(image).await?;
        let generation: Generation = self.db.read().generation;
        let ask = Ask::BeginCopy { mirror: self.uuid, epoch: attachment.epoch, generation };
        self.ask(&attachment.session, &image.unit, &ask).await?;
        let number = self.change_relation(image, RelationChange::CopyStarts);
        self.db.stored(number).await?;
        if self.may_attach(image) != Some(false) || !attachment.session.is_alive() {
            return Err(MirrorError::Unreachable {
                unit: image.unit.clone(),
                why: "it was lost again".into(),
            });
        }
        image.attachment.replace(Some(attachment.clone()));
        image.joining.set(false);
        image.phase.set(Phase::Copying);
        image.copied.set((0, self.around.shard.now()));
        self.tell(Some(&image.unit), Happening::CopyStarted(image.dirty_bytes()));
        Ok(())
    }

    /// Changes the relation and what goes with it. The number is for [`crate::database::Database::stored`].
    fn change_relation(self: &Rc<Self>, image: &Image<M::Log>, change: RelationChange) -> u64 {
        let dirty = image.dirty_bytes();
        self.db.change(|record| {
            let Some(secondary) = record.by_id_mut(image.id) else { return };
            let Some(after) = secondary.relation.after(change) else { return };
            let resumed = matches!(secondary.relation, Relation::Copying { .. });
            secondary.relation = after;
            if change == RelationChange::CopyStarts {
                // A copy that is taken up again keeps its total, so that progress goes on where it was (R-SY-3).
                secondary.copy_total = if resumed { secondary.copy_total.max(dirty) } else { dirty };
                secondary.fracture = None;
            }
        })
    }

    /// From now on every write goes there. The record follows; a loss queues behind it.
    pub(super) fn put_in_step(self: &Rc<Self>, image: &Rc<Image<M::Log>>, attachment: &Rc<Attachment>) {
        image.attachment.replace(Some(attachment.clone()));
        image.joining.set(false);
        image.phase.set(Phase::InStep);
        for map in image.maps.borrow_mut().iter_mut() {
            map.erase();
        }
        self.db.change(|record| {
            if let Some(secondary) = record.by_id_mut(image.id) {
                let after = secondary.relation.after(RelationChange::CaughtUp);
                secondary.relation = after.expect("decided for a related image");
                secondary.fracture = None;
                secondary.copy_total = 0;
            }
        });
    }

    /// Stays with an attached secondary until it is lost.
    async fn accompany(self: &Rc<Self>, image: &Rc<Image<M::Log>>, attachment: &Rc<Attachment>) {
        let shard = &self.around.shard;
        let (me, its, at) = (self.clone(), image.clone(), attachment.clone());
        shard.spawn(async move {
            // The session may outlive the attachment by far; this job must not.
            let (closed, over) = (pin!(at.session.closed()), pin!(at.ended()));
            if let Either::Left((reason, _)) = select(closed, over).await {
                me.lose(&its, &at, &format!("link lost: {reason}"), 0);
            }
        });
        let (me, its, at) = (self.clone(), image.clone(), attachment.clone());
        shard.spawn(async move { me.watch_legs(&its, &at).await });
        if image.phase.get() == Phase::Copying {
            self.resynchronise(image, attachment).await;
        }
        attachment.ended().await;
    }

    /// Bounds how long a write waits for the secondary: `write_timeout` and an eighth of it (R-FL-5).
    async fn watch_legs(self: Rc<Self>, image: &Image<M::Log>, attachment: &Rc<Attachment>) {
        while !attachment.is_over() {
            let limit = self.db.read().attributes.write_timeout();
            self.around.shard.sleep(limit / 8).await;
            if attachment.is_late(self.around.shard.now(), limit) {
                self.lose(image, attachment, "it did not answer in time", 0);
            }
        }
    }

    fn next_epoch(&self) -> u64 {
        let attachment = self.attachments.get() + 1;
        self.attachments.set(attachment);
        // A process that attaches 16 million times counts into the next incarnation; that is stored higher by then.
        (self.db.read().incarnation << ATTACHMENT_BITS) + attachment
    }

    fn entry<'a>(
        &self,
        secondaries: &'a [SecondaryRecord],
        image: &Image<M::Log>,
    ) -> Result<&'a SecondaryRecord, MirrorError> {
        secondaries
            .iter()
            .find(|secondary| secondary.id == image.id)
            .ok_or_else(|| MirrorError::NoSuchSecondary { mirror: self.name(), unit: image.unit.clone() })
    }
}
