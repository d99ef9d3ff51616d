//! The names in the documentation are those of the page, and the page is what the parsers of others read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use reaper_tests::daemon::{Launch, TestDaemon};
use reaper_tests::raw_http::request;
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::eventually;

use crate::page::Page;
use crate::tools::{parses_open_metrics, promtool};
use crate::{access, repository};

/// A row of the table in `docs/metrics.md`.
struct Documented {
    kind: String,
    labels: BTreeSet<String>,
    meaning: String,
}

fn documented() -> BTreeMap<String, Documented> {
    let text = fs::read_to_string(repository().join("docs/metrics.md")).unwrap();
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let ["", name, kind, labels, meaning, ""] = cells[..] else {
            return None;
        };
        let name = name.strip_prefix('`')?.strip_suffix('`')?;
        let labels = labels
            .split(',')
            .map(|label| label.trim().trim_matches('`').to_owned());
        let row = Documented {
            kind: kind.to_owned(),
            labels: labels.filter(|label| !label.is_empty()).collect(),
            meaning: meaning.to_owned(),
        };
        Some((name.to_owned(), row))
    });
    rows.collect()
}

/// A daemon that has had something of everything, so that each metric has a value.
fn used_daemon() -> (TestDaemon, TestProcess) {
    let daemon = Launch::with(&["--sweep-interval", "100ms"]).start();
    let living = TestProcess::start();
    daemon.register("a", living.pid());
    eventually("a sweep has ended", || {
        Page::of(&daemon)
            .text
            .contains("\nreaperd_sweep_age_seconds ")
    });
    (daemon, living)
}

#[test]
fn the_documented_metrics_are_those_of_the_page() {
    let (daemon, _living) = used_daemon();
    let page = Page::of(&daemon);
    let documented = documented();
    let is_root = rustix::process::geteuid().is_root();
    for (name, row) in &documented {
        if row.meaning.contains("only: whether the daemon responded")
            || (row.meaning.contains("for root on the socket only") && !is_root)
            || (name == "reaperd_user_share_limit" && !is_root)
        {
            continue;
        }
        let shown = page.families();
        // The older format has no type for constant information.
        let kind = if row.kind == "info" {
            "gauge"
        } else {
            &row.kind
        };
        assert_eq!(shown.get(name.as_str()), Some(&kind), "{name}");
        let sample = if row.kind == "histogram" {
            format!("{name}_count")
        } else {
            name.clone()
        };
        let values = page.all(&sample);
        assert!(!values.is_empty(), "{name} has no value");
        for labels in values.keys() {
            let inner = labels.trim_matches(['{', '}']);
            let names = inner
                .split(',')
                .filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            assert_eq!(names.collect::<BTreeSet<_>>(), row.labels, "{name}{labels}");
        }
    }
    for name in page.families().keys() {
        assert!(documented.contains_key(*name), "{name} is not documented");
    }
    daemon.stop();
}

#[test]
fn the_reasons_of_refusals_are_the_documented_codes() {
    let (daemon, _living) = used_daemon();
    let shown = Page::of(&daemon).label_values("reaperd_refusals_total", "reason");
    let text = fs::read_to_string(repository().join("docs/http-api.md")).unwrap();
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let status: u16 = cells.next()?.parse().ok()?;
        (400..600).contains(&status).then_some(cells.next()?)
    });
    let codes = rows.flat_map(|cell| {
        let quoted = cell
            .split('(')
            .next()
            .unwrap_or_default()
            .split('`')
            .skip(1)
            .step_by(2);
        quoted.map(str::to_owned).collect::<Vec<_>>()
    });
    assert_eq!(shown, codes.collect());
    daemon.stop();
}

#[test]
fn no_metric_has_a_label_of_unlimited_values() {
    let (daemon, living) = used_daemon();
    let page = Page::of(&daemon);
    for label in ["pid", "session", "session_id", "token", "path", "name"] {
        assert!(!page.text.contains(&format!("{{{label}=\"")), "{label}");
        assert!(!page.text.contains(&format!(",{label}=\"")), "{label}");
    }
    let pid = format!("\"{}\"", living.pid());
    assert!(!page.text.contains(&pid));
    let lines = page.text.lines().count();
    assert!(lines < 400, "{lines} lines");
    daemon.stop();
}

#[test]
fn promtool_and_the_parser_of_openmetrics_accept_the_page() {
    let Some(promtool) = promtool() else {
        return;
    };
    let (daemon, _living) = used_daemon();
    let mut check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = Page::of(&daemon).text;
    check
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = check.wait_with_output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && complaints.is_empty(),
        "{complaints}"
    );

    let accept = "Accept: application/openmetrics-text; version=1.0.0\r\n";
    let response = access::on_socket(&daemon, &request("GET /metrics", accept, ""), "# EOF\n");
    let (head, page) = response.split_once("\r\n\r\n").unwrap();
    let expected = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.contains(expected), "{head}");
    assert!(page.ends_with("\n# EOF\n"));
    let families = parses_open_metrics(page);
    assert!(
        families.contains(&"reaperd_sessions gauge".to_owned()),
        "{families:?}"
    );
    assert!(
        families.contains(&"reaperd_build info".to_owned()),
        "{families:?}"
    );
    assert!(
        families.contains(&"reaperd_registrations counter".to_owned()),
        "{families:?}"
    );
    assert!(
        families.contains(&"reaperd_detection_seconds histogram".to_owned()),
        "{families:?}"
    );
    daemon.stop();
}
