//! Many deaths at once.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use fastrand::Rng;
use reaper_registry::{
    Death, Details, Evidence, Limits, NewSession, Process, ProcessId, Registry, SessionId, Source,
    Token, TokenKey, Ttl,
};
use reaper_tests::fork_server::kill;
use reaperd::Pid;
use reaperd::testkit::clock::{self, monotonic_ns};

use crate::Plan;
use crate::daemon::{Daemon, registration};
use crate::fork_server::{self, idle};
use crate::load::{Until, closed_loop};
use crate::measure::{Readings, float, thread_cpu_ns, token};
use crate::observers::{bare_loop, read_events};
use crate::report::{Row, Section, time};

const SIMULATED: u64 = 100_000;
/// What the tokens of [`full`] are drawn from.
pub(crate) const TOKENS_SEED: u64 = 1;
const QUIET: Duration = Duration::from_secs(3);

pub(crate) fn measure(plan: &Plan) -> io::Result<Section> {
    let mut rows = vec![real(5_000)?];
    match real(20_000) {
        Ok(row) => rows.push(row),
        Err(error) => rows.push(Row::new(
            "20,000 real processes",
            format!("not possible here: {error}"),
        )),
    }
    rows.push(simulated(plan)?);
    Ok(Section {
        title: "Mass death",
        method: "all test processes registered over HTTP and killed one by one as fast as `kill` can; from the last death \
                 as the bare loop sees it to the last `session_deregistered` at a subscriber, every source on; \
                 simulated: `Registry::remove_process` for each of 100,000 processes, with one hook, in CPU time"
            .to_owned(),
        rows,
    })
}

fn real(test_processes: usize) -> io::Result<Row> {
    let daemon = Daemon::start(&[
        "--max-sessions-per-uid=100000",
        "--max-bytes-per-uid=512MiB",
    ])?;
    daemon.wait_for("ebpf")?;
    let mut fork_server = fork_server::open()?;
    let pids = fork_server.start(test_processes, idle(0))?;
    let mut bare = bare_loop()?;
    // At most half of the available descriptors; the last process to die is among them.
    let step = if test_processes > 8_000 { 4 } else { 1 };
    let sample = || {
        (0..)
            .zip(&pids)
            .collect::<Vec<(u64, &u32)>>()
            .into_iter()
            .rev()
            .step_by(step)
    };
    for (number, pid) in sample() {
        bare.watch(*pid, number)?;
    }
    let mut random = Rng::with_seed(8);
    let mut next = 0;
    closed_loop(
        daemon.socket(),
        16,
        &Until::Requests(test_processes),
        |out| {
            let request = registration(pids[next], &format!("v-{next}"), &token(&mut random));
            out.extend_from_slice(request.as_bytes());
            next += 1;
        },
    )?;
    let events = read_events(&daemon)?;
    let began = monotonic_ns();
    for pid in &pids {
        kill(*pid)?;
    }
    let mut last_death = began;
    for (number, _) in sample() {
        last_death = last_death.max(bare.seen_at(number)?);
    }
    let (last_event, seen) = all_events(&events, test_processes);
    let once = seen.len() == test_processes && seen.values().all(|times| *times == 1);
    let behind = float(last_event.saturating_sub(last_death));
    let left = daemon.get("/v1/sources")?.contains("\"sessions\":0}");
    let outcome = match (once, left) {
        (true, true) => "all gone, one event each".to_owned(),
        (_, true) => format!("all gone, {} events (the reader met a gap)", seen.len()),
        _ => format!("SOME LEFT, {} events", seen.len()),
    };
    let behind_text = match behind {
        0.0 => "before the bare loop".to_owned(),
        behind => time(behind),
    };
    let row = Row::new(format!("{test_processes} real processes"), behind_text)
        .beside(format!(
            "{outcome}; last death {} after the first kill",
            time(float(last_death - began))
        ))
        .target(
            "all gone, one event each, < 1 s",
            once && left && behind < 1e9,
        );
    Ok(row)
}

/// When the last one came, and how often each.
fn all_events(events: &Receiver<(u64, u64)>, expected: usize) -> (u64, BTreeMap<u64, usize>) {
    let mut seen = BTreeMap::new();
    let mut last = 0;
    while seen.len() < expected {
        let Ok((number, at_ns)) = events.recv_timeout(QUIET) else {
            break;
        };
        *seen.entry(number).or_insert(0) += 1;
        last = last.max(at_ns);
    }
    (last, seen)
}

fn simulated(plan: &Plan) -> io::Result<Row> {
    let mut readings = Readings::default();
    for _ in 0..plan.rounds {
        let hooks = Arc::new(AtomicUsize::new(0));
        let counting = hooks.clone();
        let registry = full(SIMULATED, move || {
            counting.fetch_add(1, Ordering::Relaxed);
        })?;
        let now = clock::now();
        let began = thread_cpu_ns();
        for process in 0..SIMULATED {
            registry.remove_process(ProcessId(process), DEATH, now);
        }
        readings.push_ns(thread_cpu_ns() - began);
        assert!(registry.is_empty(), "every session has a process that died");
        let called = u64::try_from(hooks.load(Ordering::Relaxed)).unwrap_or(0);
        assert_eq!(called, SIMULATED, "one hook call for each session");
    }
    let median = readings.median();
    Ok(Row::new("100,000 simulated", time(median))
        .beside(format!("{} each", time(median / float(SIMULATED))))
        .target("< 200 ms", median < 200e6))
}

const DEATH: Death = Death {
    source: Source::Pidfd,
    evidence: Evidence::Pidfd,
    pid_reused: false,
    exit: None,
    detection: None,
};

/// A registry of so many sessions, each of a process of its own.
pub(crate) fn full(
    sessions: u64,
    on_deregister: impl Fn() + Send + Sync + 'static,
) -> io::Result<Registry> {
    let registry = Registry::builder(TokenKey::new([3; 16]))
        .limits(Limits {
            sessions: 1_000_000,
            sessions_per_owner: 1_000_000,
            bytes: usize::MAX,
            bytes_per_owner: usize::MAX,
        })
        .on_deregister(move |_, _| on_deregister())
        .build();
    let mut random = Rng::with_seed(TOKENS_SEED);
    for number in 0..sessions {
        store(&registry, number, &token(&mut random))?;
    }
    Ok(registry)
}

pub(crate) fn store(registry: &Registry, number: u64, token: &str) -> io::Result<()> {
    let session = NewSession {
        id: SessionId::new(&format!("{number:08x}-0000-4000-8000-000000000000")),
        token: Token::parse(token).map_err(io::Error::other)?,
        process: Process::new(
            ProcessId(number),
            Pid::new(4_242).map_err(io::Error::other)?,
            None,
        ),
        further: Vec::new(),
        owner: 1_000,
        details: Details::default(),
        presence: None,
        ttl: Ttl::Default,
    };
    registry
        .register(session, clock::now())
        .map(drop)
        .map_err(|error| io::Error::other(error.to_string()))
}
