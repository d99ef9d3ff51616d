//! PID 1: from boot to power-off.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};

use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};

use super::context;
use super::roles::{Role, loopback_up};
use super::suites::{self, Verdicts};

/// The host's commands: `reaper.NAME=VALUE` on the kernel command line.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Commands {
    pub(super) role: String,
    pub(super) filter: Option<String>,
    pub(super) expect: String,
    pub(super) require: String,
    /// How much of the long suites to run.
    pub(super) scale: String,
}

/// Runs everything and powers off. Returning ends PID 1: the kernel panics and, with `panic=-1`, ends the
/// guest.
pub(super) fn run() -> Result<(), String> {
    mount_basics()?;
    let mut verdicts = Verdicts::open()?;
    let outcome = run_suites(&mut verdicts);
    if let Err(error) = &outcome {
        verdicts.report(&format!("error={error}"));
    }
    verdicts.report("end");
    drop(verdicts);
    context("power off", reboot(RebootCommand::PowerOff))?;
    outcome
}

fn run_suites(verdicts: &mut Verdicts) -> Result<(), String> {
    let commands = commands(&context(
        "/proc/cmdline",
        fs::read_to_string("/proc/cmdline"),
    )?);
    let role: Role = commands.role.parse()?;
    mount_for(role)?;
    loopback_up()?;
    let runtime_dir = make_runtime_dir(role)?;
    let release = context(
        "osrelease",
        fs::read_to_string("/proc/sys/kernel/osrelease"),
    )?;
    verdicts.report(&format!("role={} kernel={}", commands.role, release.trim()));
    suites::run_all(&commands, &runtime_dir, verdicts)
}

fn commands(command_line: &str) -> Commands {
    let mut commands = Commands::default();
    for parameter in command_line.split_ascii_whitespace() {
        let Some((name, value)) = parameter
            .strip_prefix("reaper.")
            .and_then(|it| it.split_once('='))
        else {
            continue;
        };
        match name {
            "role" => value.clone_into(&mut commands.role),
            "filter" => commands.filter = Some(value.to_owned()),
            "expect" => value.clone_into(&mut commands.expect),
            "require" => value.clone_into(&mut commands.require),
            "scale" => value.clone_into(&mut commands.scale),
            _ => {}
        }
    }
    commands
}

fn mount_basics() -> Result<(), String> {
    mount_at("/proc", "proc", c"")?;
    mount_at("/sys", "sysfs", c"")?;
    mount_at("/dev", "devtmpfs", c"mode=0755")
}

fn mount_for(role: Role) -> Result<(), String> {
    mount_at("/dev/pts", "devpts", c"mode=0620")?;
    mount_at("/dev/shm", "tmpfs", c"mode=1777")?;
    mount_at("/tmp", "tmpfs", c"mode=1777")?;
    mount_at("/run", "tmpfs", c"mode=0755")?;
    mount_at("/sys/fs/bpf", "bpf", c"mode=0700")?;
    if role == Role::Root {
        mount_at("/sys/fs/cgroup", "cgroup2", c"")?;
    }
    if role != Role::NoTracefs {
        mount_at("/sys/kernel/tracing", "tracefs", c"")?;
    }
    if role == Role::Hidepid {
        mount_at("/proc", "proc", c"hidepid=2")?;
    }
    Ok(())
}

fn mount_at(target: &str, kind: &str, data: &std::ffi::CStr) -> Result<(), String> {
    // The mount points in sysfs cannot be created.
    if !target.starts_with("/sys/") {
        context(target, fs::create_dir_all(target))?;
    }
    let what = format!("mount {kind} on {target}");
    context(&what, mount(kind, target, kind, MountFlags::empty(), data))
}

fn make_runtime_dir(role: Role) -> Result<String, String> {
    let dir = format!("/run/user/{}", role.uid());
    context(&dir, fs::create_dir_all(&dir))?;
    context(
        &dir,
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)),
    )?;
    context(&dir, chown(&dir, Some(role.uid()), Some(role.uid())))?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_from_the_command_line() {
        let line = "console=ttyS0 reaper.role=bpf reaper.expect=a=up,b=down:EPERM reaper.x=1 q\n";
        let expected = Commands {
            role: "bpf".to_owned(),
            expect: "a=up,b=down:EPERM".to_owned(),
            ..Commands::default()
        };
        assert_eq!(commands(line), expected);
    }
}
