//! A socket that outlives the process that bound it: what the monitor keeps of it, and how the next worker
//! or a successor continues to listen on it.

use std::os::fd::OwnedFd;
use std::path::Path;

use tokio::net::UnixListener;

use super::folder::{FileId, is_socket, mode_of};
use super::lock::Lock;
use super::{AccessList, BACKLOG, ListenError, Place, Socket, SocketAccess};

impl Socket {
    /// Continues to listen on the socket of a former worker of this daemon, which has left its listener
    /// and its lock. Where it is no longer at the path, as [`Self::claim`].
    /// Changes nothing until [`Self::begin`].
    pub(crate) fn take_over(
        path: &Path,
        access: SocketAccess,
        list: AccessList,
        (listener, lock): (Option<OwnedFd>, Option<OwnedFd>),
    ) -> Result<Self, ListenError> {
        let path = std::path::absolute(path).map_err(ListenError::system("resolve", path))?;
        let place = Place::open(&path, access)?;
        let Some(lock) = lock.and_then(|lock| Lock::adopt(lock, &place.folder, &place.name)) else {
            return Self::claim(&path, access, list);
        };
        // The owner of the lock has bound the socket that is there.
        let file = place.folder.find(&place.name)?.filter(is_socket);
        let (Some(listener), Some(file)) = (listener, file) else {
            return Self::bind(path, place, lock, access, list);
        };
        let listener = UnixListener::from_std(listener.into())
            .map_err(ListenError::system("register", &path))?;
        Ok(Self {
            listener,
            path,
            access,
            list,
            place,
            mode: mode_of(&file),
            file: FileId::of(&file),
            lock,
            rebind_failed: false,
        })
    }

    /// Leaves duplicates of listener and lock with the monitor.
    pub(super) fn keep(&self) {
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::AsFd as _;

            use crate::daemon::carried::Kind;
            use crate::daemon::monitor;

            monitor::keep(Kind::Listener, self.listener.as_fd());
            monitor::keep(Kind::Lock, self.lock.descriptor());
        }
    }

    /// Makes a socket that was taken over that of this process: what it shows of its listener, who can
    /// connect, and the pid in the lock file. A failure is only logged, because the former process has
    /// gone.
    pub(crate) fn begin(&mut self) {
        let place = &self.place;
        let begun = rustix::net::listen(&self.listener, BACKLOG)
            .map_err(place.failed("listen on"))
            .and_then(|()| place.set_access(self.access, &self.list, &place.bound()?))
            .and_then(|()| place.bound());
        match begun {
            Ok(file) => self.mode = mode_of(&file),
            Err(error) => log::warn!("{error}"),
        }
        self.lock.name_this_process();
    }
}
