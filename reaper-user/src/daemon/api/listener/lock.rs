//! The lock file beside the socket: one daemon per path. The kernel releases the lock however the
//! daemon ends.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::ListenError;
use super::error::LOCK;
use super::folder::{FileId, Folder, system};

/// The lock on a socket of a folder.
pub(super) struct Lock {
    name: OsString,
    file_id: FileId,
    file: File,
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
        write_pid(&file).map_err(ListenError::system("write", &path))?;
        let stat = rustix::fs::fstat(&file).map_err(|errno| system("stat", &path, errno))?;
        Ok(Self {
            file_id: FileId::of(&stat),
            name,
            file,
        })
    }

    /// Takes over the lock that a former worker of this daemon has left, if it is the one of this socket.
    pub(super) fn adopt(fd: OwnedFd, folder: &Folder, socket: &OsStr) -> Option<Self> {
        let mut name = socket.to_owned();
        name.push(".lock");
        let lock = Self {
            file_id: FileId::of(&rustix::fs::fstat(&fd).ok()?),
            name,
            file: File::from(fd),
        };
        if !lock.is_in(folder) || lock.file.try_lock().is_err() {
            return None;
        }
        Some(lock)
    }

    /// Names this process in a lock that was taken over.
    pub(super) fn name_this_process(&self) {
        if let Err(error) = write_pid(&self.file) {
            log::warn!("the lock file names a former process: {error}");
        }
    }

    /// Gives the lock back, although the monitor has a duplicate of its descriptor.
    pub(super) fn release(&self) {
        if let Err(error) = self.file.unlock() {
            log::debug!("the lock is released later: {error}");
        }
    }

    /// Returns whether the file still has its name in this folder. It may have been removed, and
    /// then the lock no longer excludes other daemons.
    pub(super) fn is_in(&self, folder: &Folder) -> bool {
        folder.has(&self.name, self.file_id)
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Writes the pid of this process into the lock file, for the error text of other daemons.
fn write_pid(mut file: &File) -> io::Result<()> {
    file.rewind()?;
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}
