//! Which files the worker can open: Landlock (Linux 5.13 and newer).
//!
//! Landlock also takes from the worker the right to look into processes outside of the sandbox, as a
//! tracer could. So it no longer sees exit statuses in `/proc`, nor pid namespaces: the monitor reads
//! them. The sweep cannot ask for the memory of a process and reads its record instead.

use landlock::{
    ABI, Access as _, AccessFs, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError,
    RulesetStatus, path_beneath_rules,
};

use super::Files;

/// The rights to files that are restricted, where the kernel knows them: those up to Linux 6.10.
const RIGHTS: ABI = ABI::V5;
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

fn try_restrict(open: &Files<'_>) -> Result<RulesetStatus, RulesetError> {
    let all = AccessFs::from_all(RIGHTS);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let status = Ruleset::default()
        .handle_access(all)?
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
