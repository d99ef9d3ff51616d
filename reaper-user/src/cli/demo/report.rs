//! The demo's output: a table as the demo runs, or one JSON object at the end.

use std::io::{self, Write as _};
use std::time::Duration;

use reaper_registry::{ExitStatus, Pid};
use serde::Serialize;
use serde_json::json;

use super::events::Removal;
use crate::cli::output::{escape, exit_status, json_line, micros, milliseconds};
use crate::cli::progress::Progress;
use crate::client::{ExitSeen, SourceReport, SourcesReport};

/// What the removal of a session must look like.
pub(super) struct Expected {
    pub(super) ended_ns: u64,
    pub(super) max_delay: Duration,
    /// The exit status, where a source reports one.
    pub(super) status: ExitStatus,
}

/// How a test process ended and how its session was removed.
#[derive(Debug, Default, Serialize)]
pub(super) struct Row {
    session: &'static str,
    pid: u32,
    ended: &'static str,
    reported: Option<String>,
    source: Option<String>,
    evidence: Option<String>,
    gone_after_us: Option<u64>,
    pub(super) problem: Option<String>,
}

impl Row {
    pub(super) fn new(session: &'static str, pid: Pid, ended: &'static str) -> Self {
        Self {
            session,
            pid: pid.get(),
            ended,
            ..Self::default()
        }
    }

    /// Fills in the removal and compares it with what is expected.
    pub(super) fn check(&mut self, removal: Option<&Removal>, expected: &Expected) {
        let Some(Removal { received_ns, event }) = removal else {
            self.problem = Some("the session was not removed in time".to_owned());
            return;
        };
        let delay = Duration::from_nanos(received_ns.saturating_sub(expected.ended_ns));
        let status = event.exit.as_ref().and_then(ExitSeen::status);
        let text = status.map(exit_status);
        self.reported = text.or_else(|| Some(event.cause.replace('_', " ")));
        self.source.clone_from(&event.source);
        self.evidence.clone_from(&event.evidence);
        self.gone_after_us = Some(micros(delay));
        self.problem = if *received_ns < expected.ended_ns {
            Some("the session was removed before the process ended".to_owned())
        } else if !matches!(event.cause.as_str(), "exited" | "pid_reused") {
            Some(format!("unexpected cause {:?}", event.cause))
        } else if status.is_some_and(|status| !same(status, expected.status)) {
            Some(format!(
                "wrong exit status; expected {}",
                exit_status(expected.status)
            ))
        } else if delay > expected.max_delay {
            Some(format!("removed later than {:?}", expected.max_delay))
        } else {
            None
        };
    }
}

/// Whether both statuses are equal, apart from a core dump.
fn same(a: ExitStatus, b: ExitStatus) -> bool {
    match (a, b) {
        (ExitStatus::Signal { signal: a, .. }, ExitStatus::Signal { signal: b, .. }) => a == b,
        (a, b) => a == b,
    }
}

#[derive(Default, Serialize)]
pub(super) struct Report {
    #[serde(skip)]
    progress: Progress,
    sources: Vec<serde_json::Value>,
    #[serde(rename = "test_processes")]
    rows: Vec<Row>,
    skipped: Vec<String>,
    problems: Vec<String>,
    controls: usize,
    #[serde(rename = "untouched")]
    unaffected: usize,
    took_ms: u64,
}

impl Report {
    /// Begins a report of so many sessions that end.
    pub(super) fn new(json: bool, sessions: usize) -> Self {
        Self {
            progress: Progress::new(json, sessions),
            ..Self::default()
        }
    }

    pub(super) fn start(&self) -> io::Result<()> {
        self.progress.line(
            "Starting a private daemon and test processes in a temporary directory. \
             Nothing is installed.",
        )
    }

    /// Prints the sources and the head of the table.
    pub(super) fn set_sources(
        &mut self,
        report: &SourcesReport,
        sweep: Duration,
    ) -> io::Result<()> {
        self.sources = report
            .sources
            .iter()
            .map(|s| json!({ "source": s.source, "state": s.state, "reason": s.reason }))
            .collect();
        self.progress.line(&sources_line(&report.sources, sweep))?;
        self.progress.line("")?;
        self.progress.line(&table_line([
            "SESSION",
            "PID",
            "ENDED BY",
            "REPORTED AS",
            "SOURCE",
            "REMOVED AFTER",
        ]))
    }

    /// Shows which removal is waited for.
    pub(super) fn waiting(&self, session: &str, title: &str) {
        let text = format!("waiting for the removal of {session} ({title})");
        self.progress.doing(text);
    }

    pub(super) fn add(&mut self, row: Row) -> io::Result<()> {
        self.progress.done(1);
        let after = row
            .gone_after_us
            .map_or_else(|| "never".to_owned(), milliseconds);
        self.progress.line(&table_line([
            row.session,
            &row.pid.to_string(),
            row.ended,
            row.reported.as_deref().unwrap_or("-"),
            row.source.as_deref().unwrap_or("-"),
            &format!("{after:>13}"),
        ]))?;
        if let Some(problem) = &row.problem {
            self.problems.push(format!("{}: {problem}", row.session));
        }
        self.rows.push(row);
        Ok(())
    }

    pub(super) fn skip(&mut self, step: &str, reason: &str) {
        self.skipped.push(format!("{step}: {reason}"));
    }

    pub(super) fn problem(&mut self, subject: &str, text: &str) {
        self.problems.push(format!("{subject}: {text}"));
    }

    /// Sets how many controls there were, how many kept their sessions, and the duration.
    pub(super) fn set_controls(&mut self, controls: usize, unaffected: usize, took: Duration) {
        self.controls = controls;
        self.unaffected = unaffected;
        self.took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    }

    pub(super) fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }

    /// Prints the summary, or the JSON object.
    pub(super) fn finish(&self) -> io::Result<()> {
        let progress = &self.progress;
        progress.end();
        if progress.json {
            let mut report = json!(self);
            report["schema"] = json!(2);
            report["ok"] = json!(self.is_ok());
            return writeln!(io::stdout(), "{}", json_line(&report));
        }
        progress.line("")?;
        for skipped in &self.skipped {
            progress.line(&format!("skipped  {skipped}"))?;
        }
        for problem in &self.problems {
            progress.line(&format!("failed   {}", escape(problem)))?;
        }
        let removed = self.rows.iter().filter(|row| row.gone_after_us.is_some());
        progress.line(&format!(
            "{} of {} sessions removed after their processes ended, \
             {} of {} sessions of running processes kept ({:.1} s)",
            removed.count(),
            self.rows.len(),
            self.unaffected,
            self.controls,
            Duration::from_millis(self.took_ms).as_secs_f64(),
        ))?;
        progress.line("")?;
        progress.line("To compare with polling alone:  reaperd demo --sources sweep")?;
        progress.line("To start a daemon of your own:  reaperd daemon")
    }
}

fn table_line([session, pid, ended, reported, source, after]: [&str; 6]) -> String {
    let reported = escape(reported);
    format!("{session:12} {pid:>8}  {ended:24} {reported:18} {source:8} {after}")
}

fn sources_line(sources: &[SourceReport], sweep: Duration) -> String {
    let one = |source: &SourceReport| match (source.source.as_str(), source.state.as_str()) {
        ("sweep", "up") => format!("sweep every {}", humantime::format_duration(sweep)),
        (name, state) => format!("{name} {state}"),
    };
    let all: Vec<_> = sources.iter().map(one).collect();
    let is_impaired = |source: &SourceReport| matches!(source.state.as_str(), "down" | "degraded");
    let hint = if sources.iter().any(is_impaired) {
        " (see `reaperd doctor`)"
    } else {
        ""
    };
    format!("Sources: {}{hint}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removal(data: &str) -> Removal {
        let data = format!(r#"{{"session":{{"sessionId":"s","pid":7}},{data}}}"#);
        Removal {
            received_ns: 5_000_000,
            event: serde_json::from_str(&data).unwrap(),
        }
    }

    fn checked(removal: Option<&Removal>, ended_ns: u64) -> Row {
        let mut row = Row::new("s", Pid::new(7).unwrap(), "exit 7");
        row.check(
            removal,
            &Expected {
                ended_ns,
                max_delay: Duration::from_millis(3),
                status: ExitStatus::Code(7),
            },
        );
        row
    }

    #[test]
    fn a_correct_removal_in_time_passes_with_and_without_an_exit_status() {
        let row = checked(
            Some(&removal(r#""cause":"exited","source":"sweep""#)),
            4_000_000,
        );
        assert_eq!((row.problem, row.gone_after_us), (None, Some(1_000)));
        let row = checked(
            Some(&removal(r#""cause":"exited","exit":{"code":7}"#)),
            4_000_000,
        );
        assert_eq!(
            (row.problem, row.reported.as_deref()),
            (None, Some("exit 7"))
        );
    }

    #[test]
    fn missing_wrong_early_and_late_removals_are_problems() {
        let exited = removal(r#""cause":"exited""#);
        let wrong_status = removal(r#""cause":"exited","exit":{"code":0}"#);
        let wrong_cause = removal(r#""cause":"expired""#);
        for (removal, ended_ns) in [
            (None, 4_000_000),
            (Some(&wrong_status), 4_000_000),
            (Some(&wrong_cause), 4_000_000),
            (Some(&exited), 6_000_000),
            (Some(&exited), 1_000_000),
        ] {
            assert!(
                checked(removal, ended_ns).problem.is_some(),
                "{removal:?} {ended_ns}"
            );
        }
    }
}
