//! Looking at a disk before anything is done with it (docs/design/disk-label.md).

use std::path::Path;

use twinlun_block::{ByteRange, Payload};
use twinlun_io::{Disk, DiskError, DiskOptions, Durability, Shard};
use uuid::Uuid;

use crate::label::{BLOCK, DiskLayout, Label, LabelBlock, MIN_DISK, foreign_content};
use crate::planted::{Bug, planted};
use crate::slot::Slot;
use crate::vault::image::{self, ImageId, Records};
use crate::vault::record::UnitRecord;
use crate::{ArrayError, DiskConfig};

/// What is at a path.
pub(crate) enum Found {
    /// A disk with a label.
    Labelled { disk: Disk, label: Label },
    /// A disk of zeros, or one that keeps nothing.
    Blank(Disk),
    /// Something that is not touched, and what.
    Foreign(String),
    /// Nothing, or nothing that can be read, and why.
    Absent(DiskError),
}

/// Whether the path names a disk that keeps nothing.
pub(crate) fn is_null(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.starts_with("null:"))
}

fn is_memory(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.starts_with("ram:") || path.starts_with("null:"))
}

/// Looks at a disk, and creates nothing but disks in memory. A disk that another process has is an error.
pub(crate) async fn look(shard: &Shard, config: &DiskConfig) -> Result<Found, ArrayError> {
    open(shard, config, is_memory(&config.path)).await
}

/// The same, and creates a file that is not there when its size is known.
pub(crate) async fn look_or_create(shard: &Shard, config: &DiskConfig) -> Result<Found, ArrayError> {
    if let Some(size) = config.size.filter(|size| *size < MIN_DISK) {
        let what = format!("{size} bytes are too few; at least {MIN_DISK} are needed");
        return Err(ArrayError::Size { path: config.path.clone(), what });
    }
    open(shard, config, true).await
}

async fn open(shard: &Shard, config: &DiskConfig, create: bool) -> Result<Found, ArrayError> {
    let options = DiskOptions { create: config.size.filter(|_| create) };
    let disk = match shard.open_disk(&config.path, options).await {
        Ok(disk) => disk,
        Err(error @ DiskError::Locked { .. }) => {
            return Err(ArrayError::Disk { path: config.path.clone(), error });
        }
        Err(error) => return Ok(Found::Absent(error)),
    };
    let size = disk.size();
    if size < MIN_DISK {
        return Ok(Found::Foreign(format!("it has {size} bytes; at least {MIN_DISK} are needed")));
    }
    if is_null(&config.path) {
        return Ok(Found::Blank(disk));
    }
    // What a killed process wrote may be in the page cache only: stable first, then believed. It also counts as written
    // before this life, whose flushes cover its own writes alone.
    if !planted(Bug::BelieveTheCache)
        && let Err(error) = disk.flush().await
    {
        return Ok(Found::Absent(error));
    }
    let first = disk.read(ByteRange::new(0, 1 << 20)).await;
    let last = disk.read(ByteRange::new(size - (1 << 20), 1 << 20)).await;
    let (first, last) = match (first, last) {
        (Ok(first), Ok(last)) => (first.to_bytes(), last.to_bytes()),
        (Err(error), Ok(last)) => {
            // The second label exists for this.
            return Ok(match end_label(&last.to_bytes(), size) {
                LabelBlock::Label(label) => Found::Labelled { disk, label },
                _ => Found::Absent(error),
            });
        }
        (_, Err(error)) => return Ok(Found::Absent(error)),
    };
    let start = Label::decode(&first[..BLOCK as usize], size);
    Ok(match (start, end_label(&last, size)) {
        (LabelBlock::Label(label), _) => Found::Labelled { disk, label },
        (LabelBlock::Other | LabelBlock::Unreadable(_), LabelBlock::Label(label))
            if is_label_place(&first) =>
        {
            Found::Labelled { disk, label }
        }
        // The very first write to a blank disk was torn.
        (LabelBlock::Unreadable(_), _) if foreign_content(&first[BLOCK as usize..], &last).is_none() => {
            Found::Blank(disk)
        }
        (LabelBlock::Unreadable(what), _) | (_, LabelBlock::Unreadable(what)) => Found::Foreign(what),
        _ => match foreign_content(&first, &last) {
            Some(what) => Found::Foreign(format!("it holds {what}")),
            None => Found::Blank(disk),
        },
    })
}

/// Whether the first block may be a damaged label of ours rather than somebody else's data: a torn write leaves whole
/// sectors, of which the first has the magic; a lost sector reads as zeros.
fn is_label_place(first: &[u8]) -> bool {
    first.starts_with(b"TWINDISK") || first[..512].iter().all(|byte| *byte == 0)
}

fn end_label(last: &[u8], size: u64) -> LabelBlock {
    let at = (size - BLOCK) / BLOCK * BLOCK - (size - (1 << 20));
    last.get(at as usize..at as usize + BLOCK as usize)
        .map_or(LabelBlock::Other, |block| Label::decode(block, size))
}

/// Writes both labels of a disk, the first one first, each stable before the next.
pub(crate) async fn write_labels(slot: &Slot, unit: Uuid, generation: u64) -> Result<(), ArrayError> {
    let label = Label { unit, disk: slot.uuid, slot: slot.number, generation, layout: slot.layout };
    let block = Payload::from(label.encode());
    for at in [0, slot.layout.end_label_at()] {
        let done = slot.write(at, block.clone(), Durability::Stable).await;
        done.map_err(|error| ArrayError::Disk { path: slot.path.clone(), error })?;
    }
    Ok(())
}

/// The newest intact image of a disk.
pub(crate) struct NewestImage {
    pub(crate) id: ImageId,
    /// Which of the two slots it is in.
    pub(crate) at: u8,
    pub(crate) records: Records,
    pub(crate) unit: UnitRecord,
}

/// Reads both image slots of a disk and takes the newer one that is intact.
pub(crate) async fn newest_image(disk: &Disk, label: &Label) -> Option<NewestImage> {
    let mut best: Option<NewestImage> = None;
    for at in [0, 1] {
        if let Some(found) = read_image(disk, label, at).await
            && best.as_ref().is_none_or(|best| found.id > best.id)
        {
            best = Some(found);
        }
    }
    best
}

async fn read_image(disk: &Disk, label: &Label, at: u8) -> Option<NewestImage> {
    let layout: &DiskLayout = &label.layout;
    let start = layout.image_at(at);
    let head = disk.read(ByteRange::new(start, BLOCK)).await.ok()?.to_bytes();
    let header = image::decode_header(&head, label.unit, label.disk, layout.image)?;
    let len = u64::from(header.body).next_multiple_of(BLOCK);
    let body = disk.read(ByteRange::new(start + BLOCK, len)).await.ok()?.to_bytes();
    let records = image::decode_body(&header, &body)?;
    let unit = UnitRecord::read(&records).ok()?;
    Some(NewestImage { id: header.id, at, records, unit })
}
