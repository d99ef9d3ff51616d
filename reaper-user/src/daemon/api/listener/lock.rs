//! The lock file beside the socket: one daemon per path. The kernel releases the lock however the
//! daemon ends.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::{FileId, ListenError};

/// The lock on a socket path.
pub(super) struct Lock {
    path: PathBuf,
    file_id: FileId,
    _file: File,
}

impl Lock {
    pub(super) fn take(socket: &Path) -> Result<Self, ListenError> {
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|errno| ListenError::system("open", &path)(errno.into()))?;
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
                    path: socket.to_owned(),
                    pid,
                });
            }
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(ListenError::system("lock", &path)(error));
            }
        }
        let written = file
            .rewind()
            .and_then(|()| file.set_len(0))
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(ListenError::system("write", &path))?;
        let metadata = file
            .metadata()
            .map_err(ListenError::system("stat", &path))?;
        Ok(Self {
            file_id: FileId::of(&metadata),
            path,
            _file: file,
        })
    }

    /// Returns whether the file still has its name. It may have been removed with its folder, and
    /// then the lock no longer excludes other daemons.
    pub(super) fn is_in_place(&self) -> bool {
        FileId::at(&self.path) == Some(self.file_id)
    }
}
