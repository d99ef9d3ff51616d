//! Which system calls monitor and worker can make: a seccomp filter for each.
//!
//! A call that is not in the list fails with `EPERM`. It does not end the process: a C library may make
//! a call that no test has made, and a daemon that lives with an error is better than one that is killed.

mod lists;

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads,
};

use super::super::api::listener::SocketAccess;
use lists::{
    Allowed, LISTENING, MONITOR, MONITOR_IF, SHARED, SHARED_IF, WITHOUT_GROUP, WITHOUT_LIST,
    WITHOUT_MODE, WORKER, WORKER_IF,
};

/// Which of the two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Monitor,
    Worker,
}

/// Why a filter is not in force.
type Failure = Box<dyn std::error::Error>;

/// From now on this process can make only the calls that the role needs. Returns whether that is so; a
/// failure is logged.
pub(crate) fn restrict(role: Role) -> bool {
    match try_restrict(role) {
        Ok(()) => true,
        Err(error) => {
            log::warn!("system calls are not restricted: {error}");
            false
        }
    }
}

fn try_restrict(role: Role) -> Result<(), Failure> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    // The arguments of clone3 are in memory, where a filter cannot look. Without it, libraries use
    // clone. This filter comes first, because the next one forbids further ones.
    let not_there = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let no_clone3 = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        not_there,
        arch,
    )?;
    let (calls, conditional) = match role {
        Role::Monitor => (MONITOR, MONITOR_IF),
        Role::Worker => (WORKER, WORKER_IF),
    };
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = BTreeMap::new();
    for call in SHARED.iter().chain(calls) {
        rules.insert(*call, Vec::new());
    }
    rules.insert(libc::SYS_clone3, Vec::new());
    for Allowed { call, conditions } in SHARED_IF.iter().chain(conditional) {
        rules.entry(*call).or_default().push(rule(conditions)?);
    }
    // `abort`, of this process: the one that forked it may have the same user.
    let of_this_process = [
        (0, u64::from(u32::MAX), u64::from(std::process::id())),
        (
            2,
            u64::from(u32::MAX),
            u64::from(libc::SIGABRT.cast_unsigned()),
        ),
    ];
    rules.insert(libc::SYS_tgkill, vec![rule(&of_this_process)?]);
    let allowed = SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM.cast_unsigned()),
        SeccompAction::Allow,
        arch,
    )?;
    for filter in [no_clone3, allowed] {
        let program: BpfProgram = filter.try_into()?;
        apply_filter_all_threads(&program)?;
    }
    Ok(())
}

/// From now on no thread of this worker, which listens, can make the calls that it needed for that. A
/// failure is logged.
pub(crate) fn restrict_once_listening(access: SocketAccess) {
    if let Err(error) = try_restrict_once_listening(access) {
        log::warn!("the worker can still connect to other sockets: {error}");
    }
}

fn try_restrict_once_listening(access: SocketAccess) -> Result<(), Failure> {
    let (list, group, mode) = match access {
        SocketAccess::Private => (WITHOUT_LIST, WITHOUT_GROUP, WITHOUT_MODE),
        SocketAccess::Group(_) => (WITHOUT_LIST, &[][..], &[][..]),
        SocketAccess::Shared => (&[][..], WITHOUT_GROUP, &[][..]),
    };
    let calls = [LISTENING, list, group, mode].concat();
    let filter = SeccompFilter::new(
        calls.into_iter().map(|call| (call, Vec::new())).collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.cast_unsigned()),
        TargetArch::try_from(std::env::consts::ARCH)?,
    )?;
    let program: BpfProgram = filter.try_into()?;
    Ok(apply_filter_all_threads(&program)?)
}

/// A rule with these conditions: of each, the index of an argument, a mask, and the masked value.
fn rule(conditions: &[(u8, u64, u64)]) -> Result<SeccompRule, Failure> {
    let conditions = conditions.iter().map(|(argument, mask, value)| {
        let masked = SeccompCmpOp::MaskedEq(*mask);
        SeccompCondition::new(*argument, SeccompCmpArgLen::Qword, masked, *value)
    });
    let conditions = conditions.collect::<Result<Vec<_>, _>>()?;
    Ok(SeccompRule::new(conditions)?)
}
