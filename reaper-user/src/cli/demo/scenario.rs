//! The demo's scenario: its test processes and how each of them ends.

use std::io;
use std::path::Path;

use reaper_registry::{ExitStatus, Pid};

use crate::testkit::test_process::{Kind, TestProcess};

/// How a test process is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It exits on its cue.
    Exit,
    /// It is killed.
    Kill,
    /// It is killed, and another process gets its pid at once.
    KillAndReusePid,
}

/// One step: a test process that is registered as a session and then ended.
#[derive(Debug)]
pub(super) struct Step {
    /// The name and id of the session.
    pub(super) session: &'static str,
    /// How the process ended, as printed.
    pub(super) title: &'static str,
    pub(super) kind: Kind,
    pub(super) ending: Ending,
    /// The exit status that a source which reports one must report.
    pub(super) status: ExitStatus,
}

const KILLED: ExitStatus = ExitStatus::Signal {
    signal: 9,
    core: false,
};

pub(super) const STEPS: [Step; 6] = [
    Step {
        session: "quiet-otter",
        title: "exit 0",
        kind: Kind::Exit { code: 0 },
        ending: Ending::Exit,
        status: ExitStatus::Code(0),
    },
    Step {
        session: "brave-finch",
        title: "exit 7",
        kind: Kind::Exit { code: 7 },
        ending: Ending::Exit,
        status: ExitStatus::Code(7),
    },
    Step {
        session: "calm-heron",
        title: "killed by SIGKILL",
        kind: Kind::Sleep,
        ending: Ending::Kill,
        status: KILLED,
    },
    #[cfg(target_os = "linux")]
    Step {
        session: "sly-badger",
        title: "main thread exits first",
        kind: Kind::LeaderFirst,
        ending: Ending::Exit,
        status: ExitStatus::Code(7),
    },
    // Keeps the number of steps the same on every system.
    #[cfg(not(target_os = "linux"))]
    Step {
        session: "sly-badger",
        title: "exit 9",
        kind: Kind::Exit { code: 9 },
        ending: Ending::Exit,
        status: ExitStatus::Code(9),
    },
    Step {
        session: "proud-lynx",
        title: "parent exits first",
        kind: Kind::ParentFirst,
        ending: Ending::Exit,
        status: ExitStatus::Code(0),
    },
    Step {
        session: "swift-mole",
        title: "killed, pid reused",
        kind: Kind::Sleep,
        ending: Ending::KillAndReusePid,
        status: KILLED,
    },
];

/// The controls: sessions whose processes run until the demo ends.
pub(super) const CONTROLS: [(&str, Kind); 5] = [
    ("still-owl", Kind::Sleep),
    ("still-carp", Kind::Sleep),
    ("busy-ant", Kind::ThreadChurn { threads: 4 }),
    ("new-newt", Kind::SelfExec),
    #[cfg(target_os = "linux")]
    ("odd-moth", Kind::WorkerExec),
    #[cfg(not(target_os = "linux"))]
    ("odd-moth", Kind::SelfExec),
];

impl Step {
    /// Whether the process first loses its main thread or its parent.
    pub(super) fn has_first_stage(&self) -> bool {
        matches!(self.kind, Kind::LeaderFirst | Kind::ParentFirst)
    }

    /// Runs that first stage, if there is one. The process survives it.
    pub(super) fn run_first_stage(&self, test_process: &mut TestProcess) -> io::Result<()> {
        let done = match self.kind {
            Kind::LeaderFirst => "leader left",
            Kind::ParentFirst => "orphaned",
            _ => return Ok(()),
        };
        test_process.cue()?;
        test_process.expect(done)
    }

    /// Ends the process. Does not wait for it.
    pub(super) fn end(&self, test_process: &mut TestProcess) -> io::Result<()> {
        match self.ending {
            Ending::Exit => test_process.cue(),
            Ending::Kill | Ending::KillAndReusePid => test_process.kill(),
        }
    }
}

/// Lets a control execute another program, if it is of that kind.
pub(super) fn replace_program(kind: Kind, test_process: &mut TestProcess) -> io::Result<()> {
    if !matches!(kind, Kind::SelfExec | Kind::WorkerExec) {
        return Ok(());
    }
    test_process.cue()?;
    test_process.expect(&format!("ready {}", test_process.pid()))
}

/// Starts a test process with the pid of a reaped one. The error is the reason why it cannot.
#[cfg(target_os = "linux")]
pub(super) fn take_pid(program: &Path, kind: Kind, pid: Pid) -> Result<TestProcess, String> {
    use rustix::io::Errno;

    TestProcess::spawn_at_pid(program, kind, pid).map_err(|error| {
        match Errno::from_io_error(&error) {
            Some(Errno::PERM) => {
                "choosing a pid requires root or CAP_CHECKPOINT_RESTORE".to_owned()
            }
            Some(Errno::EXIST) => "another process took the pid first".to_owned(),
            Some(Errno::NOSYS | Errno::INVAL) => "choosing a pid requires Linux 5.5".to_owned(),
            _ => error.to_string(),
        }
    })
}

#[cfg(not(target_os = "linux"))]
pub(super) fn take_pid(_program: &Path, _kind: Kind, _pid: Pid) -> Result<TestProcess, String> {
    Err("choosing a pid is possible only on Linux".to_owned())
}
