//! The static binary in a root that has nothing else: that of the tarball, and that of the image. Needs root
//! for chroot(8); other users get a line that says so.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Release;
use super::check::has_extension;
use crate::command::{command, effective_uid, output, run};

pub(super) fn check(release: &Release, made: &[PathBuf]) -> Result<()> {
    if effective_uid()? != 0 {
        println!("skipped: not root: the static binary in an empty root");
        return Ok(());
    }
    for file in made {
        let root = Root::fresh(release)?;
        if has_extension(file, "xz") {
            root.unpack(file, &["--strip-components=1"])?;
            root.runs(release, "/bin/reaperd", file)?;
        } else if has_extension(file, "tar") {
            for layer in layers(release, file)? {
                root.unpack(&layer, &[])?;
            }
            root.runs(release, "/usr/bin/reaperd", file)?;
        }
    }
    Ok(())
}

/// Mounts what a program may expect in the root that is the first argument, and runs the others in it.
const ADD: &str =
    "mount -t proc proc \"$1/proc\"; mount --bind /dev/null \"$1/dev/null\"; exec chroot \"$@\"";

struct Root(PathBuf);

impl Root {
    fn fresh(release: &Release) -> Result<Self> {
        let root = release.root.join("target/dist/empty");
        recreate(&root)?;
        Ok(Self(root))
    }

    fn unpack(&self, archive: &Path, options: &[&str]) -> Result<()> {
        let mut tar = command("tar", &["--extract", "--file"])?;
        tar.arg(archive).arg("--directory").arg(&self.0);
        run(tar.args(options))
    }

    /// Runs `version` in the root as it is, and `demo` with what every runtime of containers adds to it.
    fn runs(&self, release: &Release, program: &str, of: &Path) -> Result<()> {
        let mut chroot = command("chroot", &[])?;
        let version = output(chroot.arg(&self.0).args([program, "version"]))?;
        if version.trim() != format!("reaperd {}", release.version) {
            bail!("{} runs {version}", of.display());
        }
        for folder in ["proc", "dev", "tmp"] {
            fs::create_dir_all(self.0.join(folder))?;
        }
        fs::write(self.0.join("dev/null"), "")?;
        let mut demo = command("unshare", &["--mount", "sh", "-ec", ADD, "sh"])?;
        demo.arg(&self.0).args([program, "demo"]);
        let demo = output(demo.env_remove("XDG_RUNTIME_DIR").env_remove("TMPDIR"))?;
        let result = demo.lines().find(|line| line.contains("sessions removed"));
        let result = result.with_context(|| format!("the demo has no result:\n{demo}"))?;
        println!("{} runs in an empty root: {result}", of.display());
        Ok(fs::remove_dir_all(&self.0)?)
    }
}

/// Unpacks an image, and returns its layers.
fn layers(release: &Release, image: &Path) -> Result<Vec<PathBuf>> {
    let folder = release.root.join("target/dist/image");
    recreate(&folder)?;
    let mut tar = command("tar", &["--extract", "--file"])?;
    run(tar.arg(image).arg("--directory").arg(&folder))?;
    let read = |file: &Path| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(file)?)?) };
    let blob = |descriptor: &Value| -> Result<PathBuf> {
        let digest = descriptor["digest"].as_str();
        let digest = digest.and_then(|digest| digest.strip_prefix("sha256:"));
        Ok(folder
            .join("blobs/sha256")
            .join(digest.context("an image has digests")?))
    };
    let index = read(&folder.join("index.json"))?;
    let manifest = read(&blob(&index["manifests"][0])?)?;
    let layers = manifest["layers"]
        .as_array()
        .context("an image has layers")?;
    layers.iter().map(blob).collect()
}

fn recreate(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    Ok(fs::create_dir_all(folder)?)
}
