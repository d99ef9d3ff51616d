//! Three users who take as much as they are given, and one who may not connect at all: a fourth user
//! is served almost as quickly as on a machine that is as busy with other work, and memory stays within
//! the bound that the daemon prints.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use reaper_tests::cgroup::Cgroup;
use reaper_tests::daemon::{Launch, TestDaemon};
use reaper_tests::expect::{measured, root_with, skip};
use reaper_tests::scale::scaled;
use reaper_tests::user::{UserProcess, as_user, spawn_as_user};
use reaper_tests::wait::{eventually, throughout, within};
use reaperd::testkit::clock::monotonic_ns;
use serde_json::Value;

use crate::client::{Connection, register};
use crate::measured::Delays;
use crate::{FAT, MANY, OTHER, REFUSED, RESTLESS};

/// The sessions of one user, so that a bounded run fills the limit.
const SESSIONS: usize = 1_000;
/// More connections than the daemon has for one user.
const CONNECTIONS: usize = 1_100;
const STREAMS: usize = 64;
/// How many threads the hostile users have.
const HOSTILE_THREADS: usize = 5;
/// The bound on the 99th percentile of requests, as a multiple of that on a machine which is as busy,
/// but not with the daemon: the processor time of the hostile users is not the daemon's to share out.
const TIMES_THE_BUSY_ONE: u32 = 3;
/// What is allowed in any case. Two processors that seven threads want make a single delay of some
/// milliseconds likely, in some runs also without the daemon.
const KEPT_WITHIN: Duration = Duration::from_millis(100);
/// A queue of connections that another user fills takes longer: 116 ms on a machine without other work.
const NEW_WITHIN: Duration = Duration::from_millis(100);
/// The pause of the measured user between two requests.
const PACE: Duration = Duration::from_millis(1);

/// The bound on the 99th percentile of the delays of deaths. In a bounded run that is the longest of
/// all, and the machine has other work.
fn death_seen_within() -> Duration {
    Duration::from_millis(scaled(5, 500))
}

fn duration() -> Duration {
    Duration::from_secs(scaled(30, 5))
}

/// Keeps as many processors busy as the hostile users, without the daemon, while `act` runs.
fn beside_busy_threads<T>(act: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..HOSTILE_THREADS {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let result = act();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

/// What the hostile users did, and the signal to stop.
#[derive(Default)]
struct Hostility {
    stop: AtomicBool,
    fat_sessions: AtomicUsize,
    unread: AtomicUsize,
    connections: AtomicUsize,
    streams: AtomicUsize,
    reopened: AtomicUsize,
    refused: AtomicUsize,
}

impl Hostility {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Fills the user's limit of sessions, then requests lists and snapshots and reads none of them.
fn fat(socket: &Path, hostility: &Hostility, pid: u32) {
    let mut kept = Connection::open(socket).unwrap();
    for number in 0..SESSIONS {
        if matches!(kept.register_fat(number, pid), Ok(200)) {
            hostility.fat_sessions.fetch_add(1, Ordering::Relaxed);
        }
    }
    let mut unread = Vec::new();
    while hostility.goes_on() {
        let target = ["/v1/sessions", "/v1/events?snapshot=1"][unread.len() % 2];
        let begun = Connection::open(socket).and_then(|mut connection| {
            connection.send(target)?;
            Ok((connection.status()?, connection))
        });
        match begun {
            Ok((200, connection)) => {
                unread.push(connection);
                hostility.unread.fetch_max(unread.len(), Ordering::Relaxed);
            }
            _ => thread::sleep(PACE),
        }
    }
}

/// Holds as many connections as possible with a cheap request each every 3 s, and event streams.
fn many(socket: &Path, hostility: &Hostility) {
    let mut held: Vec<(Connection, u64)> = Vec::new();
    let mut streams = Vec::new();
    while hostility.goes_on() {
        if held.len() < CONNECTIONS
            && let Ok(connection) = Connection::open(socket)
        {
            held.push((connection, 0));
        }
        if streams.len() < STREAMS
            && let Ok(mut stream) = Connection::open(socket)
            && stream.send("/v1/events").is_ok()
            && matches!(stream.status(), Ok(200))
        {
            streams.push(stream);
        }
        let now = monotonic_ns();
        held.retain_mut(|(connection, at)| {
            let is_due = now - *at > 3_000_000_000;
            if is_due {
                *at = now;
            }
            !is_due || connection.send("/v1/version").is_ok()
        });
        hostility
            .connections
            .fetch_max(held.len(), Ordering::Relaxed);
        hostility
            .streams
            .fetch_max(streams.len(), Ordering::Relaxed);
        if held.len() == CONNECTIONS {
            thread::sleep(PACE);
        }
    }
}

/// Opens and closes event streams without pause.
fn restless(socket: &Path, hostility: &Hostility) {
    while hostility.goes_on() {
        let opened = Connection::open(socket).and_then(|mut stream| {
            stream.send("/v1/events")?;
            stream.status()
        });
        if matches!(opened, Ok(200)) {
            hostility.reopened.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Connects without pause, although the daemon does not serve this user.
fn refused(socket: &Path, hostility: &Hostility) {
    while hostility.goes_on() {
        if UnixStream::connect(socket).is_err() {
            hostility.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn start_hostility(socket: &Path, pid: u32) -> (Arc<Hostility>, Vec<JoinHandle<()>>) {
    let hostility = Arc::new(Hostility::default());
    let start = |uid, act: fn(&Path, &Hostility)| {
        let (socket, hostility) = (socket.to_owned(), hostility.clone());
        spawn_as_user(uid, move || act(&socket, &hostility))
    };
    let mut threads = vec![
        start(MANY, many),
        start(RESTLESS, restless),
        start(RESTLESS, restless),
        start(REFUSED, refused),
    ];
    let (socket, shared) = (socket.to_owned(), hostility.clone());
    threads.push(spawn_as_user(FAT, move || fat(&socket, &shared, pid)));
    assert_eq!(threads.len(), HOSTILE_THREADS);
    (hostility, threads)
}

/// The delays of the measured user's requests, on a kept connection and on new ones.
#[derive(Default)]
struct Served {
    kept: Delays,
    new: Delays,
}

/// The measured user looks his session up at a steady pace, now and then on a new connection.
fn measure(socket: PathBuf, token: String, duration: Duration) -> JoinHandle<Served> {
    spawn_as_user(OTHER, move || {
        let mut served = Served::default();
        let mut kept = Connection::open(&socket).unwrap();
        let mut number = 0;
        throughout(duration, || {
            thread::sleep(PACE);
            let status = served.kept.of(|| kept.get_as(&token, "/v1/sessions/me"));
            assert_eq!(status.unwrap(), 200);
            number += 1;
            if number % 10 == 0 {
                let request = || Connection::open(&socket)?.get_as(&token, "/v1/sessions/me");
                assert_eq!(served.new.of(request).unwrap(), 200);
            }
        });
        served
    })
}

/// Kills processes of the measured user, one after another, and measures the delay of their events.
fn kill_some(daemon: &TestDaemon, round: &str, count: usize) -> Delays {
    let mut events = daemon.events();
    let mut delays = Delays::default();
    for number in 0..count {
        let mut process = UserProcess::start(OTHER);
        let id = format!("{round}-{number}");
        let token = format!("{:e>64}", format!("{number:x}d{}", round.len()));
        as_user(OTHER, || {
            register(&daemon.socket(), &token, &id, process.pid())
        });
        let killed = monotonic_ns();
        process.kill();
        delays.push(events.removal_of(&id).at_ns.saturating_sub(killed));
    }
    delays
}

/// A part of the memory that the daemon uses at most.
fn computed_bytes(daemon: &TestDaemon, part: &str) -> u64 {
    let limits: Value = daemon.get("/v1/limits").unwrap();
    limits["memory"][part].as_u64().unwrap()
}

/// The resident memory of a process in bytes.
fn rss(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.unwrap().trim().parse::<u64>().unwrap() * 1_024
}

fn launch() -> Launch {
    let users = [FAT, MANY, RESTLESS, OTHER]
        .map(|uid| uid.to_string())
        .join(",");
    let sessions = SESSIONS.to_string();
    Launch::with(&["--allow-uid", &users, "--max-sessions-per-uid", &sessions])
}

fn open_to_all(daemon: &TestDaemon) {
    let folder = daemon.socket().parent().unwrap().to_owned();
    fs::set_permissions(folder, Permissions::from_mode(0o711)).unwrap();
}

#[test]
fn hostile_users_neither_kill_the_daemon_nor_delay_another_user() {
    if !root_with(&["sh", "sleep"]) {
        return;
    }
    let first = launch().start();
    let bound = computed_bytes(&first, "total");
    // In the daemon, and in its memory file.
    let of_ended_sessions = 2 * computed_bytes(&first, "ended");
    first.stop();
    let group = match Cgroup::with_memory("users", bound * 6 / 5) {
        Ok(group) => group,
        Err(reason) => return skip(reason),
    };
    let daemon = launch().through(&group.entering()).start();
    open_to_all(&daemon);
    let worker = daemon.pid();

    let own = UserProcess::start(OTHER);
    let token = "f".repeat(64);
    as_user(OTHER, || {
        register(&daemon.socket(), &token, "own", own.pid())
    });
    let measured_for = |duration| measure(daemon.socket(), token.clone(), duration);
    let quiet_measured = measured_for(duration() / 2);
    let quiet_deaths = kill_some(&daemon, "quiet", 50);
    let quiet = quiet_measured.join().unwrap();
    let busy = beside_busy_threads(|| measured_for(duration() / 2).join().unwrap());
    let before = rss(worker);

    let fat_process = UserProcess::start(FAT);
    let (hostility, threads) = start_hostility(&daemon.socket(), fat_process.pid());
    eventually("the hostile users have begun", || {
        hostility.streams.load(Ordering::Relaxed) > 0
            && hostility.unread.load(Ordering::Relaxed) > 0
    });
    let under_attack = measured_for(duration());
    let deaths = kill_some(&daemon, "attacked", scaled(500, 100));
    let listed = daemon.list().len();
    let attacked = under_attack.join().unwrap();
    hostility.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    report_hostility(&hostility, listed);
    for (what, delays) in [
        ("me, kept connection, quiet", &quiet.kept),
        ("me, kept connection, busy machine", &busy.kept),
        ("me, kept connection, hostile users", &attacked.kept),
        ("me, new connection, quiet", &quiet.new),
        ("me, new connection, busy machine", &busy.new),
        ("me, new connection, hostile users", &attacked.new),
        ("death to event, quiet", &quiet_deaths),
        ("death to event, hostile users", &deaths),
    ] {
        report(what, delays);
    }

    assert_eq!(group.oom_kills(), Some(0));
    let peak = group.peak_memory().unwrap_or_default();
    measured(
        "peak memory, of the computed bound",
        format_args!("{peak} of {bound} bytes"),
    );
    assert!(listed >= 1, "root lists all sessions");
    assert!(hostility.refused.load(Ordering::Relaxed) > 0);
    let p99 = |delays: &Delays| delays.percentile(99);
    let limit = |busy: &Delays, least: Duration| least.max(p99(busy) * TIMES_THE_BUSY_ONE);
    assert!(
        p99(&attacked.kept) <= limit(&busy.kept, KEPT_WITHIN),
        "kept connection"
    );
    assert!(
        p99(&attacked.new) <= limit(&busy.new, NEW_WITHIN),
        "new connection"
    );
    assert!(p99(&deaths) <= death_seen_within(), "deaths");

    drop(fat_process);
    eventually(
        "the sessions of the hostile user end with his process",
        || daemon.list().len() == 1,
    );
    let most = before * 5 / 4 + of_ended_sessions;
    // Tokens of ended sessions are known for a minute.
    let limit = Duration::from_mins(2);
    within(limit, "memory goes back, except for the history", || {
        rss(worker) <= most
    });
    measured(
        "resident memory before and after",
        format_args!("{before} and {} bytes", rss(worker)),
    );
    daemon.stop();
}

fn report_hostility(hostility: &Hostility, listed: usize) {
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    measured(
        "hostile users",
        format_args!(
            "{} fat sessions, {} unread responses, {} connections, {} streams, {} streams reopened, {} \
             refused connections; root lists {listed} sessions",
            count(&hostility.fat_sessions),
            count(&hostility.unread),
            count(&hostility.connections),
            count(&hostility.streams),
            count(&hostility.reopened),
            count(&hostility.refused),
        ),
    );
}

fn report(what: &str, delays: &Delays) {
    let (p50, p99) = (delays.percentile(50), delays.percentile(99));
    measured(
        what,
        format_args!("p50 {p50:?}, p99 {p99:?} of {}", delays.len()),
    );
}
