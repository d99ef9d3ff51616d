//! Real pid namespaces, two deep, and the processes in them.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::testing::{Sleeper, skip_without};

/// Init of a new pid namespace, and the two sleepers that it has started.
struct Nest {
    unshare: Child,
    init: Pid,
    sleepers: [Pid; 2],
}

impl Nest {
    /// `None`, with the reason printed, where this cannot be made here.
    fn build() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip_without("root", "a pid namespace needs it");
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
            skip_without("root", "no pid namespace can be made here");
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

impl Drop for Nest {
    fn drop(&mut self) {
        self.unshare.kill().unwrap_or_default();
        self.unshare.wait().map(drop).unwrap_or_default();
    }
}

fn children(pid: Pid) -> Vec<Pid> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let numbers = list.split_whitespace();
    numbers
        .map(|pid| Pid::new(pid.parse().unwrap()).unwrap())
        .collect()
}

fn number(raw: u32) -> Pid {
    Pid::new(raw).unwrap()
}

#[test]
fn a_number_of_a_nested_namespace_is_found_by_the_kernel_and_by_search_alike() {
    let Some(nest) = Nest::build() else { return };
    let inode = nest.inode().unwrap();
    let ours = [nest.init, nest.sleepers[0], nest.sleepers[1]];
    for (raw, expected) in (1..).zip(ours) {
        let (found, inner) = Inner::find(number(raw), nest.init, Some(inode)).unwrap();
        assert_eq!(found, expected);
        assert_eq!(inner.check(found), Ok(()));
        assert_eq!(search(number(raw), inode), Ok(expected), "on older kernels");
    }
    let absent = number(900);
    let refused = Err(Refused::NotThere { number: absent });
    let found = Inner::find(absent, nest.init, Some(inode));
    assert_eq!(found.map(|(pid, _)| pid), refused);
    assert_eq!(search(absent, inode), refused);
}

#[test]
fn the_same_number_elsewhere_is_another_process() {
    let (Some(nest), Some(other)) = (Nest::build(), Nest::build()) else {
        return;
    };
    let (found, inner) = Inner::find(number(2), nest.init, nest.inode()).unwrap();
    assert_eq!(found, nest.sleepers[0]);
    let refused = Err(Refused::NotThere { number: number(2) });
    // Its number here might have gone to any of these before it was pinned.
    let sleeper = Sleeper::start();
    for pid in [
        other.sleepers[0],
        nest.sleepers[1],
        nest.init,
        sleeper.pid(),
    ] {
        assert_eq!(inner.check(pid), refused, "{pid}");
    }
    // Where the caller's namespace is not shown, its number still has to fit.
    let itself = Inner::of_caller(number(1), None);
    assert_eq!(itself.check(nest.init), Ok(()));
    assert!(itself.check(sleeper.pid()).is_err());
    let itself = Inner::of_caller(number(1), nest.inode());
    assert!(
        itself.check(other.init).is_err(),
        "1 is 1 in every namespace"
    );
}

#[test]
fn a_caller_whose_number_has_gone_to_another_namespace_is_gone() {
    let (Some(nest), Some(other)) = (Nest::build(), Nest::build()) else {
        return;
    };
    for (inode, refused) in [
        (other.inode(), Refused::PeerGone),
        (None, Refused::ForeignPidNamespace),
    ] {
        let found = Inner::find(number(2), nest.init, inode);
        assert_eq!(found.map(|(pid, _)| pid), Err(refused));
    }
    let ended = nest.init;
    drop(nest);
    let found = Inner::find(number(2), ended, other.inode());
    assert_eq!(found.map(|(pid, _)| pid), Err(Refused::PeerGone));
}
