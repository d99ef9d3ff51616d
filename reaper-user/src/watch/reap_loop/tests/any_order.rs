//! The loop and the sweep under whatever may befall processes and hints, in any order: a naive
//! account of who lives is held against what was committed, after every step.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// So few that numbers are used again all the time.
const NUMBERS: u32 = 4;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Takes the number if it is free, in the same tick as the last one or in a later one, and is
    /// registered.
    Spawn {
        number: u32,
        later: bool,
    },
    /// Somebody asks for it once more, and lets go.
    WatchGuard {
        number: u32,
    },
    LeaderLeaves {
        number: u32,
    },
    /// By a worker: for a moment the main thread looks gone.
    Exec {
        number: u32,
    },
    Die {
        number: u32,
    },
    Reap {
        number: u32,
    },
    /// A source says something of the number, true or not any more.
    Say {
        number: u32,
        by: By,
        fate: Fate,
    },
    /// Everything that was late arrives, in this order or the other.
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
    let number = || 1..=NUMBERS;
    let by = prop_oneof![Just(By::Netlink), Just(By::Pidfd), Just(By::Ebpf)];
    let fate = prop_oneof![
        Just(Fate::Lost),
        Just(Fate::Once),
        Just(Fate::Twice),
        Just(Fate::Late)
    ];
    prop_oneof![
        4 => (number(), any::<bool>()).prop_map(|(number, later)| Step::Spawn { number, later }),
        1 => number().prop_map(|number| Step::WatchGuard { number }),
        1 => number().prop_map(|number| Step::LeaderLeaves { number }),
        1 => number().prop_map(|number| Step::Exec { number }),
        3 => number().prop_map(|number| Step::Die { number }),
        3 => number().prop_map(|number| Step::Reap { number }),
        4 => (number(), by, fate).prop_map(|(number, by, fate)| Step::Say { number, by, fate }),
        1 => any::<bool>().prop_map(|reversed| Step::Arrive { reversed }),
        1 => Just(Step::Sweep),
    ]
}

/// Who has a number, or had it last.
#[derive(Clone, Copy)]
struct Holder {
    process: ProcessId,
    start_time: u64,
    died_at_ns: Option<u64>,
    reaped: bool,
}

/// The naive account.
struct Account {
    fixture: Fixture,
    holders: BTreeMap<u32, Holder>,
    alive: BTreeSet<ProcessId>,
    dead: BTreeSet<ProcessId>,
    late: Vec<(u32, Hint)>,
}

impl Account {
    fn new(descriptors: usize) -> Self {
        Self {
            fixture: Fixture::new(descriptors).with_sweep(),
            holders: BTreeMap::new(),
            alive: BTreeSet::new(),
            dead: BTreeSet::new(),
            late: Vec::new(),
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Spawn { number, later } => self.spawn(number, later),
            Step::WatchGuard { number } => drop(self.fixture.watched.watch(pid(number))),
            Step::LeaderLeaves { number } if self.lives(number) => {
                self.fixture.table.leader_leaves(pid(number), 2);
            }
            Step::Exec { number } if self.lives(number) => {
                self.fixture.table.look_torn(pid(number));
                self.fixture.exit_event(number, 0);
                self.fixture.pass(A_MOMENT).await;
                self.fixture.table.leader_leaves(pid(number), 1);
            }
            Step::Die { number } if self.lives(number) => self.die(number),
            Step::Reap { number } => self.reap(number),
            Step::Say { number, by, fate } => self.say(number, by, fate),
            Step::Arrive { reversed } => {
                if reversed {
                    self.late.reverse();
                }
                for (number, hint) in std::mem::take(&mut self.late) {
                    self.send(number, hint);
                }
            }
            Step::Sweep => self.fixture.pass(INTERVAL).await,
            // Nobody is there to whom it could happen.
            Step::LeaderLeaves { .. } | Step::Exec { .. } | Step::Die { .. } => {}
        }
        self.fixture.pass(A_MOMENT).await;
    }

    fn lives(&self, number: u32) -> bool {
        let holder = self.holders.get(&number);
        holder.is_some_and(|holder| holder.died_at_ns.is_none())
    }

    fn spawn(&mut self, number: u32, later: bool) {
        let before = self.holders.get(&number);
        if before.is_some_and(|holder| !holder.reaped) {
            return;
        }
        let start_time = before.map_or(100, |holder| holder.start_time) + u64::from(later);
        let process = self.fixture.watch(number, start_time);
        let holder = Holder {
            process,
            start_time,
            died_at_ns: None,
            reaped: false,
        };
        self.holders.insert(number, holder);
        self.alive.insert(process);
    }

    fn die(&mut self, number: u32) {
        self.fixture.table.die(pid(number), 9);
        let holder = self.holders.get_mut(&number).unwrap();
        holder.died_at_ns = Some(monotonic_ns());
        self.alive.remove(&holder.process);
        self.dead.insert(holder.process);
    }

    fn reap(&mut self, number: u32) {
        if let Some(holder) = self.holders.get_mut(&number)
            && holder.died_at_ns.is_some()
            && !holder.reaped
        {
            self.fixture.table.reap(pid(number));
            holder.reaped = true;
        }
    }

    fn say(&mut self, number: u32, by: By, fate: Fate) {
        let Some(holder) = self.holders.get(&number) else {
            return;
        };
        let hint = match (by, holder.died_at_ns) {
            (By::Pidfd, _) => Hint::check(holder.process, Source::Pidfd),
            (By::Netlink, _) => Hint {
                exit: Some(WaitStatus::MainThread(9)),
                ..Hint::check(holder.process, Source::Netlink)
            },
            (By::Ebpf, Some(at_ns)) => Hint {
                group_dead: Some(GroupDead {
                    start_time: StartTime(holder.start_time),
                    at_ns,
                }),
                ..Hint::check(holder.process, Source::Ebpf)
            },
            // The kernel's own word is never given too early.
            (By::Ebpf, None) => return,
        };
        match fate {
            Fate::Lost => {}
            Fate::Once => self.send(number, hint),
            Fate::Twice => {
                self.send(number, hint);
                self.send(number, hint);
            }
            Fate::Late => self.late.push((number, hint)),
        }
    }

    /// Sends a hint as its source does: all but the pidfd resolve the pid now.
    fn send(&self, number: u32, hint: Hint) {
        let Fixture { watched, hints, .. } = &self.fixture;
        if hint.source == Source::Pidfd {
            return hints.send(hint);
        }
        for process in watched.ids_with_pid(pid(number)) {
            hints.send(Hint { process, ..hint });
        }
    }

    fn committed(&self) -> BTreeSet<ProcessId> {
        let deaths = self.fixture.deaths();
        let gone: BTreeSet<_> = deaths.iter().map(|(process, _)| *process).collect();
        assert_eq!(gone.len(), deaths.len(), "committed twice");
        gone
    }

    /// I1: one interval later nobody who is dead is left, and nobody else is gone.
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
    fn whatever_befalls_hints_the_dead_go_once_within_a_sweep_and_the_living_stay(
        descriptors in 0_usize..4,
        steps in vec(step(), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut account = Account::new(descriptors);
            for step in steps {
                account.take(step).await;
                let committed = account.committed();
                let wronged: Vec<_> = committed.intersection(&account.alive).collect();
                assert!(wronged.is_empty(), "{step:?}: {wronged:?} live");
            }
            account.close().await;
        });
    }
}
