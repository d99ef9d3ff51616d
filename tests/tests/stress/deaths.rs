//! Ten thousand deaths, mixed: no leak and no false death.

use std::collections::BTreeMap;
use std::time::Duration;

use reaper_tests::daemon::{Events, TestDaemon};
use reaper_tests::expect::{measured, skip};
use reaper_tests::fork_server::{ForkServer, kill};
use reaper_tests::wait::{Deadline, eventually};
use reaperd::client::ClientError;
use serde_json::Value;

use crate::test_processes::{Racer, WAYS, Way, last_thread_ends, leader_has_left};
use crate::tracker::Tracker;
use crate::{
    controls, daemon_without_pidfds, fork_server, fork_server_keeping_zombies, line_of, scaled,
    working,
};

/// Alive at a time, beside the controls.
const WAVE: usize = 500;
const SMALL_WAVE: usize = 100;
/// The daemon's resident memory in KiB, with ten thousand sessions in its history.
const RESIDENT_LIMIT: u64 = 64 << 10;

/// So long that it makes up for nothing.
const NO_SWEEP: [&str; 2] = ["--sweep-interval", "60s"];

#[test]
fn of_ten_thousand_deaths_none_is_missed_and_nobody_else_is_removed() {
    let daemon = TestDaemon::start(&NO_SWEEP);
    let sources = working(&daemon, &["netlink", "ebpf", "pidfd"]);
    println!("beside the sweep: {}", sources.join(", "));
    Toll::of(daemon).take("deaths", scaled(10_000, 600));
}

#[test]
fn without_pidfds_none_is_missed_either() {
    // Enough for a descriptor of every process's entry in /proc.
    let daemon = daemon_without_pidfds(&NO_SWEEP, 4_096);
    if working(&daemon, &["netlink", "ebpf"]).is_empty() {
        skip("without pidfds there is no source of events here");
        return;
    }
    Toll::of(daemon).take("deaths without pidfds", scaled(2_000, 200));
}

/// With a pidfd, or with the connector's filter open, somebody else tells of an end that falls
/// between the steps of a registration. With the probe alone nobody does but its last step.
#[test]
fn with_one_source_alone_no_end_during_registration_is_forgotten() {
    for source in ["ebpf", "netlink"] {
        let flags = ["--sources", source, NO_SWEEP[0], NO_SWEEP[1]];
        let daemon = daemon_without_pidfds(&flags, 4_096);
        if working(&daemon, &[source]).is_empty() {
            skip(format_args!("{source} does not work here"));
            continue;
        }
        let mut toll = Toll::of(daemon);
        for _ in 0..scaled(50, 5) {
            for pid in Way::DuringRegistration.start(20, &mut toll.collected, &mut toll.kept) {
                toll.register_while_it_dies(pid);
            }
            toll.tracker.settle(&mut toll.events);
            // The numbers may come again.
            toll.waves += 1;
        }
        let name = format!("ends during registration, {source} alone");
        measured(&name, toll.tracker.removed);
        measured(&format!("{name}: refused as gone"), toll.tracker.refused);
        toll.close(&name);
    }
}

/// A daemon, its books, and what it had open in the beginning.
struct Toll {
    daemon: TestDaemon,
    tracker: Tracker,
    events: Events,
    descriptors: Option<usize>,
    collected: ForkServer,
    kept: ForkServer,
    racer: Racer,
    waves: usize,
}

impl Toll {
    fn of(daemon: TestDaemon) -> Self {
        let descriptors = least_descriptors(&daemon);
        Self {
            tracker: Tracker::default(),
            events: daemon.events(),
            descriptors,
            daemon,
            collected: fork_server(),
            kept: fork_server_keeping_zombies(),
            racer: Racer::new(),
            waves: 0,
        }
    }

    fn take(mut self, name: &str, deaths: usize) {
        controls::register(
            &mut self.collected,
            &self.daemon,
            &mut self.tracker,
            &mut self.events,
        );
        let living = self.tracker.living();
        let goal = self.tracker.doomed() + deaths;
        let size = if deaths < 10 * SMALL_WAVE {
            SMALL_WAVE
        } else {
            WAVE
        };
        while self.tracker.doomed() + self.tracker.refused < goal {
            self.wave(size);
            assert_eq!(self.tracker.living(), living, "the controls");
        }
        let died = self.tracker.doomed() + self.tracker.refused;
        measured(name, died);
        measured(
            &format!("{name}: before the registration"),
            self.tracker.refused,
        );
        measured(
            &format!("{name}: leaked sessions"),
            self.tracker.doomed() - self.tracker.removed,
        );
        measured(
            &format!("{name}: false deaths"),
            living.len() - self.daemon.list().len(),
        );
        measured(
            &format!("{name}: exit status told"),
            share_of(self.tracker.told, self.tracker.removed),
        );
        measured(
            &format!("{name}: credited to"),
            credits(&self.tracker.sources),
        );
        self.close(name);
    }

    fn wave(&mut self, size: usize) {
        self.waves += 1;
        let mut cast: Vec<(Way, Vec<u32>)> = Vec::new();
        for way in WAYS {
            let pids = way.start(size / WAYS.len(), &mut self.collected, &mut self.kept);
            if way != Way::DuringRegistration {
                for pid in &pids {
                    let id = self.id(*pid);
                    self.tracker.register(&self.daemon, &id, *pid);
                }
            }
            cast.push((way, pids));
        }
        self.first_blows(&cast);
        // At this point some have lost their first thread, some their parent, and all of them live.
        self.tracker.settle(&mut self.events);
        self.tracker.agree(&self.daemon);
        self.last_blows(&cast);
        self.tracker.settle(&mut self.events);
        self.tracker.agree(&self.daemon);
        let unreaped = cast.iter().filter(|(way, _)| *way == Way::Unreaped);
        for pid in unreaped.flat_map(|(_, pids)| pids) {
            assert_eq!(
                self.kept.reap(*pid).unwrap(),
                9,
                "it was there to be reaped"
            );
        }
    }

    /// One of each way after another, so that the ways are mixed in time too.
    fn first_blows(&mut self, cast: &[(Way, Vec<u32>)]) {
        let most = cast.iter().map(|(_, pids)| pids.len()).max().unwrap_or(0);
        for turn in 0..most {
            for (way, pids) in cast {
                let Some(pid) = pids.get(turn).copied() else {
                    continue;
                };
                // Behind each parent its child.
                let is_child = *way == Way::ParentFirst && turn % 2 == 1;
                if *way == Way::DuringRegistration {
                    self.register_while_it_dies(pid);
                } else if !is_child {
                    if !way.survives_the_first() {
                        let id = self.id(pid);
                        self.tracker.doom(&id, way.ends());
                    }
                    way.first_blow(pid);
                }
            }
        }
        let leaderless = cast.iter().filter(|(way, _)| way.survives_the_first());
        leaderless
            .flat_map(|(_, pids)| pids)
            .for_each(|pid| leader_has_left(*pid));
    }

    fn last_blows(&mut self, cast: &[(Way, Vec<u32>)]) {
        for (way, pids) in cast {
            for (turn, pid) in pids.iter().enumerate() {
                let id = self.id(*pid);
                if *way == Way::LeaderFirst {
                    self.tracker.doom(&id, way.ends());
                    last_thread_ends(*pid);
                } else if *way == Way::ParentFirst && turn % 2 == 1 {
                    self.tracker.doom(&id, Some(-9));
                    kill(*pid).unwrap();
                }
            }
        }
    }

    fn register_while_it_dies(&mut self, pid: u32) {
        let id = self.id(pid);
        let answer = self.racer.race(pid, || self.daemon.try_register(&id, pid));
        match answer {
            Ok(token) => {
                self.tracker.open(&id, pid, token);
                self.tracker.doom(&id, Way::DuringRegistration.ends());
            }
            Err(ClientError::Problem {
                status: 422, code, ..
            }) if code == "process_gone" => {
                self.tracker.refused += 1;
            }
            Err(error) => panic!("{id}: {error}"),
        }
    }

    /// The controls go too, and then nothing may be left of anybody.
    fn close(mut self, name: &str) {
        for id in self.tracker.living() {
            let pid = self.tracker.doom(&id, None);
            kill(pid).unwrap();
        }
        self.tracker.settle(&mut self.events);
        assert_eq!(self.tracker.registered(), self.tracker.removed);
        self.tracker.agree(&self.daemon);
        let report: Value = self.daemon.get("/v1/sources").unwrap();
        assert_eq!(
            (&report["processes"], &report["sessions"]),
            (&0.into(), &0.into()),
            "{report}"
        );

        drop(self.events);
        if let Some(before) = self.descriptors {
            eventually("as many descriptors are open as in the beginning", || {
                open_descriptors(&self.daemon).is_some_and(|now| now <= before)
            });
            measured(&format!("{name}: leaked descriptors"), 0);
        } else {
            println!("only root may count the daemon's descriptors");
        }
        let resident = line_of(self.daemon.pid(), "status", "VmRSS:").unwrap();
        let resident: u64 = resident.trim_end_matches(" kB").parse().unwrap();
        measured(
            &format!("{name}: resident memory at the end"),
            format!("{} MiB", resident >> 10),
        );
        assert!(resident < RESIDENT_LIMIT, "{resident} KiB");
        self.daemon.stop();
    }

    /// Numbers come again, names do not.
    fn id(&self, pid: u32) -> String {
        format!("{}-{pid}", self.waves)
    }
}

/// While nothing happens: the last question's connection may still be closing at first.
fn least_descriptors(daemon: &TestDaemon) -> Option<usize> {
    let quiet = Deadline::after(Duration::from_millis(100));
    let mut least = open_descriptors(daemon)?;
    while !quiet.has_passed() {
        least = least.min(open_descriptors(daemon)?);
    }
    Some(least)
}

/// `None` where it may not be counted: the daemon cannot be looked into by its own user.
fn open_descriptors(daemon: &TestDaemon) -> Option<usize> {
    let folder = format!("/proc/{}/fd", daemon.pid());
    Some(std::fs::read_dir(folder).ok()?.count())
}

fn share_of(part: usize, whole: usize) -> String {
    format!("{} %", (part * 1_000 / whole.max(1)).div_ceil(10))
}

fn credits(sources: &BTreeMap<String, usize>) -> String {
    let credits = sources
        .iter()
        .map(|(source, number)| format!("{source} {number}"));
    credits.collect::<Vec<_>>().join(", ")
}
