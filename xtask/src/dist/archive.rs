//! The tarball with a static binary, for systems without a package: unpack it below `/usr/local`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::tree::Kind;
use super::{ARCH, Release, tool};
use crate::command::run;

pub(super) fn make(release: &Release, out: &Path) -> Result<PathBuf> {
    let tree = release.stage(Kind::Tarball)?;
    tree.finish()?;
    let name = format!("reaperd-{}-{}-linux", release.version, ARCH);
    let file = out.join(format!("{name}.tar.xz"));
    let mut tar = tar(release)?;
    tar.arg("--xz")
        .arg(format!("--transform=s,^\\./usr,{name},;s,^\\.,{name},"))
        .arg("--file")
        .arg(&file)
        .arg("--directory")
        .arg(&tree.root)
        .arg(".");
    // One thread: the division into blocks would depend on the number of processors.
    run(tar.env("XZ_OPT", "-6 -T1"))?;
    Ok(file)
}

/// Returns a command that packs files so that the bytes depend on their content only.
pub(super) fn tar(release: &Release) -> Result<Command> {
    let mut tar = tool("tar", &["--create", "--sort=name", "--format=gnu"])?;
    tar.args(["--owner=0", "--group=0", "--numeric-owner"]);
    tar.arg("--mode=u+rwX,go+rX,go-w");
    tar.arg(format!("--mtime=@{}", release.epoch));
    Ok(tar)
}
