//! The exit codes. They are a public interface, like flags and JSON fields.

/// Why a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// The command succeeded.
    Success = 0,
    /// The command failed for a reason without a separate code.
    Failure = 1,
    /// The command line is invalid.
    Usage = 2,
    /// No daemon is running. Distinct from a daemon without sessions.
    NoDaemon = 3,
    /// The session does not exist.
    NoSession = 4,
    /// Permission denied.
    NotPermitted = 5,
    /// `doctor --strict` found a problem.
    Degraded = 6,
    /// The response is not one of this daemon's protocol.
    Protocol = 7,
    /// `daemon`: another process traces it and could read every secret.
    Traced = 8,
    /// `run`: the command was found but cannot be executed. The same code as in shells.
    CannotExecute = 126,
    /// `run`: the command was not found. The same code as in shells.
    CommandNotFound = 127,
}

impl ExitCode {
    /// All codes, in ascending order.
    pub const ALL: [Self; 11] = [
        Self::Success,
        Self::Failure,
        Self::Usage,
        Self::NoDaemon,
        Self::NoSession,
        Self::NotPermitted,
        Self::Degraded,
        Self::Protocol,
        Self::Traced,
        Self::CannotExecute,
        Self::CommandNotFound,
    ];

    /// The number that the process exits with.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The description in `reaperd --help`.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::Failure => "The command failed",
            Self::Usage => "Invalid command line",
            Self::NoDaemon => "No daemon is listening on the socket",
            Self::NoSession => "No such session",
            Self::NotPermitted => "Permission denied",
            Self::Degraded => "doctor --strict: a check gave a warning or failed",
            Self::Protocol => "The daemon sent an unexpected response",
            Self::Traced => "daemon: another process traces it",
            Self::CannotExecute => "run: the command cannot be executed",
            Self::CommandNotFound => "run: the command was not found",
        }
    }
}
