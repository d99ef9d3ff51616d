//! A successor that fails, at whichever step, changes nothing: the running daemon goes on with every
//! session, connection and stream.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::thread;
use std::time::Duration;

use reaper_registry::Token;
use reaper_tests::daemon::{Events, TestDaemon};
use reaper_tests::scale::scaled;
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::{Deadline, eventually};
use serde_json::{Value, json};

use super::client::{Connection, post};
use super::successor;

/// Where a successor stops.
#[derive(Clone, Copy, Debug)]
enum Step {
    Asked,
    Begun,
    GotEverything,
    Failed,
    SaysNonsense,
    SaysReadyTooEarly,
}

const STEPS: [Step; 6] = [
    Step::Asked,
    Step::Begun,
    Step::GotEverything,
    Step::Failed,
    Step::SaysNonsense,
    Step::SaysReadyTooEarly,
];

/// A program that speaks the protocol of a hand-over.
pub(crate) struct Fake(UnixStream);

impl Fake {
    /// Asks, and is granted the hand-over.
    pub(crate) fn ask(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let asked = json!({"format": 1, "tableFormat": u32::MAX}).to_string();
        let request = post("/v1/daemon/replace", &asked);
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = Vec::new();
        while !response.ends_with(b"{\"ok\":true}") {
            let mut byte = [0];
            let length = stream.read(&mut byte).unwrap();
            assert_ne!(length, 0, "{}", String::from_utf8_lossy(&response));
            response.push(byte[0]);
        }
        Self(stream)
    }

    pub(crate) fn send(&mut self, message: &Value) {
        let text = message.to_string();
        let length = u32::try_from(text.len()).unwrap().to_ne_bytes();
        self.0.write_all(&length).unwrap();
        self.0.write_all(text.as_bytes()).unwrap();
    }

    /// Reads one message. The descriptors with it are closed.
    fn receive(&mut self) -> Value {
        self.try_receive().unwrap()
    }

    /// As above; an error at the end of the connection.
    pub(crate) fn try_receive(&mut self) -> io::Result<Value> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length)?;
        let mut text = vec![0; u32::from_ne_bytes(length) as usize];
        self.0.read_exact(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }

    pub(crate) fn receive_everything(&mut self) {
        while self.receive().get("Rest").is_none() {}
    }

    fn stop_at(&mut self, step: Step) {
        match step {
            Step::Asked => return,
            Step::SaysNonsense => return self.0.write_all(b"\xff\xff\xff\xffnonsense").unwrap(),
            Step::SaysReadyTooEarly => return self.send(&json!("Ready")),
            Step::Begun | Step::GotEverything | Step::Failed => self.send(&json!("Begin")),
        }
        match step {
            Step::Begun => {}
            _ => self.receive_everything(),
        }
        if matches!(step, Step::Failed) {
            self.send(&json!({"Failed": "the test"}));
            let answer = self.receive();
            let reason = answer["Failed"].as_str().unwrap();
            assert!(reason.contains("the test"), "{answer}");
        }
    }
}

/// What a daemon has that must outlive a failed hand-over.
struct Witnesses {
    daemon: TestDaemon,
    process: TestProcess,
    token: Token,
    kept: Connection,
    events: Events,
    worker: u64,
    /// How many test processes have been registered and killed.
    killed: usize,
}

impl Witnesses {
    fn new() -> Self {
        let daemon = TestDaemon::start(&[]);
        let process = TestProcess::start();
        let token = daemon.register("kept", process.pid());
        let mut kept = Connection::open(&daemon.socket()).unwrap();
        Self {
            worker: kept.served_by(),
            events: daemon.events(),
            daemon,
            process,
            token,
            kept,
            killed: 0,
        }
    }

    /// Checks that the same daemon serves everything, and removes a session whose process ends.
    fn check(&mut self, after: &str) {
        assert_eq!(self.kept.served_by(), self.worker, "after {after}");
        assert!(self.daemon.accepts(&self.token), "after {after}");
        self.killed += 1;
        let id = format!("killed-{}", self.killed);
        let removal = self.events.removal_after_kill(&self.daemon, &id);
        assert_eq!(removal.data.cause, "exited");
    }

    fn end(mut self) {
        self.process.kill();
        self.events.removal_of("kept");
        self.daemon.stop();
    }
}

#[test]
fn a_successor_that_ends_at_any_step_leaves_the_daemon_as_it_was() {
    let mut all = Witnesses::new();
    for step in STEPS {
        let mut fake = Fake::ask(&all.daemon.socket());
        fake.stop_at(step);
        drop(fake);
        all.check(&format!("{step:?}"));
    }
    let log = all.daemon.log();
    let kept = log.matches("which goes on").count();
    assert_eq!(kept, STEPS.len(), "{log}");
    all.end();
}

#[test]
fn a_successor_that_does_not_respond_is_given_up_and_what_ended_meanwhile_is_removed() {
    let mut all = Witnesses::new();
    let mut killed = TestProcess::start();
    all.daemon.register("meanwhile", killed.pid());
    let mut fake = Fake::ask(&all.daemon.socket());
    fake.stop_at(Step::GotEverything);
    killed.kill();
    all.kept
        .send(&super::client::get("/v1/health", None))
        .unwrap();
    let clock = Deadline::after(Duration::from_mins(1));
    assert_eq!(all.kept.response().unwrap().0, 200);
    assert!(
        clock.elapsed() < Duration::from_secs(15),
        "{:?}",
        clock.elapsed()
    );
    let log = all.daemon.log();
    assert!(
        log.contains("which goes on: it took longer than 10 s"),
        "{log}"
    );
    all.events.removal_of("meanwhile");
    all.check("the time is over");
    drop(fake);
    all.end();
}

#[test]
fn a_second_successor_is_refused_while_there_is_one() {
    let mut all = Witnesses::new();
    let mut other = Connection::open(&all.daemon.socket()).unwrap();
    other.served_by();
    let fake = Fake::ask(&all.daemon.socket());
    let asked = json!({"format": 1, "tableFormat": u32::MAX}).to_string();
    other.send(&post("/v1/daemon/replace", &asked)).unwrap();
    let (status, problem) = other.response().unwrap();
    assert_eq!(
        (status, &problem["code"]),
        (409, &json!("replace_in_progress"))
    );
    drop(fake);
    all.check("a refused one");
    // The place is free again.
    drop(Fake::ask(&all.daemon.socket()));
    all.check("a later one");
    all.end();
}

/// A real successor is killed at growing times after its start, until one has taken over.
#[test]
fn a_killed_successor_leaves_the_daemon_serving() {
    let rounds = scaled(60, 40);
    let mut all = Witnesses::new();
    let (mut before, mut within) = (0, 0);
    let mut delay = Duration::from_millis(1);
    for _ in 0..rounds {
        let asked = all.daemon.log().matches("asks to replace").count();
        let mut next = all.daemon.spawn_beside(&successor());
        thread::sleep(delay);
        if all.daemon.ended().is_some() || has_replaced(&all.daemon) {
            all.daemon.adopt(next);
            println!("killed before it asked: {before}, within the hand-over: {within}");
            assert!(within > 0, "the window was not met\n{}", all.daemon.log());
            all.worker = all.kept.served_by();
            all.check("it was replaced");
            all.end();
            return;
        }
        kill_both(&mut next);
        eventually("the former daemon has noticed", || {
            let log = all.daemon.log();
            has_replaced(&all.daemon)
                || log.matches("asks to replace").count() == log.matches("which goes on").count()
        });
        if all.daemon.log().matches("asks to replace").count() > asked {
            within += 1;
        } else {
            before += 1;
        }
        if has_replaced(&all.daemon) {
            // It was killed after its moment: there is no daemon any more, as after any kill.
            println!("killed before it asked: {before}, within: {within}, then too late");
            return;
        }
        all.check(&format!("a kill after {delay:?}"));
        delay = delay.mul_f64(1.35);
    }
    println!("killed before it asked: {before}, within the hand-over: {within}");
    assert!(within > 0, "the window was not met\n{}", all.daemon.log());
    all.end();
}

fn has_replaced(daemon: &TestDaemon) -> bool {
    daemon.log().contains("has replaced this daemon")
}

/// Kills monitor and worker.
pub(crate) fn kill_both(next: &mut Child) {
    let workers = reaper_tests::daemon::children_of(next.id());
    next.kill().unwrap();
    next.wait().unwrap();
    for worker in workers {
        let folder = format!("/proc/{}", worker.as_raw_nonzero());
        eventually("its worker has ended", || {
            fs::read_to_string(format!("{folder}/stat")).map_or(true, |stat| stat.contains(") Z "))
        });
    }
}
