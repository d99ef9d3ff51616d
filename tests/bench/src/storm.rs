//! Thousands of unrelated processes start and end: what that costs the daemon, and what the daemon costs
//! them.

use std::io;
use std::process::Command;
use std::time::Duration;

use fastrand::Rng;
use reaperd::testkit::clock::monotonic_ns;

use crate::Plan;
use crate::daemon::Daemon;
use crate::fork_server::{self, idle};
use crate::measure::{Readings, children_cpu_ns, float, token};
use crate::report::{Row, Section, time};

const SESSIONS: usize = 20;
const FORKS: u32 = 10_000;
/// Longer than the netlink filter takes to become exact after the last registration.
const SETTLE: Duration = Duration::from_millis(500);
/// Two canaries of each source.
const IDLE: Duration = Duration::from_secs(4);

#[derive(Clone, Copy, Default)]
enum Host {
    #[default]
    Without,
    Root(&'static str),
    Unprivileged(&'static str),
}

/// One kind of host over all rounds.
#[derive(Default)]
struct Case {
    name: &'static str,
    host: Host,
    filter: String,
    /// Wake-ups and processor time of a second without a storm.
    idle: (f64, f64),
    per_second: Readings,
    storm_cpu: Readings,
    wakeups: Readings,
    /// The daemon's share of the storm's processor time.
    share: Readings,
    daemon_ms: Readings,
}

impl Case {
    fn new(name: &'static str, host: Host) -> Self {
        Self {
            name,
            host,
            ..Self::default()
        }
    }

    fn daemon(&self) -> io::Result<Option<Daemon>> {
        let (daemon, source) = match self.host {
            Host::Without => return Ok(None),
            Host::Root(source) => (Daemon::start(&["--sources", source])?, source),
            Host::Unprivileged(source) => {
                (Daemon::start_as_uid_nobody(&["--sources", source])?, source)
            }
        };
        // The probe is the last to come up.
        daemon.wait_for(if source == "auto" { "ebpf" } else { source })?;
        Ok(Some(daemon))
    }

    fn round(&mut self, pids: &[u32], is_first: bool) -> io::Result<()> {
        let daemon = self.daemon()?;
        let mut random = Rng::with_seed(3);
        if let Some(daemon) = &daemon {
            for pid in pids {
                daemon.register(*pid, &format!("s-{pid}"), &token(&mut random))?;
            }
        }
        std::thread::sleep(SETTLE);
        if let (Some(daemon), true) = (&daemon, is_first) {
            self.measure_idle(daemon)?;
        }
        let usage = || daemon.as_ref().map(Daemon::usage).transpose();
        let before = usage()?;
        let cpu_before = children_cpu_ns()?;
        let began = monotonic_ns();
        storm()?;
        let took = float(monotonic_ns() - began);
        let storm_cpu = float(children_cpu_ns()? - cpu_before);
        self.per_second.push(f64::from(FORKS) * 1e9 / took);
        self.storm_cpu.push(storm_cpu / f64::from(FORKS));
        if let (Some(before), Some(after)) = (before, usage()?) {
            let used = after.since(before);
            let seconds = took / 1e9;
            let wakeups = float(used.wakeups) - self.idle.0 * seconds;
            let cpu = float(used.cpu_ns) - self.idle.1 * seconds;
            self.wakeups.push(wakeups.max(0.0) / f64::from(FORKS));
            self.share.push(cpu.max(0.0) / storm_cpu);
            self.daemon_ms.push(cpu.max(0.0));
        }
        Ok(())
    }

    fn measure_idle(&mut self, daemon: &Daemon) -> io::Result<()> {
        let before = daemon.usage()?;
        std::thread::sleep(IDLE);
        let used = daemon.usage()?.since(before);
        let seconds = IDLE.as_secs_f64();
        self.idle = (float(used.wakeups) / seconds, float(used.cpu_ns) / seconds);
        let sources = daemon.get("/v1/sources")?;
        let filter = sources.split("filter ").nth(1).unwrap_or_default();
        filter
            .split('"')
            .next()
            .unwrap_or_default()
            .clone_into(&mut self.filter);
        Ok(())
    }

    fn row(&self, without: &Self) -> Row {
        if matches!(self.host, Host::Without) {
            return Row::new(
                self.name,
                format!("{:.0} forks/s", self.per_second.median()),
            )
            .beside(format!("{} CPU each", time(self.storm_cpu.median())));
        }
        let throughput = self.per_second.median() / without.per_second.median();
        let cost = self.storm_cpu.median() / without.storm_cpu.median();
        let (wakeups, share) = (self.wakeups.median(), self.share.median());
        let filter = match self.filter.as_str() {
            "" => String::new(),
            filter => format!(", {filter}"),
        };
        Row::new(
            format!("{}{filter}", self.name),
            format!(
                "{wakeups:.4} wake-ups an exit, {} CPU a storm ({:.2} %)",
                time(self.daemon_ms.median()),
                share * 100.0
            ),
        )
        .beside(format!("at rest {:.1} wake-ups/s", self.idle.0))
        .ratio(format!(
            "{:+.1} % forks/s, {:+.1} % CPU a fork",
            (throughput - 1.0) * 100.0,
            (cost - 1.0) * 100.0
        ))
        .target("< 0.01 wake-ups, CPU < 1 %", wakeups < 0.01 && share < 0.01)
    }
}

fn storm() -> io::Result<()> {
    let status = Command::new(std::env::current_exe()?)
        .args(["storm", &FORKS.to_string()])
        .status()?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other("the storm ended early"))
}

pub(crate) fn measure(plan: &Plan) -> io::Result<Section> {
    let mut fork_server = fork_server::open()?;
    let pids = fork_server.start(SESSIONS, idle(0))?;
    let mut cases = [
        Case::new("no daemon", Host::Without),
        Case::new("ebpf", Host::Root("ebpf")),
        Case::new("netlink", Host::Root("netlink")),
        Case::new("netlink without CAP_BPF", Host::Unprivileged("netlink")),
        Case::new("pidfd", Host::Root("pidfd")),
        Case::new("all sources", Host::Root("auto")),
    ];
    for round in 0..plan.rounds {
        for case in &mut cases {
            case.round(&pids, round == 0)?;
        }
    }
    let without = &cases[0];
    Ok(Section {
        title: "A storm of unrelated processes",
        method: format!(
            "{SESSIONS} registered sessions and {FORKS} fork + exit + wait of an unrelated process; {} interleaved rounds, \
             a fresh daemon in each, medians; wake-ups are voluntary context switches of all the daemon's \
             threads less those at rest; CPU % is the daemon's share of the storm's own CPU",
            plan.rounds
        ),
        rows: cases.iter().map(|case| case.row(without)).collect(),
    })
}
