//! `GET /v1/sessions/ended`: sessions that have ended, the last one first. They are those of which the history of
//! events still has the end, so they take no memory of their own, and outlive a worker as events do.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Duration;

use reaper_registry::{BootTime, Event, EventKind, Registry, Removal, Session};

use crate::daemon::http::problem::Problem;
use crate::daemon::http::query;

/// How long an ended session is listed.
const LISTED_FOR: Duration = Duration::from_hours(1);
/// How many steps are made before other tasks may run. One looks at some hundred events.
const STEPS_AT_ONCE: usize = 4;

/// A position among the sessions that have ended.
pub(super) struct Cursor {
    /// The next event is before this one.
    before: Option<u64>,
    /// The last event of the page before.
    after: Option<u64>,
    /// The last event that the reader knows.
    since: u64,
    owner: Option<u32>,
    now: BootTime,
    /// How many of each user are listed.
    most: usize,
    /// How many there were.
    listed: HashMap<u32, usize>,
}

impl Cursor {
    /// Starts with the session of this owner, or of any, that ended last. At most `most` of each user are
    /// listed. `after` is the event of the last session of the former page.
    pub(super) fn new(
        query: Option<&str>,
        owner: Option<u32>,
        after: Option<u64>,
        (now, most): (BootTime, usize),
    ) -> Result<Self, Problem> {
        let since = query::value(query, "since").map(|seq| seq.parse());
        let since = since
            .transpose()
            .map_err(|_not_a_number| Problem::query("since", "expected the number of an event"))?;
        Ok(Self {
            before: None,
            after,
            since: since.unwrap_or(0),
            owner,
            now,
            most,
            listed: HashMap::new(),
        })
    }

    /// Passes the next sessions to `take` until it breaks, but not too many at once. Returns whether it is at
    /// the end.
    pub(super) fn advance(
        &mut self,
        registry: &Registry,
        mut take: impl FnMut(&Event, &Session, &Removal) -> ControlFlow<()>,
    ) -> bool {
        for _ in 0..STEPS_AT_ONCE {
            let (events, next) = registry.ended(self.before, self.owner);
            for event in &events {
                let EventKind::Deregistered(session, removal) = &event.kind else {
                    continue;
                };
                if event.seq <= self.since {
                    return true;
                }
                self.before = Some(event.seq);
                if !self.counts(event, session) {
                    continue;
                }
                if take(event, session, removal).is_break() {
                    return false;
                }
            }
            if next.is_none() {
                return true;
            }
            self.before = next;
        }
        false
    }

    /// Counts the session among those of its user. Returns whether it is listed here.
    fn counts(&mut self, event: &Event, session: &Session) -> bool {
        if self.now.since(event.at.boot) > LISTED_FOR {
            return false;
        }
        let listed = self.listed.entry(session.owner).or_default();
        *listed += 1;
        // Those of the pages before count too.
        *listed <= self.most && self.after.is_none_or(|after| event.seq < after)
    }
}

#[cfg(test)]
mod tests {
    use reaper_registry::{
        Details, Moment, NewSession, Pid, Process, ProcessId, SessionId, Token, TokenKey, Ttl,
    };

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment {
            boot: BootTime::from_nanos(seconds * 1_000_000_000),
            wall_ms: seconds * 1_000,
        }
    }

    /// A registry in which sessions of two users end in turn, one in each second from 0 on.
    fn registry(count: u8) -> Registry {
        let registry = Registry::builder(TokenKey::new([7; 16])).build();
        for number in 0..count {
            let new = NewSession {
                id: SessionId::new(&number.to_string()),
                token: Token::from_bytes([number; 32]),
                process: Process::new(ProcessId(1), Pid::new(42).unwrap(), None),
                further: Vec::new(),
                owner: u32::from(number % 2),
                details: Details::default(),
                presence: None,
                ttl: Ttl::Process,
            };
            registry.register(new, at(0)).unwrap();
        }
        for number in 0..count {
            let token = Token::from_bytes([number; 32]);
            registry.deregister(&token, at(number.into())).unwrap();
        }
        registry
    }

    fn ids(registry: &Registry, mut cursor: Cursor) -> Vec<String> {
        let mut ids = Vec::new();
        // As with pieces that are full after each session.
        while !cursor.advance(registry, |_, session, _| {
            ids.push(session.id.to_string());
            ControlFlow::Break(())
        }) {}
        ids
    }

    fn cursor(query: &str, owner: Option<u32>, after: Option<u64>, most: usize) -> Cursor {
        Cursor::new(Some(query), owner, after, (at(200).boot, most)).unwrap()
    }

    #[test]
    fn the_last_ones_of_each_user_come_first() {
        let registry = registry(7);
        let listed = |owner, most| ids(&registry, cursor("", owner, None, most));
        assert_eq!(listed(None, 2), ["6", "5", "4", "3"]);
        assert_eq!(listed(Some(1), 9), ["5", "3", "1"]);
        assert_eq!(listed(Some(2), 9), [""; 0]);
        assert_eq!(listed(None, 0), [""; 0]);
        // The events 8 to 14 are those of the ends.
        let after = |after| ids(&registry, cursor("", None, Some(after), 2));
        assert_eq!(after(13), ["4", "3"]);
        assert_eq!(after(11), [""; 0]);
        assert_eq!(
            ids(&registry, cursor("since=12", None, None, 9)),
            ["6", "5"]
        );
        let malformed = Cursor::new(Some("since=x"), None, None, (at(0).boot, 1));
        assert_eq!(malformed.err().unwrap().code().name(), "invalid_query");
    }

    #[test]
    fn a_session_is_listed_for_an_hour() {
        let registry = registry(3);
        let cursor = Cursor::new(None, None, None, (at(3_601).boot, 9)).unwrap();
        assert_eq!(ids(&registry, cursor), ["2", "1"]);
    }
}
