//! Waits for processes and prints how each ended: `cargo run --example watch_pid -- PID...`
//!
//! Any process will do, not only children. Without arguments the example starts a child and waits
//! for that.
#![expect(clippy::print_stdout, reason = "an example prints what happens")]

use std::process::Command;

use reaperd::{ExitWatcher, Pid};
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut pids = std::env::args()
        .skip(1)
        .map(|text| Ok(Pid::try_from(text.parse::<u32>()?)?))
        .collect::<Result<Vec<_>, Box<dyn std::error::Error>>>()?;
    let mut child = None;
    if pids.is_empty() {
        let started = Command::new("sh")
            .args(["-c", "sleep 0.2; exit 7"])
            .spawn()?;
        pids.push(Pid::try_from(started.id())?);
        child = Some(started);
    }

    let watcher = ExitWatcher::builder().start().await;
    for status in watcher.status() {
        println!("source {}: {}", status.source, status.state());
    }
    let mut pending = JoinSet::new();
    for pid in pids {
        match watcher.watch(pid) {
            Ok(watch) => drop(pending.spawn(watch)),
            Err(error) => println!("pid {pid}: {error}"),
        }
    }
    while let Some(exit) = pending.join_next().await {
        println!("{}", exit??);
    }
    if let Some(mut child) = child {
        child.wait()?;
    }
    Ok(())
}
