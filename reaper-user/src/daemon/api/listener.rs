//! The socket file.
//!
//! - Its folder is private, belongs to the daemon's user and is not a link, so that other users
//!   cannot replace the files in it. It is opened once, and all files are named relative to it
//!   ([`folder`]). `bind` and `connect` take no descriptor of a folder, so they get a path through
//!   `/proc/self/fd`. Where there is none, or it is too long, they get the path, and the folder is
//!   compared before and after.
//! - The daemon keeps a lock file beside the socket locked until it ends. A stale socket is removed
//!   only under that lock, so two daemons that start at once cannot both do it. The lock file is
//!   never removed: otherwise one daemon could lock the old file and another the new one.
//! - The socket file is private from the start, without a change of the umask, which belongs to the
//!   whole process. On Linux `bind` creates the file with the mode of the unbound socket
//!   ([`unix_bind_bsd`]), so that mode is set first. On other systems it is set right after `bind`,
//!   and until then the private folder keeps other users out. A group or an access list ([`acl`]) is
//!   set before the socket listens.
//! - A socket file that was removed is bound again. At the end a file is removed only if the daemon
//!   created it.
//! - A socket that the service manager has bound and passed is used as it is. Its file, mode and folder are
//!   the service manager's: none of the above applies, and the file is never removed or bound again.
//!
//! [`unix_bind_bsd`]: https://elixir.bootlin.com/linux/v6.12/source/net/unix/af_unix.c

mod access;
mod acl;
mod error;
mod folder;
mod lock;
mod taken;

use std::ffi::OsString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use tokio::net::UnixListener;

pub(crate) use access::SocketAccess;
use access::permissions;
pub(crate) use acl::AccessList;
pub use error::ListenError;
use error::SET_GROUP;
pub(crate) use folder::Folder;
use folder::{FileId, is_confined_to_folders, is_socket, system};
use lock::Lock;

use crate::client::SOCKET_PATH_MAX as PATH_MAX;
use crate::sys::mode_of;

/// Connections that wait to be accepted: more than any burst of clients. The kernel caps it.
const BACKLOG: i32 = 4_096;

/// Creates the folder of this socket if it is missing, for the user who is going to listen there, and
/// returns its path. An existing folder is checked when the socket is bound.
#[cfg(target_os = "linux")]
pub(crate) fn create_folder(
    socket: &Path,
    access: SocketAccess,
    user: Option<crate::daemon::sandbox::User>,
) -> Result<PathBuf, ListenError> {
    let socket = std::path::absolute(socket).map_err(ListenError::system("resolve", socket))?;
    refuse_other_file(&socket)?;
    let path = socket.parent().unwrap_or(&socket).to_owned();
    if path.symlink_metadata().is_ok() {
        return Ok(path);
    }
    let folder = Folder::of_socket(&socket, access)?;
    if let Some(user) = user
        && let Err(errno) = folder.give_to(user.uid, access, user.gid)
    {
        return Err(system("give away folder", &path, errno));
    }
    Ok(path)
}

/// The socket of this daemon, listening.
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    mode: u32,
    /// `None`: the service manager's.
    own: Option<OwnFile>,
}

/// The file of a socket that this daemon has bound.
struct OwnFile {
    access: SocketAccess,
    list: AccessList,
    place: Place,
    file: FileId,
    lock: Lock,
    /// Why the socket cannot be bound again, if so.
    rebind_failed: Option<String>,
}

impl Socket {
    /// Locks the path for this daemon and listens on it. Must be called within a tokio runtime.
    pub(crate) fn claim(
        path: &Path,
        access: SocketAccess,
        list: AccessList,
    ) -> Result<Self, ListenError> {
        let path = std::path::absolute(path).map_err(ListenError::system("resolve", path))?;
        check_length(&path)?;
        refuse_other_file(&path)?;
        let place = Place::open(&path, access)?;
        let lock = Lock::take(&place.folder, &place.name)?;
        Self::bind(path, place, lock, access, list)
    }

    fn bind(
        path: PathBuf,
        place: Place,
        lock: Lock,
        access: SocketAccess,
        list: AccessList,
    ) -> Result<Self, ListenError> {
        let (listener, file) = place.bind(access, &list)?;
        let own = OwnFile::new(place, lock, access, list, &file);
        own.keep(&listener);
        Ok(Self::with_own(listener, path, own, &file))
    }

    fn with_own(listener: UnixListener, path: PathBuf, own: OwnFile, file: &Stat) -> Self {
        Self {
            listener,
            path,
            mode: mode_of(file),
            own: Some(own),
        }
    }

    /// The lock file, locked; none for a socket of the service manager.
    pub(crate) fn lock_file(&self) -> Option<BorrowedFd<'_>> {
        Some(self.own.as_ref()?.lock.descriptor())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the mode of the socket file.
    pub(crate) fn mode(&self) -> u32 {
        self.mode
    }

    /// Returns the access that this process has given to the file: none to that of the service manager.
    #[cfg(target_os = "linux")]
    pub(crate) fn access(&self) -> SocketAccess {
        let own = self.own.as_ref();
        own.map_or(SocketAccess::Private, |own| own.access)
    }

    /// Binds again if the file, or its folder, is no longer at the path. Accepted connections are
    /// kept.
    pub(crate) fn restore(&mut self) {
        let Some(own) = &mut self.own else {
            return;
        };
        if own.place.folder.is_at_its_path() && own.is_in_place() {
            own.rebind_failed = None;
            return;
        }
        let path = self.path.display();
        match own.rebind(&self.path) {
            Ok(listener) => {
                log::warn!("{path} was removed; bound it again");
                own.keep(&listener);
                self.listener = listener;
                own.rebind_failed = None;
            }
            Err(error) if own.rebind_failed.is_none() => {
                log::error!("{path} was removed and cannot be bound again: {error}");
                if !own.place.folder.is_at_its_path() && is_confined_to_folders() {
                    // The rule of the sandbox is about the former folder, not about its path.
                    log::error!(
                        "the worker can bind {path} in the folder that was removed only; no client can \
                         connect until the daemon is restarted"
                    );
                }
                own.rebind_failed = Some(format!("no client can connect: {error}"));
            }
            Err(_already_logged) => {}
        }
    }

    /// Returns why the socket is not at its path, if that cannot be changed.
    pub(crate) fn conflict(&self) -> Option<String> {
        self.own.as_ref()?.rebind_failed.clone()
    }

    /// Lets other users connect than before, without a moment in which none can. The access to a socket of
    /// the service manager is not changed.
    pub(crate) fn change_access(&mut self, access: SocketAccess, list: AccessList) {
        let Some(own) = &mut self.own else {
            return;
        };
        if (access, &list) == (own.access, &own.list) {
            return;
        }
        let changed = own.place.change_access(own.access, access, &list);
        // What comes next, such as a socket file that is bound again, is for the new users anyway.
        (own.access, own.list) = (access, list);
        match changed {
            Ok(file) => self.mode = mode_of(&file),
            Err(error) => log::error!(
                "the users who can reach {} are as before: {error}",
                self.path.display()
            ),
        }
    }

    /// Stops listening and removes the file, if it is still this socket and not the service manager's.
    pub(crate) fn remove(self) {
        if let Some(own) = self.own {
            own.remove();
            own.lock.release();
        }
    }
}

impl OwnFile {
    fn new(place: Place, lock: Lock, access: SocketAccess, list: AccessList, file: &Stat) -> Self {
        Self {
            access,
            list,
            place,
            file: FileId::of(file),
            lock,
            rebind_failed: None,
        }
    }

    fn is_in_place(&self) -> bool {
        self.place.folder.has(&self.place.name, self.file)
    }

    fn rebind(&mut self, path: &Path) -> Result<UnixListener, ListenError> {
        let place = Place::open(path, self.access)?;
        if !self.lock.is_in(&place.folder) {
            self.lock = Lock::take(&place.folder, &place.name)?;
        }
        let (listener, file) = place.bind(self.access, &self.list)?;
        // A folder that was renamed still contains the former file, which has no listener now.
        self.remove();
        (self.place, self.file) = (place, FileId::of(&file));
        Ok(listener)
    }

    fn remove(&self) {
        // Only a daemon replaces it, and for that it needs the lock.
        if self.is_in_place()
            && let Err(error) =
                rustix::fs::unlinkat(&self.place.folder, &self.place.name, AtFlags::empty())
        {
            log::warn!("cannot remove {}: {error}", self.place.path().display());
        }
    }
}

fn check_length(path: &Path) -> Result<(), ListenError> {
    let length = path.as_os_str().as_bytes().len();
    if length > PATH_MAX {
        return Err(ListenError::PathTooLong {
            path: path.to_owned(),
            length,
        });
    }
    Ok(())
}

/// Before the folder is checked, because its rules do not fit the folder of another file. That it is still
/// no other file is checked under the lock.
fn refuse_other_file(path: &Path) -> Result<(), ListenError> {
    let is_other_file = path
        .symlink_metadata()
        .is_ok_and(|it| !it.file_type().is_socket());
    if is_other_file && path.file_name().is_some() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    Ok(())
}

/// An open folder, and the name of the socket in it.
struct Place {
    folder: Folder,
    name: OsString,
}

impl Place {
    fn open(socket: &Path, access: SocketAccess) -> Result<Self, ListenError> {
        let folder = Folder::of_socket(socket, access)?;
        let name = socket.file_name().unwrap_or_default().to_owned();
        Ok(Self { folder, name })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }

    fn failed(&self, call: &'static str) -> impl FnOnce(Errno) -> ListenError {
        let path = self.path();
        move |errno| system(call, &path, errno)
    }

    /// Replaces a stale socket if there is one, binds and listens. Called under the lock.
    fn bind(
        &self,
        access: SocketAccess,
        list: &AccessList,
    ) -> Result<(UnixListener, Stat), ListenError> {
        let address = self.address()?;
        self.clear_stale(&address)?;
        let socket = unix_socket().map_err(self.failed("open a socket for"))?;
        // On the BSDs and macOS this is impossible before `bind`; there the folder protects the
        // socket.
        if cfg!(any(target_os = "linux", target_os = "android")) {
            // Others get access once the file has its group or its list.
            let private = permissions(SocketAccess::Private.socket_mode());
            rustix::fs::fchmod(&socket, private).map_err(self.failed("set the mode of"))?;
        }
        rustix::net::bind(&socket, &address).map_err(self.failed("bind"))?;
        let file = self.bound()?;
        self.set_access(access, list, &file)?;
        let file = self.bound()?;
        rustix::net::listen(&socket, BACKLOG).map_err(self.failed("listen on"))?;
        let listener = UnixListener::from_std(socket.into())
            .map_err(ListenError::system("register", &self.path()))?;
        Ok((listener, file))
    }

    /// Returns an address that leads to this folder even if the path no longer does. See the top of
    /// this file for the case without one.
    fn address(&self) -> Result<SocketAddrUnix, ListenError> {
        let through = self.folder.path_through_descriptor(&self.name, PATH_MAX);
        if through.is_none() && !self.folder.is_at_its_path() {
            return Err(ListenError::Moved(self.folder.path().to_owned()));
        }
        let path = through.unwrap_or_else(|| self.path());
        SocketAddrUnix::new(path).map_err(self.failed("address"))
    }

    /// Returns the file that was just bound. It is in this folder unless the path was used and led to
    /// another one.
    fn bound(&self) -> Result<Stat, ListenError> {
        let file = self.folder.find(&self.name)?;
        file.filter(is_socket)
            .ok_or_else(|| ListenError::Moved(self.folder.path().to_owned()))
    }

    /// Sets the group or the access list, and the mode.
    fn set_access(
        &self,
        access: SocketAccess,
        list: &AccessList,
        file: &Stat,
    ) -> Result<(), ListenError> {
        let Self { folder, name } = self;
        if let SocketAccess::Group(group) = access {
            let group = Some(rustix::fs::Gid::from_raw(group));
            rustix::fs::chownat(folder, name, None, group, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(self.failed(SET_GROUP))?;
        }
        if mode_of(file) == access.socket_mode() {
            return Ok(());
        }
        // The call follows links. Only this user can put one here, and this is still the socket.
        if !folder.has(name, FileId::of(file)) {
            return Err(ListenError::Moved(folder.path().to_owned()));
        }
        if access == SocketAccess::Shared {
            let through = folder.path_through_descriptor(name, PATH_MAX);
            match list.set(&through.unwrap_or_else(|| self.path())) {
                Ok(()) => return Ok(()),
                Err(Errno::OPNOTSUPP) => log::warn!(
                    "all users can connect to {}, where those who are not served get an error: its file \
                     system has no access lists",
                    self.path().display()
                ),
                Err(errno) => return Err(self.failed("set the access list of")(errno)),
            }
        }
        let mode = permissions(access.socket_mode());
        rustix::fs::chmodat(folder, name, mode, AtFlags::empty())
            .map_err(self.failed("set the mode of"))
    }

    /// Changes the access of the socket, and that of its folder if it has the mode that this daemon gives
    /// to new folders.
    fn change_access(
        &self,
        before: SocketAccess,
        access: SocketAccess,
        list: &AccessList,
    ) -> Result<Stat, ListenError> {
        self.folder.change_access(before, access)?;
        if before == SocketAccess::Shared {
            // Its entries for other users must go, whatever the mode will be.
            match list.set(&self.path()) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(self.failed("set the access list of")(errno)),
            }
        }
        self.set_access(access, list, &self.bound()?)?;
        self.bound()
    }

    /// Removes a socket without a listener. Any other file is kept and is an error.
    fn clear_stale(&self, address: &SocketAddrUnix) -> Result<(), ListenError> {
        let Some(found) = self.folder.find(&self.name)? else {
            return Ok(());
        };
        if !is_socket(&found) {
            return Err(ListenError::NotASocket(self.path()));
        }
        let probe = unix_socket().map_err(self.failed("open a socket for"))?;
        match rustix::net::connect(&probe, address) {
            // No listener, now or ever.
            Err(Errno::CONNREFUSED) => {
                rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty())
                    .map_err(self.failed("remove"))
            }
            // EAGAIN: there is a listener with a full queue. EPERM: a confined worker that binds again can
            // no longer find out.
            Ok(()) | Err(Errno::AGAIN | Errno::PERM) => Err(ListenError::InUse(self.path())),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed("connect to")(errno)),
        }
    }
}

/// Opens a socket that is non-blocking and not inherited. The flags are set in a second step, which
/// works on every system; no process is started in between.
fn unix_socket() -> Result<OwnedFd, Errno> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests;
