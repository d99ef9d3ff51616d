//! The loop and the sweep under random steps of processes and hints: after every step, a simple
//! model of the live processes is compared with what was committed.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// So few that pids are reused all the time.
const MAX_PID: u32 = 4;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Starts a process if the pid is free, in the same tick as the last one or in a later one, and
    /// registers it.
    Spawn {
        raw_pid: u32,
        later: bool,
    },
    /// Watches it once more, and drops the guard.
    WatchAgain(u32),
    LeaderLeaves(u32),
    /// An exec by a worker: for a moment the main thread seems gone.
    Exec(u32),
    Die(u32),
    Reap(u32),
    /// A source sends a hint, up to date or not.
    Hint {
        raw_pid: u32,
        by: By,
        fate: Fate,
    },
    /// All late hints arrive, in this order or reversed.
    Arrive {
        reversed: bool,
    },
    Sweep,
}

#[derive(Clone, Copy, Debug)]
enum By {
    Netlink,
    Pidfd,
    Ebpf,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Lost,
    Once,
    Twice,
    Late,
}

fn step() -> impl Strategy<Value = Step> {
    let raw_pid = || 1..=MAX_PID;
    let by = select(vec![By::Netlink, By::Pidfd, By::Ebpf]);
    let fate = select(vec![Fate::Lost, Fate::Once, Fate::Twice, Fate::Late]);
    prop_oneof![
        4 => (raw_pid(), any::<bool>()).prop_map(|(raw_pid, later)| Step::Spawn { raw_pid, later }),
        1 => raw_pid().prop_map(Step::WatchAgain),
        1 => raw_pid().prop_map(Step::LeaderLeaves),
        1 => raw_pid().prop_map(Step::Exec),
        3 => raw_pid().prop_map(Step::Die),
        3 => raw_pid().prop_map(Step::Reap),
        4 => (raw_pid(), by, fate).prop_map(|(raw_pid, by, fate)| Step::Hint { raw_pid, by, fate }),
        1 => any::<bool>().prop_map(|reversed| Step::Arrive { reversed }),
        1 => Just(Step::Sweep),
    ]
}

/// The process that has a pid, or had it last.
#[derive(Clone, Copy)]
struct Occupant {
    process: ProcessId,
    start_time: u64,
    died_at_ns: Option<u64>,
    reaped: bool,
}

/// The simple model.
struct Model {
    fixture: Fixture,
    occupants: BTreeMap<u32, Occupant>,
    alive: BTreeSet<ProcessId>,
    dead: BTreeSet<ProcessId>,
    late: Vec<(u32, Hint)>,
}

impl Model {
    fn new(descriptors: usize) -> Self {
        Self {
            fixture: Fixture::new(descriptors).with_sweep(),
            occupants: BTreeMap::new(),
            alive: BTreeSet::new(),
            dead: BTreeSet::new(),
            late: Vec::new(),
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Spawn { raw_pid, later } => self.spawn(raw_pid, later),
            Step::WatchAgain(raw_pid) => drop(self.fixture.watched.watch(pid(raw_pid))),
            Step::LeaderLeaves(raw_pid) if self.is_alive(raw_pid) => {
                self.fixture.table.leader_leaves(pid(raw_pid), 2);
            }
            Step::Exec(raw_pid) if self.is_alive(raw_pid) => {
                self.fixture.table.show_torn_stat(pid(raw_pid));
                self.fixture.exit_event(raw_pid, 0);
                self.fixture.pass(A_MOMENT).await;
                self.fixture.table.leader_leaves(pid(raw_pid), 1);
            }
            Step::Die(raw_pid) if self.is_alive(raw_pid) => self.die(raw_pid),
            Step::Reap(raw_pid) => self.reap(raw_pid),
            Step::Hint { raw_pid, by, fate } => self.hint(raw_pid, by, fate),
            Step::Arrive { reversed } => {
                if reversed {
                    self.late.reverse();
                }
                for (raw_pid, hint) in std::mem::take(&mut self.late) {
                    self.send(raw_pid, hint);
                }
            }
            Step::Sweep => self.fixture.pass(INTERVAL).await,
            // There is no such process.
            Step::LeaderLeaves(_) | Step::Exec(_) | Step::Die(_) => {}
        }
        self.fixture.pass(A_MOMENT).await;
    }

    fn is_alive(&self, raw_pid: u32) -> bool {
        let occupant = self.occupants.get(&raw_pid);
        occupant.is_some_and(|occupant| occupant.died_at_ns.is_none())
    }

    fn spawn(&mut self, raw_pid: u32, later: bool) {
        let before = self.occupants.get(&raw_pid);
        if before.is_some_and(|occupant| !occupant.reaped) {
            return;
        }
        let start_time = before.map_or(100, |occupant| occupant.start_time) + u64::from(later);
        let process = self.fixture.watch(raw_pid, start_time);
        let occupant = Occupant {
            process,
            start_time,
            died_at_ns: None,
            reaped: false,
        };
        self.occupants.insert(raw_pid, occupant);
        self.alive.insert(process);
    }

    fn die(&mut self, raw_pid: u32) {
        self.fixture.table.die(pid(raw_pid), 9);
        let occupant = self.occupants.get_mut(&raw_pid).unwrap();
        occupant.died_at_ns = Some(monotonic_ns());
        self.alive.remove(&occupant.process);
        self.dead.insert(occupant.process);
    }

    fn reap(&mut self, raw_pid: u32) {
        if let Some(occupant) = self.occupants.get_mut(&raw_pid)
            && occupant.died_at_ns.is_some()
            && !occupant.reaped
        {
            self.fixture.table.reap(pid(raw_pid));
            occupant.reaped = true;
        }
    }

    fn hint(&mut self, raw_pid: u32, by: By, fate: Fate) {
        let Some(occupant) = self.occupants.get(&raw_pid) else {
            return;
        };
        let hint = match (by, occupant.died_at_ns) {
            (By::Pidfd, _) => Hint::check(occupant.process, Source::Pidfd),
            (By::Netlink, _) => Hint {
                exit: Some(WaitStatus::MainThread(9)),
                ..Hint::check(occupant.process, Source::Netlink)
            },
            (By::Ebpf, Some(at_ns)) => Hint {
                group_dead: Some(GroupDead {
                    start_time: StartTime(occupant.start_time),
                    at_ns,
                }),
                ..Hint::check(occupant.process, Source::Ebpf)
            },
            // The kernel never reports a dead group too early.
            (By::Ebpf, None) => return,
        };
        match fate {
            Fate::Lost => {}
            Fate::Once => self.send(raw_pid, hint),
            Fate::Twice => {
                self.send(raw_pid, hint);
                self.send(raw_pid, hint);
            }
            Fate::Late => self.late.push((raw_pid, hint)),
        }
    }

    /// Sends a hint as its source does: all but the pidfd resolve the pid now.
    fn send(&self, raw_pid: u32, hint: Hint) {
        let Fixture { watched, hints, .. } = &self.fixture;
        if hint.source == Source::Pidfd {
            return hints.send(hint);
        }
        for process in watched.ids_with_pid(pid(raw_pid)) {
            hints.send(Hint { process, ..hint });
        }
    }

    fn committed(&self) -> BTreeSet<ProcessId> {
        let deaths = self.fixture.deaths();
        let gone: BTreeSet<_> = deaths.iter().map(|(process, _)| *process).collect();
        assert_eq!(gone.len(), deaths.len(), "committed twice");
        gone
    }

    /// One interval later all dead processes are gone, and no others.
    async fn close(self) {
        self.fixture
            .pass(INTERVAL + Duration::from_millis(200))
            .await;
        assert_eq!(self.committed(), self.dead);
        assert_eq!(self.fixture.watched.len(), self.alive.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn in_any_order_the_dead_are_removed_once_and_the_living_stay(
        descriptors in 0_usize..4,
        steps in vec(step(), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut model = Model::new(descriptors);
            for step in steps {
                model.take(step).await;
                let committed = model.committed();
                let removed_alive: Vec<_> = committed.intersection(&model.alive).collect();
                assert!(removed_alive.is_empty(), "{step:?}: {removed_alive:?}");
            }
            model.close().await;
        });
    }
}
