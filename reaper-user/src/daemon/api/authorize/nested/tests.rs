//! Tests with real nested pid namespaces.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::testing::{Sleeper, skip_without};

/// A new pid namespace: its init, and two processes that init has started.
struct Namespace {
    unshare: Child,
    init: Pid,
    sleepers: [Pid; 2],
}

impl Namespace {
    /// Returns `None`, and prints the reason, if a namespace cannot be created here.
    fn build() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip_without("root", "a pid namespace requires it");
            return None;
        }
        let script = "sleep 600 & sleep 600 & echo ready; wait";
        let mut unshare = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(unshare.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        if line.is_empty() {
            unshare.wait().unwrap();
            skip_without("root", "no pid namespace can be created here");
            return None;
        }
        let init = children(Pid::new(unshare.id()).unwrap())[0];
        let sleepers = children(init).try_into().unwrap();
        Some(Self {
            unshare,
            init,
            sleepers,
        })
    }

    fn inode(&self) -> Option<u64> {
        namespace_of(self.init.as_raw())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.unshare.kill().unwrap_or_default();
        self.unshare.wait().map(drop).unwrap_or_default();
    }
}

fn children(pid: Pid) -> Vec<Pid> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let pids = list.split_whitespace();
    pids.map(|pid| Pid::new(pid.parse().unwrap()).unwrap())
        .collect()
}

fn pid(raw: u32) -> Pid {
    Pid::new(raw).unwrap()
}

#[test]
fn a_nested_pid_is_translated_by_the_kernel_and_by_search_alike() {
    let Some(namespace) = Namespace::build() else {
        return;
    };
    let inode = namespace.inode().unwrap();
    let expected = [namespace.init, namespace.sleepers[0], namespace.sleepers[1]];
    for (raw, expected) in (1..).zip(expected) {
        let (found, nested) = NestedPid::find(pid(raw), namespace.init, Some(inode)).unwrap();
        assert_eq!(found, expected);
        assert_eq!(nested.check(found), Ok(()));
        assert_eq!(search(pid(raw), inode), Ok(expected), "as on older kernels");
    }
    let absent = pid(900);
    let refused = Err(Refused::NotThere { pid: absent });
    let found = NestedPid::find(absent, namespace.init, Some(inode));
    assert_eq!(found.map(|(pid, _)| pid), refused);
    assert_eq!(search(absent, inode), refused);
}

#[test]
fn the_same_pid_in_another_namespace_is_another_process() {
    let (Some(namespace), Some(other)) = (Namespace::build(), Namespace::build()) else {
        return;
    };
    let (found, nested) = NestedPid::find(pid(2), namespace.init, namespace.inode()).unwrap();
    assert_eq!(found, namespace.sleepers[0]);
    let refused = Err(Refused::NotThere { pid: pid(2) });
    // Any of these might have reused its pid before it was pinned.
    let sleeper = Sleeper::start();
    for pid in [
        other.sleepers[0],
        namespace.sleepers[1],
        namespace.init,
        sleeper.pid(),
    ] {
        assert_eq!(nested.check(pid), refused, "{pid}");
    }
    // If the caller's namespace is hidden, its pid still has to match.
    let itself = NestedPid::of_caller(pid(1), None);
    assert_eq!(itself.check(namespace.init), Ok(()));
    assert!(itself.check(sleeper.pid()).is_err());
    let itself = NestedPid::of_caller(pid(1), namespace.inode());
    assert!(
        itself.check(other.init).is_err(),
        "every namespace has a pid 1"
    );
}

#[test]
fn a_caller_with_a_pid_reused_in_another_namespace_is_gone() {
    let (Some(namespace), Some(other)) = (Namespace::build(), Namespace::build()) else {
        return;
    };
    for (inode, refused) in [
        (other.inode(), Refused::PeerGone),
        (None, Refused::ForeignPidNamespace),
    ] {
        let found = NestedPid::find(pid(2), namespace.init, inode);
        assert_eq!(found.map(|(pid, _)| pid), Err(refused));
    }
    let ended = namespace.init;
    drop(namespace);
    let found = NestedPid::find(pid(2), ended, other.inode());
    assert_eq!(found.map(|(pid, _)| pid), Err(Refused::PeerGone));
}
