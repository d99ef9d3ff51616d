//! How long a session may stay: what a registration asks for, and what the registry grants.

use std::time::Duration;

/// How long a registration asks its session to stay, counted from the registration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ttl {
    /// As long as the registry grants to those that ask for nothing: 24 h unless it was built with
    /// another.
    #[default]
    Default,
    /// For this long; at exactly this age the session still lives.
    For(Duration),
    /// As long as its process lives.
    Process,
}

/// What a registry grants.
#[derive(Clone, Copy)]
pub(crate) struct Lifetimes {
    /// To those that ask for nothing; `None`: as long as the process lives.
    pub(crate) default: Option<Duration>,
    /// To everybody; `None`: no limit.
    pub(crate) max: Option<Duration>,
}

impl Lifetimes {
    /// What is granted: a request beyond the maximum is cut to it. `None`: as long as the process
    /// lives.
    pub(crate) fn granted(self, asked: Ttl) -> Option<Duration> {
        let wanted = match asked {
            Ttl::Default => self.default,
            Ttl::For(ttl) => Some(ttl),
            Ttl::Process => None,
        };
        match (wanted, self.max) {
            (Some(wanted), Some(max)) => Some(wanted.min(max)),
            (wanted, max) => wanted.or(max),
        }
    }
}
