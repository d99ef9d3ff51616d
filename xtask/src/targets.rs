//! `cargo xtask check-targets`: type-checks the daemon's crates for systems on which CI does not run.
//! Nothing is linked or run, so no SDK is needed, only a standard library for the target.
//!
//! The library is that of the rustup toolchain if `rustup target add` has installed it. Otherwise it is
//! built from source with Debian's compiler and `rust-web-src` (rustup's stable compiler refuses that).
//! If neither is available, the check fails; it is never skipped.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{command, output, run as execute};

const DAEMON: &[&str] = &["aarch64-apple-darwin", "x86_64-unknown-freebsd"];
/// For the registry only: this target has no clock, files or threads, so the registry uses none.
const PURE: &[&str] = &["wasm32-unknown-unknown"];

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";

pub(crate) fn run() -> Result<()> {
    check(&["reaper-registry", "reaperd"], DAEMON)?;
    check(&["reaper-registry"], PURE)
}

fn check(packages: &[&str], targets: &[&str]) -> Result<()> {
    let mut check = compiler_for(targets)?;
    // A separate folder: another compiler in the usual one would rebuild everything, twice.
    check.args(["--locked", "--target-dir", "target/check-targets"]);
    check.args(packages.iter().flat_map(|package| ["--package", package]));
    check.args(targets.iter().flat_map(|target| ["--target", target]));
    execute(&mut check)
}

/// Returns `cargo check` with the first compiler that has, or can build, a library for all `targets`.
fn compiler_for(targets: &[&str]) -> Result<Command> {
    if has_libraries("rustc", targets)? {
        return command("cargo", &["check"]);
    }
    let missing = missing_packages();
    if !missing.is_empty() {
        bail!(
            "no standard library for {}; either\n    rustup target add {}\nor, on Debian,\n    \
             apt-get install --no-install-recommends {}",
            targets.join(", "),
            targets.join(" "),
            missing.join(" ")
        );
    }
    let mut debian = command(DEBIAN_CARGO, &["check", "-Z", "build-std=std,panic_unwind"])?;
    // RUSTC, because cargo would find rustup's compiler first. RUSTC_BOOTSTRAP, because -Z is unstable.
    // Without debug info and incremental files the check takes half the time.
    debian
        .env("RUSTC", DEBIAN_RUSTC)
        .env("RUSTC_BOOTSTRAP", "1");
    debian
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_INCREMENTAL", "0");
    Ok(debian)
}

fn has_libraries(rustc: &str, targets: &[&str]) -> Result<bool> {
    for target in targets {
        let args = ["--print", "target-libdir", "--target", target];
        if !Path::new(output(&mut command(rustc, &args)?)?.trim()).is_dir() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns the Debian packages that are not installed.
fn missing_packages() -> Vec<&'static str> {
    let mut missing = Vec::new();
    if !Path::new(DEBIAN_CARGO).exists() {
        missing.push("cargo-web");
    }
    if !Path::new(DEBIAN_RUSTC).exists() {
        missing.push("rustc-web");
    }
    if !debian_sources_exist() {
        missing.push("rust-web-src");
    }
    missing
}

fn debian_sources_exist() -> bool {
    let sysroot = command(DEBIAN_RUSTC, &["--print", "sysroot"]).and_then(|mut c| output(&mut c));
    sysroot.is_ok_and(|sysroot| {
        Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/std")
            .exists()
    })
}
