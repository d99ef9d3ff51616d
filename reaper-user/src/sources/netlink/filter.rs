//! The filter of the socket: it passes the exits of watched thread groups only.
//!
//! The guarantee of [`ExitFilter::add`]: once it returns, every later EXIT of that thread group
//! passes. Registration is insert, add, recheck the process, so no death is missed:
//!
//! * A task becomes a zombie, and the last of its group makes the group dead, *before* its EXIT is
//!   built and filtered (`do_exit` in [`kernel/exit.c`] calls `exit_notify` before
//!   `proc_exit_connector`).
//! * The filter is replaced in one step under RCU. An EXIT that met the old filter was sent before
//!   `add` returned; its task was dead by then, and the recheck sees that.
//! * An EXIT that meets the new filter passes, and the watch set already has its process.
//!
//! The cost of attaching grows with the set, so not every addition attaches an exact filter. If the
//! last attachment was too recent or took too long, `add` attaches the cheapest program, which
//! passes *all* exits. While that is in force, further additions cost nothing, because the
//! guarantee holds for every thread group. Once registrations pause, or after [`MAX_WIDE`],
//! [`ExitFilter::keep_tidy`] attaches an exact filter. It does so under the lock under which `add`
//! inserts, so the filter has every thread group that was added. Meanwhile each exit of an
//! unwatched process costs a wake-up and is dropped here.
//!
//! Removal is lazy: a thread group that stays in the filter costs wake-ups at most.
//!
//! [`kernel/exit.c`]: https://elixir.bootlin.com/linux/v6.12/source/kernel/exit.c

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use reaper_registry::ProcessId;
use tokio::sync::Notify;

use crate::clock::monotonic_ns;
use crate::sys::cbpf;
use crate::sys::netlink::ConnectorSocket;

/// The pause after attaching is at least this many times as long as attaching took.
const MIN_PAUSE_FACTOR: u64 = 50;
/// Registrations have paused if there was none for this long.
const QUIET: Duration = Duration::from_millis(20);
/// A wide filter is narrowed after this time even if they do not pause.
const MAX_WIDE: Duration = Duration::from_millis(250);
/// If attaching took longer, `add` leaves it to [`ExitFilter::keep_tidy`], so that registration is
/// fast.
const MAX_PROMPT: Duration = Duration::from_micros(200);
/// Removed thread groups that may stay in the filter, at least.
const MIN_STALE: usize = 64;
/// The smaller bitmap, for kernels whose `net.core.optmem_max` is 20 KiB (before 6.7).
const SMALL_BUCKET_BITS: u32 = 11;

/// Keeps exits of unwatched processes out of the socket's queue. This file has the classic BPF one,
/// which needs no privilege. Where it may be loaded, an eBPF program with a map replaces it.
pub(super) trait ExitFilter: Send + Sync {
    /// Filters this socket from now on. When it returns, everything that was added passes.
    fn install(&self, socket: &Arc<ConnectorSocket>);

    /// When it returns, all exits of this thread group pass. A process may be added twice.
    fn add(&self, tgid: u32, process: ProcessId);

    /// Removes a process. Another one may have the same pid.
    fn remove(&self, tgid: u32, process: ProcessId);

    /// Narrows the filter when it is wider than necessary. Cancel-safe: `install` leaves nothing to
    /// narrow.
    fn keep_tidy(&self) -> impl Future<Output = Infallible> + Send;

    /// Describes the filter in a few words.
    fn describe(&self) -> String;
}

/// The filter as generated classic BPF.
pub(super) struct ClassicFilter {
    /// Our thread group, for the canaries.
    own: Option<u32>,
    state: Mutex<State>,
    /// Notified when there is something to narrow.
    untidy: Notify,
}

#[derive(Default)]
pub(super) struct State {
    /// The watched processes under each pid, mostly one. None: removed, but still in the filter.
    /// Exits of every key pass.
    pub(super) tgids: HashMap<u32, Vec<ProcessId>>,
    pub(super) stale: usize,
    in_force: InForce,
    /// Weak, so that the filter does not keep the socket open.
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
    /// Creates the filter. `own` is a thread group that always passes.
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

    /// Attaches the narrowest filter now.
    #[cfg(test)]
    pub(super) fn install_again(&self) {
        self.state().narrow(self.own);
    }

    pub(super) fn narrow_if_due(&self) -> bool {
        let mut state = self.state();
        let now = monotonic_ns();
        let paused = now - state.added_ns >= nanos(QUIET);
        let long = now - state.widened_ns >= nanos(MAX_WIDE);
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
        if state.may_attach(now) && state.attaching_took_ns <= nanos(MAX_PROMPT) {
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
            if state.stale > MIN_STALE.max(state.tgids.len() / 4) {
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
    /// Returns whether the filter in force passes a thread group that has just been added.
    fn passes(&self, tgid: u32) -> bool {
        match &self.in_force {
            InForce::None | InForce::AllExits => true,
            InForce::Exact => false,
            InForce::Buckets { bits, full } => full[cbpf::bucket(tgid, *bits) as usize],
        }
    }

    fn may_attach(&self, now: u64) -> bool {
        now - self.attached_ns >= self.attaching_took_ns * MIN_PAUSE_FACTOR
    }

    /// Attaches the narrowest program that the kernel accepts.
    fn narrow(&mut self, own: Option<u32>) {
        let Some(socket) = self.socket.upgrade() else {
            return;
        };
        self.tgids.retain(|_, processes| !processes.is_empty());
        self.stale = 0;
        let tgids = || self.tgids.keys().copied().chain(own);
        let started = monotonic_ns();
        // The kernel refuses a program beyond its quota of option memory. A smaller one may fit.
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

    /// Passes all exits.
    fn widen(&mut self, now: u64) {
        let Some(socket) = self.socket.upgrade() else {
            return;
        };
        self.widened_ns = now;
        self.in_force = match socket.attach_classic(&cbpf::all_exits()) {
            Ok(()) => InForce::AllExits,
            Err(refused) => {
                if let Err(error) = socket.detach_filter() {
                    // Possible only for a locked filter, and no code locks this one.
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
