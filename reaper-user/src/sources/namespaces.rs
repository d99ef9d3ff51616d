//! Which of the kernel's namespaces we are in: exit events carry the numbers of the initial ones.

use std::fs;
use std::os::linux::fs::MetadataExt as _;

use super::SourceError;

/// Inode numbers of the initial namespaces: fixed in the kernel's `include/linux/proc_ns.h`
/// (`PROC_PID_INIT_INO`, `PROC_USER_INIT_INO`).
const INITIAL_PID: u64 = 0xEFFF_FFFC;
const INITIAL_USER: u64 = 0xEFFF_FFFD;

/// Whether our pids are the kernel's own. Where `/proc` does not tell, they are taken to be.
pub(crate) fn in_initial_pid() -> bool {
    is("pid", INITIAL_PID)
}

/// Whether our capabilities count on the whole system.
pub(crate) fn in_initial_user() -> bool {
    is("user", INITIAL_USER)
}

fn is(name: &str, inode: u64) -> bool {
    fs::metadata(format!("/proc/self/ns/{name}")).map_or(true, |file| file.st_ino() == inode)
}

/// Refuses a source whose events carry numbers that mean other processes here.
pub(crate) fn must_see_initial_pids() -> Result<(), SourceError> {
    if in_initial_pid() {
        return Ok(());
    }
    Err(SourceError::new(
        "this daemon is in a pid namespace of its own, and the kernel's events carry the host's numbers",
        "run it on the host (--pid=host); here pidfds cover every session",
    ))
}
