//! Whose exits reach our queue: the watched thread groups, kept in the socket's filter.
//!
//! The promise of [`ExitFilter::add`]: when it returns, every EXIT of that thread group from then on
//! passes. Registration is insert -> add -> look at the process once more, so no death is missed:
//!
//! * A task becomes a zombie, and the last of its group makes the group dead, *before* its EXIT is
//!   built and filtered (`do_exit`: `exit_notify` comes before `proc_exit_connector`).
//! * The filter is replaced in one step under RCU. An EXIT that still met the old one was on its way
//!   before `add` returned; its task was dead by then, and the look that follows sees it.
//! * An EXIT that met the new one passes, and the watch set already holds its process.
//!
//! Attaching costs in proportion to the set, so not every newcomer gets an exact filter at once. If
//! the last one is too recent or took too long, `add` attaches the cheapest program that passes *all* exits; while
//! that is in force further newcomers cost nothing, because the promise holds for everybody. Once
//! registrations pause, or the filter has been wide for long enough, [`ExitFilter::keep_tidy`]
//! attaches an exact one: under the same lock under which `add` inserts, so it holds everyone whom
//! the promise was given to. Meanwhile unrelated processes' exits cost a wake-up each and are dropped by us.
//!
//! Removal only lags: a thread group that stays in the filter costs at most a wake-up.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use reaper_registry::ProcessId;
use tokio::sync::Notify;

use crate::clock::monotonic_ns;
use crate::sys::cbpf;
use crate::sys::netlink::ConnectorSocket;

/// Attaching takes at most one part in so many of the time.
const SHARE: u64 = 50;
/// Registrations have paused if there was none for so long.
const QUIET: Duration = Duration::from_millis(20);
/// A wide filter is narrowed after this time even if they do not pause.
const WIDE_AT_MOST: Duration = Duration::from_millis(250);
/// Above this, `add` leaves it to [`ExitFilter::keep_tidy`]: a registration should not wait for it.
const PROMPT: Duration = Duration::from_micros(200);
/// Thread groups that may stay in the filter after they have been removed, at least.
const STALE: usize = 64;
/// The smaller bitmap, for kernels whose `net.core.optmem_max` is 20 KiB (before 6.7).
const SMALL_BUCKET_BITS: u32 = 11;

/// What keeps unrelated processes' exits out of our queue. The one here is classic BPF, which needs no
/// privilege; an eBPF program with a map, where it may be loaded, can take its place.
pub(super) trait ExitFilter: Send + Sync {
    /// Works on this socket from now on. All that has been added passes on return.
    fn install(&self, socket: &Arc<ConnectorSocket>);

    /// On return all exits of this thread group pass. A process may be added twice.
    fn add(&self, tgid: u32, process: ProcessId);

    /// The process is of no interest any more. Another one may have the same number.
    fn remove(&self, tgid: u32, process: ProcessId);

    /// Narrows the filter whenever it has become wider than need be. Cancel-safe: `install` leaves
    /// nothing to narrow.
    fn keep_tidy(&self) -> impl Future<Output = Infallible> + Send;

    /// How it filters, in a few words.
    fn describe(&self) -> String;
}

/// Generated classic BPF.
pub(super) struct ClassicFilter {
    /// Our own thread group, for the canaries.
    own: Option<u32>,
    state: Mutex<State>,
    /// There is something to narrow.
    untidy: Notify,
}

#[derive(Default)]
pub(super) struct State {
    /// Who is watched under each number, mostly one; none: still in the filter. Every key passes.
    pub(super) tgids: HashMap<u32, Vec<ProcessId>>,
    pub(super) stale: usize,
    in_force: InForce,
    /// Not ours to keep open.
    socket: Weak<ConnectorSocket>,
    added_ns: u64,
    widened_ns: u64,
    attached_ns: u64,
    attaching_took_ns: u64,
}

#[derive(Default)]
enum InForce {
    /// Nothing is filtered.
    #[default]
    None,
    AllExits,
    Exact,
    Buckets {
        bits: u32,
        full: Vec<bool>,
    },
}

impl ClassicFilter {
    /// `own`: a thread group that always passes.
    pub(super) fn new(own: Option<u32>) -> Self {
        Self {
            own,
            state: Mutex::default(),
            untidy: Notify::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attaches the tightest filter now.
    #[cfg(test)]
    pub(super) fn install_again(&self) {
        self.state().narrow(self.own);
    }

    pub(super) fn narrow_if_due(&self) -> bool {
        let mut state = self.state();
        let now = monotonic_ns();
        let paused = now - state.added_ns >= nanos(QUIET);
        let long = now - state.widened_ns >= nanos(WIDE_AT_MOST);
        let due = state.may_attach(now) && (paused || long);
        if due {
            state.narrow(self.own);
        }
        due
    }
}

impl ExitFilter for ClassicFilter {
    fn install(&self, socket: &Arc<ConnectorSocket>) {
        let mut state = self.state();
        state.socket = Arc::downgrade(socket);
        state.narrow(self.own);
    }

    fn add(&self, tgid: u32, process: ProcessId) {
        let mut state = self.state();
        let state = &mut *state;
        if let Some(processes) = state.tgids.get_mut(&tgid) {
            state.stale -= usize::from(processes.is_empty());
            if !processes.contains(&process) {
                processes.push(process);
            }
            return;
        }
        state.tgids.insert(tgid, vec![process]);
        let now = monotonic_ns();
        state.added_ns = now;
        if state.passes(tgid) {
            return;
        }
        if state.may_attach(now) && state.attaching_took_ns <= nanos(PROMPT) {
            state.narrow(self.own);
        } else {
            state.widen(now);
            self.untidy.notify_one();
        }
    }

    fn remove(&self, tgid: u32, process: ProcessId) {
        let mut state = self.state();
        let Some(processes) = state.tgids.get_mut(&tgid) else {
            return;
        };
        let before = processes.len();
        processes.retain(|other| *other != process);
        if before > 0 && processes.is_empty() {
            state.stale += 1;
            if state.stale > STALE.max(state.tgids.len() / 4) {
                self.untidy.notify_one();
            }
        }
    }

    async fn keep_tidy(&self) -> Infallible {
        loop {
            self.untidy.notified().await;
            loop {
                tokio::time::sleep(QUIET).await;
                if self.narrow_if_due() {
                    break;
                }
            }
        }
    }

    fn describe(&self) -> String {
        let state = self.state();
        let watched = state.tgids.len() - state.stale;
        match &state.in_force {
            InForce::None => "none".to_owned(),
            InForce::AllExits => format!("classic (all exits, {watched} tgids)"),
            InForce::Exact => format!("classic ({watched} tgids)"),
            InForce::Buckets { bits, .. } => {
                format!("classic ({watched} tgids in {} buckets)", 1 << bits)
            }
        }
    }
}

impl State {
    /// Whether the filter in force passes a thread group that has just been added.
    fn passes(&self, tgid: u32) -> bool {
        match &self.in_force {
            InForce::None | InForce::AllExits => true,
            InForce::Exact => false,
            InForce::Buckets { bits, full } => full[cbpf::bucket(tgid, *bits) as usize],
        }
    }

    fn may_attach(&self, now: u64) -> bool {
        now - self.attached_ns >= self.attaching_took_ns * SHARE
    }

    /// Attaches the tightest program that the kernel takes.
    fn narrow(&mut self, own: Option<u32>) {
        let Some(socket) = self.socket.upgrade() else {
            return;
        };
        self.tgids.retain(|_, processes| !processes.is_empty());
        self.stale = 0;
        let tgids = || self.tgids.keys().copied().chain(own);
        let started = monotonic_ns();
        // Beyond its quota of option memory the kernel refuses a program; a smaller one may do.
        let exact = tgids().count() <= cbpf::MAX_EXACT
            && socket.attach_classic(&cbpf::exact(tgids())).is_ok();
        let buckets = |bits: u32| {
            socket.attach_classic(&cbpf::buckets(tgids(), bits)).ok()?;
            let mut full = vec![false; 1 << bits];
            tgids().for_each(|tgid| full[cbpf::bucket(tgid, bits) as usize] = true);
            Some(InForce::Buckets { bits, full })
        };
        let in_force = if exact {
            Some(InForce::Exact)
        } else {
            buckets(cbpf::MAX_BUCKET_BITS).or_else(|| buckets(SMALL_BUCKET_BITS))
        };
        match in_force {
            Some(in_force) => self.in_force = in_force,
            None => self.widen(started),
        }
        self.attached_ns = monotonic_ns();
        self.attaching_took_ns = self.attached_ns - started;
    }

    /// Lets all exits pass.
    fn widen(&mut self, now: u64) {
        let Some(socket) = self.socket.upgrade() else {
            return;
        };
        self.widened_ns = now;
        self.in_force = match socket.attach_classic(&cbpf::all_exits()) {
            Ok(()) => InForce::AllExits,
            Err(refused) => {
                if let Err(error) = socket.detach_filter() {
                    // Only for a locked filter, and nobody locks ours.
                    log::error!(
                        "cannot change the filter of the proc connector: {refused}, {error}"
                    );
                }
                InForce::None
            }
        };
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
