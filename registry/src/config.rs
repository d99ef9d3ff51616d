//! The settings of a registry, chosen before it is built.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::events::log::Waker;
use crate::hooks::{HookRun, HookRunner, Hooks};
use crate::journal::{Journal, State};
use crate::lifetime::Lifetimes;
use crate::process::ProcessId;
use crate::removal::Removal;
use crate::session::Session;
use crate::sharing::{Claim, Sharing};
use crate::token::TokenKey;

/// The lifetime of a session that requests none. The claudemesh daemon uses the same value.
const DEFAULT_TTL: Duration = Duration::from_hours(24);
/// How many events are kept for readers.
const DEFAULT_EVENT_CAPACITY: usize = 4_096;

pub(crate) type OnRemoved = Box<dyn Fn(&Arc<Session>) + Send + Sync>;
pub(crate) type OnReleased = Box<dyn Fn(ProcessId) + Send + Sync>;

/// Upper limits on the number of stored sessions and on their size.
///
/// A registration that would exceed one is refused with the
/// [`RegisterError`](crate::RegisterError) of that limit. A registration that replaces or renews a
/// session does not count twice. The size of a session is
/// [`NewSession::bytes`](crate::NewSession::bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The maximum number of live sessions in the registry. Default: 100,000.
    pub sessions: usize,
    /// The maximum number of live sessions of one user. Default: 10,000.
    pub sessions_per_owner: usize,
    /// The maximum size of all live sessions. Default: 512 MiB.
    pub bytes: usize,
    /// The maximum size of the live sessions of one user. Default: 64 MiB, which is 6.5 KiB for each of
    /// 10,000 sessions; most sessions take less than 1 KiB.
    pub bytes_per_owner: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 100_000,
            sessions_per_owner: 10_000,
            bytes: 512 << 20,
            bytes_per_owner: 64 << 20,
        }
    }
}

/// The settings of a registry that [`Registry::set_rules`](crate::Registry::set_rules) changes while it is
/// in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// As [`RegistryBuilder::ttl`].
    pub ttl: Option<Duration>,
    /// As [`RegistryBuilder::max_ttl`].
    pub max_ttl: Option<Duration>,
    /// As [`RegistryBuilder::limits`].
    pub limits: Limits,
    /// As [`RegistryBuilder::strict_replace`].
    pub strict_replace: bool,
}

/// The settings of a [`Registry`](crate::Registry); made by
/// [`Registry::builder`](crate::Registry::builder), finished by [`RegistryBuilder::build`].
pub struct RegistryBuilder {
    pub(crate) token_key: TokenKey,
    pub(crate) lifetimes: Lifetimes,
    pub(crate) limits: Limits,
    pub(crate) sharing: Option<Sharing>,
    pub(crate) strict_replace: bool,
    pub(crate) event_capacity: usize,
    pub(crate) wakers: Vec<Waker>,
    pub(crate) hooks: Hooks,
    pub(crate) run_hooks: Option<HookRunner>,
    pub(crate) on_removed: Vec<OnRemoved>,
    pub(crate) on_released: Vec<OnReleased>,
    pub(crate) journal: Option<Arc<dyn Journal>>,
    pub(crate) state: Option<State>,
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
            sharing: None,
            strict_replace: false,
            event_capacity: DEFAULT_EVENT_CAPACITY,
            wakers: Vec::new(),
            hooks: Hooks::default(),
            run_hooks: None,
            on_removed: Vec::new(),
            on_released: Vec::new(),
            journal: None,
            state: None,
        }
    }

    /// Sets the lifetime of sessions that request [`Ttl::Default`](crate::Ttl::Default).
    ///
    /// The session is removed once it is older than this, even if its process is alive. `None`: it
    /// stays until its process ends. Default: 24 hours.
    pub fn ttl(mut self, ttl: impl Into<Option<Duration>>) -> Self {
        self.lifetimes.default = ttl.into();
        self
    }

    /// Sets the maximum lifetime of every session. Longer requests, and requests without a limit, are
    /// reduced to it. `None`: no maximum. Default: `None`.
    pub fn max_ttl(mut self, max: impl Into<Option<Duration>>) -> Self {
        self.lifetimes.max = max.into();
        self
    }

    /// Sets the limits on the number of sessions and on their size. Default: [`Limits::default`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets a function that decides how much of the sessions, and of the bytes, one user may hold while
    /// others hold some too. The limits for one user apply as well.
    ///
    /// It is called with the table's lock held, and must be quick and call no method of the registry. What a
    /// user holds already is never taken back, and can be renewed and replaced by no more than it was.
    /// Default: none.
    pub fn share_by(mut self, most: impl Fn(&Claim<'_>) -> usize + Send + Sync + 'static) -> Self {
        self.sharing = Some(Box::new(most));
        self
    }

    /// Sets whether a registration may replace a live session of the same id only with the token of
    /// that session. Default: `false`.
    pub fn strict_replace(mut self, strict: bool) -> Self {
        self.strict_replace = strict;
        self
    }

    /// Sets how many events are kept for readers; 0 means 1. An event of a session of more than 2 KiB
    /// counts as one for each 2 KiB, so the history takes no more than 2 KiB for each. If there are more,
    /// the owner that has most of them loses the oldest one. A reader that did not read it gets a
    /// [`Next::Gap`](crate::Next::Gap). Default: 4,096.
    pub fn event_capacity(mut self, events: usize) -> Self {
        self.event_capacity = events;
        self
    }

    /// Adds a function that is called when there are new events.
    ///
    /// It is called once per method call that appended events, on the calling thread, with no lock
    /// held, before the hooks run. It should only wake the readers. A panic in it is caught and counted
    /// in [`Registry::hook_panics`](crate::Registry::hook_panics).
    pub fn on_event(mut self, wake: impl Fn() + Send + Sync + 'static) -> Self {
        self.wakers.push(Box::new(wake));
        self
    }

    /// Adds a hook that is called once for each stored session; a renewal calls no hook.
    ///
    /// It runs with no lock held, on the thread that stored the session, or on a thread that is already
    /// running a hook of the same owner and session id. Hooks run in the order in which they were added. A hook
    /// may block: it delays its caller and later hooks of that owner and id only. A panic is caught
    /// and counted in [`Registry::hook_panics`](crate::Registry::hook_panics).
    pub fn on_register(mut self, hook: impl Fn(&Arc<Session>) + Send + Sync + 'static) -> Self {
        self.hooks.on_register.push(Box::new(hook));
        self
    }

    /// Adds a hook that is called once for each removed session.
    ///
    /// It runs after the `on_register` hooks of that session and before those of the session that
    /// replaces it or takes its id next. Otherwise as [`Self::on_register`].
    ///
    /// If about 16,384 calls wait behind a hook that blocks, both hooks of a session may be dropped
    /// together; see [`Registry::hooks_lost`](crate::Registry::hooks_lost).
    pub fn on_deregister(
        mut self,
        hook: impl Fn(&Arc<Session>, &Removal) + Send + Sync + 'static,
    ) -> Self {
        self.hooks.on_deregister.push(Box::new(hook));
        self
    }

    /// Adds a function that is called once for each removed session, to free resources that are kept
    /// for it.
    ///
    /// It runs on the thread that removed the session, with no lock held, before the hooks. It must be
    /// quick. Unlike hooks it is never dropped. A panic in it is caught and counted in
    /// [`Registry::hook_panics`](crate::Registry::hook_panics).
    pub fn on_removed(mut self, release: impl Fn(&Arc<Session>) + Send + Sync + 'static) -> Self {
        self.on_removed.push(Box::new(release));
        self
    }

    /// Adds a function that is called with a process each time a session does not hang on it any more: it was
    /// removed, one of its several processes ended, or it was renewed, where the process may be the same. So
    /// each process of each session stored is released once, whatever happens.
    ///
    /// Otherwise as [`Self::on_removed`].
    pub fn on_released(mut self, release: impl Fn(ProcessId) + Send + Sync + 'static) -> Self {
        self.on_released.push(Box::new(release));
        self
    }

    /// Writes every change to this journal before the change is reported.
    pub fn journal(mut self, journal: Arc<dyn Journal>) -> Self {
        self.journal = Some(journal);
        self
    }

    /// Starts with this state instead of an empty registry. Building writes nothing to the journal and
    /// calls no hook: to readers the registry has never stopped. Sessions above a limit are kept.
    pub fn restore(mut self, state: State) -> Self {
        self.state = Some(state);
        self
    }

    /// Returns whether [`Self::on_register`] or [`Self::on_deregister`] has been called.
    pub fn has_hooks(&self) -> bool {
        !self.hooks.is_empty()
    }

    /// Passes the hooks that a method call made due to `runner`, instead of running them on the calling
    /// thread.
    ///
    /// `runner` must call every [`HookRun`] once. It may do so on any thread and in any order: the
    /// order of the hooks of one session id does not depend on it.
    pub fn run_hooks_by(mut self, runner: impl Fn(HookRun) + Send + Sync + 'static) -> Self {
        self.run_hooks = Some(Box::new(runner));
        self
    }
}

impl fmt::Debug for RegistryBuilder {
    /// Without the token key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            token_key: _,
            lifetimes,
            limits,
            sharing: _,
            strict_replace,
            event_capacity,
            wakers: _,
            hooks: _,
            run_hooks: _,
            on_removed: _,
            on_released: _,
            journal: _,
            state: _,
        } = self;
        f.debug_struct("RegistryBuilder")
            .field("ttl", &lifetimes.default)
            .field("max_ttl", &lifetimes.max)
            .field("limits", limits)
            .field("strict_replace", strict_replace)
            .field("event_capacity", event_capacity)
            .finish_non_exhaustive()
    }
}
