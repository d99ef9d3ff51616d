//! The .rpm package, written by rpmbuild.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::tree::Kind;
use super::{ARCH, Release, tool};
use crate::command::run;

pub(super) fn make(release: &Release, out: &Path) -> Result<PathBuf> {
    let tree = release.stage(Kind::Rpm)?;
    tree.finish()?;
    let work = release.root.join("target/dist/rpm");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(&work)?;
    let files = work.join("files");
    fs::write(&files, file_list(&tree.files()?))?;
    let arch = ARCH;
    let mut build = tool("rpmbuild", &["-bb", "--quiet"])?;
    for (name, value) in [
        ("_topdir", work.display().to_string()),
        ("reaperd_version", release.version.clone()),
        ("reaperd_arch", arch.to_owned()),
        ("reaperd_tree", tree.root.display().to_string()),
        ("reaperd_files", files.display().to_string()),
        // Nothing of this machine and of this moment.
        ("_buildhost", "localhost".to_owned()),
        ("use_source_date_epoch_as_buildtime", "1".to_owned()),
        ("clamp_mtime_to_source_date_epoch", "1".to_owned()),
        ("_build_id_links", "none".to_owned()),
        ("debug_package", "%{nil}".to_owned()),
        ("__os_install_post", "%{nil}".to_owned()),
        // The database of a system that has no .rpm packages.
        ("_dbpath", work.join("db").display().to_string()),
    ] {
        build.arg("--define").arg(format!("{name} {value}"));
    }
    build.args(["--target", arch]).arg("dist/rpm/reaperd.spec");
    run(build.env("SOURCE_DATE_EPOCH", release.epoch.to_string()))?;
    let name = format!("reaperd-{}-1.{arch}.rpm", release.version);
    let written = work.join("RPMS").join(arch).join(&name);
    let file = out.join(name);
    fs::copy(&written, &file)
        .with_context(|| format!("rpmbuild has not made {}", written.display()))?;
    Ok(file)
}

/// The list of files with what rpm must know about them. Folders of the system belong to other packages.
fn file_list(files: &[PathBuf]) -> String {
    let lines = files.iter().map(|path| {
        let kind = if path.starts_with("/etc") {
            "%config(noreplace) "
        } else if path.starts_with("/usr/share/doc") || path.starts_with("/usr/share/man") {
            "%doc "
        } else if path.starts_with("/usr/share/licenses") {
            "%license "
        } else {
            ""
        };
        let mode = if path.starts_with("/usr/bin") {
            "0755"
        } else {
            "0644"
        };
        format!("%attr({mode}, root, root) {kind}{}\n", path.display())
    });
    let own = ["/usr/share/doc/reaperd", "/usr/share/licenses/reaperd"];
    let own = own.map(|folder| format!("%dir %attr(0755, root, root) {folder}\n"));
    own.into_iter().chain(lines).collect()
}
