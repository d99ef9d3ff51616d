//! The proc connector: the kernel reports every thread's exit over a netlink socket.
//!
//! * **Privilege**: none on Linux 6.6 and newer; `CAP_NET_ADMIN` before. Always the initial
//!   network, pid and user namespaces. With `CAP_NET_ADMIN` the receive buffer is larger.
//! * **Minimum kernel**: any with `CONFIG_PROC_EVENTS`. The event mask needs 6.6; before, the
//!   socket filter alone keeps other events out.
//! * **What it can miss**: exits while the receive buffer is full (the kernel counts them); exits
//!   for whose message the kernel finds no memory (counted nowhere); everything, if the kernel
//!   stops sending (another client's IGNORE before 6.6, a bug in 6.6.13 to 6.6.17).
//! * **What happens then**: a full buffer is noticed at once, the loss is reported, the socket is
//!   replaced and a sweep is requested. The canary detects that the kernel has stopped sending: two
//!   misses in a row end the source, and the supervisor restarts it. Losses that are counted
//!   nowhere are left to the sweep.
//!
//! An EXIT means that one thread is gone. The main thread can leave a process that lives on, and
//! the last thread need not be the main one, so the exit of *any* thread of a watched group is a
//! hint and none is a verdict. See `filter` for why no exit is lost between registration and the
//! filter. While a process ends threads by the thousand, exits are collected for two or three
//! milliseconds.

mod filter;
#[cfg(feature = "ebpf")]
pub(super) mod map_filter;
mod refusal;
mod subscription;
mod thread_exits;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use reaper_registry::{Pid, ProcessId, Source};
use tokio::time::Instant;

use self::filter::{ClassicFilter, ExitFilter};
#[cfg(feature = "ebpf")]
use self::map_filter::MapFilter;
use self::subscription::{Drained, INTEREST, Subscription};
use self::thread_exits::ThreadExits;
use super::canary::{Canary, NO_THREAD_REMEDY};
#[cfg(feature = "ebpf")]
use super::opener;
#[cfg(feature = "ebpf")]
use super::supervisor::on_a_thread;
use super::time_namespace::TimeNamespace;
use super::{Context, SourceError};
use crate::sys::cn_proc::{Event, Exit};
use crate::sys::netlink::ConnectorSocket;
use crate::watch::hint::{Hint, HintSender, WaitStatus};
use crate::watch::set::{Arm, Watched};
use crate::watch::status::Reporter;

/// Opens a socket that has joined the group, with a receive buffer of about this size. Returns the size
/// that the kernel granted.
pub(super) fn open_socket(receive_buffer: usize) -> Result<(ConnectorSocket, usize), SourceError> {
    let mut socket = ConnectorSocket::open().map_err(|error| refusal::socket(&error))?;
    let receive_buffer = socket
        .enlarge_receive_buffer(receive_buffer)
        .map_err(|error| refusal::failed("SO_RCVBUF", &error))?;
    socket.join().map_err(|error| refusal::bind(&error))?;
    Ok((socket, receive_buffer))
}

/// Space for 20,000 exits at once (832 bytes each; the kernel doubles the requested size).
pub(crate) const RECEIVE_BUFFER: usize = 8 * 1024 * 1024;
/// How often a canary is started.
const CANARY_INTERVAL: Duration = Duration::from_secs(2);
/// How long its exit may take to arrive. Two misses in a row must fit into two periods.
const CANARY_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the source until it fails.
pub(crate) async fn run(context: Context) -> Result<Infallible, SourceError> {
    #[cfg(feature = "ebpf")]
    match on_a_thread(load_filter).await {
        Ok(Ok(filter)) => return run_with(context, filter).await,
        Ok(Err(refusal)) => log::info!("no eBPF filter for the proc connector: {refusal:#}"),
        Err(no_thread) => log::warn!("loading the connector's filter failed: {no_thread}"),
    }
    run_with(context, ClassicFilter::new(Some(std::process::id()))).await
}

#[cfg(feature = "ebpf")]
fn load_filter() -> Result<MapFilter, opener::Refusal> {
    MapFilter::new(opener::current().filter(std::process::id())?)
}

async fn run_with<F: ExitFilter + 'static>(
    context: Context,
    filter: F,
) -> Result<Infallible, SourceError> {
    let clocks = TimeNamespace::of_this_process()?;
    let filter = Arc::new(filter);
    let watched = context.watched;
    let _attachment = watched.attach(Arc::new(Arming(filter.clone())));
    let processes_with = move |pid| watched.ids_with_pid(pid);
    Listener {
        hints: context.hints,
        reporter: context.reporter,
        filter,
        processes_with,
        receive_buffer: RECEIVE_BUFFER,
        clocks,
    }
    .run()
    .await
}

/// Keeps the filter equal to the watch set.
struct Arming<F>(Arc<F>);

impl<F: ExitFilter> Arm for Arming<F> {
    fn arm(&self, watched: &Watched) {
        self.0.add(watched.pid.get(), watched.id);
    }

    fn disarm(&self, watched: &Watched) {
        self.0.remove(watched.pid.get(), watched.id);
    }
}

/// The source without the watch set, so that tests can supply their own.
struct Listener<F, W> {
    hints: HintSender,
    reporter: Reporter,
    filter: Arc<F>,
    /// Returns the watched processes under a pid: mostly one, two while a reused pid is watched
    /// twice.
    processes_with: W,
    receive_buffer: usize,
    clocks: TimeNamespace,
}

impl<F: ExitFilter, W: Fn(Pid) -> Vec<ProcessId>> Listener<F, W> {
    async fn run(self) -> Result<Infallible, SourceError> {
        let mut subscription = Subscription::open(&*self.filter, self.receive_buffer).await?;
        loop {
            let lost = tokio::select! {
                lost = self.listen(&mut subscription) => lost?,
                never = self.filter.keep_tidy() => match never {},
            };
            // Until the next canary arrives, which requests a sweep: that finds what ends
            // meanwhile.
            subscription.proven = false;
            self.reporter.lost(u64::from(lost));
            self.reporter.degraded(
                &format!("{lost} exits did not fit into the receive buffer; subscribing anew"),
                "grant CAP_NET_ADMIN or raise net.core.rmem_max if this lasts",
                self.detail(&subscription, None),
            );
            log::warn!("proc connector: {lost} exits lost; checking every process");
            subscription = self.replace(subscription).await;
        }
    }

    /// Opens a new socket in place of one that has overflowed, because the old one may stay silent
    /// (6.6.13 to 6.6.17). On every other kernel the old one works and has been emptied, so it
    /// stays if no new one can be opened or the new buffer is smaller: the daemon may have dropped
    /// its capabilities since. Either one has to pass the canary next.
    async fn replace(&self, old: Subscription) -> Subscription {
        match Subscription::open(&*self.filter, self.receive_buffer).await {
            Ok(new) if new.receive_buffer >= old.receive_buffer => return new,
            Ok(_) => {
                log::info!("proc connector: keeping the old socket, which has the larger buffer");
            }
            Err(error) => log::warn!("proc connector: keeping the old socket: {error}"),
        }
        old.install(&*self.filter);
        old
    }

    /// Passes exits on until some are lost. Returns how many were.
    async fn listen(&self, subscription: &mut Subscription) -> Result<u32, SourceError> {
        let mut canary_tracker = CanaryTracker::default();
        let mut thread_exits = ThreadExits::default();
        let mut wake_at = Instant::now();
        loop {
            let readiness = subscription.readiness().map_err(failed)?;
            let ready = tokio::select! {
                ready = readiness.ready(INTEREST) => Some(ready.map_err(failed)?),
                () = tokio::time::sleep_until(wake_at) => None,
            };
            // Before the clock is read as well: what has arrived in time must not count as late.
            let drained = subscription
                .drain(|event| self.take(event, &mut canary_tracker, &mut thread_exits))
                .map_err(failed)?;
            let forged = subscription.new_forged();
            if forged > 0 {
                self.reporter.forged(forged);
            }
            let pause = thread_exits.flush(&self.hints);
            match (drained, ready) {
                (Drained::Overrun, _) => {
                    subscription
                        .drain_all(|event| self.take(event, &mut canary_tracker, &mut thread_exits))
                        .map_err(failed)?;
                    thread_exits.flush(&self.hints);
                    // An overrun without a counted drop would be new, but is a loss all the same.
                    return Ok(subscription.new_drops().map_err(failed)?.max(1));
                }
                (Drained::Empty, Some(mut ready)) => ready.clear_ready(),
                (Drained::Empty, None) => {}
                (Drained::Partly, _) => tokio::task::yield_now().await,
            }
            if let Some(latency) = canary_tracker.latency.take() {
                self.report_proven(subscription, latency);
                wake_at = Instant::now() + CANARY_INTERVAL;
            }
            if Instant::now() >= wake_at {
                let drops = subscription.new_drops().map_err(failed)?;
                if drops > 0 {
                    return Ok(drops);
                }
                wake_at = Instant::now() + self.next_canary(subscription, &mut canary_tracker)?;
            }
            // Last, so that the clock is not read between the arrival of a message and its reading.
            if let (Some(pause), Drained::Empty) = (pause, drained) {
                drop(readiness);
                subscription.pause();
                tokio::time::sleep(pause).await;
            }
        }
    }

    fn take(
        &self,
        event: Event,
        canary_tracker: &mut CanaryTracker,
        thread_exits: &mut ThreadExits,
    ) {
        let Event::Exit(mut exit) = event else {
            return;
        };
        // The kernel sends the host's clock, in every time namespace.
        exit.timestamp_ns = self.clocks.own_monotonic(exit.timestamp_ns);
        canary_tracker.observe(&exit);
        let Ok(pid) = Pid::new(exit.tgid) else { return };
        let status = if exit.pid == exit.tgid {
            WaitStatus::MainThread(exit.wait_status)
        } else {
            WaitStatus::Worker(exit.wait_status)
        };
        let hint_for = |process| Hint {
            exit: Some(status),
            died_at_ns: Some(exit.timestamp_ns),
            ..Hint::check(process, Source::Netlink)
        };
        let hints = (self.processes_with)(pid).into_iter().map(hint_for);
        thread_exits.pass_on(hints.collect(), &self.hints);
    }

    /// A canary has arrived, so the source works.
    fn report_proven(&self, subscription: &mut Subscription, latency: Duration) {
        let first = !subscription.proven;
        subscription.proven = true;
        self.reporter.up(self.detail(subscription, Some(latency)));
        if first {
            self.hints.request_sweep();
        }
    }

    /// Starts the next canary: the last one has arrived or is overdue. Returns how long to wait for
    /// it.
    fn next_canary(
        &self,
        subscription: &mut Subscription,
        canary_tracker: &mut CanaryTracker,
    ) -> Result<Duration, SourceError> {
        match &canary_tracker.canary {
            // The machine has not scheduled it yet, which means nothing for the connector.
            Some(canary) if !canary.ran() => return Ok(CANARY_TIMEOUT),
            Some(_) => {
                canary_tracker.misses += 1;
                // It is unknown since when exits are missing, so the next proof requests a sweep,
                // and no IGNORE is sent.
                subscription.proven = false;
                if canary_tracker.misses == 2 {
                    return Err(refusal::canaries_missed());
                }
            }
            None => {}
        }
        match Canary::launch() {
            Ok(canary) => {
                canary_tracker.canary = Some(canary);
                Ok(CANARY_TIMEOUT)
            }
            Err(error) => {
                canary_tracker.canary = None;
                self.reporter.degraded(
                    &format!("cannot start a thread to prove that exits arrive: {error}"),
                    NO_THREAD_REMEDY,
                    self.detail(subscription, None),
                );
                self.hints.request_sweep();
                Ok(CANARY_INTERVAL)
            }
        }
    }

    fn detail(&self, subscription: &Subscription, canary: Option<Duration>) -> String {
        let canary = canary.map_or_else(String::new, |latency| format!("canary {}, ", ms(latency)));
        format!(
            "acknowledged in {}, {canary}buffer {}, filter {}",
            ms(subscription.acknowledged_in),
            size(subscription.receive_buffer),
            self.filter.describe(),
        )
    }
}

/// The state of the canaries.
#[derive(Default)]
struct CanaryTracker {
    /// Started, and its exit has not arrived yet.
    canary: Option<Canary>,
    misses: u32,
    /// Of the last one, until it is reported.
    latency: Option<Duration>,
}

impl CanaryTracker {
    fn observe(&mut self, exit: &Exit) {
        if let Some(latency) = self
            .canary
            .as_ref()
            .and_then(|canary| canary.latency_of(exit))
        {
            self.canary = None;
            self.misses = 0;
            self.latency = Some(latency);
        }
    }
}

fn failed(error: io::Error) -> SourceError {
    refusal::failed("recv", &error)
}

fn ms(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1_000.0)
}

fn size(bytes: usize) -> String {
    const MIB: usize = 1024 * 1024;
    if bytes >= MIB {
        format!("{} MiB", bytes / MIB)
    } else {
        format!("{} KiB", bytes / 1024)
    }
}

#[cfg(test)]
mod tests;
