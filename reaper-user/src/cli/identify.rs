//! `reaperd identify`: the session that a process, or the nearest of its ancestors, belongs to. Needs no
//! token.

use reaper_registry::Pid;
use serde_json::{Value, json};

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::lookup::{Who, no_session};
use super::output::{Layout, escape, json_line, print_line};
use crate::client::Client;

/// For `reaperd identify --help` and its manual page.
pub(super) const HELP: &str = "\
Output:
  ID of the session, pid of its process, and how many generations that process is above PID (0: PID itself)
  With --json: schema, pid, session (a session object of the HTTP interface), generations, and chain, the pids \
from PID up to the process of the session.

Each process of the chain is held by a pidfd and recognised by its start time, so a process that has got the pid of \
another one is not mistaken for it. Of several sessions of one process, the one that was registered last is shown.

Exit status:
  0  The process belongs to a session
  3  No daemon is listening
  4  Neither it nor an ancestor has a session of this user, or there is no such process

Environment:
  REAPERD_SOCKET      Path of the daemon's socket
  REAPERD_SERVER_UID  User whose daemon is trusted as well

Examples:
  reaperd identify
  reaperd identify 4711 --json";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The process [default: the one that runs this command]
    #[arg(value_name = "PID")]
    pid: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) async fn run(self, client: &Client) -> Result<ExitCode, Failure> {
        let pid = match self.pid {
            Some(pid) => Pid::new(pid).map_err(|_out_of_range| Failure {
                code: ExitCode::Usage,
                ..Failure::new("this is not the pid of a process", "reaperd identify PID")
            })?,
            None => parent().ok_or_else(|| {
                no_session("the process that runs this command has no pid here".to_owned())
            })?,
        };
        // Held until the sessions are read: so a session of such a pid is a session of that process.
        let chain = chain::of(pid)?;
        let sessions: Vec<Value> = client.sessions("").await?;
        let found = chain.iter().enumerate().find_map(|(above, process)| {
            let is_its = |session: &&Value| {
                let (pid, start_time) = (process.pid.get(), process.start_time);
                Who::of(session).is_ok_and(|who| who.hangs_on(pid, start_time))
            };
            Some((above, sessions.iter().rfind(is_its)?))
        });
        let Some((above, session)) = found else {
            return Err(Failure {
                code: ExitCode::NoSession,
                ..Failure::new(
                    format!("neither process {pid} nor one of its ancestors has a session"),
                    "reaperd run -- COMMAND   or   reaperd register --pid PID",
                )
            });
        };
        let line = if self.json {
            let chain: Vec<_> = chain[..=above].iter().map(|it| it.pid.get()).collect();
            json_line(&json!({
                "schema": 1,
                "pid": pid.get(),
                "session": session,
                "generations": above,
                "chain": chain,
            }))
        } else {
            let gap = Layout::of_stdout().gap();
            let id = session["sessionId"].as_str().unwrap_or_default();
            format!("{}{gap}{}{gap}{above}", escape(id), chain[above].pid)
        };
        print_line(&line)?;
        Ok(ExitCode::Success)
    }
}

/// Returns the process that runs this command; `None` if it is outside of the pid namespace.
fn parent() -> Option<Pid> {
    let parent = rustix::process::getppid()?;
    Pid::new(u32::try_from(parent.as_raw_nonzero().get()).ok()?).ok()
}

/// A process and its ancestors.
#[cfg(target_os = "linux")]
mod chain {
    use std::os::fd::{AsFd as _, OwnedFd};

    use reaper_registry::Pid;

    use super::super::exit_code::ExitCode;
    use super::super::failure::Failure;
    use crate::sys::process_table::{self, ProcessTable};
    use crate::sys::status_of;

    /// No chain is longer; a process with this many ancestors has none that matter.
    const LONGEST: usize = 1_024;

    /// A process that is held: its pid is no other process's.
    pub(super) struct Held {
        pub(super) pid: Pid,
        pub(super) start_time: u64,
        pidfd: OwnedFd,
    }

    /// Returns this process, its parent, and so on up to the first process, or to one that cannot be read.
    pub(super) fn of(pid: Pid) -> Result<Vec<Held>, Failure> {
        let table = process_table::of_this_system();
        let first = hold(&*table, pid).ok_or_else(|| Failure {
            code: ExitCode::NoSession,
            ..Failure::new(
                format!("there is no process {pid}, or /proc does not show it"),
                "use the pid of a process that runs",
            )
        })?;
        let mut chain = vec![first];
        while let Some(child) = chain.last().filter(|_| chain.len() < LONGEST) {
            let Some(parent) = parent_of(&*table, child) else {
                break;
            };
            chain.push(parent);
        }
        Ok(chain)
    }

    fn hold(table: &dyn ProcessTable, pid: Pid) -> Option<Held> {
        let pidfd = table.pidfd_open(pid).ok()?;
        let start_time = table.stat(pid).ok()?.start_time.0;
        let held = Held {
            pid,
            start_time,
            pidfd,
        };
        // Not reaped: what was read in between is about the same process.
        held.has_its_pid(table).then_some(held)
    }

    /// Returns the parent. It is read twice, before and after the parent is held: a parent that ends in
    /// between leaves its children to another one.
    fn parent_of(table: &dyn ProcessTable, child: &Held) -> Option<Held> {
        for _ in 0..8 {
            let parent = ppid(child.pid)?;
            let held = hold(table, parent);
            let same = ppid(child.pid)? == parent && child.has_its_pid(table);
            match held {
                Some(held) if same && held.has_its_pid(table) => {
                    // A parent is not younger than its child.
                    let is_older = held.start_time <= child.start_time;
                    return is_older.then_some(held);
                }
                None if same => return None,
                _ => {}
            }
        }
        None
    }

    fn ppid(pid: Pid) -> Option<Pid> {
        Pid::try_from(status_of(pid.as_raw()).ok()?.ppid).ok()
    }

    impl Held {
        fn has_its_pid(&self, table: &dyn ProcessTable) -> bool {
            matches!(table.pidfd_reaped(self.pidfd.as_fd()), Ok(false))
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::testing::Sleeper;

        fn this_process() -> Pid {
            Pid::new(std::process::id()).unwrap()
        }

        #[test]
        fn the_chain_begins_with_the_process_and_its_parent() {
            let sleeper = Sleeper::start();
            let chain = of(sleeper.pid()).unwrap();
            assert_eq!(chain[0].pid, sleeper.pid());
            assert_eq!(chain[1].pid, this_process());
            assert!(chain[1].start_time <= chain[0].start_time);
        }

        #[test]
        fn a_process_that_has_ended_has_no_chain_and_is_no_child() {
            let mut sleeper = Sleeper::start();
            let table = process_table::of_this_system();
            let held = hold(&*table, sleeper.pid()).unwrap();
            assert!(parent_of(&*table, &held).is_some());
            sleeper.end();
            assert!(!held.has_its_pid(&*table));
            assert!(parent_of(&*table, &held).is_none());
            assert!(of(sleeper.pid()).is_err());
        }
    }
}

/// Other systems show no ancestors in `/proc`.
#[cfg(not(target_os = "linux"))]
mod chain {
    use reaper_registry::Pid;

    use super::super::failure::Failure;

    pub(super) struct Held {
        pub(super) pid: Pid,
        pub(super) start_time: u64,
    }

    pub(super) fn of(_pid: Pid) -> Result<Vec<Held>, Failure> {
        Err(Failure::new(
            "this system does not show the ancestors of a process",
            "reaperd ls --pid PID",
        ))
    }
}
