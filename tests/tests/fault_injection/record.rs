//! What the registry told of its sessions, by events and by hooks, and that it is one true story.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use reaper_tests::wait::eventually;
use reaperd::Source;
use reaperd::registry::{
    EntryId, Event, EventKind, Next, Registry, RegistryBuilder, Removal, SessionId, SourceHealth,
    Subscription,
};

/// One call of a hook.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Called {
    Registered,
    Deregistered,
}

/// Calls of hooks, in the order in which they came.
#[derive(Clone, Default)]
pub(crate) struct HookCalls(Arc<Mutex<Vec<(EntryId, Called)>>>);

impl HookCalls {
    pub(crate) fn listening(&self, registry: RegistryBuilder) -> RegistryBuilder {
        let (at_first, at_last) = (self.clone(), self.clone());
        registry
            .on_register(move |session| at_first.note(session.entry, Called::Registered))
            .on_deregister(move |session, _| at_last.note(session.entry, Called::Deregistered))
    }

    fn note(&self, entry: EntryId, called: Called) {
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

/// All events from the start on.
pub(crate) struct Record {
    subscription: Subscription,
    events: Vec<Arc<Event>>,
}

impl Record {
    pub(crate) fn of(registry: &Registry) -> Self {
        Self {
            subscription: registry.subscribe().1,
            events: Vec::new(),
        }
    }

    /// What has been told so far.
    pub(crate) fn read(&mut self) -> &[Arc<Event>] {
        loop {
            match self.subscription.poll_next() {
                Next::Event(event) => self.events.push(event),
                Next::Empty => return &self.events,
                gap @ Next::Gap { .. } => panic!("the log is too small for this test: {gap:?}"),
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

    /// The first event behind `after` in which this source says that it is so, and its reason.
    pub(crate) fn said(
        &mut self,
        source: Source,
        health: SourceHealth,
        after: u64,
    ) -> Option<(u64, String)> {
        let said = |event: &Arc<Event>| match &event.kind {
            EventKind::SourceState(state)
                if state.source == source && state.health == health && event.seq > after =>
            {
                Some((event.seq, state.reason.clone()))
            }
            _ => None,
        };
        self.read().iter().find_map(said)
    }

    /// The number of the last event.
    pub(crate) fn last(&mut self) -> u64 {
        self.read().last().map_or(0, |event| event.seq)
    }

    /// I3: one registration and then at most one removal for each entry, never two live entries of
    /// one id, and the hooks were called for the same and in the same order.
    pub(crate) fn is_one_true_story(&mut self, hooks: &HookCalls) {
        // Hooks run on threads of their own, and whoever ends with the test may be told of meanwhile.
        eventually("the hooks have been told the same", || {
            self.told() == hooks.by_entry()
        });
    }

    /// What the events say that the hooks have to be told.
    fn told(&mut self) -> HashMap<EntryId, Vec<Called>> {
        let mut live: HashMap<SessionId, EntryId> = HashMap::new();
        let mut told: HashMap<EntryId, Vec<Called>> = HashMap::new();
        for event in self.read() {
            match &event.kind {
                EventKind::Registered(session) => {
                    let other = live.insert(session.id.clone(), session.entry);
                    assert_eq!(other, None, "{} is registered twice", session.id);
                    told.entry(session.entry)
                        .or_default()
                        .push(Called::Registered);
                }
                EventKind::Deregistered(session, removal) => {
                    let live = live.remove(&session.id);
                    assert_eq!(live, Some(session.entry), "{}: {removal:?}", session.id);
                    told.entry(session.entry)
                        .or_default()
                        .push(Called::Deregistered);
                }
                _ => {}
            }
        }
        for calls in told.values() {
            let once = [Called::Registered, Called::Deregistered];
            assert_eq!(calls[..], once[..calls.len()]);
        }
        told
    }
}
