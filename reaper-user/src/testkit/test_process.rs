//! Test processes: real processes that end in chosen ways, on cue. For the demo and the tests.
//!
//! A test process says on its standard output when it is set up and takes its cues from its standard
//! input, so that nobody has to guess how long anything takes. The end of that input is a cue too:
//! when whoever started the test processes is gone, they go.

use std::io::{self, Read as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use reaper_registry::{ExitStatus, Pid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use crate::clock::Deadline;

/// How long a test process may take to say what is expected of it: an emulated machine under load takes
/// seconds over what takes milliseconds elsewhere.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a unrelated process may have a number that a test process is to get.
#[cfg(target_os = "linux")]
const UNRELATED_EXIT_WITHIN: Duration = Duration::from_secs(1);
/// Between two looks at a child that may have ended.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What a test process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::Subcommand))]
pub enum Kind {
    /// Exits with this code on cue.
    Exit { code: u8 },
    /// Does nothing, and exits with 0 on cue.
    Sleep,
    /// On cue its main thread ends and the others go on (it says `leader left`); on the second cue
    /// one of them ends the process with code 7.
    LeaderFirst,
    /// On cue a thread that is not the main one executes `sleep`.
    WorkerExec,
    /// On cue it executes `sleep`.
    SelfExec,
    /// The test process is a grandchild: on cue its parent is killed (it says `orphaned`); on the second
    /// cue it exits with 0.
    ParentFirst,
    /// That grandchild.
    #[cfg_attr(feature = "cli", command(hide = true))]
    Orphan,
    /// The test process is a grandchild: on cue its parent, which traces it, stops it (and says `traced`)
    /// and then never looks at it again.
    Traced,
    /// That grandchild.
    #[cfg_attr(feature = "cli", command(hide = true))]
    Tracee,
    /// Starts and ends this many threads over and over (after 2,000 of them it says `churned`);
    /// exits with 0 on cue.
    ThreadChurn { threads: u16 },
    /// Touches this many MiB of memory; exits with 0 on cue.
    Hog { megabytes: u32 },
}

impl Kind {
    /// The arguments that make the binary this test process.
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
            Self::Hog { megabytes } => ("hog", Some(megabytes.to_string())),
        };
        ["test-process", name]
            .into_iter()
            .map(str::to_owned)
            .chain(value)
            .collect()
    }
}

/// Makes this process the one that orphaned test processes go to, so that it can reap them: not every
/// machine has a first process that does, and nothing shall be left.
pub fn adopt_orphans() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

/// A running test process. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct TestProcess {
    pid: Pid,
    process: Process,
    /// The test process itself, where it is not the child of ours that `process` is.
    #[cfg(target_os = "linux")]
    handle: Option<rustix::fd::OwnedFd>,
    cues: io::PipeWriter,
    says: io::PipeReader,
}

/// What we have to reap.
#[derive(Debug)]
enum Process {
    Child(Child),
    /// Started under a chosen pid. Held by pidfd, and gone once reaped.
    #[cfg(target_os = "linux")]
    Chosen(rustix::fd::OwnedFd),
}

impl TestProcess {
    /// Starts one from the `reaperd` binary and waits until it is set up.
    pub fn spawn(program: &Path, kind: Kind) -> io::Result<Self> {
        let (stdin, cues) = io::pipe()?;
        let (says, stdout) = io::pipe()?;
        let child = Command::new(program)
            .args(kind.arguments())
            .stdin(stdin)
            .stdout(stdout)
            // Ctrl-C at the terminal is for whoever started us; test processes end on cue.
            .process_group(0)
            .spawn()?;
        Self::set_up(Process::Child(child), cues, says)
    }

    /// The same under a chosen pid; see [`spawn_at_pid`](crate::sys::set_tid::spawn_at_pid).
    #[cfg(target_os = "linux")]
    pub fn spawn_at_pid(program: &Path, kind: Kind, pid: Pid) -> io::Result<Self> {
        use std::ffi::CString;
        use std::os::fd::AsFd as _;
        use std::os::unix::ffi::OsStrExt as _;

        let (stdin, cues) = io::pipe()?;
        let (says, stdout) = io::pipe()?;
        let program = CString::new(program.as_os_str().as_bytes())?;
        let arguments: Vec<CString> = kind
            .arguments()
            .into_iter()
            .map(CString::new)
            .collect::<Result<_, _>>()?;
        let pidfd = crate::sys::set_tid::spawn_at_pid(
            pid,
            &program,
            &arguments,
            stdin.as_fd(),
            stdout.as_fd(),
        )?;
        // Or a test process that dies early would leave us waiting for our own end of its pipe.
        drop((stdin, stdout));
        Self::set_up(Process::Chosen(pidfd), cues, says)
    }

    /// The same, and a unrelated process that has the number for a moment is waited for.
    #[cfg(target_os = "linux")]
    pub fn take_pid(program: &Path, kind: Kind, pid: Pid) -> io::Result<Self> {
        let deadline = Deadline::after(UNRELATED_EXIT_WITHIN);
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

    fn set_up(process: Process, cues: io::PipeWriter, says: io::PipeReader) -> io::Result<Self> {
        let mut test_process = Self {
            pid: Pid::try_from(std::process::id()).map_err(io::Error::other)?,
            process,
            #[cfg(target_os = "linux")]
            handle: None,
            cues,
            says,
        };
        // Until it has told its pid, `drop` knows it by `process` alone.
        let line = test_process.hear()?;
        let pid = line
            .strip_prefix("ready ")
            .and_then(|pid| pid.parse::<u32>().ok());
        test_process.pid = pid.and_then(|pid| Pid::new(pid).ok()).ok_or_else(|| {
            io::Error::other(format!("the test process said {line:?}, not its pid"))
        })?;
        #[cfg(target_os = "linux")]
        if let Some(pid) = rustix::process::Pid::from_raw(test_process.pid.as_raw()) {
            // Before Linux 5.3 there is none, and signals go by the number.
            test_process.handle =
                rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok();
        }
        Ok(test_process)
    }

    /// The pid of the process that is to be watched; not always a child of ours.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Tells it to go on.
    pub fn cue(&mut self) -> io::Result<()> {
        self.cues.write_all(b"\n")
    }

    /// Waits for the next line that it says.
    pub fn hear(&mut self) -> io::Result<String> {
        let deadline = Deadline::after(TIMEOUT);
        let mut line = Vec::new();
        loop {
            if deadline.has_passed() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let left = Timespec::try_from(deadline.left()).map_err(io::Error::other)?;
            let mut fds = [PollFd::new(&self.says, PollFlags::IN)];
            match poll(&mut fds, Some(&left)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            let mut byte = [0];
            match self.says.read(&mut byte)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ if byte == *b"\n" => return String::from_utf8(line).map_err(io::Error::other),
                _ => line.extend(byte),
            }
        }
    }

    /// Waits until it says exactly this.
    pub fn expect(&mut self, expected: &str) -> io::Result<()> {
        let line = self.hear()?;
        if line == expected {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "the test process said {line:?} instead of {expected:?}"
        )))
    }

    /// Kills it.
    pub fn kill(&mut self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if let Some(handle) = &self.handle {
            return Ok(rustix::process::pidfd_send_signal(handle, signal)?);
        }
        let pid = rustix::process::Pid::from_raw(self.pid.as_raw())
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// Waits until our child has ended, reaps it and says how it ended. For
    /// [`Kind::ParentFirst`] that is the parent.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        let deadline = Deadline::after(TIMEOUT);
        while !deadline.has_passed() {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Waits until our child has ended and leaves it a zombie.
    pub fn wait_unreaped(&self) -> io::Result<()> {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let id = match &self.process {
            Process::Child(child) => WaitId::Pid(rustix::process::Pid::from_child(child)),
            #[cfg(target_os = "linux")]
            Process::Chosen(pidfd) => WaitId::PidFd(std::os::fd::AsFd::as_fd(pidfd)),
        };
        waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
        Ok(())
    }

    /// Reaps our child if it has ended.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        match &mut self.process {
            Process::Child(child) => Ok(child
                .try_wait()?
                .map(|status| ExitStatus::from_wait_status(status.into_raw().cast_unsigned()))),
            #[cfg(target_os = "linux")]
            Process::Chosen(pidfd) => {
                use rustix::process::{WaitId, WaitIdOptions, waitid};
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
                let status = waitid(WaitId::PidFd(std::os::fd::AsFd::as_fd(pidfd)), options)?;
                Ok(status.map(|status| {
                    let byte =
                        |value: Option<i32>| value.and_then(|value| u8::try_from(value).ok());
                    match byte(status.terminating_signal()) {
                        Some(signal) => ExitStatus::Signal {
                            signal,
                            core: status.dumped(),
                        },
                        None => ExitStatus::Code(byte(status.exit_status()).unwrap_or_default()),
                    }
                }))
            }
        }
    }
}

impl Drop for TestProcess {
    fn drop(&mut self) {
        // Whatever fails here has ended before.
        #[cfg(target_os = "linux")]
        if let Some(handle) = &self.handle {
            rustix::process::pidfd_send_signal(handle, Signal::KILL).unwrap_or_default();
        }
        match &mut self.process {
            Process::Child(child) => {
                child.kill().unwrap_or_default();
                child.wait().map(drop).unwrap_or_default();
            }
            #[cfg(target_os = "linux")]
            Process::Chosen(pidfd) => {
                rustix::process::pidfd_send_signal(&*pidfd, Signal::KILL).unwrap_or_default();
                reap(pidfd);
            }
        }
        #[cfg(target_os = "linux")]
        if let Some(handle) = &self.handle {
            // An orphan that has come to us. Who has been reaped or is not ours is no trouble.
            reap(handle);
        }
    }
}

#[cfg(target_os = "linux")]
fn reap(pidfd: &rustix::fd::OwnedFd) {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let this = WaitId::PidFd(std::os::fd::AsFd::as_fd(pidfd));
    waitid(this, WaitIdOptions::EXITED)
        .map(drop)
        .unwrap_or_default();
}
