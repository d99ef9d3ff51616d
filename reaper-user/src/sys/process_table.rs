//! The interface to the operating system for identity and verdict. Implementations for real systems
//! are in `sys/`; tests use one that returns errors that cannot be forced otherwise.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use reaper_registry::{Pid, StartTime};

/// The record of a process at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcStat {
    /// When it started.
    pub start_time: StartTime,
    /// The main thread is exiting or has ended, as early as the system shows it.
    pub main_thread_ending: bool,
    /// The main thread will never run code of its program again: it is a zombie or released (states
    /// Z and X), or it is exiting and has given up its memory. Others may still run.
    pub main_thread_ended: bool,
    /// How many threads it has.
    pub threads: u32,
    /// A kernel thread, which cannot own a session.
    pub kernel_thread: bool,
}

impl ProcStat {
    /// Returns whether every thread has ended. A main thread that left is a zombie while its
    /// workers run, so its state alone is not enough.
    pub fn all_ended(&self) -> bool {
        // Not "at most one": during a worker's exec the record shows the old main thread being
        // released, ended and with a count of zero, while the process lives on under the worker.
        self.main_thread_ended && self.threads == 1
    }
}

/// Queries to the operating system. Errors are returned as the system gives them; the caller
/// decides what they mean.
pub(crate) trait ProcessTable: Send + Sync {
    /// Returns the record under this pid. `NotFound` also if the entry is hidden from us.
    fn stat(&self, pid: Pid) -> io::Result<ProcStat>;

    /// Returns whether the main thread of this process has ended, by the cheapest means. Meaningful
    /// only while the pid is known to be this process's, which the pidfd is.
    fn main_thread_ended(&self, pid: Pid, pidfd: BorrowedFd<'_>) -> io::Result<bool> {
        let _ = pidfd;
        self.stat(pid).map(|stat| stat.main_thread_ended)
    }

    /// Returns for each of these processes whether its main thread is known to have ended.
    fn main_threads_ended(&self, processes: &[(Pid, BorrowedFd<'_>)]) -> Vec<bool> {
        let ended = |(pid, pidfd): &(Pid, BorrowedFd<'_>)| {
            matches!(self.main_thread_ended(*pid, *pidfd), Ok(true))
        };
        processes.iter().map(ended).collect()
    }

    /// Returns whether every thread of this process is listed and has ended. A tracer that does not
    /// wait keeps dead threads as zombies, and then neither the pidfd nor the thread count shows
    /// that the process is dead. Meaningful only while the pid is known to be this process's.
    fn every_thread_ended(&self, pid: Pid) -> io::Result<bool>;

    /// Returns the start time that a process would get now; `None` where the system does not show
    /// it.
    fn start_time_now(&self) -> Option<StartTime>;

    /// Returns whether the pid is in use, also by a process that is dead but not reaped. A
    /// restricted view of the table does not affect it.
    fn pid_in_use(&self, pid: Pid) -> io::Result<bool>;

    /// Returns the pid of the process to which this id belongs, which differs if the id is that of
    /// a thread. An error proves nothing.
    fn tgid_of(&self, id: Pid) -> io::Result<Pid>;

    /// Opens the record of a process. The descriptor never shows a successor.
    fn open_stat(&self, pid: Pid) -> io::Result<OwnedFd>;

    /// Reads the record behind such a descriptor; `ESRCH` once the process is reaped.
    fn read_stat(&self, stat: BorrowedFd<'_>) -> io::Result<ProcStat>;

    /// Opens a pidfd. `ESRCH` proves that the pid is free.
    fn pidfd_open(&self, pid: Pid) -> io::Result<OwnedFd>;

    /// Returns for each pidfd whether every thread of its process has ended.
    fn pidfds_exited(&self, pidfds: &[BorrowedFd<'_>]) -> io::Result<Vec<bool>>;

    /// Returns whether every thread of the process behind this pidfd has ended.
    fn pidfd_exited(&self, pidfd: BorrowedFd<'_>) -> io::Result<bool> {
        self.pidfds_exited(&[pidfd])
            .map(|exited| exited.first() == Some(&true))
    }

    /// Returns whether the process behind this pidfd has been reaped: the kernel finds no task for
    /// it. Exact, because a pidfd never refers to a successor.
    fn pidfd_reaped(&self, pidfd: BorrowedFd<'_>) -> io::Result<bool>;

    /// Returns the inode number of the pidfd, which is unique to the process until the next boot.
    fn pidfd_inode(&self, pidfd: BorrowedFd<'_>) -> Option<u64>;

    /// Returns the wait status of a process that has ended, if the system still has it: in the
    /// pidfd, or in the zombie under this pid if it is the process with this start time.
    fn wait_status(
        &self,
        pid: Pid,
        start_time: Option<StartTime>,
        pidfd: Option<BorrowedFd<'_>>,
    ) -> Option<u32>;
}

/// Returns the process table of this system.
pub(crate) fn of_this_system() -> Arc<dyn ProcessTable> {
    Arc::new(crate::sys::SystemTable::default())
}

/// Returns whether the error proves that there is no such process.
pub(crate) fn is_no_such_process(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}
