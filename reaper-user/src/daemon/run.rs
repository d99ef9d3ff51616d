//! Start and end of the daemon.
//!
//! Order of start: process limits and protection of memory, signals, the shares of descriptors,
//! sources, their first reports, the socket, and last the notification that it serves. The socket
//! comes after the reports, so that a client that can connect can read the state of the sources.
//! Order of the end: the socket file, the `shutdown` event, connections, sources.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use reaper_registry::{Limits, Registry, Source, TokenKey};
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;

use super::accounts::{Accounts, Newcomers};
use super::api::listener::{AccessList, ListenError, Socket, SocketAccess};
use super::api::{self, App};
use super::config::DaemonOptions;
use super::private_memory;
use super::systemd;
use super::systemd::activation::PassedSocket;
use super::systemd::reports::Reporting;
use super::token_files::TokenFiles;
use crate::daemon::descriptors::{self, Shares, TooFewDescriptors};
use crate::reaper::Reaper;
use crate::sources;
use crate::sys::process_table;
use crate::sys::secret_arena::SecretArena;
use crate::watch::status::SourceStatus;

/// How long the start waits for the first reports of the sources.
const FIRST_REPORTS_TIMEOUT: Duration = Duration::from_millis(500);
/// The same if sources are required: long enough for two canaries of an event source.
const REQUIRED_REPORTS_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartupError {
    #[error("the required source {} does not work here: {}", .0.source, reason(.0))]
    RequiredSource(Box<SourceStatus>),
    #[error(transparent)]
    Descriptors(#[from] TooFewDescriptors),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("the system gives no random bytes: {0}")]
    Random(io::Error),
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
}

fn reason(status: &SourceStatus) -> &str {
    match status.health {
        Some(_) => &status.reason,
        None => "it has not reported its state, or it is not among --sources",
    }
}

impl StartupError {
    /// Returns the remedy, for the line behind `try:`.
    pub fn remedy(&self) -> String {
        match self {
            Self::RequiredSource(status) if status.remedy.is_empty() => {
                format!("start without --require {}", status.source)
            }
            Self::RequiredSource(status) => status.remedy.clone(),
            Self::Descriptors(TooFewDescriptors { needed, .. }) => format!(
                "raise the limit (ulimit -n {needed}; LimitNOFILE={needed} under systemd), or name \
                 fewer --sources"
            ),
            Self::Listen(error) => error.remedy(),
            Self::Random(_) => "check that getrandom(2) is allowed here".to_owned(),
            Self::Signals(_) => "check the limit of open files (ulimit -n)".to_owned(),
        }
    }
}

/// Runs the daemon until SIGTERM or SIGINT; it ends within two seconds of the signal.
///
/// Must be called within a tokio runtime, and once per process.
pub(crate) async fn run(
    options: DaemonOptions,
    passed: Option<PassedSocket>,
) -> Result<(), StartupError> {
    descriptors::raise_open_file_limit();
    private_memory::protect_and_log();
    let mut terminate = signal(SignalKind::terminate()).map_err(StartupError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartupError::Signals)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(StartupError::Signals)?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => log::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => log::info!("SIGINT: stopping"),
            () = reload_on(&mut hang_up) => {}
        }
    };
    serve_until(options, passed, stop).await
}

/// Responds to SIGHUP, without an end: the service manager expects two reports of a reload.
async fn reload_on(hang_up: &mut Signal) {
    while hang_up.recv().await.is_some() {
        systemd::notify(systemd::State::Reloading);
        log::info!("SIGHUP: there is nothing to read again");
        systemd::notify(systemd::State::Ready);
    }
    std::future::pending::<()>().await;
}

/// Runs the daemon until `stop` is ready. Does not change limits or signals of the process.
pub async fn run_until(
    options: DaemonOptions,
    stop: impl Future<Output = ()>,
) -> Result<(), StartupError> {
    serve_until(options, None, stop).await
}

async fn serve_until(
    options: DaemonOptions,
    passed: Option<PassedSocket>,
    stop: impl Future<Output = ()>,
) -> Result<(), StartupError> {
    let workers = Handle::current().metrics().num_workers();
    let descriptors = Shares::of_daemon(&options, workers)?;
    let secret_memory = SecretArena::new();
    let reporting = Reporting::expected_of(main_pid());
    let reaper = start_reaper(&options, descriptors, &secret_memory, reporting)?;
    let reports = first_reports(&reaper, &options).await?;
    let access = SocketAccess::of(&options);
    let socket = match passed {
        Some(passed) => Socket::passed(passed)?,
        None => Socket::claim(&options.socket, access, AccessList::of(&options))?,
    };
    log::info!("{}", banner(&socket, &reports));
    log::info!("{descriptors}");
    let epoch = getrandom::u64().map_err(|error| StartupError::Random(error.into()))?;
    let accounts = open_accounts(&options, descriptors, access);
    log::info!("{}", api::limits::Memory::of(&options, &accounts));
    let app = Arc::new(App {
        reaper,
        options,
        table: process_table::of_this_system(),
        epoch,
        accounts,
        secret_memory,
    });
    let (stop_sender, stop_receiver) = watch::channel(false);
    systemd::notify(systemd::State::Ready);
    let reports = reports_until_dropped(&app, reporting);
    let serving = async {
        tokio::select! {
            () = api::server::serve(app.clone(), socket, stop_receiver) => {}
            () = reports => {}
        }
    };
    let stopping = async {
        stop.await;
        systemd::notify(systemd::State::Stopping);
        stop_sender.send_replace(true);
    };
    tokio::join!(serving, stopping);
    Ok(())
}

/// Writes the log of sessions and reports to the service manager. Does not end.
async fn reports_until_dropped(app: &App, reporting: Option<Reporting>) {
    let beats = app.reaper.beats();
    let sessions = crate::daemon::log::sessions::run(app.reaper.events());
    let reports = async {
        if let Some(reporting) = reporting {
            reporting.run(app, beats).await;
        }
    };
    tokio::join!(sessions, reports);
    std::future::pending::<()>().await;
}

/// Returns the pid of the process that the service manager has started.
fn main_pid() -> u32 {
    #[cfg(target_os = "linux")]
    if let Some(monitor) = super::monitor::pid() {
        return monitor;
    }
    std::process::id()
}

fn open_accounts(
    options: &DaemonOptions,
    descriptors: Shares,
    access: SocketAccess,
) -> Arc<Accounts> {
    let owner = rustix::process::geteuid().as_raw();
    let newcomers = if access == SocketAccess::Private {
        Newcomers::None
    } else {
        Newcomers::Possible
    };
    Accounts::new(owner, newcomers, descriptors.limits(options))
}

fn start_reaper(
    options: &DaemonOptions,
    descriptors: Shares,
    secret_memory: &SecretArena,
    reporting: Option<Reporting>,
) -> Result<Reaper, StartupError> {
    let token_key = TokenKey::written_to(secret_memory.take(), |key| getrandom::fill(key))
        .map_err(|error| StartupError::Random(error.into()))?;
    let token_files = TokenFiles::default();
    let files_of_ended = token_files.clone();
    let registry = Registry::builder(token_key)
        .ttl(options.ttl)
        .max_ttl(options.max_ttl)
        .limits(Limits {
            sessions: options.max_sessions,
            sessions_per_owner: options.max_sessions_per_uid,
            bytes: options.max_bytes,
            bytes_per_owner: options.max_bytes_per_uid,
        })
        .strict_replace(options.strict_replace)
        .on_removed(move |session| files_of_ended.session_ended(session));
    let reaper = Reaper::builder(registry)
        .sources(options.sources.clone())
        .sweep_interval(options.sweep_interval)
        .max_pidfds(descriptors.processes)
        .beat_interval(reporting.map(|reporting| reporting.interval))
        .start_now();
    token_files.set_registry(reaper.registry());
    Ok(reaper)
}

/// Returns the state of the sources, and an error if a required one does not work.
async fn first_reports(
    reaper: &Reaper,
    options: &DaemonOptions,
) -> Result<Vec<SourceStatus>, StartupError> {
    let limit = if options.require.is_empty() {
        FIRST_REPORTS_TIMEOUT
    } else {
        REQUIRED_REPORTS_TIMEOUT
    };
    if !options.require.is_empty() {
        systemd::notify(systemd::State::StartsWithin(2 * REQUIRED_REPORTS_TIMEOUT));
    }
    let reported = async {
        reaper.first_reports(&sources::QUICK).await;
        reaper.first_reports(&options.require).await;
    };
    if timeout(limit, reported).await.is_err() {
        log::debug!("not every source has reported its state");
    }
    let reports = reaper.status();
    let missing = reports
        .iter()
        .find(|status| options.require.contains(&status.source) && !status.works());
    match missing {
        Some(missing) => Err(StartupError::RequiredSource(Box::new(missing.clone()))),
        None => Ok(reports),
    }
}

fn banner(socket: &Socket, reports: &[SourceStatus]) -> String {
    let sources: Vec<_> = reports
        .iter()
        .filter(|status| status.works())
        .map(|status| Source::name(status.source))
        .collect();
    format!(
        "reaperd {} pid {} on {} ({:04o}) sources {}",
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
        socket.path().display(),
        socket.mode(),
        sources.join("+")
    )
}
