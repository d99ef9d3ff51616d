//! The configuration of the running daemon, as one finding.

use serde::Deserialize;

use super::{Finding, Verdict};

/// The part of `/v1/health` that this is about.
#[derive(Debug, Deserialize)]
pub(super) struct Health {
    config: Option<Config>,
}

#[derive(Debug, Deserialize)]
struct Config {
    files: Vec<String>,
    error: Option<String>,
    needs_restart: Vec<String>,
}

/// Returns the finding; none for a daemon that does not report it.
pub(super) fn finding(health: Health) -> Option<Finding> {
    let Config {
        files,
        error,
        needs_restart,
    } = health.config?;
    let (verdict, text, remedy) = if let Some(error) = error {
        (
            Verdict::Warn,
            format!("the last reload failed and changed nothing: {error}"),
            "correct it, run `reaperd config check`, and send SIGHUP to the daemon",
        )
    } else if !needs_restart.is_empty() {
        (
            Verdict::Warn,
            format!("changed since the start: {}", needs_restart.join(", ")),
            "restart the daemon",
        )
    } else if files.is_empty() {
        (Verdict::Ok, "no configuration file".to_owned(), "")
    } else {
        (Verdict::Ok, format!("from {}", files.join(", ")), "")
    };
    Some(Finding::of_daemon("config", verdict, text, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_reload_and_a_needed_restart_are_warnings() {
        let verdict = |config: &str| {
            let health = serde_json::from_str(&format!("{{\"config\":{config}}}")).unwrap();
            finding(health).map(|finding| finding.verdict)
        };
        let failed = r#"{"files":["/f"],"error":"/f:1:1: wrong","needs_restart":[]}"#;
        assert_eq!(verdict(failed), Some(Verdict::Warn));
        let changed = r#"{"files":[],"error":null,"needs_restart":["user"]}"#;
        assert_eq!(verdict(changed), Some(Verdict::Warn));
        let fine = r#"{"files":["/f"],"error":null,"needs_restart":[]}"#;
        assert_eq!(verdict(fine), Some(Verdict::Ok));
        assert_eq!(verdict("null"), None, "an older daemon");
    }
}
