//! Who appears in the demo, and how each ends.

use std::io;
use std::path::Path;

use reaper_registry::{ExitStatus, Pid};

use crate::testkit::test_process::{Kind, TestProcess};

/// How a test process is brought to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It is told to exit.
    Cue,
    /// It is killed.
    Kill,
    /// It is killed, and another process gets its number at once.
    Recycle,
}

/// One test process's part.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) name: &'static str,
    /// How it ended, in words.
    pub(super) title: &'static str,
    pub(super) kind: Kind,
    pub(super) ending: Ending,
    /// What a source that sees the status has to see.
    pub(super) status: ExitStatus,
}

const KILLED: ExitStatus = ExitStatus::Signal {
    signal: 9,
    core: false,
};

pub(super) const STEPS: [Step; 6] = [
    Step {
        name: "quiet-otter",
        title: "exit 0",
        kind: Kind::Exit { code: 0 },
        ending: Ending::Cue,
        status: ExitStatus::Code(0),
    },
    Step {
        name: "brave-finch",
        title: "exit 7",
        kind: Kind::Exit { code: 7 },
        ending: Ending::Cue,
        status: ExitStatus::Code(7),
    },
    Step {
        name: "calm-heron",
        title: "killed by SIGKILL",
        kind: Kind::Sleep,
        ending: Ending::Kill,
        status: KILLED,
    },
    #[cfg(target_os = "linux")]
    Step {
        name: "sly-badger",
        title: "leader thread first",
        kind: Kind::LeaderFirst,
        ending: Ending::Cue,
        status: ExitStatus::Code(7),
    },
    // So that the count is the same everywhere.
    #[cfg(not(target_os = "linux"))]
    Step {
        name: "sly-badger",
        title: "exit 9",
        kind: Kind::Exit { code: 9 },
        ending: Ending::Cue,
        status: ExitStatus::Code(9),
    },
    Step {
        name: "proud-lynx",
        title: "parent gone first",
        kind: Kind::ParentFirst,
        ending: Ending::Cue,
        status: ExitStatus::Code(0),
    },
    Step {
        name: "swift-mole",
        title: "pid reused",
        kind: Kind::Sleep,
        ending: Ending::Recycle,
        status: KILLED,
    },
];

/// Those who live to the end, whatever they look like in between.
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
    /// Whether something happens to it before its end.
    pub(super) fn has_prelude(&self) -> bool {
        matches!(self.kind, Kind::LeaderFirst | Kind::ParentFirst)
    }

    /// Lets that happen.
    pub(super) fn prelude(&self, test_process: &mut TestProcess) -> io::Result<()> {
        let done = match self.kind {
            Kind::LeaderFirst => "leader left",
            Kind::ParentFirst => "orphaned",
            _ => return Ok(()),
        };
        test_process.cue()?;
        test_process.expect(done)
    }

    /// Brings it to its end, without waiting for that.
    pub(super) fn end(&self, test_process: &mut TestProcess) -> io::Result<()> {
        match self.ending {
            Ending::Cue => test_process.cue(),
            Ending::Kill | Ending::Recycle => test_process.kill(),
        }
    }
}

/// Has a control become another program, if it is of that kind.
pub(super) fn replace_program(kind: Kind, test_process: &mut TestProcess) -> io::Result<()> {
    if !matches!(kind, Kind::SelfExec | Kind::WorkerExec) {
        return Ok(());
    }
    test_process.cue()?;
    test_process.expect(&format!("ready {}", test_process.pid()))
}

/// Starts a test process under the number of one that is gone, or says why that cannot be.
#[cfg(target_os = "linux")]
pub(super) fn take_pid(program: &Path, kind: Kind, pid: Pid) -> Result<TestProcess, String> {
    use rustix::io::Errno;

    TestProcess::spawn_at_pid(program, kind, pid).map_err(|error| {
        match Errno::from_io_error(&error) {
            Some(Errno::PERM) => "to choose a pid takes root or CAP_CHECKPOINT_RESTORE".to_owned(),
            Some(Errno::EXIST) => "another process was quicker to get the number".to_owned(),
            Some(Errno::NOSYS | Errno::INVAL) => "to choose a pid takes Linux 5.5".to_owned(),
            _ => error.to_string(),
        }
    })
}

#[cfg(not(target_os = "linux"))]
pub(super) fn take_pid(_program: &Path, _kind: Kind, _pid: Pid) -> Result<TestProcess, String> {
    Err("a pid can be chosen on Linux alone".to_owned())
}
