//! Decides whether a caller may register a process. The record of the process is read after it is
//! pinned, and the process is checked once more after that.

#[cfg(target_os = "linux")]
mod nested;

use std::time::Duration;

use reaper_registry::Pid;
use tokio::sync::Semaphore;
use tokio::time::timeout;

#[cfg(target_os = "linux")]
use self::nested::NestedPid;
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

/// Why a caller may not register a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Gone(#[from] AlreadyGone),
    #[error("this is a thread of process {process}; register that one")]
    ThreadId { process: Pid },
    #[error("this is a thread of the kernel; register a process")]
    KernelThread,
    #[error("this is the daemon itself; register the process of the session")]
    OwnPid,
    #[error(
        "pid 1 is this machine's init, which only init itself can register; register the process of \
         the session"
    )]
    Init,
    #[error(
        "the process belongs to another user; register a process of this user, or register as root"
    )]
    OtherUser,
    #[error(
        "a process may only register itself here; a daemon with --register-policy same-uid allows \
         more"
    )]
    NotSelf,
    #[error("the system does not show the user of this process; run the daemon as root")]
    Hidden,
    #[error(
        "this daemon cannot translate pids of the caller's pid namespace; run the daemon in the \
         host's pid namespace (--pid=host) as root, or run one in the caller's pid namespace; if \
         the daemon has no /proc, mount it (mount -t proc proc /proc)"
    )]
    ForeignPidNamespace,
    #[error(
        "no process of the caller's pid namespace has the pid {pid}; register a process by its pid \
         in the caller's pid namespace"
    )]
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "other systems have no pid namespaces")
    )]
    NotThere { pid: Pid },
    #[error("the process that connected has ended; connect from the process that registers")]
    PeerGone,
    #[error("the system has too few descriptors or too little memory left to check the process")]
    NotNow,
}

/// How long a caller in a nested pid namespace waits while the pids of other callers are
/// translated.
const TRANSLATION_TIMEOUT: Duration = Duration::from_secs(1);

/// The pid of a process in the daemon's pid namespace, before the process is pinned.
#[derive(Debug)]
pub(crate) struct ResolvedPid {
    pub(crate) pid: Pid,
    /// Its pid in the caller's pid namespace, if that is another one.
    #[cfg(target_os = "linux")]
    nested: Option<NestedPid>,
}

impl From<Pid> for ResolvedPid {
    fn from(pid: Pid) -> Self {
        Self {
            pid,
            #[cfg(target_os = "linux")]
            nested: None,
        }
    }
}

impl ResolvedPid {
    /// Checks that the pinned process with this pid is the one that the caller named.
    #[cfg(target_os = "linux")]
    fn check_pinned(&self) -> Result<(), Refused> {
        self.nested
            .as_ref()
            .map_or(Ok(()), |nested| nested.check(self.pid))
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unnecessary_wraps, reason = "the same signature everywhere")]
    fn check_pinned(&self) -> Result<(), Refused> {
        Ok(())
    }
}

/// Translates a pid and checks whether this caller may register it. The process itself is checked
/// later, by [`check_process`].
///
/// For a caller in a nested pid namespace that names another process than itself, older kernels
/// require a search of all of `/proc`. That is done on a blocking thread, so that it delays no
/// other request.
pub(crate) async fn authorize_pid(
    named: Pid,
    peer: Peer,
    policy: RegisterPolicy,
) -> Result<ResolvedPid, Refused> {
    /// One search at a time: repeated requests of a caller must not keep more than one core, or one
    /// thread, busy.
    static SEARCHES: Semaphore = Semaphore::const_new(1);
    match peer.pid_ns {
        PidNs::Nested { peer_pid, .. } if peer_pid != named.as_raw() => {
            // A dropped request leaves the queue.
            let search = timeout(TRANSLATION_TIMEOUT, SEARCHES.acquire()).await;
            let Ok(Ok(search)) = search else {
                return Err(Refused::NotNow);
            };
            let checking = tokio::task::spawn_blocking(move || {
                let _search = search;
                resolve_and_check(named, peer, policy)
            });
            checking.await.unwrap_or(Err(Refused::NotNow))
        }
        _ => resolve_and_check(named, peer, policy),
    }
}

fn resolve_and_check(
    named: Pid,
    peer: Peer,
    policy: RegisterPolicy,
) -> Result<ResolvedPid, Refused> {
    // The kernel shows a peer without a pid in this namespace as zero. It is never a wildcard.
    if peer.pid == Some(0) {
        return Err(Refused::ForeignPidNamespace);
    }
    let resolved = translate(named, peer, policy)?;
    let pid = resolved.pid;
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
    Ok(resolved)
}

/// Translates a pid of the caller's pid namespace.
fn translate(named: Pid, peer: Peer, policy: RegisterPolicy) -> Result<ResolvedPid, Refused> {
    match peer.pid_ns {
        PidNs::Same => Ok(named.into()),
        PidNs::Unknown | PidNs::NotNow if policy == RegisterPolicy::Any => Ok(named.into()),
        PidNs::NotNow => Err(Refused::NotNow),
        PidNs::Unknown => Err(Refused::ForeignPidNamespace),
        #[cfg(target_os = "linux")]
        PidNs::Nested {
            peer_pid,
            namespace,
        } => {
            let caller = peer.pid.and_then(|pid| Pid::try_from(pid).ok());
            let caller = caller.ok_or(Refused::ForeignPidNamespace)?;
            let (pid, nested) = if peer_pid == named.as_raw() {
                (caller, NestedPid::of_caller(named, namespace))
            } else if policy == RegisterPolicy::SelfOnly && !peer.is_root() {
                return Err(Refused::NotSelf);
            } else {
                NestedPid::find(named, caller, namespace)?
            };
            Ok(ResolvedPid {
                pid,
                nested: Some(nested),
            })
        }
        #[cfg(not(target_os = "linux"))]
        PidNs::Nested { .. } => Err(Refused::ForeignPidNamespace),
    }
}

/// Returns whether pid 1 is the init of the machine. In a container, pid 1 is an ordinary process.
fn is_machines_init() -> bool {
    #[cfg(target_os = "linux")]
    return crate::sources::namespaces::in_initial_pid();
    #[cfg(not(target_os = "linux"))]
    return true;
}

/// Returns the pid namespace of the peer.
#[cfg(target_os = "linux")]
pub(crate) fn pid_ns_of(peer: Option<i32>) -> PidNs {
    let Some(peer) = peer else {
        return PidNs::Unknown;
    };
    match status_of(peer).map(|status| status.and_then(|status| status.nspid)) {
        Ok(nspid) => match nspid.as_deref() {
            Some([_]) => PidNs::Same,
            Some([.., peer_pid]) => PidNs::Nested {
                peer_pid: *peer_pid,
                namespace: nested::namespace_of(peer),
            },
            Some([]) | None => PidNs::Unknown,
        },
        Err(_short) => PidNs::NotNow,
    }
}

/// Reads `/proc/PID/status`. `None` if it is hidden or gone.
#[cfg(target_os = "linux")]
fn status_of(pid: i32) -> Result<Option<procfs::process::Status>, Refused> {
    use procfs::ProcError::Io;
    match sys::status_of(pid) {
        Ok(status) => Ok(Some(status)),
        // It ended while it was read. The check that follows finds that as well.
        Err(Io(error, _)) if is_no_such_process(&error) => Ok(None),
        Err(Io(..)) => Err(Refused::NotNow),
        Err(_) => Ok(None),
    }
}

/// Other systems have no pid namespaces.
#[cfg(not(target_os = "linux"))]
pub(crate) fn pid_ns_of(_peer: Option<i32>) -> PidNs {
    PidNs::Same
}

/// On other systems the process table does not report the user of a process. The peer's uid is
/// checked there as well, so the only loss is that a caller can tie its session to a process of
/// another user.
const HAS_PROCESS_UIDS: bool = cfg!(target_os = "linux");

/// Checks the record of the pinned process, and then that it and the peer still live. A peer that
/// registers itself had its pid all the time then, so the pinned process is the peer.
pub(crate) fn check_process(
    watched: &Watched,
    resolved: &ResolvedPid,
    peer: Peer,
    policy: RegisterPolicy,
    table: &dyn ProcessTable,
) -> Result<(), Refused> {
    let verdict = stat_of(watched).and_then(|stat| {
        resolved.check_pinned()?;
        if HAS_PROCESS_UIDS {
            check_record(stat, watched.pid, peer, policy)?;
        }
        // All kernel threads belong to root, so only processes of root are checked.
        let may_be_kernel_thread = stat.is_some_and(|stat| stat.real_uid == 0);
        if may_be_kernel_thread && watched.is_kernel_thread(table) {
            return Err(Refused::KernelThread);
        }
        Ok(())
    });
    // The record is that of the pinned process only if this still lives; otherwise the pid may
    // already have been reused.
    if let Verdict::Gone { .. } = watched.judge(None, table) {
        return Err(AlreadyGone.into());
    }
    peer.check_alive(table)?;
    verdict
}

/// Process and user of a pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProcessRecord {
    /// The thread group id: another pid if this is a thread. Pinning checks that too; this is for
    /// when the system could not report it then.
    process: Pid,
    real_uid: u32,
}

fn check_record(
    stat: Option<ProcessRecord>,
    pid: Pid,
    peer: Peer,
    policy: RegisterPolicy,
) -> Result<(), Refused> {
    let any_user = peer.is_root() || policy == RegisterPolicy::Any;
    match stat {
        Some(stat) if stat.process != pid => Err(Refused::ThreadId {
            process: stat.process,
        }),
        Some(stat) if !any_user && stat.real_uid != peer.uid => Err(Refused::OtherUser),
        None if !any_user => Err(Refused::Hidden),
        Some(_) | None => Ok(()),
    }
}

/// Reads the record from the pidfd if the kernel supports it, because that is one system call.
/// Formatting and parsing the sixty lines of `/proc/PID/status` takes longer.
#[cfg(target_os = "linux")]
fn stat_of(watched: &Watched) -> Result<Option<ProcessRecord>, Refused> {
    let from_pidfd = watched.with_pidfd(|pidfd| pidfd.and_then(pidfd_info::tgid_and_ruid));
    if let Some((tgid, real_uid)) = from_pidfd {
        return Ok(Pid::new(tgid)
            .ok()
            .map(|process| ProcessRecord { process, real_uid }));
    }
    stat_by_pid(watched.pid)
}

#[cfg(target_os = "linux")]
fn stat_by_pid(pid: Pid) -> Result<Option<ProcessRecord>, Refused> {
    let status = status_of(pid.as_raw())?;
    // The tgid is zero once the process has left the table.
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
