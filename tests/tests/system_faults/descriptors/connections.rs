//! More connections than descriptors: streams, idle connections and silent ones.

use std::os::unix::net::UnixStream;

use reaper_tests::crowd::Crowd;
use reaper_tests::daemon::TestDaemon;
use reaper_tests::wait::{eventually, within};
use reaperd::client::Version;
use reaperd::testkit::descriptors;

use super::{
    AT_ONCE, FAR_TOO_FEW, all_streams, ask, is_closed, limited, number_after, refused_below,
    requests_are_served, resident_kib,
};

/// Some are below the minimum of the sources with the most descriptors.
const LIMITS: [usize; 6] = [28, 32, 48, 64, 256, 1024];

/// How the daemon divides its descriptors, according to its log.
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

#[test]
fn at_every_limit_requests_are_served_while_all_streams_are_open() {
    descriptors::raise_open_file_limit();
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
        requests_are_served(&daemon, "beside streams");
        // More idle connections than the daemon can keep beside the streams.
        let mut idle: Vec<_> = (0..shares.connections - streams.len() + 5)
            .map(|_| ask(&daemon, "GET /v1/version", "").0)
            .collect();
        within(AT_ONCE, "the longest-idle connection is closed", || {
            is_closed(&mut idle[0])
        });
        assert!(!is_closed(idle.last_mut().unwrap()));
        requests_are_served(&daemon, "beside idle connections");
        println!(
            "{sources} at {limit}: {} streams, {} KiB",
            streams.len(),
            resident_kib(&daemon)
        );
        drop((streams, idle));
        eventually("a stream can be opened again", || {
            ask(&daemon, "GET /v1/events", "").1.contains(" 200 OK\r\n")
        });
        assert!(!daemon.log().contains("cannot accept"), "{}", daemon.log());
        daemon.stop();
    }
}

#[test]
fn silent_connections_give_way_to_one_with_a_request() {
    descriptors::raise_open_file_limit();
    let daemon = limited("sweep", 64).start();
    let silent: Vec<_> = (0..shares_of(&daemon).connections * 2)
        .map(|_| UnixStream::connect(daemon.socket()).unwrap())
        .collect();
    // Those that have just connected are given a moment for their first request.
    within(
        AT_ONCE,
        "a silent connection is closed for a request",
        || daemon.get::<Version>("/v1/version").is_ok(),
    );
    requests_are_served(&daemon, "beside silent connections");
    drop(silent);
    daemon.stop();
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
