//! What the commands do when all is well.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout};

use reaper_tests::daemon::TestDaemon;
use reaper_tests::wait::eventually;
use reaperd::testkit::test_process::{Kind, TestProcess};

use super::*;

/// A command that is still running; killed and reaped on drop.
struct Running(Child);

impl Running {
    fn start(daemon: &TestDaemon, arguments: &[&str]) -> (Self, BufReader<ChildStdout>) {
        let mut command = command(arguments);
        surround(&mut command, daemon);
        command.stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        (Self(child), out)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        self.0.wait().map(drop).unwrap_or_default();
    }
}

/// The next line, without waiting for the end.
fn line(out: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

#[test]
fn an_empty_daemon_lists_nothing_and_that_is_a_success() {
    let daemon = daemon();
    assert_eq!(run(&daemon, &["ls"]).done(), "");
    let empty = json(&run(&daemon, &["ls", "--json"]).done());
    assert_eq!(empty, serde_json::json!({"schema": 1, "sessions": []}));
    daemon.stop();
}

#[test]
fn ls_shows_and_rm_removes_and_the_process_lives_on() {
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
    let answer = run(&daemon, &["ls", "--json", "--pid", &pid]).done();
    assert!(!answer.contains(&secret) && !listed.contains(&secret));
    assert_eq!(json(&answer)["sessions"][0]["sessionId"], "s-1");
    let others = run(&daemon, &["ls", "--mesh", "other"]).done();
    assert_eq!(others, "");

    assert_eq!(run(&daemon, &["rm", "s-1"]).done(), "");
    assert!(!daemon.lists("s-1") && !daemon.accepts(&token));
    assert_eq!(test_process.try_wait().unwrap(), None);
    daemon.stop();
}

#[test]
fn watch_tells_of_a_kill_and_ends_with_the_daemon() {
    let daemon = daemon();
    let (mut watching, mut out) = Running::start(&daemon, &["watch", "--json"]);
    let (mut reading, mut text) = Running::start(&daemon, &["watch"]);
    // Both follow once they have told of something: sessions come until they do.
    let test_processes = [(); 2].map(|()| TestProcess::spawn(reaperd(), Kind::Sleep).unwrap());
    let followed = [&mut out, &mut text].map(|stream| follows(&daemon, stream, &test_processes[0]));
    assert!(
        followed.iter().all(|line| line.contains("probe")),
        "{followed:?}"
    );

    let [_, mut test_process] = test_processes;
    daemon.register("doomed", test_process.pid().get());
    test_process.kill().unwrap();
    let event = loop {
        let event = json(&line(&mut out));
        if event["event"] == "session_deregistered"
            && event["data"]["session"]["sessionId"] == "doomed"
        {
            break event;
        }
    };
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
    let told = loop {
        let told = line(&mut text);
        if told.contains("removed\tdoomed") {
            break told;
        }
    };
    assert!(
        told.contains("killed by SIGKILL") && told.contains(&format!("via {source}")),
        "{told}"
    );
    daemon.stop();
    assert_eq!(watching.0.wait().unwrap().code(), Some(DONE));
    assert_eq!(reading.0.wait().unwrap().code(), Some(DONE));
}

/// Registers sessions until a follower has told of one; answers with what it said.
fn follows(
    daemon: &TestDaemon,
    out: &mut BufReader<ChildStdout>,
    test_process: &TestProcess,
) -> String {
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| line(out));
        let mut round = 0;
        eventually("watch follows", || {
            round += 1;
            daemon.register(&format!("probe-{round}"), test_process.pid().get());
            std::thread::sleep(std::time::Duration::from_millis(10));
            reader.is_finished()
        });
        reader.join().unwrap()
    })
}

#[test]
fn run_keeps_the_pid_and_the_command_finds_its_session() {
    let daemon = daemon();
    let script = "echo $$; echo $REAPERD_SESSION_ID; echo $REAPERD_SOCKET; cat $REAPERD_TOKEN_FILE; \
                  echo; cat $CLAUDEMESH_IPC_TOKEN_FILE; echo; exec sleep 600";
    let (mut running, mut out) = Running::start(
        &daemon,
        &["run", "--name", "worker", "--", "sh", "-c", script],
    );
    let output = [(); 5].map(|()| line(&mut out));
    let [pid, id, socket, token, same] = &output;
    assert_eq!(*pid, running.0.id().to_string());
    assert_eq!(Path::new(socket), daemon.socket());
    assert_eq!((token.len(), token), (64, same));
    let listed = daemon.list();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0].session_id, &*listed[0].display_name),
        (id, "worker")
    );
    assert_eq!(listed[0].pid, running.0.id());
    let token = reaper_registry::Token::parse(token).unwrap();
    assert!(daemon.accepts(&token), "/v1/sessions/me knows it");

    let mut events = daemon.events();
    running.0.kill().unwrap();
    assert_eq!(events.removal_of(id).told.cause, "exited");
    assert!(!daemon.accepts(&token));
    daemon.stop();
}

#[test]
fn run_passes_the_commands_own_code_on_and_leaves_no_session_where_there_is_none() {
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
fn doctor_names_every_source_and_the_daemon() {
    let daemon = daemon();
    let output = run(&daemon, &["doctor"]).done();
    for subject in ["netlink", "ebpf", "pidfd", "sweep", "daemon"] {
        let of_it = |line: &str| line.split_whitespace().nth(1) == Some(subject);
        assert!(output.lines().any(of_it), "{subject}: {output}");
    }
    assert!(
        output.lines().last().unwrap().starts_with("result: ok"),
        "{output}"
    );
    let report = json(&run(&daemon, &["doctor", "--json"]).done());
    assert_eq!(report["findings"].as_array().unwrap().len(), 5, "{report}");
    daemon.stop();
}

#[test]
fn the_demo_goes_well_and_leaves_nothing() {
    for sources in ["auto", "sweep"] {
        let folder = tempfile::tempdir().unwrap();
        let mut demo = command(&["demo", "--json", "--sources", sources]);
        let output = CommandOutput::by(demo.env("TMPDIR", folder.path()).output().unwrap());
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
fn the_selftest_plays_the_whole_contract_and_tells_of_it() {
    let mut selftest = command(&["selftest", "--json", "--sources", "pidfd"]);
    let output = CommandOutput::by(selftest.output().unwrap());
    assert_eq!(output.code, Some(DONE), "{output:?}");
    let report = json(&output.out);
    assert_eq!(report["result"], "ok", "{report}");
    let source_sets = report["lineups"].as_array().unwrap();
    assert_eq!(source_sets.len(), 1, "{report}");
    assert_eq!(source_sets[0]["lineup"], "pidfd");
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
