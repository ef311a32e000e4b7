//! Moving what is settled out of the intent log, in the background (R-WIL-3).
//!
//! One round: (1) a new generation of writes begins and the former runs out; (2) primary and attached secondaries flush;
//! (3) what the others miss goes to their fracture logs; (4) the intent log drops every region that nobody wrote to
//! since (1). Each step needs the one before.

use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use twinlun_block::{BlockLayer, BlockRequest, ByteRange, MetaStore};

use super::{Attachment, Image, Primary};
use crate::events::Happening;
use crate::link::DataOp;
use crate::planted::{Bug, planted};
use crate::protocol::Ask;
use crate::record::Departed;

/// Pause between rounds: how long a region stays marked after its last write, one to two times this.
const INTERVAL: Duration = Duration::from_secs(2);
/// Pause between attempts to reach a unit that an image was removed from.
const DISMISS_INTERVAL: Duration = Duration::from_secs(5);

impl<L: BlockLayer + Clone, M: MetaStore + Clone> Primary<L, M> {
    /// Settles every now and then, while there is something.
    pub(super) async fn settle_now_and_then(self: Rc<Self>) {
        while !self.closed.get() {
            self.around.shard.sleep(INTERVAL).await;
            if !self.is_settled() && !self.closed.get() {
                self.settle().await;
            }
            // Fractures and progress reach the other members in their own time (R-DB-1).
            if self.db.durable().configuration != self.propagated.get() && !self.closed.get() {
                self.propagate().await;
            }
        }
    }

    fn is_settled(&self) -> bool {
        self.lus.iter().all(|lu| lu.intent.is_idle())
            && self.images.borrow().iter().all(|image| image.is_settled())
    }

    /// Whether everything written is on stable storage of every image in step and no log names anything.
    pub(super) fn is_quiet(&self) -> bool {
        self.flights.is_empty() && self.lus.iter().all(|lu| lu.intent.is_clean())
    }

    /// One round. False when something could not be made stable: then nothing was dropped.
    pub(super) async fn settle(self: &Rc<Self>) -> bool {
        let _one = self.settling.lock().await;
        let former = self.flights.turn_over().await;
        if !self.flush_all(former).await {
            return false;
        }
        // That a secondary misses something is on record before the intent log, which says so too, forgets it.
        if self.db.barrier().await.is_err() {
            return false;
        }
        if !planted(Bug::DropIntentBeforeFracturePages) {
            for image in self.images() {
                if let Err(error) = self.store_pages(&image).await {
                    tracing::error!(%error, unit = %image.unit, "a fracture log cannot be stored");
                    return false;
                }
            }
        }
        for lu in &self.lus {
            lu.intent.settle(1 - former);
        }
        true
    }

    /// Flushes everywhere. False when the primary could not; a secondary that cannot is lost.
    async fn flush_all(self: &Rc<Self>, former: usize) -> bool {
        if planted(Bug::ClearIntentWithoutFlush) {
            for image in self.images() {
                image.maps.borrow_mut().iter_mut().for_each(|map| map.flushed(former));
            }
            return true;
        }
        let primary = join_all(self.lus.iter().map(|lu| lu.layer.execute(BlockRequest::Flush)));
        let images = self.images();
        let secondaries = join_all(images.iter().filter_map(|image| {
            let attachment = image.attachment.borrow().clone()?;
            Some(self.flush_secondary(image, attachment, former))
        }));
        let (primary, _) = join(primary, secondaries).await;
        match primary.into_iter().find_map(Result::err) {
            Some(error) => {
                tracing::error!(%error, "the primary image cannot be flushed");
                false
            }
            None => true,
        }
    }

    async fn flush_secondary(self: &Rc<Self>, image: &Rc<Image<M::Log>>, at: Rc<Attachment>, former: usize) {
        let flushes = (0..self.lus.len()).map(|lu| {
            let request = self.request(&at, lu, ByteRange::default(), DataOp::Flush);
            at.ask(self.around.shard.now(), request)
        });
        let failed = join_all(flushes).await.into_iter().enumerate().find(|(_, result)| result.is_err());
        if let Some((lu, Err(reason))) = failed {
            self.lose(image, &at, &reason, lu);
        } else if image.is_attached(&at) {
            image.maps.borrow_mut().iter_mut().for_each(|map| map.flushed(former));
        }
    }

    /// Tells units whose images were removed while they could not be reached.
    pub(super) async fn dismiss_departed(self: Rc<Self>) {
        while !self.closed.get() {
            let departed: Vec<Departed> = self.db.read().departed.clone();
            for gone in departed {
                let Ok(peer) = self.peer(&gone.unit) else { continue };
                let _hold = peer.connect();
                let Ok(session) = self.around.shard.timeout(DISMISS_INTERVAL, peer.wait_session()).await
                else {
                    continue;
                };
                let ask = Ask::Leave { mirror: self.uuid, image: gone.image };
                if self.ask(&session, &gone.unit, &ask).await.is_ok() {
                    self.db.change(|record| record.departed.retain(|other| *other != gone));
                    self.tell(Some(&gone.unit), Happening::Removed);
                }
            }
            self.around.shard.sleep(DISMISS_INTERVAL).await;
        }
    }
}
