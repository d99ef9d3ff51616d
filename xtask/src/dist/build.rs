//! The binaries. The paths of this machine are replaced in them, so that they do not depend on where they
//! were built.

use std::path::PathBuf;

use anyhow::Result;

use super::Release;
use crate::command::{cargo_home, command, run};

/// The target of the static binary. The C library is glibc: Rust's target for musl is not in every
/// toolchain. Names of users are read from /etc/passwd; other name services need the library that the
/// binary was linked with.
const STATIC_TARGET: &str = if cfg!(target_arch = "aarch64") {
    "aarch64-unknown-linux-gnu"
} else {
    "x86_64-unknown-linux-gnu"
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Linking {
    Dynamic,
    Static,
}

/// Returns the path of the binary, after building it.
pub(super) fn binary(release: &Release, linking: Linking) -> Result<PathBuf> {
    if let Some(binary) = &release.binary {
        return Ok(release.root.join(binary));
    }
    let folder = release.root.join("target/dist/build");
    let cargo_home = cargo_home()?;
    let mut flags = vec![
        format!("--remap-path-prefix={}=/reaperd", release.root.display()),
        format!("--remap-path-prefix={}=/cargo", cargo_home.display()),
    ];
    let profile_folder = match release.profile.as_str() {
        "dev" => "debug",
        profile => profile,
    };
    let mut build = command("cargo", &["build", "--locked", "--package", "reaperd"])?;
    build.args(["--profile", &release.profile, "--target-dir"]);
    build.arg(&folder);
    let mut binary = folder;
    if linking == Linking::Static {
        build.args(["--target", STATIC_TARGET]);
        flags.push("-Ctarget-feature=+crt-static".to_owned());
        // Otherwise the crate looks the call up at run time, which a static program cannot, and then opens
        // /dev/urandom, which an empty root does not have.
        flags.extend(["--cfg", "getrandom_backend=\"linux_getrandom\""].map(str::to_owned));
        binary.push(STATIC_TARGET);
    }
    build.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    run(&mut build)?;
    Ok(binary.join(profile_folder).join("reaperd"))
}
