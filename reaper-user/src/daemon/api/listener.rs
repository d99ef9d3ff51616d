//! The socket file: whose folder it lies in, which daemon owns it, and that it stays there.
//!
//! - The folder is private and ours, and is no link. So nobody else can swap what lies in it.
//! - A lock file beside the socket is held for life. Only under that lock is a stale socket taken
//!   away, so two daemons that start at once cannot both do it. The lock file stays behind: removing
//!   it would let one daemon lock the old file and another the new one.
//! - The socket has its final mode from its first instant, without touching the umask, which belongs
//!   to the whole process. On Linux `bind` creates the file with the mode of the unbound socket
//!   (`unix_bind_bsd` in `net/unix/af_unix.c`), so that is set before.
//!   Elsewhere it is set right after `bind`, and until then the private folder keeps others out.
//! - A socket file that somebody took away is noticed and bound again (W8); at the end only a file
//!   that is still our own is removed.

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

/// What `sun_path` holds, without the NUL at its end: unix(7), and 104 bytes in all on the BSDs.
const PATH_MAX: usize = if cfg!(any(target_os = "linux", target_os = "android")) {
    107
} else {
    103
};
/// Connections that wait to be accepted. More than any burst of ours; the kernel caps it anyway.
const BACKLOG: i32 = 4_096;

/// Why there is no socket to listen on.
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
    /// The one thing to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::PathTooLong { .. } => "use a shorter --socket path".to_owned(),
            Self::NoFileName(_) => "give --socket the path of a file to be".to_owned(),
            Self::NotAFolder(path) => format!("remove {}, or use another --socket", path.display()),
            Self::NotOurFolder { .. } => "use a --socket in a folder of this user's own".to_owned(),
            Self::OpenFolder { path, .. } => {
                // Never "chmod" here: it may be /tmp.
                let own = path.join("reaperd/reaperd.sock");
                format!(
                    "use a folder that only this user enters, such as --socket {}",
                    own.display()
                )
            }
            Self::Locked { .. } => "use that daemon, or stop it first".to_owned(),
            Self::InUse(_) => "stop that program, or use another --socket".to_owned(),
            Self::NotASocket(path) => {
                format!(
                    "remove {} if nobody needs it, or use another --socket",
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

/// Who is to get as far as the check of their user id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketAccess {
    /// Ourselves and root.
    Private,
    /// Everybody, because some other users are let in.
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

    /// What others may not have in the folder: anything, or the right to swap files in it.
    const fn folder_forbidden(self) -> u32 {
        match self {
            Self::Private => 0o077,
            Self::Shared => 0o022,
        }
    }
}

/// A file, whatever its name is by now.
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
    /// So that a lasting trouble is told once.
    rebind_failed: bool,
}

impl Socket {
    /// Takes the path for this daemon. To be called within a tokio runtime.
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

    /// The mode of the socket file.
    pub(crate) fn mode(&self) -> u32 {
        self.access.socket_mode()
    }

    /// Binds again if the file is no longer there. Connections that were made stay.
    pub(crate) fn stay(&mut self) {
        if FileId::at(&self.path) == Some(self.file) {
            return;
        }
        match self.bind_again() {
            Ok(()) => {
                log::warn!("{} was taken away; bound it again", self.path.display());
                self.rebind_failed = false;
            }
            Err(error) if !self.rebind_failed => {
                log::error!("{} was taken away: {error}", self.path.display());
                self.rebind_failed = true;
            }
            Err(_as_before) => {}
        }
    }

    fn bind_again(&mut self) -> Result<(), ListenError> {
        prepare_folder(&self.path, self.access)?;
        if !self.lock.is_in_place() {
            self.lock = Lock::take(&self.path)?;
        }
        (self.listener, self.file) = bind(&self.path, self.access)?;
        Ok(())
    }

    /// Stops listening and removes the file, if it is still ours.
    pub(crate) fn remove(self) {
        if FileId::at(&self.path) == Some(self.file) {
            // Nobody but a daemon replaces it, and that would need the lock that is still held.
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

/// As the system's own type, whose width differs between systems.
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

/// Binds and listens, over a stale socket if there is one. The lock is held.
fn bind(path: &Path, access: SocketAccess) -> Result<(UnixListener, FileId), ListenError> {
    let system = |call| move |errno: Errno| ListenError::system(call, path)(errno.into());
    let address = SocketAddrUnix::new(path).map_err(system("address"))?;
    clear_stale(path, &address)?;
    let socket = unix_socket().map_err(system("open a socket for"))?;
    let mode = permissions(access.socket_mode());
    // Not possible before `bind` on the BSDs and macOS, where the folder is the protection.
    if cfg!(any(target_os = "linux", target_os = "android")) {
        rustix::fs::fchmod(&socket, mode).map_err(system("set the mode of"))?;
    }
    rustix::net::bind(&socket, &address).map_err(system("bind"))?;
    // Under a stricter umask the mode is narrower than asked for; whoever else is to connect needs it.
    rustix::fs::chmod(path, mode).map_err(system("set the mode of"))?;
    rustix::net::listen(&socket, BACKLOG).map_err(system("listen on"))?;
    let file = path
        .symlink_metadata()
        .map_err(ListenError::system("stat", path))?;
    let listener =
        UnixListener::from_std(socket.into()).map_err(ListenError::system("register", path))?;
    Ok((listener, FileId::of(&file)))
}

/// Removes a socket on which nobody listens. Anything else that is there stays and is an error.
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
        // Nobody listens, whether or not somebody ever did.
        Err(Errno::CONNREFUSED) => {
            std::fs::remove_file(path).map_err(ListenError::system("remove", path))
        }
        // Somebody does, if so slowly that its queue is full.
        Ok(()) | Err(Errno::AGAIN) => Err(ListenError::InUse(path.to_owned())),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(system("connect to")(errno)),
    }
}

/// Non-blocking and not inherited. Set in a second step, which every system has; nothing here
/// starts a process in between.
fn unix_socket() -> Result<OwnedFd, Errno> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests;
