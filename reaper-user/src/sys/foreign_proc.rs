//! The error that `/proc` is mounted for another pid namespace than the daemon's, and how it is
//! recognised. The check itself is in `sys/own_proc.rs`.
//!
//! The entries of such a `/proc` are under the pids of another namespace, so an entry under a pid
//! that the daemon watches is another process's. Nothing is read there. Pidfds work as usual, and a
//! process that is known by pid alone is checked by signal 0.

use std::io;

use reaper_registry::Pid;

use super::process_table::ProcessTable;

/// `/proc` is mounted for another pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("/proc is that of another pid namespace, where pids mean other processes")]
pub(crate) struct ForeignProc;

impl ForeignProc {
    /// How to fix it.
    pub(crate) const REMEDY: &str = "mount a /proc in the daemon's own pid namespace \
        (unshare --pid --fork --mount-proc, or mount -t proc proc /proc)";

    /// Returns whether this table fails with this error.
    pub(crate) fn is_shown_by(table: &dyn ProcessTable) -> bool {
        let ourselves = Pid::new(std::process::id());
        ourselves.is_ok_and(|pid| table.stat(pid).is_err_and(|error| Self::is_behind(&error)))
    }

    /// Returns whether this I/O error wraps it.
    pub(crate) fn is_behind(error: &io::Error) -> bool {
        matches!(error.get_ref(), Some(inner) if inner.is::<Self>())
    }
}

impl From<ForeignProc> for io::Error {
    fn from(foreign: ForeignProc) -> Self {
        Self::new(io::ErrorKind::Unsupported, foreign)
    }
}
