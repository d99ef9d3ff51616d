//! The sources of hints: which there are, how one is kept running, and what each is given.
//!
//! A source is one async function. It reports itself up once it has *proved* that it delivers, runs
//! until it fails, and answers with the reason. It knows processes, never sessions. The supervisor
//! reports the failure, waits and starts it again, for ever: whatever made it fail may pass.

#[cfg(target_os = "linux")]
mod canary;
#[cfg(all(target_os = "linux", feature = "ebpf"))]
pub mod ebpf;
#[cfg(target_os = "linux")]
pub(crate) mod namespaces;
#[cfg(target_os = "linux")]
pub mod netlink;
#[cfg(target_os = "linux")]
pub mod pidfd;
pub mod sweep;
#[cfg(target_os = "linux")]
mod time_namespace;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use reaper_registry::Source;
use tokio::task::JoinSet;

use crate::watch::hint::HintSender;
use crate::watch::set::WatchSet;
use crate::watch::status::Reporter;

/// All sources of hints, in the order in which they are shown.
pub const ALL: [Source; 4] = [Source::Netlink, Source::Ebpf, Source::Pidfd, Source::Sweep];

/// Those that say how they are within milliseconds. Not the probe: loading it takes the kernel's
/// time, and nobody should wait for that who does not need it.
pub const QUICK: [Source; 3] = [Source::Netlink, Source::Pidfd, Source::Sweep];

/// First pause before a failed source is started again; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// A source that cannot work here is asked again this seldom.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// What a source is given.
#[derive(Clone)]
pub struct Context {
    pub hints: HintSender,
    pub watched: Arc<WatchSet>,
    pub reporter: Reporter,
}

/// Why a source does not run, and the one thing that would mend it.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct SourceError {
    pub reason: String,
    pub remedy: String,
}

impl SourceError {
    pub fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            remedy: remedy.into(),
        }
    }
}

/// Keeps one source running.
pub(crate) async fn supervise<Run>(context: Context, run: impl Fn(Context) -> Run)
where
    Run: Future<Output = Result<Infallible, SourceError>> + Send + 'static,
{
    let mut pause = FIRST_PAUSE;
    loop {
        let started_ns = crate::clock::monotonic_ns();
        let SourceError { reason, remedy } = failure_of(run(context.clone())).await;
        let was_relied_on = context.reporter.works();
        context.reporter.down(&reason, &remedy);
        if was_relied_on {
            // Nobody knows since when it was deaf.
            context.hints.verify_all();
        }
        let ran_for = Duration::from_nanos(crate::clock::monotonic_ns() - started_ns);
        if ran_for > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Runs a source in a task of its own, so that a panic in it is a failure like any other.
async fn failure_of<Run>(run: Run) -> SourceError
where
    Run: Future<Output = Result<Infallible, SourceError>> + Send + 'static,
{
    // A set, because dropping it ends the task.
    let mut task = JoinSet::new();
    task.spawn(run);
    match task.join_next().await {
        Some(Ok(Err(failure))) => failure,
        Some(Err(panicked)) => SourceError::new(
            format!("it stopped unexpectedly: {panicked}"),
            "report it with the log around it; it is started again",
        ),
        None => SourceError::new("it did not run", ""),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::testkit::fake_table::FakeTable;
    use crate::watch::fd_budget::FdBudget;
    use crate::watch::hint;
    use crate::watch::status::StatusBoard;

    /// Whether the failure of a source that did this has everybody looked at.
    async fn verified_after(run: impl Fn(&Reporter) + Clone + Send + 'static) -> bool {
        let (hints, _receiver) = hint::channel();
        let board = StatusBoard::new(|_| {});
        let context = Context {
            hints: hints.clone(),
            watched: WatchSet::new(
                Arc::new(FakeTable::default()),
                FdBudget::new(0),
                hints.clone(),
            ),
            reporter: board.reporter(Source::Netlink),
        };
        let failing = supervise(context, move |context| {
            let run = run.clone();
            async move {
                run(&context.reporter);
                Err(SourceError::new("it fails", ""))
            }
        });
        let supervised = tokio::spawn(failing);
        let asked = timeout(FIRST_PAUSE / 2, hints.verification_asked()).await;
        supervised.abort();
        asked.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_source_that_was_relied_on_is_made_up_for() {
        assert!(verified_after(|reporter| reporter.up("")).await);
        assert!(verified_after(|reporter| reporter.degraded("a limit", "", "")).await);
        // Or one that cannot work here would have everybody looked at for ever.
        assert!(!verified_after(|_| {}).await);
    }
}
