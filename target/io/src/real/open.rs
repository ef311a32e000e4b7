//! Opening, creating and locking of files and block devices.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::{DiskError, DiskOptions};

/// Rounds in which another process may create or remove the file under us before that is an error.
const ROUNDS: usize = 10;

/// Opens or creates, locks, and finds the size. Blocks: a new file is made stable.
pub(crate) fn open(path: &Path, options: &DiskOptions) -> Result<(File, u64), DiskError> {
    let bad = |error: io::Error| DiskError::Open { path: path.into(), reason: error.to_string() };
    for _ in 0..ROUNDS {
        match open_existing(path) {
            Ok(mut file) => {
                lock(&file, path)?;
                let size = file.seek(SeekFrom::End(0)).map_err(bad)?;
                return Ok((file, size));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                return Err(DiskError::Locked { path: path.into() });
            }
            Err(error) => return Err(bad(error)),
        }
        let Some(size) = options.create else { return Err(DiskError::NotFound { path: path.into() }) };
        if let Some(file) = create(path, size)? {
            return Ok((file, size));
        }
    }
    Err(bad(io::Error::other("others keep creating and removing it")))
}

fn open_existing(path: &Path) -> io::Result<File> {
    let mut open = OpenOptions::new();
    open.read(true).write(true);
    // The kernel refuses a block device that is mounted or part of something else (open(2), O_EXCL).
    if std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device()) {
        open.custom_flags(OFlags::EXCL.bits().cast_signed());
    }
    open.open(path)
}

fn lock(file: &File, path: &Path) -> Result<(), DiskError> {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
        Errno::WOULDBLOCK => DiskError::Locked { path: path.into() },
        error => DiskError::Open { path: path.into(), reason: error.to_string() },
    })
}

/// Makes the file under another name and gives it its own when it is whole: a crash never leaves a disk of another size behind.
/// `None`: somebody else was quicker.
fn create(path: &Path, size: u64) -> Result<Option<File>, DiskError> {
    let bad = |error: io::Error| DiskError::Open { path: path.into(), reason: error.to_string() };
    let unfinished = unfinished_name(path)
        .ok_or_else(|| bad(io::Error::new(ErrorKind::InvalidInput, "that is no file name")))?;
    let made = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false) // It may be another process' until we have the lock.
        .mode(0o600)
        .open(&unfinished);
    // Not `NotFound`, even when the folder is missing: the caller asked for a new file.
    let file = made.map_err(bad)?;
    lock(&file, path)?;
    // Another process may have finished this very file between our opening and locking it.
    let ours = file.metadata().map_err(bad)?;
    if !std::fs::metadata(&unfinished)
        .is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
    {
        return Ok(None);
    }
    file.set_len(0).map_err(bad)?; // leftovers of an attempt that was killed
    file.set_len(size).map_err(bad)?;
    file.sync_all().map_err(bad)?;
    match rename_new(&unfinished, path) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            std::fs::remove_file(&unfinished).map_err(bad)?;
            return Ok(None);
        }
        Err(error) => return Err(bad(error.into())),
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(bad)?;
    Ok(Some(file))
}

/// Renames unless the new name is taken.
fn rename_new(from: &Path, to: &Path) -> Result<(), Errno> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot rename so can link so, or has no way at all.
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::link(from, to)?;
            rustix::fs::unlink(from)
        }
        done => done,
    }
}

fn unfinished_name(path: &Path) -> Option<PathBuf> {
    let mut name = OsString::from(".");
    name.push(path.file_name()?);
    name.push(".unfinished");
    Some(path.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn creating(size: u64) -> DiskOptions {
        DiskOptions { create: Some(size) }
    }

    #[test]
    fn creating_leaves_one_private_file_of_the_size() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("disk");
        let (_file, size) = open(&path, &creating(1 << 20)).expect("creates");
        let meta = std::fs::metadata(&path).expect("is there");
        assert_eq!((size, meta.len(), meta.permissions().mode() & 0o777), (1 << 20, 1 << 20, 0o600));
        assert_eq!(std::fs::read_dir(folder.path()).expect("reads").count(), 1);
    }

    #[test]
    fn leftovers_of_a_killed_creation_are_cleared() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("disk");
        std::fs::write(folder.path().join(".disk.unfinished"), b"old bytes").expect("writes");
        drop(open(&path, &creating(4096)).expect("creates"));
        assert_eq!(std::fs::read(&path).expect("reads"), vec![0; 4096]);
        assert_eq!(std::fs::read_dir(folder.path()).expect("reads").count(), 1);
    }

    #[test]
    fn two_creators_make_one_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("disk");
        let held = std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(|| open(&path, &creating(4096)))).collect();
            all.into_iter().map(|opener| opener.join().expect("ends")).collect::<Vec<_>>()
        });
        assert_eq!(held.iter().filter(|opened| opened.is_ok()).count(), 1);
        assert!(held.iter().all(|opened| matches!(opened, Ok(_) | Err(DiskError::Locked { .. }))));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("none/disk");
        assert!(matches!(open(&missing, &creating(1)), Err(DiskError::Open { .. })));
        assert!(matches!(open(&missing, &DiskOptions::default()), Err(DiskError::NotFound { .. })));
        assert!(matches!(open(folder.path(), &creating(1)), Err(DiskError::Open { .. })));
    }
}
