//! A LU in memory, as the device server's requests find it.

use std::ops::Range;

use twinlun_block::{BlockError, BlockRequest, BlockResult, BlockSize, Payload, compare};

/// A LU in memory.
pub(super) struct Disk {
    /// What was written, from the beginning on; zeros follow. Clearing whole LUs for every input took most of a run's time.
    bytes: Vec<u8>,
    len: usize,
    pub(super) size: usize,
    pub(super) fail: Option<BlockError>,
}

impl Disk {
    pub(super) fn new(blocks: u64, block_size: BlockSize) -> Self {
        let size = block_size.bytes() as usize;
        Self { bytes: Vec::new(), len: blocks as usize * size, size, fail: None }
    }

    /// Whoever describes the LU asks here, or the device server is told of another one.
    pub(super) fn block_size(&self) -> BlockSize {
        BlockSize::from_bytes(self.size as u32).expect("a block size")
    }

    pub(super) fn serve(&mut self, request: BlockRequest) -> BlockResult {
        if let Some(error) = self.fail {
            return Err(error);
        }
        let at = request.range().map_or(0..0, |range| range.offset() as usize..range.end() as usize);
        assert!(at.end <= self.len, "requests lie within the LU");
        assert!(
            at.start.is_multiple_of(self.size) && at.end.is_multiple_of(self.size),
            "requests are aligned"
        );
        match request {
            BlockRequest::Read { .. } => return Ok(self.read(at).into()),
            BlockRequest::Write { data, .. } | BlockRequest::WriteAtomic { data, .. } => {
                assert_eq!(data.len(), at.len(), "a write brings what it announces");
                data.copy_to_slice(self.area(at));
            }
            BlockRequest::Flush => {}
            BlockRequest::Unmap { .. } | BlockRequest::WriteZeroes { .. } => {
                let written = self.bytes.len();
                self.bytes[at.start.min(written)..at.end.min(written)].fill(0);
            }
            BlockRequest::CompareAndWrite { compare: expected, data, .. } => {
                assert!(expected.len() == at.len() && data.len() == at.len());
                compare(&self.read(at.clone()).into(), &expected)?;
                data.copy_to_slice(self.area(at));
            }
        }
        Ok(Payload::new())
    }

    fn read(&self, at: Range<usize>) -> Vec<u8> {
        let written = self.bytes.len();
        let mut found = self.bytes[at.start.min(written)..at.end.min(written)].to_vec();
        found.resize(at.len(), 0);
        found
    }

    /// A range to be written.
    fn area(&mut self, at: Range<usize>) -> &mut [u8] {
        if self.bytes.len() < at.end {
            self.bytes.resize(at.end, 0);
        }
        &mut self.bytes[at]
    }
}
