//! Before and after: waiting for a process that is not a child.
//!
//! Many daemons poll `kill(pid, 0)` every few seconds. Such a poll finds an exit seconds late, takes
//! a zombie for a live process, and mistakes a later process with the same pid for the first one.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "an example prints what happens and how long it took"
)]

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use reaperd::{ExitWatcher, Pid};

/// Before: is there a process with this pid? Not necessarily the one that was meant.
fn pid_exists(pid: Pid) -> bool {
    Command::new("kill")
        .args(["-0", &pid.to_string()])
        .output()
        .is_ok_and(|output| output.status.success())
}

async fn wait_by_polling(pid: Pid) {
    while pid_exists(pid) {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// After: this very process, at once, with its exit status where the kernel shows it.
async fn wait_by_watching(
    watcher: &ExitWatcher,
    pid: Pid,
) -> Result<(), Box<dyn std::error::Error>> {
    match watcher.watch(pid) {
        Ok(watch) => println!("  {}", watch.await?),
        Err(error) => println!("  {error}"),
    }
    Ok(())
}

/// Starts a process that ends after 200 ms; a thread reaps it.
fn start() -> Result<Pid, Box<dyn std::error::Error>> {
    let mut child: Child = Command::new("sleep").arg("0.2").spawn()?;
    let pid = Pid::try_from(child.id())?;
    std::thread::spawn(move || child.wait());
    Ok(pid)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let began = Instant::now();
    wait_by_polling(start()?).await;
    println!("polling every 500 ms: seen after {:?}", began.elapsed());

    let watcher = ExitWatcher::builder().start().await;
    let began = Instant::now();
    wait_by_watching(&watcher, start()?).await?;
    println!("watching: seen after {:?}", began.elapsed());
    Ok(())
}
