//! Monitor and worker end together, and signals and notifications pass between them.

use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use reaper_tests::daemon::{Launch, TestDaemon, private_folder};
use reaper_tests::sys::seize;
use reaper_tests::wait::{TIMEOUT, eventually};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt::set_socket_passcred,
};
use rustix::process::{Pid, Signal};
use serde_json::Value;

const TRACED: i32 = 8;

fn process_exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn health_shows_the_pids_of_worker_and_monitor() {
    let daemon = TestDaemon::start(&[]);
    let health: Value = daemon.get("/v1/health").unwrap();
    assert_ne!(daemon.pid(), daemon.started());
    assert_eq!(health["pid"], daemon.pid());
    assert_eq!(health["monitor_pid"], daemon.started());
    daemon.stop();

    let daemon = Launch::with(&[]).one_process().start();
    let health: Value = daemon.get("/v1/health").unwrap();
    assert_eq!(health["pid"], daemon.started());
    assert_eq!(health["monitor_pid"], Value::Null);
    daemon.stop();
}

#[test]
fn a_killed_worker_is_replaced() {
    // Where the end of children is ignored, the kernel keeps no status and sends no signal.
    let with_ignored = ["sh", "-c", "trap '' CHLD; exec \"$@\"", "sh"];
    for prefix in [&[][..], &with_ignored] {
        let daemon = Launch::with(&[]).through(prefix).start();
        let worker = daemon.pid();
        daemon.signal_worker(Signal::KILL);
        eventually("another worker serves", || {
            let health = daemon.get::<Value>("/v1/health");
            health.is_ok_and(|health| health["pid"] != worker)
        });
        let log = daemon.log();
        assert!(log.contains("the worker was killed by signal 9"), "{log}");
        daemon.stop();
    }
}

#[test]
fn the_monitor_exits_with_the_code_of_a_worker_that_fails_to_start() {
    let flags = ["--sources", "sweep", "--require", "pidfd"];
    let mut daemon = Launch::with(&flags).spawn();
    assert_eq!(daemon.wait().code(), Some(1), "{}", daemon.log());
}

#[test]
fn a_killed_monitor_ends_the_worker() {
    let mut daemon = TestDaemon::start(&[]);
    let worker = daemon.pid();
    daemon.signal(Signal::KILL);
    assert_eq!(daemon.wait().signal(), Some(9));
    eventually("the worker has ended", || !process_exists(worker));
}

#[test]
fn signals_to_the_monitor_stop_the_worker() {
    let with_default = ["env", "--default-signal=INT"];
    for signal in [Signal::TERM, Signal::INT] {
        let daemon = Launch::with(&[]).through(&with_default).start();
        daemon.signal(signal);
        daemon.stopped();
    }
}

#[test]
fn the_monitor_notifies_the_service_manager() {
    let folder = private_folder();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(TIMEOUT)).unwrap();
    set_socket_passcred(&manager, true).unwrap();
    let mut daemon =
        Launch::with(&[]).spawn_by(|command| command.env("NOTIFY_SOCKET", &path).spawn());
    daemon.serves();
    let monitor = daemon.started();
    assert_eq!(next(&manager), ("READY=1".to_owned(), monitor));
    daemon.signal(Signal::HUP);
    let (reloading, sender) = next(&manager);
    assert!(
        reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{reloading}"
    );
    assert_eq!(sender, monitor);
    assert_eq!(next(&manager), ("READY=1".to_owned(), monitor));
    daemon.stop();
    assert_eq!(next(&manager), ("STOPPING=1".to_owned(), monitor));
}

/// The next notification of a state, and the pid of its sender. Descriptors that are to be kept and lines about
/// the state come in between.
fn next(manager: &UnixDatagram) -> (String, u32) {
    loop {
        let (text, sender) = next_of_any_kind(manager);
        if !text.starts_with("FDSTORE") && !text.starts_with("STATUS=") {
            return (text, sender);
        }
    }
}

fn next_of_any_kind(manager: &UnixDatagram) -> (String, u32) {
    let mut text = [0; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        manager,
        &mut [IoSliceMut::new(&mut text)],
        &mut control,
        RecvFlags::empty(),
    )
    .unwrap();
    let sender = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid),
        _ => None,
    });
    let text = str::from_utf8(&text[..received.bytes]).unwrap();
    let sender = sender.unwrap().as_raw_nonzero().get().cast_unsigned();
    (text.to_owned(), sender)
}

#[test]
fn a_traced_start_is_refused() {
    let folder = private_folder();
    let cue = folder.path().join("cue");
    // Without a child, whose end would stop the traced shell.
    let script = format!("until [ -e {} ]; do :; done; exec \"$@\"", cue.display());
    let mut daemon = Launch::with(&[])
        .through(&["sh", "-c", &script, "sh"])
        .spawn();
    let pid = Pid::from_raw(daemon.started().cast_signed()).unwrap();
    seize(pid).unwrap();
    fs::write(&cue, "").unwrap();
    let status = daemon.wait();
    let log = daemon.log();
    assert_eq!(status.code(), Some(TRACED), "{log}");
    assert!(log.contains("traces this process"), "{log}");
    assert!(log.contains("  try: start the daemon without"), "{log}");
    assert!(!daemon.socket().exists());
}
