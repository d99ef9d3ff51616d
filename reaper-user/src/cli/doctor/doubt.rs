//! When sources that say they work deserve doubt: `doctor` then recommends the self-test, which
//! does not ask but looks.

use super::{Finding, Verdict};
use crate::client::SourceReport;

/// Kernels on which a send to nobody zeroed the connector's count of listeners, so that a filtered
/// or overrun listener went silent without an error: `c46bfba1337d`, shipped in 6.6.13 and 6.7.1 and
/// reverted by `8929f95b2b58` in 6.6.18 and 6.7.6 (the first from the stable review, the others by
/// their dates).
const SILENT_CONNECTOR: [((u32, u32), std::ops::Range<u32>); 2] =
    [((6, 6), 13..18), ((6, 7), 1..6)];

/// What is doubtful about this kernel and these sources, in sentences.
pub(super) fn doubts(release: &str, reports: &[SourceReport]) -> Vec<String> {
    let mut doubts = Vec::new();
    let netlink_works = reports
        .iter()
        .any(|report| report.source == "netlink" && report.works());
    if netlink_works && has_silent_connector(release) {
        doubts.push(format!(
            "Linux {release} can silence the proc connector without an error (8929f95b2b58 mends it)"
        ));
    }
    for SourceReport { source, lost, .. } in reports {
        if *lost > 0 {
            doubts.push(format!("{source} has lost {lost} events"));
        }
    }
    // The daemon's sources may say the same as ours.
    doubts.sort();
    doubts.dedup();
    doubts
}

/// The recommendation, where there is any doubt.
pub(super) fn finding(doubts: &[String]) -> Option<Finding> {
    (!doubts.is_empty()).then(|| Finding {
        verdict: Verdict::Warn,
        subject: "doubt".to_owned(),
        text: doubts.join("; "),
        remedy: "reaperd selftest".to_owned(),
    })
}

/// Whether this is one of [`SILENT_CONNECTOR`]. A distribution's release may hide its patch level
/// behind the first version of a series (`6.6.0-13-generic`), and then it is not one.
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
    fn kernels_that_silence_the_connector_are_known_by_their_patch_level() {
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
    fn doubt_needs_a_reason() {
        let well = [report("netlink", "up", 0), report("ebpf", "down", 0)];
        assert_eq!(doubts("6.18.44", &well), Vec::<String>::new());
        assert_eq!(finding(&[]), None);
        // Where it does not run, its faults are nobody's.
        assert!(doubts("6.6.14", &[report("netlink", "down", 0)]).is_empty());
        assert_eq!(doubts("6.6.14", &well).len(), 1);
        let reports = [report("netlink", "up", 3), report("pidfd", "degraded", 0)];
        let doubts = doubts("6.18.44", &reports);
        assert_eq!(doubts, ["netlink has lost 3 events"]);
        let finding = finding(&doubts).unwrap();
        assert_eq!(finding.remedy, "reaperd selftest");
    }
}
