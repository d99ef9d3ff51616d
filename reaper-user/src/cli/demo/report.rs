//! What the demo says, to people and to programs.

use std::io::{self, Write as _};
use std::time::Duration;

use reaper_registry::{ExitStatus, Pid};
use serde::Serialize;
use serde_json::json;

use super::observer::Seen;
use crate::cli::output::{escape, exit_status, milliseconds};
use crate::client::{ExitSeen, SourceReport, SourcesReport};

/// How one test process ended and what became of its session.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    session: &'static str,
    pid: u32,
    ended: &'static str,
    reported: Option<String>,
    source: Option<String>,
    evidence: Option<String>,
    gone_after_us: Option<u64>,
    /// What is wrong with it.
    pub(super) problem: Option<String>,
}

impl Row {
    pub(super) fn new(session: &'static str, pid: Pid, ended: &'static str) -> Self {
        Self {
            session,
            pid: pid.get(),
            ended,
            reported: None,
            source: None,
            evidence: None,
            gone_after_us: None,
            problem: None,
        }
    }

    /// Compares what was reported with what was done.
    pub(super) fn judge(
        &mut self,
        seen: Option<&Seen>,
        ended_ns: u64,
        limit: Duration,
        status: ExitStatus,
    ) {
        let Some(Seen { at_ns, removal }) = seen else {
            self.problem = Some("its session was not removed in time".to_owned());
            return;
        };
        let after = Duration::from_nanos(at_ns.saturating_sub(ended_ns));
        let exit = removal.exit.as_ref().and_then(ExitSeen::status);
        let words = exit.map(exit_status);
        self.reported = words.or_else(|| Some(removal.cause.replace('_', " ")));
        self.source.clone_from(&removal.source);
        self.evidence.clone_from(&removal.evidence);
        self.gone_after_us = Some(u64::try_from(after.as_micros()).unwrap_or(u64::MAX));
        self.problem = if *at_ns < ended_ns {
            Some("its session was removed before it ended".to_owned())
        } else if !matches!(removal.cause.as_str(), "exited" | "pid_reused") {
            Some(format!("the cause was given as {:?}", removal.cause))
        } else if exit.is_some_and(|exit| !same(exit, status)) {
            Some(format!("it ended with {}", exit_status(status)))
        } else if after > limit {
            Some(format!("later than {limit:?}"))
        } else {
            None
        };
    }
}

/// Whether both are the same ending; a core dump beside it is none of our business.
fn same(a: ExitStatus, b: ExitStatus) -> bool {
    match (a, b) {
        (ExitStatus::Signal { signal: a, .. }, ExitStatus::Signal { signal: b, .. }) => a == b,
        (a, b) => a == b,
    }
}

/// Everything that is to be told.
pub(super) struct Report {
    json: bool,
    sources: Vec<serde_json::Value>,
    rows: Vec<Row>,
    skipped: Vec<String>,
    problems: Vec<String>,
    untouched: usize,
    controls: usize,
    took: Duration,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            sources: Vec::new(),
            rows: Vec::new(),
            skipped: Vec::new(),
            problems: Vec::new(),
            untouched: 0,
            controls: 0,
            took: Duration::ZERO,
        }
    }

    pub(super) fn open(&self) -> io::Result<()> {
        self.say("reaperd demo: a private daemon in a temporary folder; nothing is installed")
    }

    pub(super) fn sources(&mut self, report: &SourcesReport, sweep: Duration) -> io::Result<()> {
        self.sources = report
            .sources
            .iter()
            .map(|s| json!({ "source": s.source, "state": s.state, "reason": s.reason }))
            .collect();
        self.say(&sources_line(&report.sources, sweep))?;
        self.say(&line([
            "SESSION",
            "PID",
            "HOW IT ENDED",
            "REPORTED AS",
            "LEARNED FROM",
            "GONE AFTER",
        ]))
    }

    pub(super) fn row(&mut self, row: Row) -> io::Result<()> {
        let after = row
            .gone_after_us
            .map_or_else(|| "never".to_owned(), milliseconds);
        self.say(&line([
            row.session,
            &row.pid.to_string(),
            row.ended,
            row.reported.as_deref().unwrap_or("-"),
            row.source.as_deref().unwrap_or("-"),
            &format!("{after:>10}"),
        ]))?;
        if let Some(problem) = &row.problem {
            self.problems.push(format!("{}: {problem}", row.session));
        }
        self.rows.push(row);
        Ok(())
    }

    pub(super) fn skipped(&mut self, what: &str, why: &str) {
        self.skipped.push(format!("{what}: {why}"));
    }

    pub(super) fn problem(&mut self, who: &str, what: &str) {
        self.problems.push(format!("{who}: {what}"));
    }

    pub(super) fn untouched(&mut self) {
        self.untouched += 1;
    }

    pub(super) fn controls(&mut self, count: usize) {
        self.controls = count;
    }

    pub(super) fn took(&mut self, took: Duration) {
        self.took = took;
    }

    pub(super) fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    /// The summary.
    pub(super) fn finish(&self) -> io::Result<()> {
        let Self {
            json,
            sources,
            rows,
            skipped,
            problems,
            untouched,
            controls,
            took,
        } = self;
        if *json {
            let report = json!({
                "schema": 1,
                "ok": self.is_good(),
                "sources": sources,
                "test_processes": rows,
                "skipped": skipped,
                "problems": problems,
                "controls": controls,
                "untouched": untouched,
                "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            });
            return writeln!(io::stdout(), "{report}");
        }
        for skipped in skipped {
            self.say(&format!("skipped  {skipped}"))?;
        }
        for problem in problems {
            self.say(&format!("WRONG    {}", escape(problem)))?;
        }
        let removed = rows
            .iter()
            .filter(|row| row.gone_after_us.is_some())
            .count();
        self.say(&format!(
            "{removed} of {} removed and their tokens refused, \
             {untouched} of {controls} living sessions untouched, in {:.1} s",
            rows.len(),
            took.as_secs_f64(),
        ))?;
        self.say(
            "compare: reaperd demo --sources sweep      \
             next: reaperd daemon &  reaperd run -- sleep 30",
        )
    }

    fn say(&self, line: &str) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        writeln!(io::stdout(), "{}", line.trim_end())
    }
}

fn line([session, pid, ended, reported, source, after]: [&str; 6]) -> String {
    let reported = escape(reported);
    format!("  {session:12} {pid:8} {ended:25} {reported:18} {source:13} {after}")
}

fn sources_line(sources: &[SourceReport], sweep: Duration) -> String {
    let one = |source: &SourceReport| match (source.source.as_str(), source.state.as_str()) {
        ("sweep", "up") => format!("sweep {}", humantime::format_duration(sweep)),
        (name, "up") => format!("{name} ok"),
        (name, state) => format!("{name} {state}"),
    };
    let all: Vec<_> = sources.iter().map(one).collect();
    let hint = if sources
        .iter()
        .any(|source| matches!(source.state.as_str(), "down" | "degraded"))
    {
        "   (reaperd doctor says why)"
    } else {
        ""
    };
    format!("sources  {}{hint}", all.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(data: &str) -> Seen {
        let data = format!(r#"{{"session":{{"sessionId":"s","pid":7}},{data}}}"#);
        Seen {
            at_ns: 5_000_000,
            removal: serde_json::from_str(&data).unwrap(),
        }
    }

    fn judged(seen: Option<&Seen>, ended_ns: u64) -> Row {
        let mut row = Row::new("s", Pid::new(7).unwrap(), "exit 7");
        row.judge(
            seen,
            ended_ns,
            Duration::from_millis(3),
            ExitStatus::Code(7),
        );
        row
    }

    #[test]
    fn right_and_soon_is_good_even_without_a_status() {
        let row = judged(
            Some(&seen(r#""cause":"exited","source":"sweep""#)),
            4_000_000,
        );
        assert_eq!((row.problem, row.gone_after_us), (None, Some(1_000)));
        let row = judged(
            Some(&seen(r#""cause":"exited","exit":{"code":7}"#)),
            4_000_000,
        );
        assert_eq!(
            (row.problem, row.reported.as_deref()),
            (None, Some("exit 7"))
        );
    }

    #[test]
    fn missed_wrong_early_and_late_are_all_told() {
        let exited = seen(r#""cause":"exited""#);
        let wrong_status = seen(r#""cause":"exited","exit":{"code":0}"#);
        let wrong_cause = seen(r#""cause":"expired""#);
        for (seen, ended_ns) in [
            (None, 4_000_000),
            (Some(&wrong_status), 4_000_000),
            (Some(&wrong_cause), 4_000_000),
            (Some(&exited), 6_000_000),
            (Some(&exited), 1_000_000),
        ] {
            assert!(
                judged(seen, ended_ns).problem.is_some(),
                "{seen:?} {ended_ns}"
            );
        }
    }
}
