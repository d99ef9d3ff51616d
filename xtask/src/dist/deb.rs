//! The .deb package, written by dpkg-deb.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::tree::{Kind, Tree, compress};
use super::{Release, tool};
use crate::command::{command, output, run};

pub(super) fn make(release: &Release, out: &Path) -> Result<PathBuf> {
    let tree = release.stage(Kind::Deb)?;
    let arch = output(&mut tool("dpkg", &["--print-architecture"])?)?;
    let arch = arch.trim();
    tree.write(
        "usr/share/doc/reaperd/changelog.Debian",
        changelog(release)?.as_bytes(),
        0o644,
    )?;
    compress(&[tree.root.join("usr/share/doc/reaperd/changelog.Debian")])?;
    let overrides = fs::read(release.root.join("dist/deb/lintian-overrides"))?;
    tree.write("usr/share/lintian/overrides/reaperd", &overrides, 0o644)?;
    control(release, &tree, arch)?;
    tree.finish()?;
    let file = out.join(format!("reaperd_{}-1_{arch}.deb", release.version));
    let mut build = tool(
        "dpkg-deb",
        &["--root-owner-group", "-Zxz", "--threads-max=1"],
    )?;
    build.arg("--build").arg(&tree.root).arg(&file);
    run(build.env("SOURCE_DATE_EPOCH", release.epoch.to_string()))?;
    Ok(file)
}

/// Writes the control files. The tree has all others by now.
fn control(release: &Release, tree: &Tree, arch: &str) -> Result<()> {
    let files = tree.files()?;
    let (mut size, mut relatives, mut conffiles) = (0, Vec::new(), String::new());
    for path in &files {
        let relative = path.strip_prefix("/")?;
        size += fs::metadata(tree.root.join(relative))?.len().div_ceil(1024);
        if path.starts_with("/etc") {
            writeln!(conffiles, "{}", path.display())?;
        }
        relatives.push(relative);
    }
    let mut sums = command("md5sum", &[])?;
    let sums = output(sums.args(relatives).current_dir(&tree.root))?;
    let depends = dependencies(&tree.root.join("usr/bin/reaperd"))?;
    let control = format!(
        "Package: reaperd\nVersion: {}-1\nArchitecture: {arch}\nMaintainer: {}\n\
         Installed-Size: {size}\nDepends: {depends}\nSection: admin\nPriority: optional\n\
         Description: session registry that removes a session when its process exits\n \
         A program registers a session: a token, metadata and a pid. Every request\n \
         that presents the token resolves to that session, until the process exits;\n \
         then the session is removed at once and subscribers get an event.\n",
        release.version, release.maintainer
    );
    tree.write("DEBIAN/control", control.as_bytes(), 0o644)?;
    tree.write("DEBIAN/md5sums", sums.as_bytes(), 0o644)?;
    if !conffiles.is_empty() {
        tree.write("DEBIAN/conffiles", conffiles.as_bytes(), 0o644)?;
    }
    for script in ["postinst", "prerm", "postrm"] {
        let bytes = fs::read(release.root.join("dist/deb").join(script))?;
        tree.write(&format!("DEBIAN/{script}"), &bytes, 0o755)?;
    }
    Ok(())
}

/// The libraries that the binary is linked with, by the newest version of the C library's symbols.
fn dependencies(binary: &Path) -> Result<String> {
    let symbols = output(tool("objdump", &["-T"])?.arg(binary))?;
    let versions = symbols.split("GLIBC_2.").skip(1);
    let minor = versions.filter_map(|rest| {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse::<u32>().ok()
    });
    let Some(newest) = minor.max() else {
        bail!("{} has no symbol of the C library", binary.display());
    };
    // init-system-helpers has what the scripts call, and is on every Debian system.
    Ok(format!("libc6 (>= 2.{newest}), libgcc-s1 (>= 4.2)"))
}

fn changelog(release: &Release) -> Result<String> {
    let date = format!("@{}", release.epoch);
    let date = ["--utc", "--rfc-email", "--date", &date];
    let date = output(&mut command("date", &date)?).context("the time of the commit")?;
    Ok(format!(
        "reaperd ({}-1) unstable; urgency=medium\n\n  * See changelog.gz.\n\n -- {}  {}\n",
        release.version,
        release.maintainer,
        date.trim()
    ))
}
