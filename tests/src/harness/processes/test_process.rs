//! A single process that ends in a chosen way, whose failures fail the test.
#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "these are steps of tests, which fail by panicking"
)]

use std::fs;
use std::io;

use reaperd::testkit::test_process::{self, Kind};

use crate::daemon::reaperd;

/// A [`test_process::TestProcess`] of the daemon under test. Dropped, it is killed and reaped.
#[derive(Debug)]
pub struct TestProcess {
    inner: test_process::TestProcess,
    /// Its start time, where `/proc` shows it.
    start_ticks: Option<u64>,
}

impl TestProcess {
    /// One that does nothing.
    pub fn start() -> Self {
        Self::spawn(Kind::Sleep)
    }

    /// One of this kind, ready for its cue.
    pub fn spawn(kind: Kind) -> Self {
        let inner = test_process::TestProcess::spawn(reaperd(), kind).unwrap();
        let start_ticks = stat_field(inner.pid().get(), 22).ok();
        Self {
            start_ticks: start_ticks.map(|ticks| ticks.parse().unwrap()),
            inner,
        }
    }

    pub fn pid(&self) -> u32 {
        self.inner.pid().get()
    }

    /// Its start time in clock ticks since boot.
    pub fn start_ticks(&self) -> u64 {
        self.start_ticks.expect("/proc shows the process")
    }

    /// Sends the cue that its kind waits for.
    pub fn cue(&mut self) {
        self.inner.cue().unwrap();
    }

    /// Waits until it prints exactly this line.
    pub fn expect(&mut self, line: &str) {
        self.inner.expect(line).unwrap();
    }

    /// Kills it without reaping it.
    pub fn kill(&mut self) {
        self.inner.kill().unwrap();
    }

    /// Waits until it has ended, and reaps it.
    pub fn reap(&mut self) {
        self.inner.wait().unwrap();
    }

    /// Sends the cue to end, and reaps it.
    pub fn finish(&mut self) {
        self.cue();
        self.reap();
    }
}

/// A field of `/proc/PID/stat`, numbered as in proc(5), from the third on: behind the name, which may
/// contain anything.
pub fn stat_field(pid: u32, number: usize) -> io::Result<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after_name) = stat.rsplit_once(") ").ok_or(io::ErrorKind::InvalidData)?;
    let field = after_name.split_ascii_whitespace().nth(number - 3);
    Ok(field.ok_or(io::ErrorKind::InvalidData)?.to_owned())
}
