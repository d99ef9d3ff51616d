//! How a command fails: an exit code, what happened, and what to try.

use std::io;

use super::exit_code;
use super::output::{escape, talk};
use crate::client::ClientError;

/// Why a command did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: u8,
    /// A sentence without a full stop; empty where there is nobody left to tell.
    pub(super) message: String,
    pub(super) remedy: String,
}

impl Failure {
    pub(super) fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            code: exit_code::FAILED,
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    /// Of writing the result.
    pub(super) fn output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // Whoever read it has seen enough, as in `reaperd ls | head -1`.
            return Self {
                code: exit_code::DONE,
                message: String::new(),
                remedy: String::new(),
            };
        }
        Self::new(
            format!("cannot write the result: {error}"),
            "another place for the output",
        )
    }

    /// Says so on standard error.
    pub(super) fn tell(&self) {
        if !self.message.is_empty() {
            talk(&format!(
                "reaperd: {}\n  try: {}",
                self.message, self.remedy
            ));
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let (code, remedy) = match &error {
            ClientError::NoDaemon { .. } => (
                exit_code::NO_DAEMON,
                "reaperd daemon   (or name its socket: --socket PATH)",
            ),
            ClientError::Forbidden { .. }
            | ClientError::Problem {
                status: 401 | 403, ..
            } => (
                exit_code::NOT_ALLOWED,
                "reaperd doctor   (as the user who runs the daemon)",
            ),
            ClientError::Protocol { .. } => (
                exit_code::PROTOCOL,
                "reaperd doctor   (are client and daemon of one version?)",
            ),
            _ => (exit_code::FAILED, "reaperd doctor"),
        };
        // A problem's text comes from elsewhere, and this is somebody's terminal.
        Self {
            code,
            message: escape(&error.to_string()).into_owned(),
            remedy: remedy.to_owned(),
        }
    }
}

/// Of what the system refuses to ourselves.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(error.to_string(), "reaperd doctor")
    }
}
