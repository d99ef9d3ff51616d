//! What other tasks get of a mass death: the loop lets them run after every few deaths.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::*;

/// Counts the deaths that a reader has not seen, and wakes it.
#[derive(Default)]
struct Unread {
    now: AtomicUsize,
    most: AtomicUsize,
    changed: Notify,
}

impl Unread {
    fn add_one(&self) {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        self.changed.notify_one();
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    async fn read(self: Arc<Self>) {
        loop {
            self.changed.notified().await;
            self.now.store(0, Ordering::Relaxed);
        }
    }
}

/// How many hints come at once.
const AT_ONCE: usize = 100;

/// Commits like [`Committed`]. There are always more hints, but never a full batch.
struct Storm {
    committed: Committed,
    unread: Arc<Unread>,
    hints: Arc<OnceLock<HintSender>>,
    /// Those that are still to die.
    rest: Mutex<Vec<ProcessId>>,
}

impl Commit for Storm {
    fn commit(&self, process: ProcessId, death: Death) -> bool {
        self.unread.add_one();
        let mut rest = self.rest.lock().unwrap();
        if self
            .committed
            .deaths
            .lock()
            .unwrap()
            .len()
            .is_multiple_of(AT_ONCE)
        {
            let left = rest.len().saturating_sub(AT_ONCE);
            let hints = self.hints.get().unwrap();
            for process in rest.drain(left..) {
                hints.send(Hint::check(process, Source::Netlink));
            }
        }
        self.committed.commit(process, death)
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_stays_close_to_a_mass_death_in_small_batches() {
    const DEATHS: u32 = 5_000;
    let (unread, hints) = <(Arc<Unread>, Arc<OnceLock<HintSender>>)>::default();
    let mut storm = None;
    let fixture = Fixture::committing_to(10, |committed| {
        let made = Arc::new(Storm {
            committed,
            unread: unread.clone(),
            hints: hints.clone(),
            rest: Mutex::default(),
        });
        storm = Some(made.clone());
        made
    });
    hints.get_or_init(|| fixture.hints.clone());
    let processes: Vec<_> = (1..=DEATHS).map(|raw| fixture.watch(raw, 100)).collect();
    (1..=DEATHS).for_each(|raw| fixture.table.die(pid(raw), 0));
    storm.unwrap().rest.lock().unwrap().extend(&processes[1..]);
    let reader = tokio::spawn(unread.clone().read());
    fixture
        .hints
        .send(Hint::check(processes[0], Source::Netlink));
    fixture.pass(A_MOMENT).await;
    assert_eq!(fixture.deaths().len(), processes.len());
    assert!(unread.most() <= TURN, "{} unread", unread.most());
    reader.abort();
}

/// Commits one process in this many parts.
struct InParts {
    unread: Arc<Unread>,
    left: AtomicUsize,
}

impl Commit for InParts {
    fn commit(&self, _process: ProcessId, _death: Death) -> bool {
        self.unread.add_one();
        self.left.fetch_sub(1, Ordering::Relaxed) > 1
    }
}

#[tokio::test(start_paused = true)]
async fn other_tasks_run_between_the_parts_of_one_death() {
    let unread = Arc::<Unread>::default();
    let parts = unread.clone();
    let fixture = Fixture::committing_to(10, |_| InParts {
        unread: parts,
        left: AtomicUsize::new(5),
    });
    fixture.watch(7, 100);
    let reader = tokio::spawn(unread.clone().read());
    fixture.table.die(pid(7), 0);
    fixture.exit_event(7, 0);
    fixture.pass(A_MOMENT).await;
    assert_eq!((unread.most(), unread.now.load(Ordering::Relaxed)), (1, 0));
    reader.abort();
}
