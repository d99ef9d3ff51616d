//! The process table of Linux: `/proc`, pidfds and signal 0.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use procfs::process::{Process, Status};
use procfs::{ProcError, ProcResult};
use reaper_registry::{Pid, StartTime};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fstat, fstatfs, open};
use rustix::io::{Errno, pread};
use rustix::process::{PidfdFlags, pidfd_open, test_kill_process};
use rustix::time::{ClockId, clock_gettime};

use super::foreign_proc::ForeignProc;
#[cfg(feature = "cli")]
use super::pidfd_memory;
#[cfg(feature = "cli")]
use super::proc_file::{self, ProcFile};
use super::process_table::{ProcStat, ProcessTable};
use super::{memory, own_proc, pidfd_info, proc_stat};

/// `PID_FS_MAGIC` of the kernel's `include/uapi/linux/magic.h`. Before 6.9 all pidfds share one
/// anonymous inode, and its number identifies no process.
const PID_FS_MAGIC: i64 = 0x5049_4446;

/// Longer than any record: 52 numbers of at most 20 digits and a name of 64 bytes at most.
pub(super) const RECORD_MAX: usize = 2_048;

/// Start times are in ticks of `USER_HZ`, which is 100 on every architecture supported here.
const TICK_NS: u64 = 10_000_000;

/// Whether field 52 of a record is the status of the whole process. Measured: on 6.1 and newer it
/// is; on 5.10 it is that of the main thread, which differs if that thread left first.
static RECORD_HAS_GROUP_STATUS: LazyLock<bool> = LazyLock::new(|| {
    let first = procfs::KernelVersion::new(6, 1, 0);
    procfs::KernelVersion::current().is_ok_and(|version| version >= first)
});

/// The process table, with the path of `/proc`.
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
    fn stat(&self, pid: Pid) -> io::Result<ProcStat> {
        let (_, line) = self.open_record(pid)?;
        proc_stat::stat(line.bytes()).map_err(io::Error::other)
    }

    /// Checks the memory first, which takes a fifth of the time of reading the record. Older kernels
    /// show it to those who may trace the process, and to others there is only the record.
    #[cfg_attr(
        not(feature = "cli"),
        expect(unused_variables, reason = "only a monitor tries out what it shows")
    )]
    fn main_thread_ended(&self, pid: Pid, pidfd: BorrowedFd<'_>) -> io::Result<bool> {
        #[cfg(feature = "cli")]
        if pidfd_memory::has_memory(pidfd) {
            return Ok(false);
        }
        self.has_no_memory(pid)
    }

    /// With a deputy, asks it about all those at once of which this process sees no memory.
    #[cfg(feature = "cli")]
    fn main_threads_ended(&self, processes: &[(Pid, BorrowedFd<'_>)]) -> Vec<bool> {
        let is_unseen = |(_, pidfd): &&(Pid, BorrowedFd<'_>)| !pidfd_memory::has_memory(*pidfd);
        let mut ended = vec![false; processes.len()];
        let unseen: Vec<_> = (0..)
            .zip(processes)
            .filter(|(_, one)| is_unseen(one))
            .collect();
        let pids: Vec<_> = unseen.iter().map(|(_, (pid, _))| *pid).collect();
        let may_look = pids
            .first()
            .is_none_or(|pid| memory::has_memory(*pid).is_ok());
        let by_deputy = if may_look {
            None
        } else {
            proc_file::have_memory_by_deputy(&pids)
        };
        let have_memory = by_deputy.unwrap_or_else(|| vec![false; pids.len()]);
        for ((index, (pid, _)), has_memory) in unseen.into_iter().zip(have_memory) {
            ended[index] = !has_memory && matches!(self.has_no_memory(*pid), Ok(true));
        }
        ended
    }

    /// A thread may be created or reaped while the threads are listed, and a listing may end early.
    /// So the kernel's count is read between two equal listings: each listed thread was there
    /// before and after the count, so a count that is no higher leaves no unlisted thread.
    fn every_thread_ended(&self, pid: Pid) -> io::Result<bool> {
        let Some(ended) = self.threads_if_all_ended(pid)? else {
            return Ok(false);
        };
        let stat = self.stat(pid)?;
        Ok(stat.main_thread_ended
            && usize::try_from(stat.threads).is_ok_and(|threads| threads == ended.len())
            && self.threads_if_all_ended(pid)? == Some(ended))
    }

    fn start_time_now(&self) -> Option<StartTime> {
        // The clock of field 22, including the offset of this time namespace.
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).ok()?;
        let nanos = u64::try_from(now.tv_nsec).ok()?;
        Some(StartTime((seconds * 1_000_000_000 + nanos) / TICK_NS))
    }

    fn pid_in_use(&self, pid: Pid) -> io::Result<bool> {
        match test_kill_process(kernel_pid(pid)) {
            Ok(()) | Err(Errno::PERM) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(other) => Err(other.into()),
        }
    }

    fn tgid_of(&self, id: Pid) -> io::Result<Pid> {
        let status = status_of(id.as_raw()).map_err(io::Error::other)?;
        // Zero once it is no longer in the table.
        Pid::try_from(status.tgid).map_err(io::Error::other)
    }

    fn open_stat(&self, pid: Pid) -> io::Result<OwnedFd> {
        self.open_record(pid).map(|(stat, _)| stat)
    }

    fn read_stat(&self, stat: BorrowedFd<'_>) -> io::Result<ProcStat> {
        let line = Line::of(stat)?;
        proc_stat::stat(line.bytes()).map_err(io::Error::other)
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

    fn pidfd_reaped(&self, pidfd: BorrowedFd<'_>) -> io::Result<bool> {
        match pidfd_info::signal_zero(pidfd) {
            Ok(()) | Err(Errno::PERM) => Ok(false),
            Err(Errno::SRCH) => Ok(true),
            Err(other) => Err(other.into()),
        }
    }

    fn pidfd_inode(&self, pidfd: BorrowedFd<'_>) -> Option<u64> {
        let on_pidfs = fstatfs(pidfd).is_ok_and(|fs| fs.f_type == PID_FS_MAGIC);
        on_pidfs
            .then(|| fstat(pidfd).ok().map(|stat| stat.st_ino))
            .flatten()
    }

    fn wait_status(
        &self,
        pid: Pid,
        start_time: Option<StartTime>,
        pidfd: Option<BorrowedFd<'_>>,
    ) -> Option<u32> {
        // The pidfd has it once the parent has reaped the process (6.15+); before that, the zombie
        // has it. The parent may reap the process between the two reads.
        let from_pidfd = || pidfd.and_then(pidfd_info::wait_status);
        from_pidfd()
            .or_else(|| self.wait_status_of_zombie(pid, start_time))
            .or_else(from_pidfd)
    }
}

impl LinuxTable {
    /// Returns whether the main thread has given up its memory, or as much as its record shows of that.
    fn has_no_memory(&self, pid: Pid) -> io::Result<bool> {
        match memory::has_memory(pid) {
            Ok(has_memory) => Ok(!has_memory),
            Err(_) => self.stat(pid).map(|stat| stat.main_thread_ended),
        }
    }

    /// Opens the record of this process, and reads it to check that it is the right one.
    fn open_record(&self, pid: Pid) -> io::Result<(OwnedFd, Line)> {
        own_proc::check()?;
        let path = self.proc_root.join(pid.to_string()).join("stat");
        let opened = open_checked(&path, pid);
        #[cfg(feature = "cli")]
        let opened = opened.or_else(|error| {
            let stat = proc_file::open_by_deputy(ProcFile::Stat, pid, error)?;
            checked(stat, pid)
        });
        opened
    }

    fn wait_status_of_zombie(&self, pid: Pid, start_time: Option<StartTime>) -> Option<u32> {
        let (stat, line) = self.open_record(pid).ok()?;
        let line = line.bytes();
        let read = proc_stat::stat(line).ok()?;
        if !read.main_thread_ended || Some(read.start_time) != start_time {
            return None;
        }
        let status = proc_stat::wait_status(line).ok()?;
        if status != 0 {
            return Some(status);
        }
        // A zero may mean that we lack permission to read it, and before 6.1 that the main thread
        // left with it and another thread ended the process.
        if !*RECORD_HAS_GROUP_STATUS {
            return None;
        }
        if may_read_status(&self.proc_root.join(pid.to_string())) {
            return self.read_stat(stat.as_fd()).is_ok().then_some(status);
        }
        status_by_deputy(pid, start_time)
    }

    /// Returns the threads of a process if each of them has ended and waits to be reaped. `None` if
    /// one is running, is being released, or has left meanwhile: a worker that executes a program
    /// leaves its id to the main thread that it replaces, and that one is released.
    fn threads_if_all_ended(&self, pid: Pid) -> io::Result<Option<BTreeSet<i32>>> {
        own_proc::check()?;
        let folder = self.proc_root.join(pid.to_string()).join("task");
        let mut ended = BTreeSet::new();
        for entry in std::fs::read_dir(&folder)? {
            let name = entry?.file_name();
            let tid = name.to_str().and_then(|name| name.parse().ok());
            let Some(tid) = tid.and_then(|tid: i32| Pid::try_from(tid).ok()) else {
                return Ok(None);
            };
            let record = open_checked(&folder.join(name).join("stat"), tid);
            let awaits_reaping =
                record.is_ok_and(|(_, line)| proc_stat::awaits_reaping(line.bytes()) == Ok(true));
            if !awaits_reaping {
                return Ok(None);
            }
            ended.insert(tid.as_raw());
        }
        // The listing is empty while a main thread is being released that a worker's exec has
        // replaced, and its record counts no thread then.
        Ok(ended.contains(&pid.as_raw()).then_some(ended))
    }
}

/// The text of one record.
struct Line {
    bytes: [u8; RECORD_MAX],
    length: usize,
}

impl Line {
    fn of(stat: BorrowedFd<'_>) -> io::Result<Self> {
        let mut bytes = [0; RECORD_MAX];
        let length = pread(stat, &mut bytes, 0)?;
        Ok(Self { bytes, length })
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Opens a record that must be of this process or thread.
fn open_checked(path: &Path, id: Pid) -> io::Result<(OwnedFd, Line)> {
    checked(
        open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?,
        id,
    )
}

fn checked(stat: OwnedFd, id: Pid) -> io::Result<(OwnedFd, Line)> {
    let line = Line::of(stat.as_fd())?;
    if proc_stat::is_of(line.bytes(), id) {
        Ok((stat, line))
    } else {
        Err(io::Error::other("the record is of another process"))
    }
}

/// Reads `/proc/PID/status`, which exists for the ids of threads as well.
pub(crate) fn status_of(pid: i32) -> ProcResult<Status> {
    own_proc::check().map_err(|error| {
        if ForeignProc::is_behind(&error) {
            // Final: not a failure that may pass.
            ProcError::Other(error.to_string())
        } else {
            error.into()
        }
    })?;
    let here = Process::new(pid).and_then(|process| process.status());
    #[cfg(feature = "cli")]
    let here = here.or_else(|error| hidden_status_of(pid).ok_or(error));
    here
}

/// Reads `/proc/PID/status` with the deputy's rights.
#[cfg(feature = "cli")]
fn hidden_status_of(pid: i32) -> Option<Status> {
    use procfs::FromRead as _;

    let pid = Pid::try_from(pid).ok()?;
    let hidden = io::ErrorKind::PermissionDenied.into();
    let status = proc_file::open_by_deputy(ProcFile::Status, pid, hidden).ok()?;
    Status::from_read(std::fs::File::from(status)).ok()
}

/// Reads the exit status of this zombie with the deputy's rights.
#[cfg(feature = "cli")]
fn status_by_deputy(pid: Pid, start_time: Option<StartTime>) -> Option<u32> {
    let record = proc_file::record_by_deputy(pid)?;
    (Some(record.start_time) == start_time).then_some(record.wait_status)
}

/// The library has no deputy.
#[cfg(not(feature = "cli"))]
const fn status_by_deputy(_pid: Pid, _start_time: Option<StartTime>) -> Option<u32> {
    None
}

/// Returns whether the kernel shows us the exit status in the record of the process with this folder.
/// The same check (`PTRACE_MODE_READ_FSCREDS`, `do_task_stat` in [`fs/proc/array.c`]) applies to the
/// link to its program (`proc_pid_readlink` in [`fs/proc/base.c`]), which is absent without memory.
///
/// [`fs/proc/array.c`]: https://elixir.bootlin.com/linux/v6.12/source/fs/proc/array.c
/// [`fs/proc/base.c`]: https://elixir.bootlin.com/linux/v6.12/source/fs/proc/base.c
pub(super) fn may_read_status(folder: &Path) -> bool {
    match std::fs::read_link(folder.join("exe")) {
        Ok(_) => true,
        // Or the mount hides the whole folder (`hidepid`), and the record was opened for us.
        Err(error) => error.kind() == io::ErrorKind::NotFound && folder.join("stat").exists(),
    }
}

fn kernel_pid(pid: Pid) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(pid.as_raw()).expect("a Pid is never zero")
}
