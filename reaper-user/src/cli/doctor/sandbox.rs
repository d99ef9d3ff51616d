//! What the daemon's worker may still do, as one finding.

use serde::Deserialize;

use super::{Finding, Verdict};

/// The part of `/v1/health` that this is about.
#[derive(Debug, Deserialize)]
pub(super) struct Health {
    sandbox: Option<Sandbox>,
}

#[derive(Debug, Deserialize)]
struct Sandbox {
    user: u32,
    capabilities: Vec<String>,
    bounding_set: usize,
    no_new_privs: bool,
    seccomp: String,
    landlock: String,
    monitor: bool,
}

/// Returns the finding; none for a daemon that does not report it.
pub(super) fn finding(health: Health) -> Option<Finding> {
    let sandbox = health.sandbox?;
    let capabilities = match sandbox.capabilities.as_slice() {
        [] => "no capabilities".to_owned(),
        some => some.join("+"),
    };
    let new_privileges = if sandbox.no_new_privs { "no" } else { "yes" };
    let text = format!(
        "user {}, {capabilities}, bounding set {}, new privileges {new_privileges}, seccomp {}, \
         landlock {}, monitor {}",
        sandbox.user,
        sandbox.bounding_set,
        sandbox.seccomp,
        sandbox.landlock,
        if sandbox.monitor { "yes" } else { "no" },
    );
    // A kernel without Landlock is no fault of the daemon, and `--no-monitor` was requested.
    let lacks_filter = sandbox.monitor && sandbox.seccomp == "off";
    let (verdict, remedy) = if lacks_filter {
        (
            Verdict::Warn,
            "see the daemon's log for why its system calls are not restricted",
        )
    } else {
        (Verdict::Ok, "")
    };
    Some(Finding::of_daemon("sandbox", verdict, text, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding_of(seccomp: &str, monitor: bool) -> Finding {
        let health = serde_json::json!({"ok": true, "sandbox": {
            "user": 2001, "capabilities": ["BPF"], "bounding_set": 0, "no_new_privs": true,
            "seccomp": seccomp, "landlock": "full", "monitor": monitor,
        }});
        finding(serde_json::from_value(health).unwrap()).unwrap()
    }

    #[test]
    fn a_worker_without_a_filter_is_a_warning() {
        assert_eq!(finding_of("off", true).verdict, Verdict::Warn);
        assert_eq!(finding_of("off", false).verdict, Verdict::Ok);
        let Finding { verdict, text, .. } = finding_of("filter", true);
        assert_eq!(verdict, Verdict::Ok);
        assert_eq!(
            text,
            "user 2001, BPF, bounding set 0, new privileges no, seccomp filter, landlock full, \
             monitor yes"
        );
    }

    #[test]
    fn a_daemon_that_reports_no_sandbox_is_no_finding() {
        assert_eq!(finding(Health { sandbox: None }), None);
    }
}
