//! The test is the service manager: it keeps the descriptors that the daemon stores, and passes them to
//! the next one after monitor and worker were killed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use reaper_tests::daemon::{Launch, TestDaemon, private_folder};
use reaper_tests::oracle::{Oracle, random};
use reaper_tests::scale::scaled;
use reaper_tests::wait::eventually;
use rustix::io::FdFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The store of a service manager.
pub(crate) struct Store {
    socket: UnixDatagram,
    kept: BTreeMap<String, OwnedFd>,
}

impl Store {
    pub(crate) fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            socket,
            kept: BTreeMap::new(),
        }
    }

    /// Takes all notifications that have come.
    pub(crate) fn receive(&mut self) {
        loop {
            let mut bytes = [0; 4_096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let Ok(received) = recvmsg(&self.socket, &mut parts, &mut control, flags) else {
                return;
            };
            let fd = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            });
            let text = std::str::from_utf8(&bytes[..received.bytes]).unwrap();
            let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
            let name = field("FDNAME=").map(str::to_owned);
            if field("FDSTOREREMOVE=").is_some() {
                self.kept.remove(&name.unwrap());
            } else if field("FDSTORE=").is_some() {
                self.kept.insert(name.unwrap(), fd.unwrap());
            }
        }
    }

    /// Starts a daemon with what is kept. The shell puts the descriptors where the protocol has them.
    pub(crate) fn start(&self, command: &mut Command) -> std::io::Result<Child> {
        let names: Vec<_> = self.kept.keys().map(String::as_str).collect();
        let passed: Vec<_> = self.kept.values().map(inherited).collect();
        let moves = (3..).zip(&passed);
        let moves: Vec<_> = moves
            .map(|(to, fd)| format!("{to}<&{}", fd.as_raw_fd()))
            .collect();
        let script = format!("export LISTEN_PID=$$; exec \"$@\" {}", moves.join(" "));
        let mut shell = Command::new("bash");
        shell.args(["-c", &script, "bash"]);
        shell.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let address = self.socket.local_addr().unwrap();
        shell
            .env("NOTIFY_SOCKET", address.as_pathname().unwrap())
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"));
        // The log of each daemon is kept.
        let socket = command.get_args().skip_while(|it| *it != "--socket").nth(1);
        let log = Path::new(socket.unwrap()).with_file_name("log");
        let log = File::options().append(true).create(true).open(log)?;
        shell.stdout(log.try_clone()?).stderr(log).spawn()
    }
}

/// A duplicate that a child inherits, above the numbers of the protocol.
fn inherited(fd: &OwnedFd) -> OwnedFd {
    let copy = rustix::io::fcntl_dupfd_cloexec(fd, 20).unwrap();
    rustix::io::fcntl_setfd(&copy, FdFlags::empty()).unwrap();
    copy
}

#[test]
fn nothing_is_lost_when_monitor_and_worker_are_killed_and_descriptors_are_kept() {
    let kills = scaled(200, 20);
    let folder = private_folder();
    let mut store = Store::at(&folder.path().join("notify"));
    let launch = Launch::with(&["--sweep-interval", "500ms"]);
    let mut daemon = launch.spawn_by(|command| store.start(command));
    daemon.serves();
    let mut oracle = Oracle::begin(&daemon);
    for _ in 0..kills {
        let pause = Duration::from_micros(random(15_000));
        let monitor = Pid::from_raw(daemon.started().cast_signed()).unwrap();
        store.receive();
        let killer = thread::spawn(move || {
            thread::sleep(pause);
            kill_process(monitor, Signal::KILL).unwrap();
        });
        while oracle.operate(&daemon) && !killer.is_finished() {}
        killer.join().unwrap();
        store.receive();
        let names: Vec<_> = store.kept.keys().map(String::as_str).collect();
        let all = ["listener", "lock", "secrets", "table"].map(|it| format!("reaperd-{it}"));
        assert_eq!(names, all);
        daemon = daemon.replaced_through(&launch, |command| store.start(command));
        oracle.check(&daemon);
        let health: Value = daemon.get("/v1/health").unwrap();
        assert_eq!(health["carried_over"]["refused"], "");
    }
    println!(
        "{kills} kills of both; {} operations, {} without an answer; {} events; removals {:?}",
        oracle.operations, oracle.unanswered, oracle.history.events, oracle.history.removals,
    );
    // An orderly end leaves everything for the next start as well.
    let sessions = daemon.listed();
    daemon = daemon.restarted_through(&launch, |command| store.start(command));
    eventually("the sessions are there again", || {
        daemon.listed() == sessions
    });
    daemon.stop();
}

#[test]
fn what_a_service_manager_keeps_of_another_boot_is_refused_with_a_sentence() {
    let folder = private_folder();
    let mut store = Store::at(&folder.path().join("notify"));
    let launch = Launch::with(&[]);
    let mut daemon = launch.spawn_by(|command| store.start(command));
    daemon.serves();
    daemon.register("lost", std::process::id());
    store.receive();
    // Not a memory file.
    let other = File::open("/dev/null").unwrap().into();
    store.kept.insert("reaperd-table".to_owned(), other);
    let daemon: TestDaemon = daemon.replaced_through(&launch, |command| store.start(command));
    assert_eq!(daemon.list(), []);
    let health: Value = daemon.get("/v1/health").unwrap();
    let refused = health["carried_over"]["refused"].as_str().unwrap();
    assert!(!refused.is_empty());
    let log = daemon.log();
    assert!(log.contains("the sessions of the former daemon are not carried over"));
    daemon.stop();
}
