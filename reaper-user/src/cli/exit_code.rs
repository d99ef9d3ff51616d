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
    /// `watch`: the daemon stopped in an orderly way.
    DaemonStopped = 9,
    /// This user may not connect to the daemon, or another user's program listens on the socket.
    /// `EX_NOPERM` of sysexits(3).
    NotAllowed = 77,
    /// The configuration is invalid. `EX_CONFIG` of sysexits(3).
    Config = 78,
    /// `wait`: the time limit was reached. As in timeout(1).
    TimedOut = 124,
    /// `wait`: the end was seen, but not the exit status.
    UnknownStatus = 125,
    /// `run`: the command was found but cannot be executed. The same code as in shells.
    CannotExecute = 126,
    /// `run`: the command was not found. The same code as in shells.
    CommandNotFound = 127,
    /// `daemon`: ended at once, by SIGQUIT or a second SIGTERM or SIGINT; connections were cut off. What
    /// shells report for SIGQUIT.
    AtOnce = 131,
}

impl ExitCode {
    /// All codes in ascending order, with their descriptions in `reaperd --help`.
    pub const ALL: [(Self, &str); 17] = [
        (Self::Success, "Success"),
        (Self::Failure, "The command failed"),
        (Self::Usage, "Invalid command line"),
        (Self::NoDaemon, "No daemon is listening on the socket"),
        (Self::NoSession, "No such session or process"),
        (Self::NotPermitted, "Permission denied"),
        (
            Self::Degraded,
            "doctor --strict: a check gave a warning or failed",
        ),
        (Self::Protocol, "The daemon sent an unexpected response"),
        (Self::Traced, "daemon: another process traces it"),
        (
            Self::DaemonStopped,
            "watch: the daemon stopped in an orderly way",
        ),
        (
            Self::NotAllowed,
            "The daemon does not serve this user, or belongs to a user that is not trusted",
        ),
        (Self::Config, "The configuration is invalid"),
        (
            Self::TimedOut,
            "wait: it has not ended within the time of --timeout",
        ),
        (
            Self::UnknownStatus,
            "wait: it has ended, and its exit status is not known",
        ),
        (Self::CannotExecute, "run: the command cannot be executed"),
        (Self::CommandNotFound, "run: the command was not found"),
        (
            Self::AtOnce,
            "daemon: ended at once, by SIGQUIT or a second SIGTERM or SIGINT",
        ),
    ];

    /// The number that the process exits with.
    pub const fn number(self) -> u8 {
        self as u8
    }
}
