//! The connector's queue runs over: a buffer that cannot grow, no filter that would keep unrelated processes
//! out of it, a daemon that does not run, and more exits than fit.

use std::collections::BTreeSet;

use libc::c_int;
use reaper_tests::crowd::{Crowd, storm};
use reaper_tests::daemon::Launch;
use reaper_tests::sys::seccomp::Call;
use reaper_tests::wait::within;
use rustix::io::Errno;

use crate::injection::{Denied, spawn_denied};
use crate::life::GONE_WITHIN;
use crate::works;

/// Exits that an ordinary socket's buffer has room for, of 832 bytes each, times four.
const UNRELATED: usize = 1_100;

fn option(option: c_int, answer: Option<Errno>) -> Denied {
    let call = Call::from(libc::SYS_setsockopt).with(2, option.cast_unsigned());
    (call, answer)
}

#[test]
fn an_overrun_is_counted_and_everybody_is_looked_at_at_once() {
    let mut denied = vec![
        // The kernel's word for "done", and the buffer is what it was.
        option(libc::SO_RCVBUFFORCE, None),
        option(libc::SO_ATTACH_BPF, Some(Errno::NOMEM)),
        option(libc::SO_ATTACH_FILTER, Some(Errno::NOMEM)),
    ];
    with_a_queue_that_runs_over(&denied);
    // As a user who may load no program: then there are others that the kernel could refuse.
    denied.push((libc::SYS_bpf.into(), Some(Errno::PERM)));
    with_a_queue_that_runs_over(&denied);
}

fn with_a_queue_that_runs_over(denied: &[Denied]) {
    // Without the loss being noticed nobody would look for a minute.
    let launch = Launch::with(&["--sources", "netlink", "--sweep-interval", "60s"]);
    let mut daemon = launch.spawn_by(|command| spawn_denied(command, denied));
    daemon.serves();
    if !works(&daemon, "netlink") {
        return daemon.stop();
    }
    let netlink = || {
        let report = daemon.sources();
        let netlink = report.sources.into_iter().find(|it| it.source == "netlink");
        netlink.unwrap()
    };
    let before = netlink();
    println!("netlink: {}", before.detail);
    assert!(before.detail.contains("filter none"), "{}", before.detail);
    let mut events = daemon.events();
    let living = Crowd::start(20).unwrap();
    let mut dying = Crowd::start(20).unwrap();
    daemon.register_all(living.pids().chain(dying.pids()));
    let mut dead = dying.sessions();

    daemon.suspend();
    storm(UNRELATED).unwrap();
    dying.kill().unwrap();
    daemon.resume();

    within(GONE_WITHIN, "the dead are gone", || {
        let left: BTreeSet<_> = daemon.list().into_iter().map(|it| it.session_id).collect();
        assert!(left.is_superset(&living.sessions()), "a false death");
        left == living.sessions()
    });
    within(GONE_WITHIN, "the loss is counted", || {
        netlink().lost > before.lost
    });
    println!("lost: {}", netlink().lost);

    // It goes on hearing.
    let mut later = Crowd::start(1).unwrap();
    daemon.register_all(later.pids());
    dead.extend(later.sessions());
    later.kill().unwrap();
    events.removals(dead.len());
    daemon.stop();
    events.told_once_each(&dead);
}
