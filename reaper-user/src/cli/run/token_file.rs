//! The file in which a command finds its token: in a private folder below the user's runtime folder,
//! named by the session id and the process. Session ids are random, so a path that outlives its session
//! never names the file of another one.
//!
//! It is an ordinary file and no inherited descriptor: a command may close or reuse any descriptor,
//! and may itself be of a kind whose `/proc/PID/fd` nobody reads (not dumpable, in a user namespace).
//! The daemon removes it when the session ends, if it runs as the same user. What it does not remove, a
//! later `run` does, once the process is gone.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use reaper_registry::Token;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, chmodat, fchmod, fstat, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use super::super::failure::Failure;
use super::owner::{OWNER_AFTER, Owner};
use crate::daemon::socket_path::{RuntimeFolder, Surroundings, runtime_folder};
use crate::daemon::token_files::open_folder;

/// What the names of all token files of `run` start with, because all its session ids do.
pub(super) const PREFIX: &str = "run-";
/// How many other files one `run` looks at, at some 5 µs each: the command waits for that.
const LEFTOVERS: usize = 256;
/// How many names are read in search of them.
const NAMES: usize = 4_096;
/// Others can put files into such a folder, and take them away.
const WRITABLE: Mode = Mode::WGRP.union(Mode::WOTH);
/// Others can do something in such a folder.
const OPEN: Mode = Mode::RWXG.union(Mode::RWXO);

/// A token file of this process.
pub(super) struct TokenFile {
    folder: OwnedFd,
    folder_path: PathBuf,
    name: String,
}

impl TokenFile {
    /// Writes the token to a new file of this session and this process.
    pub(super) fn create(
        surroundings: &Surroundings,
        session_id: &str,
        token: &Token,
    ) -> Result<Self, Failure> {
        let base = runtime_folder(surroundings);
        let folder = open_private(&base, OsStr::new("tokens"), surroundings.uid)?;
        let file = Self {
            folder,
            folder_path: base.path.join("tokens"),
            name: Owner::this_process().map_or_else(
                || session_id.to_owned(),
                |owner| format!("{session_id}{OWNER_AFTER}{owner}"),
            ),
        };
        file.write(token).map_err(|error| {
            file.remove();
            refused(
                &base,
                &format!("cannot write {}: {error}", file.path().display()),
            )
        })?;
        Ok(file)
    }

    fn write(&self, token: &Token) -> io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = openat(&self.folder, &self.name, flags, mode)?;
        // Whatever the umask says.
        fchmod(&file, mode)?;
        std::fs::File::from(file).write_all(token.reveal().as_bytes())
    }

    /// Where the command finds it.
    pub(super) fn path(&self) -> PathBuf {
        self.folder_path.join(&self.name)
    }

    /// Removes it, if the daemon has not done so.
    pub(super) fn remove(&self) {
        unlinkat(&self.folder, &self.name, AtFlags::empty()).unwrap_or_default();
    }

    /// Removes some of the files beside it whose processes are gone.
    pub(super) fn remove_leftovers(&self, start: u32) {
        for name in self.others(start) {
            let owner = name.to_str().and_then(Owner::of_file);
            if owner.is_some_and(Owner::is_gone) {
                unlinkat(&self.folder, &name, AtFlags::empty()).unwrap_or_default();
            }
        }
    }

    /// The names of other files, from any of them on: so that files of live processes do not always come
    /// first.
    fn others(&self, start: u32) -> Vec<OsString> {
        let Ok(entries) = Dir::read_from(&self.folder) else {
            return Vec::new();
        };
        let mut names: Vec<OsString> = entries
            .filter_map(Result::ok)
            .map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned())
            .filter(|name| name.as_bytes().starts_with(PREFIX.as_bytes()) && **name != *self.name)
            .take(NAMES)
            .collect();
        if !names.is_empty() {
            let start = usize::try_from(start).unwrap_or_default() % names.len();
            names.rotate_left(start);
        }
        names.truncate(LEFTOVERS);
        names
    }
}

/// Opens the runtime folder and those below it, and creates what is absent, for this user alone.
fn open_private(base: &RuntimeFolder, below: &OsStr, uid: u32) -> Result<OwnedFd, Failure> {
    let (Some(place), Some(name)) = (base.path.parent(), base.path.file_name()) else {
        return Err(refused(base, "it has no folder"));
    };
    let cannot_open = |path: &Path, error: io::Error| {
        refused(base, &format!("cannot open {}: {error}", path.display()))
    };
    let folder = open_folder(place).map_err(|error| cannot_open(place, error))?;
    let stat = fstat(&folder).map_err(|error| cannot_open(place, error.into()))?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    let is_shared = mode.intersects(WRITABLE) && !mode.contains(Mode::SVTX);
    if is_shared || ![0, uid].contains(&stat.st_uid) {
        return Err(refused(base, &whose(place, stat.st_uid, mode, uid)));
    }
    // The daemon's socket may lie in the first one, and other users may have the right to reach it.
    let mut path = base.path.clone();
    let mut folder = step(&folder, name, WRITABLE, uid)
        .map_err(|error| refused(base, &error.about(&path, uid)))?;
    path.push(below);
    folder =
        step(&folder, below, OPEN, uid).map_err(|error| refused(base, &error.about(&path, uid)))?;
    Ok(folder)
}

/// Why a folder cannot hold tokens.
enum Unfit {
    System(Errno),
    NotOurs { owner: u32, mode: Mode },
}

impl Unfit {
    fn about(&self, path: &Path, uid: u32) -> String {
        match *self {
            Self::System(Errno::NOTDIR | Errno::LOOP) => {
                format!("{} is a link or not a folder", path.display())
            }
            Self::System(errno) => {
                format!("cannot open {}: {}", path.display(), io::Error::from(errno))
            }
            Self::NotOurs { owner, mode } => whose(path, owner, mode, uid),
        }
    }
}

impl From<Errno> for Unfit {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

/// Opens the folder of this name, which may be no link, be another user's or give others these rights.
fn step(inside: impl AsFd, name: &OsStr, forbidden: Mode, uid: u32) -> Result<OwnedFd, Unfit> {
    let inside: BorrowedFd<'_> = inside.as_fd();
    match mkdirat(inside, name, Mode::RWXU) {
        // Whatever the umask says.
        Ok(()) => chmodat(inside, name, Mode::RWXU, AtFlags::empty())?,
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(inside, name, flags, Mode::empty())?;
    let stat = fstat(&folder)?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    if stat.st_uid != uid || mode.intersects(forbidden) {
        return Err(Unfit::NotOurs {
            owner: stat.st_uid,
            mode,
        });
    }
    Ok(folder)
}

fn whose(path: &Path, owner: u32, mode: Mode, uid: u32) -> String {
    format!(
        "{} belongs to user {owner} with mode {:04o}, and this is user {uid}",
        path.display(),
        mode.bits()
    )
}

/// Names the variable that leads there, and what to set instead.
fn refused(base: &RuntimeFolder, why: &str) -> Failure {
    let place = base.path.parent().unwrap_or(&base.path);
    let variable = base.variable.map_or_else(String::new, |variable| {
        format!(" ({variable} is {})", place.display())
    });
    Failure::new(
        format!("no place for the token file: {why}{variable}"),
        "set XDG_RUNTIME_DIR to a folder of this user's own that others cannot write to",
    )
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn surroundings(runtime_dir: &Path) -> Surroundings {
        Surroundings {
            runtime_dir: Some(runtime_dir.into()),
            uid: rustix::process::geteuid().as_raw(),
            ..Surroundings::default()
        }
    }

    fn create(runtime_dir: &Path, id: &str) -> Result<TokenFile, Failure> {
        let token = Token::from_bytes([0x5a; 32]);
        TokenFile::create(&surroundings(runtime_dir), id, &token)
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn what_is_read_is_the_token_and_nothing_else() {
        let runtime_dir = tempfile::tempdir().unwrap();
        let file = create(runtime_dir.path(), "run-1").unwrap();
        let path = file.path();
        assert_eq!(fs::read_to_string(&path).unwrap(), "5a".repeat(32));
        assert!(path.starts_with(runtime_dir.path().join("reaperd/tokens")));
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("run-1"), "{name}");
        assert_eq!(mode(&path), 0o600);
        for folder in path.ancestors().skip(1).take(2) {
            assert_eq!(mode(folder), 0o700, "{folder:?}");
        }
        assert!(create(runtime_dir.path(), "run-1").is_err(), "it exists");
        file.remove();
        assert!(!path.exists());
        file.remove();
    }

    /// The sentence that refuses this runtime folder.
    fn refusal(runtime_dir: &Path) -> String {
        let failure = create(runtime_dir, "run-1").err().expect("refused");
        assert!(failure.remedy.contains("XDG_RUNTIME_DIR"), "{failure:?}");
        failure.message
    }

    #[test]
    fn a_folder_that_others_could_change_is_refused_with_the_variable_that_names_it() {
        let place = tempfile::tempdir().unwrap();
        let inside = |name: &str| place.path().join(name);
        assert!(refusal(&inside("absent")).contains("(XDG_RUNTIME_DIR is "));

        fs::create_dir(inside("shared")).unwrap();
        fs::set_permissions(inside("shared"), Permissions::from_mode(0o777)).unwrap();
        assert!(refusal(&inside("shared")).contains("with mode 0777"));

        fs::create_dir_all(inside("open/reaperd/tokens")).unwrap();
        fs::set_permissions(inside("open/reaperd/tokens"), Permissions::from_mode(0o755)).unwrap();
        assert!(refusal(&inside("open")).contains("tokens belongs to user"));

        fs::create_dir(inside("linked")).unwrap();
        symlink(inside("open"), inside("linked/reaperd")).unwrap();
        assert!(refusal(&inside("linked")).contains("is a link or not a folder"));

        fs::create_dir(inside("file")).unwrap();
        fs::write(inside("file/reaperd"), "").unwrap();
        assert!(refusal(&inside("file")).contains("is a link or not a folder"));
    }

    #[test]
    fn a_socket_folder_that_others_may_enter_is_none_they_can_change() {
        let runtime_dir = tempfile::tempdir().unwrap();
        fs::create_dir(runtime_dir.path().join("reaperd")).unwrap();
        fs::set_permissions(
            runtime_dir.path().join("reaperd"),
            Permissions::from_mode(0o711),
        )
        .unwrap();
        assert!(create(runtime_dir.path(), "run-1").is_ok());
    }
}
