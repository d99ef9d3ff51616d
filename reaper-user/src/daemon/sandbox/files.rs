//! Which files the worker can open: Landlock (Linux 5.13 and newer).
//!
//! Landlock also takes from the worker the right to look into processes outside of the sandbox, as a
//! tracer could. So it no longer sees exit statuses in `/proc`, nor pid namespaces, nor, on most
//! kernels, whether a process has memory: the monitor looks.
//!
//! From Linux 6.12 on it also takes the right to send signals out of the sandbox, and to connect to
//! abstract sockets outside of it. Whether a pid is in use is still shown: the kernel looks the process up
//! first.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError,
    RulesetStatus, Scope, path_beneath_rules,
};

use super::Files;

/// The rights that are restricted, where the kernel knows them: those up to Linux 6.12.
const RIGHTS: ABI = ABI::V6;
/// What sources and the process table read.
const READ: [&str; 2] = ["/proc", "/sys"];
/// Devices without an effect.
const DEVICES: [&str; 3] = ["/dev/null", "/dev/zero", "/dev/urandom"];

/// From now on this thread, and those that it starts, can open these files only, and read what the daemon
/// needs of the system. Returns `full`, `partial` or `off`.
pub(crate) fn restrict(open: &Files<'_>) -> &'static str {
    match try_restrict(open) {
        Ok(RulesetStatus::FullyEnforced) => "full",
        Ok(RulesetStatus::PartiallyEnforced) => "partial",
        Ok(RulesetStatus::NotEnforced) => {
            log::info!("this kernel has no Landlock: the worker's files are not restricted");
            "off"
        }
        Err(error) => {
            log::warn!("the worker's files are not restricted: {error}");
            "off"
        }
    }
}

/// Creates those of these folders whose parent belongs to this user: a rule is about a folder that exists.
pub(super) fn create_missing(folders: &[PathBuf]) {
    let own = rustix::process::geteuid().as_raw();
    for folder in folders {
        let parent = folder.parent().and_then(|it| it.symlink_metadata().ok());
        if !parent.is_some_and(|parent| parent.is_dir() && parent.uid() == own) {
            continue;
        }
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                log::debug!("token files below {} stay: {error}", folder.display());
            }
            _ => {}
        }
    }
}

fn try_restrict(open: &Files<'_>) -> Result<RulesetStatus, RulesetError> {
    let all = AccessFs::from_all(RIGHTS);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let status = Ruleset::default()
        .handle_access(all)?
        .scope(Scope::from_all(RIGHTS))?
        .create()?
        .add_rules(path_beneath_rules(READ, read))?
        .add_rules(path_beneath_rules(DEVICES, read | AccessFs::WriteFile))?
        .add_rules(path_beneath_rules(
            open.socket_folder,
            all & !AccessFs::Execute,
        ))?
        .add_rules(path_beneath_rules(
            open.token_folders,
            read | AccessFs::RemoveFile,
        ))?
        .restrict_self()?;
    Ok(status.ruleset)
}
