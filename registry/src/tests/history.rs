//! The event log and the tombstones: late and slow readers, and how long removed sessions are kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::support::*;
use crate::events::tombstones::CAPACITY;
use crate::*;

#[test]
fn a_subscription_starts_where_its_snapshot_ends() {
    let registry = registry();
    put(&registry, "a", 1, at(1));
    let (snapshot, mut reader) = registry.subscribe();
    assert_eq!(snapshot.len(), 1);
    assert!(matches!(reader.poll_next(), Next::Empty));
    put(&registry, "b", 2, at(1));
    registry.deregister(&token(1), at(2));
    let seqs: Vec<_> = drain(&mut reader).iter().map(|e| (e.seq, e.at)).collect();
    assert_eq!(seqs, [(2, at(1)), (3, at(2))]);
}

/// The range of a gap.
fn missed(next: &Next) -> (u64, u64) {
    match *next {
        Next::Gap {
            missed_from,
            missed_to,
        } => (missed_from, missed_to),
        ref other => panic!("not a gap: {other:?}"),
    }
}

#[test]
fn a_slow_reader_gets_the_exact_range_that_it_missed_and_a_full_ring_is_not_a_gap() {
    for (events, gap) in [(4, None), (10, Some((1, 6)))] {
        let registry = builder().event_capacity(4).build();
        let (_, mut reader) = registry.subscribe();
        for _ in 0..events {
            registry.publish_shutdown(at(1));
        }
        assert_eq!(gap.map(|_| missed(&reader.poll_next())), gap);
        let seqs: Vec<_> = drain(&mut reader).iter().map(|event| event.seq).collect();
        assert_eq!(seqs, (events - 3..=events).collect::<Vec<_>>());
        registry.check_invariants();
    }
}

#[test]
fn a_ring_of_capacity_zero_keeps_the_last_event() {
    let registry = builder().event_capacity(0).build();
    put(&registry, "a", 1, at(1));
    let mut reader = registry.resume(0).unwrap();
    assert_eq!(drain(&mut reader).len(), 1);
}

#[test]
fn resuming_replays_later_events_and_refuses_a_future_position() {
    let registry = builder().event_capacity(4).build();
    assert!(registry.resume(1).is_none());
    let mut from_start = registry.resume(0).unwrap();
    for _ in 0..6 {
        registry.publish_shutdown(at(1));
    }
    assert!(registry.resume(7).is_none());
    assert!(registry.resume(u64::MAX).is_none());
    assert!(drain(&mut registry.resume(6).unwrap()).is_empty());
    let seqs: Vec<_> = drain(&mut registry.resume(2).unwrap())
        .iter()
        .map(|event| event.seq)
        .collect();
    assert_eq!(seqs, [3, 4, 5, 6]);
    assert_eq!(missed(&from_start.poll_next()), (1, 2));
}

#[test]
fn source_states_and_the_shutdown_are_in_the_same_history() {
    let registry = registry();
    let (_, mut reader) = registry.subscribe();
    let state = SourceState {
        source: Source::Netlink,
        health: SourceHealth::Down,
        reason: "no reply".into(),
    };
    registry.publish_source_state(state.clone(), at(1));
    put(&registry, "a", 1, at(1));
    registry.publish_shutdown(at(2));
    let events = drain(&mut reader);
    assert!(matches!(&events[0].kind, EventKind::SourceState(s) if *s == state));
    assert!(matches!(events[1].kind, EventKind::Registered(_)));
    assert!(matches!(events[2].kind, EventKind::Shutdown));
    assert_eq!(registry.len(), 1, "a shutdown removes no session");
}

#[test]
fn concurrent_readers_miss_no_event_and_read_none_twice() {
    let registry = builder().event_capacity(64).build();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| follow(&registry, &done)))
            .collect();
        let writing = SetOnDrop(&done);
        for round in 0..20_000 {
            put(&registry, ["a", "b"][round % 2], 1, at(1));
        }
        drop(writing);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
}

/// Reads until the writer is done and resumes after each `Empty`. Checks that sequence numbers are
/// consecutive except for reported gaps. Returns the number of events read.
fn follow(registry: &Registry, done: &AtomicBool) -> u64 {
    let mut reader = registry.resume(0).unwrap();
    let (mut expected, mut seen) = (1, 0);
    loop {
        let ended = done.load(Ordering::Acquire);
        match reader.poll_next() {
            Next::Event(event) => {
                assert_eq!(event.seq, expected);
                (expected, seen) = (expected + 1, seen + 1);
            }
            gap @ Next::Gap { .. } => {
                let (missed_from, missed_to) = missed(&gap);
                assert_eq!(missed_from, expected);
                assert!(missed_to >= missed_from);
                expected = missed_to + 1;
            }
            Next::Empty if ended => return seen,
            Next::Empty => reader = registry.resume(expected - 1).unwrap(),
        }
    }
}

#[test]
fn a_snapshot_taken_during_writes_is_consistent_with_later_events() {
    let registry = registry();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _writing = SetOnDrop(&done);
            for round in (0..3_u64)
                .cycle()
                .take_while(|_| !done.load(Ordering::Acquire))
            {
                let name = ["a", "b", "c"][usize::try_from(round).unwrap()];
                put(&registry, name, round, at(1));
                registry.deregister(&token(round), at(1));
            }
        });
        let _reading = SetOnDrop(&done);
        for _ in 0..5_000 {
            follow_snapshot(&registry, &done);
        }
    });
}

/// Checks that no session of the snapshot is registered again and that only known sessions are removed.
/// Waits for three events, because the scheduler decides how often the writer runs.
fn follow_snapshot(registry: &Registry, writer_ended: &AtomicBool) {
    let (snapshot, mut reader) = registry.subscribe();
    let mut live: Vec<_> = snapshot.iter().map(|session| session.entry).collect();
    let mut events = 0;
    while events < 3 && !writer_ended.load(Ordering::Acquire) {
        let event = match reader.poll_next() {
            Next::Event(event) => event,
            Next::Empty => {
                std::thread::yield_now();
                continue;
            }
            // The writer has overwritten the events: nothing to compare.
            Next::Gap { .. } => return,
        };
        events += 1;
        match seen(&event).unwrap().1 {
            Seen::Registered(entry) => {
                assert!(
                    !live.contains(&entry),
                    "the session is already in the snapshot"
                );
                live.push(entry);
            }
            Seen::Deregistered(entry, _) => {
                let index = live.iter().position(|known| *known == entry);
                live.remove(index.expect("only live sessions are removed"));
            }
        }
    }
}

fn cause(registry: &Registry, token_number: u64, now: Moment) -> Option<&'static str> {
    let event: Arc<Event> = registry.recently_gone(&token(token_number), now)?;
    match &event.kind {
        EventKind::Deregistered(_, removal) => Some(removal.cause()),
        other => panic!("not a removal: {other:?}"),
    }
}

#[test]
fn a_removed_session_is_kept_for_a_minute() {
    let registry = registry();
    put(&registry, "a", 1, at(1));
    assert_eq!(cause(&registry, 1, at(1)), None, "the session is live");
    registry.remove_process(ProcessId(1), DEATH, at(100));
    assert_eq!(cause(&registry, 1, at(100)), Some("exited"));
    assert_eq!(cause(&registry, 1, at(160)), Some("exited"));
    assert_eq!(cause(&registry, 1, at_nanos(160_000_000_001)), None);
    assert_eq!(cause(&registry, 2, at(100)), None, "never registered");
}

#[test]
fn a_token_that_was_removed_twice_has_the_later_removal() {
    let registry = registry();
    put(&registry, "a", 1, at(1));
    registry.deregister(&token(1), at(10));
    put(&registry, "a", 1, at(20));
    registry.remove_process(ProcessId(1), DEATH, at(65));
    assert_eq!(cause(&registry, 1, at(66)), Some("exited"));
    // This drops the first tombstone. The second one, of the same token, must stay.
    put(&registry, "b", 2, at(80));
    registry.deregister(&token(2), at(80));
    assert_eq!(cause(&registry, 1, at(80)), Some("exited"));
    registry.check_invariants();
}

#[test]
fn many_removals_at_once_drop_the_oldest_tombstones() {
    let registry = registry();
    let dead = u64::try_from(CAPACITY).unwrap() + 3;
    for number in 0..dead {
        put(&registry, &number.to_string(), number, at(1));
    }
    assert_eq!(
        registry.remove_process(ProcessId(1), DEATH, at(2)),
        CAPACITY + 3
    );
    let remembered = (0..dead).filter(|number| cause(&registry, *number, at(2)).is_some());
    assert!(remembered.eq(3..dead));
    // The next removal, much later, drops them all.
    put(&registry, "a", 1, at(100));
    registry.deregister(&token(1), at(100));
    assert_eq!(registry.tombstones(), 1);
    registry.check_invariants();
}
