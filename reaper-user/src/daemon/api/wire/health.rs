//! The types of `/v1/health`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::EndView;

/// `/v1/health`.
#[derive(Serialize)]
pub(crate) struct Health {
    pub(crate) ok: bool,
    /// The worker's; with a profile, the one in the pid file.
    pub(crate) pid: u32,
    pub(crate) worker_pid: u32,
    /// Null with `--no-monitor`.
    pub(crate) monitor_pid: Option<u32>,
    /// When the daemon started: milliseconds since 1970.
    pub(crate) started_at: u64,
    pub(crate) uptime_ms: u64,
    /// The last session of the caller, or of anyone for root, whose process ended. Null if there is none.
    pub(crate) last_exit: Option<LastExit>,
    /// What `--brokers` names. Clients of the claudemesh daemon require the field.
    pub(crate) brokers: BTreeMap<String, &'static str>,
    pub(crate) status: &'static str,
    pub(crate) sources: BTreeMap<&'static str, &'static str>,
    /// Messages to each source that did not come from the kernel.
    pub(crate) forged: BTreeMap<&'static str, u64>,
    /// How often the reap loop panicked and was restarted.
    pub(crate) reap_loop_restarts: u64,
    /// How many daemons before this one have handed over to their successors.
    pub(crate) replaced: u32,
    pub(crate) memory: MemoryView,
    /// Null on systems that have none.
    pub(crate) sandbox: Option<SandboxView>,
    /// How many workers the monitor has replaced.
    pub(crate) restarts: u32,
    pub(crate) carried_over: CarriedOverView,
    pub(crate) config: ConfigView,
    pub(crate) profile: Option<&'static str>,
    /// Where the API is served over TCP.
    pub(crate) tcp: Option<String>,
    /// What other programs have done to the daemon's files, and it cannot undo.
    pub(crate) conflicts: Vec<String>,
}

/// `/v1/health` over TCP without the bearer, if that is allowed.
#[derive(Serialize)]
pub(crate) struct PublicHealth {
    pub(crate) ok: bool,
    pub(crate) pid: u32,
    pub(crate) brokers: BTreeMap<String, &'static str>,
    pub(crate) status: &'static str,
}

/// What the daemon continues of the one before it, and whether the next one can.
#[derive(Serialize)]
pub(crate) struct CarriedOverView {
    pub(crate) sessions: usize,
    pub(crate) ended: usize,
    pub(crate) damaged: usize,
    /// Why nothing was carried over although there was something; empty otherwise.
    pub(crate) refused: String,
    /// Whether sessions outlive this worker.
    pub(crate) is_kept: bool,
}

/// The configuration in use.
#[derive(Serialize)]
pub(crate) struct ConfigView {
    /// The files that were read, in rising order.
    pub(crate) files: Vec<String>,
    /// When it was read: milliseconds since 1970.
    pub(crate) loaded_at: u64,
    /// Why the last reload failed and changed nothing; null if it did not fail.
    pub(crate) error: Option<String>,
    /// What was changed since the start and takes a restart.
    pub(crate) needs_restart: Vec<&'static str>,
}

/// A session whose process ended.
#[derive(Serialize)]
pub(crate) struct LastExit {
    /// Milliseconds since 1970.
    pub(crate) at: u64,
    pub(crate) ago_ms: u64,
    pub(crate) session_id: String,
    pub(crate) pid: u32,
    #[serde(flatten)]
    pub(crate) end: EndView,
}

/// The memory of secret keys.
#[derive(Serialize)]
pub(crate) struct MemoryView {
    pub(crate) kind: &'static str,
    pub(crate) bytes: usize,
    /// Why it is not of a better kind; empty if there is none.
    pub(crate) reason: String,
}

/// Other systems have no sandbox.
#[cfg(not(target_os = "linux"))]
pub(crate) type SandboxView = Nothing;

/// What the worker may still do.
#[cfg(target_os = "linux")]
#[derive(Serialize)]
pub(crate) struct SandboxView {
    pub(crate) user: u32,
    pub(crate) capabilities: Vec<&'static str>,
    pub(crate) bounding_set: usize,
    pub(crate) no_new_privs: bool,
    pub(crate) seccomp: &'static str,
    pub(crate) landlock: &'static str,
    pub(crate) monitor: bool,
}

/// `{}`.
#[cfg(not(target_os = "linux"))]
#[derive(Serialize)]
pub(crate) struct Nothing {}
