//! Faults for tests: hints that are lost, repeated, late, out of order or held back, and sources that
//! are mute or fail. They befall the line between a source and the loop, so that neither knows of
//! them, and there is no such line unless a test asks for it.
//!
//! What is never touched: hints of the sweep, and the wish that everybody be looked at. Chance comes
//! from a seed, so that a run can be tried again; in what order hints arrive is the kernel's affair.

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

/// What a killed source says for itself.
pub const KILLED: &str = "killed by a test";
/// A window that does not fill is closed after this time.
const WINDOW_OPEN: Duration = Duration::from_millis(20);

/// What befalls the hints of one source; nothing unless set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// All of them are lost.
    pub mute: bool,
    /// So many in a hundred are lost.
    pub lost_percent: u8,
    /// Each comes up to so many times more.
    pub repeats: u8,
    /// None arrives until this is no longer so.
    pub hold: bool,
    /// So many in a row arrive in any order.
    pub window: usize,
    /// Each is late by up to this much.
    pub delay: Duration,
}

/// What has befallen them so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// By the source.
    pub said: u64,
    pub muted: u64,
    pub lost: u64,
    pub repeated: u64,
    pub held: u64,
    /// Not where they stood in their window.
    pub displaced: u64,
    pub delayed: u64,
    /// By the loop.
    pub heard: u64,
}

/// The faults of all event sources of one watcher; clones share them.
#[derive(Clone)]
pub struct Faults(Arc<Shared>);

struct Shared {
    seed: u64,
    lines: Mutex<BTreeMap<Source, Arc<Line>>>,
}

#[derive(Default)]
struct Line {
    state: Mutex<State>,
    /// There may be something to pass on.
    changed: Notify,
    killed: Notify,
}

impl Faults {
    /// No faults yet, and where chance comes from.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Shared {
            seed,
            lines: Mutex::default(),
        }))
    }

    /// From now on this befalls the hints of this source.
    pub fn plan(&self, source: Source, plan: Plan) {
        let line = self.line(source);
        line.state().plan = plan;
        line.changed.notify_one();
    }

    /// Makes this source fail once: now, or as soon as it runs again.
    pub fn kill(&self, source: Source) {
        self.line(source).killed.notify_one();
    }

    /// What has befallen the hints of this source.
    pub fn tally(&self, source: Source) -> Tally {
        self.line(source).state().tally
    }

    /// Puts the hints of this watcher's event sources through these faults.
    pub fn watcher(&self, builder: ExitWatcherBuilder) -> ExitWatcherBuilder {
        builder.hint_filter(Arc::new(self.clone()))
    }

    /// Puts the hints of this reaper's event sources through these faults.
    pub fn reaper(&self, builder: ReaperBuilder) -> ReaperBuilder {
        builder.hint_filter(Arc::new(self.clone()))
    }

    fn line(&self, source: Source) -> Arc<Line> {
        let mut lines = self.0.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .entry(source)
            .or_insert_with(|| {
                let line = Line::default();
                // Each source its own chances, whatever the others say.
                let seed = self.0.seed ^ u64::from(source.name().as_bytes()[0]);
                line.state().random = Rng::with_seed(seed);
                Arc::new(line)
            })
            .clone()
    }
}

impl HintFilter for Faults {
    fn attach(&self, source: Source, to: HintSender) -> (HintSender, BoxFuture<()>) {
        let (sender, said) = to.split();
        (sender, Box::pin(pass_on(self.line(source), said, to)))
    }

    /// Ends a run by [`Faults::kill`].
    fn wrap(&self, source: Source, run: SourceRun) -> SourceRun {
        let line = self.line(source);
        Box::pin(async move {
            tokio::select! {
                ended = run => ended,
                () = line.killed.notified() => Err(SourceError::new(KILLED, "")),
            }
        })
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faults of seed {}", self.0.seed)
    }
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs until the source and its supervisor are gone.
async fn pass_on(line: Arc<Line>, mut said: HintReceiver, to: HintSender) {
    loop {
        let wake_at = line.state().next_due();
        tokio::select! {
            hint = said.recv() => match hint {
                Some(hint) => line.state().take(hint),
                None => return,
            },
            () = line.changed.notified() => {}
            () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {}
        }
        let due = line.state().due();
        for hint in due {
            to.send(hint);
        }
    }
}

/// The hints of one source that are on their way, in the order in which they pass: held back, then
/// in a window, then late.
#[derive(Default)]
struct State {
    plan: Plan,
    tally: Tally,
    random: Rng,
    held: Vec<Hint>,
    window: Vec<Hint>,
    window_closes: Option<Instant>,
    /// By the time of arrival; the number keeps those of one instant in order.
    late: BTreeMap<(Instant, u64), Hint>,
    on_time: Vec<Hint>,
}

impl State {
    fn take(&mut self, hint: Hint) {
        self.tally.said += 1;
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
            self.window_closes = Some(Instant::now() + WINDOW_OPEN);
        }
    }

    fn close_window(&mut self) {
        self.window_closes = None;
        let mut hints: Vec<_> = mem::take(&mut self.window)
            .into_iter()
            .enumerate()
            .collect();
        self.random.shuffle(&mut hints);
        for (place, (stood_at, hint)) in hints.into_iter().enumerate() {
            self.tally.displaced += u64::from(place != stood_at);
            self.be_late(hint);
        }
    }

    fn be_late(&mut self, hint: Hint) {
        let at_most = u64::try_from(self.plan.delay.as_micros()).unwrap_or(u64::MAX);
        if at_most == 0 {
            self.on_time.push(hint);
            return;
        }
        self.tally.delayed += 1;
        let delay = Duration::from_micros(self.random.u64(..=at_most));
        self.late
            .insert((Instant::now() + delay, self.tally.delayed), hint);
    }

    /// When [`Self::due`] has more than now.
    fn next_due(&self) -> Option<Instant> {
        let late = self.late.keys().next().map(|(at, _)| *at);
        late.into_iter().chain(self.window_closes).min()
    }

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
        self.tally.heard += u64::try_from(due.len()).unwrap_or(u64::MAX);
        due
    }
}
