//! How a command fails: an exit code, a message and a remedy.

use std::io;

use super::exit_code::ExitCode;
use super::output::{escape, print_message};
use crate::client::ClientError;
use crate::daemon::config::fault::Faults;
#[cfg(target_os = "linux")]
use crate::daemon::private_memory::Traced;
use crate::daemon::socket_path::{Surroundings, WrongFolder};

/// The code of the daemon's response to a user that it does not serve.
const USER_NOT_ALLOWED: &str = "user_not_allowed";

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

    /// Adds what is wrong with the folder of the default paths, if the failure is about a file in it.
    pub(super) fn explained_by(mut self, surroundings: &Surroundings) -> Self {
        // The system names the first folder that does not exist.
        let is_named = |wrong: &WrongFolder| {
            let folder = wrong.folder();
            let mut named = folder
                .ancestors()
                .take_while(|it| *it == folder || !it.exists());
            named.any(|it| self.message.contains(&*it.to_string_lossy()))
        };
        if let Some(wrong) = WrongFolder::of(surroundings).filter(is_named) {
            self.message = format!("{}; {wrong}", self.message);
            self.remedy = wrong.remedy();
        }
        self
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
                "reaperd daemon   (or use --socket PATH for a daemon on another socket)".to_owned(),
            ),
            ClientError::NotASocket { .. } => (
                ExitCode::NoDaemon,
                "use the --socket of a daemon, or none for the default one".to_owned(),
            ),
            ClientError::PathTooLong { .. } => (
                ExitCode::Failure,
                "use a shorter --socket path, or a link to its folder".to_owned(),
            ),
            ClientError::UntrustedServer { owner, .. } => (
                ExitCode::NotAllowed,
                format!("use another --socket, or --server-uid {owner} if that user is trusted"),
            ),
            ClientError::UntrustedFolder { .. } => (
                ExitCode::NotAllowed,
                "set XDG_RUNTIME_DIR to a folder of this user, or use --socket PATH".to_owned(),
            ),
            ClientError::Problem { code, .. } if code == USER_NOT_ALLOWED => not_served(),
            ClientError::Forbidden { .. } => not_served(),
            ClientError::Problem {
                status: 401 | 403, ..
            } => (
                ExitCode::NotPermitted,
                "reaperd doctor   (as the user that runs the daemon)".to_owned(),
            ),
            ClientError::Protocol { .. } => (
                ExitCode::Protocol,
                "reaperd doctor   (the daemon may have another version)".to_owned(),
            ),
            _ => (ExitCode::Failure, "reaperd doctor".to_owned()),
        };
        // The text of a problem comes from the daemon and goes to a terminal.
        Self {
            code,
            message: escape(&error.to_string()).into_owned(),
            remedy,
        }
    }
}

/// The daemon does not serve this user. Only the user who runs it can change that.
fn not_served() -> (ExitCode, String) {
    let uid = rustix::process::geteuid().as_raw();
    let remedy = format!(
        "add --allow-uid {uid} to the daemon, or --socket-group GROUP with a group of this user; or \
         run a daemon of this user"
    );
    (ExitCode::NotAllowed, remedy)
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

impl From<Faults> for Failure {
    /// One line for each fault.
    fn from(Faults(faults): Faults) -> Self {
        let lines = faults.iter().map(|fault| format!("\n  {fault}"));
        let message = format!("the configuration is invalid{}", lines.collect::<String>());
        Self {
            code: ExitCode::Config,
            ..Self::new(
                message,
                "correct it and run `reaperd config check`; `reaperd config default` has all keys",
            )
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(error.to_string(), "reaperd doctor")
    }
}
