//! The sources of hints: which there are, how each is kept running, and what each gets.
//!
//! A source is one async function. It reports itself up once it has *proved* that it delivers, runs
//! until it fails, and returns the reason. It handles processes, never sessions. The supervisor
//! reports the failure, waits and restarts it without end, because the cause may pass.

#[cfg(target_os = "linux")]
mod canary;
#[cfg(all(target_os = "linux", feature = "ebpf"))]
pub(crate) mod ebpf;
#[cfg(target_os = "linux")]
pub(crate) mod namespaces;
#[cfg(target_os = "linux")]
pub(crate) mod netlink;
#[cfg(target_os = "linux")]
pub(crate) mod opener;
#[cfg(target_os = "linux")]
pub(crate) mod pidfd;
pub(crate) mod supervisor;
pub(crate) mod sweep;
#[cfg(target_os = "linux")]
mod time_namespace;

use std::sync::Arc;

use reaper_registry::Source;

use crate::watch::hint::HintSender;
use crate::watch::set::WatchSet;
use crate::watch::status::Reporter;

/// All sources of hints, in display order.
pub(crate) const ALL: [Source; 4] = [Source::Netlink, Source::Ebpf, Source::Pidfd, Source::Sweep];

/// The sources that report within milliseconds. Not the probe: the kernel takes longer to load it,
/// and callers that do not need it should not wait for it.
pub(crate) const QUICK: [Source; 3] = [Source::Netlink, Source::Pidfd, Source::Sweep];

/// What a source gets.
#[derive(Clone)]
pub(crate) struct Context {
    pub hints: HintSender,
    pub watched: Arc<WatchSet>,
    pub reporter: Reporter,
}

/// Why a source does not run, and what would fix it.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct SourceError {
    pub reason: String,
    pub remedy: String,
}

impl SourceError {
    pub(crate) fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            remedy: remedy.into(),
        }
    }
}
