//! Fault injection for tests: hints that are lost, repeated, late, out of order or held back, and sources
//! that are mute or fail. Faults are injected between a source and the loop, with no change to either. Only
//! a test that requests faults has this stage.
//!
//! Hints of the sweep and requests for a sweep are never changed. The random numbers come from a seed, so
//! that a run can be repeated, except for the order in which the kernel's hints arrive.

use std::collections::BTreeMap;
use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use reaper_registry::Source;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::engine::{BoxFuture, HintFilter, SourceRun};
use crate::sources::SourceError;
use crate::watch::hint::{Hint, HintReceiver, HintSender};
use crate::{ExitWatcherBuilder, ReaperBuilder};

/// The reason that a killed source reports.
pub const KILLED: &str = "killed by a test";
/// A window that is not full is closed after this time.
const WINDOW_TIMEOUT: Duration = Duration::from_millis(20);

/// The faults of the hints of one source. The default has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Whether all hints are lost.
    pub mute: bool,
    /// The percentage of hints that are lost.
    pub lost_percent: u8,
    /// The maximum number of repetitions of a hint.
    pub repeats: u8,
    /// Whether hints are held back. They pass once this is reset.
    pub hold: bool,
    /// The number of consecutive hints that are shuffled.
    pub window: usize,
    /// The maximum delay of a hint.
    pub delay: Duration,
}

/// The number of hints by what happened to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sent by the source.
    pub sent: u64,
    pub muted: u64,
    pub lost: u64,
    pub repeated: u64,
    pub held: u64,
    /// Moved to another place in their window.
    pub displaced: u64,
    pub delayed: u64,
    /// Passed to the loop.
    pub delivered: u64,
}

/// The faults of all event sources of one watcher. Clones share them.
#[derive(Clone)]
pub struct Faults(Arc<Shared>);

struct Shared {
    seed: u64,
    links: Mutex<BTreeMap<Source, Arc<Link>>>,
}

/// The connection from one source to the loop.
#[derive(Default)]
struct Link {
    state: Mutex<State>,
    /// Notified when hints may have become due.
    changed: Notify,
    killed: Notify,
}

impl Faults {
    /// Creates a set without faults, with this seed for random numbers.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Shared {
            seed,
            links: Mutex::default(),
        }))
    }

    /// Sets the faults of the hints of this source.
    pub fn plan(&self, source: Source, plan: Plan) {
        let link = self.link(source);
        link.state().plan = plan;
        link.changed.notify_one();
    }

    /// Makes this source fail once: now, or when it runs again.
    pub fn kill(&self, source: Source) {
        self.link(source).killed.notify_one();
    }

    /// Returns what happened to the hints of this source so far.
    pub fn tally(&self, source: Source) -> Tally {
        self.link(source).state().tally
    }

    /// Applies these faults to the event sources of a watcher.
    pub fn watcher(&self, builder: ExitWatcherBuilder) -> ExitWatcherBuilder {
        builder.hint_filter(Arc::new(self.clone()))
    }

    /// Applies these faults to the event sources of a reaper.
    pub fn reaper(&self, builder: ReaperBuilder) -> ReaperBuilder {
        builder.hint_filter(Arc::new(self.clone()))
    }

    fn link(&self, source: Source) -> Arc<Link> {
        let mut links = self.0.links.lock().unwrap_or_else(PoisonError::into_inner);
        links
            .entry(source)
            .or_insert_with(|| {
                let link = Link::default();
                // Per source, so that the numbers do not depend on the hints of other sources.
                let seed = self.0.seed ^ u64::from(source.name().as_bytes()[0]);
                link.state().random = Rng::with_seed(seed);
                Arc::new(link)
            })
            .clone()
    }
}

impl HintFilter for Faults {
    fn attach(&self, source: Source, to: HintSender) -> (HintSender, BoxFuture<()>) {
        let (sender, sent) = to.split();
        (sender, Box::pin(forward(self.link(source), sent, to)))
    }

    /// Makes a run fail on [`Faults::kill`].
    fn wrap(&self, source: Source, run: SourceRun) -> SourceRun {
        let link = self.link(source);
        Box::pin(async move {
            tokio::select! {
                ended = run => ended,
                () = link.killed.notified() => Err(SourceError::new(KILLED, "")),
            }
        })
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faults with seed {}", self.0.seed)
    }
}

impl Link {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forwards hints until the source and its supervisor have ended.
async fn forward(link: Arc<Link>, mut sent: HintReceiver, to: HintSender) {
    loop {
        let wake_at = link.state().next_due();
        tokio::select! {
            hint = sent.recv() => match hint {
                Some(hint) => link.state().take(hint),
                None => return,
            },
            () = link.changed.notified() => {}
            () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {}
        }
        let due = link.state().due();
        for hint in due {
            to.send(hint);
        }
    }
}

/// The pending hints of one source. They pass three stages in this order: held back, in a window, late.
#[derive(Default)]
struct State {
    plan: Plan,
    tally: Tally,
    random: Rng,
    held: Vec<Hint>,
    window: Vec<Hint>,
    window_closes: Option<Instant>,
    /// By due time. The number keeps the order of hints that are due at the same time.
    late: BTreeMap<(Instant, u64), Hint>,
    on_time: Vec<Hint>,
}

impl State {
    fn take(&mut self, hint: Hint) {
        self.tally.sent += 1;
        if self.plan.mute {
            self.tally.muted += 1;
            return;
        }
        if self.random.u64(..100) < u64::from(self.plan.lost_percent) {
            self.tally.lost += 1;
            return;
        }
        let repeats = self.random.u64(..=u64::from(self.plan.repeats));
        self.tally.repeated += repeats;
        for _ in 0..=repeats {
            if self.plan.hold {
                self.tally.held += 1;
                self.held.push(hint);
            } else {
                self.enter_window(hint);
            }
        }
    }

    fn enter_window(&mut self, hint: Hint) {
        self.window.push(hint);
        if self.window.len() >= self.plan.window {
            self.close_window();
        } else if self.window_closes.is_none() {
            self.window_closes = Some(Instant::now() + WINDOW_TIMEOUT);
        }
    }

    fn close_window(&mut self) {
        self.window_closes = None;
        let mut hints: Vec<_> = mem::take(&mut self.window)
            .into_iter()
            .enumerate()
            .collect();
        self.random.shuffle(&mut hints);
        for (place, (old_place, hint)) in hints.into_iter().enumerate() {
            self.tally.displaced += u64::from(place != old_place);
            self.delay(hint);
        }
    }

    fn delay(&mut self, hint: Hint) {
        let max = u64::try_from(self.plan.delay.as_micros()).unwrap_or(u64::MAX);
        if max == 0 {
            self.on_time.push(hint);
            return;
        }
        self.tally.delayed += 1;
        let delay = Duration::from_micros(self.random.u64(..=max));
        self.late
            .insert((Instant::now() + delay, self.tally.delayed), hint);
    }

    /// Returns when further hints become due.
    fn next_due(&self) -> Option<Instant> {
        let late = self.late.keys().next().map(|(at, _)| *at);
        late.into_iter().chain(self.window_closes).min()
    }

    /// Takes the hints that are due.
    fn due(&mut self) -> Vec<Hint> {
        if !self.plan.hold {
            for hint in mem::take(&mut self.held) {
                self.enter_window(hint);
            }
        }
        let now = Instant::now();
        if self.window_closes.is_some_and(|at| at <= now) {
            self.close_window();
        }
        let later = self.late.split_off(&(now, u64::MAX));
        let arrived = mem::replace(&mut self.late, later);
        let mut due = mem::take(&mut self.on_time);
        due.extend(arrived.into_values());
        self.tally.delivered += u64::try_from(due.len()).unwrap_or(u64::MAX);
        due
    }
}
