//! Stress tests: ten thousand real deaths of every kind beside controls that stay alive, and a
//! thousand forced pid reuses. Also: processes whose worker threads execute programs without pause,
//! processes that are killed under a debugger, and the share of deaths with a reported exit status.
//! The counts are printed.
//!
//! `cargo test` runs a small share; `REAPER_TEST_SCALE=full` runs everything.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "steps of tests; skip reasons and figures are printed"
)]

mod controls;
mod deaths;
mod exit_status;
mod reuse;
mod reuse_run;
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

/// A user without any privilege.
const UID_NOBODY: u32 = 65_534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// In a guest, the environment names the program.
fn fork_server_program() -> PathBuf {
    let built = || env!("CARGO_BIN_EXE_fork_server").into();
    std::env::var_os("FORK_SERVER_BIN").map_or_else(built, PathBuf::from)
}

/// A fork server whose test processes the kernel reaps as soon as they have ended.
fn fork_server() -> ForkServer {
    ForkServer::open(Command::new(fork_server_program())).unwrap()
}

/// A fork server whose test processes stay zombies until the test reaps them.
fn fork_server_keeping_zombies() -> ForkServer {
    let mut program = Command::new(fork_server_program());
    program.arg(KEEP_ZOMBIES);
    ForkServer::open(program).unwrap()
}

/// A daemon without pidfds, limited to this number of descriptors.
fn daemon_without_pidfds(flags: &[&str], descriptors: u64) -> TestDaemon {
    let prefix = confined::without_pidfds(&fork_server_program(), descriptors);
    Launch::with(flags).through(&prefix).start()
}

/// Returns which of these sources work for the daemon. Fails if a required one does not.
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

/// The rest of the first line of `/proc/PID/FILE` that starts with `prefix`.
fn line_of(pid: u32, file: &str, prefix: &str) -> Option<String> {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join(file)).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(prefix))?;
    Some(line.trim().to_owned())
}
