//! Sessions that hang on several processes.

use serde_json::{Value, json};

use super::fixture::{Daemon, Events, TestProcess, eventually};

/// Registers for these processes.
fn register(daemon: &Daemon, token: u64, id: &str, pids: &[u32]) -> (u16, Value) {
    let body = json!({
        "token": format!("{token:064x}"), "session_id": id, "mesh": "dev", "display_name": "api",
        "pids": pids,
    });
    daemon.request("POST", "/v1/sessions/register", "", &body.to_string())
}

fn members(session: &Value) -> Vec<(u64, bool)> {
    let members = session["members"].as_array().unwrap().iter();
    let member = |it: &Value| (it["pid"].as_u64().unwrap(), it["ended"] == true);
    members.map(member).collect()
}

/// The last removal in the text of a stream.
fn removal(events: &mut Events) -> Value {
    let text = events.until("\"detection_us\"");
    let start = text.rfind("event: session_deregistered").unwrap();
    let data = text[start..].split_once("data: ").unwrap().1;
    serde_json::from_str(data.lines().next().unwrap()).unwrap()
}

#[test]
fn the_session_stays_to_the_last_process_and_shows_which_have_ended() {
    let daemon = Daemon::start();
    let mut events = Events::open(&daemon, "/v1/events?event=session_deregistered", "");
    let mut processes: Vec<_> = (0..3).map(|_| TestProcess::start()).collect();
    let pids: Vec<_> = processes.iter().map(TestProcess::pid).collect();
    let (status, response) = register(&daemon, 1, "s", &pids);
    assert_eq!(status, 200, "{response}");
    assert_eq!(response["processes"], 3, "{response}");
    assert_eq!(daemon.get("/v1/sources").1["processes"], 3);
    let limits = daemon.get("/v1/limits").1;
    assert_eq!(limits["limits"]["sessions"]["used"], 3);
    let mut ended = vec![false; 3];
    for index in [1, 0] {
        processes[index].kill();
        ended[index] = true;
        eventually("the end of one is shown", || {
            let (status, me) = daemon.me(1);
            assert_eq!(status, 200, "it stays: {me}");
            assert_eq!(me["session"]["pid"], pids[0]);
            let shown: Vec<_> = members(&me["session"]).into_iter().map(|it| it.1).collect();
            shown == ended
        });
        let member = &daemon.me(1).1["session"]["members"][index];
        assert_eq!(member["exit"]["signal"], 9, "{member}");
        assert!(member["endedAt"].as_u64().unwrap() > 1_700_000_000_000);
        // The entry of the watch set goes with the process.
        assert_eq!(
            daemon.get("/v1/sources").1["processes"],
            ended.iter().filter(|ended| !**ended).count()
        );
        for pid in &pids {
            let found = daemon.get(&format!("/v1/sessions?pid={pid}")).1;
            assert_eq!(found["sessions"].as_array().unwrap().len(), 1);
        }
    }
    processes[2].kill();
    eventually("it ends with the last", || daemon.me(1).0 == 401);
    let removal = removal(&mut events);
    assert_eq!(removal["cause"], "exited");
    assert_eq!(removal["exit"]["signal"], 9, "{removal}");
    let all_ended: Vec<_> = pids.iter().map(|pid| (u64::from(*pid), true)).collect();
    assert_eq!(members(&removal["session"]), all_ended);
    assert_eq!(daemon.get("/v1/sources").1["processes"], 0);
    daemon.stop();
}

/// They are refused before one of them is pinned or even looked for.
#[test]
fn more_processes_than_the_user_may_have_sessions_are_refused_at_once() {
    let daemon = Daemon::with(|options| options.max_sessions_per_uid = 2);
    let (lives, other) = (TestProcess::start(), TestProcess::start());
    let mut ended = TestProcess::start();
    ended.kill();
    ended.reap();
    let pids = [lives.pid(), other.pid(), ended.pid()];
    let (status, problem) = register(&daemon, 1, "s", &pids);
    let expected = (429, &json!("too_many_sessions_of_user"));
    assert_eq!((status, &problem["code"]), expected, "{problem}");
    let (status, problem) = register(&daemon, 1, "s", &pids[..2]);
    assert_eq!(status, 200, "{problem}");
    // One that is renewed or replaced makes room.
    let (status, problem) = register(&daemon, 1, "s", &pids[..2]);
    assert_eq!(
        (status, &problem["renewed"]),
        (200, &json!(true)),
        "{problem}"
    );
    let (status, problem) = register(&daemon, 2, "s", &pids[..2]);
    assert_eq!(
        (status, &problem["renewed"]),
        (200, &json!(false)),
        "{problem}"
    );
    daemon.stop();
}

#[test]
fn if_one_may_not_be_registered_nothing_is_stored_and_it_is_named() {
    let daemon = Daemon::start();
    let (lives, mut ended) = (TestProcess::start(), TestProcess::start());
    ended.kill();
    ended.reap();
    for (pids, which) in [
        ([lives.pid(), ended.pid()], ended.pid()),
        ([ended.pid(), lives.pid()], ended.pid()),
        ([lives.pid(), std::process::id()], std::process::id()),
    ] {
        let (status, problem) = register(&daemon, 1, "s", &pids);
        assert_eq!((status, &problem["field"]), (422, &json!("pids")));
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.starts_with(&format!("pid {which}: ")), "{detail}");
    }
    assert!(daemon.listed().is_empty());
    assert_eq!(daemon.get("/v1/sources").1["processes"], 0);
    daemon.stop();
}

#[test]
fn a_wrong_list_is_refused_and_a_pid_that_occurs_twice_counts_once() {
    let daemon = Daemon::start();
    let process = TestProcess::start();
    let pid = process.pid();
    let wrong = [
        json!([]),
        json!("7"),
        json!([pid, 0]),
        json!([pid, "7"]),
        json!([pid, 1.5]),
        json!((1..66).collect::<Vec<_>>()),
    ];
    for pids in wrong {
        let (status, problem) = daemon.register_with(1, "s", pid, json!({"pids": pids}));
        assert_eq!((status, &problem["field"]), (422, &json!("pids")), "{pids}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("1 to 64"), "{detail}");
    }
    let (status, response) = daemon.register_with(1, "s", pid, json!({"pids": [pid, pid]}));
    assert_eq!((status, response.get("processes")), (200, None));
    let me = daemon.me(1).1;
    assert_eq!(me["session"]["members"], Value::Null, "it is one process");
    drop(process);
    eventually("it ends", || daemon.me(1).0 == 401);
    daemon.stop();
}

#[test]
fn a_renewal_changes_the_processes() {
    let daemon = Daemon::start();
    let (first, second, third) = (
        TestProcess::start(),
        TestProcess::start(),
        TestProcess::start(),
    );
    register(&daemon, 1, "s", &[first.pid(), second.pid()]);
    let (status, problem) = register(&daemon, 1, "s", &[third.pid()]);
    assert_eq!((status, &problem["code"]), (409, &json!("token_in_use")));
    let (status, response) = register(&daemon, 1, "s", &[second.pid(), third.pid()]);
    assert_eq!((status, &response["renewed"]), (200, &json!(true)));
    assert_eq!(daemon.get("/v1/sources").1["processes"], 2);
    drop(second);
    eventually("one has ended", || {
        let me = daemon.me(1).1;
        members(&me["session"])[0].1
    });
    // A process that is no part of it any more.
    drop(first);
    assert_eq!(daemon.me(1).0, 200);
    drop(third);
    eventually("it ends", || daemon.me(1).0 == 401);
    assert_eq!(daemon.get("/v1/sources").1["processes"], 0);
    daemon.stop();
}

/// The pid of a member that has ended is given to an unrelated process, which neither keeps the session nor
/// ends it.
#[cfg(target_os = "linux")]
#[test]
fn the_reused_pid_of_a_member_is_not_a_member() {
    use reaper_tests::daemon::reaperd;
    use reaper_tests::expect::skip;
    use reaperd::testkit::test_process::{self, Kind};

    let daemon = Daemon::start();
    for round in 0..30 {
        let id = format!("s-{round}");
        let (mut first, mut last) = (TestProcess::start(), TestProcess::start());
        let pids = [first.pid(), last.pid()];
        assert_eq!(register(&daemon, round, &id, &pids).0, 200);
        first.kill();
        first.reap();
        let taken = reaperd::Pid::new(pids[0]).unwrap();
        let successor = test_process::TestProcess::take_pid(reaperd(), Kind::Sleep, taken);
        let mut successor = match successor {
            Ok(successor) => successor,
            Err(error) => return skip(format_args!("no pid can be chosen: {error}")),
        };
        // It may have a session of its own at once.
        let own = round + 1_000;
        assert_eq!(
            register(&daemon, own, &format!("own-{round}"), &pids).0,
            200
        );
        eventually("the former owner has ended", || {
            members(&daemon.me(round).1["session"])
                == [(pids[0].into(), true), (pids[1].into(), false)]
        });
        let both = members(&daemon.me(own).1["session"]);
        assert!(both.iter().all(|(_, ended)| !ended), "{both:?}");
        last.kill();
        eventually("the session ends although its pid is in use", || {
            daemon.me(round).0 == 401
        });
        assert_eq!(daemon.me(own).0, 200);
        successor.kill().unwrap();
        eventually("the other one ends too", || daemon.me(own).0 == 401);
    }
    assert_eq!(daemon.get("/v1/sources").1["processes"], 0);
    daemon.stop();
}
