//! The roles that tests run in, and how a process enters one. A helper process enters the role and then
//! executes the program, so that no code runs in the forked child of a threaded program.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitCode, ExitStatus};
use std::str::FromStr;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Gid, Uid, WaitOptions, wait};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::Deserialize;
use serde::de::IntoDeserializer as _;
use serde::de::value::StrDeserializer;

use super::context;
use crate::sys;
use crate::time_namespace::Offsets;

/// The unprivileged user: "nobody" of every distribution.
const UID_NOBODY: u32 = 65534;

/// What a test binary may do and see.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Root,
    NetAdmin,
    Bpf,
    None,
    Pidns,
    /// The second half of `Pidns`: the first process inside the new namespace.
    PidnsInner,
    Netns,
    Hidepid,
    NoTracefs,
    TimensMinus,
    TimensPlus,
    ForeignProc,
    /// The second half of `ForeignProc`, as that of `Pidns`.
    ForeignProcInner,
}

impl FromStr for Role {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let name: StrDeserializer<'_, serde::de::value::Error> = name.into_deserializer();
        Self::deserialize(name).map_err(|error| format!("no role: {error}"))
    }
}

impl Role {
    /// The user that the tests run as.
    pub fn uid(self) -> u32 {
        self.capabilities().map_or(0, |_| UID_NOBODY)
    }

    /// All its capabilities; `None` if it keeps those of root.
    pub fn capabilities(self) -> Option<CapabilitySet> {
        match self {
            Self::NetAdmin => Some(CapabilitySet::NET_ADMIN),
            Self::Bpf => Some(CapabilitySet::BPF | CapabilitySet::PERFMON),
            Self::None | Self::Hidepid => Some(CapabilitySet::empty()),
            Self::Root
            | Self::Pidns
            | Self::PidnsInner
            | Self::Netns
            | Self::NoTracefs
            | Self::TimensMinus
            | Self::TimensPlus
            | Self::ForeignProc
            | Self::ForeignProcInner => None,
        }
    }
}

/// `ROLE PROGRAM ARGS..`: enters the role and executes the program. A pid namespace can be entered by
/// children only; then this waits for the child.
pub(super) fn enter(args: Vec<OsString>) -> Result<ExitCode, String> {
    let mut args = args.into_iter();
    let name = args.next().and_then(|name| name.into_string().ok());
    let role: Role = name.ok_or("no role given")?.parse()?;
    let program = args.next().ok_or("no program given")?;
    let mut command = Command::new(&program);
    command.args(args);

    match role {
        Role::Root | Role::NoTracefs => {}
        Role::NetAdmin | Role::Bpf | Role::None | Role::Hidepid => {
            drop_to(role.capabilities().unwrap_or(CapabilitySet::empty()))?;
        }
        Role::Netns => {
            context("unshare", sys::unshare_namespaces(false, true, false))?;
            loopback_up()?;
        }
        Role::Pidns => return in_pid_namespace("pidns-inner", &command),
        Role::PidnsInner => {
            mount_own_proc()?;
            return as_namespace_init(&mut command);
        }
        Role::ForeignProc => return in_pid_namespace("foreign-proc-inner", &command),
        Role::ForeignProcInner => return as_namespace_init(&mut command),
        Role::TimensMinus => return in_time_namespace(Offsets::behind(), &mut command),
        Role::TimensPlus => return in_time_namespace(Offsets::AHEAD, &mut command),
    }
    Err(format!("exec {}: {}", program.display(), command.exec()))
}

/// Brings the loopback interface of this network namespace up.
pub(super) fn loopback_up() -> Result<(), String> {
    let mut ip = Command::new("/bin/busybox");
    let status = context(
        "busybox",
        ip.args(["ip", "link", "set", "lo", "up"]).status(),
    )?;
    status
        .success()
        .then_some(())
        .ok_or_else(|| format!("ip link set lo up: {status}"))
}

/// Waits for children, adopted ones included, until `pid` has ended.
pub(super) fn reap_until(pid: u32) -> Result<ExitStatus, String> {
    loop {
        let Some((ended, status)) = context("wait", wait(WaitOptions::empty()))? else {
            continue;
        };
        if ended.as_raw_nonzero().get().unsigned_abs() == pid {
            return Ok(ExitStatus::from_raw(status.as_raw()));
        }
    }
}

/// Becomes the unprivileged user with exactly these capabilities, which are ambient, so that they survive
/// exec.
fn drop_to(keep: CapabilitySet) -> Result<(), String> {
    use rustix::thread as this;
    for capability in CapabilitySet::all()
        .iter_names()
        .map(|(_, capability)| capability)
    {
        if !keep.contains(capability) {
            context(
                "bounding set",
                this::remove_capability_from_bounding_set(capability),
            )?;
        }
    }
    context("keep capabilities", this::set_keep_capabilities(true))?;
    let (uid, gid) = (Uid::from_raw(UID_NOBODY), Gid::from_raw(UID_NOBODY));
    context("setgroups", this::set_thread_groups(&[]))?;
    context("setresgid", this::set_thread_res_gid(gid, gid, gid))?;
    context("setresuid", this::set_thread_res_uid(uid, uid, uid))?;
    let sets = CapabilitySets {
        effective: keep,
        permitted: keep,
        inheritable: keep,
    };
    context("capset", this::set_capabilities(None, sets))?;
    for capability in keep.iter() {
        context(
            "ambient set",
            this::configure_capability_in_ambient_set(capability, true),
        )?;
    }
    Ok(())
}

fn in_time_namespace(offsets: Offsets, command: &mut Command) -> Result<ExitCode, String> {
    let mut child = context("time namespace", offsets.spawn(command))?;
    Ok(exit_code(context("test binary", child.wait())?))
}

fn in_pid_namespace(inner_role: &str, command: &Command) -> Result<ExitCode, String> {
    context("unshare", sys::unshare_namespaces(true, false, true))?;
    let own = context("own path", std::env::current_exe())?;
    let mut inner = Command::new(own);
    inner
        .args(["enter", inner_role])
        .arg(command.get_program())
        .args(command.get_args());
    Ok(exit_code(context(inner_role, inner.status())?))
}

fn mount_own_proc() -> Result<(), String> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    context("make / private", mount_change("/", private))?;
    context(
        "mount /proc",
        mount("proc", "/proc", "proc", MountFlags::empty(), None),
    )
}

/// The first process of the namespace is its init: a test binary in its place would adopt orphans and be
/// immune to signals.
fn as_namespace_init(command: &mut Command) -> Result<ExitCode, String> {
    let child = context("test binary", command.spawn())?;
    Ok(exit_code(reap_until(child.id())?))
}

/// The shell's convention, because this process can only pass on an exit code.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(
        code.and_then(|code| u8::try_from(code).ok())
            .unwrap_or(u8::MAX),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_parsed_from_its_name_in_the_matrix() {
        assert_eq!("net-admin".parse(), Ok(Role::NetAdmin));
        assert_eq!("no-tracefs".parse(), Ok(Role::NoTracefs));
        assert!("Root".parse::<Role>().is_err());
    }
}
