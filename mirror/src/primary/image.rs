//! A secondary image as its primary sees it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use twinlun_io::Instant;
use uuid::Uuid;

use super::attachment::{Attachment, Sent};
use crate::fracture::MissMap;
use crate::link::{Hold, Peer};
use crate::planted::{Bug, planted};
use crate::signal::Signal;
use crate::throttle::Throttle;

/// What happens to a host's write with respect to one secondary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It is not sent there; its regions are marked.
    Away,
    /// It is sent there when all its regions are copied already, else marked (R-SY-2).
    Copying,
    /// It is sent there.
    InStep,
}

/// One secondary image.
pub(crate) struct Image<G> {
    /// Identity in the database.
    pub(crate) id: Uuid,
    pub(crate) unit: String,
    pub(crate) peer: Peer,
    _hold: Hold,
    /// What it misses, by LU of the set. All change together: the set fractures as one (B-2).
    pub(crate) maps: RefCell<Vec<MissMap>>,
    /// Where that is stored.
    pub(crate) logs: Vec<G>,
    pub(crate) phase: Cell<Phase>,
    pub(crate) attachment: RefCell<Option<Rc<Attachment>>>,
    /// It was added just now and does not count as missing yet.
    pub(crate) joining: Cell<bool>,
    /// It is no image of the mirror any more.
    pub(crate) removed: Cell<bool>,
    /// The administrator gave the word to resynchronise.
    pub(crate) go: Cell<bool>,
    /// What keeps it from being attached or copied, in words.
    pub(crate) trouble: RefCell<Option<String>>,
    /// Something of the above, or of the mirror, changed.
    pub(crate) signal: Signal,
    pub(crate) throttle: RefCell<Throttle>,
    /// Bytes copied since the copy was taken up, and when that was.
    pub(crate) copied: Cell<(u64, Instant)>,
    /// Planted bug only: the one LU that stopped.
    pub(crate) lame: Cell<Option<usize>>,
}

/// A secondary that has to have a write before the host is answered.
pub(crate) struct Leg<G> {
    pub(crate) image: Rc<Image<G>>,
    pub(crate) attachment: Rc<Attachment>,
    /// Its number on the attachment's list.
    pub(crate) ticket: u64,
}

impl<G> Image<G> {
    pub(crate) fn new(id: Uuid, peer: Peer, maps: Vec<MissMap>, logs: Vec<G>, rate: u64) -> Rc<Self> {
        let hold = peer.connect();
        Rc::new(Self {
            id,
            unit: peer.unit().to_string(),
            peer,
            _hold: hold,
            maps: RefCell::new(maps),
            logs,
            phase: Cell::new(Phase::Away),
            attachment: RefCell::default(),
            joining: Cell::new(false),
            removed: Cell::new(false),
            go: Cell::new(false),
            trouble: RefCell::default(),
            signal: Signal::default(),
            throttle: RefCell::new(Throttle::new(rate)),
            copied: Cell::default(),
            lame: Cell::new(None),
        })
    }

    /// Decides about a host's write in one step with marking it: no write is half forwarded (R-SY-2). `Some` when it
    /// has to be sent now; it is on the attachment's list from this moment.
    pub(crate) fn admit(self: &Rc<Self>, write: Sent, now: Instant) -> Option<Leg<G>> {
        let map = &mut self.maps.borrow_mut()[write.lu];
        let attachment = match self.phase.get() {
            Phase::Away => None,
            Phase::Copying | Phase::InStep => self.attachment.borrow().clone(),
        };
        match attachment {
            Some(attachment) if map.may_forward(write.range) && self.lame.get() != Some(write.lu) => {
                let ticket = attachment.open(now, Some(write));
                Some(Leg { image: self.clone(), attachment, ticket })
            }
            Some(_) if planted(Bug::ForwardHalf) => None,
            _ => {
                map.miss(write.range);
                None
            }
        }
    }

    /// The secondary has a write. Unless it was lost meanwhile (then it owes the write already) the write is from now on
    /// among what it may still lose.
    pub(crate) fn acknowledged(&self, attachment: &Rc<Attachment>, ticket: u64) {
        let Some(write) = attachment.close(ticket) else { return };
        if !write.stable && self.is_attached(attachment) {
            self.maps.borrow_mut()[write.lu].acknowledged(write.range, write.generation);
        }
    }

    /// The secondary owes a write, whatever it may have of it.
    pub(crate) fn owes(&self, write: Sent) {
        self.maps.borrow_mut()[write.lu].miss(write.range);
    }

    /// What the secondary owes when it is lost: everything that it may not have on stable storage.
    pub(crate) fn lose_everything_open(&self, attachment: &Attachment) {
        let mut maps = self.maps.borrow_mut();
        attachment.each_open(|write| maps[write.lu].miss(write.range));
        maps.iter_mut().for_each(MissMap::lost);
    }

    /// The attachment over which writes go, when it is in step.
    pub(crate) fn in_step(&self) -> Option<Rc<Attachment>> {
        (self.phase.get() == Phase::InStep).then(|| self.attachment.borrow().clone()).flatten()
    }

    pub(crate) fn is_attached(&self, attachment: &Rc<Attachment>) -> bool {
        self.attachment.borrow().as_ref().is_some_and(|mine| Rc::ptr_eq(mine, attachment))
    }

    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.maps.borrow().iter().map(MissMap::dirty_bytes).sum()
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.maps.borrow().iter().all(MissMap::is_clean)
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.maps.borrow().iter().all(MissMap::is_settled)
    }

    /// Bytes per second of the present copy; `None` before there is a measure.
    pub(crate) fn rate(&self, now: Instant) -> Option<u64> {
        let (bytes, since) = self.copied.get();
        let millis = now.saturating_since(since).as_millis() as u64;
        (bytes > 0 && millis > 0).then(|| bytes.saturating_mul(1000) / millis)
    }
}
