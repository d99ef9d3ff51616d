//! The ordered history that subscribers read, each at its own pace, out of one shared ring.
//!
//! There is no queue per subscriber: a reader holds a position. One that falls behind the ring is
//! told which numbers it missed and goes on from the oldest that is left, so nothing ever waits for
//! a reader and memory is bounded by the ring alone.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::events::{Event, EventKind};
use crate::time::Moment;

/// Called when events have been appended, outside of every lock.
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

    pub(crate) fn wake_readers(&self) {
        for wake in &self.wakers {
            wake();
        }
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

/// What a subscription has for its reader now.
#[derive(Debug)]
pub enum Next {
    /// The next event.
    Event(Arc<Event>),
    /// These events left the ring before they were read.
    Gap {
        /// The first one missed.
        missed_from: u64,
        /// The last one missed.
        missed_to: u64,
    },
    /// Nothing yet.
    Empty,
}

/// A reader's position in the history.
pub struct Subscription {
    log: Arc<EventLog>,
    position: u64,
}

impl Subscription {
    pub(crate) fn at(log: Arc<EventLog>, position: u64) -> Self {
        Self { log, position }
    }

    /// Takes the next event without waiting. Named after its meaning rather than after `Iterator`,
    /// because "nothing yet" is not the end.
    pub fn poll_next(&mut self) -> Next {
        let next = self.log.read(self.position);
        match &next {
            Next::Event(event) => self.position = event.seq + 1,
            Next::Gap { missed_to, .. } => self.position = missed_to + 1,
            Next::Empty => {}
        }
        next
    }

    /// The number of the event that comes next.
    pub fn position(&self) -> u64 {
        self.position
    }
}
