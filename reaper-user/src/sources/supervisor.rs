//! Keeps one source running, and runs blocking work of a source on a thread. If the system has no
//! threads left, that is an error: neither a panic nor an endless wait.

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

/// First pause before a failed source is restarted; doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two attempts of a source that cannot work here.
const MAX_PAUSE: Duration = Duration::from_mins(1);

/// Keeps one source running.
pub(crate) async fn supervise<Run>(context: Context, run: impl Fn(Context) -> Run)
where
    Run: Future<Output = Result<Infallible, SourceError>> + Send + 'static,
{
    let mut pause = FIRST_PAUSE;
    loop {
        let started_ns = crate::clock::monotonic_ns();
        let SourceError { reason, remedy } = failure_of(run(context.clone())).await;
        let has_worked = context.reporter.works();
        context.reporter.down(&reason, &remedy);
        if has_worked {
            // It is unknown since when it has missed exits.
            context.hints.request_sweep();
        }
        let ran_for = Duration::from_nanos(crate::clock::monotonic_ns() - started_ns);
        if ran_for > MAX_PAUSE {
            pause = FIRST_PAUSE;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// Runs a source in a separate task, so that a panic in it is a failure like any other.
async fn failure_of<Run>(run: Run) -> SourceError
where
    Run: Future<Output = Result<Infallible, SourceError>> + Send + 'static,
{
    // A JoinSet, because dropping it ends the task.
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

/// Runs work that takes milliseconds of CPU time on a new thread. The work may also take tens of
/// megabytes, as the kernel's types do, and the allocator would keep most of them.
#[cfg(all(target_os = "linux", feature = "ebpf"))]
pub(crate) async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    thread::Builder::new()
        .name("load".to_owned())
        // The waiting task may have been cancelled.
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

    /// Returns whether a sweep is requested after the failure of a source that did this.
    async fn requests_sweep_after(run: impl Fn(&Reporter) + Clone + Send + 'static) -> bool {
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
        let requested = timeout(FIRST_PAUSE / 2, hints.sweep_requested()).await;
        supervised.abort();
        requested.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_source_that_worked_requests_a_sweep_when_it_fails() {
        assert!(requests_sweep_after(|reporter| reporter.up("")).await);
        assert!(requests_sweep_after(|reporter| reporter.degraded("a limit", "", "")).await);
        // Otherwise a source that cannot work here would request sweeps without end.
        assert!(!requests_sweep_after(|_| {}).await);
    }
}
