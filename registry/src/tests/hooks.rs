//! Hooks: their order, and the effects of hooks that block or panic.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use super::support::*;
use crate::hooks::MAX_WAITING;
use crate::*;

/// Makes a hook report that it was entered and wait until it is released.
struct Latch {
    entered: Sender<()>,
    go: Mutex<Receiver<()>>,
}

impl Latch {
    fn new() -> (Arc<Self>, Receiver<()>, Sender<()>) {
        let (entered, was_entered) = channel();
        let (release, go) = channel();
        let go = Mutex::new(go);
        (Arc::new(Self { entered, go }), was_entered, release)
    }

    fn wait(&self) {
        self.entered.send(()).unwrap();
        receive(&self.go.lock().unwrap(), "the test to release the hook");
    }
}

/// Builds a registry whose `on_register` hook waits for the first sessions, up to this entry id.
fn stuck_on_register(latch: Arc<Latch>, last: u64) -> (Registry, HookLog) {
    logged(builder().on_register(move |session| {
        if session.entry <= EntryId(last) {
            latch.wait();
        }
    }))
}

/// Runs `meanwhile` while the `on_register` hook of `stuck#1`, which has token 1, is blocked.
fn with_stuck_session(meanwhile: impl FnOnce(&Registry, &HookLog)) -> (Registry, HookLog) {
    let (latch, entered, release) = Latch::new();
    let (registry, hook_log) = stuck_on_register(latch, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| put(&registry, "stuck", 1, at(1)));
        receive(&entered, "the hook to be entered");
        meanwhile(&registry, &hook_log);
        release.send(()).unwrap();
    });
    (registry, hook_log)
}

#[test]
fn a_panic_in_a_hook_is_counted_and_does_not_undo_the_change() {
    let builder = builder()
        .on_register(|_| panic!("a bad hook"))
        .on_deregister(|_, _| panic!("another"));
    let (registry, hook_log) = logged(builder);
    let stored = put(&registry, "a", 1, at(1));
    assert_eq!(
        registry.resolve(&token(1), at(1)).unwrap().entry,
        stored.entry
    );
    assert!(registry.deregister(&token(1), at(2)).is_some());
    assert!(registry.is_empty());
    assert_eq!(registry.hook_panics(), 2);
    assert_eq!(hook_log.lines(), ["+a#1", "-a#1 requested"]);
    assert_eq!(registry.waiting_hooks(), 0);
}

#[test]
fn a_panic_payload_that_panics_when_dropped_is_caught() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(
                std::thread::panicking(),
                "a panic while a panic payload is dropped"
            );
        }
    }
    let builder = builder().on_register(|_| std::panic::panic_any(Bomb));
    let (registry, hook_log) = logged(builder);
    put(&registry, "a", 1, at(1));
    put(&registry, "a", 2, at(1));
    assert_eq!(hook_log.lines(), ["+a#1", "-a#1 replaced", "+a#2"]);
    assert_eq!(registry.hook_panics(), 2);
}

#[test]
fn a_register_hook_can_remove_its_session_and_the_deregister_hook_runs_after_it() {
    let hook_log = HookLog::default();
    let registry = with_handle_in_hooks(|handle| {
        let removing = hook_log.attach(builder()).on_register(move |session| {
            let registry = handle.get().unwrap();
            registry.remove_entry(session.entry, Removal::Requested, at(1));
        });
        hook_log.attach(removing)
    });
    put(&registry, "a", 1, at(1));
    // Twice each: the log is attached before and after the hook that removes.
    let expected = ["+a#1", "+a#1", "-a#1 requested", "-a#1 requested"];
    assert_eq!(hook_log.lines(), expected);
    assert_eq!(registry.waiting_hooks(), 0);
}

#[test]
fn a_deregister_hook_can_register_another_session() {
    let hook_log = HookLog::default();
    let registry = with_handle_in_hooks(|handle| {
        hook_log.attach(builder()).on_deregister(move |session, _| {
            if session.id.as_str() == "a" {
                put(handle.get().unwrap(), "b", 2, at(2));
            }
        })
    });
    put(&registry, "a", 1, at(1));
    registry.deregister(&token(1), at(2));
    assert_eq!(hook_log.lines(), ["+a#1", "-a#1 requested", "+b#2"]);
    assert!(registry.resolve(&token(2), at(2)).is_some());
    registry.check_invariants();
}

#[test]
fn a_deregister_hook_can_register_its_session_again() {
    let hook_log = HookLog::default();
    let registry = with_handle_in_hooks(|handle| {
        hook_log.attach(builder()).on_deregister(move |session, _| {
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
    assert_eq!(hook_log.lines(), expected);
}

#[test]
fn a_blocked_hook_does_not_delay_other_sessions() {
    let (_, hook_log) = with_stuck_session(|registry, hook_log| {
        let others = registry.clone();
        within_deadline("other sessions during a blocked hook", move || {
            put(&others, "b", 2, at(1));
            assert!(others.resolve(&token(2), at(1)).is_some());
            assert!(
                others.resolve(&token(1), at(1)).is_some(),
                "stored although its hook is blocked"
            );
            put(&others, "b", 3, at(1));
            assert!(others.deregister(&token(3), at(1)).is_some());
            assert_eq!(others.expire(at(1)), 0);
            assert_eq!(others.list().len(), 1);
            // Another thread can remove even the session whose hook is blocked.
            assert!(others.deregister(&token(1), at(1)).is_some());
            others.subscribe(None);
        });
        let expected = ["+b#2", "-b#2 replaced", "+b#3", "-b#3 requested"];
        assert_eq!(hook_log.lines(), expected);
    });
    assert_eq!(hook_log.lines()[4..], ["+stuck#1", "-stuck#1 requested"]);
}

#[test]
fn a_register_hook_waits_for_the_deregister_hook_of_the_previous_session_with_its_id() {
    let (latch, entered, release) = Latch::new();
    let builder = builder().on_deregister(move |_, _| latch.wait());
    let (registry, hook_log) = logged(builder);
    put(&registry, "a", 1, at(1));
    std::thread::scope(|scope| {
        scope.spawn(|| registry.deregister(&token(1), at(2)));
        receive(&entered, "the deregister hook to be entered");
        // Not a replacement: the first session is no longer in the table.
        put(&registry, "a", 2, at(3));
        assert_eq!(hook_log.lines(), ["+a#1"]);
        release.send(()).unwrap();
    });
    assert_eq!(hook_log.lines(), ["+a#1", "-a#1 requested", "+a#2"]);
}

#[test]
fn a_register_hook_runs_after_the_deregister_hooks_of_both_replaced_sessions() {
    let (registry, hook_log) = logged(builder());
    let (mut events, _) = registry.subscribe(None);
    put(&registry, "a", 1, at(1));
    put(&registry, "b", 2, at(1));
    put(&registry, "a", 2, at(2));
    let expected = ["+a#1", "+b#2", "-a#1 replaced", "-b#2 replaced", "+a#3"];
    assert_eq!(hook_log.lines(), expected);
    let in_events: Vec<_> = drain(&mut events).iter().filter_map(|e| seen(e)).collect();
    assert_eq!(in_events, hook_log.read());
}

#[test]
fn a_register_hook_waits_for_the_hooks_of_the_session_that_lost_its_token() {
    let (registry, hook_log) = with_stuck_session(|registry, hook_log| {
        put(registry, "b", 1, at(2));
        put(registry, "b", 2, at(2));
        put(registry, "c", 1, at(2));
        assert_eq!(hook_log.lines(), ["+c#4"], "no call precedes this one");
    });
    let expected = [
        "+c#4",
        "+stuck#1",
        "-stuck#1 replaced",
        "+b#2",
        "-b#2 replaced",
        "+b#3",
    ];
    assert_eq!(hook_log.lines(), expected);
    assert_eq!(registry.waiting_hooks(), 0);
}

#[test]
fn calls_behind_a_blocked_hook_are_bounded_and_dropped_in_pairs() {
    let replacements = u64::try_from(MAX_WAITING).unwrap();
    let (registry, hook_log) = with_stuck_session(|registry, _| {
        for number in 0..replacements {
            // Alternately by its token under another id, and by its id.
            let name = ["other", "stuck"][usize::try_from(number % 2).unwrap()];
            put(registry, name, number / 2 + 1, at(1));
            assert!(registry.waiting_hooks() <= MAX_WAITING + 3);
        }
    });
    registry.expire(at(1_000_000));
    assert_eq!(registry.waiting_hooks(), 0);
    assert!(registry.hooks_lost() > 0);
    let called = check_pairs(&hook_log.read());
    assert_eq!(called + registry.hooks_lost(), replacements + 1);
}

/// Replaces the session with this id, whose hook is blocked, until the queue of calls is full. At the end
/// the session has its original token.
fn fill_queue(registry: &Registry, name: &str, token_number: u64) {
    while registry.waiting_hooks() < MAX_WAITING {
        put(registry, name, token_number + 1_000, at(1));
        put(registry, name, token_number, at(1));
    }
}

#[test]
fn a_call_behind_a_dropped_one_runs_on_the_thread_that_dropped_it() {
    let (registry, _) = with_stuck_session(|registry, hook_log| {
        fill_queue(registry, "stuck", 1);
        put(registry, "b", 2, at(1));
        // Waits behind the blocked hook and is in the queue of "b" too, so the next "b" waits as well.
        put(registry, "stuck", 2, at(1));
        let waiting = put(registry, "b", 3, at(1)).entry.0;
        let registered = format!("+b#{waiting}");
        assert!(!hook_log.lines().contains(&registered));
        registry.deregister(&token(2), at(1));
        assert!(hook_log.lines().contains(&registered));
    });
    assert_eq!(registry.waiting_hooks(), 0);
}

#[test]
fn a_session_whose_register_hook_is_running_is_never_dropped() {
    let (latch, entered, release) = Latch::new();
    let (registry, hook_log) = stuck_on_register(latch, 2);
    std::thread::scope(|scope| {
        scope.spawn(|| put(&registry, "stuck", 1, at(1)));
        receive(&entered, "the first hook to be entered");
        scope.spawn(|| put(&registry, "stuck too", 2, at(1)));
        receive(&entered, "the second hook to be entered");
        fill_queue(&registry, "stuck too", 2);
        registry.deregister(&token(1), at(1));
        release.send(()).unwrap();
        release.send(()).unwrap();
    });
    let calls = hook_log.lines();
    assert!(calls.contains(&"-stuck#1 requested".to_owned()));
    registry.deregister(&token(2), at(1));
    check_pairs(&hook_log.read());
}

#[test]
fn concurrent_changes_of_one_id_keep_their_order_and_drop_no_call() {
    let (registry, hook_log) = logged(builder());
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
    assert_eq!(check_pairs(&hook_log.read()), stored);
    registry.check_invariants();
}

/// Registers, replaces by id, by token and by both, and removes. Returns how many sessions were stored.
fn churn(registry: &Registry, worker: u64) -> u64 {
    let mut stored = 0;
    for round in 0..3_000 {
        let name = ["a", "a", "b"][usize::try_from((round + worker) % 3).unwrap()];
        let new = session(name, (round * 7 + worker) % 5);
        let outcome = registry.register(new, at(1)).unwrap();
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

/// Checks that the calls of each id are pairs of register and deregister of one entry, with ascending
/// entry ids. Returns the number of pairs.
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
            assert!(first.entry() > last, "entry ids ascend");
            last = first.entry();
            let end = calls.next().expect("every session has been removed");
            assert!(matches!(end, Seen::Deregistered(entry, _) if entry == last));
            pairs += 1;
        }
    }
    pairs
}

#[test]
fn each_on_removed_function_is_called_for_each_removed_session() {
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
fn a_runner_gets_the_hooks_and_keeps_the_order_of_one_id() {
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
    // The later one first, as two threads of a runner could do.
    for run in runs.into_iter().rev() {
        run();
    }
    assert_eq!(*seen.lock().unwrap(), ["register", "deregister"]);
}
