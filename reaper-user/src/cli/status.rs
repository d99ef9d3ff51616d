//! `reaperd status`: the running daemon in one screen.
//!
//! What it shows is what the daemon reports about itself and what `doctor` finds about it. Nothing is
//! probed in this process.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Deserialize;
use serde_json::json;

use super::doctor::{Finding, Running, Verdict};
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::output::{self, age, escape, exit_status, json_line};
use super::terminal::{self, Tone};
use crate::client::{Client, ExitSeen, SourceReport, SourcesReport, Version};

/// The width of the first column.
const LABEL: usize = 11;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The parts of `/v1/health` that are shown. An older daemon has some of them only.
#[derive(Deserialize)]
struct Health {
    pid: u32,
    monitor_pid: Option<u32>,
    uptime_ms: Option<u64>,
    #[serde(default)]
    reap_loop_restarts: u64,
    last_exit: Option<LastExit>,
}

#[derive(Deserialize)]
struct LastExit {
    ago_ms: u64,
    session_id: String,
    pid: u32,
    source: Option<String>,
    exit: Option<ExitSeen>,
}

/// `/v1/limits`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Limits {
    uid: u32,
    #[serde(rename = "limits")]
    shares: BTreeMap<String, Share>,
    /// For root only.
    users: Vec<User>,
}

#[derive(Deserialize)]
struct User {
    uid: u32,
    limits: BTreeMap<String, Share>,
}

#[derive(Clone, Copy, Deserialize)]
struct Share {
    used: u64,
    limit: u64,
}

/// What is shown: rows of a label and a text.
struct Screen {
    status: String,
    rows: Vec<(&'static str, String)>,
}

impl Arguments {
    pub(super) async fn run(self, client: &Client) -> Result<ExitCode, Failure> {
        let running = Running::query(client).await?;
        let findings = running.findings(client)?;
        let mut out = output::stdout();
        let written = if self.json {
            let Running {
                version,
                health,
                sources,
                limits,
            } = running;
            let report = json!({
                "schema": 1, "socket": client.socket().display().to_string(), "version": version,
                "health": health, "sources": sources, "limits": limits, "findings": findings,
            });
            writeln!(out, "{}", json_line(&report))
        } else {
            let screen = Screen::of(&running, client)?;
            show(&mut out, &screen, &findings, terminal::width_of_stdout())
        };
        written.map_err(Failure::output)?;
        Ok(ExitCode::Success)
    }
}

impl Screen {
    fn of(running: &Running, client: &Client) -> Result<Self, Failure> {
        let health: Health = Running::read(&running.health)?;
        let version: Version = Running::read(&running.version)?;
        let report: SourcesReport = Running::read(&running.sources)?;
        let limits: Limits = Running::read(&running.limits).unwrap_or_default();
        let processes = match health.monitor_pid {
            Some(monitor) => format!("monitor {monitor}, worker {}", health.pid),
            None => format!("{} (no monitor)", health.pid),
        };
        let mut rows = vec![
            ("version", version.daemon_version),
            ("pids", processes),
            ("socket", client.socket().display().to_string()),
            ("sessions", sessions(&limits)),
            ("sources", sources(&report.sources)),
            ("lost", losses(&report.sources, health.reap_loop_restarts)),
            (
                "last exit",
                health
                    .last_exit
                    .map_or_else(|| "none".to_owned(), last_exit),
            ),
            ("limits", shares(&limits)),
        ];
        if let Some(uptime) = health.uptime_ms {
            rows.insert(1, ("uptime", age(uptime / 1_000)));
        }
        Ok(Self {
            status: report.status,
            rows,
        })
    }
}

fn sessions(limits: &Limits) -> String {
    let of = |shares: &BTreeMap<String, Share>| shares.get("sessions").map_or(0, |it| it.used);
    let own = [(limits.uid, of(&limits.shares))];
    let all = limits.users.iter().map(|it| (it.uid, of(&it.limits)));
    let mut users: Vec<_> = if limits.users.is_empty() {
        own.into()
    } else {
        all.filter(|(_, count)| *count > 0).collect()
    };
    users.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let total: u64 = users.iter().map(|(_, count)| count).sum();
    let users: Vec<_> = users
        .iter()
        .map(|(uid, count)| format!("user {uid}: {count}"))
        .collect();
    match users.as_slice() {
        [] => "0".to_owned(),
        users => format!("{total} ({})", users.join(", ")),
    }
}

fn sources(sources: &[SourceReport]) -> String {
    let states: Vec<_> = sources
        .iter()
        .map(|it| format!("{} {}", it.source, it.state))
        .collect();
    states.join(", ")
}

fn losses(sources: &[SourceReport], loop_restarts: u64) -> String {
    let lost = sources.iter().filter(|it| it.lost > 0);
    let mut lost: Vec<_> = lost
        .map(|it| format!("{} events of {}", it.lost, it.source))
        .collect();
    if loop_restarts > 0 {
        lost.push(format!("{loop_restarts} restarts of the reap loop"));
    }
    if lost.is_empty() {
        return "nothing".to_owned();
    }
    lost.join(", ")
}

fn last_exit(last: LastExit) -> String {
    let status = last.exit.as_ref().and_then(ExitSeen::status);
    let how = status.map_or_else(|| "exited".to_owned(), exit_status);
    let via = last
        .source
        .map_or_else(String::new, |source| format!(", via {source}"));
    format!(
        "{} ago: {}, pid {}, {how}{via}",
        age(last.ago_ms / 1_000),
        last.session_id,
        last.pid
    )
}

/// What the caller uses of each limit.
fn shares(limits: &Limits) -> String {
    let shares: Vec<_> = limits
        .shares
        .iter()
        .map(|(name, Share { used, limit })| format!("{name} {used} of {limit}"))
        .collect();
    shares.join(", ")
}

fn show(
    out: &mut impl Write,
    screen: &Screen,
    findings: &[Finding],
    width: Option<usize>,
) -> io::Result<()> {
    let tone = if screen.status == "ok" {
        Tone::Good
    } else {
        Tone::Doubtful
    };
    let status = tone.paint(&escape(&screen.status));
    writeln!(out, "{}  {status}", Tone::Head.paint("reaperd"))?;
    let mut row = |label: &str, text: &str, indent: usize| {
        let line = format!("{label:LABEL$}{}", escape(text));
        writeln!(out, "{}", terminal::wrap(&line, width, LABEL + indent))
    };
    for (label, text) in &screen.rows {
        row(label, text, 0)?;
    }
    // `daemon` and `limits` are above.
    for finding in findings {
        if ["memory", "sandbox"].contains(&finding.subject.as_str()) {
            row(&finding.subject, &finding.text, 0)?;
        }
    }
    for finding in findings {
        if finding.verdict < Verdict::Warn {
            continue;
        }
        row(
            "warning",
            &format!("{}: {}", finding.subject, finding.text),
            0,
        )?;
        if !finding.remedy.is_empty() {
            row("", &format!("try: {}", finding.remedy), "try: ".len())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Scope;

    fn limits(users: &str) -> Limits {
        let text = format!(
            "{{\"uid\":0,\"limits\":{{\"sessions\":{{\"used\":2,\"limit\":9,\"total\":9}}}}{users}}}"
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn sessions_are_counted_by_user_and_for_others_than_root_for_the_caller() {
        assert_eq!(sessions(&limits("")), "2 (user 0: 2)");
        let user = |uid: u32, used: u32| {
            format!("{{\"uid\":{uid},\"limits\":{{\"sessions\":{{\"used\":{used},\"limit\":9}}}}}}")
        };
        let users = format!(",\"users\":[{},{},{}]", user(0, 2), user(7, 5), user(8, 0));
        assert_eq!(sessions(&limits(&users)), "7 (user 7: 5, user 0: 2)");
    }

    #[test]
    fn a_narrow_screen_breaks_between_words_and_a_warning_has_its_remedy() {
        let screen = Screen {
            status: "degraded".to_owned(),
            rows: vec![(
                "last exit",
                last_exit(LastExit {
                    ago_ms: 3_100,
                    session_id: "s-\u{1b}1".to_owned(),
                    pid: 7042,
                    source: Some("netlink".to_owned()),
                    exit: Some(ExitSeen {
                        code: None,
                        signal: Some(9),
                        from: "netlink".to_owned(),
                    }),
                }),
            )],
        };
        let warning = Finding {
            verdict: Verdict::Warn,
            subject: "memory".to_owned(),
            text: "unlocked".to_owned(),
            remedy: "ulimit -l".to_owned(),
            scope: Scope::Daemon,
        };
        let mut out = Vec::new();
        show(&mut out, &screen, &[warning], Some(40)).unwrap();
        let plain = anstream::adapter::strip_bytes(&out).into_vec();
        assert_eq!(
            String::from_utf8(plain).unwrap(),
            "reaperd  degraded\n\
             last exit  3s ago: s-\\u{1b}1, pid 7042,\n           killed by SIGKILL, via\n           netlink\n\
             memory     unlocked\n\
             warning    memory: unlocked\n           try: ulimit -l\n"
        );
    }
}
