//! The toll: ten thousand real deaths of every kind beside processes that only look dead, and a
//! thousand numbers that are forced upon somebody else. Beside them processes whose worker threads
//! execute programs without pause, processes that are killed under a debugger, and the share of ends
//! whose status is told. What comes out is counted and printed.
//!
//! `cargo test` runs a small share of it; `REAPER_TEST_SCALE=full` runs all.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "steps of tests; reasons and figures are printed"
)]

mod controls;
mod deaths;
mod exit_status;
mod play;
mod reuse;
mod test_processes;
mod time_namespaces;
mod traced;
mod tracker;
mod worker_execs;

use std::path::{Path, PathBuf};
use std::process::Command;

use reaper_tests::confined;
use reaper_tests::daemon::{Launch, TestDaemon};
use reaper_tests::expect;
use reaper_tests::fork_server::{ForkServer, KEEP_ZOMBIES};
use reaper_tests::scale::scaled;

/// The user without any privilege.
const UID_NOBODY: u32 = 65_534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// In a guest the harness says where the program is.
fn fork_server_program() -> PathBuf {
    let built = || env!("CARGO_BIN_EXE_fork_server").into();
    std::env::var_os("FORK_SERVER_BIN").map_or_else(built, PathBuf::from)
}

/// Whose test processes the kernel collects as soon as they have ended.
fn fork_server() -> ForkServer {
    ForkServer::open(Command::new(fork_server_program())).unwrap()
}

/// Whose dead stay until they are asked for.
fn fork_server_keeping_zombies() -> ForkServer {
    let mut program = Command::new(fork_server_program());
    program.arg(KEEP_ZOMBIES);
    ForkServer::open(program).unwrap()
}

/// A daemon that can hold no pidfd, and so few other descriptors as this.
fn daemon_without_pidfds(flags: &[&str], descriptors: u64) -> TestDaemon {
    let entrance = confined::without_pidfds(&fork_server_program(), descriptors);
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
