//! Where the token file is, who can read it, and when it is removed.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use reaper_tests::daemon::{Launch, private_folder};
use reaper_tests::expect::skip;

use super::*;

/// Starts a command that prints its session and then sleeps.
fn start(harness: &Harness) -> (Launched, Token, PathBuf) {
    let mut launched = harness.start_shell("sh", Path::new("/"));
    let (token, id) = launched.session();
    let files = harness.files();
    let file = files.into_iter().find(|file| is_of(file, &id)).unwrap();
    (launched, token, file)
}

#[test]
fn a_token_file_is_private_and_named_after_its_session() {
    let harness = Harness::new();
    let (mut launched, token, file) = start(&harness);
    assert!(harness.daemon.accepts(&token));
    let metadata = file.symlink_metadata().unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.len()), (0o600, 64));
    for folder in file.ancestors().skip(1).take(2) {
        assert_eq!(folder.metadata().unwrap().mode() & 0o7777, 0o700);
    }
    let listed = harness
        .daemon
        .get::<serde_json::Value>("/v1/sessions")
        .unwrap();
    assert!(!listed.to_string().contains("reaperd/tokens"), "{listed}");
    launched.kill();
    harness.leaves_nothing();
}

#[test]
fn the_token_file_is_removed_when_its_session_ends() {
    let harness = Harness::new();
    // By an exit of the command.
    let output = CommandOutput::of(&mut harness.run(&["--", "sh", "-c", PRINT_SESSION]));
    assert_eq!(output.done().lines().count(), 2);
    eventually("the file is removed", || harness.files().is_empty());
    // By request, while the process stays alive.
    let (mut launched, _, file) = start(&harness);
    let name = file.file_name().unwrap().to_str().unwrap();
    let (id, _process) = name.split_once('@').unwrap();
    super::super::run(&harness.daemon, &["rm", id]).done();
    eventually("the file is removed", || !file.exists());
    assert_eq!(launched.child.try_wait().unwrap(), None);
    launched.kill();
    harness.leaves_nothing();
}

#[test]
fn a_command_that_does_not_run_leaves_no_file() {
    let harness = Harness::new();
    for (program, code) in [("/nowhere/at-all", 127), ("/dev/null", 126)] {
        let output = CommandOutput::of(&mut harness.run(&["--", program]));
        output.failed(code, &format!("cannot run {program}"));
        assert_eq!(harness.files(), Vec::<PathBuf>::new());
    }
    // Refused, because the daemon is at its limit.
    let full = Harness {
        daemon: TestDaemon::start(&["--sources", "pidfd", "--max-sessions", "1"]),
        runtime_dir: tempfile::tempdir().unwrap(),
    };
    full.daemon.register("first", std::process::id());
    let refused = CommandOutput::of(&mut full.run(&["--", "true"]));
    assert_eq!(refused.code, Some(super::super::FAILED), "{refused:?}");
    assert_eq!(full.files(), Vec::<PathBuf>::new());
    // No daemon.
    let mut run = harness.run(&["--socket", "/nowhere/s.sock", "--", "true"]);
    let output = CommandOutput::of(&mut run);
    assert_eq!(output.code, Some(super::super::NO_DAEMON), "{output:?}");
    assert_eq!(harness.files(), Vec::<PathBuf>::new());
    full.daemon.stop();
    harness.leaves_nothing();
}

#[test]
fn a_later_run_removes_the_files_that_a_killed_daemon_left() {
    let mut harness = Harness::new();
    let [mut dead, mut alive] = [(); 2].map(|()| start(&harness));
    let next = Launch::with(&["--sources", "pidfd"]).with_runtime_dir(harness.runtime_dir.path());
    harness.daemon = harness.daemon.replaced_by(&next);
    dead.0.kill();
    assert_eq!(
        harness.files().len(),
        2,
        "no daemon was there to remove them"
    );
    let other = dead.2.with_file_name("notes");
    fs::write(&other, "5a").unwrap();
    let output = CommandOutput::of(&mut harness.run(&["--", "true"]));
    output.done();
    assert!(!dead.2.exists(), "its process is gone");
    assert!(
        alive.2.exists(),
        "its process is alive and may register again"
    );
    assert!(other.exists(), "it is not a token file");
    fs::remove_file(other).unwrap();
    alive.0.kill();
    CommandOutput::of(&mut harness.run(&["--", "true"])).done();
    harness.leaves_nothing();
}

#[test]
fn an_unusable_runtime_folder_is_refused_by_name() {
    let harness = Harness::new();
    let shared = tempfile::tempdir().unwrap();
    fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let socket = harness.daemon.socket();
    for folder in [shared.path(), Path::new("/nowhere/at-all")] {
        let mut run = harness.run(&["--socket", socket.to_str().unwrap(), "--", "true"]);
        let output = CommandOutput::of(run.env("XDG_RUNTIME_DIR", folder));
        let sentence = format!("(XDG_RUNTIME_DIR is {})", folder.display());
        output.failed(super::super::FAILED, &sentence);
        let mut run = harness.run(&["--best-effort", "--", "true"]);
        let output = CommandOutput::of(run.env("XDG_RUNTIME_DIR", folder));
        assert_eq!(output.code, Some(0), "{output:?}");
        assert!(
            output.err.contains("running the command without a session"),
            "{output:?}"
        );
    }
    harness.leaves_nothing();
}

/// A background process outlives its session, and the pid of that session is reused by the process
/// of another one. The test runs in a new pid namespace, where it can choose the next pid
/// (`ns_last_pid`, proc(5)).
#[test]
fn a_child_that_outlives_its_session_never_reads_the_token_of_another() {
    const SCRIPT: &str = r#"
        tries=0
        "$REAPERD" daemon --sources pidfd 2>"$D/log" & daemon=$!
        until "$REAPERD" ls >"$D/ls" 2>&1; do
            tries=$((tries + 1)); [ $tries -le 200 ] || exit 9; sleep .05
        done
        "$REAPERD" run -- sh -c 'echo $$ >"$D/a"
            (until [ -e "$D/go" ]; do sleep .05; done
             cat "$REAPERD_TOKEN_FILE" >"$D/said" 2>/dev/null; echo >"$D/done") &'
        a=$(cat "$D/a"); tries=0
        until [ "$b" = "$a" ]; do
            tries=$((tries + 1)); [ $tries -le 100 ] || exit 8
            echo $((a - 1)) >/proc/sys/kernel/ns_last_pid || exit 7
            "$REAPERD" run -- sh -c 'cat "$REAPERD_TOKEN_FILE" >"$D/b.$$"; exec sleep 60' & b=$!
        done
        until [ -s "$D/b.$a" ]; do sleep .05; done
        >"$D/go"; until [ -e "$D/done" ]; do sleep .05; done
        echo "said:$(cat "$D/said")"; echo "its:$(cat "$D/b.$a")"
        kill $daemon"#;
    let folder = private_folder();
    let mut unshare = Command::new("unshare");
    unshare
        .args(["-Urpf", "--kill-child", "--mount-proc", "sh", "-c", SCRIPT])
        .env("D", folder.path())
        .env("REAPERD", reaperd())
        .env("REAPERD_SOCKET", folder.path().join("s.sock"))
        .env("XDG_RUNTIME_DIR", folder.path())
        .stdin(Stdio::null());
    let output = match unshare.output() {
        Ok(output) if output.status.code() != Some(1) || !output.stdout.is_empty() => output,
        Ok(output) => return skip(String::from_utf8_lossy(&output.stderr)),
        Err(error) => return skip(format_args!("unshare: {error}")),
    };
    let output = CommandOutput::by(output);
    let lines: Vec<_> = output.out.lines().collect();
    let [by_child, by_other] = lines[..] else {
        panic!("{output:?}");
    };
    assert_eq!(by_child, "said:", "the child must read nothing: {by_other}");
    assert_eq!(by_other.len(), "its:".len() + 64, "{output:?}");
}
