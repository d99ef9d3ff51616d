//! The files that the daemon reads again after its start: configuration files, and the lists of users and
//! groups for the names in them.
//!
//! A worker in its sandbox can open none of them. It asks the monitor, by number: which paths these are
//! was determined before the monitor and the worker were two processes. A file is checked where it is
//! opened, so a monitor of root checks it as root.

pub(crate) mod names;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::sys::mode_of;

/// The mode bits that let the group or others write.
const OTHERS_WRITE: u32 = 0o022;
/// A folder in which only the owner of a file can replace it, as `/tmp`.
const STICKY: u32 = 0o1000;

static CONFIGURATION: OnceLock<Vec<PathBuf>> = OnceLock::new();

/// A list of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Database {
    Users,
    Groups,
}

/// A file that can be opened at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readable {
    /// The configuration file with this index.
    Configuration(u8),
    Database(Database),
}

/// The numbers of the lists, which no configuration file has.
#[cfg(target_os = "linux")]
const USERS: u8 = 254;
#[cfg(target_os = "linux")]
const GROUPS: u8 = 255;

/// Determines the configuration files of this process, once.
pub(crate) fn set_configuration(paths: &[PathBuf]) {
    CONFIGURATION.get_or_init(|| paths.to_owned());
}

impl Readable {
    /// Returns the number by which the worker asks for it.
    #[cfg(target_os = "linux")]
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Configuration(index) => index,
            Self::Database(Database::Users) => USERS,
            Self::Database(Database::Groups) => GROUPS,
        }
    }

    #[cfg(target_os = "linux")]
    pub(crate) const fn from_number(number: u8) -> Self {
        match number {
            USERS => Self::Database(Database::Users),
            GROUPS => Self::Database(Database::Groups),
            index => Self::Configuration(index),
        }
    }

    /// Opens it, through the monitor if there is one. `None`: there is no such file.
    pub(crate) fn open(self) -> io::Result<Option<File>> {
        #[cfg(target_os = "linux")]
        if let Some(opened) = crate::daemon::monitor::open(self) {
            return opened;
        }
        self.open_here()
    }

    /// Opens it in this process.
    pub(crate) fn open_here(self) -> io::Result<Option<File>> {
        match self {
            Self::Configuration(index) => {
                let paths = CONFIGURATION.get().map_or(&[][..], Vec::as_slice);
                paths
                    .get(usize::from(index))
                    .map_or(Ok(None), |path| open(path))
            }
            Self::Database(Database::Users) => File::open("/etc/passwd").map(Some),
            Self::Database(Database::Groups) => File::open("/etc/group").map(Some),
        }
    }
}

/// Opens a configuration file and checks it. A pipe or a device could block, or have no end.
pub(crate) fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("is not a regular file"));
    }
    if rustix::process::geteuid().is_root() {
        refuse_what_others_can_change(&stat, OTHERS_WRITE, "the file")?;
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = rustix::fs::stat(folder.unwrap_or(Path::new(".")))?;
        let forbidden = match mode_of(&folder) & STICKY {
            0 => OTHERS_WRITE,
            _ => 0,
        };
        refuse_what_others_can_change(&folder, forbidden, "its folder")?;
    }
    Ok(Some(file.into()))
}

/// Root does not obey other users.
fn refuse_what_others_can_change(stat: &Stat, forbidden: u32, what: &str) -> io::Result<()> {
    let problem = if stat.st_uid != 0 {
        format!("{what} belongs to user {}; run: chown root", stat.st_uid)
    } else if mode_of(stat) & forbidden != 0 {
        format!("others may write to {what}; run: chmod go-w")
    } else {
        return Ok(());
    };
    Err(io::Error::other(format!(
        "is refused for a daemon of root: {problem}"
    )))
}
