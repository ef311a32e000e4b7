//! For which parts of a file the file system has taken storage.

use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, SeekFrom, fstat, fstatvfs, seek};
use rustix::io::Errno;
use twinlun_block::ByteRange;

/// Whether storage is taken for the first byte, and where within the range that ends. A file system that cannot tell says that it is.
///
/// Zeros that a file system keeps as unwritten count as not taken where nothing was written behind them: they have no data, and read as zeros.
pub(crate) fn allocated(file: BorrowedFd<'_>, range: ByteRange) -> (bool, u64) {
    let end = range.end();
    // Reads and writes name their own place, so moving the file's position disturbs nobody.
    match seek(file, SeekFrom::Data(range.offset())) {
        Ok(at) if at > range.offset() => (false, at.min(end)),
        Ok(_) => match seek(file, SeekFrom::Hole(range.offset())) {
            Ok(at) if at > range.offset() => (true, at.min(end)),
            _ => (true, end),
        },
        Err(Errno::NXIO) => (false, end),
        Err(_) => (true, end),
    }
}

/// Bytes left on the file system of a regular file.
pub(crate) fn free_space(file: BorrowedFd<'_>) -> Option<u64> {
    let kind = FileType::from_raw_mode(fstat(file).ok()?.st_mode);
    let system = fstatvfs(file).ok().filter(|_| kind == FileType::RegularFile)?;
    system.f_bavail.checked_mul(system.f_frsize)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_sparse_file_shows_its_holes() {
        const MIB: u64 = 1 << 20;
        let folder = tempfile::tempdir().expect("a folder");
        let file = std::fs::File::create_new(folder.path().join("disk")).expect("a file");
        file.set_len(4 * MIB).expect("room");
        file.write_all_at(&[1; 4096], 2 * MIB).expect("written");
        let (taken, end) = allocated(file.as_fd(), ByteRange::new(0, 4 * MIB));
        if taken {
            return; // This file system keeps no map.
        }
        assert_eq!(end, 2 * MIB);
        assert_eq!(allocated(file.as_fd(), ByteRange::new(0, MIB)), (false, MIB));
        let (taken, end) = allocated(file.as_fd(), ByteRange::new(2 * MIB, 2 * MIB));
        assert!(taken && (2 * MIB + 4096..3 * MIB).contains(&end));
        assert_eq!(allocated(file.as_fd(), ByteRange::new(3 * MIB, MIB)), (false, 4 * MIB));
        assert!(free_space(file.as_fd()).is_some());
    }
}
