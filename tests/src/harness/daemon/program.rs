//! Where the program under test is. In a guest an environment variable names it; elsewhere it is in
//! cargo's folder, where a run of one package's tests alone does not put it or leaves an old one.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// The `reaperd` binary, of this state of the sources.
pub fn reaperd() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| match env::var_os("REAPERD_BIN") {
        Some(path) => path.into(),
        None => built_with_this(),
    })
}

/// `target/PROFILE/reaperd`, seen from `target/PROFILE/deps/TEST` or `target/PROFILE/bench`.
fn built_with_this() -> PathBuf {
    let this = env::current_exe().expect("/proc is mounted");
    let folder = this.parent().expect("a file is in a folder");
    let profile = if folder.ends_with("deps") {
        folder.parent().expect("cargo's folder of a profile")
    } else {
        folder
    };
    let program = profile.join("reaperd");
    if !is_current(&program) {
        build(profile);
    }
    program
}

/// Whether it is as new as every source in cargo's list.
fn is_current(program: &Path) -> bool {
    let built = modified(program);
    let Ok(list) = fs::read_to_string(program.with_extension("d")) else {
        return false;
    };
    let Some((_, sources)) = list.split_once(": ") else {
        return false;
    };
    // A path with a blank is not found. Then cargo runs and finds that nothing has to be built.
    let mut sources = sources.split_whitespace();
    built.is_some()
        && sources.all(|source| modified(Path::new(source)) <= built && Path::new(source).exists())
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|found| found.modified()).ok()
}

fn build(profile: &Path) {
    let name = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let target = profile.parent().expect("cargo's target folder");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let status = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["build", "--quiet", "--bin", "reaperd", "--profile", name])
        .arg("--target-dir")
        .arg(target)
        .status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "cargo build --bin reaperd: {status:?}"
    );
}
