//! The kinds of forked processes, and their names in commands.

use std::fmt;
use std::str::FromStr;

/// What a forked process does. "On cue" means at [`super::CUE`]. A process without a cue runs until it is
/// killed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Does nothing, with so many MiB of memory in use.
    Idle { megabytes: usize },
    /// Does nothing, with so many threads beside the main thread, which alone exits on cue.
    Threads { number: usize },
    /// Exits with this code on cue.
    Exit { code: u8 },
    /// Aborts on cue.
    Abort,
    /// On cue it is killed by SIGSEGV.
    Fault,
    /// On cue the main thread exits, and at [`super::LAST_CUE`] the last one exits with code 7.
    LeaderFirst,
    /// Two processes: on cue the parent exits with 0; the child does nothing.
    ParentFirst,
    /// On cue a worker thread executes `sleep`.
    WorkerExec,
    /// On cue a worker thread executes a shell, which exits with this code.
    WorkerExecExit { code: u8 },
    /// Starts and ends threads without pause.
    Churn,
    /// The same after the main thread has exited.
    LeaderlessChurn,
    /// Two processes: a tracer that never waits, and its child. All threads of the child but the main
    /// thread are traced. On cue the main thread exits; the others do nothing.
    Traced { threads: usize },
    /// A tracer that never waits, and the init process of a new pid namespace, with so many threads
    /// beside the main thread. The traced process is a child of that init. Needs `CAP_SYS_ADMIN`.
    TracedInNamespace { threads: usize },
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle { megabytes } => write!(f, "idle {megabytes}"),
            Self::Threads { number } => write!(f, "threads {number}"),
            Self::Exit { code } => write!(f, "exit {code}"),
            Self::Abort => f.write_str("abort 0"),
            Self::Fault => f.write_str("fault 0"),
            Self::LeaderFirst => f.write_str("leader-first 0"),
            Self::ParentFirst => f.write_str("parent-first 0"),
            Self::WorkerExec => f.write_str("worker-exec 0"),
            Self::WorkerExecExit { code } => write!(f, "worker-exec-exit {code}"),
            Self::Churn => f.write_str("churn 0"),
            Self::LeaderlessChurn => f.write_str("leaderless-churn 0"),
            Self::Traced { threads } => write!(f, "traced {threads}"),
            Self::TracedInNamespace { threads } => write!(f, "traced-in-namespace {threads}"),
        }
    }
}

/// Not a kind of forked process.
#[derive(Debug)]
pub struct Unknown;

impl FromStr for Kind {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let (name, number) = text.split_once(' ').ok_or(Unknown)?;
        let number: usize = number.parse().map_err(|_not_a_number| Unknown)?;
        Ok(match name {
            "idle" => Self::Idle { megabytes: number },
            "threads" => Self::Threads { number },
            "exit" => Self::Exit {
                code: u8::try_from(number).map_err(|_too_large| Unknown)?,
            },
            "abort" => Self::Abort,
            "fault" => Self::Fault,
            "leader-first" => Self::LeaderFirst,
            "parent-first" => Self::ParentFirst,
            "worker-exec" => Self::WorkerExec,
            "worker-exec-exit" => Self::WorkerExecExit {
                code: u8::try_from(number).map_err(|_too_large| Unknown)?,
            },
            "churn" => Self::Churn,
            "leaderless-churn" => Self::LeaderlessChurn,
            "traced" => Self::Traced { threads: number },
            "traced-in-namespace" => Self::TracedInNamespace { threads: number },
            _ => return Err(Unknown),
        })
    }
}
