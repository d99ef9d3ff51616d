//! `cargo xtask dist`: what a release consists of: a .deb and an .rpm package, a tarball and an image with a
//! static binary, checksums and the SBOM.
//!
//! All come from one list of files (`dist/tree.rs`). The packages are written by the systems' own tools
//! (dpkg-deb, rpmbuild, tar, buildah). Two builds of one commit give the same bytes: times are those of the
//! commit, paths of the machine are replaced in the binary, and archives are sorted.

mod archive;
mod build;
mod check;
mod deb;
mod empty_root;
mod image;
mod install;
mod rpm;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::command::{command, output, repo_root, run as execute};
use build::Linking;
use tree::{Kind, Tree};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to make
    #[arg(long, value_delimiter = ',', default_value = "deb,rpm,tar,image,sbom")]
    only: Vec<Format>,
    /// Cargo profile of the binaries
    #[arg(long, default_value = "dist")]
    profile: String,
    /// Package this binary instead of building one, to try the packages themselves
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Folder of the results
    #[arg(long, value_name = "DIR", default_value = "target/dist/out")]
    out: PathBuf,
    /// Who answers for the .deb package. The default has a domain that never exists (RFC 2606)
    #[arg(long, value_name = "NAME <ADDRESS>", default_value = MAINTAINER)]
    maintainer: String,
    /// Also check the packages: same bytes twice, lintian, rpmlint, and life in a clean system
    #[arg(long)]
    check: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Deb,
    Rpm,
    Tar,
    Image,
    Sbom,
}

/// The project has no mail address.
const MAINTAINER: &str = "reaperd maintainers <maintainers@reaperd.invalid>";
/// The architecture in the kernel's words.
const ARCH: &str = std::env::consts::ARCH;

/// What all formats share.
pub(crate) struct Release {
    root: PathBuf,
    version: String,
    /// Seconds since 1970: the time of the commit, or `SOURCE_DATE_EPOCH`.
    epoch: u64,
    maintainer: String,
    profile: String,
    binary: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let root = repo_root()?;
    let release = Release {
        version: version()?,
        epoch: epoch()?,
        maintainer: args.maintainer.clone(),
        profile: args.profile.clone(),
        binary: args.binary.clone(),
        root: root.clone(),
    };
    let out = root.join(&args.out);
    let made = release.make(&args.only, &out)?;
    if args.check {
        let again = root.join("target/dist/again");
        let remade = release.make(&args.only, &again)?;
        check::same_bytes(&made, &remade)?;
        check::lint(&release, &made)?;
        install::check(&release, &made)?;
        // A binary that was passed in may need libraries, which these roots do not have.
        if release.binary.is_none() {
            empty_root::check(&release, &made)?;
        }
    }
    checksums(&out, &made)
}

impl Release {
    /// Makes these formats in a folder, which is emptied first. Returns the files.
    fn make(&self, formats: &[Format], out: &Path) -> Result<Vec<PathBuf>> {
        if out.exists() {
            fs::remove_dir_all(out)?;
        }
        fs::create_dir_all(out)?;
        let mut made = Vec::new();
        for format in formats {
            let file = match format {
                Format::Deb => deb::make(self, out)?,
                Format::Rpm => rpm::make(self, out)?,
                Format::Tar => archive::make(self, out)?,
                Format::Image => image::make(self, out)?,
                Format::Sbom => sbom(out)?,
            };
            made.push(file);
        }
        Ok(made)
    }

    /// Stages the files of one kind of package in a folder.
    fn stage(&self, kind: Kind) -> Result<Tree> {
        let linking = match kind {
            Kind::Deb | Kind::Rpm => Linking::Dynamic,
            Kind::Tarball => Linking::Static,
        };
        let binary = build::binary(self, linking)?;
        Tree::stage(self, kind, &binary)
    }
}

fn version() -> Result<String> {
    let metadata = ["metadata", "--format-version", "1", "--no-deps"];
    let metadata: serde_json::Value =
        serde_json::from_str(&output(&mut command("cargo", &metadata)?)?)?;
    let packages = metadata["packages"].as_array();
    let packages = packages.context("cargo metadata lists no packages")?;
    let package = packages.iter().find(|it| it["name"] == "reaperd");
    let version = package.and_then(|it| it["version"].as_str());
    Ok(version.context("there is no package reaperd")?.to_owned())
}

fn epoch() -> Result<u64> {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok();
    let time = match given {
        Some(given) => given,
        None => output(&mut command("git", &["log", "-1", "--format=%ct"])?)?,
    };
    time.trim()
        .parse()
        .context("the time of the build is no number")
}

/// The list of what the binaries contain, written by the tool that the daily run uses.
fn sbom(out: &Path) -> Result<PathBuf> {
    execute(&mut command("bash", &[".ci/sbom"])?)?;
    let file = out.join("reaperd.cdx.json");
    fs::copy(repo_root()?.join("target/sbom/reaperd.cdx.json"), &file)?;
    Ok(file)
}

fn checksums(out: &Path, made: &[PathBuf]) -> Result<()> {
    let names = made.iter().filter_map(|path| path.file_name()?.to_str());
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    let mut sum = command("sha256sum", &names)?;
    let sums = output(sum.current_dir(out))?;
    fs::write(out.join("SHA256SUMS"), &sums)?;
    print!("{sums}");
    for path in made {
        let bytes = fs::metadata(path)?.len();
        println!("{:>10} KiB  {}", bytes.div_ceil(1024), path.display());
    }
    Ok(())
}

/// Runs a program that must exist; the error names the script that installs it.
fn tool(program: &str, args: &[&str]) -> Result<std::process::Command> {
    let found = command("sh", &["-c", &format!("command -v {program}")])?.output()?;
    if !found.status.success() {
        bail!("{program} is missing; install it with: bash .ci/install-dist-tools");
    }
    command(program, args)
}
