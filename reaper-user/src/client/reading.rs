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
    pub session_id: String,
    #[serde(default)]
    pub mesh: String,
    #[serde(default)]
    pub display_name: String,
    pub pid: u32,
    pub role: Option<String>,
    pub registered_at: Option<u64>,
    pub identity: Option<String>,
    #[serde(rename = "token_prefix")]
    pub token_prefix: Option<String>,
}

/// The response to `GET /v1/sessions`.
#[derive(Clone, Debug, Deserialize)]
pub struct SessionList {
    pub sessions: Vec<Session>,
}

/// The response to a registration.
#[derive(Clone, Debug, Deserialize)]
pub struct Registered {
    pub identity: Option<String>,
    #[serde(default)]
    pub sources: Vec<String>,
}

/// The data of a `session_deregistered` event.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Deregistered {
    pub session: Session,
    pub cause: String,
    pub source: Option<String>,
    pub evidence: Option<String>,
    pub exit: Option<ExitSeen>,
    pub detection_us: Option<u64>,
}

/// How a process ended, as far as a source reported it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ExitSeen {
    pub code: Option<u8>,
    pub signal: Option<u8>,
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
    pub status: String,
    pub worst_case_delay_ms: Option<u64>,
    pub sources: Vec<SourceReport>,
}

/// One source of exit events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SourceReport {
    pub source: String,
    pub state: String,
    pub reason: String,
    pub remedy: String,
    pub detail: String,
    pub lost: u64,
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
    pub daemon_version: String,
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
