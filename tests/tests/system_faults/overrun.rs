//! The receive queue of the connector overruns: a buffer that cannot grow, no filter that would
//! keep unrelated processes out of it, a stopped daemon, and more exits than fit.

use libc::c_int;
use reaper_tests::crowd::{Crowd, storm};
use reaper_tests::daemon::Launch;
use reaper_tests::sys::seccomp::{Call, Denied, spawn_denied};
use reaper_tests::wait::within;
use rustix::io::Errno;

use crate::scenario::{REMOVED_WITHIN, wait_until_only};

/// Four times the exits, of 832 bytes each, that fit into an ordinary socket buffer.
const UNRELATED: usize = 1_100;

fn deny_option(option: c_int, error: Option<Errno>) -> Denied {
    let call = Call::from(libc::SYS_setsockopt).with(2, option.cast_unsigned());
    (call, error)
}

#[test]
fn an_overrun_is_counted_and_starts_a_sweep_at_once() {
    let mut denied = vec![
        // Returns success, but the buffer stays as it was.
        deny_option(libc::SO_RCVBUFFORCE, None),
        deny_option(libc::SO_ATTACH_BPF, Some(Errno::NOMEM)),
        deny_option(libc::SO_ATTACH_FILTER, Some(Errno::NOMEM)),
    ];
    overrun_the_queue(&denied);
    // As for a user who may not load programs: the daemon then tries a classic filter.
    denied.push((libc::SYS_bpf.into(), Some(Errno::PERM)));
    overrun_the_queue(&denied);
}

fn overrun_the_queue(denied: &[Denied]) {
    // If the loss were not noticed, there would be no sweep for a minute.
    let launch = Launch::with(&["--sources", "netlink", "--sweep-interval", "60s"]);
    let mut daemon = launch.spawn_by(|command| spawn_denied(command, denied));
    daemon.serves();
    if !daemon.has_source("netlink") {
        return daemon.stop();
    }
    let netlink = || daemon.source("netlink");
    let before = netlink();
    println!("netlink: {}", before.detail);
    assert!(before.detail.contains("filter none"), "{}", before.detail);
    let mut events = daemon.events();
    let controls = Crowd::start(20).unwrap();
    let mut dying = Crowd::start(20).unwrap();
    daemon.register_all(controls.pids().chain(dying.pids()));
    let mut dead = dying.sessions();

    daemon.suspend();
    storm(UNRELATED).unwrap();
    dying.kill().unwrap();
    daemon.resume();

    wait_until_only(&controls, &daemon);
    within(REMOVED_WITHIN, "the loss is counted", || {
        netlink().lost > before.lost
    });
    println!("lost: {}", netlink().lost);

    // The source still works.
    let mut later = Crowd::start(1).unwrap();
    daemon.register_all(later.pids());
    dead.extend(later.sessions());
    later.kill().unwrap();
    events.removals(dead.len());
    daemon.stop();
    events.check_each_removed_once(&dead);
}
