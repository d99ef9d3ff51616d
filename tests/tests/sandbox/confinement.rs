//! What the worker can no longer do, and that the monitor does for it what its sources need.

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Command, Stdio};

use reaper_tests::daemon::{Launch, TestDaemon, private_folder, reaperd};
use reaper_tests::expect::root_with;
use reaper_tests::sys::silence;
use reaper_tests::wait::eventually;
use rustix::net::{AddressFamily, sockopt::socket_domain};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open,
};
use serde_json::{Value, json};

const USER: u32 = 2001;
const EPERM: i32 = 1;
const EACCES: i32 = 13;

fn status_of(pid: u32) -> HashMap<String, String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let fields = status.lines().filter_map(|line| line.split_once(':'));
    fields
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

fn sandbox_of(daemon: &TestDaemon) -> Value {
    daemon.get::<Value>("/v1/health").unwrap()["sandbox"].clone()
}

#[test]
fn the_worker_of_another_user_has_no_capability_and_few_calls() {
    if !root_with(&[]) {
        return;
    }
    let daemon = Launch::with(&["--user", "2001"]).for_user(USER).start();
    let status = status_of(daemon.pid());
    println!("{status:#?}");
    let none = "0000000000000000";
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status[set], none, "{set}");
    }
    let user = ["2001"; 4].join("\t");
    assert_eq!((&status["Uid"], &status["Gid"]), (&user, &user));
    assert_eq!(status["Groups"], "");
    assert_eq!(
        (status["NoNewPrivs"].as_str(), status["Seccomp"].as_str()),
        ("1", "2")
    );
    let monitor = status_of(daemon.started());
    assert_eq!(monitor["CapBnd"], none);
    assert_eq!(
        (monitor["NoNewPrivs"].as_str(), monitor["Seccomp"].as_str()),
        ("1", "2")
    );

    let sandbox = sandbox_of(&daemon);
    println!("{sandbox}");
    assert_eq!(sandbox["user"], 2001);
    assert_eq!(sandbox["capabilities"], json!([]));
    assert_eq!(sandbox["bounding_set"], 0);
    assert_eq!(sandbox["no_new_privs"], true);
    assert_eq!(sandbox["seccomp"], "filter");
    assert_eq!(sandbox["monitor"], true);
    let has_landlock = !daemon.log().contains("has no Landlock");
    assert_eq!(sandbox["landlock"] != "off", has_landlock);
    daemon.stop();
}

#[test]
fn without_root_the_worker_has_the_same_sandbox_as_its_own_user() {
    let daemon = TestDaemon::start(&[]);
    let status = status_of(daemon.pid());
    assert_eq!(status["CapEff"], "0000000000000000");
    assert_eq!(
        (status["NoNewPrivs"].as_str(), status["Seccomp"].as_str()),
        ("1", "2")
    );
    assert_eq!(
        sandbox_of(&daemon)["user"],
        rustix::process::geteuid().as_raw()
    );
    daemon.stop();
}

#[test]
fn the_socket_folder_is_created_for_the_user() {
    if !root_with(&[]) {
        return;
    }
    let parent = private_folder();
    fs::set_permissions(parent.path(), Permissions::from_mode(0o755)).unwrap();
    let socket = parent.path().join("new/s.sock");
    let mut daemon = Command::new(reaperd())
        .args(["daemon", "--user", "2001", "--sources", "sweep", "--socket"])
        .arg(&socket)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("it listens", || socket.exists());
    for file in [&socket, socket.parent().unwrap()] {
        assert_eq!(file.symlink_metadata().unwrap().uid(), USER, "{file:?}");
    }
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn a_worker_whose_folder_was_removed_says_what_to_do() {
    let parent = private_folder();
    let folder = parent.path().join("folder");
    let socket = folder.join("s.sock");
    let log = parent.path().join("log");
    let mut daemon = Command::new(reaperd())
        .args(["daemon", "--sources", "sweep", "--socket"])
        .arg(&socket)
        .env("XDG_RUNTIME_DIR", parent.path())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    eventually("it listens", || socket.exists());
    fs::remove_dir_all(&folder).unwrap();
    let log = || fs::read_to_string(&log).unwrap();
    eventually("it binds again, or says that it cannot", || {
        socket.exists() || log().contains("until the daemon is restarted")
    });
    // Only Landlock keeps it from a new folder.
    println!("{}", log());
    assert_eq!(socket.exists(), log().contains("has no Landlock"));
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn a_missing_folder_of_token_files_is_created_and_no_other_is_open() {
    let runtime = private_folder();
    let daemon = Launch::with(&[]).with_runtime_dir(runtime.path()).start();
    let folder = runtime.path().join("reaperd");
    let found = folder.symlink_metadata().unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o700);
    daemon.stop();
}

#[test]
fn an_unknown_user_is_refused_with_its_name() {
    let mut daemon = Launch::with(&["--user", "no-such-user"]).spawn();
    assert_eq!(daemon.wait().code(), Some(2));
    let log = daemon.log();
    assert!(
        log.contains("--user") && log.contains("no-such-user"),
        "{log}"
    );
}

#[test]
fn forbidden_system_calls_and_files_are_refused() {
    let parent = private_folder();
    let folder = parent.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let output = Command::new(reaperd())
        .args(["test-process", "confined"])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    println!("{text}");
    let ends_in = |line: &str| {
        line.rsplit(' ')
            .next()
            .and_then(|word| word.parse::<i32>().ok())
    };
    assert!(text.contains("seccomp on\n"), "{text}");
    assert!(text.contains("inside 0\n"), "{text}");
    if !text.contains("landlock off\n") {
        let outside = text
            .lines()
            .find(|line| line.starts_with("outside "))
            .unwrap();
        assert_eq!(ends_in(outside), Some(EACCES));
    }
    let calls: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("call "))
        .collect();
    assert!(calls.len() >= 30, "{}", calls.len());
    for call in calls {
        assert_eq!(ends_in(call), Some(EPERM), "{call}");
    }
    let later = |is_listening: bool| {
        let start = format!("later {is_listening} ");
        let lines = text.lines().filter(move |line| line.starts_with(&start));
        lines.map(|line| (line, ends_in(line))).collect::<Vec<_>>()
    };
    assert_eq!((later(false).len(), later(true).len()), (6, 6));
    for (line, errno) in later(false) {
        assert_ne!(errno, Some(EPERM), "{line}");
    }
    for (line, errno) in later(true) {
        assert_eq!(errno, Some(EPERM), "{line}");
    }
    // The whole of Landlock includes the scope of signals.
    if text.contains("landlock full\n") {
        assert!(text.contains("signal 1\n"), "{text}");
    }
}

#[test]
fn a_worker_that_listens_has_one_more_filter_and_binds_again() {
    let daemon = TestDaemon::start(&[]);
    let filters = status_of(daemon.pid())["Seccomp_filters"].clone();
    let before = status_of(std::process::id())["Seccomp_filters"].clone();
    let count = |text: &str| text.parse::<u32>().unwrap();
    assert_eq!(count(&filters), count(&before) + 3);
    fs::remove_file(daemon.socket()).unwrap();
    eventually("it binds again", || {
        daemon.get::<Value>("/v1/version").is_ok()
    });
    daemon.stop();
}

/// Hidden from the worker: the record of another user's process, and the exit status in it.
#[test]
fn the_monitor_reads_what_is_hidden_from_the_worker() {
    if !root_with(&["unshare", "mount", "setpriv", "sleep"]) {
        return;
    }
    let hide = "mount -t proc -o hidepid=2 proc /proc && exec \"$@\"";
    let flags = [
        "--user",
        "2001",
        "--sources",
        "pidfd",
        "--register-policy",
        "any",
    ];
    let daemon = Launch::with(&flags)
        .through(&["unshare", "--mount", "sh", "-c", hide, "sh"])
        .for_user(USER)
        .start();
    let mut other = Command::new("setpriv")
        .args([
            "--reuid",
            "2002",
            "--regid",
            "2002",
            "--clear-groups",
            "sleep",
            "600",
        ])
        .spawn()
        .unwrap();
    eventually("it is another user's", || {
        status_of(other.id())["Uid"].starts_with("2002")
    });
    daemon.register("hidden", other.id());
    let sessions: Value = daemon.get("/v1/sessions").unwrap();
    let start_time = &sessions["sessions"][0]["startTime"];
    assert!(start_time.is_string(), "{sessions}");
    let mut events = daemon.events();
    // Not reaped before the event, so that only its record has the status.
    kill_process(Pid::from_child(&other), Signal::KILL).unwrap();
    let removal = events.removal_of("hidden").data;
    println!("{removal:?}");
    assert_eq!(removal.exit.unwrap().signal, Some(9));
    other.wait().unwrap();
    drop(events);
    daemon.stop();
}

/// A duplicate of the worker's connector socket.
fn netlink_socket_of(worker: u32) -> OwnedFd {
    let pid = Pid::from_raw(worker.cast_signed()).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let numbers = fs::read_dir(format!("/proc/{worker}/fd")).unwrap();
    let numbers = numbers.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut sockets = numbers.filter_map(|number: i32| {
        let fd = pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()).ok()?;
        (socket_domain(&fd) == Ok(AddressFamily::NETLINK)).then_some(fd)
    });
    sockets.next().expect("netlink is up")
}

/// Waits until a source has gone down and works again.
fn comes_back(daemon: &TestDaemon, source: &str) {
    eventually("the source notices", || !daemon.source(source).works());
    println!("{:?}", daemon.source(source));
    eventually("the source works again", || daemon.source(source).works());
}

#[test]
fn a_silenced_connector_is_opened_again_by_the_monitor() {
    if !root_with(&[]) {
        return;
    }
    let daemon = Launch::with(&["--user", "2001", "--sources", "netlink"])
        .for_user(USER)
        .start();
    if !daemon.has_source("netlink") {
        return daemon.stop();
    }
    silence(netlink_socket_of(daemon.pid()).as_fd()).unwrap();
    comes_back(&daemon, "netlink");
    // With the large buffer, for which the worker has no right.
    let detail = daemon.source("netlink").detail;
    assert!(detail.contains("buffer 16 MiB"), "{detail}");
    let removal = daemon.events().removal_after_kill(&daemon, "dying").data;
    assert_eq!(removal.source.as_deref(), Some("netlink"), "{removal:?}");
    daemon.stop();
}

#[test]
fn a_detached_probe_is_attached_again_by_the_monitor() {
    if !root_with(&["gdb"]) {
        return;
    }
    let daemon = Launch::with(&["--user", "2001", "--sources", "ebpf"])
        .for_user(USER)
        .start();
    if !daemon.has_source("ebpf") {
        return daemon.stop();
    }
    let monitor = daemon.started();
    let fds = fs::read_dir(format!("/proc/{monitor}/fd")).unwrap();
    let links = fds.filter_map(|entry| {
        let entry = entry.ok()?;
        let target = fs::read_link(entry.path()).ok()?;
        let is_link =
            target.to_str()?.contains("bpf_link") || target.to_str()?.contains("bpf-link");
        is_link.then(|| entry.file_name().into_string().unwrap())
    });
    for link in links {
        // Its standard input is /dev/null.
        let output = Command::new("gdb")
            .args(["-nx", "-batch", "-p", &monitor.to_string()])
            .args(["-ex", "set language c", "-ex"])
            .arg(format!("call (int)dup2(0, {link})"))
            .output()
            .unwrap();
        println!("{}", String::from_utf8_lossy(&output.stdout));
    }
    comes_back(&daemon, "ebpf");
    let removal = daemon.events().removal_after_kill(&daemon, "dying").data;
    assert_eq!(removal.source.as_deref(), Some("ebpf"), "{removal:?}");
    daemon.stop();
}
