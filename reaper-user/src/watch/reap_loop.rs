//! The loop: it receives hints, asks for a verdict and commits deaths. Nothing else removes a
//! process because it is dead.
//!
//! Hints are taken in batches and merged per process, because several sources see one death within
//! microseconds and each has other data: one the exit status, another the time.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use reaper_registry::{Death, Evidence, Exit, ExitStatus, ProcessId, Source};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::clock::monotonic_ns;
use crate::watch::hint::{Hint, HintReceiver, HintSender, WaitStatus};
use crate::watch::set::WatchSet;
use crate::watch::status::StatusBoard;
use crate::watch::verdict::{GroupDead, Verdict};

/// Hints taken at once.
const BATCH: usize = 256;
/// How many processes are decided about before other tasks run: some 100 µs.
const TURN: usize = 64;
/// Delays of the rechecks after a hint for a process that is still alive. The connector reports a
/// main thread before its workers, and the probe fires before the memory is torn down. A process
/// that is alive after these waits for its next hint, its pidfd or the sweep.
const RECHECK_AFTER: [Duration; 7] = [
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(125),
    Duration::from_millis(625),
    Duration::from_millis(3_125),
];
/// Rechecks after a netlink hint. Fewer, because every further thread exit brings another hint. The
/// probe sends one hint only. A process that was already exiting when it was registered may have
/// passed the probe, and on a busy machine the rest of its exit takes longer than these.
const RECHECKS_AFTER_NETLINK: usize = 5;

/// Receives the deaths.
pub(crate) trait Commit: Send + Sync + 'static {
    /// Records the death of a process, once, with everything that follows from it, or the next part of
    /// that. Returns whether another part is left, for the next call.
    fn commit(&self, process: ProcessId, death: Death) -> bool;
}

pub(crate) struct ReapLoop<C> {
    watched: Arc<WatchSet>,
    board: StatusBoard,
    commit: Arc<C>,
    suspects: HashMap<ProcessId, Suspect>,
    /// The pause between two beats; `None`: there are none.
    beat_interval: Option<Duration>,
    /// Decisions since other tasks ran.
    in_turn: usize,
}

/// What is known of a process after a hint, until a verdict finds it gone.
struct Suspect {
    /// The source of the first hint since the last check.
    source: Source,
    exit: Reported,
    died_at_ns: Option<u64>,
    /// The kernel's report, and the source that sent it.
    group_dead: Option<(GroupDead, Source)>,
    /// Checks since the last hint.
    checks: usize,
    recheck_at: Option<Instant>,
}

/// What sources reported about the exit status.
#[derive(Clone, Copy, Default)]
struct Reported {
    of_process: Option<Exit>,
    last: Option<Exit>,
    main_thread_left: bool,
}

impl Reported {
    fn learn(&mut self, status: WaitStatus, from: Source) {
        let exit = |raw| {
            Some(Exit {
                status: ExitStatus::from_wait_status(raw),
                from,
            })
        };
        match status {
            WaitStatus::Process(raw) => self.of_process = exit(raw),
            WaitStatus::MainThread(raw) => {
                self.main_thread_left = true;
                self.last = exit(raw);
            }
            WaitStatus::Worker(raw) => self.last = exit(raw),
        }
    }

    /// Drops a zero status of a thread, because the process is alive: it is not the status of its
    /// end. A worker's exec and a main thread that leaves first both produce such a zero.
    fn forget_zero_of_a_thread(&mut self) {
        let is_zero = |exit: &Exit| exit.status == ExitStatus::Code(0);
        self.last = self.last.filter(|last| !is_zero(last));
    }

    /// Returns the status of the last thread, which is that of the process. Only if the main
    /// thread's is among those seen: otherwise a worker may have left just before with a status
    /// that differs.
    fn of_last_thread(self) -> Option<Exit> {
        self.last.filter(|_| self.main_thread_left)
    }
}

impl Suspect {
    fn new(source: Source) -> Self {
        Self {
            source,
            exit: Reported::default(),
            died_at_ns: None,
            group_dead: None,
            checks: 0,
            recheck_at: None,
        }
    }

    /// Takes in a hint. The first one after a check starts anew: what came before it was about a
    /// thread that left or an image that was replaced, and not about this end.
    fn learn(&mut self, hint: &Hint) {
        if self.checks > 0 {
            *self = Self::new(hint.source);
        }
        if let Some(status) = hint.exit {
            self.exit.learn(status, hint.source);
        }
        self.died_at_ns = hint.died_at_ns.or(self.died_at_ns);
        if let Some(report) = hint.group_dead {
            self.group_dead = Some((report, hint.source));
        }
    }

    /// Returns the source that led to this evidence: that of the first hint, unless only one can
    /// have.
    fn attributed_to(&self, evidence: Evidence) -> Source {
        match (evidence, self.group_dead) {
            (Evidence::GroupDead, Some((_, source))) => source,
            _ => self.source,
        }
    }

    /// Sets the next recheck of a process that was not found gone. Returns whether there is one.
    fn reschedule(&mut self) -> bool {
        self.exit.forget_zero_of_a_thread();
        let pauses = match self.source {
            Source::Netlink => &RECHECK_AFTER[..RECHECKS_AFTER_NETLINK],
            _ => &RECHECK_AFTER[..],
        };
        let pause = pauses.get(self.checks);
        self.checks += 1;
        self.recheck_at = pause.map(|pause| Instant::now() + *pause);
        pause.is_some()
    }
}

impl<C: Commit> ReapLoop<C> {
    /// Runs until every sender of hints is dropped.
    async fn run(mut self, hints: &mut HintReceiver) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut next_beat = self.beat_interval.map(|_| Instant::now());
        loop {
            tokio::select! {
                () = until(next_beat) => {
                    self.board.beat();
                    next_beat = self.beat_interval.map(|interval| Instant::now() + interval);
                }
                received = hints.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        return;
                    }
                    self.drain_pending(hints, &mut batch).await;
                    let named = self.note(batch.drain(..));
                    for process in named {
                        self.conclude(process).await;
                    }
                }
                () = until(self.next_recheck()) => {
                    for process in self.due() {
                        self.conclude(process).await;
                    }
                }
            }
        }
    }

    /// Takes in what is queued already. A pidfd is readable a few microseconds before the
    /// connector's message is queued, and only the message has the exit status. Where a source with
    /// the status runs, it gets its turn on the scheduler before the verdict. This waits for ready
    /// tasks only, not for time.
    async fn drain_pending(&self, hints: &mut HintReceiver, batch: &mut Vec<Hint>) {
        let lacks_status = |hint: &Hint| hint.source == Source::Pidfd;
        let status_source_runs =
            self.board.works(Source::Netlink) || self.board.works(Source::Ebpf);
        if status_source_runs && batch.iter().any(lacks_status) {
            tokio::task::yield_now().await;
            while batch.len() < 2 * BATCH
                && let Ok(hint) = hints.try_recv()
            {
                batch.push(hint);
            }
        }
    }

    /// Merges hints into what is known. Returns the processes that they name, each once, in the order of their
    /// deaths, or of the hints where that is unknown: of the processes of one session the last one counts.
    fn note(&mut self, hints: impl Iterator<Item = Hint>) -> Vec<ProcessId> {
        let mut named = Vec::new();
        for hint in hints {
            let suspect = self
                .suspects
                .entry(hint.process)
                .or_insert_with(|| Suspect::new(hint.source));
            suspect.learn(&hint);
            named.push((hint.process, named.len()));
        }
        named.sort_unstable();
        named.dedup_by_key(|(process, _)| *process);
        named.sort_by_key(|(process, position)| {
            let died_at_ns = self.suspects.get(process).and_then(|it| it.died_at_ns);
            (died_at_ns.unwrap_or(u64::MAX), *position)
        });
        named.into_iter().map(|(process, _)| process).collect()
    }

    /// Decides about one process and records its death.
    ///
    /// Other tasks run after every few deaths and between the parts of one. In a mass death there is
    /// always more, in batches of any size. The tasks that the events have just woken wait on this
    /// worker, where no other can take them over, and a subscriber must not fall behind the event log.
    async fn conclude(&mut self, process: ProcessId) {
        let death = contain(process, || self.decide(process)).flatten();
        loop {
            let record = |death| contain(process, || self.commit.commit(process, death));
            let has_more = death.and_then(record).unwrap_or(false);
            self.in_turn += 1;
            if has_more || self.in_turn >= TURN {
                self.in_turn = 0;
                tokio::task::yield_now().await;
            }
            if !has_more {
                return;
            }
        }
    }

    /// Returns the death of this process if it is gone.
    fn decide(&mut self, process: ProcessId) -> Option<Death> {
        let mut suspect = self.suspects.remove(&process)?;
        let watched = self.watched.get(process)?;
        let group_dead = suspect.group_dead.map(|(report, _)| report);
        match watched.judge(group_dead, self.watched.table.as_ref()) {
            Verdict::Gone {
                evidence,
                pid_reused,
            } => {
                let death = Death {
                    source: suspect.attributed_to(evidence),
                    evidence,
                    pid_reused,
                    exit: suspect
                        .exit
                        .of_process
                        .or_else(|| watched.exit(self.watched.table.as_ref()))
                        .or_else(|| suspect.exit.of_last_thread()),
                    detection: suspect.died_at_ns.map(|died_at_ns| {
                        Duration::from_nanos(monotonic_ns().saturating_sub(died_at_ns))
                    }),
                };
                if let Some(detection) = death.detection {
                    let of_source = self.board.counters().detection.of(death.source);
                    of_source.add(detection);
                }
                return Some(death);
            }
            Verdict::Alive => {}
            Verdict::Unknown(doubt) => {
                self.board.counters().unknown.add(suspect.source, 1);
                log::debug!("pid {} is kept: {doubt}", watched.pid);
            }
        }
        if suspect.reschedule() {
            self.suspects.insert(process, suspect);
        }
        None
    }

    fn next_recheck(&self) -> Option<Instant> {
        self.suspects
            .values()
            .filter_map(|suspect| suspect.recheck_at)
            .min()
    }

    fn due(&self) -> Vec<ProcessId> {
        let now = Instant::now();
        let is_due = |suspect: &Suspect| suspect.recheck_at.is_some_and(|at| at <= now);
        self.suspects
            .iter()
            .filter(|(_, one)| is_due(one))
            .map(|(process, _)| *process)
            .collect()
    }
}

/// Calls a function about one process. A panic must not end the watch over all others.
fn contain<T>(process: ProcessId, call: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(call))
        .inspect_err(|_| log::error!("deciding about process {} panicked", process.0))
        .ok()
}

/// Runs the loop until every sender of hints is dropped. After a panic it starts a new loop and
/// requests a sweep, because what the old one had gathered about deaths is lost.
pub(crate) async fn supervise<C: Commit>(
    watched: Arc<WatchSet>,
    board: StatusBoard,
    commit: C,
    hints: HintSender,
    receiver: HintReceiver,
    beat_interval: Option<Duration>,
) {
    let commit = Arc::new(commit);
    let receiver = Arc::new(Mutex::new(receiver));
    let run = || {
        let reap_loop = ReapLoop {
            watched: watched.clone(),
            board: board.clone(),
            commit: commit.clone(),
            suspects: HashMap::new(),
            beat_interval,
            in_turn: 0,
        };
        let receiver = receiver.clone();
        async move { reap_loop.run(&mut *receiver.lock().await).await }
    };
    let on_panic = || {
        log::error!("the loop that removes dead processes panicked; restarting it");
        board.count_loop_restart();
        hints.request_sweep();
    };
    rerun_after_panics(run, on_panic).await;
}

/// Runs a future in a separate task, and another one after each panic, until one returns.
async fn rerun_after_panics<Run>(run: impl Fn() -> Run, on_panic: impl Fn())
where
    Run: Future<Output = ()> + Send + 'static,
{
    loop {
        // A JoinSet, because dropping it ends the task.
        let mut task = JoinSet::new();
        task.spawn(run());
        match task.join_next().await {
            Some(Err(error)) if error.is_panic() => on_panic(),
            _ => return,
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
