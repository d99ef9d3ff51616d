//! The socket file.
//!
//! - Its folder is private, belongs to the daemon's user and is not a link, so that other users
//!   cannot replace the files in it.
//! - The daemon keeps a lock file beside the socket locked until it ends. A stale socket is removed
//!   only under that lock, so two daemons that start at once cannot both do it. The lock file is
//!   never removed: otherwise one daemon could lock the old file and another the new one.
//! - The socket file has its final mode from the start, without a change of the umask, which
//!   belongs to the whole process. On Linux `bind` creates the file with the mode of the unbound
//!   socket ([`unix_bind_bsd`]), so that mode is set first. On other systems it is set right after
//!   `bind`, and until then the private folder keeps other users out.
//! - A socket file that was removed is bound again. At the end a file is removed only if the daemon
//!   created it.
//!
//! [`unix_bind_bsd`]: https://elixir.bootlin.com/linux/v6.12/source/net/unix/af_unix.c

mod lock;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use tokio::net::UnixListener;

use lock::Lock;

/// The size of `sun_path` without its final NUL: unix(7); on the BSDs it has 104 bytes in all.
const PATH_MAX: usize = if cfg!(any(target_os = "linux", target_os = "android")) {
    107
} else {
    103
};
/// Connections that wait to be accepted: more than any burst of clients. The kernel caps it.
const BACKLOG: i32 = 4_096;

/// Why the daemon cannot listen on its socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    #[error("the socket path {path:?} is {length} bytes long, and the system allows {max}", max = PATH_MAX)]
    PathTooLong { path: PathBuf, length: usize },
    #[error("the socket path {0:?} names no file in a folder")]
    NoFileName(PathBuf),
    #[error("the socket folder {0:?} is a link or not a folder")]
    NotAFolder(PathBuf),
    #[error("the socket folder {path:?} belongs to user {owner}, and this daemon runs as {uid}")]
    NotOurFolder { path: PathBuf, owner: u32, uid: u32 },
    #[error("the socket folder {path:?} is open to others (mode {mode:04o})")]
    OpenFolder { path: PathBuf, mode: u32 },
    #[error("a daemon{} already serves {path:?}", by_pid(*.pid))]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error("some other program listens on {0:?}")]
    InUse(PathBuf),
    #[error("{0:?} exists and is not a socket")]
    NotASocket(PathBuf),
    #[error("{call} {path:?}: {source}")]
    System {
        call: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

fn by_pid(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

impl ListenError {
    /// Returns the remedy.
    pub fn remedy(&self) -> String {
        match self {
            Self::PathTooLong { .. } => "use a shorter --socket path".to_owned(),
            Self::NoFileName(_) => "give --socket the path of a new file in a folder".to_owned(),
            Self::NotAFolder(path) => format!("remove {}, or use another --socket", path.display()),
            Self::NotOurFolder { .. } => "use a --socket in a folder of this user".to_owned(),
            Self::OpenFolder { path, .. } => {
                // Not a chmod: the folder may be /tmp.
                let own = path.join("reaperd/reaperd.sock");
                format!(
                    "use a folder that only this user can enter, such as --socket {}",
                    own.display()
                )
            }
            Self::Locked { .. } => "use that daemon, or stop it first".to_owned(),
            Self::InUse(_) => "stop that program, or use another --socket".to_owned(),
            Self::NotASocket(path) => {
                format!(
                    "remove {} if it is not needed, or use another --socket",
                    path.display()
                )
            }
            Self::System { .. } => "check that this user may write there".to_owned(),
        }
    }

    fn system(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::System { call, path, source }
    }
}

/// Which users can connect at all. The uid of each is checked after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketAccess {
    /// The daemon's own user and root.
    Private,
    /// All users, because some others are allowed.
    Shared,
}

impl SocketAccess {
    const fn socket_mode(self) -> u32 {
        match self {
            Self::Private => 0o600,
            Self::Shared => 0o666,
        }
    }

    const fn folder_mode(self) -> u32 {
        match self {
            Self::Private => 0o700,
            Self::Shared => 0o711,
        }
    }

    /// The mode bits that the folder must not have: any access for others, or the right to replace
    /// files.
    const fn folder_forbidden(self) -> u32 {
        match self {
            Self::Private => 0o077,
            Self::Shared => 0o022,
        }
    }
}

/// Identifies a file independently of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }

    fn at(path: &Path) -> Option<Self> {
        path.symlink_metadata().ok().map(|found| Self::of(&found))
    }
}

/// The socket of this daemon, listening.
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    access: SocketAccess,
    file: FileId,
    lock: Lock,
    /// So that a lasting failure is logged once.
    rebind_failed: bool,
}

impl Socket {
    /// Locks the path for this daemon and listens on it. Must be called within a tokio runtime.
    pub(crate) fn claim(path: &Path, access: SocketAccess) -> Result<Self, ListenError> {
        let path = std::path::absolute(path).map_err(ListenError::system("resolve", path))?;
        check_length(&path)?;
        prepare_folder(&path, access)?;
        let lock = Lock::take(&path)?;
        let (listener, file) = bind(&path, access)?;
        Ok(Self {
            listener,
            path,
            access,
            file,
            lock,
            rebind_failed: false,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the mode of the socket file.
    pub(crate) fn mode(&self) -> u32 {
        self.access.socket_mode()
    }

    /// Binds again if the file was removed. Accepted connections are kept.
    pub(crate) fn restore(&mut self) {
        if FileId::at(&self.path) == Some(self.file) {
            return;
        }
        match self.rebind() {
            Ok(()) => {
                log::warn!("{} was removed; bound it again", self.path.display());
                self.rebind_failed = false;
            }
            Err(error) if !self.rebind_failed => {
                log::error!(
                    "{} was removed and cannot be bound again: {error}",
                    self.path.display()
                );
                self.rebind_failed = true;
            }
            Err(_already_logged) => {}
        }
    }

    fn rebind(&mut self) -> Result<(), ListenError> {
        prepare_folder(&self.path, self.access)?;
        if !self.lock.is_in_place() {
            self.lock = Lock::take(&self.path)?;
        }
        (self.listener, self.file) = bind(&self.path, self.access)?;
        Ok(())
    }

    /// Stops listening and removes the file, if it is still this socket.
    pub(crate) fn remove(self) {
        if FileId::at(&self.path) == Some(self.file) {
            // Only a daemon replaces it, and for that it needs the lock.
            if let Err(error) = std::fs::remove_file(&self.path) {
                log::warn!("cannot remove {}: {error}", self.path.display());
            }
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

fn prepare_folder(socket: &Path, access: SocketAccess) -> Result<(), ListenError> {
    let (Some(folder), Some(_)) = (socket.parent(), socket.file_name()) else {
        return Err(ListenError::NoFileName(socket.to_owned()));
    };
    let created = std::fs::DirBuilder::new()
        .mode(access.folder_mode())
        .create(folder);
    match created {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(ListenError::system("create folder", folder)(error)),
    }
    let found = folder
        .symlink_metadata()
        .map_err(ListenError::system("stat", folder))?;
    if !found.is_dir() {
        return Err(ListenError::NotAFolder(folder.to_owned()));
    }
    let uid = rustix::process::geteuid().as_raw();
    if found.uid() != uid {
        return Err(ListenError::NotOurFolder {
            path: folder.to_owned(),
            owner: found.uid(),
            uid,
        });
    }
    let mode = found.permissions().mode() & 0o7777;
    if mode & access.folder_forbidden() != 0 {
        return Err(ListenError::OpenFolder {
            path: folder.to_owned(),
            mode,
        });
    }
    Ok(())
}

/// Converts to the type of the system, which differs in width between systems.
fn permissions(mode: u32) -> Mode {
    let set = |bit: u32, flag: Mode| if mode & bit == 0 { Mode::empty() } else { flag };
    [
        (0o400, Mode::RUSR),
        (0o200, Mode::WUSR),
        (0o040, Mode::RGRP),
        (0o020, Mode::WGRP),
        (0o004, Mode::ROTH),
        (0o002, Mode::WOTH),
    ]
    .into_iter()
    .map(|(bit, flag)| set(bit, flag))
    .collect()
}

/// Replaces a stale socket if there is one, binds and listens. Called under the lock.
fn bind(path: &Path, access: SocketAccess) -> Result<(UnixListener, FileId), ListenError> {
    let system = |call| move |errno: Errno| ListenError::system(call, path)(errno.into());
    let address = SocketAddrUnix::new(path).map_err(system("address"))?;
    clear_stale(path, &address)?;
    let socket = unix_socket().map_err(system("open a socket for"))?;
    let mode = permissions(access.socket_mode());
    // On the BSDs and macOS this is impossible before `bind`; there the folder protects the socket.
    if cfg!(any(target_os = "linux", target_os = "android")) {
        rustix::fs::fchmod(&socket, mode).map_err(system("set the mode of"))?;
    }
    rustix::net::bind(&socket, &address).map_err(system("bind"))?;
    // A strict umask may have removed bits that other users need to connect.
    rustix::fs::chmod(path, mode).map_err(system("set the mode of"))?;
    rustix::net::listen(&socket, BACKLOG).map_err(system("listen on"))?;
    let file = path
        .symlink_metadata()
        .map_err(ListenError::system("stat", path))?;
    let listener =
        UnixListener::from_std(socket.into()).map_err(ListenError::system("register", path))?;
    Ok((listener, FileId::of(&file)))
}

/// Removes a socket without a listener. Any other file is kept and is an error.
fn clear_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), ListenError> {
    let found = match path.symlink_metadata() {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ListenError::system("stat", path)(error)),
    };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    let system = |call| move |errno: Errno| ListenError::system(call, path)(errno.into());
    let probe = unix_socket().map_err(system("open a socket for"))?;
    match rustix::net::connect(&probe, address) {
        // No listener, now or ever.
        Err(Errno::CONNREFUSED) => {
            std::fs::remove_file(path).map_err(ListenError::system("remove", path))
        }
        // EAGAIN: there is a listener with a full queue.
        Ok(()) | Err(Errno::AGAIN) => Err(ListenError::InUse(path.to_owned())),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(system("connect to")(errno)),
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
