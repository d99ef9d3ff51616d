//! Source: the exit probe, a BPF program on the kernel's `sched_process_exit`.
//!
//! The probe marks a watched process dead in a map of ours when its last thread enters the exit
//! path, before its memory is torn down, and rings a ring buffer as a doorbell. The map is the
//! truth and the ring only says "look": when the ring was full, a scan of the map finds what it
//! could not say. Strangers' exits never wake us, and neither do single threads.
//!
//! - Privilege: `CAP_BPF` and `CAP_PERFMON`. Minimum kernel: 5.8 with BTF.
//! - What it can miss: processes that do not fit the map, and everything while it is detached,
//!   which the canary finds out: a thread of our own ends every few seconds, and the probe must
//!   have counted it.
//! - What happens then: the source goes down, everybody is looked at, and it is loaded anew.

pub mod btf;
mod probe;

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use reaper_ebpf::{Counter, GroupDeath};
use reaper_registry::{Pid, Source, StartTime};
use tokio::io::Interest;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{Context, SourceError};
use crate::clock::monotonic_ns;
use crate::hint::{ExitWord, Hint, HintSender, Target};
use crate::runtime::on_a_thread;
use crate::sys::readiness_of;
use crate::verdict::GroupDead;
use crate::watch::WatchSet;
use probe::{Armed, Doorbell, Probe};

/// How often the probe must prove that it counts.
const CANARY_EVERY: Duration = Duration::from_secs(2);
/// How long a canary's exit may stay uncounted; it takes microseconds.
const CANARY_DEADLINE: Duration = Duration::from_millis(500);
/// How often the counter is read while a canary is waited for.
const CANARY_POLL: Duration = Duration::from_millis(1);
/// Watched processes per step of a scan.
const SCAN_SLICE: usize = 1_024;

/// Runs until the probe no longer delivers.
pub async fn run(context: Context) -> Result<Infallible, SourceError> {
    let Context {
        hints,
        watched,
        reporter,
    } = context;
    // Reading the kernel's types and verifying take tens of milliseconds of work.
    let Probe {
        armed,
        mut doorbell,
        counters,
        variant,
        program,
    } = on_a_thread(Probe::attach).await.map_err(no_thread)??;
    // Detaches when this function ends, and not before.
    let _program = program;
    let readiness = doorbell
        .descriptor()
        .and_then(|ring| readiness_of(ring, Interest::READABLE))
        .map_err(failed)?;
    let _attachment = watched.attach(armed.clone());
    canary(&counters).await?;
    let mut overflows = counters.read(Counter::RingFull).map_err(failed)?;
    let report = |overflows: u64| {
        reporter.up(format!("{variant}, doorbell overflowed {overflows} times"));
    };
    report(overflows);
    hints.verify_all();

    let mut canaries = interval(CANARY_EVERY);
    canaries.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            guard = readiness.readable() => {
                let mut guard = guard.map_err(failed)?;
                // To the last record first, then cleared: the kernel rings only for a reader that
                // has caught up.
                answer(&mut doorbell, &hints);
                guard.clear_ready();
                // After the drain: the probe counts before it tries the ring a second time.
                let counted = counters.read(Counter::RingFull).map_err(failed)?;
                if counted != overflows {
                    overflows = counted;
                    scan(&armed, &watched, &hints);
                    report(overflows);
                }
            }
            _ = canaries.tick() => canary(&counters).await?,
        }
    }
}

fn failed(error: io::Error) -> SourceError {
    SourceError::new(format!("the probe failed: {error}"), "")
}

fn no_thread(error: io::Error) -> SourceError {
    SourceError::new(
        format!("loading was cut short: {error}"),
        "raise the limit of threads (RLIMIT_NPROC, pids.max)",
    )
}

fn answer(doorbell: &mut Doorbell, hints: &HintSender) {
    while let Some(death) = doorbell.next() {
        pass_on(death, hints);
    }
}

/// Looks into the map for everyone who is watched: the ring has not told of all.
fn scan(armed: &Armed, watched: &WatchSet, hints: &HintSender) {
    let mut after = None;
    loop {
        let slice = watched.slice_after(after, SCAN_SLICE);
        let Some(last) = slice.last() else { return };
        after = Some(last.id);
        for death in slice.iter().filter_map(|one| armed.death_of(one.pid)) {
            pass_on(death, hints);
        }
    }
}

fn pass_on(death: GroupDeath, hints: &HintSender) {
    let Ok(pid) = Pid::new(death.tgid) else {
        return;
    };
    hints.send(Hint {
        exit: Some(ExitWord::Process(death.exit_code.cast_unsigned())),
        died_at_ns: Some(death.died_at_ns),
        group_dead: Some(GroupDead {
            start_time: StartTime(death.start_ticks),
            at_ns: death.died_at_ns,
        }),
        ..Hint::look(Target::Pid(pid), Source::Ebpf)
    });
}

/// Lets a thread of our own end and waits until the probe has counted it; two misses in a row are
/// one too many.
async fn canary(counters: &probe::Counters) -> Result<(), SourceError> {
    for _ in 0..2 {
        let before = counters.read(Counter::Canary).map_err(failed)?;
        let ended = std::thread::Builder::new()
            .name("canary".into())
            .spawn(|| {});
        if let Err(error) = ended {
            // No proof either way: a machine that cannot start a thread has other worries.
            log::warn!("cannot start a canary: {error}");
            return Ok(());
        }
        let started_ns = monotonic_ns();
        while Duration::from_nanos(monotonic_ns() - started_ns) < CANARY_DEADLINE {
            if counters.read(Counter::Canary).map_err(failed)? != before {
                return Ok(());
            }
            sleep(CANARY_POLL).await;
        }
    }
    Err(SourceError::new(
        "the probe no longer sees exits: two canaries were missed",
        "see whether tracing was switched off or another program detached the probe",
    ))
}
