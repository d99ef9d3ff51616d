//! Sources that really fall silent without an error: the kernel no longer sends them events. Their
//! canaries must notice, and the sweep finds the deaths until then.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::time::Duration;

use reaper_tests::connector::{Connector, Operation};
use reaper_tests::daemon::reaperd;
use reaper_tests::expect::{self, root_with, skip};
use reaper_tests::sys;
use reaper_tests::wait::{eventually, within};
use reaperd::registry::SourceHealth;
use reaperd::testkit::conformance::kernel_before;
use reaperd::testkit::test_process::{Kind, TestProcess};
use reaperd::{ExitWatcher, ProcessExit, Source, SourceStatus, Sources};
use rustix::net::{AddressFamily, netlink, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tokio::runtime::Runtime;

use crate::harness::{lock_descriptors, runtime};

/// Two periods of either canary, its last deadline, and some time for a busy machine.
const NOTICED_WITHIN: Duration = Duration::from_secs(4 + 1 + 5);
const SWEEP: Duration = Duration::from_millis(200);

struct Fixture {
    watcher: ExitWatcher,
    source: Source,
    runtime: Runtime,
}

impl Fixture {
    /// `None`, with the reason printed, if the source does not work here and is not required.
    fn with(source: Source) -> Option<Self> {
        let runtime = runtime();
        let builder = ExitWatcher::builder()
            .sources(Sources::only([source]))
            .sweep_interval(SWEEP);
        let watcher = runtime.block_on(async {
            let watcher = builder.start().await;
            watcher.settled().await;
            watcher
        });
        let fixture = Self {
            watcher,
            source,
            runtime,
        };
        expect::source_works(&fixture.status()).then_some(fixture)
    }

    /// Starts a source that works and silences it through the descriptors that it has opened.
    /// `None`, with the reason printed, if it does not work here or cannot be silenced.
    fn silenced(
        source: Source,
        silence: impl FnOnce(Vec<(RawFd, String)>) -> Option<()>,
    ) -> Option<Self> {
        let _lock = lock_descriptors();
        let before = open_descriptors();
        let fixture = Self::with(source)?;
        fixture.wait_until_finds_deaths();
        let mut opened = open_descriptors();
        opened.retain(|one| !before.contains(one));
        silence(opened)?;
        Some(fixture)
    }

    fn status(&self) -> SourceStatus {
        let all = self.watcher.status();
        all.into_iter()
            .find(|one| one.source == self.source)
            .unwrap()
    }

    /// Watches a process, kills it and returns its exit as it was reported.
    fn kill_one(&self) -> ProcessExit {
        let mut test_process = TestProcess::spawn(reaperd(), Kind::Sleep).unwrap();
        let exit = {
            let _guard = self.runtime.enter();
            self.watcher.watch(test_process.pid()).unwrap()
        };
        test_process.kill().unwrap();
        let limited = async { tokio::time::timeout(Duration::from_secs(20), exit).await };
        let ended = self
            .runtime
            .block_on(limited)
            .expect("the exit is reported");
        ended.expect("the watcher runs")
    }

    /// Waits until the source finds a death. Just after its start, the sweep that the start
    /// requests may find one or two deaths first.
    fn wait_until_finds_deaths(&self) {
        let what = format!("{} finds a death", self.source);
        within(Duration::from_secs(20), &what, || {
            self.kill_one().source() == self.source
        });
    }

    /// Checks that the silent source is reported down with a reason that contains `words`, comes
    /// back and works again.
    fn check_recovery(&self, words: &str) {
        let exit = self.kill_one();
        assert_eq!(exit.source(), Source::Sweep, "the source should be silent");
        let mut reason = String::new();
        let took = within(NOTICED_WITHIN, "the source is reported down", || {
            let status = self.status();
            reason = status.reason;
            status.health == Some(SourceHealth::Down)
        });
        println!("{} down after {took:?}: {reason}", self.source);
        assert!(reason.contains(words), "{reason}");
        eventually("the source is reported up", || {
            self.status().health == Some(SourceHealth::Up)
        });
        self.wait_until_finds_deaths();
    }
}

/// The open descriptors of this process, each with a description of its file: other tests reuse
/// descriptor numbers.
fn open_descriptors() -> Vec<(RawFd, String)> {
    let description = |number: &str| {
        let target = fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
        Some(format!("{} {info}", target.display()))
    };
    let names = fs::read_dir("/proc/self/fd").unwrap();
    names
        .filter_map(|name| {
            let name = name.unwrap().file_name();
            let number = name.to_str().unwrap();
            // `None` if it has been closed in the meantime.
            Some((number.parse().unwrap(), description(number)?))
        })
        .collect()
}

/// Duplicates a descriptor if it is still open.
fn duplicate(descriptor: RawFd) -> Option<OwnedFd> {
    let this_process = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
    pidfd_getfd(this_process, descriptor, PidfdGetfdFlags::empty()).ok()
}

fn is_connector(socket: &OwnedFd) -> bool {
    sockopt::socket_domain(socket) == Ok(AddressFamily::NETLINK)
        && sockopt::socket_protocol(socket) == Ok(Some(netlink::CONNECTOR))
}

#[test]
fn a_silent_connector_is_noticed_and_replaced() {
    let silenced = Fixture::silenced(Source::Netlink, |opened| {
        let sockets: Vec<_> = opened
            .into_iter()
            .filter_map(|(descriptor, _)| duplicate(descriptor))
            .filter(is_connector)
            .collect();
        assert_eq!(sockets.len(), 1, "one subscription");
        sys::silence(sockets[0].as_fd()).unwrap();
        Some(())
    });
    if let Some(fixture) = silenced {
        fixture.check_recovery("two of our own threads in a row");
    }
}

#[test]
fn a_detached_probe_is_noticed_and_attached_again() {
    let silenced = Fixture::silenced(Source::Ebpf, |opened| {
        let links: Vec<_> = opened
            .into_iter()
            .filter(|(_, info)| info.contains("sched_process_exit"))
            .map(|(descriptor, _)| descriptor)
            .collect();
        let [link] = links[..] else {
            skip(format_args!(
                "the link to the tracepoint is not among the descriptors: {links:?}"
            ));
            return None;
        };
        let nothing = File::open("/dev/null").unwrap();
        sys::put_behind(link, nothing.as_fd()).unwrap();
        Some(())
    });
    if let Some(fixture) = silenced {
        fixture.check_recovery("two canaries were missed");
    }
}

/// Before 6.6 all sockets share one count of listeners, so an unrelated process can silence ours by
/// unsubscribing too often. Since 6.6 it cannot. In both cases our source must work in the end.
#[test]
fn unsubscribing_too_often_elsewhere_does_not_silence_the_connector_for_good() {
    if !root_with(&[]) {
        return;
    }
    // Before 6.6 this silences the connectors of the other tests, too.
    let _lock = lock_descriptors();
    let Some(fixture) = Fixture::with(Source::Netlink) else {
        return;
    };
    fixture.wait_until_finds_deaths();
    let unrelated = Connector::join().unwrap();
    assert!(unrelated.request(Operation::Listen).unwrap());
    if kernel_before(6, 6) {
        // Sockets that were closed without unsubscribing still count.
        while unrelated.request(Operation::Ignore).unwrap() {}
        fixture.check_recovery("two of our own threads in a row");
        return;
    }
    for _ in 0..3 {
        unrelated.request(Operation::Ignore).unwrap();
    }
    let mut canaries = Vec::new();
    eventually("two more canaries are received", || {
        let status = fixture.status();
        assert_eq!(status.health, Some(SourceHealth::Up), "{}", status.reason);
        if canaries.last() != Some(&status.detail) {
            canaries.push(status.detail);
        }
        canaries.len() > 2
    });
    fixture.wait_until_finds_deaths();
}
