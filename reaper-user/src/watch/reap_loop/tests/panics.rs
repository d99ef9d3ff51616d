//! A commit that panics: all other dead processes are removed.

use super::*;

/// Commits like [`Committed`], except for one process.
struct PanicsAt {
    panics_at: Arc<Mutex<Option<ProcessId>>>,
    committed: Committed,
}

impl Commit for PanicsAt {
    fn commit(&self, process: ProcessId, death: Death) -> bool {
        let panics_at = *self.panics_at.lock().unwrap();
        assert_ne!(panics_at, Some(process), "as the test requires");
        self.committed.commit(process, death)
    }
}

/// A fixture in which the commit of one process panics, and the place for that process.
fn panicking_fixture() -> (Fixture, Arc<Mutex<Option<ProcessId>>>) {
    let panics_at = Arc::default();
    let fixture = Fixture::committing_to(10, |committed| PanicsAt {
        panics_at: Arc::clone(&panics_at),
        committed,
    });
    (fixture, panics_at)
}

/// Three processes die, the commit of the second panics, and then a fourth dies.
async fn all_but_the_second_are_removed(is_hint_early: bool) {
    let (fixture, panics_at) = panicking_fixture();
    let [first, second, third, fourth] = [1, 2, 3, 4].map(|raw_pid| fixture.watch(raw_pid, 100));
    *panics_at.lock().unwrap() = Some(second);
    // At once, so that the loop decides about all three in one turn.
    let hint_at_three = || (1..=3).for_each(|raw_pid| fixture.exit_event(raw_pid, 0));
    if is_hint_early {
        hint_at_three();
        fixture.pass(A_MOMENT).await;
        assert_eq!(fixture.deaths(), []);
    }
    (1..=3).for_each(|raw_pid| fixture.table.die(pid(raw_pid), 0));
    if !is_hint_early {
        hint_at_three();
    }
    fixture.pass(RECHECK_AFTER[0] * 2).await;
    fixture.table.die(pid(4), 0);
    fixture.exit_event(4, 0);
    fixture.pass(A_MOMENT).await;
    let mut gone: Vec<_> = fixture.deaths().into_iter().map(|(gone, _)| gone).collect();
    gone.sort_unstable();
    assert_eq!(gone, [first, third, fourth]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_over_one_process_does_not_end_the_watch_over_the_others() {
    all_but_the_second_are_removed(false).await;
}

#[tokio::test(start_paused = true)]
async fn nor_does_a_panic_at_a_recheck() {
    all_but_the_second_are_removed(true).await;
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_panics_is_restarted() {
    let runs = Arc::new(Mutex::new(0));
    let counted = runs.clone();
    let board = StatusBoard::new(|_| {});
    let run = move || {
        let runs = runs.clone();
        async move {
            let run = {
                let mut runs = runs.lock().unwrap();
                *runs += 1;
                *runs
            };
            assert!(run > 2, "as the test requires");
        }
    };
    rerun_after_panics(run, || board.count_loop_restart()).await;
    assert_eq!((*counted.lock().unwrap(), board.loop_restarts()), (3, 2));
}
