//! `reaperd daemon`: its options. The daemon itself is in [`crate::daemon`].

use std::borrow::Cow;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reaper_registry::Source;

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::values::{self, Age};
#[cfg(target_os = "linux")]
use crate::daemon::api::listener::{self, SocketAccess};
use crate::daemon::config::{DaemonOptions, RegisterPolicy};
#[cfg(target_os = "linux")]
use crate::daemon::monitor::{self, Split};
#[cfg(target_os = "linux")]
use crate::daemon::private_memory;
#[cfg(target_os = "linux")]
use crate::daemon::sandbox::{self, User};
#[cfg(target_os = "linux")]
use crate::daemon::socket_path::runtime_folder;
use crate::daemon::socket_path::{self, Surroundings};
use crate::daemon::systemd::activation::{self, PassedSocket};
use crate::daemon::{descriptors, harden, runtime};
use crate::engine::Sources;

const LOG_HELP: &str = "What to log: a level (error, warn, info, debug, trace, off), or a list such as \
     warn,reaperd::sessions=info [default: $RUST_LOG, else info]";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Exit sources to use: auto, or a comma-separated list of netlink, ebpf, pidfd, sweep
    #[arg(long, value_name = "LIST", default_value = "auto", value_parser = values::sources)]
    sources: Sources,
    /// Refuse to start unless this source works; may be a comma-separated list
    #[arg(long, value_name = "SOURCE", value_delimiter = ',', value_parser = values::source)]
    require: Vec<Source>,
    /// How often to check every registered process, in case other sources missed its exit
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = values::duration)]
    sweep_interval: Duration,
    /// Maximum age of sessions registered without a ttl; never: until the process exits
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = values::age)]
    ttl: Age,
    /// Maximum age of any session, even if a longer ttl was requested [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    max_ttl: Option<Duration>,
    /// Maximum number of sessions
    #[arg(long, value_name = "N", default_value = "100000", value_parser = values::count)]
    max_sessions: usize,
    /// Maximum number of sessions per user
    #[arg(long, value_name = "N", default_value = "10000", value_parser = values::count)]
    max_sessions_per_uid: usize,
    /// Maximum size of all sessions in memory, such as 512MiB
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = values::size)]
    max_bytes: usize,
    /// Maximum size of the sessions of one user in memory
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = values::size)]
    max_bytes_per_uid: usize,
    /// Maximum number of connections [default: as open files allow, at most 1024]
    #[arg(long, value_name = "N", value_parser = values::connections)]
    max_connections: Option<usize>,
    /// Maximum number of connections per user [default: a fair share]
    #[arg(long, value_name = "N", value_parser = values::count)]
    max_connections_per_uid: Option<usize>,
    /// Maximum number of event streams per user [default: a fair share]
    #[arg(long, value_name = "N", value_parser = values::count)]
    max_streams_per_uid: Option<usize>,
    /// How long clients may keep an idle connection; at least 1s
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = values::keep_alive)]
    keep_alive: Duration,
    /// Which processes a client may register: self, same-uid or any
    #[arg(long, value_name = "POLICY", default_value = "same-uid")]
    register_policy: RegisterPolicy,
    /// Reject a registration under an existing session id, and a removal by id, unless it has that
    /// session's token
    #[arg(long)]
    strict_replace: bool,
    /// Also serve this user, by name or uid; may be a comma-separated list
    ///
    /// Every user can then reach the socket, and the daemon refuses those who are not listed. With
    /// --socket-group instead, the system keeps them out.
    #[arg(long, value_name = "USER", value_delimiter = ',', value_parser = values::user)]
    allow_uid: Vec<u32>,
    /// Also serve the members of this group, by name or gid; the socket gets mode 0660
    #[arg(long, value_name = "GROUP", value_parser = values::group)]
    socket_group: Option<u32>,
    /// Run the worker as this user
    ///
    /// For a start as root. The folder of the socket must belong to that user; if it does not exist,
    /// it is created so. Not possible with --no-monitor.
    #[cfg(target_os = "linux")]
    #[arg(long, value_name = "USER", value_parser = values::account, conflicts_with = "no_monitor")]
    user: Option<User>,
    /// Run one process, without a monitor
    ///
    /// By default the daemon is two processes: a monitor, which is the one that was started, and a
    /// worker, which does everything else and can do little else: it has no capabilities, few system
    /// calls and few files, and the monitor reopens sources for it. Without a monitor the worker is a
    /// new program, and for some milliseconds after its start another process of the same user can
    /// open its memory and keep it open. It also keeps the capabilities that sources need, all
    /// system calls and all files.
    #[cfg(target_os = "linux")]
    #[arg(long)]
    no_monitor: bool,
    #[arg(long, value_name = "FILTER", help = LOG_HELP)]
    log: Option<String>,
    /// Stop when the parent process, which must have this pid, exits
    #[arg(long, hide = true, value_name = "PID")]
    child_of: Option<u32>,
}

impl Arguments {
    /// Returns the filter of the log: the flag, else the variable.
    pub(super) fn log_filter(&self) -> Cow<'_, str> {
        if let Some(filter) = &self.log {
            return filter.into();
        }
        let variable = std::env::var("RUST_LOG").ok();
        let variable = variable.filter(|filter| !filter.trim().is_empty());
        variable.map_or("info".into(), Into::into)
    }

    /// Runs the daemon and returns its exit code; in the monitor, that of the worker.
    /// `passed` are the descriptors that the service manager has passed.
    pub(super) fn run(
        mut self,
        flag: Option<&Path>,
        surroundings: &Surroundings,
        mut passed: Vec<(String, OwnedFd)>,
    ) -> Result<u8, Failure> {
        #[cfg(target_os = "linux")]
        private_memory::refuse_tracer()?;
        if let Some(parent) = self.child_of {
            stop_with(parent)?;
        }
        let passed = activation::take_socket(&mut passed).map_err(not_activated)?;
        let socket = match &passed {
            Some(passed) => self.use_passed(passed, flag, surroundings)?,
            None => socket_path::resolve_for_daemon(flag, surroundings),
        };
        #[cfg(target_os = "linux")]
        if let Some(code) = self.divide((passed.is_none()).then_some(&socket))? {
            return Ok(code);
        }
        #[cfg(not(target_os = "linux"))]
        harden::keep_only_what_sources_need();
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(descriptors::worker_threads());
        let runtime = runtime::build(builder).map_err(super::no_runtime)?;
        let ended = runtime.block_on(serve(self.into_options(socket), passed));
        ended.map(ExitCode::number)
    }

    /// Returns the path of a socket that the service manager has bound, if nothing contradicts it. The
    /// members of the socket's group are served, as its mode promises.
    fn use_passed(
        &mut self,
        passed: &PassedSocket,
        flag: Option<&Path>,
        surroundings: &Surroundings,
    ) -> Result<PathBuf, Failure> {
        let path = &passed.path;
        if let Some(other) = socket_path::given(flag, surroundings).filter(|given| given != path) {
            return Err(conflict(
                format!(
                    "the service manager passes the socket {}, and --socket or REAPERD_SOCKET names {}",
                    path.display(),
                    other.display()
                ),
                "remove --socket from the service, or set ListenStream= of the socket unit",
            ));
        }
        let group = passed.group();
        if self.socket_group.is_some() && self.socket_group != group {
            return Err(conflict(
                format!(
                    "the socket {} of the service manager is not open to the group of --socket-group",
                    path.display()
                ),
                "set SocketGroup= and SocketMode=0660 of the socket unit instead of --socket-group",
            ));
        }
        self.socket_group = group;
        if passed.mode() & 0o002 != 0 && self.allow_uid.is_empty() {
            log::warn!(
                "every user can connect to {} (mode {:04o}), and those who are not served get an error: set \
                 SocketMode= of the socket unit",
                path.display(),
                passed.mode()
            );
        }
        Ok(path.clone())
    }

    /// Gives up what this process does not need. In the monitor, returns the worker's exit code. A socket
    /// that the service manager has bound is not this daemon's own.
    #[cfg(target_os = "linux")]
    fn divide(&self, own_socket: Option<&PathBuf>) -> Result<Option<u8>, Failure> {
        let user = self.user;
        harden::raise_locked_memory_limit();
        if let Some(group) = self.socket_group.filter(|_| own_socket.is_some()) {
            harden::join_group(group);
        }
        let split = if self.no_monitor {
            Split::Alone
        } else {
            monitor::split(user.is_some()).map_err(|error| {
                Failure::new(
                    format!("the daemon cannot start its worker: {error}"),
                    "raise the limits of processes and open files (ulimit -u, ulimit -n), or use \
                     --no-monitor",
                )
            })?
        };
        match split {
            Split::Monitor(code) => return Ok(Some(code)),
            Split::Worker(monitor) => {
                let access = SocketAccess::with(&self.allow_uid, self.socket_group);
                let folder = own_socket
                    .map(|socket| listener::create_folder(socket, access, user))
                    .transpose()
                    .map_err(|error| Failure::new(error.to_string(), error.remedy()))?;
                let files = sandbox::Files {
                    socket_folder: folder.as_deref(),
                    token_folders: &token_folders(user),
                };
                sandbox::confine(user, self.socket_group, monitor, &files).map_err(|error| {
                    Failure::new(
                        format!("the daemon cannot become the user of --user: {error}"),
                        "start it as root, or without --user",
                    )
                })?;
            }
            Split::Alone if user.is_some() => {
                return Err(Failure::new(
                    "--user needs a monitor, which cannot be started here",
                    "start the daemon as that user",
                ));
            }
            Split::Alone => {
                sandbox::empty_bounding_set();
                harden::keep_only_what_sources_need();
            }
        }
        Ok(None)
    }

    fn into_options(self, socket: PathBuf) -> DaemonOptions {
        DaemonOptions {
            socket,
            sources: self.sources,
            require: self.require,
            sweep_interval: self.sweep_interval,
            ttl: self.ttl.into(),
            max_ttl: self.max_ttl,
            max_sessions: self.max_sessions,
            max_sessions_per_uid: self.max_sessions_per_uid,
            max_bytes: self.max_bytes,
            max_bytes_per_uid: self.max_bytes_per_uid,
            max_connections: self.max_connections,
            max_connections_per_uid: self.max_connections_per_uid,
            max_streams_per_uid: self.max_streams_per_uid,
            keep_alive: self.keep_alive,
            register_policy: self.register_policy,
            strict_replace: self.strict_replace,
            allow_uids: self.allow_uid,
            socket_group: self.socket_group,
        }
    }
}

/// The socket of the service manager and the options contradict each other.
fn conflict(message: String, remedy: &str) -> Failure {
    Failure {
        code: ExitCode::Usage,
        ..Failure::new(message, remedy)
    }
}

fn not_activated(error: activation::Unusable) -> Failure {
    let remedy = match error {
        activation::Unusable::Several(_) => "pass one socket: one ListenStream= in reaperd.socket",
        activation::Unusable::NoFile(_) => "systemctl restart reaperd.socket",
    };
    conflict(error.to_string(), remedy)
}

async fn serve(options: DaemonOptions, passed: Option<PassedSocket>) -> Result<ExitCode, Failure> {
    match crate::daemon::run(options, passed).await {
        Ok(()) => Ok(ExitCode::Success),
        Err(error) => Err(Failure::new(error.to_string(), error.remedy())),
    }
}

/// Returns the folders below which sessions of the daemon's user have their token files: the user's
/// runtime folder as this process sees it, and the usual one, which a login sets.
#[cfg(target_os = "linux")]
fn token_folders(user: Option<User>) -> [PathBuf; 2] {
    let surroundings = Surroundings::of_this_process();
    let uid = user.map_or(surroundings.uid, |user| user.uid);
    let usual = PathBuf::from(format!("/run/user/{uid}"));
    let folder = runtime_folder(&Surroundings {
        uid,
        ..surroundings
    });
    // The folder of this program may not exist yet, that of the user does.
    let of_user = folder.variable.and_then(|_| folder.path.parent());
    let own = of_user.map(Path::to_owned);
    [own.unwrap_or(folder.path), usual]
}

/// Makes the kernel stop this daemon when the parent exits. A killed demo cannot stop it.
#[cfg(target_os = "linux")]
fn stop_with(parent: u32) -> Result<(), Failure> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};

    set_parent_process_death_signal(Some(Signal::TERM)).map_err(std::io::Error::from)?;
    // Checked afterwards, because the parent may have exited before the call.
    if getppid().is_none_or(|now| now.as_raw_pid().cast_unsigned() != parent) {
        return Err(Failure::new(
            "the parent process has exited",
            "reaperd daemon",
        ));
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature everywhere")]
fn stop_with(_parent: u32) -> Result<(), Failure> {
    Ok(())
}
