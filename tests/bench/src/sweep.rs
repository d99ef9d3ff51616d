//! A sweep over ten thousand sessions, beside other ways to check as many processes.

use std::io;
use std::process::{Command, Stdio};
use std::time::Duration;

use fastrand::Rng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::Plan;
use crate::daemon::{Daemon, registration};
use crate::fork_server::{self, idle};
use crate::load::{Until, closed_loop};
use crate::measure::{Readings, children_cpu_ns, count, float, thread_cpu_ns, token};
use crate::observers::open_pidfd;
use crate::report::{Row, Section, time, times};

const SESSIONS: usize = 10_000;
const INTERVAL: Duration = Duration::from_millis(250);
const SWEEPS: u32 = 8;

const FLAGS: [&str; 4] = [
    "--sources=sweep",
    "--sweep-interval=250ms",
    "--max-sessions-per-uid=100000",
    "--max-bytes-per-uid=512MiB",
];

/// A daemon with a session of each process.
struct Swept {
    daemon: Daemon,
    /// Its processor time in the same time without sessions.
    at_rest: f64,
    sweep: Readings,
}

impl Swept {
    fn start(flags: &[&str], pids: &[u32]) -> io::Result<Self> {
        let daemon = Daemon::start(flags)?;
        let at_rest = cpu_of_sweeps(&daemon)?;
        let mut random = Rng::with_seed(4);
        let mut next = 0;
        closed_loop(daemon.socket(), 16, &Until::Requests(pids.len()), |out| {
            let request = registration(pids[next], &format!("v-{next}"), &token(&mut random));
            out.extend_from_slice(request.as_bytes());
            next += 1;
        })?;
        Ok(Self {
            daemon,
            at_rest,
            sweep: Readings::default(),
        })
    }

    fn measure(&mut self) -> io::Result<()> {
        let cpu = cpu_of_sweeps(&self.daemon)? - self.at_rest;
        self.sweep.push(cpu.max(0.0));
        Ok(())
    }
}

pub(crate) fn measure(plan: &Plan) -> io::Result<Section> {
    let mut fork_server = fork_server::open()?;
    let pids = fork_server.start(SESSIONS, idle(0))?;
    let mut sandboxed = Swept::start(&FLAGS, &pids)?;
    let mut free = Swept::start(&[&FLAGS[..], &["--no-monitor"]].concat(), &pids)?;
    let (mut ps, mut bare) = <(Readings, Readings)>::default();
    let mut pidfds = Vec::new();
    for pid in &pids {
        pidfds.push(open_pidfd(*pid)?);
    }
    let mut polled: Vec<_> = pidfds
        .iter()
        .map(|pidfd| PollFd::new(pidfd, PollFlags::IN))
        .collect();
    let list = list_of(&pids);
    for _ in 0..plan.rounds {
        sandboxed.measure()?;
        free.measure()?;
        ps.push(cpu_of_ps(&list)?);
        for _ in 0..SWEEPS {
            // As cold as the sweep finds its descriptors.
            std::thread::sleep(INTERVAL);
            let began = thread_cpu_ns();
            poll(&mut polled, Some(&Timespec::default()))?;
            bare.push_ns(thread_cpu_ns() - began);
        }
    }
    let (ours, unconfined) = (sandboxed.sweep.median(), free.sweep.median());
    let (by_ps, by_poll) = (ps.median() / ours, ours / bare.median());
    let rows = vec![
        Row::new("CPU of a sweep", time(ours))
            .beside(format!("one `ps` over the same pids {}", time(ps.median())))
            .ratio(times(by_ps) + " less")
            .target("20x less than ps", by_ps >= 20.0),
        Row::new("the same", time(ours))
            .beside(format!("one bare poll() {}", time(bare.median())))
            .ratio(times(by_poll))
            .target("within 1.5x of poll", by_poll <= 1.5),
        Row::new("the same, sandboxed", time(ours))
            .beside(format!("--no-monitor {}", time(unconfined)))
            .ratio(times(ours / unconfined))
            .target("1.05x", ours / unconfined <= 1.05),
    ];
    Ok(Section {
        title: "Sweep of 10,000 live sessions",
        method: format!(
            "10,000 sleeping processes, one session each; CPU of the whole daemon over {SWEEPS} sweeps less its CPU \
             without sessions; `ps -o pid=,lstart= -p ..` once a round; one poll() on as many pidfds at the same intervals; {} rounds, medians",
            plan.rounds
        ),
        rows,
    })
}

/// Processor time for one sweep, with everything else that the daemon does meanwhile.
fn cpu_of_sweeps(daemon: &Daemon) -> io::Result<f64> {
    let before = daemon.usage()?;
    std::thread::sleep(INTERVAL * SWEEPS);
    let used = daemon.usage()?.since(before);
    Ok(float(used.cpu_ns) / f64::from(SWEEPS))
}

fn list_of(pids: &[u32]) -> String {
    let list: Vec<_> = pids.iter().map(u32::to_string).collect();
    list.join(",")
}

fn cpu_of_ps(list: &str) -> io::Result<f64> {
    const TIMES: usize = 3;
    let before = children_cpu_ns()?;
    for _ in 0..TIMES {
        Command::new("ps")
            .args(["-o", "pid=,lstart=", "-p", list])
            .stdout(Stdio::null())
            .status()?;
    }
    Ok(float(children_cpu_ns()? - before) / count(TIMES))
}
