//! A core is written, which takes its time.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use reaper_tests::crowd::Crowd;
use reaper_tests::wait::eventually;
use rustix::process::{Pid, Signal, kill_process};

use super::is_ours;
use crate::states::Watchers;

/// Writes no core: it lets the kernel wait with one until it is told to go on.
const SLOW_HANDLER: &str = "#!/bin/sh
: > \"${0%/*}/begun\"
until [ -e \"${0%/*}/go-on\" ] || [ ! -e \"$0\" ]; do sleep 0.1; done
";
/// Whom the kernel starts for a core: `|` and a program.
const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// What the kernel does with cores, as it was before.
struct CorePattern(String);

impl CorePattern {
    fn replaced_by(handler: &Path) -> Self {
        let before = fs::read_to_string(CORE_PATTERN).unwrap();
        fs::write(CORE_PATTERN, format!("|{}", handler.display())).unwrap();
        Self(before)
    }
}

impl Drop for CorePattern {
    fn drop(&mut self) {
        fs::write(CORE_PATTERN, &self.0).unwrap_or_default();
    }
}

/// Until its core is written, a process has not ended, and its number is its own.
#[test]
fn whose_core_is_being_written_stays_until_that_is_done() {
    if !is_ours("the handling of cores") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let handler = folder.path().join("handler");
    fs::write(&handler, SLOW_HANDLER).unwrap();
    fs::set_permissions(&handler, Permissions::from_mode(0o755)).unwrap();
    let pattern = CorePattern::replaced_by(&handler);
    let test_process = Crowd::start(1).unwrap();
    let pid = test_process.pids().next().unwrap();
    let watchers = Watchers::of(pid);
    let number = Pid::from_raw(pid.cast_signed()).unwrap();
    kill_process(number, Signal::QUIT).unwrap();
    eventually("the core is being written", || {
        folder.path().join("begun").exists()
    });
    watchers.it_stays();
    let status = || fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status().contains("\nCoreDumping:\t1\n"), "{}", status());
    fs::write(folder.path().join("go-on"), "").unwrap();
    watchers.it_goes();
    assert!(status().contains("\nState:\tZ"), "{}", status());
    drop(pattern);
}
