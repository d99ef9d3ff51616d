//! `reaperd doctor`: checks which exit sources work for this user and how to enable the others.
//!
//! First the running daemon, if there is one (`doctor/running.rs`). Then the sources are started in this
//! process, because the daemon may not be running, or may run as another user. The output contains no
//! secrets and can be attached to bug reports. `doctor/doubt.rs` finds sources that report success but may
//! still miss exits.

mod config;
mod conflicts;
mod doubt;
mod memory;
mod restart;
mod running;
mod sandbox;
mod shares;

use std::io;
use std::io::Write;

use serde::Serialize;
use serde_json::json;

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::output::{self, escape, json_line};
use super::terminal::{self, Tone};
use crate::ExitWatcher;
use crate::client::{Client, SourceReport, SourcesReport};
use crate::watch::status::SourceStatus;
pub(super) use running::Running;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Exit with status 6 if a check gives a warning or fails
    #[arg(long)]
    strict: bool,
}

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    /// Not running or switched off.
    Skip,
    Warn,
    Fail,
}

impl Verdict {
    fn word(self) -> String {
        let (tone, word) = match self {
            Self::Ok => (Tone::Good, "ok  "),
            Self::Skip => (Tone::Neutral, "skip"),
            Self::Warn => (Tone::Doubtful, "warn"),
            Self::Fail => (Tone::Bad, "fail"),
        };
        tone.paint(word)
    }
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scope {
    /// The running daemon.
    Daemon,
    /// The sources, started in this process.
    Probe,
}

/// One line of the report.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    pub(super) subject: String,
    pub(super) text: String,
    pub(super) remedy: String,
    pub(super) scope: Scope,
}

impl Finding {
    /// Creates one about the running daemon.
    pub(super) fn of_daemon(subject: &str, verdict: Verdict, text: String, remedy: &str) -> Self {
        Self {
            verdict,
            subject: subject.to_owned(),
            text,
            remedy: remedy.to_owned(),
            scope: Scope::Daemon,
        }
    }
}

impl Arguments {
    pub(super) async fn run(self, client: &Client) -> Result<ExitCode, Failure> {
        let (mut findings, mut reports) = match Running::query(client).await {
            Ok(daemon) => (
                daemon.findings(client)?,
                Running::read::<SourcesReport>(&daemon.sources)?.sources,
            ),
            Err(error) => (vec![running::not_running(client, error)], Vec::new()),
        };
        let probed = check_sources().await;
        reports.extend(probed.iter().cloned());
        findings.extend(probed.into_iter().map(source_finding));
        findings.extend(doubt::finding(&doubt::doubts(&release(), &reports)));
        let mut out = output::stdout();
        let written = if self.json {
            let result = result_line(&findings);
            let report = json!({
                "schema": 1,
                "version": env!("CARGO_PKG_VERSION"),
                "system": system(),
                "findings": findings,
                "result": result,
            });
            writeln!(out, "{}", json_line(&report))
        } else {
            show(&mut out, &findings, terminal::width_of_stdout())
        };
        written.map_err(Failure::output)?;
        if worst(&findings) == Verdict::Fail && !self.strict {
            return Err(Failure::new("some checks failed", remedy(&findings)));
        }
        if self.strict && worst(&findings) >= Verdict::Warn {
            let message = "some checks gave a warning or failed".to_owned();
            let remedy = remedy(&findings);
            return Err(Failure {
                code: ExitCode::Degraded,
                message,
                remedy,
            });
        }
        Ok(ExitCode::Success)
    }
}

/// Starts every source in this process and returns their states.
async fn check_sources() -> Vec<SourceReport> {
    let watcher = ExitWatcher::builder().start().await;
    watcher.settled().await;
    let as_report = |status: SourceStatus| SourceReport {
        source: status.source.name().to_owned(),
        state: status.state().to_owned(),
        reason: status.reason,
        remedy: status.remedy,
        detail: status.detail,
        lost: status.lost,
        forged: status.forged,
    };
    watcher.status().into_iter().map(as_report).collect()
}

fn source_finding(report: SourceReport) -> Finding {
    let SourceReport {
        source,
        state,
        reason,
        remedy,
        detail,
        lost,
        forged,
    } = report;
    let verdict = match (state.as_str(), source.as_str()) {
        ("up", _) => Verdict::Ok,
        ("off", _) => Verdict::Skip,
        // The fallback of all other sources.
        ("down", "sweep") => Verdict::Fail,
        _ => Verdict::Warn,
    };
    let mut parts: Vec<String> = [reason, detail]
        .into_iter()
        .filter(|p| !p.is_empty())
        .collect();
    if lost > 0 {
        parts.push(format!("{lost} events lost"));
    }
    if forged > 0 {
        parts.push(format!("{forged} forged messages ignored"));
    }
    let text = if parts.is_empty() {
        state
    } else {
        parts.join("; ")
    };
    Finding {
        verdict,
        subject: source,
        text,
        remedy,
        scope: Scope::Probe,
    }
}

fn worst(findings: &[Finding]) -> Verdict {
    findings
        .iter()
        .map(|finding| finding.verdict)
        .max()
        .unwrap_or(Verdict::Ok)
}

/// Returns the remedy of the worst finding that has one.
fn remedy(findings: &[Finding]) -> String {
    findings
        .iter()
        .filter(|finding| finding.verdict >= Verdict::Warn && !finding.remedy.is_empty())
        .max_by_key(|finding| finding.verdict)
        .map_or_else(
            || "reaperd doctor".to_owned(),
            |finding| finding.remedy.clone(),
        )
}

fn result_line(findings: &[Finding]) -> String {
    let of = |verdict: Verdict| -> Vec<&str> {
        let these = findings.iter().filter(|finding| finding.verdict == verdict);
        these.map(|finding| finding.subject.as_str()).collect()
    };
    match worst(findings) {
        Verdict::Ok | Verdict::Skip => "ok".to_owned(),
        Verdict::Warn => format!("ok, degraded ({})", of(Verdict::Warn).join(", ")),
        Verdict::Fail => format!("failed ({})", of(Verdict::Fail).join(", ")),
    }
}

fn show(out: &mut impl Write, findings: &[Finding], width: Option<usize>) -> io::Result<()> {
    let subjects = findings.iter().map(|finding| finding.subject.len());
    let column = subjects.max().unwrap_or(0);
    let mut scope = Scope::Daemon;
    for finding in findings {
        if finding.scope != scope {
            scope = finding.scope;
            let heading = "sources, started in this process to see what works for this user:";
            writeln!(out, "{}", terminal::wrap(heading, width, 0))?;
        }
        let (verdict, subject) = (finding.verdict.word(), &finding.subject);
        let line = format!("{verdict}  {subject:column$}  {}", escape(&finding.text));
        let indent = "warn".len() + 2 + column + 2;
        writeln!(out, "{}", terminal::wrap(&line, width, indent))?;
        if !finding.remedy.is_empty() {
            let line = format!("{:indent$}try: {}", "", escape(&finding.remedy));
            let behind = indent + "try: ".len();
            writeln!(out, "{}", terminal::wrap(&line, width, behind))?;
        }
    }
    writeln!(out, "result: {}", result_line(findings))
}

/// Returns the system, its release and the architecture.
pub(super) fn system() -> String {
    [std::env::consts::OS, &release(), std::env::consts::ARCH].join(" ")
}

fn release() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientError;

    fn report(source: &str, state: &str, reason: &str, remedy: &str) -> SourceReport {
        let [source, state, reason, remedy] = [source, state, reason, remedy].map(str::to_owned);
        SourceReport {
            source,
            state,
            reason,
            remedy,
            ..SourceReport::default()
        }
    }

    fn findings(error: ClientError) -> Vec<Finding> {
        let up = SourceReport {
            detail: "one set for all".into(),
            lost: 3,
            ..report("pidfd", "up", "", "")
        };
        let mut findings = vec![running::not_running(&Client::new("/r/x.sock"), error)];
        let probed = [
            report(
                "netlink",
                "down",
                "no acknowledgement within 200 ms",
                "run on the host",
            ),
            report("ebpf", "off", "", ""),
            up,
        ]
        .map(source_finding);
        findings.extend(probed);
        findings
    }

    #[test]
    fn each_finding_is_followed_by_its_remedy() {
        let findings = findings(ClientError::NoDaemon {
            path: "/r/x.sock".into(),
        });
        let mut out = Vec::new();
        show(&mut out, &findings, None).unwrap();
        let plain = anstream::adapter::strip_bytes(&out).into_vec();
        assert_eq!(
            String::from_utf8(plain).unwrap(),
            "skip  daemon   no daemon is listening on /r/x.sock\n               \
             try: reaperd daemon\n\
             sources, started in this process to see what works for this user:\n\
             warn  netlink  no acknowledgement within 200 ms\n               \
             try: run on the host\n\
             skip  ebpf     off\n\
             ok    pidfd    one set for all; 3 events lost\n\
             result: ok, degraded (netlink)\n"
        );
        assert_eq!(remedy(&findings), "run on the host");
    }

    #[test]
    fn a_sweep_that_is_down_and_a_socket_without_http_are_failures() {
        assert_eq!(
            source_finding(report("sweep", "down", "x", "y")).verdict,
            Verdict::Fail
        );
        let not_http = findings(ClientError::Protocol {
            detail: "no HTTP".into(),
        });
        assert_eq!(result_line(&not_http), "failed (daemon)");
    }
}
