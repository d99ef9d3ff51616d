//! The state of the daemon: `/v1/sources`, `/v1/health` and `/v1/version`.

use std::collections::BTreeMap;
use std::time::Duration;

use reaper_registry::{EventKind, Moment, Session, Source, SourceHealth};

use super::wire::{
    About, CarriedOverView, Health, LastExit, MemoryView, PublicHealth, SandboxView, SourceReport,
    SourceView, wall_ms_of,
};
use super::{App, Peer};
use crate::clock;
use crate::daemon::config::DaemonOptions;
use crate::daemon::profile::Profile;
use crate::daemon::restart::CarriedOver;
#[cfg(target_os = "linux")]
use crate::daemon::sandbox::Report;
use crate::engine;
use crate::sys::secret_arena::ArenaState;
use crate::watch::status::SourceStatus;

/// `/v1/version`.
pub(super) fn version(options: &DaemonOptions) -> About<'_> {
    let advertised = options.advertise_version.as_deref();
    About {
        daemon_version: advertised.unwrap_or(env!("CARGO_PKG_VERSION")),
        reaperd_version: env!("CARGO_PKG_VERSION"),
        ipc_api: "v1",
        ipc_features: &[
            "version", "health", "events", "sessions", "sources", "limits", "metrics",
        ],
        schema_version: 1,
    }
}

/// `/v1/health` for those who are unknown.
pub(super) fn public(app: &App) -> PublicHealth {
    let options = app.options();
    PublicHealth {
        ok: true,
        pid: shown_pid(&options),
        brokers: brokers(&options),
        status: overall(&app.reaper.status(), &options),
    }
}

/// Returns the pid that clients of the profile find in the pid file too; otherwise the worker's.
fn shown_pid(options: &DaemonOptions) -> u32 {
    let of_monitor = monitor_pid().filter(|_| options.profile.is_some());
    of_monitor.unwrap_or_else(std::process::id)
}

/// Returns what the options say about brokers. The daemon does not look for them.
fn brokers(options: &DaemonOptions) -> BTreeMap<String, &'static str> {
    let slugs = options.brokers.iter();
    slugs.map(|slug| (slug.clone(), "open")).collect()
}

/// The data of `/v1/sources`.
pub(super) struct SourcesNow {
    statuses: Vec<SourceStatus>,
    overall: &'static str,
    sweep_interval: Duration,
    processes: usize,
    sessions: usize,
}

pub(super) fn sources(app: &App) -> SourcesNow {
    let statuses = app.reaper.status();
    SourcesNow {
        overall: overall(&statuses, &app.options()),
        statuses,
        sweep_interval: app.options().sweep_interval,
        processes: app.reaper.processes(),
        sessions: app.reaper.registry().len(),
    }
}

impl SourcesNow {
    pub(super) fn view(&self) -> SourceReport<'_> {
        SourceReport {
            schema: 1,
            status: self.overall,
            worst_case_delay_ms: u64::try_from(self.sweep_interval.as_millis()).unwrap_or(u64::MAX),
            sources: self.statuses.iter().map(SourceView::from).collect(),
            processes: self.processes,
            sessions: self.sessions,
        }
    }
}

/// `/v1/health`.
pub(super) fn health(app: &App, peer: Peer) -> Health {
    let options = app.options();
    let statuses = app.reaper.status();
    let states = statuses
        .iter()
        .map(|status| (status.source.name(), status.state()));
    let forged = statuses
        .iter()
        .filter(|status| status.wanted)
        .map(|status| (status.source.name(), status.forged));
    Health {
        forged: forged.collect(),
        ok: true,
        pid: shown_pid(&options),
        worker_pid: std::process::id(),
        monitor_pid: monitor_pid(),
        started_at: app.started.wall_ms,
        uptime_ms: since(app.started),
        last_exit: last_exit(app, peer),
        brokers: brokers(&options),
        status: overall(&statuses, &options),
        profile: options.profile.map(Profile::name),
        tcp: app.tcp.as_ref().map(|door| door.address.to_string()),
        conflicts: app.conflicts(),
        sources: states.collect::<BTreeMap<_, _>>(),
        reap_loop_restarts: app.reaper.loop_restarts(),
        replaced: app.handovers.replaced,
        memory: memory(app.secret_memory.state()),
        sandbox: sandbox(),
        restarts: app.carried_over.restarts,
        carried_over: carried_over(app),
        config: app.live.view(),
    }
}

fn carried_over(app: &App) -> CarriedOverView {
    let CarriedOver {
        restarts: _,
        sessions,
        ended,
        damaged,
        ref refused,
        is_kept,
    } = app.carried_over;
    CarriedOverView {
        sessions,
        ended,
        damaged,
        refused: refused.clone(),
        is_kept: is_kept && app.belongings.are_complete(),
    }
}

/// Milliseconds since then, with time in suspend and without steps of the wall clock.
fn since(then: Moment) -> u64 {
    let span = clock::now()
        .boot
        .as_nanos()
        .saturating_sub(then.boot.as_nanos());
    span / 1_000_000
}

/// Returns the session that the caller may see whose process ended last.
fn last_exit(app: &App, peer: Peer) -> Option<LastExit> {
    let owner = (!peer.is_root()).then_some(peer.uid);
    let event = app.reaper.registry().last_death(owner)?;
    let EventKind::Deregistered(session, removal) = &event.kind else {
        return None;
    };
    Some(LastExit {
        at: event.at.wall_ms,
        ago_ms: since(event.at),
        session_id: session.id.as_str().to_owned(),
        pid: session.process.pid.get(),
        end: removal.into(),
    })
}

fn memory(state: ArenaState) -> MemoryView {
    let ArenaState {
        protection,
        bytes,
        reason,
    } = state;
    MemoryView {
        kind: protection.name(),
        bytes,
        reason,
    }
}

#[cfg(target_os = "linux")]
fn monitor_pid() -> Option<u32> {
    crate::daemon::monitor::pid()
}

#[cfg(target_os = "linux")]
#[expect(clippy::unnecessary_wraps, reason = "the same signature everywhere")]
fn sandbox() -> Option<SandboxView> {
    let report = Report::of_this_process();
    Some(SandboxView {
        user: report.user,
        capabilities: report.capabilities,
        bounding_set: report.bounding_set,
        no_new_privs: report.no_new_privs,
        seccomp: if report.seccomp { "filter" } else { "off" },
        landlock: report.landlock,
        monitor: monitor_pid().is_some(),
    })
}

/// Only Linux has one.
#[cfg(not(target_os = "linux"))]
fn sandbox() -> Option<SandboxView> {
    None
}

/// Only Linux has a monitor.
#[cfg(not(target_os = "linux"))]
fn monitor_pid() -> Option<u32> {
    None
}

/// Returns `degraded` or `ok`. Degraded means that a source is degraded, the sweep or a required
/// source is down, or:
/// - with the default sources, a source that has worked is down, or none but the sweep works;
/// - with a list of sources, one of them is down.
fn overall(statuses: &[SourceStatus], options: &DaemonOptions) -> &'static str {
    if is_degraded(statuses, options) {
        "degraded"
    } else {
        "ok"
    }
}

/// Returns whether the state is `degraded`.
pub(crate) fn is_degraded(statuses: &[SourceStatus], options: &DaemonOptions) -> bool {
    let delivers_events = |status: &SourceStatus| status.source != Source::Sweep && status.works();
    let only_sweep_works = is_auto(options) && !statuses.iter().any(delivers_events);
    only_sweep_works || statuses.iter().any(|status| degrades(status, options))
}

/// Returns whether the state of this source alone makes the daemon degraded.
pub(crate) fn degrades(status: &SourceStatus, options: &DaemonOptions) -> bool {
    match status.health {
        None | Some(SourceHealth::Up) => false,
        Some(SourceHealth::Degraded) => true,
        Some(SourceHealth::Down) => {
            !is_auto(options)
                || status.has_worked
                || status.source == Source::Sweep
                || options.require.contains(&status.source)
        }
    }
}

fn is_auto(options: &DaemonOptions) -> bool {
    options.sources == engine::Sources::default()
}

/// Returns when the session's process was last found alive: at the last complete sweep or at
/// registration.
pub(super) fn verified_at(app: &App, session: &Session) -> u64 {
    let at_registration = session.registered_at.wall_ms;
    let at_sweep = app
        .reaper
        .swept_at()
        .map(|swept_at| wall_ms_of(swept_at.as_nanos(), clock::now()));
    at_sweep.map_or(at_registration, |at_sweep| at_sweep.max(at_registration))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(source: Source, health: Option<SourceHealth>) -> SourceStatus {
        SourceStatus {
            source,
            wanted: health.is_some(),
            has_worked: false,
            health,
            reason: String::new(),
            remedy: String::new(),
            detail: String::new(),
            lost: 0,
            forged: 0,
        }
    }

    #[test]
    fn the_state_depends_on_default_listed_and_required_sources() {
        use SourceHealth::{Degraded, Down, Up};
        let auto = DaemonOptions::on("/x");
        let require = DaemonOptions {
            require: vec![Source::Netlink],
            ..auto.clone()
        };
        let list = DaemonOptions {
            sources: engine::Sources::only([Source::Netlink, Source::Pidfd]),
            ..auto.clone()
        };
        let sweep_only = DaemonOptions {
            sources: engine::Sources::only([]),
            ..auto.clone()
        };
        for (options, netlink, pidfd, sweep, expected) in [
            (&auto, Some(Up), Some(Up), Up, "ok"),
            (&auto, Some(Down), Some(Up), Up, "ok"),
            (&auto, Some(Down), Some(Down), Up, "degraded"),
            (&auto, Some(Down), Some(Degraded), Up, "degraded"),
            (&auto, Some(Up), Some(Up), Degraded, "degraded"),
            (&require, Some(Down), Some(Up), Up, "degraded"),
            (&list, Some(Down), Some(Up), Up, "degraded"),
            (&list, Some(Up), Some(Up), Up, "ok"),
            (&sweep_only, None, None, Up, "ok"),
        ] {
            let statuses = [
                status(Source::Netlink, netlink),
                status(Source::Ebpf, None),
                status(Source::Pidfd, pidfd),
                status(Source::Sweep, Some(sweep)),
            ];
            assert_eq!(
                overall(&statuses, options),
                expected,
                "{netlink:?} {pidfd:?}"
            );
        }
    }

    #[test]
    fn a_source_that_worked_and_is_down_degrades_the_daemon() {
        let mut statuses = [
            status(Source::Netlink, Some(SourceHealth::Down)),
            status(Source::Pidfd, Some(SourceHealth::Up)),
            status(Source::Sweep, Some(SourceHealth::Up)),
        ];
        let auto = DaemonOptions::on("/x");
        assert_eq!(overall(&statuses, &auto), "ok");
        statuses[0].has_worked = true;
        assert_eq!(overall(&statuses, &auto), "degraded");
    }
}
