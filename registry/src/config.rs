//! What a registry is made of, chosen before it exists.

use std::sync::Arc;
use std::time::Duration;

use crate::events::log::Waker;
use crate::hooks::{HookRun, HookRunner, Hooks};
use crate::lifetime::Lifetimes;
use crate::removal::Removal;
use crate::session::Session;
use crate::token::TokenKey;

/// How old a session can get: a day, as the origin of this registry has it.
const DEFAULT_TTL: Duration = Duration::from_hours(24);
/// How many events a late reader finds.
const DEFAULT_EVENT_CAPACITY: usize = 4_096;

pub(crate) type OnRemoved = Box<dyn Fn(&Arc<Session>) + Send + Sync>;

/// Ceilings on what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Live sessions in all.
    pub sessions: usize,
    /// Live sessions of one user.
    pub sessions_per_owner: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 100_000,
            sessions_per_owner: 10_000,
        }
    }
}

/// Whose live sessions a registration may replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Those of its own owner.
    Owner,
    /// Anybody's.
    Any,
}

/// What a registry is made of.
pub struct RegistryBuilder {
    pub(crate) token_key: TokenKey,
    pub(crate) lifetimes: Lifetimes,
    pub(crate) limits: Limits,
    pub(crate) strict_replace: bool,
    pub(crate) event_capacity: usize,
    pub(crate) wakers: Vec<Waker>,
    pub(crate) hooks: Hooks,
    pub(crate) run_hooks: Option<HookRunner>,
    pub(crate) on_removed: Vec<OnRemoved>,
}

impl RegistryBuilder {
    pub(crate) fn new(token_key: TokenKey) -> Self {
        Self {
            token_key,
            lifetimes: Lifetimes {
                default: Some(DEFAULT_TTL),
                max: None,
            },
            limits: Limits::default(),
            strict_replace: false,
            event_capacity: DEFAULT_EVENT_CAPACITY,
            wakers: Vec::new(),
            hooks: Hooks::default(),
            run_hooks: None,
            on_removed: Vec::new(),
        }
    }

    /// The age past which a session that asks for nothing else ([`Ttl::Default`](crate::Ttl)) is
    /// removed whatever its process does; `None`: it stays as long as its process lives. 24 h unless
    /// set.
    pub fn ttl(mut self, ttl: impl Into<Option<Duration>>) -> Self {
        self.lifetimes.default = ttl.into();
        self
    }

    /// The age past which any session is removed, whatever it asked for; `None`, which is what
    /// counts unless it is set: no limit.
    pub fn max_ttl(mut self, max: impl Into<Option<Duration>>) -> Self {
        self.lifetimes.max = max.into();
        self
    }

    /// Ceilings; 100,000 sessions and 10,000 per user unless set.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Whether replacing a live session id needs the token that it has; off unless set.
    pub fn strict_replace(mut self, strict: bool) -> Self {
        self.strict_replace = strict;
        self
    }

    /// How many events are kept for readers; 4,096 unless set.
    pub fn event_capacity(mut self, events: usize) -> Self {
        self.event_capacity = events;
        self
    }

    /// `wake` is called when there are new events, once for all of one call, with no lock held and
    /// before the hooks run. A panic in it is contained and counted like a hook's.
    pub fn on_event(mut self, wake: impl Fn() + Send + Sync + 'static) -> Self {
        self.wakers.push(Box::new(wake));
        self
    }

    /// Adds a hook that runs once for each stored session, with no lock held: on the thread that
    /// stored it, or on the one that runs a hook of the same session id at that moment. A panic in it
    /// is contained and counted.
    pub fn on_register(mut self, hook: impl Fn(&Arc<Session>) + Send + Sync + 'static) -> Self {
        self.hooks.on_register.push(Box::new(hook));
        self
    }

    /// Adds a hook that runs once for each removed session, after its `on_register` hooks and
    /// before those of the session that replaces it or bears its id next. Otherwise as
    /// [`Self::on_register`].
    pub fn on_deregister(
        mut self,
        hook: impl Fn(&Arc<Session>, &Removal) + Send + Sync + 'static,
    ) -> Self {
        self.hooks.on_deregister.push(Box::new(hook));
        self
    }

    /// Adds `release`, which is called once for each removed session, on the thread that removed it,
    /// right after the lock and before the hooks: for whoever holds something for the session's sake.
    /// It must be quick. It is never left out, as hooks are when too many of them wait.
    pub fn on_removed(mut self, release: impl Fn(&Arc<Session>) + Send + Sync + 'static) -> Self {
        self.on_removed.push(Box::new(release));
        self
    }

    /// Whether any hook has been added.
    pub fn has_hooks(&self) -> bool {
        !self.hooks.none()
    }

    /// Hands the hooks of each mutation to `runner` instead of running them on the mutating thread,
    /// so that one that blocks holds up neither. Which thread runs what is the runner's choice: the
    /// order within a session is kept whatever it does, as long as it runs everything once.
    pub fn run_hooks_by(mut self, runner: impl Fn(HookRun) + Send + Sync + 'static) -> Self {
        self.run_hooks = Some(Box::new(runner));
        self
    }
}
