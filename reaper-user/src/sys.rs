//! Every call of the operating system below the standard library, and the only place in this crate
//! where `unsafe` is allowed. One system call per function, owned descriptors in the interface, and
//! no decisions.

#[cfg(any(feature = "cli", all(target_os = "linux", feature = "ebpf")))]
pub(crate) mod allocator;
#[cfg(feature = "cli")]
pub(crate) mod as_started;
#[cfg(target_os = "linux")]
pub(crate) mod cbpf;
#[cfg(target_os = "linux")]
pub mod cn_proc;
pub(crate) mod foreign_proc;
#[cfg(all(target_os = "linux", feature = "cli"))]
pub(crate) mod fork;
#[cfg(feature = "cli")]
pub(crate) mod inherited;
pub(crate) mod limits;
#[cfg(target_os = "linux")]
mod linux_table;
#[cfg(target_os = "linux")]
pub(crate) mod memory;
#[cfg(target_os = "linux")]
pub(crate) mod netlink;
#[cfg(not(target_os = "linux"))]
mod other_table;
#[cfg(target_os = "linux")]
pub(crate) mod own_proc;
#[cfg(all(target_os = "linux", feature = "cli"))]
pub(crate) mod peer_socket;
#[cfg(all(target_os = "linux", feature = "cli"))]
pub(crate) mod pid_namespace;
#[cfg(target_os = "linux")]
pub(crate) mod pidfd_info;
#[cfg(all(target_os = "linux", feature = "cli"))]
pub(crate) mod pidfd_memory;
#[cfg(all(target_os = "linux", feature = "cli"))]
pub(crate) mod proc_file;
#[cfg(any(target_os = "linux", test))]
pub(crate) mod proc_stat;
pub(crate) mod process_table;
#[cfg(target_os = "linux")]
mod readiness;
#[cfg(feature = "cli")]
pub(crate) mod secret_arena;
#[cfg(all(target_os = "linux", feature = "testkit"))]
pub(crate) mod set_tid;
#[cfg(all(target_os = "linux", feature = "cli"))]
pub(crate) mod shared_file;
#[cfg(feature = "cli")]
pub(crate) mod signal_action;
#[cfg(all(target_os = "linux", feature = "cli"))]
pub(crate) mod signals;
#[cfg(all(target_os = "linux", feature = "cli"))]
pub(crate) mod test_process;
#[cfg(feature = "cli")]
pub(crate) mod zeroing_allocator;

#[cfg(target_os = "linux")]
pub(crate) use linux_table::LinuxTable as SystemTable;
#[cfg(all(target_os = "linux", feature = "cli"))]
pub(crate) use linux_table::status_of;
#[cfg(not(target_os = "linux"))]
pub(crate) use other_table::OtherTable as SystemTable;
#[cfg(target_os = "linux")]
pub(crate) use readiness::readiness_of;

/// Converts the result of a system call that returns 0, or -1 and an error number.
fn check(result: impl Into<i64>) -> std::io::Result<()> {
    match result.into() {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Returns the permission bits of a file. The type of the number depends on the system.
#[cfg(feature = "cli")]
pub(crate) fn mode_of(stat: &rustix::fs::Stat) -> u32 {
    fn number(mode: impl Into<u32>) -> u32 {
        mode.into()
    }
    number(stat.st_mode) & 0o7777
}

/// A peer that has gone is an error and no signal.
#[cfg(all(feature = "cli", not(target_vendor = "apple")))]
pub(crate) const NO_SIGNAL: rustix::net::SendFlags = rustix::net::SendFlags::NOSIGNAL;
/// The Rust runtime ignores that signal.
#[cfg(all(feature = "cli", target_vendor = "apple"))]
pub(crate) const NO_SIGNAL: rustix::net::SendFlags = rustix::net::SendFlags::empty();
