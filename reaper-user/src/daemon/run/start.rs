//! The start of the daemon. Its order: signals, process limits and protection of memory, the shares of
//! descriptors, what is left of a former daemon, sources, their first reports, the socket, what it took to
//! listen is given up, and last the notification that it serves. The socket comes after the reports, so
//! that a client that can connect can read the state of the sources.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reaper_registry::{Rules, Source};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::{Inherited, StartupError, main_pid};
use crate::clock;
use crate::daemon::accounts::{Accounts, Newcomers, of_registry};
use crate::daemon::api::listener::{AccessList, Folder, ListenError, Socket, SocketAccess};
use crate::daemon::api::server::Start;
use crate::daemon::api::{self, App};
use crate::daemon::carried::Carried;
use crate::daemon::config::DaemonOptions;
use crate::daemon::descriptors::Shares;
use crate::daemon::handover::Handovers;
use crate::daemon::handover::take::{NotTaken, Taken};
use crate::daemon::metrics::{Counters, listener as metrics_listener};
use crate::daemon::profile::pid_file::{self, PidFile};
use crate::daemon::reload::{self, Live};
use crate::daemon::restart::{CarriedOver, Restart};
use crate::daemon::systemd;
use crate::daemon::systemd::activation::PassedSocket;
use crate::daemon::systemd::reports::Reporting;
use crate::daemon::tcp::{Bearer, BoundListener, Door};
use crate::daemon::token_files::TokenFiles;
use crate::reaper::{self, PreparedReaper, Reaper};
use crate::sources;
use crate::sys::process_table;
use crate::watch::status::SourceStatus;

/// How long the start waits for the first reports of the sources.
const FIRST_REPORTS_TIMEOUT: Duration = Duration::from_millis(500);
/// The same if sources are required: long enough for two canaries of an event source.
const REQUIRED_REPORTS_TIMEOUT: Duration = Duration::from_secs(5);

/// A daemon that can serve, and whose predecessor does not any more.
pub(super) struct Started {
    pub(super) app: Arc<App>,
    pub(super) restart: Restart,
    pub(super) serving: Start,
}

/// Starts everything that comes before the first connection.
pub(super) async fn start(
    live: Live,
    inherited: Inherited,
    reporting: Option<Reporting>,
) -> Result<Started, StartupError> {
    let Inherited {
        carried,
        activated,
        mut taken,
        metrics,
        tcp,
    } = inherited;
    let started = clock::now();
    let workers = Handle::current().metrics().num_workers();
    let connections = taken.as_ref().map_or(0, |taken| taken.connections.len());
    let descriptors = Shares::of_daemon(&live.options(), workers, connections)?;
    #[cfg(target_os = "linux")]
    let mut carried = carried;
    #[cfg(target_os = "linux")]
    if let Some(settings) = carried.settings.take().filter(|_| carried.restarts > 0) {
        reload::kept::restore(&live, settings);
    }
    let options = live.options();
    let shares = descriptors.with_max_connections(options.max_connections);
    let newcomers = Newcomers::with(&options);
    let accounts = Accounts::new(owner(), newcomers, shares.limits(&options));
    let with = With {
        options: &options,
        descriptors,
        accounts: &accounts,
        reporting,
    };
    let former = Former {
        carried,
        activated,
        tcp,
    };
    let begun = begin(&with, former, &mut taken).await;
    let Begun {
        reaper,
        restart,
        socket,
        tcp,
    } = begun.inspect_err(|error| {
        if let Some(taken) = &taken {
            taken.give_up(&error.to_string());
        }
    })?;
    #[cfg(target_os = "linux")]
    crate::daemon::sandbox::listening(socket.access());
    log::info!("{}", banner(&socket, &reaper.status()));
    if let Some(door) = &tcp {
        log::info!("the API is also served on http://{}", door.address);
    }
    log::info!("{descriptors}");
    log::info!("{}", api::limits::Memory::of(&options, &accounts));
    let replaced = taken.as_ref().map_or(0, |taken| taken.rest.replaced);
    let (handovers, requests) = Handovers::new(replaced);
    let (events, _) = reaper.registry().subscribe(None);
    let app = Arc::new(App {
        reaper,
        live,
        descriptors,
        counters: counters(&restart.carried_over),
        metrics_listener: metrics.and_then(metrics_listener::open),
        tcp,
        conflicts: Mutex::default(),
        started,
        table: process_table::of_this_system(),
        epoch: restart.epoch,
        first_event: events.position(),
        accounts,
        secret_memory: restart.secret_memory.clone(),
        carried_over: restart.carried_over.clone(),
        belongings: restart.belongings(),
        handovers,
    });
    let serving = Start {
        pid_file: claim_pid_file(&options, &socket, taken.as_ref().map(|it| it.rest.pid)),
        socket,
        taken: taken.map_or_else(Vec::new, |taken| taken.connections),
        handovers: requests,
    };
    systemd::notify(systemd::State::Ready);
    Ok(Started {
        app,
        restart,
        serving,
    })
}

fn counters(carried: &CarriedOver) -> Counters {
    let counters = Counters::default();
    let sessions = u64::try_from(carried.sessions).unwrap_or(u64::MAX);
    counters.carried_over.store(sessions, Ordering::Relaxed);
    let restarts = u64::from(carried.restarts);
    counters.restarts.store(restarts, Ordering::Relaxed);
    counters
}

/// What the start is made with.
struct With<'a> {
    options: &'a DaemonOptions,
    descriptors: Shares,
    accounts: &'a Arc<Accounts>,
    reporting: Option<Reporting>,
}

/// What is there before the start.
struct Former {
    /// What the daemon before this one has left.
    carried: Carried,
    /// The socket of the service manager.
    activated: Option<PassedSocket>,
    /// The listening socket of TCP, bound by this process.
    tcp: Option<BoundListener>,
}

/// What has begun.
struct Begun {
    reaper: Reaper,
    restart: Restart,
    socket: Socket,
    tcp: Option<Door>,
}

/// Begins to change what is kept, once nothing else can fail.
async fn begin(
    with: &With<'_>,
    mut former: Former,
    taken: &mut Option<Taken>,
) -> Result<Begun, StartupError> {
    let tcp = former.tcp.take();
    let tcp = tcp
        .map(|bound| open_door(with.options, bound))
        .transpose()?;
    // A worker that replaces another one goes on beside the rival that the former one had.
    if taken.is_none() && former.carried.restarts == 0 {
        check_pid_file(with.options)?;
    }
    let mut restart = Restart::read(&mut former.carried)?;
    let prepared = prepare_reaper(with, &mut restart)?;
    let (reaper, socket) = if let Some(taken) = taken {
        replace(with.options, former, taken, &mut restart, prepared).await?
    } else {
        // From here on this process writes, and the former one must not.
        restart.begin();
        let reaper = prepared.start();
        restart.continued(reaper.len());
        if restart.carried_over.restarts == 0 {
            first_reports(&reaper, with.options).await?;
        } // Otherwise connections wait on the socket of the former worker.
        let mut socket = listen(with.options, former)?;
        socket.begin();
        (reaper, socket)
    };
    Ok(Begun {
        reaper,
        restart,
        socket,
        tcp,
    })
}

/// Starts everything without a change to what the former daemon still uses, and then takes its place.
async fn replace(
    options: &DaemonOptions,
    former: Former,
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
    let mut socket = listen(options, former)?;
    taken.go()?;
    restart.begin();
    reaper.end_pause(ended);
    restart.continued(reaper.len());
    socket.begin();
    Ok((reaper, socket))
}

/// Listens on the socket of the service manager or of the former process, if there is one.
fn listen(options: &DaemonOptions, former: Former) -> Result<Socket, ListenError> {
    let Former {
        carried, activated, ..
    } = former;
    if let Some(activated) = activated {
        return Socket::passed(activated);
    }
    let (access, list) = (SocketAccess::of(options), AccessList::of(options));
    let former = (carried.listener, carried.lock);
    Socket::take_over(&options.socket, access, list, former)
}

/// Opens the folder of the socket.
fn folder_of_socket(options: &DaemonOptions) -> Result<Folder, ListenError> {
    let path = &options.socket;
    let path = std::path::absolute(path).map_err(ListenError::system("resolve", path))?;
    Folder::of_socket(&path, SocketAccess::of(options))
}

/// Reads the bearer, or creates it, and prepares the API over TCP.
fn open_door(options: &DaemonOptions, bound: BoundListener) -> Result<Door, StartupError> {
    let bearer = Bearer::of_folder(&folder_of_socket(options)?)?;
    Door::open(bound, bearer, options.public_health).map_err(StartupError::Tcp)
}

/// Checks that no daemon of another program runs in this folder.
fn check_pid_file(options: &DaemonOptions) -> Result<(), StartupError> {
    if options.profile.is_some() {
        let table = process_table::of_this_system();
        pid_file::check_free(&folder_of_socket(options)?, main_pid(), table.as_ref())?;
    }
    Ok(())
}

fn claim_pid_file(
    options: &DaemonOptions,
    socket: &Socket,
    former: Option<u32>,
) -> Option<PidFile> {
    options.profile?;
    match Folder::of_socket(socket.path(), SocketAccess::of(options)) {
        Ok(folder) => {
            let table = process_table::of_this_system();
            Some(PidFile::claim(folder, main_pid(), former, table.as_ref()))
        }
        Err(error) => {
            log::error!("there is no pid file: {error}");
            None
        }
    }
}

/// Returns the daemon's own user.
fn owner() -> u32 {
    rustix::process::geteuid().as_raw()
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

fn prepare_reaper(with: &With<'_>, restart: &mut Restart) -> Result<Prepared, StartupError> {
    let options = with.options;
    let token_files = TokenFiles::default();
    let files_of_ended = token_files.clone();
    let sharing = with.accounts.clone();
    let Rules {
        ttl,
        max_ttl,
        limits,
        strict_replace,
    } = reload::rules(options);
    let (processes, next_process) = restart.processes();
    let registry = restart
        .registry()?
        .ttl(ttl)
        .max_ttl(max_ttl)
        .limits(limits)
        .strict_replace(strict_replace)
        .share_by(of_registry(owner(), move || sharing.newcomers()))
        .on_removed(move |session| files_of_ended.session_ended(session));
    let reaper = Reaper::builder(registry)
        .sources(options.sources.clone())
        .sweep_interval(options.sweep_interval)
        .max_pidfds(with.descriptors.processes)
        .beat_interval(with.reporting.map(|reporting| reporting.interval))
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
