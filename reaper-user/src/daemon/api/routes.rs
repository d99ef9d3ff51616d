//! Routing: one flat match from method and path to a handler.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::http::request;
use hyper::{Method, Request, Response};
use reaper_registry::{Session, Source, TokenRef};
use tokio::time::{Instant, sleep};

use super::authorize::Refused;
use super::events::{EventStream, Reader};
use super::register::Parsed;
use super::remove::{delete, delete_me};
use super::replace;
use super::sessions::{list, list_ended};
use super::undelivered::UndeliveredSessions;
use super::wire::{Me, RegisterResponse, SessionView};
use super::{
    App, Peer, PeerPidNs, Transport, authorize, documents, health, limits, metrics, proof, register,
};
use crate::clock;
use crate::daemon::http::body::{ResponseBody, event_stream, json, problem, read_body};
use crate::daemon::http::framing::{REFUSAL_FIELD, Refusal};
use crate::daemon::http::policy;
use crate::daemon::http::problem::{Code, Problem};
use crate::daemon::http::secrets::{Claim, RequestSecrets};
use crate::daemon::log::refusals;
use crate::reaper::{Registration, RegistrationError};
use crate::sources;
use crate::watch::identity::IdentityStrength;

/// How long a registration is retried while descriptors or memory are short, and the pause between
/// two tries. Less than the timeout of clients.
const NOT_NOW_LIMIT: Duration = Duration::from_millis(550);
const NOT_NOW_PAUSE: Duration = Duration::from_millis(50);

/// Returns whether the handler of this request needs the hold of its connection.
pub(super) fn needs_hold(path: &str) -> bool {
    path == "/v1/events" || path == replace::PATH
}

/// Returns the response to a request.
pub(super) async fn respond(
    app: Arc<App>,
    peer: Peer,
    request: Request<Incoming>,
    secrets: RequestSecrets,
) -> Response<ResponseBody> {
    let (head, body) = request.into_parts();
    let refused = head.headers.get(REFUSAL_FIELD);
    if let Some(refusal) = refused.and_then(|code| Refusal::from_code(code.as_bytes())) {
        return problem(&refusal.into());
    }
    let is_removal = head.method == Method::DELETE;
    let result = match policy::check(&head, peer.transport, secrets.claim) {
        Ok(claim) => route(&app, peer, &head, body, claim, &secrets).await,
        Err(refused) => Err(refused),
    };
    result.unwrap_or_else(|mut refused| {
        // What was not found may be there.
        if is_removal && app.reaper.registry().is_paused() {
            refused = Problem::paused();
        }
        match refused.status().as_u16() {
            // An unknown token or id is an ordinary answer.
            status @ (401 | 404) => log::debug!("{status} {}", refused.code()),
            _ => refusals::note(peer.account(), refused.code().name()),
        }
        problem(&refused)
    })
}

async fn route(
    app: &Arc<App>,
    peer: Peer,
    head: &request::Parts,
    body: Incoming,
    claim: Claim,
    secrets: &RequestSecrets,
) -> Result<Response<ResponseBody>, Problem> {
    match (&head.method, head.uri.path()) {
        (&Method::POST, "/v1/sessions/register") => {
            let body = read_body(body, secrets).await?;
            register(app, peer, head, &body).await
        }
        (&Method::GET, "/v1/sessions") => list(app, peer, head).await,
        (&Method::GET, "/v1/sessions/ended") => list_ended(app, peer, head).await,
        (&Method::GET, "/v1/sessions/me") => {
            let session = required_session(app, peer, &claim)?;
            let session = SessionView::new(&session, app.reaper.identity_of(&session));
            Ok(json(&Me { session }))
        }
        (&Method::DELETE, "/v1/sessions/me") => delete_me(app, peer, &claim),
        (&Method::GET, "/v1/events") => {
            let reader = match session(app, peer, &claim) {
                Ok(Some(own)) => Reader::Session(own),
                Ok(None) => Reader::User,
                // Otherwise its clients would connect again every second.
                Err(_unknown) if app.options().profile.is_some() => Reader::Unknown,
                Err(unknown) => return Err(unknown),
            };
            let stream = EventStream::open(app, peer, head, &reader)?;
            Ok(event_stream(stream))
        }
        // A hand-over passes descriptors on, which TCP cannot.
        (&Method::POST, replace::PATH) if peer.transport == Transport::Unix => {
            let body = read_body(body, secrets).await?;
            replace::replace(app, peer, head, &body)
        }
        (&Method::GET, "/v1/limits") => Ok(json(&limits::limits(app, peer))),
        (&Method::GET, "/v1/sources") => Ok(json(&health::sources(app).view())),
        (&Method::GET, "/v1/health") if is_anonymous(peer, &claim) => {
            Ok(json(&health::public(app)))
        }
        (&Method::GET, "/v1/health") => Ok(json(&health::health(app, peer))),
        (&Method::GET, "/v1/version") => Ok(json(&health::version(&app.options()))),
        (&Method::GET, proof::PATH) if peer.transport != Transport::Unix => proof::proof(app, head),
        (&Method::GET, "/metrics") => Ok(metrics::metrics(app, head, peer.is_root())),
        (&Method::GET, documents::OPENAPI) => Ok(documents::openapi()),
        (&Method::GET, path) if let Some(code) = path.strip_prefix(documents::PROBLEMS) => {
            documents::problem_page(head, code)
        }
        (&Method::DELETE, path) if path.starts_with("/v1/sessions/") => {
            let tail = &path["/v1/sessions/".len()..];
            delete(app, peer, head, tail, &claim, secrets.path_token)
        }
        (method, path) => match broker_route(method, path) {
            Some(error) => {
                session(app, peer, &claim)?;
                Err(Problem::new(
                    Code::NoBroker,
                    error,
                    "this daemon keeps sessions; it is no message broker",
                ))
            }
            None => Err(Problem::not_found()),
        },
    }
}

/// Returns whether it is unknown who sends this: over TCP, without the bearer.
fn is_anonymous(peer: Peer, claim: &Claim) -> bool {
    peer.transport != Transport::Unix && !matches!(claim, Claim::Bearer { is_valid: true })
}

/// Returns the error of a route of the claudemesh daemon's message broker. It is the one that
/// daemon sends while its broker is not running, so that clients degrade in the same way.
fn broker_route(method: &Method, path: &str) -> Option<&'static str> {
    let is_skill = path
        .strip_prefix("/v1/skills/")
        .is_some_and(|name| !name.is_empty() && !name.contains('/'));
    let is_memory = path
        .strip_prefix("/v1/memory/")
        .is_some_and(|id| !id.is_empty() && !id.contains('/'));
    let is_inbox_row = path
        .strip_prefix("/v1/inbox/")
        .is_some_and(|id| !id.is_empty() && !id.contains('/'));
    match (method.as_str(), path) {
        ("GET" | "DELETE", "/v1/inbox") | ("POST", "/v1/inbox/seen") => {
            Some("inbox not initialised")
        }
        ("DELETE", _) if is_inbox_row => Some("inbox not initialised"),
        ("POST", "/v1/send" | "/v1/outbox/requeue") | ("GET", "/v1/outbox") => {
            Some("outbox not initialised")
        }
        // Any method of the state: to its clients, 404 means that a key is not set.
        (_, "/v1/state")
        | ("GET", "/v1/peers" | "/v1/skills")
        | ("GET" | "POST", "/v1/memory")
        | ("POST", "/v1/profile") => Some("broker not initialised"),
        ("GET", _) if is_skill => Some("broker not initialised"),
        ("DELETE", _) if is_memory => Some("broker not initialised"),
        _ => None,
    }
}

/// Checking a process takes descriptors from the reserve. If the whole system has none left
/// (ENFILE), the registration is retried a few times before it is refused.
async fn register(
    app: &App,
    mut peer: Peer,
    head: &request::Parts,
    body: &[u8],
) -> Result<Response<ResponseBody>, Problem> {
    let pid_ns = head.extensions.get::<PeerPidNs>().cloned();
    let pid_ns = pid_ns.unwrap_or_default();
    let began = Instant::now();
    loop {
        // For each try, because it is consumed and its secret key cannot be cloned.
        let parsed = register::parse(body, peer.uid, &app.secret_memory)?;
        let undelivered = head.extensions.get::<UndeliveredSessions>();
        let undelivered = undelivered.filter(|_| parsed.if_answered);
        if undelivered.is_some() {
            // Lets hyper check whether the caller has left; it then drops the request.
            tokio::task::yield_now().await;
        }
        peer.pid_ns = pid_ns.of(peer);
        let result = try_register(app, peer, parsed, undelivered).await;
        match result {
            Err(refused) if refused.code() == Code::NotNow && began.elapsed() < NOT_NOW_LIMIT => {}
            // What was refused may be another process, which has the pid of the peer by now.
            Err(refused) => {
                let gone = peer.check_alive(app.table.as_ref());
                return Err(gone
                    .err()
                    .filter(|gone| *gone == Refused::PeerGone)
                    .map_or(refused, Problem::from));
            }
            Ok(registered) => return Ok(registered),
        }
        sleep(NOT_NOW_PAUSE).await;
    }
}

async fn try_register(
    app: &App,
    peer: Peer,
    parsed: Parsed,
    undelivered: Option<&UndeliveredSessions>,
) -> Result<Response<ResponseBody>, Problem> {
    let Parsed {
        registration,
        ignored,
        ..
    } = parsed;
    let policy = app.options().register_policy;
    let named_first = registration.pid;
    let first = authorize::authorize_pid(named_first, peer, policy).await;
    let first = first.map_err(|refused| match registration.further[..] {
        [] => refused.into(),
        _ => Problem::from(refused).of_member(named_first),
    })?;
    let mut others = Vec::with_capacity(registration.further.len());
    for named in &registration.further {
        let resolved = authorize::authorize_pid(*named, peer, policy).await;
        let resolved = resolved.map_err(|refused| Problem::from(refused).of_member(*named))?;
        others.push((resolved, *named));
    }
    let presence_accepted = registration.presence.is_some();
    let registration = Registration {
        pid: first.pid,
        further: others.iter().map(|(resolved, _)| resolved.pid).collect(),
        ..registration
    };
    let registered = app.reaper.register_if(registration, |process| {
        let other = others.iter().find(|(it, _)| it.pid == process.pid());
        let resolved = other.map_or(&first, |(resolved, _)| resolved);
        authorize::check_process(process.watched, resolved, peer, policy, app.table.as_ref())
    });
    let registered = registered.map_err(|error| match error {
        RegistrationError::Member { pid, reason } => {
            let other = others.iter().find(|(it, _)| it.pid == pid);
            let named = other.map_or(named_first, |(_, named)| *named);
            Problem::from(*reason).of_member(named)
        }
        error => error.into(),
    })?;
    let session = &registered.session;
    // Not for a renewal: undoing it would remove a session that existed before.
    if let Some(undelivered) = undelivered.filter(|_| !registered.renewed) {
        undelivered.add(session.clone());
    }
    Ok(json(&RegisterResponse {
        ok: true,
        registered_at: session.registered_at.wall_ms,
        expires_at: session.expires_at.map(|last| last.wall_ms),
        renewed: registered.renewed,
        presence_accepted,
        start_time: session.process.start_time().map(|time| time.0),
        identity: registered.identity.name(),
        sources: watching(app, registered.identity),
        processes: Some(session.members().len()).filter(|count| *count > 1),
        ignored,
    }))
}

/// Returns the sources that will notice the end of a process with this identity.
fn watching(app: &App, identity: IdentityStrength) -> Vec<&'static str> {
    sources::ALL
        .into_iter()
        .filter(|source| app.reaper.works(*source))
        .filter(|source| *source != Source::Pidfd || identity == IdentityStrength::Pidfd)
        .map(Source::name)
        .collect()
}

/// Returns the session that was presented. An invalid one is an error on every route that reads it, and so
/// is one of another user.
fn session(app: &App, peer: Peer, claim: &Claim) -> Result<Option<Arc<Session>>, Problem> {
    match claim {
        Claim::None | Claim::Bearer { .. } => Ok(None),
        Claim::Malformed => Err(Problem::no_session(
            Code::MalformedSessionToken,
            "a session token is 64 hex digits",
        )),
        Claim::Token(token) => app
            .reaper
            .registry()
            .resolve(token, clock::now())
            .filter(|session| peer.sees(session.owner))
            .map(Some)
            .ok_or_else(|| unknown(app, peer, *token)),
    }
}

pub(super) fn required_session(
    app: &App,
    peer: Peer,
    claim: &Claim,
) -> Result<Arc<Session>, Problem> {
    session(app, peer, claim)?.ok_or_else(|| {
        Problem::no_session(
            Code::NoSessionToken,
            "present one as Authorization: ClaudeMesh-Session",
        )
    })
}

/// The error for a token that has no live session of this user. It does not show whether another user has
/// or had one.
pub(super) fn unknown(app: &App, peer: Peer, token: TokenRef) -> Problem {
    let now = clock::now();
    let owner = (!peer.is_root()).then_some(peer.uid);
    match app.reaper.registry().recently_gone(&token, owner, now) {
        Some(end) => Problem::session_gone(&end, now),
        None => Problem::no_session(Code::UnknownSession, "no live session has this token"),
    }
}
