//! The sources of hints: which there are, how one is kept running, and what each is given.
//!
//! A source is one async function. It reports itself up once it has *proved* that it delivers, runs
//! until it fails, and answers with the reason. It knows processes, never sessions. The supervisor
//! reports the failure, waits and starts it again, for ever: whatever made it fail may pass.

#[cfg(target_os = "linux")]
mod canary;
#[cfg(all(target_os = "linux", feature = "ebpf"))]
pub mod ebpf;
#[cfg(target_os = "linux")]
pub(crate) mod namespaces;
#[cfg(target_os = "linux")]
pub mod netlink;
#[cfg(target_os = "linux")]
pub mod pidfd;
pub(crate) mod supervisor;
pub mod sweep;
#[cfg(target_os = "linux")]
mod time_namespace;

use std::sync::Arc;

use reaper_registry::Source;

use crate::watch::hint::HintSender;
use crate::watch::set::WatchSet;
use crate::watch::status::Reporter;

/// All sources of hints, in the order in which they are shown.
pub const ALL: [Source; 4] = [Source::Netlink, Source::Ebpf, Source::Pidfd, Source::Sweep];

/// Those that say how they are within milliseconds. Not the probe: loading it takes the kernel's
/// time, and nobody should wait for that who does not need it.
pub const QUICK: [Source; 3] = [Source::Netlink, Source::Pidfd, Source::Sweep];

/// What a source is given.
#[derive(Clone)]
pub struct Context {
    pub hints: HintSender,
    pub watched: Arc<WatchSet>,
    pub reporter: Reporter,
}

/// Why a source does not run, and the one thing that would mend it.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct SourceError {
    pub reason: String,
    pub remedy: String,
}

impl SourceError {
    pub fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            remedy: remedy.into(),
        }
    }
}
