//! A process table for tests: processes that live, lose threads, die, are reaped and are succeeded
//! under their number, and a system that refuses what it is told to refuse.

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
    /// Descriptors are real ones of an empty file, so that they can be owned and closed.
    behind: HashMap<RawFd, usize>,
    refusals: Refusals,
    /// Numbers of mere threads, and whose they are.
    threads: HashMap<Pid, Pid>,
    /// Polls of living processes that say "ended", before polls tell the truth again.
    untrue_polls: u32,
    started_now: u64,
}

struct FakeProcess {
    stat: ProcStat,
    reaped: bool,
    wait_status: u32,
    /// Each thread has ended, and the pidfd does not become readable.
    unread: Option<Unread>,
}

/// Why the pidfd of a dead process is not readable.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    /// A tracer keeps its dead threads.
    Traced,
    /// It is the init of a pid namespace and waits for the others.
    NamespaceInit,
}

/// What the system refuses, and how.
#[derive(Clone, Copy, Default)]
pub(crate) struct Refusals {
    pub(crate) pidfd_open: Option<Errno>,
    pub(crate) poll: Option<Errno>,
    pub(crate) look: Option<Errno>,
    pub(crate) number: Option<Errno>,
    /// Nobody may read how a process ended.
    pub(crate) wait_status: bool,
    /// Pidfds have no inode of their own (before 6.9).
    pub(crate) no_inode: bool,
}

impl FakeTable {
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

    /// Another number for a thread of this process, with an entry of its own.
    pub(crate) fn spawn_thread(&self, process: Pid, number: Pid, start_time: u64) {
        self.spawn(number, start_time);
        self.state().threads.insert(number, process);
    }

    /// The main thread leaves while so many others run on.
    pub(crate) fn leader_leaves(&self, pid: Pid, workers: u32) {
        self.change(pid, |process| {
            process.stat.main_thread_ending = true;
            process.stat.main_thread_ended = true;
            process.stat.threads = workers + 1;
        });
    }

    /// The main thread is on its way out, and has not arrived.
    pub(crate) fn begin_to_die(&self, pid: Pid) {
        self.change(pid, |process| process.stat.main_thread_ending = true);
    }

    /// What a reader sees who meets a worker's exec: the old main thread, ended and counted out.
    pub(crate) fn look_torn(&self, pid: Pid) {
        self.change(pid, |process| {
            process.stat.main_thread_ended = true;
            process.stat.threads = 0;
        });
    }

    /// Every thread has ended, and the pidfd does not become readable.
    pub(crate) fn die_unread(&self, pid: Pid, why: Unread) {
        self.change(pid, |process| {
            process.stat.main_thread_ending = true;
            process.stat.main_thread_ended = true;
            process.stat.threads = if why == Unread::Traced { 4 } else { 1 };
            process.unread = Some(why);
        });
    }

    /// The next so many polls of pidfds say "ended", whatever is true.
    pub(crate) fn poll_untruly(&self, polls: u32) {
        self.state().untrue_polls = polls;
    }

    /// The start time of a process that started now.
    pub(crate) fn set_now(&self, start_time: u64) {
        self.state().started_now = start_time;
    }

    /// Every thread ends; the parent has not looked yet.
    pub(crate) fn die(&self, pid: Pid, wait_status: u32) {
        self.change(pid, |process| {
            process.stat.main_thread_ending = true;
            process.stat.main_thread_ended = true;
            process.stat.threads = 1;
            process.wait_status = wait_status;
        });
    }

    /// The parent looks, and the number is free.
    pub(crate) fn reap(&self, pid: Pid) {
        self.change(pid, |process| process.reaped = true);
        self.state().by_pid.remove(&pid);
    }

    pub(crate) fn refuse(&self, refusals: Refusals) {
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
        state.behind.insert(descriptor.as_raw_fd(), index);
        Ok(descriptor)
    }
}

fn refused(errno: Option<Errno>) -> io::Result<()> {
    errno.map_or(Ok(()), |errno| Err(errno.into()))
}

impl ProcessTable for FakeTable {
    fn stat(&self, pid: Pid) -> io::Result<ProcStat> {
        let state = self.state();
        refused(state.refusals.look)?;
        let index = state.by_pid.get(&pid).ok_or(Errno::NOENT)?;
        Ok(state.processes[*index].stat)
    }

    fn every_thread_ended(&self, pid: Pid) -> io::Result<bool> {
        let state = self.state();
        refused(state.refusals.look)?;
        let index = state.by_pid.get(&pid).ok_or(Errno::NOENT)?;
        let process = &state.processes[*index];
        Ok(process.unread.is_some() || process.stat.all_ended())
    }

    fn start_time_now(&self) -> Option<StartTime> {
        Some(StartTime(self.state().started_now))
    }

    fn pid_in_use(&self, pid: Pid) -> io::Result<bool> {
        let state = self.state();
        refused(state.refusals.number)?;
        Ok(state.by_pid.contains_key(&pid))
    }

    fn tgid_of(&self, number: Pid) -> io::Result<Pid> {
        let state = self.state();
        refused(state.refusals.look)?;
        let of_thread = state.threads.get(&number);
        Ok(of_thread.copied().unwrap_or(number))
    }

    fn open_stat(&self, pid: Pid) -> io::Result<OwnedFd> {
        refused(self.state().refusals.look)?;
        self.open(pid, Errno::NOENT)
    }

    fn read_stat(&self, stat: BorrowedFd<'_>) -> io::Result<ProcStat> {
        let state = self.state();
        refused(state.refusals.look)?;
        let process = &state.processes[state.behind[&stat.as_raw_fd()]];
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
        let is_untrue = state.untrue_polls > 0;
        state.untrue_polls = state.untrue_polls.saturating_sub(1);
        let ended = |fd: &BorrowedFd<'_>| {
            let process = &state.processes[state.behind[&fd.as_raw_fd()]];
            is_untrue || process.unread.is_none() && process.stat.all_ended()
        };
        Ok(pidfds.iter().map(ended).collect())
    }

    fn pidfd_reaped(&self, pidfd: BorrowedFd<'_>) -> io::Result<bool> {
        let state = self.state();
        refused(state.refusals.number)?;
        Ok(state.processes[state.behind[&pidfd.as_raw_fd()]].reaped)
    }

    fn pidfd_inode(&self, pidfd: BorrowedFd<'_>) -> Option<u64> {
        let state = self.state();
        (!state.refusals.no_inode).then(|| state.behind[&pidfd.as_raw_fd()] as u64)
    }

    fn wait_status(
        &self,
        pid: Pid,
        _start_time: Option<StartTime>,
        _pidfd: Option<BorrowedFd<'_>>,
    ) -> Option<u32> {
        let state = self.state();
        if state.refusals.wait_status {
            return None;
        }
        state
            .by_pid
            .get(&pid)
            .map(|index| state.processes[*index].wait_status)
    }
}
