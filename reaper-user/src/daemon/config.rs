//! The options of the daemon as plain values, and where they come from: [`options`] is the table of all
//! options, [`layers`] puts flags, environment, files and defaults together, [`file`](mod@file) parses a file,
//! [`readable`] opens it, before and after the start.

pub(crate) mod fault;
pub(crate) mod file;
pub(crate) mod layers;
pub(crate) mod options;
pub(crate) mod readable;
pub(crate) mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use log::LevelFilter;
use reaper_registry::{Limits, Source};

use super::log::Filter;
use super::profile::Profile;
#[cfg(target_os = "linux")]
use super::sandbox::User;
use crate::engine::Sources;
use crate::sources::sweep;

/// Which processes a caller may register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RegisterPolicy {
    /// Only itself.
    SelfOnly,
    /// Processes with the real uid of the caller.
    #[default]
    SameUid,
    /// Any process.
    Any,
}

impl RegisterPolicy {
    /// Returns the name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SelfOnly => "self",
            Self::SameUid => "same-uid",
            Self::Any => "any",
        }
    }
}

/// The text is not the name of a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a register policy: self, same-uid or any")]
pub struct UnknownPolicy(pub String);

impl FromStr for RegisterPolicy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        [Self::SelfOnly, Self::SameUid, Self::Any]
            .into_iter()
            .find(|policy| policy.name() == text)
            .ok_or_else(|| UnknownPolicy(text.to_owned()))
    }
}

/// Longer than the pauses of a client at work, short enough that idle connections end on their own.
const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The options of one daemon.
#[derive(Clone, Debug)]
#[cfg_attr(
    target_os = "linux",
    expect(
        clippy::struct_excessive_bools,
        reason = "each is a switch of the command line"
    )
)]
pub struct DaemonOptions {
    pub socket: PathBuf,
    /// With the default, every source that works here is used, and one that does not work is no
    /// degradation.
    pub sources: Sources,
    /// The daemon does not start unless these sources work.
    pub require: Vec<Source>,
    pub sweep_interval: Duration,
    /// The ttl of sessions that name none. `None`: as long as their processes.
    pub ttl: Option<Duration>,
    /// The largest ttl of any session. `None`: no limit.
    pub max_ttl: Option<Duration>,
    pub max_sessions: usize,
    pub max_sessions_per_uid: usize,
    /// The maximum size of all sessions and of those of one user, as the registry counts it.
    pub max_bytes: usize,
    pub max_bytes_per_uid: usize,
    /// How many ended sessions of one user are listed.
    pub ended_per_uid: usize,
    pub register_policy: RegisterPolicy,
    /// Whether replacing the session of a live id requires its token.
    pub strict_replace: bool,
    /// Connections of all users at once. `None`: as the descriptors allow, at most 1,024.
    pub max_connections: Option<usize>,
    /// Connections of one user. `None`: its share.
    pub max_connections_per_uid: Option<usize>,
    /// Event streams of one user. `None`: its share.
    pub max_streams_per_uid: Option<usize>,
    /// How long a connection is announced to be kept after a response. Whole seconds are announced.
    pub keep_alive: Duration,
    /// Users that may connect, besides the daemon's own and root.
    pub allow_uids: Vec<u32>,
    /// Where metrics are served over TCP, if at all.
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// Whose clients are served.
    pub(crate) profile: Option<Profile>,
    /// Where the API is served over TCP, if that was set.
    pub(crate) tcp: Option<SocketAddr>,
    /// Whether it is not, whatever the profile says.
    pub(crate) no_tcp: bool,
    /// Whether `/v1/health` needs no bearer over TCP.
    pub(crate) public_health: bool,
    /// The brokers that `/v1/health` names.
    pub(crate) brokers: Vec<String>,
    /// The version that clients are shown in place of this program's.
    pub(crate) advertise_version: Option<String>,
    /// The group of the socket and its folder. Its members may connect as well.
    pub socket_group: Option<u32>,
    /// The user that the worker becomes.
    #[cfg(target_os = "linux")]
    pub(crate) user: Option<User>,
    /// Whether the daemon is one process.
    #[cfg(target_os = "linux")]
    pub(crate) no_monitor: bool,
    pub(crate) log: Filter,
}

impl DaemonOptions {
    /// Returns the defaults with this socket.
    pub fn on(socket: impl Into<PathBuf>) -> Self {
        let limits = Limits::default();
        Self {
            socket: socket.into(),
            sources: Sources::default(),
            require: Vec::new(),
            sweep_interval: sweep::DEFAULT_INTERVAL,
            ttl: Some(Duration::from_hours(24)),
            max_ttl: None,
            max_sessions: limits.sessions,
            max_sessions_per_uid: limits.sessions_per_owner,
            max_bytes: limits.bytes,
            max_bytes_per_uid: limits.bytes_per_owner,
            ended_per_uid: 256,
            register_policy: RegisterPolicy::default(),
            strict_replace: false,
            max_connections: None,
            max_connections_per_uid: None,
            max_streams_per_uid: None,
            keep_alive: DEFAULT_KEEP_ALIVE,
            allow_uids: Vec::new(),
            metrics_listen: None,
            profile: None,
            tcp: None,
            no_tcp: false,
            public_health: false,
            brokers: Vec::new(),
            advertise_version: None,
            socket_group: None,
            #[cfg(target_os = "linux")]
            user: None,
            #[cfg(target_os = "linux")]
            no_monitor: false,
            log: Filter::Level(LevelFilter::Info),
        }
    }

    /// Returns where the API is served over TCP: what was set, or else what the profile says.
    pub(crate) fn tcp_address(&self) -> Option<SocketAddr> {
        if self.no_tcp {
            return None;
        }
        self.tcp.or_else(|| self.profile.and_then(Profile::tcp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_parsed_from_its_name() {
        for policy in [
            RegisterPolicy::SelfOnly,
            RegisterPolicy::SameUid,
            RegisterPolicy::Any,
        ] {
            assert_eq!(policy.name().parse(), Ok(policy));
        }
        assert!("Any".parse::<RegisterPolicy>().is_err());
    }
}
