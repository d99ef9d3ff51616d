//! The time from a SIGKILL to its observation, always beside a bare pidfd + epoll loop that watches the
//! same process.

use std::io;
use std::time::Duration;

use fastrand::Rng;
use reaper_registry::Source;
use reaper_tests::fork_server::{ForkServer, kill};
use reaperd::testkit::clock::monotonic_ns;

use crate::Plan;
use crate::daemon::Daemon;
use crate::fork_server::{self, idle};
use crate::load::paced;
use crate::measure::{Readings, float, token};
use crate::observers::{Observer, bare_loop, hook, subscriber, subscriber_of};
use crate::report::{Row, Section, time, times};

/// Between the registration and the kill, so that everything is idle again.
const SETTLE: Duration = Duration::from_millis(3);
const KILLS_PER_ROUND: usize = 40;
const FAT_MEGABYTES: usize = 300;
const SOURCES: [Option<Source>; 4] = [
    Some(Source::Ebpf),
    Some(Source::Netlink),
    Some(Source::Pidfd),
    None,
];

/// What two observers saw of the same deaths.
struct Pair {
    observer: Observer,
    bare: Readings,
    seen: Readings,
    /// For each death, how much later than the bare loop.
    extra: Readings,
}

impl Pair {
    fn new(observer: Observer) -> Self {
        Self {
            observer,
            bare: Readings::default(),
            seen: Readings::default(),
            extra: Readings::default(),
        }
    }

    fn note(&mut self, bare: u64, seen: u64) {
        self.bare.push_ns(bare);
        self.seen.push_ns(seen);
        self.extra.push(float(seen) - float(bare));
    }

    fn row(&self) -> Row {
        Row::new(self.observer.name.clone(), spread(&self.seen))
            .beside(format!("bare loop {}", spread(&self.bare)))
            .ratio(times(self.ratio()))
    }

    fn ratio(&self) -> f64 {
        self.seen.median() / self.bare.median()
    }
}

fn spread(readings: &Readings) -> String {
    format!(
        "{} (p90 {}, p99 {})",
        time(readings.median()),
        time(readings.quantile(90)),
        time(readings.quantile(99))
    )
}

/// Kills one process that all of these watch; returns how long after the kill each saw it.
fn one_death(
    fork_server: &mut ForkServer,
    megabytes: usize,
    observers: &mut [&mut Observer],
    number: u64,
) -> io::Result<Vec<u64>> {
    let pid = fork_server.start_one(idle(megabytes))?;
    for observer in &*observers {
        observer.watch(pid, number)?;
    }
    std::thread::sleep(SETTLE);
    let killed_ns = monotonic_ns();
    kill(pid)?;
    let mut delays = Vec::new();
    for observer in observers {
        delays.push(observer.seen_at(number)?.saturating_sub(killed_ns));
    }
    Ok(delays)
}

/// Small test processes, each watched by the bare loop and one other.
pub(crate) fn small(plan: &Plan) -> io::Result<Section> {
    let runtime = tokio::runtime::Runtime::new()?;
    let mut fork_server = fork_server::open()?;
    let mut bare = bare_loop()?;
    let mut pairs = Vec::new();
    for source in SOURCES {
        pairs.push(Pair::new(hook(&runtime, source)?));
    }
    for source in SOURCES {
        pairs.push(Pair::new(subscriber(source)?));
    }
    let kills = KILLS_PER_ROUND * plan.rounds;
    let mut number = 0;
    for _ in 0..kills {
        for pair in &mut pairs {
            number += 1;
            let observers = &mut [&mut bare, &mut pair.observer];
            let delays = one_death(&mut fork_server, 0, observers, number)?;
            pair.note(delays[0], delays[1]);
        }
    }
    let (hooks, subscribers) = pairs.split_at(SOURCES.len());
    let mut rows: Vec<Row> = hooks
        .iter()
        .chain(subscribers)
        .map(|pair| {
            let median_extra = time(pair.extra.median().max(0.0));
            let mut row = pair.row();
            row.ratio = format!("{} (+{median_extra})", row.ratio);
            row
        })
        .collect();
    rows.extend(summary(hooks, subscribers));
    rows.push(under_load(&mut fork_server, &mut bare, kills)?);
    Ok(Section {
        title: "Death to seen, small test processes",
        method: format!(
            "{kills} SIGKILLs a row, rows interleaved; each test process is watched by one observer and the bare loop \
             (one thread, epoll, pidfds); time from before `kill` to the hook, or to the `read` that brings the \
             event; ratio of the medians, and the median of the differences on the same death"
        ),
        rows,
    })
}

fn best(pairs: &[Pair]) -> Option<&Pair> {
    pairs.iter().min_by(|a, b| a.ratio().total_cmp(&b.ratio()))
}

fn summary(hooks: &[Pair], subscribers: &[Pair]) -> Vec<Row> {
    let mut rows = Vec::new();
    if let Some(pair) = best(hooks) {
        let name = format!("best source: {}", pair.observer.name);
        let median = Row::new(name, time(pair.seen.median()))
            .beside(format!("bare loop {}", time(pair.bare.median())))
            .ratio(times(pair.ratio()))
            .target("median within 1.3x", pair.ratio() <= 1.3);
        let p99 = pair.seen.quantile(99);
        let late = Row::new("the same, p99", time(p99))
            .beside(format!("bare loop {}", time(pair.bare.quantile(99))))
            .target("p99 < 1 ms idle", p99 < 1e6)
            .unless_missed_by(pair.bare.quantile(99) < 1e6);
        rows.extend([median, late]);
    }
    if let Some(pair) = best(subscribers) {
        let name = format!("best source: {}", pair.observer.name);
        rows.push(
            Row::new(name, time(pair.seen.median()))
                .beside(format!("bare loop {}", time(pair.bare.median())))
                .ratio(times(pair.ratio()))
                .target("median within 2x", pair.ratio() <= 2.0),
        );
    }
    rows
}

/// The daemon's subscriber while 10,000 requests a second are served beside it.
fn under_load(fork_server: &mut ForkServer, bare: &mut Observer, kills: usize) -> io::Result<Row> {
    let daemon = Daemon::start(&[])?;
    daemon.wait_for("ebpf")?;
    let token = token(&mut Rng::with_seed(99));
    daemon.register(std::process::id(), "load", &token)?;
    let load = paced(daemon.socket(), &token, 10_000)?;
    let mut pair = Pair::new(subscriber_of(daemon, "subscriber under load")?);
    for number in 0..kills {
        let number = 1_000_000 + u64::try_from(number).unwrap_or(0);
        let delays = one_death(fork_server, 0, &mut [bare, &mut pair.observer], number)?;
        pair.note(delays[0], delays[1]);
    }
    let rate = load.stop()?;
    let p99 = pair.seen.quantile(99);
    let mut row = pair
        .row()
        .target("p99 < 5 ms at 10k req/s", p99 < 5e6)
        .unless_missed_by(pair.bare.quantile(99) < 5e6);
    row.what = format!("{}, {rate:.0} req/s", row.what);
    Ok(row)
}

/// Large test processes: all observers on the same deaths.
pub(crate) fn fat(plan: &Plan) -> io::Result<Section> {
    let runtime = tokio::runtime::Runtime::new()?;
    let mut fork_server = fork_server::open()?;
    let mut observers = vec![bare_loop()?];
    for source in [Source::Ebpf, Source::Pidfd, Source::Netlink] {
        observers.push(hook(&runtime, Some(source))?);
    }
    let mut readings = vec![Readings::default(); observers.len()];
    let kills = 8 * plan.rounds;
    for number in 0..kills {
        let number = u64::try_from(number).unwrap_or(0);
        let mut all: Vec<_> = observers.iter_mut().collect();
        let delays = one_death(&mut fork_server, FAT_MEGABYTES, &mut all, number)?;
        for (readings, delay) in readings.iter_mut().zip(delays) {
            readings.push_ns(delay);
        }
    }
    let bare = readings[0].median();
    let rows = observers.iter().zip(&readings).map(|(observer, seen)| {
        let row = Row::new(observer.name.clone(), spread(seen));
        match observer.name.as_str() {
            "hook, ebpf" => row
                .beside(format!("bare loop {}", time(bare)))
                .ratio(times(bare / seen.median()) + " sooner")
                .target("before pidfd and netlink", seen.median() < bare),
            _ => row.ratio(times(seen.median() / bare)),
        }
    });
    Ok(Section {
        title: "Death to seen, 300 MB resident",
        method: format!("{kills} SIGKILLs, every observer on the same deaths; otherwise as above"),
        rows: rows.collect(),
    })
}

/// The sweep alone, which is what polling can do.
pub(crate) fn polling(plan: &Plan) -> io::Result<Section> {
    let runtime = tokio::runtime::Runtime::new()?;
    let mut fork_server = fork_server::open()?;
    let mut sweep = hook(&runtime, Some(Source::Sweep))?;
    let mut bare = bare_loop()?;
    let mut random = Rng::with_seed(5);
    let deaths = 4 * plan.rounds;
    let pids = fork_server.start(deaths, idle(0))?;
    let mut when = Vec::new();
    for (number, pid) in (0..).zip(&pids) {
        sweep.watch(*pid, number)?;
        bare.watch(*pid, number)?;
        when.push(Duration::from_millis(random.u64(..10_000)));
    }
    when.sort();
    let began = monotonic_ns();
    let mut killed = Vec::new();
    for (at, pid) in when.into_iter().zip(&pids) {
        let passed = Duration::from_nanos(monotonic_ns() - began);
        std::thread::sleep(at.saturating_sub(passed));
        killed.push(monotonic_ns());
        kill(*pid)?;
    }
    let (mut swept, mut seen) = (Readings::default(), Readings::default());
    for (number, killed_ns) in (0..).zip(killed) {
        swept.push_ns(sweep.seen_at(number)?.saturating_sub(killed_ns));
        seen.push_ns(bare.seen_at(number)?.saturating_sub(killed_ns));
    }
    let events = with_all_sources(&runtime, &mut fork_server, KILLS_PER_ROUND)?;
    let ratio = swept.median() / events.median();
    let rows = vec![
        Row::new("sweep every 5 s, alone", time(swept.median()))
            .beside(format!("worst {}", time(swept.max())))
            .ratio(times(swept.median() / seen.median()) + " of the bare loop"),
        Row::new("hook, all sources", time(events.median()))
            .beside("the sweep alone")
            .ratio(times(ratio) + " sooner")
            .target("at least 5,000x sooner", ratio >= 5_000.0),
    ];
    Ok(Section {
        title: "Against polling every 5 s",
        method: format!(
            "{deaths} SIGKILLs at random moments within 10 s; then {} one after another with every source",
            events.len()
        ),
        rows,
    })
}

fn with_all_sources(
    runtime: &tokio::runtime::Runtime,
    fork_server: &mut ForkServer,
    kills: usize,
) -> io::Result<Readings> {
    let mut all = hook(runtime, None)?;
    let mut readings = Readings::default();
    for number in 0..kills {
        let number = u64::try_from(number).unwrap_or(0);
        let delays = one_death(fork_server, 0, &mut [&mut all], number)?;
        readings.push_ns(delays[0]);
    }
    Ok(readings)
}
