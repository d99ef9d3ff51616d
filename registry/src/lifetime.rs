//! Session lifetimes: what a registration requests and what the registry grants.

use std::time::Duration;

/// The lifetime that a registration requests for its session, counted from the registration.
///
/// A session ends with its process in any case. The registry reduces requests to
/// [`RegistryBuilder::max_ttl`](crate::RegistryBuilder::max_ttl).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ttl {
    /// The default of the registry ([`RegistryBuilder::ttl`](crate::RegistryBuilder::ttl), 24 hours
    /// unless set). In a renewal: the same lifetime as before, counted from now.
    #[default]
    Default,
    /// This long. The session is still live at exactly this age.
    For(Duration),
    /// Until the process ends.
    Process,
}

/// The lifetimes that a registry grants.
#[derive(Clone, Copy)]
pub(crate) struct Lifetimes {
    /// For [`Ttl::Default`]; `None`: until the process ends.
    pub(crate) default: Option<Duration>,
    /// For every session; `None`: no maximum.
    pub(crate) max: Option<Duration>,
}

impl Lifetimes {
    /// Returns the granted lifetime: the requested one, or the maximum if that is shorter. `None`:
    /// until the process ends.
    pub(crate) fn granted(self, requested: Ttl) -> Option<Duration> {
        let wanted = match requested {
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
