//! The OCI image: the static binary and nothing else, made from scratch by buildah.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::tree::Kind;
use super::{Release, tool};
use crate::command::{output, run};

/// The socket that is mounted into other containers.
const SOCKET: &str = "REAPERD_SOCKET=/run/reaperd/reaperd.sock";

pub(super) fn make(release: &Release, out: &Path) -> Result<PathBuf> {
    let tree = release.stage(Kind::Tarball)?;
    let store = release.root.join("target/dist/containers");
    if store.exists() {
        fs::remove_dir_all(&store)?;
    }
    fs::create_dir_all(&store)?;
    let (root, run_root) = (store.join("root"), store.join("run"));
    let buildah = |args: &[&str]| {
        let mut buildah = tool("buildah", &["--storage-driver", "vfs", "--root"])?;
        buildah.arg(&root).arg("--runroot").arg(&run_root).args(args);
        anyhow::Ok(buildah)
    };
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
        run(&mut buildah(&["copy", "--quiet", container, &from.to_string_lossy(), to])?)?;
    }
    let version = format!("org.opencontainers.image.version={}", release.version);
    let config = [
        "config", "--entrypoint", "[\"/usr/bin/reaperd\"]", "--cmd", "daemon", "--env", SOCKET,
        "--annotation", "org.opencontainers.image.title=reaperd", "--annotation", &version,
        "--annotation", "org.opencontainers.image.licenses=MIT OR Apache-2.0", container,
    ];
    run(&mut buildah(&config)?)?;
    let name = format!("reaperd-{}-{}.oci.tar", release.version, release.arch());
    let file = out.join(name);
    let target = format!("oci-archive:{}:{}", file.display(), release.version);
    let epoch = release.epoch.to_string();
    run(&mut buildah(&["commit", "--quiet", "--timestamp", &epoch, container, &target])?)?;
    run(&mut buildah(&["rm", container])?)?;
    fs::remove_dir_all(&store)?;
    Ok(file)
}
