//! The proof that the probe counts: a canary's exit must show in its counter.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::sources::SourceError;
use crate::sources::canary::Canary;

/// How long a canary's exit may stay uncounted; it takes microseconds.
const COUNTED_WITHIN: Duration = Duration::from_millis(500);
/// How often the counter is read while a canary is waited for.
const POLL: Duration = Duration::from_millis(1);
/// One miss can be a machine that did not run the last steps of an exit; two in a row are too many.
const MISSES_MAX: u32 = 2;

/// What a round of canaries tells.
#[derive(Debug)]
pub(super) enum Proof {
    /// The probe counts.
    Counted,
    /// No canary could be started: no proof either way.
    NoThread(io::Error),
}

/// After `pause`, lets threads of our own end until the probe has counted one or missed too many.
pub(super) async fn prove(
    pause: Duration,
    counted: impl Fn() -> Result<u64, SourceError>,
    launch: impl Fn() -> io::Result<Canary>,
) -> Result<Proof, SourceError> {
    sleep(pause).await;
    for _ in 0..MISSES_MAX {
        let before = counted()?;
        let canary = match launch() {
            Ok(canary) => canary,
            Err(error) => return Ok(Proof::NoThread(error)),
        };
        let mut since = Instant::now();
        while since.elapsed() < COUNTED_WITHIN {
            if counted()? != before {
                return Ok(Proof::Counted);
            }
            sleep(POLL).await;
            if !canary.ran() {
                // The machine has not got round to running it, which says nothing about the probe.
                since = Instant::now();
            }
        }
    }
    Err(SourceError::new(
        "the probe no longer sees exits: two canaries were missed",
        "see whether tracing was switched off or another program detached the probe",
    ))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::timeout;

    use super::*;

    /// Longer than all misses that are one too many.
    const LONG: Duration = Duration::from_mins(1);

    #[tokio::test(start_paused = true)]
    async fn a_canary_that_was_not_run_yet_is_no_miss() {
        let launched = Cell::new(0);
        let run_later = Cell::new(None);
        let launch = || {
            launched.set(launched.get() + 1);
            let (canary, run) = Canary::not_yet_run();
            run_later.set(Some(run));
            Ok(canary)
        };
        let counter = Cell::new(7);
        let mut proof = Box::pin(prove(Duration::ZERO, || Ok(counter.get()), launch));
        assert!(
            timeout(LONG, &mut proof).await.is_err(),
            "took it for a miss"
        );
        assert_eq!(launched.get(), 1, "one that waits for a CPU is enough");
        (run_later.take().unwrap())();
        counter.set(8);
        assert!(matches!(proof.await, Ok(Proof::Counted)));
    }

    #[tokio::test(start_paused = true)]
    async fn two_canaries_that_ran_and_were_not_counted_are_the_end() {
        let launched = Cell::new(0);
        let launch = || {
            launched.set(launched.get() + 1);
            let (canary, run) = Canary::not_yet_run();
            run();
            Ok(canary)
        };
        let began = Instant::now();
        let failure = prove(Duration::ZERO, || Ok(7), launch).await.unwrap_err();
        assert!(failure.reason.contains("two canaries"), "{failure}");
        assert_eq!(launched.get(), 2);
        assert!(began.elapsed() < COUNTED_WITHIN * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_thread_there_is_no_proof_and_no_failure() {
        let launch = || Err(io::ErrorKind::WouldBlock.into());
        let proof = prove(Duration::ZERO, || Ok(7), launch).await;
        assert!(matches!(proof, Ok(Proof::NoThread(_))), "{proof:?}");
    }
}
