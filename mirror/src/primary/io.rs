//! The data path of a primary image. `docs/design/mirror.md` gives the reasons, step by step.

use std::rc::Rc;

use futures_util::future::{join, join_all};
use smallvec::SmallVec;
use twinlun_block::{
    BlockError, BlockLayer, BlockRequest, BlockResult, ByteRange, MetaStore, Payload, compare,
};

use super::attachment::{Attachment, Sent};
use super::image::Leg;
use super::{Image, Primary};
use crate::link::{DataOp, DataRequest, MAX_DATA};
use crate::planted::{Bug, planted};
use crate::state::MirrorState;

/// Longest range that one request clears. A secondary that has to write its zeros needs a moment for them, and the time limit
/// for its answer must not depend on how much a host clears with one command.
const MAX_CLEAR: u64 = if cfg!(test) { 1 << 20 } else { 16 << 20 };

impl<L: BlockLayer + Clone, M: MetaStore + Clone> Primary<L, M> {
    /// Carries out a host's request to LU `lu` of the set.
    pub(crate) async fn execute(self: &Rc<Self>, lu: usize, request: BlockRequest) -> BlockResult {
        match request {
            BlockRequest::Read { range } => self.read(lu, range).await,
            BlockRequest::Flush => self.flush(lu).await,
            BlockRequest::CompareAndWrite { range, compare, data, fua } => {
                self.compare_and_write(lu, range, compare, BlockRequest::Write { range, data, fua }).await
            }
            BlockRequest::Write { range, .. }
            | BlockRequest::WriteAtomic { range, .. }
            | BlockRequest::Unmap { range }
            | BlockRequest::WriteZeroes { range, .. } => self.write(lu, range, request).await,
        }
    }

    /// Waits for unfinished writes that overlap: what a host reads here is on every image in step (B-3, I6).
    async fn read(&self, lu: usize, range: ByteRange) -> BlockResult {
        let _turn = self.lus[lu].turns.shared(range).await;
        self.admit()?;
        self.lus[lu].layer.execute(BlockRequest::Read { range }).await
    }

    /// A mirrored write, unmap or write of zeros.
    async fn write(self: &Rc<Self>, lu: usize, range: ByteRange, request: BlockRequest) -> BlockResult {
        // Overlapping writes go one after the other, on every image alike (R-WR-3).
        let turn = self.lus[lu].turns.exclusive(range).await;
        let held = (!planted(Bug::DropTurnEarly)).then_some(turn);
        let result = self.write_in_turn(lu, range, request).await;
        drop(held);
        result
    }

    async fn write_in_turn(
        self: &Rc<Self>,
        lu: usize,
        range: ByteRange,
        request: BlockRequest,
    ) -> BlockResult {
        self.admit()?;
        let flight = self.flights.enter();
        // Durable before any image is touched (R-WIL-2).
        let intent = self.lus[lu].intent.mark(range, flight.generation()).await;
        intent.map_err(|_| BlockError::NotReady)?;
        self.admit()?;
        // Primary and secondaries in parallel, done in any order (R-WR-1, R-WR-2).
        let write = Sent { lu, range, generation: flight.generation(), stable: is_stable(&request) };
        let legs = self.legs(write);
        let layer = &self.lus[lu].layer;
        let primary = if legs.is_empty() {
            layer.execute(request).await
        } else {
            join(layer.execute(request.clone()), self.forward(&legs, write, &request)).await.0
        };
        if primary.is_err() {
            // They may have what the primary has not, even on stable storage. What the primary reads from now on is the truth
            // (R-WIL-4).
            for Leg { image, attachment, .. } in &legs {
                image.owes(write);
                self.lose(image, attachment, "the primary image could not write", lu);
            }
        }
        // Whoever misses this write is on record as missing it, before the host hears of it (I1, R-FL-2).
        if !planted(Bug::SkipFractureRecord) {
            self.db.barrier().await.map_err(|_| BlockError::NotReady)?;
        }
        // The administrator may have forbidden to go on with so few images (R-MS-3).
        if self.state.get() == MirrorState::Attention {
            return Err(BlockError::NotReady);
        }
        primary
    }

    /// Compares and writes in one turn: atomic against every request that overlaps, on every image (B-10).
    async fn compare_and_write(
        self: &Rc<Self>,
        lu: usize,
        range: ByteRange,
        expected: Payload,
        write: BlockRequest,
    ) -> BlockResult {
        let _turn = self.lus[lu].turns.exclusive(range).await;
        self.admit()?;
        let found = self.lus[lu].layer.execute(BlockRequest::Read { range }).await?;
        compare(&found, &expected)?;
        self.write_in_turn(lu, range, write).await
    }

    /// Everything answered so far becomes stable on the primary and on every secondary in step.
    async fn flush(self: &Rc<Self>, lu: usize) -> BlockResult {
        self.admit()?;
        let images = self.images.borrow().clone();
        let secondaries = join_all(images.iter().filter_map(|image| {
            let attachment = image.in_step()?;
            Some(self.flush_for_host(image, attachment, lu))
        }));
        let (primary, _) = join(self.lus[lu].layer.execute(BlockRequest::Flush), secondaries).await;
        self.db.barrier().await.map_err(|_| BlockError::NotReady)?;
        primary
    }

    /// What the secondary has acknowledged before, it does not lose any more, and a fracture later on need not copy it.
    async fn flush_for_host(
        self: &Rc<Self>,
        image: &Rc<Image<M::Log>>,
        attachment: Rc<Attachment>,
        lu: usize,
    ) {
        let settles = image.maps.borrow_mut()[lu].begin_flush();
        let request = self.request(&attachment, lu, ByteRange::default(), DataOp::Flush);
        if let Err(reason) = attachment.ask(self.around.shard.now(), request).await {
            self.lose(image, &attachment, &reason, lu);
        } else if settles && image.is_attached(&attachment) {
            image.maps.borrow_mut()[lu].end_flush();
        }
    }

    /// Decides, for every secondary in one step, who gets the write; the others have it marked.
    fn legs(&self, write: Sent) -> SmallVec<[Leg<M::Log>; 2]> {
        let images = self.images.borrow();
        if images.is_empty() {
            return SmallVec::new();
        }
        let now = self.around.shard.now();
        images.iter().filter_map(|image| image.admit(write, now)).collect()
    }

    /// Sends a request to all legs and waits for all answers. Whoever fails is lost, and the write goes on (R-FL-5).
    async fn forward(self: &Rc<Self>, legs: &[Leg<M::Log>], write: Sent, request: &BlockRequest) {
        match legs {
            [] => {}
            [leg] => self.send(leg, write, request).await,
            many => {
                join_all(many.iter().map(|leg| self.send(leg, write, request))).await;
            }
        }
    }

    async fn send(self: &Rc<Self>, leg: &Leg<M::Log>, write: Sent, request: &BlockRequest) {
        let Leg { image, attachment, ticket } = leg;
        let whole = write.range;
        let step = match request {
            BlockRequest::Write { .. } => MAX_DATA as u64,
            BlockRequest::Unmap { .. } | BlockRequest::WriteZeroes { .. } => MAX_CLEAR,
            _ => u64::MAX,
        };
        let mut done = 0;
        loop {
            let range = ByteRange::new(whole.offset() + done, step.min(whole.len() - done));
            let piece = self.request(attachment, write.lu, range, operation(request, done, range.len()));
            if let Err(reason) = attachment.carry(piece).await {
                attachment.close(*ticket);
                image.owes(write);
                self.lose(image, attachment, &reason, write.lu);
                return;
            }
            done += range.len();
            if done >= whole.len() {
                image.acknowledged(attachment, *ticket);
                return;
            }
            attachment.renew(*ticket, self.around.shard.now());
        }
    }

    /// Work on a LU of a secondary, on behalf of a host.
    pub(super) fn request(
        &self,
        attachment: &Attachment,
        lu: usize,
        range: ByteRange,
        op: DataOp,
    ) -> DataRequest {
        let image = self.uuid.into_bytes();
        DataRequest { image, lu: lu as u16, epoch: attachment.epoch, range, copy: false, op }
    }
}

/// Whether a request is answered only once it is on stable storage.
fn is_stable(request: &BlockRequest) -> bool {
    match request {
        BlockRequest::Write { fua, .. }
        | BlockRequest::WriteAtomic { fua, .. }
        | BlockRequest::WriteZeroes { fua, .. } => *fua,
        _ => false,
    }
}

/// The part of a request from byte `at` of its range, as the link carries it.
fn operation(request: &BlockRequest, at: u64, len: u64) -> DataOp {
    match request {
        BlockRequest::Write { data, fua, .. } => {
            DataOp::Write { payload: data.slice(at as usize, len as usize), stable: *fua }
        }
        // One message, for its receiver to write whole or not at all: a whole one fits the link.
        BlockRequest::WriteAtomic { data, fua, .. } => {
            DataOp::WriteAtomic { payload: data.clone(), stable: *fua }
        }
        BlockRequest::WriteZeroes { fua, may_unmap, .. } => {
            DataOp::WriteZeroes { may_unmap: *may_unmap, stable: *fua }
        }
        BlockRequest::Unmap { .. } => DataOp::Unmap,
        BlockRequest::Flush | BlockRequest::Read { .. } | BlockRequest::CompareAndWrite { .. } => {
            unreachable!(
                "flushes have a way of their own, reads stay here, and COMPARE AND WRITE travels as a write"
            )
        }
    }
}
