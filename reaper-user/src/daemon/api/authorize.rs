//! May this caller register this process? Answered from what the system says about the process once
//! it is pinned, and pinned still after the answer.

#[cfg(target_os = "linux")]
mod nested;

use std::sync::Arc;
use std::time::Duration;

use reaper_registry::Pid;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Peer, PidNs};
use crate::daemon::config::RegisterPolicy;
use crate::sys::process_table::ProcessTable;
#[cfg(target_os = "linux")]
use crate::sys::process_table::is_no_such_process;
#[cfg(target_os = "linux")]
use crate::sys::{self, pidfd_info};
use crate::watch::identity::AlreadyGone;
use crate::watch::set::Watched;
use crate::watch::verdict::Verdict;

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Gone(#[from] AlreadyGone),
    #[error("this is a thread of process {process}; register that one")]
    ThreadId { process: Pid },
    #[error("this is a thread of the kernel; register a process")]
    KernelThread,
    #[error("this is the daemon itself; register the process that the session is about")]
    OwnPid,
    #[error(
        "pid 1 is this machine's init, which it alone can register; register the process that the \
         session is about"
    )]
    Init,
    #[error("the process belongs to another user; register one of your own, or do it as root")]
    OtherUser,
    #[error(
        "a process may only register itself here; a daemon with --register-policy same-uid allows more"
    )]
    NotSelf,
    #[error("the system does not show whose process this is; a daemon run as root sees it")]
    Hidden,
    #[error(
        "the caller lives in a pid namespace whose numbers this daemon cannot translate; run the daemon \
         in the host's pid namespace (--pid=host) as root, or one in the caller's own"
    )]
    ForeignPidNamespace,
    #[error(
        "no process of the caller's pid namespace has the number {number}; name a process by the pid that \
         it has where the caller lives"
    )]
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "elsewhere there is one numbering for all")
    )]
    NotThere { number: Pid },
    #[error("the process that connected has ended; connect from the one that registers")]
    PeerGone,
    #[error(
        "the system has too few descriptors or too little memory left for a look at the process"
    )]
    NotNow,
}

/// How long a caller in a nested pid namespace waits until its pid is translated, while others' are.
const TURN_WITHIN: Duration = Duration::from_secs(1);

/// The process that a caller named, by its number here, before it is pinned.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) pid: Pid,
    /// By which number the caller knows it, where that is another.
    #[cfg(target_os = "linux")]
    inner: Option<nested::Inner>,
}

impl From<Pid> for Claimed {
    fn from(pid: Pid) -> Self {
        Self {
            pid,
            #[cfg(target_os = "linux")]
            inner: None,
        }
    }
}

impl Claimed {
    /// Whether the process that is pinned under this number is the one that was named.
    #[cfg(target_os = "linux")]
    fn check_pinned(&self) -> Result<(), Refused> {
        self.inner
            .as_ref()
            .map_or(Ok(()), |inner| inner.check(self.pid))
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unnecessary_wraps, reason = "the same signature everywhere")]
    fn check_pinned(&self) -> Result<(), Refused> {
        Ok(())
    }
}

/// What can be said without a look at the process: first what it is called here, then whether this
/// caller may register a process of this name.
///
/// A caller in a pid namespace below ours that names another process than itself may have all of
/// `/proc` searched on older kernels, so this is done where it holds up no other request.
pub(crate) async fn claim(
    named: Pid,
    peer: Peer,
    policy: RegisterPolicy,
    table: Arc<dyn ProcessTable>,
) -> Result<Claimed, Refused> {
    /// One search at a time: a caller that asks again and again must not keep more than one core, or
    /// one thread, busy.
    static TURN: Semaphore = Semaphore::const_new(1);
    match peer.pid_ns {
        PidNs::Nested { own, .. } if own != named.as_raw() => {
            // A request that is given up leaves the queue.
            let turn = timeout(TURN_WITHIN, TURN.acquire()).await;
            let Ok(Ok(turn)) = turn else {
                return Err(Refused::NotNow);
            };
            let checking = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                check_claim(named, peer, policy, &*table)
            });
            checking.await.unwrap_or(Err(Refused::NotNow))
        }
        _ => check_claim(named, peer, policy, &*table),
    }
}

fn check_claim(
    named: Pid,
    peer: Peer,
    policy: RegisterPolicy,
    table: &dyn ProcessTable,
) -> Result<Claimed, Refused> {
    // Zero is how the kernel shows a peer whose number does not exist here. It is never a wildcard.
    if peer.pid == Some(0) {
        return Err(Refused::ForeignPidNamespace);
    }
    let claimed = translate(named, peer, policy)?;
    let pid = claimed.pid;
    let is_itself = peer.pid == Some(pid.as_raw());
    if std::process::id() == pid.get() {
        return Err(Refused::OwnPid);
    }
    if pid.get() == 1 && !is_itself && is_machines_init() {
        return Err(Refused::Init);
    }
    if policy == RegisterPolicy::SelfOnly && !peer.is_root() && !is_itself {
        return Err(Refused::NotSelf);
    }
    if !is_itself && has_ended(peer, table) {
        return Err(Refused::PeerGone);
    }
    Ok(claimed)
}

/// The process that this caller means by this number.
fn translate(named: Pid, peer: Peer, policy: RegisterPolicy) -> Result<Claimed, Refused> {
    match peer.pid_ns {
        PidNs::Ours => Ok(named.into()),
        PidNs::Unknown | PidNs::NotNow if policy == RegisterPolicy::Any => Ok(named.into()),
        PidNs::NotNow => Err(Refused::NotNow),
        PidNs::Unknown => Err(Refused::ForeignPidNamespace),
        #[cfg(target_os = "linux")]
        PidNs::Nested { own, namespace } => {
            let caller = peer.pid.and_then(|pid| Pid::try_from(pid).ok());
            let caller = caller.ok_or(Refused::ForeignPidNamespace)?;
            let (pid, inner) = if own == named.as_raw() {
                (caller, nested::Inner::of_caller(named, namespace))
            } else if policy == RegisterPolicy::SelfOnly && !peer.is_root() {
                return Err(Refused::NotSelf);
            } else {
                nested::Inner::find(named, caller, namespace)?
            };
            Ok(Claimed {
                pid,
                inner: Some(inner),
            })
        }
        #[cfg(not(target_os = "linux"))]
        PidNs::Nested { .. } => Err(Refused::ForeignPidNamespace),
    }
}

/// Whether pid 1 is the machine's and not a container's, in which it is an ordinary process.
fn is_machines_init() -> bool {
    #[cfg(target_os = "linux")]
    return crate::sources::namespaces::in_initial_pid();
    #[cfg(not(target_os = "linux"))]
    return true;
}

/// Whether the process that connected is known to have ended.
fn has_ended(peer: Peer, table: &dyn ProcessTable) -> bool {
    let Some(pid) = peer.pid.and_then(|pid| Pid::try_from(pid).ok()) else {
        return false;
    };
    match table.stat(pid) {
        Ok(stat) => stat.all_ended(),
        Err(_hidden_or_gone) => matches!(table.pid_in_use(pid), Ok(false)),
    }
}

/// By which numbers this peer names processes.
#[cfg(target_os = "linux")]
pub(crate) fn pid_ns_of(peer: Option<i32>) -> PidNs {
    let Some(peer) = peer else {
        return PidNs::Unknown;
    };
    match status_of(peer).map(|status| status.and_then(|status| status.nspid)) {
        Ok(numbers) => match numbers.as_deref() {
            Some([_]) => PidNs::Ours,
            Some([.., own]) => PidNs::Nested {
                own: *own,
                namespace: nested::namespace_of(peer),
            },
            Some([]) | None => PidNs::Unknown,
        },
        Err(_short) => PidNs::NotNow,
    }
}

/// `/proc/PID/status`; `None` where it is hidden or gone.
#[cfg(target_os = "linux")]
fn status_of(pid: i32) -> Result<Option<procfs::process::Status>, Refused> {
    use procfs::ProcError::Io;
    match sys::status_of(pid) {
        Ok(status) => Ok(Some(status)),
        // It ended under our eyes, which the look that follows will see as well.
        Err(Io(error, _)) if is_no_such_process(&error) => Ok(None),
        Err(Io(..)) => Err(Refused::NotNow),
        Err(_) => Ok(None),
    }
}

/// Elsewhere there is one numbering for all.
#[cfg(not(target_os = "linux"))]
pub(crate) fn pid_ns_of(_peer: Option<i32>) -> PidNs {
    PidNs::Ours
}

/// Elsewhere the process table of this program does not say whose a process is. Who may connect is
/// checked there as well, so what is lost is that a caller can tie its own session to the life of
/// another user's process.
const TELLS_USERS_APART: bool = cfg!(target_os = "linux");

/// What is read of the pinned process, and then whether it is still the one that was read.
pub(crate) fn check_process(
    watched: &Watched,
    claimed: &Claimed,
    peer: Peer,
    policy: RegisterPolicy,
    table: &dyn ProcessTable,
) -> Result<(), Refused> {
    let verdict = stat_of(watched).and_then(|stat| {
        claimed.check_pinned()?;
        if TELLS_USERS_APART {
            check_record(stat, watched.pid, peer, policy)?;
        }
        // Only root's processes can be threads of the kernel, so only they are asked.
        let may_be_kernels = stat.is_some_and(|stat| stat.real_uid == 0);
        if may_be_kernels && watched.is_kernel_thread(table) {
            return Err(Refused::KernelThread);
        }
        Ok(())
    });
    // What was read is true of the pinned process only if that still lives; otherwise the number
    // may have been somebody else's already.
    if let Verdict::Gone { .. } = watched.judge(None, table) {
        return Err(AlreadyGone.into());
    }
    verdict
}

/// What the system says about a process beside its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProcessRecord {
    /// The process that this number belongs to: another number for a mere thread. Pinning asks that
    /// already; this is for when the system did not answer then.
    process: Pid,
    real_uid: u32,
}

fn check_record(
    stat: Option<ProcessRecord>,
    pid: Pid,
    peer: Peer,
    policy: RegisterPolicy,
) -> Result<(), Refused> {
    let anybodys = peer.is_root() || policy == RegisterPolicy::Any;
    match stat {
        Some(stat) if stat.process != pid => Err(Refused::ThreadId {
            process: stat.process,
        }),
        Some(stat) if !anybodys && stat.real_uid != peer.uid => Err(Refused::OtherUser),
        None if !anybodys => Err(Refused::Hidden),
        Some(_) | None => Ok(()),
    }
}

/// From the pidfd where it tells, because that is one system call; a registration should not wait
/// for the kernel to write out, and for us to read, the sixty lines of `/proc/PID/status`.
#[cfg(target_os = "linux")]
fn stat_of(watched: &Watched) -> Result<Option<ProcessRecord>, Refused> {
    let told = watched.with_pidfd(|pidfd| pidfd.and_then(pidfd_info::tgid_and_ruid));
    if let Some((tgid, real_uid)) = told {
        return Ok(Pid::new(tgid)
            .ok()
            .map(|process| ProcessRecord { process, real_uid }));
    }
    stat_by_pid(watched.pid)
}

#[cfg(target_os = "linux")]
fn stat_by_pid(pid: Pid) -> Result<Option<ProcessRecord>, Refused> {
    let status = status_of(pid.as_raw())?;
    // Zero once it is no longer in the table.
    Ok(status.and_then(|status| {
        Some(ProcessRecord {
            process: Pid::try_from(status.tgid).ok()?,
            real_uid: status.ruid,
        })
    }))
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature everywhere")]
fn stat_of(_watched: &Watched) -> Result<Option<ProcessRecord>, Refused> {
    Ok(None)
}

#[cfg(test)]
mod tests;
