//! The process table of systems other than Linux: start times by a system call,
//! and no descriptors that identify a process.
#![expect(
    unsafe_code,
    reason = "the start-time calls of macOS and FreeBSD have no safe wrapper"
)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use reaper_registry::{Pid, StartTime};
use rustix::io::Errno;
use rustix::process::test_kill_process;

use super::process_table::{ProcStat, ProcessTable};

#[derive(Default)]
pub(crate) struct OtherTable;

impl ProcessTable for OtherTable {
    fn stat(&self, pid: Pid) -> io::Result<ProcStat> {
        stat(pid)
    }

    /// Threads have no entries on these systems, and a zombie is a whole process.
    fn every_thread_ended(&self, pid: Pid) -> io::Result<bool> {
        self.stat(pid).map(|stat| stat.main_thread_ended)
    }

    /// Start times are on the wall clock on these systems, which may have been set in between.
    fn start_time_now(&self) -> Option<StartTime> {
        None
    }

    fn pid_in_use(&self, pid: Pid) -> io::Result<bool> {
        let pid = rustix::process::Pid::from_raw(pid.as_raw()).expect("a Pid is never zero");
        match test_kill_process(pid) {
            Ok(()) | Err(Errno::PERM) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(other) => Err(other.into()),
        }
    }

    /// Threads have no ids among those of processes on these systems.
    fn tgid_of(&self, id: Pid) -> io::Result<Pid> {
        Ok(id)
    }

    fn open_stat(&self, _pid: Pid) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn read_stat(&self, _stat: BorrowedFd<'_>) -> io::Result<ProcStat> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn pidfd_open(&self, _pid: Pid) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn pidfds_exited(&self, pidfds: &[BorrowedFd<'_>]) -> io::Result<Vec<bool>> {
        Ok(vec![false; pidfds.len()])
    }

    fn pidfd_reaped(&self, _pidfd: BorrowedFd<'_>) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn pidfd_inode(&self, _pidfd: BorrowedFd<'_>) -> Option<u64> {
        None
    }

    fn wait_status(
        &self,
        _pid: Pid,
        _start_time: Option<StartTime>,
        _pidfd: Option<BorrowedFd<'_>>,
    ) -> Option<u32> {
        None
    }
}

/// Start time in microseconds since 1970, as the kernel stored it at fork.
fn start_time(seconds: u64, micros: u64) -> StartTime {
    StartTime(seconds.saturating_mul(1_000_000).saturating_add(micros))
}

#[cfg(target_os = "macos")]
fn stat(pid: Pid) -> io::Result<ProcStat> {
    let mut info = std::mem::MaybeUninit::<libc::proc_bsdinfo>::zeroed();
    let size = libc::c_int::try_from(size_of::<libc::proc_bsdinfo>()).expect("136 bytes");
    // SAFETY: the buffer is writable and as large as `size` says.
    let filled = unsafe {
        libc::proc_pidinfo(
            pid.as_raw(),
            libc::PROC_PIDTBSDINFO,
            0,
            info.as_mut_ptr().cast(),
            size,
        )
    };
    if filled != size {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call filled all of it, and any bytes are a valid value of this plain structure.
    let info = unsafe { info.assume_init() };
    let ended = info.pbi_status == libc::SZOMB;
    Ok(ProcStat {
        start_time: start_time(info.pbi_start_tvsec, info.pbi_start_tvusec),
        main_thread_ending: ended,
        main_thread_ended: ended,
        // A zombie of this system is a whole process.
        threads: 1,
        kernel_thread: pid.get() == 0,
    })
}

#[cfg(target_os = "freebsd")]
fn stat(pid: Pid) -> io::Result<ProcStat> {
    let name = [
        libc::CTL_KERN,
        libc::KERN_PROC,
        libc::KERN_PROC_PID,
        pid.as_raw(),
    ];
    let mut info = std::mem::MaybeUninit::<libc::kinfo_proc>::zeroed();
    let mut size = size_of::<libc::kinfo_proc>();
    // SAFETY: name and buffer live through the call and are as long as the lengths say.
    let result = unsafe {
        libc::sysctl(
            name.as_ptr(),
            4,
            info.as_mut_ptr().cast(),
            &raw mut size,
            std::ptr::null(),
            0,
        )
    };
    super::check(result)?;
    if size != size_of::<libc::kinfo_proc>() {
        return Err(io::ErrorKind::NotFound.into());
    }
    // SAFETY: the call filled all of it, and any bytes are a valid value of this plain structure.
    let info = unsafe { info.assume_init() };
    let ended = info.ki_stat == libc::SZOMB;
    let micros = |part: i64| u64::try_from(part).unwrap_or(0);
    Ok(ProcStat {
        start_time: start_time(micros(info.ki_start.tv_sec), micros(info.ki_start.tv_usec)),
        main_thread_ending: ended,
        main_thread_ended: ended,
        threads: 1,
        kernel_thread: pid.get() == 0,
    })
}

/// Systems without an implementation: only whether the pid is in use can be checked there.
#[cfg(not(any(target_os = "macos", target_os = "freebsd")))]
fn stat(_pid: Pid) -> io::Result<ProcStat> {
    Err(io::ErrorKind::Unsupported.into())
}
