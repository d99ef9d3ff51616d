//! May this caller register this process? Answered from what the system says about the process once
//! it is pinned, and pinned still after the answer.

use reaper_registry::Pid;

use super::{Numbering, Peer};
use crate::config::RegisterPolicy;
use crate::identity::AlreadyGone;
use crate::process_table::ProcessTable;
#[cfg(target_os = "linux")]
use crate::process_table::is_no_such_process;
#[cfg(target_os = "linux")]
use crate::sys::{self, pidfd_info};
use crate::verdict::Verdict;
use crate::watch::Watched;

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Gone(#[from] AlreadyGone),
    #[error("this is a thread of process {process}; register that one")]
    ThreadId { process: Pid },
    #[error("this is a thread of the kernel")]
    KernelThread,
    #[error("this is the daemon itself")]
    OwnPid,
    #[error("the process belongs to another user")]
    OtherUser,
    #[error("a process may only register itself here")]
    NotSelf,
    #[error("the system does not show whose process this is")]
    Hidden,
    #[error("the caller lives in another pid namespace, where numbers mean other processes")]
    ForeignPidNamespace,
    #[error(
        "the system has too few descriptors or too little memory left for a look at the process"
    )]
    NotNow,
}

/// What can be said without a look at the process. Answers the number that it has here: a caller in
/// a namespace below ours means another one by the number it names, and only its own can be told.
pub(crate) fn check_claim(
    claimed: Pid,
    peer: Peer,
    policy: RegisterPolicy,
) -> Result<Pid, Refused> {
    let pid = match peer.numbering {
        Numbering::Ours => claimed,
        Numbering::Unknown | Numbering::NotNow if policy == RegisterPolicy::Any => claimed,
        Numbering::Nested { own } if own == claimed.as_raw() => peer
            .pid
            .and_then(|pid| Pid::try_from(pid).ok())
            .ok_or(Refused::ForeignPidNamespace)?,
        Numbering::NotNow => return Err(Refused::NotNow),
        Numbering::Nested { .. } | Numbering::Unknown => return Err(Refused::ForeignPidNamespace),
    };
    if std::process::id() == pid.get() {
        return Err(Refused::OwnPid);
    }
    // Zero is how the kernel shows a peer whose number does not exist here. It is never a wildcard.
    if peer.pid == Some(0) {
        return Err(Refused::ForeignPidNamespace);
    }
    if policy == RegisterPolicy::SelfOnly && !peer.is_root() && peer.pid != Some(pid.as_raw()) {
        return Err(Refused::NotSelf);
    }
    Ok(pid)
}

/// By which numbers this peer names processes.
#[cfg(target_os = "linux")]
pub(crate) fn numbering_of(peer: Option<i32>) -> Numbering {
    let Some(peer) = peer else {
        return Numbering::Unknown;
    };
    match status_of(peer).map(|status| status.and_then(|status| status.nspid)) {
        Ok(numbers) => match numbers.as_deref() {
            Some([_]) => Numbering::Ours,
            Some([.., own]) => Numbering::Nested { own: *own },
            Some([]) | None => Numbering::Unknown,
        },
        Err(_short) => Numbering::NotNow,
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
pub(crate) fn numbering_of(_peer: Option<i32>) -> Numbering {
    Numbering::Ours
}

/// Elsewhere the process table of this program does not say whose a process is. Who may connect is
/// checked there as well, so what is lost is that a caller can tie its own session to the life of
/// another user's process.
const TELLS_USERS_APART: bool = cfg!(target_os = "linux");

/// What is read of the pinned process, and then whether it is still the one that was read.
pub(crate) fn check_process(
    watched: &Watched,
    peer: Peer,
    policy: RegisterPolicy,
    table: &dyn ProcessTable,
) -> Result<(), Refused> {
    let verdict = facts_of(watched).and_then(|facts| {
        if TELLS_USERS_APART {
            admit(facts, watched.pid, peer, policy)?;
        }
        // Only root's processes can be threads of the kernel, so only they are asked.
        let may_be_kernels = facts.is_some_and(|facts| facts.real_uid == 0);
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
struct ProcessFacts {
    /// The process that this number belongs to: another number for a mere thread. Pinning asks that
    /// already; this is for when the system did not answer then.
    process: Pid,
    real_uid: u32,
}

fn admit(
    facts: Option<ProcessFacts>,
    pid: Pid,
    peer: Peer,
    policy: RegisterPolicy,
) -> Result<(), Refused> {
    let anybodys = peer.is_root() || policy == RegisterPolicy::Any;
    match facts {
        Some(facts) if facts.process != pid => Err(Refused::ThreadId {
            process: facts.process,
        }),
        Some(facts) if !anybodys && facts.real_uid != peer.uid => Err(Refused::OtherUser),
        None if !anybodys => Err(Refused::Hidden),
        Some(_) | None => Ok(()),
    }
}

/// From the pidfd where it tells, because that is one system call; a registration should not wait
/// for the kernel to write out, and for us to read, the sixty lines of `/proc/PID/status`.
#[cfg(target_os = "linux")]
fn facts_of(watched: &Watched) -> Result<Option<ProcessFacts>, Refused> {
    let told = watched.with_pidfd(|pidfd| pidfd.and_then(pidfd_info::tgid_and_ruid));
    if let Some((tgid, real_uid)) = told {
        return Ok(Pid::new(tgid)
            .ok()
            .map(|process| ProcessFacts { process, real_uid }));
    }
    facts_by_number(watched.pid)
}

#[cfg(target_os = "linux")]
fn facts_by_number(pid: Pid) -> Result<Option<ProcessFacts>, Refused> {
    let status = status_of(pid.as_raw())?;
    // Zero once it is no longer in the table.
    Ok(status.and_then(|status| {
        Some(ProcessFacts {
            process: Pid::try_from(status.tgid).ok()?,
            real_uid: status.ruid,
        })
    }))
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature everywhere")]
fn facts_of(_watched: &Watched) -> Result<Option<ProcessFacts>, Refused> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::Transport;

    const ROOT: u32 = 0;
    const USER: u32 = 1000;

    fn peer(uid: u32, pid: impl Into<Option<i32>>) -> Peer {
        Peer {
            transport: Transport::Unix,
            uid,
            pid: pid.into(),
            numbering: Numbering::Ours,
        }
    }

    #[test]
    fn the_facts_decide() {
        use RegisterPolicy::{Any, SameUid};
        let pid = Pid::new(4242).unwrap();
        let thread = Err(Refused::ThreadId {
            process: Pid::new(4000).unwrap(),
        });
        // Process and real user, where the system shows them.
        for (shown, uid, policy, expected) in [
            (Some((4242, USER)), USER, SameUid, Ok(())),
            (Some((4242, ROOT)), USER, SameUid, Err(Refused::OtherUser)),
            (Some((4242, 1001)), USER, SameUid, Err(Refused::OtherUser)),
            (Some((4242, 1001)), USER, Any, Ok(())),
            (Some((4242, 1001)), ROOT, SameUid, Ok(())),
            (Some((4000, USER)), USER, SameUid, thread),
            (Some((4000, USER)), ROOT, Any, thread),
            (None, USER, SameUid, Err(Refused::Hidden)),
            (None, USER, Any, Ok(())),
            (None, ROOT, SameUid, Ok(())),
        ] {
            let facts = shown.map(|(process, real_uid)| ProcessFacts {
                process: Pid::new(process).unwrap(),
                real_uid,
            });
            let admitted = admit(facts, pid, peer(uid, 7), policy);
            assert_eq!(admitted, expected, "{shown:?} {uid}");
        }
    }

    #[test]
    fn the_claim_is_checked_before_anybody_is_looked_at() {
        use RegisterPolicy::{Any, SameUid, SelfOnly};
        let own = Pid::new(std::process::id()).unwrap();
        let other = Pid::new(own.get() ^ 1).unwrap();
        let user = |pid: Pid| peer(USER, pid.as_raw());
        for (pid, peer, policy, expected) in [
            (own, user(other), Any, Err(Refused::OwnPid)),
            (other, user(other), SelfOnly, Ok(other)),
            (other, user(own), SelfOnly, Err(Refused::NotSelf)),
            (other, peer(ROOT, own.as_raw()), SelfOnly, Ok(other)),
            (other, user(own), SameUid, Ok(other)),
            (other, peer(USER, None), SameUid, Ok(other)),
            (other, peer(USER, None), SelfOnly, Err(Refused::NotSelf)),
            (other, peer(USER, 0), Any, Err(Refused::ForeignPidNamespace)),
            (
                other,
                peer(ROOT, 0),
                SelfOnly,
                Err(Refused::ForeignPidNamespace),
            ),
        ] {
            assert_eq!(check_claim(pid, peer, policy), expected, "{pid} {policy:?}");
        }
    }

    #[test]
    fn a_caller_in_a_nested_namespace_can_only_mean_itself() {
        use RegisterPolicy::{Any, SameUid};
        let host = Pid::new(4242).unwrap();
        let inner = Pid::new(7).unwrap();
        let nested = Peer {
            numbering: Numbering::Nested { own: 7 },
            ..peer(USER, host.as_raw())
        };
        assert_eq!(check_claim(inner, nested, SameUid), Ok(host));
        let foreign = Err(Refused::ForeignPidNamespace);
        for claimed in [host, Pid::new(8).unwrap()] {
            assert_eq!(check_claim(claimed, nested, Any), foreign, "{claimed}");
        }
        let untold = Peer {
            numbering: Numbering::Unknown,
            ..peer(USER, host.as_raw())
        };
        assert_eq!(check_claim(host, untold, SameUid), foreign);
        assert_eq!(check_claim(host, untold, Any), Ok(host));
        let short = Peer {
            numbering: Numbering::NotNow,
            ..untold
        };
        assert_eq!(check_claim(host, short, SameUid), Err(Refused::NotNow));
        assert_eq!(check_claim(host, short, Any), Ok(host));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_id_and_a_process_are_told_apart_by_the_system() {
        let own = i32::try_from(std::process::id()).unwrap();
        let (to_main, from_thread) = std::sync::mpsc::channel();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            to_main.send(tid).unwrap();
            stopped.recv().unwrap();
        });
        let tid = from_thread.recv().unwrap();
        let facts = facts_by_number(Pid::try_from(tid).unwrap())
            .unwrap()
            .unwrap();
        stop.send(()).unwrap();
        thread.join().unwrap();
        assert_eq!(facts.process.as_raw(), own);
        assert_ne!(facts.process.as_raw(), tid);
    }
}
