//! The process table of Linux: `/proc`, pidfds and signal 0.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use procfs::process::{Process, Status};
use procfs::{ProcError, ProcResult};
use reaper_registry::{Pid, StartTime};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fstat, fstatfs, open};
use rustix::io::{Errno, pread};
use rustix::process::{PidfdFlags, pidfd_open, test_kill_process};
use rustix::thread::{CapabilitySet, capabilities};

use super::{own_proc, pidfd_info, proc_stat};
use crate::foreign_proc::ForeignProc;
use crate::process_table::{Facts, ProcessTable};

/// `PID_FS_MAGIC` of the kernel's `include/uapi/linux/magic.h`. Before 6.9 all pidfds share one
/// anonymous inode, and its number identifies nobody.
const PID_FS_MAGIC: i64 = 0x5049_4446;
/// Longer than any stat line: 52 numbers of at most 20 digits and a name of 64 bytes at most.
const STAT_LINE_MAX: usize = 2_048;

/// Where `/proc` is.
pub(crate) struct LinuxTable {
    proc_root: PathBuf,
}

impl Default for LinuxTable {
    fn default() -> Self {
        Self {
            proc_root: "/proc".into(),
        }
    }
}

impl ProcessTable for LinuxTable {
    fn look(&self, pid: Pid) -> io::Result<Facts> {
        self.read_stat(self.open_stat(pid)?.as_fd())
    }

    fn number_in_use(&self, pid: Pid) -> io::Result<bool> {
        match test_kill_process(kernel_pid(pid)) {
            Ok(()) | Err(Errno::PERM) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(other) => Err(other.into()),
        }
    }

    fn process_of(&self, number: Pid) -> io::Result<Pid> {
        let status = status_of(number.as_raw()).map_err(io::Error::other)?;
        // Zero once it is no longer in the table.
        Pid::try_from(status.tgid).map_err(io::Error::other)
    }

    fn open_stat(&self, pid: Pid) -> io::Result<OwnedFd> {
        own_proc::check()?;
        let path = self.proc_root.join(pid.to_string()).join("stat");
        Ok(open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    fn read_stat(&self, stat: BorrowedFd<'_>) -> io::Result<Facts> {
        let mut line = [0; STAT_LINE_MAX];
        let length = pread(stat, &mut line, 0)?;
        proc_stat::facts(&line[..length]).map_err(io::Error::other)
    }

    fn pidfd_open(&self, pid: Pid) -> io::Result<OwnedFd> {
        Ok(pidfd_open(kernel_pid(pid), PidfdFlags::empty())?)
    }

    fn pidfds_exited(&self, pidfds: &[BorrowedFd<'_>]) -> io::Result<Vec<bool>> {
        let mut polled: Vec<_> = pidfds
            .iter()
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        poll(&mut polled, Some(&Timespec::default()))?;
        Ok(polled
            .iter()
            .map(|fd| fd.revents().contains(PollFlags::IN))
            .collect())
    }

    fn pidfd_inode(&self, pidfd: BorrowedFd<'_>) -> Option<u64> {
        let on_pidfs = fstatfs(pidfd).is_ok_and(|fs| fs.f_type == PID_FS_MAGIC);
        on_pidfs
            .then(|| fstat(pidfd).ok().map(|stat| stat.st_ino))
            .flatten()
    }

    fn exit_word(
        &self,
        pid: Pid,
        start_time: Option<StartTime>,
        pidfd: Option<BorrowedFd<'_>>,
    ) -> Option<u32> {
        // Kept by the pidfd once the parent has reaped it (6.15+); before that, by the zombie.
        if let Some(word) = pidfd.and_then(pidfd_info::exit_word) {
            return Some(word);
        }
        let stat = self.open_stat(pid).ok()?;
        let mut line = [0; STAT_LINE_MAX];
        let length = pread(stat, &mut line, 0).ok()?;
        let line = &line[..length];
        let facts = proc_stat::facts(line).ok()?;
        if !facts.all_ended() || Some(facts.start_time) != start_time {
            return None;
        }
        // Whoever may not know the word reads zero, which looks like success: a zero is believed
        // only by those who may read everybody's.
        proc_stat::exit_word(line)
            .ok()
            .filter(|word| *word != 0 || may_read_everybody())
    }
}

/// `/proc/PID/status`, which a number of a mere thread has as well.
pub(crate) fn status_of(pid: i32) -> ProcResult<Status> {
    own_proc::check().map_err(|error| {
        if ForeignProc::is_behind(&error) {
            // An answer, and no failure that may pass.
            ProcError::Other(error.to_string())
        } else {
            error.into()
        }
    })?;
    Process::new(pid)?.status()
}

fn may_read_everybody() -> bool {
    capabilities(None).is_ok_and(|held| held.effective.contains(CapabilitySet::SYS_PTRACE))
}

fn kernel_pid(pid: Pid) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(pid.as_raw()).expect("a Pid is never zero")
}
