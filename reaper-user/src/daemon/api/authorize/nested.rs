//! Numbers of a pid namespace below ours: which process a caller in there means by one, and the proof
//! that the pinned process is the one.
//!
//! The translation is only a guess at a moment; between it and the pinning the process may end and its
//! number here go to another. So [`Inner::check`] looks once more while the process is pinned, and the
//! look that follows says whether it lives still.

use std::fs;
use std::io;

use reaper_registry::Pid;
use rustix::io::Errno;

use super::{Refused, status_of};
use crate::sys::pid_namespace::{PidNamespace, pid_namespace_inode};
use crate::sys::process_table::is_no_such_process;

/// Processes that are looked at in search of one, where the kernel does not translate: as many as a
/// small machine can have (`PID_MAX_DEFAULT` of the kernel's `include/linux/threads.h`).
const SEARCHED_MAX: usize = 32_768;

/// By which number, and in which namespace, the caller knows the process.
#[derive(Debug)]
pub(crate) struct Inner {
    number: Pid,
    /// `None` where the system did not show the caller's.
    inode: Option<u64>,
    /// Kept, so that the inode number stays this namespace's; absent if the caller means itself.
    held: Option<PidNamespace>,
}

impl Inner {
    /// The caller itself.
    pub(super) fn of_caller(number: Pid, inode: Option<u64>) -> Self {
        Self {
            number,
            inode,
            held: None,
        }
    }

    /// The process that has this number where the caller lives, and its number here. `inode` is the
    /// caller's namespace as it was when it connected.
    pub(super) fn find(
        number: Pid,
        caller: Pid,
        inode: Option<u64>,
    ) -> Result<(Pid, Self), Refused> {
        let inode = inode.ok_or(Refused::ForeignPidNamespace)?;
        let held = PidNamespace::of(caller).map_err(|error| unseen(&error))?;
        if inode != held.inode().map_err(|error| unseen(&error))? {
            // Nobody leaves a pid namespace: the number is another process's by now.
            return Err(Refused::PeerGone);
        }
        let pid = match held.pid_here(number) {
            Ok(pid) => pid,
            Err(error) if is_no_such_process(&error) => return Err(Refused::NotThere { number }),
            Err(_older_kernel) => search(number, inode)?,
        };
        let inner = Self {
            number,
            inode: Some(inode),
            held: Some(held),
        };
        Ok((pid, inner))
    }

    /// Whether the process that is pinned under this number of ours is the one that was meant.
    pub(super) fn check(&self, pid: Pid) -> Result<(), Refused> {
        let number = self.number;
        // The kernel translates for processes of namespaces further below too.
        if let Some(Ok(translated)) = self.held.as_ref().map(|held| held.pid_here(number)) {
            return if translated == pid {
                Ok(())
            } else {
                Err(Refused::NotThere { number })
            };
        }
        let own_pid = status_of(pid.as_raw())?
            .and_then(|status| status.nspid)
            .and_then(|numbers| numbers.last().copied());
        let is_same_namespace = match (pid_namespace_inode(pid), self.inode) {
            (Ok(inode), Some(expected)) => inode == expected,
            // The caller may be closed to us and register itself all the same.
            _ => self.held.is_none(),
        };
        if own_pid == Some(number.as_raw()) && is_same_namespace {
            return Ok(());
        }
        Err(Refused::NotThere { number })
    }
}

/// The namespace in which the caller lives, if the system shows it.
pub(super) fn namespace_of(caller: i32) -> Option<u64> {
    pid_namespace_inode(Pid::try_from(caller).ok()?).ok()
}

fn unseen(error: &io::Error) -> Refused {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => Refused::NotNow,
        Some(Errno::NOENT | Errno::SRCH) => Refused::PeerGone,
        _ => Refused::ForeignPidNamespace,
    }
}

/// Looks through `/proc` for the process of this number in this namespace.
fn search(number: Pid, inode: u64) -> Result<Pid, Refused> {
    let entries = fs::read_dir("/proc").map_err(|error| unseen(&error))?;
    entries
        .filter_map(|entry| Pid::new(entry.ok()?.file_name().to_str()?.parse().ok()?).ok())
        .take(SEARCHED_MAX)
        .find(|pid| is_numbered(*pid, number) && pid_namespace_inode(*pid).ok() == Some(inode))
        .ok_or(Refused::NotThere { number })
}

/// Whether the last of its numbers, which is the one in its own namespace, is this one.
fn is_numbered(pid: Pid, number: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let own = numbers.and_then(|numbers| numbers.split_whitespace().last());
    own.and_then(|own| own.parse().ok()) == Some(number.as_raw())
}

#[cfg(test)]
mod tests;
