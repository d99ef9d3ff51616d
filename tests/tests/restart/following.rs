//! `reaperd watch --follow` while sessions come and go, and the daemon is restarted and killed again and again: it
//! shows what the daemon has in its history, all of it, once, and in its order.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};

use reaper_tests::daemon::{Launch, Requests, private_folder, reaperd};
use reaper_tests::history::History;
use reaper_tests::scale::scaled;
use reaper_tests::test_process::TestProcess;
use reaper_tests::wait::TIMEOUT;
use serde_json::Value;

use crate::store::Store;

/// Of so many ends of the daemon one is a kill of both its processes, and the others are orderly.
const ONE_KILL_OF: usize = 6;

/// The command, and the lines that it has printed. Killed and reaped on drop.
struct Watch {
    child: Child,
    lines: Receiver<Value>,
    /// Id and name of each event that was read.
    shown: Vec<(String, String)>,
    streams: usize,
}

impl Watch {
    fn start(socket: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(reaperd())
            .args(["watch", "--json", "--socket"])
            .arg(socket)
            .args(arguments)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Read all the time: with a full pipe it would not even notice the restarts.
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let parsed = out.lines().map_while(Result::ok);
            for line in parsed.map(|line| serde_json::from_str(&line).unwrap()) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            shown: Vec::new(),
            streams: 0,
        }
    }

    /// Reads on to the event with this id, and counts the streams.
    fn read_up_to(&mut self, last: &str) {
        loop {
            let event = self.lines.recv_timeout(TIMEOUT).unwrap();
            let text = |field: &str| event[field].as_str().unwrap().to_owned();
            if text("event") == "listening" {
                self.streams += 1;
                continue;
            }
            self.shown.push((text("id"), text("event")));
            if text("id") == last {
                return;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

/// Sessions that begin, of which half are removed, and the others end with their processes.
struct Churn {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Churn {
    fn start(socket: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let daemon = Requests::to(&socket);
            let mut operations = 0;
            while !stopped.load(Ordering::Relaxed) {
                operations += 1;
                let process = TestProcess::start();
                let id = format!("s-{operations}");
                // An answer may be lost with the daemon, and both may have been carried out then.
                let registered = daemon.try_register(&id, process.pid());
                if operations % 2 == 0
                    && let Ok(token) = registered
                {
                    daemon.remove(&token).unwrap_or_default();
                }
            }
            operations
        });
        Self { stop, thread }
    }

    fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

#[test]
fn what_watch_shows_is_the_history_of_the_daemon_over_restarts_and_kills() {
    let ends = scaled(60, 12);
    let folder = private_folder();
    let mut store = Store::at(&folder.path().join("notify"));
    let launch = Launch::with(&["--sweep-interval", "500ms"]);
    let mut daemon = launch.spawn_by(|command| store.start(command));
    daemon.serves();
    let mut history = History::begin(&daemon);
    let mut watch = Watch::start(&daemon.socket(), &["--follow", "--since", "0"]);
    // A first stream must be open before the daemon ends.
    watch.read_up_to(&history.last);
    let churn = Churn::start(daemon.socket());
    let mut kills = 0;
    for end in 1..=ends {
        let start = |command: &mut Command| {
            store.receive();
            store.start(command)
        };
        daemon = if end % ONE_KILL_OF == 0 {
            kills += 1;
            daemon.replaced_through(&launch, start)
        } else {
            daemon.restarted_through(&launch, start)
        };
        // No more than the daemon keeps may have happened since the last time.
        history.read_on(&daemon);
        watch.read_up_to(&history.last);
    }
    let operations = churn.stop();
    history.read_on(&daemon);
    watch.read_up_to(&history.last);
    let first = &history.all[0].0;
    let shown: Vec<_> = watch
        .shown
        .iter()
        .skip_while(|(id, _)| id != first)
        .collect();
    assert_eq!(shown, history.all.iter().collect::<Vec<_>>());
    let is_gap = |(_, name): &&(String, String)| name == "gap";
    assert_eq!(watch.shown.iter().filter(is_gap).count(), 0);
    assert!(watch.streams > ends, "{} streams", watch.streams);
    println!(
        "{} restarts, {kills} kills of both, {operations} operations meanwhile; {} events shown, as in the history, \
         by {} streams",
        ends - kills,
        shown.len(),
        watch.streams
    );
    daemon.stop();
}

#[test]
fn the_end_of_a_former_daemon_in_the_history_ends_no_stream() {
    let folder = private_folder();
    let mut store = Store::at(&folder.path().join("notify"));
    let launch = Launch::with(&["--sources", "pidfd"]);
    let mut daemon = launch.spawn_by(|command| store.start(command));
    daemon.serves();
    let daemon = daemon.restarted_through(&launch, |command| {
        store.receive();
        store.start(command)
    });
    let watch = Watch::start(&daemon.socket(), &["--since", "0"]);
    daemon.register("later", std::process::id());
    let mut names = Vec::new();
    while !names.ends_with(&["session_registered".to_owned()]) {
        let event = watch.lines.recv_timeout(TIMEOUT).unwrap();
        names.push(event["event"].as_str().unwrap().to_owned());
    }
    let count = |name: &str| names.iter().filter(|it| *it == name).count();
    assert_eq!(
        (count("shutdown"), count("end"), count("listening")),
        (1, 0, 1)
    );
    // That of this daemon does.
    daemon.stop();
    let last = [(); 2].map(|()| watch.lines.recv_timeout(TIMEOUT).unwrap());
    assert_eq!(
        (&last[0]["event"], &last[1]["event"]),
        (&"shutdown".into(), &"end".into())
    );
}
