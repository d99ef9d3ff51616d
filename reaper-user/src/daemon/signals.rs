//! The signals that the daemon receives, and what each does.
//!
//! | signal | effect |
//! |---|---|
//! | SIGHUP | reads the configuration again; never ends the daemon |
//! | SIGTERM, SIGINT | ends it in order; a second one at once |
//! | SIGQUIT | ends it at once |
//! | SIGUSR1 | writes its state to the log |
//! | SIGUSR2 | nothing; one line in the log |
//!
//! A SIGINT that the program was started to ignore stays ignored, as shells start commands in the
//! background. With a monitor, that one counts: a terminal and a service manager send a signal to both
//! processes, so the worker may get one request to end twice. The second request comes as SIGQUIT.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};

use super::api::App;
use super::systemd;
use crate::sys::signal_action;

/// Those that end the daemon. A worker blocks them from its first moment until it can receive them.
#[cfg(target_os = "linux")]
pub(crate) const ENDING: [Signal; 3] = [Signal::TERM, Signal::INT, Signal::QUIT];

/// What a signal requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Reload,
    Stop(&'static str),
    StopNow,
    LogState,
    Nothing,
    Reap,
}

/// How the daemon is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    InOrder,
    /// Connections are cut off.
    AtOnce,
}

/// The signals of this process, received from now on.
pub(crate) struct Signals {
    hangup: unix::Signal,
    terminate: unix::Signal,
    /// `None`: it is ignored.
    interrupt: Option<unix::Signal>,
    quit: unix::Signal,
    user_1: unix::Signal,
    user_2: unix::Signal,
    /// Pid 1 inherits the processes whose parents have ended.
    child: Option<unix::Signal>,
}

/// Ignores the signals that would end the program before [`Signals::receive`].
pub(crate) fn ignore_until_received() {
    // With a limit of the size of files (RLIMIT_FSIZE), memory files fail with an error instead.
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::XFSZ] {
        if let Err(error) = signal_action::ignore(signal) {
            log::debug!("{signal:?} is not ignored: {error}");
        }
    }
}

impl Signals {
    /// Receives the signals of this process. Must be called within a tokio runtime.
    pub(crate) fn receive() -> io::Result<Self> {
        let is_first = rustix::process::getpid().is_init();
        let unless_ignored =
            |kind, signal| (!signal_action::is_ignored(signal)).then(|| unix::signal(kind));
        let received = Self {
            hangup: unix::signal(SignalKind::hangup())?,
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unless_ignored(SignalKind::interrupt(), Signal::INT).transpose()?,
            quit: unix::signal(SignalKind::quit())?,
            user_1: unix::signal(SignalKind::user_defined1())?,
            user_2: unix::signal(SignalKind::user_defined2())?,
            child: is_first
                .then(|| unix::signal(SignalKind::child()))
                .transpose()?,
        };
        // What came meanwhile comes now.
        #[cfg(target_os = "linux")]
        crate::sys::signals::unblock(&ENDING)?;
        Ok(received)
    }

    async fn next(&mut self) -> Request {
        let interrupted = received(&mut self.interrupt);
        let child_ended = received(&mut self.child);
        tokio::select! {
            biased;
            _ = self.quit.recv() => Request::StopNow,
            _ = self.terminate.recv() => Request::Stop("SIGTERM"),
            () = interrupted => Request::Stop("SIGINT"),
            _ = self.hangup.recv() => Request::Reload,
            _ = self.user_1.recv() => Request::LogState,
            _ = self.user_2.recv() => Request::Nothing,
            () = child_ended => Request::Reap,
        }
    }

    /// Does what signals request, until one ends the daemon.
    pub(crate) async fn obey(&mut self, app: &App) -> Ending {
        loop {
            match self.next().await {
                Request::Reload => {
                    log::info!("SIGHUP: reading the configuration again");
                    systemd::notify(systemd::State::Reloading);
                    super::reload::reload(app).await;
                    systemd::notify(systemd::State::Ready);
                }
                Request::Stop(signal) => {
                    log::info!("{signal}: stopping");
                    return Ending::InOrder;
                }
                Request::StopNow => {
                    log::warn!("SIGQUIT: stopping at once");
                    return Ending::AtOnce;
                }
                Request::LogState => log_state(app),
                Request::Nothing => log::info!("SIGUSR2 has no effect"),
                Request::Reap => reap_orphans(),
            }
        }
    }

    /// Waits, while the daemon ends in order, for a request to end at once.
    pub(crate) async fn hurry(&mut self, has_monitor: bool) {
        loop {
            match self.next().await {
                Request::StopNow => log::warn!("SIGQUIT, or a second signal: stopping at once"),
                Request::Stop(signal) if !has_monitor => {
                    log::warn!("a second {signal}: stopping at once");
                }
                Request::Reap => {
                    reap_orphans();
                    continue;
                }
                _ => continue,
            }
            return;
        }
    }
}

async fn received(signal: &mut Option<unix::Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Collects the processes that have ended and have no other parent than this process, pid 1.
fn reap_orphans() {
    use rustix::process::{WaitOptions, wait};
    while let Ok(Some((pid, _))) = wait(WaitOptions::NOHANG) {
        log::debug!("orphaned process {} has ended", pid.as_raw_nonzero());
    }
}

fn log_state(app: &App) {
    let registry = app.reaper.registry();
    let sources: Vec<_> = app
        .reaper
        .status()
        .iter()
        .map(|status| format!("{} {}", status.source.name(), status.state()))
        .collect();
    log::info!(
        "SIGUSR1: {} sessions of {} processes, {} users with connections; {}",
        registry.len(),
        app.reaper.processes(),
        app.accounts.users().len(),
        sources.join(", ")
    );
    let config = app.live.view();
    log::info!(
        "SIGUSR1: configuration from {:?}, error {:?}, needs a restart {:?}",
        config.files,
        config.error,
        config.needs_restart
    );
}
