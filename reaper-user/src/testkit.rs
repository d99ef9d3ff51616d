//! What tests, `reaperd demo` and `reaperd selftest` need beside the product: processes that end as they
//! are told, the cases that every source has to pass, and faults between a source and the loop.

/// The daemon, for tests that run it in their own process.
#[cfg(feature = "cli")]
pub mod daemon {
    pub use crate::daemon::api::listener::ListenError;
    pub use crate::daemon::config::{DaemonOptions, RegisterPolicy, UnknownPolicy};
    pub use crate::daemon::{StartupError, run_until};
}

#[cfg(all(target_os = "linux", feature = "ebpf"))]
pub use crate::sources::ebpf::{btf, misses};
pub use crate::watch::fd_budget;

/// Returns the registry that this reaper keeps true.
pub fn registry_of(reaper: &crate::Reaper) -> &reaper_registry::Registry {
    reaper.registry()
}

/// The clocks of the library.
pub mod clock {
    pub use crate::clock::{Deadline, monotonic_ns, now};
}

pub mod conformance;
#[cfg(test)]
pub(crate) mod fake_table;
pub mod fault_injection;
pub mod test_process;
