//! The kernels of the guests: Debian's cloud images. They are downloaded with a separate apt configuration,
//! unpacked but not installed, and cached outside the repository. The machine's package lists are not
//! changed.

mod apt;

use std::cmp::Reverse;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use self::apt::Apt;
use super::matrix::Version;

/// The values of `--kernel`.
pub(crate) const ALIASES: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", "newest"];

/// Options that the tests need, built in: a guest loads no modules.
const REQUIRED_OPTIONS: [&str; 13] = [
    "CONFIG_PROC_EVENTS",
    "CONFIG_BPF_SYSCALL",
    "CONFIG_BPF_EVENTS",
    "CONFIG_DEBUG_INFO_BTF",
    "CONFIG_UNIX",
    "CONFIG_DEVTMPFS",
    "CONFIG_SERIAL_8250_CONSOLE",
    "CONFIG_BLK_DEV_INITRD",
    "CONFIG_MEMCG",
    "CONFIG_CGROUP_FREEZER",
    "CONFIG_COREDUMP",
    "CONFIG_SUSPEND",
    "CONFIG_RTC_DRV_CMOS",
];

/// A kernel image, and its name and versions.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) alias: String,
    pub(crate) image: PathBuf,
    /// The output of `uname -r`.
    pub(crate) release: String,
    /// The distribution's package version; the release if there is none.
    pub(crate) package: String,
    pub(crate) version: Version,
}

impl Kernel {
    pub(crate) fn from_image(alias: &str, image: &Path) -> anyhow::Result<Self> {
        let bytes = fs::read(image).with_context(|| image.display().to_string())?;
        let banner =
            banner(&bytes).with_context(|| format!("{} is not a bzImage", image.display()))?;
        let release = banner.split(' ').next().unwrap_or_default().to_owned();
        let package = banner
            .split_once(" Debian ")
            .and_then(|(_, rest)| rest.split(' ').next());
        Ok(Self {
            alias: alias.to_owned(),
            image: image.to_owned(),
            package: package.unwrap_or(&release).to_owned(),
            version: series(&release)
                .with_context(|| format!("cannot parse the release {release}"))?,
            release,
        })
    }
}

/// Returns the cached kernel of that name, or fetches the newest of its series.
pub(crate) fn fetch(alias: &str, refresh: bool) -> anyhow::Result<Kernel> {
    let suites = suites(alias)
        .with_context(|| format!("unknown kernel; known are {}", ALIASES.join(", ")))?;
    let cache = cache_dir()?;
    let image = cache.join(alias).join("vmlinuz");
    if refresh || !image.exists() {
        // Another run may fetch the same kernel at the same time; the last rename wins.
        let work = cache.join(format!("{alias}.{}.tmp", std::process::id()));
        let fetched = fetch_into(&work, alias, suites);
        let stored = fetched.and_then(|()| store(&work.join("vmlinuz"), &image));
        fs::remove_dir_all(&work).with_context(|| work.display().to_string())?;
        stored?;
    }
    Kernel::from_image(alias, &image)
}

/// Returns the Debian suites that contain a series.
fn suites(alias: &str) -> Option<&'static [&'static str]> {
    Some(match alias {
        "5.10" => &["bullseye", "bullseye-security"],
        "6.1" => &["bookworm", "bookworm-security"],
        "6.12" => &["bookworm-backports", "trixie"],
        "6.18" => &["trixie-backports"],
        "newest" => &["trixie-backports", "sid"],
        _ => return None,
    })
}

fn fetch_into(work: &Path, alias: &str, suites: &[&str]) -> anyhow::Result<()> {
    let apt = Apt::new(work, suites)?;
    apt.run("apt-get", &["update"])?;
    let names = apt.run("apt-cache", &["pkgnames", "linux-image-"])?;
    let mut madison = vec!["madison"];
    madison.extend(names.lines().filter(|name| is_image(name)));
    ensure!(
        madison.len() > 1,
        "the package lists contain no cloud kernel"
    );
    let offered = apt.run("apt-cache", &madison)?;
    let (name, version) = choose(alias, &offered)
        .with_context(|| format!("no {alias} kernel in {}", suites.join(", ")))?;
    println!("kernel {alias}: fetching {name} {version}");
    let mut download = vec!["download".to_owned(), format!("{name}={version}")];
    download.extend(
        parts(name, &apt)?
            .into_iter()
            .map(|part| format!("{part}={version}")),
    );
    apt.run(
        "apt-get",
        &download.iter().map(String::as_str).collect::<Vec<_>>(),
    )?;
    unpack(work)
}

/// Returns whether a package contains a kernel. Metapackages have only two version numbers.
fn is_image(package: &str) -> bool {
    let version = package.strip_prefix("linux-image-").unwrap_or_default();
    version
        .strip_suffix("-cloud-amd64")
        .is_some_and(|version| version.matches('.').count() >= 2)
}

/// Returns the newest package of the series; for 6.18, of the nearest series.
fn choose<'list>(alias: &str, madison: &'list str) -> Option<(&'list str, &'list str)> {
    let offers = madison.lines().filter_map(|line| {
        let mut fields = line.split('|').map(str::trim);
        Some((fields.next()?, fields.next()?))
    });
    let numbers = |version: &str| -> Vec<u32> {
        let upstream = version.split(['-', '~', '+']).next().unwrap_or_default();
        upstream
            .split('.')
            .filter_map(|number| number.parse().ok())
            .collect()
    };
    let wanted = series(alias);
    let fits = |version: &str| alias == "6.18" || wanted.is_none() || series(version) == wanted;
    offers
        .filter(|(_, version)| fits(version))
        .max_by_key(|(_, version)| {
            let distance = match (wanted, series(version)) {
                (Some(wanted), Some(own)) if wanted.0 == own.0 => wanted.1.abs_diff(own.1),
                (Some(_), _) => u32::MAX,
                (None, _) => 0,
            };
            (Reverse(distance), numbers(version))
        })
}

/// Returns the packages that contain image and configuration, on which the package of the kernel depends
/// since 7.2.
fn parts(image: &str, apt: &Apt<'_>) -> anyhow::Result<Vec<String>> {
    let release = image.trim_start_matches("linux-image-");
    let mut parts = Vec::new();
    for kind in ["linux-binary-", "linux-base-"] {
        let part = format!("{kind}{release}");
        let names = apt.run("apt-cache", &["pkgnames", &part])?;
        parts.extend(names.lines().any(|name| name == part).then_some(part));
    }
    Ok(parts)
}

/// Unpacks the image to `vmlinuz`, if it has the required options.
fn unpack(work: &Path) -> anyhow::Result<()> {
    let root = work.join("unpacked");
    for package in files(work, ".deb") {
        let status = Command::new("dpkg")
            .arg("-x")
            .arg(&package)
            .arg(&root)
            .status();
        ensure!(
            status.context("dpkg")?.success(),
            "dpkg -x {}",
            package.display()
        );
    }
    let config = fs::read_to_string(kernel_file(&root, "config")?)?;
    let is_built_in = |option: &&&str| config.lines().any(|line| line == format!("{option}=y"));
    let missing: Vec<_> = REQUIRED_OPTIONS
        .iter()
        .filter(|option| !is_built_in(option))
        .copied()
        .collect();
    ensure!(
        missing.is_empty(),
        "the kernel lacks {}",
        missing.join(", ")
    );
    fs::rename(kernel_file(&root, "vmlinuz")?, work.join("vmlinuz")).context("vmlinuz")
}

/// Finds `boot/NAME-RELEASE`, or since 7.2 `usr/lib/modules/RELEASE/NAME`.
fn kernel_file(root: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let is_named = |path: &PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        file.starts_with(&format!("{name}-"))
    };
    let in_boot = files(&root.join("boot"), "").into_iter().find(is_named);
    let modules = files(&root.join("usr/lib/modules"), "").into_iter();
    let beside_modules = || {
        modules
            .map(|folder| folder.join(name))
            .find(|path| path.exists())
    };
    in_boot
        .or_else(beside_modules)
        .with_context(|| format!("the packages contain no {name}"))
}

/// Returns the files in a folder; none if there is no such folder.
fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let fits = |path: &PathBuf| path.to_string_lossy().ends_with(suffix);
    entries.map(|entry| entry.path()).filter(fits).collect()
}

fn store(from: &Path, to: &Path) -> anyhow::Result<()> {
    let folder = to.parent().context("the path has no folder")?;
    fs::create_dir_all(folder)?;
    fs::rename(from, to).with_context(|| to.display().to_string())
}

fn cache_dir() -> anyhow::Result<PathBuf> {
    let given = env::var_os("XDG_CACHE_HOME")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = given
        .or_else(home)
        .context("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(cache.join("reaperd/kernels"))
}

/// Returns the version text of a bzImage, field [`kernel_version`][1].
///
/// [1]: https://elixir.bootlin.com/linux/v6.12/source/Documentation/arch/x86/boot.rst
fn banner(image: &[u8]) -> Option<String> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let offset = u16::from_le_bytes(image.get(0x20e..0x210)?.try_into().ok()?);
    let text = image.get(usize::from(offset) + 0x200..)?;
    let end = text.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(&text[..end]).into_owned())
}

/// Returns the first two numbers of a version.
fn series(version: &str) -> Option<Version> {
    let mut numbers = version.split(['.', '-', '+', '~']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERED: &str = "\
        linux-image-6.17.13+deb13-cloud-amd64 | 6.17.13-1~bpo13+1 | debian\n\
        linux-image-6.18.9+deb13-cloud-amd64 | 6.18.9-1~bpo13+1 | debian\n\
        linux-image-6.18.15+deb13-cloud-amd64 | 6.18.15-1~bpo13+1 | debian\n\
        linux-image-7.3.4+deb13-cloud-amd64 | 7.3.4-1~bpo13+1 | debian\n";

    #[test]
    fn the_newest_version_of_a_series_is_chosen() {
        let version = |alias| choose(alias, OFFERED).map(|(_, version)| version);
        assert_eq!(version("6.18"), Some("6.18.15-1~bpo13+1"));
        assert_eq!(version("newest"), Some("7.3.4-1~bpo13+1"));
        assert_eq!(version("6.12"), None);
        let without: Vec<_> = OFFERED
            .lines()
            .filter(|line| !line.contains("6.18"))
            .collect();
        let nearest = choose("6.18", &without.join("\n")).map(|(_, version)| version.to_owned());
        assert_eq!(nearest.as_deref(), Some("6.17.13-1~bpo13+1"));
    }

    #[test]
    fn metapackages_and_unsigned_kernels_are_not_images() {
        assert!(is_image("linux-image-5.10.0-46-cloud-amd64"));
        assert!(!is_image("linux-image-5.10.0-46-cloud-amd64-unsigned"));
        assert!(!is_image("linux-image-6.1-cloud-amd64"));
        assert!(!is_image("linux-image-cloud-amd64"));
    }
}
