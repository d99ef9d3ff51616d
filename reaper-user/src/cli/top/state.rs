//! What `top` knows of the daemon, and how updates change it. Draws nothing and reads nothing.

use std::collections::{BTreeMap, HashMap, VecDeque};

use reaper_registry::Moment;
use serde::Deserialize;
use serde_json::Value;

use super::feed::{Counts, Live, Update};
use crate::cli::watch::text::cause;
use crate::client::{ClientError, Deregistered, Frame, Session};

/// Ended sessions that are remembered: more than any screen shows.
const ENDED: usize = 500;

/// A session of one user.
type Key = (Option<u32>, String);
/// The place of a session in the list: by its registration.
type Place = (u64, Key);

/// All that is shown.
#[derive(Debug, Default)]
pub(super) struct State {
    sessions: BTreeMap<Place, Session>,
    places: HashMap<Key, u64>,
    /// The last one first.
    pub(super) ended: VecDeque<Ended>,
    /// The newest counts, and those before.
    pub(super) counts: Option<Box<Counts>>,
    pub(super) earlier: Option<Box<Counts>>,
    /// Why events, or counts, are not read at present.
    stream_lost: Option<String>,
    counts_lost: Option<String>,
    /// Since when there is a reason.
    lost_at: Option<Moment>,
    /// How many sessions are above the first one that is shown.
    scrolled: usize,
}

/// A session that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Milliseconds since 1970.
    pub(super) at: Option<u64>,
    pub(super) session_id: String,
    pub(super) pid: u32,
    pub(super) how: String,
    pub(super) source: Option<String>,
    pub(super) detection_us: Option<u64>,
}

/// The connection to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link<'a> {
    /// Nothing was read yet.
    Starting,
    Up,
    Lost {
        reason: &'a str,
        since: Option<Moment>,
    },
}

/// What a key does to the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scroll {
    Up(usize),
    Down(usize),
    First,
    Last,
}

impl State {
    /// Takes an update in. Fails if no further ones will come.
    pub(super) fn apply(&mut self, update: Update, now: Moment) -> Result<(), ClientError> {
        match update {
            Update::Listed(list) => {
                self.sessions.clear();
                self.places.clear();
                for live in list {
                    self.insert(live);
                }
            }
            Update::Open => self.stream_lost = None,
            Update::Event(frame) => self.event(&frame)?,
            Update::Lost(reason) => self.stream_lost = Some(reason),
            Update::Counted(counts) => {
                self.counts_lost = None;
                self.earlier = self.counts.replace(counts);
            }
            Update::Uncounted(reason) => self.counts_lost = Some(reason),
            Update::Failed(error) => return Err(error),
        }
        self.lost_at = match self.reason() {
            Some(_) => self.lost_at.or(Some(now)),
            None => None,
        };
        Ok(())
    }

    /// Whether the daemon is there.
    pub(super) fn link(&self) -> Link<'_> {
        let since = self.lost_at;
        match self.reason() {
            Some(reason) => Link::Lost { reason, since },
            None if self.counts.is_none() => Link::Starting,
            None => Link::Up,
        }
    }

    /// The counts name the cause: the stream only ends.
    fn reason(&self) -> Option<&str> {
        let reason = self.counts_lost.as_ref().or(self.stream_lost.as_ref());
        reason.map(String::as_str)
    }

    pub(super) fn session_count(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn scroll(&mut self, by: Scroll) {
        self.scrolled = match by {
            Scroll::Up(rows) => self.scrolled.saturating_sub(rows),
            Scroll::Down(rows) => self.scrolled.saturating_add(rows),
            Scroll::First => 0,
            Scroll::Last => usize::MAX,
        };
    }

    /// The sessions for so many rows, the newest first, and how many are above them.
    pub(super) fn shown(&mut self, rows: usize) -> (usize, Vec<&Session>) {
        let most = self.sessions.len().saturating_sub(rows);
        self.scrolled = self.scrolled.min(most);
        let shown = self.sessions.values().rev();
        (
            self.scrolled,
            shown.skip(self.scrolled).take(rows).collect(),
        )
    }

    fn insert(&mut self, live: Live) {
        let Live { session, uid } = live;
        let key = (uid, session.session_id.clone());
        self.remove(&key);
        let at = session.registered_at.unwrap_or_default();
        self.places.insert(key.clone(), at);
        self.sessions.insert((at, key), session);
    }

    fn remove(&mut self, key: &Key) {
        if let Some(at) = self.places.remove(key) {
            self.sessions.remove(&(at, key.clone()));
        }
    }

    fn event(&mut self, frame: &Frame) -> Result<(), ClientError> {
        let wrong = |error: serde_json::Error| ClientError::Protocol {
            detail: format!("cannot parse a {:?} event: {error}", frame.event),
        };
        let session_of = |data: &Value| Live::deserialize(&data["session"]).map_err(wrong);
        let data: Value = serde_json::from_str(&frame.data).map_err(wrong)?;
        match frame.event.as_str() {
            "session_registered" => self.insert(session_of(&data)?),
            "session_deregistered" => {
                let Live { session, uid } = session_of(&data)?;
                self.remove(&(uid, session.session_id));
                let at = data["ts"].as_str().and_then(milliseconds_since_1970);
                let removal = Deregistered::deserialize(&data).map_err(wrong)?;
                self.ended.push_front(Ended::of(removal, at));
                self.ended.truncate(ENDED);
            }
            "shutdown" => self.stream_lost = Some("the daemon stops".to_owned()),
            // The state of the sources is among the counts.
            _ => {}
        }
        Ok(())
    }
}

impl Ended {
    fn of(removal: Deregistered, at: Option<u64>) -> Self {
        Self {
            at,
            how: cause(&removal),
            session_id: removal.session.session_id,
            pid: removal.session.pid,
            source: removal.source,
            detection_us: removal.detection_us,
        }
    }
}

fn milliseconds_since_1970(text: &str) -> Option<u64> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok()
}
