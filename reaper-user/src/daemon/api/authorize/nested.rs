//! Pids of a nested pid namespace: translation, and the check that the pinned process is the right
//! one.
//!
//! Between translation and pinning the process may end and its pid be reused. So
//! [`NestedPid::check`] compares again while the process is pinned, and the caller then checks that
//! it still lives.

use std::fs;
use std::io;

use reaper_registry::Pid;
use rustix::io::Errno;

use super::{Refused, status_of};
use crate::sys::pid_namespace::{PidNamespace, pid_namespace_inode};
use crate::sys::process_table::is_no_such_process;

/// The largest number of processes that are searched if the kernel does not translate: as many as a
/// small machine can have ([`PID_MAX_DEFAULT`]).
///
/// [`PID_MAX_DEFAULT`]: https://elixir.bootlin.com/linux/v6.12/source/include/linux/threads.h
const MAX_SEARCHED: usize = 32_768;

/// The pid of a process in the caller's pid namespace.
#[derive(Debug)]
pub(crate) struct NestedPid {
    pid: Pid,
    /// The inode number of that namespace; `None` if the system did not show it.
    inode: Option<u64>,
    /// Kept open so that the inode number is not reused. `None` if the caller named itself.
    namespace: Option<PidNamespace>,
}

impl NestedPid {
    /// Returns the pid of the caller itself.
    pub(super) fn of_caller(pid: Pid, inode: Option<u64>) -> Self {
        Self {
            pid,
            inode,
            namespace: None,
        }
    }

    /// Translates `nested`, a pid of the caller's namespace. `inode` is that of the caller's
    /// namespace when it connected.
    pub(super) fn find(
        nested: Pid,
        caller: Pid,
        inode: Option<u64>,
    ) -> Result<(Pid, Self), Refused> {
        let inode = inode.ok_or(Refused::ForeignPidNamespace)?;
        let namespace = PidNamespace::of(caller).map_err(|error| refusal(&error))?;
        if inode != namespace.inode().map_err(|error| refusal(&error))? {
            // A process never changes its pid namespace, so the caller's pid has been reused.
            return Err(Refused::PeerGone);
        }
        let pid = match namespace.pid_here(nested) {
            Ok(pid) => pid,
            Err(error) if is_no_such_process(&error) => {
                return Err(Refused::NotThere { pid: nested });
            }
            Err(_older_kernel) => search(nested, inode)?,
        };
        let nested = Self {
            pid: nested,
            inode: Some(inode),
            namespace: Some(namespace),
        };
        Ok((pid, nested))
    }

    /// Checks that the pinned process with this pid of the daemon's namespace is the one that was
    /// named.
    pub(super) fn check(&self, pid: Pid) -> Result<(), Refused> {
        let nested = self.pid;
        // The kernel also translates for processes of namespaces further down.
        let namespace = self.namespace.as_ref();
        if let Some(Ok(translated)) = namespace.map(|namespace| namespace.pid_here(nested)) {
            return if translated == pid {
                Ok(())
            } else {
                Err(Refused::NotThere { pid: nested })
            };
        }
        let own_pid = status_of(pid.as_raw())?
            .and_then(|status| status.nspid)
            .and_then(|pids| pids.last().copied());
        let is_same_namespace = match (pid_namespace_inode(pid), self.inode) {
            (Ok(inode), Some(expected)) => inode == expected,
            // The namespace of a caller may be hidden; it can still register itself.
            _ => self.namespace.is_none(),
        };
        if own_pid == Some(nested.as_raw()) && is_same_namespace {
            return Ok(());
        }
        Err(Refused::NotThere { pid: nested })
    }
}

/// Returns the inode number of the caller's namespace, if the system shows it.
pub(super) fn namespace_of(caller: i32) -> Option<u64> {
    pid_namespace_inode(Pid::try_from(caller).ok()?).ok()
}

fn refusal(error: &io::Error) -> Refused {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => Refused::NotNow,
        Some(Errno::NOENT | Errno::SRCH) => Refused::PeerGone,
        _ => Refused::ForeignPidNamespace,
    }
}

/// Searches `/proc` for the process with this pid in this namespace.
fn search(nested: Pid, inode: u64) -> Result<Pid, Refused> {
    let entries = fs::read_dir("/proc").map_err(|error| refusal(&error))?;
    entries
        .filter_map(|entry| Pid::new(entry.ok()?.file_name().to_str()?.parse().ok()?).ok())
        .take(MAX_SEARCHED)
        .find(|pid| has_nested_pid(*pid, nested) && pid_namespace_inode(*pid).ok() == Some(inode))
        .ok_or(Refused::NotThere { pid: nested })
}

/// Returns whether the process has this pid in its own namespace, which is the last one listed.
fn has_nested_pid(pid: Pid, nested: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let own = pids.and_then(|pids| pids.split_whitespace().last());
    own.and_then(|own| own.parse().ok()) == Some(nested.as_raw())
}

#[cfg(test)]
mod tests;
