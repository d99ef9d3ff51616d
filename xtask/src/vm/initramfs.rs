//! The root file system of a guest: a cpio archive in the format "newc" ([1]). It is not compressed,
//! because unpacking under emulation takes longer than reading. Kernels need no module for it.
//!
//! [1]: https://elixir.bootlin.com/linux/v6.12/source/Documentation/driver-api/early-userspace/buffer-format.rst

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use cpio::newc;

use super::binaries::{Built, TestBinary};
use super::matrix::Role;

/// The archive for each role. Roles with the same test binaries share one.
pub(crate) type Images = BTreeMap<Role, PathBuf>;

const BUSYBOX: [&str; 2] = ["/usr/bin/busybox", "/bin/busybox"];

/// Tools of busybox that tests and shell hooks use.
const APPLETS: [&str; 15] = [
    "cat", "chmod", "echo", "env", "false", "id", "kill", "ls", "mkdir", "mount", "ps", "sh",
    "sleep", "true", "umount",
];

/// Tools of util-linux, copied from this machine: those of busybox lack options that the tests use.
const TOOLS: [&str; 2] = ["setpriv", "unshare"];

const EMPTY_FOLDERS: [&str; 6] = ["dev", "proc", "sys", "tmp", "run", "tests"];

const TEXTS: [(&str, &str); 3] = [
    (
        "etc/passwd",
        concat!(
            "root:x:0:0::/tmp:/bin/sh\n",
            "nobody",
            ":x:65534:65534::/tmp:/bin/sh\n"
        ),
    ),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n"),
];

pub(crate) fn build_for_roles(
    work: &Path,
    built: &Built,
    roles: &[Role],
) -> anyhow::Result<Images> {
    let mut written: BTreeMap<Vec<&str>, PathBuf> = BTreeMap::new();
    let mut images = Images::new();
    for role in roles {
        let is_run = |test: &&TestBinary| test.roles.contains(role);
        let tests: Vec<_> = built.tests.iter().filter(is_run).collect();
        if tests.is_empty() {
            continue;
        }
        let names = tests.iter().map(|test| test.name.as_str()).collect();
        let path = work.join(format!("initramfs-{}.cpio", written.len()));
        let image = match written.entry(names) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.get().clone(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let archive = archive(built, &tests)?;
                fs::write(&path, archive).with_context(|| path.display().to_string())?;
                entry.insert(path).clone()
            }
        };
        images.insert(*role, image);
    }
    Ok(images)
}

fn archive(built: &Built, tests: &[&TestBinary]) -> anyhow::Result<Vec<u8>> {
    let busybox = BUSYBOX.iter().map(Path::new).find(|path| path.exists());
    let busybox = busybox.context("busybox is missing: run .ci/install-vm-tools")?;
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    files.insert("bin/busybox".to_owned(), busybox.to_owned());
    files.insert("bin/reaperd".to_owned(), built.daemon.clone());
    files.insert("bin/fork_server".to_owned(), built.fork_server.clone());
    files.insert("init".to_owned(), built.init.clone());
    for test in tests {
        files.insert(format!("tests/{}", test.name), test.path.clone());
    }
    for tool in TOOLS {
        files.insert(format!("bin/{tool}"), find_tool(tool)?);
    }
    let programs: Vec<_> = files.values().cloned().collect();
    for program in programs {
        for library in libraries(&program)? {
            let inside = library.trim_start_matches('/').to_owned();
            files.insert(inside, library.into());
        }
    }

    let mut archive = Archive::default();
    for folder in folders(files.keys().map(String::as_str)) {
        archive.add(&folder, DIRECTORY, &[])?;
    }
    for (inside, outside) in &files {
        let content = fs::read(outside).with_context(|| outside.display().to_string())?;
        archive.add(inside, EXECUTABLE, &content)?;
    }
    for (inside, content) in TEXTS {
        archive.add(inside, TEXT, content.as_bytes())?;
    }
    for applet in APPLETS {
        archive.add(&format!("bin/{applet}"), SYMLINK, b"busybox")?;
    }
    archive.finish()
}

fn find_tool(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .with_context(|| format!("{name} is missing: run .ci/install-vm-tools"))
}

/// Returns the parent folders of these files and the empty folders, parents first.
fn folders<'path>(files: impl Iterator<Item = &'path str>) -> BTreeSet<String> {
    let mut folders: BTreeSet<String> = EMPTY_FOLDERS.map(str::to_owned).into();
    for file in files.chain(TEXTS.map(|(path, _)| path)) {
        let above = Path::new(file).ancestors().skip(1);
        folders.extend(
            above
                .map(|path| path.display().to_string())
                .filter(|path| !path.is_empty()),
        );
    }
    folders
}

/// Returns the shared libraries and the loader of a program; none if it is static.
fn libraries(program: &Path) -> anyhow::Result<Vec<String>> {
    let output = Command::new("ldd").arg(program).output().context("ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_static = String::from_utf8_lossy(&output.stderr).contains("not a dynamic executable");
    ensure!(
        output.status.success() || is_static,
        "ldd {}: {}",
        program.display(),
        output.status
    );
    ensure!(
        !text.contains("not found"),
        "ldd {}:\n{text}",
        program.display()
    );
    Ok(paths_in(&text))
}

/// Returns the paths in lines such as `libc.so.6 => /lib/libc.so.6 (0x..)` and
/// `/lib64/ld-linux-x86-64.so.2 (0x..)`.
fn paths_in(ldd: &str) -> Vec<String> {
    let words = ldd.lines().filter_map(|line| {
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        path.split_whitespace().next()
    });
    words
        .filter(|word| word.starts_with('/'))
        .map(str::to_owned)
        .collect()
}

/// File type and permissions, as in `st_mode`.
const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const TEXT: u32 = 0o100_644;
const SYMLINK: u32 = 0o120_777;

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// Adds a file. Owner, times and devices are zero, so that the same content gives the same archive.
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> anyhow::Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len()).with_context(|| format!("{name} is too large"))?;
        let head = newc::Builder::new(name).ino(self.inode).mode(mode);
        let mut file = head.write(&mut self.bytes, size);
        file.write_all(content)?;
        file.finish()?;
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<Vec<u8>> {
        newc::trailer(&mut self.bytes)?;
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn an_entry_has_a_header_of_110_bytes_and_is_padded() {
        let mut archive = Archive::default();
        archive.add("a", TEXT, b"hello").unwrap();
        let text = String::from_utf8_lossy(&archive.bytes).to_uppercase();
        assert!(text.starts_with("07070100000001000081A4"), "{text}");
        assert_eq!(&archive.bytes[110..112], b"a\0");
        assert_eq!(&archive.bytes[112..120], b"hello\0\0\0");
        assert_eq!(archive.bytes.len(), 120);
    }

    #[test]
    fn an_archive_contains_its_entries_and_a_trailer() {
        let mut archive = Archive::default();
        archive.add("d", DIRECTORY, &[]).unwrap();
        archive.add("d/link", SYMLINK, b"busybox").unwrap();
        let bytes = archive.finish().unwrap();
        let mut rest = &bytes[..];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let mut entry = newc::Reader::new(rest).unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let head = entry.entry();
            found.push((head.name().to_owned(), head.mode(), head.ino(), content));
            if head.is_trailer() {
                break;
            }
            rest = entry.finish().unwrap();
        }
        let expected = [
            ("d", DIRECTORY, 1, ""),
            ("d/link", SYMLINK, 2, "busybox"),
            ("TRAILER!!!", 0, 0, ""),
        ];
        let expected = expected
            .map(|(name, mode, inode, content)| (name.to_owned(), mode, inode, content.into()));
        assert_eq!(found, expected);
    }

    #[test]
    fn libraries_and_the_loader_are_found() {
        let ldd = "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n\t/lib64/ld.so (0x7f)\n";
        assert_eq!(paths_in(ldd), ["/lib/libc.so.6", "/lib64/ld.so"]);
        assert_eq!(paths_in("\tstatically linked\n"), Vec::<String>::new());
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        let folders: Vec<_> = folders(["lib/x/y.so"].into_iter()).into_iter().collect();
        let at = |name: &str| folders.iter().position(|folder| folder == name);
        assert!(at("lib").unwrap() < at("lib/x").unwrap());
    }
}
