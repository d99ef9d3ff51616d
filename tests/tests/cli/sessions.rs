//! `register`, `renew`, `show`, `ls`, `identify` and `version`, and the options of `run` about its session.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use reaper_registry::Token;
use reaper_tests::daemon::private_folder;
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::eventually;

use super::*;

/// Registers this process as `s-1`, with the token of this file.
fn registration<'a>(pid: &'a str, file: &'a str) -> [&'a str; 7] {
    [
        "register",
        "--pid",
        pid,
        "--id",
        "s-1",
        "--token-file",
        file,
    ]
}

#[test]
fn register_creates_a_private_token_file_and_uses_it_again() {
    let daemon = daemon();
    let folder = private_folder();
    let file = folder.path().join("token");
    let file = file.to_str().unwrap();
    let process = TestProcess::start();
    let pid = process.pid().to_string();
    let arguments = registration(&pid, file);
    assert_eq!(run(&daemon, &arguments).done(), "s-1\n");
    assert_eq!(
        fs::metadata(file).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    let text = fs::read_to_string(file).unwrap();
    assert!(daemon.accepts(&Token::parse(&text).unwrap()));

    let again = json(&run(&daemon, &[&arguments[..], &["--json"]].concat()).done());
    assert_eq!(
        (&again["renewed"], &again["token"]),
        (&true.into(), &Value::Null)
    );
    assert!(!again.to_string().contains(&text), "{again}");
    assert_eq!(fs::read_to_string(file).unwrap(), text);
    let all = fs::read_to_string(format!("/proc/{}/cmdline", std::process::id())).unwrap();
    assert!(!all.contains(&text));

    let renewal = ["renew", "--token-file", file, "--ttl", "1h", "--json"];
    let renewed = json(&run(&daemon, &renewal).done());
    assert_eq!(renewed["renewed"], true, "{renewed}");
    assert!(renewed["expires_at"].is_u64(), "{renewed}");
    let shown = json(&run(&daemon, &["show", "s-1", "--json"]).done());
    assert_eq!(shown["session"]["expiresAt"], renewed["expires_at"]);
    drop(process);
    eventually("the session has ended", || !daemon.lists("s-1"));
    run(&daemon, &renewal).failed(NO_SESSION, "no session has this token");
    daemon.stop();
}

#[test]
fn register_prints_a_token_that_has_no_file_and_leaves_none_after_a_refusal() {
    let daemon = daemon();
    let process = TestProcess::start();
    let pid = process.pid().to_string();
    let printed = run(&daemon, &["register", "--pid", &pid]).done();
    let (id, token) = printed.trim_end().split_once('\t').unwrap();
    assert!(id.starts_with("reg-"), "{printed}");
    assert!(daemon.accepts(&Token::parse(token).unwrap()));

    let folder = private_folder();
    let file = folder.path().join("token");
    let gone = TestProcess::start();
    let gone_pid = gone.pid().to_string();
    drop(gone);
    let arguments = [
        "register",
        "--pid",
        &gone_pid,
        "--token-file",
        file.to_str().unwrap(),
    ];
    run(&daemon, &arguments).failed(FAILED, "process");
    assert!(!file.exists(), "a file for no session is left");

    fs::write(&file, "ab".repeat(32)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let arguments = [
        "register",
        "--pid",
        &pid,
        "--token-file",
        file.to_str().unwrap(),
    ];
    run(&daemon, &arguments).failed(FAILED, "its mode is 0644");
    run(&daemon, &["register", "--pid", &pid, "--id", ""]).failed(USAGE, "--id must not be empty");
    run(&daemon, &["register", "--pid", &pid, "--ttl", "soon"]).failed(USAGE, "expected a time");
    daemon.stop();
}

#[test]
fn show_and_ls_have_the_formats_that_their_help_lists() {
    let daemon = daemon();
    let process = TestProcess::start();
    let pid = process.pid().to_string();
    let register = [
        "register", "--pid", &pid, "--id", "s-1", "--role", "builder", "--group", "a",
    ];
    run(
        &daemon,
        &[
            &register[..],
            &["--group", "b", "--ttl", "1h", "--label", "job=7"],
        ]
        .concat(),
    )
    .done();
    daemon.register("s-2", process.pid());

    let shown = run(&daemon, &["show", "s-1"]).done();
    for line in [
        "session\ts-1",
        "role\tbuilder",
        "groups\ta, b",
        "labels\tjob=7",
        &format!("pid\t{pid}"),
    ] {
        assert!(shown.lines().any(|it| it == line), "{line}: {shown}");
    }
    let shown = json(&run(&daemon, &["show", "s-1", "--json"]).done());
    assert_eq!(shown["session"]["groups"], serde_json::json!(["a", "b"]));
    assert!(shown["session"]["verifiedAt"].is_u64(), "{shown}");
    let listed: Value = daemon.get("/v1/sessions?session=s-2").unwrap();
    let listed = listed["sessions"].as_array().unwrap();
    assert_eq!((listed.len(), &listed[0]["sessionId"]), (1, &"s-2".into()));
    run(&daemon, &["show", "s-3"]).failed(NO_SESSION, "no session with id \"s-3\"");

    assert_eq!(
        run(&daemon, &["ls", "--format", "ids"]).done(),
        "s-1\ns-2\n"
    );
    let tsv = run(&daemon, &["ls", "--format", "tsv"]).done();
    assert_eq!(tsv.lines().next().unwrap().split('\t').count(), 7, "{tsv}");
    let wide = run(&daemon, &["ls", "--wide"]).done();
    let first: Vec<_> = wide.lines().next().unwrap().split('\t').collect();
    assert_eq!(
        (first.len(), first[8], first[9], first[12]),
        (13, "builder", "a,b", "job=7"),
        "{wide}"
    );
    let table = run(&daemon, &["ls", "--format", "table", "--wide"]).done();
    assert!(
        table.starts_with("SESSION") && table.contains("EXPIRES"),
        "{table}"
    );
    let list = json(&run(&daemon, &["ls", "--format", "json"]).done());
    assert_eq!(list["sessions"].as_array().unwrap().len(), 2);
    run(&daemon, &["ls", "--format", "xml"]).failed(USAGE, "ids");
    daemon.stop();
}

#[test]
fn labels_are_kept_by_a_renewal_and_select_sessions() {
    let daemon = daemon();
    let process = TestProcess::start();
    let pid = process.pid().to_string();
    let folder = private_folder();
    let file = folder.path().join("token");
    let file = file.to_str().unwrap();
    let labels = ["--label", "job=7", "--label", "os=a,b"];
    let register = registration(&pid, file);
    run(&daemon, &[&register[..], &labels].concat()).done();
    daemon.register("s-2", process.pid());
    run(&daemon, &["renew", "--token-file", file]).done();
    let expected = serde_json::json!({"job": "7", "os": "a,b"});
    let shown = json(&run(&daemon, &["show", "s-1", "--json"]).done());
    assert_eq!(shown["session"]["labels"], expected);

    let ids = |filters: &[&str]| run(&daemon, &[&["ls", "--format", "ids"], filters].concat());
    let both = ["--filter", "label.job=7", "--filter", "label.os=a,b"];
    assert_eq!(ids(&both).done(), "s-1\n");
    assert_eq!(ids(&["--filter", "label.job=8"]).done(), "");
    let others = ["--filter", "mesh=test", "--filter", &format!("pid={pid}")];
    assert_eq!(ids(&others).done(), "s-2\n");
    assert_eq!(ids(&["--filter", "session=s-2"]).done(), "s-2\n");
    ids(&["--filter", "mesh=a", "--mesh", "b"]).failed(USAGE, "may be given once");
    ids(&["--filter", "job=7"]).failed(USAGE, "expected label.KEY=VALUE");
    let register = ["register", "--pid", &pid, "--label"];
    let refused = |label| run(&daemon, &[&register[..], &[label]].concat());
    refused("a b=c").failed(USAGE, "labels must have keys");
    refused("job").failed(USAGE, "expected KEY=VALUE");
    let twice = ["job=7", "--label", "job=8"];
    run(&daemon, &[&register[..], &twice].concat()).failed(USAGE, "must not have a key twice");

    let script = "exec sleep 600";
    let mut command = command(&[
        "run",
        "--session-id",
        "own",
        "--label",
        "job=9",
        "sh",
        "-c",
        script,
    ]);
    set_environment(&mut command, &daemon);
    let _running = Launched::start(&mut command);
    eventually("the label is there", || {
        ids(&["--filter", "label.job=9"]).done() == "own\n"
    });
    daemon.stop();
}

#[test]
fn ls_shows_sessions_that_have_ended_with_how_and_when() {
    let daemon = daemon();
    let process = TestProcess::start();
    daemon.register("lives", process.pid());
    for id in ["killed", "removed"] {
        let other = TestProcess::start();
        daemon.register(id, other.pid());
        if id == "removed" {
            run(&daemon, &["rm", id]).done();
        }
        drop(other);
        eventually("it has ended", || !daemon.lists(id));
    }
    let ids = |more: &[&str]| run(&daemon, &[&["ls", "--format", "ids"], more].concat()).done();
    assert_eq!(ids(&[]), "lives\n");
    assert_eq!(ids(&["--all"]), "killed\nremoved\nlives\n");
    assert_eq!(ids(&["--all", "--filter", "session=killed"]), "killed\n");
    let rows = run(&daemon, &["ls", "--all"]).done();
    let states = rows.lines().map(|row| {
        let cells: Vec<_> = row.split('\t').collect();
        assert_eq!(cells.len(), 9, "{row}");
        (cells[0], cells[7], cells[8].parse::<u64>().is_ok())
    });
    let states: Vec<_> = states.collect();
    // Without privileges the status is not known.
    assert!(
        ["killed by SIGKILL", "exited"].contains(&states[0].1),
        "{rows}"
    );
    assert_eq!(
        states[1..],
        [("removed", "requested", true), ("lives", "live", false)]
    );
    assert!(states[0].2);
    let list = json(&run(&daemon, &["ls", "--all", "--json"]).done());
    let sessions = list["sessions"].as_array().unwrap();
    assert_eq!(sessions[0]["cause"], "exited");
    assert!(sessions[0]["endedAt"].as_u64() >= sessions[0]["startedAt"].as_u64());
    assert_eq!(sessions[2].get("endedAt"), None);
    let table = run(&daemon, &["ls", "--all", "--wide", "--format", "table"]).done();
    assert!(
        table.contains("STATE") && table.contains("ENDED"),
        "{table}"
    );
    daemon.stop();
}

#[test]
fn run_uses_the_id_and_the_time_that_it_is_given() {
    let daemon = daemon();
    let script = "echo $REAPERD_SESSION_ID; echo $REAPERD_TOKEN_FILE; exec sleep 600";
    let mut command = command(&[
        "run",
        "--session-id",
        "../own",
        "--ttl",
        "1h",
        "sh",
        "-c",
        script,
    ]);
    set_environment(&mut command, &daemon);
    let mut running = Launched::start(&mut command);
    assert_eq!(running.line(), "../own");
    let file = running.line();
    assert!(
        file.contains("/tokens/run-") && !file.contains(".."),
        "{file}"
    );
    let shown = json(&run(&daemon, &["show", "../own", "--json"]).done());
    let session = &shown["session"];
    let (registered, expires) = (&session["registeredAt"], &session["expiresAt"]);
    let lasts = expires.as_u64().unwrap() - registered.as_u64().unwrap();
    assert_eq!(lasts, 3_600_000);
    run(&daemon, &["renew", "--token-file", &file]).done();
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    eventually("the daemon removes the file", || {
        !std::path::Path::new(&file).exists()
    });
    daemon.stop();
}

#[test]
fn identify_finds_the_session_of_the_process_or_of_an_ancestor() {
    let daemon = daemon();
    let program = reaperd().display();
    // The middle shell does not execute its command, so it stays in between.
    let script = format!("sh -c '{program} identify --json; true'; true");
    let found = json(
        &run(
            &daemon,
            &["run", "--session-id", "own", "sh", "-c", &script],
        )
        .done(),
    );
    assert_eq!(found["session"]["sessionId"], "own", "{found}");
    assert_eq!(
        (&found["generations"], found["chain"][1].as_u64()),
        (&1.into(), found["session"]["pid"].as_u64())
    );

    let process = TestProcess::start();
    let pid = process.pid().to_string();
    run(&daemon, &["identify", &pid]).failed(NO_SESSION, "neither process ");
    daemon.register("s-1", process.pid());
    daemon.register("of-this", std::process::id());
    assert_eq!(
        run(&daemon, &["identify", &pid]).done(),
        format!("s-1\t{pid}\t0\n")
    );
    let other = TestProcess::start();
    let of_parent = run(&daemon, &["identify", &other.pid().to_string()]).done();
    assert!(of_parent.starts_with("of-this\t"), "{of_parent}");
    run(&daemon, &["identify", "0"]).failed(USAGE, "not the pid of a process");
    daemon.stop();
}

#[test]
fn version_names_the_program_and_the_daemon() {
    let daemon = daemon();
    let version = json(&run(&daemon, &["version", "--json"]).done());
    assert_eq!(version["schema"], 1);
    assert_eq!(version["daemon"]["version"], version["version"]);
    assert_eq!(version["socket"], daemon.socket().to_str().unwrap());
    daemon.stop();
    let folder = private_folder();
    let mut alone = command(&["version", "--json"]);
    let output = CommandOutput::of(alone.env("XDG_RUNTIME_DIR", folder.path()));
    assert_eq!(json(&output.done())["daemon"], Value::Null);
}
