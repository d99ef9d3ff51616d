//! Ten thousand deaths of all kinds: no leak and no false death.

use std::collections::BTreeMap;
use std::time::Duration;

use reaper_tests::daemon::{Events, TestDaemon};
use reaper_tests::expect::{measured, skip};
use reaper_tests::fork_server::{ForkServer, kill};
use reaper_tests::wait::{Deadline, eventually};
use reaperd::client::ClientError;
use serde_json::Value;

use crate::test_processes::{Racer, WAYS, Way, end_last_thread, wait_for_leader_exit};
use crate::tracker::Tracker;
use crate::{
    controls, daemon_without_pidfds, fork_server, fork_server_keeping_zombies, line_of, scaled,
    working,
};

/// Processes alive at a time, beside the controls.
const WAVE: usize = 500;
const SMALL_WAVE: usize = 100;
/// The daemon's resident memory in KiB, with ten thousand sessions in its history.
const RESIDENT_LIMIT: u64 = 64 << 10;

/// So long that the sweep cannot hide what a source misses.
const NO_SWEEP: [&str; 2] = ["--sweep-interval", "60s"];

#[test]
fn ten_thousand_deaths_are_all_reported_and_no_live_session_is_removed() {
    let daemon = TestDaemon::start(&NO_SWEEP);
    let sources = working(&daemon, &["netlink", "ebpf", "pidfd"]);
    println!("beside the sweep: {}", sources.join(", "));
    StressRun::of(daemon).run("deaths", scaled(10_000, 600));
}

#[test]
fn without_pidfds_all_deaths_are_reported() {
    // Enough for a descriptor of every process's entry in /proc.
    let daemon = daemon_without_pidfds(&NO_SWEEP, 4_096);
    if working(&daemon, &["netlink", "ebpf"]).is_empty() {
        skip("no event source works here without pidfds");
        return;
    }
    StressRun::of(daemon).run("deaths without pidfds", scaled(2_000, 200));
}

/// With a pidfd, or while the connector's filter is open, another source reports a death between
/// the steps of a registration. With the probe alone, only the last step of the registration finds
/// it.
#[test]
fn with_one_source_alone_no_death_during_registration_is_lost() {
    for source in ["ebpf", "netlink"] {
        let flags = ["--sources", source, NO_SWEEP[0], NO_SWEEP[1]];
        let daemon = daemon_without_pidfds(&flags, 4_096);
        if !daemon.has_source(source) {
            continue;
        }
        let mut run = StressRun::of(daemon);
        for _ in 0..scaled(50, 5) {
            for pid in
                Way::DuringRegistration.start(20, &mut run.auto_reaping, &mut run.keeping_zombies)
            {
                run.register_while_it_dies(pid);
            }
            run.tracker.wait_for_removals(&mut run.events);
            // Pids may be reused, so the next round needs new ids.
            run.waves += 1;
        }
        let name = format!("deaths during registration, {source} alone");
        measured(&name, run.tracker.removed);
        measured(&format!("{name}: refused as gone"), run.tracker.refused);
        run.close(&name);
    }
}

/// A daemon under test and its test processes.
struct StressRun {
    daemon: TestDaemon,
    tracker: Tracker,
    events: Events,
    /// Descriptors that the daemon had open at the start.
    descriptors: Option<usize>,
    auto_reaping: ForkServer,
    keeping_zombies: ForkServer,
    racer: Racer,
    waves: usize,
}

impl StressRun {
    fn of(daemon: TestDaemon) -> Self {
        let descriptors = least_descriptors(&daemon);
        Self {
            tracker: Tracker::default(),
            events: daemon.events(),
            descriptors,
            daemon,
            auto_reaping: fork_server(),
            keeping_zombies: fork_server_keeping_zombies(),
            racer: Racer::new(),
            waves: 0,
        }
    }

    fn run(mut self, name: &str, deaths: usize) {
        controls::register(
            &mut self.auto_reaping,
            &self.daemon,
            &mut self.tracker,
            &mut self.events,
        );
        let controls = self.tracker.live();
        let goal = self.tracker.ended() + deaths;
        let size = if deaths < 10 * SMALL_WAVE {
            SMALL_WAVE
        } else {
            WAVE
        };
        while self.tracker.ended() + self.tracker.refused < goal {
            self.wave(size);
            assert_eq!(self.tracker.live(), controls, "only the controls are alive");
        }
        let died = self.tracker.ended() + self.tracker.refused;
        measured(name, died);
        let Tracker {
            refused,
            removed,
            with_status,
            sources,
            ..
        } = &self.tracker;
        let leaked = self.tracker.ended() - removed;
        let false_deaths = controls.len() - self.daemon.list().len();
        for (what, figure) in [
            ("before registration", refused.to_string()),
            ("leaked sessions", leaked.to_string()),
            ("false deaths", false_deaths.to_string()),
            ("with exit status", percentage(*with_status, *removed)),
            ("attributed to", by_source(sources)),
        ] {
            measured(&format!("{name}: {what}"), figure);
        }
        self.close(name);
    }

    fn wave(&mut self, size: usize) {
        self.waves += 1;
        let mut groups: Vec<(Way, Vec<u32>)> = Vec::new();
        for way in WAYS {
            let pids = way.start(
                size / WAYS.len(),
                &mut self.auto_reaping,
                &mut self.keeping_zombies,
            );
            if way != Way::DuringRegistration {
                for pid in &pids {
                    let id = self.id(*pid);
                    self.tracker.register(&self.daemon, &id, *pid);
                }
            }
            groups.push((way, pids));
        }
        self.first_step(&groups);
        // The remaining processes are alive; some have lost their leader thread or their parent.
        self.tracker.wait_for_removals(&mut self.events);
        self.tracker.check_against(&self.daemon);
        self.last_step(&groups);
        self.tracker.wait_for_removals(&mut self.events);
        self.tracker.check_against(&self.daemon);
        let unreaped = groups.iter().filter(|(way, _)| *way == Way::Unreaped);
        for pid in unreaped.flat_map(|(_, pids)| pids) {
            assert_eq!(
                self.keeping_zombies.reap(*pid).unwrap(),
                9,
                "it was still a zombie"
            );
        }
    }

    /// Triggers one process of each way in turn, so that the ways are mixed in time too.
    fn first_step(&mut self, groups: &[(Way, Vec<u32>)]) {
        let turns = groups.iter().map(|(_, pids)| pids.len()).max().unwrap_or(0);
        for turn in 0..turns {
            for (way, pids) in groups {
                let Some(pid) = pids.get(turn).copied() else {
                    continue;
                };
                // Each parent is followed by its child.
                let is_child = *way == Way::ParentFirst && turn % 2 == 1;
                if *way == Way::DuringRegistration {
                    self.register_while_it_dies(pid);
                } else if !is_child {
                    if !way.survives_trigger() {
                        let id = self.id(pid);
                        self.tracker.expect_end(&id, way.status());
                    }
                    way.trigger(pid);
                }
            }
        }
        let leaderless = groups.iter().filter(|(way, _)| way.survives_trigger());
        leaderless
            .flat_map(|(_, pids)| pids)
            .for_each(|pid| wait_for_leader_exit(*pid));
    }

    /// Ends the processes that survived the first step.
    fn last_step(&mut self, groups: &[(Way, Vec<u32>)]) {
        for (way, pids) in groups {
            for (turn, pid) in pids.iter().enumerate() {
                let id = self.id(*pid);
                if *way == Way::LeaderFirst {
                    self.tracker.expect_end(&id, way.status());
                    end_last_thread(*pid);
                } else if *way == Way::ParentFirst && turn % 2 == 1 {
                    self.tracker.expect_end(&id, Some(-9));
                    kill(*pid).unwrap();
                }
            }
        }
    }

    fn register_while_it_dies(&mut self, pid: u32) {
        let id = self.id(pid);
        let registered = self.racer.race(pid, || self.daemon.try_register(&id, pid));
        match registered {
            Ok(token) => {
                self.tracker.add(&id, pid, token);
                self.tracker
                    .expect_end(&id, Way::DuringRegistration.status());
            }
            Err(ClientError::Problem {
                status: 422, code, ..
            }) if code == "process_gone" => {
                self.tracker.refused += 1;
            }
            Err(error) => panic!("{id}: {error}"),
        }
    }

    /// Ends the controls and checks that the daemon has kept nothing.
    fn close(mut self, name: &str) {
        for id in self.tracker.live() {
            let pid = self.tracker.expect_end(&id, None);
            kill(pid).unwrap();
        }
        self.tracker.wait_for_removals(&mut self.events);
        assert_eq!(self.tracker.registered(), self.tracker.removed);
        self.tracker.check_against(&self.daemon);
        let report: Value = self.daemon.get("/v1/sources").unwrap();
        assert_eq!(
            (&report["processes"], &report["sessions"]),
            (&0.into(), &0.into()),
            "{report}"
        );

        drop(self.events);
        if let Some(before) = self.descriptors {
            eventually("no more descriptors are open than at the start", || {
                open_descriptors(&self.daemon).is_some_and(|now| now <= before)
            });
            measured(&format!("{name}: leaked descriptors"), 0);
        } else {
            println!("only root can count the daemon's descriptors");
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

    /// Unlike pids, session ids are never reused.
    fn id(&self, pid: u32) -> String {
        format!("{}-{pid}", self.waves)
    }
}

/// The lowest count over a short time: the connection of the last request may still be closing.
fn least_descriptors(daemon: &TestDaemon) -> Option<usize> {
    let quiet = Deadline::after(Duration::from_millis(100));
    let mut least = open_descriptors(daemon)?;
    while !quiet.has_passed() {
        least = least.min(open_descriptors(daemon)?);
    }
    Some(least)
}

/// `None` without root: the daemon is not dumpable, so its own user cannot list its descriptors.
fn open_descriptors(daemon: &TestDaemon) -> Option<usize> {
    let folder = format!("/proc/{}/fd", daemon.pid());
    Some(std::fs::read_dir(folder).ok()?.count())
}

fn percentage(part: usize, whole: usize) -> String {
    format!("{} %", (part * 1_000 / whole.max(1)).div_ceil(10))
}

fn by_source(sources: &BTreeMap<String, usize>) -> String {
    let counts = sources
        .iter()
        .map(|(source, count)| format!("{source} {count}"));
    counts.collect::<Vec<_>>().join(", ")
}
