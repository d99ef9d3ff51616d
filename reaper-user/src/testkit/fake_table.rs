//! A process table for tests. Its processes lose threads, die, are reaped, and their pids are reused. Its
//! system calls fail on request.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard};

use reaper_registry::{Pid, StartTime};
use rustix::io::Errno;

use crate::sys::process_table::{ProcStat, ProcessTable};

#[derive(Default)]
pub(crate) struct FakeTable(Mutex<State>);

#[derive(Default)]
struct State {
    processes: Vec<FakeProcess>,
    by_pid: HashMap<Pid, usize>,
    /// The process of each descriptor. The descriptors are real ones of `/dev/null`, so that they can be
    /// owned and closed.
    by_descriptor: HashMap<RawFd, usize>,
    refusals: Refusals,
    /// The process of each thread that is not a main thread.
    threads: HashMap<Pid, Pid>,
    /// How many further polls report every process as ended.
    false_polls: u32,
    started_now: u64,
}

struct FakeProcess {
    stat: ProcStat,
    reaped: bool,
    wait_status: u32,
    /// Set if all threads have ended and the pidfd does not become readable.
    unread: Option<Unread>,
}

impl FakeProcess {
    /// Leaves this many threads in the record.
    fn end_main_thread(&mut self, threads: u32) {
        self.stat.main_thread_ending = true;
        self.stat.main_thread_ended = true;
        self.stat.threads = threads;
    }
}

impl State {
    /// The record under this pid, unless reading records fails.
    fn record(&self, pid: Pid) -> io::Result<&FakeProcess> {
        refused(self.refusals.stat)?;
        let index = self.by_pid.get(&pid).ok_or(Errno::NOENT)?;
        Ok(&self.processes[*index])
    }

    fn behind(&self, descriptor: BorrowedFd<'_>) -> &FakeProcess {
        &self.processes[self.by_descriptor[&descriptor.as_raw_fd()]]
    }
}

/// Why the pidfd of a dead process is not readable.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    /// A tracer has not reaped its dead threads.
    Traced,
    /// It is the init of a pid namespace and waits for the other processes there.
    NamespaceInit,
}

/// Which calls fail, and with which error.
#[derive(Clone, Copy, Default)]
pub(crate) struct Refusals {
    pub(crate) pidfd_open: Option<Errno>,
    pub(crate) poll: Option<Errno>,
    pub(crate) stat: Option<Errno>,
    pub(crate) pid_lookup: Option<Errno>,
    /// Whether wait statuses cannot be read.
    pub(crate) wait_status: bool,
    /// Whether all pidfds share one inode, as before Linux 6.9.
    pub(crate) no_inode: bool,
}

impl FakeTable {
    /// A table with one live process.
    pub(crate) fn with_process(pid: Pid, start_time: u64) -> Self {
        let table = Self::default();
        table.spawn(pid, start_time);
        table
    }

    pub(crate) fn spawn(&self, pid: Pid, start_time: u64) {
        let mut state = self.state();
        let stat = ProcStat {
            start_time: StartTime(start_time),
            main_thread_ending: false,
            main_thread_ended: false,
            threads: 1,
            kernel_thread: false,
        };
        state.processes.push(FakeProcess {
            stat,
            reaped: false,
            wait_status: 0,
            unread: None,
        });
        let index = state.processes.len() - 1;
        state.by_pid.insert(pid, index);
    }

    /// Starts a thread of this process, with a separate entry.
    pub(crate) fn spawn_thread(&self, process: Pid, tid: Pid, start_time: u64) {
        self.spawn(tid, start_time);
        self.state().threads.insert(tid, process);
    }

    /// Ends the main thread, while this many other threads continue.
    pub(crate) fn leader_leaves(&self, pid: Pid, workers: u32) {
        self.change(pid, |process| process.end_main_thread(workers + 1));
    }

    /// Makes the main thread start to exit. It does not end yet.
    pub(crate) fn begin_to_die(&self, pid: Pid) {
        self.change(pid, |process| process.stat.main_thread_ending = true);
    }

    /// Shows what a reader sees during an exec by a worker: the old main thread, ended and no longer
    /// counted.
    pub(crate) fn show_torn_stat(&self, pid: Pid) {
        self.change(pid, |process| {
            process.stat.main_thread_ended = true;
            process.stat.threads = 0;
        });
    }

    /// Ends all threads; the pidfd does not become readable.
    pub(crate) fn die_unread(&self, pid: Pid, why: Unread) {
        self.change(pid, |process| {
            process.end_main_thread(if why == Unread::Traced { 4 } else { 1 });
            process.unread = Some(why);
        });
    }

    /// Makes this many polls of pidfds report every process as ended.
    pub(crate) fn poll_falsely(&self, polls: u32) {
        self.state().false_polls = polls;
    }

    /// Sets the start time of a process that starts now.
    pub(crate) fn set_now(&self, start_time: u64) {
        self.state().started_now = start_time;
    }

    /// Ends all threads. The process is a zombie until [`Self::reap`].
    pub(crate) fn die(&self, pid: Pid, wait_status: u32) {
        self.change(pid, |process| {
            process.end_main_thread(1);
            process.wait_status = wait_status;
        });
    }

    /// Reaps the process, which frees its pid.
    pub(crate) fn reap(&self, pid: Pid) {
        self.change(pid, |process| process.reaped = true);
        self.state().by_pid.remove(&pid);
    }

    /// Sets which calls fail; all others succeed.
    pub(crate) fn refuse(&self, set: impl FnOnce(&mut Refusals)) {
        let mut refusals = Refusals::default();
        set(&mut refusals);
        self.state().refusals = refusals;
    }

    fn change(&self, pid: Pid, change: impl FnOnce(&mut FakeProcess)) {
        let mut state = self.state();
        let index = state.by_pid[&pid];
        change(&mut state.processes[index]);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn open(&self, pid: Pid, absent: Errno) -> io::Result<OwnedFd> {
        let mut state = self.state();
        let index = *state.by_pid.get(&pid).ok_or(absent)?;
        let descriptor = OwnedFd::from(File::open("/dev/null")?);
        state.by_descriptor.insert(descriptor.as_raw_fd(), index);
        Ok(descriptor)
    }
}

fn refused(errno: Option<Errno>) -> io::Result<()> {
    errno.map_or(Ok(()), |errno| Err(errno.into()))
}

impl ProcessTable for FakeTable {
    fn stat(&self, pid: Pid) -> io::Result<ProcStat> {
        self.state().record(pid).map(|process| process.stat)
    }

    fn every_thread_ended(&self, pid: Pid) -> io::Result<bool> {
        let state = self.state();
        let process = state.record(pid)?;
        Ok(process.unread.is_some() || process.stat.all_ended())
    }

    fn start_time_now(&self) -> Option<StartTime> {
        Some(StartTime(self.state().started_now))
    }

    fn pid_in_use(&self, pid: Pid) -> io::Result<bool> {
        let state = self.state();
        refused(state.refusals.pid_lookup)?;
        Ok(state.by_pid.contains_key(&pid))
    }

    fn tgid_of(&self, tid: Pid) -> io::Result<Pid> {
        let state = self.state();
        refused(state.refusals.stat)?;
        let process = state.threads.get(&tid);
        Ok(process.copied().unwrap_or(tid))
    }

    fn open_stat(&self, pid: Pid) -> io::Result<OwnedFd> {
        refused(self.state().refusals.stat)?;
        self.open(pid, Errno::NOENT)
    }

    fn read_stat(&self, stat: BorrowedFd<'_>) -> io::Result<ProcStat> {
        let state = self.state();
        refused(state.refusals.stat)?;
        let process = state.behind(stat);
        if process.reaped {
            return Err(Errno::SRCH.into());
        }
        Ok(process.stat)
    }

    fn pidfd_open(&self, pid: Pid) -> io::Result<OwnedFd> {
        refused(self.state().refusals.pidfd_open)?;
        self.open(pid, Errno::SRCH)
    }

    fn pidfds_exited(&self, pidfds: &[BorrowedFd<'_>]) -> io::Result<Vec<bool>> {
        let mut state = self.state();
        refused(state.refusals.poll)?;
        let is_false = state.false_polls > 0;
        state.false_polls = state.false_polls.saturating_sub(1);
        let ended = |fd: &BorrowedFd<'_>| {
            let process = state.behind(*fd);
            is_false || process.unread.is_none() && process.stat.all_ended()
        };
        Ok(pidfds.iter().map(ended).collect())
    }

    fn pidfd_reaped(&self, pidfd: BorrowedFd<'_>) -> io::Result<bool> {
        let state = self.state();
        refused(state.refusals.pid_lookup)?;
        Ok(state.behind(pidfd).reaped)
    }

    fn pidfd_inode(&self, pidfd: BorrowedFd<'_>) -> Option<u64> {
        let state = self.state();
        (!state.refusals.no_inode).then(|| state.by_descriptor[&pidfd.as_raw_fd()] as u64)
    }

    fn wait_status(
        &self,
        pid: Pid,
        _start_time: Option<StartTime>,
        _pidfd: Option<BorrowedFd<'_>>,
    ) -> Option<u32> {
        let state = self.state();
        let index = state.by_pid.get(&pid);
        let index = index.filter(|_| !state.refusals.wait_status)?;
        Some(state.processes[*index].wait_status)
    }
}
