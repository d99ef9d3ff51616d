//! Drops privileges at start.

/// Joins the group that the socket gets. A member can give its files to a group without the
/// capability that is dropped next. If it fails, the socket reports it.
///
/// Must be called before the process has a second thread, as [`keep_only_what_sources_need`] must.
#[cfg(target_os = "linux")]
pub(crate) fn join_group(group: u32) {
    use rustix::process::{Gid, getgroups};
    let joined = getgroups().and_then(|mut groups| {
        groups.push(Gid::from_raw(group));
        rustix::thread::set_thread_groups(&groups)
    });
    if let Err(error) = joined {
        log::debug!("cannot join group {group}: {error}");
    }
}

/// Drops every capability that no source needs, and sets `no_new_privs`.
///
/// Must be called before the process has a second thread: capabilities belong to threads, and later
/// threads inherit them. What sources need to restart after a failure is kept.
#[cfg(target_os = "linux")]
pub(crate) fn keep_only_what_sources_need() {
    keep_also(rustix::thread::CapabilitySet::empty());
}

/// As [`keep_only_what_sources_need`], and keeps these.
#[cfg(target_os = "linux")]
pub(crate) fn keep_also(others: rustix::thread::CapabilitySet) {
    use rustix::thread::{
        CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs,
    };

    let needed = others
        | CapabilitySet::BPF // the probe and the connector's filter
        | CapabilitySet::PERFMON // the probe
        | CapabilitySet::NET_ADMIN // a large receive buffer; before Linux 6.6, the connector itself
        | CapabilitySet::SYS_PTRACE; // other users' start times under hidepid, and exit statuses
    let outcome = capabilities(None).and_then(|current| {
        set_no_new_privs(true)?;
        set_capabilities(
            None,
            CapabilitySets {
                effective: current.effective & needed,
                permitted: current.permitted & needed,
                inheritable: CapabilitySet::empty(),
            },
        )
    });
    if let Err(error) = outcome {
        log::warn!("cannot drop unneeded capabilities: {error}");
    }
}

/// Raises the limit of locked memory, against which secrets count, and before Linux 5.11 BPF maps.
/// Raising it takes a capability that is dropped next.
#[cfg(target_os = "linux")]
pub(crate) fn raise_locked_memory_limit() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
        log::debug!("cannot raise the limit of locked memory: {error}");
    }
}

/// Other systems have no capabilities.
#[cfg(not(target_os = "linux"))]
pub(crate) fn keep_only_what_sources_need() {}
