//! A LU as hosts reach it: whatever it is to a mirror just now.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use twinlun_block::{
    Allocation, BlockError, BlockLayer, BlockRequest, BlockResult, ByteRange, Geometry, MetaStore,
};

use crate::primary::Primary;
use crate::signal::Signal;

/// What a LU is to a mirror.
pub(crate) enum Role<L, M: MetaStore> {
    /// Nothing: requests go straight down.
    Plain,
    /// LU of the primary image, with its index in the set.
    Primary(Rc<Primary<L, M>>, usize),
    /// LU of a secondary image.
    Secondary,
    /// LU of a mirror that could not be recovered.
    Unusable,
}

impl<L, M: MetaStore> Clone for Role<L, M> {
    fn clone(&self) -> Self {
        match self {
            Self::Plain => Self::Plain,
            Self::Primary(primary, lu) => Self::Primary(primary.clone(), *lu),
            Self::Secondary => Self::Secondary,
            Self::Unusable => Self::Unusable,
        }
    }
}

/// The role of one LU, shared by all its layers.
pub(crate) struct Slot<L, M: MetaStore> {
    role: RefCell<Role<L, M>>,
    /// Requests that went straight down and are not over.
    plain: Cell<u64>,
    signal: Signal,
}

impl<L, M: MetaStore> Slot<L, M> {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self { role: RefCell::new(Role::Plain), plain: Cell::new(0), signal: Signal::default() })
    }

    pub(crate) fn role(&self) -> Role<L, M> {
        self.role.borrow().clone()
    }

    /// Changes the role for all requests from now on.
    pub(crate) fn set(&self, role: Role<L, M>) {
        self.role.replace(role);
    }

    /// Waits for requests that went straight down before the role changed.
    pub(crate) async fn plain_drained(&self) {
        self.signal.until(|| (self.plain.get() == 0).then_some(())).await;
    }
}

/// The block layer of a LU that is, was or may come to be in a mirror. Clones are the same LU.
///
/// It stays valid whatever becomes of the mirror: outside one it passes requests straight down, and a change of role takes
/// effect between two requests.
pub struct MirroredLu<L, M: MetaStore> {
    layer: L,
    slot: Rc<Slot<L, M>>,
}

impl<L: Clone, M: MetaStore> Clone for MirroredLu<L, M> {
    fn clone(&self) -> Self {
        Self { layer: self.layer.clone(), slot: self.slot.clone() }
    }
}

impl<L, M: MetaStore> MirroredLu<L, M> {
    pub(crate) fn new(layer: L, slot: Rc<Slot<L, M>>) -> Self {
        Self { layer, slot }
    }

    /// The layer below.
    pub fn array(&self) -> &L {
        &self.layer
    }
}

impl<L: BlockLayer + Clone, M: MetaStore + Clone> BlockLayer for MirroredLu<L, M> {
    fn geometry(&self) -> Geometry {
        self.layer.geometry()
    }

    fn prefetch(&self, range: ByteRange, write: bool) {
        self.layer.prefetch(range, write);
    }

    async fn allocation(&self, range: ByteRange, limit: usize) -> Result<Vec<Allocation>, BlockError> {
        self.layer.allocation(range, limit).await
    }

    async fn execute(&self, request: BlockRequest) -> BlockResult {
        match self.slot.role() {
            Role::Primary(primary, lu) => primary.execute(lu, request).await,
            Role::Secondary => Err(BlockError::NotServed),
            Role::Unusable => Err(BlockError::NotReady),
            Role::Plain => {
                let plain = &self.slot.plain;
                plain.set(plain.get() + 1);
                let result = self.layer.execute(request).await;
                plain.set(plain.get() - 1);
                if plain.get() == 0 {
                    self.slot.signal.raise();
                }
                result
            }
        }
    }
}
