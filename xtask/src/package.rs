//! The packages of the three libraries, as crates.io would get them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command::{cargo_home, command, repo_root, run as execute};

const PACKAGES: [&str; 3] = ["reaper-registry", "reaper-ebpf", "reaperd"];

/// Where the packages are made and built.
const TARGET: &str = "target/packaged";

/// Packs the libraries, builds each from its package, and runs the examples. Packages are built from their own files
/// only, so that a file outside of the package is missed.
pub(crate) fn check() -> Result<()> {
    forget_unpacked()?;
    // For the same reason nothing is used that an earlier run has built.
    let target = repo_root()?.join(TARGET);
    if target.exists() {
        fs::remove_dir_all(&target).with_context(|| target.display().to_string())?;
    }
    let mut package = command("cargo", &["package", "--locked", "--target-dir", TARGET])?;
    for name in PACKAGES {
        package.args(["--package", name]);
    }
    package.env("CARGO_PROFILE_DEV_DEBUG", "0");
    execute(&mut package)?;
    for example in ["watch_pid", "session_daemon", "replace_polling"] {
        let run = [
            "run",
            "--release",
            "--package",
            "reaperd",
            "--example",
            example,
        ];
        execute(&mut command("cargo", &run)?)?;
    }
    Ok(())
}

/// Removes what cargo has unpacked of these packages in an earlier run. It would build against that, because the
/// version is the same, although the content is another one.
fn forget_unpacked() -> Result<()> {
    let sources = cargo_home()?.join("registry/src");
    // A registry in a folder has no host, so its name begins with the hyphen before the hash.
    let is_local = |path: &PathBuf| {
        let name = path.file_name();
        name.is_some_and(|name| name.as_encoded_bytes().starts_with(b"-"))
    };
    for registry in entries(&sources)?.into_iter().filter(is_local) {
        for package in PACKAGES {
            let unpacked = registry.join(format!("{package}-{}", env!("CARGO_PKG_VERSION")));
            if unpacked.exists() {
                fs::remove_dir_all(&unpacked).with_context(|| unpacked.display().to_string())?;
            }
        }
    }
    Ok(())
}

/// Returns the paths of what is in a folder; nothing if there is no such folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => {
            let paths = listed?.map(|entry| Ok(entry?.path()));
            Ok(paths.collect::<io::Result<_>>()?)
        }
    }
}
