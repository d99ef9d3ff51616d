//! Any list of operations leaves registry and model alike, and every invariant true after each step.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::model::{Model, newcomer};
use super::support::*;
use crate::*;

const IDS: [&str; 4] = ["a", "b", "c", "d"];
const TOKENS: u64 = 5;
const PROCESSES: u64 = 3;

#[derive(Clone, Debug)]
enum Op {
    Register {
        id: usize,
        token: u64,
        process: u64,
        owner: u32,
        authority: Authority,
    },
    Resolve(u64),
    Deregister(u64),
    /// Any entry ever stored, mostly one that is gone.
    RemoveEntry(u64),
    RemoveProcess(u64),
    Expire,
    AdvanceNanos(u64),
    Subscribe,
    /// So many events back, or ahead if negative.
    Resume(i8),
    Read {
        reader: usize,
        events: usize,
    },
    LearnStartTime(u64, u64),
}

fn any_op() -> impl Strategy<Value = Op> {
    let register = (
        0..IDS.len(),
        0..TOKENS,
        0..PROCESSES,
        1000..1002_u32,
        prop_oneof![3 => Just(Authority::Owner), 1 => Just(Authority::Any)],
    )
        .prop_map(|(id, token, process, owner, authority)| Op::Register {
            id,
            token,
            process,
            owner,
            authority,
        });
    let second = 1_000_000_000;
    prop_oneof![
        8 => register,
        3 => (0..TOKENS).prop_map(Op::Resolve),
        2 => (0..TOKENS).prop_map(Op::Deregister),
        3 => (0..20_u64).prop_map(Op::RemoveEntry),
        1 => (0..PROCESSES).prop_map(Op::RemoveProcess),
        1 => Just(Op::Expire),
        2 => prop_oneof![Just(0), Just(1), Just(60 * second), Just(100 * second), 0..70 * second]
            .prop_map(Op::AdvanceNanos),
        1 => Just(Op::Subscribe),
        1 => (-2..12_i8).prop_map(Op::Resume),
        3 => (0..4_usize, 1..6_usize).prop_map(|(reader, events)| Op::Read { reader, events }),
        1 => (0..20_u64, 1..3_u64).prop_map(|(entry, time)| Op::LearnStartTime(entry, time)),
    ]
}

struct World {
    registry: Registry,
    model: Model,
    diary: Diary,
    now_nanos: u64,
    /// Everything ever stored, still in somebody's hands.
    kept: Vec<(Arc<Session>, Option<StartTime>)>,
    readers: Vec<(Subscription, u64)>,
}

impl World {
    fn new(strict: bool) -> Self {
        let ttl = Duration::from_secs(100);
        let limits = Limits {
            sessions: 4,
            sessions_per_owner: 3,
        };
        let diary = Diary::default();
        let builder = builder()
            .ttl(ttl)
            .limits(limits)
            .strict_replace(strict)
            .event_capacity(6);
        Self {
            registry: diary.attach(builder).build(),
            model: Model {
                ttl,
                limits,
                strict,
                event_capacity: 6,
                live: Vec::new(),
                events: Vec::new(),
                stored: 0,
            },
            diary,
            now_nanos: 1,
            kept: Vec::new(),
            readers: Vec::new(),
        }
    }

    fn now(&self) -> Moment {
        at_nanos(self.now_nanos)
    }

    fn apply(&mut self, op: &Op) {
        let now = self.now();
        match *op {
            Op::Register {
                id,
                token,
                process,
                owner,
                authority,
            } => self.register(IDS[id], token, process, owner, authority),
            Op::Resolve(number) => {
                let found = self.registry.resolve(&token(number), now).map(|s| s.entry);
                assert_eq!(found, self.model.resolve(number, now));
            }
            Op::Deregister(number) => {
                let gone = self.registry.deregister(&token(number), now);
                assert_eq!(gone.map(|s| s.entry), self.model.deregister(number, now));
            }
            Op::RemoveEntry(number) => {
                let (entry, removal) = (EntryId(number), Removal::Died(DEATH));
                let gone = self.registry.remove_entry(entry, removal, now).is_some();
                assert_eq!(gone, self.model.remove(entry, removal, now));
            }
            Op::RemoveProcess(number) => {
                let removal = Removal::Died(DEATH);
                let gone = self.registry.remove_process(ProcessId(number), DEATH, now);
                let of_process = self
                    .model
                    .remove_all(|live| live.process == number, removal, now);
                assert_eq!(gone, of_process);
            }
            Op::Expire => assert_eq!(self.registry.expire(now), self.model.expire(now)),
            Op::AdvanceNanos(nanos) => self.now_nanos += nanos,
            Op::Subscribe => self.subscribe(),
            Op::Resume(back) => self.resume(back),
            Op::Read { reader, events } => (0..events).for_each(|_| self.read(reader)),
            Op::LearnStartTime(number, time) => self.learn_start_time(number, time),
        }
    }

    fn register(
        &mut self,
        id: &'static str,
        token_number: u64,
        process: u64,
        owner: u32,
        authority: Authority,
    ) {
        let mut new = session(id, token_number);
        new.process = Process::new(ProcessId(process), Pid::new(9).unwrap(), None);
        new.owner = owner;
        new.presence = Some(presence());
        let stored = self.registry.register(new, authority, self.now());
        let expected = self.model.register(
            &newcomer(id, token_number, process, owner),
            authority,
            self.now(),
        );
        assert_eq!(stored.as_ref().map(|s| s.entry).map_err(|e| *e), expected);
        self.kept.extend(stored.ok().map(|session| (session, None)));
    }

    fn subscribe(&mut self) {
        let (snapshot, reader) = self.registry.subscribe();
        assert_eq!(entries(&snapshot), self.live_entries(|_| true));
        assert_eq!(reader.position(), self.model.next_seq());
        self.readers.push((reader, self.model.next_seq()));
    }

    fn resume(&mut self, back: i8) {
        let Some(last_seen) = (self.model.next_seq() - 1).checked_add_signed(-i64::from(back))
        else {
            return;
        };
        let reader = self.registry.resume(last_seen);
        assert_eq!(reader.is_some(), last_seen < self.model.next_seq());
        self.readers
            .extend(reader.map(|reader| (reader, last_seen + 1)));
    }

    fn read(&mut self, which: usize) {
        let Some((reader, position)) = self.readers.get_mut(which) else {
            return;
        };
        let (next, oldest) = (self.model.next_seq(), self.model.oldest_kept());
        match reader.poll_next() {
            Next::Gap {
                missed_from,
                missed_to,
            } => {
                assert_eq!((missed_from, missed_to), (*position, oldest - 1));
                assert!(missed_from <= missed_to, "a gap has something in it");
                *position = oldest;
            }
            Next::Event(event) => {
                assert!(*position >= oldest);
                assert_eq!(event.seq, *position);
                let noted = self.model.events[usize::try_from(*position - 1).unwrap()];
                assert_eq!(seen(&event), Some((id(noted.id), noted.seen)));
                *position += 1;
            }
            Next::Empty => assert_eq!(*position, next),
        }
        assert_eq!(reader.position(), *position);
    }

    fn learn_start_time(&mut self, number: u64, time: u64) {
        let found = self
            .kept
            .iter_mut()
            .find(|(session, _)| session.entry.0 == number);
        if let Some((session, known)) = found {
            let taken = session.process.learn_start_time(StartTime(time));
            assert_eq!(taken, known.is_none(), "the first one stays");
            known.get_or_insert(StartTime(time));
        }
    }

    fn live_entries(&self, keep: impl Fn(&super::model::Live) -> bool) -> Vec<EntryId> {
        let live = self.model.live.iter().filter(|live| keep(live));
        live.map(|live| live.entry).collect()
    }

    fn check_invariants(&self) {
        let (registry, model, now) = (&self.registry, &self.model, self.now());
        registry.check_invariants();
        assert_eq!(registry.waiting_hooks(), 0);
        assert_eq!(registry.hooks_lost() + registry.hook_panics(), 0);
        let live = self.live_entries(|_| true);
        assert_eq!(entries(&registry.list()), live);
        assert_eq!(registry.len(), live.len());

        let expected: Vec<_> = model.events.iter().map(|n| (id(n.id), n.seen)).collect();
        assert_eq!(
            self.diary.read(),
            expected,
            "hooks and events are one story"
        );
        for (session, start_time) in &self.kept {
            assert_eq!(
                has_secret(session),
                live.contains(&session.entry),
                "a removed session has no key, whoever holds it"
            );
            assert_eq!(session.process.start_time(), *start_time);
        }
        for name in IDS {
            let found = registry.session_named(&id(name)).map(|s| s.entry);
            let bearers = self.live_entries(|live| live.id == name);
            assert!(bearers.len() <= 1, "never two of one name");
            assert_eq!(found, bearers.first().copied());
        }
        for process in 0..PROCESSES {
            let found = entries(&registry.sessions_of(ProcessId(process)));
            assert_eq!(found, self.live_entries(|live| live.process == process));
        }
        for number in 0..TOKENS {
            let grave = registry.recently_gone(&token(number), now);
            assert_eq!(grave.map(|event| event.seq), model.grave(number, now));
            // A look-up changes something only when it meets an expired session: that is an `Op`.
            let holder = model.live.iter().find(|live| live.token == number);
            if holder.is_none_or(|live| !model.is_expired(live, now)) {
                let found = registry.resolve(&token(number), now).map(|s| s.entry);
                assert_eq!(found, holder.map(|live| live.entry));
            }
        }
    }
}

fn entries(sessions: &[Arc<Session>]) -> Vec<EntryId> {
    sessions.iter().map(|session| session.entry).collect()
}

fn check_ops(strict: bool, ops: &[Op]) {
    let mut world = World::new(strict);
    for op in ops {
        world.apply(op);
        world.check_invariants();
    }
    // Whatever is left ends once.
    world.now_nanos += 1_000_000_000_000;
    world.apply(&Op::Expire);
    world.check_invariants();
    assert!(world.registry.is_empty());
    assert_eq!(
        world.model.events.len(),
        2 * world.kept.len(),
        "two per stored session"
    );
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_history_matches_the_model(
        strict in prop::bool::weighted(0.2),
        ops in prop::collection::vec(any_op(), 1..60),
    ) {
        check_ops(strict, &ops);
    }
}
