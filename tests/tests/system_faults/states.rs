//! Changes that do not end a process: its cgroup is frozen, its user changes. The session stays
//! until the process really dies, and is then removed.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use reaper_tests::cgroup::Cgroup;
use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::{TestDaemon, program, session_of};
use reaper_tests::expect::skip;
use reaper_tests::wait::{eventually, throughout, within};

use crate::scenario::{REMOVED_WITHIN, SWEEP};

const UID_NOBODY: &str = "65534";

/// Daemons that watch one process, each with other sources.
pub(crate) struct Daemons {
    daemons: Vec<TestDaemon>,
    session: String,
}

impl Daemons {
    pub(crate) fn watching(pid: u32) -> Self {
        let sweep = format!("{}ms", SWEEP.as_millis());
        let daemons = ["auto", "pidfd", "sweep"].map(|sources| {
            let daemon = TestDaemon::start(&["--sources", sources, "--sweep-interval", &sweep]);
            daemon.register_all([pid]);
            daemon
        });
        Self {
            daemons: daemons.into(),
            session: session_of(pid),
        }
    }

    /// Checks for some sweeps that the session stays listed.
    pub(crate) fn check_stays(&self) {
        throughout(6 * SWEEP, || {
            for daemon in &self.daemons {
                let lists = daemon.lists(&self.session);
                assert!(lists, "a false death\n{}", daemon.log());
            }
        });
    }

    /// Checks that the session is removed.
    pub(crate) fn check_removed(self) {
        for daemon in self.daemons {
            within(REMOVED_WITHIN, "the session is removed", || {
                !daemon.lists(&self.session)
            });
            daemon.stop();
        }
    }
}

#[test]
fn a_frozen_process_stays_and_is_removed_when_killed() {
    let group = match Cgroup::new("frozen") {
        Ok(group) => group,
        Err(reason) => return skip(reason),
    };
    if !group.can_be_frozen() {
        return skip("this kernel cannot freeze cgroups");
    }
    let mut test_process = Crowd::start(1).unwrap();
    let pid = test_process.pids().next().unwrap();
    group.add(pid).unwrap();
    let daemons = Daemons::watching(pid);
    group.freeze().unwrap();
    daemons.check_stays();
    test_process.kill().unwrap();
    daemons.check_removed();
}

#[test]
fn a_process_that_changes_its_user_stays_until_it_dies() {
    let setpriv = match program("setpriv") {
        _ if !rustix::process::geteuid().is_root() => return skip("not root"),
        None => return skip("setpriv is not installed"),
        Some(setpriv) => setpriv,
    };
    let change_user =
        "read cue; exec \"$0\" --reuid \"$1\" --regid \"$1\" --clear-groups sleep 600";
    let mut test_process = Command::new("sh")
        .args(["-c", change_user])
        .arg(setpriv)
        .arg(UID_NOBODY)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let (pid, mut cue) = (test_process.id(), test_process.stdin.take().unwrap());
    let mut test_process = Crowd::of(test_process);
    let daemons = Daemons::watching(pid);
    cue.write_all(b"go\n").unwrap();
    let status = format!("/proc/{pid}/status");
    eventually("the user has changed", || {
        let status = fs::read_to_string(&status).unwrap();
        status.contains(&format!("\nUid:\t{UID_NOBODY}\t{UID_NOBODY}\t"))
    });
    daemons.check_stays();
    test_process.kill().unwrap();
    daemons.check_removed();
}
