//! A LU as the device server's requests reach it.

use tokio::sync::Notify;
use twinlun_array::{Lu, Vault};
use twinlun_block::{
    Allocation, BlockError, BlockLayer, BlockRequest, BlockResult, ByteRange, Geometry, RangeTurns, Turn,
};
use twinlun_mirror::MirroredLu;
use uuid::Uuid;

/// The way down from SCSI for one LU: through its mirror driver while it belongs to a mirror, else straight to the array.
pub(crate) struct Volume {
    uuid: Uuid,
    layer: MirroredLu<Lu, Vault>,
    /// Saved device server state is stored in the order of its making.
    records: RangeTurns,
    /// Signalled when an operation on the whole medium is over.
    operated: Notify,
}

impl Volume {
    pub(crate) fn new(uuid: Uuid, layer: MirroredLu<Lu, Vault>) -> Self {
        Self { uuid, layer, records: RangeTurns::new(), operated: Notify::new() }
    }

    pub(crate) fn uuid(&self) -> Uuid {
        self.uuid
    }

    pub(crate) fn operated(&self) -> &Notify {
        &self.operated
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.layer.geometry()
    }

    /// A hint: this is read, or written, in a moment.
    pub(crate) fn prefetch(&self, range: ByteRange, write: bool) {
        self.layer.prefetch(range, write);
    }

    pub(crate) async fn execute(&self, request: BlockRequest) -> BlockResult {
        self.layer.execute(request).await
    }

    pub(crate) async fn allocation(
        &self,
        range: ByteRange,
        limit: usize,
    ) -> Result<Vec<Allocation>, BlockError> {
        self.layer.allocation(range, limit).await
    }

    /// A place in the line of this LU's records, taken now.
    pub(crate) fn record_turn(&self) -> impl Future<Output = Turn> + use<> {
        self.records.exclusive(ByteRange::new(0, 1))
    }
}
