//! Who can connect to the daemon, and to whose program a client talks. With real users, as root.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use reaper_tests::daemon::{Launch, TestDaemon, reaperd};
use reaper_tests::expect::root_with;
use reaper_tests::wait::eventually;
use tempfile::TempDir;

const NOT_ALLOWED: i32 = 77;
const ALICE: u32 = 2_001;
const BOB: u32 = 2_002;
const GROUP: u32 = 2_100;
/// Names the socket for the process that listens.
const LISTEN: &str = "REAPER_TEST_LISTEN";

/// A command as this user, with these supplementary groups.
fn as_user(uid: u32, gid: u32, groups: &str, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    let groups = if groups.is_empty() {
        "--clear-groups".to_owned()
    } else {
        format!("--groups={groups}")
    };
    command
        .arg(format!("--reuid={uid}"))
        .arg(format!("--regid={gid}"))
        .arg(groups)
        .arg(program)
        .env_remove("REAPERD_SOCKET")
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command
}

fn reaperd_as(uid: u32, arguments: &[&str]) -> Command {
    let mut command = as_user(uid, uid, "", reaperd());
    command.args(arguments);
    command
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// A folder that everybody can enter.
fn open_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    folder
}

fn let_in(daemon: &TestDaemon) -> String {
    let socket = daemon.socket();
    let folder = socket.parent().unwrap();
    fs::set_permissions(folder, Permissions::from_mode(0o711)).unwrap();
    socket.to_str().unwrap().to_owned()
}

/// Lets all users connect, as on a file system without access lists.
fn without_list(socket: &str) {
    fs::set_permissions(socket, Permissions::from_mode(0o666)).unwrap();
}

#[test]
fn a_user_who_is_not_served_gets_the_reason_and_the_remedy() {
    if !root_with(&["setpriv"]) {
        return;
    }
    let daemon = TestDaemon::start(&["--sources", "pidfd", "--allow-uid", "2002,root"]);
    let socket = let_in(&daemon);
    without_list(&socket);
    for command in [&["ls"][..], &["ls", "--json"], &["watch"], &["rm", "x"]] {
        let arguments = [command, &["--socket", &socket]].concat();
        let (code, out, err) = run(&mut reaperd_as(ALICE, &arguments));
        assert_eq!((code, out.as_str()), (Some(NOT_ALLOWED), ""), "{err}");
        assert!(
            err.contains("does not serve this user; it serves user 0, user 2002"),
            "{err}"
        );
        assert!(err.contains("  try: add --allow-uid 2001"), "{err}");
        let (code, _, err) = run(&mut reaperd_as(BOB, &["ls", "--socket", &socket]));
        assert_eq!(code, Some(0), "{err}");
    }
    let (_, report, _) = run(&mut reaperd_as(
        ALICE,
        &["doctor", "--json", "--socket", &socket],
    ));
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let finding = findings
        .iter()
        .find(|it| it["subject"] == "daemon")
        .unwrap();
    assert_eq!(finding["verdict"], "fail");
    let remedy = finding["remedy"].as_str().unwrap();
    assert!(
        remedy.contains("--allow-uid 2001") && !remedy.contains("doctor"),
        "{remedy}"
    );
    daemon.stop();
}

/// Sends a request that leaves the connection open. Returns whether it was answered.
fn is_answered(stream: &mut UnixStream) -> bool {
    let request = "GET /v1/version HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut part = [0; 2_048];
    stream.write_all(request.as_bytes()).is_ok()
        && matches!(stream.read(&mut part), Ok(length) if part[..length].starts_with(b"HTTP/1.1 200 "))
}

#[test]
fn a_refused_connection_takes_no_place_from_others() {
    if !root_with(&["setpriv"]) {
        return;
    }
    let few_descriptors = ["sh", "-c", "ulimit -n 64; exec \"$@\"", "sh"];
    let daemon = Launch::with(&["--sources", "pidfd", "--allow-uid", "2002"])
        .through(&few_descriptors)
        .start();
    let socket = let_in(&daemon);
    without_list(&socket);
    // Root has its reserve and a share of the rest.
    let limits: serde_json::Value = daemon.get("/v1/limits").unwrap();
    let places = limits["limits"]["connections"]["limit"].as_u64().unwrap() - 1;
    let mut idle: Vec<_> = (0..places)
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    assert!(idle.iter_mut().all(is_answered));
    for _ in 0..3 {
        let (code, _, err) = run(&mut reaperd_as(ALICE, &["ls", "--socket", &socket]));
        assert_eq!(code, Some(NOT_ALLOWED), "{err}");
    }
    assert!(
        idle.iter_mut().all(is_answered),
        "each of {places} is still open"
    );
    drop(idle);
    daemon.stop();
}

/// A daemon of root with its socket in a new folder.
struct GroupDaemon {
    child: Child,
    _folder: TempDir,
    socket: PathBuf,
}

impl GroupDaemon {
    fn start(flags: &[&str]) -> Self {
        let folder = open_folder();
        let socket = folder.path().join("run/s.sock");
        let mut command = Command::new(reaperd());
        let child = command
            .args(["daemon", "--sources", "pidfd", "--socket"])
            .arg(&socket)
            .args(flags)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut daemon = Self {
            child,
            _folder: folder,
            socket,
        };
        eventually("the daemon serves", || {
            assert!(daemon.child.try_wait().unwrap().is_none());
            run(Command::new(reaperd())
                .args(["ls", "--socket"])
                .arg(&daemon.socket))
            .0 == Some(0)
        });
        daemon
    }

    fn ls(&self, uid: u32, gid: u32, groups: &str) -> (Option<i32>, String, String) {
        let mut command = as_user(uid, gid, groups, reaperd());
        run(command.args(["ls", "--socket"]).arg(&self.socket))
    }

    fn modes(&self) -> [(u32, u32); 2] {
        [self.socket.parent().unwrap(), &self.socket].map(|path| {
            let found = path.symlink_metadata().unwrap();
            (found.mode() & 0o7777, found.gid())
        })
    }
}

impl Drop for GroupDaemon {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

#[test]
fn members_of_the_socket_group_are_served_and_others_cannot_connect() {
    if !root_with(&["setpriv"]) {
        return;
    }
    let daemon = GroupDaemon::start(&["--socket-group", "2100"]);
    assert_eq!(daemon.modes(), [(0o710, GROUP), (0o660, GROUP)]);
    let (code, _, err) = daemon.ls(ALICE, ALICE, "2100,2101");
    assert_eq!(code, Some(0), "a supplementary group: {err}");
    let (code, _, err) = daemon.ls(ALICE, GROUP, "");
    assert_eq!(code, Some(0), "the primary group: {err}");
    let (code, _, err) = daemon.ls(ALICE, ALICE, "");
    assert_eq!(code, Some(NOT_ALLOWED), "{err}");
    assert!(
        err.contains("permission denied: ") && err.contains("--socket-group"),
        "{err}"
    );
    // It is bound again with the same group.
    fs::remove_file(&daemon.socket).unwrap();
    eventually("members can connect again", || {
        daemon.ls(ALICE, ALICE, "2100").0 == Some(0)
    });
    assert_eq!(daemon.modes(), [(0o710, GROUP), (0o660, GROUP)]);
}

#[test]
fn a_group_that_the_daemon_may_not_give_its_socket_to_is_an_error_with_a_remedy() {
    if !root_with(&["setpriv"]) {
        return;
    }
    let folder = open_folder();
    chown(folder.path(), Some(ALICE), Some(ALICE)).unwrap();
    let socket = folder.path().join("run/s.sock");
    let arguments = ["daemon", "--sources", "pidfd", "--socket-group", "2100"];
    let (code, _, err) = run(reaperd_as(ALICE, &arguments).arg("--socket").arg(socket));
    assert_eq!(code, Some(1), "{err}");
    assert!(
        err.contains("set the group of") && err.contains("a member of the group"),
        "{err}"
    );
}

#[test]
fn with_users_and_a_group_the_system_keeps_others_out_and_without_a_list_the_daemon_does() {
    if !root_with(&["setpriv"]) {
        return;
    }
    let daemon = GroupDaemon::start(&["--socket-group", "2100", "--allow-uid", "2002"]);
    assert_eq!(daemon.modes().map(|(mode, _)| mode), [0o711, 0o660]);
    assert_eq!(daemon.ls(ALICE, ALICE, "2100").0, Some(0));
    assert_eq!(daemon.ls(BOB, BOB, "").0, Some(0));
    let (code, _, err) = daemon.ls(ALICE, ALICE, "");
    assert_eq!(code, Some(NOT_ALLOWED));
    assert!(err.contains("permission denied: "), "{err}");
    without_list(daemon.socket.to_str().unwrap());
    assert_eq!(daemon.ls(BOB, BOB, "").0, Some(0));
    let (code, _, err) = daemon.ls(ALICE, ALICE, "");
    assert_eq!(code, Some(NOT_ALLOWED));
    assert!(err.contains("members of group 2100"), "{err}");
}

/// Not a test, but a program that listens where a daemon is expected and prints what it gets.
#[test]
fn listens() {
    let Some(socket) = std::env::var_os(LISTEN) else {
        return;
    };
    let listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, Permissions::from_mode(0o777)).unwrap();
    println!("listening");
    for stream in listener.incoming() {
        let mut received = Vec::new();
        stream.unwrap().read_to_end(&mut received).unwrap();
        println!("got {}", received.len());
    }
}

/// Starts that program as a user.
fn listener(uid: u32, socket: &Path) -> (Child, impl FnMut() -> String) {
    let program = std::env::current_exe().unwrap();
    let mut child = as_user(uid, uid, "", &program)
        .args(["--exact", "access::listens", "--nocapture"])
        .env(LISTEN, socket)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = move || {
        let mut lines = lines.by_ref().map(Result::unwrap);
        let line = lines.find_map(|line| {
            let start = line.find("got ").or(line.find("listening"))?;
            Some(line[start..].to_owned())
        });
        line.unwrap()
    };
    assert_eq!(next(), "listening");
    (child, next)
}

#[test]
fn a_program_of_another_user_gets_nothing_from_a_client() {
    if !root_with(&["setpriv"]) {
        return;
    }
    let folder = open_folder();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
    let squatted = folder.path().join("reaperd-2002");
    fs::create_dir(&squatted).unwrap();
    chown(&squatted, Some(ALICE), Some(ALICE)).unwrap();
    fs::set_permissions(&squatted, Permissions::from_mode(0o755)).unwrap();
    let socket = squatted.join("reaperd.sock");
    let (mut child, mut received) = listener(ALICE, &socket);
    // For the token files of `run`.
    let of_bob = folder.path().join("bob");
    fs::create_dir(&of_bob).unwrap();
    chown(&of_bob, Some(BOB), Some(BOB)).unwrap();
    fs::set_permissions(&of_bob, Permissions::from_mode(0o700)).unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "ab".repeat(32)).unwrap();
    let token = token.to_str().unwrap();
    for command in [
        &["run", "--name", "x", "--", "true"][..],
        &["ls"],
        &["watch"],
        &["rm", "--token-file", token],
        &["rm", "x"],
    ] {
        // At the default path, where the folder is checked as well, and at a given path.
        let mut by_default = reaperd_as(BOB, command);
        by_default.env("TMPDIR", folder.path());
        let (code, out, err) = run(&mut by_default);
        assert_eq!(
            (code, out.as_str()),
            (Some(NOT_ALLOWED), ""),
            "{command:?}: {err}"
        );
        assert!(
            err.contains("user 2001") && err.contains("user is 2002"),
            "{err}"
        );
        let mut given = reaperd_as(BOB, command);
        given
            .env("XDG_RUNTIME_DIR", &of_bob)
            .env("REAPERD_SOCKET", &socket);
        let (code, out, err) = run(&mut given);
        assert_eq!(
            (code, out.as_str()),
            (Some(NOT_ALLOWED), ""),
            "{command:?}: {err}"
        );
        let sentence = "belongs to user 2001, and this user is 2002; nothing was sent";
        assert!(err.contains(sentence), "{err}");
        assert!(err.contains("--server-uid 2001"), "{err}");
        assert_eq!(received(), "got 0", "{command:?}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn root_reads_from_the_daemon_of_a_user_and_gives_it_no_secret_unless_it_is_named() {
    if !root_with(&["setpriv"]) {
        return;
    }
    let prefix = ["setpriv", "--reuid=2001", "--regid=2001", "--clear-groups"];
    let daemon = Launch::with(&["--sources", "pidfd"])
        .through(&prefix)
        .for_user(ALICE)
        .start();
    let folder = tempfile::tempdir().unwrap();
    let as_root = |arguments: &[&str]| {
        let mut command = Command::new(reaperd());
        command
            .args(arguments)
            .env("REAPERD_SOCKET", daemon.socket())
            .env("XDG_RUNTIME_DIR", folder.path());
        command
    };
    for command in [&["ls"][..], &["doctor"]] {
        let (code, _, err) = run(&mut as_root(command));
        assert_eq!(code, Some(0), "{err}");
    }
    for command in [&["run", "--", "true"][..], &["rm", "x"]] {
        let (code, _, err) = run(&mut as_root(command));
        assert_eq!(code, Some(NOT_ALLOWED), "{err}");
    }
    assert!(daemon.list().is_empty());
    let shell = [
        "run",
        "--",
        "sh",
        "-c",
        "echo $REAPERD_SERVER_UID; \"$0\" ls",
        "reaperd",
    ];
    let mut shell: Vec<&str> = shell.into();
    let program = reaperd().to_str().unwrap();
    *shell.last_mut().unwrap() = program;
    let named = [&["--server-uid", "2001"], &shell[..]].concat();
    let (code, out, err) = run(&mut as_root(&named));
    assert_eq!(code, Some(0), "{err}");
    assert!(out.starts_with("2001\n") && out.contains("\tsh\t"), "{out}");
    let (code, _, err) = run(as_root(&["run", "--", "true"]).env("REAPERD_SERVER_UID", "2001"));
    assert_eq!(code, Some(0), "{err}");
    daemon.stop();
}
