//! Which system calls monitor and worker can make: a seccomp filter for each.
//!
//! A call that is not in the list fails with `EPERM`. It does not end the process: a C library may make
//! a call that no test has made, and a daemon that lives with an error is better than one that is killed.

mod lists;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads,
};

use super::super::api::listener::SocketAccess;
use lists::{
    Allowed, LISTENING, MONITOR, MONITOR_IF, SHARED, SHARED_IF, START, START_IF, WITHOUT_GROUP,
    WITHOUT_LIST, WITHOUT_MODE, WORKER, WORKER_IF,
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
    // Further workers inherit the monitor's filter and add their own, so it lets pass what a worker needs,
    // and what it takes to start one.
    let (calls, conditional): (Vec<&[_]>, Vec<&[_]>) = match role {
        Role::Monitor => (
            vec![SHARED, WORKER, MONITOR, START],
            vec![SHARED_IF, WORKER_IF, MONITOR_IF, START_IF],
        ),
        Role::Worker => (vec![SHARED, WORKER], vec![SHARED_IF, WORKER_IF]),
    };
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = BTreeMap::new();
    for call in calls.into_iter().flatten() {
        rules.insert(*call, Vec::new());
    }
    rules.insert(libc::SYS_clone3, Vec::new());
    for Allowed { call, conditions } in conditional.into_iter().flatten() {
        match rules.entry(*call) {
            // It is allowed with any arguments already.
            Entry::Occupied(rules) if rules.get().is_empty() => {}
            rules => rules.or_default().push(rule(conditions)?),
        }
    }
    // `abort`, in the worker of this process only: the one that forked it may have the same user. Later
    // workers inherit the monitor's filter, which must not name the monitor.
    let all = u64::from(u32::MAX);
    let abort = (2, all, u64::from(libc::SIGABRT.cast_unsigned()));
    let this_process = (0, all, u64::from(std::process::id()));
    let conditions: &[_] = match role {
        Role::Monitor => &[abort],
        Role::Worker => &[this_process, abort],
    };
    rules.insert(libc::SYS_tgkill, vec![rule(conditions)?]);
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
