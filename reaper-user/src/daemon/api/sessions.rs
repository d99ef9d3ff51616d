//! `GET /v1/sessions` and `/v1/sessions/ended`: the sessions that the caller may see.
//!
//! A list is written in pieces as its reader takes them, from a cursor in the registry. Between two pieces
//! nothing is kept but the cursor, so a slow reader costs one piece, however long the list is.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame};
use hyper::http::request;
use hyper::{Response, StatusCode};
use reaper_registry::{EntryId, Member, Registry, Session};
use serde::Serialize;

use super::connection_budget::{Turn, Turns};
use super::selection::Selection;
use super::wire::{EndedView, SessionView};
use super::{App, Peer, ended, health, sse};
use crate::clock;
use crate::daemon::http::body::{ResponseBody, pieces, whole};
use crate::daemon::http::problem::Problem;
use crate::daemon::http::query;

/// The longest piece of a list or a stream.
pub(super) const PIECE_MAX: usize = 56 * 1_024;
/// No session is longer in JSON, with every character of its text escaped.
const SESSION_MAX: usize = 48 * 1_024;
/// No session is added to a piece that is longer than this.
pub(super) const PIECE_FULL: usize = PIECE_MAX - SESSION_MAX;
/// How many sessions are read under one lock of the registry's table.
const PAGE: usize = 32;
/// How many pages are read before other tasks may run: a long list of sessions that a filter leaves out
/// must not delay a look-up.
const PAGES_AT_ONCE: usize = 16;

/// A position among the sessions, in the order of registration.
pub(super) struct Cursor {
    after: Option<EntryId>,
    until: EntryId,
    owner: Option<u32>,
}

impl Cursor {
    /// Starts before the first session of this owner, or of all. Later sessions than `until` are left out.
    pub(super) fn up_to(until: EntryId, owner: Option<u32>) -> Self {
        Self {
            after: None,
            until,
            owner,
        }
    }

    /// Passes the next sessions to `take` until it breaks, but not too many at once. Returns whether it
    /// is at the end.
    pub(super) fn advance(
        &mut self,
        registry: &Registry,
        mut take: impl FnMut(&Session) -> ControlFlow<()>,
    ) -> bool {
        for _ in 0..PAGES_AT_ONCE {
            let page = registry.page(self.after, self.owner, PAGE);
            for session in &page {
                if session.entry > self.until {
                    return true;
                }
                self.after = Some(session.entry);
                if take(session).is_break() {
                    return false;
                }
            }
            if page.len() < PAGE {
                return true;
            }
        }
        false
    }
}

/// What a list contains.
struct Filter {
    pid: Option<u32>,
    session: Option<String>,
    selection: Selection,
    is_verbose: bool,
    limit: Option<usize>,
}

impl Filter {
    fn of(query: Option<&str>) -> Result<Self, Problem> {
        let filter = Self {
            pid: number(query, "pid", "pid must be a number")?,
            session: query::value(query, "session").map(Into::into),
            selection: Selection::of(query)?,
            is_verbose: query::value(query, "verbose").as_deref() == Some("1"),
            limit: number(query, "limit", "limit must be a number")?,
        };
        if filter.limit == Some(0) {
            return Err(Problem::query("limit", "limit must be at least 1"));
        }
        Ok(filter)
    }

    fn shows(&self, session: &Session) -> bool {
        self.pid.is_none_or(|pid| has_pid(session, pid))
            && self.selection.shows(session)
            && self
                .session
                .as_deref()
                .is_none_or(|id| session.id.as_str() == id)
    }
}

/// Returns whether it is a session of this pid, of a process that lives or has lived.
fn has_pid(session: &Session, pid: u32) -> bool {
    let of_member = |member: &Member| member.process.pid.get() == pid;
    session.process.pid.get() == pid || session.members().iter().any(of_member)
}

/// Which sessions a list is about.
enum Rows {
    Live(Cursor),
    Ended(ended::Cursor),
}

/// The body of a list.
pub(crate) struct ListBody {
    app: Arc<App>,
    rows: Rows,
    page: Page,
    ended: bool,
    turn: Turn,
}

/// What has been written of a list.
struct Page {
    filter: Filter,
    out: Vec<u8>,
    written: usize,
    /// The position of the last session.
    last: u64,
    /// The same, if there is a further session than may be listed.
    next: Option<u64>,
}

/// `GET /v1/sessions`.
pub(super) async fn list(
    app: &Arc<App>,
    peer: Peer,
    head: &request::Parts,
) -> Result<Response<ResponseBody>, Problem> {
    respond(app, peer, head, |_query, owner, after| {
        let (_events, until) = app.reaper.registry().subscribe(owner);
        Ok(Rows::Live(Cursor {
            after: after.map(EntryId),
            until,
            owner,
        }))
    })
    .await
}

/// `GET /v1/sessions/ended`.
pub(super) async fn list_ended(
    app: &Arc<App>,
    peer: Peer,
    head: &request::Parts,
) -> Result<Response<ResponseBody>, Problem> {
    respond(app, peer, head, |query, owner, after| {
        let bounds = (clock::now().boot, app.options().ended_per_uid);
        ended::Cursor::new(query, owner, after, bounds).map(Rows::Ended)
    })
    .await
}

/// Writes the first piece of the rows that are chosen by query, owner and position. A list that is longer is
/// written as its reader takes it.
async fn respond(
    app: &Arc<App>,
    peer: Peer,
    head: &request::Parts,
    rows: impl FnOnce(Option<&str>, Option<u32>, Option<u64>) -> Result<Rows, Problem>,
) -> Result<Response<ResponseBody>, Problem> {
    let query = head.uri.query();
    let owner = peer.scope(query)?;
    let filter = Filter::of(query)?;
    let after = number(query, "after", "after must be the next of an earlier list")?;
    let rows = rows(query, owner, after)?;
    let turns = head.extensions.get::<Turns>().cloned();
    let mut list = ListBody {
        app: app.clone(),
        rows,
        page: Page {
            filter,
            out: b"{\"sessions\":[".to_vec(),
            written: 0,
            last: 0,
            next: None,
        },
        ended: false,
        turn: Turn::of(turns.clone()),
    };
    while !list.ended && list.page.out.len() <= PIECE_FULL {
        list.fill();
        match &turns {
            Some(turns) if !list.ended => turns.next().await,
            _ => tokio::task::yield_now().await,
        }
    }
    if list.ended {
        let body = std::mem::take(&mut list.page.out);
        return Ok(whole(StatusCode::OK, "application/json", body));
    }
    Ok(pieces("application/json", list))
}

fn number<T: std::str::FromStr>(
    query: Option<&str>,
    key: &'static str,
    rule: &'static str,
) -> Result<Option<T>, Problem> {
    query::value(query, key)
        .map(|text| text.parse())
        .transpose()
        .map_err(|_not_a_number| Problem::query(key, rule))
}

impl Page {
    /// Writes this session, unless it is left out. Breaks when the piece or the list is full.
    fn add<T: Serialize>(
        &mut self,
        session: &Session,
        position: u64,
        view: impl FnOnce() -> T,
    ) -> ControlFlow<()> {
        if !self.filter.shows(session) {
            return ControlFlow::Continue(());
        }
        if self.filter.limit.is_some_and(|limit| self.written == limit) {
            self.next = Some(self.last);
            return ControlFlow::Break(());
        }
        if self.written > 0 {
            self.out.push(b',');
        }
        self.written += 1;
        self.last = position;
        sse::write_json(&mut self.out, &view());
        // The last session of a page is followed by a look whether there is a next one.
        if self.out.len() > PIECE_FULL && self.filter.limit != Some(self.written) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

impl ListBody {
    /// Writes the next sessions, up to the length of one piece.
    fn fill(&mut self) {
        let Self {
            app,
            rows,
            page,
            ended,
            turn: _,
        } = self;
        let registry = app.reaper.registry();
        let is_verbose = page.filter.is_verbose;
        let at_end = match rows {
            Rows::Live(cursor) => cursor.advance(registry, |session| {
                page.add(session, session.entry.0, || {
                    let view = SessionView::new(session, app.reaper.identity_of(session));
                    if is_verbose {
                        view.verified_at(health::verified_at(app, session))
                    } else {
                        view
                    }
                })
            }),
            Rows::Ended(cursor) => cursor.advance(registry, |event, session, removal| {
                page.add(session, event.seq, || {
                    EndedView::new(event, session, removal)
                })
            }),
        };
        if let Some(next) = page.next {
            let end = format!("],\"next\":\"{next}\"}}");
            page.out.extend_from_slice(end.as_bytes());
        } else if at_end {
            page.out.extend_from_slice(b"]}");
        }
        *ended = at_end || page.next.is_some();
    }
}

impl Body for ListBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.page.out.is_empty() && !this.ended {
            ready!(this.turn.poll(cx));
            this.fill();
        }
        if !this.page.out.is_empty() {
            let piece = Bytes::from(std::mem::take(&mut this.page.out));
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use reaper_registry::{Attestation, Details, NewSession, Presence, SecretKey, SessionId};
    use reaper_registry::{
        Death, Event, EventKind, Evidence, Exit, ExitStatus, Pid, Process, ProcessId, Removal,
        Source, TokenKey, Ttl,
    };

    use super::*;
    use crate::text::{
        GROUP_MAX, GROUPS_MAX, LABEL_KEY_MAX, LABEL_VALUE_MAX, LABELS_MAX, NAME_MAX, PATH_MAX,
    };

    #[test]
    fn the_longest_session_fits_into_a_piece() {
        let quotes = |length: usize| Box::<str>::from("\"".repeat(length));
        let label = |number| (format!("{number:0LABEL_KEY_MAX$}"), quotes(LABEL_VALUE_MAX));
        let attested = || Box::<str>::from("f".repeat(1_024));
        let registry = Registry::builder(TokenKey::new([7; 16])).build();
        let new = NewSession {
            id: SessionId::new(&quotes(NAME_MAX)),
            token: reaper_registry::Token::from_bytes([1; 32]),
            process: Process::new(ProcessId(1), Pid::new(4242).unwrap(), None),
            further: Vec::new(),
            owner: u32::MAX,
            details: Details {
                mesh: quotes(NAME_MAX),
                display_name: quotes(NAME_MAX),
                cwd: Some(quotes(PATH_MAX)),
                role: Some(quotes(NAME_MAX)),
                groups: vec![quotes(GROUP_MAX); GROUPS_MAX].into(),
                labels: (0..LABELS_MAX).map(label).collect(),
                token_file: None,
            },
            presence: Some(Presence {
                session_pubkey: "f".repeat(64).into(),
                secret_key: SecretKey::parse(&"f".repeat(128)).unwrap(),
                attestation: Attestation {
                    session_pubkey: attested(),
                    parent_member_pubkey: attested(),
                    expires_at: f64::MAX,
                    signature: attested(),
                },
            }),
            ttl: Ttl::Default,
        };
        let session = registry.register(new, clock::now()).unwrap().session;
        let removal = Removal::Died(Death {
            source: Source::Netlink,
            evidence: Evidence::StartTime,
            pid_reused: true,
            exit: Some(Exit {
                status: ExitStatus::Signal {
                    signal: 255,
                    core: false,
                },
                from: Source::Netlink,
            }),
            detection: None,
        });
        let event = Event {
            seq: u64::MAX,
            at: clock::now(),
            kind: EventKind::Shutdown,
        };
        let mut out = Vec::new();
        sse::write_json(&mut out, &SessionView::new(&session, None).verified_at(1));
        let live = out.len();
        sse::write_json(&mut out, &EndedView::new(&event, &session, &removal));
        let ended = out.len() - live;
        let out = live.max(ended);
        assert!((39_000..SESSION_MAX).contains(&out), "{live} {ended}");
    }
}
