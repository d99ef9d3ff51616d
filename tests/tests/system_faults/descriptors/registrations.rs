//! More registered processes than descriptors.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;

use reaper_tests::crowd::Crowd;
use reaper_tests::wait::eventually;

use super::{FAR_TOO_FEW, all_streams, ask_on, limited, refused_below, registration};
use crate::{Extent, extent};

/// Processes that die. As many stay alive: a thousand in all.
const HALF: usize = 500;

/// At each limit, several threads register more processes than there are descriptors, while all
/// streams are open.
#[test]
fn at_every_limit_no_registration_is_refused() {
    for sources in ["sweep", "auto"] {
        let least = refused_below(sources, FAR_TOO_FEW);
        for limit in [least, 48, 72, 256] {
            if limit < least {
                continue;
            }
            let daemon = limited(sources, limit).start();
            let streams = all_streams(&daemon);
            let count = match extent() {
                Extent::Bounded => limit.min(64) * 2,
                Extent::Whole => limit * 2,
            };
            let crowd = Crowd::start(count).unwrap();
            let pids: Vec<_> = crowd.pids().collect();
            let socket = daemon.socket();
            std::thread::scope(|scope| {
                // Each may have one connection that is being closed, beside the next one; four have a place
                // and three wait for one.
                for part in pids.chunks(count.div_ceil(3)) {
                    let socket = &socket;
                    scope.spawn(move || {
                        for pid in part {
                            let mut stream = UnixStream::connect(socket).unwrap();
                            let body = registration(*pid);
                            let response = ask_on(&mut stream, "POST /v1/sessions/register", &body);
                            assert!(response.contains(" 200 OK\r\n"), "{pid}: {response}");
                        }
                    });
                }
            });
            let identities: BTreeSet<_> = daemon.list().into_iter().map(|it| it.identity).collect();
            println!("{sources} at {limit}: {count} registered, pinned by {identities:?}");
            drop(streams);
            daemon.stop();
        }
    }
}

#[test]
fn with_72_descriptors_no_registration_is_refused_and_no_dead_session_stays() {
    for sources in ["auto", "pidfd", "netlink", "sweep"] {
        // A process costs a millisecond; in the bounded run only one set of sources gets them all.
        let half = match extent() {
            Extent::Bounded if sources != "auto" => HALF / 5,
            Extent::Bounded | Extent::Whole => HALF,
        };
        let daemon = limited(sources, 72).start();
        let mut events = daemon.events();
        let mut dying = Crowd::start(half).unwrap();
        let controls = Crowd::start(half).unwrap();
        // Alternately, so that some of either kind are beyond the budget.
        for (dying, control) in dying.pids().zip(controls.pids()) {
            daemon.register_all([dying, control]);
        }
        let identities: BTreeSet<_> = daemon.list().into_iter().map(|it| it.identity).collect();
        assert!(
            identities.len() > 1,
            "the budget was not reached: {identities:?}"
        );
        let dead = dying.sessions();
        dying.kill().unwrap();
        events.removals(dead.len());
        eventually("only the controls are listed", || {
            daemon.listed() == controls.sessions()
        });
        daemon.stop();
        events.check_each_removed_once(&dead);
    }
}
