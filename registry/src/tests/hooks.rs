//! Hooks: their order, and what a bad one can and cannot do.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};

use super::support::*;
use crate::hooks::MAX_WAITING;
use crate::*;

/// A registry that its own hooks can reach.
fn reachable(build: impl FnOnce(Arc<OnceLock<Registry>>) -> RegistryBuilder) -> Registry {
    let handle = Arc::new(OnceLock::new());
    let registry = build(handle.clone()).build();
    assert!(handle.set(registry.clone()).is_ok());
    registry
}

/// A hook that says that it was entered, then waits to be let go.
struct Latch {
    entered: Sender<()>,
    go: Mutex<Receiver<()>>,
}

impl Latch {
    fn new() -> (Arc<Self>, Receiver<()>, Sender<()>) {
        let (entered, was_entered) = channel();
        let (let_go, go) = channel();
        let go = Mutex::new(go);
        (Arc::new(Self { entered, go }), was_entered, let_go)
    }

    fn pass(&self) {
        self.entered.send(()).unwrap();
        receive(&self.go.lock().unwrap(), "the test to open the gate");
    }
}

/// The `on_register` hook of the session named `stuck` waits at the gate; a diary follows.
fn stuck_on_register(gate: Arc<Latch>, diary: &Diary) -> Registry {
    let builder = builder().on_register(move |session| {
        if session.id.as_str() == "stuck" {
            gate.pass();
        }
    });
    diary.attach(builder).build()
}

#[test]
fn a_hook_that_panics_is_counted_and_its_mutation_stands() {
    let diary = Diary::default();
    let builder = builder()
        .on_register(|_| panic!("a bad hook"))
        .on_deregister(|_, _| panic!("another"));
    let registry = diary.attach(builder).build();
    let stored = put(&registry, "a", 1, at(1));
    assert_eq!(
        registry.resolve(&token(1), at(1)).unwrap().entry,
        stored.entry
    );
    assert!(registry.deregister(&token(1), at(2)).is_some());
    assert!(registry.is_empty());
    assert_eq!(registry.hook_panics(), 2);
    assert_eq!(diary.words(), ["+a#1", "-a#1 requested"]);
    assert_eq!(registry.waiting_hooks(), 0);
}

#[test]
fn a_panic_that_panics_again_when_dropped_is_contained_too() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(
                std::thread::panicking(),
                "a panic in the clean-up of a panic"
            );
        }
    }
    let diary = Diary::default();
    let builder = builder().on_register(|_| std::panic::panic_any(Bomb));
    let registry = diary.attach(builder).build();
    put(&registry, "a", 1, at(1));
    put(&registry, "a", 2, at(1));
    assert_eq!(diary.words(), ["+a#1", "-a#1 replaced", "+a#2"]);
    assert_eq!(registry.hook_panics(), 2);
}

#[test]
fn a_session_that_its_own_register_hook_removes_ends_after_that_hook() {
    let diary = Diary::default();
    let registry = reachable(|handle| {
        let removing = diary.attach(builder()).on_register(move |session| {
            let registry = handle.get().unwrap();
            registry.remove_entry(session.entry, Removal::Requested, at(1));
        });
        diary.attach(removing)
    });
    put(&registry, "a", 1, at(1));
    // Twice each: the diary stands before and after the hook that removes.
    let expected = ["+a#1", "+a#1", "-a#1 requested", "-a#1 requested"];
    assert_eq!(diary.words(), expected);
    assert_eq!(registry.waiting_hooks(), 0);
}

#[test]
fn a_deregister_hook_can_register_another_session() {
    let diary = Diary::default();
    let registry = reachable(|handle| {
        diary.attach(builder()).on_deregister(move |session, _| {
            if session.id.as_str() == "a" {
                put(handle.get().unwrap(), "b", 2, at(2));
            }
        })
    });
    put(&registry, "a", 1, at(1));
    registry.deregister(&token(1), at(2));
    assert_eq!(diary.words(), ["+a#1", "-a#1 requested", "+b#2"]);
    assert!(registry.resolve(&token(2), at(2)).is_some());
    registry.check_invariants();
}

#[test]
fn a_deregister_hook_can_bring_its_own_session_back() {
    let diary = Diary::default();
    let registry = reachable(|handle| {
        diary.attach(builder()).on_deregister(move |session, _| {
            if session.entry.0 < 4 {
                put(handle.get().unwrap(), "a", 1, at(2));
            }
        })
    });
    put(&registry, "a", 1, at(1));
    for _ in 0..4 {
        registry.deregister(&token(1), at(2));
    }
    let mut expected = Vec::new();
    for entry in 1..=4 {
        expected.push(format!("+a#{entry}"));
        expected.push(format!("-a#{entry} requested"));
    }
    assert_eq!(diary.words(), expected);
}

#[test]
fn a_blocked_hook_holds_up_no_other_session() {
    let (gate, entered, let_go) = Latch::new();
    let diary = Diary::default();
    let registry = stuck_on_register(gate, &diary);
    std::thread::scope(|scope| {
        scope.spawn(|| put(&registry, "stuck", 1, at(1)));
        receive(&entered, "the hook to be entered");
        let others = registry.clone();
        within_deadline("others beside a blocked hook", move || {
            put(&others, "b", 2, at(1));
            assert!(others.resolve(&token(2), at(1)).is_some());
            assert!(
                others.resolve(&token(1), at(1)).is_some(),
                "stored all the same"
            );
            put(&others, "b", 3, at(1));
            assert!(others.deregister(&token(3), at(1)).is_some());
            assert_eq!(others.expire(at(1)), 0);
            assert_eq!(others.list().len(), 1);
            // Even the session itself can be removed, by another thread.
            assert!(others.deregister(&token(1), at(1)).is_some());
            others.subscribe();
        });
        let expected = ["+b#2", "-b#2 replaced", "+b#3", "-b#3 requested"];
        assert_eq!(diary.words(), expected);
        let_go.send(()).unwrap();
    });
    assert_eq!(diary.words()[4..], ["+stuck#1", "-stuck#1 requested"]);
}

#[test]
fn a_name_that_registers_again_waits_for_the_deregister_hook_of_its_last_bearer() {
    let (gate, entered, let_go) = Latch::new();
    let diary = Diary::default();
    let builder = builder().on_deregister(move |_, _| gate.pass());
    let registry = diary.attach(builder).build();
    put(&registry, "a", 1, at(1));
    std::thread::scope(|scope| {
        scope.spawn(|| registry.deregister(&token(1), at(2)));
        receive(&entered, "the deregister hook to be entered");
        // Not a replacement: the first session has left the table.
        put(&registry, "a", 2, at(3));
        assert_eq!(diary.words(), ["+a#1"]);
        let_go.send(()).unwrap();
    });
    assert_eq!(diary.words(), ["+a#1", "-a#1 requested", "+a#2"]);
}

#[test]
fn a_registration_that_replaces_two_sessions_is_heard_of_after_both_have_ended() {
    let diary = Diary::default();
    let registry = diary.attach(builder()).build();
    let (_, mut events) = registry.subscribe();
    put(&registry, "a", 1, at(1));
    put(&registry, "b", 2, at(1));
    put(&registry, "a", 2, at(2));
    let expected = ["+a#1", "+b#2", "-a#1 replaced", "-b#2 replaced", "+a#3"];
    assert_eq!(diary.words(), expected);
    let in_events: Vec<_> = drain(&mut events).iter().filter_map(|e| seen(e)).collect();
    assert_eq!(in_events, diary.read());
}

#[test]
fn a_registration_waits_for_the_session_that_lost_its_token_to_it() {
    let (gate, entered, let_go) = Latch::new();
    let diary = Diary::default();
    let registry = stuck_on_register(gate, &diary);
    std::thread::scope(|scope| {
        scope.spawn(|| put(&registry, "stuck", 1, at(1)));
        receive(&entered, "the hook to be entered");
        put(&registry, "b", 1, at(2));
        put(&registry, "b", 2, at(2));
        put(&registry, "c", 1, at(2));
        assert_eq!(diary.words(), ["+c#4"], "c has nothing to wait for");
        let_go.send(()).unwrap();
    });
    let expected = [
        "+c#4",
        "+stuck#1",
        "-stuck#1 replaced",
        "+b#2",
        "-b#2 replaced",
        "+b#3",
    ];
    assert_eq!(diary.words(), expected);
    assert_eq!(registry.waiting_hooks(), 0);
}

#[test]
fn calls_behind_a_blocked_hook_are_bounded_and_lost_only_in_pairs() {
    let (gate, entered, let_go) = Latch::new();
    let diary = Diary::default();
    let builder = builder().on_register(move |session| {
        if session.entry == EntryId(1) {
            gate.pass();
        }
    });
    let registry = diary.attach(builder).build();
    let replacements = u64::try_from(MAX_WAITING).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| put(&registry, "stuck", 0, at(1)));
        receive(&entered, "the hook to be entered");
        for number in 0..replacements {
            // Now by its token under another id, now by its id too.
            let name = ["other", "stuck"][usize::try_from(number % 2).unwrap()];
            put(&registry, name, number / 2, at(1));
            assert!(registry.waiting_hooks() <= MAX_WAITING + 3);
        }
        let_go.send(()).unwrap();
    });
    registry.expire(at(1_000_000));
    assert_eq!(registry.waiting_hooks(), 0);
    assert!(registry.hooks_lost() > 0);
    let heard = check_pairs(&diary.read());
    assert_eq!(heard + registry.hooks_lost(), replacements + 1);
}

/// Replaces the session of this name, whose hook is blocked, until no more calls can wait. It bears
/// its token again at the end.
fn fill_queue(registry: &Registry, name: &str, token_number: u64) {
    while registry.waiting_hooks() < MAX_WAITING {
        put(registry, name, token_number + 1_000, at(1));
        put(registry, name, token_number, at(1));
    }
}

#[test]
fn a_call_that_waited_for_a_lost_one_is_made_by_whoever_lost_it() {
    let (gate, entered, let_go) = Latch::new();
    let diary = Diary::default();
    let builder = builder().on_register(move |session| {
        if session.entry == EntryId(1) {
            gate.pass();
        }
    });
    let registry = diary.attach(builder).build();
    std::thread::scope(|scope| {
        scope.spawn(|| put(&registry, "stuck", 1, at(1)));
        receive(&entered, "the hook to be entered");
        fill_queue(&registry, "stuck", 1);
        put(&registry, "b", 2, at(1));
        // Waits behind the blocked hook, in the lane of "b" too, so that the next "b" waits as well.
        put(&registry, "stuck", 2, at(1));
        let waiting = put(&registry, "b", 3, at(1)).entry.0;
        let announced = format!("+b#{waiting}");
        assert!(!diary.words().contains(&announced));
        registry.deregister(&token(2), at(1));
        assert!(diary.words().contains(&announced));
        let_go.send(()).unwrap();
    });
    assert_eq!(registry.waiting_hooks(), 0);
}

#[test]
fn a_session_that_was_being_announced_is_never_lost() {
    let (gate, entered, let_go) = Latch::new();
    let diary = Diary::default();
    let builder = builder().on_register(move |session| {
        if session.entry <= EntryId(2) {
            gate.pass();
        }
    });
    let registry = diary.attach(builder).build();
    std::thread::scope(|scope| {
        scope.spawn(|| put(&registry, "stuck", 1, at(1)));
        receive(&entered, "the first hook to be entered");
        scope.spawn(|| put(&registry, "stuck too", 2, at(1)));
        receive(&entered, "the second hook to be entered");
        fill_queue(&registry, "stuck too", 2);
        registry.deregister(&token(1), at(1));
        let_go.send(()).unwrap();
        let_go.send(()).unwrap();
    });
    let calls = diary.words();
    assert!(calls.contains(&"-stuck#1 requested".to_owned()));
    registry.deregister(&token(2), at(1));
    check_pairs(&diary.read());
}

#[test]
fn one_name_under_several_threads_keeps_its_order_and_loses_nothing() {
    let diary = Diary::default();
    let registry = diary.attach(builder()).build();
    let stored: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let registry = &registry;
                scope.spawn(move || churn(registry, worker))
            })
            .collect();
        workers.into_iter().map(|w| w.join().unwrap()).sum()
    });
    registry.expire(at(1_000_000));
    assert_eq!(registry.waiting_hooks(), 0);
    assert_eq!(registry.hooks_lost(), 0);
    assert_eq!(check_pairs(&diary.read()), stored);
    registry.check_invariants();
}

/// Registers, replaces by id, by token and by both, removes; answers how many were stored.
fn churn(registry: &Registry, worker: u64) -> u64 {
    let mut stored = 0;
    for round in 0..3_000 {
        let name = ["a", "a", "b"][usize::try_from((round + worker) % 3).unwrap()];
        let new = session(name, (round * 7 + worker) % 5);
        let outcome = registry.register(new, Authority::Owner, at(1)).unwrap();
        let entry = outcome.session.entry;
        stored += u64::from(!outcome.renewed);
        match round % 4 {
            0 => drop(registry.deregister(&token(round % 5), at(1))),
            1 => drop(registry.remove_entry(entry, Removal::Died(DEATH), at(1))),
            2 if worker == 0 => drop(registry.remove_process(ProcessId(1), DEATH, at(1))),
            _ => {}
        }
    }
    stored
}

/// For each name: register and deregister in turns, both of one entry, entries ascending. Answers how
/// many pairs there are.
fn check_pairs(calls: &[(SessionId, Seen)]) -> u64 {
    let mut pairs = 0;
    let mut names: Vec<_> = calls.iter().map(|(id, _)| id).collect();
    names.sort();
    names.dedup();
    for name in names {
        let mut calls = calls.iter().filter(|(id, _)| id == name).map(|(_, s)| *s);
        let mut last = EntryId(0);
        while let Some(first) = calls.next() {
            assert_eq!(first, Seen::Registered(first.entry()));
            assert!(first.entry() > last, "entries of one name in their order");
            last = first.entry();
            let end = calls.next().expect("every session here has ended");
            assert!(matches!(end, Seen::Deregistered(entry, _) if entry == last));
            pairs += 1;
        }
    }
    pairs
}

#[test]
fn each_release_is_called_for_each_removed_session() {
    let released: Arc<Mutex<Vec<(u8, SessionId)>>> = Arc::default();
    let release = |number| {
        let released = released.clone();
        move |session: &Arc<Session>| released.lock().unwrap().push((number, session.id.clone()))
    };
    let registry = builder()
        .on_removed(release(1))
        .on_removed(release(2))
        .build();
    put(&registry, "a", 1, at(1));
    registry.deregister(&token(1), at(2));
    assert_eq!(*released.lock().unwrap(), [(1, id("a")), (2, id("a"))]);
}

#[test]
fn a_runner_gets_the_hooks_and_the_order_within_a_session_stays() {
    let runs: Arc<Mutex<Vec<HookRun>>> = Arc::default();
    let taken = runs.clone();
    let seen: Arc<Mutex<Vec<&str>>> = Arc::default();
    let (on_register, on_deregister) = (seen.clone(), seen.clone());
    let registry = builder()
        .on_register(move |_| on_register.lock().unwrap().push("register"))
        .on_deregister(move |_, _| on_deregister.lock().unwrap().push("deregister"))
        .run_hooks_by(move |run| taken.lock().unwrap().push(run))
        .build();
    let session = put(&registry, "s", 1, at(1));
    registry.remove_entry(session.entry, Removal::Requested, at(2));
    assert!(
        seen.lock().unwrap().is_empty(),
        "a hook ran on the mutating thread"
    );
    let runs = std::mem::take(&mut *runs.lock().unwrap());
    // As two threads of a runner might: the later one first.
    for run in runs.into_iter().rev() {
        run();
    }
    assert_eq!(*seen.lock().unwrap(), ["register", "deregister"]);
}
