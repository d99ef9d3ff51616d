//! A journal in ordinary memory, and what it gets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use super::support::*;
use crate::*;

/// Keeps the state as it was written.
#[derive(Default)]
pub(super) struct Ledger(Mutex<Written>);

#[derive(Default)]
struct Written {
    live: Vec<Arc<Session>>,
    events: BTreeMap<u64, Appended>,
    counters: Counters,
    steps: usize,
}

impl Ledger {
    pub(super) fn state(&self) -> State {
        let written = self.0.lock().unwrap();
        State {
            sessions: written.live.clone(),
            events: written.events.values().cloned().collect(),
            counters: written.counters,
        }
    }

    fn steps(&self) -> usize {
        self.0.lock().unwrap().steps
    }
}

impl Journal for Ledger {
    fn commit(&self, changes: &Changes<'_>) {
        let mut written = self.0.lock().unwrap();
        written.live.extend(changes.stored.iter().cloned());
        for ended in changes.ended {
            let live = written.live.iter().position(|it| Arc::ptr_eq(it, ended));
            written.live.remove(live.expect("this value was live"));
            assert!(
                has_secret(ended) || ended.presence.is_none(),
                "wiped too early"
            );
        }
        let entries: BTreeSet<_> = written.live.iter().map(|it| it.entry).collect();
        assert_eq!(
            entries.len(),
            written.live.len(),
            "former values have ended"
        );
        for appended in changes.appended {
            let seq = appended.event.seq;
            assert!(appended.previous < seq);
            assert!(written.events.insert(seq, appended.clone()).is_none());
        }
        for dropped in changes.dropped {
            assert!(written.events.remove(&dropped.seq).is_some(), "it was kept");
        }
        let former = std::mem::replace(&mut written.counters, changes.counters);
        assert!(former.next_entry <= changes.counters.next_entry);
        assert!(former.next_seq <= changes.counters.next_seq);
        written.steps += 1;
    }
}

#[test]
fn a_change_is_one_step_and_a_refusal_is_none() {
    let ledger = Arc::new(Ledger::default());
    let registry = builder().journal(ledger.clone()).build();
    put(&registry, "a", 1, at(1));
    assert_eq!(ledger.steps(), 1);
    put(&registry, "a", 1, at(2));
    assert_eq!(ledger.steps(), 2, "a renewal has no event, but is a step");
    put(&registry, "a", 2, at(3));
    assert_eq!(ledger.steps(), 3, "removal and registration are one step");
    refused(&registry, of_process(9, session("b", 2)));
    assert!(registry.resolve(&token(7), at(4)).is_none());
    assert_eq!(ledger.steps(), 3);
    assert_eq!(registry.remove_process(ProcessId(1), DEATH, at(5)), 1);
    registry.publish_shutdown(at(6));
    assert_eq!(ledger.steps(), 5);
    let state = ledger.state();
    assert_eq!(state.sessions.len(), 0);
    assert_eq!(state.events.len(), 5);
    assert_eq!(state.counters.next_seq, 6);
    assert_eq!(state.counters.next_entry, 3);
}

#[test]
fn event_numbers_and_entry_ids_go_on_although_nothing_is_kept() {
    let ledger = Arc::new(Ledger::default());
    let registry = builder().event_capacity(1).journal(ledger.clone()).build();
    for number in 1..9 {
        put(&registry, "a", number, at(number));
    }
    registry.remove_process(ProcessId(1), DEATH, at(9));
    let next = builder().event_capacity(1).restore(ledger.state()).build();
    next.check_invariants();
    let (reader, last) = next.subscribe(None);
    assert_eq!((reader.position(), last), (17, EntryId(8)));
    assert_eq!(put(&next, "a", 1, at(10)).entry, EntryId(9));
    assert!(next.recently_gone(&token(8), None, at(10)).is_some());
    assert!(next.resume(17, None).is_some());
    assert!(next.resume(18, None).is_none());
}
