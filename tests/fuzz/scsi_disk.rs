//! A LU in memory, as the device server's requests find it.

use twinlun_block::{BlockError, BlockRequest, BlockResult, Payload, compare};

/// A LU in memory.
pub(super) struct Disk {
    pub(super) bytes: Vec<u8>,
    pub(super) size: usize,
    pub(super) fail: Option<BlockError>,
}

impl Disk {
    pub(super) fn serve(&mut self, request: BlockRequest) -> BlockResult {
        if let Some(error) = self.fail {
            return Err(error);
        }
        let at = request.range().map_or(0..0, |range| range.offset() as usize..range.end() as usize);
        if at.end > self.bytes.len() {
            // As the array answers. That a command gets this far is a known fault of the device server; see fuzzing.md.
            return Err(BlockError::Medium { offset: at.start as u64 });
        }
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
