//! Start and end of the daemon. Order of the end: the socket file, the `shutdown` event, connections,
//! sources.

mod start;

use std::cell::Cell;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use self::start::{Started, start};
use super::api;
use super::api::App;
use super::api::listener::ListenError;
use super::api::server::Ended;
use super::carried::Carried;
use super::config::DaemonOptions;
use super::descriptors::{self, TooFewDescriptors};
use super::handover::take::{NotTaken, Taken};
use super::metrics::listener as metrics;
use super::private_memory;
use super::profile::pid_file::AlreadyRuns;
use super::reload::Live;
use super::signals::{Ending, Signals};
use super::systemd;
use super::systemd::activation::PassedSocket;
use super::systemd::reports::Reporting;
use super::tcp::{BearerError, BoundListener};
use crate::watch::status::SourceStatus;

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
    #[error(transparent)]
    Replace(#[from] NotTaken),
    /// A file beside the socket cannot be used.
    #[error("{message}")]
    File { message: String, remedy: String },
    #[error("the API cannot be served over TCP: {0}")]
    Tcp(io::Error),
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
            Self::Signals(_) | Self::Tcp(_) => {
                "check the limit of open files (ulimit -n)".to_owned()
            }
            Self::Replace(error) => error.remedy().to_owned(),
            Self::File { remedy, .. } => remedy.clone(),
        }
    }
}

impl From<BearerError> for StartupError {
    fn from(error: BearerError) -> Self {
        Self::File {
            message: error.to_string(),
            remedy: error.remedy(),
        }
    }
}

impl From<AlreadyRuns> for StartupError {
    fn from(other: AlreadyRuns) -> Self {
        Self::File {
            message: other.to_string(),
            remedy: format!("use that daemon, or stop it first: kill {}", other.pid),
        }
    }
}

/// What a daemon continues, and where else it listens.
#[derive(Default)]
pub(crate) struct Inherited {
    /// What the one before it has left.
    pub(crate) carried: Carried,
    /// The socket, if the service manager has bound it.
    pub(crate) activated: Option<PassedSocket>,
    /// The one before it still runs, and has given this.
    pub(crate) taken: Option<Taken>,
    pub(crate) metrics: Option<BoundListener>,
    /// Where the API is served over TCP.
    pub(crate) tcp: Option<BoundListener>,
}

/// Runs the daemon until a signal ends it, or another daemon has replaced it. Changes limits and signals of
/// the process: call it once, at the start of the runtime.
pub(crate) async fn run(live: Live, inherited: Inherited) -> Result<Ending, StartupError> {
    let mut signals = Signals::receive().map_err(StartupError::Signals)?;
    descriptors::raise_open_file_limit();
    private_memory::protect_and_log();
    let reporting = Reporting::expected_of(main_pid());
    let started = start(live, inherited, reporting).await?;
    let app = started.app.clone();
    let stop = watch::Sender::new(false);
    let serving = started.serve(&stop);
    // What was requested last. Without a connection to wait for, serving ends first in any case.
    let requested = Cell::new(Ending::InOrder);
    // A daemon that was replaced is not stopped.
    let stopping = async {
        requested.set(signals.obey(&app).await);
        systemd::notify(systemd::State::Stopping);
        stop.send_replace(true);
        if requested.get() == Ending::InOrder {
            signals.hurry(has_monitor()).await;
            requested.set(Ending::AtOnce);
        }
        sleep(AT_ONCE_WITHIN).await;
    };
    let ending = tokio::select! {
        ended = serving => {
            if ended == Ended::Replaced {
                return Ok(Ending::InOrder);
            }
            requested.get()
        }
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
    let started = start(Live::fixed(options), Inherited::default(), None).await?;
    let stop_sender = watch::Sender::new(false);
    let stopping = async {
        stop.await;
        stop_sender.send_replace(true);
        pending::<Infallible>().await
    };
    tokio::select! {
        _ended = started.serve(&stop_sender) => Ok(()),
        never = stopping => match never {},
    }
}

impl Started {
    /// Serves until `stop` turns true, or until another process has everything.
    async fn serve(self, stop: &watch::Sender<bool>) -> Ended {
        let Self {
            app,
            restart,
            serving,
        } = self;
        let registry = app.reaper.registry().clone();
        let metrics = metrics::serve(app.clone(), stop.subscribe());
        let serving = async {
            let ended = api::server::serve(app, serving, stop.subscribe()).await;
            // Metrics end as well if it was replaced.
            stop.send_replace(true);
            ended
        };
        let (ended, ()) = tokio::join!(serving, metrics);
        if ended == Ended::Stopped {
            restart.end(&registry);
        }
        ended
    }
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
    pending::<()>().await;
}

/// Returns the pid of the process that the service manager has started.
pub(in crate::daemon) fn main_pid() -> u32 {
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
