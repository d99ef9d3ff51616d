//! What the help of a command has below its options, and its manual page as sections: exit status, environment
//! and examples. Commands with more to say have theirs in their own files.

pub(super) const DAEMON: &str = "\
Exit status:
  0    Stopped by SIGTERM or SIGINT, or replaced by another daemon
  1    The daemon cannot start or go on
  2    Invalid command line
  8    Another process traces it and could read every secret
  77   --replace: the running daemon belongs to a user that is not trusted
  78   The configuration is invalid
  131  Ended at once, by SIGQUIT or a second SIGTERM or SIGINT

Environment:
  REAPERD_NAME     Each option as a variable, such as REAPERD_TTL for --ttl
  XDG_RUNTIME_DIR  Folder of the default socket, reaperd/reaperd.sock
  RUST_LOG         Which messages are logged, unless --log or REAPERD_LOG says so
  NOTIFY_SOCKET    Where readiness is reported, set by systemd

Examples:
  reaperd daemon
  reaperd daemon --socket-group mesh --ttl 1h --metrics-listen 9464
  reaperd daemon --replace";

pub(super) const RUN: &str = "\
Environment of COMMAND:
  REAPERD_SOCKET      Path of the daemon's socket
  REAPERD_SERVER_UID  User of the daemon, if --server-uid was given
  REAPERD_SESSION_ID  ID of the session
  REAPERD_TOKEN_FILE  Path of the file with the session's token

CLAUDEMESH_IPC_TOKEN_FILE has the same value as REAPERD_TOKEN_FILE. CLAUDEMESH_IPC_TOKEN is removed.

The token file contains 64 hexadecimal digits. It is created in $XDG_RUNTIME_DIR/reaperd/tokens with \
mode 0600 and removed when the session ends.

Exit status:
  The exit status of COMMAND. If COMMAND does not run: 126 if it cannot be executed, 127 if it was \
not found, else a code listed in `reaperd --help`.

Environment:
  REAPERD_SOCKET      Path of the daemon's socket
  REAPERD_SERVER_UID  User whose daemon is trusted as well

Examples:
  reaperd run -- make test
  reaperd run --name api --mesh dev -- ./server --port 8080";

pub(super) const STATUS: &str = "\
Output:
  One line for each part: its name and what it is
  With --json: schema, socket, version, health, sources, limits (each as the route of the HTTP interface has \
it), and findings, as those of `reaperd doctor --json`.

Exit status:
  0   A daemon is running, degraded or not
  3   No daemon is listening
  77  The daemon does not serve this user, or belongs to a user that is not trusted

Environment:
  REAPERD_SOCKET      Path of the daemon's socket
  REAPERD_SERVER_UID  User whose daemon is trusted as well

Examples:
  reaperd status
  reaperd status --json | jq .health.sources";

pub(super) const RM: &str = "\
Exit status:
  0  The session was removed
  1  Several users have a session with this ID, or the daemon wants its token
  3  No daemon is listening
  4  No such session
  5  The session belongs to another user

Environment:
  REAPERD_SOCKET      Path of the daemon's socket
  REAPERD_SERVER_UID  User whose daemon is trusted as well

Examples:
  reaperd rm build-7
  reaperd rm --token-file \"$REAPERD_TOKEN_FILE\"";

pub(super) const METRICS: &str = "\
Output:
  Prometheus's text format, version 0.0.4, which has no tokens, sessions or pids

Exit status:
  0  Done
  1  The file cannot be written
  3  No daemon is listening; the file of --write has `reaperd_up 0`

Environment:
  REAPERD_SOCKET      Path of the daemon's socket
  REAPERD_SERVER_UID  User whose daemon is trusted as well

Examples:
  reaperd metrics | grep reaperd_removals_total
  reaperd metrics --write /var/lib/prometheus/node-exporter/reaperd.prom";

pub(super) const DOCTOR: &str = "\
Output:
  One line for each check: ok, skip, warn or fail, what is checked, and what was found; below it a remedy
  With --json: schema, version, system, findings (verdict, subject, text, remedy and scope, which is daemon or \
probe), and result.

Exit status:
  0  No check failed; without --strict also if one gave a warning
  1  A check failed
  6  --strict: a check gave a warning or failed

Environment:
  REAPERD_SOCKET      Path of the daemon's socket
  REAPERD_SERVER_UID  User whose daemon is trusted as well

Examples:
  reaperd doctor
  reaperd doctor --strict --json";

pub(super) const DEMO: &str = "\
Output:
  One line for each session, with how its process ended and how long the removal took
  With --json: schema, ok, sources, test_processes, controls, untouched, skipped, problems and took_ms.
  On a terminal, a line on standard error says what is waited for, unless --color never or --json is given.

Exit status:
  0  Each session was removed once, in time and with the correct status, and no other
  1  A step failed, or the demo was interrupted

Environment:
  TMPDIR    Folder of the temporary directory [default: /tmp]
  NO_COLOR  No colors and no progress if it is not empty

Examples:
  reaperd demo
  reaperd demo --sources sweep";

pub(super) const SELFTEST: &str = "\
Output:
  One line for each set of sources, and one for each case that failed or was skipped
  With --json: schema, version, system, source_sets and result.
  On a terminal, a line on standard error says which case runs, unless --color never or --json is given.

Exit status:
  0  Each case passed or was skipped
  1  A case failed, or a source of --sources does not work here

Environment:
  NO_COLOR  No colors and no progress if it is not empty

Examples:
  reaperd selftest
  reaperd selftest --sources pidfd,sweep --json";

pub(super) const CONFIG: &str = "\
Exit status:
  0   Done; `check`: the configuration is valid
  78  The configuration is invalid

Environment:
  REAPERD_NAME     Each option as a variable, such as REAPERD_TTL for --ttl
  XDG_CONFIG_HOME  Folder of the user's file, reaperd/reaperd.toml [default: ~/.config]

Examples:
  reaperd config default > ~/.config/reaperd/reaperd.toml
  reaperd config check /etc/reaperd/reaperd.toml
  reaperd config show --origin";

pub(super) const TOKEN: &str = "\
Output:
  64 hexadecimal digits: 32 bytes of the system's random source. Nothing is stored, and no daemon is needed.

Exit status:
  0  Done
  1  The system has no random bytes

Examples:
  (umask 077; reaperd token > build-7.token)";

pub(super) const COMPLETIONS: &str = "\
Exit status:
  0  Done
  2  Unknown shell

Examples:
  reaperd completions bash > ~/.local/share/bash-completion/completions/reaperd
  reaperd completions zsh > ~/.zfunc/_reaperd
  reaperd completions fish > ~/.config/fish/completions/reaperd.fish";
