//! The exit probe: a BPF program on the kernel's `sched_process_exit`.
//!
//! When the last thread of a watched process enters the exit path, before its memory is torn down,
//! the probe marks the process dead in a BPF map and writes to a ring buffer to wake the daemon.
//! The map is authoritative. If the ring buffer was full, a scan of the map finds the deaths that
//! did not fit. Exits of unwatched processes and of single threads do not wake the daemon.
//!
//! - Privilege: `CAP_BPF` and `CAP_PERFMON`. Minimum kernel: 5.8 with BTF.
//! - What it can miss: processes that do not fit the map; exits during another one on the same CPU
//!   where tracepoints can be preempted, which the kernel counts; and everything while it is
//!   detached. The canary detects that: a thread of the daemon ends every few seconds, and the
//!   probe must count it.
//! - What happens then: every process is checked, first within two seconds of a counted miss and
//!   again for some seconds after it. If the probe is detached, the source goes down and loads it
//!   again.

pub(super) mod attach;
pub mod btf;
pub mod misses;
mod probe;
mod proof;

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::time::Duration;

use reaper_ebpf::{Counter, GroupDeath};
use reaper_registry::{Pid, ProcessId, Source, StartTime};
use tokio::io::Interest;

use super::canary::{Canary, NO_THREAD_REMEDY};
use super::supervisor::on_a_thread;
use super::time_namespace::TimeNamespace;
use super::{Context, SourceError, opener};
use crate::sys::readiness_of;
use crate::watch::hint::{Hint, HintSender, WaitStatus};
use crate::watch::set::WatchSet;
use crate::watch::status::Reporter;
use crate::watch::verdict::GroupDead;
use attach::{Attached, Variant};
use probe::{Armed, Probe, Wakeup};
use proof::{Proof, prove};

/// How often the probe must prove that it counts.
const CANARY_INTERVAL: Duration = Duration::from_secs(2);
/// How many further canaries after a missed exit request a sweep. The probe fires early in an exit,
/// and a machine that preempts it is busy.
const RECHECKS_AFTER_A_MISS: u32 = 3;
/// Watched processes per step of a scan.
const SCAN_SLICE: usize = 1_024;

/// Runs until the probe no longer delivers.
pub(crate) async fn run(context: Context) -> Result<Infallible, SourceError> {
    run_with(context, |boot_offset_ns| {
        opener::current().probe(std::process::id(), boot_offset_ns)
    })
    .await
}

/// As [`run`], with a probe that is attached in this way; `attach` gets the offset of our boot times.
async fn run_with(
    context: Context,
    attach: impl FnOnce(u64) -> Result<Attached, SourceError> + Send + 'static,
) -> Result<Infallible, SourceError> {
    let Context {
        hints,
        watched,
        reporter,
    } = context;
    let clocks = TimeNamespace::of_this_process()?;
    // Reading the kernel's types and verifying the program take tens of milliseconds.
    let Probe {
        armed,
        mut wakeup,
        counters,
        misses,
        variant,
        attachment,
    } = on_a_thread(move || attach(clocks.boot_offset_ns()))
        .await
        .map_err(no_thread)?
        .and_then(Probe::new)?;
    // Dropping it, at the end of this function, detaches the probe.
    let _attachment = attachment;
    let readiness = wakeup
        .descriptor()
        .and_then(|ring| readiness_of(ring, Interest::READABLE))
        .map_err(failed)?;
    let _arming = watched.attach(armed.clone());
    let counted = || counters.read(Counter::Canary).map_err(failed);
    let mut probe_health = ProbeHealth {
        hints: hints.clone(),
        reporter,
        variant,
        overflows: counters.read(Counter::RingFull).map_err(failed)?,
        missed: 0,
        rechecks_left: 0,
        refused: 0,
        proven: false,
    };
    // Concurrent with the wake-ups: a canary that waits for a CPU must not delay deaths.
    let mut proof = pin!(prove(Duration::ZERO, counted, Canary::launch));
    loop {
        tokio::select! {
            guard = readiness.readable() => {
                let mut guard = guard.map_err(failed)?;
                // Drained completely, then cleared: the kernel wakes only a reader that has caught
                // up.
                drain(&mut wakeup, &watched, clocks, &hints);
                guard.clear_ready();
                // After the drain: the probe counts before it tries the ring a second time.
                let overflows = counters.read(Counter::RingFull).map_err(failed)?;
                if overflows != probe_health.overflows {
                    scan(&armed, &watched, clocks, &hints);
                    probe_health.overflowed(overflows);
                }
            }
            found = &mut proof => {
                retry_refused(&armed, &watched, &hints);
                probe_health.refused = armed.refused();
                probe_health.take(&found?);
                probe_health.recheck_after_a_miss();
                proof.set(prove(CANARY_INTERVAL, counted, Canary::launch));
            }
        }
        // A mass death misses the most and wakes us; a single death waits for the next canary.
        if let Some(missed) = misses.read() {
            probe_health.missed(missed);
        }
    }
}

/// What the source reports.
struct ProbeHealth {
    hints: HintSender,
    reporter: Reporter,
    variant: Variant,
    overflows: u64,
    missed: u64,
    rechecks_left: u32,
    /// Processes that the map did not take.
    refused: usize,
    /// The last canary that could be started was counted.
    proven: bool,
}

impl ProbeHealth {
    /// Requests a sweep for new misses: the kernel does not report which process exited.
    fn missed(&mut self, missed: u64) {
        if missed > self.missed {
            self.reporter.lost(missed - self.missed);
            self.missed = missed;
            self.rechecks_left = RECHECKS_AFTER_A_MISS;
            self.hints.request_sweep();
        }
    }

    /// Requests a further sweep: the process whose exit was missed may not have been dead at the
    /// first.
    fn recheck_after_a_miss(&mut self) {
        if let Some(left) = self.rechecks_left.checked_sub(1) {
            self.rechecks_left = left;
            self.hints.request_sweep();
        }
    }

    fn overflowed(&mut self, overflows: u64) {
        self.overflows = overflows;
        if self.proven {
            self.report();
        }
    }

    /// Reports that the probe counts, and whether it watches every process.
    fn report(&self) {
        if self.refused == 0 {
            self.reporter.up(self.detail());
        } else {
            self.reporter.degraded(
                "some processes do not fit the probe's map; other sources watch them",
                "see the log for the kernel's reason; they are added as soon as there is space",
                self.detail(),
            );
        }
    }

    fn take(&mut self, proof: &Proof) {
        match proof {
            Proof::Counted => {
                self.report();
                // It is unknown what it missed while it was not proven.
                if !self.proven {
                    self.hints.request_sweep();
                }
                self.proven = true;
            }
            Proof::NoThread(error) => {
                self.reporter.degraded(
                    &format!("cannot start a thread to prove that exits are counted: {error}"),
                    NO_THREAD_REMEDY,
                    self.detail(),
                );
                self.hints.request_sweep();
                self.proven = false;
            }
        }
    }

    fn detail(&self) -> String {
        let Self {
            variant, overflows, ..
        } = self;
        let refused = match self.refused {
            0 => String::new(),
            refused => format!(", {refused} processes not in its map"),
        };
        format!("{variant}, wake-up overflowed {overflows} times{refused}")
    }
}

fn failed(error: io::Error) -> SourceError {
    SourceError::new(format!("the probe failed: {error}"), "")
}

fn no_thread(error: io::Error) -> SourceError {
    SourceError::new(
        format!("loading was interrupted: {error}"),
        NO_THREAD_REMEDY,
    )
}

fn drain(wakeup: &mut Wakeup, watched: &WatchSet, clocks: TimeNamespace, hints: &HintSender) {
    while let Some(death) = wakeup.next() {
        let Ok(pid) = Pid::new(death.tgid) else {
            continue;
        };
        for process in watched.ids_with_pid(pid) {
            pass_on(process, death, clocks, hints);
        }
    }
}

/// Retries the processes that did not fit the map, and sends a hint for each that does now.
fn retry_refused(armed: &Armed, watched: &WatchSet, hints: &HintSender) {
    for pid in armed
        .retry()
        .into_iter()
        .filter_map(|tgid| Pid::new(tgid).ok())
    {
        for process in watched.ids_with_pid(pid) {
            hints.send(Hint::check(process, Source::Ebpf));
        }
    }
}

/// Reads the map for every watched process, because the ring did not have all deaths.
fn scan(armed: &Armed, watched: &WatchSet, clocks: TimeNamespace, hints: &HintSender) {
    let mut after = None;
    loop {
        let slice = watched.slice_after(after, SCAN_SLICE);
        let Some(last) = slice.last() else { return };
        after = Some(last.id);
        for one in &slice {
            if let Some(death) = armed.death_of(one.pid) {
                pass_on(one.id, death, clocks, hints);
            }
        }
    }
}

/// Sends a hint. The probe's times are on the host's clock; the hint's are on ours.
fn pass_on(process: ProcessId, death: GroupDeath, clocks: TimeNamespace, hints: &HintSender) {
    let died_at_ns = clocks.own_monotonic(death.died_at_ns);
    hints.send(Hint {
        exit: Some(WaitStatus::Process(death.exit_code.cast_unsigned())),
        died_at_ns: Some(died_at_ns),
        group_dead: Some(GroupDead {
            start_time: StartTime(death.start_ticks),
            at_ns: died_at_ns,
        }),
        ..Hint::check(process, Source::Ebpf)
    });
}

#[cfg(test)]
mod tests;
