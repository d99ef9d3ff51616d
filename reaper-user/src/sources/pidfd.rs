//! Source: pidfds. One epoll set holds the pidfd of every watched process and is itself one
//! registration with the async runtime, so that a thousand processes cost one wake-up each and no
//! task.
//!
//! - Privilege: none. Minimum kernel: Linux 5.3.
//! - What it can miss: processes that are watched without a pidfd, because the descriptor budget is
//!   spent or the system refuses pidfds. The state says how many those are.
//! - What happens then: other sources see them, and the sweep does in any case.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use reaper_registry::{Pid, ProcessId, Source};
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::Errno;
use tokio::io::Interest;

use super::{Context, SourceError};
use crate::fd_budget::FdBudget;
use crate::hint::{Hint, HintSender, Target};
use crate::process_table::ProcessTable;
use crate::status::Reporter;
use crate::sys::readiness_of;
use crate::watch::{Arm, Watched};

/// How many dead processes one call of `epoll_wait` reports.
const BATCH: usize = 256;

/// Runs until the epoll set fails.
pub async fn run(context: Context) -> Result<Infallible, SourceError> {
    let Context {
        hints,
        watched,
        reporter,
    } = context;
    probe(watched.table.as_ref())?;
    let set = Arc::new(PidfdSet::new(reporter, watched.budget.clone())?);
    let readiness = set
        .epoll
        .try_clone()
        .and_then(|epoll| readiness_of(epoll, Interest::READABLE))
        .map_err(refused)?;
    let _attachment = watched.attach(set.clone());
    set.report_now();
    hints.verify_all();

    loop {
        let mut guard = readiness.readable().await.map_err(refused)?;
        if pass_on_ready(&set.epoll, &hints).map_err(refused)? < BATCH {
            guard.clear_ready();
        }
    }
}

/// Hints at those that are readable now, at most [`BATCH`] of them; answers how many there were.
fn pass_on_ready(epoll: &OwnedFd, hints: &HintSender) -> io::Result<usize> {
    let mut events = [Event {
        flags: EventFlags::empty(),
        data: EventData::new_u64(0),
    }; BATCH];
    let ready = epoll::wait(epoll, &mut events[..], Some(&Timespec::default()))?;
    for event in &events[..ready] {
        let process = ProcessId(event.data.u64());
        hints.send(Hint::look(Target::Process(process), Source::Pidfd));
    }
    Ok(ready)
}

/// Pidfds may be absent (before 5.3) or forbidden (a seccomp filter): try one on ourselves.
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
    reporter: Reporter,
    budget: Arc<FdBudget>,
    without_pidfd: Mutex<BTreeSet<ProcessId>>,
}

impl PidfdSet {
    fn new(reporter: Reporter, budget: Arc<FdBudget>) -> Result<Self, SourceError> {
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|errno| refused(errno.into()))?;
        Ok(Self {
            epoll,
            reporter,
            budget,
            without_pidfd: Mutex::default(),
        })
    }

    /// Keeps note of who cannot be seen here; reports when that changes.
    fn note(&self, process: ProcessId, has_pidfd: bool) {
        let mut without = self
            .without_pidfd
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let changed = if has_pidfd {
            without.remove(&process)
        } else {
            without.insert(process)
        };
        if changed {
            self.report(without.len());
        }
    }

    fn report_now(&self) {
        let without = self
            .without_pidfd
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.report(without.len());
    }

    fn report(&self, without: usize) {
        let limit = self.budget.limit();
        let detail = format!("budget of {limit} descriptors, {without} processes without one");
        if without == 0 {
            self.reporter.up(format!("budget of {limit} descriptors"));
        } else {
            self.reporter.degraded(
                "some processes are watched without a pidfd",
                "raise the limit of open descriptors (LimitNOFILE=)",
                detail,
            );
        }
    }
}

impl Arm for PidfdSet {
    fn arm(&self, watched: &Watched) {
        let armed = watched.with_pidfd(|pidfd| {
            // One shot: a pidfd becomes readable at the exit and hangs up at the reaping, and stays
            // readable until it is closed. The first time is all that is wanted.
            let once = EventFlags::IN | EventFlags::ONESHOT;
            pidfd.map(|fd| epoll::add(&self.epoll, fd, EventData::new_u64(watched.id.0), once))
        });
        let has_pidfd = matches!(armed, Some(Ok(()) | Err(Errno::EXIST)));
        self.note(watched.id, has_pidfd);
    }

    fn disarm(&self, watched: &Watched) {
        watched.with_pidfd(|pidfd| {
            // Closing it would do the same, but somebody may hold the entry a moment longer.
            if let Some(Err(error)) = pidfd.map(|fd| epoll::delete(&self.epoll, fd)) {
                log::debug!("pid {} was not in the epoll set: {error}", watched.pid);
            }
        });
        self.note(watched.id, true);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;
    use crate::hint;
    use crate::process_table;
    use crate::status::StatusBoard;
    use crate::testing::{Sleeper, skip_without};
    use crate::watch::{Hold, WatchSet};

    fn descriptor(hold: &Hold) -> i32 {
        let raw = hold.watched.with_pidfd(|pidfd| Some(pidfd?.as_raw_fd()));
        raw.expect("it is pinned by a pidfd")
    }

    /// What is ready and was let go of is said of nobody: not of the one who was let go of, though
    /// somebody holds its entry, and not of the next one with its descriptor.
    #[test]
    fn a_descriptor_that_is_used_again_says_nothing_of_who_had_it_before() {
        let (hints, mut told) = hint::channel();
        let board = StatusBoard::new(|_| {});
        let budget = FdBudget::new(4);
        let table = process_table::of_this_system();
        if let Err(refused) = probe(table.as_ref()) {
            return skip_without("pidfd", refused);
        }
        let watched = WatchSet::new(table, budget.clone(), hints.clone());
        let set = Arc::new(PidfdSet::new(board.reporter(Source::Pidfd), budget).unwrap());
        let _attachment = watched.attach(set.clone());
        // Other tests open descriptors in between.
        let used_again = (0..100).any(|_| {
            let mut first = Sleeper::start();
            let hold = watched.hold(first.pid()).unwrap();
            let before = descriptor(&hold);
            first.end();
            let held_longer = hold.watched.clone();
            drop(hold);
            assert_eq!(pass_on_ready(&set.epoll, &hints).unwrap(), 0);
            let mut second = Sleeper::start();
            drop(held_longer);
            let hold = watched.hold(second.pid()).unwrap();
            assert_eq!(pass_on_ready(&set.epoll, &hints).unwrap(), 0);
            let after = descriptor(&hold);
            second.end();
            assert_eq!(pass_on_ready(&set.epoll, &hints).unwrap(), 1);
            let hint = told.try_recv().unwrap();
            assert_eq!(hint.target, Target::Process(hold.watched.id));
            after == before
        });
        assert!(used_again, "the same descriptor never came again");
    }
}
