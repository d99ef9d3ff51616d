//! Small files of the daemon beside its socket, which other programs of this user read: the bearer and the
//! pid file. They are named relative to the open folder of the socket, which only this user can change.
//! Links are never followed, and a new content takes the place of the former one in one step.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, fchmod, fstat, openat, renameat_with,
    statat, unlinkat,
};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::daemon::api::listener::Folder;
use crate::sys::mode_of;

/// More than any of these files has.
const LENGTH_MAX: u64 = 256;
/// Others may neither read nor change them.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// A file is not one that only this user could have written, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotOwnFile {
    #[error("{path:?} belongs to user {owner}, and this daemon runs as {uid}")]
    Foreign { path: PathBuf, owner: u32, uid: u32 },
    #[error("{path:?} is not a file of mode 0600 (mode {mode:04o}): other users may know it")]
    Open { path: PathBuf, mode: u32 },
    #[error("cannot read {path:?}: {source}")]
    System { path: PathBuf, source: io::Error },
}

/// Reads a file. Returns `None` if there is none. Beyond a maximum length, the rest is left out.
pub(crate) fn read(folder: &Folder, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, NotOwnFile> {
    let path = folder.path().join(name);
    let failed = |source: io::Error| NotOwnFile::System {
        path: path.clone(),
        source,
    };
    // Checked before it is opened, because opening a device can have effects, and a confined daemon of root cannot
    // open the files of others.
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => check(&stat, &path)?,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(failed(errno.into())),
    }
    // NONBLOCK: if it has become a FIFO, this does not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(folder, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(failed(errno.into())),
    };
    let stat = fstat(&file).map_err(|errno| failed(errno.into()))?;
    check(&stat, &path)?;
    // Not grown while it is read, which would leave copies.
    let mut content = Zeroizing::new(Vec::with_capacity(512));
    file.take(LENGTH_MAX)
        .read_to_end(&mut content)
        .map_err(failed)?;
    Ok(Some(content))
}

/// Checks that this user alone can have written the file.
fn check(stat: &Stat, path: &Path) -> Result<(), NotOwnFile> {
    let uid = rustix::process::geteuid().as_raw();
    let path = path.to_owned();
    if stat.st_uid != uid {
        let owner = stat.st_uid;
        return Err(NotOwnFile::Foreign { path, owner, uid });
    }
    let mode = mode_of(stat);
    if !FileType::from_raw_mode(stat.st_mode).is_file() || mode & 0o077 != 0 {
        return Err(NotOwnFile::Open { path, mode });
    }
    Ok(())
}

/// Creates a file, unless there is one.
pub(crate) fn create(folder: &Folder, name: &str, content: &[u8]) -> io::Result<()> {
    match put(folder, name, content, RenameFlags::NOREPLACE) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // The file system has no such step. Then the lock of the socket must do.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
            replace(folder, name, content)
        }
        outcome => outcome,
    }
}

/// Creates a file, or takes the place of the one that is there.
pub(crate) fn replace(folder: &Folder, name: &str, content: &[u8]) -> io::Result<()> {
    put(folder, name, content, RenameFlags::empty())
}

/// Removes a file.
pub(crate) fn remove(folder: &Folder, name: &str) -> io::Result<()> {
    Ok(unlinkat(folder, name, AtFlags::empty())?)
}

fn put(folder: &Folder, name: &str, content: &[u8], how: RenameFlags) -> io::Result<()> {
    let new = format!(".{name}.{}", std::process::id());
    // One of a former process with this pid, which was killed.
    remove(folder, &new).unwrap_or_default();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let written = openat(folder, &new, flags, MODE)
        .map_err(io::Error::from)
        .and_then(|file| {
            // Whatever the umask is.
            fchmod(&file, MODE)?;
            let mut file = File::from(file);
            file.write_all(content)?;
            // A crash of the system must not leave an empty bearer. A pid is of no use after one.
            if how == RenameFlags::NOREPLACE {
                file.sync_all()?;
            }
            Ok(())
        })
        .and_then(|()| Ok(renameat_with(folder, &new, folder, name, how)?));
    if written.is_err() {
        remove(folder, &new).unwrap_or_default();
    }
    written
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use tempfile::TempDir;

    use super::*;
    use crate::daemon::api::listener::SocketAccess;

    fn folder() -> (TempDir, Folder) {
        let temporary = tempfile::tempdir().unwrap();
        let socket = temporary.path().join("d/s.sock");
        let folder = Folder::of_socket(&socket, SocketAccess::Private).unwrap();
        (temporary, folder)
    }

    #[test]
    fn a_file_is_private_and_complete_and_leaves_no_other() {
        let (_temporary, folder) = folder();
        assert!(read(&folder, "f").unwrap().is_none());
        create(&folder, "f", b"one").unwrap();
        create(&folder, "f", b"two").unwrap();
        assert_eq!(**read(&folder, "f").unwrap().unwrap(), *b"one");
        replace(&folder, "f", b"three").unwrap();
        assert_eq!(**read(&folder, "f").unwrap().unwrap(), *b"three");
        let mode = fs::metadata(folder.path().join("f")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_is_neither_read_nor_written_through() {
        let (temporary, folder) = folder();
        let target = temporary.path().join("target");
        fs::write(&target, "kept").unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o600)).unwrap();
        symlink(&target, folder.path().join("f")).unwrap();
        assert!(matches!(read(&folder, "f"), Err(NotOwnFile::Open { .. })));
        create(&folder, "f", b"new").unwrap();
        assert!(folder.path().join("f").is_symlink(), "it was there first");
        let new = format!(".f.{}", std::process::id());
        symlink(&target, folder.path().join(new)).unwrap();
        replace(&folder, "f", b"new").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"kept");
        assert_eq!(**read(&folder, "f").unwrap().unwrap(), *b"new");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let (_temporary, folder) = folder();
        create(&folder, "f", b"one").unwrap();
        let path = folder.path().join("f");
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&folder, "f"), Err(NotOwnFile::Open { .. })));
        }
    }
}
