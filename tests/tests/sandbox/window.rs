//! A process of the daemon's user tries to open its memory from the moment of its start.

use std::fs::{File, OpenOptions};
use std::process::Command;
use std::thread;

use reaper_tests::daemon::{Launch, TestDaemon, children_of};
use reaper_tests::expect::{root_with, skip};
use reaper_tests::scale::scaled;
use reaper_tests::sys::seize;
use reaper_tests::wait::eventually_some;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};
use rustix::{fs::Gid, fs::Uid};

const USER: u32 = 2001;
const AS_USER: &[&str] = &[
    "setpriv",
    "--reuid",
    "2001",
    "--regid",
    "2001",
    "--clear-groups",
];

/// What a process of the same user got hold of.
#[derive(Debug, Default)]
struct Loot {
    memory: Vec<File>,
    traced: usize,
    descriptors: usize,
}

impl Loot {
    fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.traced == 0 && self.descriptors == 0
    }

    fn take_from(&mut self, pid: Pid) {
        let memory = format!("/proc/{}/mem", pid.as_raw_nonzero());
        self.memory
            .extend(OpenOptions::new().read(true).write(true).open(memory));
        if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
            let standard = 0..3;
            let taken =
                standard.filter(|fd| pidfd_getfd(&pidfd, *fd, PidfdGetfdFlags::empty()).is_ok());
            self.descriptors += taken.count();
        }
        if seize(pid).is_ok() {
            self.traced += 1;
        }
    }
}

/// Runs this on a thread of the unprivileged user.
fn as_user<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (uid, gid) = (Uid::from_raw(USER), Gid::from_raw(USER));
            set_thread_res_gid(gid, gid, gid).unwrap();
            set_thread_res_uid(uid, uid, uid).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

#[test]
fn the_attack_works_on_a_process_that_does_not_resist() {
    if !root_with(&["setpriv", "sleep"]) {
        return;
    }
    let mut sleeps = Command::new(AS_USER[0])
        .args(&AS_USER[1..])
        .args(["sleep", "600"])
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&sleeps);
    // Until the user has been changed, it is root's.
    eventually_some("the process is open to its user", || {
        let mut loot = Loot::default();
        as_user(|| loot.take_from(pid));
        println!("{loot:?}");
        (!loot.memory.is_empty() && loot.traced > 0 && loot.descriptors > 0).then_some(())
    });
    sleeps.kill().unwrap();
    sleeps.wait().unwrap();
}

/// Attacks the worker from its first moment on until it serves. Returns what was got, and how often
/// the attack was tried.
fn attack_a_start() -> (Loot, usize, bool) {
    let launch = Launch::with(&["--sources", "pidfd"])
        .through(AS_USER)
        .for_user(USER);
    let mut daemon: TestDaemon = launch.spawn();
    let started = daemon.started();
    let monitor = Pid::from_raw(started.cast_signed()).unwrap();
    let socket = daemon.socket();
    let (loot, attempts, has_monitor) = as_user(move || {
        let mut loot = Loot::default();
        let mut attempts = 0;
        let mut of_monitor = None;
        let path = format!("/proc/{}/mem", monitor.as_raw_nonzero());
        while !socket.exists() && attempts < 1_000_000 {
            for worker in children_of(started) {
                loot.take_from(worker);
                attempts += 1;
            }
            of_monitor = of_monitor.or_else(|| File::open(&path).ok());
        }
        (loot, attempts, of_monitor.is_some())
    });
    daemon.serves();
    daemon.stop();
    (loot, attempts, has_monitor)
}

#[test]
fn no_process_of_the_same_user_gets_at_the_worker() {
    if !root_with(&["setpriv"]) {
        return;
    }
    let starts = scaled(200, 20);
    let mut attempts = 0;
    let mut monitors = 0;
    for _ in 0..starts {
        let (loot, tried, has_monitor) = attack_a_start();
        assert!(loot.is_empty(), "{loot:?}");
        attempts += tried;
        monitors += usize::from(has_monitor);
    }
    println!(
        "{starts} starts, {attempts} attempts on workers; the memory of {monitors} monitors was opened"
    );
    if attempts == 0 {
        skip("this machine never ran the attacker during a start");
    }
}
