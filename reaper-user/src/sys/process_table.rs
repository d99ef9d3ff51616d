//! What the operating system is asked about processes: the port that identity and verdict look
//! through. Real systems are behind it in `sys/`; tests put errors there that cannot be forced.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use reaper_registry::{Pid, StartTime};

/// One process-table entry at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcStat {
    pub start_time: StartTime,
    /// The main thread is on its way out or has ended, as early as the system shows it.
    pub main_thread_ending: bool,
    /// The main thread will never run code of its program again: it is a zombie or released (states Z
    /// and X), or it is exiting and has given up its memory. Others may still run.
    pub main_thread_ended: bool,
    pub threads: u32,
    /// A thread of the kernel's own, which nobody can own a session with.
    pub kernel_thread: bool,
}

impl ProcStat {
    /// Whether all of the process has ended. A main thread that left is a zombie while its workers
    /// run on, so the state alone says nothing.
    pub fn all_ended(&self) -> bool {
        // Not "at most one": a reader that meets a worker's exec sees the old main thread being
        // released, ended and with a count of zero, while the process lives on under the worker.
        self.main_thread_ended && self.threads == 1
    }
}

/// Questions to the operating system. Errors come as it gives them; what they mean is decided by
/// the asker.
pub trait ProcessTable: Send + Sync {
    /// The entry under this number. `NotFound` also where the entry is hidden from us.
    fn stat(&self, pid: Pid) -> io::Result<ProcStat>;

    /// Whether the main thread of this process has ended, as cheaply as the system can say it. Meaningful
    /// only while the number is known to be this process's.
    fn main_thread_ended(&self, pid: Pid) -> io::Result<bool> {
        self.stat(pid).map(|stat| stat.main_thread_ended)
    }

    /// Whether every thread of this process is listed and has ended. A tracer that does not wait keeps
    /// dead threads as zombies, and then neither the pidfd nor the count of threads shows that the
    /// process is dead. Meaningful only while the number is known to be this process's.
    fn every_thread_ended(&self, pid: Pid) -> io::Result<bool>;

    /// The start time that a process would get now; `None` where the system does not say.
    fn start_time_now(&self) -> Option<StartTime>;

    /// Whether the number belongs to anybody, dead but unreaped ones included. Not fooled by a
    /// restricted view of the table.
    fn pid_in_use(&self, pid: Pid) -> io::Result<bool>;

    /// The process that this number belongs to: another number for a mere thread of one. An error says
    /// nothing either way.
    fn tgid_of(&self, number: Pid) -> io::Result<Pid>;

    /// A descriptor of the process-table entry, which never shows a successor.
    fn open_stat(&self, pid: Pid) -> io::Result<OwnedFd>;

    /// The entry behind such a descriptor; `ESRCH` once the process is reaped.
    fn read_stat(&self, stat: BorrowedFd<'_>) -> io::Result<ProcStat>;

    /// A pidfd. `ESRCH` says with authority that nobody has the number.
    fn pidfd_open(&self, pid: Pid) -> io::Result<OwnedFd>;

    /// For each pidfd whether every thread of its process has ended.
    fn pidfds_exited(&self, pidfds: &[BorrowedFd<'_>]) -> io::Result<Vec<bool>>;

    /// Whether every thread behind this one pidfd has ended.
    fn pidfd_exited(&self, pidfd: BorrowedFd<'_>) -> io::Result<bool> {
        self.pidfds_exited(&[pidfd])
            .map(|exited| exited.first() == Some(&true))
    }

    /// Whether the process behind this pidfd has ended and been reaped: the kernel finds no task for
    /// it any more. Exact, because a pidfd never refers to a successor.
    fn pidfd_reaped(&self, pidfd: BorrowedFd<'_>) -> io::Result<bool>;

    /// The number that the kernel gives to one process and, until the next boot, to no other.
    fn pidfd_inode(&self, pidfd: BorrowedFd<'_>) -> Option<u64>;

    /// The wait status word of a process that has ended, where somebody still keeps it for us: the
    /// pidfd, or the zombie under this number if it is the one that started then.
    fn wait_status(
        &self,
        pid: Pid,
        start_time: Option<StartTime>,
        pidfd: Option<BorrowedFd<'_>>,
    ) -> Option<u32>;
}

/// The one of this system.
pub fn of_this_system() -> Arc<dyn ProcessTable> {
    Arc::new(crate::sys::SystemTable::default())
}

/// Whether the error says with authority that there is no such process.
pub fn is_no_such_process(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}
