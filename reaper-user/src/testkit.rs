//! Support for tests, `reaperd demo` and `reaperd selftest`: test processes that end in chosen ways, the
//! conformance cases of every exit source, and fault injection between a source and the loop.

/// The daemon, for tests that run it in-process.
#[cfg(feature = "cli")]
pub mod daemon {
    pub use crate::daemon::api::listener::ListenError;
    pub use crate::daemon::config::{DaemonOptions, RegisterPolicy, UnknownPolicy};
    pub use crate::daemon::descriptors::TooFewDescriptors;
    pub use crate::daemon::handover::take::NotTaken;
    pub use crate::daemon::{StartupError, run_until};
}

#[cfg(all(target_os = "linux", feature = "ebpf"))]
pub use crate::sources::ebpf::{btf, misses};

/// The limits on open descriptors.
#[cfg(feature = "cli")]
pub mod descriptors {
    pub use crate::daemon::descriptors::{minimum, raise_open_file_limit};
    pub use crate::watch::fd_budget::{Need, needs};
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
