//! Sources that fall silent without any error, for real: the kernel no longer tells them anything.
//! Their canaries must notice, and whoever dies meanwhile is the sweep's.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::time::Duration;

use reaper_tests::connector::{Connector, Operation};
use reaper_tests::daemon::reaperd;
use reaper_tests::expect::{self, skip};
use reaper_tests::sys;
use reaper_tests::wait::{eventually, within};
use reaperd::registry::SourceHealth;
use reaperd::testkit::conformance::kernel_before;
use reaperd::testkit::test_process::{Kind, TestProcess};
use reaperd::{ExitWatcher, ProcessExit, Source, SourceStatus, Sources};
use rustix::net::{AddressFamily, netlink, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tokio::runtime::Runtime;

use crate::harness::{descriptors, runtime};

/// Two periods of either canary, its last deadline, and a busy machine.
const NOTICED_WITHIN: Duration = Duration::from_secs(4 + 1 + 5);
const SWEEP: Duration = Duration::from_millis(200);

struct Watching {
    watcher: ExitWatcher,
    source: Source,
    runtime: Runtime,
}

impl Watching {
    fn by(source: Source) -> Option<Self> {
        let runtime = runtime();
        let builder = ExitWatcher::builder()
            .sources(Sources::only([source]))
            .sweep_interval(SWEEP);
        let watcher = runtime.block_on(async {
            let watcher = builder.start().await;
            watcher.settled().await;
            watcher
        });
        let watching = Self {
            watcher,
            source,
            runtime,
        };
        expect::source_works(&watching.status()).then_some(watching)
    }

    fn status(&self) -> SourceStatus {
        let all = self.watcher.status();
        all.into_iter()
            .find(|one| one.source == self.source)
            .unwrap()
    }

    fn one_dies(&self) -> ProcessExit {
        let mut test_process = TestProcess::spawn(reaperd(), Kind::Sleep).unwrap();
        let exit = {
            let _inside = self.runtime.enter();
            self.watcher.watch(test_process.pid()).unwrap()
        };
        test_process.kill().unwrap();
        let limited = async { tokio::time::timeout(Duration::from_secs(20), exit).await };
        let ended = self.runtime.block_on(limited).expect("it is seen");
        ended.expect("the watcher runs")
    }

    /// It may need a try or two just after its start, when everybody is being looked at.
    fn sees_deaths(&self) {
        let what = format!("{} sees a death", self.source);
        within(Duration::from_secs(20), &what, || {
            self.one_dies().source() == self.source
        });
    }

    /// From a source that nobody tells anything to one that works.
    fn is_noticed_and_mended(&self, words: &str) {
        let exit = self.one_dies();
        assert_eq!(exit.source(), Source::Sweep, "it should hear nothing");
        let mut reason = String::new();
        let took = within(NOTICED_WITHIN, "it is down", || {
            let status = self.status();
            reason = status.reason;
            status.health == Some(SourceHealth::Down)
        });
        println!("{} down after {took:?}: {reason}", self.source);
        assert!(reason.contains(words), "{reason}");
        eventually("it comes back", || {
            self.status().health == Some(SourceHealth::Up)
        });
        self.sees_deaths();
    }
}

/// The descriptors of this process that are open now, and what is behind each: numbers alone are
/// used again by other tests.
fn open_descriptors() -> Vec<(RawFd, String)> {
    let told = |number: &str| {
        let target = fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
        Some(format!("{} {info}", target.display()))
    };
    let names = fs::read_dir("/proc/self/fd").unwrap();
    names
        .filter_map(|name| {
            let name = name.unwrap().file_name();
            let number = name.to_str().unwrap();
            // Closed by now, if nothing is told.
            Some((number.parse().unwrap(), told(number)?))
        })
        .collect()
}

/// Those that have come since.
fn new_descriptors(before: &[(RawFd, String)]) -> Vec<(RawFd, String)> {
    let mut now = open_descriptors();
    now.retain(|one| !before.contains(one));
    now
}

/// A second descriptor for what is behind this one, if it is open still.
fn duplicate(descriptor: RawFd) -> Option<OwnedFd> {
    let ourselves = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
    pidfd_getfd(ourselves, descriptor, PidfdGetfdFlags::empty()).ok()
}

fn is_connector(socket: &OwnedFd) -> bool {
    sockopt::socket_domain(socket) == Ok(AddressFamily::NETLINK)
        && sockopt::socket_protocol(socket) == Ok(Some(netlink::CONNECTOR))
}

#[test]
fn a_connector_that_falls_silent_is_noticed_and_replaced() {
    let watching = {
        let _ours = descriptors();
        let before = open_descriptors();
        let Some(watching) = Watching::by(Source::Netlink) else {
            return;
        };
        watching.sees_deaths();
        let sockets: Vec<_> = new_descriptors(&before)
            .into_iter()
            .filter_map(|(descriptor, _)| duplicate(descriptor))
            .filter(is_connector)
            .collect();
        assert_eq!(sockets.len(), 1, "one subscription");
        for socket in &sockets {
            sys::silence(socket.as_fd()).unwrap();
        }
        watching
    };
    watching.is_noticed_and_mended("two of our own threads in a row");
}

#[test]
fn a_probe_that_was_detached_is_noticed_and_attached_anew() {
    let watching = {
        let _ours = descriptors();
        let before = open_descriptors();
        let Some(watching) = Watching::by(Source::Ebpf) else {
            return;
        };
        watching.sees_deaths();
        let links: Vec<_> = new_descriptors(&before)
            .into_iter()
            .filter(|(_, info)| info.contains("sched_process_exit"))
            .map(|(descriptor, _)| descriptor)
            .collect();
        let [link] = links[..] else {
            skip(format_args!(
                "the link to the tracepoint does not show: {links:?}"
            ));
            return;
        };
        let nothing = File::open("/dev/null").unwrap();
        sys::put_behind(link, nothing.as_fd()).unwrap();
        watching
    };
    watching.is_noticed_and_mended("two canaries were missed");
}

/// Before 6.6 the count of listeners is everybody's, so a unrelated process can deafen us; since then it
/// cannot. Either way we must be found working in the end.
#[test]
fn a_stranger_who_leaves_too_often_does_not_deafen_us_for_good() {
    if !rustix::process::geteuid().is_root() {
        skip("not root");
        return;
    }
    // On an old kernel it deafens everybody in this process too, for as long.
    let _ours = descriptors();
    let Some(watching) = Watching::by(Source::Netlink) else {
        return;
    };
    watching.sees_deaths();
    let unrelated = Connector::join().unwrap();
    assert!(unrelated.ask(Operation::Listen).unwrap());
    if kernel_before(6, 6) {
        // Whoever has gone without leaving still counts, so it takes as many of these.
        while unrelated.ask(Operation::Ignore).unwrap() {}
        watching.is_noticed_and_mended("two of our own threads in a row");
        return;
    }
    for _ in 0..3 {
        unrelated.ask(Operation::Ignore).unwrap();
    }
    let mut canaries = Vec::new();
    eventually("two more canaries are heard of", || {
        let status = watching.status();
        assert_eq!(status.health, Some(SourceHealth::Up), "{}", status.reason);
        if canaries.last() != Some(&status.detail) {
            canaries.push(status.detail);
        }
        canaries.len() > 2
    });
    watching.sees_deaths();
}
