//! Closes the memory and the descriptors of the daemon to other processes of its user.
//!
//! [`protect`] is the first act of the program. It comes too late for a process that opened
//! `/proc/PID/mem` between the exec and this call, or that traces this one from its start. The first
//! keeps access to the memory of this process, but not to that of a child (see `monitor`); the
//! second is refused.

use std::io;

/// Another process traces this one.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("process {tracer} traces this process and could read every secret")]
pub(crate) struct Traced {
    tracer: u32,
}

#[cfg(target_os = "linux")]
impl Traced {
    /// How to start nevertheless.
    pub(crate) const REMEDY: &str =
        "start the daemon without a debugger or strace; root can attach one later";
}

/// Disables core dumps, and access to memory and descriptors by other processes of the same user.
/// May be called again. Returns the first error, after it has tried both.
pub(crate) fn protect() -> io::Result<()> {
    let cores = disable_core_dumps();
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    }
    cores
}

/// As [`protect`]; a failure is only logged.
pub(crate) fn protect_and_log() {
    if let Err(error) = protect() {
        log::warn!(
            "other processes of this user may read the memory of this one, or a core dump of it: \
             {error}"
        );
    }
}

fn disable_core_dumps() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let zero = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    Ok(setrlimit(Resource::Core, zero)?)
}

/// Fails if another process traces this one. Call it after [`protect`]: no process of this user can
/// begin to trace it after that.
#[cfg(target_os = "linux")]
pub(crate) fn refuse_tracer() -> Result<(), Traced> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    match tracer_in(&status) {
        Some(0) => Ok(()),
        Some(tracer) => Err(Traced { tracer }),
        None => {
            log::warn!("without /proc it is unknown whether another process traces this one");
            Ok(())
        }
    }
}

/// Parses the tracer's pid in `/proc/PID/status`; 0: there is none.
#[cfg(any(target_os = "linux", test))]
fn tracer_in(status: &str) -> Option<u32> {
    let mut lines = status.lines();
    let pid = lines.find_map(|line| line.strip_prefix("TracerPid:"))?;
    pid.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tracer_is_read_where_the_kernel_shows_it() {
        assert_eq!(tracer_in("Name:\tx\nTracerPid:\t0\n"), Some(0));
        assert_eq!(tracer_in("PPid:\t1\nTracerPid:\t4711\n"), Some(4711));
        assert_eq!(tracer_in(""), None);
    }
}
