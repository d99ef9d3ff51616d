//! Whether another program has taken files of the daemon.

use serde::Deserialize;

use super::{Finding, Verdict};

/// The part of `/v1/health` that this is about.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Health {
    conflicts: Vec<String>,
}

/// Returns the finding; none where there is nothing to report.
pub(super) fn finding(health: &Health) -> Option<Finding> {
    if health.conflicts.is_empty() {
        return None;
    }
    Some(Finding::of_daemon(
        "conflicts",
        Verdict::Fail,
        health.conflicts.join("; "),
        "stop the other program, or this daemon",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_is_a_failure() {
        let read = |text| finding(&serde_json::from_str(text).unwrap());
        let finding = read(r#"{"conflicts":["process 7 has the pid file"]}"#).unwrap();
        assert_eq!(finding.verdict, Verdict::Fail);
        assert!(finding.text.contains("process 7"));
        assert!(read(r#"{"conflicts":[]}"#).is_none());
        assert!(read("{}").is_none(), "an older daemon");
    }
}
