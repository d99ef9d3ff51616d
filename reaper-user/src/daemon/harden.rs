//! What the daemon may do: given up at start, before there is a second thread, because capabilities
//! belong to threads and whoever starts later inherits what is left.

/// Gives up every capability that no source needs, and the way to new ones. What is kept is what a
/// source needs to come back after a failure; so this is done at start and not after the sources are
/// open, when it could only be done for one thread of many.
#[cfg(target_os = "linux")]
pub(crate) fn keep_only_what_sources_need() {
    use rustix::thread::{
        CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs,
    };

    let needed = CapabilitySet::BPF // the probe and the connector's filter
        | CapabilitySet::PERFMON // the probe
        | CapabilitySet::NET_ADMIN // a large receive buffer; before Linux 6.6, the connector itself
        | CapabilitySet::SYS_PTRACE; // other users' start times under hidepid, and exit statuses
    raise_locked_memory_limit();
    let outcome = capabilities(None).and_then(|held| {
        set_no_new_privs(true)?;
        set_capabilities(
            None,
            CapabilitySets {
                effective: held.effective & needed,
                permitted: held.permitted & needed,
                inheritable: CapabilitySet::empty(),
            },
        )
    });
    if let Err(error) = outcome {
        log::warn!("capabilities that nobody needs cannot be given up: {error}");
    }
}

/// Before Linux 5.11, BPF maps count against this limit, and raising it takes a capability that is
/// given up next.
#[cfg(target_os = "linux")]
fn raise_locked_memory_limit() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
        log::debug!("the limit of locked memory stays: {error}");
    }
}

/// Elsewhere there are none to give up.
#[cfg(not(target_os = "linux"))]
pub(crate) fn keep_only_what_sources_need() {}
