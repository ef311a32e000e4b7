//! Which command comes next, and when there is none.

use std::time::Duration;

use bytes::Bytes;
use twinlun_block::Payload;
use twinlun_io::Instant;
use twinlun_iscsi::pdu::Lun;

use super::{LoadArgs, LoadError, Order};

/// A small pseudo-random sequence (splitmix64): the same everywhere for one seed.
#[derive(Clone, Debug)]
pub(super) struct Sequence(pub(super) u64);

impl Sequence {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0. Multiplying instead of dividing; the bias is far below what could matter.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }
}

/// When a run begins to count and when it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeline {
    start: Instant,
    pub(super) measure: Instant,
    pub(super) end: Instant,
}

impl Timeline {
    pub(super) fn starting(start: Instant, warm_up: Duration, time: Duration) -> Self {
        let measure = start + warm_up;
        Self { start, measure, end: measure + time }
    }

    pub(super) fn measured(self) -> Duration {
        self.end - self.measure
    }

    pub(super) fn total(self) -> Duration {
        self.end - self.start
    }
}

/// What all connections have in common. The range is cut into *cells* of one command each.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) lun: Lun,
    /// Bytes of a cell.
    pub(super) cell: u32,
    /// Logical blocks of a cell.
    pub(super) blocks: u32,
    /// First logical block of the range.
    first_block: u64,
    /// Byte offset of the range.
    pub(super) first_byte: u64,
    /// Cells in the range.
    cells: u64,
    connections: u64,
    pub(super) depth: u32,
    read: u8,
    order: Order,
    pub(super) verify: bool,
    pub(super) fua: bool,
    pub(super) seed: u64,
    /// What is written when nothing is verified: no zeros, so that nobody can take a short cut.
    pub(super) data: Payload,
}

/// Cells that one connection may verify: their state is kept in memory, eight bytes each.
const VERIFY_CELLS: u64 = 64 << 20;

impl Plan {
    pub(super) fn new(args: &LoadArgs, blocks: u64, block: u32, seed: u64) -> Result<Self, LoadError> {
        let wrong = |text: String| Err(LoadError::Arguments(text));
        let block = u64::from(block);
        let (cell, offset) = (args.block_size.0, args.offset.0);
        if cell == 0 || cell % block != 0 || cell > 64 << 20 {
            return wrong(format!("the block size is a multiple of the LU's {block} bytes, at most 64 MiB"));
        }
        if offset % block != 0 {
            return wrong(format!("the offset is a multiple of the LU's {block} bytes"));
        }
        let Some(capacity) = blocks.checked_mul(block) else {
            return wrong("the LU is larger than 2^64 bytes".into());
        };
        let size = args.size.map_or(capacity.saturating_sub(offset), |size| size.0);
        if offset.checked_add(size).is_none_or(|end| end > capacity) {
            return wrong(format!("the range ends behind the LU's {capacity} bytes"));
        }
        let (cells, connections) = (size / cell, u64::from(args.connections));
        // With less than this a connection could find no cell that is not in use.
        let least = connections * u64::from(args.depth) * if args.verify { 2 } else { 1 };
        if cells < least && (args.verify || args.order == Order::Sequential) || cells == 0 {
            return wrong(format!("the range has {cells} blocks of that size; {} are needed", least.max(1)));
        }
        if args.verify && cells > VERIFY_CELLS {
            return wrong(format!(
                "at most {VERIFY_CELLS} blocks can be verified: use a smaller range or larger blocks"
            ));
        }
        let mut sequence = Sequence(seed);
        let data: Vec<u8> = std::iter::repeat_with(|| sequence.next().to_le_bytes())
            .take(cell as usize / 8)
            .flatten()
            .collect();
        Ok(Self {
            lun: args.url.lun,
            cell: cell as u32,
            blocks: (cell / block) as u32,
            first_block: offset / block,
            first_byte: offset,
            cells,
            connections,
            depth: args.depth,
            read: args.read,
            order: args.order,
            verify: args.verify,
            fua: args.fua,
            seed,
            data: Bytes::from(data).into(),
        })
    }

    /// The cells of one connection: its own part where order or verification need it, else all.
    pub(super) fn part(&self, connection: u32) -> std::ops::Range<u64> {
        if self.order == Order::Random && !self.verify {
            return 0..self.cells;
        }
        let index = u64::from(connection);
        self.cells * index / self.connections..self.cells * (index + 1) / self.connections
    }

    pub(super) fn lba(&self, cell: u64) -> u64 {
        self.first_block + cell * u64::from(self.blocks)
    }

    pub(super) fn byte(&self, cell: u64) -> u64 {
        self.first_byte + cell * u64::from(self.cell)
    }

    pub(super) fn is_sequential(&self) -> bool {
        self.order == Order::Sequential
    }

    pub(super) fn wants_read(&self, sequence: &mut Sequence) -> bool {
        match self.read {
            100 => true,
            0 => false,
            percent => sequence.below(100) < u64::from(percent),
        }
    }
}
