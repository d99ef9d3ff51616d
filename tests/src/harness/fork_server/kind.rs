//! The kinds of forked processes.

use serde::{Deserialize, Serialize};

/// What a forked process does. "On cue" means at [`super::CUE`]. A process without a cue runs until it is
/// killed.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
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
