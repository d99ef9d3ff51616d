//! Pidfds: one epoll set has the pidfd of every watched process and is itself one registration with
//! the async runtime. So a thousand processes cost one wake-up each and no task.
//!
//! - Privilege: none. Minimum kernel: Linux 5.3.
//! - What it can miss: processes without a pidfd, because the descriptor budget is spent or the
//!   system refuses pidfds, and those for which the kernel has no space in the epoll set; the
//!   status counts both. The pidfd becomes readable late if a tracer keeps the dead threads of a
//!   process, and for a killed init of a pid namespace that waits for its namespace.
//! - What happens then: other sources see the exit, and the sweep does in any case. Additions to
//!   the epoll set are retried every few seconds.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reaper_registry::{Pid, ProcessId, Source};
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use super::{Context, SourceError};
use crate::sys::process_table::ProcessTable;
use crate::sys::readiness_of;
use crate::watch::fd_budget::FdBudget;
use crate::watch::hint::{Hint, HintSender};
use crate::watch::set::{Arm, WatchSet, Watched};
use crate::watch::status::Reporter;

/// How many dead processes one call of `epoll_wait` reports.
const BATCH: usize = 256;
/// How often a refused addition to the epoll set is retried.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Runs until the epoll set fails.
pub(crate) async fn run(context: Context) -> Result<Infallible, SourceError> {
    let Context {
        hints,
        watched,
        reporter,
    } = context;
    probe(watched.table.as_ref())?;
    let set = Arc::new(PidfdSet::new(watched.budget.clone())?);
    let readiness = set
        .epoll
        .try_clone()
        .and_then(|epoll| readiness_of(epoll, Interest::READABLE))
        .map_err(refused)?;
    let _attachment = watched.attach(set.clone());
    set.report_to(&reporter);
    hints.request_sweep();

    let mut retries = interval(RETRY_INTERVAL);
    retries.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            guard = readiness.readable() => {
                let mut guard = guard.map_err(refused)?;
                if pass_on_ready(&set.epoll, &hints).map_err(refused)? < BATCH {
                    guard.clear_ready();
                }
            }
            () = set.changed.notified() => set.report_to(&reporter),
            _ = retries.tick(), if set.has_refused() => set.retry(&watched),
        }
    }
}

/// Sends hints for pidfds that are readable now, at most [`BATCH`]. Returns how many there were.
fn pass_on_ready(epoll: &OwnedFd, hints: &HintSender) -> io::Result<usize> {
    let mut events = [Event {
        flags: EventFlags::empty(),
        data: EventData::new_u64(0),
    }; BATCH];
    let ready = epoll::wait(epoll, &mut events[..], Some(&Timespec::default()))?;
    for event in &events[..ready] {
        let process = ProcessId(event.data.u64());
        hints.send(Hint::check(process, Source::Pidfd));
    }
    Ok(ready)
}

/// Tries a pidfd of this process. Pidfds may be absent (before 5.3) or forbidden (a seccomp
/// filter).
fn probe(table: &dyn ProcessTable) -> Result<(), SourceError> {
    let ourselves =
        Pid::new(std::process::id()).map_err(|error| SourceError::new(error.to_string(), ""))?;
    match table.pidfd_open(ourselves) {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Err(SourceError::new(
            "this kernel has no pidfds",
            "run on Linux 5.3 or newer",
        )),
        Err(error) => Err(SourceError::new(
            format!("pidfd_open is refused: {error}"),
            "allow pidfd_open in the seccomp profile, or raise the limit of open descriptors",
        )),
    }
}

fn refused(error: io::Error) -> SourceError {
    SourceError::new(
        format!("epoll failed: {error}"),
        "raise the limit of open descriptors",
    )
}

struct PidfdSet {
    epoll: OwnedFd,
    budget: Arc<FdBudget>,
    unwatched: Mutex<Unwatched>,
    /// Notified when the status changes. The source's own task reports it: a report may call the
    /// embedder, which must not happen under a lock or within a registration.
    changed: Notify,
}

/// Processes that this source cannot see.
#[derive(Default)]
struct Unwatched {
    without_pidfd: BTreeSet<ProcessId>,
    /// The kernel has no space for them in the epoll set.
    refused: BTreeSet<ProcessId>,
}

impl PidfdSet {
    fn new(budget: Arc<FdBudget>) -> Result<Self, SourceError> {
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|errno| refused(errno.into()))?;
        Ok(Self {
            epoll,
            budget,
            unwatched: Mutex::default(),
            changed: Notify::new(),
        })
    }

    fn unwatched(&self) -> MutexGuard<'_, Unwatched> {
        self.unwatched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the result of arming a process, and has a change reported.
    fn note(&self, process: ProcessId, armed: Armed) {
        let changed = {
            let mut unwatched = self.unwatched();
            let without_pidfd = set(
                &mut unwatched.without_pidfd,
                process,
                armed == Armed::WithoutPidfd,
            );
            let refused = set(&mut unwatched.refused, process, armed == Armed::Refused);
            without_pidfd || refused
        };
        if changed {
            self.changed.notify_one();
        }
    }

    fn has_refused(&self) -> bool {
        !self.unwatched().refused.is_empty()
    }

    /// Retries what the kernel refused. The pidfd of a process that has ended meanwhile is
    /// readable.
    fn retry(&self, watched: &WatchSet) {
        let refused = self.unwatched().refused.clone();
        for process in refused.into_iter().filter_map(|id| watched.get(id)) {
            watched.arm_if_watched(self, &process);
        }
    }

    fn report_to(&self, reporter: &Reporter) {
        let (without_pidfd, refused) = {
            let unwatched = self.unwatched();
            (unwatched.without_pidfd.len(), unwatched.refused.len())
        };
        let limit = self.budget.limit();
        if refused > 0 {
            reporter.degraded(
                "the kernel refuses to watch some pidfds",
                "raise fs.epoll.max_user_watches",
                format!("budget of {limit} descriptors, {refused} pidfds not watched"),
            );
        } else if without_pidfd > 0 {
            reporter.degraded(
                "some processes are watched without a pidfd",
                "raise the limit of open descriptors (LimitNOFILE=)",
                format!("budget of {limit} descriptors, {without_pidfd} processes without one"),
            );
        } else {
            reporter.up(format!("budget of {limit} descriptors"));
        }
    }
}

/// Makes `process` a member or not. Returns whether that is a change.
fn set(members: &mut BTreeSet<ProcessId>, process: ProcessId, is_member: bool) -> bool {
    if is_member {
        members.insert(process)
    } else {
        members.remove(&process)
    }
}

/// The result of arming one process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Armed {
    Watched,
    WithoutPidfd,
    Refused,
}

impl Arm for PidfdSet {
    fn arm(&self, watched: &Watched) {
        let armed = watched.with_pidfd(|pidfd| {
            let Some(pidfd) = pidfd else {
                return Armed::WithoutPidfd;
            };
            // Edge-triggered: a pidfd stays readable from the exit until it is closed. Not only the
            // first wake-up, because that one may be spurious; see `verdict`.
            let edge_triggered = EventFlags::IN | EventFlags::ET;
            match epoll::add(
                &self.epoll,
                pidfd,
                EventData::new_u64(watched.id.0),
                edge_triggered,
            ) {
                Ok(()) | Err(Errno::EXIST) => Armed::Watched,
                Err(error) => {
                    log::debug!("the pidfd of {} cannot be watched: {error}", watched.pid);
                    Armed::Refused
                }
            }
        });
        self.note(watched.id, armed);
    }

    fn disarm(&self, watched: &Watched) {
        watched.with_pidfd(|pidfd| {
            // Closing it would do the same, but other code may have a reference for a moment
            // longer.
            if let Some(Err(error)) = pidfd.map(|fd| epoll::delete(&self.epoll, fd)) {
                log::debug!("pid {} was not in the epoll set: {error}", watched.pid);
            }
        });
        self.note(watched.id, Armed::Watched);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;
    use crate::sys::process_table;
    use crate::testing::{Sleeper, skip_without};
    use crate::watch::hint;
    use crate::watch::set::WatchGuard;

    fn descriptor(guard: &WatchGuard) -> i32 {
        let raw = guard.watched.with_pidfd(|pidfd| Some(pidfd?.as_raw_fd()));
        raw.expect("it has a pidfd")
    }

    /// A ready pidfd of a released entry causes no hint: neither for its process, while there is a
    /// reference to the entry, nor for the next process with that descriptor.
    #[test]
    fn a_reused_descriptor_causes_no_hint_for_its_former_process() {
        let (hints, mut received) = hint::channel();
        let budget = FdBudget::new(4);
        let table = process_table::of_this_system();
        if let Err(refused) = probe(table.as_ref()) {
            return skip_without("pidfd", refused);
        }
        let watched = WatchSet::new(table, budget.clone(), hints.clone());
        let set = Arc::new(PidfdSet::new(budget).unwrap());
        let _attachment = watched.attach(set.clone());
        // Other tests open descriptors in between.
        let is_reused = (0..100).any(|_| {
            let mut first = Sleeper::start();
            let guard = watched.watch(first.pid()).unwrap();
            let before = descriptor(&guard);
            first.end();
            let reference = guard.watched.clone();
            drop(guard);
            assert_eq!(pass_on_ready(&set.epoll, &hints).unwrap(), 0);
            let mut second = Sleeper::start();
            drop(reference);
            let guard = watched.watch(second.pid()).unwrap();
            assert_eq!(pass_on_ready(&set.epoll, &hints).unwrap(), 0);
            let after = descriptor(&guard);
            second.end();
            assert_eq!(pass_on_ready(&set.epoll, &hints).unwrap(), 1);
            let hint = received.try_recv().unwrap();
            assert_eq!(hint.process, guard.watched.id);
            after == before
        });
        assert!(is_reused, "no descriptor was reused");
    }
}
