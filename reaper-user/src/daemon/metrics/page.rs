//! The page of metrics: reads the state of the daemon, and writes it as OpenMetrics or as Prometheus's
//! older text. `docs/metrics.md` has the names; a test compares it with this page.

mod shares;
mod writer;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;

use self::writer::{NO_LABELS, Writer};
use super::process::ProcessNow;
use crate::clock;
use crate::daemon::api::App;
use crate::daemon::api::health::{degrades, is_degraded};
use crate::sources;
use crate::watch::counters::CHECKS_BY;
use crate::watch::status::SourceStatus;

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    OpenMetrics,
    /// What programs read that do not know OpenMetrics, such as the textfile collector.
    Text,
}

impl Format {
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Writes the page. Shows the shares of single users only to a reader that may see all of them.
pub(crate) fn page(app: &Arc<App>, format: Format, sees_users: bool) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page {
        app: app.clone(),
        sees_users,
    }));
    let mut text = String::with_capacity(16 * 1024);
    let written = match format {
        Format::OpenMetrics => prometheus_client::encoding::text::encode(&mut text, &registry),
        Format::Text => prometheus_client::encoding::prometheus_text::encode(&mut text, &registry),
    };
    written.expect("a string takes all text");
    text
}

struct Page {
    app: Arc<App>,
    sees_users: bool,
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").finish_non_exhaustive()
    }
}

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Writer(encoder);
        let app = &self.app;
        about(&mut out, app)?;
        sessions(&mut out, app)?;
        of_sources(&mut out, app)?;
        checks(&mut out, app)?;
        shares::write(&mut out, app, self.sees_users)?;
        requests(&mut out, app)?;
        process(&mut out, app)
    }
}

fn about(out: &mut Writer<'_>, app: &App) -> fmt::Result {
    let has_probe = if cfg!(feature = "ebpf") {
        "true"
    } else {
        "false"
    };
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("ebpf", has_probe)];
    out.info("reaperd_build", "The version of the daemon", labels)?;
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    out.counters(
        "reaperd_restarts",
        "Workers that ended and were replaced by this one or an earlier one",
        [(NO_LABELS, load(&app.counters.restarts))],
    )?;
    out.counters(
        "reaperd_sessions_carried_over",
        "Sessions that were taken over from a worker that ended",
        [(NO_LABELS, load(&app.counters.carried_over))],
    )
}

fn sessions(out: &mut Writer<'_>, app: &App) -> fmt::Result {
    let registry = app.reaper.registry();
    let totals = registry.totals();
    out.gauges(
        "reaperd_sessions",
        "Live sessions",
        [(NO_LABELS, registry.len())],
    )?;
    out.gauges(
        "reaperd_processes",
        "Processes that are watched",
        [(NO_LABELS, app.reaper.processes())],
    )?;
    out.counters(
        "reaperd_registrations",
        "Sessions that were stored, without renewals",
        [(NO_LABELS, totals.registered)],
    )?;
    out.counters(
        "reaperd_renewals",
        "Registrations that renewed a session",
        [(NO_LABELS, totals.renewed)],
    )?;
    let removals = totals.removed.iter().map(|it| {
        let source = it.source.map_or("none", |source| source.name());
        ([("cause", it.cause), ("source", source)], it.count)
    });
    out.counters(
        "reaperd_removals",
        "Sessions that were removed, by cause and by the source that led to it",
        removals,
    )?;
    out.counters(
        "reaperd_history_gaps",
        "Gaps that were sent to readers that fell behind the history of events",
        [(NO_LABELS, app.counters.gaps.load(Ordering::Relaxed))],
    )
}

fn of_sources(out: &mut Writer<'_>, app: &App) -> fmt::Result {
    let statuses = app.reaper.status();
    let wanted: Vec<_> = statuses.iter().filter(|status| status.wanted).collect();
    let by_source = |value: &dyn Fn(&SourceStatus) -> u64| {
        let values = wanted.iter();
        let values = values.map(|status| ([("source", status.source.name())], value(status)));
        values.collect::<Vec<_>>()
    };
    out.gauges(
        "reaperd_source_up",
        "Whether the source works, with or without limits; only sources that are used",
        by_source(&|status| u64::from(status.works())),
    )?;
    out.gauges(
        "reaperd_source_degrades",
        "Whether the state of the source makes the daemon degraded",
        by_source(&|status| u64::from(degrades(status, &app.options()))),
    )?;
    out.counters(
        "reaperd_events_lost",
        "Events of the kernel that are known to be lost; each loss is followed by a sweep",
        by_source(&|status| status.lost),
    )?;
    let degraded = is_degraded(&statuses, &app.options());
    out.gauges(
        "reaperd_degraded",
        "Whether the status in /v1/health is degraded",
        [(NO_LABELS, u64::from(degraded))],
    )
}

fn checks(out: &mut Writer<'_>, app: &App) -> fmt::Result {
    let watched = app.reaper.watched();
    let counters = app.reaper.counters();
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    out.histograms(
        "reaperd_detection_seconds",
        "From the exit of a process to its removal, where the kernel reported the time of the exit",
        sources::ALL.map(|source| ([("source", source.name())], counters.detection.of(source))),
    )?;
    let unknown = CHECKS_BY.map(|it| ([("source", it.name())], load(counters.unknown.of(it))));
    out.counters(
        "reaperd_verdicts_unknown",
        "Checks of a process without a result; its sessions are kept",
        unknown,
    )?;
    let lost = CHECKS_BY.map(|it| ([("source", it.name())], watched.hints.overflowed(it)));
    out.counters(
        "reaperd_hints_lost",
        "Hints that did not fit into the queue of the loop; each is followed by a sweep",
        lost,
    )?;
    out.gauges(
        "reaperd_hints_waiting",
        "Hints that the loop has not taken yet",
        [(NO_LABELS, watched.hints.waiting())],
    )?;
    out.counters(
        "reaperd_loop_restarts",
        "Restarts of the loop that removes dead processes, after a panic",
        [(NO_LABELS, load(&counters.loop_restarts))],
    )?;
    sweeps(out, app)
}

fn sweeps(out: &mut Writer<'_>, app: &App) -> fmt::Result {
    out.histograms(
        "reaperd_sweep_duration_seconds",
        "How long sweeps took",
        [(NO_LABELS, &app.reaper.counters().sweeps)],
    )?;
    out.gauges(
        "reaperd_sweep_interval_seconds",
        "The time between two sweeps",
        [(NO_LABELS, app.options().sweep_interval.as_secs_f64())],
    )?;
    let age = app.reaper.swept_at().map(|at| clock::now().boot.since(at));
    let age = age.map(|age| (NO_LABELS, age.as_secs_f64()));
    out.gauges(
        "reaperd_sweep_age_seconds",
        "The time since the last complete sweep began; absent before the first one",
        age,
    )
}

fn requests(out: &mut Writer<'_>, app: &App) -> fmt::Result {
    let responses = app.counters.responses().map(|(route, status, count)| {
        let labels = [("route", route.name()), ("status", status)];
        (labels, count)
    });
    out.counters(
        "reaperd_requests",
        "Responses by route and class of status; of event streams, those that began",
        responses,
    )?;
    let refusals = app.counters.refusals.all();
    out.counters(
        "reaperd_refusals",
        "Requests and connections that were refused, by the code of the error",
        refusals.map(|(reason, count)| ([("reason", reason)], count)),
    )
}

fn process(out: &mut Writer<'_>, app: &App) -> fmt::Result {
    let now = ProcessNow::read();
    out.gauges(
        "process_start_time_seconds",
        "When the worker began to serve, in seconds since 1970",
        [(
            NO_LABELS,
            Duration::from_millis(app.started.wall_ms).as_secs_f64(),
        )],
    )?;
    out.counters(
        "process_cpu_seconds",
        "Time on a processor, of user and system",
        [(NO_LABELS, now.cpu_seconds)],
    )?;
    let resident = now.resident_bytes.map(|bytes| (NO_LABELS, bytes));
    out.gauges("process_resident_memory_bytes", "Resident memory", resident)?;
    let of_addresses = now.virtual_bytes.map(|bytes| (NO_LABELS, bytes));
    out.gauges(
        "process_virtual_memory_bytes",
        "Virtual memory",
        of_addresses,
    )?;
    let open = now.open_fds.map(|count| (NO_LABELS, count));
    out.gauges("process_open_fds", "Open descriptors", open)?;
    out.gauges(
        "process_max_fds",
        "The limit of open descriptors",
        [(NO_LABELS, now.max_fds)],
    )
}
