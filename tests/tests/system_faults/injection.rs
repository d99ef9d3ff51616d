//! Injects one fault into one daemon: the Nth of some calls fails, or all from the Nth on, counted
//! over all its threads. The daemon needs no test support: it inherits a seccomp filter from the
//! thread that starts it, and the filter makes each of these calls wait for a supervisor thread
//! (`seccomp_unotify(2)`).

use std::io;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use reaper_tests::expect::skip;
use reaper_tests::sys::seccomp::{
    Call, Denied, Listener, Received, Waiting, deny_all, listen, on_new_thread,
};
use reaperd::testkit::conformance::kernel_before;
use rustix::io::Errno;

/// The option of prctl(2) with which the daemon gives up rights. It is the first call of its own
/// code; earlier calls, of the loader and the Rust runtime, are not failed.
const NO_NEW_PRIVS: u32 = libc::PR_SET_NO_NEW_PRIVS.cast_unsigned();
/// How often the supervisor checks whether it is still needed.
const CHECK_EVERY: Duration = Duration::from_millis(50);

/// The phase of the run from which on calls are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    Start,
    /// The test reports these with [`Injection::reached`].
    Serving,
    Watching,
}

/// The calls that fail.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) calls: Vec<Call>,
    pub(crate) errno: Errno,
    pub(crate) since: Since,
    /// Counted from 1.
    pub(crate) nth: usize,
    /// All later calls fail too, until the fault is lifted.
    pub(crate) lasts: bool,
}

/// An active fault and its supervisor. Declare it before the daemon, so that it is dropped after
/// it.
pub(crate) struct Injection {
    shared: Arc<Shared>,
    to_supervisor: Option<SyncSender<Listener>>,
    supervisor: Option<JoinHandle<()>>,
}

struct Shared {
    fault: Fault,
    counting: AtomicBool,
    lifted: AtomicBool,
    stopped: AtomicBool,
    /// Calls since counting began.
    calls: AtomicUsize,
}

impl Injection {
    pub(crate) fn new(fault: Fault) -> Self {
        let shared = Arc::new(Shared {
            fault,
            counting: AtomicBool::new(false),
            lifted: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
        });
        // Bounded and preallocated: the thread that sends the listener must not allocate any more,
        // because the call for that could be one that waits for the supervisor.
        let (to_supervisor, listener) = sync_channel(1);
        let supervisor = thread::spawn({
            let shared = shared.clone();
            move || shared.supervise(&listener)
        });
        Self {
            shared,
            to_supervisor: Some(to_supervisor),
            supervisor: Some(supervisor),
        }
    }

    /// Starts a program with this fault. The calls in `denied` always fail as well.
    pub(crate) fn spawn(&mut self, command: &mut Command, denied: &[Denied]) -> io::Result<Child> {
        let to_supervisor = self.to_supervisor.take().expect("one program per fault");
        let mut calls = self.shared.fault.calls.clone();
        calls.push(Call::from(libc::SYS_prctl).with(0, NO_NEW_PRIVS));
        on_new_thread(|| {
            deny_all(denied)?;
            let listener = listen(&calls)?;
            to_supervisor
                .send(listener)
                .expect("the supervisor waits for the listener");
            command.spawn()
        })
    }

    /// Reports that the daemon has reached this phase.
    pub(crate) fn reached(&self, phase: Since) {
        if self.shared.fault.since == phase {
            self.shared.counting.store(true, Ordering::Release);
        }
    }

    /// Ends the fault: no later call fails.
    pub(crate) fn lift(&self) {
        self.shared.lifted.store(true, Ordering::Release);
    }

    /// Whether calls are counted by now. A fault since the start counts from a call that the daemon
    /// must make; without it the fault would never be injected and would look harmless.
    pub(crate) fn is_counting(&self) -> bool {
        let since_start = self.shared.fault.since == Since::Start;
        !since_start || self.shared.counting.load(Ordering::Acquire)
    }

    /// Whether the fault has been injected, so that at least one call has failed.
    pub(crate) fn has_happened(&self) -> bool {
        self.shared.calls.load(Ordering::Acquire) >= self.shared.fault.nth
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.to_supervisor.take();
        let ended = self.supervisor.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(
                matches!(ended, None | Some(Ok(()))),
                "the supervisor panicked"
            );
        }
    }
}

impl Shared {
    fn supervise(&self, listener: &Receiver<Listener>) {
        // An error means that the program was never started.
        let Ok(listener) = listener.recv() else {
            return;
        };
        while !self.stopped.load(Ordering::Acquire) {
            match listener.receive(CHECK_EVERY).expect("calls are received") {
                Received::Call(call) if self.must_fail(call) => {
                    listener.fail(call, self.fault.errno)
                }
                Received::Call(call) => listener.let_pass(call),
                Received::Nothing => Ok(()),
                Received::Over => return,
            }
            .expect("the reply is sent");
        }
    }

    fn must_fail(&self, call: Waiting) -> bool {
        let is_first_call =
            call.number == libc::SYS_prctl && call.arguments[0] == u64::from(NO_NEW_PRIVS);
        if is_first_call && self.fault.since == Since::Start {
            self.counting.store(true, Ordering::Release);
        }
        let is_of_fault = self.fault.calls.iter().any(|it| it.number == call.number);
        if !is_of_fault {
            return false;
        }
        if !self.counting.load(Ordering::Acquire) {
            return false;
        }
        let count = self.calls.fetch_add(1, Ordering::AcqRel) + 1;
        let is_due = count == self.fault.nth || self.fault.lasts && count > self.fault.nth;
        is_due && !self.lifted.load(Ordering::Acquire)
    }
}

/// Whether faults can be injected here. If not, skips with the reason.
pub(crate) fn is_possible() -> bool {
    let tried = on_new_thread(|| listen(&[libc::SYS_pidfd_open.into()]).map(drop));
    // The listener came with 5.0 and SECCOMP_USER_NOTIF_FLAG_CONTINUE with 5.5. The latter cannot
    // be detected separately.
    let can_continue = !kernel_before(5, 5);
    let reason = match tried {
        Ok(()) if can_continue => return true,
        Ok(()) => "this kernel's seccomp cannot let a call continue".to_owned(),
        Err(error) => format!("no seccomp listener: {error}"),
    };
    skip(reason);
    false
}
