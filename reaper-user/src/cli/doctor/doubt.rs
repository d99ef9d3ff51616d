//! Sources that report success but may still miss exits. `doctor` then recommends the self-test,
//! which checks them with real processes.

use super::{Finding, Scope, Verdict};
use crate::client::SourceReport;

/// Kernels on which a send without a receiver zeroes the connector's count of listeners. A listener
/// with a filter or a full buffer then receives nothing more, without an error. Commit
/// `c46bfba1337d` introduced this in 6.6.13 and 6.7.1; commit `8929f95b2b58` reverted it in 6.6.18
/// and 6.7.6. The first version is from the stable review, the others are from the commit dates.
const SILENT_CONNECTOR: [((u32, u32), std::ops::Range<u32>); 2] =
    [((6, 6), 13..18), ((6, 7), 1..6)];

/// Returns the reasons to doubt these sources on this kernel.
pub(super) fn doubts(release: &str, reports: &[SourceReport]) -> Vec<String> {
    let mut doubts = Vec::new();
    let netlink_works = reports
        .iter()
        .any(|report| report.source == "netlink" && report.works());
    if netlink_works && has_silent_connector(release) {
        doubts.push(format!(
            "on Linux {release} the proc connector can stop without an error \
             (fixed by kernel commit 8929f95b2b58)"
        ));
    }
    for SourceReport { source, lost, .. } in reports {
        if *lost > 0 {
            doubts.push(format!("{source} lost {lost} events"));
        }
    }
    // The daemon's sources may have the same problems as those of this process.
    doubts.sort();
    doubts.dedup();
    doubts
}

/// Returns a finding that recommends the self-test, if there is any doubt.
pub(super) fn finding(doubts: &[String]) -> Option<Finding> {
    (!doubts.is_empty()).then(|| Finding {
        verdict: Verdict::Warn,
        subject: "doubt".to_owned(),
        text: doubts.join("; "),
        remedy: "reaperd selftest".to_owned(),
        scope: Scope::Probe,
    })
}

/// Whether the release is one of [`SILENT_CONNECTOR`]. Returns `false` for a distribution's release
/// without a patch level (`6.6.0-13-generic`).
fn has_silent_connector(release: &str) -> bool {
    let version = release.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    let (Some(Some(major)), Some(Some(minor)), Some(Some(patch))) =
        (numbers.next(), numbers.next(), numbers.next())
    else {
        return false;
    };
    SILENT_CONNECTOR
        .iter()
        .any(|(series, patches)| *series == (major, minor) && patches.contains(&patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(source: &str, state: &str, lost: u64) -> SourceReport {
        SourceReport {
            source: source.to_owned(),
            state: state.to_owned(),
            lost,
            ..SourceReport::default()
        }
    }

    #[test]
    fn affected_kernels_are_recognized_by_their_patch_level() {
        for (release, is_one) in [
            ("6.6.12", false),
            ("6.6.13", true),
            ("6.6.17-amd64", true),
            ("6.6.18", false),
            ("6.7.1+deb13", true),
            ("6.7.6", false),
            ("6.18.44", false),
            ("6.6.0-14-generic", false),
            ("unheard-of", false),
        ] {
            assert_eq!(has_silent_connector(release), is_one, "{release}");
        }
    }

    #[test]
    fn there_is_a_finding_only_with_a_reason() {
        let well = [report("netlink", "up", 0), report("ebpf", "down", 0)];
        assert_eq!(doubts("6.18.44", &well), Vec::<String>::new());
        assert_eq!(finding(&[]), None);
        // A source that is down cannot miss exits unnoticed.
        assert!(doubts("6.6.14", &[report("netlink", "down", 0)]).is_empty());
        assert_eq!(doubts("6.6.14", &well).len(), 1);
        let reports = [report("netlink", "up", 3), report("pidfd", "degraded", 0)];
        let doubts = doubts("6.18.44", &reports);
        assert_eq!(doubts, ["netlink lost 3 events"]);
        let finding = finding(&doubts).unwrap();
        assert_eq!(finding.remedy, "reaperd selftest");
    }
}
