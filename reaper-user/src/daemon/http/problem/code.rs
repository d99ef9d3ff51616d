//! Every `code` of an error: its statuses, and what `GET /problems/CODE` says about it. The only such list:
//! an error cannot be built with a code that is not in it. Tests compare it with `docs/http-api.md` and
//! `docs/openapi.json`.

use std::borrow::Cow;
use std::fmt;

use hyper::StatusCode;
use serde::{Serialize, Serializer};

/// What is known about a code.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Page {
    pub(crate) code: &'static str,
    /// The same for each error with this code.
    pub(crate) title: &'static str,
    /// The first of `statuses`.
    pub(crate) status: u16,
    pub(crate) statuses: &'static [u16],
    pub(crate) meaning: &'static str,
    pub(crate) remedy: &'static str,
}

/// Makes the enum of the codes and their pages, in the same order.
macro_rules! codes {
    ($($variant:ident $code:literal $statuses:tt $title:literal: $meaning:literal => $remedy:literal;)*) => {
        /// The `code` of an error.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Code { $($variant),* }

        impl Code {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant),*];
            pub(crate) const COUNT: usize = Self::ALL.len();

            pub(crate) const fn page(self) -> &'static Page {
                match self {
                    $(Self::$variant => const { &Page {
                        code: $code,
                        title: $title,
                        status: $statuses[0],
                        statuses: &$statuses,
                        meaning: $meaning,
                        remedy: $remedy,
                    } }),*
                }
            }
        }
    };
}

codes! {
    BareLineFeed "bare_line_feed" [400] "Line feed alone":
        "A line of the head ends with a line feed alone. The connection is closed."
        => "End lines with CR and LF, as HTTP libraries do.";
    FoldedLine "folded_line" [400] "Folded line":
        "A line of the head begins with a blank. The connection is closed."
        => "Write each field on one line, as HTTP libraries do.";
    BadRequestLine "bad_request_line" [400] "Malformed request line":
        "The first line is not a method, a target and a version, with one space between them. The connection is closed."
        => "Use an HTTP library.";
    BadFieldName "bad_field_name" [400] "Malformed field name":
        "The name of a field is empty, contains a blank or is followed by one. The connection is closed."
        => "Use an HTTP library.";
    BadFieldValue "bad_field_value" [400] "Malformed field value":
        "The value of a field contains a control byte. The connection is closed."
        => "Use an HTTP library.";
    BadContentLength "bad_content_length" [400] "Malformed content length":
        "The content length is not a plain decimal number. The connection is closed."
        => "Send digits only.";
    TwoContentLengths "two_content_lengths" [400] "Two content lengths":
        "There is more than one content length. The connection is closed."
        => "Send one Content-Length.";
    BothLengthFields "both_length_fields" [400] "Two kinds of length":
        "There is both a content length and a transfer encoding. The connection is closed."
        => "Send one of the two.";
    BadTransferEncoding "bad_transfer_encoding" [400] "Unknown transfer encoding":
        "The transfer encoding is not chunked, once, in HTTP/1.1. The connection is closed."
        => "Send Content-Length, or Transfer-Encoding: chunked.";
    BadHostField "bad_host_field" [400] "Missing or malformed host":
        "A request in HTTP/1.1 has no Host or several, and the connection is closed; or the host has characters that no host has."
        => "Send one Host. Over the Unix socket any name will do.";
    BrokenBody "broken_body" [400] "Broken body":
        "The body is cut off or not properly chunked. The connection is closed."
        => "Use an HTTP library.";
    TokenInQuery "token_in_query" [400] "Token in the query":
        "The query has the key token. Queries are logged and shown in lists of processes."
        => "Send the token as Authorization: ClaudeMesh-Session TOKEN.";
    TwoAuthorizations "two_authorizations" [400] "Two authorizations":
        "There is more than one Authorization field."
        => "Send one.";
    InvalidQuery "invalid_query" [400] "Invalid parameter":
        "The query parameter, or the part of the path, that `field` names has a value that the route does not take."
        => "Correct it; `detail` has the rule.";
    MissingBody "missing_body" [400] "Missing body":
        "The request has no body, or an empty one."
        => "Send a JSON object in UTF-8.";
    InvalidJson "invalid_json" [400] "Invalid JSON":
        "The body is not JSON in UTF-8, or not the object that the route takes."
        => "Send a JSON object in UTF-8; `detail` has the position.";
    InvalidToken "invalid_token" [422, 400] "Invalid token":
        "The token is absent or not 64 hex digits, in the body (422) or in the path (400)."
        => "Make a token with `reaperd token`, and send it without JSON escapes.";
    NoSessionToken "no_session_token" [401] "No session":
        "The route needs a session, and none was presented."
        => "Present it as Authorization: ClaudeMesh-Session TOKEN, over the Unix socket.";
    MalformedSessionToken "malformed_session_token" [401] "Malformed session token":
        "The session that was presented is not 64 hex digits."
        => "Send the token as it was registered.";
    UnknownSession "unknown_session" [404, 401] "Unknown session":
        "No live session of this user has this token (401 if it was presented, 404 if it is in the path) or this id (404)."
        => "Register the session again, or look its id up in GET /v1/sessions.";
    SessionGone "session_gone" [401] "The session has ended":
        "The session of this token ended less than a minute ago. The body has the cause, source, evidence and exit."
        => "Register the session again, if its process still lives.";
    MissingBearer "missing_bearer" [401] "Missing bearer":
        "Over TCP a request needs the bearer of the daemon."
        => "Present the text of the file local-token beside the daemon's socket as Authorization: Bearer TEXT.";
    InvalidBearer "invalid_bearer" [401] "Wrong bearer":
        "The bearer is not the one of this daemon."
        => "Read the file local-token again, and check that it is this daemon's.";
    ForbiddenHost "forbidden_host" [403] "Host not allowed":
        "Over TCP the host is not the loopback interface. A page in a browser could be behind the request."
        => "Use localhost or a loopback address as the host.";
    ForbiddenOrigin "forbidden_origin" [403] "Origin not allowed":
        "The request has an Origin, as those of pages in browsers do. Only local programs are served."
        => "Send the request from a program, without Origin.";
    NotYourProcess "not_your_process" [403] "Process of another user":
        "The process belongs to another user than the caller."
        => "Register your own process, or register as root.";
    NotYourself "not_yourself" [403] "Another process":
        "The daemon runs with --register-policy self, and the process is not the caller."
        => "Register from the process itself.";
    ProcessHidden "process_hidden" [403] "Hidden process":
        "The daemon cannot read which user owns the process, because /proc hides it."
        => "Run the daemon as root.";
    ForeignPidNamespace "foreign_pid_namespace" [403] "Foreign pid namespace":
        "The daemon cannot translate the pids of the caller's pid namespace to its own."
        => "Run the daemon as root in the host's pid namespace, or run one in the caller's.";
    UserNotAllowed "user_not_allowed" [403] "User not served":
        "The daemon does not serve this user. The connection is closed."
        => "Start the daemon with --allow-uid or --socket-group.";
    PeerGone "peer_gone" [403] "The caller has ended":
        "The process that opened the connection has ended."
        => "Connect from the process that registers.";
    OtherUser "other_user" [403] "Sessions of another user":
        "The parameter uid names another user, which only root may do."
        => "Leave uid out.";
    NeedsToken "needs_token" [403] "The token is needed":
        "The daemon runs with --strict-replace, and removes a session by its id only with its token."
        => "Present the token of that session as Authorization: ClaudeMesh-Session TOKEN.";
    ReplaceNotAllowed "replace_not_allowed" [403] "Replacement not allowed":
        "Only the daemon's own user and root may replace the daemon."
        => "Run `reaperd daemon --replace` as one of them.";
    NotFound "not_found" [404] "Not found":
        "No route has this method and path. Paths match exactly, without a trailing slash."
        => "See GET /v1/openapi.json for the routes.";
    BodyTimeout "body_timeout" [408] "Body too slow":
        "The body took longer than 10 s. The connection is closed."
        => "Send the whole body at once.";
    TokenInUse "token_in_use" [409] "Token in use":
        "A live session of another process or user has this token."
        => "Make a new token with `reaperd token`.";
    AmbiguousSession "ambiguous_session" [409] "Ambiguous session id":
        "Several users have a session with this id, and root named none of them."
        => "Name one with ?uid=N.";
    NeedsOldToken "needs_old_token" [409] "The old token is needed":
        "The daemon runs with --strict-replace, and a live session has this id and another token."
        => "Register with the token of the live session, or remove that session first.";
    OtherFormat "other_format" [409] "Other format":
        "The successor cannot read what this daemon would hand over."
        => "Stop this daemon and start the other one.";
    ReplaceInProgress "replace_in_progress" [409] "Replacement in progress":
        "Another process is about to replace the daemon."
        => "Wait until it has.";
    Refused "refused" [409] "Refused":
        "The registry refused the registration for a reason that this version has no code for."
        => "See `detail`.";
    PayloadTooLarge "payload_too_large" [413] "Body too large":
        "The body is longer than 65,536 bytes. The connection is closed."
        => "Send less.";
    FieldRequired "field_required" [422] "Required field":
        "The field that `field` names is absent, null or empty."
        => "Send session_id, mesh, display_name and pid.";
    InvalidField "invalid_field" [422] "Invalid field":
        "The field that `field` names breaks the rule in `detail`."
        => "Correct the field.";
    DuplicateField "duplicate_field" [422] "Duplicate field":
        "The field that `field` names occurs twice. Programs disagree which one counts."
        => "Send it once.";
    InvalidPid "invalid_pid" [422] "Invalid pid":
        "The pid is not an integer in the range, or is that of the machine's init."
        => "Send the pid of the process in decimal digits.";
    ProcessGone "process_gone" [422] "The process has ended":
        "No process has this pid, or it has ended. Nothing was stored."
        => "Register a process that lives.";
    ThreadId "thread_id" [422] "The pid of a thread":
        "The pid is that of a thread, not of a process."
        => "Register the process that `detail` names.";
    KernelThread "kernel_thread" [422] "A thread of the kernel":
        "The pid is that of a thread of the kernel."
        => "Register a process.";
    OwnPid "own_pid" [422] "The daemon itself":
        "The pid is that of the daemon."
        => "Register another process.";
    TooManySessions "too_many_sessions" [429] "Too many sessions":
        "The daemon has as many sessions as --max-sessions allows."
        => "Wait, or raise the limit.";
    TooManySessionsOfUser "too_many_sessions_of_user" [429] "Too many sessions of this user":
        "The user has as many sessions as --max-sessions-per-uid allows, or its share of what users hold now."
        => "End sessions, wait, or raise the limit.";
    TooManyStreams "too_many_streams" [429] "Too many event streams":
        "The user's share of event streams is used up. `detail` has the share and the use."
        => "Close some, or wait.";
    TooManyRequests "too_many_requests" [429] "Too many requests at once":
        "The user's share of requests in progress is used up. `detail` has the share and the use."
        => "Send fewer at the same time, or wait.";
    TooManyConnections "too_many_connections" [429] "Too many connections":
        "The user's share of connections is used up, and none of them is idle. The connection is closed."
        => "Close some, or wait.";
    TooManyBytes "too_many_bytes" [429] "Too much memory":
        "The sessions of the daemon need as much memory as --max-bytes allows."
        => "Wait, send shorter text, or raise the limit.";
    TooManyBytesOfUser "too_many_bytes_of_user" [429] "Too much memory of this user":
        "The sessions of the user need as much memory as --max-bytes-per-uid allows, or its share of what users hold now."
        => "Remove sessions, send shorter text, or raise the limit.";
    HeadTooLarge "head_too_large" [431] "Head too large":
        "The head is longer than 16,384 bytes or has more than 64 fields. The connection is closed."
        => "Send fewer or shorter fields.";
    NotNow "not_now" [503] "Not now":
        "The daemon has too few descriptors or too little memory to check the process, still translates other pids, or is being replaced."
        => "Wait as long as Retry-After says, and send the request again.";
    NoBroker "no_broker" [503] "No broker":
        "The path is one of a claudemesh message broker. This daemon keeps sessions only."
        => "Run a message broker, or do without.";
}

impl Code {
    /// Returns the code as it is sent.
    pub(crate) const fn name(self) -> &'static str {
        self.page().code
    }

    /// Returns the status of most errors with this code.
    pub(crate) fn status(self) -> StatusCode {
        StatusCode::from_u16(self.page().status).expect("the list has statuses of HTTP")
    }

    /// Returns the code that is sent like this.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.name() == name)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// As the `error` of what the claudemesh daemon has no text for.
impl From<Code> for Cow<'static, str> {
    fn from(code: Code) -> Self {
        Self::Borrowed(code.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_one_name_and_a_whole_page() {
        for (at, code) in Code::ALL.iter().copied().enumerate() {
            assert_eq!(code as usize, at);
            assert_eq!(Code::named(code.name()), Some(code), "{code}");
            let page = code.page();
            assert!(
                code.name()
                    .bytes()
                    .all(|c| c == b'_' || c.is_ascii_lowercase()),
                "{code}"
            );
            assert!(
                page.statuses
                    .iter()
                    .all(|status| (400..600).contains(status)),
                "{code}"
            );
            assert!(
                !page.title.ends_with('.') && !page.title.is_empty(),
                "{code}"
            );
            assert!(
                page.meaning.ends_with('.') && page.remedy.ends_with('.'),
                "{code}"
            );
        }
        assert_eq!(Code::named("no_such_code"), None);
    }
}
