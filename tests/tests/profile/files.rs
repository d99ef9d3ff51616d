//! The files of the profile: where they are, their modes, and when they go.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reaper_tests::daemon::{Launch, has_program, private_folder, reaperd};
use reaper_tests::expect::{root_with, skip};
use reaper_tests::scale::scaled;
use reaper_tests::wait::{eventually, some_within, within};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{beside_socket, over_socket, profile};

/// Starts a daemon of the profile below this home folder.
fn start_below(home: &Path, variables: &[(&str, &Path)]) -> Child {
    Command::new(reaperd())
        .args([
            "daemon",
            "--no-config",
            "--profile",
            "claudemesh",
            "--no-tcp",
        ])
        .env("HOME", home)
        .env_remove("CLAUDEMESH_DAEMON_DIR")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn stop(mut daemon: Child) {
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    let ended = some_within(Duration::from_secs(5), "it ends", || {
        daemon.try_wait().unwrap()
    });
    assert!(ended.success());
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn the_files_are_below_the_home_folder_and_private() {
    let home = private_folder();
    let daemon = start_below(
        home.path(),
        &[("CLAUDEMESH_CONFIG_DIR", Path::new("/nowhere"))],
    );
    let folder = home.path().join(".claudemesh/daemon");
    let socket = folder.join("daemon.sock");
    eventually("it listens", || UnixStream::connect(&socket).is_ok());
    let pid_file = folder.join("daemon.pid");
    eventually("it has a pid file", || pid_file.exists());
    assert_eq!(
        fs::read_to_string(&pid_file).unwrap(),
        daemon.id().to_string()
    );
    assert_eq!([mode(&socket), mode(&pid_file)], [0o600, 0o600]);
    assert_eq!(
        [mode(&folder), mode(folder.parent().unwrap())],
        [0o700, 0o700]
    );
    stop(daemon);
    assert!(!socket.exists() && !pid_file.exists());
}

#[test]
fn a_folder_that_others_can_enter_is_tolerated_and_a_variable_names_it() {
    let home = private_folder();
    let folder = home.path().join("named");
    DirBuilder::new().mode(0o755).create(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    let daemon = start_below(home.path(), &[("CLAUDEMESH_DAEMON_DIR", &folder)]);
    let socket = folder.join("daemon.sock");
    eventually("it listens", || UnixStream::connect(&socket).is_ok());
    assert_eq!(mode(&folder), 0o755);
    assert!(!home.path().join(".claudemesh").exists());
    stop(daemon);
}

#[test]
fn what_a_client_removes_is_back() {
    let daemon = profile(&[]).start();
    let (socket, pid_file) = (daemon.socket(), beside_socket(&daemon, "daemon.pid"));
    for _ in 0..3 {
        fs::remove_file(&socket).unwrap();
        fs::remove_file(&pid_file).unwrap();
        // A second is promised; a machine with other work may take longer.
        let limit = Duration::from_millis(scaled(1_000, 10_000));
        within(limit, "both files are back", || {
            UnixStream::connect(&socket).is_ok() && pid_file.exists()
        });
        let pid = fs::read_to_string(&pid_file).unwrap();
        assert_eq!(pid, daemon.started().to_string());
    }
    let (_, health) = over_socket(&daemon, "GET /v1/health", "");
    assert_eq!(health["conflicts"], Value::Array(Vec::new()));
    assert_eq!(health["pid"], daemon.started());
    daemon.stop();
}

#[test]
fn the_pid_file_outlives_a_worker_and_names_a_successor() {
    let mut daemon = profile(&[]).start();
    let pid_file = beside_socket(&daemon, "daemon.pid");
    let content = || fs::read_to_string(&pid_file).unwrap();
    let worker = daemon.pid();
    daemon.signal_worker(Signal::KILL);
    eventually("another worker serves", || daemon.pid() != worker);
    daemon.serves();
    assert_eq!(content(), daemon.started().to_string());
    daemon.hand_over_to(&profile(&["--replace"]));
    daemon.serves();
    eventually("it names the successor", || {
        content() == daemon.started().to_string()
    });
    assert!(
        !daemon.log().contains("another daemon runs"),
        "{}",
        daemon.log()
    );
    daemon.stop();
    assert!(!pid_file.exists());
}

#[test]
fn the_port_is_that_of_the_claudemesh_daemon_unless_it_is_in_a_container() {
    if !root_with(&["unshare", "ip"]) {
        return;
    }
    let cgroup = fs::read_to_string("/proc/1/cgroup").unwrap_or_default();
    let is_container = ["docker", "kubepods", "containerd"];
    if Path::new("/.dockerenv").exists() || is_container.iter().any(|it| cgroup.contains(it)) {
        skip("this machine is a container");
        return;
    }
    assert!(has_program("sh"));
    // In a network of its own the port is free.
    let alone = [
        "unshare",
        "-n",
        "sh",
        "-c",
        "ip link set lo up && exec \"$@\"",
        "sh",
    ];
    let start = |variables: &[(&str, &str)]| {
        let mut launch = Launch::with(&["--profile", "claudemesh"]).through(&alone);
        for name in ["KUBERNETES_SERVICE_HOST", "CONTAINER"] {
            launch = launch.with_variable(name, "");
        }
        for (name, value) in variables {
            launch = launch.with_variable(name, value);
        }
        launch.start()
    };
    let listens = |variables: &[(&str, &str)]| {
        let daemon = start(variables);
        let (_, health) = over_socket(&daemon, "GET /v1/health", "");
        health["tcp"].clone()
    };
    assert_eq!(listens(&[]), "127.0.0.1:47823");
    assert_eq!(listens(&[("CONTAINER", "1")]), Value::Null);
    assert_eq!(
        listens(&[("KUBERNETES_SERVICE_HOST", "10.0.0.1")]),
        Value::Null
    );
}

#[test]
fn a_socket_of_the_service_manager_excludes_the_files() {
    use std::os::fd::AsRawFd as _;

    let folder = private_folder();
    let passed = std::os::unix::net::UnixListener::bind(folder.path().join("s.sock")).unwrap();
    for option in ["--profile=claudemesh", "--tcp=127.0.0.1:0"] {
        let script = format!(
            "exec 3<&{}; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"",
            passed.as_raw_fd()
        );
        rustix::io::fcntl_setfd(&passed, rustix::io::FdFlags::empty()).unwrap();
        let ended = Command::new("bash")
            .args(["-c", &script, "sh"])
            .arg(reaperd())
            .args(["daemon", "--no-config", option])
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(2), "{text}");
        assert!(text.contains("needs one of the daemon's own"), "{text}");
    }
}
