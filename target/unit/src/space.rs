//! Keeps the device server informed of the space behind thin LUs: for LOG SENSE, and for the thresholds that hosts have set.

use std::rc::Rc;
use std::time::Duration;

use twinlun_scsi::Space;

use crate::processor::Processor;

/// How old what hosts are told may be.
const INTERVAL: Duration = Duration::from_secs(10);

/// Looks now and then.
pub(crate) fn watch(processor: &Rc<Processor>) {
    let this = Rc::downgrade(processor);
    let shard = processor.shard.clone();
    processor.shard.spawn(async move {
        loop {
            let Some(processor) = this.upgrade().filter(|processor| !processor.is_stopping()) else { return };
            look(&processor).await;
            drop(processor);
            shard.sleep(INTERVAL).await;
        }
    });
}

async fn look(processor: &Processor) {
    let thin: Vec<_> = processor.array.lus().into_iter().filter(|info| info.thin).collect();
    for info in thin {
        let (Some(lu), Some(id)) = (processor.array.lu(info.uuid), processor.lu_id(info.uuid)) else {
            continue;
        };
        // A LU that cannot be asked now is asked again.
        if let Ok((free, used)) = lu.space().await {
            // It never needs more than its size.
            let left = info.size.saturating_sub(used);
            let available = free.map_or(left, |free| free.min(left));
            processor.device.borrow_mut().set_space(id, Space { available, used });
        }
    }
}
