//! The kernel namespaces of this process. Exit events carry pids of the initial pid namespace.

use std::fs;
use std::os::linux::fs::MetadataExt as _;

#[cfg(feature = "ebpf")]
use super::SourceError;

/// Inode numbers of the initial namespaces: fixed in the kernel's [`include/linux/proc_ns.h`]
/// (`PROC_PID_INIT_INO`, `PROC_USER_INIT_INO`).
///
/// [`include/linux/proc_ns.h`]: https://elixir.bootlin.com/linux/v6.12/source/include/linux/proc_ns.h
const INITIAL_PID: u64 = 0xEFFF_FFFC;
const INITIAL_USER: u64 = 0xEFFF_FFFD;

/// Returns whether our pids are those of the kernel's events. True if `/proc` does not show it.
pub(crate) fn in_initial_pid() -> bool {
    is("pid", INITIAL_PID)
}

/// Returns whether our capabilities apply to the whole system.
pub(crate) fn in_initial_user() -> bool {
    is("user", INITIAL_USER)
}

fn is(name: &str, inode: u64) -> bool {
    fs::metadata(format!("/proc/self/ns/{name}")).map_or(true, |file| file.st_ino() == inode)
}

/// Refuses a source if the pids in its events are other processes' here.
#[cfg(feature = "ebpf")]
pub(crate) fn must_see_initial_pids() -> Result<(), SourceError> {
    if in_initial_pid() {
        return Ok(());
    }
    Err(SourceError::new(
        "this daemon is in a pid namespace of its own, and the kernel's events carry the host's pids",
        "run it on the host (--pid=host); here pidfds cover every session",
    ))
}
