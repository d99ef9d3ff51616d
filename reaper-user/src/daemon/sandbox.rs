//! What the worker gives up before its second thread starts: its user, capabilities, files, and system
//! calls. What the kernel lacks is left out, with a line in the log.
//!
//! The order matters: the bounding set needs a capability, the user needs two, and everything else works
//! without any. The system calls are last, because all others need some that are forbidden later.

mod calls;
mod files;
mod user;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::process::Pid;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs,
};

use super::api::listener::SocketAccess;
use super::{monitor, private_memory};
pub(crate) use calls::Role;
pub(crate) use calls::restrict as restrict_calls;
pub(crate) use calls::restrict_once_listening;
pub(crate) use files::restrict as restrict_files;
pub(crate) use user::User;

/// The first kernel on which a map can be used by any process that has its descriptor. Before, every call of
/// `bpf(2)` needs `CAP_BPF` unless unprivileged BPF is enabled.
const MAPS_BY_DESCRIPTOR: procfs::KernelVersion = procfs::KernelVersion {
    major: 5,
    minor: 19,
    patch: 0,
};

/// What the worker of this process may still do. Read from the kernel where it shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) user: u32,
    /// The names of the effective capabilities.
    pub(crate) capabilities: Vec<&'static str>,
    /// How many capabilities this process or a later program of it could get.
    pub(crate) bounding_set: usize,
    pub(crate) no_new_privs: bool,
    /// Whether system calls are filtered.
    pub(crate) seccomp: bool,
    /// How far files are restricted: `full`, `partial` or `off`.
    pub(crate) landlock: &'static str,
}

static LANDLOCK: OnceLock<&'static str> = OnceLock::new();
/// Whether the worker's filter was installed. The kernel's state may be due to a filter from outside.
static SECCOMP: OnceLock<bool> = OnceLock::new();

/// The folders that are open to the worker. One that does not exist is not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files<'a> {
    /// It may create and change files below this one, where it binds the socket itself.
    pub(crate) socket_folder: Option<&'a Path>,
    /// It may read and remove files below these. Those that are missing are created, where their parent
    /// belongs to the worker's user.
    pub(crate) token_folders: &'a [PathBuf],
}

/// Confines this process, the worker of `monitor`. Fails only if it cannot become the user. As another
/// user it stays a member of `group`.
pub(crate) fn confine(
    user: Option<User>,
    group: Option<u32>,
    monitor: Pid,
    files: &Files<'_>,
) -> Result<(), io::Error> {
    if user.is_none() && rustix::process::geteuid().is_root() {
        log::info!(
            "the worker runs as root, without its capabilities; --user NAME makes it run as a user that \
             owns nothing else"
        );
    }
    let keep = needed_for_maps();
    empty_bounding_set();
    if let Some(user) = user {
        set_keep_capabilities(true)?;
        user.become_it(group)?;
        // Both are undone by the change of the user.
        private_memory::protect_and_log();
        monitor::end_with(monitor)?;
    }
    let dropped = clear_ambient_capability_set().and_then(|()| {
        let current = capabilities(None)?;
        set_capabilities(
            None,
            CapabilitySets {
                // The change of the user has cleared the effective ones.
                effective: current.permitted & keep,
                permitted: current.permitted & keep,
                inheritable: CapabilitySet::empty(),
            },
        )?;
        set_no_new_privs(true)
    });
    if let Err(error) = dropped {
        log::warn!("the worker keeps capabilities: {error}");
    }
    LANDLOCK.get_or_init(|| {
        files::create_missing(files.token_folders);
        files::restrict(files)
    });
    SECCOMP.get_or_init(|| restrict_calls(Role::Worker));
    Ok(())
}

/// Gives up what a worker needs until it listens. Does nothing in a process that is not confined.
pub(crate) fn listening(access: SocketAccess) {
    if restricts_calls() {
        restrict_once_listening(access);
    }
}

/// Returns whether this process can make few system calls only.
pub(crate) fn restricts_calls() -> bool {
    SECCOMP.get() == Some(&true)
}

/// Removes every capability from the set of those that this process or a later program of it could get.
pub(crate) fn empty_bounding_set() {
    for (name, capability) in CapabilitySet::all().iter_names() {
        match remove_capability_from_bounding_set(capability) {
            // Unknown to this kernel.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            // Without privileges it is of no use to those who can no longer get any.
            Err(error) => {
                log::debug!("{name} stays in the bounding set: {error}");
                return;
            }
        }
    }
}

/// Returns the capabilities without which the worker could not use the maps that it gets.
fn needed_for_maps() -> CapabilitySet {
    let by_descriptor = procfs::KernelVersion::current().is_ok_and(|v| v >= MAPS_BY_DESCRIPTOR);
    let is_open = std::fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled")
        .is_ok_and(|value| value.trim() == "0");
    if by_descriptor || is_open {
        return CapabilitySet::empty();
    }
    log::info!("the worker keeps CAP_BPF, which this kernel requires for every use of a map");
    CapabilitySet::BPF
}

impl Report {
    /// Returns what this process may do now.
    pub(crate) fn of_this_process() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
        Self {
            user: rustix::process::geteuid().as_raw(),
            capabilities: effective.iter_names().map(|(name, _)| name).collect(),
            bounding_set: field(&status, "CapBnd:", 16).count_ones() as usize,
            no_new_privs: field(&status, "NoNewPrivs:", 10) == 1,
            seccomp: SECCOMP.get().copied().unwrap_or(false),
            landlock: LANDLOCK.get().copied().unwrap_or("off"),
        }
    }
}

/// Parses a number of `/proc/PID/status`; 0 where the kernel does not show it.
fn field(status: &str, name: &str, radix: u32) -> u64 {
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix(name));
    value
        .and_then(|value| u64::from_str_radix(value.trim(), radix).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_the_lines_of_the_kernel() {
        let status = "CapBnd:\t000001ffffffffff\nNoNewPrivs:\t1\n";
        assert_eq!(field(status, "CapBnd:", 16), 0x1ff_ffff_ffff);
        assert_eq!(field(status, "NoNewPrivs:", 10), 1);
        assert_eq!(field(status, "Absent:", 10), 0);
    }
}
