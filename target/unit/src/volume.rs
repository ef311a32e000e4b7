//! A LU as the device server's requests reach it: through its mirror driver when it belongs to a mirror, else straight to the array.

use std::cell::{Cell, RefCell};

use tokio::sync::Notify;
use twinlun_array::{Lu, Vault};
use twinlun_block::{BlockLayer, BlockRequest, BlockResult, ByteRange, Geometry, RangeTurns, Turn};
use twinlun_mirror::MirroredLu;
use uuid::Uuid;

/// The way down from SCSI for one LU.
pub(crate) struct Volume {
    uuid: Uuid,
    path: RefCell<Path>,
    /// Requests under way that went straight to the array.
    plain: Cell<usize>,
    plain_idle: Notify,
    /// Saved device server state is stored in the order of its making.
    records: RangeTurns,
}

/// Either layer is one static call away.
#[derive(Clone)]
enum Path {
    Plain(Lu),
    Mirrored(MirroredLu<Lu, Vault>),
}

impl Volume {
    pub(crate) fn new(lu: Lu) -> Self {
        Self {
            uuid: lu.uuid(),
            path: RefCell::new(Path::Plain(lu)),
            plain: Cell::new(0),
            plain_idle: Notify::new(),
            records: RangeTurns::new(),
        }
    }

    pub(crate) fn uuid(&self) -> Uuid {
        self.uuid
    }

    pub(crate) fn geometry(&self) -> Geometry {
        match &*self.path.borrow() {
            Path::Plain(lu) => lu.geometry(),
            Path::Mirrored(lu) => lu.geometry(),
        }
    }

    /// From now on requests pass this mirror driver, or go straight to the array.
    pub(crate) fn route(&self, mirrored: Option<MirroredLu<Lu, Vault>>, plain: Lu) {
        *self.path.borrow_mut() = mirrored.map_or(Path::Plain(plain), Path::Mirrored);
    }

    pub(crate) async fn execute(&self, request: BlockRequest) -> BlockResult {
        let path = self.path.borrow().clone();
        match path {
            Path::Mirrored(lu) => lu.execute(request).await,
            Path::Plain(lu) => {
                let _under_way = UnderWay::new(self);
                lu.execute(request).await
            }
        }
    }

    /// Waits until no request is under way that a mirror driver has not seen.
    pub(crate) async fn drain_plain(&self) {
        while self.plain.get() > 0 {
            self.plain_idle.notified().await;
        }
    }

    /// A place in the line of this LU's records, taken now.
    pub(crate) fn record_turn(&self) -> impl Future<Output = Turn> + use<> {
        self.records.exclusive(ByteRange::new(0, 1))
    }
}

struct UnderWay<'a>(&'a Volume);

impl<'a> UnderWay<'a> {
    fn new(volume: &'a Volume) -> Self {
        volume.plain.set(volume.plain.get() + 1);
        Self(volume)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let left = self.0.plain.get() - 1;
        self.0.plain.set(left);
        if left == 0 {
            self.0.plain_idle.notify_waiters();
        }
    }
}
