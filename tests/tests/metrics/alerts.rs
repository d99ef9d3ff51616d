//! The alert rules and the dashboard, in a real Prometheus that scrapes real daemons whose conditions are
//! made true and then false again.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use libc::c_int;
use reaper_tests::crowd::{Crowd, storm};
use reaper_tests::daemon::{Launch, TestDaemon, private_folder};
use reaper_tests::expect::measured;
use reaper_tests::sys::seccomp::{Call, Denied, spawn_denied};
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::{eventually, within};
use reaperd::testkit::descriptors;
use reaperd::{Source, Sources};
use rustix::io::Errno;
use serde_json::Value;

use crate::file::metrics;
use crate::prometheus::{Prometheus, node_exporter};
use crate::tools::promtool;
use crate::{metrics_port, repository};

/// In what time an alert fires, or stops, after its condition has changed: some scrapes, and the longest
/// time range of the rules as they are in these tests.
pub(crate) const ALERT_WITHIN: Duration = Duration::from_secs(45);
/// The time ranges of the rules in these tests.
const RANGE: &str = "6s";
/// How long a condition must hold.
const FOR: &str = "1s";

fn rules() -> String {
    fs::read_to_string(repository().join("dist/prometheus/reaperd.rules.yml")).unwrap()
}

fn alerts() -> BTreeSet<String> {
    let rules = rules();
    let names = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    names.map(str::to_owned).collect()
}

/// The rules with times that a test can wait for. Nothing else is changed.
pub(crate) fn fast_rules() -> String {
    let rules = rules();
    let lines = rules.lines().map(|line| {
        if let Some(time) = line.trim().strip_prefix("for: ") {
            return line.replace(time, FOR) + "\n";
        }
        let mut parts = line.split('[');
        let first = parts.next().unwrap_or_default().to_owned();
        let parts = parts.map(|part| match part.split_once(']') {
            Some((range, rest)) if range.ends_with(['m', 'h']) => format!("[{RANGE}]{rest}"),
            _ => format!("[{part}"),
        });
        parts.fold(first, |line, part| line + &part) + "\n"
    });
    lines.collect()
}

fn run_promtool(arguments: &[&str]) -> Option<()> {
    let output = Command::new(promtool()?)
        .current_dir(repository().join("dist/prometheus"))
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {text}");
    Some(())
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_pass() {
    let _done = run_promtool(&["check", "rules", "reaperd.rules.yml"])
        .and_then(|()| run_promtool(&["test", "rules", "reaperd.rules.test.yml"]));
}

#[test]
fn every_alert_is_tested_and_documented() {
    let tests = repository().join("dist/prometheus/reaperd.rules.test.yml");
    let (tests, docs) = (
        fs::read_to_string(tests).unwrap(),
        fs::read_to_string(repository().join("docs/metrics.md")).unwrap(),
    );
    assert!(alerts().len() > 10);
    for alert in alerts() {
        let fires = format!("{{alertname=\"{alert}\"}}', value: 1}}");
        assert!(tests.contains(&fires), "no test in which {alert} fires");
        assert!(
            docs.contains(&format!("`{alert}`")),
            "{alert} is not in docs/metrics.md"
        );
        // In a real Prometheus.
        let quoted = format!("\"{alert}\"");
        let is_here = [include_str!("alerts.rs"), include_str!("faults.rs")]
            .iter()
            .any(|tests| tests.contains(&quoted));
        assert!(is_here, "no test makes the condition of {alert} true");
    }
}

/// A daemon that is scraped.
pub(crate) struct Scraped {
    pub(crate) daemon: TestDaemon,
    pub(crate) port: u16,
}

impl Scraped {
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::of(Launch::with(&[flags, &["--metrics-listen", "0"]].concat()).start())
    }

    pub(crate) fn of(daemon: TestDaemon) -> Self {
        let port = metrics_port(&daemon);
        Self { daemon, port }
    }

    /// Whether this alert fires for it.
    fn has(&self, prometheus: &Prometheus, alert: &str) -> bool {
        let instance = format!("127.0.0.1:{}", self.port);
        let firing = prometheus.firing(alert);
        firing
            .iter()
            .any(|labels| labels["instance"] == instance.as_str())
    }

    pub(crate) fn fires(&self, prometheus: &Prometheus, alert: &str) {
        let took = within(ALERT_WITHIN, &format!("{alert} fires"), || {
            self.has(prometheus, alert)
        });
        measured(&format!("{alert} fires after, in seconds"), took.as_secs());
    }

    pub(crate) fn stops(&self, prometheus: &Prometheus, alert: &str) {
        let took = within(ALERT_WITHIN, &format!("{alert} stops"), || {
            !self.has(prometheus, alert)
        });
        measured(&format!("{alert} stops after, in seconds"), took.as_secs());
    }

    /// Waits until Prometheus has read it.
    pub(crate) fn is_scraped(&self, prometheus: &Prometheus) {
        let query = format!("reaperd_sessions{{instance=\"127.0.0.1:{}\"}}", self.port);
        eventually("it is scraped", || !prometheus.query(&query).is_empty());
    }
}

/// One that does not get the connector's events of unrelated processes filtered, with a small queue.
fn easily_overrun() -> TestDaemon {
    let deny = |option: c_int, error| -> Denied {
        let call = Call::from(libc::SYS_setsockopt).with(2, option.cast_unsigned());
        (call, error)
    };
    let denied = [
        deny(libc::SO_RCVBUFFORCE, None),
        deny(libc::SO_ATTACH_BPF, Some(Errno::NOMEM)),
        deny(libc::SO_ATTACH_FILTER, Some(Errno::NOMEM)),
    ];
    let flags = [
        "--sources",
        "netlink",
        "--sweep-interval",
        "60s",
        "--metrics-listen",
        "0",
    ];
    let mut daemon = Launch::with(&flags).spawn_by(|command| spawn_denied(command, &denied));
    daemon.serves();
    daemon
}

/// One that can pin few processes, so that the sweep finds the ends of the others.
pub(crate) fn short_of_descriptors() -> Scraped {
    let limit = descriptors::minimum(&Sources::only([Source::Pidfd])) + 30;
    let script = format!("ulimit -n {limit}; exec \"$@\"");
    let flags = [
        "--sources",
        "pidfd",
        "--sweep-interval",
        "250ms",
        "--metrics-listen",
        "0",
    ];
    Scraped::of(
        Launch::with(&flags)
            .through(&["sh", "-c", &script, "sh"])
            .start(),
    )
}

#[test]
fn alerts_fire_while_their_conditions_are_true_and_stop_afterwards() {
    if promtool().is_none() {
        return;
    }
    let limited = Scraped::start(&["--max-sessions", "4", "--max-sessions-per-uid", "4"]);
    let few_pidfds = short_of_descriptors();
    let silent = Scraped::start(&[]);
    let lossy = Scraped::of(easily_overrun());
    let ports = [limited.port, few_pidfds.port, silent.port, lossy.port];
    let Some(prometheus) = Prometheus::start(&[("reaperd", &ports)], &fast_rules()) else {
        return;
    };
    for daemon in [&limited, &few_pidfds, &silent, &lossy] {
        daemon.is_scraped(&prometheus);
    }
    for alert in [
        "ReaperdNotScraped",
        "ReaperdShareExhausted",
        "ReaperdSweepRemoves",
    ] {
        assert!(prometheus.firing(alert).is_empty(), "{alert}");
    }

    let living = TestProcess::start();
    for id in ["a", "b", "c", "d"] {
        limited.daemon.register(id, living.pid());
    }
    let mut many = Crowd::start(60).unwrap();
    few_pidfds.daemon.register_all(many.pids());
    many.kill().unwrap();
    silent.daemon.suspend();
    let has_netlink = lossy.daemon.has_source("netlink");
    if has_netlink {
        lossy.daemon.suspend();
        storm(1_100).unwrap();
        lossy.daemon.resume();
        lossy.fires(&prometheus, "ReaperdEventsLost");
    }
    few_pidfds.fires(&prometheus, "ReaperdSweepRemoves");
    limited.fires(&prometheus, "ReaperdShareExhausted");
    limited.fires(&prometheus, "ReaperdUserShareExhausted");
    silent.fires(&prometheus, "ReaperdNotScraped");

    drop(living);
    silent.daemon.resume();
    limited.stops(&prometheus, "ReaperdShareExhausted");
    limited.stops(&prometheus, "ReaperdUserShareExhausted");
    silent.stops(&prometheus, "ReaperdNotScraped");
    few_pidfds.stops(&prometheus, "ReaperdSweepRemoves");
    lossy.stops(&prometheus, "ReaperdEventsLost");
    for daemon in [limited, few_pidfds, silent, lossy] {
        daemon.daemon.stop();
    }
}

#[test]
fn a_source_that_should_work_and_does_not_is_an_alert_until_the_daemon_is_repaired() {
    if promtool().is_none() {
        return;
    }
    let flags = ["--sources", "ebpf,pidfd", "--metrics-listen", "0"];
    let denied: [Denied; 1] = [(libc::SYS_bpf.into(), Some(Errno::PERM))];
    let mut daemon = Launch::with(&flags).spawn_by(|command| spawn_denied(command, &denied));
    daemon.serves();
    assert!(daemon.settled("ebpf").is_err(), "ebpf works without bpf(2)");
    let broken = Scraped::of(daemon);
    let port = broken.port;
    let Some(prometheus) = Prometheus::start(&[("reaperd", &[port])], &fast_rules()) else {
        return;
    };
    broken.fires(&prometheus, "ReaperdSourceDown");
    broken.fires(&prometheus, "ReaperdDegraded");
    let source = &prometheus.firing("ReaperdSourceDown")[0]["source"];
    assert_eq!(source, "ebpf");
    let listen = port.to_string();
    let flags = ["--sources", "pidfd", "--metrics-listen", &listen];
    let repaired = Scraped::of(broken.daemon.replaced_by(&Launch::with(&flags)));
    assert_eq!(repaired.port, port);
    repaired.stops(&prometheus, "ReaperdSourceDown");
    repaired.stops(&prometheus, "ReaperdDegraded");
    repaired.daemon.stop();
}

#[test]
fn the_textfile_collector_reads_the_file_and_a_missing_daemon_is_an_alert() {
    let folder = private_folder();
    let file = folder.path().join("reaperd.prom");
    let Some(exporter) = node_exporter(folder.path()) else {
        return;
    };
    let daemon = Launch::with(&[]).start();
    let living = TestProcess::start();
    daemon.register("a", living.pid());
    let write =
        |daemon: &TestDaemon| metrics(&daemon.socket(), &["--write", file.to_str().unwrap()]);
    assert!(write(&daemon).status.success());
    let Some(prometheus) = Prometheus::start(&[("node", &[exporter.port])], &fast_rules()) else {
        return;
    };
    let has = |query: &str| !prometheus.query(query).is_empty();
    eventually("the file is scraped", || {
        has("reaperd_sessions{job=\"node\"} == 1")
    });
    assert!(has("node_textfile_scrape_error == 0"));
    assert!(
        has("process_open_fds{job=\"node\"}"),
        "the exporter's own are gone"
    );
    assert!(prometheus.firing("ReaperdFileStale").is_empty());

    let log = exporter.log();
    assert!(!log.contains("level=error"), "{log}");

    daemon.suspend();
    assert!(!write(&daemon).status.success());
    let fires = || !prometheus.firing("ReaperdFileStale").is_empty();
    within(ALERT_WITHIN, "ReaperdFileStale fires", fires);
    assert!(
        !has("reaperd_sessions{job=\"node\"}"),
        "an old value is shown"
    );
    daemon.resume();
    assert!(write(&daemon).status.success());
    within(ALERT_WITHIN, "ReaperdFileStale stops", || !fires());
    eventually("the sessions are back", || {
        has("reaperd_sessions{job=\"node\"} == 1")
    });
    daemon.stop();
}

/// The expressions of all panels, with the variables as Grafana replaces them.
fn dashboard_queries() -> Vec<String> {
    let text = fs::read_to_string(repository().join("dist/grafana/reaperd.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array())
        .flatten();
    let expressions = targets.map(|target| target["expr"].as_str().unwrap());
    let replaced = expressions.map(|expression| {
        let values = [
            ("$__rate_interval", RANGE),
            ("$job", ".*"),
            ("$instance", ".*"),
        ];
        values
            .iter()
            .fold(expression.to_owned(), |text, (name, value)| {
                text.replace(name, value)
            })
    });
    replaced.collect()
}

#[test]
fn every_query_of_the_dashboard_returns_series() {
    let scraped = Scraped::start(&["--sweep-interval", "1s"]);
    let Some(prometheus) = Prometheus::start(&[("reaperd", &[scraped.port])], "") else {
        return scraped.daemon.stop();
    };
    let mut dying = Crowd::start(5).unwrap();
    scraped.daemon.register_all(dying.pids());
    scraped.is_scraped(&prometheus);
    dying.kill().unwrap();
    let queries = dashboard_queries();
    assert!(queries.len() > 20, "{queries:?}");
    for query in queries {
        assert!(!query.contains('$'), "{query}");
        eventually(&query, || !prometheus.query(&query).is_empty());
    }
    scraped.daemon.stop();
}
