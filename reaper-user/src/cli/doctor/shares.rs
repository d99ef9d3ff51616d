//! What this user holds of the running daemon, and may hold.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Finding, Verdict};

/// The response to `GET /v1/limits`.
#[derive(Debug, Deserialize)]
pub(super) struct Limits {
    limits: BTreeMap<String, Share>,
    #[serde(default)]
    memory: BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
struct Share {
    used: u64,
    limit: u64,
}

pub(super) fn finding(limits: &Limits) -> Finding {
    let is_used_up = |share: &&Share| share.used >= share.limit;
    let used_up = limits.limits.values().filter(is_used_up).count();
    let (verdict, remedy) = if used_up == 0 {
        (Verdict::Ok, "")
    } else {
        (Verdict::Warn, "end programs of this user that hold them")
    };
    let shares = limits.limits.iter();
    let shares: Vec<_> = shares
        .map(|(name, Share { used, limit })| format!("{name} {used} of {limit}"))
        .collect();
    let memory = limits
        .memory
        .get("total")
        .map_or_else(String::new, |bytes| {
            format!("; memory if all limits are reached: {} MiB", bytes >> 20)
        });
    let text = format!("share of this user: {}{memory}", shares.join(", "));
    Finding::of_daemon("limits", verdict, text, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_that_is_used_up_is_a_warning() {
        let text = |used: u64| {
            format!(
                "{{\"limits\":{{\"streams\":{{\"used\":{used},\"limit\":3,\"total\":9}}}},\
                 \"memory\":{{\"total\":4194304}}}}"
            )
        };
        let found = |used| finding(&serde_json::from_str(&text(used)).unwrap());
        assert_eq!(found(2).verdict, Verdict::Ok);
        assert_eq!(
            found(2).text,
            "share of this user: streams 2 of 3; memory if all limits are reached: 4 MiB"
        );
        assert_eq!(found(3).verdict, Verdict::Warn);
        assert!(!found(3).remedy.is_empty());
    }
}
