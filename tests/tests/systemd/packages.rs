//! Two versions of the .deb package, with the program under test: `cargo xtask dist` makes the first one, and
//! the next one differs in its version only.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use reaper_tests::daemon::{has_program, reaperd};
use reaper_tests::expect::skip_without;
use reaper_tests::wait::eventually_some;
use tempfile::TempDir;

use crate::inside::run;

/// Where the packages are in the machine.
pub(crate) const FOLDER: &str = "/srv/packages";
pub(crate) const FIRST: &str = "first.deb";
pub(crate) const NEXT: &str = "next.deb";
/// What the version of the next one ends with.
const SUFFIX: &str = "+next";

/// Makes both; without the tools for it, skips.
pub(crate) fn build() -> Option<TempDir> {
    let tools = ["dpkg-deb", "objdump", "strip", "gzip"];
    let missing: Vec<_> = tools.iter().filter(|name| !has_program(name)).collect();
    if !missing.is_empty() || !rustix::process::geteuid().is_root() {
        let reason = format!("needs root, and .ci/install-dist-tools: {missing:?}");
        skip_without("systemd", reason);
        return None;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let target = root.join("target/systemd");
    fs::create_dir_all(&target).unwrap();
    let folder = tempfile::tempdir_in(&target).unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // A program for debugging is large.
    run(&["strip", "-o", &at("reaperd"), reaperd().to_str().unwrap()]);
    let made = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["run", "--quiet", "--package", "xtask"])
        .args((!cfg!(debug_assertions)).then_some("--release"))
        .args(["--", "dist", "--only", "deb"])
        .args(["--binary", &at("reaperd"), "--out", &at("made")])
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "cargo xtask dist: {complaints}");
    let mut made = fs::read_dir(at("made"))
        .unwrap()
        .map(|it| it.unwrap().path());
    let package = made.find(|file| file.extension().is_some_and(|it| it == "deb"));
    fs::rename(package.unwrap(), at(FIRST)).unwrap();
    run(&["dpkg-deb", "--raw-extract", &at(FIRST), &at("tree")]);
    let control = at("tree/DEBIAN/control");
    let fields = fs::read_to_string(&control).unwrap();
    let lines = fields
        .lines()
        .map(|line| match line.strip_prefix("Version: ") {
            Some(version) => format!("Version: {version}{SUFFIX}\n"),
            None => format!("{line}\n"),
        });
    fs::write(&control, lines.collect::<String>()).unwrap();
    let tree = at("tree");
    run(&[
        "dpkg-deb",
        "--root-owner-group",
        "-Znone",
        "--build",
        &tree,
        &at(NEXT),
    ]);
    Some(folder)
}

fn path(name: &str) -> String {
    format!("{FOLDER}/{name}")
}

/// Installs one as an administrator does who has no repository.
pub(crate) fn install(name: &str) {
    run(&["dpkg", "--install", &path(name)]);
}

/// Begins to install one, which waits for the restart of the service.
pub(crate) fn begin_to_install(name: &str) -> Child {
    Command::new("apt-get")
        .args(["install", "--yes", &path(name)])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits until it is installed.
pub(crate) fn is_installed(mut installing: Child, name: &str) {
    let status = eventually_some("the package is installed", || {
        installing.try_wait().unwrap()
    });
    assert!(status.success(), "{status:?}");
    let of_system = run(&["dpkg-query", "--show", "--showformat=${Version}", "reaperd"]);
    let of_package = run(&["dpkg-deb", "--field", &path(name), "Version"]);
    assert_eq!(of_system, of_package);
}
