//! Distinguishes the process that connected from a later process with the same pid.
//!
//! A connection can outlive the process that opened it, because its descriptor can be inherited or
//! passed on. The pid that the kernel reports for the peer may by then belong to another process. So
//! each accepted connection gets a [`PeerPin`], and a registration compares it after everything else
//! was read about the peer's pid ([`Peer::check_alive`]): if the process that connected still has the
//! pid then, it had it all the time.
//!
//! No descriptor is kept for a pin:
//!
//! - Linux 6.9 and newer: the inode number of the pidfd that `SO_PEERPIDFD` gives. It is exact: the
//!   socket refers to the process and not to its pid, and the number is never used again.
//! - Linux before 6.9: the start time, read when the connection is accepted. From 6.5 on the pidfd
//!   shows whether this was the right process; before that, a pid that is reused between `connect` and
//!   `accept`, or within one clock tick (10 ms), is not noticed.
//! - Elsewhere, and where `/proc` is hidden: none. A process that has ended is noticed as long as its
//!   pid is not reused.

use std::os::fd::AsFd;
#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;

use reaper_registry::{Pid, StartTime};
use rustix::io::Errno;

use super::Peer;
use super::authorize::Refused;
use crate::sys::process_table::{ProcessTable, is_no_such_process};

/// What distinguishes the process that connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerPin {
    /// The inode number of its pidfd.
    PidfdInode(u64),
    /// Its start time when the connection was accepted.
    StartTime(StartTime),
    /// It had ended by then.
    Ended,
    /// Not taken, for lack of descriptors or memory.
    NotNow,
    /// The system shows nothing.
    None,
}

/// Takes the pins of accepted connections.
pub(crate) struct Pinning {
    /// Whether a pin can be compared later: a container may forbid `pidfd_open`.
    #[cfg(target_os = "linux")]
    has_pidfd_open: bool,
}

impl Pinning {
    /// Tries what works here.
    #[cfg(target_os = "linux")]
    pub(crate) fn new(table: &dyn ProcessTable) -> Self {
        let own = Pid::new(std::process::id());
        Self {
            has_pidfd_open: own.is_ok_and(|own| table.pidfd_open(own).is_ok()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn new(_table: &dyn ProcessTable) -> Self {
        Self {}
    }

    /// Pins the process at the other end of a connection that has just been accepted.
    #[cfg(target_os = "linux")]
    pub(crate) fn take(
        &self,
        socket: impl AsFd,
        pid: Option<i32>,
        table: &dyn ProcessTable,
    ) -> PeerPin {
        match crate::sys::peer_socket::pidfd(socket) {
            Ok(pidfd) => self.of_pidfd(&pidfd, pid, table),
            Err(errno) if is_short(errno) => PeerPin::NotNow,
            // What the kernels up to 6.15 return for a process that has been reaped.
            Err(Errno::INVAL | Errno::SRCH | Errno::NODATA) => PeerPin::Ended,
            // ENOPROTOOPT: Linux before 6.5.
            Err(_) => by_start_time(pid, table),
        }
    }

    /// Other systems give no handle of the peer.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn take(
        &self,
        _socket: impl AsFd,
        pid: Option<i32>,
        table: &dyn ProcessTable,
    ) -> PeerPin {
        by_start_time(pid, table)
    }

    #[cfg(target_os = "linux")]
    fn of_pidfd(&self, pidfd: &OwnedFd, pid: Option<i32>, table: &dyn ProcessTable) -> PeerPin {
        let inode = table.pidfd_inode(pidfd.as_fd());
        if let Some(inode) = inode.filter(|_| self.has_pidfd_open) {
            return PeerPin::PidfdInode(inode);
        }
        let pin = by_start_time(pid, table);
        // The record was that of the process that connected only if this still has its pid.
        match table.pidfd_reaped(pidfd.as_fd()) {
            Ok(true) => PeerPin::Ended,
            _ => pin,
        }
    }
}

fn by_start_time(pid: Option<i32>, table: &dyn ProcessTable) -> PeerPin {
    let Some(pid) = pid.and_then(|pid| Pid::try_from(pid).ok()) else {
        return PeerPin::None;
    };
    match table.stat(pid) {
        Ok(stat) => PeerPin::StartTime(stat.start_time),
        Err(error) if Errno::from_io_error(&error).is_some_and(is_short) => PeerPin::NotNow,
        // Otherwise a process that gets the pid later would be taken for it.
        Err(_gone) if matches!(table.pid_in_use(pid), Ok(false)) => PeerPin::Ended,
        Err(_hidden) => PeerPin::None,
    }
}

fn is_short(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM)
}

impl Peer {
    /// Checks that the process that connected still lives and has its pid. Whatever was read about
    /// this pid since the connection was accepted was then read about this process.
    pub(crate) fn check_alive(self, table: &dyn ProcessTable) -> Result<(), Refused> {
        let pid = self.pid.and_then(|pid| Pid::try_from(pid).ok());
        let is_alive = match (self.pin, pid) {
            (PeerPin::Ended, _) => Ok(false),
            (PeerPin::NotNow, _) => Err(Refused::NotNow),
            (_, None) => Ok(true),
            (PeerPin::PidfdInode(inode), Some(pid)) => has_inode(pid, inode, table),
            (PeerPin::StartTime(start_time), Some(pid)) => {
                Ok(!has_ended(pid, Some(start_time), table))
            }
            (PeerPin::None, Some(pid)) => Ok(!has_ended(pid, None, table)),
        };
        if is_alive? {
            Ok(())
        } else {
            Err(Refused::PeerGone)
        }
    }
}

/// Returns whether the process with this pid has this pidfd inode and has not ended.
fn has_inode(pid: Pid, inode: u64, table: &dyn ProcessTable) -> Result<bool, Refused> {
    let pidfd = match table.pidfd_open(pid) {
        Ok(pidfd) => pidfd,
        Err(error) if is_no_such_process(&error) => return Ok(false),
        Err(error) => {
            return match Errno::from_io_error(&error) {
                // EINVAL: the process is being released, and a moment later there is none.
                Some(errno) if is_short(errno) || errno == Errno::INVAL => Err(Refused::NotNow),
                _ => Ok(!has_ended(pid, None, table)),
            };
        }
    };
    let pidfd = pidfd.as_fd();
    match table.pidfd_inode(pidfd) {
        Some(found) if found == inode => {}
        Some(_successor) => return Ok(false),
        None => return Err(Refused::NotNow),
    }
    // One poll can be wrong about a process whose threads execute programs, so the record decides. It
    // is that of this process unless the process has been reaped meanwhile.
    let may_have_ended = !matches!(table.pidfd_exited(pidfd), Ok(false));
    Ok(!(may_have_ended
        && (has_ended(pid, None, table) || matches!(table.pidfd_reaped(pidfd), Ok(true)))))
}

/// Returns whether the process is known to have ended, or to have started at another time.
fn has_ended(pid: Pid, start_time: Option<StartTime>, table: &dyn ProcessTable) -> bool {
    match table.stat(pid) {
        Ok(stat) => {
            let is_another = start_time.is_some_and(|time| time != stat.start_time);
            is_another || stat.all_ended()
        }
        Err(_hidden_or_gone) => matches!(table.pid_in_use(pid), Ok(false)),
    }
}

#[cfg(test)]
mod tests;
