//! The sweep: it checks every watched process every few seconds and on request. It makes up for
//! what the other sources miss, and is the only source on systems without them.
//!
//! - Privilege: none. Minimum system: any whose process table shows start times.
//! - What it can miss: nothing for longer than one interval and its own duration, except a process
//!   that is known by pid and start time alone and whose successor started in the same clock tick.
//! - It never slows down because the others are healthy.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use reaper_registry::{Evidence, Pid, ProcessId, Source, StartTime};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{Context, SourceError};
use crate::clock::monotonic_ns;
use crate::sys::foreign_proc::ForeignProc;
use crate::sys::process_table::ProcessTable;
use crate::watch::hint::{Hint, HintSender};
use crate::watch::set::{WatchSet, Watched};
use crate::watch::status::Reporter;
use crate::watch::verdict::Verdict;

/// The default interval: what clients poll with today, so that the worst case is no worse than
/// that.
pub(crate) const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);
/// Anything shorter is a busy loop.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// Processes per slice: one `poll` over this many descriptors takes some 100 µs.
const SLICE: usize = 512;
/// Processes that are looked at together: a record takes some 10 µs where there is nothing quicker.
const LOOKS: usize = 128;
/// How long a sweep works before other tasks run.
const MAX_TURN: Duration = Duration::from_millis(2);
/// Below this many, pids may all be reused within one interval in ordinary use.
const MIN_MASS: usize = 10;
/// Another user's process that always exists. A table that hides nothing shows it.
const INIT: u32 = 1;
/// How many processes get a stronger identity per sweep, when the budget allows.
const MAX_PROMOTIONS: usize = 256;

/// How the sweep is configured.
#[derive(Clone)]
pub(crate) struct Settings {
    /// May change.
    pub interval: watch::Receiver<Duration>,
    /// Called once per sweep, to remove expired sessions.
    pub each_pass: Arc<dyn Fn() + Send + Sync>,
}

/// Runs without end.
pub(crate) async fn run(
    context: Context,
    mut settings: Settings,
) -> Result<Infallible, SourceError> {
    let mut every = *settings.interval.borrow_and_update();
    let mut ticks = ticks_of(every);
    let baseline = Baseline::taken_from(context.watched.table.as_ref());
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = context.hints.sweep_requested() => {}
            Ok(()) = settings.interval.changed() => {
                every = *settings.interval.borrow_and_update();
                ticks = ticks_of(every);
                continue;
            }
        }
        (settings.each_pass)();
        let began = crate::clock::now().boot;
        let pass = Pass::over(&context.watched, &context.hints, baseline).await;
        context.watched.mark_swept(began);
        let view = View::of(context.watched.table.as_ref());
        context.reporter.swept(pass.took, pass.unknown);
        pass.report(&context.reporter, every, view);
    }
}

/// The first tick is at once.
fn ticks_of(every: Duration) -> Interval {
    let mut ticks = interval(every.max(MIN_INTERVAL));
    // After a long stop (SIGSTOP) there is one sweep, not one per missed interval. Suspend counts
    // as none: CLOCK_MONOTONIC stands still meanwhile, as do the processes.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The result of one sweep.
#[derive(Default)]
struct Pass {
    checked: usize,
    unknown: usize,
    suppressed: usize,
    took: Duration,
}

impl Pass {
    async fn over(watched: &WatchSet, hints: &HintSender, baseline: Baseline) -> Self {
        let started_ns = monotonic_ns();
        let mut turn_ns = started_ns;
        let mut pass = Self::default();
        // Processes whose pid seems to be reused. They are judged together, at the end.
        let mut replaced = Vec::new();
        let mut known_by_pid = 0;
        for slice in watched.slices(SLICE) {
            pass.checked += slice.len();
            let (pinned, weak): (Vec<_>, Vec<_>) = slice
                .into_iter()
                .partition(|one| one.with_pidfd(|pidfd| pidfd.is_some()));
            let exited = exited(watched, &pinned);
            for some in pinned.chunks(LOOKS) {
                let ended_unread = ended_unread(watched, some);
                for one in some {
                    watched.complete(one);
                    if exited.contains(&one.id) || ended_unread.contains(&one.id) {
                        hints.send_when_free(hint_for(one.id)).await;
                    }
                }
                pause_after(&mut turn_ns).await;
            }
            known_by_pid += weak.len();
            for one in weak {
                watched.complete(&one);
                match one.judge(None, watched.table.as_ref()) {
                    Verdict::Alive => {}
                    Verdict::Gone {
                        evidence: Evidence::StartTime,
                        ..
                    } => replaced.push(one),
                    Verdict::Gone { .. } => hints.send_when_free(hint_for(one.id)).await,
                    Verdict::Unknown(doubt) => {
                        log::debug!("pid {}: {doubt}", one.pid);
                        pass.unknown += 1;
                    }
                }
                pause_after(&mut turn_ns).await;
            }
        }
        for process in pass.filter_plausible(watched, replaced, known_by_pid, baseline) {
            hints.send_when_free(hint_for(process)).await;
        }
        promote_some(watched);
        pass.took = Duration::from_nanos(monotonic_ns() - started_ns);
        pass
    }

    /// Returns the processes whose reuse is plausible. If more than half of the processes that are
    /// known by pid alone are replaced within one sweep, wrong start times in the process table are
    /// more likely than a wave of reuse. So the table must show our own start time unchanged. If it
    /// does not, only processes whose pid is free count as replaced.
    fn filter_plausible(
        &mut self,
        watched: &WatchSet,
        replaced: Vec<Arc<Watched>>,
        known_by_pid: usize,
        baseline: Baseline,
    ) -> Vec<ProcessId> {
        let is_mass = replaced.len() >= MIN_MASS && replaced.len() * 2 > known_by_pid;
        let in_doubt = is_mass && !baseline.fits(watched.table.as_ref());
        let (plausible, suppressed): (Vec<_>, Vec<_>) = replaced
            .into_iter()
            .partition(|one| !in_doubt || matches!(watched.table.pid_in_use(one.pid), Ok(false)));
        self.suppressed = suppressed.len();
        plausible.into_iter().map(|one| one.id).collect()
    }

    fn report(&self, reporter: &Reporter, interval: Duration, view: View) {
        let detail = format!(
            "every {:?}, {} processes in {:.1} ms, {} unknown, {} suppressed{}",
            interval,
            self.checked,
            self.took.as_secs_f64() * 1e3,
            self.unknown,
            self.suppressed,
            view.detail(),
        );
        // Reasons without figures: each change of a reason is an event.
        if view == View::Foreign {
            reporter.degraded(&ForeignProc.to_string(), ForeignProc::REMEDY, detail);
        } else if view == View::Nothing {
            reporter.degraded(
                "the process table shows no process, so no start time can be read",
                "mount -t proc proc /proc, and start the daemon again",
                detail,
            );
        } else if self.suppressed > 0 {
            reporter.degraded(
                "many pids look reused at once; the pids are in use, so the sessions are kept",
                "check that /proc is that of the daemon's own pid and time namespace",
                detail,
            );
        } else if self.unknown > 0 {
            reporter.degraded(
                "some processes cannot be checked; they are kept",
                "let the daemon see other users' processes (hidepid, ProtectProc=) or use pidfds",
                detail,
            );
        } else {
            reporter.up(detail);
        }
    }
}

/// Our own start time as the process table showed it when the sweep started; `None` if it did not.
/// A table that shows another one later shows wrong start times.
#[derive(Clone, Copy)]
struct Baseline(Option<StartTime>);

impl Baseline {
    fn taken_from(table: &dyn ProcessTable) -> Self {
        let ourselves = Pid::new(std::process::id());
        let stat = ourselves.ok().and_then(|pid| table.stat(pid).ok());
        Self(stat.map(|stat| stat.start_time))
    }

    /// Returns whether the table still shows the same start time.
    fn fits(self, table: &dyn ProcessTable) -> bool {
        self.0.is_some() && self.0 == Self::taken_from(table).0
    }
}

/// What the process table shows of processes that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    /// It hides nothing.
    All,
    /// It hides other users' processes. That does not degrade the sweep: a process with a pidfd needs no
    /// table, and those in doubt are counted.
    Own,
    /// Not even our own process: it is empty or not there.
    Nothing,
    /// It is that of another pid namespace.
    Foreign,
}

impl View {
    fn of(table: &dyn ProcessTable) -> Self {
        let hides = |pid: u32| {
            let is_hidden = |error: io::Error| {
                use io::ErrorKind::{NotFound, PermissionDenied};
                matches!(error.kind(), NotFound | PermissionDenied)
            };
            // Running out of descriptors or memory is different, and passes.
            Pid::new(pid).is_ok_and(|pid| {
                table.stat(pid).is_err_and(is_hidden) && matches!(table.pid_in_use(pid), Ok(true))
            })
        };
        if ForeignProc::is_shown_by(table) {
            Self::Foreign
        } else if hides(std::process::id()) {
            Self::Nothing
        } else if hides(INIT) {
            Self::Own
        } else {
            Self::All
        }
    }

    fn detail(self) -> &'static str {
        match self {
            Self::Own => ", the process table hides other users' processes",
            Self::All | Self::Nothing | Self::Foreign => "",
        }
    }
}

fn hint_for(process: ProcessId) -> Hint {
    Hint::check(process, Source::Sweep)
}

/// Returns the processes whose pidfd is readable, with one system call for all.
fn exited(watched: &WatchSet, pinned: &[Arc<Watched>]) -> BTreeSet<ProcessId> {
    let identities: Vec<_> = pinned.iter().map(|one| one.identity()).collect();
    let (ids, pidfds): (Vec<_>, Vec<_>) = pinned
        .iter()
        .zip(&identities)
        .filter_map(|(one, identity)| Some((one.id, identity.pidfd()?)))
        .unzip();
    match watched.table.pidfds_exited(&pidfds) {
        Ok(exited) => ids
            .into_iter()
            .zip(exited)
            .filter_map(|(id, exited)| exited.then_some(id))
            .collect(),
        Err(error) => {
            // The poll failed as a whole; judge each process on its own.
            log::warn!("polling {} pidfds failed: {error}", pidfds.len());
            ids.into_iter().collect()
        }
    }
}

/// Returns the processes that have ended although their pidfd is not readable; see
/// [`verdict`](crate::watch::verdict).
fn ended_unread(watched: &WatchSet, pinned: &[Arc<Watched>]) -> BTreeSet<ProcessId> {
    let table = watched.table.as_ref();
    let identities: Vec<_> = pinned.iter().map(|one| one.identity()).collect();
    let (ids, looked_at): (Vec<_>, Vec<_>) = pinned
        .iter()
        .zip(&identities)
        .filter_map(|(one, identity)| Some(((one.id, one.pid), (one.pid, identity.pidfd()?))))
        .unzip();
    let main_threads_ended = table.main_threads_ended(&looked_at);
    let ended = ids.into_iter().zip(main_threads_ended);
    let ended = ended.filter(|((_, pid), main_thread_ended)| {
        *main_thread_ended && matches!(table.every_thread_ended(*pid), Ok(true))
    });
    ended.map(|((id, _), _)| id).collect()
}

async fn pause_after(turn_ns: &mut u64) {
    if Duration::from_nanos(monotonic_ns() - *turn_ns) > MAX_TURN {
        tokio::task::yield_now().await;
        *turn_ns = monotonic_ns();
    }
}

fn promote_some(watched: &WatchSet) {
    let budget = &watched.budget;
    if budget.used() >= budget.limit() || watched.len() <= budget.used() {
        return;
    }
    let mut promoted = 0;
    for slice in watched.slices(SLICE) {
        promoted += slice.iter().filter(|one| watched.promote(one)).count();
        if promoted >= MAX_PROMOTIONS {
            return;
        }
    }
}
