//! Many more sessions, streams and connections than descriptors.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::{Launch, TestDaemon};
use reaper_tests::expect;
use reaper_tests::wait::{Deadline, eventually, within};
use reaperd::testkit::fd_budget;
use reaperd::{Source, Sources};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};

use crate::{Extent, extent};

/// Of those that die, and as many live: a thousand in all.
const HALF: usize = 500;
/// Each set of sources, as the flag names it.
const SETS: [&str; 5] = ["sweep", "pidfd", "netlink", "ebpf", "auto"];
/// Enough for the daemon to say that it is not enough.
const FAR_TOO_FEW: usize = 20;
/// The sources with the most descriptors and those with the least.
const LIMITS: [usize; 6] = [28, 32, 48, 64, 256, 1024];
/// An answer that waits for nothing comes sooner, even on a busy machine; idle connections and silent
/// ones are closed later.
const AT_ONCE: Duration = Duration::from_secs(3);

fn limited(sources: &str, limit: usize) -> Launch {
    let script = format!("ulimit -n {limit}; exec \"$@\"");
    let flags = ["--sources", sources, "--sweep-interval", "250ms"];
    Launch::with(&flags).through(&["sh", "-c", &script, "sh"])
}

fn set_of(sources: &str) -> Sources {
    match sources {
        "netlink" => Sources::only([Source::Netlink]),
        "ebpf" => Sources::only([Source::Ebpf]),
        "pidfd" => Sources::only([Source::Pidfd]),
        "sweep" => Sources::only([]),
        _ => Sources::default(),
    }
}

fn number_after(text: &str, words: &str) -> usize {
    let (_, rest) = text
        .split_once(words)
        .unwrap_or_else(|| panic!("{words:?} is not in {text}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// Has a daemon refuse to start and returns how many descriptors it says that it needs. More than the
/// documented minimum only for those that this test was started with.
fn refused_below(sources: &str, limit: usize) -> usize {
    let mut daemon = limited(sources, limit).spawn();
    let status = daemon.wait();
    let log = daemon.log();
    assert!(!status.success(), "{sources} at {limit}: {log}");
    let stated = number_after(&log, "and at least ");
    assert_eq!(number_after(&log, "limit of open descriptors is "), limit);
    assert_eq!(number_after(&log, "(ulimit -n "), stated);
    assert_eq!(number_after(&log, "LimitNOFILE="), stated);
    assert!(stated > limit, "{log}");
    let least = fd_budget::minimum(&set_of(sources));
    assert!((least..least + 10).contains(&stated), "{least}: {log}");
    stated
}

/// What the daemon said about its shares.
#[derive(Debug)]
struct Shares {
    connections: usize,
    streams: usize,
}

fn shares_of(daemon: &TestDaemon) -> Shares {
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("descriptors: limit"));
    let line = line.unwrap_or_else(|| panic!("no shares in {log}"));
    println!("{}", line.split("descriptors: ").last().unwrap());
    Shares {
        connections: number_after(line, ", connections "),
        streams: number_after(line, "event streams "),
    }
}

/// A connection on which something has been asked: its head and as much of its body as came with it.
fn ask(daemon: &TestDaemon, request: &str, body: &str) -> (UnixStream, String) {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let answer = ask_on(&mut stream, request, body);
    (stream, answer)
}

fn ask_on(stream: &mut UnixStream, request: &str, body: &str) -> String {
    let length = body.len();
    stream.set_read_timeout(Some(AT_ONCE)).unwrap();
    let whole =
        format!("{request} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(whole.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut part = [0; 4_096];
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        let count = stream.read(&mut part).unwrap();
        assert!(count > 0, "closed within {request}");
        answer.extend_from_slice(&part[..count]);
    }
    String::from_utf8(answer).unwrap()
}

/// Opens event streams until one is refused.
fn all_streams(daemon: &TestDaemon) -> Vec<UnixStream> {
    let mut streams = Vec::new();
    loop {
        let (stream, answer) = ask(daemon, "GET /v1/events", "");
        if !answer.contains(" 200 OK\r\n") {
            assert!(answer.contains(" 429 "), "{answer}");
            assert!(answer.contains("too_many_streams"), "{answer}");
            assert!(answer.to_lowercase().contains("retry-after: "), "{answer}");
            return streams;
        }
        streams.push(stream);
    }
}

/// Asks for what every client needs, each with a connection of its own.
fn requests_are_served(daemon: &TestDaemon, id: &str) {
    let clock = Deadline::after(AT_ONCE);
    let token = daemon.register(id, std::process::id());
    assert!(daemon.resolves(&token).unwrap(), "{id}");
    assert!(daemon.lists(id));
    assert!(!clock.has_passed(), "{:?}", clock.elapsed());
}

/// What is left of an answer is read away.
fn is_closed(stream: &mut UnixStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut rest = Vec::new();
    let read = stream.read_to_end(&mut rest);
    stream.set_nonblocking(false).unwrap();
    !matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

fn resident_kib(daemon: &TestDaemon) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let value = status.split("VmRSS:").nth(1).unwrap();
    value.split_whitespace().next().unwrap().parse().unwrap()
}

/// The descriptors that are open below the limit; `None` where this user may not see them.
fn open_below(daemon: &TestDaemon, limit: usize) -> Option<Vec<String>> {
    let folder = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).ok()?;
    let open = folder.flatten().filter_map(|entry| {
        let number: usize = entry.file_name().to_str()?.parse().ok()?;
        let target = fs::read_link(entry.path()).ok()?;
        (number < limit).then(|| format!("{number} {}", target.display()))
    });
    Some(open.collect())
}

#[test]
fn the_daemon_has_no_more_open_than_is_listed() {
    for sources in SETS {
        let set = set_of(sources);
        let stated = refused_below(sources, FAR_TOO_FEW);
        let inherited = stated - fd_budget::minimum(&set);
        let listed: usize = fd_budget::needs(&set).iter().map(|need| need.held).sum();
        let daemon = limited(sources, stated).start();
        let reports = daemon.sources().sources;
        for report in reports.iter().filter(|report| report.state != "off") {
            daemon.settled(&report.source).unwrap_or_else(|reason| {
                println!("{sources} without {}: {reason}", report.source);
            });
        }
        if open_below(&daemon, stated).is_none() {
            return expect::skip_without("root", "/proc/PID/fd of the daemon is not readable");
        }
        // More than once, because a sweep has a file open at times, and our questions a connection.
        let deadline = Deadline::after(AT_ONCE);
        let mut open = open_below(&daemon, stated).unwrap();
        while open.len() > listed + inherited {
            assert!(
                !deadline.has_passed(),
                "{sources}: open {open:#?}, listed {:#?}, inherited {inherited}",
                fd_budget::needs(&set)
            );
            open = open_below(&daemon, stated).unwrap();
        }
        println!("{sources}: {} open, {listed} listed", open.len());
        daemon.stop();
    }
}

#[test]
fn at_the_least_limit_all_sources_work_that_work_without_one() {
    for sources in SETS {
        let stated = refused_below(sources, FAR_TOO_FEW);
        assert_eq!(refused_below(sources, stated - 1), stated);
        let plenty = limited(sources, 1_024).start();
        let least = limited(sources, stated).start();
        let wanted = plenty.sources().sources;
        for source in wanted.iter().filter(|source| source.state != "off") {
            let name = &source.source;
            assert_eq!(
                least.settled(name).map_err(|_reason| ()),
                plenty.settled(name).map_err(|_reason| ()),
                "{name} at {stated}\n{}",
                least.log()
            );
        }
        println!("{sources}: starts with {stated}");
        plenty.stop();
        least.stop();
    }
}

#[test]
fn whatever_streams_are_open_requests_are_served_at_every_limit() {
    fd_budget::raise_open_file_limit();
    for (sources, limit) in ["sweep", "auto"]
        .into_iter()
        .flat_map(|sources| LIMITS.map(|limit| (sources, limit)))
    {
        if limit < refused_below(sources, FAR_TOO_FEW) {
            refused_below(sources, limit);
            println!("{sources} at {limit}: refused");
            continue;
        }
        let daemon = limited(sources, limit).start();
        let shares = shares_of(&daemon);
        let streams = all_streams(&daemon);
        assert_eq!(streams.len(), shares.streams, "{sources} at {limit}");
        requests_are_served(&daemon, "among streams");
        // Idle ones in all the other places, and more of them.
        let mut idle: Vec<_> = (0..shares.connections - streams.len() + 5)
            .map(|_| ask(&daemon, "GET /v1/version", "").0)
            .collect();
        within(AT_ONCE, "the longest-idle one is closed", || {
            is_closed(&mut idle[0])
        });
        assert!(!is_closed(idle.last_mut().unwrap()));
        requests_are_served(&daemon, "among idle ones");
        println!(
            "{sources} at {limit}: {} streams, {} KiB",
            streams.len(),
            resident_kib(&daemon)
        );
        drop((streams, idle));
        eventually("there is room for a stream again", || {
            ask(&daemon, "GET /v1/events", "").1.contains(" 200 OK\r\n")
        });
        assert!(!daemon.log().contains("cannot accept"), "{}", daemon.log());
        daemon.stop();
    }
}

#[test]
fn connections_that_say_nothing_make_room_for_one_that_asks() {
    fd_budget::raise_open_file_limit();
    let daemon = limited("sweep", 64).start();
    let silent: Vec<_> = (0..shares_of(&daemon).connections * 2)
        .map(|_| UnixStream::connect(daemon.socket()).unwrap())
        .collect();
    requests_are_served(&daemon, "among silent ones");
    drop(silent);
    daemon.stop();
}

/// At each limit more processes are registered than there are descriptors, several at once, while all
/// streams are open.
#[test]
fn no_registration_is_refused_at_any_limit_at_which_the_daemon_starts() {
    for sources in ["sweep", "auto"] {
        let least = refused_below(sources, FAR_TOO_FEW);
        for limit in [least, 48, 64, 256] {
            if limit < least {
                continue;
            }
            let daemon = limited(sources, limit).start();
            let streams = all_streams(&daemon);
            let count = match extent() {
                Extent::Bounded => limit.min(64) * 2,
                Extent::Whole => limit * 2,
            };
            let crowd = Crowd::start(count).unwrap();
            let pids: Vec<_> = crowd.pids().collect();
            let socket = daemon.socket();
            std::thread::scope(|scope| {
                for part in pids.chunks(count.div_ceil(4)) {
                    let socket = &socket;
                    scope.spawn(move || {
                        for pid in part {
                            let mut stream = UnixStream::connect(socket).unwrap();
                            let body = registration(*pid);
                            let answer = ask_on(&mut stream, "POST /v1/sessions/register", &body);
                            assert!(answer.contains(" 200 OK\r\n"), "{pid}: {answer}");
                        }
                    });
                }
            });
            let strengths: BTreeSet<_> = daemon.list().into_iter().map(|it| it.identity).collect();
            println!("{sources} at {limit}: {count} registered, pinned by {strengths:?}");
            drop(streams);
            daemon.stop();
        }
    }
}

fn registration(pid: u32) -> String {
    json!({
        "token": format!("{pid:064x}"), "session_id": format!("pid-{pid}"), "mesh": "test",
        "display_name": "one of many", "pid": pid,
    })
    .to_string()
}

#[test]
fn a_hundred_subscribers_are_served_with_an_ordinary_limit() {
    let daemon = limited("auto", 1_024).start();
    let mut subscribers: Vec<_> = (0..100).map(|_| daemon.events()).collect();
    let mut crowd = Crowd::start(1).unwrap();
    daemon.register_all(crowd.pids());
    let session = crowd.sessions().pop_first().unwrap();
    crowd.kill().unwrap();
    for subscriber in &mut subscribers {
        subscriber.removal_of(&session);
    }
    println!("100 subscribers, {} KiB", resident_kib(&daemon));
    drop(subscribers);
    daemon.stop();
}

/// As if others had taken what the daemon had been promised.
fn leave_no_descriptor(daemon: &TestDaemon) -> bool {
    let numbers = || -> Option<BTreeSet<usize>> {
        let open = open_below(daemon, usize::MAX)?;
        let number = |line: &String| line.split(' ').next().unwrap().parse().unwrap();
        Some(open.iter().map(number).collect())
    };
    // Not what is open for one look only. The limit is one of numbers: getrlimit(2).
    let listings = (0..5).map(|_| numbers());
    let taken = listings
        .reduce(|one, other| Some(&one? & &other?))
        .flatten();
    let Some(taken) = taken else {
        expect::skip_without("root", "/proc/PID/fd of the daemon is not readable");
        return false;
    };
    let free = (0..1_024).find(|number| !taken.contains(number)).unwrap();
    limit_now(daemon, free);
    true
}

fn limit_now(daemon: &TestDaemon, limit: usize) {
    let pid = Pid::from_raw(daemon.pid().cast_signed());
    let limits = Rlimit {
        current: Some(limit as u64),
        maximum: Some(1_024),
    };
    prlimit(pid, Resource::Nofile, limits).unwrap();
}

#[test]
fn without_a_descriptor_to_accept_with_the_longest_idle_connection_is_closed() {
    let daemon = limited("pidfd", 1_024).start();
    let mut idle: Vec<_> = (0..4)
        .map(|_| ask(&daemon, "GET /v1/version", "").0)
        .collect();
    if !leave_no_descriptor(&daemon) {
        return;
    }
    let clock = Deadline::after(AT_ONCE);
    daemon.get_within::<Value>(AT_ONCE, "/v1/version").unwrap();
    println!("served after {:?}", clock.elapsed());
    let closed: Vec<_> = idle.iter_mut().map(is_closed).collect();
    assert_eq!(closed, [true, false, false, false]);
    limit_now(&daemon, 1_024);
    let log = daemon.log();
    assert_eq!(log.matches("cannot accept connections").count(), 1, "{log}");
    let failures = number_after(&log, "accepted again, after ");
    assert!((1..10).contains(&failures), "{log}");
    assert!(log.contains("1 idle ones were closed"), "{log}");
    daemon.stop();
}

#[test]
fn a_registration_that_meets_a_shortage_looks_again_before_it_is_refused() {
    let daemon = limited("pidfd", 1_024).start();
    let crowd = Crowd::start(2).unwrap();
    let pids: Vec<_> = crowd.pids().collect();
    let (mut connection, _) = ask(&daemon, "GET /v1/version", "");
    if !leave_no_descriptor(&daemon) {
        return;
    }
    let register = "POST /v1/sessions/register";
    let clock = Deadline::after(AT_ONCE);
    let answer = ask_on(&mut connection, register, &registration(pids[0]));
    let took = clock.elapsed();
    assert!(
        answer.contains(" 503 ") && answer.contains("not_now"),
        "{answer}"
    );
    assert!(answer.to_lowercase().contains("retry-after: "), "{answer}");
    assert!(took > Duration::from_millis(400), "refused after {took:?}");
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask_on(&mut connection, register, &registration(pids[1])));
        // Well within the time for which it tries, and well after its first look.
        std::thread::sleep(Duration::from_millis(150));
        limit_now(&daemon, 1_024);
        asked.join().unwrap()
    });
    assert!(answer.contains(" 200 OK\r\n"), "{answer}");
    daemon.stop();
}

#[test]
fn with_64_descriptors_nobody_is_refused_and_nobody_is_kept_dead() {
    for sources in ["auto", "pidfd", "netlink", "sweep"] {
        // Processes cost a millisecond each; in the short run one set of sources gets them all.
        let half = match extent() {
            Extent::Bounded if sources != "auto" => HALF / 5,
            Extent::Bounded | Extent::Whole => HALF,
        };
        let daemon = limited(sources, 64).start();
        let mut events = daemon.events();
        let mut dying = Crowd::start(half).unwrap();
        let living = Crowd::start(half).unwrap();
        // Mixed, so that some of either are beyond the budget.
        for (dies, lives) in dying.pids().zip(living.pids()) {
            daemon.register_all([dies, lives]);
        }
        let strengths: BTreeSet<_> = daemon.list().into_iter().map(|it| it.identity).collect();
        assert!(
            strengths.len() > 1,
            "the budget was not reached: {strengths:?}"
        );
        let dead = dying.sessions();
        dying.kill().unwrap();
        events.removals(dead.len());
        eventually("the living are listed and nobody else", || {
            let left: BTreeSet<_> = daemon.list().into_iter().map(|it| it.session_id).collect();
            left == living.sessions()
        });
        daemon.stop();
        events.told_once_each(&dead);
    }
}
