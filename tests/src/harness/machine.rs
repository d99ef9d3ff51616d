//! A machine with a real systemd as pid 1: a container of systemd-nspawn, with the units of this repository
//! and the program under test.
//!
//! Its root is a minimal Debian of the release that this machine runs, so that the program finds its C library.
//! It is built once, in `target/systemd`, and never changed: each machine writes to memory. A machine is in a
//! pid namespace of its own, where the kernel's events do not arrive; pidfds and the sweep work.
#![expect(
    clippy::missing_panics_doc,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::cgroup::Cgroup;
use crate::daemon::{has_program, reaperd};
use crate::expect::{skip, skip_without};
use crate::raw_http;
use crate::wait::{some_within, within};

/// A boot takes a second on an idle machine.
const BOOT: Duration = Duration::from_mins(1);
const PACKAGES: &str = "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd";
/// The path of the system's socket.
pub const SOCKET: &str = "/run/reaperd/reaperd.sock";

/// The running test program, in the machine.
const TEST: &str = "/usr/lib/reaper-tests/this";
/// Set in the environment of a test that runs in a machine.
const INSIDE: &str = "REAPER_IN_MACHINE";

/// Control groups as systemd needs them, in a mount namespace of its own, and then the machine.
const START: &str = "umount --recursive /sys/fs/cgroup 2>/dev/null; \
    mount -t cgroup2 none /sys/fs/cgroup && exec systemd-nspawn \"$@\"";

/// One test at a time builds the root.
static BUILDING: Mutex<()> = Mutex::new(());

/// A running machine. Dropping it ends it at once.
pub struct Machine {
    nspawn: Child,
    /// Its pid 1, as this machine sees it.
    leader: u32,
    /// Its control groups are below this one.
    group: Cgroup,
    _folder: TempDir,
}

impl Machine {
    /// Boots a machine with the program under test and its units; `None` if that is not possible here, with
    /// the reason printed.
    pub fn boot() -> Option<Self> {
        Self::boot_with(files())
    }

    /// Boots one that has these files and folders of this machine, under the names beside them, and nothing
    /// of the program under test.
    pub fn boot_with(shown: impl IntoIterator<Item = (PathBuf, String)>) -> Option<Self> {
        let root = root()?;
        let test = (std::env::current_exe().unwrap(), TEST.to_owned());
        let shown = shown.into_iter().chain([test]);
        let folder = tempfile::tempdir().unwrap();
        let log = File::create(folder.path().join("console")).unwrap();
        let name = unique();
        let group = Cgroup::new(&name).unwrap();
        let enter = group.entering();
        let nspawn = Command::new(&enter[0])
            .args(&enter[1..])
            .args(["unshare", "--mount", "--propagation", "private"])
            .args(["sh", "-c", START, "machine", "--quiet", "--boot"])
            .arg(format!("--directory={}", root.display()))
            .arg(format!("--machine={name}"))
            .args(["--volatile=overlay", "--register=no", "--keep-unit"])
            .args(["--link-journal=no", "--console=read-only"])
            // What the unit gives to the daemon.
            .arg("--capability=CAP_NET_ADMIN")
            // The container has no filter of system calls, which would forbid the daemon's own sandbox.
            .env("SYSTEMD_SECCOMP", "0")
            .args(shown.map(|(from, to)| format!("--bind-ro={}:{to}", from.display())))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let leader = some_within(BOOT, "the machine has a pid 1", || leader_of(nspawn.id()));
        let machine = Self {
            nspawn,
            leader,
            group,
            _folder: folder,
        };
        within(BOOT, "the machine has booted", || {
            let state = machine.try_run(&["systemctl", "is-system-running"]);
            // Units of the container itself may fail; they are not ours.
            matches!(text(&state.stdout), "running" | "degraded")
        });
        Some(machine)
    }

    /// Runs a command as root of the machine, and returns what it prints. It must succeed.
    pub fn run(&self, command: &[&str]) -> String {
        let output = self.try_run(command);
        assert!(
            output.status.success(),
            "{command:?}: {}{}\n{}",
            text(&output.stdout),
            text(&output.stderr),
            self.journal()
        );
        text(&output.stdout).to_owned()
    }

    /// The same, whatever the outcome is.
    pub fn try_run(&self, command: &[&str]) -> Output {
        self.command(command).output().unwrap()
    }

    /// A command of root of the machine.
    pub fn command(&self, command: &[&str]) -> Command {
        let mut entered = Command::new("nsenter");
        entered
            .args(["--all", "--target", &self.leader.to_string(), "--"])
            .args([
                "env",
                "--ignore-environment",
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            ])
            .args(command)
            .stdin(Stdio::null());
        entered
    }

    /// Runs one test of the calling program again, as root of the machine, where [`is_inside`] is true.
    pub fn run_test(&self, name: &str) {
        let scale = std::env::var("REAPER_TEST_SCALE").unwrap_or_default();
        let output = self.try_run(&[
            "env",
            &format!("{INSIDE}=1"),
            &format!("REAPER_TEST_SCALE={scale}"),
            "REAPERD_BIN=/usr/bin/reaperd",
            TEST,
            "--exact",
            name,
            "--nocapture",
        ]);
        let (printed, complaints) = (text(&output.stdout), text(&output.stderr));
        println!("{printed}");
        assert!(output.status.success(), "{complaints}");
        assert!(printed.contains("1 passed"), "there is no test {name}");
    }

    /// Starts a unit, and returns once its manager has seen it ready.
    pub fn start(&self, unit: &str) {
        self.run(&["systemctl", "start", unit]);
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.run(&["systemctl", "show", "--value", "--property", name, unit])
    }

    /// Writes a file of the machine, and lets systemd read its units again.
    pub fn write(&self, path: &str, content: &str) {
        let inside = self.inside(path);
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::write(inside, content).unwrap();
        self.run(&["systemctl", "daemon-reload"]);
    }

    /// The path of a file of the machine, as this machine sees it.
    pub fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.leader))
    }

    /// The log of the daemon and of its manager.
    pub fn journal(&self) -> String {
        let command = [
            "journalctl",
            "--no-pager",
            "-o",
            "short-monotonic",
            "--unit=reaperd*",
        ];
        text(&self.try_run(&command).stdout).to_owned()
    }

    /// Sends a request to the system's daemon as root, and returns status and body.
    pub fn request(&self, line: &str, fields: &str) -> Result<(u16, String), String> {
        let failed = |error: std::io::Error| error.to_string();
        let mut stream = UnixStream::connect(self.inside(SOCKET)).map_err(failed)?;
        stream.set_read_timeout(Some(BOOT)).map_err(failed)?;
        let request = raw_http::request(line, fields, "");
        stream.write_all(request.as_bytes()).map_err(failed)?;
        let mut response = String::new();
        stream.read_to_string(&mut response).map_err(failed)?;
        let (status, body) = raw_http::parse(&response)?;
        Ok((status, body.to_owned()))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.journal());
        }
        // The kernel ends everything in the machine with its pid 1, and nspawn ends after that.
        let leader = Pid::from_raw(self.leader.cast_signed()).expect("a pid");
        kill_process(leader, Signal::KILL).unwrap_or_default();
        self.nspawn.wait().map(drop).unwrap_or_default();
        remove_groups_below(self.group.procs_file().parent().expect("a folder"));
    }
}

/// Whether this process runs in a machine of [`Machine::run_test`].
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Removes the empty groups below this one.
fn remove_groups_below(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups_below(&entry.path());
            fs::remove_dir(entry.path()).unwrap_or_default();
        }
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or("not UTF-8").trim_end()
}

fn unique() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("machine-{}-{number}", std::process::id())
}

/// The pid 1 of the machine is the child of nspawn that runs systemd.
fn leader_of(nspawn: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
    let mut children = children
        .split_whitespace()
        .filter_map(|pid| pid.parse::<u32>().ok());
    children.find(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.trim_end() == "systemd")
    })
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
}

/// The folder of the units and what belongs to them.
pub fn units() -> PathBuf {
    workspace().join("dist/systemd")
}

/// What is shown in the machine, where a package installs it.
fn files() -> impl Iterator<Item = (PathBuf, String)> {
    let unit = |kind: &'static str| {
        ["reaperd.service", "reaperd.socket"].map(|name| {
            (
                units().join(kind).join(name),
                format!("/usr/lib/systemd/{kind}/{name}"),
            )
        })
    };
    let program = (reaperd().to_owned(), "/usr/bin/reaperd".to_owned());
    let user = units().join("sysusers.d/reaperd.conf");
    let user = (user, "/usr/lib/sysusers.d/reaperd.conf".to_owned());
    let profile = "user/claudemesh-daemon.service";
    let profile = (units().join(profile), format!("/usr/lib/systemd/{profile}"));
    let units = unit("system").into_iter().chain(unit("user"));
    units.chain([profile, program, user])
}

/// The root of all machines, which is built if it is missing.
fn root() -> Option<PathBuf> {
    if !rustix::process::geteuid().is_root() {
        skip("not root");
        return None;
    }
    let programs = ["systemd-nspawn", "mmdebstrap", "nsenter", "unshare"];
    let missing: Vec<_> = programs.iter().filter(|it| !has_program(it)).collect();
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let is_debian = release.lines().any(|line| line == "ID=debian");
    let (true, Some(codename), true) = (missing.is_empty(), codename, is_debian) else {
        let reason = format!("needs Debian, and .ci/install-systemd-tools: {missing:?}");
        skip_without("systemd", reason);
        return None;
    };
    let _building = BUILDING.lock().unwrap();
    let folder = workspace().join("target/systemd");
    let root = folder.join(format!("root-{codename}"));
    if !root.exists() {
        fs::create_dir_all(&folder).unwrap();
        let partial = tempfile::tempdir_in(&folder).unwrap();
        build(codename, &partial.path().join("root"));
        fs::rename(partial.path().join("root"), &root).unwrap();
    }
    Some(root)
}

fn build(codename: &str, root: &Path) {
    let output = Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase", "--format=directory"])
        .arg(format!("--include={PACKAGES}"))
        .args(
            ["doc", "man", "locale"].map(|it| format!("--dpkgopt=path-exclude=/usr/share/{it}/*")),
        )
        .arg(codename)
        .arg(root)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}
