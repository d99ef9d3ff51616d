//! The table of options. A flag, a key of the configuration file, an environment variable, their help
//! and the documentation come from one entry: `--sweep-interval`, `sweep-interval` and
//! `REAPERD_SWEEP_INTERVAL`.

#[cfg(test)]
mod tests;

mod spec;

use std::path::PathBuf;

use super::{DaemonOptions, values};
use crate::daemon::log::ParseError;
use crate::daemon::profile::Profile;

pub(crate) use spec::{Kind, LOG, OptionSpec};

/// Returns the option with this name.
pub(crate) fn named(name: &str) -> Option<&'static OptionSpec> {
    OPTIONS.iter().find(|spec| spec.name == name)
}

/// Parses `false` and `true`.
fn switch(text: &str) -> Result<bool, String> {
    text.parse()
        .map_err(|_other| "is neither true nor false".to_owned())
}

/// Parses a list with commas; an empty text is an empty list.
fn list<T>(text: &str, parse: fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let parsed = text.split(',').map(|part| {
        let part = part.trim();
        parse(part).map_err(|error| format!("{part:?}: {error}"))
    });
    parsed.collect()
}

/// Parses a value, or nothing if the text is this word.
fn unless<T>(
    word: &str,
    text: &str,
    parse: fn(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    if text == word {
        return Ok(None);
    }
    parse(text).map(Some)
}

const TIME: &str = "a time of at least 10ms, such as 5s, 1m 30s or 24h";
const TIME_OR_NEVER: &str = "a time of at least 10ms, such as 90s or 24h, or never";
const COUNT: &str = "a whole number of at least 1";
const COUNT_OR_AUTO: &str = "a whole number of at least 1, or auto";
const SIZE: &str = "a number of bytes, or of KiB, MiB or GiB, such as 64MiB";
const SOURCE_NAMES: &str = "netlink, ebpf, pidfd or sweep, or several of them";

/// All options, in the order of help and documentation.
pub(crate) static OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "socket",
        kind: Kind::Text,
        value: "PATH",
        default: "",
        expects: "a path",
        help: "Path of the socket; empty: the default place",
        details: "",
        reload: false,
        set: |options, text| {
            if !text.is_empty() {
                options.socket = PathBuf::from(text);
            }
            Ok(())
        },
    },
    OptionSpec {
        name: "sources",
        kind: Kind::List,
        value: "LIST",
        default: "auto",
        expects: "auto, or a list of netlink, ebpf, pidfd and sweep",
        help: "Exit sources to use: auto, or a comma-separated list of netlink, ebpf, pidfd, sweep",
        details: "",
        reload: false,
        set: |options, text| values::sources(text).map(|sources| options.sources = sources),
    },
    OptionSpec {
        name: "require",
        kind: Kind::List,
        value: "SOURCE",
        default: "",
        expects: SOURCE_NAMES,
        help: "Refuse to start unless this source works; may be a comma-separated list",
        details: "",
        reload: false,
        set: |options, text| list(text, values::source).map(|sources| options.require = sources),
    },
    OptionSpec {
        name: "sweep-interval",
        kind: Kind::Text,
        value: "TIME",
        default: "5s",
        expects: TIME,
        help: "How often to check every registered process, in case other sources missed its exit",
        details: "",
        reload: true,
        set: |options, text| values::duration(text).map(|time| options.sweep_interval = time),
    },
    OptionSpec {
        name: "ttl",
        kind: Kind::Text,
        value: "TIME",
        default: "24h",
        expects: TIME_OR_NEVER,
        help: "Maximum age of sessions registered without a ttl; never: until the process exits",
        details: "",
        reload: true,
        set: |options, text| unless("never", text, values::duration).map(|ttl| options.ttl = ttl),
    },
    OptionSpec {
        name: "max-ttl",
        kind: Kind::Text,
        value: "TIME",
        default: "never",
        expects: TIME_OR_NEVER,
        help: "Maximum age of any session, even if a longer ttl was requested; never: no limit",
        details: "",
        reload: true,
        set: |options, text| {
            unless("never", text, values::duration).map(|ttl| options.max_ttl = ttl)
        },
    },
    OptionSpec {
        name: "max-sessions",
        kind: Kind::Number,
        value: "N",
        default: "100000",
        expects: COUNT,
        help: "Maximum number of sessions",
        details: "",
        reload: true,
        set: |options, text| values::count(text).map(|count| options.max_sessions = count),
    },
    OptionSpec {
        name: "max-sessions-per-uid",
        kind: Kind::Number,
        value: "N",
        default: "10000",
        expects: COUNT,
        help: "Maximum number of sessions per user",
        details: "",
        reload: true,
        set: |options, text| values::count(text).map(|count| options.max_sessions_per_uid = count),
    },
    OptionSpec {
        name: "max-bytes",
        kind: Kind::Number,
        value: "SIZE",
        default: "512MiB",
        expects: SIZE,
        help: "Maximum size of all sessions in memory, such as 512MiB",
        details: "",
        reload: true,
        set: |options, text| values::size(text).map(|size| options.max_bytes = size),
    },
    OptionSpec {
        name: "max-bytes-per-uid",
        kind: Kind::Number,
        value: "SIZE",
        default: "64MiB",
        expects: SIZE,
        help: "Maximum size of the sessions of one user in memory",
        details: "",
        reload: true,
        set: |options, text| values::size(text).map(|size| options.max_bytes_per_uid = size),
    },
    OptionSpec {
        name: "ended-per-uid",
        kind: Kind::Number,
        value: "N",
        default: "256",
        expects: COUNT,
        help: "How many ended sessions of each user are listed, for an hour at most",
        details: "",
        reload: true,
        set: |options, text| values::count(text).map(|count| options.ended_per_uid = count),
    },
    OptionSpec {
        name: "max-connections",
        kind: Kind::Number,
        value: "N",
        default: "auto",
        expects: "a whole number of at least 8, or auto",
        help: "Maximum number of connections; auto: as open files allow, at most 1024",
        details: "",
        reload: true,
        set: |options, text| {
            unless("auto", text, values::connections).map(|count| options.max_connections = count)
        },
    },
    OptionSpec {
        name: "max-connections-per-uid",
        kind: Kind::Number,
        value: "N",
        default: "auto",
        expects: COUNT_OR_AUTO,
        help: "Maximum number of connections per user; auto: a fair share",
        details: "",
        reload: true,
        set: |options, text| {
            unless("auto", text, values::count).map(|count| options.max_connections_per_uid = count)
        },
    },
    OptionSpec {
        name: "max-streams-per-uid",
        kind: Kind::Number,
        value: "N",
        default: "auto",
        expects: COUNT_OR_AUTO,
        help: "Maximum number of event streams per user; auto: a fair share",
        details: "",
        reload: true,
        set: |options, text| {
            unless("auto", text, values::count).map(|count| options.max_streams_per_uid = count)
        },
    },
    OptionSpec {
        name: "keep-alive",
        kind: Kind::Text,
        value: "TIME",
        default: "30s",
        expects: "a time of at least 1s, such as 30s",
        help: "How long clients may keep an idle connection; at least 1s",
        details: "",
        reload: true,
        set: |options, text| values::keep_alive(text).map(|time| options.keep_alive = time),
    },
    OptionSpec {
        name: "register-policy",
        kind: Kind::Text,
        value: "POLICY",
        default: "same-uid",
        expects: "self, same-uid or any",
        help: "Which processes a client may register: self, same-uid or any",
        details: "",
        reload: true,
        set: |options, text| {
            let parsed = text.parse().map_err(|_unknown| "is no policy".to_owned());
            parsed.map(|policy| options.register_policy = policy)
        },
    },
    OptionSpec {
        name: "strict-replace",
        kind: Kind::Switch,
        value: "BOOL",
        default: "false",
        expects: "true or false",
        help: "Reject a registration under an existing session id, and a removal by id, unless it has \
               that session's token",
        details: "",
        reload: true,
        set: |options, text| switch(text).map(|on| options.strict_replace = on),
    },
    OptionSpec {
        name: "allow-uid",
        kind: Kind::List,
        value: "USER",
        default: "",
        expects: "names or numbers of users",
        help: "Also serve this user, by name or uid; may be a comma-separated list",
        details: "Every user can then reach the socket, and the daemon refuses those who are not \
                  listed. With --socket-group instead, the system keeps them out.",
        reload: true,
        set: |options, text| list(text, values::user).map(|users| options.allow_uids = users),
    },
    OptionSpec {
        name: "socket-group",
        kind: Kind::Text,
        value: "GROUP",
        default: "",
        expects: "the name or number of a group",
        help: "Also serve the members of this group, by name or gid; the socket gets mode 0660",
        details: "",
        reload: false,
        set: |options, text| {
            unless("", text, values::group).map(|group| options.socket_group = group)
        },
    },
    OptionSpec {
        name: "metrics-listen",
        kind: Kind::Number,
        value: "ADDR",
        default: "",
        expects: "a port of the loopback interface, or an address with a port such as 127.0.0.1:9464",
        help: "Also serve metrics over TCP, at the path /metrics",
        details: "ADDR is a port of the loopback interface (9464), or an address with a port \
                  (0.0.0.0:9464). On another address than the loopback interface, every host that \
                  reaches it can read the metrics.",
        reload: false,
        set: |options, text| {
            unless("", text, values::metrics_address)
                .map(|address| options.metrics_listen = address)
        },
    },
    OptionSpec {
        name: "tcp",
        kind: Kind::Number,
        value: "ADDR",
        default: "",
        expects: "a port of the loopback interface, or its address with a port such as 127.0.0.1:47823",
        help: "Also serve the API over TCP, on the loopback interface",
        details: "Clients present the text of the file local-token, which the daemon creates beside its \
                  socket, as a bearer. They act as the daemon's user.",
        reload: false,
        set: |options, text| {
            unless("", text, values::metrics_address).map(|address| options.tcp = address)
        },
    },
    OptionSpec {
        name: "no-tcp",
        kind: Kind::Switch,
        value: "BOOL",
        default: "false",
        expects: "true or false",
        help: "Do not serve the API over TCP, whatever the profile says",
        details: "",
        reload: false,
        set: |options, text| switch(text).map(|on| options.no_tcp = on),
    },
    OptionSpec {
        name: "public-health",
        kind: Kind::Switch,
        value: "BOOL",
        default: "false",
        expects: "true or false",
        help: "Serve a short /v1/health over TCP without the bearer, to all users of this machine",
        details: "",
        reload: false,
        set: |options, text| switch(text).map(|on| options.public_health = on),
    },
    OptionSpec {
        name: "profile",
        kind: Kind::Text,
        value: "PROFILE",
        default: "",
        expects: "claudemesh",
        help: "Serve the clients of another daemon: claudemesh",
        details: "With claudemesh, socket, pid file and bearer are in ~/.claudemesh/daemon, or in the folder \
                  of CLAUDEMESH_DAEMON_DIR, and the API is also served on 127.0.0.1:47823 unless the daemon \
                  is in a container. --socket and --tcp win over that.",
        reload: false,
        set: |options, text| {
            unless("", text, Profile::parse).map(|profile| options.profile = profile)
        },
    },
    OptionSpec {
        name: "brokers",
        kind: Kind::List,
        value: "SLUG",
        default: "",
        expects: "names of letters, digits, dots, dashes and underscores",
        help: "Report this message broker as open in /v1/health; may be a comma-separated list",
        details: "The daemon neither is nor looks for one. This is for clients that wait until one is open.",
        reload: true,
        set: |options, text| list(text, values::slug).map(|slugs| options.brokers = slugs),
    },
    OptionSpec {
        name: "advertise-version",
        kind: Kind::Text,
        value: "VERSION",
        default: "",
        expects: "a version of at most 64 letters, digits, dots, dashes, underscores and plus signs",
        help: "The daemon_version in /v1/version, for clients that compare it with their own",
        details: "",
        reload: true,
        set: |options, text| {
            unless("", text, values::version).map(|version| options.advertise_version = version)
        },
    },
    #[cfg(target_os = "linux")]
    OptionSpec {
        name: "user",
        kind: Kind::Text,
        value: "USER",
        default: "",
        expects: "the name or number of a user",
        help: "Run the worker as this user",
        details: "For a start as root. The folder of the socket must belong to that user; if it does \
                  not exist, it is created so. Not possible with --no-monitor.",
        reload: false,
        set: |options, text| unless("", text, values::account).map(|user| options.user = user),
    },
    #[cfg(target_os = "linux")]
    OptionSpec {
        name: "no-monitor",
        kind: Kind::Switch,
        value: "BOOL",
        default: "false",
        expects: "true or false",
        help: "Run one process, without a monitor",
        details: "By default the daemon is two processes: a monitor, which is the one that was started, \
                  and a worker, which does everything else and can do little else: it has no \
                  capabilities, few system calls and few files, and the monitor reopens sources for it. \
                  Without a monitor the worker is a new program, and for some milliseconds after its \
                  start another process of the same user can open its memory and keep it open. It also \
                  keeps the capabilities that sources need, all system calls and all files.",
        reload: false,
        set: |options, text| switch(text).map(|on| options.no_monitor = on),
    },
    OptionSpec {
        name: LOG,
        kind: Kind::Text,
        value: "FILTER",
        default: "info",
        expects: "off, error, warn, info, debug, trace, or a list such as warn,reaperd::sessions=info",
        help: "What to log: a level (off, error, warn, info, debug, trace), or a list with levels of \
               single targets",
        details: "The variable RUST_LOG counts if REAPERD_LOG is not set. A reload can change a level \
                  to another one; a list needs a restart.",
        reload: true,
        set: |options, text| {
            let parsed = text.parse().map_err(|error: ParseError| error.to_string());
            parsed.map(|filter| options.log = filter)
        },
    },
];
