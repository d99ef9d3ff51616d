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

use lists::{Allowed, MONITOR, MONITOR_IF, SHARED, SHARED_IF, START, START_IF, WORKER, WORKER_IF};

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
    for allowed in conditional.into_iter().flatten() {
        rules.entry(allowed.call).or_default().push(rule(allowed)?);
    }
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

fn rule(allowed: &Allowed) -> Result<SeccompRule, Failure> {
    let conditions = allowed.conditions.iter().map(|(argument, mask, value)| {
        let masked = SeccompCmpOp::MaskedEq(*mask);
        SeccompCondition::new(*argument, SeccompCmpArgLen::Qword, masked, *value)
    });
    let conditions = conditions.collect::<Result<Vec<_>, _>>()?;
    Ok(SeccompRule::new(conditions)?)
}
