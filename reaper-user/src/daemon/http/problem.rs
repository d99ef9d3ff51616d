//! Errors of requests, as RFC 9457 problem details. The only file that maps domain errors to
//! statuses, codes and texts for clients.

use std::borrow::Cow;

use hyper::StatusCode;
use reaper_registry::{
    Event, EventKind, ExitStatus, Moment, Pid, PidOutOfRange, RegisterError, Removal,
    TokenMalformed,
};
use serde::Serialize;

use super::framing::Refusal;
use crate::daemon::accounts::{self, Resource};
use crate::daemon::api::authorize::Refused;
use crate::daemon::api::wire::EndView;
use crate::reaper::RegistrationError;
use crate::watch::identity::AlreadyGone;

/// How long a client should wait before it retries after a limit was reached.
const RETRY_AFTER_SECONDS: u32 = 5;
/// The code of a process that could not be checked for lack of descriptors or memory.
pub(crate) const NOT_NOW: &str = "not_now";

/// A refused or failed request. Boxed, because it is the rare case of every result.
#[derive(Debug, PartialEq)]
pub(crate) struct Problem(Box<Parts>);

#[derive(Debug, PartialEq)]
struct Parts {
    status: StatusCode,
    close: bool,
    retry_after: Option<u32>,
    body: Body,
}

#[derive(Debug, PartialEq, Serialize)]
struct Body {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: String,
    code: &'static str,
    /// The text of the claudemesh daemon.
    error: Cow<'static, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'static str>,
    /// How the session ended.
    #[serde(flatten)]
    end: Option<EndView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ok: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_prefix: Option<String>,
}

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        error: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        Self(Box::new(Parts {
            status,
            close: false,
            retry_after: None,
            body: Body {
                r#type: format!("/problems/{code}"),
                title: status.canonical_reason().unwrap_or("Error"),
                status: status.as_u16(),
                detail: detail.into(),
                code,
                error: error.into(),
                field: None,
                end: None,
                ok: None,
                token_prefix: None,
            },
        }))
    }

    /// An invalid field of the body.
    pub(crate) fn field(
        field: &'static str,
        code: &'static str,
        error: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, error, detail);
        problem.0.body.field = Some(field);
        problem
    }

    /// An invalid parameter of the query.
    pub(crate) fn query(field: &'static str, detail: &'static str) -> Self {
        let mut problem = Self::new(StatusCode::BAD_REQUEST, "invalid_query", detail, detail);
        problem.0.body.field = Some(field);
        problem
    }

    pub(crate) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "not found",
            "no route has this method and path",
        )
    }

    pub(crate) fn no_session(code: &'static str, detail: impl Into<String>) -> Self {
        // One `error` for all, as in the claudemesh daemon. The codes differ.
        Self::new(StatusCode::UNAUTHORIZED, code, "no session token", detail)
    }

    /// The session of this token ended recently.
    pub(crate) fn session_gone(end: &Event, now: Moment) -> Self {
        let age = now.boot.since(end.at.boot).as_secs();
        let (removal, how) = match &end.kind {
            EventKind::Deregistered(session, removal) => {
                let which = match session.members() {
                    [] => "its process",
                    _ => "its last process",
                };
                (Some(removal), how_it_ended(removal, which))
            }
            _ => (None, String::new()),
        };
        let detail = format!("the session of this token ended {age} s ago{how}");
        let mut problem = Self::no_session("session_gone", detail);
        problem.0.body.end = removal.map(EndView::from);
        problem
    }

    pub(crate) fn unknown_id() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown_session",
            "unknown session",
            "no live session has this id",
        )
    }

    /// Several users have a session with this id, and root named none of them.
    pub(crate) fn ambiguous_session() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "ambiguous_session",
            "ambiguous_session",
            "several users have a session with this id; name one of them with ?uid=",
        )
    }

    /// Another process takes this daemon's place, and nothing can be changed until it has.
    pub(crate) fn paused() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            NOT_NOW,
            NOT_NOW,
            "this daemon is being replaced; retry",
        )
        .retry_later()
    }

    /// The removal of this session needs its token.
    pub(crate) fn needs_token() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "needs_token",
            "needs_token",
            "this daemon removes a session only with its token (--strict-replace); present it as \
             Authorization: ClaudeMesh-Session",
        )
    }

    /// A caller that is not root named another user.
    pub(crate) fn other_user() -> Self {
        let mut problem = Self::new(
            StatusCode::FORBIDDEN,
            "other_user",
            "other_user",
            "only root may name another user; leave uid out",
        );
        problem.0.body.field = Some("uid");
        problem
    }

    /// Closes the connection after this response: the start of the next message is uncertain, or
    /// the peer is too slow.
    pub(crate) fn closing(mut self) -> Self {
        self.0.close = true;
        self
    }

    pub(crate) fn retry_later(mut self) -> Self {
        self.0.retry_after = Some(RETRY_AFTER_SECONDS);
        self
    }

    /// This is about one of several processes, which has this pid in the caller's numbering.
    pub(crate) fn of_member(mut self, pid: Pid) -> Self {
        if self.0.body.field == Some("pid") {
            self.0.body.field = Some("pids");
            self.0.body.detail = format!("pid {pid}: {}", self.0.body.detail);
        }
        self
    }

    /// Adds the fields of a failed deletion by token.
    pub(crate) fn not_ok(mut self, token_prefix: &str) -> Self {
        self.0.body.ok = Some(false);
        self.0.body.token_prefix = Some(token_prefix.to_owned());
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.0.status
    }

    pub(crate) fn code(&self) -> &'static str {
        self.0.body.code
    }

    pub(crate) fn closes(&self) -> bool {
        self.0.close
    }

    pub(crate) fn retry_after(&self) -> Option<u32> {
        self.0.retry_after
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0.body).expect("strings and numbers always serialise")
    }
}

/// Returns the end of a sentence. It uses the same names as the fields of the error.
fn how_it_ended(removal: &Removal, which: &str) -> String {
    let cause = removal.cause();
    let Some(death) = removal.death() else {
        let because = match removal {
            Removal::Expired => "its ttl was over",
            Removal::Replaced => "another registration took its place",
            Removal::Requested | Removal::Died(_) => "its removal was requested",
        };
        return format!(": {because} (cause {cause})");
    };
    let how = match death.exit.map(|exit| exit.status) {
        Some(ExitStatus::Code(code)) => format!("{which} exited with code {code}"),
        Some(ExitStatus::Signal { signal, core }) => {
            let dumped = if core { " and dumped core" } else { "" };
            format!("{which} was ended by signal {signal}{dumped}")
        }
        None => format!("{which} ended, with unknown status"),
    };
    let (source, evidence) = (death.source, death.evidence.name());
    format!(": {how} (cause {cause}, source {source}, evidence {evidence})")
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (status, error) = match refusal {
            Refusal::HeadTooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, refusal.code()),
            Refusal::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "Error: payload_too_large"),
            _ => (StatusCode::BAD_REQUEST, refusal.code()),
        };
        Self::new(status, refusal.code(), error, refusal.to_string()).closing()
    }
}

impl From<accounts::Refused> for Problem {
    fn from(refused: accounts::Refused) -> Self {
        let code = match refused.resource {
            Resource::Connections => "too_many_connections",
            Resource::Streams => "too_many_streams",
            Resource::Requests => "too_many_requests",
        };
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self::new(status, code, code, refused.to_string()).retry_later()
    }
}

impl From<TokenMalformed> for Problem {
    fn from(error: TokenMalformed) -> Self {
        let detail = error.to_string();
        Self::field("token", "invalid_token", detail.clone(), detail)
    }
}

impl From<PidOutOfRange> for Problem {
    fn from(error: PidOutOfRange) -> Self {
        Self::field("pid", "invalid_pid", "invalid pid", error.to_string())
    }
}

impl From<AlreadyGone> for Problem {
    fn from(gone: AlreadyGone) -> Self {
        Self::field("pid", "process_gone", "process_gone", gone.to_string())
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let detail = refused.to_string();
        match refused {
            Refused::Gone(gone) => gone.into(),
            Refused::ThreadId { .. } => Self::field("pid", "thread_id", "invalid pid", detail),
            Refused::KernelThread => Self::field("pid", "kernel_thread", "invalid pid", detail),
            Refused::OwnPid => Self::field("pid", "own_pid", "invalid pid", detail),
            Refused::Init => Self::field("pid", "invalid_pid", "invalid pid", detail),
            Refused::NotThere { .. } => Self::field("pid", "process_gone", "process_gone", detail),
            Refused::PeerGone => Self::new(StatusCode::FORBIDDEN, "peer_gone", "peer_gone", detail),
            Refused::OtherUser => forbidden_pid("not_your_process", detail),
            Refused::NotSelf => forbidden_pid("not_yourself", detail),
            Refused::Hidden => forbidden_pid("process_hidden", detail),
            Refused::ForeignPidNamespace => forbidden_pid("foreign_pid_namespace", detail),
            Refused::NotNow => {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Self::new(status, NOT_NOW, NOT_NOW, detail).retry_later()
            }
        }
    }
}

fn forbidden_pid(code: &'static str, detail: String) -> Problem {
    let mut problem = Problem::new(StatusCode::FORBIDDEN, code, code, detail);
    problem.0.body.field = Some("pid");
    problem
}

impl From<RegisterError> for Problem {
    fn from(error: RegisterError) -> Self {
        let (status, code) = match error {
            RegisterError::TooManySessions { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "too_many_sessions")
            }
            RegisterError::TooManyForOwner { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "too_many_sessions_of_user")
            }
            RegisterError::TooManyBytes { .. } => (StatusCode::TOO_MANY_REQUESTS, "too_many_bytes"),
            RegisterError::TooManyBytesForOwner { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "too_many_bytes_of_user")
            }
            RegisterError::TokenInUse => (StatusCode::CONFLICT, "token_in_use"),
            RegisterError::NeedsOldToken => (StatusCode::CONFLICT, "needs_old_token"),
            RegisterError::Paused => return Self::paused(),
            // The enum may grow. Nothing is stored on any error.
            _ => (StatusCode::CONFLICT, "refused"),
        };
        let remedy = match error {
            RegisterError::TokenInUse => ": register with a new token, made by `reaperd token`",
            RegisterError::TooManyBytes { .. } => {
                ": wait, send shorter text, or raise the daemon's --max-bytes"
            }
            RegisterError::TooManyBytesForOwner { .. } => {
                ": remove sessions, send shorter text, or raise the daemon's --max-bytes-per-uid"
            }
            _ => "",
        };
        let problem = Self::new(status, code, code, format!("{error}{remedy}"));
        if status == StatusCode::TOO_MANY_REQUESTS {
            problem.retry_later()
        } else {
            problem
        }
    }
}

impl From<RegistrationError<Refused>> for Problem {
    fn from(error: RegistrationError<Refused>) -> Self {
        match error {
            RegistrationError::ProcessGone(gone) => gone.into(),
            RegistrationError::ThreadId { process } => Refused::ThreadId { process }.into(),
            RegistrationError::Refused(refused) => refused.into(),
            RegistrationError::Member { pid, reason } => Self::from(*reason).of_member(pid),
            RegistrationError::Registry(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
