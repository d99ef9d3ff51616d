//! The lock file beside the socket: one daemon per path. The kernel releases the lock however the
//! daemon ends.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};

use rustix::fs::{Mode, OFlags};

use super::ListenError;
use super::error::LOCK;
use super::folder::{FileId, Folder, system};

/// The lock on a socket of a folder.
pub(super) struct Lock {
    name: OsString,
    file_id: FileId,
    _file: File,
}

impl Lock {
    pub(super) fn take(folder: &Folder, socket: &OsStr) -> Result<Self, ListenError> {
        let mut name = socket.to_owned();
        name.push(".lock");
        let path = folder.path().join(&name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = rustix::fs::openat(folder, &name, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|errno| system("open", &path, errno))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // For the error text only.
                let pid = file
                    .read_to_string(&mut pid)
                    .ok()
                    .and(pid.trim().parse().ok());
                return Err(ListenError::Locked {
                    path: folder.path().join(socket),
                    pid,
                });
            }
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(ListenError::system(LOCK, &path)(error));
            }
        }
        let written = file
            .rewind()
            .and_then(|()| file.set_len(0))
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(ListenError::system("write", &path))?;
        let stat = rustix::fs::fstat(&file).map_err(|errno| system("stat", &path, errno))?;
        Ok(Self {
            file_id: FileId::of(&stat),
            name,
            _file: file,
        })
    }

    /// Returns whether the file still has its name in this folder. It may have been removed, and
    /// then the lock no longer excludes other daemons.
    pub(super) fn is_in(&self, folder: &Folder) -> bool {
        folder.has(&self.name, self.file_id)
    }
}
