//! The two processes of a daemon: monitor and worker.
//!
//! The process that was started stays as the *monitor*. It has one thread and no secret, reads nothing
//! from outside, and does four things: it waits for the worker, passes signals on to it, serves the
//! few requests of `message`, and exits with the worker's status. The *worker* is its child and runs
//! the daemon. The child is not a new program, so its memory was never open to other processes of this
//! user, not for a moment: a child of a process that is closed to them is closed from its start. A
//! descriptor of the monitor's memory, opened before its first statement, shows the monitor alone.
//!
//! Neither process outlives the other. A worker that ends is not replaced.

mod channel;
mod message;
mod rates;
mod serve;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, getppid, kill_process,
    set_parent_process_death_signal, wait,
};

use rustix::thread::CapabilitySet;

use crate::daemon::config::readable::Readable;
use crate::daemon::systemd::State;
use crate::daemon::{harden, sandbox};
use crate::sources::opener;
use crate::sys::fork::{Forked, fork};
use crate::sys::proc_file;
use crate::sys::signal_action::is_ignored;
use crate::sys::signals::{self, Blocked, Pending};
use channel::Channel;
use serve::{Kept, answer};

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
/// A process that a signal ended has this status plus the signal's number, as in shells.
const KILLED: i32 = 128;

/// The worker's end of the channel.
static MONITOR: OnceLock<(Pid, Channel)> = OnceLock::new();

/// Which process this is after [`split`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    /// The monitor, whose worker has ended with this code.
    Monitor(u8),
    /// The worker of this monitor.
    Worker(Pid),
    /// The only one: there can be no monitor here. The log has the reason.
    Alone,
}

/// Continues in two processes. The calling one becomes the monitor, and returns once the worker has
/// ended. Its child is the worker, which may become another user. An error must end the process that
/// gets it: one that went on alone would have memory that was open to others for a moment.
pub(crate) fn split(to_other_user: bool) -> io::Result<Split> {
    if let Some(namespace) = namespace_of_children() {
        log::warn!(
            "no monitor: a child would be in another {namespace} namespace than this process"
        );
        return Ok(Split::Alone);
    }
    try_split(to_other_user)
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

fn try_split(to_other_user: bool) -> io::Result<Split> {
    let (ours, workers) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // Where it is ignored, the kernel reaps the worker and reports nothing.
    signals::restore_default(Signal::CHILD)?;
    // Before the fork, so that no signal is lost and the end of the worker is seen.
    let signals: Vec<_> = PASSED_ON
        .into_iter()
        .filter(|signal| *signal != Signal::INT || !is_ignored(Signal::INT))
        .chain([Signal::CHILD])
        .collect();
    let blocked = Blocked::these(&signals)?;
    let monitor = getpid();
    let forked = blocked
        .descriptor()
        .and_then(|pending| Ok((pending, fork()?)));
    match forked {
        Ok((pending, Forked::Parent(worker))) => {
            drop(workers);
            sandbox::empty_bounding_set();
            harden::keep_also(if to_other_user {
                CapabilitySet::KILL // to pass signals on
            } else {
                CapabilitySet::empty()
            });
            sandbox::restrict_calls(sandbox::Role::Monitor);
            Ok(Split::Monitor(watch(worker, &pending, ours)))
        }
        Ok((_, Forked::Child)) => {
            blocked.restore()?;
            end_with(monitor)?;
            let channel = Channel::new(workers);
            opener::replace(channel.clone());
            proc_file::use_deputy(channel.clone());
            MONITOR.get_or_init(|| (monitor, channel));
            Ok(Split::Worker(monitor))
        }
        Err(error) => {
            blocked.restore()?;
            Err(error)
        }
    }
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

/// Serves the worker until it has ended, and returns its exit code.
fn watch(worker: Pid, pending: &Pending, channel: OwnedFd) -> u8 {
    let mut channel = Some(channel);
    let mut kept = Kept::default();
    let mut is_ending = false;
    loop {
        let mut polled = vec![PollFd::new(pending, PollFlags::IN)];
        polled.extend(channel.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => log::error!("the monitor cannot wait for events: {errno}"),
        }
        let is_request = polled.get(1).is_some_and(|fd| !fd.revents().is_empty());
        if let Some(code) = take_signals(worker, pending, &mut is_ending) {
            return code;
        }
        if is_request && !channel.as_ref().is_some_and(|fd| answer(fd, &mut kept)) {
            // The worker is about to end.
            channel = None;
        }
    }
}

/// Passes pending signals on, and the second request to end as SIGQUIT. Returns the worker's exit code if
/// it has ended.
fn take_signals(worker: Pid, pending: &Pending, is_ending: &mut bool) -> Option<u8> {
    loop {
        match pending.take() {
            Ok(Some(Signal::CHILD)) => {
                if let Some(code) = ended(worker) {
                    return Some(code);
                }
            }
            Ok(Some(mut signal)) => {
                if [Signal::TERM, Signal::INT].contains(&signal)
                    && std::mem::replace(is_ending, true)
                {
                    signal = Signal::QUIT;
                }
                if let Err(errno) = kill_process(worker, signal) {
                    log::warn!("{signal:?} cannot be passed on to the worker: {errno}");
                }
            }
            Ok(None) => return None,
            Err(error) => {
                log::error!("the monitor cannot read its signals: {error}");
                return None;
            }
        }
    }
}

/// Reaps the children that have ended. Returns the worker's exit code if it is one of them. As pid 1 the
/// monitor has the orphans of its namespace as children.
fn ended(worker: Pid) -> Option<u8> {
    let mut code = None;
    while let Ok(Some((child, status))) = wait(WaitOptions::NOHANG) {
        if child != worker {
            log::debug!("orphaned process {} has ended", child.as_raw_nonzero());
            continue;
        }
        code = exit_code(status);
        if let Some(signal) = status.terminating_signal() {
            log::error!("the worker was killed by signal {signal}");
        }
    }
    code
}

/// Returns the exit code that a shell shows for this status; `None`: the process has not ended.
fn exit_code(status: WaitStatus) -> Option<u8> {
    let of_signal = status.terminating_signal().map(|signal| KILLED + signal);
    let code = status.exit_status().or(of_signal)?;
    Some(u8::try_from(code).unwrap_or(u8::MAX))
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
