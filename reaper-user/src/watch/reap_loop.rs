//! The loop: hint in, verdict, commit. It alone removes anything for being dead.
//!
//! Hints are taken in batches and merged per process, because one death is seen by several sources
//! within microseconds and each knows something else about it: one the exit status, one the time.

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
use crate::watch::set::{WatchSet, Watched};
use crate::watch::status::StatusBoard;
use crate::watch::verdict::{GroupDead, Verdict};

/// Hints taken at once; between two batches others get their turn.
const BATCH: usize = 256;
/// When a process that was said to exit still lives is looked at again. The connector reports a
/// leader before its workers, and the probe fires before the memory is torn down; whatever lives
/// longer than this goes on living until its next hint, its pidfd or the sweep.
const RECHECK_AFTER: [Duration; 7] = [
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(125),
    Duration::from_millis(625),
    Duration::from_millis(3_125),
];
/// How many of these there are for whom the connector points at: it has pointed at a thread, and will
/// at the last one too. The probe points once; and whoever was on the way out when it was registered
/// may have passed it already, and on a busy machine needs longer than this for the rest of the way.
const RECHECKS_AFTER_A_THREAD: usize = 5;

/// Where deaths are committed.
pub(crate) trait Commit: Send + Sync + 'static {
    /// The process is gone: make it so, once, for everything that hangs on it.
    fn commit(&self, process: ProcessId, death: Death);
}

pub(crate) struct ReapLoop<C> {
    watched: Arc<WatchSet>,
    board: StatusBoard,
    commit: Arc<C>,
    suspects: HashMap<ProcessId, Suspect>,
}

/// What is known of a process that somebody pointed at and that was not yet found gone.
struct Suspect {
    /// Whose hint is being followed: the first one since the last look.
    source: Source,
    exit: Reported,
    died_at_ns: Option<u64>,
    /// The kernel's own word, and who brought it.
    group_dead: Option<(GroupDead, Source)>,
    /// Looks taken since the last hint.
    looks: usize,
    recheck_at: Option<Instant>,
}

/// What sources reported of how it ended.
#[derive(Clone, Copy, Default)]
struct Reported {
    of_process: Option<Exit>,
    last: Option<Exit>,
    main_thread_left: bool,
}

impl Reported {
    fn learn(&mut self, word: WaitStatus, from: Source) {
        let exit = |word| {
            Some(Exit {
                status: ExitStatus::from_wait_status(word),
                from,
            })
        };
        match word {
            WaitStatus::Process(word) => self.of_process = exit(word),
            WaitStatus::MainThread(word) => {
                self.main_thread_left = true;
                self.last = exit(word);
            }
            WaitStatus::Worker(word) => self.last = exit(word),
        }
    }

    /// The process lives: a zero that a thread left with says nothing of its end. An exec by a worker and a
    /// main thread that leaves first look like that.
    fn forget_zero_of_a_thread(&mut self) {
        let is_zero = |exit: &Exit| exit.status == ExitStatus::Code(0);
        self.last = self.last.filter(|last| !is_zero(last));
    }

    /// The last thread's word is the process's. Without the main thread's among them, the last one
    /// seen need not be the last one: a worker may have left just before, with a word of its own.
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
            looks: 0,
            recheck_at: None,
        }
    }

    /// Takes in a hint. The first one after a look begins anew: what came before it was about a
    /// thread that left, or an image that was replaced, and not about this end.
    fn learn(&mut self, hint: &Hint) {
        if self.looks > 0 {
            *self = Self::new(hint.source);
        }
        if let Some(word) = hint.exit {
            self.exit.learn(word, hint.source);
        }
        self.died_at_ns = hint.died_at_ns.or(self.died_at_ns);
        if let Some(word) = hint.group_dead {
            self.group_dead = Some((word, hint.source));
        }
    }

    /// Whose hint led to this evidence: the first one, unless only one could have.
    fn attributed_to(&self, evidence: Evidence) -> Source {
        match (evidence, self.group_dead) {
            (Evidence::GroupDead, Some((_, source))) => source,
            _ => self.source,
        }
    }

    /// It was looked at and not found gone. Answers whether it is worth another look by itself.
    fn lives(&mut self) -> bool {
        self.exit.forget_zero_of_a_thread();
        let pauses = match self.source {
            Source::Netlink => &RECHECK_AFTER[..RECHECKS_AFTER_A_THREAD],
            _ => &RECHECK_AFTER[..],
        };
        let pause = pauses.get(self.looks);
        self.looks += 1;
        self.recheck_at = pause.map(|pause| Instant::now() + *pause);
        pause.is_some()
    }
}

impl<C: Commit> ReapLoop<C> {
    fn new(watched: Arc<WatchSet>, board: StatusBoard, commit: Arc<C>) -> Self {
        Self {
            watched,
            board,
            commit,
            suspects: HashMap::new(),
        }
    }

    /// Runs until every sender of hints is gone.
    async fn run(mut self, hints: &mut HintReceiver) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                received = hints.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        return;
                    }
                    self.drain_pending(hints, &mut batch).await;
                    let pointed_at = self.note(batch.drain(..));
                    for process in pointed_at {
                        self.decide_contained(process);
                    }
                    // In a mass death there is always more. Those whom the events have just woken
                    // wait on this very worker, and a subscriber must not lag behind the ring.
                    if received == BATCH {
                        tokio::task::yield_now().await;
                    }
                }
                () = until(self.next_look()) => {
                    for process in self.due() {
                        self.decide_contained(process);
                    }
                }
            }
        }
    }

    /// A pidfd is readable a few microseconds before the connector's message is queued, and only
    /// the message tells how the process ended. Where a source runs that will tell, it gets its turn
    /// on the scheduler before the verdict: no time is waited for, only those who are ready.
    async fn drain_pending(&self, hints: &mut HintReceiver, batch: &mut Vec<Hint>) {
        let knows_no_status = |hint: &Hint| hint.source == Source::Pidfd;
        let status_source_runs =
            self.board.works(Source::Netlink) || self.board.works(Source::Ebpf);
        if status_source_runs && batch.iter().any(knows_no_status) {
            tokio::task::yield_now().await;
            while batch.len() < 2 * BATCH
                && let Ok(hint) = hints.try_recv()
            {
                batch.push(hint);
            }
        }
    }

    /// Merges hints into what is known; answers who was pointed at, each once.
    fn note(&mut self, hints: impl Iterator<Item = Hint>) -> Vec<ProcessId> {
        let mut pointed_at = Vec::new();
        for hint in hints {
            let suspect = self
                .suspects
                .entry(hint.process)
                .or_insert_with(|| Suspect::new(hint.source));
            suspect.learn(&hint);
            pointed_at.push(hint.process);
        }
        pointed_at.sort_unstable();
        pointed_at.dedup();
        pointed_at
    }

    /// A panic over one process must not end the watch over all others.
    fn decide_contained(&mut self, process: ProcessId) {
        if catch_unwind(AssertUnwindSafe(|| self.decide(process))).is_err() {
            log::error!("deciding about process {} panicked", process.0);
        }
    }

    fn decide(&mut self, process: ProcessId) {
        let Some(mut suspect) = self.suspects.remove(&process) else {
            return;
        };
        let Some(watched) = self.watched.get(process) else {
            return;
        };
        let group_dead = suspect.group_dead.map(|(word, _)| word);
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
                        .or_else(|| self.kept_status(&watched))
                        .or_else(|| suspect.exit.of_last_thread()),
                    detection: suspect.died_at_ns.map(|died_at_ns| {
                        Duration::from_nanos(monotonic_ns().saturating_sub(died_at_ns))
                    }),
                };
                self.commit.commit(process, death);
                return;
            }
            Verdict::Alive => {}
            Verdict::Unknown(doubt) => log::debug!("pid {} is kept: {doubt}", watched.pid),
        }
        if suspect.lives() {
            self.suspects.insert(process, suspect);
        }
    }

    /// The status that the system itself still keeps: the process's own, where events tell of threads.
    fn kept_status(&self, watched: &Watched) -> Option<Exit> {
        watched
            .wait_status(self.watched.table.as_ref())
            .map(|word| Exit {
                status: ExitStatus::from_wait_status(word),
                from: Source::Pidfd,
            })
    }

    fn next_look(&self) -> Option<Instant> {
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

/// Runs the loop until every sender of hints is gone. One that panics is started again: what it knew of
/// deaths under way is lost, so every process is looked at.
pub(crate) async fn supervise<C: Commit>(
    watched: Arc<WatchSet>,
    board: StatusBoard,
    commit: C,
    hints: HintSender,
    receiver: HintReceiver,
) {
    let commit = Arc::new(commit);
    let receiver = Arc::new(Mutex::new(receiver));
    let run = || {
        let reap_loop = ReapLoop::new(watched.clone(), board.clone(), commit.clone());
        let receiver = receiver.clone();
        async move { reap_loop.run(&mut *receiver.lock().await).await }
    };
    let on_panic = || {
        log::error!("the loop that removes dead processes panicked; it is started again");
        board.count_loop_restart();
        hints.request_sweep();
    };
    rerun_after_panics(run, on_panic).await;
}

/// Runs a future in a task of its own, and another one after each panic, until one returns.
async fn rerun_after_panics<Run>(run: impl Fn() -> Run, on_panic: impl Fn())
where
    Run: Future<Output = ()> + Send + 'static,
{
    loop {
        // A set, because dropping it ends the task.
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
