//! A control group (cgroup v2, Linux 4.5 and newer) for a test to put processes into.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{Deadline, TIMEOUT, eventually};

/// A group below the root. On drop it is thawed, its processes are killed, and it is removed.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Creates an empty one, or returns the reason why that is not possible.
    pub fn new(name: &str) -> Result<Self, String> {
        let root = root().ok_or("no cgroup2 is mounted")?;
        let path = root.join(format!("reaperd-test-{}-{name}", std::process::id()));
        fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }

    /// As above, with a limit on the memory of all its processes, beyond which one of them is killed.
    /// The memory controller stays enabled for the groups below the root.
    pub fn with_memory(name: &str, bytes: u64) -> Result<Self, String> {
        let group = Self::new(name)?;
        let limit = || {
            let root = group.0.parent().unwrap_or(&group.0);
            fs::write(root.join("cgroup.subtree_control"), "+memory")?;
            // Absent if the kernel does not account for swap.
            if group.0.join("memory.swap.max").exists() {
                group.set("memory.swap.max", "0")?;
            }
            group.set("memory.max", &bytes.to_string())
        };
        limit().map_err(|error| format!("no limit of memory: {error}"))?;
        Ok(group)
    }

    /// The file into which a process writes its pid to become a member.
    pub fn procs_file(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }

    /// Makes a process a member.
    pub fn add(&self, pid: u32) -> io::Result<()> {
        fs::write(self.procs_file(), pid.to_string())
    }

    /// Whether this kernel can freeze it (Linux 5.2 and newer).
    pub fn can_be_frozen(&self) -> bool {
        self.0.join("cgroup.freeze").exists()
    }

    /// Freezes its processes, and returns when all are frozen.
    pub fn freeze(&self) -> io::Result<()> {
        self.set("cgroup.freeze", "1")?;
        eventually("the group is frozen", || {
            self.count("cgroup.events", "frozen ") == Some(1)
        });
        Ok(())
    }

    /// The number behind this key in one of its files.
    pub fn count(&self, file: &str, key: &str) -> Option<u64> {
        let text = fs::read_to_string(self.0.join(file)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().parse().ok()
    }

    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.0.join(file), value)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.set("cgroup.freeze", "0").unwrap_or_default();
        let members = fs::read_to_string(self.procs_file()).unwrap_or_default();
        let pids = members.lines().filter_map(|line| line.parse().ok());
        for pid in pids.filter_map(Pid::from_raw) {
            kill_process(pid, Signal::KILL).unwrap_or_default();
        }
        // A killed process is a member until it has ended.
        let deadline = Deadline::after(TIMEOUT);
        while fs::remove_dir(&self.0).is_err() && !deadline.has_passed() {
            std::thread::yield_now();
        }
    }
}

/// Where the hierarchy is mounted.
fn root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut fields = mounts.lines().map(|line| line.split(' '));
    fields.find_map(|mut fields| {
        let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| Path::new(at).to_owned())
    })
}
