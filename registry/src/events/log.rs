//! The ordered history, bounded, that all subscribers share.
//!
//! There is no queue per subscriber: a reader has a position in the history. A reader that falls behind
//! gets the range of events that it missed and continues behind them. So no writer waits for a reader,
//! and memory does not depend on the number of readers.
//!
//! Each owner has a share of the history, and the events of no session have one more. A reader of one
//! owner's events reads his and those of no session, and misses nothing if other shares are shortened.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::events::shares::Shares;
use crate::events::{Event, EventKind};
use crate::journal::{Appended, Counters};
use crate::time::Moment;

/// How many events are looked at under one lock for those of ended sessions.
const LOOKED_AT: usize = 256;

/// Called after events have been appended, with no lock held.
pub(crate) type Waker = Box<dyn Fn() + Send + Sync>;

pub(crate) struct EventLog {
    history: Mutex<History>,
    wakers: Vec<Waker>,
}

struct History {
    events: BTreeMap<u64, Arc<Event>>,
    /// `None`: the events of no session.
    shares: Shares<Option<u32>>,
    /// The last event that was dropped; 0 if none.
    dropped: u64,
    /// The limit of the weight of all events.
    capacity: usize,
    next_seq: u64,
}

impl EventLog {
    pub(crate) fn new(capacity: usize, wakers: Vec<Waker>) -> Self {
        Self {
            history: Mutex::new(History {
                events: BTreeMap::new(),
                shares: Shares::default(),
                dropped: 0,
                capacity: capacity.max(1),
                next_seq: 1,
            }),
            wakers,
        }
    }

    /// Creates a log with these events of an earlier one.
    pub(crate) fn restore(
        capacity: usize,
        wakers: Vec<Waker>,
        mut events: Vec<Appended>,
        counters: Counters,
    ) -> Self {
        let log = Self::new(capacity, wakers);
        let mut history = log.history();
        events.sort_by_key(|it| it.event.seq);
        for Appended { event, previous } in events {
            let weight = event.weight().min(history.capacity);
            let shares = &mut history.shares;
            shares.restore(event.owner(), event.seq, weight, previous);
            history.events.insert(event.seq, event);
        }
        history.shares.set_forgotten(counters.forgotten);
        history.dropped = counters.dropped;
        history.next_seq = counters.next_seq.max(1);
        drop(history);
        log
    }

    /// Appends these events. No reader sees them before `commit` has returned.
    pub(crate) fn append(
        &self,
        kinds: impl Iterator<Item = EventKind>,
        at: Moment,
        commit: impl FnOnce(&Batch),
    ) -> Vec<Appended> {
        let mut history = self.history();
        let first = history.next_seq;
        let mut dropped = Vec::new();
        let appended: Vec<_> = kinds
            .map(|kind| history.append(kind, at, &mut dropped))
            .collect();
        // An event of this batch may have been dropped again.
        dropped.retain(|event| event.seq < first);
        let is_kept = |it: &&Appended| history.events.contains_key(&it.event.seq);
        commit(&Batch {
            appended: appended.iter().filter(is_kept).cloned().collect(),
            dropped,
            counters: Counters {
                next_entry: 0,
                next_seq: history.next_seq,
                dropped: history.dropped,
                forgotten: history.shares.forgotten(),
            },
        });
        appended
    }

    /// Returns the newest kept event of a session, of this owner or of any, whose process ended.
    pub(crate) fn last_death(&self, owner: Option<u32>) -> Option<Arc<Event>> {
        let is_death = |event: &Arc<Event>| match &event.kind {
            EventKind::Deregistered(session, removal) => {
                removal.death().is_some() && owner.is_none_or(|owner| owner == session.owner)
            }
            EventKind::Registered(_) | EventKind::SourceState(_) | EventKind::Shutdown => false,
        };
        let history = self.history();
        history
            .events
            .values()
            .rev()
            .find(|it| is_death(it))
            .cloned()
    }

    /// Returns the kept events of ended sessions, of this owner or of any, among some events before this
    /// number, the newest first, and the number before which the next ones are; `None`: there are none.
    pub(crate) fn ended(&self, before: u64, owner: Option<u32>) -> (Vec<Arc<Event>>, Option<u64>) {
        let history = self.history();
        let seqs: Vec<u64> = if owner.is_some() {
            let of_owner = history.shares.before(owner, before);
            of_owner.take(LOOKED_AT).collect()
        } else {
            let all = history.events.range(..before).rev().map(|(seq, _)| *seq);
            all.take(LOOKED_AT).collect()
        };
        let next = seqs.get(LOOKED_AT - 1).copied();
        let events = seqs.iter().filter_map(|seq| history.events.get(seq));
        let ended = events.filter(|it| matches!(it.kind, EventKind::Deregistered(..)));
        (ended.cloned().collect(), next)
    }

    pub(crate) fn wakers(&self) -> &[Waker] {
        &self.wakers
    }

    pub(crate) fn next_seq(&self) -> u64 {
        self.history().next_seq
    }

    /// Returns how many events of this owner's sessions are kept.
    pub(crate) fn count(&self, owner: u32) -> usize {
        self.history().shares.count(Some(owner))
    }

    /// Returns the owners of the sessions of which events are kept.
    pub(crate) fn owners(&self) -> Vec<u32> {
        self.history().shares.owners().flatten().collect()
    }

    /// Calls `use_them` with all events that are kept, in order.
    pub(crate) fn for_each(&self, mut use_it: impl FnMut(&Arc<Event>)) {
        self.history().events.values().for_each(&mut use_it);
    }

    fn read(&self, position: u64, owner: Option<u32>) -> Read {
        let history = self.history();
        let dropped = match owner {
            None => history.dropped,
            Some(_) => history
                .shares
                .dropped(owner)
                .max(history.shares.dropped(None)),
        };
        let of_either = || [owner, None].map(|of| history.shares.next(of, position));
        let next = match owner {
            None => history.events.range(position..).next().map(|(seq, _)| *seq),
            Some(_) => of_either().into_iter().flatten().min(),
        };
        // What is kept is read, although later events have been dropped.
        if position <= dropped && next != Some(position) {
            return Read::Gap(next.map_or(dropped, |next| dropped.min(next - 1)));
        }
        next.and_then(|seq| history.events.get(&seq))
            .map_or(Read::End(history.next_seq), |event| {
                Read::Event(event.clone())
            })
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        let history = self.history.lock().unwrap();
        assert!(
            history.shares.weight() <= history.capacity,
            "the history is bounded"
        );
        history.shares.check_invariants(history.events.len());
        for (seq, event) in &history.events {
            assert_eq!(*seq, event.seq);
            assert_eq!(history.shares.next(event.owner(), *seq), Some(*seq));
        }
        let newest = history.events.last_key_value().map(|(seq, _)| *seq + 1);
        assert_eq!(newest.unwrap_or(1), history.next_seq);
    }
}

/// The effect of one step on the history.
pub(crate) struct Batch {
    /// Those that are kept.
    pub(crate) appended: Vec<Appended>,
    pub(crate) dropped: Vec<Arc<Event>>,
    /// Without the next entry id.
    pub(crate) counters: Counters,
}

impl History {
    fn append(&mut self, kind: EventKind, at: Moment, dropped: &mut Vec<Arc<Event>>) -> Appended {
        let event = Arc::new(Event {
            seq: self.next_seq,
            at,
            kind,
        });
        self.next_seq += 1;
        self.events.insert(event.seq, event.clone());
        let previous = self.shares.last(event.owner());
        let weight = event.weight().min(self.capacity);
        self.shares.add(event.owner(), event.seq, weight);
        while self.shares.weight() > self.capacity
            && let Some(seq) = self.shares.drop_one()
        {
            dropped.extend(self.events.remove(&seq));
            self.dropped = self.dropped.max(seq);
        }
        Appended { event, previous }
    }
}

/// What is at a position.
enum Read {
    Event(Arc<Event>),
    /// Events from the position up to this one may be missing.
    Gap(u64),
    /// Nothing before this position.
    End(u64),
}

/// The result of [`Subscription::poll_next`].
#[derive(Debug)]
pub enum Next {
    /// The next event in order.
    Event(Arc<Event>),
    /// Events were dropped before they were read. The next call continues after them.
    Gap {
        /// [`Event::seq`] of the first event missed.
        missed_from: u64,
        /// [`Event::seq`] of the last event missed; not less than `missed_from`.
        missed_to: u64,
    },
    /// There is no further event yet.
    Empty,
}

/// A reader of the history; made by [`Registry::subscribe`](crate::Registry::subscribe) and
/// [`Registry::resume`](crate::Registry::resume).
///
/// It occupies no space in the registry, which neither counts readers nor waits for them.
pub struct Subscription {
    log: Arc<EventLog>,
    position: u64,
    owner: Option<u32>,
}

impl Subscription {
    pub(crate) fn at(log: Arc<EventLog>, position: u64, owner: Option<u32>) -> Self {
        Self {
            log,
            position,
            owner,
        }
    }

    /// Returns the next event, or the gap before it. Does not wait for events: use
    /// [`RegistryBuilder::on_event`](crate::RegistryBuilder::on_event) to learn of new ones.
    ///
    /// A subscription is not an `Iterator`, because [`Next::Empty`] is not the end.
    pub fn poll_next(&mut self) -> Next {
        match self.log.read(self.position, self.owner) {
            Read::Event(event) => {
                self.position = event.seq + 1;
                Next::Event(event)
            }
            Read::Gap(missed_to) => {
                let missed_from = std::mem::replace(&mut self.position, missed_to + 1);
                Next::Gap {
                    missed_from,
                    missed_to,
                }
            }
            Read::End(position) => {
                self.position = position;
                Next::Empty
            }
        }
    }

    /// Returns the [`Event::seq`] from which on events are read next.
    pub fn position(&self) -> u64 {
        self.position
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("position", &self.position)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}
