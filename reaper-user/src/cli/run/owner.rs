//! The process in the name of a token file. A later `run` uses it to find files that are no longer
//! needed.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::str::FromStr;

use reaper_registry::Pid;

use crate::sys::process_table::{self, ProcessTable};

/// Separates the session id from the process.
pub(super) const OWNER_SEPARATOR: char = '@';

/// A process: pid and start time, and the namespaces in which these are valid, by inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pid: Pid,
    start_time: u64,
    pid_namespace: u64,
    time_namespace: u64,
}

impl Owner {
    /// Returns this process, or `None` if `/proc` does not show it.
    pub(super) fn this_process() -> Option<Self> {
        let pid = Pid::new(std::process::id()).ok()?;
        let start_time = process_table::of_this_system().stat(pid).ok()?.start_time.0;
        let (pid_namespace, time_namespace) = own_namespaces()?;
        Some(Self {
            pid,
            start_time,
            pid_namespace,
            time_namespace,
        })
    }

    /// Parses the owner in the name of a token file.
    pub(super) fn of_file(name: &str) -> Option<Self> {
        name.split_once(OWNER_SEPARATOR)?.1.parse().ok()
    }

    /// Whether the process has certainly exited. Always `false` for other namespaces.
    pub(super) fn has_exited(self) -> bool {
        let is_in_our_namespaces =
            own_namespaces() == Some((self.pid_namespace, self.time_namespace));
        is_in_our_namespaces && self.has_exited_by(process_table::of_this_system().as_ref())
    }

    fn has_exited_by(self, table: &dyn ProcessTable) -> bool {
        match table.stat(self.pid) {
            Ok(stat) => stat.start_time.0 != self.start_time,
            // The entry may be hidden, so the pid must be unused too.
            Err(_) => matches!(table.pid_in_use(self.pid), Ok(false)),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pid,
            start_time,
            pid_namespace,
            time_namespace,
        } = self;
        write!(f, "{pid}.{start_time}.{pid_namespace}.{time_namespace}")
    }
}

impl FromStr for Owner {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut numbers = text.split('.').map(|number| number.parse::<u64>().ok());
        let mut next = || numbers.next().flatten().ok_or(());
        let owner = Self {
            pid: next().and_then(|pid| Pid::new(pid.try_into().map_err(drop)?).map_err(drop))?,
            start_time: next()?,
            pid_namespace: next()?,
            time_namespace: next()?,
        };
        numbers.next().is_none().then_some(owner).ok_or(())
    }
}

/// Returns the inode numbers of our pid and time namespaces; zero for a kind that does not exist.
fn own_namespaces() -> Option<(u64, u64)> {
    let inode = |kind: &str| {
        let namespace = fs::metadata(format!("/proc/self/ns/{kind}"));
        namespace.map_or(0, |namespace| namespace.ino())
    };
    // Without `/proc` no process can be checked.
    fs::metadata("/proc/self").ok()?;
    Some((inode("pid"), inode("time")))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::testing::Sleeper;

    #[test]
    fn the_owner_is_parsed_from_a_file_name() {
        let owner = Owner::this_process().unwrap();
        assert_eq!(
            Owner::of_file(&format!("run-1{OWNER_SEPARATOR}{owner}")),
            Some(owner)
        );
        for name in [
            "run-1",
            "run-1@",
            "run-1@1.2.3",
            "run-1@1.2.3.4.5",
            "run-1@0.2.3.4",
            "run-1@x.2.3.4",
        ] {
            assert_eq!(Owner::of_file(name), None, "{name}");
        }
    }

    #[test]
    fn an_owner_has_exited_once_it_is_reaped_or_its_pid_is_reused() {
        let mut sleeper = Sleeper::start();
        let mut owner = Owner::this_process().unwrap();
        assert!(!owner.has_exited());
        owner.start_time += 1;
        assert!(owner.has_exited(), "the pid belongs to another process");
        owner.pid = sleeper.pid();
        owner.start_time = process_table::of_this_system()
            .stat(owner.pid)
            .unwrap()
            .start_time
            .0;
        assert!(!owner.has_exited());
        let elsewhere = Owner {
            pid_namespace: 1,
            ..owner
        };
        sleeper.end();
        assert!(owner.has_exited());
        assert!(
            !elsewhere.has_exited(),
            "pids of another namespace prove nothing"
        );
    }
}
