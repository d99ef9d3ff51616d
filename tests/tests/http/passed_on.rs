//! Connections that outlive the process that opened them: it passes its socket on and ends, and its
//! pid goes to another process.
//!
//! The process that connects is this test program, started again with the test [`connects`] alone.

use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use reaper_tests::daemon::children_of;
use reaper_tests::expect::{root_with, skip};
use reaper_tests::fork_server::{ForkServer, KEEP_ZOMBIES};
use reaper_tests::raw_http;
use reaperd::registry::Token;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde_json::{Value, json};

use super::fixture::{Daemon, TestProcess};

/// Names the daemon's socket for the process that connects.
const SOCKET: &str = "REAPER_TEST_CONNECT";
const NESTED: [&str; 5] = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];

/// Not a test, but the process that connects. Its standard input is a socket to the test. It does
/// nothing unless [`Connected::open`] starts it.
#[test]
fn connects() {
    let Some(socket) = std::env::var_os(SOCKET) else {
        return;
    };
    let daemon = UnixStream::connect(socket).unwrap();
    let descriptors = [daemon.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    assert!(message.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let input = std::io::stdin();
    sendmsg(
        &input,
        &[IoSlice::new(b"x")],
        &mut message,
        SendFlags::empty(),
    )
    .unwrap();
    // Until the test closes its end.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// A process with a connection to the daemon, which the test has as well.
struct Connected {
    child: Child,
    to_child: UnixStream,
    daemon: UnixStream,
    /// Its pid here, whichever its namespace.
    pid: u32,
}

impl Connected {
    fn open(daemon: &Daemon, prefix: &[&str]) -> Self {
        let program = std::env::current_exe().unwrap();
        let words = [prefix, &[program.to_str().unwrap()]].concat();
        let (to_child, its_end) = UnixStream::pair().unwrap();
        let child = Command::new(words[0])
            .args(&words[1..])
            .args(["--exact", "passed_on::connects", "--nocapture"])
            .env(SOCKET, daemon.socket())
            .stdin(OwnedFd::from(its_end))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut message = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut parts = [IoSliceMut::new(&mut byte)];
        recvmsg(&to_child, &mut parts, &mut message, RecvFlags::empty()).unwrap();
        let received = message.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let pid = if prefix.is_empty() {
            child.id()
        } else {
            children_of(child.id())[0]
                .as_raw_nonzero()
                .get()
                .cast_unsigned()
        };
        Self {
            child,
            to_child,
            daemon: received.unwrap().into(),
            pid,
        }
    }

    /// Sends a request that leaves the connection open, so that the daemon has certainly accepted it.
    fn is_served(&mut self) {
        let request = "GET /v1/version HTTP/1.1\r\nHost: localhost\r\n\r\n";
        self.daemon.write_all(request.as_bytes()).unwrap();
        let mut part = [0; 2_048];
        let length = self.daemon.read(&mut part).unwrap();
        assert!(part[..length].starts_with(b"HTTP/1.1 200 "));
    }

    /// Ends and reaps the process. Returns its connection.
    fn end(mut self) -> UnixStream {
        drop(self.to_child);
        assert!(self.child.wait().unwrap().success());
        self.daemon
    }
}

/// Registers a process on this connection.
fn register(daemon: &mut UnixStream, pid: u32) -> (u16, Value) {
    let token = format!("{pid:064x}");
    let body = json!({
        "token": token, "session_id": "stolen", "mesh": "dev", "display_name": "x", "pid": pid,
    });
    let line = "POST /v1/sessions/register";
    let request = raw_http::request(line, "", &body.to_string());
    daemon.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    daemon.read_to_string(&mut response).unwrap();
    let (status, body) = raw_http::parse(&response).unwrap();
    (status, serde_json::from_str(body).unwrap())
}

fn is_peer_gone(response: &(u16, Value)) {
    let (status, problem) = response;
    assert_eq!(
        (*status, &problem["code"]),
        (403, &json!("peer_gone")),
        "{problem}"
    );
}

#[test]
fn a_connection_of_a_live_process_may_be_passed_on() {
    let daemon = Daemon::start();
    let other = TestProcess::start();
    let connected = Connected::open(&daemon, &[]);
    let mut stream = connected.daemon.try_clone().unwrap();
    assert_eq!(register(&mut stream, other.pid()).0, 200);
    connected.end();
    daemon.stop();
}

#[test]
fn on_a_connection_whose_process_has_ended_nothing_is_registered() {
    let daemon = Daemon::start();
    let other = TestProcess::start();
    for is_used_before in [true, false] {
        for registers_the_dead in [true, false] {
            let mut connected = Connected::open(&daemon, &[]);
            if is_used_before {
                connected.is_served();
            }
            let dead = connected.pid;
            let mut stream = connected.end();
            let pid = if registers_the_dead {
                dead
            } else {
                other.pid()
            };
            is_peer_gone(&register(&mut stream, pid));
        }
    }
    assert!(daemon.listed().is_empty());
    daemon.stop();
}

/// Ends the process that connected and starts another one under its pid. Then registers each of the
/// pids that `named` returns, each on a new connection.
fn after_reuse(prefix: &[&str], named: impl Fn(u32) -> Vec<u32>) {
    let daemon = Daemon::start();
    let mut program = Command::new(env!("CARGO_BIN_EXE_fork_server"));
    program.arg(KEEP_ZOMBIES);
    let mut fork_server = ForkServer::open(program).unwrap();
    for index in 0..named(0).len() {
        let mut connected = Connected::open(&daemon, prefix);
        connected.is_served();
        let pid = connected.pid;
        let mut stream = connected.end();
        let token = Token::from_bytes([7; 32]);
        let started =
            fork_server.start_registered(Some(pid), &daemon.socket(), &token, "successor");
        match started {
            Ok((successor, response)) => {
                assert_eq!((successor, response.status), (pid, 200), "{response:?}");
            }
            Err(error) if Errno::from_io_error(&error) == Some(Errno::EXIST) => {
                return skip("another process has taken the pid");
            }
            Err(error) => panic!("{error}"),
        }
        is_peer_gone(&register(&mut stream, named(pid)[index]));
        assert_eq!(daemon.listed(), ["successor"]);
        fork_server.end(pid).unwrap();
    }
    drop(fork_server);
    daemon.stop();
}

#[test]
fn a_successor_with_the_pid_of_the_process_that_connected_is_not_registered_for_it() {
    if root_with(&[]) {
        after_reuse(&[], |pid| vec![pid]);
    }
}

#[test]
fn neither_is_one_of_a_process_that_connected_from_a_nested_pid_namespace() {
    if root_with(&["unshare"]) {
        // Its own pid inside, and the one outside.
        after_reuse(&NESTED, |pid| vec![1, pid]);
    }
}
