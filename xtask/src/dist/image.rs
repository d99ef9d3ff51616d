//! The OCI image: the static binary and nothing else, made from scratch by buildah.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::tree::Kind;
use super::{ARCH, Release, archive, tool};
use crate::command::{output, run};

/// The socket that is mounted into other containers.
const SOCKET: &str = "REAPERD_SOCKET=/run/reaperd/reaperd.sock";

/// The folder in which buildah keeps its containers, apart from those of the machine.
struct Store(PathBuf);

impl Store {
    fn empty(release: &Release) -> Result<Self> {
        let store = release.root.join("target/dist/containers");
        if store.exists() {
            fs::remove_dir_all(&store)?;
        }
        fs::create_dir_all(&store)?;
        Ok(Self(store))
    }

    fn buildah(&self, args: &[&str]) -> Result<Command> {
        let mut buildah = tool("buildah", &["--storage-driver", "vfs", "--root"])?;
        buildah.arg(self.0.join("root")).arg("--runroot");
        buildah.arg(self.0.join("run")).args(args);
        Ok(buildah)
    }
}

pub(super) fn make(release: &Release, out: &Path) -> Result<PathBuf> {
    let tree = release.stage(Kind::Tarball)?;
    let store = Store::empty(release)?;
    let buildah = |args: &[&str]| store.buildah(args);
    let container = output(&mut buildah(&["from", "scratch"])?)?;
    let container = container.trim();
    // For names of users and for temporary files.
    tree.write("etc/passwd", b"root:x:0:0:root:/:/sbin/nologin\n", 0o644)?;
    tree.write("etc/group", b"root:x:0:\n", 0o644)?;
    tree.finish()?;
    for (from, to) in [
        ("usr/bin/reaperd", "/usr/bin/reaperd"),
        ("usr/share/licenses", "/usr/share/licenses"),
        ("etc", "/etc"),
    ] {
        let from = tree.root.join(from);
        run(&mut buildah(&[
            "copy",
            "--quiet",
            container,
            &from.to_string_lossy(),
            to,
        ])?)?;
    }
    let version = format!("org.opencontainers.image.version={}", release.version);
    let config = [
        "config",
        "--entrypoint",
        "[\"/usr/bin/reaperd\"]",
        "--cmd",
        "daemon",
        "--env",
        SOCKET,
        "--annotation",
        "org.opencontainers.image.title=reaperd",
        "--annotation",
        &version,
        "--annotation",
        "org.opencontainers.image.licenses=MIT OR Apache-2.0",
        container,
    ];
    run(&mut buildah(&config)?)?;
    let name = format!("reaperd-{}-{}.oci.tar", release.version, ARCH);
    let file = out.join(name);
    // A folder first: in buildah's own archives the files have the time of their making.
    let layout = store.0.join("layout");
    let target = format!("oci:{}:{}", layout.display(), release.version);
    let epoch = release.epoch.to_string();
    run(&mut buildah(&[
        "commit",
        "--quiet",
        "--timestamp",
        &epoch,
        container,
        &target,
    ])?)?;
    run(&mut buildah(&["rm", container])?)?;
    let mut tar = archive::tar(release)?;
    tar.arg("--file").arg(&file).arg("--directory").arg(&layout);
    run(tar.args(["blobs", "index.json", "oci-layout"]))?;
    fs::remove_dir_all(&store.0)?;
    Ok(file)
}
