//! `GET /v1/sessions`: the sessions that the caller may see.
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

use super::connection_budget::{Turn, Turns};
use super::selection::Selection;
use super::wire::SessionView;
use super::{App, Peer, health, sse};
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

/// The body of a list.
pub(crate) struct ListBody {
    app: Arc<App>,
    filter: Filter,
    cursor: Cursor,
    out: Vec<u8>,
    written: usize,
    last: Option<EntryId>,
    ended: bool,
    turn: Turn,
}

pub(super) async fn list(
    app: &Arc<App>,
    peer: Peer,
    head: &request::Parts,
) -> Result<Response<ResponseBody>, Problem> {
    let query = head.uri.query();
    let turns = head.extensions.get::<Turns>().cloned();
    let owner = peer.scope(query)?;
    let filter = Filter {
        pid: number(query, "pid", "pid must be a number")?,
        session: query::value(query, "session").map(Into::into),
        selection: Selection::of(query)?,
        is_verbose: query::value(query, "verbose").as_deref() == Some("1"),
        limit: number(query, "limit", "limit must be a number")?,
    };
    if filter.limit == Some(0) {
        return Err(Problem::query("limit", "limit must be at least 1"));
    }
    let after = number(query, "after", "after must be the next of an earlier list")?;
    let (_events, until) = app.reaper.registry().subscribe(owner);
    let mut list = ListBody {
        app: app.clone(),
        filter,
        cursor: Cursor {
            after: after.map(EntryId),
            until,
            owner,
        },
        out: b"{\"sessions\":[".to_vec(),
        written: 0,
        last: None,
        ended: false,
        turn: Turn::of(turns.clone()),
    };
    while !list.ended && list.out.len() <= PIECE_FULL {
        list.fill();
        match &turns {
            Some(turns) if !list.ended => turns.next().await,
            _ => tokio::task::yield_now().await,
        }
    }
    if list.ended {
        let body = std::mem::take(&mut list.out);
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

impl ListBody {
    /// Writes the next sessions, up to the length of one piece.
    fn fill(&mut self) {
        let Self {
            app,
            filter,
            cursor,
            out,
            written,
            last,
            ended,
            turn: _,
        } = self;
        let mut next = None;
        let at_end = cursor.advance(app.reaper.registry(), |session| {
            if !filter.shows(session) {
                return ControlFlow::Continue(());
            }
            if filter.limit.is_some_and(|limit| *written == limit) {
                next = *last;
                return ControlFlow::Break(());
            }
            if *written > 0 {
                out.push(b',');
            }
            *written += 1;
            *last = Some(session.entry);
            let view = SessionView::new(session, app.reaper.identity_of(session));
            let view = if filter.is_verbose {
                view.verified_at(health::verified_at(app, session))
            } else {
                view
            };
            sse::write_json(out, &view);
            // The last session of a page is followed by a look whether there is a next one.
            if out.len() > PIECE_FULL && filter.limit != Some(*written) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        if let Some(next) = next {
            out.extend_from_slice(format!("],\"next\":\"{next}\"}}").as_bytes());
        } else if at_end {
            out.extend_from_slice(b"]}");
        }
        *ended = at_end || next.is_some();
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
        if this.out.is_empty() && !this.ended {
            ready!(this.turn.poll(cx));
            this.fill();
        }
        if !this.out.is_empty() {
            let piece = Bytes::from(std::mem::take(&mut this.out));
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
    use reaper_registry::{Pid, Process, ProcessId, TokenKey, Ttl};

    use super::*;
    use crate::clock;
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
        let mut out = Vec::new();
        sse::write_json(&mut out, &SessionView::new(&session, None).verified_at(1));
        assert!((39_000..SESSION_MAX).contains(&out.len()), "{}", out.len());
    }
}
