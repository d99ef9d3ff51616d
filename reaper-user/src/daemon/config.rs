//! What the daemon is told, as plain values. Where they come from (flags, environment, defaults) is
//! the command line's business.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use reaper_registry::{Limits, Source};

use crate::engine::Sources;
use crate::sources::sweep;

/// Whose processes a caller may register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RegisterPolicy {
    /// The calling process alone.
    SelfOnly,
    /// Those whose real user is the caller's.
    #[default]
    SameUid,
    /// Anybody's.
    Any,
}

impl RegisterPolicy {
    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SelfOnly => "self",
            Self::SameUid => "same-uid",
            Self::Any => "any",
        }
    }
}

/// The text names no policy.
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

/// How one daemon is to run.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    pub socket: PathBuf,
    /// The default means "those that work here": then a missing one is no degradation.
    pub sources: Sources,
    /// Without these the daemon does not start.
    pub require: Vec<Source>,
    pub sweep_interval: Duration,
    /// How long sessions stay that ask for nothing; `None`: as long as their processes.
    pub ttl: Option<Duration>,
    /// How long any session stays at most; `None`: no limit.
    pub max_ttl: Option<Duration>,
    pub max_sessions: usize,
    pub max_sessions_per_uid: usize,
    pub register_policy: RegisterPolicy,
    /// Whether replacing a live session id needs its token.
    pub strict_replace: bool,
    /// Users, beside our own and root, who may connect.
    pub allow_uids: Vec<u32>,
}

impl DaemonOptions {
    /// Every default, on this socket.
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
            register_policy: RegisterPolicy::default(),
            strict_replace: false,
            allow_uids: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_by_its_own_name() {
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
