//! How a command fails: an exit code, a message and a remedy.

use std::io;

use super::exit_code::ExitCode;
use super::output::{escape, print_message};
use crate::client::ClientError;
#[cfg(target_os = "linux")]
use crate::daemon::private_memory::Traced;
#[cfg(target_os = "linux")]
use crate::daemon::sandbox::NoSuchUser;

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: ExitCode,
    /// A sentence without a full stop. Empty if nothing is to be printed.
    pub(super) message: String,
    /// A command or an instruction, for the `try:` line.
    pub(super) remedy: String,
}

impl Failure {
    /// Creates a failure with exit code 1.
    pub(super) fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            code: ExitCode::Failure,
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    /// Converts an error from writing the result.
    pub(super) fn output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // The reader has closed the pipe, as in `reaperd ls | head -1`.
            return Self {
                code: ExitCode::Success,
                message: String::new(),
                remedy: String::new(),
            };
        }
        Self::new(
            format!("cannot write to standard output: {error}"),
            "redirect the output to another file",
        )
    }

    /// Prints the failure on standard error.
    pub(super) fn print(&self) {
        if !self.message.is_empty() {
            print_message(&format!(
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
                ExitCode::NoDaemon,
                "reaperd daemon   (or use --socket PATH for a daemon on another socket)",
            ),
            ClientError::Forbidden { .. }
            | ClientError::Problem {
                status: 401 | 403, ..
            } => (
                ExitCode::NotPermitted,
                "reaperd doctor   (as the user that runs the daemon)",
            ),
            ClientError::Protocol { .. } => (
                ExitCode::Protocol,
                "reaperd doctor   (the daemon may have another version)",
            ),
            _ => (ExitCode::Failure, "reaperd doctor"),
        };
        // The text of a problem comes from the daemon and goes to a terminal.
        Self {
            code,
            message: escape(&error.to_string()).into_owned(),
            remedy: remedy.to_owned(),
        }
    }
}

#[cfg(target_os = "linux")]
impl From<Traced> for Failure {
    fn from(traced: Traced) -> Self {
        Self {
            code: ExitCode::Traced,
            ..Self::new(traced.to_string(), Traced::REMEDY)
        }
    }
}

#[cfg(target_os = "linux")]
impl From<NoSuchUser> for Failure {
    fn from(error: NoSuchUser) -> Self {
        Self::new(format!("--user: {error}"), "use a user's name or number")
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(error.to_string(), "reaperd doctor")
    }
}
