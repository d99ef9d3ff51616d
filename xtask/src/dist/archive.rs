//! The tarball with a static binary, for systems without a package: unpack it below `/usr/local`.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::tree::Kind;
use super::{Release, tool};
use crate::command::run;

pub(super) fn make(release: &Release, out: &Path) -> Result<PathBuf> {
    let tree = release.stage(Kind::Tarball)?;
    tree.finish()?;
    let name = format!("reaperd-{}-{}-linux", release.version, release.arch());
    let file = out.join(format!("{name}.tar.xz"));
    let mut tar = tool("tar", &["--create", "--sort=name", "--format=gnu", "--xz"])?;
    tar.args(["--owner=0", "--group=0", "--numeric-owner"])
        .arg(format!("--mtime=@{}", release.epoch))
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
