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
        Self::new_below(&root().ok_or("no cgroup2 is mounted")?, name)
    }

    fn new_below(root: &Path, name: &str) -> Result<Self, String> {
        let path = root.join(format!("reaperd-test-{}-{name}", std::process::id()));
        fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }

    /// As above, with a limit on the memory of all its processes, beyond which one of them is killed.
    /// Where cgroup v2 has no memory controller, the group belongs to that of v1. In v2 the controller
    /// stays enabled for the groups below the root.
    pub fn with_memory(name: &str, bytes: u64) -> Result<Self, String> {
        let failed = |error| format!("no limit of memory: {error}");
        if let Some(root) = memory_root_of_v1() {
            let group = Self::new_below(&root, name)?;
            group
                .set("memory.limit_in_bytes", &bytes.to_string())
                .map_err(failed)?;
            return Ok(group);
        }
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
        limit().map_err(failed)?;
        Ok(group)
    }

    /// How often a process of a group with a limit on memory was killed for it.
    pub fn oom_kills(&self) -> Option<u64> {
        self.count("memory.events", "oom_kill ")
            .or_else(|| self.count("memory.oom_control", "oom_kill "))
    }

    /// The highest memory use of a group with a limit on memory, in bytes. In v2 since Linux 5.19.
    pub fn peak_memory(&self) -> Option<u64> {
        self.count("memory.peak", "")
            .or_else(|| self.count("memory.max_usage_in_bytes", ""))
    }

    /// The file into which a process writes its pid to become a member.
    pub fn procs_file(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }

    /// A command that becomes a member and then executes its arguments.
    pub fn entering(&self) -> Vec<String> {
        let enter = ["sh", "-c", "echo $$ > \"$0\" && exec \"$@\""].map(str::to_owned);
        let procs_file = self.procs_file().display().to_string();
        enter.into_iter().chain([procs_file]).collect()
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

/// Where the hierarchy of v2 is mounted.
fn root() -> Option<PathBuf> {
    mount_point(|kind, _| kind == "cgroup2")
}

/// Where the memory controller of v1 is mounted, on systems where v2 does not have it.
fn memory_root_of_v1() -> Option<PathBuf> {
    mount_point(|kind, options| kind == "cgroup" && options.split(',').any(|it| it == "memory"))
}

/// The first mount point of such a type and options.
fn mount_point(is_wanted: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut fields = mounts.lines().map(|line| line.split(' '));
    fields.find_map(|mut fields| {
        let (_, at) = (fields.next()?, fields.next()?);
        let (kind, options) = (fields.next()?, fields.next()?);
        is_wanted(kind, options).then(|| Path::new(at).to_owned())
    })
}
