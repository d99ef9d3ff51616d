//! Many more sessions than descriptors.

use std::collections::BTreeSet;

use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::Launch;
use reaper_tests::wait::eventually;

use crate::{Extent, extent};

const FEW: &[&str] = &["sh", "-c", "ulimit -n 64; exec \"$@\"", "sh"];
/// Of those that die, and as many live: a thousand in all.
const HALF: usize = 500;

#[test]
fn with_64_descriptors_nobody_is_refused_and_nobody_is_kept_dead() {
    for sources in ["auto", "pidfd", "netlink", "sweep"] {
        // Processes cost a millisecond each; in the short run one set of sources gets them all.
        let half = match extent() {
            Extent::Bounded if sources != "auto" => HALF / 5,
            Extent::Bounded | Extent::Whole => HALF,
        };
        let flags = ["--sources", sources, "--sweep-interval", "250ms"];
        let daemon = Launch::with(&flags).through(FEW).start();
        let mut events = daemon.events();
        let mut dying = Crowd::start(half).unwrap();
        let living = Crowd::start(half).unwrap();
        // Mixed, so that some of either are beyond the budget.
        for (dies, lives) in dying.pids().zip(living.pids()) {
            daemon.register_all([dies, lives]);
        }
        let strengths: BTreeSet<_> = daemon.list().into_iter().map(|it| it.identity).collect();
        assert!(
            strengths.len() > 1,
            "the budget was not reached: {strengths:?}"
        );
        let dead = dying.sessions();
        dying.kill().unwrap();
        events.removals(dead.len());
        eventually("the living are listed and nobody else", || {
            let left: BTreeSet<_> = daemon.list().into_iter().map(|it| it.session_id).collect();
            left == living.sessions()
        });
        daemon.stop();
        events.told_once_each(&dead);
    }
}
