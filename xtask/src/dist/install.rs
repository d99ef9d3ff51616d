//! The life of the .deb package in a clean system: installed, upgraded, removed and purged in a folder that
//! mmdebstrap fills. Needs root for chroot(8); other users get a line that says so.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::check::has_extension;
use super::{Release, deb, tool};
use crate::command::{command, effective_uid, output, run};

/// Where dpkg and the system write besides the files of packages.
const NOT_COMPARED: [&str; 6] = [
    "./proc",
    "./sys",
    "./dev",
    "./var/lib/dpkg",
    "./var/log",
    "./tmp",
];
/// What systemd-sysusers writes for the user `reaperd`, besides the files that exist. The package never
/// removes its user, because files may belong to it and another user would get its number, so these stay.
const OF_THE_USER: [&str; 7] = [
    "./etc/.pwd.lock",
    "./etc/group-",
    "./etc/gshadow",
    "./etc/gshadow-",
    "./etc/passwd-",
    "./etc/shadow",
    "./etc/shadow-",
];
/// What an administrator adds to a file of configuration.
const EDIT: &str = "# edited by the administrator\n";

struct System {
    root: PathBuf,
}

pub(super) fn check(release: &Release, made: &[PathBuf]) -> Result<()> {
    let Some(package) = made.iter().find(|file| has_extension(file, "deb")) else {
        return Ok(());
    };
    if effective_uid()? != 0 {
        println!(
            "skipped: not root: the life of the package in a clean system. To have it: \
             sudo -E env \"PATH=$PATH\" cargo xtask dist --check"
        );
        return Ok(());
    }
    let system = System::fresh(release)?;
    let before = system.files()?;

    system.dpkg("--install", package)?;
    let conffiles = system.check_installed(release)?;
    for file in &conffiles {
        let path = system.path(file);
        fs::write(&path, fs::read_to_string(&path)? + EDIT)?;
    }

    let next = Release {
        version: format!("{}+1", release.version),
        maintainer: release.maintainer.clone(),
        profile: release.profile.clone(),
        binary: release.binary.clone(),
        root: release.root.clone(),
        ..*release
    };
    let folder = release.root.join("target/dist/next");
    fs::create_dir_all(&folder)?;
    system.dpkg("--install", &deb::make(&next, &folder)?)?;
    system.run(&["dpkg-query", "--show", "reaperd"])?;
    system.check_edits(&conffiles, "the upgrade")?;

    system.run(&["dpkg", "--remove", "reaperd"])?;
    if system.path("/usr/bin/reaperd").exists() {
        bail!("removing the package leaves /usr/bin/reaperd");
    }
    system.check_edits(&conffiles, "the removal")?;

    system.run(&["dpkg", "--purge", "reaperd"])?;
    let after = system.files()?;
    check_leftovers(&before, &after)?;
    println!(
        "installed, upgraded, removed and purged in a clean system; {} files of configuration kept",
        conffiles.len()
    );
    fs::remove_dir_all(&system.root)?;
    Ok(())
}

/// Checks that a purged package has left and taken nothing, but for [`OF_THE_USER`].
fn check_leftovers(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Result<()> {
    let left = after.difference(before).map(String::as_str);
    let left: Vec<_> = left.filter(|file| !OF_THE_USER.contains(file)).collect();
    if !left.is_empty() {
        bail!("purging the package leaves {left:?}");
    }
    let lost: Vec<_> = before.difference(after).collect();
    if !lost.is_empty() {
        bail!("purging the package removed files of others: {lost:?}");
    }
    Ok(())
}

impl System {
    /// Unpacks the smallest Debian system of this machine's release.
    fn fresh(release: &Release) -> Result<Self> {
        let base = release.root.join("target/dist/base.tar");
        if !base.exists() {
            let os = fs::read_to_string("/etc/os-release")?;
            let suite = os
                .lines()
                .find_map(|it| it.strip_prefix("VERSION_CODENAME="));
            let suite = suite.context("/etc/os-release names no Debian release")?;
            let options = [
                "--variant=essential",
                "--include=systemd-standalone-sysusers",
            ];
            run(tool("mmdebstrap", &options)?.arg(suite).arg(&base))?;
        }
        let root = release.root.join("target/dist/system");
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        fs::create_dir_all(&root)?;
        let mut unpack = command("tar", &["--extract", "--file"])?;
        unpack.arg(&base).arg("--directory").arg(&root);
        // Device files, which need more rights and are not used.
        run(unpack.arg("--exclude=./dev/*"))?;
        fs::write(root.join("dev/null"), "")?;
        Ok(Self { root })
    }

    fn path(&self, installed: &str) -> PathBuf {
        self.root.join(installed.trim_start_matches('/'))
    }

    fn command(&self, words: &[&str]) -> Result<std::process::Command> {
        let mut chroot = command("chroot", &[])?;
        chroot.arg(&self.root).args(words);
        chroot.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        chroot.env("DEBIAN_FRONTEND", "noninteractive");
        Ok(chroot)
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        run(&mut self.command(words)?)
    }

    /// Copies the package into the system and calls dpkg, which keeps edited files.
    fn dpkg(&self, action: &str, package: &Path) -> Result<()> {
        let inside = self.path("/tmp/reaperd.deb");
        fs::copy(package, &inside)?;
        self.run(&["dpkg", "--force-confold", action, "/tmp/reaperd.deb"])
    }

    /// Checks checksums, owners and modes of the package's files, and that the program runs. Returns the
    /// files of configuration.
    fn check_installed(&self, release: &Release) -> Result<Vec<String>> {
        let wrong = output(&mut self.command(&["dpkg", "--verify", "reaperd"])?)?;
        if !wrong.is_empty() {
            bail!("the installed files differ from the package:\n{wrong}");
        }
        let listed = output(&mut self.command(&["dpkg", "--listfiles", "reaperd"])?)?;
        for file in listed.lines().filter(|it| *it != "/.") {
            let state = output(&mut self.command(&["stat", "--format=%U:%G %a %F", file])?)?;
            let expected = match state.trim() {
                state if state.ends_with("directory") => "root:root 755 directory",
                _ if file.starts_with("/usr/bin/") => "root:root 755 regular file",
                _ => "root:root 644 regular file",
            };
            if state.trim() != expected {
                bail!("{file} is {}, expected {expected}", state.trim());
            }
        }
        let version = output(&mut self.command(&["reaperd", "version"])?)?;
        if version.trim() != format!("reaperd {}", release.version) {
            bail!("the installed program is {version}");
        }
        if self.path("/usr/lib/sysusers.d/reaperd.conf").exists() {
            self.run(&["getent", "group", "reaperd"])?;
        }
        let format = "--showformat=${Conffiles}";
        let conffiles = output(&mut self.command(&["dpkg-query", "--show", format, "reaperd"])?)?;
        let names = conffiles
            .lines()
            .filter_map(|it| it.split_whitespace().next());
        Ok(names.map(str::to_owned).collect())
    }

    fn check_edits(&self, conffiles: &[String], step: &str) -> Result<()> {
        for file in conffiles {
            let text = fs::read_to_string(self.path(file)).unwrap_or_default();
            if !text.ends_with(EDIT) {
                bail!("{step} changed {file}, which the administrator had edited");
            }
        }
        Ok(())
    }

    fn files(&self) -> Result<BTreeSet<String>> {
        let mut find = command("find", &["."])?;
        for folder in NOT_COMPARED {
            find.args(["-path", folder, "-prune", "-o"]);
        }
        let found = output(find.arg("-print").current_dir(&self.root))?;
        Ok(found.lines().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_files_of_the_user_may_stay_after_a_purge() {
        let set = |files: &[&str]| files.iter().map(|it| (*it).to_owned()).collect();
        let before = set(&["./etc", "./etc/passwd"]);
        let with_user = set(&[&["./etc", "./etc/passwd"], &OF_THE_USER[..]].concat());
        check_leftovers(&before, &with_user).unwrap();
        let with_another = set(&["./etc", "./etc/passwd", "./etc/reaperd"]);
        let error = check_leftovers(&before, &with_another).unwrap_err();
        assert!(error.to_string().contains("./etc/reaperd"), "{error}");
        let error = check_leftovers(&before, &set(&["./etc"])).unwrap_err();
        assert!(error.to_string().contains("./etc/passwd"), "{error}");
    }
}
