//! The file with the command's token. It lies in a private directory below the user's runtime
//! directory and is named by the session id and the process. Session ids are random, so a path that
//! outlives its session never names the file of another one.
//!
//! It is a file and not an inherited descriptor, because a command may close or reuse any descriptor,
//! and its `/proc/PID/fd` may be unreadable (not dumpable, in a user namespace).
//!
//! The daemon removes the file when the session ends, if it runs as the same user. Other files are
//! removed by a later `run`, once the process has exited.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use reaper_registry::Token;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, chmodat, fchmod, fstat, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use super::super::failure::Failure;
use super::owner::{OWNER_SEPARATOR, Owner};
use crate::daemon::socket_path::{RuntimeFolder, Surroundings, runtime_folder};
use crate::daemon::token_files::open_folder;

/// The start of all session ids of `run`, and so of the names of its token files.
pub(in crate::cli) const PREFIX: &str = "run-";
/// Its folder, in the one of this program's run-time files.
pub(in crate::cli) const FOLDER: &str = "tokens";
/// How many other files one `run` checks. Each takes about 5 µs, which delays the command.
const MAX_CHECKED: usize = 256;
/// How many directory entries are read to find them.
const MAX_NAMES: usize = 4_096;
/// Mode bits with which others can create and remove files in a directory.
const WRITABLE: Mode = Mode::WGRP.union(Mode::WOTH);
/// Mode bits with which others have any access to a directory.
const OPEN: Mode = Mode::RWXG.union(Mode::RWXO);

/// The token file of this process.
pub(super) struct TokenFile {
    dir: OwnedFd,
    dir_path: PathBuf,
    name: String,
}

impl TokenFile {
    /// Creates the file for this session and this process, with the token as its content.
    pub(super) fn create(
        surroundings: &Surroundings,
        session_id: &str,
        token: &Token,
    ) -> Result<Self, Failure> {
        let base = runtime_folder(surroundings);
        let dir = open_private(&base, OsStr::new(FOLDER), surroundings.uid)?;
        let file = Self {
            dir,
            dir_path: base.path.join(FOLDER),
            name: Owner::this_process().map_or_else(
                || session_id.to_owned(),
                |owner| format!("{session_id}{OWNER_SEPARATOR}{owner}"),
            ),
        };
        file.write(token).map_err(|error| {
            file.remove();
            error_for(
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
        let file = openat(&self.dir, &self.name, flags, mode)?;
        // Independent of the umask.
        fchmod(&file, mode)?;
        std::fs::File::from(file).write_all(token.reveal().as_bytes())
    }

    /// The path for the command's environment.
    pub(super) fn path(&self) -> PathBuf {
        self.dir_path.join(&self.name)
    }

    /// Removes the file, unless the daemon has already removed it.
    pub(super) fn remove(&self) {
        unlinkat(&self.dir, &self.name, AtFlags::empty()).unwrap_or_default();
    }

    /// Removes other token files whose processes have exited, up to a limit.
    pub(super) fn remove_leftovers(&self, start: u32) {
        for name in self.others(start) {
            let owner = name.to_str().and_then(Owner::of_file);
            if owner.is_some_and(Owner::has_exited) {
                unlinkat(&self.dir, &name, AtFlags::empty()).unwrap_or_default();
            }
        }
    }

    /// Returns the names of other token files, beginning at a varying one, so that files of running
    /// processes do not always use up the limit.
    fn others(&self, start: u32) -> Vec<OsString> {
        let Ok(entries) = Dir::read_from(&self.dir) else {
            return Vec::new();
        };
        let mut names: Vec<OsString> = entries
            .filter_map(Result::ok)
            .map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned())
            .filter(|name| name.as_bytes().starts_with(PREFIX.as_bytes()) && **name != *self.name)
            .take(MAX_NAMES)
            .collect();
        if !names.is_empty() {
            let start = usize::try_from(start).unwrap_or_default() % names.len();
            names.rotate_left(start);
        }
        names.truncate(MAX_CHECKED);
        names
    }
}

/// Opens the runtime directory and the one below it. Creates missing ones with mode 0700.
fn open_private(base: &RuntimeFolder, below: &OsStr, uid: u32) -> Result<OwnedFd, Failure> {
    let (Some(place), Some(name)) = (base.path.parent(), base.path.file_name()) else {
        return Err(error_for(base, "the path has no parent directory"));
    };
    let cannot_open = |path: &Path, error: io::Error| {
        error_for(base, &format!("cannot open {}: {error}", path.display()))
    };
    let dir = open_folder(place).map_err(|error| cannot_open(place, error))?;
    let stat = fstat(&dir).map_err(|error| cannot_open(place, error.into()))?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    let is_shared = mode.intersects(WRITABLE) && !mode.contains(Mode::SVTX);
    if is_shared || ![0, uid].contains(&stat.st_uid) {
        return Err(error_for(base, &wrong_owner(place, stat.st_uid, mode, uid)));
    }
    // The first directory may contain the daemon's socket, which other users may be allowed to reach.
    let mut path = base.path.clone();
    let mut dir = open_or_create(&dir, name, WRITABLE, uid)
        .map_err(|error| error_for(base, &error.about(&path, uid)))?;
    path.push(below);
    dir = open_or_create(&dir, below, OPEN, uid)
        .map_err(|error| error_for(base, &error.about(&path, uid)))?;
    Ok(dir)
}

/// Why a directory cannot be used.
enum Unfit {
    System(Errno),
    NotOurs { owner: u32, mode: Mode },
}

impl Unfit {
    fn about(&self, path: &Path, uid: u32) -> String {
        match *self {
            Self::System(Errno::NOTDIR | Errno::LOOP) => {
                format!("{} is not a directory", path.display())
            }
            Self::System(errno) => {
                format!("cannot open {}: {}", path.display(), io::Error::from(errno))
            }
            Self::NotOurs { owner, mode } => wrong_owner(path, owner, mode, uid),
        }
    }
}

impl From<Errno> for Unfit {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

/// Opens a directory, or creates it. Rejects a link, a directory of another user and one whose mode
/// has a forbidden bit.
fn open_or_create(
    inside: impl AsFd,
    name: &OsStr,
    forbidden: Mode,
    uid: u32,
) -> Result<OwnedFd, Unfit> {
    let inside: BorrowedFd<'_> = inside.as_fd();
    match mkdirat(inside, name, Mode::RWXU) {
        // Independent of the umask.
        Ok(()) => chmodat(inside, name, Mode::RWXU, AtFlags::empty())?,
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = openat(inside, name, flags, Mode::empty())?;
    let stat = fstat(&dir)?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    if stat.st_uid != uid || mode.intersects(forbidden) {
        return Err(Unfit::NotOurs {
            owner: stat.st_uid,
            mode,
        });
    }
    Ok(dir)
}

fn wrong_owner(path: &Path, owner: u32, mode: Mode, uid: u32) -> String {
    format!(
        "{} is not private to user {uid}: it belongs to user {owner} with mode {:04o}",
        path.display(),
        mode.bits()
    )
}

/// Creates the error. It names the environment variable that has the path.
fn error_for(base: &RuntimeFolder, reason: &str) -> Failure {
    let place = base.path.parent().unwrap_or(&base.path);
    let variable = base.variable.map_or_else(String::new, |variable| {
        format!(" ({variable} is {})", place.display())
    });
    Failure::new(
        format!("cannot create the token file: {reason}{variable}"),
        "set XDG_RUNTIME_DIR to a directory that only this user can write to",
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
    fn the_file_contains_only_the_token() {
        let runtime_dir = tempfile::tempdir().unwrap();
        let file = create(runtime_dir.path(), "run-1").unwrap();
        let path = file.path();
        assert_eq!(fs::read_to_string(&path).unwrap(), "5a".repeat(32));
        assert!(path.starts_with(runtime_dir.path().join("reaperd/tokens")));
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("run-1"), "{name}");
        assert_eq!(mode(&path), 0o600);
        for dir in path.ancestors().skip(1).take(2) {
            assert_eq!(mode(dir), 0o700, "{dir:?}");
        }
        assert!(
            create(runtime_dir.path(), "run-1").is_err(),
            "the file exists"
        );
        file.remove();
        assert!(!path.exists());
        file.remove();
    }

    /// The error message for this runtime directory.
    fn refusal(runtime_dir: &Path) -> String {
        let failure = create(runtime_dir, "run-1")
            .err()
            .expect("the directory is rejected");
        assert!(failure.remedy.contains("XDG_RUNTIME_DIR"), "{failure:?}");
        failure.message
    }

    #[test]
    fn a_directory_that_others_can_change_is_rejected_with_the_name_of_the_variable() {
        let place = tempfile::tempdir().unwrap();
        let inside = |name: &str| place.path().join(name);
        assert!(refusal(&inside("absent")).contains("(XDG_RUNTIME_DIR is "));

        fs::create_dir(inside("shared")).unwrap();
        fs::set_permissions(inside("shared"), Permissions::from_mode(0o777)).unwrap();
        assert!(refusal(&inside("shared")).contains("with mode 0777"));

        fs::create_dir_all(inside("open/reaperd/tokens")).unwrap();
        fs::set_permissions(inside("open/reaperd/tokens"), Permissions::from_mode(0o755)).unwrap();
        assert!(refusal(&inside("open")).contains("tokens is not private to user"));

        fs::create_dir(inside("linked")).unwrap();
        symlink(inside("open"), inside("linked/reaperd")).unwrap();
        assert!(refusal(&inside("linked")).contains("is not a directory"));

        fs::create_dir(inside("file")).unwrap();
        fs::write(inside("file/reaperd"), "").unwrap();
        assert!(refusal(&inside("file")).contains("is not a directory"));
    }

    #[test]
    fn others_may_search_the_socket_directory() {
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
