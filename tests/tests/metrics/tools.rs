//! Programs of others that read metrics. A test without them is skipped, or fails where `REAPER_REQUIRE`
//! lists `prometheus`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use reaper_tests::daemon::program;
use reaper_tests::expect::skip_without;

/// The Python of the system, for which the parser is a package of the system.
const PYTHON: &str = "/usr/bin/python3";
const PARSER: &str = "\
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
for family in parse(sys.stdin.read()):
    assert family.documentation, family.name
    print(family.name, family.type)
";

/// The path of this program; without it, skips.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let found = program(name);
    if found.is_none() {
        skip_without("prometheus", format_args!("{name} is not installed"));
    }
    found
}

pub(crate) fn promtool() -> Option<PathBuf> {
    tool("promtool")
}

/// The names and types of the families in this page, read by Prometheus's parser of OpenMetrics.
pub(crate) fn parses_open_metrics(page: &str) -> Vec<String> {
    let mut python = Command::new(PYTHON)
        .args(["-c", PARSER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    python
        .stdin
        .take()
        .unwrap()
        .write_all(page.as_bytes())
        .unwrap();
    let output = python.wait_with_output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(str::to_owned).collect()
}
