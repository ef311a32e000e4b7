//! A LU in memory, as the device server's requests find it.

use twinlun_block::{BlockError, BlockRequest, BlockResult, BlockSize, Payload, compare};

/// A LU in memory.
pub(super) struct Disk {
    pub(super) bytes: Vec<u8>,
    pub(super) size: usize,
    pub(super) fail: Option<BlockError>,
}

impl Disk {
    pub(super) fn new(blocks: u64, block_size: BlockSize) -> Self {
        let size = block_size.bytes() as usize;
        Self { bytes: vec![0; blocks as usize * size], size, fail: None }
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
        assert!(at.end <= self.bytes.len(), "requests lie within the LU");
        assert!(
            at.start.is_multiple_of(self.size) && at.end.is_multiple_of(self.size),
            "requests are aligned"
        );
        let area = &mut self.bytes[at];
        match request {
            BlockRequest::Read { .. } => return Ok(area.to_vec().into()),
            BlockRequest::Write { data, .. } | BlockRequest::WriteAtomic { data, .. } => {
                assert_eq!(data.len(), area.len(), "a write brings what it announces");
                data.copy_to_slice(area);
            }
            BlockRequest::Flush => {}
            BlockRequest::Unmap { .. } | BlockRequest::WriteZeroes { .. } => area.fill(0),
            BlockRequest::CompareAndWrite { compare: expected, data, .. } => {
                assert!(expected.len() == area.len() && data.len() == area.len());
                compare(&area.to_vec().into(), &expected)?;
                data.copy_to_slice(area);
            }
        }
        Ok(Payload::new())
    }
}
