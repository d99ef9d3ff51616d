//! The ordered history, kept in one ring that all subscribers share.
//!
//! There is no queue per subscriber: a reader has a position in the ring. A reader that falls behind
//! gets the range of events that it missed and continues with the oldest one left. So no writer waits
//! for a reader, and memory does not depend on the number of readers.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::events::{Event, EventKind};
use crate::time::Moment;

/// Called after events have been appended, with no lock held.
pub(crate) type Waker = Box<dyn Fn() + Send + Sync>;

pub(crate) struct EventLog {
    ring: Mutex<Ring>,
    wakers: Vec<Waker>,
}

struct Ring {
    events: VecDeque<Arc<Event>>,
    capacity: usize,
    next_seq: u64,
}

impl EventLog {
    pub(crate) fn new(capacity: usize, wakers: Vec<Waker>) -> Self {
        let capacity = capacity.max(1);
        Self {
            ring: Mutex::new(Ring {
                events: VecDeque::with_capacity(capacity),
                capacity,
                next_seq: 1,
            }),
            wakers,
        }
    }

    pub(crate) fn append(&self, kind: EventKind, at: Moment) -> Arc<Event> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Arc::new(Event {
            seq: ring.next_seq,
            at,
            kind,
        });
        ring.next_seq += 1;
        if ring.events.len() == ring.capacity {
            ring.events.pop_front();
        }
        ring.events.push_back(event.clone());
        event
    }

    pub(crate) fn wakers(&self) -> &[Waker] {
        &self.wakers
    }

    pub(crate) fn next_seq(&self) -> u64 {
        self.ring
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next_seq
    }

    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        let ring = self.ring.lock().unwrap();
        assert!(ring.events.len() <= ring.capacity, "the ring is bounded");
        let newest_first = ring.events.iter().rev().map(|event| event.seq);
        assert!(newest_first.eq((1..ring.next_seq).rev().take(ring.events.len())));
    }

    fn read(&self, position: u64) -> Next {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = ring.events.front().map_or(ring.next_seq, |event| event.seq);
        if position < oldest {
            return Next::Gap {
                missed_from: position,
                missed_to: oldest - 1,
            };
        }
        let offset = usize::try_from(position - oldest).unwrap_or(usize::MAX);
        ring.events
            .get(offset)
            .map_or(Next::Empty, |event| Next::Event(event.clone()))
    }
}

/// The result of [`Subscription::poll_next`].
#[derive(Debug)]
pub enum Next {
    /// The next event in order.
    Event(Arc<Event>),
    /// Events were overwritten before they were read. The next call continues after them.
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
}

impl Subscription {
    pub(crate) fn at(log: Arc<EventLog>, position: u64) -> Self {
        Self { log, position }
    }

    /// Returns the next event, or the gap before it. Does not wait for events: use
    /// [`RegistryBuilder::on_event`](crate::RegistryBuilder::on_event) to learn of new ones.
    ///
    /// A subscription is not an `Iterator`, because [`Next::Empty`] is not the end.
    pub fn poll_next(&mut self) -> Next {
        let next = self.log.read(self.position);
        match &next {
            Next::Event(event) => self.position = event.seq + 1,
            Next::Gap { missed_to, .. } => self.position = missed_to + 1,
            Next::Empty => {}
        }
        next
    }

    /// Returns the [`Event::seq`] of the event that is read next.
    pub fn position(&self) -> u64 {
        self.position
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
