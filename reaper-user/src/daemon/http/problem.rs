//! Errors of requests, as RFC 9457 problem details. The only file that maps domain errors to
//! codes and texts for clients; [`code`] has the codes.

mod code;

use std::borrow::Cow;

use hyper::StatusCode;
use reaper_registry::{
    Event, EventKind, ExitStatus, Moment, Pid, PidOutOfRange, RegisterError, Removal,
    TokenMalformed,
};
use serde::Serialize;

pub(crate) use self::code::{Code, Page};
use super::framing::Refusal;
use crate::daemon::accounts::{self, Resource};
use crate::daemon::api::authorize::Refused;
use crate::daemon::api::wire::EndView;
use crate::reaper::RegistrationError;
use crate::watch::identity::AlreadyGone;

/// How long a client should wait before it retries after a limit was reached.
const RETRY_AFTER_SECONDS: u32 = 5;

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
    code: Code,
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
    /// An error with the first status of this code.
    pub(crate) fn new(
        code: Code,
        error: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        Self(Box::new(Parts {
            status: code.status(),
            close: false,
            retry_after: None,
            body: Body {
                r#type: format!("/problems/{code}"),
                title: code.page().title,
                status: code.page().status,
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
        code: Code,
        error: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        let mut problem = Self::new(code, error, detail);
        problem.0.body.field = Some(field);
        problem
    }

    /// An invalid parameter of the query.
    pub(crate) fn query(field: &'static str, detail: &'static str) -> Self {
        let mut problem = Self::new(Code::InvalidQuery, detail, detail);
        problem.0.body.field = Some(field);
        problem
    }

    pub(crate) fn not_found() -> Self {
        Self::new(
            Code::NotFound,
            "not found",
            "no route has this method and path",
        )
    }

    pub(crate) fn no_session(code: Code, detail: impl Into<String>) -> Self {
        // One `error` for all, as in the claudemesh daemon. The codes differ.
        Self::new(code, "no session token", detail).with_status(StatusCode::UNAUTHORIZED)
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
        let mut problem = Self::no_session(Code::SessionGone, detail);
        problem.0.body.end = removal.map(EndView::from);
        problem
    }

    pub(crate) fn unknown_id() -> Self {
        Self::new(
            Code::UnknownSession,
            "unknown session",
            "no live session has this id",
        )
    }

    /// Several users have a session with this id, and root named none of them.
    pub(crate) fn ambiguous_session() -> Self {
        Self::new(
            Code::AmbiguousSession,
            Code::AmbiguousSession,
            "several users have a session with this id; name one of them with ?uid=",
        )
    }

    /// Another process takes this daemon's place, and nothing can be changed until it has.
    pub(crate) fn paused() -> Self {
        Self::new(
            Code::NotNow,
            Code::NotNow,
            "this daemon is being replaced; retry",
        )
        .retry_later()
    }

    /// The removal of this session needs its token.
    pub(crate) fn needs_token() -> Self {
        Self::new(
            Code::NeedsToken,
            Code::NeedsToken,
            "this daemon removes a session only with its token (--strict-replace); present it as \
             Authorization: ClaudeMesh-Session",
        )
    }

    /// A caller that is not root named another user.
    pub(crate) fn other_user() -> Self {
        let mut problem = Self::new(
            Code::OtherUser,
            Code::OtherUser,
            "only root may name another user; leave uid out",
        );
        problem.0.body.field = Some("uid");
        problem
    }

    /// Changes the status, for a code that has several.
    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        let statuses = self.code().page().statuses;
        debug_assert!(statuses.contains(&status.as_u16()), "{self:?}");
        self.0.status = status;
        self.0.body.status = status.as_u16();
        self
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

    pub(crate) fn code(&self) -> Code {
        self.0.body.code
    }

    pub(crate) fn closes(&self) -> bool {
        self.0.close
    }

    pub(crate) fn retry_after(&self) -> Option<u32> {
        self.0.retry_after
    }

    /// Returns the scheme of the `Authorization` that is missing or wrong, for a status 401.
    pub(crate) fn authenticates_by(&self) -> Option<&'static str> {
        let is_bearer = matches!(self.code(), Code::MissingBearer | Code::InvalidBearer);
        let scheme = if is_bearer {
            "Bearer"
        } else {
            "ClaudeMesh-Session"
        };
        (self.status() == StatusCode::UNAUTHORIZED).then_some(scheme)
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
        let error = match refusal {
            Refusal::BodyTooLarge => "Error: payload_too_large",
            _ => refusal.code(),
        };
        Self::new(code_of(refusal), error, refusal.to_string()).closing()
    }
}

fn code_of(refusal: Refusal) -> Code {
    match refusal {
        Refusal::BareLineFeed => Code::BareLineFeed,
        Refusal::FoldedLine => Code::FoldedLine,
        Refusal::RequestLine => Code::BadRequestLine,
        Refusal::FieldName => Code::BadFieldName,
        Refusal::FieldValue => Code::BadFieldValue,
        Refusal::Length => Code::BadContentLength,
        Refusal::TwoLengths => Code::TwoContentLengths,
        Refusal::BothLengths => Code::BothLengthFields,
        Refusal::TransferEncoding => Code::BadTransferEncoding,
        Refusal::Host => Code::BadHostField,
        Refusal::HeadTooLarge => Code::HeadTooLarge,
        Refusal::BodyTooLarge => Code::PayloadTooLarge,
    }
}

impl From<accounts::Refused> for Problem {
    fn from(refused: accounts::Refused) -> Self {
        let code = match refused.resource {
            Resource::Connections => Code::TooManyConnections,
            Resource::Streams => Code::TooManyStreams,
            Resource::Requests => Code::TooManyRequests,
        };
        Self::new(code, code, refused.to_string()).retry_later()
    }
}

impl From<TokenMalformed> for Problem {
    fn from(error: TokenMalformed) -> Self {
        let detail = error.to_string();
        Self::field("token", Code::InvalidToken, detail.clone(), detail)
    }
}

impl From<PidOutOfRange> for Problem {
    fn from(error: PidOutOfRange) -> Self {
        Self::field("pid", Code::InvalidPid, "invalid pid", error.to_string())
    }
}

impl From<AlreadyGone> for Problem {
    fn from(gone: AlreadyGone) -> Self {
        Self::field(
            "pid",
            Code::ProcessGone,
            Code::ProcessGone,
            gone.to_string(),
        )
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let detail = refused.to_string();
        match refused {
            Refused::Gone(gone) => gone.into(),
            Refused::ThreadId { .. } => Self::field("pid", Code::ThreadId, "invalid pid", detail),
            Refused::KernelThread => Self::field("pid", Code::KernelThread, "invalid pid", detail),
            Refused::OwnPid => Self::field("pid", Code::OwnPid, "invalid pid", detail),
            Refused::Init => Self::field("pid", Code::InvalidPid, "invalid pid", detail),
            Refused::NotThere { .. } => {
                Self::field("pid", Code::ProcessGone, Code::ProcessGone, detail)
            }
            Refused::PeerGone => Self::new(Code::PeerGone, Code::PeerGone, detail),
            Refused::OtherUser => pid_not_allowed(Code::NotYourProcess, detail),
            Refused::NotSelf => pid_not_allowed(Code::NotYourself, detail),
            Refused::Hidden => pid_not_allowed(Code::ProcessHidden, detail),
            Refused::ForeignPidNamespace => pid_not_allowed(Code::ForeignPidNamespace, detail),
            Refused::NotNow => Self::new(Code::NotNow, Code::NotNow, detail).retry_later(),
        }
    }
}

fn pid_not_allowed(code: Code, detail: String) -> Problem {
    Problem::field("pid", code, code, detail)
}

impl From<RegisterError> for Problem {
    fn from(error: RegisterError) -> Self {
        let code = match error {
            RegisterError::TooManySessions { .. } => Code::TooManySessions,
            RegisterError::TooManyForOwner { .. } => Code::TooManySessionsOfUser,
            RegisterError::TooManyBytes { .. } => Code::TooManyBytes,
            RegisterError::TooManyBytesForOwner { .. } => Code::TooManyBytesOfUser,
            RegisterError::TokenInUse => Code::TokenInUse,
            RegisterError::NeedsOldToken => Code::NeedsOldToken,
            RegisterError::Paused => return Self::paused(),
            // The enum may grow. Nothing is stored on any error.
            _ => Code::Refused,
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
        let problem = Self::new(code, code, format!("{error}{remedy}"));
        if problem.status() == StatusCode::TOO_MANY_REQUESTS {
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
