//! Test processes: real processes that end in chosen ways, on cue. For the demo and the tests.
//!
//! A test process prints a line on its standard output when it is ready and reads its cues from its standard
//! input, so that no test depends on guessed times. The end of that input is a cue too: when the process that
//! started the test processes ends, they end.

use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use reaper_registry::{ExitStatus, Pid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid as RawPid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, waitid, waitpid,
};

use crate::clock::Deadline;

/// How long to wait for an expected line. An emulated machine under load takes seconds for what takes
/// milliseconds elsewhere.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait for an unrelated process to free a chosen pid.
#[cfg(target_os = "linux")]
const CHOSEN_PID_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause between two checks of a child.
const CHECK_INTERVAL: Duration = Duration::from_millis(1);

/// What a test process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::Subcommand))]
pub enum Kind {
    /// Exits with this code on cue.
    Exit { code: u8 },
    /// Sleeps, and exits with 0 on cue.
    Sleep,
    /// On cue its main thread exits while the others continue (it prints `leader left`). On the second cue
    /// one of them ends the process with code 7.
    LeaderFirst,
    /// On cue a thread other than the main thread executes `sleep`.
    WorkerExec,
    /// On cue it executes `sleep`.
    SelfExec,
    /// The test process is a grandchild. On cue its parent is killed (it prints `orphaned`). On the second cue
    /// it exits with 0.
    ParentFirst,
    /// The grandchild of `ParentFirst`.
    #[cfg_attr(feature = "cli", command(hide = true))]
    Orphan,
    /// The test process is a grandchild. On cue its parent, which traces it, stops it (and prints `traced`)
    /// and then never waits for it.
    Traced,
    /// The grandchild of `Traced`.
    #[cfg_attr(feature = "cli", command(hide = true))]
    Tracee,
    /// Starts and ends this many threads repeatedly (after 2,000 threads it prints `churned`). Exits with 0
    /// on cue.
    ThreadChurn { threads: u16 },
    /// Gives up system calls and files as the daemon's worker does, and prints for each of some forbidden
    /// ones how it fails. It may write in the folder in which it was started.
    Confined,
    /// Touches this many MiB of memory. Exits with 0 on cue.
    Hog { megabytes: u32 },
}

impl Kind {
    /// Returns the arguments with which `reaperd` becomes this test process.
    pub fn arguments(self) -> Vec<String> {
        let (name, value) = match self {
            Self::Exit { code } => ("exit", Some(code.to_string())),
            Self::Sleep => ("sleep", None),
            Self::LeaderFirst => ("leader-first", None),
            Self::WorkerExec => ("worker-exec", None),
            Self::SelfExec => ("self-exec", None),
            Self::ParentFirst => ("parent-first", None),
            Self::Orphan => ("orphan", None),
            Self::Traced => ("traced", None),
            Self::Tracee => ("tracee", None),
            Self::ThreadChurn { threads } => ("thread-churn", Some(threads.to_string())),
            Self::Confined => ("confined", None),
            Self::Hog { megabytes } => ("hog", Some(megabytes.to_string())),
        };
        ["test-process", name]
            .into_iter()
            .map(str::to_owned)
            .chain(value)
            .collect()
    }
}

/// Makes this process the subreaper of orphaned test processes, so that none is left as a zombie. Not every
/// machine has an init that reaps.
pub fn adopt_orphans() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

/// A running test process. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct TestProcess {
    pid: Pid,
    /// Our child: the test process, or the parent of it.
    child: RawPid,
    /// Of the child, once it is reaped. From then on its pid may be another process's.
    status: Option<ExitStatus>,
    /// The pidfd of the test process.
    #[cfg(target_os = "linux")]
    handle: Option<rustix::fd::OwnedFd>,
    cues: io::PipeWriter,
    output: io::PipeReader,
}

impl TestProcess {
    /// Starts a test process from the `reaperd` binary and waits until it is ready.
    pub fn spawn(program: &Path, kind: Kind) -> io::Result<Self> {
        let (stdin, cues) = io::pipe()?;
        let (output, stdout) = io::pipe()?;
        let child = Command::new(program)
            .args(kind.arguments())
            .stdin(stdin)
            .stdout(stdout)
            // Ctrl-C at the terminal must not end test processes: they end on cue.
            .process_group(0)
            .spawn()?;
        Self::set_up(RawPid::from_child(&child), cues, output)
    }

    /// Starts a test process with a chosen pid; see [`spawn_at_pid`](crate::sys::set_tid::spawn_at_pid).
    #[cfg(target_os = "linux")]
    pub fn spawn_at_pid(program: &Path, kind: Kind, pid: Pid) -> io::Result<Self> {
        use std::ffi::CString;
        use std::os::fd::AsFd as _;
        use std::os::unix::ffi::OsStrExt as _;

        let (stdin, cues) = io::pipe()?;
        let (output, stdout) = io::pipe()?;
        let program = CString::new(program.as_os_str().as_bytes())?;
        let arguments: Vec<CString> = kind
            .arguments()
            .into_iter()
            .map(CString::new)
            .collect::<Result<_, _>>()?;
        let child = crate::sys::set_tid::spawn_at_pid(
            pid,
            &program,
            &arguments,
            stdin.as_fd(),
            stdout.as_fd(),
        )?;
        // If these stayed open and the test process died early, reading its output would never end.
        drop((stdin, stdout));
        Self::set_up(child, cues, output)
    }

    /// Starts a test process with a chosen pid. Waits if an unrelated process has the pid for a moment.
    #[cfg(target_os = "linux")]
    pub fn take_pid(program: &Path, kind: Kind, pid: Pid) -> io::Result<Self> {
        let deadline = Deadline::after(CHOSEN_PID_TIMEOUT);
        loop {
            match Self::spawn_at_pid(program, kind, pid) {
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && !deadline.has_passed() =>
                {
                    std::thread::yield_now();
                }
                result => return result,
            }
        }
    }

    fn set_up(child: RawPid, cues: io::PipeWriter, output: io::PipeReader) -> io::Result<Self> {
        let mut test_process = Self {
            pid: Pid::try_from(std::process::id()).map_err(io::Error::other)?,
            child,
            status: None,
            #[cfg(target_os = "linux")]
            handle: None,
            cues,
            output,
        };
        // Until its pid is known, `drop` uses `child` only.
        let line = test_process.read_line()?;
        let pid = line
            .strip_prefix("ready ")
            .and_then(|pid| pid.parse::<u32>().ok());
        test_process.pid = pid.and_then(|pid| Pid::new(pid).ok()).ok_or_else(|| {
            io::Error::other(format!(
                "the test process printed {line:?} instead of its pid"
            ))
        })?;
        #[cfg(target_os = "linux")]
        if let Some(pid) = RawPid::from_raw(test_process.pid.as_raw()) {
            // Before Linux 5.3 there is no pidfd, and signals use the pid.
            test_process.handle =
                rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok();
        }
        Ok(test_process)
    }

    /// Returns the pid of the test process, which may be a grandchild.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends the next cue.
    pub fn cue(&mut self) -> io::Result<()> {
        self.cues.write_all(b"\n")
    }

    /// Waits for the next line on standard output.
    pub fn read_line(&mut self) -> io::Result<String> {
        let deadline = Deadline::after(TIMEOUT);
        let mut line = Vec::new();
        loop {
            if deadline.has_passed() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let left = Timespec::try_from(deadline.left()).map_err(io::Error::other)?;
            let mut fds = [PollFd::new(&self.output, PollFlags::IN)];
            match poll(&mut fds, Some(&left)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            let mut byte = [0];
            match self.output.read(&mut byte)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ if byte == *b"\n" => return String::from_utf8(line).map_err(io::Error::other),
                _ => line.extend(byte),
            }
        }
    }

    /// Waits for the next line, which must be this one.
    pub fn expect(&mut self, expected: &str) -> io::Result<()> {
        let line = self.read_line()?;
        if line == expected {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "the test process printed {line:?} instead of {expected:?}"
        )))
    }

    /// Kills the test process.
    pub fn kill(&mut self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// Sends a signal to the test process.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if let Some(handle) = &self.handle {
            return Ok(rustix::process::pidfd_send_signal(handle, signal)?);
        }
        let pid = RawPid::from_raw(self.pid.as_raw()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits until our child has ended, reaps it and returns its status. For [`Kind::ParentFirst`] the child
    /// is the parent of the test process.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        let deadline = Deadline::after(TIMEOUT);
        while !deadline.has_passed() {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(CHECK_INTERVAL);
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Waits until our child has ended, without reaping it.
    pub fn wait_unreaped(&self) -> io::Result<()> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(self.child), options)?;
        Ok(())
    }

    /// Reaps our child if it has ended.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            let ended = waitpid(Some(self.child), WaitOptions::NOHANG)?;
            self.status = ended
                .map(|(_, status)| ExitStatus::from_wait_status(status.as_raw().cast_unsigned()));
        }
        Ok(self.status)
    }
}

impl Drop for TestProcess {
    fn drop(&mut self) {
        // An error here means that the process has already ended.
        #[cfg(target_os = "linux")]
        if let Some(handle) = &self.handle {
            rustix::process::pidfd_send_signal(handle, Signal::KILL).unwrap_or_default();
        }
        if self.status.is_none() {
            kill_process(self.child, Signal::KILL).unwrap_or_default();
            let reaped = waitpid(Some(self.child), WaitOptions::empty());
            reaped.map(drop).unwrap_or_default();
        }
        #[cfg(target_os = "linux")]
        if let Some(handle) = &self.handle {
            // Reaps an orphan that we adopted. Fails if it was reaped or is not our child, which is fine.
            let orphan = WaitId::PidFd(std::os::fd::AsFd::as_fd(handle));
            let reaped = waitid(orphan, WaitIdOptions::EXITED);
            reaped.map(drop).unwrap_or_default();
        }
    }
}
