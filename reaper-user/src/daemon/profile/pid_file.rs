//! The pid file of the profile. Its clients test whether the process in it lives, send it signals, and some
//! remove the file of a daemon that responds slowly.
//!
//! A daemon of another program that finds a live process in it does not start. In turn, this daemon leaves
//! the file alone as long as a live process of another program is in it.

use std::io;
use std::path::{Path, PathBuf};

use reaper_registry::Pid;
use rustix::fs::{AtFlags, statat};

use crate::clock;
use crate::daemon::api::listener::{Folder, ListenError, SocketAccess};
use crate::daemon::own_files::{self, NotOwnFile};
use crate::sys::process_table::ProcessTable;

const NAME: &str = "daemon.pid";
/// The unit of start times.
#[cfg(target_os = "linux")]
const TICKS_PER_SECOND: u64 = 100;
/// Elsewhere they are microseconds.
#[cfg(not(target_os = "linux"))]
const TICKS_PER_SECOND: u64 = 1_000_000;
/// How inexact the comparison of a process's age with that of a file is.
const TOLERANCE_SECONDS: u64 = 2;

/// The process in the file is another daemon.
#[derive(Debug, thiserror::Error)]
#[error("a daemon (pid {pid}) already runs: {path:?} names it")]
pub(crate) struct AlreadyRuns {
    pub(crate) pid: u32,
    path: PathBuf,
}

/// The pid file of this daemon.
pub(crate) struct PidFile {
    folder: Folder,
    pid: u32,
    /// What was logged last.
    conflict: Option<String>,
}

/// Checks that no other daemon has the file.
pub(crate) fn check_free(
    folder: &Folder,
    own: u32,
    table: &dyn ProcessTable,
) -> Result<(), AlreadyRuns> {
    match live_writer(folder, own, table) {
        Ok(Found::Live(pid)) => Err(AlreadyRuns {
            pid,
            path: folder.path().join(NAME),
        }),
        _ => Ok(()),
    }
}

impl PidFile {
    /// Writes the pid of this daemon into the file, unless a daemon has it that is not the former one: then that
    /// is found again by [`Self::restore`].
    pub(crate) fn claim(
        folder: Folder,
        pid: u32,
        former: Option<u32>,
        table: &dyn ProcessTable,
    ) -> Self {
        let file = Self {
            folder,
            pid,
            conflict: None,
        };
        match live_writer(&file.folder, pid, table) {
            Ok(Found::Live(other)) if former != Some(other) => {}
            Err(error) => log::error!("cannot write {}: {error}", file.path().display()),
            Ok(_) => {
                if let Err(error) = file.write() {
                    log::error!("cannot write {}: {error}", file.path().display());
                }
            }
        }
        file
    }

    /// Writes the file again if it was removed. Returns what is wrong with it otherwise.
    pub(crate) fn restore(
        &mut self,
        socket: &Path,
        access: SocketAccess,
        table: &dyn ProcessTable,
    ) -> Option<String> {
        let conflict = self.try_restore(socket, access, table).err();
        if conflict != self.conflict {
            match &conflict {
                Some(conflict) => log::error!("{conflict}"),
                None => log::info!("{} is this daemon's again", self.path().display()),
            }
            self.conflict.clone_from(&conflict);
        }
        conflict
    }

    fn try_restore(
        &mut self,
        socket: &Path,
        access: SocketAccess,
        table: &dyn ProcessTable,
    ) -> Result<(), String> {
        if !self.folder.is_at_its_path() {
            let opened = Folder::of_socket(socket, access);
            self.folder = opened.map_err(|error: ListenError| error.to_string())?;
        }
        let path = self.path();
        let path = path.display();
        let was = match live_writer(&self.folder, self.pid, table) {
            Ok(Found::Own) => return Ok(()),
            Ok(Found::Live(pid)) => {
                return Err(format!(
                    "process {pid} has written its pid into {path}: another daemon runs beside this one"
                ));
            }
            Ok(Found::Nothing) => "was removed",
            Ok(Found::Dead) => "named no live daemon",
            Err(error) => return Err(error.to_string()),
        };
        let written = self.write();
        written.map_err(|error| format!("cannot write {path} again: {error}"))?;
        log::warn!("{path} {was}; wrote it again");
        Ok(())
    }

    /// Removes the file, if it is this daemon's.
    pub(crate) fn remove(&self) {
        let content = own_files::read(&self.folder, NAME).ok().flatten();
        if content.and_then(|it| parse(&it)) == Some(self.pid)
            && let Err(error) = own_files::remove(&self.folder, NAME)
        {
            log::warn!("cannot remove {}: {error}", self.path().display());
        }
    }

    fn write(&self) -> io::Result<()> {
        own_files::replace(&self.folder, NAME, self.pid.to_string().as_bytes())
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(NAME)
    }
}

/// What is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Own,
    /// No process, or one that is younger than the file: its pid was used again.
    Dead,
    Live(u32),
}

fn live_writer(folder: &Folder, own: u32, table: &dyn ProcessTable) -> Result<Found, NotOwnFile> {
    let Some(content) = own_files::read(folder, NAME)? else {
        return Ok(Found::Nothing);
    };
    let Some(pid) = parse(&content) else {
        return Ok(Found::Dead);
    };
    if pid == own {
        return Ok(Found::Own);
    }
    let is_this_daemon = pid == std::process::id();
    let lives = || Pid::new(pid).is_ok_and(|pid| is_older_than_file(pid, folder, table));
    Ok(if !is_this_daemon && lives() {
        Found::Live(pid)
    } else {
        Found::Dead
    })
}

/// Returns whether the process lives and can have written the file. In doubt it can.
fn is_older_than_file(pid: Pid, folder: &Folder, table: &dyn ProcessTable) -> bool {
    let (stat, now) = match (table.stat(pid), table.start_time_now()) {
        (Ok(stat), _) if stat.all_ended() => return false,
        (Ok(stat), Some(now)) => (stat, now),
        _ => return !matches!(table.pid_in_use(pid), Ok(false)),
    };
    let age = now.0.saturating_sub(stat.start_time.0) / TICKS_PER_SECOND;
    let Ok(file) = statat(folder, NAME, AtFlags::SYMLINK_NOFOLLOW) else {
        return true;
    };
    let written = u64::try_from(i128::from(file.st_mtime)).unwrap_or(0);
    let age_of_file = (clock::now().wall_ms / 1_000).saturating_sub(written);
    age + TOLERANCE_SECONDS >= age_of_file
}

fn parse(content: &[u8]) -> Option<u32> {
    str::from_utf8(content).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::Command;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::sys::process_table;

    const OWN: u32 = 4_000_000;

    #[test]
    fn the_file_of_a_live_daemon_is_left_alone_and_any_other_is_replaced() {
        let table = process_table::of_this_system();
        let temporary = tempfile::tempdir().unwrap();
        let socket = temporary.path().join("d/s.sock");
        let folder = || Folder::of_socket(&socket, SocketAccess::Private).unwrap();
        let mut file = PidFile::claim(folder(), OWN, None, table.as_ref());
        let path = temporary.path().join("d").join(NAME);
        let content = || std::fs::read_to_string(&path).unwrap();
        assert_eq!(content(), OWN.to_string());
        let mut restore = || file.restore(&socket, SocketAccess::Private, table.as_ref());
        assert_eq!(restore(), None);

        std::fs::remove_file(&path).unwrap();
        assert_eq!((restore(), content()), (None, OWN.to_string()));

        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        own_files::replace(&folder(), NAME, other.id().to_string().as_bytes()).unwrap();
        assert!(check_free(&folder(), OWN, table.as_ref()).is_err());
        let conflict = restore().unwrap();
        assert!(conflict.contains(&other.id().to_string()), "{conflict}");
        assert_eq!(content(), other.id().to_string());
        drop(PidFile::claim(folder(), OWN + 1, None, table.as_ref()));
        assert_eq!(content(), other.id().to_string());

        // Written long before that process was started.
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        assert!(check_free(&folder(), OWN, table.as_ref()).is_ok());
        own_files::replace(&folder(), NAME, other.id().to_string().as_bytes()).unwrap();
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(check_free(&folder(), OWN, table.as_ref()).is_ok());
        assert_eq!((restore(), content()), (None, OWN.to_string()));
        file.remove();
        assert!(!path.exists());
    }

    #[test]
    fn the_file_of_another_daemon_is_not_removed() {
        let table = process_table::of_this_system();
        let temporary = tempfile::tempdir().unwrap();
        let socket = temporary.path().join("d/s.sock");
        let folder = || Folder::of_socket(&socket, SocketAccess::Private).unwrap();
        let file = PidFile::claim(folder(), OWN, None, table.as_ref());
        own_files::replace(&folder(), NAME, b"1").unwrap();
        file.remove();
        assert!(temporary.path().join("d").join(NAME).exists());
    }
}
