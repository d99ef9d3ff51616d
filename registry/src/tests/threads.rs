//! Look-ups during concurrent changes.

use std::sync::atomic::{AtomicBool, Ordering};

use super::support::*;
use crate::*;

const TOKENS: u64 = 32;

/// Token n is registered only under ids that begin with "n-".
fn name(token_number: u64, variant: u64) -> String {
    format!("{token_number}-{}", variant % 3)
}

#[test]
fn a_concurrent_look_up_never_returns_a_session_of_another_token() {
    let registry = registry();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|reader| {
                let (registry, done) = (&registry, &done);
                scope.spawn(move || look_up(registry, done, reader))
            })
            .collect();
        let writing = SetOnDrop(&done);
        for round in 0..40_000_u64 {
            let number = round * 7 % TOKENS;
            let stored = put(&registry, &name(number, round), number, at(1));
            match round % 5 {
                0 => drop(registry.deregister(&token(number), at(1))),
                1 => drop(registry.remove_entry(stored.entry, Removal::Died(DEATH), at(1))),
                _ => {}
            }
            // A thread sees its own changes at once.
            let found = registry.resolve(&token(number), at(1)).map(|s| s.entry);
            assert_eq!(found, (round % 5 > 1).then_some(stored.entry));
        }
        drop(writing);
        for reader in readers {
            reader.join().unwrap();
        }
    });
    registry.check_invariants();
}

/// Looks up until the writer is done, and at least until a session was found.
fn look_up(registry: &Registry, done: &AtomicBool, reader: u64) {
    let mut found = 0;
    // Every reader sees the entry ids of one token in ascending order.
    let mut newest = vec![EntryId(0); usize::try_from(TOKENS).unwrap()];
    let mut number = reader;
    while found == 0 || !done.load(Ordering::Acquire) {
        number = (number + 5) % TOKENS;
        let Some(session) = registry.resolve(&token(number), at(1)) else {
            continue;
        };
        let (of_token, _) = session.id.as_str().split_once('-').unwrap();
        assert_eq!(of_token, number.to_string());
        let last = &mut newest[usize::try_from(number).unwrap()];
        assert!(session.entry >= *last, "never an older session");
        *last = session.entry;
        found += 1;
    }
}

#[test]
fn of_several_concurrent_removals_exactly_one_succeeds() {
    let (registry, hook_log) = logged(builder());
    let barrier = std::sync::Barrier::new(4);
    for round in 0..500_u64 {
        let entry = put(&registry, "a", round, at(1)).entry;
        let (registry, barrier) = (&registry, &barrier);
        let ends: [Box<dyn Fn() -> usize + Send>; 4] = [
            Box::new(move || {
                registry
                    .deregister(&token(round), at(2))
                    .into_iter()
                    .count()
            }),
            Box::new(move || registry.remove_process(ProcessId(1), DEATH, at(2))),
            Box::new(move || {
                let removal = Removal::Died(DEATH);
                registry
                    .remove_entry(entry, removal, at(2))
                    .into_iter()
                    .count()
            }),
            Box::new(move || registry.expire(at(100_000))),
        ];
        let winners: usize = std::thread::scope(|scope| {
            let racers: Vec<_> = ends
                .into_iter()
                .map(|end| {
                    scope.spawn(move || {
                        barrier.wait();
                        end()
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).sum()
        });
        assert_eq!(winners, 1);
    }
    assert_eq!(hook_log.read().len(), 1_000);
    assert!(registry.is_empty());
}
