//! A commit that panics: whoever else dies is removed all the same.

use super::*;

/// Commits like [`Committed`], except for one process.
struct Fragile {
    breaks_at: Arc<Mutex<Option<ProcessId>>>,
    committed: Committed,
}

impl Commit for Fragile {
    fn commit(&self, process: ProcessId, death: Death) {
        let breaks_at = *self.breaks_at.lock().unwrap();
        assert_ne!(breaks_at, Some(process), "as this test wants it");
        self.committed.commit(process, death);
    }
}

/// A scene whose loop breaks at the process that is put there.
fn fragile_fixture() -> (Fixture, Arc<Mutex<Option<ProcessId>>>) {
    let mut fixture = Fixture::new(10);
    let breaks_at = Arc::default();
    let commit = Fragile {
        breaks_at: Arc::clone(&breaks_at),
        committed: fixture.committed.clone(),
    };
    let (hints, receiver) = hint::channel();
    fixture.hints = hints.clone();
    let (watched, board) = (fixture.watched.clone(), fixture.board.clone());
    let reap_loop = supervise(watched, board, commit, hints, receiver);
    fixture.tasks = vec![tokio::spawn(reap_loop)];
    (fixture, breaks_at)
}

/// Three die, the loop breaks at the second, and then a fourth dies.
async fn all_but_the_second_are_removed(is_hint_early: bool) {
    let (fixture, breaks_at) = fragile_fixture();
    let [first, second, third, fourth] = [1, 2, 3, 4].map(|number| fixture.watch(number, 100));
    *breaks_at.lock().unwrap() = Some(second);
    // At once, so that all three are decided about in one turn.
    let hint_at_three = || (1..=3).for_each(|number| fixture.exit_event(number, 0));
    if is_hint_early {
        hint_at_three();
        fixture.pass(A_MOMENT).await;
        assert_eq!(fixture.deaths(), []);
    }
    (1..=3).for_each(|number| fixture.table.die(pid(number), 0));
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
async fn nor_does_one_at_a_later_look() {
    all_but_the_second_are_removed(true).await;
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_panics_is_started_again() {
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
            assert!(run > 2, "as this test wants it");
        }
    };
    rerun_after_panics(run, || board.count_loop_restart()).await;
    assert_eq!((*counted.lock().unwrap(), board.loop_restarts()), (3, 2));
}
