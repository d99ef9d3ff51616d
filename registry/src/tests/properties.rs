//! Property test: after every step of any list of operations, the registry equals the model and all
//! invariants hold.

mod ops;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use self::ops::{Op, Rules, any_op, any_rules};
use super::journal::Ledger;
use super::model::{Live, Model, is_expired, unregistered};
use super::support::*;
use crate::*;

const IDS: [&str; 4] = ["a", "b", "c", "d"];
const TOKENS: u64 = 5;
const PROCESSES: u64 = 3;
/// The same.
const HELD: usize = 3;
const OWNERS: std::ops::Range<u32> = 1000..1002;

struct World {
    registry: Registry,
    model: Model,
    hook_log: HookLog,
    ledger: Arc<Ledger>,
    now_nanos: u64,
    /// Every session ever stored, kept referenced.
    kept: Vec<(Arc<Session>, Option<StartTime>)>,
    readers: Vec<(Subscription, u64, Option<u32>)>,
    /// How often each process is held by sessions.
    held: Arc<Mutex<[i64; HELD]>>,
}

fn index(process: u64) -> usize {
    usize::try_from(process).unwrap()
}

impl World {
    fn new(rules: Rules) -> Self {
        let [ttl, max_ttl] = [rules.ttl, rules.max_ttl].map(|ttl| ttl.map(Duration::from_secs));
        let limits = Limits {
            sessions: 7,
            sessions_per_owner: 5,
            bytes: 12_000,
            bytes_per_owner: 10_000,
        };
        let (hook_log, ledger) = (HookLog::default(), Arc::new(Ledger::default()));
        let builder = builder()
            .ttl(ttl)
            .max_ttl(max_ttl)
            .limits(limits)
            .strict_replace(rules.strict)
            .journal(ledger.clone())
            .event_capacity(6);
        let held = Arc::<Mutex<[i64; _]>>::default();
        Self {
            registry: hook_log.attach(counting(builder, &held)).build(),
            held,
            ledger,
            model: Model {
                ttl,
                max_ttl,
                limits,
                strict: rules.strict,
                event_capacity: 6,
                live: Vec::new(),
                events: Vec::new(),
                stored: 0,
                kept: Vec::new(),
                dropped: Vec::new(),
                lost: BTreeSet::new(),
            },
            hook_log,
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
            Op::Register(ref newcomer) => self.register(newcomer),
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
                assert_eq!(gone, self.model.remove_process(number, removal, now));
                self.keep_successors();
            }
            Op::Expire => assert_eq!(self.registry.expire(now), self.model.expire(now)),
            Op::AdvanceNanos(nanos) => self.now_nanos += nanos,
            Op::Subscribe(owner) => self.subscribe(owner),
            Op::Resume(back, owner) => self.resume(back, owner),
            Op::Read { reader, events } => (0..events).for_each(|_| self.read(reader)),
            Op::LearnStartTime(number, time) => self.learn_start_time(number, time),
            Op::Restart => self.restart(),
        }
    }

    fn restart(&mut self) {
        let Model {
            ttl,
            max_ttl,
            limits,
            strict,
            ..
        } = self.model;
        let builder = builder()
            .ttl(ttl)
            .max_ttl(max_ttl)
            .limits(limits)
            .strict_replace(strict)
            .journal(self.ledger.clone())
            .restore(self.ledger.state())
            .event_capacity(6);
        let builder = counting(builder, &self.held);
        self.registry = self.hook_log.attach(builder).build();
        self.model.restart();
        let resume = |(_, position, owner): &(Subscription, u64, Option<u32>)| {
            let reader = self.registry.resume(position - 1, *owner);
            (reader.expect("numbers go on"), *position, *owner)
        };
        self.readers = self.readers.iter().map(resume).collect();
    }

    fn register(&mut self, newcomer: &Live) {
        let details = Details {
            cwd: Some("x".repeat(newcomer.cwd).into()),
            labels: labels(newcomer.labels),
            mesh: newcomer.mesh.into(),
            ..Details::default()
        };
        let process = |id: &u64| Process::new(ProcessId(*id), Pid::new(77).unwrap(), None);
        let new = NewSession {
            details,
            further: newcomer.further.iter().map(process).collect(),
            owner: newcomer.owner,
            presence: Some(presence()),
            ttl: newcomer.ttl,
            ..of_process(newcomer.process, session(newcomer.id, newcomer.token))
        };
        let mut newcomer = newcomer.clone();
        newcomer.bytes = new.bytes();
        let stored = self.registry.register(new, self.now());
        let expected = self.model.register(&newcomer, self.now());
        let outcome = stored.as_ref().map(|s| (s.session.entry, s.renewed));
        assert_eq!(outcome.map_err(|e| *e), expected);
        let Ok(Stored { session, renewed }) = stored else {
            return;
        };
        assert_eq!(session.registered_at, self.now());
        let former = |(kept, _): &&(Arc<Session>, _)| kept.entry == session.entry;
        let former = self.kept.iter().rev().find(former);
        assert_eq!(former.is_some(), renewed);
        let started_at = former.map_or(self.now(), |(former, _)| former.started_at);
        assert_eq!(session.started_at, started_at);
        // That of another process says nothing.
        let former = former.filter(|(kept, _)| kept.process.id == session.process.id);
        let start_time = former.and_then(|(_, start_time)| *start_time);
        self.kept.push((session, start_time));
        for process in newcomer.processes() {
            self.held.lock().unwrap()[index(process)] += 1;
        }
    }

    /// The end of one of several processes makes a new value.
    fn keep_successors(&mut self) {
        for session in self.registry.list() {
            let is_kept = |(kept, _): &(Arc<Session>, _)| Arc::ptr_eq(kept, &session);
            if !self.kept.iter().any(is_kept) {
                let former = |(kept, _): &&(Arc<Session>, _)| kept.entry == session.entry;
                let former = self.kept.iter().rev().find(former);
                let (_, start_time) = former.expect("it was registered");
                self.kept.push((session, *start_time));
            }
        }
    }

    fn subscribe(&mut self, owner: Option<u32>) {
        let (reader, last) = self.registry.subscribe(owner);
        assert_eq!(last, EntryId(self.model.stored));
        assert_eq!(reader.position(), self.model.next_seq());
        self.readers.push((reader, self.model.next_seq(), owner));
    }

    fn resume(&mut self, back: i8, owner: Option<u32>) {
        let Some(last_seen) = (self.model.next_seq() - 1).checked_add_signed(-i64::from(back))
        else {
            return;
        };
        let reader = self.registry.resume(last_seen, owner);
        assert_eq!(reader.is_some(), last_seen < self.model.next_seq());
        self.readers
            .extend(reader.map(|reader| (reader, last_seen + 1, owner)));
    }

    fn read(&mut self, which: usize) {
        let Some((reader, position, owner)) = self.readers.get_mut(which) else {
            return;
        };
        let dropped = self.model.dropped(*owner);
        let kept = self.model.next_kept(*position, *owner);
        match reader.poll_next() {
            Next::Gap {
                missed_from,
                missed_to,
            } => {
                let to_the_next_kept = kept.map_or(dropped, |kept| dropped.min(kept - 1));
                assert_eq!((missed_from, missed_to), (*position, to_the_next_kept));
                assert!(missed_from <= missed_to, "a gap is not empty");
                *position = missed_to + 1;
            }
            Next::Event(event) => {
                assert_eq!(Some(event.seq), kept);
                assert!(*position > dropped || event.seq == *position);
                let expected = self.model.events[usize::try_from(event.seq - 1).unwrap()];
                assert_eq!(seen(&event), Some((id(expected.id), expected.seen)));
                *position = event.seq + 1;
            }
            Next::Empty => {
                assert!(*position > dropped && kept.is_none());
                *position = self.model.next_seq();
            }
        }
        assert_eq!(reader.position(), *position);
    }

    fn learn_start_time(&mut self, number: u64, time: u64) {
        let found = self
            .kept
            .iter_mut()
            .rev()
            .find(|(session, _)| session.entry.0 == number);
        if let Some((session, known)) = found {
            let taken = session.process.learn_start_time(StartTime(time));
            assert_eq!(taken, known.is_none(), "the first start time stays");
            known.get_or_insert(StartTime(time));
        }
    }

    fn live_entries(&self, keep: impl Fn(&Live) -> bool) -> Vec<EntryId> {
        let live = self.model.live.iter().filter(|live| keep(live));
        live.map(|live| live.entry).collect()
    }

    fn check_invariants(&self) {
        let (registry, model, now) = (&self.registry, &self.model, self.now());
        registry.check_invariants();
        assert_eq!(registry.waiting_hooks(), 0);
        assert_eq!(registry.hooks_lost() + registry.hook_panics(), 0);
        let live = self.live_entries(|_| true);
        let listed = registry.list();
        assert_eq!(entries(&listed), live);
        assert_eq!(registry.len(), live.len());
        for (session, live) in listed.iter().zip(&model.live) {
            assert_eq!(*session.labels(), labels(live.labels));
            assert_eq!(&*session.details.mesh, live.mesh);
        }

        let expected: Vec<_> = model.events.iter().map(|n| (id(n.id), n.seen)).collect();
        assert_eq!(
            self.hook_log.read(),
            expected,
            "hooks and events are one story"
        );
        for (session, start_time) in &self.kept {
            assert_eq!(
                has_secret(session),
                listed.iter().any(|live| Arc::ptr_eq(live, session)),
                "a removed or renewed session has no key"
            );
            assert_eq!(session.process.start_time(), *start_time);
        }
        for (session, live) in listed.iter().zip(&model.live) {
            let living: Vec<_> = session.living().map(|it| it.id.0).collect();
            assert_eq!(living, live.living());
            let ended = session.members().iter().filter(|it| it.end.is_some());
            assert_eq!(ended.count(), live.processes().len() - living.len());
        }
        for owner in OWNERS {
            self.check_owner(owner);
            assert_eq!(ended(registry, Some(owner)), model.ended(Some(owner)));
        }
        assert_eq!(ended(registry, None), model.ended(None));
        for process in 0..PROCESSES {
            let found = entries(&registry.sessions_of(ProcessId(process)));
            let hanging = self.live_entries(|live| live.living().contains(&process));
            assert_eq!(found, hanging);
            let held = self.held.lock().unwrap()[index(process)];
            assert_eq!(held, i64::try_from(hanging.len()).unwrap());
        }
        for number in 0..TOKENS {
            let tombstone = registry.recently_gone(&token(number), None, now);
            assert_eq!(
                tombstone.map(|event| event.seq),
                model.tombstone(number, now)
            );
            // A look-up has an effect only for an expired session: that is an `Op`.
            let current = model.live.iter().find(|live| live.token == number);
            if current.is_none_or(|live| !is_expired(live, now)) {
                let found = registry.resolve(&token(number), now).map(|s| s.entry);
                assert_eq!(found, current.map(|live| live.entry));
            }
        }
    }
}

impl World {
    fn check_owner(&self, owner: u32) {
        let (registry, model) = (&self.registry, &self.model);
        for name in IDS {
            let found = registry.session_named(owner, &id(name)).map(|s| s.entry);
            let bearers = self.live_entries(|live| live.id == name && live.owner == owner);
            assert!(bearers.len() <= 1, "at most one session per owner and id");
            assert_eq!(found, bearers.first().copied());
        }
        let own = self.live_entries(|live| live.owner == owner);
        let live = || model.live.iter().filter(|live| live.owner == owner);
        let usage = OwnerUsage {
            sessions: live().map(|live| live.processes().len()).sum(),
            bytes: live().map(|live| live.bytes).sum(),
            events: model.kept.iter().filter(|it| it.owner == owner).count(),
            most_sessions: registry.usage(owner).most_sessions,
            most_bytes: registry.usage(owner).most_bytes,
        };
        assert_eq!(registry.usage(owner), usage);
        let all = registry.usage_by_owner().get(&owner).copied();
        assert!(all.map_or(usage.sessions + usage.events == 0, |all| all == usage));
        assert_eq!(entries(&registry.page(None, Some(owner), 9)), own);
        let second = registry.page(own.first().copied(), Some(owner), 1);
        assert_eq!(entries(&second).first(), own.get(1));
    }
}

/// The numbers of the events of ended sessions.
fn ended(registry: &Registry, owner: Option<u32>) -> Vec<u64> {
    let (events, next) = registry.ended(None, owner);
    assert_eq!(next, None, "there are few events");
    events.iter().map(|event| event.seq).collect()
}

/// So many labels. No event becomes so large that it is the only one of its owner and is dropped at once.
fn labels(count: u8) -> Labels {
    let value = "v".repeat(100);
    (0..count)
        .map(|key| (key.to_string(), value.clone()))
        .collect()
}

/// Counts what is released.
fn counting(builder: RegistryBuilder, held: &Arc<Mutex<[i64; HELD]>>) -> RegistryBuilder {
    let held = held.clone();
    builder.on_released(move |process| held.lock().unwrap()[index(process.0)] -= 1)
}

fn entries(sessions: &[Arc<Session>]) -> Vec<EntryId> {
    sessions.iter().map(|session| session.entry).collect()
}

fn check_ops(rules: Rules, ops: &[Op]) {
    let mut world = World::new(rules);
    for op in ops {
        world.apply(op);
        world.check_invariants();
    }
    // The remaining sessions are removed once.
    world.now_nanos += 1_000_000_000_000;
    world.apply(&Op::Expire);
    (0..PROCESSES).for_each(|process| world.apply(&Op::RemoveProcess(process)));
    world.check_invariants();
    assert!(world.registry.is_empty());
    let events = u64::try_from(world.model.events.len()).unwrap();
    assert_eq!(
        events,
        2 * world.model.stored,
        "two events per stored session"
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
        rules in any_rules(),
        ops in prop::collection::vec(any_op(), 1..60),
    ) {
        check_ops(rules, &ops);
    }
}
