//! Callers in pid namespaces below the daemon's, with real processes: each knows its processes by
//! numbers that here mean others or none.
//!
//! The caller inside is this very test program, run again under `unshare` with one test alone, which
//! then takes orders line by line.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use reaper_tests::daemon::{has_program, reaperd};
use reaper_tests::expect::skip;
use reaperd::registry::Token;
use serde_json::{Value, json};

use super::fixture::{Daemon, Events, TestProcess, eventually};

/// Where the one inside finds the daemon.
const SOCKET: &str = "REAPER_TEST_INSIDE";
/// What its answers begin with, among what the test harness says.
const ANSWER: &str = "inside: ";

/// A process with children of its own in a new pid namespace, in which it is pid 1.
struct Inside {
    unshare: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Inside {
    /// So many namespaces deep; `None`, with the reason printed, where none can be made.
    fn start(daemon: &Daemon, levels: usize) -> Option<Self> {
        if !can_unshare() {
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
            .args(["--exact", "containers::takes_orders", "--nocapture"])
            .env(SOCKET, daemon.socket())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Some(Self {
            commands: unshare.stdin.take().unwrap(),
            answers: BufReader::new(unshare.stdout.take().unwrap()),
            unshare,
        })
    }

    fn order(&mut self, order: &Value) -> Value {
        writeln!(self.commands, "{order}").unwrap();
        let mut line = String::new();
        loop {
            line.clear();
            let count = self.answers.read_line(&mut line).unwrap();
            assert!(count > 0, "it ended instead of an answer to {order}");
            if let Some((_, answer)) = line.split_once(ANSWER) {
                return serde_json::from_str(answer).unwrap();
            }
        }
    }

    /// Starts a child; its number in there.
    fn spawn(&mut self) -> u64 {
        self.order(&json!("spawn")).as_u64().unwrap()
    }

    /// Registers a process by its number in there; status and code, or the session's number here.
    fn register(&mut self, id: &str, pid: u64) -> Result<u64, (u64, String)> {
        let answer = self.order(&json!({"session_id": id, "pid": pid}));
        let status = answer["status"].as_u64().unwrap();
        if status == 200 {
            return Ok(answer["body"]["session"]["pid"].as_u64().unwrap());
        }
        let code = answer["body"]["code"].as_str().unwrap();
        Err((status, code.to_owned()))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.unshare.kill().unwrap_or_default();
        self.unshare.wait().map(drop).unwrap_or_default();
    }
}

fn can_unshare() -> bool {
    if !rustix::process::geteuid().is_root() {
        skip("not root");
        return false;
    }
    if !has_program("unshare") {
        skip("no unshare here");
    }
    has_program("unshare")
}

/// Not a test of its own: the process in the namespace, when there is somebody to take orders from.
#[test]
fn takes_commands() {
    let Some(socket) = std::env::var_os(SOCKET) else {
        return;
    };
    let mut children = Vec::new();
    for order in std::io::stdin().lines() {
        let order: Value = serde_json::from_str(&order.unwrap()).unwrap();
        let answer = if order == "spawn" {
            let child = Command::new("sleep").arg("600").spawn().unwrap();
            children.push(child);
            json!(children.last().unwrap().id())
        } else {
            register_from_inside(Path::new(&socket), order)
        };
        println!("{ANSWER}{answer}");
    }
}

/// Registers, and on success answers with the session as its token shows it.
fn register_from_inside(socket: &Path, mut body: Value) -> Value {
    let id = body["session_id"].as_str().unwrap().to_owned();
    let mut bytes = [0; 32];
    bytes[..id.len()].copy_from_slice(id.as_bytes());
    let token = Token::from_bytes(bytes).reveal();
    body["token"] = token.as_str().into();
    body["mesh"] = "dev".into();
    body["display_name"] = id.into();
    let (status, answer) = ask(socket, "POST /v1/sessions/register", "", &body.to_string());
    if status != 200 {
        return json!({"status": status, "body": answer});
    }
    let field = format!("Authorization: ClaudeMesh-Session {}\r\n", *token);
    let (status, body) = ask(socket, "GET /v1/sessions/me", &field, "");
    json!({"status": status, "body": body})
}

fn ask(socket: &Path, line: &str, fields: &str, body: &str) -> (u16, Value) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (
        head[9..12].parse().unwrap(),
        serde_json::from_str(body).unwrap(),
    )
}

/// The number of a process in the namespace in which it lives.
fn number_inside(pid: u64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let own = numbers.unwrap().split_whitespace().last();
    own.unwrap().parse().unwrap()
}

fn kill(pid: u64) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn pid_1_of_a_container_registers_itself_and_its_children_by_its_own_numbers() {
    for levels in [1, 2] {
        let daemon = Daemon::start();
        let Some(mut inside) = Inside::start(&daemon, levels) else {
            return;
        };
        let init = inside.register("init", 1).unwrap();
        assert_eq!(number_inside(init), 1);
        let numbers = [inside.spawn(), inside.spawn()];
        let [doomed, other] = numbers.map(|number| {
            let here = inside.register(&number.to_string(), number).unwrap();
            assert_ne!(here, number);
            assert_eq!(number_inside(here), number, "{levels} levels");
            here
        });
        assert_ne!(doomed, other);
        let mut events = Events::open(&daemon, "/v1/events?event=session_deregistered", "");
        kill(doomed);
        let end = events.until("\"cause\":\"exited\"");
        assert!(
            end.contains(&format!("\"sessionId\":\"{}\"", numbers[0])),
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
fn a_number_that_means_another_process_here_is_not_taken_for_it() {
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
    // Those that exist here, and that nobody has in there; the first one's is not low by chance.
    for here in [
        u64::from(sleepers[0].pid()),
        child_of_other,
        u64::from(std::process::id()),
    ] {
        let refused = inside.register("stolen", here);
        assert_eq!(refused, Err((422, "process_gone".to_owned())), "{here}");
    }
    // Those that exist in there and, mostly, here as well.
    let first = inside.register("first", 1).unwrap();
    assert_eq!(number_inside(first), 1);
    sleepers.push(TestProcess::start());
    let child = inside.spawn();
    let here = inside.register("child", child).unwrap();
    assert_ne!(here, child_of_other);
    drop(other);
    eventually("the other namespace ends, and with it its session", || {
        daemon.get("/v1/sessions").1["sessions"]
            .as_array()
            .unwrap()
            .len()
            == 2
    });
    daemon.stop();
}

#[test]
fn the_machines_init_cannot_be_registered_by_others() {
    let daemon = Daemon::start();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap();
    // `PROC_PID_INIT_INO` of the kernel's `include/linux/proc_ns.h`.
    if namespace.to_str() != Some("pid:[4026531836]") {
        skip("pid 1 is a container's here");
        return;
    }
    let (status, problem) = daemon.register(1, "init", 1);
    assert_eq!((status, &problem["code"]), (422, &json!("invalid_pid")));
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("register the process"), "{detail}");
    daemon.stop();
}

#[test]
fn a_command_runs_registered_as_pid_1_of_a_container_and_as_a_later_one() {
    if !can_unshare() {
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
