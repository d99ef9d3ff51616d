//! A slow core dump.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use reaper_tests::crowd::Crowd;
use reaper_tests::wait::eventually;
use rustix::process::{Pid, Signal, kill_process};

use super::may_change;
use crate::states::Daemons;

/// Writes no core dump. It makes the kernel wait until the test creates the file `go-on`.
const SLOW_HANDLER: &str = "#!/bin/sh
: > \"${0%/*}/begun\"
until [ -e \"${0%/*}/go-on\" ] || [ ! -e \"$0\" ]; do sleep 0.1; done
";
/// `|` and a program that the kernel starts for each core dump: core(5).
const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// The original pattern, restored on drop.
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

/// A process ends, and its pid becomes free, only after its core has been dumped.
#[test]
fn a_process_whose_core_is_being_dumped_stays_until_the_dump_is_done() {
    if !may_change("the handling of core dumps") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let handler = folder.path().join("handler");
    fs::write(&handler, SLOW_HANDLER).unwrap();
    fs::set_permissions(&handler, Permissions::from_mode(0o755)).unwrap();
    let pattern = CorePattern::replaced_by(&handler);
    let test_process = Crowd::start(1).unwrap();
    let pid = test_process.pids().next().unwrap();
    let daemons = Daemons::watching(pid);
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::QUIT).unwrap();
    eventually("the core is being dumped", || {
        folder.path().join("begun").exists()
    });
    daemons.check_stays();
    let status = || fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status().contains("\nCoreDumping:\t1\n"), "{}", status());
    fs::write(folder.path().join("go-on"), "").unwrap();
    daemons.check_removed();
    assert!(status().contains("\nState:\tZ"), "{}", status());
    drop(pattern);
}
