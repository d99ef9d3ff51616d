//! The documented need of each set of sources, and the lowest limit at which the daemon starts.

use reaper_tests::expect;
use reaper_tests::wait::Deadline;
use reaperd::testkit::descriptors;

use super::{AT_ONCE, FAR_TOO_FEW, limited, open_below, refused_below, set_of};

/// Each set of sources, as the flag names it.
const SETS: [&str; 5] = ["sweep", "pidfd", "netlink", "ebpf", "auto"];

#[test]
fn the_daemon_opens_no_more_descriptors_than_documented() {
    for sources in SETS {
        let set = set_of(sources);
        let stated = refused_below(sources, FAR_TOO_FEW);
        let inherited = stated - descriptors::minimum(&set);
        let documented: usize = descriptors::needs(&set).iter().map(|need| need.held).sum();
        let daemon = limited(sources, stated).start();
        let reports = daemon.sources().sources;
        for report in reports.iter().filter(|report| report.state != "off") {
            daemon.settled(&report.source).unwrap_or_else(|reason| {
                println!("{sources} without {}: {reason}", report.source);
            });
        }
        if open_below(&daemon, stated).is_none() {
            return expect::skip_without("root", "/proc/PID/fd of the daemon is not readable");
        }
        // Repeated, because a sweep opens a file at times, and each request of the test a
        // connection.
        let deadline = Deadline::after(AT_ONCE);
        let mut open = open_below(&daemon, stated).unwrap();
        while open.len() > documented + inherited {
            assert!(
                !deadline.has_passed(),
                "{sources}: open {open:#?}, documented {:#?}, inherited {inherited}",
                descriptors::needs(&set)
            );
            open = open_below(&daemon, stated).unwrap();
        }
        println!("{sources}: {} open, {documented} documented", open.len());
        daemon.stop();
    }
}

#[test]
fn at_the_lowest_limit_the_same_sources_work_as_without_a_limit() {
    for sources in SETS {
        let stated = refused_below(sources, FAR_TOO_FEW);
        assert_eq!(refused_below(sources, stated - 1), stated);
        let unlimited = limited(sources, 1_024).start();
        let lowest = limited(sources, stated).start();
        let reports = unlimited.sources().sources;
        for source in reports.iter().filter(|source| source.state != "off") {
            let name = &source.source;
            assert_eq!(
                lowest.settled(name).map_err(|_reason| ()),
                unlimited.settled(name).map_err(|_reason| ()),
                "{name} at {stated}\n{}",
                lowest.log()
            );
        }
        println!("{sources}: starts with {stated}");
        unlimited.stop();
        lowest.stop();
    }
}
