//! Writes that are done whole or not at all, whatever fails meanwhile (SBC-4, 4.29; docs/design/raid.md, "Atomic writes").
//!
//! The data goes to a log of the vault first, with a checksum over all of it; then to its place, stably; then the log is emptied. Only then is the
//! write answered. A start that finds a whole entry writes it again; one that finds a torn entry drops it, for nothing of it has reached its place.
//! Entries go one after the other, so that a later write to the same place never stands under an old entry.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;
use twinlun_block::{BlockError, ByteRange, MetaError, MetaLog, PAGE_PAYLOAD, Payload};
use twinlun_io::Durability;
use uuid::Uuid;

use super::LuCore;
use super::member::Content;
use super::record::LuRecord;
use crate::ArrayError;
use crate::vault::{Core, VaultLog};

const MAGIC: [u8; 4] = *b"TATW";
/// Bytes of the entry's header, in page 0.
const HEADER: usize = 32;

/// The log of one LU. It takes room in the vault when it is first needed.
pub(super) struct Atomic {
    log: RefCell<Option<VaultLog>>,
    /// One entry at a time.
    line: Semaphore,
    /// An entry of a former life waits to be written to its place.
    pending: Cell<bool>,
}

impl Atomic {
    /// Opens the log if there is one.
    pub(super) async fn open(vault: &Rc<Core>, lu: Uuid) -> Result<Self, ArrayError> {
        let name = LuRecord::atomic_log(lu);
        let mut log = None;
        if let Some(pages) = vault.log_pages(&name) {
            log = Some(vault.open_log(&name, pages).await?);
        }
        let pending = Cell::new(log.is_some());
        Ok(Self { log: RefCell::new(log), line: Semaphore::new(1), pending })
    }

    pub(super) fn is_pending(&self) -> bool {
        self.pending.get()
    }
}

/// Header: magic (4), checksum of data (4), first byte (8), length (8), checksum of the header (4), zeros (4). Little-endian.
fn header(range: ByteRange, data: u32) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&data.to_le_bytes());
    out.extend_from_slice(&range.offset().to_le_bytes());
    out.extend_from_slice(&range.len().to_le_bytes());
    let sum = crc32c::crc32c(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.freeze()
}

/// The range and the data's checksum, `None` for anything that is no header.
fn parse(bytes: &[u8]) -> Option<(ByteRange, u32)> {
    let bytes: &[u8; HEADER] = bytes.try_into().ok()?;
    let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    if bytes[..4] != MAGIC || u32_at(24) != crc32c::crc32c(&bytes[..24]) {
        return None;
    }
    Some((ByteRange::checked(u64_at(8), u64_at(16))?, u32_at(4)))
}

fn checksum(data: &Payload) -> u32 {
    data.segments().iter().fold(0, |sum, segment| crc32c::crc32c_append(sum, segment))
}

impl LuCore {
    /// Writes all of it or nothing.
    pub(super) async fn write_atomic(
        self: &Rc<Self>,
        range: ByteRange,
        data: Payload,
    ) -> Result<(), BlockError> {
        if range.len() > self.geometry.max_atomic() {
            return Err(BlockError::NoSpace);
        }
        let _alone = self.atomic.line.acquire().await.map_err(|_| BlockError::Aborted)?;
        let log = self.atomic_log().await?;
        let _turn = self.turns.exclusive(range).await;
        if !self.is_served() {
            return Err(BlockError::NotReady);
        }
        let mut pages = vec![(0, header(range, checksum(&data)))];
        for (index, start) in (0..data.len()).step_by(PAGE_PAYLOAD).enumerate() {
            let piece = data.slice(start, PAGE_PAYLOAD.min(data.len() - start));
            pages.push((1 + index as u32, piece.to_bytes()));
        }
        log.write(pages).await.map_err(|error| self.not_logged(&error))?;
        // From here on a start finishes what this does not.
        let done = self.write_in_turn(range, Content::Data(data), Durability::Stable).await;
        if let Err(error) = log.write(vec![(0, Bytes::new())]).await {
            // The next life would write it again, over what comes after it. So nothing may come after it.
            self.atomic.pending.set(true);
            return Err(self.not_logged(&error));
        }
        done
    }

    async fn atomic_log(&self) -> Result<VaultLog, BlockError> {
        let opened = self.atomic.log.borrow().clone();
        if let Some(log) = opened {
            return Ok(log);
        }
        let pages = 1 + self.geometry.max_atomic().div_ceil(PAGE_PAYLOAD as u64) as u32;
        let name = LuRecord::atomic_log(self.uuid);
        let log = self.vault.open_log(&name, pages).await.map_err(|error| match error {
            MetaError::Full { .. } => BlockError::NoSpace,
            error => self.not_logged(&error),
        })?;
        *self.atomic.log.borrow_mut() = Some(log.clone());
        Ok(log)
    }

    fn not_logged(&self, error: &MetaError) -> BlockError {
        tracing::warn!(lu = %self.uuid, %error, "the log of atomic writes cannot be written");
        BlockError::NotReady
    }

    /// Writes the entry of a former life to its place, if there is one.
    pub(super) async fn finish_atomic(self: &Rc<Self>) -> Result<(), BlockError> {
        let _alone = self.atomic.line.acquire().await.map_err(|_| BlockError::Aborted)?;
        let log = self.atomic.log.borrow().clone();
        let (Some(log), true) = (log, self.atomic.pending.get()) else { return Ok(()) };
        if let Some((range, data)) = self.entry(&log).await? {
            let _turn = self.turns.exclusive(range).await;
            self.write_in_turn(range, Content::Data(data), Durability::Stable).await?;
            log.write(vec![(0, Bytes::new())]).await.map_err(|error| self.not_logged(&error))?;
        }
        self.atomic.pending.set(false);
        Ok(())
    }

    /// The whole entry of the log, if it has one.
    async fn entry(&self, log: &VaultLog) -> Result<Option<(ByteRange, Payload)>, BlockError> {
        let read = async |page| log.read(page).await.map_err(|error| self.not_logged(&error));
        let Some((range, sum)) = parse(&read(0).await?) else { return Ok(None) };
        if !self.geometry.whole().contains(range) || range.len() > self.geometry.max_atomic() {
            return Ok(None);
        }
        let mut data = Payload::new();
        for page in 0..range.len().div_ceil(PAGE_PAYLOAD as u64) as u32 {
            data.push(read(1 + page).await?);
        }
        // A torn entry was never begun.
        Ok((data.len() as u64 == range.len() && checksum(&data) == sum).then_some((range, data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_believed_only_whole() {
        let range = ByteRange::new(1 << 33, 4096);
        let good = header(range, 7);
        assert_eq!(parse(&good), Some((range, 7)));
        for bit in 0..28 * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&bad), None, "bit {bit}");
        }
        for len in [0, 31, 33] {
            let mut other = good.to_vec();
            other.resize(len, 0);
            assert_eq!(parse(&other), None);
        }
    }
}
