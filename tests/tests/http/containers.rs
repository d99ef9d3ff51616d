//! Callers in pid namespaces below the daemon's, with real processes. Their pids denote other
//! processes, or none, in the daemon's namespace.
//!
//! The caller inside is this test program, started again under `unshare` with the test
//! [`runs_commands`] alone, which then executes commands line by line.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use reaper_tests::daemon::reaperd;
use reaper_tests::expect::{root_with, skip};
use reaper_tests::raw_http;
use reaperd::registry::Token;
use serde_json::{Value, json};

use super::fixture::{Daemon, Events, TestProcess, eventually};

/// Names the daemon's socket for the process inside.
const SOCKET: &str = "REAPER_TEST_INSIDE";
/// The start of its replies, among the output of the test harness.
const REPLY: &str = "inside: ";

/// A process that is pid 1 of a new pid namespace.
struct Inside {
    unshare: Child,
    commands: ChildStdin,
    replies: BufReader<ChildStdout>,
}

impl Inside {
    /// Starts a process `levels` namespaces deep. Returns `None` and prints the reason where
    /// namespaces cannot be created.
    fn start(daemon: &Daemon, levels: usize) -> Option<Self> {
        if !root_with(&["unshare"]) {
            return None;
        }
        let unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let words: Vec<_> = unshare
            .iter()
            .cycle()
            .take(levels * unshare.len())
            .collect();
        let mut unshare = Command::new(words[0])
            .args(&words[1..])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "containers::runs_commands", "--nocapture"])
            .env(SOCKET, daemon.socket())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Some(Self {
            commands: unshare.stdin.take().unwrap(),
            replies: BufReader::new(unshare.stdout.take().unwrap()),
            unshare,
        })
    }

    fn run(&mut self, command: &Value) -> Value {
        writeln!(self.commands, "{command}").unwrap();
        let mut line = String::new();
        loop {
            line.clear();
            let count = self.replies.read_line(&mut line).unwrap();
            assert!(count > 0, "it ended without a reply to {command}");
            if let Some((_, reply)) = line.split_once(REPLY) {
                return serde_json::from_str(reply).unwrap();
            }
        }
    }

    /// Starts a child. Returns its pid in the namespace.
    fn spawn(&mut self) -> u64 {
        self.run(&json!("spawn")).as_u64().unwrap()
    }

    /// Registers a process by its pid in the namespace. Returns the session's pid in the daemon's
    /// namespace, or status and code.
    fn register(&mut self, id: &str, pid: u64) -> Result<u64, (u64, String)> {
        let reply = self.run(&json!({"session_id": id, "pid": pid}));
        let status = reply["status"].as_u64().unwrap();
        if status == 200 {
            return Ok(reply["body"]["session"]["pid"].as_u64().unwrap());
        }
        let code = reply["body"]["code"].as_str().unwrap();
        Err((status, code.to_owned()))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.unshare.kill().unwrap_or_default();
        self.unshare.wait().map(drop).unwrap_or_default();
    }
}

/// Not a test, but the process in the namespace. Does nothing unless [`Inside::start`] starts it.
#[test]
fn runs_commands() {
    let Some(socket) = std::env::var_os(SOCKET) else {
        return;
    };
    let mut children = Vec::new();
    for command in std::io::stdin().lines() {
        let command: Value = serde_json::from_str(&command.unwrap()).unwrap();
        let reply = if command == "spawn" {
            let child = Command::new("sleep").arg("600").spawn().unwrap();
            children.push(child);
            json!(children.last().unwrap().id())
        } else {
            register_from_inside(Path::new(&socket), command)
        };
        println!("{REPLY}{reply}");
    }
}

/// Registers a process. On success, returns the session as `/v1/sessions/me` shows it.
fn register_from_inside(socket: &Path, mut body: Value) -> Value {
    let id = body["session_id"].as_str().unwrap().to_owned();
    let mut bytes = [0; 32];
    bytes[..id.len()].copy_from_slice(id.as_bytes());
    let token = Token::from_bytes(bytes).reveal();
    body["token"] = token.as_str().into();
    body["mesh"] = "dev".into();
    body["display_name"] = id.into();
    let (status, response) = ask(socket, "POST /v1/sessions/register", "", &body.to_string());
    if status != 200 {
        return json!({"status": status, "body": response});
    }
    let field = format!("Authorization: ClaudeMesh-Session {}\r\n", *token);
    let (status, body) = ask(socket, "GET /v1/sessions/me", &field, "");
    json!({"status": status, "body": body})
}

fn ask(socket: &Path, line: &str, fields: &str, body: &str) -> (u16, Value) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let request = raw_http::request(line, fields, body);
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (status, body) = raw_http::parse(&response).unwrap();
    (status, serde_json::from_str(body).unwrap())
}

/// The pid of a process in its own namespace.
fn pid_inside(pid: u64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let innermost = pids.unwrap().split_whitespace().last();
    innermost.unwrap().parse().unwrap()
}

fn kill(pid: u64) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn pid_1_of_a_container_registers_itself_and_its_children_by_their_inner_pids() {
    for levels in [1, 2] {
        let daemon = Daemon::start();
        let Some(mut inside) = Inside::start(&daemon, levels) else {
            return;
        };
        let init = inside.register("init", 1).unwrap();
        assert_eq!(pid_inside(init), 1);
        let inner_pids = [inside.spawn(), inside.spawn()];
        let [dying, other] = inner_pids.map(|inner| {
            let outer = inside.register(&inner.to_string(), inner).unwrap();
            assert_ne!(outer, inner);
            assert_eq!(pid_inside(outer), inner, "{levels} levels");
            outer
        });
        assert_ne!(dying, other);
        let mut events = Events::open(&daemon, "/v1/events?event=session_deregistered", "");
        kill(dying);
        let end = events.until("\"cause\":\"exited\"");
        assert!(
            end.contains(&format!("\"sessionId\":\"{}\"", inner_pids[0])),
            "{end}"
        );
        let left = daemon.get("/v1/sessions").1;
        let left = left["sessions"].as_array().unwrap();
        let pids: Vec<_> = left.iter().map(|session| session["pid"].as_u64()).collect();
        assert_eq!(pids, [Some(init), Some(other)]);
        daemon.stop();
    }
}

#[test]
fn an_inner_pid_is_not_taken_for_the_process_with_this_pid_outside() {
    let daemon = Daemon::start();
    let Some(mut inside) = Inside::start(&daemon, 1) else {
        return;
    };
    let Some(mut other) = Inside::start(&daemon, 1) else {
        return;
    };
    let mut sleepers = vec![TestProcess::start()];
    let in_other = other.spawn();
    let child_of_other = other.register("other", in_other).unwrap();
    // Pids that exist here but not inside.
    for outer in [
        u64::from(sleepers[0].pid()),
        child_of_other,
        u64::from(std::process::id()),
    ] {
        let refused = inside.register("stolen", outer);
        assert_eq!(refused, Err((422, "process_gone".to_owned())), "{outer}");
    }
    // Pids that exist inside and mostly here as well.
    let first = inside.register("first", 1).unwrap();
    assert_eq!(pid_inside(first), 1);
    sleepers.push(TestProcess::start());
    let child = inside.spawn();
    let outer = inside.register("child", child).unwrap();
    assert_ne!(outer, child_of_other);
    drop(other);
    eventually("the other namespace and its session end", || {
        daemon.listed().len() == 2
    });
    daemon.stop();
}

#[test]
fn init_of_the_machine_cannot_be_registered() {
    let daemon = Daemon::start();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap();
    // `PROC_PID_INIT_INO`:
    // https://elixir.bootlin.com/linux/v6.12/source/include/linux/proc_ns.h
    if namespace.to_str() != Some("pid:[4026531836]") {
        skip("pid 1 belongs to a container here");
        return;
    }
    let (status, problem) = daemon.register(1, "init", 1);
    assert_eq!((status, &problem["code"]), (422, &json!("invalid_pid")));
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("register the process"), "{detail}");
    daemon.stop();
}

#[test]
fn run_works_as_pid_1_of_a_container_and_as_a_later_pid() {
    if !root_with(&["unshare"]) {
        return;
    }
    let daemon = Daemon::start();
    let run = format!(
        "{} run --socket {} -- true",
        reaperd().display(),
        daemon.socket().display()
    );
    for script in [format!("exec {run}"), format!("{run}; exit $?")] {
        let output = Command::new("unshare")
            .args(["--pid", "--fork", "--mount-proc", "sh", "-c", &script])
            .output()
            .unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
    }
    daemon.stop();
}
