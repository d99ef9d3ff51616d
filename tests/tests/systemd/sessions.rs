//! A thousand sessions of as many processes, of which a hundred die while the daemon is away.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};

use reaper_registry::Token;
use reaper_tests::daemon::Requests;
use reaper_tests::expect::measured;
use reaper_tests::machine::{Machine, is_inside};
use reaper_tests::scale::scaled;
use reaper_tests::wait::eventually;
use serde_json::Value;

use crate::inside::{UNIT, away, journal, property, run, start};
use crate::packages;
use crate::readers::{Requester, Subscriber};

/// Of so many sessions one dies.
const ONE_OF: usize = 10;
const REQUESTERS: usize = 2;

/// A process with a session.
struct Process {
    child: Child,
    id: String,
    token: Token,
}

impl Process {
    fn start(daemon: &Requests) -> Self {
        let child = Command::new("sleep")
            .arg("100000")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let id = format!("s-{}", child.id());
        let token = daemon.register(&id, child.id());
        Self { child, id, token }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

/// The sessions, and the clients that are at work the whole time.
struct Scene {
    daemon: Requests,
    processes: Vec<Process>,
    /// Of this process, whose token the requesters present.
    own: Token,
    requesters: Vec<Requester>,
    subscriber: Subscriber,
    ends: usize,
}

impl Scene {
    fn begin(daemon: Requests) -> Self {
        let subscriber = Subscriber::start();
        let own = daemon.register("own", std::process::id());
        let requesters = (0..REQUESTERS).map(|_| Requester::start(&own));
        Self {
            requesters: requesters.collect(),
            processes: Vec::new(),
            daemon,
            own,
            subscriber,
            ends: 0,
        }
    }

    /// Ends the daemon, lets a tenth of the processes die while there is none, and checks what is left.
    fn survive<T>(&mut self, way: &str, end: impl FnOnce() -> T) -> T {
        let count = scaled(1_000, 100);
        while self.processes.len() < count {
            self.processes.push(Process::start(&self.daemon));
        }
        let dying = self.processes.drain(..count / ONE_OF).collect::<Vec<_>>();
        let gone: Vec<_> = dying
            .iter()
            .map(|it| (it.id.clone(), it.token.clone()))
            .collect();
        let ended = away(end, || drop(dying));
        self.ends += 1;
        let resolves = |token| self.daemon.accepts(token);
        let kept = self.processes.iter().filter(|it| resolves(&it.token));
        let kept = kept.count() + usize::from(resolves(&self.own));
        assert_eq!(kept, self.processes.len() + 1, "{way}\n{}", journal());
        assert!(gone.iter().all(|(_, token)| !resolves(token)), "{way}");
        let live = self.processes.iter().map(|it| it.id.clone());
        let live: BTreeSet<_> = live.chain(["own".to_owned()]).collect();
        assert_eq!(self.daemon.listed(), live, "{way}");
        let health: Value = self.daemon.get("/v1/health").unwrap();
        assert_eq!(health["carried_over"]["sessions"], kept, "{way}");
        assert_eq!(health["carried_over"]["ended"], gone.len(), "{way}");
        self.check_reports(&gone, way);
        measured(&format!("sessions kept over {way}"), kept - 1);
        measured(
            &format!("sessions that ended during {way}, each reported once"),
            gone.len(),
        );
        ended
    }

    /// Each removal is read once, with its cause.
    fn check_reports(&self, gone: &[(String, Token)], way: &str) {
        let mut reports: BTreeMap<String, Vec<_>> = BTreeMap::new();
        eventually("the subscriber has read all removals", || {
            reports.clear();
            for removal in self.subscriber.removals() {
                let id = removal.session.session_id;
                let report = (removal.cause, removal.source.unwrap_or_default());
                reports.entry(id).or_default().push(report);
            }
            gone.iter().all(|(id, _)| reports.contains_key(id))
        });
        let expected = [("exited".to_owned(), "restart".to_owned())];
        for (id, _) in gone {
            assert_eq!(reports[id], expected, "{id} after {way}");
        }
        assert!(
            self.processes
                .iter()
                .all(|it| !reports.contains_key(&it.id))
        );
    }

    /// No request may have been refused. One that was accepted right before the end may have no response.
    fn end(self) {
        let (mut answered, mut cut, mut slowest) = (0, 0, 0);
        for requester in self.requesters {
            let counts = requester.stop();
            assert!(counts.failed.is_empty(), "{:?}", counts.failed);
            answered += counts.answered;
            cut += counts.cut;
            slowest = slowest.max(counts.slowest_ms);
        }
        let (events, streams) = self.subscriber.stop();
        measured("requests answered", answered);
        measured("requests refused", 0);
        measured(
            "requests whose connection the former daemon had accepted",
            cut,
        );
        measured("slowest request in ms", slowest);
        measured("events read without a hole or a double", events);
        measured("streams of them", streams);
        assert!(answered > 100, "{answered}");
        assert!(usize::try_from(cut).unwrap() <= REQUESTERS * self.ends);
        assert!(streams > self.ends as u64, "it has resumed");
    }
}

fn restart() {
    run(&["systemctl", "restart", "--no-block", UNIT]);
}

fn kill() {
    run(&["systemctl", "kill", "--signal=KILL", UNIT]);
}

#[test]
fn sessions_outlive_a_restart_and_a_kill_of_both_processes() {
    if is_inside() {
        let mut scene = Scene::begin(start());
        scene.survive("a restart", restart);
        assert_eq!(property("NRestarts"), "0");
        scene.survive("a kill of both processes", kill);
        assert_eq!(property("NRestarts"), "1");
        return scene.end();
    }
    if let Some(machine) = Machine::boot() {
        machine.run_test("sessions::sessions_outlive_a_restart_and_a_kill_of_both_processes");
    }
}

#[test]
fn sessions_outlive_an_upgrade_of_the_package() {
    if is_inside() {
        packages::install(packages::FIRST);
        let mut scene = Scene::begin(start());
        let installing = scene.survive("an upgrade", || packages::begin_to_install(packages::NEXT));
        packages::is_installed(installing, packages::NEXT);
        scene.survive("a restart of the new version", restart);
        return scene.end();
    }
    let Some(folder) = packages::build() else {
        return;
    };
    let shown = (folder.path().to_owned(), packages::FOLDER.to_owned());
    if let Some(machine) = Machine::boot_with([shown]) {
        machine.run_test("sessions::sessions_outlive_an_upgrade_of_the_package");
    }
}
