//! Many processes at once. They are `sleep`s, which cost less than the processes of
//! [`super::test_process`] and need no descriptor.

use std::collections::BTreeSet;
use std::io;
use std::process::{Child, Command, Stdio};

use crate::daemon::session_of;

/// Processes that run until they are killed. Dropped, they are killed and reaped.
#[derive(Debug)]
pub struct Crowd(Vec<Child>);

impl Crowd {
    /// Starts so many.
    pub fn start(count: usize) -> io::Result<Self> {
        // Filled one by one, so that those started before a failure are killed by the drop.
        let mut crowd = Self(Vec::with_capacity(count));
        for _ in 0..count {
            crowd.0.push(sleeper().spawn()?);
        }
        Ok(crowd)
    }

    /// One process that was started otherwise.
    pub fn of(child: Child) -> Self {
        Self(vec![child])
    }

    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(Child::id)
    }

    /// The ids under which `TestDaemon::register_all` registers them.
    pub fn sessions(&self) -> BTreeSet<String> {
        self.pids().map(session_of).collect()
    }

    /// Kills all, and reaps them after the last kill.
    pub fn kill(&mut self) -> io::Result<()> {
        for child in &mut self.0 {
            child.kill()?;
        }
        for child in &mut self.0 {
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // A process that cannot be killed has ended.
        self.kill().unwrap_or_default();
    }
}

/// Starts so many unrelated processes, and waits for their ends.
pub fn storm(count: usize) -> io::Result<()> {
    const AT_ONCE: usize = 64;
    let mut left = count;
    while left > 0 {
        let wave: Vec<Child> = (0..left.min(AT_ONCE))
            .map(|_| quiet(Command::new("true")).spawn())
            .collect::<Result<_, _>>()?;
        left -= wave.len();
        for mut child in wave {
            child.wait()?;
        }
    }
    Ok(())
}

fn sleeper() -> Command {
    let mut command = quiet(Command::new("sleep"));
    command.arg("600");
    command
}

fn quiet(mut command: Command) -> Command {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}
