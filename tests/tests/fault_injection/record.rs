//! What the registry reported by events and by hooks, and the check that both agree.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use reaper_tests::wait::eventually;
use reaperd::Source;
use reaperd::registry::{
    EntryId, Event, EventKind, RegistryBuilder, Removal, SessionId, SourceHealth,
};
use reaperd::{EventItem, Events};

/// One call of a hook.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Called {
    Registered,
    Deregistered,
}

/// Hook calls, in order.
#[derive(Clone, Default)]
pub(crate) struct HookCalls(Arc<Mutex<Vec<(EntryId, Called)>>>);

impl HookCalls {
    pub(crate) fn listening(&self, registry: RegistryBuilder) -> RegistryBuilder {
        let (registered, deregistered) = (self.clone(), self.clone());
        registry
            .on_register(move |session| registered.add(session.entry, Called::Registered))
            .on_deregister(move |session, _| deregistered.add(session.entry, Called::Deregistered))
    }

    fn add(&self, entry: EntryId, called: Called) {
        self.0.lock().unwrap().push((entry, called));
    }

    fn by_entry(&self) -> HashMap<EntryId, Vec<Called>> {
        let mut by_entry: HashMap<_, Vec<_>> = HashMap::new();
        for (entry, called) in self.0.lock().unwrap().iter() {
            by_entry.entry(*entry).or_default().push(*called);
        }
        by_entry
    }
}

/// All events since the start.
pub(crate) struct Record {
    unread: Events,
    events: Vec<Arc<Event>>,
}

impl Record {
    pub(crate) fn of(unread: Events) -> Self {
        Self {
            unread,
            events: Vec::new(),
        }
    }

    /// Returns all events so far.
    pub(crate) fn read(&mut self) -> &[Arc<Event>] {
        loop {
            match self.unread.try_next() {
                Some(EventItem::Event(event)) => self.events.push(event),
                None => return &self.events,
                gap => panic!("the log is too small for this test: {gap:?}"),
            }
        }
    }

    /// Each removal of this session id, in order.
    pub(crate) fn removals_of(&mut self, id: &SessionId) -> Vec<(Arc<Event>, Removal)> {
        let mut removals = self.removals();
        removals.retain(
            |(event, _)| matches!(&event.kind, EventKind::Deregistered(one, _) if one.id == *id),
        );
        removals
    }

    /// Each removal, in order.
    pub(crate) fn removals(&mut self) -> Vec<(Arc<Event>, Removal)> {
        let removal = |event: &Arc<Event>| match &event.kind {
            EventKind::Deregistered(_, removal) => Some((event.clone(), *removal)),
            _ => None,
        };
        self.read().iter().filter_map(removal).collect()
    }

    /// The sequence number and reason of the first event after `after` that reports this health of
    /// this source.
    pub(crate) fn state_change(
        &mut self,
        source: Source,
        health: SourceHealth,
        after: u64,
    ) -> Option<(u64, String)> {
        let change = |event: &Arc<Event>| match &event.kind {
            EventKind::SourceState(state)
                if state.source == source && state.health == health && event.seq > after =>
            {
                Some((event.seq, state.reason.clone()))
            }
            _ => None,
        };
        self.read().iter().find_map(change)
    }

    /// The sequence number of the last event.
    pub(crate) fn last(&mut self) -> u64 {
        self.read().last().map_or(0, |event| event.seq)
    }

    /// Checks that each entry has one registration and then at most one removal, that no two live
    /// entries share an id, and that the hooks were called for the same changes in the same order.
    pub(crate) fn check_against(&mut self, hooks: &HookCalls) {
        // Hooks run on other threads, and the end of the test may still end processes.
        eventually("the hook calls match the events", || {
            self.expected_calls() == hooks.by_entry()
        });
    }

    /// The hook calls that the events require.
    fn expected_calls(&mut self) -> HashMap<EntryId, Vec<Called>> {
        let mut live: HashMap<SessionId, EntryId> = HashMap::new();
        let mut expected: HashMap<EntryId, Vec<Called>> = HashMap::new();
        for event in self.read() {
            let (entry, called) = match &event.kind {
                EventKind::Registered(session) => {
                    let other = live.insert(session.id.clone(), session.entry);
                    assert_eq!(other, None, "{} is registered twice", session.id);
                    (session.entry, Called::Registered)
                }
                EventKind::Deregistered(session, removal) => {
                    let live = live.remove(&session.id);
                    assert_eq!(live, Some(session.entry), "{}: {removal:?}", session.id);
                    (session.entry, Called::Deregistered)
                }
                _ => continue,
            };
            expected.entry(entry).or_default().push(called);
        }
        for calls in expected.values() {
            let once = [Called::Registered, Called::Deregistered];
            assert_eq!(calls[..], once[..calls.len()]);
        }
        expected
    }
}
