//! Removal on request: by the token of a session, or by its id.

use std::sync::Arc;

use hyper::http::request;
use hyper::{Response, StatusCode};
use reaper_registry::{Removal, Session, SessionId, TokenRef};

use super::routes::{required_session, unknown};
use super::wire::Removed;
use super::{App, Peer};
use crate::clock;
use crate::daemon::http::body::{ResponseBody, json};
use crate::daemon::http::problem::{Code, Problem};
use crate::daemon::http::query;
use crate::daemon::http::secrets::Claim;

/// `DELETE /v1/sessions/me`.
pub(super) fn delete_me(
    app: &App,
    peer: Peer,
    claim: &Claim,
) -> Result<Response<ResponseBody>, Problem> {
    let session = required_session(app, peer, claim)?;
    match (remove(app, &session), claim) {
        (Some(response), _) => Ok(response),
        // It has ended since.
        (None, Claim::Token(token)) => Err(unknown(app, peer, *token)),
        (None, _) => Err(Problem::unknown_id()),
    }
}

/// `DELETE /v1/sessions/TOKEN`, as clients of the claudemesh daemon do, or by name. In `tail` the digits of
/// a token are blanked, except for its prefix.
pub(super) fn delete(
    app: &App,
    peer: Peer,
    head: &request::Parts,
    tail: &str,
    claim: &Claim,
    token: Option<TokenRef>,
) -> Result<Response<ResponseBody>, Problem> {
    if let Some(id) = tail.strip_prefix("by-id/") {
        let id = query::decode_segment(id)
            .ok_or_else(|| Problem::query("session_id", "the session id has a malformed escape"))?;
        let owner = peer.scope(head.uri.query())?;
        return delete_named(app, peer, owner, &SessionId::new(&id), claim);
    }
    if tail.is_empty() || tail.contains('/') {
        return Err(Problem::not_found());
    }
    let token = token.ok_or_else(|| {
        Problem::new(
            Code::InvalidToken,
            "invalid token",
            "a token is 64 hex digits",
        )
        .with_status(StatusCode::BAD_REQUEST)
    })?;
    app.reaper
        .registry()
        .resolve(&token, clock::now())
        .filter(|session| peer.sees(session.owner))
        .and_then(|session| remove(app, &session))
        .ok_or_else(|| {
            Problem::new(
                Code::UnknownSession,
                "unknown session",
                "no live session has this token",
            )
            // As in the request. Since there is a token, these bytes are its first digits.
            .not_ok(&tail[..8])
        })
}

fn delete_named(
    app: &App,
    peer: Peer,
    owner: Option<u32>,
    id: &SessionId,
    claim: &Claim,
) -> Result<Response<ResponseBody>, Problem> {
    let session = named(app, peer, owner, id)?;
    // Otherwise a removal and a registration would replace the session without its token.
    let needs_token = app.options().strict_replace && !peer.is_root();
    let presents_it = || matches!(claim, Claim::Token(token) if app.reaper.registry().is_token_of(token, &session));
    if needs_token && !presents_it() {
        return Err(Problem::needs_token());
    }
    remove(app, &session).ok_or_else(Problem::unknown_id)
}

/// Returns the session with this id: that of `owner`, or else root's own, or else the only one.
fn named(
    app: &App,
    peer: Peer,
    owner: Option<u32>,
    id: &SessionId,
) -> Result<Arc<Session>, Problem> {
    let registry = app.reaper.registry();
    let owner_or_own = owner.unwrap_or(peer.uid);
    if let Some(session) = registry.session_named(owner_or_own, id) {
        return Ok(session);
    }
    // Sessions of other users are unknown, as they are absent from the list.
    let mut others = match owner {
        Some(_) => Vec::new(),
        None => registry.sessions_named(id),
    };
    match (others.pop(), others.last()) {
        (None, _) => Err(Problem::unknown_id()),
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => Err(Problem::ambiguous_session()),
    }
}

/// Removes the session, unless it has ended since it was found.
fn remove(app: &App, session: &Session) -> Option<Response<ResponseBody>> {
    let registry = app.reaper.registry();
    let session = registry.remove_entry(session.entry, Removal::Requested, clock::now())?;
    Some(json(&Removed {
        ok: true,
        token_prefix: session.token_prefix.to_string(),
    }))
}
