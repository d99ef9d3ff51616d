//! One fault for one daemon: the Nth of some calls fails, or all from the Nth on, counted over all
//! its threads. Nothing in the daemon knows of it: a seccomp filter, inherited from the thread that
//! starts it, has each of these calls wait for the word of a supervising thread.

use std::io;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use reaper_tests::expect::skip;
use reaper_tests::sys::seccomp::{Call, Listener, Received, Waiting, deny, listen, pretend};
use reaperd::testkit::conformance::kernel_before;
use rustix::io::Errno;

/// The option of prctl(2) with which the daemon gives up rights: the first call that it makes by
/// itself. What the loader and the language's runtime did until then is not ours to break.
const NO_NEW_PRIVS: u32 = libc::PR_SET_NO_NEW_PRIVS.cast_unsigned();
/// How often the supervisor looks whether it is still needed.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// From when on calls are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    Start,
    /// The test says when it has come to these: [`Injection::reached`].
    Serving,
    Watching,
}

/// What is to fail.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) calls: Vec<Call>,
    pub(crate) errno: Errno,
    pub(crate) since: Since,
    /// From 1.
    pub(crate) nth: usize,
    /// All that follow fail too, until it is lifted.
    pub(crate) lasts: bool,
}

/// A call that is never made, and what it is answered with; `None`: success.
pub(crate) type Denied = (Call, Option<Errno>);

/// The fault in force, and its supervisor.
pub(crate) struct Injection {
    shared: Arc<Shared>,
    to_supervisor: Option<SyncSender<Listener>>,
    supervisor: Option<JoinHandle<()>>,
}

struct Shared {
    fault: Fault,
    counting: AtomicBool,
    lifted: AtomicBool,
    over: AtomicBool,
    /// Calls since counting began.
    made: AtomicUsize,
}

impl Injection {
    pub(crate) fn new(fault: Fault) -> Self {
        let shared = Arc::new(Shared {
            fault,
            counting: AtomicBool::new(false),
            lifted: AtomicBool::new(false),
            over: AtomicBool::new(false),
            made: AtomicUsize::new(0),
        });
        // With room for the listener: the thread that sends it may allocate nothing any more, as
        // the call for that could be one that waits for the supervisor.
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

    /// Starts a program under it, one for which these calls are always denied as well.
    pub(crate) fn spawn(&mut self, command: &mut Command, denied: &[Denied]) -> io::Result<Child> {
        let to_supervisor = self.to_supervisor.take().expect("one program a fault");
        let mut calls = self.shared.fault.calls.clone();
        calls.push(Call::from(libc::SYS_prctl).with(0, NO_NEW_PRIVS));
        on_a_thread_of_its_own(|| {
            deny_all(denied)?;
            let listener = listen(&calls)?;
            to_supervisor
                .send(listener)
                .expect("the supervisor waits for it");
            command.spawn()
        })
    }

    /// The daemon has come so far.
    pub(crate) fn reached(&self, harness: Since) {
        if self.shared.fault.since == harness {
            self.shared.counting.store(true, Ordering::Release);
        }
    }

    /// From here on nothing fails.
    pub(crate) fn lift(&self) {
        self.shared.lifted.store(true, Ordering::Release);
    }

    /// Calls since counting began.
    pub(crate) fn made(&self) -> usize {
        self.shared.made.load(Ordering::Acquire)
    }

    /// Whether calls are counted as they should be by now: a fault since the start begins with a
    /// call that the daemon must make, or it would never strike and look harmless.
    pub(crate) fn is_counting(&self) -> bool {
        let since_start = self.shared.fault.since == Since::Start;
        !since_start || self.shared.counting.load(Ordering::Acquire)
    }

    /// Whether the call that was to fail was made.
    pub(crate) fn has_struck(&self) -> bool {
        self.made() >= self.shared.fault.nth
    }
}

/// The daemon has ended, or is about to be killed: to be declared before the daemon, so that it is
/// dropped after it.
impl Drop for Injection {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
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
        // None: the program was never started.
        let Ok(listener) = listener.recv() else {
            return;
        };
        while !self.over.load(Ordering::Acquire) {
            match listener.receive(LOOK_EVERY).expect("calls are received") {
                Received::Call(call) if self.is_to_fail(call) => {
                    listener.fail(call, self.fault.errno)
                }
                Received::Call(call) => listener.let_pass(call),
                Received::Nothing => Ok(()),
                Received::Over => return,
            }
            .expect("calls are answered");
        }
    }

    fn is_to_fail(&self, call: Waiting) -> bool {
        let is_sign =
            call.number == libc::SYS_prctl && call.arguments[0] == u64::from(NO_NEW_PRIVS);
        if is_sign && self.fault.since == Since::Start {
            self.counting.store(true, Ordering::Release);
        }
        let is_of_fault = self.fault.calls.iter().any(|it| it.number == call.number);
        if !is_of_fault {
            return false;
        }
        if !self.counting.load(Ordering::Acquire) {
            return false;
        }
        let made = self.made.fetch_add(1, Ordering::AcqRel) + 1;
        let is_meant = made == self.fault.nth || self.fault.lasts && made > self.fault.nth;
        is_meant && !self.lifted.load(Ordering::Acquire)
    }
}

/// Starts a program for which these calls are denied, from its first instruction on.
pub(crate) fn spawn_denied(command: &mut Command, denied: &[Denied]) -> io::Result<Child> {
    on_a_thread_of_its_own(|| {
        deny_all(denied)?;
        command.spawn()
    })
}

fn deny_all(denied: &[Denied]) -> io::Result<()> {
    denied.iter().try_for_each(|(call, errno)| match errno {
        Some(errno) => deny(&[*call], *errno),
        None => pretend(&[*call]),
    })
}

/// A filter stays on its thread; so that thread ends when the program has been started.
fn on_a_thread_of_its_own<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join().expect("it does not panic"))
}

/// Whether faults can be injected here; says why not.
pub(crate) fn is_possible() -> bool {
    let tried = on_a_thread_of_its_own(|| listen(&[libc::SYS_pidfd_open.into()]).map(drop));
    // The listener has come with 5.0 and "go on" with 5.5. The latter has no probe of its own.
    let answers = !kernel_before(5, 5);
    match tried {
        Ok(()) if answers => true,
        Ok(()) => {
            skip("this kernel's seccomp cannot let a call pass after a look");
            false
        }
        Err(error) => {
            skip(format_args!("no seccomp listener: {error}"));
            false
        }
    }
}
