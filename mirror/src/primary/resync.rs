//! Copying to a secondary what the logs name (R-SY). Full and log-driven copies are the same: a full one has every
//! region marked.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use twinlun_block::{BlockError, BlockLayer, BlockRequest, ByteRange, MetaStore};

use super::{Attachment, Image, Primary};
use crate::Priority;
use crate::events::Happening;
use crate::link::{DataOp, DataRequest};
use crate::planted::{Bug, planted};
use crate::protocol::Ask;
use crate::signal::Signal;
use crate::state::MirrorState;

/// Longest copy in one turn: hosts that write there wait for it.
const LONGEST_COPY: u64 = 256 << 10;
/// Copies of one image under way at a time.
const DEPTH: usize = 8;
/// Pause before regions that the primary cannot read are tried again.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(5);

/// Which priorities copy just now: a mirror waits while one of higher priority copies (R-SY-4).
#[derive(Default)]
pub(crate) struct CopyBoard {
    copying: RefCell<[usize; 3]>,
    signal: Signal,
}

/// A place on the board.
struct Place {
    board: Rc<CopyBoard>,
    priority: Priority,
}

impl CopyBoard {
    fn enter(self: &Rc<Self>, priority: Priority) -> Place {
        self.copying.borrow_mut()[priority as usize] += 1;
        Place { board: self.clone(), priority }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.board.copying.borrow_mut()[self.priority as usize] -= 1;
        self.board.signal.raise();
    }
}

impl Place {
    fn is_next(&self) -> bool {
        self.board.copying.borrow()[self.priority as usize + 1..].iter().all(|count| *count == 0)
    }
}

impl<L: BlockLayer + Clone, M: MetaStore + Clone> Primary<L, M> {
    /// Copies until the secondary is in step or lost. What was copied stays copied (R-FL-4).
    pub(super) async fn resynchronise(self: &Rc<Self>, image: &Rc<Image<M::Log>>, at: &Rc<Attachment>) {
        while !at.is_over() {
            let place = self.around.board.enter(self.db.read().attributes.synchronization_priority);
            let pass = self.copy_pass(image, at, &place).await;
            drop(place);
            if let Err(error) = pass {
                let text = format!("the primary image cannot be read: {error}");
                self.tell(Some(&image.unit), Happening::Trouble(text.clone()));
                image.trouble.replace(Some(text));
                self.around.shard.sleep(UNREADABLE_PAUSE).await;
            } else if self.finish(image, at).await {
                self.tell(Some(&image.unit), Happening::CopyDone(image.copied.get().0));
                return;
            }
        }
    }

    /// Goes once over all LUs of the set. Host writes may mark regions behind it: there is another pass then.
    async fn copy_pass(
        self: &Rc<Self>,
        image: &Rc<Image<M::Log>>,
        at: &Rc<Attachment>,
        place: &Place,
    ) -> Result<(), BlockError> {
        let mut copies = FuturesUnordered::new();
        let mut result = Ok(());
        for lu in 0..self.lus.len() {
            let mut from = 0;
            loop {
                let next = image.maps.borrow()[lu].next_run(from, LONGEST_COPY);
                let Some(run) = next.filter(|_| !at.is_over()) else { break };
                from = run.end();
                if copies.len() >= DEPTH {
                    result = copies.next().await.unwrap_or(Ok(())).and(result);
                }
                copies.push(self.copy(image, at, place, lu, run));
            }
        }
        if planted(Bug::FinishWithoutCheck) {
            for map in image.maps.borrow_mut().iter_mut() {
                map.copied(ByteRange::new(0, u64::MAX >> 1));
            }
            return Ok(());
        }
        while let Some(copied) = copies.next().await {
            result = copied.and(result);
        }
        result
    }

    /// Copies one run of whole regions. Fails only when the primary cannot read it.
    async fn copy(
        self: &Rc<Self>,
        image: &Rc<Image<M::Log>>,
        at: &Rc<Attachment>,
        place: &Place,
        lu: usize,
        run: ByteRange,
    ) -> Result<(), BlockError> {
        let shard = &self.around.shard;
        self.wait_for_leave(at, place).await;
        let pause = image.throttle.borrow_mut().take(run.len(), shard.now());
        if !pause.is_zero() {
            shard.sleep(pause).await;
        }
        // Shared: writes to the run wait until its copy is over, reads do not (R-SY-2).
        let _turn = self.lus[lu].turns.shared(run).await;
        if at.is_over() || !image.maps.borrow()[lu].is_dirty(run) {
            return Ok(());
        }
        let flight = self.flights.enter();
        if planted(Bug::ClearDirtyOnSend) {
            image.maps.borrow_mut()[lu].copied(run);
        }
        for piece in run.split_at_multiples(LONGEST_COPY) {
            let payload = self.lus[lu].layer.execute(BlockRequest::Read { range: piece }).await?;
            if at.is_over() {
                return Ok(());
            }
            let op = if payload.is_zero() {
                DataOp::WriteZeroes { may_unmap: true, stable: false }
            } else {
                DataOp::Write { payload, stable: false }
            };
            let image_id = self.uuid.into_bytes();
            let request =
                DataRequest { image: image_id, lu: lu as u16, epoch: at.epoch, range: piece, copy: true, op };
            if let Err(reason) = at.ask(shard.now(), request).await {
                self.lose(image, at, &reason, lu);
                return Ok(());
            }
            if at.is_over() {
                return Ok(());
            }
            image.maps.borrow_mut()[lu].acknowledged(piece, flight.generation());
        }
        if !at.is_over() {
            image.maps.borrow_mut()[lu].copied(run);
            let (bytes, since) = image.copied.get();
            image.copied.set((bytes + run.len(), since));
        }
        Ok(())
    }

    /// Waits while the mirror is INACTIVE (R-SY-5) or a mirror of higher priority copies.
    async fn wait_for_leave(&self, at: &Rc<Attachment>, place: &Place) {
        if self.state.get() == MirrorState::Inactive {
            let mut over = std::pin::pin!(at.ended());
            let mut active = std::pin::pin!(self.signal.until(|| {
                (self.state.get() != MirrorState::Inactive || self.closed.get()).then_some(())
            }));
            futures_util::future::select(&mut over, &mut active).await;
        }
        if !place.is_next() {
            let mut over = std::pin::pin!(at.ended());
            let mut next = std::pin::pin!(place.board.signal.until(|| place.is_next().then_some(())));
            futures_util::future::select(&mut over, &mut next).await;
        }
    }

    /// Ends a copy, if nothing is left: everything is flushed there and the secondary knows that it is whole, before it
    /// counts as in step.
    async fn finish(self: &Rc<Self>, image: &Rc<Image<M::Log>>, at: &Rc<Attachment>) -> bool {
        let open = || at.is_over() || !image.is_clean();
        if open() || !self.settle().await || open() {
            return false;
        }
        let generation = self.db.read().generation;
        let ask = Ask::CaughtUp { mirror: self.uuid, epoch: at.epoch, generation };
        if let Err(error) = self.ask(&at.session, &image.unit, &ask).await {
            self.lose(image, at, &error.to_string(), 0);
            return false;
        }
        // Looked at again: from here to the effect nothing else runs.
        if open() {
            return false;
        }
        self.put_in_step(image, at);
        true
    }
}
