//! Keeps one source running, and gives it a thread for work that would hold the runtime up. A system
//! that has no threads left is an error here: neither a panic nor a wait without end.

use std::convert::Infallible;
#[cfg(all(target_os = "linux", feature = "ebpf"))]
use std::io;
#[cfg(all(target_os = "linux", feature = "ebpf"))]
use std::thread;
use std::time::Duration;

use tokio::task::JoinSet;

use super::{Context, SourceError};
#[cfg(all(target_os = "linux", feature = "ebpf"))]
use crate::sys::allocator::give_back_freed;

/// First pause before a failed source is started again; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// A source that cannot work here is asked again this seldom.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

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
            context.hints.request_sweep();
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

/// Does work that takes a processor's time for milliseconds on a thread of its own. It may take tens
/// of megabytes too, as the kernel's types do, and the allocator would keep most of them.
#[cfg(all(target_os = "linux", feature = "ebpf"))]
pub(crate) async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    thread::Builder::new()
        .name("load".to_owned())
        // Whoever waited may have been told to stop.
        .spawn(move || {
            let outcome = work();
            give_back_freed();
            done.send(outcome).unwrap_or(());
        })?;
    outcome.await.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use reaper_registry::Source;
    use tokio::time::timeout;

    use super::*;
    use crate::testkit::fake_table::FakeTable;
    use crate::watch::fd_budget::FdBudget;
    use crate::watch::hint;
    use crate::watch::set::WatchSet;
    use crate::watch::status::{Reporter, StatusBoard};

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
        let asked = timeout(FIRST_PAUSE / 2, hints.sweep_requested()).await;
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
