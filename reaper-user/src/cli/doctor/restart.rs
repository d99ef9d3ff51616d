//! Whether the sessions of the daemon outlive it, and what it has taken over.

use serde::Deserialize;

use super::{Finding, Verdict};

#[derive(Deserialize)]
pub(super) struct Health {
    restarts: u32,
    replaced: u32,
    carried_over: CarriedOver,
}

#[derive(Deserialize)]
struct CarriedOver {
    sessions: usize,
    ended: usize,
    damaged: usize,
    refused: String,
    is_kept: bool,
}

/// Returns the finding.
pub(super) fn finding(health: &Health) -> Finding {
    let Health {
        restarts,
        replaced,
        carried_over,
    } = health;
    let CarriedOver {
        sessions,
        ended,
        damaged,
        refused,
        is_kept,
    } = carried_over;
    let (verdict, text, remedy) = if !refused.is_empty() {
        let text = format!("sessions of the former daemon were not carried over: {refused}");
        (Verdict::Warn, text, "let their programs register again")
    } else if *damaged > 0 {
        let text = format!("{damaged} records of the former daemon were damaged and are left out");
        (Verdict::Warn, text, "let their programs register again")
    } else if *is_kept {
        let text = format!(
            "sessions outlive a worker that is killed; {restarts} restarts, replaced {replaced} times, \
             {sessions} sessions carried over, {ended} ended meanwhile"
        );
        (Verdict::Ok, text, "")
    } else {
        let text = "a killed daemon loses its sessions".to_owned();
        (Verdict::Skip, text, "start it without --no-monitor")
    };
    Finding::of_daemon("restart", verdict, text, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_a_warning() {
        for (refused, damaged, is_kept, verdict) in [
            ("", 0, true, Verdict::Ok),
            ("", 0, false, Verdict::Skip),
            (
                "it was written before the last boot",
                0,
                true,
                Verdict::Warn,
            ),
            ("", 3, true, Verdict::Warn),
        ] {
            let finding = finding(&Health {
                restarts: 2,
                replaced: 1,
                carried_over: CarriedOver {
                    sessions: 5,
                    ended: 1,
                    damaged,
                    refused: refused.to_owned(),
                    is_kept,
                },
            });
            assert_eq!(finding.verdict, verdict);
            assert!(finding.text.contains(refused));
        }
    }
}
