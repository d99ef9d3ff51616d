//! The two processes of a daemon: monitor and worker.
//!
//! The process that was started stays as the *monitor*. It has one thread and no secret, reads nothing
//! from outside, and does four things: it waits for the worker, passes signals on to it, serves the
//! few requests of `message`, and exits with the worker's status. The *worker* is its child and runs
//! the daemon. The child is not a new program, so its memory was never open to other processes of this
//! user, not for a moment: a child of a process that is closed to them is closed from its start. A
//! descriptor of the monitor's memory, opened before its first statement, shows the monitor alone.
//!
//! A monitor that ends takes its worker with it. A worker that is killed or fails is replaced within
//! milliseconds: the monitor has duplicates of what outlives a worker (see `carried`), so that the
//! next one continues with the same sessions on the same listening socket, on which connections wait
//! meanwhile. Therefore the monitor keeps the rights to start a worker, and the system calls that a
//! worker needs: a process has no more of them than the one that started it.

mod channel;
mod message;
mod rates;
mod serve;
mod successor;

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, getppid, kill_process,
    set_parent_process_death_signal, wait,
};

use rustix::thread::CapabilitySet;

use crate::clock::monotonic_ns;
use crate::daemon::carried::{Carried, Kind};
use crate::daemon::config::readable::Readable;
use crate::daemon::signals::ENDING;
use crate::daemon::systemd::State;
use crate::daemon::{harden, sandbox};
use crate::sources::opener;
use crate::sys::fork::{Forked, fork};
use crate::sys::pidfd_memory;
use crate::sys::proc_file;
use crate::sys::signal_action::{is_ignored, restore_default};
use crate::sys::signals::{self, Blocked, Pending};
use channel::Channel;
use serve::{Answered, Kept, answer};
use successor::{End, History};

/// What the monitor passes on, SIGINT only if it is not ignored. SIGCHLD, which is its own, comes the same
/// way.
const PASSED_ON: [Signal; 6] = [
    Signal::TERM,
    Signal::INT,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
];

/// The worker's end of the channel.
static MONITOR: OnceLock<(Pid, Channel)> = OnceLock::new();

/// Which process this is after [`split`].
#[derive(Debug)]
pub(crate) enum Split {
    /// The monitor, whose last worker has ended with this code.
    Monitor(u8),
    /// A worker of this monitor, with what a former one has left.
    Worker(Pid, Carried),
    /// The only one: there can be no monitor here. The log has the reason.
    Alone(Carried),
}

/// Continues in two processes. The calling one becomes the monitor, and returns once a worker has ended
/// that is not replaced. Its child is the worker, which may become another user. An error must end the
/// process that gets it: one that went on alone would have memory that was open to others for a moment.
/// The monitor calls `as_monitor` first.
pub(crate) fn split(
    to_other_user: bool,
    carried: Carried,
    as_monitor: impl FnOnce(),
) -> io::Result<Split> {
    if let Some(namespace) = namespace_of_children() {
        log::warn!(
            "no monitor: a child would be in another {namespace} namespace than this process"
        );
        return Ok(Split::Alone(carried));
    }
    try_split(to_other_user, carried, as_monitor)
}

/// Returns the pid of the monitor, if this process is a worker.
pub(crate) fn pid() -> Option<u32> {
    let (pid, _) = MONITOR.get()?;
    Some(pid.as_raw_nonzero().get().cast_unsigned())
}

/// Lets the monitor report this state to the service manager, which expects reports of the process
/// that it has started. Returns whether this process has a monitor.
pub(crate) fn notify(state: State) -> bool {
    let Some((_, channel)) = MONITOR.get() else {
        return false;
    };
    if let Err(error) = channel.notify(state) {
        log::warn!("the monitor does not respond: {error}");
    }
    true
}

/// Opens a file through the monitor; `None` if this process has none.
pub(crate) fn open(file: Readable) -> Option<io::Result<Option<File>>> {
    let (_, channel) = MONITOR.get()?;
    Some(channel.open_readable(file))
}

/// Leaves a duplicate of this descriptor with the monitor, for the next worker. Returns whether this
/// process has a monitor that keeps it.
pub(crate) fn keep(kind: Kind, fd: BorrowedFd<'_>) -> bool {
    let Some((_, channel)) = MONITOR.get() else {
        return false;
    };
    channel
        .keep(kind, fd)
        .inspect_err(|error| log::warn!("the monitor does not keep {}: {error}", kind.name()))
        .is_ok()
}

/// Lets the monitor send the last message of a hand-over to the successor on this socket. It then ends with
/// this worker, however that ends. `None`: this process has no monitor.
pub(crate) fn let_go(successor: BorrowedFd<'_>) -> Option<io::Result<()>> {
    let (_, channel) = MONITOR.get()?;
    Some(channel.release(Some(successor)))
}

/// Tells the monitor that no other daemon has what outlives this worker. It then starts another worker if
/// need be.
pub(crate) fn retain() {
    if let Some((_, channel)) = MONITOR.get()
        && let Err(error) = channel.release(None)
    {
        log::warn!("the monitor does not respond: {error}");
    }
}

fn try_split(
    to_other_user: bool,
    carried: Carried,
    as_monitor: impl FnOnce(),
) -> io::Result<Split> {
    // Where it is ignored, the kernel reaps the worker and reports nothing.
    restore_default(Signal::CHILD)?;
    // Before the fork, so that no signal is lost and the end of the worker is seen.
    let mut signals: Vec<_> = PASSED_ON
        .into_iter()
        .filter(|signal| *signal != Signal::INT || !is_ignored(Signal::INT))
        .chain([Signal::CHILD])
        .collect();
    let blocked = Blocked::these(&signals)?;
    // With a child of its own, so its signals are blocked as well.
    if let Err(error) = pidfd_memory::try_out() {
        log::debug!("whether the kernel shows the memory of processes is unknown: {error}");
    }
    let monitor = getpid();
    let mut kept = Kept::with(carried);
    let started = blocked
        .descriptor()
        .and_then(|pending| Ok((pending, start_worker()?)));
    let (pending, mut started) = match started {
        Ok(started) => started,
        Err(error) => {
            blocked.restore()?;
            return Err(error);
        }
    };
    let mut history = History::default();
    let mut as_monitor = Some(as_monitor);
    loop {
        match started {
            Started::Worker(channel) => {
                drop(pending);
                // A request to end waits until the worker can end in order.
                signals.retain(|signal| !ENDING.contains(signal));
                signals::unblock(&signals)?;
                end_with(monitor)?;
                become_worker(monitor, channel);
                return Ok(Split::Worker(monitor, history.trusted(kept.carried)));
            }
            Started::Monitor(worker, channel) => {
                if let Some(as_monitor) = as_monitor.take() {
                    as_monitor();
                    restrict_monitor(to_other_user);
                }
                let end = watch(worker, &pending, channel, &mut kept);
                let code = history.ended(&end, kept.is_ready);
                if let Some(code) = code.or(kept.belongs_to_another().then(|| history.code())) {
                    return Ok(Split::Monitor(code));
                }
            }
        }
        kept.forget_worker();
        started = loop {
            if is_stopped_within(history.pause(), &pending, &mut kept) {
                return Ok(Split::Monitor(0));
            }
            match start_worker() {
                Ok(started) => break started,
                Err(error) => log::error!("no worker can be started: {error}"),
            }
            if let Some(code) = history.not_started() {
                return Ok(Split::Monitor(code));
            }
        };
    }
}

enum Started {
    /// In the monitor: the worker, and this end of the channel to it.
    Monitor(Pid, OwnedFd),
    /// In the worker: its end.
    Worker(OwnedFd),
}

fn start_worker() -> io::Result<Started> {
    let (ours, workers) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    Ok(match fork()? {
        Forked::Parent(worker) => Started::Monitor(worker, ours),
        Forked::Child => Started::Worker(workers),
    })
}

/// Takes from the monitor what neither it nor a worker needs.
fn restrict_monitor(to_other_user: bool) {
    sandbox::empty_bounding_set();
    harden::keep_also(if to_other_user {
        // To pass signals on, and to start further workers as that user.
        CapabilitySet::KILL | CapabilitySet::SETUID | CapabilitySet::SETGID
    } else {
        CapabilitySet::empty()
    });
    sandbox::restrict_calls(sandbox::Role::Monitor);
}

fn become_worker(monitor: Pid, channel: OwnedFd) {
    let channel = Channel::new(channel);
    opener::replace(channel.clone());
    proc_file::use_deputy(channel.clone());
    MONITOR.get_or_init(|| (monitor, channel));
}

/// Makes the kernel kill this process when the monitor ends.
pub(crate) fn end_with(monitor: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // Checked afterwards, because the monitor may have ended before the call.
    if getppid() == Some(monitor) {
        return Ok(());
    }
    kill_process(getpid(), Signal::KILL)?;
    Ok(())
}

/// Serves the worker until it has ended.
fn watch(worker: Pid, pending: &Pending, channel: OwnedFd, kept: &mut Kept) -> End {
    let mut channel = Some(channel);
    let mut passed_on = Vec::new();
    loop {
        let mut polled = vec![PollFd::new(pending, PollFlags::IN)];
        polled.extend(channel.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => log::error!("the monitor cannot wait for events: {errno}"),
        }
        let is_request = polled.get(1).is_some_and(|fd| !fd.revents().is_empty());
        if let Some(status) = take_signals(worker, pending, &mut passed_on, kept) {
            // What it has left in the channel counts: it may have handed over a descriptor just now.
            while channel
                .as_ref()
                .is_some_and(|fd| answer(fd, kept) == Answered::One)
            {}
            return End {
                code: status.exit_status(),
                signal: status.terminating_signal(),
                passed_on,
            };
        }
        let was_ready = kept.is_ready;
        if is_request
            && channel
                .as_ref()
                .is_some_and(|fd| answer(fd, kept) == Answered::Closed)
        {
            // The worker is about to end.
            channel = None;
        }
        if kept.is_ready && !was_ready && kept.is_reload_due {
            pass_on(worker, Signal::HUP);
        }
    }
}

/// Passes pending signals on, and the second request to end as SIGQUIT. Returns the worker's status if it
/// has ended.
fn take_signals(
    worker: Pid,
    pending: &Pending,
    passed_on: &mut Vec<Signal>,
    kept: &mut Kept,
) -> Option<WaitStatus> {
    loop {
        match pending.take() {
            Ok(Some(Signal::CHILD)) => {
                if let Some(status) = ended(Some(worker)) {
                    return Some(status);
                }
            }
            Ok(Some(Signal::HUP)) => {
                kept.is_reload_due = true;
                // A worker that starts gets it once it serves.
                if kept.is_ready {
                    passed_on.push(Signal::HUP);
                    pass_on(worker, Signal::HUP);
                }
            }
            Ok(Some(mut signal)) => {
                let is_end = |it: &Signal| [Signal::TERM, Signal::INT].contains(it);
                if is_end(&signal) && passed_on.iter().any(is_end) {
                    signal = Signal::QUIT;
                }
                passed_on.push(signal);
                pass_on(worker, signal);
            }
            Ok(None) => return None,
            Err(error) => {
                log::error!("the monitor cannot read its signals: {error}");
                return None;
            }
        }
    }
}

fn pass_on(worker: Pid, signal: Signal) {
    if let Err(errno) = kill_process(worker, signal) {
        log::warn!("{signal:?} cannot be passed on to the worker: {errno}");
    }
}

/// Reaps the children that have ended. Returns the worker's status if it is one of them. As pid 1 the
/// monitor has the orphans of its namespace as children.
fn ended(worker: Option<Pid>) -> Option<WaitStatus> {
    let mut of_worker = None;
    while let Ok(Some((child, status))) = wait(WaitOptions::NOHANG) {
        if Some(child) == worker {
            of_worker = Some(status);
        } else {
            log::debug!("orphaned process {} has ended", child.as_raw_nonzero());
        }
    }
    of_worker
}

/// Waits this long between two workers. Returns whether a signal that ends the daemon came meanwhile.
fn is_stopped_within(pause: Duration, pending: &Pending, kept: &mut Kept) -> bool {
    let deadline = monotonic_ns() + u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
    loop {
        while let Ok(Some(signal)) = pending.take() {
            match signal {
                Signal::TERM | Signal::INT | Signal::QUIT => {
                    log::info!("{signal:?}: stopping");
                    return true;
                }
                Signal::CHILD => drop(ended(None)),
                Signal::HUP => kept.is_reload_due = true,
                _ => {}
            }
        }
        let left = Duration::from_nanos(deadline.saturating_sub(monotonic_ns()));
        let Ok(left) = Timespec::try_from(left) else {
            return false;
        };
        if left == Timespec::default() {
            return false;
        }
        let mut polled = [PollFd::new(pending, PollFlags::IN)];
        if let Err(errno) = poll(&mut polled, Some(&left))
            && errno != Errno::INTR
        {
            return false;
        }
    }
}

/// Returns the kind of the namespace in which children of this process are, if it is not in it itself.
fn namespace_of_children() -> Option<&'static str> {
    let link = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).ok();
    let differs = |kind: &&str| {
        let of_children = link(&format!("{kind}_for_children"));
        of_children.is_some() && of_children != link(kind)
    };
    ["pid", "time"].into_iter().find(differs)
}
