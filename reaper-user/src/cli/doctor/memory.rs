//! How the daemon protects the memory of secret keys.

use serde::Deserialize;
use serde_json::Value;

use super::{Finding, Verdict};

#[derive(Deserialize)]
struct Health {
    memory: Memory,
}

#[derive(Deserialize)]
struct Memory {
    kind: String,
    #[serde(default)]
    reason: String,
}

/// Returns the finding from `/v1/health`. `None` if the daemon does not report it.
pub(super) fn finding(health: &Value) -> Option<Finding> {
    let health = Health::deserialize(health).ok()?;
    Some(finding_about(health.memory))
}

fn finding_about(memory: Memory) -> Finding {
    let Memory { kind, reason } = memory;
    let (verdict, remedy) = match kind.as_str() {
        "unlocked" => (
            Verdict::Warn,
            "raise the limit of locked memory (ulimit -l; LimitMEMLOCK= under systemd) and restart the \
             daemon",
        ),
        _ => (Verdict::Ok, ""),
    };
    let text = match (kind.as_str(), reason.as_str()) {
        ("unlocked", _) => format!("secret keys may be written to swap; {reason}"),
        (_, "") => format!("secret keys are in memory of kind {kind}"),
        _ => format!("secret keys are in memory of kind {kind}; {reason}"),
    };
    Finding::of_daemon("memory", verdict, text, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unlocked_memory_is_a_warning() {
        for (kind, verdict) in [
            ("memfd_secret", Verdict::Ok),
            ("locked", Verdict::Ok),
            ("unlocked", Verdict::Warn),
        ] {
            let finding = finding_about(Memory {
                kind: kind.to_owned(),
                reason: "memfd_secret: a reason".to_owned(),
            });
            assert_eq!(finding.verdict, verdict, "{kind}");
            assert_eq!(finding.remedy.is_empty(), verdict == Verdict::Ok, "{kind}");
            assert!(finding.text.contains("a reason"));
        }
    }
}
