//! Checks of the files alone: the same bytes in two runs, and what the checkers of packages and of manual pages
//! say.
//!
//! What the checkers report and is right nevertheless is in `dist/deb/lintian-overrides` and
//! `dist/rpm/rpmlint.toml`, each with its reason.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

use anyhow::{Result, bail};

use super::{Release, tool};
use crate::command::{command, run};

/// Compares the files of two runs.
pub(super) fn same_bytes(first: &[PathBuf], second: &[PathBuf]) -> Result<()> {
    for (first, second) in first.iter().zip(second) {
        // The SBOM has a random serial number and the time of its making.
        if has_extension(first, "json") {
            continue;
        }
        if fs::read(first)? != fs::read(second)? {
            bail!(
                "{} and {} differ; diffoscope shows where",
                first.display(),
                second.display()
            );
        }
        println!("the same bytes twice: {}", first.display());
    }
    Ok(())
}

/// Runs mandoc over the manual pages as they are packaged. Each warning is an error; what it calls style is
/// not.
fn lint_manuals(release: &Release) -> Result<()> {
    let pages = release.root.join("target/dist/stage/deb/usr/share/man");
    let mandoc = tool("mandoc", &[])?;
    // Not by its name: mandoc does not recognise every file of gzip as one.
    let script = "for page; do gzip -dc \"$page\" | \"$0\" -T lint -W warning || { echo \"in $page\"; exit 1; }; done";
    let mut lint = command("sh", &["-c", script])?;
    lint.arg(mandoc.get_program());
    for section in fs::read_dir(pages)? {
        for page in fs::read_dir(section?.path())? {
            lint.arg(page?.path());
        }
    }
    run(&mut lint)
}

/// Runs lintian, mandoc and rpmlint.
pub(super) fn lint(release: &Release, made: &[PathBuf]) -> Result<()> {
    for file in made {
        if has_extension(file, "deb") {
            let options = ["--fail-on", "error,warning,info", "--display-info"];
            let mut lintian = tool("lintian", &options)?;
            // Otherwise it warns that it should not run as root.
            lintian.arg("--allow-root");
            // Machine code that happens to look like a misspelt word. Whether there is one depends on the
            // compiler, and an override without a use would be reported.
            lintian.args(["--suppress-tags", "spelling-error-in-binary"]);
            run(lintian.arg(file))?;
            lint_manuals(release)?;
        } else if has_extension(file, "rpm") {
            let mut rpmlint = tool("rpmlint", &["--strict", "--config"])?;
            rpmlint.arg(release.root.join("dist/rpm/rpmlint.toml"));
            run(rpmlint.arg(file))?;
        }
    }
    Ok(())
}

pub(super) fn has_extension(path: &std::path::Path, extension: &str) -> bool {
    path.extension() == Some(OsStr::new(extension))
}
