//! Proves that the probe counts: a canary's exit must raise its counter.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::sources::SourceError;
use crate::sources::canary::Canary;

/// How long a canary's exit may stay uncounted. It takes microseconds.
const COUNT_TIMEOUT: Duration = Duration::from_millis(500);
/// How often the counter is read during the wait for a canary.
const POLL: Duration = Duration::from_millis(1);
/// How many misses end the source. One can come from a machine that did not run the end of an exit.
const MAX_MISSES: u32 = 2;

/// The result of a round of canaries.
#[derive(Debug)]
pub(super) enum Proof {
    /// The probe counts.
    Counted,
    /// No canary could be started: no proof either way.
    NoThread(io::Error),
}

/// After `pause`, starts canaries until the probe has counted one or missed too many.
pub(super) async fn prove(
    pause: Duration,
    counted: impl Fn() -> Result<u64, SourceError>,
    launch: impl Fn() -> io::Result<Canary>,
) -> Result<Proof, SourceError> {
    sleep(pause).await;
    for _ in 0..MAX_MISSES {
        let before = counted()?;
        let canary = match launch() {
            Ok(canary) => canary,
            Err(error) => return Ok(Proof::NoThread(error)),
        };
        let mut since = Instant::now();
        while since.elapsed() < COUNT_TIMEOUT {
            if counted()? != before {
                return Ok(Proof::Counted);
            }
            sleep(POLL).await;
            if !canary.ran() {
                // The machine has not scheduled it yet, which means nothing for the probe.
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

    /// Longer than all misses that end the source.
    const LONG: Duration = Duration::from_mins(1);

    #[tokio::test(start_paused = true)]
    async fn a_canary_that_has_not_run_is_no_miss() {
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
            "counted as a miss"
        );
        assert_eq!(launched.get(), 1, "a second one was started");
        (run_later.take().unwrap())();
        counter.set(8);
        assert!(matches!(proof.await, Ok(Proof::Counted)));
    }

    #[tokio::test(start_paused = true)]
    async fn two_uncounted_canaries_end_the_source() {
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
        assert!(began.elapsed() < COUNT_TIMEOUT * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_thread_there_is_no_proof_and_no_failure() {
        let launch = || Err(io::ErrorKind::WouldBlock.into());
        let proof = prove(Duration::ZERO, || Ok(7), launch).await;
        assert!(matches!(proof, Ok(Proof::NoThread(_))), "{proof:?}");
    }
}
