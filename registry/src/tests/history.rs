//! The event log and the tombstones: late and slow readers, and how long removed sessions are kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::support::*;
use crate::events::tombstones::CAPACITY;
use crate::*;

#[test]
fn a_subscription_starts_behind_the_last_session() {
    let registry = registry();
    put(&registry, "a", 1, at(1));
    let (mut reader, last) = registry.subscribe(None);
    assert_eq!(registry.page(None, None, 9).last().unwrap().entry, last);
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
        let (mut reader, _) = registry.subscribe(None);
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
    let mut reader = registry.resume(0, None).unwrap();
    assert_eq!(drain(&mut reader).len(), 1);
}

#[test]
fn resuming_replays_later_events_and_refuses_a_future_position() {
    let registry = builder().event_capacity(4).build();
    assert!(registry.resume(1, None).is_none());
    let mut from_start = registry.resume(0, None).unwrap();
    for _ in 0..6 {
        registry.publish_shutdown(at(1));
    }
    assert!(registry.resume(7, None).is_none());
    assert!(registry.resume(u64::MAX, None).is_none());
    assert!(drain(&mut registry.resume(6, None).unwrap()).is_empty());
    let seqs: Vec<_> = drain(&mut registry.resume(2, None).unwrap())
        .iter()
        .map(|event| event.seq)
        .collect();
    assert_eq!(seqs, [3, 4, 5, 6]);
    assert_eq!(missed(&from_start.poll_next()), (1, 2));
}

#[test]
fn source_states_and_the_shutdown_are_in_the_same_history() {
    let registry = registry();
    let (mut reader, _) = registry.subscribe(None);
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
    let mut reader = registry.resume(0, None).unwrap();
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
            Next::Empty => reader = registry.resume(expected - 1, None).unwrap(),
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

/// Reads a snapshot in pages of one session. Checks that no session of it is registered again.
/// Waits for three events, because the scheduler decides how often the writer runs.
fn follow_snapshot(registry: &Registry, writer_ended: &AtomicBool) {
    let (mut reader, last) = registry.subscribe(None);
    let mut live = Vec::new();
    while let Some(next) = registry.page(live.last().copied(), None, 1).first()
        && next.entry <= last
    {
        live.push(next.entry);
    }
    let mut ended = Vec::new();
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
                assert!(!ended.contains(&entry), "it ended before it began");
                live.push(entry);
            }
            Seen::Deregistered(entry, _) => {
                // It may have ended before its page was read.
                live.retain(|known| *known != entry);
                ended.push(entry);
            }
        }
    }
}

fn cause(registry: &Registry, token_number: u64, now: Moment) -> Option<&'static str> {
    let event: Arc<Event> = registry.recently_gone(&token(token_number), None, now)?;
    match &event.kind {
        EventKind::Deregistered(_, removal) => Some(removal.cause()),
        other => panic!("not a removal: {other:?}"),
    }
}

#[test]
fn another_owner_of_a_token_does_not_change_what_is_reported_to_its_former_owner() {
    let registry = registry();
    put(&registry, "a", 1, at(1));
    registry.remove_process(ProcessId(1), DEATH, at(2));
    let of_another = NewSession {
        owner: 1_001,
        ..session("b", 1)
    };
    registry.register(of_another, at(3)).unwrap();
    registry.deregister(&token(1), at(4)).unwrap();
    let cause = |owner: Option<u32>| {
        let event = registry.recently_gone(&token(1), owner, at(5));
        event.map(|event| match &event.kind {
            EventKind::Deregistered(_, removal) => removal.cause(),
            other => panic!("not a removal: {other:?}"),
        })
    };
    assert_eq!(cause(Some(1_000)), Some("exited"));
    assert_eq!(cause(Some(1_001)), Some("requested"));
    assert_eq!(cause(None), Some("requested"), "the last one");
    assert_eq!(cause(Some(1_002)), None);
    registry.check_invariants();
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

/// Registers and removes a session of user 1001 this many times.
fn churn(registry: &Registry, rounds: u64) {
    for round in 0..rounds {
        let new = NewSession {
            owner: 1001,
            ..session("x", 1_000_000 + round)
        };
        let entry = registry.register(new, at(3)).unwrap().session.entry;
        registry.remove_entry(entry, Removal::Requested, at(3));
    }
}

#[test]
fn the_churn_of_one_user_displaces_no_history_of_another() {
    let registry = registry();
    for number in 0..128 {
        put(&registry, &number.to_string(), number, at(2));
        registry.deregister(&token(number), at(2));
    }
    churn(&registry, 100_000);
    let mut reader = registry.resume(0, Some(1000)).unwrap();
    let seqs: Vec<_> = drain(&mut reader).iter().map(|event| event.seq).collect();
    assert!(seqs.iter().copied().eq(1..=256), "{seqs:?}");
    assert_eq!(reader.position(), 200_257);
    assert!((0..128).all(|number| cause(&registry, number, at(3)).is_some()));
    assert_eq!(registry.tombstone_count(), CAPACITY);
    // A reader of all events gets those too, although later ones of the other user were dropped.
    let mut of_all = registry.resume(0, None).unwrap();
    for seq in 1..=256 {
        let next = of_all.poll_next();
        assert!(
            matches!(&next, Next::Event(event) if event.seq == seq),
            "{next:?}"
        );
    }
    assert_eq!(missed(&of_all.poll_next()), (257, 200_256 - (4_096 - 256)));
    let usage = registry.usage_by_owner();
    assert_eq!(usage[&1000].events, 256);
    assert_eq!(usage[&1001].events, 4_096 - 256);
    registry.check_invariants();
}

#[test]
fn a_reader_of_one_user_gets_events_of_no_session_and_none_of_others() {
    let registry = builder().event_capacity(8).build();
    let (mut reader, _) = registry.subscribe(Some(1000));
    churn(&registry, 1);
    registry.publish_shutdown(at(3));
    put(&registry, "a", 1, at(3));
    let seqs = |reader: &mut Subscription| drain(reader).iter().map(|e| e.seq).collect::<Vec<_>>();
    assert_eq!(seqs(&mut reader), [3, 4]);
    churn(&registry, 100);
    assert_eq!(seqs(&mut reader), [] as [u64; 0], "no gap");
    assert_eq!(seqs(&mut registry.resume(0, Some(1000)).unwrap()), [3, 4]);
}

#[test]
fn more_owners_than_events_leave_no_records_behind() {
    let registry = builder().event_capacity(4).build();
    for owner in 0..100 {
        let new = NewSession {
            owner,
            ..session("a", u64::from(owner))
        };
        registry.register(new, at(1)).unwrap();
    }
    registry.remove_process(ProcessId(1), DEATH, at(2));
    assert_eq!(registry.usage_by_owner().len(), 4);
    registry.check_invariants();
    // Nothing is kept of user 7, so his events are known to be missing.
    let mut reader = registry.resume(0, Some(7)).unwrap();
    assert_eq!(missed(&reader.poll_next()), (1, 196));
    assert!(matches!(reader.poll_next(), Next::Empty));
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
    // The next removal, much later, drops them all, and so does the next sweep.
    put(&registry, "a", 1, at(100));
    registry.deregister(&token(1), at(100));
    assert_eq!(registry.tombstone_count(), 1);
    registry.expire(at(200));
    assert_eq!(registry.tombstone_count(), 0);
    registry.check_invariants();
}

#[test]
fn ended_sessions_are_read_from_the_newest_on_in_several_steps() {
    let registry = registry();
    for number in 0..300 {
        let owner = 1000 + u32::from(number % 3 == 0);
        let new = NewSession {
            owner,
            ..session("a", number)
        };
        registry.register(new, at(number)).unwrap();
    }
    let read = |owner| {
        let (mut seqs, mut before, mut steps) = (Vec::new(), None, 0);
        loop {
            let (events, next) = registry.ended(before, owner);
            seqs.extend(events.iter().map(|event| event.seq));
            assert!(
                events
                    .iter()
                    .all(|it| owner.is_none() || it.owner() == owner)
            );
            steps += 1;
            before = next;
            if before.is_none() {
                assert!(seqs.is_sorted_by(|newer, older| newer > older));
                return (seqs.len(), steps);
            }
        }
    };
    // Each registration but the first of each user has ended the one before.
    assert_eq!(read(None), (298, 3));
    assert_eq!(read(Some(1000)), (199, 2));
    assert_eq!(read(Some(1001)), (99, 1));
    assert_eq!(read(Some(7)), (0, 1));
}
