//! The root file system of a guest: an uncompressed cpio archive ("newc", the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst). Uncompressed, because unpacking
//! under emulation costs more than reading it. Distribution kernels need no module for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use super::binaries::{Built, TestBinary};
use super::matrix::Role;

/// Which archive each role boots. Roles with the same test binaries share one.
pub(crate) type Images = BTreeMap<Role, PathBuf>;

const BUSYBOX: [&str; 2] = ["/usr/bin/busybox", "/bin/busybox"];

/// Small tools that tests and shell hooks expect to find.
const APPLETS: [&str; 15] = [
    "cat", "chmod", "echo", "env", "false", "id", "kill", "ls", "mkdir", "mount", "ps", "sh",
    "sleep", "true", "umount",
];

/// This machine's own, of util-linux: what busybox has under these names knows too few options.
const TOOLS: [&str; 2] = ["setpriv", "unshare"];

const EMPTY_FOLDERS: [&str; 6] = ["dev", "proc", "sys", "tmp", "run", "tests"];

const TEXTS: [(&str, &str); 3] = [
    (
        "etc/passwd",
        "root:x:0:0::/tmp:/bin/sh\nnobody:x:65534:65534::/tmp:/bin/sh\n",
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
        archive.entry(&folder, 0o40755, &[]);
    }
    for (inside, outside) in &files {
        let content = fs::read(outside).with_context(|| outside.display().to_string())?;
        archive.entry(inside, 0o100_755, &content);
    }
    for (inside, content) in TEXTS {
        archive.entry(inside, 0o100_644, content.as_bytes());
    }
    for applet in APPLETS {
        archive.entry(&format!("bin/{applet}"), 0o120_777, b"busybox");
    }
    Ok(archive.finish())
}

fn find_tool(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .with_context(|| format!("{name} is missing: run .ci/install-vm-tools"))
}

/// Every folder above these files, parents first, and those that are mount points.
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

/// The shared libraries and the loader of a program; none if it is static.
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

/// `libc.so.6 => /lib/libc.so.6 (0x..)` and `/lib64/ld-linux-x86-64.so.2 (0x..)`.
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

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// All fields that could differ between two builds of the same content are zero.
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let (uid, gid, links, mtime, devices, check) = (0, 0, 1, 0, [0; 4], 0);
        self.bytes.extend_from_slice(b"070701");
        let head = [self.inode, mode, uid, gid, links, mtime, size];
        for field in head.into_iter().chain(devices).chain([name_size, check]) {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_a_header_of_110_bytes_and_is_padded() {
        let mut archive = Archive::default();
        archive.entry("a", 0o100_644, b"hello");
        let text = String::from_utf8_lossy(&archive.bytes);
        assert!(text.starts_with("07070100000001000081A4"), "{text}");
        assert_eq!(&archive.bytes[110..112], b"a\0");
        assert_eq!(&archive.bytes[112..120], b"hello\0\0\0");
        assert_eq!(archive.bytes.len(), 120);
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
