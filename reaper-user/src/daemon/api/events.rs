//! `GET /v1/events`: events as they happen, from a position that the reader chooses.
//!
//! A stream is only a position in the registry's ring: it has no task and no queue. It writes when
//! its connection is writable. A reader that stops reading gets a `gap` once it lags behind the
//! ring.
//!
//! The body has no length and is not chunked: it ends with the connection. So the end of a stream
//! looks the same to a client whether the daemon stopped or was killed.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame};
use hyper::http::request;
use reaper_registry::{Event, EventKind, Next, Session, SessionId, Subscription};
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::sse::{self, EventId};
use super::wire::{GapData, SessionView};
use super::{App, Peer};
use crate::daemon::accounts::{Charge, Resource};
use crate::daemon::http::problem::Problem;
use crate::daemon::http::query;

/// The interval of comments on a stream without events.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
/// The size of one frame. A snapshot of 100,000 sessions is sent in frames of this size.
pub(super) const FRAME_SIZE: usize = 32 * 1024;

/// The body of the response.
pub(crate) struct EventStream {
    app: Arc<App>,
    filter: Filter,
    position: Subscription,
    snapshot: Option<Snapshot>,
    out: Vec<u8>,
    notified: Pin<Box<OwnedNotified>>,
    keepalive: Interval,
    ended: bool,
    _charge: Charge,
}

/// The unwritten rest of a snapshot.
struct Snapshot {
    sessions: std::vec::IntoIter<Arc<Session>>,
    any_written: bool,
}

/// The events that this reader sees.
struct Filter {
    peer: Peer,
    /// `None`: all names. `gap`, `snapshot` and `shutdown` are always sent.
    names: Option<BTreeSet<&'static str>>,
    sessions: Vec<SessionId>,
}

impl Filter {
    fn shows(&self, event: &Event) -> bool {
        let by_name = self
            .names
            .as_ref()
            .is_none_or(|names| names.contains(sse::name_of(event)));
        match &event.kind {
            EventKind::Registered(session) | EventKind::Deregistered(session, _) => {
                by_name && self.shows_session(session)
            }
            EventKind::Shutdown => true,
            // Events that belong to no session.
            _ => by_name && self.sessions.is_empty(),
        }
    }

    fn shows_session(&self, session: &Session) -> bool {
        self.peer.sees(session.owner) && self.sessions.iter().all(|id| *id == session.id)
    }
}

impl EventStream {
    /// Opens a stream. `own` is the session that the reader presented; it then sees no other.
    pub(super) fn open(
        app: &Arc<App>,
        peer: Peer,
        head: &request::Parts,
        own: Option<&Session>,
    ) -> Result<Self, Problem> {
        let query = head.uri.query();
        let names = query::value(query, "event")
            .map(|names| parse_names(&names))
            .transpose()?;
        let one_session = query::value(query, "session").map(|id| SessionId::new(&id));
        let filter = Filter {
            peer,
            names,
            sessions: own
                .map(|own| own.id.clone())
                .into_iter()
                .chain(one_session)
                .collect(),
        };
        let charge = app.accounts.try_charge(peer.uid, Resource::Streams)?;
        let mut keepalive = interval_at(Instant::now() + KEEPALIVE_EVERY, KEEPALIVE_EVERY);
        keepalive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (sessions, position) = app.reaper.registry().subscribe();
        let mut stream = Self {
            app: app.clone(),
            filter,
            position,
            snapshot: None,
            out: sse::PREAMBLE.to_vec(),
            notified: Box::pin(app.events.clone().notified_owned()),
            keepalive,
            ended: false,
            _charge: charge,
        };
        let last_seen = head
            .headers
            .get("last-event-id")
            .filter(|id| !id.is_empty())
            .map(|id| id.to_str().unwrap_or_default());
        match last_seen {
            Some(last_seen) => stream.resume(last_seen, sessions),
            None if query::value(query, "snapshot").as_deref() == Some("1") => {
                stream.begin_snapshot(sessions);
            }
            None => {}
        }
        Ok(stream)
    }

    /// Continues behind the last event that the reader saw. If events in between are no longer in
    /// the ring, writes a gap and a snapshot first.
    fn resume(&mut self, last_seen: &str, sessions: Vec<Arc<Session>>) {
        let position = EventId::parse(last_seen)
            .filter(|id| id.epoch == self.app.epoch)
            .and_then(|id| self.app.reaper.registry().resume(id.seq));
        let gap = match position {
            Some(mut position) => match position.poll_next() {
                // The snapshot covers everything up to where this stream begins.
                Next::Gap { missed_from, .. } => GapData::Missed {
                    missed_from,
                    missed_to: self.position.position() - 1,
                },
                first => {
                    self.position = position;
                    if let Next::Event(event) = first {
                        self.write(&event);
                    }
                    return;
                }
            },
            None => GapData::Reason { reason: "epoch" },
        };
        sse::write_gap(&mut self.out, None, &gap);
        self.begin_snapshot(sessions);
    }

    fn begin_snapshot(&mut self, sessions: Vec<Arc<Session>>) {
        let id = self.last_passed();
        sse::begin_snapshot(&mut self.out, id);
        self.snapshot = Some(Snapshot {
            sessions: sessions.into_iter(),
            any_written: false,
        });
    }

    fn last_passed(&self) -> EventId {
        EventId {
            epoch: self.app.epoch,
            seq: self.position.position() - 1,
        }
    }

    /// Writes what is available, up to about one frame.
    fn fill(&mut self) {
        while self.out.len() < FRAME_SIZE && self.snapshot.is_some() {
            self.continue_snapshot();
        }
        while self.out.len() < FRAME_SIZE && !self.ended {
            match self.position.poll_next() {
                Next::Event(event) => self.write(&event),
                Next::Gap {
                    missed_from,
                    missed_to,
                } => {
                    let id = Some(self.last_passed());
                    let gap = GapData::Missed {
                        missed_from,
                        missed_to,
                    };
                    sse::write_gap(&mut self.out, id, &gap);
                }
                Next::Empty => return,
            }
        }
    }

    fn continue_snapshot(&mut self) {
        let Some(snapshot) = &mut self.snapshot else {
            return;
        };
        let Some(session) = snapshot.sessions.next() else {
            sse::end_snapshot(&mut self.out);
            self.snapshot = None;
            return;
        };
        if self.filter.shows_session(&session) {
            if snapshot.any_written {
                self.out.push(b',');
            }
            snapshot.any_written = true;
            let identity = self.app.reaper.identity_of(&session);
            sse::write_json(&mut self.out, &SessionView::new(&session, identity));
        }
    }

    fn write(&mut self, event: &Event) {
        if self.filter.shows(event) {
            let identity = match &event.kind {
                EventKind::Registered(session) => self.app.reaper.identity_of(session),
                _ => None,
            };
            sse::write_event(&mut self.out, self.app.epoch, event, identity);
        }
        self.ended |= matches!(event.kind, EventKind::Shutdown);
    }
}

fn parse_names(names: &str) -> Result<BTreeSet<&'static str>, Problem> {
    names
        .split(',')
        .map(|wanted| {
            sse::NAMES
                .into_iter()
                .find(|name| *name == wanted)
                .ok_or_else(|| Problem::query("event", "event contains an unknown event name"))
        })
        .collect()
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        // Registered before the ring is read: an event in between notifies.
        while this.notified.as_mut().poll(cx).is_ready() {
            this.notified.set(this.app.events.clone().notified_owned());
        }
        this.fill();
        if !this.out.is_empty() {
            let frame = Bytes::from(std::mem::take(&mut this.out));
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        if this.keepalive.poll_tick(cx).is_ready() {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(sse::KEEPALIVE)))));
        }
        Poll::Pending
    }
}
