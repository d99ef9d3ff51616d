//! `GET /v1/events`: events as they happen, from a position that the reader chooses.
//!
//! A stream is only a position in the registry's history, and in its sessions while it writes a
//! snapshot: it has no task and no queue. It writes when its connection is writable. A reader that
//! stops reading gets a `gap` once it lags behind the history.
//!
//! The body has no length and is not chunked: it ends with the connection. So the end of a stream
//! looks the same to a client whether the daemon stopped or was killed.

mod filter;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream as _;
use hyper::body::{Body, Bytes, Frame};
use hyper::http::request;
use reaper_registry::{EntryId, Event, EventKind, Next, Session, SessionId};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use self::filter::Filter;
use super::connection_budget::{Turn, Turns};
use super::selection::Selection;
use super::sessions::{Cursor, PIECE_FULL};
use super::sse::{self, EventId};
use super::wire::{GapData, SessionView};
use super::{App, Peer};
use crate::daemon::accounts::{Charge, Resource};
use crate::daemon::handover::{Hold, StreamPosition};
use crate::daemon::http::problem::Problem;
use crate::daemon::http::query;
use crate::reaper::{EventItem, Events};

/// The interval of comments on a stream without events.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);

/// The body of the response.
pub(crate) struct EventStream {
    app: Arc<App>,
    filter: Filter,
    events: Events,
    snapshot: Option<Snapshot>,
    out: Vec<u8>,
    keepalive: Interval,
    ended: bool,
    hold: Hold,
    /// Of the pieces of a snapshot.
    turn: Turn,
    _charge: Charge,
}

/// The unwritten rest of a snapshot.
struct Snapshot {
    cursor: Cursor,
    any_written: bool,
}

/// Whose stream it is.
pub(super) enum Reader {
    /// Of the user that has connected.
    User,
    /// Of the session that was presented. It sees no other.
    Session(Arc<Session>),
    /// Of a session that is unknown. It sees none.
    Unknown,
}

impl EventStream {
    /// Opens a stream.
    pub(super) fn open(
        app: &Arc<App>,
        peer: Peer,
        head: &request::Parts,
        reader: &Reader,
    ) -> Result<Self, Problem> {
        let query = head.uri.query();
        let own = match reader {
            Reader::Session(own) => Some(&**own),
            Reader::User | Reader::Unknown => None,
        };
        let is_silent = matches!(reader, Reader::Unknown);
        let names = query::value(query, "event")
            .map(|names| parse_names(&names))
            .transpose()?;
        let names = if is_silent {
            Some(BTreeSet::new())
        } else {
            names
        };
        let filter = Filter {
            // Another user's session may have the same id.
            owner: own.map_or(peer.scope(query)?, |own| Some(own.owner)),
            names,
            own: own.map(|own| own.entry),
            id: query::value(query, "session").map(|id| SessionId::new(&id)),
            selection: Selection::of(query)?,
        };
        let charge = app.accounts.try_charge(peer.account(), Resource::Streams)?;
        let (position, last) = app.reaper.registry().subscribe(filter.owner);
        let mut stream = Self {
            app: app.clone(),
            filter,
            events: app.reaper.events_from(position),
            snapshot: None,
            out: sse::PREAMBLE.to_vec(),
            keepalive: keepalive(),
            ended: false,
            hold: head.extensions.get().cloned().unwrap_or_default(),
            turn: Turn::of(head.extensions.get::<Turns>().cloned()),
            _charge: charge,
        };
        let last_seen = head
            .headers
            .get("last-event-id")
            .filter(|id| !id.is_empty())
            .map(|id| id.to_str().unwrap_or_default());
        let registry = app.reaper.registry();
        let is_live = |own: &Session| {
            let found = registry.session_named(own.owner, &own.id);
            found.is_some_and(|session| session.entry == own.entry)
        };
        if own.is_some_and(|own| !is_live(own)) {
            // It has ended since it was presented, and its event may be behind this position.
            stream.end();
        }
        match last_seen {
            _ if is_silent => {}
            Some(last_seen) => stream.resume(last_seen, last),
            None if let Some(since) = query::value(query, "since") => {
                stream.begin_behind(&since)?;
            }
            None if query::value(query, "snapshot").as_deref() == Some("1") => {
                stream.begin_snapshot(last);
            }
            None => {}
        }
        Ok(stream)
    }

    /// Continues a stream of the former daemon where it has stopped.
    pub(super) fn continued(
        app: &Arc<App>,
        peer: Peer,
        stopped: StreamPosition,
        hold: Hold,
    ) -> Result<Self, Problem> {
        let charge = app.accounts.try_charge(peer.account(), Resource::Streams)?;
        let names = stopped.names.map(|names| match names.as_slice() {
            [] => Ok(BTreeSet::new()),
            names => parse_names(&names.join(",")),
        });
        let filter = Filter {
            owner: stopped.owner,
            names: names.transpose()?,
            own: stopped.own.map(EntryId),
            id: stopped.id.map(|id| SessionId::new(&id)),
            selection: stopped.selection,
        };
        let registry = app.reaper.registry();
        let last_seen = stopped.position.saturating_sub(1);
        let position = registry.resume(last_seen, filter.owner);
        let position = position
            .ok_or_else(|| Problem::query("position", "there is no event before this position"))?;
        Ok(Self {
            app: app.clone(),
            filter,
            events: app.reaper.events_from(position),
            snapshot: None,
            out: Vec::new(),
            keepalive: keepalive(),
            ended: false,
            hold,
            // It has no snapshot.
            turn: Turn::default(),
            _charge: charge,
        })
    }

    /// Returns where the stream has stopped, if it is held and is between two events.
    fn stopped(&self) -> Option<StreamPosition> {
        let is_between = self.out.is_empty() && self.snapshot.is_none() && !self.ended;
        let Filter {
            owner,
            names,
            own,
            id,
            selection,
        } = &self.filter;
        (self.hold.is_set() && is_between).then(|| StreamPosition {
            owner: *owner,
            names: names
                .as_ref()
                .map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
            own: own.map(|own| own.0),
            id: id.as_ref().map(|id| id.as_str().to_owned()),
            selection: selection.clone(),
            position: self.events.position(),
        })
    }

    /// Begins behind the event with this number, of this run of the daemon. If the next one is not kept any
    /// more, the stream begins with a gap and the oldest one that is.
    fn begin_behind(&mut self, since: &str) -> Result<(), Problem> {
        let seq = since
            .parse()
            .map_err(|_not_a_number| Problem::query("since", "expected the number of an event"))?;
        let registry = self.app.reaper.registry();
        let position = registry
            .resume(seq, self.filter.owner)
            .ok_or_else(|| Problem::query("since", "there is no event with this number yet"))?;
        self.events = self.app.reaper.events_from(position);
        Ok(())
    }

    /// Continues behind the last event that the reader saw. If events in between are no longer kept,
    /// writes a gap and a snapshot first, up to the session `last`.
    fn resume(&mut self, last_seen: &str, last: EntryId) {
        let position = EventId::parse(last_seen)
            .filter(|id| id.epoch == self.app.epoch)
            .and_then(|id| {
                let registry = self.app.reaper.registry();
                registry.resume(id.seq, self.filter.owner)
            });
        let gap = match position {
            Some(mut position) => match position.poll_next() {
                // The snapshot covers everything up to where this stream begins.
                Next::Gap { missed_from, .. } => GapData::Missed {
                    missed_from,
                    missed_to: self.events.position() - 1,
                },
                first => {
                    self.events = self.app.reaper.events_from(position);
                    if let Next::Event(event) = first {
                        self.write(&event);
                    }
                    return;
                }
            },
            None => GapData::Reason { reason: "epoch" },
        };
        self.write_gap(None, &gap);
        self.begin_snapshot(last);
    }

    fn write_gap(&mut self, id: Option<EventId>, gap: &GapData) {
        if self.filter.is_silent() {
            return;
        }
        self.app.counters.gaps.fetch_add(1, Ordering::Relaxed);
        sse::write_gap(&mut self.out, id, gap);
    }

    fn begin_snapshot(&mut self, last: EntryId) {
        let id = self.last_passed();
        sse::begin_snapshot(&mut self.out, id);
        self.snapshot = Some(Snapshot {
            cursor: Cursor::up_to(last, self.filter.owner),
            any_written: false,
        });
    }

    fn last_passed(&self) -> EventId {
        EventId {
            epoch: self.app.epoch,
            seq: self.events.position() - 1,
        }
    }

    /// Writes what is available, up to one piece. If there is less, the task is woken for the next event.
    fn fill(&mut self, cx: &mut Context<'_>) {
        self.continue_snapshot();
        while self.out.len() <= PIECE_FULL && self.snapshot.is_none() && !self.ended {
            match Pin::new(&mut self.events).poll_next(cx) {
                Poll::Ready(Some(EventItem::Event(event))) => self.write(&event),
                Poll::Ready(Some(EventItem::Gap {
                    missed_from,
                    missed_to,
                })) => {
                    let id = Some(self.last_passed());
                    let gap = GapData::Missed {
                        missed_from,
                        missed_to,
                    };
                    self.write_gap(id, &gap);
                    // The end of the reader's own session may be among what was missed.
                    if self.filter.own.is_some() {
                        self.end();
                    }
                }
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => return,
            }
        }
    }

    /// Writes the next sessions of a snapshot.
    fn continue_snapshot(&mut self) {
        let Self {
            app,
            filter,
            snapshot: Some(snapshot),
            out,
            ..
        } = self
        else {
            return;
        };
        let Snapshot {
            cursor,
            any_written,
        } = snapshot;
        let at_end = cursor.advance(app.reaper.registry(), |session| {
            if filter.shows_session(session) {
                if *any_written {
                    out.push(b',');
                }
                *any_written = true;
                let identity = app.reaper.identity_of(session);
                sse::write_json(out, &SessionView::new(session, identity));
            }
            if out.len() > PIECE_FULL {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        if at_end {
            sse::end_snapshot(&mut self.out);
            self.snapshot = None;
        }
    }

    /// Ends a stream of one session.
    fn end(&mut self) {
        sse::write_end(&mut self.out);
        self.ended = true;
    }

    fn write(&mut self, event: &Event) {
        if self.filter.shows(event) {
            let identity = match &event.kind {
                EventKind::Registered(session) => self.app.reaper.identity_of(session),
                _ => None,
            };
            sse::write_event(&mut self.out, self.app.epoch, event, identity);
        }
        if self.filter.ends_with(event) {
            self.end();
        }
        // The history may have the end of a former daemon, which is not that of this stream.
        let is_of_this = event.seq >= self.app.first_event;
        self.ended |= is_of_this && matches!(event.kind, EventKind::Shutdown);
    }
}

fn keepalive() -> Interval {
    let mut keepalive = interval_at(Instant::now() + KEEPALIVE_EVERY, KEEPALIVE_EVERY);
    keepalive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    keepalive
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
        if let Some(position) = this.stopped() {
            // Whatever ends the hold polls the connection.
            this.hold.stop_stream(position);
            return Poll::Pending;
        }
        if this.snapshot.is_some() {
            ready!(this.turn.poll(cx));
        }
        this.fill(cx);
        if !this.out.is_empty() {
            let frame = Bytes::from(std::mem::take(&mut this.out));
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        if this.snapshot.is_some() {
            // None of many sessions was shown: other tasks may run now.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.keepalive.poll_tick(cx).is_ready() {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(sse::KEEPALIVE)))));
        }
        Poll::Pending
    }
}
