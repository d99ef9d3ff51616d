//! Start and end of the daemon.
//!
//! Order of start: process limits and protection of memory, signals, the shares of descriptors,
//! sources, their first reports, the socket, and last the notification that it serves. The socket
//! comes after the reports, so that a client that can connect can read the state of the sources.
//! Order of the end: the socket file, the `shutdown` event, connections, sources.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use reaper_registry::{Limits, Source};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;

use super::accounts::{Accounts, Newcomers};
use super::api::listener::{AccessList, ListenError, Socket, SocketAccess};
use super::api::server::{Ended, Start};
use super::api::{self, App};
use super::carried::Carried;
use super::config::DaemonOptions;
use super::handover::Handovers;
use super::handover::take::{NotTaken, Taken};
use super::private_memory;
use super::restart::Restart;
use super::systemd;
use super::token_files::TokenFiles;
use crate::daemon::descriptors::{self, Shares, TooFewDescriptors};
use crate::reaper::{self, PreparedReaper, Reaper};
use crate::sources;
use crate::sys::process_table;
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
    #[error(transparent)]
    Replace(#[from] NotTaken),
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
            Self::Replace(error) => error.remedy().to_owned(),
        }
    }
}

/// Runs the daemon until SIGTERM or SIGINT; it ends within two seconds of the signal. It also ends once
/// another daemon has replaced it.
///
/// Must be called within a tokio runtime, and once per process.
///
/// It continues what `carried` has of the daemon before it; with `taken` that daemon still runs.
pub(crate) async fn run(
    options: DaemonOptions,
    carried: Carried,
    taken: Option<Taken>,
) -> Result<(), StartupError> {
    descriptors::raise_open_file_limit();
    private_memory::protect_and_log();
    let mut terminate = signal(SignalKind::terminate()).map_err(StartupError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartupError::Signals)?;
    run_with(options, carried, taken, async move {
        tokio::select! {
            _ = terminate.recv() => log::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => log::info!("SIGINT: stopping"),
        }
    })
    .await
}

/// Runs the daemon until `stop` is ready. Does not change limits or signals of the process.
pub async fn run_until(
    options: DaemonOptions,
    stop: impl Future<Output = ()>,
) -> Result<(), StartupError> {
    run_with(options, Carried::default(), None, stop).await
}

async fn run_with(
    options: DaemonOptions,
    carried: Carried,
    mut taken: Option<Taken>,
    stop: impl Future<Output = ()>,
) -> Result<(), StartupError> {
    let started = start(&options, carried, &mut taken).await;
    let Started {
        reaper,
        restart,
        socket,
        descriptors,
    } = started.inspect_err(|error| {
        if let Some(taken) = &taken {
            taken.give_up(&error.to_string());
        }
    })?;
    let access = SocketAccess::of(&options);
    let accounts = open_accounts(&options, descriptors, access);
    log::info!("{}", api::limits::Memory::of(&options, &accounts));
    let registry = reaper.registry().clone();
    let replaced = taken.as_ref().map_or(0, |taken| taken.rest.replaced);
    let (handovers, requests) = Handovers::new(replaced);
    let app = Arc::new(App {
        reaper,
        options,
        table: process_table::of_this_system(),
        epoch: restart.epoch,
        accounts,
        secret_memory: restart.secret_memory.clone(),
        carried_over: restart.carried_over.clone(),
        belongings: restart.belongings(),
        handovers,
    });
    let start = Start {
        socket,
        taken: taken.map_or_else(Vec::new, |taken| taken.connections),
        handovers: requests,
    };
    let (stop_sender, stop_receiver) = watch::channel(false);
    systemd::notify(systemd::State::Ready);
    let stopping = async {
        stop.await;
        systemd::notify(systemd::State::Stopping);
        stop_sender.send_replace(true);
    };
    let mut serving = pin!(api::server::serve(app, start, stop_receiver));
    // A daemon that was replaced is not stopped.
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stopping => serving.await,
    };
    if ended == Ended::Stopped {
        restart.end(&registry);
    }
    Ok(())
}

/// A daemon that can serve, and whose predecessor does not any more.
struct Started {
    reaper: Reaper,
    restart: Restart,
    socket: Socket,
    descriptors: Shares,
}

async fn start(
    options: &DaemonOptions,
    mut carried: Carried,
    taken: &mut Option<Taken>,
) -> Result<Started, StartupError> {
    let workers = Handle::current().metrics().num_workers();
    let connections = taken.as_ref().map_or(0, |taken| taken.connections.len());
    let descriptors = Shares::of_daemon(options, workers, connections)?;
    let mut restart = Restart::read(&mut carried)?;
    let prepared = prepare_reaper(options, descriptors, &mut restart)?;
    let (reaper, socket) = if let Some(taken) = taken {
        replace(options, carried, taken, &mut restart, prepared).await?
    } else {
        // From here on this process writes, and the former one must not.
        restart.begin();
        let reaper = prepared.start();
        restart.continued(reaper.len());
        if restart.carried_over.restarts == 0 {
            first_reports(&reaper, options).await?;
        } // Otherwise connections wait on the socket of the former worker.
        let mut socket = listen(options, carried)?;
        socket.begin();
        (reaper, socket)
    };
    log::info!("{}", banner(&socket, &reaper.status()));
    log::info!("{descriptors}");
    Ok(Started {
        reaper,
        restart,
        socket,
        descriptors,
    })
}

/// Starts everything without a change to what the former daemon still uses, and then takes its place.
async fn replace(
    options: &DaemonOptions,
    carried: Carried,
    taken: &mut Taken,
    restart: &mut Restart,
    prepared: Prepared,
) -> Result<(Reaper, Socket), StartupError> {
    let refused = &restart.carried_over.refused;
    if !refused.is_empty() {
        return Err(NotTaken::Unusable(refused.clone()).into());
    }
    let (reaper, ended) = prepared.start_paused();
    first_reports(&reaper, options).await?;
    let mut socket = listen(options, carried)?;
    taken.go()?;
    restart.begin();
    reaper.end_pause(ended);
    restart.continued(reaper.len());
    socket.begin();
    Ok((reaper, socket))
}

/// Listens on the socket of the former process, if there was one.
fn listen(options: &DaemonOptions, carried: Carried) -> Result<Socket, ListenError> {
    let (access, list) = (SocketAccess::of(options), AccessList::of(options));
    let former = (carried.listener, carried.lock);
    Socket::take_over(&options.socket, access, list, former)
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

/// A reaper that has read everything and changed nothing yet.
struct Prepared {
    reaper: PreparedReaper,
    token_files: TokenFiles,
}

impl Prepared {
    fn start(self) -> Reaper {
        let token_files = self.token_files;
        self.reaper
            .start_now(|registry| token_files.set_registry(registry))
    }

    fn start_paused(self) -> (Reaper, reaper::Ended) {
        let token_files = self.token_files;
        self.reaper
            .start_paused(|registry| token_files.set_registry(registry))
    }
}

fn prepare_reaper(
    options: &DaemonOptions,
    descriptors: Shares,
    restart: &mut Restart,
) -> Result<Prepared, StartupError> {
    let token_files = TokenFiles::default();
    let files_of_ended = token_files.clone();
    let (processes, next_process) = restart.processes();
    let registry = restart
        .registry()?
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
        .prepare(&processes, next_process);
    Ok(Prepared {
        reaper,
        token_files,
    })
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
