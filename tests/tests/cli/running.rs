//! What the commands do when they succeed.

use std::path::Path;

use reaper_tests::daemon::TestDaemon;
use reaper_tests::wait::eventually;
use reaperd::testkit::test_process::{Kind, TestProcess};

use super::*;

/// The daemon stopped in an orderly way.
const DAEMON_STOPPED: i32 = 9;

/// Starts a command against this daemon.
fn start(daemon: &TestDaemon, arguments: &[&str]) -> Launched {
    let mut command = command(arguments);
    set_environment(&mut command, daemon);
    Launched::start(&mut command)
}

#[test]
fn ls_without_sessions_succeeds_with_an_empty_list() {
    let daemon = daemon();
    assert_eq!(run(&daemon, &["ls"]).done(), "");
    let empty = json(&run(&daemon, &["ls", "--json"]).done());
    assert_eq!(empty, serde_json::json!({"schema": 1, "sessions": []}));
    daemon.stop();
}

#[test]
fn ls_lists_a_session_and_rm_removes_it_without_ending_the_process() {
    let daemon = daemon();
    let mut test_process = TestProcess::spawn(reaperd(), Kind::Sleep).unwrap();
    let token = daemon.register("s-1", test_process.pid().get());
    let pid = test_process.pid().to_string();
    let listed = run(&daemon, &["ls"]).done();
    let fields: Vec<_> = listed.trim_end().split('\t').collect();
    assert_eq!(
        fields[..4],
        ["s-1", "s-1", "test", pid.as_str()],
        "{listed}"
    );
    let secret = token.reveal().as_str().to_owned();
    let output = run(&daemon, &["ls", "--json", "--pid", &pid]).done();
    assert!(!output.contains(&secret) && !listed.contains(&secret));
    assert_eq!(json(&output)["sessions"][0]["sessionId"], "s-1");
    let others = run(&daemon, &["ls", "--mesh", "other"]).done();
    assert_eq!(others, "");

    let own = rustix::process::geteuid().as_raw().to_string();
    let of_own = run(&daemon, &["ls", "--uid", &own]).done();
    assert!(of_own.starts_with("s-1\t"), "{of_own}");
    if own == "0" {
        assert_eq!(run(&daemon, &["ls", "--uid", "4000000000"]).done(), "");
        run(&daemon, &["rm", "s-1", "--uid", "4000000000"])
            .failed(NO_SESSION, "no session with id");
    } else {
        run(&daemon, &["ls", "--uid", "0"])
            .failed(NOT_PERMITTED, "only root may name another user");
    }
    assert_eq!(run(&daemon, &["rm", "s-1", "--uid", &own]).done(), "");
    assert!(!daemon.lists("s-1") && !daemon.accepts(&token));
    assert_eq!(test_process.try_wait().unwrap(), None);
    daemon.stop();
}

#[test]
fn watch_shows_a_kill_and_ends_with_the_daemon() {
    let daemon = daemon();
    let mut watch_json = start(&daemon, &["watch", "--json"]);
    let mut watch_text = start(&daemon, &["watch"]);
    assert_eq!(json(&watch_json.line())["event"], "listening");
    let first = watch_text.line();
    assert!(first.contains("\tlistening\t"), "{first}");

    let mut test_process = TestProcess::spawn(reaperd(), Kind::Sleep).unwrap();
    daemon.register("dying", test_process.pid().get());
    test_process.kill().unwrap();
    let event = watch_json.line_that(|line| {
        let event = json(line);
        let session = &event["data"]["session"]["sessionId"];
        event["event"] == "session_deregistered" && session == "dying"
    });
    let event = json(&event);
    assert_eq!(event["schema"], 1);
    let data = &event["data"];
    assert_eq!(data["session"]["pid"], test_process.pid().get());
    let source = sources_of_this_run().map_or("pidfd", |[_, source, ..]| source);
    assert_eq!(
        (&data["cause"], &data["source"]),
        (&"exited".into(), &source.into())
    );
    assert_eq!(
        (&data["evidence"], &data["exit"]["signal"]),
        (&"pidfd".into(), &9.into())
    );
    let removed = watch_text.line_that(|line| line.contains("removed\tdying"));
    assert!(
        removed.contains("killed by SIGKILL") && removed.contains(&format!("via {source}")),
        "{removed}"
    );
    daemon.stop();
    for watch in [&mut watch_json, &mut watch_text] {
        assert_eq!(watch.child.wait().unwrap().code(), Some(DAEMON_STOPPED));
    }
}

#[test]
fn run_keeps_the_pid_and_gives_the_command_its_session() {
    let daemon = daemon();
    let script = "echo $$; echo $REAPERD_SESSION_ID; echo $REAPERD_SOCKET; cat $REAPERD_TOKEN_FILE; \
                  echo; cat $CLAUDEMESH_IPC_TOKEN_FILE; echo; exec sleep 600";
    let arguments = ["run", "--name", "worker", "--", "sh", "-c", script];
    let mut running = start(&daemon, &arguments);
    let output = [(); 5].map(|()| running.line());
    let [pid, id, socket, token, same] = &output;
    assert_eq!(*pid, running.child.id().to_string());
    assert_eq!(Path::new(socket), daemon.socket());
    assert_eq!((token.len(), token), (64, same));
    let listed = daemon.list();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0].session_id, &*listed[0].display_name),
        (id, "worker")
    );
    assert_eq!(listed[0].pid, running.child.id());
    let token = reaper_registry::Token::parse(token).unwrap();
    assert!(daemon.accepts(&token), "/v1/sessions/me accepts it");

    let mut events = daemon.events();
    running.child.kill().unwrap();
    assert_eq!(events.removal_of(id).data.cause, "exited");
    assert!(!daemon.accepts(&token));
    daemon.stop();
}

#[test]
fn run_returns_the_exit_code_of_the_command_and_leaves_no_session() {
    let daemon = daemon();
    let output = run(&daemon, &["run", "--", "sh", "-c", "exit 7"]);
    assert_eq!(
        (output.code, output.err.as_str()),
        (Some(7), ""),
        "{output:?}"
    );
    run(&daemon, &["run", "--", "/nowhere/at-all"]).failed(127, "cannot run /nowhere/at-all");
    run(&daemon, &["run", "--", "/dev/null"]).failed(126, "cannot run /dev/null");
    eventually("no session is left", || daemon.list().is_empty());
    daemon.stop();
}

#[test]
fn doctor_names_every_source_the_daemon_its_memory_and_the_share_of_it() {
    let daemon = daemon();
    let output = run(&daemon, &["doctor"]).done();
    for subject in [
        "netlink", "ebpf", "pidfd", "sweep", "daemon", "memory", "restart", "sandbox", "limits",
        "config",
    ] {
        let names_it = |line: &str| line.split_whitespace().nth(1) == Some(subject);
        assert!(output.lines().any(names_it), "{subject}: {output}");
    }
    assert!(
        output.lines().last().unwrap().starts_with("result: ok"),
        "{output}"
    );
    let report = json(&run(&daemon, &["doctor", "--json"]).done());
    assert_eq!(report["findings"].as_array().unwrap().len(), 10, "{report}");
    daemon.stop();
}

#[test]
fn the_demo_succeeds_and_leaves_nothing_behind() {
    for sources in ["auto", "sweep"] {
        let folder = tempfile::tempdir().unwrap();
        let mut demo = command(&["demo", "--json", "--sources", sources]);
        let output = CommandOutput::of(demo.env("TMPDIR", folder.path()));
        assert_eq!(output.code, Some(DONE), "{sources}: {output:?}");
        let report = json(&output.out);
        assert_eq!(report["ok"], true, "{report}");
        assert_eq!(report["untouched"], report["controls"], "{report}");
        assert!(report["took_ms"].as_u64().unwrap() < 10_000, "{report}");
        let left: Vec<_> = folder.path().read_dir().unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn the_selftest_runs_all_conformance_cases_and_reports_them() {
    let mut selftest = command(&["selftest", "--json", "--sources", "pidfd"]);
    let output = CommandOutput::of(&mut selftest);
    assert_eq!(output.code, Some(DONE), "{output:?}");
    let report = json(&output.out);
    assert_eq!(report["result"], "ok", "{report}");
    let source_sets = report["source_sets"].as_array().unwrap();
    assert_eq!(source_sets.len(), 1, "{report}");
    assert_eq!(source_sets[0]["source_set"], "pidfd");
    let cases = source_sets[0]["cases"].as_array().unwrap();
    assert_eq!(cases.len(), reaperd::testkit::conformance::CASES.len());
    let sums = &source_sets[0]["sums"];
    assert!(sums["seen"].as_u64().unwrap() > 200, "{sums}");
    assert!(sums["median_us"].as_u64() <= sums["worst_us"].as_u64());
    assert_eq!(
        (&sums["missed"], &sums["false_deaths"]),
        (&json("0"), &json("0"))
    );
}
