//! The regular reports: that the loop runs, and the line of `systemctl status`.
//!
//! Both follow the beats of the loop that removes dead processes. A loop that hangs has none, the watchdog of
//! the service manager runs out, and the daemon is restarted, although everything else may still work.

use std::env;
use std::fmt;
use std::time::Duration;

use reaper_registry::{Source, SourceHealth};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::{State, notify};
use crate::daemon::api::App;
use crate::watch::status::SourceStatus;

/// How often the line can change.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);
/// Reports within one period of the watchdog; `sd_watchdog_enabled(3)` recommends two at least. With four
/// a busy machine may lose some.
const REPORTS_PER_PERIOD: u32 = 4;
/// A watchdog with a shorter period would keep the loop busy with reports.
const SHORTEST: Duration = Duration::from_millis(10);

/// How the regular reports are made. `None`: no service manager reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reporting {
    /// The pause between two beats of the loop.
    pub(crate) interval: Duration,
    has_watchdog: bool,
}

impl Reporting {
    /// Returns what the service manager expects of the process with this pid, which it has started.
    pub(crate) fn expected_of(main_pid: u32) -> Option<Self> {
        Self::from_variables(main_pid, |name| env::var(name).ok())
    }

    fn from_variables(main_pid: u32, variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        variable("NOTIFY_SOCKET")?;
        let number = |name: &str| variable(name)?.parse::<u64>().ok();
        let is_meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(main_pid));
        let period = number("WATCHDOG_USEC").filter(|period| is_meant && *period > 0);
        let interval = period.map(|period| Duration::from_micros(period) / REPORTS_PER_PERIOD);
        Some(Self {
            interval: interval
                .unwrap_or(STATUS_INTERVAL)
                .clamp(SHORTEST, STATUS_INTERVAL),
            has_watchdog: interval.is_some(),
        })
    }

    /// Reports now and with each beat, until there are no more. Cancel-safe.
    pub(crate) async fn run(self, app: &App, mut beats: watch::Receiver<()>) {
        let mut shown = None;
        beats.mark_changed();
        while beats.changed().await.is_ok() {
            let summary = Summary::of(app);
            let status = (shown != Some(summary)).then_some(State::Status(summary));
            shown = Some(summary);
            let alive = self.has_watchdog.then_some(State::Alive);
            // The monitor may be busy for some milliseconds.
            let reported = spawn_blocking(move || alive.into_iter().chain(status).for_each(notify));
            if reported.await.is_err() {
                log::error!("a report to the service manager panicked");
            }
        }
    }
}

/// What the line of `systemctl status` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) sessions: u32,
    pub(crate) sources: Sources,
    /// Lost events of all sources.
    pub(crate) lost: u64,
}

impl Summary {
    fn of(app: &App) -> Self {
        let status = app.reaper.status();
        Self {
            sessions: u32::try_from(app.reaper.len()).unwrap_or(u32::MAX),
            sources: Sources::of(&status),
            lost: status.iter().map(|source| source.lost).sum(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.sessions == 1 { "" } else { "s" };
        write!(f, "{} session{plural}", self.sessions)?;
        for (source, word) in self.sources.words() {
            write!(f, ", {source} {word}")?;
        }
        write!(f, ", {} lost", self.lost)
    }
}

/// The states of all sources, with one byte for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sources(u32);

impl Sources {
    const ALL: [Source; 4] = [Source::Netlink, Source::Ebpf, Source::Pidfd, Source::Sweep];
    /// The words by number. A source with the number 0 is left out.
    const WORDS: [&str; 5] = ["", "starting", "ok", "limited", "down"];

    /// A source that has never worked here is left out: the daemon does without it.
    fn of(status: &[SourceStatus]) -> Self {
        let number = |source: Source| {
            let status = status.iter().find(|status| status.source == source);
            status.map_or(0, |status| match status.health {
                None if status.wanted => 1,
                Some(SourceHealth::Up) => 2,
                Some(SourceHealth::Degraded) => 3,
                Some(SourceHealth::Down) if status.has_worked => 4,
                Some(SourceHealth::Down) | None => 0,
            })
        };
        Self(u32::from_ne_bytes(Self::ALL.map(number)))
    }

    pub(super) const fn bits(self) -> u32 {
        self.0
    }

    #[cfg(target_os = "linux")]
    pub(super) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    fn words(self) -> impl Iterator<Item = (Source, &'static str)> {
        let word = |(source, number): (Source, u8)| {
            let word = Self::WORDS.get(usize::from(number)).copied();
            Some((source, word.filter(|word| !word.is_empty())?))
        };
        Self::ALL
            .into_iter()
            .zip(self.0.to_ne_bytes())
            .filter_map(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(source: Source, health: Option<SourceHealth>, has_worked: bool) -> SourceStatus {
        SourceStatus {
            source,
            wanted: true,
            has_worked,
            health,
            reason: String::new(),
            remedy: String::new(),
            detail: String::new(),
            lost: 0,
            forged: 0,
        }
    }

    #[test]
    fn the_line_has_sessions_sources_and_losses() {
        let mut summary = Summary {
            sessions: 12,
            sources: Sources::of(&[
                status(Source::Netlink, Some(SourceHealth::Up), true),
                status(Source::Ebpf, Some(SourceHealth::Down), false),
                status(Source::Pidfd, Some(SourceHealth::Down), true),
                status(Source::Sweep, None, false),
            ]),
            lost: 3,
        };
        let line = "12 sessions, netlink ok, pidfd down, sweep starting, 3 lost";
        assert_eq!(summary.to_string(), line);
        summary = Summary {
            sessions: 1,
            sources: Sources(0xffff_ffff),
            lost: 0,
        };
        assert_eq!(summary.to_string(), "1 session, 0 lost");
    }

    fn reporting(usec: Option<&str>, pid: Option<&str>) -> Option<Reporting> {
        Reporting::from_variables(7, |name| {
            let value = match name {
                "NOTIFY_SOCKET" => Some("/run/x"),
                "WATCHDOG_USEC" => usec,
                "WATCHDOG_PID" => pid,
                _ => None,
            };
            value.map(str::to_owned)
        })
    }

    #[test]
    fn the_watchdog_is_reported_to_in_time_if_it_is_for_this_daemon() {
        let with = |interval, has_watchdog| {
            Some(Reporting {
                interval,
                has_watchdog,
            })
        };
        let second = Some("1000000");
        assert_eq!(
            reporting(second, Some("7")),
            with(Duration::from_millis(250), true)
        );
        assert_eq!(
            reporting(second, None),
            with(Duration::from_millis(250), true)
        );
        assert_eq!(
            reporting(second, Some("8")),
            with(STATUS_INTERVAL, false),
            "another's"
        );
        assert_eq!(reporting(Some("1"), None), with(SHORTEST, true));
        assert_eq!(
            reporting(Some("60000000"), None),
            with(STATUS_INTERVAL, true)
        );
        assert_eq!(reporting(Some("0"), None), with(STATUS_INTERVAL, false));
        assert_eq!(Reporting::from_variables(7, |_| None), None);
    }
}
