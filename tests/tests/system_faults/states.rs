//! What happens to a process without ending it: its group is frozen, it becomes another user. The
//! session stays until the end is really there, and then it goes.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use reaper_tests::cgroup::Cgroup;
use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::{TestDaemon, program, session_of};
use reaper_tests::expect::skip;
use reaper_tests::wait::{eventually, throughout, within};

use crate::life::{GONE_WITHIN, SWEEP};

const UID_NOBODY: &str = "65534";
/// Daemons that watch one process, each with its own sources.
pub(crate) struct Watchers {
    daemons: Vec<TestDaemon>,
    session: String,
}

impl Watchers {
    pub(crate) fn of(pid: u32) -> Self {
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

    pub(crate) fn it_stays(&self) {
        throughout(6 * SWEEP, || {
            for daemon in &self.daemons {
                let lists = daemon.lists(&self.session);
                assert!(lists, "a false death\n{}", daemon.log());
            }
        });
    }

    pub(crate) fn it_goes(self) {
        for daemon in self.daemons {
            within(GONE_WITHIN, "the dead is gone", || {
                !daemon.lists(&self.session)
            });
            daemon.stop();
        }
    }
}

#[test]
fn who_is_frozen_stays_and_who_is_killed_while_frozen_goes() {
    let group = match Cgroup::new("frozen") {
        Ok(group) => group,
        Err(reason) => return skip(reason),
    };
    if !group.can_be_frozen() {
        return skip("this kernel does not freeze groups");
    }
    let mut test_process = Crowd::start(1).unwrap();
    let pid = test_process.pids().next().unwrap();
    group.add(pid).unwrap();
    let watchers = Watchers::of(pid);
    group.freeze().unwrap();
    watchers.it_stays();
    test_process.kill().unwrap();
    watchers.it_goes();
}

#[test]
fn who_becomes_another_user_stays_until_its_end() {
    let setpriv = match program("setpriv") {
        _ if !rustix::process::geteuid().is_root() => return skip("not root"),
        None => return skip("no setpriv here"),
        Some(setpriv) => setpriv,
    };
    let become_uid_nobody =
        "read cue; exec \"$0\" --reuid \"$1\" --regid \"$1\" --clear-groups sleep 600";
    let mut test_process = Command::new("sh")
        .args(["-c", become_uid_nobody])
        .arg(setpriv)
        .arg(UID_NOBODY)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let (pid, mut cue) = (test_process.id(), test_process.stdin.take().unwrap());
    let mut test_process = Crowd::of(test_process);
    let watchers = Watchers::of(pid);
    cue.write_all(b"go\n").unwrap();
    let status = format!("/proc/{pid}/status");
    eventually("it is another user", || {
        let status = fs::read_to_string(&status).unwrap();
        status.contains(&format!("\nUid:\t{UID_NOBODY}\t{UID_NOBODY}\t"))
    });
    watchers.it_stays();
    test_process.kill().unwrap();
    watchers.it_goes();
}
