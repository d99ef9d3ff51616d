//! The client's types for the daemon's responses. Unknown fields are ignored, so that a newer daemon
//! may add some. The daemon's types are in `daemon/api/wire.rs`.

use reaper_registry::ExitStatus;
use serde::Deserialize;
use serde_json::Value;

use super::ClientError;

/// A session in lists and events.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// The session id.
    pub session_id: String,
    /// The mesh that it belongs to.
    #[serde(default)]
    pub mesh: String,
    /// The name to show.
    #[serde(default)]
    pub display_name: String,
    /// The pid of its process, in the pid namespace of the daemon.
    pub pid: u32,
    /// Its role.
    pub role: Option<String>,
    /// When it was registered: milliseconds since 1970.
    pub registered_at: Option<u64>,
    /// How its process is identified: `pidfd`, `stat`, `pidfd_inode`, `start_time` or `pid`.
    pub identity: Option<String>,
    /// The first eight hex digits of its token.
    #[serde(rename = "token_prefix")]
    pub token_prefix: Option<String>,
}

/// The response to `GET /v1/sessions`.
#[derive(Clone, Debug, Deserialize)]
pub struct SessionList {
    /// The live sessions that the caller may see, in order of registration.
    pub sessions: Vec<Session>,
}

/// One page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct Page<T> {
    pub(super) sessions: Vec<T>,
    /// Where the next page begins; absent on the last one.
    pub(super) next: Option<String>,
}

/// More sessions than any daemon keeps, so that a list comes to an end.
const MAX_LISTED: usize = 1 << 20;
/// The longest position in a list.
const MAX_POSITION: usize = 64;

impl<T> Page<T> {
    /// Checks that the list goes on to its end: this page has at most so many sessions, and at least one if
    /// there is a next page. `listed` is the number of those before it.
    pub(super) fn check(&self, listed: usize, longest: usize) -> Result<(), ClientError> {
        let is_endless = match &self.next {
            Some(next) => self.sessions.is_empty() || next.len() > MAX_POSITION,
            None => false,
        };
        let count = self.sessions.len();
        if is_endless || count > longest || listed + count > MAX_LISTED {
            let detail = format!(
                "the daemon sent a list that does not end: {count} sessions after {listed}"
            );
            return Err(ClientError::Protocol { detail });
        }
        Ok(())
    }
}

/// The response to a registration.
#[derive(Clone, Debug, Deserialize)]
pub struct Registered {
    /// How the process is identified, as in [`Session::identity`].
    pub identity: Option<String>,
    /// The sources that will report its exit.
    #[serde(default)]
    pub sources: Vec<String>,
    /// The fields of the registration that the daemon does not know.
    #[serde(default)]
    pub ignored: Vec<String>,
}

/// The data of a `session_deregistered` event.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Deregistered {
    /// The session that was removed.
    pub session: Session,
    /// Why: `exited`, `pid_reused`, `expired`, `replaced` or `requested`.
    pub cause: String,
    /// The source that reported the exit first.
    pub source: Option<String>,
    /// What proved that the process had ended.
    pub evidence: Option<String>,
    /// How it ended, where that is known.
    pub exit: Option<ExitSeen>,
    /// Microseconds from the exit to its detection, where a source gave the time of the exit.
    pub detection_us: Option<u64>,
}

/// How a process ended, as far as a source reported it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ExitSeen {
    /// The exit code.
    pub code: Option<u8>,
    /// The number of the signal that ended it.
    pub signal: Option<u8>,
    /// The source that reported it; empty if none is named.
    #[serde(default)]
    pub from: String,
}

impl ExitSeen {
    /// Converts it to a status. Returns `None` if it has neither a code nor a signal.
    pub fn status(&self) -> Option<ExitStatus> {
        let core = false;
        let killed = self
            .signal
            .map(|signal| ExitStatus::Signal { signal, core });
        killed.or(self.code.map(ExitStatus::Code))
    }
}

/// The response to `GET /v1/sources`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SourcesReport {
    /// `ok` or `degraded`.
    pub status: String,
    /// The longest time until an exit is noticed, in milliseconds.
    pub worst_case_delay_ms: Option<u64>,
    /// Every source.
    pub sources: Vec<SourceReport>,
}

/// One source of exit events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SourceReport {
    /// The name of the source.
    pub source: String,
    /// `up`, `degraded`, `down`, `starting` or `off`.
    pub state: String,
    /// Why it is not up; empty when it is.
    pub reason: String,
    /// What would fix it; empty when nothing needs fixing.
    pub remedy: String,
    /// How it works.
    pub detail: String,
    /// How many events it is known to have lost.
    pub lost: u64,
    /// How many messages to it did not come from the kernel and were ignored.
    pub forged: u64,
}

impl SourceReport {
    /// Whether the source has not reported its state yet.
    pub fn is_starting(&self) -> bool {
        self.state == "starting"
    }

    /// Whether the source delivers events, possibly degraded.
    pub fn works(&self) -> bool {
        matches!(self.state.as_str(), "up" | "degraded")
    }
}

/// The response to `GET /v1/version`.
#[derive(Clone, Debug, Deserialize)]
pub struct Version {
    /// The version of the daemon.
    pub daemon_version: String,
    /// The version of the protocol.
    pub ipc_api: String,
}

/// Parses the body of an error response. The status is kept even if the body is invalid.
pub(super) fn problem(status: u16, body: &[u8]) -> ClientError {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |field: &str| body.get(field).and_then(Value::as_str).map(str::to_owned);
    ClientError::Problem {
        status,
        code: text("code").unwrap_or_default(),
        detail: text("detail")
            .or_else(|| text("error"))
            .unwrap_or_else(|| format!("the daemon responded with status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_ignored_and_optional_fields_may_be_absent() {
        let session: Session = serde_json::from_str(
            r#"{"sessionId":"s","mesh":"m","displayName":"d","pid":7,"token_prefix":"3fa9c1d2",
                "registeredAt":5,"newThing":{"a":1}}"#,
        )
        .unwrap();
        assert_eq!((session.pid, session.identity), (7, None));
        let event: Deregistered = serde_json::from_str(
            r#"{"ts":"2026-01-01T00:00:00Z","seq":4,"session":{"sessionId":"s","pid":7},
                "cause":"expired","source":null,"evidence":null,"exit":null,"detection_us":null}"#,
        )
        .unwrap();
        assert_eq!((event.cause.as_str(), event.source), ("expired", None));
    }

    #[test]
    fn a_problem_is_parsed_in_both_formats_and_from_an_invalid_body() {
        let read = |body: &str| problem(418, body.as_bytes()).to_string();
        assert_eq!(read(r#"{"detail":"d","error":"e","code":"c"}"#), "d");
        assert_eq!(read(r#"{"error":"e"}"#), "e");
        assert_eq!(read("<html>"), "the daemon responded with status 418");
    }
}
