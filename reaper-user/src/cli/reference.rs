//! What the manual lists besides commands and options: environment variables, signals and files. Exit codes
//! are in `exit_code.rs`. These are public, like flags.

/// The environment variables that `reaperd` reads or sets, and their meanings.
pub(super) const VARIABLES: [(&str, &str); 15] = [
    (
        "REAPERD_SOCKET",
        "Path of the daemon's socket, for the daemon and for clients. The option --socket precedes it. \
         Set for the command of `reaperd run`.",
    ),
    (
        "REAPERD_SERVER_UID",
        "User whose daemon clients also trust, as with --server-uid. Set for the command of `reaperd \
         run` if it was given.",
    ),
    (
        "REAPERD_SESSION_ID",
        "ID of the session. Set for the command of `reaperd run`.",
    ),
    (
        "REAPERD_TOKEN_FILE",
        "Path of the file with the session's token. Set for the command of `reaperd run`.",
    ),
    (
        "CLAUDEMESH_IPC_TOKEN_FILE",
        "The same as REAPERD_TOKEN_FILE, for existing clients.",
    ),
    (
        "CLAUDEMESH_IPC_TOKEN",
        "Removed from the environment of the command of `reaperd run`: it would be the token of another \
         session.",
    ),
    (
        "XDG_RUNTIME_DIR",
        "Folder of the user's run-time files. The default socket is reaperd/reaperd.sock in it, the token \
         files are in reaperd/tokens. A value that is not absolute is ignored.",
    ),
    (
        "TMPDIR",
        "Folder of reaperd-UID/reaperd.sock where XDG_RUNTIME_DIR is not set and the user is not root \
         [default: /tmp].",
    ),
    (
        "RUST_LOG",
        "Which messages are logged: error, warn, info, debug or trace, or a list of module=level \
         [default: info for the daemon, else warn]. In the daemon, --log and REAPERD_LOG precede it.",
    ),
    (
        "RUST_LOG_STYLE",
        "Whether the log has colors: auto, always or never.",
    ),
    (
        "NO_COLOR",
        "No colors if it is not empty. --color precedes it.",
    ),
    (
        "CLICOLOR_FORCE",
        "Colors, in pipes and files too, if it is set and not 0. NO_COLOR and --color precede it.",
    ),
    (
        "CLICOLOR",
        "No colors if it is 0. The variables above precede it.",
    ),
    (
        "CLAUDEMESH_DAEMON_DIR",
        "Folder of the daemon's files with --profile claudemesh; by default .claudemesh/daemon in HOME.",
    ),
    (
        "NOTIFY_SOCKET",
        "Where the daemon reports to systemd that it is ready and that it stops.",
    ),
];

/// The signals that the daemon handles, in the monitor and in the worker.
pub(super) const SIGNALS: [(&str, &str); 7] = [
    (
        "SIGTERM, SIGINT",
        "Stop: subscribers get the event `shutdown`, the socket is removed, and the exit status is 0. A \
         second one ends the daemon at once. A SIGINT that was ignored at the start stays ignored.",
    ),
    ("SIGQUIT", "End at once, with exit status 131."),
    (
        "SIGHUP",
        "Read the configuration again. Does not end the daemon.",
    ),
    ("SIGUSR1", "Write the state to the log."),
    ("SIGUSR2", "Ignored, with a line in the log."),
    (
        "SIGKILL",
        "The worker ends with the monitor. The next daemon replaces the socket.",
    ),
    (
        "SIGCHLD",
        "Used by the monitor to notice the end of its worker.",
    ),
];

/// The files and folders.
pub(super) const FILES: [(&str, &str); 9] = [
    (
        "/etc/reaperd/reaperd.toml",
        "Configuration of the system's daemon, see reaperd.toml(5).",
    ),
    (
        "$XDG_CONFIG_HOME/reaperd/reaperd.toml",
        "Configuration of a user's daemon.",
    ),
    (
        "$XDG_RUNTIME_DIR/reaperd/reaperd.sock",
        "Socket of a user's daemon.",
    ),
    (
        "/run/reaperd/reaperd.sock",
        "Socket of the system's daemon, which clients use if no daemon of the user listens.",
    ),
    (
        "reaperd.sock.lock",
        "Beside each socket, with the pid of the daemon that holds it.",
    ),
    (
        "local-token",
        "Beside the socket of a daemon with --tcp: what its clients present over TCP, mode 0600.",
    ),
    (
        "~/.claudemesh/daemon",
        "The files of a daemon with --profile claudemesh: daemon.sock, daemon.pid and local-token.",
    ),
    (
        "$XDG_RUNTIME_DIR/reaperd/tokens",
        "Token files of the sessions of `reaperd run`, mode 0600.",
    ),
    (
        "/usr/share/doc/reaperd",
        "The HTTP interface and further documentation.",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::daemon::config::options::{OPTIONS, OptionSpec};

    /// Returns the names between quotes that look like variables of this project.
    fn names_in(folder: &Path, names: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                names_in(&path, names);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let is_name = |it: &&str| {
                    it.starts_with("REAPERD_")
                        || it.starts_with("CLAUDEMESH_")
                        || ["XDG_RUNTIME_DIR", "TMPDIR", "NOTIFY_SOCKET"].contains(it)
                };
                let quoted = text.split('"').filter(is_name);
                let whole = |it: &&str| it.chars().all(|c| c.is_ascii_uppercase() || c == '_');
                names.extend(
                    quoted
                        .filter(whole)
                        .filter(|it| !it.ends_with('_'))
                        .map(str::to_owned),
                );
            }
        }
    }

    #[test]
    fn each_variable_of_the_code_is_in_the_manual() {
        let mut in_code = BTreeSet::new();
        names_in(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut in_code,
        );
        assert!(in_code.len() >= 6, "{in_code:?}");
        let listed = VARIABLES.map(|(name, _)| name.to_owned()).into_iter();
        let of_options = OPTIONS.iter().map(OptionSpec::variable);
        let listed: BTreeSet<_> = listed.chain(of_options).collect();
        let missing: Vec<_> = in_code.difference(&listed).collect();
        assert!(missing.is_empty(), "not in VARIABLES: {missing:?}");
    }
}
