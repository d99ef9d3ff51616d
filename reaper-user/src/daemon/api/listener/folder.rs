//! The folder of the socket, opened once. Every later step names files relative to its descriptor, so
//! that renaming or replacing a folder of its path cannot redirect a step to other files.
//!
//! The path is walked from the root, one component at a time, and each folder on it is checked while
//! it is open:
//!
//! - It belongs to root or to the daemon's user, and others may not replace files in it: they have no
//!   write permission, or the folder is sticky as `/tmp` is.
//! - A link is followed only if root created it in a folder of root, as `/var/run` is. The last
//!   component is never a link.
//!
//! This is `openat2` with `RESOLVE_NO_SYMLINKS` in single steps, because that call checks no owners
//! and refuses the links of the system too.
//!
//! Root is the owner of `/`: in a user namespace without root that is another number.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::ListenError;
use super::access::{SocketAccess, permissions};
use super::error::SET_GROUP;
use crate::sys::mode_of;

/// How a folder is opened: as a place, where the system has such descriptors. That needs no right to
/// list the folder.
const FOLDER: OFlags = {
    let flags = OFlags::DIRECTORY
        .union(OFlags::NOFOLLOW)
        .union(OFlags::CLOEXEC);
    #[cfg(any(target_os = "linux", target_os = "freebsd"))]
    let flags = flags.union(OFlags::PATH);
    flags
};
/// More links in one path are a loop: the limit of Linux.
const MAX_LINKS: usize = 40;

/// Identifies a file independently of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    device: i128,
    inode: i128,
}

impl FileId {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            device: wide(stat.st_dev),
            inode: wide(stat.st_ino),
        }
    }
}

/// The widths of these numbers differ between systems.
fn wide(number: impl Into<i128>) -> i128 {
    number.into()
}

pub(super) fn is_socket(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Socket
}

/// Returns whether the folders in which this process can create files were fixed at its start.
pub(super) fn is_confined_to_folders() -> bool {
    #[cfg(target_os = "linux")]
    {
        crate::daemon::sandbox::Report::of_this_process().landlock != "off"
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// The open folder of the socket.
pub(crate) struct Folder {
    descriptor: OwnedFd,
    path: PathBuf,
    id: FileId,
}

impl Folder {
    /// Opens the folder of this socket. Creates it if only the last component is missing.
    pub(crate) fn of_socket(socket: &Path, access: SocketAccess) -> Result<Self, ListenError> {
        let (Some(path), Some(_)) = (socket.parent(), socket.file_name()) else {
            return Err(ListenError::NoFileName(socket.to_owned()));
        };
        let mut walk = Walk::new(path)?;
        while let Some(name) = walk.rest.pop_front() {
            if walk.rest.is_empty() {
                walk.enter_last(&name, access)?;
            } else {
                walk.enter(&name)?;
            }
        }
        check_folder(&walk.stat, path, access, walk.uid)?;
        Ok(Self {
            id: FileId::of(&walk.stat),
            descriptor: walk.folder,
            path: path.to_owned(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes this user its owner, and this group its group unless the access determines that.
    #[cfg(target_os = "linux")]
    pub(super) fn give_to(&self, uid: u32, access: SocketAccess, gid: u32) -> Result<(), Errno> {
        use rustix::fs::{Gid, Uid, chownat};
        let group = match access {
            SocketAccess::Group(_) => None,
            SocketAccess::Private | SocketAccess::Shared => Some(Gid::from_raw(gid)),
        };
        let owner = Some(Uid::from_raw(uid));
        chownat(&self.descriptor, "", owner, group, AtFlags::EMPTY_PATH)
    }

    /// Changes the mode from that of new folders for `before` to that for `access`. A folder with another
    /// mode is left as it is.
    pub(super) fn change_access(
        &self,
        before: SocketAccess,
        access: SocketAccess,
    ) -> Result<(), ListenError> {
        let stat = stat_of(&self.descriptor, &self.path)?;
        let is_changed = before.folder_mode() != access.folder_mode();
        if is_changed && mode_of(&stat) == before.folder_mode() {
            return open_to(&self.descriptor, &self.path, access);
        }
        Ok(())
    }

    /// Returns whether the path leads to this folder now, as far as the system shows it. Another
    /// process may change that at once.
    pub(crate) fn is_at_its_path(&self) -> bool {
        match rustix::fs::stat(&self.path) {
            Ok(stat) => FileId::of(&stat) == self.id,
            Err(errno) => !matches!(errno, Errno::NOENT | Errno::NOTDIR),
        }
    }

    /// Returns the file with this name; links are not followed.
    pub(super) fn find(&self, name: &OsStr) -> Result<Option<Stat>, ListenError> {
        match rustix::fs::statat(&self.descriptor, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(system("stat", &self.path.join(name), errno)),
        }
    }

    pub(super) fn has(&self, name: &OsStr, id: FileId) -> bool {
        let found = self.find(name).ok().flatten();
        found.is_some_and(|stat| FileId::of(&stat) == id)
    }

    /// Returns a path of this file that leads through the descriptor, if the system has such paths
    /// and the path is no longer than `max`.
    pub(super) fn path_through_descriptor(&self, name: &OsStr, max: usize) -> Option<PathBuf> {
        use std::os::fd::AsRawFd as _;
        let folder = PathBuf::from(format!("/proc/self/fd/{}", self.descriptor.as_raw_fd()));
        // `/proc` may be absent, or that of another pid namespace.
        let stat = rustix::fs::stat(&folder).ok()?;
        let path = folder.join(name);
        (FileId::of(&stat) == self.id && path.as_os_str().len() <= max).then_some(path)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// A walk along a path. Everything up to `folder` has been checked, except for `folder` itself.
struct Walk {
    folder: OwnedFd,
    stat: Stat,
    path: PathBuf,
    rest: VecDeque<OsString>,
    links: usize,
    uid: u32,
    root: u32,
}

impl Walk {
    fn new(path: &Path) -> Result<Self, ListenError> {
        let top = Path::new("/");
        let folder = rustix::fs::open(top, FOLDER, Mode::empty())
            .map_err(|errno| system("open", top, errno))?;
        let stat = stat_of(&folder, top)?;
        Ok(Self {
            root: stat.st_uid,
            folder,
            stat,
            path: top.to_owned(),
            rest: names(path).collect(),
            links: 0,
            uid: rustix::process::geteuid().as_raw(),
        })
    }

    /// Goes on to an ancestor of the socket folder.
    fn enter(&mut self, name: &OsStr) -> Result<(), ListenError> {
        self.check_ancestor()?;
        let path = self.path.join(name);
        let found = rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| system("open folder", &path, errno))?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Symlink {
            return self.follow(name, &path, &found);
        }
        self.step(name, path)
    }

    /// Goes on to the socket folder. Creates it if it is missing.
    fn enter_last(&mut self, name: &OsStr, access: SocketAccess) -> Result<(), ListenError> {
        self.check_ancestor()?;
        let path = self.path.join(name);
        let mode = permissions(access.folder_mode());
        let is_new = match rustix::fs::mkdirat(&self.folder, name, mode) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(system("create folder", &path, errno)),
        };
        self.step(name, path)?;
        if is_new && access != SocketAccess::Private {
            open_to(&self.folder, &self.path, access)?;
            self.stat = stat_of(&self.folder, &self.path)?;
        }
        Ok(())
    }

    fn step(&mut self, name: &OsStr, path: PathBuf) -> Result<(), ListenError> {
        let folder = match rustix::fs::openat(&self.folder, name, FOLDER, Mode::empty()) {
            Ok(folder) => folder,
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(ListenError::NotAFolder(path)),
            Err(errno) => return Err(system("open folder", &path, errno)),
        };
        self.stat = stat_of(&folder, &path)?;
        self.folder = folder;
        self.path = path;
        Ok(())
    }

    /// Checks that only root and the daemon's user can replace what the folder contains.
    fn check_ancestor(&self) -> Result<(), ListenError> {
        let (mode, owner) = (mode_of(&self.stat), self.stat.st_uid);
        let path = self.path.clone();
        if owner != self.root && owner != self.uid {
            let uid = self.uid;
            return Err(ListenError::ForeignAncestor { path, owner, uid });
        }
        if mode & 0o022 != 0 && mode & 0o1000 == 0 {
            return Err(ListenError::OpenAncestor { path, mode });
        }
        Ok(())
    }

    /// Replaces a link by its target. No other user can change the link meanwhile, because it belongs
    /// to root, and so does its folder.
    fn follow(&mut self, name: &OsStr, path: &Path, link: &Stat) -> Result<(), ListenError> {
        self.links += 1;
        let is_of_root = link.st_uid == self.root && self.stat.st_uid == self.root;
        if !is_of_root || self.links > MAX_LINKS {
            return Err(ListenError::Link(path.to_owned()));
        }
        let target = rustix::fs::readlinkat(&self.folder, name, Vec::new())
            .map_err(|errno| system("read the link", path, errno))?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        let rest = std::mem::take(&mut self.rest);
        if target.is_absolute() {
            *self = Self {
                links: self.links,
                ..Self::new(&target)?
            };
        } else {
            self.rest = names(&target).collect();
        }
        self.rest.extend(rest);
        Ok(())
    }
}

/// Gives a folder of this daemon its group and its mode, also the bits that the umask has removed.
fn open_to(folder: &OwnedFd, path: &Path, access: SocketAccess) -> Result<(), ListenError> {
    let failed = |call| move |errno| system(call, path, errno);
    // A descriptor of a place cannot change its mode.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder =
        rustix::fs::openat(folder, ".", flags, Mode::empty()).map_err(failed("open folder"))?;
    if let SocketAccess::Group(group) = access {
        rustix::fs::fchown(&folder, None, Some(rustix::fs::Gid::from_raw(group)))
            .map_err(failed(SET_GROUP))?;
    }
    rustix::fs::fchmod(&folder, permissions(access.folder_mode()))
        .map_err(failed("set the mode of"))
}

/// The components of a path, without the root and `.`; `..` is walked as any other folder.
fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

fn check_folder(
    stat: &Stat,
    path: &Path,
    access: SocketAccess,
    uid: u32,
) -> Result<(), ListenError> {
    let path = path.to_owned();
    let mode = mode_of(stat);
    if stat.st_uid != uid {
        let owner = stat.st_uid;
        return Err(ListenError::NotOurFolder { path, owner, uid });
    }
    if mode & access.folder_forbidden() != 0 {
        return Err(ListenError::OpenFolder { path, mode });
    }
    match access.shut_out_by(mode, stat.st_gid) {
        Some(group) => Err(ListenError::ShutFolder { path, group }),
        None => Ok(()),
    }
}

fn stat_of(folder: &OwnedFd, path: &Path) -> Result<Stat, ListenError> {
    rustix::fs::fstat(folder).map_err(|errno| system("stat", path, errno))
}

pub(super) fn system(call: &'static str, path: &Path, errno: Errno) -> ListenError {
    ListenError::system(call, path)(errno.into())
}

#[cfg(test)]
mod tests;
