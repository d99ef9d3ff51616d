//! Start and end of the daemon.
//!
//! Order of start: signals, process limits and protection of memory, the shares of descriptors,
//! sources, their first reports, the socket, and last the notification that it serves. The socket
//! comes after the reports, so that a client that can connect can read the state of the sources.
//! Order of the end: the socket file, the `shutdown` event, connections, sources.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use reaper_registry::{Registry, Rules, Source, TokenKey};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::accounts::{Accounts, Newcomers, of_registry};
use super::api::listener::{AccessList, ListenError, Socket, SocketAccess};
use super::api::{self, App};
use super::config::DaemonOptions;
use super::metrics::Counters;
use super::metrics::listener::MetricsListener;
use super::private_memory;
use super::reload::{self, Live};
use super::signals::{Ending, Signals};
use super::systemd;
use super::systemd::activation::PassedSocket;
use super::systemd::reports::Reporting;
use super::token_files::TokenFiles;
use crate::clock;
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

/// How long the end may take if it is to be at once: for the socket file and the last event.
const AT_ONCE_WITHIN: Duration = Duration::from_millis(100);

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

/// Runs the daemon until a signal ends it. Changes limits and signals of the process: call it once, at
/// the start of the runtime. `activated` is the socket, if the service manager has bound it.
pub(crate) async fn run(
    live: Live,
    activated: Option<PassedSocket>,
    metrics: Option<MetricsListener>,
) -> Result<Ending, StartupError> {
    let mut signals = Signals::receive().map_err(StartupError::Signals)?;
    descriptors::raise_open_file_limit();
    private_memory::protect_and_log();
    let reporting = Reporting::expected_of(main_pid());
    let (app, socket) = start(live, activated, reporting).await?;
    let (stop_sender, stop_receiver) = watch::channel(false);
    let metrics = serve_metrics(metrics, app.clone(), stop_receiver.clone());
    let serving = api::server::serve(app.clone(), socket, stop_receiver);
    let serving = async { tokio::join!(serving, metrics) };
    let stopping = async {
        let ending = signals.obey(&app).await;
        systemd::notify(systemd::State::Stopping);
        stop_sender.send_replace(true);
        if ending == Ending::InOrder {
            signals.hurry(has_monitor()).await;
        }
        sleep(AT_ONCE_WITHIN).await;
    };
    let ending = tokio::select! {
        ((), ()) = serving => Ending::InOrder,
        () = stopping => Ending::AtOnce,
        () = report(&app, reporting) => Ending::InOrder,
    };
    log::info!("stopped, {} sessions were live", app.reaper.len());
    Ok(ending)
}

/// Runs the daemon until `stop` is ready. Does not change limits or signals of the process, and reports to
/// no service manager while it runs.
pub async fn run_until(
    options: DaemonOptions,
    stop: impl Future<Output = ()>,
) -> Result<(), StartupError> {
    let (app, socket) = start(Live::fixed(options), None, None).await?;
    let (stop_sender, stop_receiver) = watch::channel(false);
    let serving = api::server::serve(app, socket, stop_receiver);
    let stopping = async {
        stop.await;
        stop_sender.send_replace(true);
    };
    tokio::join!(serving, stopping);
    Ok(())
}

/// Writes the log of sessions and reports to the service manager, without an end.
async fn report(app: &App, reporting: Option<Reporting>) {
    let sessions = crate::daemon::log::sessions::run(app.reaper.events());
    let reports = async {
        if let Some(reporting) = reporting {
            reporting.run(app, app.reaper.beats()).await;
        }
    };
    tokio::join!(sessions, reports);
    std::future::pending::<()>().await;
}

async fn start(
    live: Live,
    activated: Option<PassedSocket>,
    reporting: Option<Reporting>,
) -> Result<(Arc<App>, Socket), StartupError> {
    let started = clock::now();
    let options = live.options();
    let workers = Handle::current().metrics().num_workers();
    let descriptors = Shares::of_daemon(&options, workers)?;
    let secret_memory = SecretArena::new();
    let access = SocketAccess::of(&options);
    let accounts = Accounts::new(
        owner(),
        Newcomers::with(access),
        descriptors.limits(&options),
    );
    let reaper = start_reaper(&options, descriptors, &accounts, &secret_memory, reporting)?;
    let reports = first_reports(&reaper, &options).await?;
    let socket = match activated {
        Some(activated) => Socket::passed(activated)?,
        None => Socket::claim(&options.socket, access, AccessList::of(&options))?,
    };
    #[cfg(target_os = "linux")]
    super::sandbox::listening(socket.access());
    log::info!("{}", banner(&socket, &reports));
    log::info!("{descriptors}");
    let epoch = getrandom::u64().map_err(|error| StartupError::Random(error.into()))?;
    log::info!("{}", api::limits::Memory::of(&options, &accounts));
    let app = Arc::new(App {
        reaper,
        live,
        descriptors,
        counters: Counters::default(),
        started,
        table: process_table::of_this_system(),
        epoch,
        accounts,
        secret_memory,
    });
    systemd::notify(systemd::State::Ready);
    Ok((app, socket))
}

/// Returns the pid of the process that the service manager has started.
fn main_pid() -> u32 {
    #[cfg(target_os = "linux")]
    if let Some(monitor) = super::monitor::pid() {
        return monitor;
    }
    std::process::id()
}

#[cfg(target_os = "linux")]
fn has_monitor() -> bool {
    super::monitor::pid().is_some()
}

/// Only Linux has a monitor.
#[cfg(not(target_os = "linux"))]
fn has_monitor() -> bool {
    false
}

/// Returns the daemon's own user.
fn owner() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Serves metrics over TCP, if that is configured.
async fn serve_metrics(
    listener: Option<MetricsListener>,
    app: Arc<App>,
    stop: watch::Receiver<bool>,
) {
    if let Some(listener) = listener {
        listener.serve(app, stop).await;
    }
}

fn start_reaper(
    options: &DaemonOptions,
    descriptors: Shares,
    accounts: &Arc<Accounts>,
    secret_memory: &SecretArena,
    reporting: Option<Reporting>,
) -> Result<Reaper, StartupError> {
    let token_key = TokenKey::written_to(secret_memory.take(), |key| getrandom::fill(key))
        .map_err(|error| StartupError::Random(error.into()))?;
    let token_files = TokenFiles::default();
    let files_of_ended = token_files.clone();
    let sharing = accounts.clone();
    let Rules {
        ttl,
        max_ttl,
        limits,
        strict_replace,
    } = reload::rules(options);
    let registry = Registry::builder(token_key)
        .ttl(ttl)
        .max_ttl(max_ttl)
        .limits(limits)
        .strict_replace(strict_replace)
        .share_by(of_registry(owner(), move || sharing.newcomers()))
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
