//! What the kernel tells of a program that it did not run.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

/// The exits, anybody's, for which the kernel did not run the probe, because a task in the middle of it
/// had lost that CPU to the one that exits. A kernel whose tracepoints cannot be preempted has none;
/// on 7.3, emulated, up to 90 of 200 processes that were killed together were missed so.
#[derive(Debug)]
pub struct Misses(OwnedFd);

impl Misses {
    /// Of this program, as long as the answer is kept.
    pub fn of(program: impl AsFd) -> io::Result<Self> {
        program.as_fd().try_clone_to_owned().map(Self)
    }

    /// Since the probe was loaded; only rises. `None` where it is not told: before 5.12, without
    /// `/proc`, or for want of a descriptor just now.
    pub fn read(&self) -> Option<u64> {
        let path = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        misses_in(&fs::read_to_string(path).ok()?)
    }
}

/// As `bpf_prog_show_fdinfo` in `kernel/bpf/syscall.c` writes it.
fn misses_in(fdinfo: &str) -> Option<u64> {
    let mut lines = fdinfo.lines();
    let count = lines.find_map(|line| line.strip_prefix("recursion_misses:"))?;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misses_are_read_where_the_kernel_tells_them() {
        let fdinfo = "pos:\t0\nprog_type:\t26\nrun_cnt:\t0\nrecursion_misses:\t33\n";
        assert_eq!(misses_in(fdinfo), Some(33));
        assert_eq!(misses_in("pos:\t0\nprog_type:\t26\n"), None);
    }
}
