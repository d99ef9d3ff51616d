//! `reaperd doctor`: checks which exit sources work for this user and how to enable the others.
//!
//! The sources are started in this process, because the daemon may not be running. The state of a
//! running daemon is one more finding. The output contains no secrets and can be attached to bug
//! reports. `doctor/doubt.rs` finds sources that report success but may still miss exits,
//! `doctor/memory.rs` has the memory of the running daemon.

mod config;
mod doubt;
mod memory;
mod sandbox;
mod shares;

use std::io::{self, Write};

use serde::Serialize;
use serde_json::json;

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::output::{escape, json_line};
use crate::ExitWatcher;
use crate::client::{Client, ClientError, SourceReport, SourcesReport, Version};
use crate::watch::status::SourceStatus;

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
enum Verdict {
    Ok,
    /// Not running or switched off.
    Skip,
    Warn,
    Fail,
}

/// One line of the report.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    verdict: Verdict,
    subject: String,
    text: String,
    remedy: String,
}

impl Arguments {
    pub(super) async fn run(self, client: &Client) -> Result<ExitCode, Failure> {
        let mut reports = check_sources().await;
        let mut findings: Vec<Finding> = reports.iter().cloned().map(source_finding).collect();
        let daemon = query_daemon(client).await;
        if let Ok((_, of_daemon)) = &daemon {
            reports.extend(of_daemon.sources.iter().cloned());
        }
        let serves = daemon.is_ok();
        findings.push(daemon_finding(client, daemon));
        // An older daemon has no such route.
        let limits = client.get::<shares::Limits>("/v1/limits").await;
        findings.extend(limits.ok().as_ref().map(shares::finding));
        if serves {
            findings.extend(memory::finding(client).await);
        }
        if serves && let Ok(health) = client.get("/v1/health").await {
            findings.extend(sandbox::finding(health));
        }
        if serves && let Ok(health) = client.get("/v1/health").await {
            findings.extend(config::finding(health));
        }
        findings.extend(doubt::finding(&doubt::doubts(&release(), &reports)));
        let mut out = io::stdout().lock();
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
            show(&mut out, &findings)
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

async fn query_daemon(client: &Client) -> Result<(Version, SourcesReport), ClientError> {
    Ok((
        client.get("/v1/version").await?,
        client.get("/v1/sources").await?,
    ))
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
    }
}

fn daemon_finding(
    client: &Client,
    response: Result<(Version, SourcesReport), ClientError>,
) -> Finding {
    let socket = client.socket().display();
    let (verdict, text, remedy) = match response {
        Ok((version, sources)) => {
            let states = sources
                .sources
                .iter()
                .filter(|source| source.state != "off");
            let state = |source: &SourceReport| match source.forged {
                0 => format!("{} {}", source.source, source.state),
                forged => format!(
                    "{} {} ({forged} forged messages ignored)",
                    source.source, source.state
                ),
            };
            let states: Vec<_> = states.map(state).collect();
            let verdict = if sources.status == "ok" {
                Verdict::Ok
            } else {
                Verdict::Warn
            };
            let text = format!(
                "{} on {socket}: {}",
                version.daemon_version,
                states.join(", ")
            );
            let remedy = sources.sources.into_iter().map(|source| source.remedy);
            (
                verdict,
                text,
                remedy
                    .filter(|text| !text.is_empty())
                    .collect::<Vec<_>>()
                    .join("; "),
            )
        }
        Err(ClientError::NoDaemon { .. }) => (
            Verdict::Skip,
            format!("no daemon is listening on {socket}"),
            "reaperd daemon".to_owned(),
        ),
        Err(error) => {
            let Failure {
                message, remedy, ..
            } = error.into();
            (Verdict::Fail, message, remedy)
        }
    };
    Finding {
        verdict,
        subject: "daemon".to_owned(),
        text,
        remedy,
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

fn show(out: &mut impl Write, findings: &[Finding]) -> io::Result<()> {
    let width = findings
        .iter()
        .map(|finding| finding.subject.len())
        .max()
        .unwrap_or(0);
    for Finding {
        verdict,
        subject,
        text,
        remedy,
    } in findings
    {
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Skip => "skip",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        };
        writeln!(out, "{verdict:4}  {subject:width$}  {}", escape(text))?;
        if !remedy.is_empty() {
            writeln!(out, "{:6}{:width$}  try: {}", "", "", escape(remedy))?;
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

    fn findings(daemon: Result<(Version, SourcesReport), ClientError>) -> Vec<Finding> {
        let up = SourceReport {
            detail: "one set for all".into(),
            lost: 3,
            ..report("pidfd", "up", "", "")
        };
        let mut findings: Vec<Finding> = [
            report(
                "netlink",
                "down",
                "no acknowledgement within 200 ms",
                "run on the host",
            ),
            report("ebpf", "off", "", ""),
            up,
        ]
        .map(source_finding)
        .into();
        findings.push(daemon_finding(&Client::new("/r/x.sock"), daemon));
        findings
    }

    #[test]
    fn each_finding_is_followed_by_its_remedy() {
        let findings = findings(Err(ClientError::NoDaemon {
            path: "/r/x.sock".into(),
        }));
        let mut out = Vec::new();
        show(&mut out, &findings).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "warn  netlink  no acknowledgement within 200 ms\n               \
             try: run on the host\n\
             skip  ebpf     off\n\
             ok    pidfd    one set for all; 3 events lost\n\
             skip  daemon   no daemon is listening on /r/x.sock\n               \
             try: reaperd daemon\n\
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
        let not_http = findings(Err(ClientError::Protocol {
            detail: "no HTTP".into(),
        }));
        assert_eq!(result_line(&not_http), "failed (daemon)");
    }
}
