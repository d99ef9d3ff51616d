//! The files of a release, staged in a folder as they are installed below `/`.
//!
//! Units, the access group and other files for systemd are taken from `dist/systemd`, as far as they are
//! there. Manual pages and completion scripts are written by the binary itself.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use super::Release;
use crate::command::{command, output, run};

/// Which package the files are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Deb,
    Rpm,
    Tarball,
}

/// A folder that has the files of a package.
pub(super) struct Tree {
    pub(super) root: PathBuf,
    epoch: u64,
}

const DOC: &str = "usr/share/doc/reaperd";
/// Documentation for those who use the program, not for those who change it.
const DOCS: [&str; 5] = [
    "README.md",
    "SECURITY.md",
    "docs/http-api.md",
    "docs/openapi.json",
    "docs/stability.md",
];
/// Folders of `dist/` and where their files are installed.
const FOLDERS: [(&str, &str); 4] = [
    ("dist/systemd/system", "usr/lib/systemd/system"),
    ("dist/systemd/user", "usr/lib/systemd/user"),
    ("dist/systemd/sysusers.d", "usr/lib/sysusers.d"),
    ("dist/systemd", "usr/share/doc/reaperd/examples"),
];

impl Tree {
    pub(super) fn stage(release: &Release, kind: Kind, binary: &Path) -> Result<Self> {
        let name = format!("{kind:?}").to_lowercase();
        let root = release.root.join("target/dist/stage").join(name);
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        fs::create_dir_all(&root)?;
        let tree = Self {
            root,
            epoch: release.epoch,
        };
        tree.copy(binary, "usr/bin/reaperd", 0o755)?;
        tree.strip("usr/bin/reaperd")?;
        tree.manuals(binary)?;
        tree.completions(binary, kind)?;
        let configuration = output(&mut command(
            &binary.to_string_lossy(),
            &["config", "default"],
        )?)?;
        tree.write("etc/reaperd/reaperd.toml", configuration.as_bytes(), 0o644)?;
        for (from, to) in FOLDERS {
            tree.copy_files_of(&release.root.join(from), to)?;
        }
        for doc in DOCS {
            let name = Path::new(doc).file_name().context("a file has a name")?;
            let to = format!("{DOC}/{}", name.display());
            tree.copy(&release.root.join(doc), &to, 0o644)?;
        }
        tree.legal(release, kind)?;
        Ok(tree)
    }

    /// Symbols of functions stay, so that backtraces name them; debugging data does not.
    fn strip(&self, path: &str) -> Result<()> {
        let path = self.root.join(path);
        run(command("strip", &["--strip-debug", "--remove-section=.comment"])?.arg(path))
    }

    fn manuals(&self, binary: &Path) -> Result<()> {
        let pages = self.root.join("usr/share/man");
        fs::create_dir_all(&pages)?;
        let date = ["--utc", "--date", &format!("@{}", self.epoch), "+%F"];
        let date = output(&mut command("date", &date)?)?;
        let mut man = command(
            &binary.to_string_lossy(),
            &["man", "--date", date.trim(), "--dir"],
        )?;
        run(man.arg(&pages))?;
        let pages = files_of(&pages)?;
        compress(&pages)?;
        for page in pages {
            let section = page.extension().context("a page has a section")?;
            let folder = page.with_file_name(format!("man{}", section.display()));
            let compressed = format!(
                "{}.gz",
                page.file_name().context("a page has a name")?.display()
            );
            fs::create_dir_all(&folder)?;
            fs::rename(page.with_file_name(&compressed), folder.join(&compressed))?;
        }
        Ok(())
    }

    fn completions(&self, binary: &Path, kind: Kind) -> Result<()> {
        let zsh = match kind {
            Kind::Deb => "usr/share/zsh/vendor-completions/_reaperd",
            Kind::Rpm | Kind::Tarball => "usr/share/zsh/site-functions/_reaperd",
        };
        let bash = "usr/share/bash-completion/completions/reaperd";
        let fish = "usr/share/fish/vendor_completions.d/reaperd.fish";
        for (shell, path) in [("bash", bash), ("zsh", zsh), ("fish", fish)] {
            let script = ["completions", shell];
            let script = output(&mut command(&binary.to_string_lossy(), &script)?)?;
            self.write(path, script.as_bytes(), 0o644)?;
        }
        Ok(())
    }

    /// Licences, and the history where the system expects it.
    fn legal(&self, release: &Release, kind: Kind) -> Result<()> {
        let file = |name: &str| release.root.join(name);
        match kind {
            Kind::Deb => {
                self.copy(
                    &file("dist/deb/copyright"),
                    &format!("{DOC}/copyright"),
                    0o644,
                )?;
                let changelog = format!("{DOC}/changelog");
                self.copy(&file("CHANGELOG.md"), &changelog, 0o644)?;
                compress(&[self.root.join(changelog)])?;
            }
            Kind::Rpm | Kind::Tarball => {
                for name in ["LICENSE-MIT", "LICENSE-APACHE"] {
                    let to = format!("usr/share/licenses/reaperd/{name}");
                    self.copy(&file(name), &to, 0o644)?;
                }
                self.copy(&file("CHANGELOG.md"), &format!("{DOC}/CHANGELOG.md"), 0o644)?;
            }
        }
        Ok(())
    }

    fn copy_files_of(&self, from: &Path, to: &str) -> Result<()> {
        if !from.is_dir() {
            return Ok(());
        }
        for path in files_of(from)? {
            let name = path.file_name().context("a file has a name")?.display();
            self.copy(&path, &format!("{to}/{name}"), 0o644)?;
        }
        Ok(())
    }

    fn copy(&self, from: &Path, to: &str, mode: u32) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.write(to, &bytes, mode)
    }

    pub(super) fn write(&self, to: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let path = self.root.join(to);
        fs::create_dir_all(path.parent().context("a file has a folder")?)?;
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        Ok(())
    }

    /// Returns the installed files, sorted, as absolute paths.
    pub(super) fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        walk(&self.root, &mut |path| {
            if !path.is_dir() {
                files.push(Path::new("/").join(path.strip_prefix(&self.root)?));
            }
            Ok(())
        })?;
        files.sort();
        Ok(files)
    }

    /// Gives every file and folder the time of the commit, and folders the usual mode.
    pub(super) fn finish(&self) -> Result<()> {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(self.epoch);
        walk(&self.root, &mut |path| {
            if path.is_dir() {
                fs::set_permissions(path, Permissions::from_mode(0o755))?;
            }
            fs::File::open(path)?.set_modified(time)?;
            Ok(())
        })
    }
}

/// Without the names and the times of the files in the results.
pub(super) fn compress(paths: &[PathBuf]) -> Result<()> {
    run(command("gzip", &["-9", "--no-name", "--force"])?.args(paths))
}

/// Returns the files of a folder, without those of its folders, sorted.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?;
    let paths = entries.map(|entry| Ok(entry?.path()));
    let mut files: Vec<PathBuf> = paths.collect::<Result<_>>()?;
    files.retain(|path| path.is_file());
    files.sort();
    Ok(files)
}

/// Calls the function for each path below a folder and then for the folder.
fn walk(folder: &Path, visit: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, visit)?;
        } else {
            visit(&path)?;
        }
    }
    visit(folder)
}
