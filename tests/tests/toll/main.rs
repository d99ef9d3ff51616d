//! The toll: ten thousand real deaths of every kind beside processes that only look dead, and a
//! thousand numbers that are forced upon somebody else. Beside them processes whose worker threads
//! execute programs without pause, processes that are killed under a debugger, and the share of ends
//! whose status is told. What comes out is counted and printed.
//!
//! `cargo test` runs a small share of it; `REAPER_TORTURE=whole` runs all.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "steps of tests; reasons and figures are printed"
)]

mod bystanders;
mod deaths;
mod exit_status;
mod ledger;
mod play;
mod reuse;
mod time_namespaces;
mod traced;
mod victims;
mod worker_execs;

use std::path::{Path, PathBuf};
use std::process::Command;

use reaper_tests::confined;
use reaper_tests::daemon::{Launch, TestDaemon};
use reaper_tests::expect;
use reaper_tests::nursery::{KEEP_THE_DEAD, Nursery};

/// The user without any privilege.
const NOBODY: u32 = 65_534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A share of it in an ordinary run, all of it where that is asked for.
fn share(whole: usize, ordinary: usize) -> usize {
    match std::env::var("REAPER_TORTURE") {
        Ok(word) if word == "whole" => whole,
        _ => ordinary,
    }
}

/// In a guest the harness says where the program is.
fn nursery_program() -> PathBuf {
    let built = || env!("CARGO_BIN_EXE_nursery").into();
    std::env::var_os("NURSERY_BIN").map_or_else(built, PathBuf::from)
}

/// Whose victims the kernel collects as soon as they have ended.
fn nursery() -> Nursery {
    Nursery::open(Command::new(nursery_program())).unwrap()
}

/// Whose dead stay until they are asked for.
fn keeping_nursery() -> Nursery {
    let mut program = Command::new(nursery_program());
    program.arg(KEEP_THE_DEAD);
    Nursery::open(program).unwrap()
}

/// A daemon that can hold no pidfd, and so few other descriptors as this.
fn daemon_without_pidfds(flags: &[&str], descriptors: u64) -> TestDaemon {
    let entrance = confined::without_pidfds(&nursery_program(), descriptors);
    Launch::with(flags)
        .through(&entrance.each_ref().map(String::as_str))
        .start()
}

/// Which of these sources work for the daemon. One that is required here must.
fn working<'names>(daemon: &TestDaemon, sources: &[&'names str]) -> Vec<&'names str> {
    let works = |source: &&&str| match daemon.settled(source) {
        Ok(()) => true,
        Err(reason) => {
            assert!(!expect::is_required(source), "{source}: {reason}");
            false
        }
    };
    sources.iter().filter(works).copied().collect()
}

/// A line of `/proc/PID/FILE` that starts with this word, without it.
fn line_of(pid: u32, file: &str, word: &str) -> Option<String> {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join(file)).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(word))?;
    Some(line.trim().to_owned())
}
