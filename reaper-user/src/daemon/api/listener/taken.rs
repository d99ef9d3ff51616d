//! A socket that another process has bound: the service manager, or a former daemon. What the monitor keeps
//! of a socket, and how the next worker or a successor continues to listen on it.

use std::os::fd::OwnedFd;
use std::path::Path;

use tokio::net::UnixListener;

use super::folder::{is_socket, system};
use super::lock::Lock;
use super::{AccessList, BACKLOG, ListenError, OwnFile, Place, Socket, SocketAccess};
use crate::daemon::systemd::activation::PassedSocket;
use crate::sys::mode_of;

impl Socket {
    /// Listens on a socket that the service manager has bound. Must be called within a tokio runtime.
    pub(crate) fn passed(passed: PassedSocket) -> Result<Self, ListenError> {
        let mode = passed.mode();
        let PassedSocket { socket, path, .. } = passed;
        rustix::io::ioctl_fionbio(&socket, true)
            .map_err(|errno| system("prepare", &path, errno))?;
        let listener = UnixListener::from_std(socket.into())
            .map_err(ListenError::system("register", &path))?;
        Ok(Self {
            listener,
            path,
            mode,
            own: None,
        })
    }

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
        let own = OwnFile::new(place, lock, access, list, &file);
        Ok(Self::with_own(listener, path, own, &file))
    }

    /// Makes a socket that was taken over that of this process: what it shows of its listener, who can
    /// connect, and the pid in the lock file. A failure is only logged, because the former process has
    /// gone.
    pub(crate) fn begin(&mut self) {
        let Some(own) = &self.own else {
            return;
        };
        let place = &own.place;
        let begun = rustix::net::listen(&self.listener, BACKLOG)
            .map_err(place.failed("listen on"))
            .and_then(|()| place.set_access(own.access, &own.list, &place.bound()?))
            .and_then(|()| place.bound());
        match begun {
            Ok(file) => self.mode = mode_of(&file),
            Err(error) => log::warn!("{error}"),
        }
        own.lock.name_this_process();
    }
}

impl OwnFile {
    /// Leaves duplicates of listener and lock with the monitor.
    pub(super) fn keep(&self, listener: &UnixListener) {
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::AsFd as _;

            use crate::daemon::carried::Kind;
            use crate::daemon::monitor;

            monitor::keep(Kind::Listener, listener.as_fd());
            monitor::keep(Kind::Lock, self.lock.descriptor());
        }
        // Other systems have no monitor.
        #[cfg(not(target_os = "linux"))]
        let _not_kept = (self, listener);
    }
}
