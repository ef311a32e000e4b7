//! Drives SANITIZE and FORMAT UNIT: step by step, at no more than the configured rate, until it is durably over.

use std::rc::Rc;
use std::time::Duration;

use twinlun_block::BlockRequest;
use twinlun_io::Instant;
use twinlun_scsi::{LuId, OperationStep};

use crate::processor::Processor;
use crate::volume::Volume;

/// Pause while the LU is not served, or its record cannot be stored.
const RETRY: Duration = Duration::from_secs(1);

impl Processor {
    /// Goes on with what a former life has begun.
    pub(crate) fn resume_operations(self: &Rc<Self>) {
        let begun = self.device.borrow().operating();
        begun.into_iter().for_each(|lu| self.start_operation(lu));
    }

    /// Begins the operation that was ordered. It ends with the LU, with the process, or when it is done.
    pub(crate) fn start_operation(self: &Rc<Self>, lu: LuId) {
        if let Some(volume) = self.volume(lu) {
            let this = self.clone();
            self.shard.spawn(async move { this.operate(lu, &volume).await });
        }
    }

    async fn operate(self: &Rc<Self>, lu: LuId, volume: &Rc<Volume>) {
        let name = self.array.lu(volume.uuid()).map_or_else(String::new, |lu| lu.info().name);
        let formats = self.device.borrow().formats(lu);
        let (begun, done, undone) = match formats {
            true => ("being formatted", "formatted", "not formatted"),
            false => ("being sanitized", "sanitized", "not sanitized"),
        };
        self.events.note("lu", &name, begun);
        while !self.is_stopping() && self.volume(lu).is_some_and(|now| Rc::ptr_eq(&now, volume)) {
            let step = self.device.borrow_mut().operation_step(lu);
            match step {
                OperationStep::Submit(request) => self.operation_step(lu, volume, request).await,
                OperationStep::Idle => break,
                OperationStep::Store(record) => {
                    let turn = volume.record_turn().await;
                    let stored = self.store_lu_record(volume.uuid(), record).await;
                    drop(turn);
                    if stored.is_err() {
                        self.shard.sleep(RETRY).await;
                        continue;
                    }
                    self.device.borrow_mut().operation_end(lu);
                    break;
                }
            }
        }
        let failed = self.device.borrow().operation_reply(lu).sense.is_some();
        self.events.note("lu", &name, if failed { undone } else { done });
        volume.operated().notify_waiters();
    }

    async fn operation_step(&self, lu: LuId, volume: &Volume, request: BlockRequest) {
        let begun = self.shard.now().since_start();
        let result = volume.execute(request.clone()).await.map(drop);
        let gone_on = self.device.borrow_mut().operation_done(lu, &request, result);
        let carried = if let BlockRequest::Write { range, .. } = request { range.len() } else { 0 };
        let due = match self.config.limits.sanitize_rate {
            0 => Duration::ZERO,
            rate => Duration::from_nanos(carried.saturating_mul(1_000_000_000) / rate),
        };
        let pause = if gone_on { due } else { RETRY };
        self.shard.sleep_until(Instant::from_start(begun.saturating_add(pause))).await;
    }
}
